"""`paceline calibrate`: its plan, its windows, its journal, and a simulated engine whose coefficients it has to find."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("numpy")

from bench.calibrate import command
from bench.calibration.asking import Told
from bench.calibration.journal import Journal, JournalError
from bench.calibration.plan import Pace, Run, choose, plan
from bench.calibration.runs import Bench
from bench.calibration.window import NoWindow, Progress, Span, work
from bench.processes import engine
from proxy.dialects.base import Usage
from telemetry.cost import Linear, StepModel, load_profile
from telemetry.fit import Work
from telemetry.snapshot import Interval, Source

PACE = Pace(load_profile(), 2.5)
SPEED = 4


# the plan


def test_the_first_runs_span_what_has_a_coefficient() -> None:
    runs = plan(128)
    core = [run for run in runs if run.block == 1]
    assert {run.kind for run in runs if run.block == 0} == {"idle"}
    assert {run.kind for run in core} == {"decode", "prefill", "mixed"}
    assert {run.batch for run in core} >= {1, 128}
    assert any(run.kind == "decode" and run.prompt_tokens > 1000 for run in core)
    assert len({run.id for run in runs}) == len(runs)


def test_no_batch_is_larger_than_allowed() -> None:
    assert max(run.batch for run in plan(12)) == 12


def test_a_small_budget_keeps_what_tells_most_and_says_what_is_left_out() -> None:
    runs = plan(128)
    chosen, left_out = choose(runs, (), PACE, 60.0, seed=0)
    assert sum(PACE.expected_s(run) for run in chosen) <= 60.0
    assert {run.id for run in runs if run.block < 2} <= {run.id for run in chosen}
    assert sorted([*chosen, *left_out], key=lambda run: run.id) == sorted(runs, key=lambda run: run.id)


def test_four_minutes_are_enough_for_two_of_everything_on_the_built_in_model() -> None:
    chosen, _ = choose(plan(128), (), PACE, 240.0, seed=0)
    assert {run.name for run in chosen if run.id.endswith("#2")} == {run.name for run in plan(128)}


def test_the_order_is_drawn_within_blocks_and_repeats() -> None:
    runs = plan(128)
    chosen, _ = choose(runs, (), PACE, 1e6, seed=0)
    assert chosen != runs
    assert [run.block for run in chosen] == sorted(run.block for run in runs)
    assert chosen == choose(runs, (), PACE, 1e6, seed=0)[0]
    assert chosen != choose(runs, (), PACE, 1e6, seed=1)[0]


def test_what_is_done_is_not_chosen_again() -> None:
    runs = plan(128)
    chosen, left_out = choose(runs, {runs[0].id, runs[5].id}, PACE, 1e6, seed=0)
    assert {run.id for run in runs} - {run.id for run in chosen} == {runs[0].id, runs[5].id}
    assert left_out == []


# what is counted


def steady(start_s: float, end_s: float, watts: float, device: str = "gpu") -> list[Interval]:
    """A counter that steps ten times a second."""
    count = round((end_s - start_s) * 10)
    edges = [start_s + n / 10 for n in range(count + 1)]
    return [
        Interval(device, a, b, round(watts * 1e5), Source.COUNTER, start_edge_s=0.003, end_edge_s=0.003)
        for a, b in pairwise(edges)
    ]


def even(start_s: float, end_s: float, steps: float) -> Progress:
    progress = Progress()
    progress.add(start_s, (0.0, 0.0, 0.0, 0.0, 0.0))
    progress.add(end_s, (steps, 2 * steps, 3 * steps, 4 * steps, 5 * steps))
    return progress


def test_the_window_begins_at_the_second_step_inside_and_ends_at_the_last() -> None:
    found = work("run", Span(0.95, 2.05), steady(0.0, 3.0, 300.0), [even(0.0, 3.0, 3000.0)])
    assert found.seconds == pytest.approx(0.9)
    assert found.energy_j == pytest.approx(270.0)
    assert (found.steps, found.sequences, found.requests) == pytest.approx((900.0, 1800.0, 4500.0))
    assert 0.0 < found.edge_s < 0.006


def test_the_powers_of_several_devices_add_up() -> None:
    shifted = [*steady(0.0, 3.0, 300.0), *steady(0.03, 3.03, 200.0, "other")]
    found = work("run", Span(0.95, 2.05), shifted, [even(0.0, 3.0, 3000.0)])
    assert found.power_w == pytest.approx(500.0)
    assert found.steps == pytest.approx(found.seconds * 1000)


def test_a_run_in_which_the_counter_hardly_moved_has_no_window() -> None:
    with pytest.raises(NoWindow, match="2 whole intervals"):
        work("run", Span(0.95, 1.35), steady(0.0, 3.0, 300.0), [])


def test_a_counter_that_was_lost_in_the_middle_has_no_window() -> None:
    intervals = steady(0.0, 3.0, 300.0)
    del intervals[15]
    with pytest.raises(NoWindow, match="not read"):
        work("run", Span(0.95, 2.05), intervals, [])


# a batch, with a server that does not do what it was asked


@dataclass
class Replies:
    """Stands for the asker: one token every 10 ms from second 0; the others end when it is said."""

    tokens: int
    others: Sequence[tuple[float, int]] = ()
    cached: int = 0
    _others: list[tuple[float, int]] = field(init=False)

    def __post_init__(self) -> None:
        self._others = list(self.others)

    def body(self, prompt_tokens: int, output_tokens: int, *, stream: bool = False) -> bytes:
        return b""

    async def stream(self, body: bytes) -> Told:
        tokens = [(n / 100, n) for n in range(1, self.tokens + 1)]
        return Told(tokens[-1][0], Usage(64, self.tokens, self.cached), tokens)

    async def whole(self, body: bytes) -> Told:
        at_s, count = self._others.pop()
        return Told(at_s, Usage(64, count))


class Recorded:
    """Stands for the monitor."""

    lost = False

    def intervals(self) -> list[Interval]:
        return steady(0.0, 60.0, 400.0)


async def made(replies: Replies, batch: int) -> Any:
    bench: Any = Bench(replies, Recorded(), PACE, 8192)  # type: ignore[arg-type]
    return await bench.make(Run("run", 1, "decode", batch, 64))


ASKED, LONGER = PACE.output_tokens(Run("", 1, "decode", 2, 64)), PACE.longer_tokens(Run("", 1, "decode", 2, 64))


async def test_a_batch_is_counted_from_its_tenth_part_to_its_end() -> None:
    outcome = await made(Replies(ASKED, [(60.0, LONGER)]), 2)
    assert outcome.notes == []
    assert outcome.work.seconds == pytest.approx(0.9 * ASKED / 100, abs=0.25)
    assert outcome.work.steps == pytest.approx(outcome.work.seconds * 100)
    assert outcome.work.sequences == pytest.approx(2 * outcome.work.steps)
    assert outcome.work.energy_j == pytest.approx(400.0 * outcome.work.seconds)
    middle = 64 + 0.55 * ASKED
    assert outcome.work.context_tokens == pytest.approx(2 * outcome.work.steps * middle, rel=0.03)


async def test_outputs_that_are_shorter_than_asked_are_told_and_cut_the_window() -> None:
    outcome = await made(Replies(ASKED, [(3.0, 250)]), 2)
    assert f"outputs: {LONGER} tokens asked for, 250 came" in outcome.notes
    assert any("ended before the watched one" in note for note in outcome.notes)
    assert outcome.work.seconds == pytest.approx(3.0 - 0.1 * ASKED / 100, abs=0.25)


async def test_a_watched_output_that_is_short_is_told() -> None:
    outcome = await made(Replies(120), 1)
    assert outcome.notes == [f"the watched output: {ASKED_ALONE} tokens asked for, 120 came"]
    assert outcome.work.steps < 120


ASKED_ALONE = PACE.output_tokens(Run("", 1, "decode", 1, 64))


async def test_a_batch_that_never_was_complete_counts_nothing() -> None:
    outcome = await made(Replies(ASKED, [(0.1, LONGER)]), 2)
    assert outcome.work is None
    assert "never had 2 sequences" in outcome.notes[-1]
    assert outcome.final


async def test_a_prefix_cache_that_helps_is_told() -> None:
    outcome = await made(Replies(ASKED_ALONE, cached=48), 1)
    assert any("prefix cache" in note for note in outcome.notes)


# the journal


def test_a_line_that_was_cut_off_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.begin({"url": "a"}, {})
    journal.add({"id": "one"}, Work("one", 1.0, 2.0), final=True)
    with path.open("a") as file:
        file.write('{"run": {"id": "tw')
    again = Journal(path)
    assert again.over == {"one"}
    again.add({"id": "two"}, None, final=False)
    assert [line["run"]["id"] for line in Journal(path).runs] == ["one", "two"]
    assert Journal(path).over == {"one"}


def test_another_server_s_journal_is_refused(tmp_path: Path) -> None:
    Journal(tmp_path / "j").begin({"url": "a", "model": "m"}, {})
    with pytest.raises(JournalError, match="model was 'm', is 'n'"):
        Journal(tmp_path / "j").begin({"url": "a", "model": "n"}, {})


@pytest.mark.parametrize("text", ["hello\n", '{"exp": "decode"}\n', "[1]\n"])
def test_what_is_no_journal_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "j").write_text(text)
    with pytest.raises(JournalError, match="no journal"):
        Journal(tmp_path / "j")
    assert (tmp_path / "j").read_text() == text


# the command


def calibrate(folder: Path, *arguments: str) -> Any:
    own = ("--journal", str(folder / "j.jsonl"), "--out", str(folder / "p.json"))
    return CliRunner().invoke(command, [*own, *arguments])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "--url says which server"),
        (("--url", "http://127.0.0.1:9", "--meter", "simulated"), "nothing answers at http://127.0.0.1:9"),
        (("--refit",), "the journal is empty"),
        (("--url", "http://127.0.0.1:9", "--budget", "soon"), "no duration"),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    result = calibrate(tmp_path, *arguments)
    assert result.exit_code != 0
    assert says in result.output


async def started(folder: Path, url: str, *arguments: str) -> asyncio.subprocess.Process:
    own = ("--url", url, "--meter", "simulated", "--window", "0.4s", "--out", "p.json", "--journal", "j.jsonl")
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy.cli", "calibrate", *own, *arguments),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=PIPE,
        stderr=STDOUT,
    )


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    output, _ = await process.communicate()
    return process.returncode, output.decode()


@pytest.mark.slow
async def test_it_is_stopped_goes_on_and_finds_the_engine_s_own_coefficients(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    journal = tmp_path / "j.jsonl"
    async with engine("--dialect", "openai", "--speed", str(SPEED)) as url:
        process = await started(tmp_path, url, "--budget", "60s")
        while not journal.exists() or journal.read_text().count("\n") < 6:
            assert process.returncode is None
            await asyncio.sleep(0.05)
        process.send_signal(signal.SIGINT)
        status, output = await ended(process)
        assert (status, "the same command goes on" in output) == (130, True), output
        kept = journal.read_text()

        status, output = await ended(await started(tmp_path, url, "--budget", "10s"))
        assert status == 0, output
        assert journal.read_text().startswith(kept)
        ids = [line["run"]["id"] for line in map(json.loads, journal.read_text().splitlines()[1:])]
        assert len(set(ids)) == len(ids)
        assert "no time was left for" in output

        status, output = await ended(await started(tmp_path, url, "--model", "another"))
        assert (status, "runs of another calibration (model was" in output) == (1, True), output

    found = load_profile(str(tmp_path / "p.json"))
    true = load_profile()
    assert found.step_j.base == pytest.approx(true.step_j.base, rel=0.1)
    assert found.step_j.per_prompt_token == pytest.approx(true.step_j.per_prompt_token, rel=0.1)
    assert found.idle_power_w == pytest.approx(SPEED * true.idle_power_w, rel=0.05)
    assert inside(json.loads((tmp_path / "p.json").read_text())["provenance"]["intervals_95"], true) >= 5

    first = (tmp_path / "p.json").read_text()
    again = calibrate(tmp_path, "--refit", "--plot", str(tmp_path / "p.png"))
    assert again.exit_code == 0, again.output
    assert json.loads((tmp_path / "p.json").read_text())["model"] == json.loads(first)["model"]
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def inside(intervals: dict[str, list[Any]], true: StepModel) -> int:
    """How many of the engine's eight coefficients are in their intervals; seen from outside its time is shorter."""
    parts = Linear.__dataclass_fields__
    scaled = {f"step_s.{part}": getattr(true.step_s, part) / SPEED for part in parts}
    scaled |= {f"step_j.{part}": getattr(true.step_j, part) for part in parts}
    return sum(intervals[name][0] <= value <= intervals[name][1] for name, value in scaled.items())
