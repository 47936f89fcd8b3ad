"""The demo's picture, from a report made by hand: its panels say what the report says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from bench.plot import plot_demo


def _phase(title: str, j_per_request: float, *, completed: int = 10, tiers: tuple[str, ...] = ("interactive", "flex")) -> Any:
    counted_j = j_per_request * completed
    waits = {tier: {"wait_s": {"p50": 1.5 if tier == "flex" else 0.0}, "ttft_s": {"max": 0.02}} for tier in tiers}
    return {
        "title": title,
        "power_w": [[second / 4, 118.0 + 100 * (second % 3)] for second in range(40)],
        "report": {
            "completed": completed,
            "latency": {"all": {"wait_s": None, "tpot_s": {"p50": 0.005}}, **waits},
            "energy": {
                "j_per_request": j_per_request,
                "requests_j": counted_j * 0.6,
                "idle_j": counted_j * 0.3,
                "unattributed_j": counted_j * 0.1,
                "tiers": {tier: {"active_j": counted_j * 0.62 / len(tiers)} for tier in tiers},
            },
        },
    }


def _report(**phases: Any) -> dict[str, Any]:
    made = {name: _phase(name, joules) for name, joules in (("straight", 200), ("span", 100), ("spread", 300), ("pack", 150))}
    return {"profile": "h200-llama8b", "phases": {**made, **phases}}


@contextmanager
def _kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    """The figures that are closed in the block."""
    closed: list[Figure] = []
    monkeypatch.setattr(plt, "close", closed.append)
    yield closed
    monkeypatch.undo()
    plt.close("all")


def _overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts that lie on each other, or leave the picture."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    page = figure.bbox
    titles = [text for axes in figure.axes for text in (axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label)]
    notes = [text for axes in figure.axes for text in (*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels())]
    shown = [text for text in (*titles, *notes, figure._suptitle, figure._supxlabel) if text and text.get_text()]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in shown if text.get_visible()]
    outside = [(text, "page") for text, box in boxes if box.x0 < page.x0 or box.x1 > page.x1 or box.y0 < page.y0]
    pairs = [
        (text, other)
        for number, (text, box) in enumerate(boxes)
        for other, others in boxes[number + 1 :]
        if box.shrunk(0.98, 0.9).overlaps(others.shrunk(0.98, 0.9))
    ]
    return outside + pairs


def test_the_picture_says_what_the_report_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _kept(monkeypatch) as closed:
        plot_demo(_report(), tmp_path / "report.png")
        (figure,) = closed
        grouping, power, packing = figure.axes
        assert "2.00" in grouping.get_title("left")
        assert "2.00" in packing.get_title("left")
        # the stacks add up to the joules a request: nothing is left out, idle least of all
        tops = [
            max(bar.get_y() + bar.get_height() for bar in grouping.patches if round(bar.get_center()[0]) == x) for x in (0, 1)
        ]
        assert tops == pytest.approx([200, 100])
        assert [line.get_label() for line in power.lines] == ["straight", "span"]
        assert "simulated" in figure.get_suptitle()
        assert _overlaps(figure) == []
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_tier_without_requests_leaves_no_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flex_only = {name: _phase(name, joules, tiers=("flex",)) for name, joules in (("straight", 200), ("span", 100))}
    with _kept(monkeypatch) as closed:
        plot_demo(_report(**flex_only), tmp_path / "report.png")
        grouping = closed[0].axes[0]
        assert max(bar.get_y() + bar.get_height() for bar in grouping.patches) == pytest.approx(200)
        assert "interactive" not in grouping.get_xlabel()
