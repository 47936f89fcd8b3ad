"""Studies of paired runs: what they plan, keep and say; and each of them in small, on simulated engines."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from math import exp, gamma, pi, sqrt
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.draws import BadSpec
from bench.engine import SimulatedServer
from bench.engine.wire import Exchange, Receive, Send
from bench.processes import engine
from bench.studies.arms import STRAIGHT, Arm, checked, choices, numbers
from bench.studies.cells import cells
from bench.studies.counting import Counters
from bench.studies.intervals import T95, mean_interval, ratio_interval, t95
from bench.studies.journal import Journal, JournalError
from bench.studies.measure import brief, describe
from bench.studies.plan import Run, Shape, order, requests, runs
from bench.studies.provenance import provenance
from bench.studies.tables import table
from bench.studies.watching import counted_at
from policies.strategy import Choice
from telemetry.cost import Linear, StepModel, load_profile, parse_profile, profile_text
from telemetry.monitor import Monitor
from telemetry.simulated import SimulatedMeter
from telemetry.snapshot import Interval, Source

SPAN = Arm(Choice("span", {}), hold_s=2.0)
WINDOW = Arm(Choice("window", {"every_s": 1}), hold_s=2.0)
PACK = Arm(placement=Choice("pack", {}))
SHAPE = Shape("m", "simulated", {0.0: 100, 1.0: 30}, "256", "uniform:10:200")

# --- intervals --------------------------------------------------------------------------------------------------------


def inside(t: float, freedom: int, cuts: int = 2000) -> float:
    """The share of Student's t between -t and t, by Simpson's rule."""
    scale = gamma((freedom + 1) / 2) / (sqrt(freedom * pi) * gamma(freedom / 2))
    density = [scale * (1 + (t * i / cuts) ** 2 / freedom) ** (-(freedom + 1) / 2) for i in range(cuts + 1)]
    return 2 * t / cuts / 3 * (density[0] + density[-1] + 4 * sum(density[1:-1:2]) + 2 * sum(density[2:-1:2]))


@pytest.mark.parametrize("freedom", sorted(T95))
def test_students_t_leaves_a_twentieth_outside(freedom: int) -> None:
    assert inside(T95[freedom], freedom) == pytest.approx(0.95, abs=6e-5)  # three digits are written


def test_many_values_have_an_interval_that_is_not_too_narrow() -> None:
    assert t95(1000) == T95[30] > 1.962
    with pytest.raises(ValueError, match="at least one"):
        t95(0)


def test_the_mean_of_a_textbook_sample() -> None:
    found = mean_interval([9.0, 10.0, 11.0])
    assert found is not None
    assert (found.middle, found.low_95, found.high_95) == pytest.approx((10.0, 10 - 4.303 / 3**0.5, 10 + 4.303 / 3**0.5))
    alone = mean_interval([9.0])
    assert alone is not None
    assert alone.low_95 is None
    assert mean_interval([]) is None


@given(st.lists(st.floats(0.1, 10.0), min_size=2, max_size=20))
def test_a_ratio_turned_round_has_its_interval_turned_round(ratios: list[float]) -> None:
    there, back = ratio_interval(ratios), ratio_interval([1 / ratio for ratio in ratios])
    assert there is not None
    assert back is not None
    assert there.low_95 is not None
    assert back.high_95 is not None
    assert (there.middle, there.low_95) == pytest.approx((1 / back.middle, 1 / back.high_95))


# --- arms -------------------------------------------------------------------------------------------------------------


def test_arms_are_written_as_names_with_parameters() -> None:
    assert choices("span; window every_s=1") == [SPAN.policy, WINDOW.policy]
    assert [str(arm) for arm in (STRAIGHT, SPAN, WINDOW, PACK)] == [
        "straight through",
        "span, hold 2 s",
        "window every_s=1, hold 2 s",
        "pack",
    ]
    assert checked([STRAIGHT, SPAN, SPAN, PACK]) == [STRAIGHT, SPAN, PACK]


@pytest.mark.parametrize("spec", ["", " ; ", "window every_s", "window =1", "window every_s="])
def test_what_is_no_arm_is_refused(spec: str) -> None:
    with pytest.raises(BadSpec, match=r"write .*KEY=VALUE"):
        choices(spec)


def test_an_arm_that_is_not_known_is_told_with_those_that_are() -> None:
    with pytest.raises(BadSpec, match=r"no policy 'spam'.*span"):
        checked([Arm(Choice("spam", {}))])


@pytest.mark.parametrize("spec", ["", "1,", "0", "-1", "nan", "2,2", "two"])
def test_what_is_no_list_of_numbers_is_refused(spec: str) -> None:
    with pytest.raises(BadSpec, match="no list of rates"):
        numbers(spec, "rates")


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_all_arms_of_a_rate_and_seed_are_sent_the_same() -> None:
    ours = runs(SHAPE, [2.0, 1.0], [5, 6], [STRAIGHT, SPAN, WINDOW])
    plans = {(run.rate, run.seed): run.plan for run in ours}
    assert all(run.plan == plans[run.rate, run.seed] for run in ours)
    assert len({tuple(plan) for plan in plans.values()}) == 4
    assert {(run.rate, len(run.plan)) for run in ours} == {(2.0, 100), (1.0, 30)}


def test_seeds_go_round_and_every_second_turns_the_order_round() -> None:
    arms = [STRAIGHT, SPAN, WINDOW, PACK]
    ours = runs(SHAPE, [2.0, 4.0], [4, 5], arms)
    assert [run.seed for run in ours] == [4] * 8 + [5] * 8
    assert [run.arm for run in ours if (run.rate, run.seed) == (2.0, 4)] == order(arms, 2.0, 4)
    assert order(arms, 2.0, 5) == order(arms, 2.0, 4)[::-1]
    assert len({tuple(map(str, order(arms, 2.0, seed))) for seed in range(0, 40, 2)}) > 5


def test_every_run_has_a_file_name_of_its_own() -> None:
    arms = [STRAIGHT, SPAN, WINDOW, PACK, replace(SPAN, hold_s=0.5), Arm(Choice("mine.here:Policy", {"a": "b/c"}))]
    ids = [run.id for run in runs(SHAPE, [0.5, 1.0, 2.0], [1, 2], arms)]
    assert len(set(ids)) == len(ids) == 36
    assert not [id for id in ids if "/" in id or " " in id]


def test_a_run_is_expected_to_take_its_arrivals_its_hold_and_an_answer() -> None:
    model = load_profile()
    straight, held = (Run(SHAPE, 2.0, 1, arm).expected_s(model) for arm in (STRAIGHT, SPAN))
    assert held == straight + 2.0
    assert 0.1 < straight - Run(SHAPE, 2.0, 1, STRAIGHT).plan[-1].at_s < 6.0


def test_requests_by_rate() -> None:
    assert requests("100,1=30") == {0.0: 100, 1.0: 30}
    for spec in ("", "1=30", "1", "100,x=3", "100,200", "ten"):
        with pytest.raises(BadSpec):
            requests(spec)


# --- the journal ------------------------------------------------------------------------------------------------------


def line(
    j: float, arm: Arm = STRAIGHT, *, rate: float = 2.0, seed: int = 1, problems: tuple[str, ...] = (), **more: Any
) -> dict[str, Any]:
    """A run that is over, of 150 requests in 50 s."""
    one = {"p50": 0.5, "p99": 1.0}
    energy = {"source": "counter", "j_per_request": j, "mean_power_w": 3 * j, "unattributed_j": j, "counted_j": 150 * j}
    report = {
        "planned": 150,
        "completed": 150,
        "errors": {},
        "problems": list(problems),
        "energy": {**energy, "window_s": 50.0},
        "latency": {"all": {"wait_s": one, "ttft_s": one, "tpot_s": one}},
        "groups": {"mean": 2.0},
        "in_flight_mean": 3.0,
    }
    of = {"study": "grid", "id": Run(SHAPE, rate, seed, arm).id, "rate": rate, "seed": seed, "requests": 150}
    samples = {"ttft_s": [0.1, 0.2], "tpot_s": [0.01, 0.01]}
    about = {"hardware": "1 x GPU", "servers": {}, "commit": None, "date_unix_s": 1.0}
    rest = {"arm": describe(arm), "shape": SHAPE.identity(), "report": report, "devices_j": {}, "provenance": about}
    return {**of, **rest, "samples": samples, **more}


def test_runs_that_are_over_are_there_the_next_time(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "study")
    journal.begin("grid", SHAPE.identity())
    journal.add(line(100.0))
    journal.add(line(50.0, SPAN, problems=("late",)))
    (tmp_path / "study" / "runs" / "cut-off.part").write_text('{"form')
    again = Journal(tmp_path / "study")
    again.begin("grid", SHAPE.identity())
    assert [run["report"] for run in again.runs] == [run["report"] for run in journal.runs]
    straight, span = (Run(SHAPE, 2.0, 1, arm).id for arm in (STRAIGHT, SPAN))
    assert again.over(straight)
    assert not again.over(span)
    again.add(line(60.0, SPAN, problems=("late again",)))
    assert again.over(span), "it is not tried for ever"
    assert len(Journal(tmp_path / "study").runs) == 3, "nothing was written over"


def test_runs_of_another_study_are_not_mixed_in(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.begin("grid", SHAPE.identity())
    journal.add(line(100.0))
    with pytest.raises(JournalError, match=r"prompt_tokens was '256', is '1'.*--out"):
        Journal(tmp_path).begin("grid", replace(SHAPE, prompt_tokens="1").identity())
    with pytest.raises(JournalError, match="study was 'grid'"):
        Journal(tmp_path).begin("packing", SHAPE.identity())
    (tmp_path / "runs" / "foreign.json").write_text('{"hello": 1}')
    with pytest.raises(JournalError, match=r"foreign\.json is no run"):
        Journal(tmp_path)


def test_runs_on_other_hardware_are_not_paired_with_those_that_are_there(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.here("1 x other GPU")  # nothing is there yet
    journal.begin("grid", SHAPE.identity())
    journal.add(line(100.0))
    again = Journal(tmp_path)
    again.here("1 x GPU")
    with pytest.raises(JournalError, match=r"runs on 1 x GPU, and this is 1 x other GPU; name another with --out"):
        again.here("1 x other GPU")


def test_a_run_that_says_nothing_says_why() -> None:
    assert "late" in brief(line(1.0, problems=("late",)))
    assert "no energy" in brief(line(1.0) | {"report": line(1.0)["report"] | {"energy": None}})
    assert "149 of 150" in brief(line(1.0) | {"report": line(1.0)["report"] | {"completed": 149}})


# --- cells ------------------------------------------------------------------------------------------------------------


def test_arms_of_a_rate_share_the_run_straight_through() -> None:
    found = cells(
        [
            *(line(100 * exp(x), seed=seed) for seed, x in enumerate((0.3, 0.4, 0.5))),
            *(line(100.0, SPAN, seed=seed) for seed in range(3)),
            *(line(200.0, WINDOW, seed=seed) for seed in range(2)),
            line(50.0, PACK, rate=4.0),  # which has no run straight through
        ]
    )
    span, window = found
    assert (span.arm, span.pairs, window.pairs) == ("span, hold 2 s", 3, 2)
    assert span.saving.middle == pytest.approx(exp(0.4))
    assert span.saving.low_95 == pytest.approx(exp(0.4 - 4.303 * 0.1 / 3**0.5))
    assert window.saving.middle == pytest.approx(exp(0.35) / 2)
    assert (span.side.requests, span.enough, replace(span, side=replace(span.side, requests=299)).enough) == (450, True, False)
    assert span.side.unattributed_share == pytest.approx(1 / 150)


def test_a_void_run_is_left_out_and_a_better_one_takes_its_place() -> None:
    void = line(1.0, SPAN, problems=("late",))
    assert cells([line(100.0), void]) == []
    (found,) = cells([line(100.0), void, line(50.0, SPAN), line(1.0, SPAN, seed=2, problems=("late",)), line(90.0, seed=2)])
    assert (found.saving.middle, found.pairs, found.void) == (2.0, 1, 1)
    assert "1 runs say nothing" in table([found], [void["provenance"]])


def test_loads_of_other_lengths_are_no_pair() -> None:
    assert cells([line(100.0), line(50.0, SPAN) | {"requests": 30}]) == []


def test_devices_and_slow_first_tokens_are_told() -> None:
    quick, slow = ({"ttft_s": [first_s], "tpot_s": [each_s]} for first_s, each_s in ((0.1, 0.01), (0.2, 0.011)))
    spread = line(100.0, devices_j={"a": 5000.0, "b": 10000.0}, samples=quick)
    pack = line(50.0, PACK, devices_j={"a": 5000.0, "b": 2500.0}, samples=slow)
    (found,) = cells([spread, pack])
    told = table([found], [line(1.0)["provenance"]])
    assert "(100 + 200 → 100 + 50)" in told
    assert "2.00, 1.10" in told
    assert "First token p99 not within 1.10 times, where nobody waits: pack at 2/s" in told
    assert "(few)" in told
    assert "**Joules are of source" not in told


def test_simulated_joules_are_never_shown_as_measured_ones() -> None:
    ours = [line(100.0), line(50.0, SPAN)]
    ours[1]["report"]["energy"]["source"] = "simulated"
    told = table(cells(ours), [line(1.0)["provenance"]])
    assert "**Joules are of source counter/simulated: not all of them a counter's.**" in told


def test_a_counter_is_read_between_its_steps() -> None:
    steps = [(1.0, 10.0), (2.0, 30.0), (4.0, 40.0)]
    assert [counted_at(steps, at_s) for at_s in (0.9, 1.0, 1.5, 3.0, 4.0, 4.1)] == [None, 10.0, 20.0, 35.0, 40.0, None]


def test_provenance_tells_what_is_not_known() -> None:
    told = provenance("bench.grid", ["http://127.0.0.1:9"], "simulated", ["gpu"])
    assert told["hardware"] == "simulated: no hardware"
    assert told["servers"] == {"http://127.0.0.1:9": None}
    assert told["command"].startswith("python -m bench.grid")


async def test_joules_are_cut_where_a_stretch_begins_and_ends() -> None:
    monitor = Monitor.of(SimulatedMeter(("http://127.0.0.1:9",)))
    for number, at_s in enumerate((0.0, 1.0, 2.0)):
        monitor._found.append(Interval("gpu", at_s, at_s + 1.0, 2_000_000 * number, Source.COUNTER))
    counters = Counters(monitor)
    assert await counters.joules(0.5, 2.25) == pytest.approx(0.5 * 0 + 2.0 + 0.25 * 4.0)


# --- all of it, in small ----------------------------------------------------------------------------------------------

QUICK = StepModel("quick", Linear(0.001, 0.0, 0.0, 0.0), Linear(0.4, 0.004, 0.001, 0.0), idle_power_w=100.0)
SLEEPY = replace(QUICK, sleep_power_w=40.0, sleep_s=0.2, wake_s=0.3, wake_j=60.0)


async def study(module: str, *options: str, fails: bool = False) -> str:
    """`python -m MODULE OPTIONS...`; what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *options), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert (process.returncode != 0) == fails, output.decode()
    return output.decode()


