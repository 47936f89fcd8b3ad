"""An energy domain's books: exact, final once, and close to the truth where the truth is known."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from random import Random
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.engine import Engine, Job
from telemetry.account import Account
from telemetry.cost import load_profile
from telemetry.ledger import Entry
from telemetry.snapshot import Hardware, Interval, Scope, Source
from telemetry.timeline import Done, timelines

H200 = load_profile()
TICK_S = 0.1


def entry(id: str, released: float, *, prompt: int = 100, streamed: bool = True) -> Entry:
    return Entry(id, released, 0.0, prompt_tokens=prompt, streamed=streamed, released_at=released, server="gpu")


def interval(start: float, energy_uj: int, *, seconds: float = TICK_S, device: str = "gpu") -> Interval:
    return Interval(device, start, start + seconds, energy_uj, Source.SIMULATED)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Interval], list[Entry], list[float]]:
    """Counter steps of one or two devices, requests anywhere, and instants at which the books are settled."""
    intervals = []
    for device in range(draw(st.integers(1, 2))):
        at = draw(st.floats(0, 0.2))
        for energy, seconds in draw(st.lists(st.tuples(st.integers(0, 10**8), st.floats(0.01, 0.3)), min_size=1, max_size=12)):
            intervals.append(interval(at, energy, seconds=seconds, device=f"gpu{device}"))
            at += seconds
    entries = []
    for n in range(draw(st.integers(0, 6))):
        e = entry(f"r{n}", draw(st.floats(-0.5, 2)), prompt=draw(st.integers(1, 4000)), streamed=draw(st.booleans()))
        assert e.released_at is not None
        at = e.released_at
        for wait in draw(st.lists(st.floats(0, 0.2), max_size=10)):
            at += wait
            if e.streamed:
                e.saw_tokens(at, draw(st.integers(1, 3)))
        if draw(st.booleans()):
            e.ended_at = at
        entries.append(e)
    return intervals, entries, sorted(draw(st.lists(st.floats(0, 4), max_size=6)))


@settings(max_examples=200, deadline=None)
@given(histories())
def test_the_books_balance_whatever_happens(history: tuple[list[Interval], list[Entry], list[float]]) -> None:
    intervals, entries, instants = history
    account = Account(H200)
    coming = sorted(intervals, key=lambda i: i.end_s)
    for e in entries:
        account.join(e)
    final: list[str] = []
    for now in [*instants, 10.0]:
        account.add([i for i in coming if i.end_s <= now])
        coming = [i for i in coming if i.end_s > now]
        final += [e.id for e in account.settle(now)]
    totals = account.totals
    assert totals.counted_uj == sum(i.energy_uj for i in intervals)
    assert totals.counted_uj == totals.requests_uj + totals.idle_uj + totals.unattributed_uj
    assert totals.requests_uj == sum(e.energy.active_uj for e in entries)
    assert len(final) == len(set(final))
    assert set(final) == {e.id for e in entries if e.ended_at is not None and e.ended_at <= account.settled_until}


def test_an_interval_is_settled_once_and_not_too_soon() -> None:
    account, e = Account(H200), entry("a", 0.0)
    account.join(e)
    e.saw_tokens(0.05, 1)
    account.add([interval(0.0, 30_000_000)])
    assert account.settle(0.29) == []
    assert e.energy.source is None
    account.settle(0.31)
    charged = e.energy.active_uj
    assert charged > 0
    assert (e.energy.source, e.energy.final) == (Source.SIMULATED, False)
    e.saw_tokens(0.06, 50)  # learnt too late: it rewrites nothing
    account.settle(0.5)
    assert e.energy.active_uj == charged


def test_energy_is_final_when_no_interval_to_come_can_touch_it() -> None:
    account, e = Account(H200), entry("a", 0.0)
    account.join(e)
    e.ended_at = 0.15
    account.add([interval(0.0, 30_000_000), interval(0.1, 30_000_000)])
    assert account.settle(0.35) == []
    assert account.settle(0.45) == [e]
    assert e.energy.final


def test_idle_power_is_seeded_then_learnt_when_calm() -> None:
    account = Account(H200)
    account.add([interval(0.0, 7_000_000)])
    account.settle(1.0)
    assert [(p.watts, p.basis) for p in account.idle_powers()] == [(H200.idle_power_w, "profile")]
    account.add([interval(0.1 * n, 7_000_000) for n in range(1, 20)])
    account.settle(10.0)
    [power] = account.idle_powers()
    assert power.basis == "learnt"
    assert power.watts == pytest.approx(70.0)
    assert power.quiet_s == pytest.approx(2.0)


def test_idle_power_is_not_learnt_while_a_device_calms_down() -> None:
    account, e = Account(H200), entry("a", 0.0)
    account.join(e)
    e.ended_at = 0.05
    account.add([interval(0.0, 30_000_000)] + [interval(0.1 * n, 20_000_000) for n in range(1, 10)])
    account.settle(10.0)
    assert [power.basis for power in account.idle_powers()] == ["profile"]


def test_a_window_is_prorated_and_unknown_until_it_is_settled() -> None:
    account = Account(H200)
    assert account.between(0.0, 0.1) is None
    account.add([interval(0.0, 10_000_000), interval(0.1, 20_000_000)])
    account.settle(1.0)
    assert account.between(0.0, 0.3) is None
    window = account.between(0.05, 0.15)
    assert window is not None
    assert window.counted_uj == 15_000_000
    whole = account.between(-5.0, 0.2)
    assert whole is not None
    assert whole.counted_uj == 30_000_000


# --- against the truth: an engine whose every joule is known ---------------------------------------------------------


@dataclass
class Truth:
    """An engine run, its counter as a meter would have seen it, and what each request really used."""

    entries: dict[str, Entry] = field(default_factory=dict)
    intervals: list[Interval] = field(default_factory=list)
    used_j: dict[str, float] = field(default_factory=dict)


def truth(rate: float, *, streamed: bool, requests: int = 150, seed: int = 1) -> Truth:
    rng, engine, out = random.Random(seed), Engine(H200), Truth()
    at, counted, tick = 0.0, 0, 0
    arrivals: list[float] = []
    for _ in range(requests):
        at += rng.expovariate(rate)
        arrivals.append(at)
    events = iter([*arrivals, float("inf")])
    arrival = next(events)
    while len(out.used_j) < requests:
        step_at = engine.next_at
        now = min(arrival, step_at if step_at is not None else float("inf"), (tick + 1) * TICK_S)
        for step in engine.advance(now):
            for id in [*step.started, *(id for id in _running(out) if id not in step.started)]:
                out.entries[id].saw_tokens(step.at, 1)
            for finished in step.ended:
                out.entries[finished.id].ended_at = step.at
                out.used_j[finished.id] = finished.energy_j
        if now == (tick + 1) * TICK_S:
            tick += 1
            energy = round(engine.energy_j(now) * 1000) * 1000  # millijoules, like NVML's
            out.intervals.append(Interval("gpu", now - TICK_S, now, energy - counted, Source.SIMULATED))
            counted = energy
        if now == arrival:
            id, prompt = f"r{len(out.entries)}", rng.randint(50, 1500)
            out.entries[id] = entry(id, now, prompt=prompt, streamed=True)
            engine.submit(Job(id, prompt, rng.randint(2, 300)), now)
            arrival = next(events)
    for e in out.entries.values():
        if not streamed:
            e.streamed, e.first_token_at = False, None
            e.tokens.clear()
    return out


def _running(out: Truth) -> Iterator[str]:
    return (id for id, e in out.entries.items() if e.first_token_at is not None and e.ended_at is None)


# at 0.5/s requests are mostly alone, at 10/s the batch is about 10, at 40/s about 60
@pytest.mark.parametrize(
    ("rate", "streamed", "bound"), [(0.5, True, 0.01), (10, True, 0.03), (40, True, 0.08), (10, False, 0.03)]
)
def test_joules_are_close_to_the_truth(rate: float, streamed: bool, bound: float) -> None:
    known = truth(rate, streamed=streamed)
    account = Account(H200)
    for e in known.entries.values():
        account.join(e)
    account.add(known.intervals)
    account.settle(float("inf"))
    errors = [abs(e.energy.active_uj / 1e6 / known.used_j[id] - 1) for id, e in known.entries.items() if e.energy.final]
    charged, used = account.totals.requests_uj / 1e6, sum(known.used_j.values())
    p95 = sorted(errors)[int(len(errors) * 0.95)]
    print(f"{rate}/s, streamed {streamed}: median error {median(errors):.1%}, p95 {p95:.1%}, total {charged / used - 1:+.2%}")
    assert median(errors) < bound
    assert charged == pytest.approx(used, rel=0.02)
    assert account.totals.unattributed_uj < 0.02 * account.totals.counted_uj


def test_a_meter_that_stands_still_does_not_keep_requests_for_ever() -> None:
    account, e = Account(H200), entry("a", 0.0)
    account.join(e)
    e.saw_tokens(0.05, 1)
    e.ended_at = 0.5
    account.add([interval(0.0, 30_000_000)])
    assert account.settle(1.0) == []
    assert account.settle(60.0) == []
    assert account.settle(61.0) == [e]
    assert (e.energy.final, e.tokens) == (False, [])
    assert account.settle(62.0) == []


def test_a_prompt_is_never_computed_twice() -> None:
    """Settled before its first token was known, and again after: the pieces add up to the prompt."""
    account, e = Account(H200), entry("a", 0.0, prompt=8000)
    account.join(e)
    model = H200.step_j
    steps = [interval(0.1 * n, 200_000_000) for n in range(40)]
    account.add(steps[:10])
    account.settle(1.3)
    e.saw_tokens(3.0, 1)
    e.ended_at = 3.0
    account.add(steps[10:])
    account.settle(10.0)
    # no more than the whole prompt, the steps that there was time for, and the model's band
    most = (8000 * model.per_prompt_token + 3.0 / H200.step_s.base * model.base) * (1 + H200.band)
    assert e.energy.active_uj / 1e6 <= most
    [timeline] = timelines([e], H200, {e.id: Done(1.0, 8000.0)})
    assert timeline.prompt(0.0, 1.0) + timeline.prompt(1.0, 3.0) == pytest.approx(8000)


# --- hosts, models, and requests that move ---------------------------------------------------------------------------


def host_interval(start: float, energy_uj: int) -> Interval:
    return Interval("cpu:package-0", start, start + TICK_S, energy_uj, Source.COUNTER, Hardware.CPU)


def test_a_hosts_joules_are_shared_by_time_apart_from_the_gpus() -> None:
    account = Account(H200, scope=Scope.HOST)
    account.add([host_interval(0.1 * n, 5_000_000) for n in range(20)])  # 50 W with nobody there
    account.settle(3.0)
    long, short = entry("a", 3.0), entry("b", 3.05)
    long.ended_at = short.ended_at = 3.1
    for e in (long, short):
        account.join(e)
    account.add([host_interval(3.0, 8_000_000)])
    assert set(map(id, account.settle(4.0))) == {id(long), id(short)}
    assert long.host_energy is not None
    assert short.host_energy is not None
    assert (long.energy.source, long.host_energy.source) == (None, Source.COUNTER)
    assert long.host_energy.active_uj == pytest.approx(2_250_000, rel=0.02)  # half of it alone, half of it shared
    assert short.host_energy.active_uj == pytest.approx(750_000, rel=0.04)
    assert (long.host_energy.method, long.host_energy.scope, long.host_energy.final) == ("time_equal", Scope.HOST, True)
    assert account.conservation_error_uj == 0


def test_a_host_that_falls_silent_is_not_waited_for() -> None:
    account, e = Account(H200, scope=Scope.HOST, waits_s=3.0), entry("a", 0.0)
    account.join(e)
    e.ended_at = 0.5
    account.add([host_interval(0.0, 5_000_000)])
    assert account.settle(1.0) == []
    assert account.settle(3.6) == [e]
    assert e.host_energy is not None
    assert e.host_energy.source is None


@settings(max_examples=100, deadline=None)
@given(histories(), st.lists(st.integers(0, 5), max_size=4))
def test_the_books_are_checked_against_what_was_really_charged(
    history: tuple[list[Interval], list[Entry], list[float]], leaving: list[int]
) -> None:
    """Requests that leave for another domain in the midst of it included."""
    intervals, entries, instants = history
    account = Account(H200)
    for e in entries:
        account.join(e)
    coming = sorted(intervals, key=lambda i: i.end_s)
    for now in [*instants, 10.0]:
        account.add([i for i in coming if i.end_s <= now])
        coming = [i for i in coming if i.end_s > now]
        account.settle(now)
        assert account.conservation_error_uj == 0
        if leaving and leaving[-1] < len(entries):
            account.leave(entries[leaving.pop()])
    assert account.totals.requests_uj == sum(e.energy.active_uj for e in entries)
    for e in entries:
        assert e.energy.uncertainty_j >= 0
        assert e.energy.active_uj >= e.energy.prefill_uj >= 0
    for split in ("tokens_uj", "time_uj"):  # other methods share the same joules, where they find somebody to charge
        assert sum(getattr(e.energy, split) for e in entries) <= account.totals.requests_uj + 0


def test_the_check_sees_a_joule_that_is_lost() -> None:
    account, e = Account(H200), entry("a", 0.0)
    account.join(e)
    e.saw_tokens(0.05, 1)
    account.add([interval(0.0, 30_000_000)])
    account.settle(1.0)
    assert account.conservation_error_uj == 0
    account._charged_uj["a"] -= 1
    account.add([interval(0.1, 30_000_000)])
    account.settle(2.0)
    assert account.conservation_error_uj == 1


def test_joules_of_several_sources_are_called_by_the_weakest() -> None:
    account, e = Account(H200), entry("a", 0.0)
    account.join(e)
    e.saw_tokens(0.05, 1)
    counted = [replace(interval(0.1 * n, 30_000_000), source=Source.COUNTER) for n in range(3)]
    account.add([counted[0], replace(counted[1], source=Source.POWER_INTEGRAL), counted[2]])
    account.settle(2.0)
    assert e.energy.source is Source.POWER_INTEGRAL


def test_long_intervals_are_split_as_well_as_short_ones() -> None:
    """The same requests, seen by a meter of 100 ms and by one of 5 s: the sums are the same, and nobody's half is far off."""
    joules = []
    for seconds in (0.1, 5.0):
        account = Account(H200)
        entries = [streaming(f"r{n}", 0.3 * n, 1.0 + 0.2 * n) for n in range(8)]
        for e in entries:
            account.join(e)
        account.add([interval(seconds * n, round(400 * seconds * 1e6), seconds=seconds) for n in range(round(5 / seconds))])
        account.settle(20.0)
        joules.append([e.energy.active_uj / 1e6 for e in entries])
    assert sum(joules[0]) == pytest.approx(sum(joules[1]), rel=0.1)
    assert joules[0] == pytest.approx(joules[1], rel=0.35)


