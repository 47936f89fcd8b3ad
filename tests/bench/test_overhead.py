"""The overhead benchmark: its arithmetic, its two C programs, and the whole of it in small. No time is asserted."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.overhead.__main__ import command
from bench.overhead.bars import bars
from bench.overhead.contenders import PROXIES, Ground, Start
from bench.overhead.crowd import Crowd, crowd
from bench.overhead.figures import Results, Spread, spread, written
from bench.overhead.plot import plot
from bench.overhead.report import Report, WaitingCost, machine, now, versions
from bench.overhead.running import free_port, started
from bench.overhead.slices import EVENTS, GAP_US, Contender, Shape, Slice, measure, rotated, void
from bench.overhead.stub import Load, NotPossible, Upstream, apply, compiled, request_file, upstream
from bench.overhead.tables import BEGIN, END, markdown, write_into
from bench.overhead.waiting import Ticks, all_ticks
from policies.strategy import POLICIES

compiles = pytest.mark.skipif(
    not ((shutil.which("cc") or shutil.which("gcc")) and shutil.which("taskset")), reason="no C compiler, or no taskset"
)

FAULTLESS = {"cut_off": 0, "miscounted": 0, "bad_status": 0, "unfinished": 0}
JSON, PACED = Shape("json-16", Load(16, 1.0, 0.0)), Shape("paced-64", Load(64, 1.0, 0.0, events=EVENTS), GAP_US)


def quiet(text: str) -> None: ...


def slice(round: int, proxy: str, shape: str = "json-16", *, rate: float = 1000, p50_us: float = 100, **found: float) -> Slice:
    """Two seconds of so many answers a second, and as many events."""
    told = {
        **FAULTLESS, "requests": 2 * rate, "events": 2 * rate, "window_s": 2.0, "cpu_us": 1e6,
        "whole_p50_us": p50_us, "whole_p99_us": 2 * p50_us, "event_p50_us": p50_us, "event_p99_us": 2 * p50_us,
        "first_p50_us": p50_us, "first_p99_us": 2 * p50_us, **found,
    }  # fmt: skip
    return Slice(round, proxy, shape, void(PACED if shape.startswith("paced") else JSON, told), told)


# --- arithmetic ------------------------------------------------------------------------------------------------------


def test_a_spread_is_a_median_with_its_ends() -> None:
    assert spread([3.0, 1.0, 8.0]) == Spread(3.0, 1.0, 8.0, 3)
    assert spread([]) is None


def test_ratios_are_taken_within_a_round() -> None:
    # the machine is four times as fast in the second round: the ratio of the medians would be another
    slices = [slice(1, "bare", rate=1000), slice(1, "paceline", rate=800), slice(2, "bare", rate=4000)]
    slices += [slice(2, "paceline", rate=2400), slice(3, "bare", rate=1000), slice(3, "paceline", rate=700)]
    found = Results(slices).ratio("paceline", "bare", "json-16", "rate")
    assert found == Spread(pytest.approx(0.7), pytest.approx(0.6), pytest.approx(0.8), 3)


def test_what_is_added_is_over_no_proxy_in_the_same_round() -> None:
    slices = [slice(1, "direct", p50_us=20), slice(1, "paceline", p50_us=420)]
    slices += [slice(2, "direct", p50_us=220), slice(2, "paceline", p50_us=720)]
    assert Results(slices).added("paceline", "json-16", "p50_us") == Spread(450, 400, 500, 2)


def test_cpu_is_for_each_answer_or_each_paced_event() -> None:
    results = Results([slice(1, "paceline"), slice(1, "paceline", "paced-64", requests=32)])
    assert results.alone("paceline", "json-16", "cpu_us") == Spread(500, 500, 500, 1)
    assert results.alone("paceline", "paced-64", "cpu_us") == Spread(500, 500, 500, 1)


@pytest.mark.parametrize("fault", FAULTLESS)
def test_a_slice_with_a_fault_is_void(fault: str) -> None:
    slices = [slice(1, "paceline", **{fault: 1}), slice(2, "paceline", rate=7)]
    assert slices[0].void.startswith("1 ")
    results = Results(slices)
    assert results.alone("paceline", "json-16", "rate") == Spread(7, 7, 7, 1)
    assert results.voids("paceline") == [slices[0]]


def test_a_slice_in_which_nothing_was_completed_is_void() -> None:
    assert void(JSON, {**FAULTLESS, "requests": 0, "events": 9}) == "nothing was completed"
    assert void(PACED, {**FAULTLESS, "requests": 0, "events": 9}) == ""  # a stream may be longer than the window


def test_a_round_that_one_of_two_lost_is_not_compared() -> None:
    slices = [slice(1, "bare", bad_status=3), slice(1, "paceline"), slice(2, "bare", rate=2000), slice(2, "paceline")]
    assert Results(slices).ratio("paceline", "bare", "json-16", "rate") == Spread(0.5, 0.5, 0.5, 1)


def test_everybody_is_first_once() -> None:
    names = ["a", "b", "c"]
    assert {rotated(names, round)[0] for round in (1, 2, 3)} == set(names)
    assert all(sorted(rotated(names, round)) == names for round in range(9))


def test_figures_are_written_with_the_digits_that_count() -> None:
    assert [written(value) for value in (12345.6, 99.94, 1.0, 0.235, 0.00782, -3.14)] == [
        "12,346", "99.9", "1.00", "0.23", "0.0078", "-3.14",
    ]  # fmt: skip


# --- reports ---------------------------------------------------------------------------------------------------------


def report() -> Report:
    slices = [
        slice(round, proxy, shape, rate=rate, p50_us=p50_us)
        for round in (1, 2)
        for shape in ("json-1", "json-16", "json-64", "burst-1", "burst-16", "paced-64")
        for proxy, rate, p50_us in (
            ("direct", 50_000, 20),
            ("bare", 1000, 300),
            ("paceline", 800, 400),
            ("litellm", 20, 20_000),
        )
    ]
    slices.append(slice(3, "paceline", "paced-64", miscounted=2))
    contenders = {"bare": Contender("1"), "paceline": Contender("0.1.0", "", 80.0), "litellm": Contender("1.106.2")}
    contenders["nginx"] = Contender(absent="nginx is not installed")
    waiting = WaitingCost(10_000, [Ticks("span", 10_000, 0, 0.01, 0.02)], Crowd(15_000.0, 10_000.0))
    return Report("2026-01-01", "x", {"processor": "made by hand"}, {"paceline": "0.1.0"}, contenders, slices, 3, 60.0, waiting)


def test_a_report_survives_its_file(tmp_path: Path) -> None:
    report().save(tmp_path / "report.json")
    assert Report.read(tmp_path / "report.json") == report()


def test_each_bar_is_met_by_the_median() -> None:
    met = {bar.name: bar.met for bar in bars(report())}
    assert met["requests/s at 16 connections over the bare forwarder's"] is True
    assert met["requests/s at 16 connections over LiteLLM's"] is True
    assert met["added latency, idle, answer, p50"] is True
    assert met["64 streams x 50 events/s: rounds with every event delivered"] is False  # one of three rounds lost two
    assert met["64 streams x 50 events/s: CPU an event"] is False
    assert met["10,000 waiting: our own state a request"] is False
    without = replace(report(), slices=[slice for slice in report().slices if slice.proxy != "litellm"])
    assert {bar.name: bar.met for bar in bars(without)}["requests/s at 16 connections over LiteLLM's"] is None


def test_what_is_void_or_left_out_is_told() -> None:
    text = markdown(report())
    assert "Void: paceline, paced-64, round 3: 2 streams with events missing or twice." in text
    assert "**nginx was left out**: nginx is not installed" in text
    assert "| paceline | 800 ± 0 % |" in text


def test_tables_go_between_the_marks_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):
        write_into(page, report())
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert text.count("### ") == 4
    page.write_text("no marks")
    with pytest.raises(ValueError, match="no place"):
        write_into(page, report())


def test_a_saved_report_is_told_again(tmp_path: Path) -> None:
    report().save(tmp_path / "saved.json")
    done = CliRunner().invoke(command, ["--from", str(tmp_path / "saved.json"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "NOT met" in done.output
    assert (tmp_path / "out" / "report.png").read_bytes().startswith(b"\x89PNG")


def test_an_unknown_name_is_refused() -> None:
    done = CliRunner().invoke(command, ["--without", "envoy"])
    assert done.exit_code == 2
    assert "envoy" in done.output


# --- the C programs --------------------------------------------------------------------------------------------------


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[Upstream]:
    with upstream(compiled("upstream", tmp_path), 0) as running:
        yield running


def ask(url: Upstream, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", url.port, timeout=5)
    connection.request(method, path, body)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


@compiles
def test_the_upstream_speaks_openai_and_has_a_counter(stub: Upstream) -> None:
    status, body = ask(stub, "POST", "/v1/chat/completions", b'{"model": "stub"}')
    assert (status, len(body)) == (200, 301)
    stub.stream(3, 0)
    _, streamed = ask(stub, "POST", "/v1/chat/completions", b'{"stream": true}')
    assert streamed.count(b"data: ") == 4
    assert streamed.endswith(b"data: [DONE]\n\n")
    assert b"energy_mj" in ask(stub, "GET", "/simulator/energy")[1]
    assert ask(stub, "GET", "/info")[0] == 404
    assert ask(stub, "POST", "/v1/traces", b"x" * 300_000)[0] == 200
    assert stub.served() == {"requests": 2, "events": 3, "otlp": 1}


@compiles
def test_the_load_counts_what_it_gets(stub: Upstream, tmp_path: Path) -> None:
    load = compiled("load", tmp_path)
    stub.stream(5, 1000)
    found = apply(Load(3, 0.2, 0.05, 0.03, events=5), load, 0, stub.port, request_file(tmp_path, streamed=True))
    assert void(PACED, found) == ""
    assert found["events_in_all"] == stub.served()["events"]
    assert found["requests"] > 0
    assert 0 <= found["event_p50_us"] <= found["event_p99_us"]


@compiles
def test_the_load_finds_missing_events_and_bad_statuses(stub: Upstream, tmp_path: Path) -> None:
    load = compiled("load", tmp_path)
    stub.stream(4, 0)
    found = apply(Load(2, 0.05, 0.0, events=5), load, 0, stub.port, request_file(tmp_path, streamed=True))
    assert "events missing" in void(PACED, found)
    (tmp_path / "lost.http").write_text("GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n", newline="")
    found = apply(Load(2, 0.05, 0.0), load, 0, stub.port, tmp_path / "lost.http")
    assert "other than 2xx" in void(JSON, found)


@compiles
def test_nobody_listening_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotPossible, match="refused"):
        apply(Load(1, 0.1, 0.0), compiled("load", tmp_path), 0, free_port(), request_file(tmp_path, streamed=False))


@compiles
def test_a_proxy_that_does_not_start_is_told_with_its_words(tmp_path: Path) -> None:
    ground = Ground(1, free_port(), free_port(), tmp_path, tmp_path, quiet)
    with pytest.raises(NotPossible, match="alas"), started(lambda _: Start(("sh", "-c", "echo alas"), "1"), ground, 0):
        pass


# --- the whole, in small ---------------------------------------------------------------------------------------------


@compiles
def test_side_by_side_in_small(tmp_path: Path) -> None:
    shapes = [
        Shape("json-16", Load(16, 0.3, 0.1)),
        Shape("paced-64", Load(4, 0.3, 0.1, events=EVENTS), 1000),
    ]
    names = ["direct", "bare", "paceline"]
    measured = measure(names, shapes, 1, tmp_path, quiet)
    assert [(slice.proxy, slice.void) for slice in measured.slices if slice.void] == []
    assert len(measured.slices) == len(names) * len(shapes)
    results = Results(measured.slices)
    for proxy in ("bare", "paceline"):
        cpu = results.alone(proxy, "json-16", "cpu_us")
        assert cpu is not None
        assert cpu.median > 0
        assert measured.contenders[proxy].resident_mib > 10
    ratio = results.ratio("paceline", "bare", "json-16", "rate")
    assert ratio is not None
    assert ratio.median > 0
    contenders, slices = measured.contenders, measured.slices
    whole = Report(now(), "test", machine(), versions(), contenders, slices, measured.otlp_exports, 1.0)
    plot(whole, tmp_path / "report.png")
    assert "| paceline |" in markdown(whole)


async def test_waiting_requests_in_one_process() -> None:
    found = await all_ticks(50, quiet)
    assert [ticks.policy for ticks in found] == list(POLICIES)
    assert all(ticks.held + ticks.ready == 50 for ticks in found)
    assert all(0 < ticks.p50_ms <= ticks.p99_ms for ticks in found)


@compiles
async def test_a_crowd_waits_in_a_real_proxy(tmp_path: Path) -> None:
    found = await asyncio.to_thread(crowd, 300, tmp_path, quiet)
    assert found.paceline_bytes > 0
    assert found.others_bytes > 0
    assert found.own_bytes == found.paceline_bytes - found.others_bytes


@compiles
def test_a_proxy_that_dies_is_void_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import os, sys\n"
        "from bench.overhead.patient import Patient\n"
        "answer, served = Patient.__call__, []\n"
        "async def call(self, scope, receive, send):\n"
        "    served.append(1)\n"
        "    if len(served) > 20: os._exit(7)\n"
        "    await answer(self, scope, receive, send)\n"
        "Patient.__call__ = call\n"
        "import asyncio, uvicorn\n"
        "asyncio.run(uvicorn.Server(uvicorn.Config(Patient(), port=int(sys.argv[1]), ws='none', lifespan='off')).serve())\n"
    )
    monkeypatch.setitem(PROXIES, "mortal", lambda on: Start((sys.executable, "-c", code, str(on.port)), "1"))  # type: ignore[arg-type]
    found = measure(["mortal", "direct"], [Shape("json-16", Load(2, 0.3, 0.0))] * 2, 1, tmp_path, quiet).slices
    assert [slice.proxy for slice in found if not slice.void] == ["direct", "direct"]
    assert {slice.void for slice in found if slice.proxy == "mortal"} == {"the proxy ended with status 7"}
    assert Results(found).alone("mortal", "json-16", "rate") is None