def quick(folder: Path) -> str:
    path = folder / "quick.json"
    path.write_text(profile_text(QUICK, {}))
    return str(path)


def _move(path: Path, hardware: str) -> None:
    """As if a run had been made elsewhere."""
    run = json.loads(path.read_text())
    run["provenance"]["hardware"] = hardware
    path.write_text(json.dumps(run, indent=1) + "\n")


@pytest.mark.slow  # three runs over real HTTP, each of a second, in slices
async def test_a_grid_in_slices(tmp_path: Path) -> None:
    out, profile = tmp_path / "grid", quick(tmp_path)
    async with engine("--dialect", "openai", "--profile", profile) as url:
        same = ["--url", url, "--meter", "simulated", "--profile", profile, "--rates", "40", "--requests", "8", "--seeds", "1"]
        same += ["--holds", "0.3", "--output-tokens", "60", "--settle-s", "0.2", "--out", str(out)]
        first = await study("bench.grid", *same, "--policies", "span")
        kept = {path: path.read_bytes() for path in (out / "runs").iterdir()}
        same += ["--policies", "span;window every_s=0.1"]
        estimated = await study("bench.grid", *same, "--estimate")
        no_time = await study("bench.grid", *same, "--budget-s", "1")
        assert {path: path.read_bytes() for path in (out / "runs").iterdir()} == kept
        await study("bench.grid", *same)
        other = await study("bench.grid", *same, "--prompt-tokens", "9", fails=True)
        _move(next(iter(kept)), "1 x other GPU")
        moved = await study("bench.grid", *same, "--seeds", "2", fails=True)
        _move(next(iter(kept)), "simulated: no hardware")
    assert "0 of 2 runs are over" in first
    assert len(kept) == 2
    assert "of 3 runs are over" in estimated
    assert "found no time" in no_time
    assert "prompt_tokens was '256', is '9'" in other
    assert "holds runs on 1 x other GPU" in moved

    journal = Journal(out)
    assert all(path.read_bytes() == value for path, value in kept.items()), "what is over stays as it is"
    assert len({run["id"] for run in journal.runs}) == 3
    for run in journal.runs:
        assert run["report"]["completed"] == 8
        assert len(run["samples"]["ttft_s"]) == len(run["samples"]["tpot_s"]) == 8
        assert run["report"]["energy"]["source"] == "simulated"
        assert run["provenance"]["command"].startswith("python -m bench.grid --url")
        (device_j,) = run["devices_j"].values()
        assert device_j == pytest.approx(run["report"]["energy"]["counted_j"], rel=0.5)  # a few looks at so short a run
        waited_s = run["report"]["latency"]["all"]["wait_s"]
        assert waited_s["max"] > 0.05 if run["arm"]["hold_s"] else waited_s["p50"] < 0.05
    assert json.loads((out / "summary.json").read_text())["provenance"]
    told = await study("bench.grid", "--report", str(out))
    assert "source simulated" in told or "no pair" in told  # a busy machine may void every run