def streaming(id: str, began: float, seconds: float) -> Entry:
    e = entry(id, began)
    for n in range(int(seconds / 0.01)):
        e.saw_tokens(began + 0.02 + 0.01 * n, 1)
    e.ended_at = began + seconds
    return e


def test_a_device_that_falls_silent_does_not_hide_the_others_for_ever() -> None:
    account = Account(H200)
    account.add([interval(0.1 * n, 12_000_000, device="lost") for n in range(10)])
    account.add([interval(0.1 * n, 12_000_000, device="here") for n in range(1000)])
    early, late = streaming("early", 1.5, 1.0), streaming("late", 70.0, 1.0)
    for e in (early, late):
        account.join(e)
    assert set(map(id, account.settle(200.0))) == {id(early), id(late)}
    assert late.energy.final
    assert account.settled_until == pytest.approx(100.0)
    assert account.conservation_error_uj == 0


def test_something_that_computes_there_past_the_proxy_is_no_idle_power() -> None:
    account = Account(H200)  # nobody of ours has ever been there, and the card draws what a load draws
    account.add([interval(0.1 * n, 49_000_000) for n in range(100)])
    account.settle(20.0)
    [power] = account.idle_powers()
    assert (power.basis, power.watts, power.quiet_w) == ("foreign", H200.idle_power_w, pytest.approx(490.0))
    late = [interval(0.1 * n, 49_000_000) for n in range(100, 120)]
    before = account.totals
    account.add(late)
    account.settle(30.0)
    assert account.totals.unattributed_uj - before.unattributed_uj == pytest.approx(
        20 * (49e6 - H200.idle_power_w * 1e5), rel=1e-6
    )


