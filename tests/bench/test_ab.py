"""`paceline ab`: what it asks for, what it foresees, how it reads experiments, and what its reports say."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import httpx
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from bench.ab import folder, forecast, terminal
from bench.ab.asking import arm, guardrails, seconds
from bench.ab.client import Client
from bench.ab.document import BadDocument, Document
from bench.ab.lines import Lines
from bench.ab.page import page
from bench.ab.planning import Planned, lasts
from bench.ab.slices import joined, slice_of, strata
from bench.draws import BadSpec
from bench.experiments.simulated import simulated_blocks
from bench.processes import Child, engine
from bench.switchback_gpu import main as switchback_gpu
from policies.base import Waiting
from policies.simulate import Arrival
from policies.strategy import Choice, build
from proxy.cli import main
from proxy.experiments.store import DiskStore, Part
from telemetry.blocks import Block
from telemetry.cost import BUILT_IN, load_profile
from telemetry.design import CONTROL, TREATMENT, Design, orders
from telemetry.guardrails import Guardrails

BEGAN = 1_763_000_000.0
IN_FORCE = {"policy": {"name": "span", "params": {}}, "placement": {"name": "pack", "params": {"knee": 32}}}
STRAIGHT = {"policy": {"name": "passthrough", "params": {}}, "placement": {"name": "spread", "params": {}}}
SPAN = {"policy": {"name": "span", "params": {}}, "placement": {"name": "spread", "params": {}}}


def arrivals(rate: float, until_s: float, seed: int, slack_s: float) -> list[Arrival]:
    random, found, at = Random(seed), list[Arrival](), 0.0
    while (at := at + random.expovariate(rate)) < until_s:
        found.append(Arrival(Waiting(f"r{len(found)}", at, at + slack_s, 256, 128), 64))
    return found


def told(design: Design, blocks: Sequence[Block], treatment: dict[str, Any] = SPAN, **changes: Any) -> dict[str, Any]:
    """What the admin API tells."""
    return {
        "name": "try",
        "state": "finished",
        "why": "all blocks are over",
        "group": "servers",
        "design": asdict(design),
        "arms": [{"name": "control", **STRAIGHT}, {"name": "treatment", **treatment}],
        "metric": "j_per_token",
        "alpha": 0.05,
        "guardrails": Guardrails(ttft_p95=None, wait_p99_s=4.0).as_json(),
        "now": None,
        "blocks": [block.as_json() for block in blocks],
        **changes,
    }


def simulated(pairs: int = 8, treatment: dict[str, Any] = SPAN, **changes: Any) -> Document:
    design = Design(BEGAN, 30.0, 8.0, pairs, seed=2)
    arms = [build(Choice(one["policy"]["name"], {}), Choice("spread", {})) for one in (STRAIGHT, treatment)]
    coming = arrivals(3.0, design.blocks * 30.0 + 20, 1, 3.0)
    blocks = simulated_blocks(coming, *arms, design, load_profile(BUILT_IN), wall_offset_s=BEGAN)
    return Document.of(told(design, blocks, treatment, **changes), asked="http://127.0.0.1:9464")


@pytest.fixture(scope="module")
def finished() -> Document:
    return simulated()


def shown(renderable: Any) -> str:
    console = Console(width=160, record=True, quiet=False, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


# --- asking -----------------------------------------------------------------------------------------------------------


def test_an_arm_is_what_is_in_force_but_for_what_it_names() -> None:
    assert arm("", IN_FORCE) == IN_FORCE
    assert arm("window every_s=0.5", IN_FORCE) == {
        "policy": {"name": "window", "params": {"every_s": 0.5}},
        "placement": IN_FORCE["placement"],
    }
    assert arm("/ spread", IN_FORCE) == {"policy": IN_FORCE["policy"], "placement": {"name": "spread", "params": {}}}
    assert arm("my.module:Mine path=/a/b / pack knee=8", IN_FORCE) == {
        "policy": {"name": "my.module:Mine", "params": {"path": "/a/b"}},
        "placement": {"name": "pack", "params": {"knee": 8}},
    }


@pytest.mark.parametrize("text", ["/", " / ", "span knee", "span 'open"])
def test_an_arm_that_cannot_be_read_says_how_it_is_written(text: str) -> None:
    with pytest.raises(BadSpec, match="write"):
        arm(text, IN_FORCE)


@pytest.mark.parametrize(("text", "expected"), [("auto", "auto"), ("300", 300.0), ("5m", 300.0), ("1.5h", 5400.0), ("0", 0.0)])
def test_lengths(text: str, expected: float | str) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "-1", "nan", "inf", "5d"])
def test_lengths_that_are_none(text: str) -> None:
    with pytest.raises(BadSpec, match="or auto"):
        seconds(text)


def test_guardrails_are_named_and_numbers() -> None:
    assert guardrails(["ttft_p95=1.2", "late=off"]) == {"ttft_p95": 1.2, "late": None}
    with pytest.raises(BadSpec, match="ttft_p95=NUMBER"):
        guardrails(["ttft=1.2"])
    for value in ("slow", "nan", "inf"):
        with pytest.raises(BadSpec, match="no number"):
            guardrails([f"ttft_p95={value}"])


@pytest.mark.parametrize(
    ("length_s", "text"), [(0, "0 s"), (59.6, "1 min"), (192, "3 min 12 s"), (9000, "2 h 30 min"), (90_000, "1 d 1 h")]
)
def test_how_long_something_lasts(length_s: float, text: str) -> None:
    assert lasts(length_s) == text


# --- foreseeing -------------------------------------------------------------------------------------------------------


def test_a_forecast_tells_what_so_many_pairs_show(finished: Document) -> None:
    found = forecast.from_past([finished], replace(finished.design, block_s=35.0), "j_per_token")
    assert found is not None
    assert (found.pairs, found.simulated) == (8, True)
    few, many = found.detectable(8, 0.05), found.detectable(64, 0.05)
    assert 0 < many < few < 1
    needed = found.needed(many, 0.05)
    assert needed is not None
    assert needed <= 64


def test_blocks_of_another_length_foresee_nothing(finished: Document) -> None:
    assert forecast.from_past([finished], replace(finished.design, block_s=300.0), "j_per_token") is None


def test_requests_are_drawn_from_the_known_ones_at_their_rate() -> None:
    known = arrivals(2.0, 100.0, 5, 1.5)
    drawn = forecast.drawn(known, 2.0, 1000.0, Random(1))
    assert 1800 < len(drawn) < 2200
    assert all(0 < one.waiting.arrived_at < 1000 for one in drawn)
    assert {round(one.waiting.deadline - one.waiting.arrived_at, 6) for one in drawn} == {1.5}
    assert len({one.waiting.id for one in drawn}) == len(drawn)


@given(rate=st.floats(0.01, 1000), block_s=st.floats(5, 3600), share=st.floats(0, 0.9))
def test_what_is_simulated_is_affordable(rate: float, block_s: float, share: float) -> None:
    like = forecast.affordable(Design(BEGAN, block_s, share * block_s, 16), rate)
    assert like.pairs >= 12 or like.block_s == block_s
    assert like.block_s <= block_s
    room = 1.0 + 1.1 * share * block_s  # burn-in cannot be shortened
    assert rate * like.blocks * like.block_s <= max(forecast.MOST_REQUESTS, rate * like.blocks * room) * 1.01


def test_a_plan_in_words_says_how_small_a_saving_it_may_show() -> None:
    design = Design(BEGAN, 60.0, 15.0, 16, seed=1)
    asked = {"control": STRAIGHT, "treatment": SPAN, "pairs": 16, "alpha": 0.05, "metric": "j_per_token"}
    plan = Planned(asked, design, forecast.Forecast(0.05, 12, "past pairs", simulated=False))
    text = "\n".join(plan.lines())
    assert "32 blocks of 60 s in 16 pairs: 32 min" in text
    assert re.search(r"a saving of [2-6]\.\d% or more is shown with a probability of 80%; for 10% it takes \d pairs", text)
    same = replace(plan, asked={**asked, "treatment": STRAIGHT})
    assert same.lines()[0].startswith("A/A test")
    unknown = replace(plan, forecast=forecast.Unknown("nobody came"))
    assert "not known: nobody came" in unknown.lines()[-2]


@pytest.mark.parametrize(
    ("treatment", "guards", "hinted"),
    [(SPAN, {}, True), (SPAN, {"ttft_p95": 1.5}, True), (SPAN, {"ttft_p95": None}, False), (STRAIGHT, {}, False)],
)
def test_whoever_tries_to_hold_is_told_of_the_guardrail(treatment: Any, guards: Any, hinted: bool) -> None:
    asked = {"control": STRAIGHT, "treatment": treatment, "pairs": 16, "guardrails": guards}
    plan = Planned(asked, Design(BEGAN, 60.0, 15.0, 16), None)
    assert ("guardrail ttft_p95" in "\n".join(plan.lines())) is hinted


# --- reading ----------------------------------------------------------------------------------------------------------


def test_a_document_comes_back_from_its_own_json(finished: Document) -> None:
    again = Document.of(json.loads(json.dumps(finished.as_json())))
    assert again.comparison == finished.comparison
    assert again.blocks == finished.blocks


def test_what_is_no_experiment_says_so() -> None:
    with pytest.raises(BadDocument, match="design"):
        Document.of({"name": "x", "state": "running", "arms": [{"name": "control"}, {"name": "treatment"}]})


def test_the_course_ends_where_the_comparison_does(finished: Document) -> None:
    assert [one.pairs for one in finished.course] == list(range(1, 9))
    assert finished.course[-1].effect == finished.comparison.effect


def test_a_long_course_has_as_many_points_as_a_curve_shows(finished: Document, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.ab.document.MOST_OF_COURSE", 3)
    course = replace(finished).course
    assert [one.pairs for one in course] == [1, 4, 7, 8]
    assert course[-1].effect == finished.comparison.effect


async def test_a_folder_tells_what_the_proxy_kept(finished: Document, tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    state = {key: value for key, value in finished.as_json().items() if key not in ("blocks", "comparison", "log")}
    await store.save("try", state)
    await store.log("try", {"at_unix_s": BEGAN, "event": "started"})
    for block in finished.blocks:
        await store.add_part("try", Part("here", replace(block, energy_j=1.0)))
        await store.add_part("try", Part("here", block))  # told again: this one counts
    read = await asyncio.to_thread(folder.read, tmp_path, None)
    assert read.comparison == finished.comparison
    assert [line["event"] for line in read.logged] == ["started"]
    assert (await asyncio.to_thread(folder.read, tmp_path / "try", None)).name == "try"
    await store.save("none", {"state": "finished"})  # by a version that tells it otherwise, say; it hides nothing
    assert (await asyncio.to_thread(folder.read, tmp_path, None)).name == "try"
    with pytest.raises(BadDocument, match="there are none, try"):
        await asyncio.to_thread(folder.read, tmp_path, "other")
    with pytest.raises(BadDocument, match="holds none"):
        await asyncio.to_thread(folder.read, tmp_path / "nowhere", None)


async def test_a_folder_tells_parts_of_another_design_as_the_proxy_does(finished: Document, tmp_path: Path) -> None:
    store, first = DiskStore(tmp_path), finished.blocks[0]
    await store.save("try", {key: value for key, value in finished.as_json().items() if key not in ("blocks", "comparison")})
    for block in finished.blocks:
        await store.add_part("try", Part("here", block))
    await store.add_part("try", Part("0", replace(first, arm=1 - first.arm)))  # by a replica that gave way
    read = await asyncio.to_thread(folder.read, tmp_path, None)
    assert [one.pair for one in read.comparison.lost] == [0]
    assert read.comparison.pairs == finished.comparison.pairs - 1


# --- slices -----------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), pairs=st.integers(1, 14), stratum=st.integers(1, 4))
def test_slices_are_the_whole_designs_strata(seed: int, pairs: int, stratum: int) -> None:
    whole = Design(0.0, 20.0, 5.0, pairs, seed, stratum)
    slices = [slice_of(whole, number) for number in strata(whole)]
    assert tuple(order for one in slices for order in orders(one)) == orders(whole)
    assert all((one.block_s, one.burn_in_s) == (20.0, 5.0) for one in slices)


def test_slices_side_by_side_are_one_experiment_less_what_was_cut_off() -> None:
    whole = Design(0.0, 20.0, 5.0, 6, 9, 2)

    def run(number: int, cut_at: int = 4, **changes: Any) -> tuple[int, Document]:
        design = replace(slice_of(whole, number), began_unix_s=BEGAN + 1000.0 * number)
        energy = {CONTROL: 100.0, TREATMENT: 80.0}
        blocks = [
            Block(
                index,
                arm,
                design.start_unix_s(index),
                design.start_unix_s(index + 1),
                energy[arm],
                5.0,
                source="counter",
                requests=10,
                completed=10,
                output_tokens=100 + index,
                complete=index < cut_at,
            )
            for index in range(design.blocks)
            if (arm := design.arm_of(index)) in energy
        ]
        return number, Document.of(told(design, blocks, **changes))

    document = joined(whole, "ab", [run(0), run(1, cut_at=3), run(2)])
    assert document.design.began_unix_s == BEGAN
    assert [block.index for block in document.blocks] == list(range(12))
    assert document.comparison.pairs == 5
    assert [one.pair for one in document.comparison.lost] == [3]
    assert document.comparison.arms[0].energy_j == 500.0
    assert document.state == "finished"
    some = joined(whole, "ab", [run(0), run(1)])
    assert (some.state, some.why) == ("running", "1 of 3 slices are still to come")
    tripped = joined(whole, "ab", [run(0), run(1, state="tripped", why="late"), run(2, state="running", why="")])
    assert (tripped.state, tripped.why) == ("stopped", "slice 1 is tripped (late); slice 2 is running")


# --- telling ----------------------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Whether what is opened is closed, and what is asked for from elsewhere."""

    VOID = frozenset({"meta", "br", "link", "img", "use", "path"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.asked: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.asked += [value for key, value in attrs if key in ("src", "href", "xlink:href") and value and value[0] != "#"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open, f"</{tag}> closes nothing"
            assert self.open.pop() == tag


def test_a_page_is_whole_and_asks_for_nothing(finished: Document) -> None:
    text = page(finished)
    read = Reader(text)
    assert read.open == []
    assert read.asked == []
    assert "script" not in read.tags
    assert not re.search(r"url\((?!#)|@import", text)
    assert read.tags.count("svg") == 4
    assert "joules are simulated, not measured" in text
    assert "The treatment saves" in text
    ids = re.findall(r'<clipPath id="([^"]+)"', text)
    assert len(ids) == len(set(ids))  # one picture's clips are no other's
    assert "#010203" not in text  # all ink is the page's


def test_the_same_experiment_gives_the_same_page(finished: Document) -> None:
    assert page(finished) == page(finished)


def test_a_page_says_who_is_named_without_running_it(finished: Document) -> None:
    text = page(replace(finished, why="<script>alert(1)</script>", notes=("<b>",)))
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


@pytest.mark.parametrize("blocks", [0, 1, 2, 5])
def test_an_experiment_that_has_just_begun_has_a_page(finished: Document, blocks: int) -> None:
    early = replace(finished, state="running", why="", blocks=finished.blocks[:blocks])
    text = page(early)
    assert Reader(text).open == []
    assert "Nothing yet" in text
    assert "Too few pairs" in shown(terminal.status(early))


def test_lost_pairs_are_struck_out(finished: Document) -> None:
    broken = replace(finished, blocks=tuple(replace(b, complete=b.index != 4) for b in finished.blocks))
    text = page(broken)
    assert text.count("<tr class=lost>") == 2
    assert "Pair 3 is lost" in text
    assert "not whole: left out with its pair" in text


def test_an_a_a_test_is_no_finding() -> None:
    same = simulated(6, STRAIGHT)
    text = page(same)
    assert "A/A test: both arms are the same" in text
    assert "A/A test" in shown(terminal.status(same))
    assert "The treatment takes fewer joules" not in text


def test_a_terminal_shows_the_effect_its_interval_and_the_guardrails(finished: Document) -> None:
    text = shown(terminal.status(finished))
    effect = finished.comparison.effect
    assert effect is not None
    assert f"{100 * effect.middle:+.1f} %" in text
    assert "95 % always-valid interval" in text
    assert "simulated, not measured" in text
    assert "wait_p99_s" in text
    assert "finished: all blocks are over" in text


def test_a_percentile_of_a_handful_says_of_how_many_it_is(finished: Document) -> None:
    few = replace(finished, blocks=tuple(replace(b, ttft_p95_s=0.25, ttft_of=7, tpot_of=20) for b in finished.blocks))
    assert "250 ms of 7" in shown(terminal.status(few))
    assert "250.0 ms of 7" in page(few)
    assert " of 20<" not in page(few)


def test_status_says_where_not_control_is_in_force(finished: Document) -> None:
    assert "In force now" not in shown(terminal.status(finished))
    assert "In force now" not in shown(terminal.status(replace(finished, in_force=STRAIGHT)))
    other = replace(finished, in_force=SPAN)
    assert "In force now is span / spread, and not this experiment's control." in shown(terminal.status(other))
    assert "In force" not in shown(terminal.status(replace(other, state="running")))


def test_what_costs_a_running_experiment_its_blocks_is_told(finished: Document) -> None:
    now = {"block": 3, "arm": "control", "ends_unix_s": None}
    running = replace(finished, state="running", now=now, why="blocks are lost: the meters tell nothing")
    assert "blocks are lost: the meters tell nothing" in shown(terminal.status(running))


def test_lines_tell_each_block_once(finished: Document) -> None:
    console = Console(width=160)
    lines = Lines(console)
    with console.capture() as captured:
        for count in (0, 1, 1, 3, 16, 16):
            lines(replace(finished, blocks=finished.blocks[:count]), "http://here")
    text = captured.get()
    assert re.findall(r"^block (\d+) of", text, re.MULTILINE) == [str(number) for number in range(1, 17)]
    assert text.count("http://here") == 1


# --- all of it --------------------------------------------------------------------------------------------------------


async def cli(*words: str, status: int = 0) -> Result:
    result = await asyncio.to_thread(CliRunner().invoke, main, ["ab", *words])
    assert result.exit_code == status, result.output
    return result


@pytest.mark.slow  # an experiment of eight seconds between real processes
async def test_an_experiment_from_start_to_report(tmp_path: Path) -> None:
    options = ("--pairs", "2", "--block", "2", "--burn-in", "0.5", "--rate", "12", "--admin-port", "0")
    child = await Child.start("ab", "demo", *options, "--dir", str(tmp_path / "kept"))
    try:
        admin = ("--admin", (await child.ready(r"admin port: (\S+)"))[1])
        running = json.loads((await cli("status", *admin, "--json")).stdout)
        assert running["state"] == "running"
        refused = await cli("start", "second", *admin, "--treatment", "window", "--no-forecast", status=1)
        assert "409" in refused.output  # the devices are taken
        await cli("status", *admin, "--watch")  # until it is over
        whole = json.loads((await cli("report", *admin, "--json")).stdout)
        assert whole["state"] == "finished"
        assert len(whole["blocks"]) == 4
        assert {line["event"] for line in whole["log"]} >= {"block_began", "block_ended", "finished"}
        assert whole["provenance"]["devices"]
        lengths = ("--pairs", "8", "--block", "60", "--burn-in", "10")
        plan = await cli("start", "third", *admin, "--treatment", "window", *lengths, "--plan")
        assert "Nothing was begun" in plan.output
        assert "burn-in of 10 s" in plan.output
        assert "is shown" in plan.output  # the simulator foresees it from the demo's own requests
        begun = await cli("start", "third", *admin, "--treatment", "window", *lengths, "--no-forecast")
        assert "third runs" in begun.output
        assert "stopped" in (await cli("stop", "third", *admin)).output
        listed = (await cli("list", *admin)).output
        assert "third" in listed
        assert whole["name"] in listed
        unknown = await cli("status", "none", *admin, status=1)
        assert "404" in unknown.output
        child.process.send_signal(signal.SIGTERM)
        await child.finished(20)
        with pytest.raises(httpx.ConnectError):  # it has left nobody behind
            await asyncio.to_thread(httpx.get, f"{admin[1]}/status", trust_env=False)
    finally:
        await child.stop()
    kept = ("report", whole["name"], "--from", str(tmp_path / "kept"))
    offline = json.loads((await cli(*kept, "--json")).stdout)
    assert offline["comparison"] == whole["comparison"]
    await cli(*kept, "--html", str(tmp_path / "report.html"))
    assert "simulated, not measured" in (tmp_path / "report.html").read_text()


async def test_nobody_there(tmp_path: Path) -> None:
    silent = await cli("status", "--admin", "http://127.0.0.1:9", status=1)
    assert "--admin takes the admin port's URL" in silent.output
    empty = await cli("report", "--from", str(tmp_path), status=1)
    assert "holds none" in empty.output


class Admin(BaseHTTPRequestHandler):
    """An admin port with one experiment, which runs until it was asked often enough; all that it is asked is kept."""

    running: ClassVar[dict[str, Any]]
    asked: ClassVar[list[str]]
    posts: ClassVar[dict[str, tuple[int, Any]]]
    looks_left: ClassVar[int]
    listed: ClassVar[list[dict[str, Any]]] = []
    strategy: ClassVar[dict[str, Any]] = STRAIGHT

    def do_GET(self) -> None:
        self.asked.append(self.path)
        type(self).looks_left -= self.path == "/experiments/try"
        answers = {
            "/experiments": [self.running, *self.listed],
            "/experiments/odd": {"name": "odd"},
            "/experiments/try": self.running | ({"state": "finished", "now": None} if self.looks_left < 0 else {}),
            "/status": {"strategy": self.strategy},
        }
        self._answer(200, answers[self.path])

    def do_POST(self) -> None:
        self.asked.append(self.path)
        self._answer(*self.posts[self.path])

    def _answer(self, status: int, told: Any) -> None:
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *said: object) -> None:
        """Nothing."""


@contextmanager
def admin(finished: Document, port: int = 0, looks: int = 99, **posts: tuple[int, Any]) -> Iterator[tuple[str, type[Admin]]]:
    now = {"block": 3, "arm": "control", "ends_unix_s": None}
    running = finished.as_json() | {"state": "running", "now": now}
    answers = {f"/experiments{path and '/' + path}": answer for path, answer in posts.items()}
    made = type("Made", (Admin,), {"running": running, "asked": [], "posts": answers, "looks_left": looks})
    server = ThreadingHTTPServer(("127.0.0.1", port), made)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def test_what_is_refused_is_refused_before_anything_is_simulated(finished: Document) -> None:
    with admin(finished, plan=(422, {"detail": "block_s: its meter is too slow"})) as (url, made):
        refused = await cli("start", "x", "--admin", url, "--treatment", "span", status=1)
    assert "block_s: its meter is too slow" in refused.output
    assert "simulating" not in refused.output
    assert made.asked[-1] == "/experiments/plan"


async def test_an_a_a_test_that_nobody_asked_for_does_not_begin(finished: Document) -> None:
    with admin(finished, plan=(500, {"detail": "not to be asked"})) as (url, made):
        refused = await cli("start", "x", "--admin", url, "--treatment", "passthrough", status=2)
    assert "both arms would be passthrough / spread" in refused.output
    assert "--treatment ''" in refused.output
    assert "/experiments/plan" not in made.asked


def test_so_few_pairs_that_there_is_no_interval_are_told() -> None:
    asked = {"control": STRAIGHT, "treatment": SPAN}
    few, enough = (Planned(asked, Design(BEGAN, 60.0, 15.0, pairs), None).lines() for pairs in (5, 6))
    assert any("no interval before pair 6" in line for line in few)
    assert not any("no interval" in line for line in enough)


async def test_what_is_in_force_is_that_of_the_group(finished: Document) -> None:
    with admin(replace(finished, group="b")) as (url, made), Client(url) as client:
        assert client.in_force("b") == finished.arms[CONTROL] | {"name": "control"}
        made.strategy = SPAN | {"policy": {"name": "switchback", "params": {}}}  # the default group's, if it is that group
        assert client.in_force("other") == finished.arms[CONTROL] | {"name": "control"}
        made.strategy = STRAIGHT
        made.running |= {"state": "finished", "in_force": SPAN}  # its control stays, until somebody puts another in force
        assert [client.in_force(group) for group in ("b", "a", None)] == [SPAN, STRAIGHT, STRAIGHT]


async def test_one_that_cannot_be_read_hides_no_other(finished: Document) -> None:
    with admin(finished) as (url, made), Client(url) as client:
        made.listed = [{"name": "odd", "state": "finished", "design": None}]
        assert client.names() == ["odd", "try"]
        asked = {"group": finished.group, "metric": finished.metric}
        control = build(Choice("passthrough", {}), Choice("spread", {}))
        foreseen = forecast.forecast(client, asked, control, finished.design)
        assert isinstance(foreseen, forecast.Forecast)
        assert "'try'" in foreseen.source
        told = await cli("list", "--admin", url)
    assert "try" in told.stdout
    assert "odd: this is no experiment" in told.stderr


async def test_watching_goes_on_while_the_proxy_is_away(finished: Document) -> None:
    with admin(finished) as (url, made):
        port = int(url.rpartition(":")[2])
        watching = asyncio.create_task(cli("status", "try", "--admin", url, "--watch"))
        async with asyncio.timeout(20):
            while made.asked.count("/experiments/try") < 2:
                await asyncio.sleep(0.02)
    await asyncio.sleep(1.2)  # it is away, and has been asked
    assert not watching.done()
    with admin(finished, port, looks=0):
        told = (await watching).output
    assert "running, block 4" in told, "into a file it is told at once, too"
    assert "all blocks are over" in told


async def test_a_page_that_cannot_be_written_is_told_before_the_report(finished: Document, tmp_path: Path) -> None:
    store = DiskStore(tmp_path / "kept")
    state = {key: value for key, value in finished.as_json().items() if key not in ("blocks", "comparison", "log")}
    await store.save("try", state)
    html = str(tmp_path / "no" / "report.html")
    failed = await cli("report", "--from", str(tmp_path / "kept"), "--html", html, status=1)
    assert f"--html {html}" in failed.output
    assert "control" not in failed.output


@pytest.mark.long  # two slices, a second each, and two more
async def test_a_study_goes_on_where_it_ended(tmp_path: Path) -> None:
    out = tmp_path / "study"
    same = ("--meter", "simulated", "--block-s", "1", "--burn-in-s", "0.2", "--slice-pairs", "1", "--warm-s", "0.5")
    same += ("--rate", "20", "--output-tokens", "16", "--prompt-tokens", "64", "--hold-s", "0.3", "--out", str(out))
    async with engine("--dialect", "openai") as url:

        async def study(*words: str) -> Result:
            return await asyncio.to_thread(CliRunner().invoke, switchback_gpu, ["--url", url, *same, *words])

        first = await study("--pairs", "1")
        assert first.exit_code == 0, first.output
        assert set(folder_names := await asyncio.to_thread(folder.names, out / "experiments")) == {"ab-000", "aa-000"}, (
            folder_names
        )
        second = await study("--pairs", "2")
        assert second.exit_code == 0, second.output
        nothing = await study("--pairs", "3", "--budget-s", "1")
        assert "2 slices found no time" in nothing.output
        other = await study("--pairs", "2", "--rate", "5")
        assert "another rate" in other.output
    for kind in ("ab", "aa"):
        report = json.loads((out / f"report-{kind}.json").read_text())
        assert len(report["blocks"]) == 4
        assert [block["index"] for block in report["blocks"]] == [0, 1, 2, 3]
        assert report["same_arms"] is (kind == "aa")
        assert report["provenance"]["runs"] == 2
        assert report["comparison"]["sources"] == ["simulated"]
        assert "<svg" in (out / f"report-{kind}.html").read_text()