@pytest.mark.long  # two proxied engines and two runs
async def test_packing_in_small(tmp_path: Path) -> None:
    out, profile = tmp_path / "packing", quick(tmp_path)
    options = ("--dialect", "openai", "--profile", profile)
    async with engine(*options) as a, engine(*options) as b:
        same = ["--url", a, "--url", b, "--meter", "simulated", "--profile", profile, "--rates", "30", "--requests", "20"]
        same += ["--prompt-tokens", "70", "--output-tokens", "uniform:40:80", "--settle-s", "0.2", "--seeds", "1"]
        told = await study("bench.packing", *same, "--out", str(out))
        alone = await study("bench.packing", "--url", a, "--out", str(out), fails=True)
    assert "one server cannot be packed" in alone
    runs_of = {run["arm"]["name"]: run for run in Journal(out).runs}
    assert set(runs_of) == {"straight through", "pack"}, told
    shares = {}
    for arm, run in runs_of.items():
        joules = [joules - 100.0 * run["report"]["energy"]["window_s"] for joules in run["devices_j"].values()]
        shares[arm] = max(joules) / sum(joules)
    assert shares["pack"] > 0.8 > shares["straight through"], "packing leaves the second one idle"


class SleepyServer(SimulatedServer):
    """A simulated engine with vLLM's routes of sleep, told of nothing but by its meter."""

    asleep = False
    asked: list[str]

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        match exchange.path:
            case "/is_sleeping":
                return await exchange.answer_json(200, {"is_sleeping": self.asleep})
            case "/sleep":
                self.driver.catch_up()
                until = self.driver.engine.sleep(self.driver.now())
                assert until is not None
            case "/wake_up":
                self.driver.catch_up()
                until = self.driver.engine.wake(self.driver.now())
            case _:
                return await super().__call__(scope, receive, send)
        await asyncio.sleep(until - self.driver.now())
        self.asleep = exchange.path == "/sleep"
        return await exchange.answer_json(200, {})