@pytest.mark.parametrize(("busy", "basis"), [(True, "foreign"), (False, "learnt"), (None, "learnt")])
def test_a_device_that_says_that_somebody_computes_is_not_idle(busy: bool | None, basis: str) -> None:
    account = Account(H200)  # 150 W: it could be idle power
    account.add([replace(interval(0.1 * n, 15_000_000), busy=busy) for n in range(30)])
    account.settle(10.0)
    [power] = account.idle_powers()
    assert (power.basis, power.quiet_w) == (basis, pytest.approx(150.0 if busy else 0.0))
    assert power.watts == pytest.approx(H200.idle_power_w if busy else 150.0)


def test_what_a_device_draws_while_it_calms_down_after_somebody_else_is_no_idle_power() -> None:
    account = Account(H200)
    account.add([replace(interval(0.1 * n, 49_000_000), busy=True) for n in range(30)])
    account.add([replace(interval(0.1 * n, 20_000_000), busy=False) for n in range(30, 39)])
    account.settle(10.0)
    assert [power.basis for power in account.idle_powers()] == ["foreign"]
    account.add([replace(interval(0.1 * n, 11_000_000), busy=False) for n in range(41, 60)])
    account.settle(20.0)
    [power] = account.idle_powers()
    assert (power.basis, power.watts) == ("learnt", pytest.approx(110.0))


def quiet(account: Account, watts: float, since_s: float, seconds: int, edge_s: float = 0.01) -> None:
    """Nobody is there, and steps are seen a little too soon or too late."""
    dice = Random(1)
    seen = [since_s + 0.1 * n + dice.uniform(-edge_s, edge_s) for n in range(10 * seconds)]
    account.add(
        [
            Interval("gpu", start, end, round(watts * 1e5), Source.COUNTER, start_edge_s=edge_s, end_edge_s=edge_s)
            for start, end in pairwise(seen)
        ]
    )
    account.settle(since_s + seconds + 1.0)


def test_edges_that_are_not_exactly_known_make_next_to_nothing_unattributed_and_hide_no_neighbour() -> None:
    account = Account(H200)
    quiet(account, 118.0, 0.0, 60)
    alone = account.totals
    assert alone.counted_uj == alone.idle_uj + alone.unattributed_uj
    assert alone.unattributed_uj < 0.003 * alone.counted_uj  # each interval by itself: 3 %
    quiet(account, 150.0, 60.0, 30)
    assert account.totals.unattributed_uj - alone.unattributed_uj > 0.9 * 30 * (150 - 118) * 1e6