@pytest.mark.long  # two sleeps, each with its pauses
async def test_what_sleep_costs_is_what_the_model_says(tmp_path: Path) -> None:
    out = tmp_path / "sleep.json"
    async with SleepyServer("openai", SLEEPY) as server:
        same = ["--url", server.url, "--meter", "simulated", "--rest-s", "0.5", "--window-s", "0.6", "--out", str(out)]
        await study("bench.sleep_cost", *same, "--repeats", "1")
        first = json.loads(out.read_text())["repeats"]
        told = await study("bench.sleep_cost", *same, "--repeats", "2")
        other = await study("bench.sleep_cost", *same, "--model", "another", fails=True)
        assert not server.asleep
    found = json.loads(out.read_text())
    assert found["repeats"][:1] == first
    assert "model was 'm', is 'another'" in other
    assert found["sources"] == ["simulated"]
    assert "of source simulated" in told
    model = found["step_model"]
    assert set(model) == {"sleep_power_w", "sleep_s", "wake_s", "wake_j"}
    # the wire and the machine make seconds longer, never shorter
    assert 0.2 <= model["sleep_s"] < 0.6
    assert 0.3 <= model["wake_s"] < 0.7
    assert model["sleep_power_w"] == pytest.approx(40.0, abs=6.0)  # six steps of the counter are in a window
    assert model["wake_j"] == pytest.approx(60.0, abs=15.0)
    assert found["summary"]["idle_power_w"]["middle"] == pytest.approx(100.0, abs=10.0)
    assert found["summary"]["sleep_s"]["values"] == 2
    whole = json.loads(profile_text(QUICK, {}))
    parse_profile(json.dumps({"model": {**whole["model"], **model}}), where="here")  # a profile takes them as they are


@pytest.mark.slow  # starts a server and a child
async def test_a_server_that_cannot_sleep_is_told(tmp_path: Path) -> None:
    class Plain(SleepyServer):
        async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
            exchange = Exchange(scope, receive, send)
            if exchange.path == "/is_sleeping":
                return await exchange.answer_json(404, {"detail": "Not Found"})
            return await super().__call__(scope, receive, send)

    async with Plain("openai", QUICK) as server:
        options = ("--url", server.url, "--meter", "simulated", "--out", str(tmp_path / "x.json"))
        told = await study("bench.sleep_cost", *options, fails=True)
    assert "--enable-sleep-mode" in told
    assert not (tmp_path / "x.json").exists()
