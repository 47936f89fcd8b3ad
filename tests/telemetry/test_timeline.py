"""What is known of a request's phases: seen, told by the engine, or estimated first come, first served."""

from __future__ import annotations

from itertools import pairwise
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.engine import Engine, Job
from telemetry.cost import load_profile
from telemetry.ledger import Entry, Timings
from telemetry.timeline import Origin, Timeline, computed, origin, timelines

H200 = load_profile()


def entry(
    id: str,
    released: float,
    *,
    prompt: int = 500,
    streamed: bool = False,
    first: float | None = None,
    ended: float | None = None,
) -> Entry:
    e = Entry(id, released, 0.0, prompt_tokens=prompt, streamed=streamed, released_at=released, server="gpu", ended_at=ended)
    if first is not None:
        e.saw_tokens(first, 1)
    return e


def of(*entries: Entry) -> list[Timeline]:
    return timelines(entries, H200, {})


def test_a_prompt_waits_for_those_before_it_and_shares_a_step_with_those_that_wait_with_it() -> None:
    first, second, third = of(entry("a", 0.0), entry("b", 0.005), entry("c", 0.006))
    assert first.joined == pytest.approx(H200.request_s)
    assert second.joined == third.joined == first.first
    assert second.first == third.first
    assert second.first - second.joined == pytest.approx(
        H200.step_s.base + 1000 * H200.step_s.per_prompt_token + H200.step_s.per_sequence + 500 * H200.step_s.per_context_token
    )


def test_servers_have_lines_of_their_own() -> None:
    here, there = entry("a", 0.0, prompt=8000), entry("b", 0.01)
    there.server = "other"
    assert of(here, there)[1].joined == pytest.approx(0.01 + H200.request_s)


def test_what_is_estimated_is_close_to_what_the_engine_does() -> None:
    """A burst and stragglers: first tokens that nobody saw, against those of the engine."""
    engine, arrivals = Engine(H200), [0.0, 0.0, 0.001, 0.02, 0.021, 0.022, 0.5, 0.51, 0.515]
    firsts: dict[str, float] = {}
    for n, at in enumerate(arrivals):
        for step in engine.advance(at):
            firsts.update(dict.fromkeys(step.started, step.at))
        engine.submit(Job(f"r{n}", 400 + 100 * n, 200), at)
    for step in engine.advance(10.0):
        firsts.update(dict.fromkeys(step.started, step.at))
    found = of(*(entry(f"r{n}", at, prompt=400 + 100 * n) for n, at in enumerate(arrivals)))
    assert [t.first for t in found] == [pytest.approx(firsts[t.id], abs=0.006) for t in found]


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 5000), st.booleans(), st.floats(0.001, 2)), max_size=12))
def test_nobody_begins_before_coming_or_after_leaving(requests: list[tuple[float, int, bool, float]]) -> None:
    entries = []
    for n, (at, prompt, streamed, took) in enumerate(sorted(requests)):
        entries.append(entry(f"r{n}", at, prompt=prompt, streamed=streamed, first=at + took if streamed else None))
        if n % 2:
            entries[-1].ended_at = at + 2 * took
    for e, t in zip(entries, of(*entries), strict=True):
        assert e.released_at is not None
        assert e.released_at <= t.joined <= min(t.first, t.left)
        assert t.prompt(-inf, inf) <= e.prompt_tokens * 1.0000001
        assert t.prompt(t.joined, max(t.first, 10.0)) == pytest.approx(t.prompt(-1.0, 100.0))
        counts = [t.output(at / 10, H200) for at in range(40)]
        assert all(before <= after for before, after in pairwise(counts))


def test_an_engines_own_timings_are_believed() -> None:
    told = entry("a", 1.0, ended=3.0)
    told.timings = Timings(queue_s=0.5, prefill_s=0.2)
    [timeline] = of(told)
    assert (timeline.joined, timeline.first, timeline.blind) == (1.5, 1.7, False)
    told.timings = Timings(prefill_s=0.2, decode_s=1.4)
    [timeline] = of(told)
    assert timeline.first == pytest.approx(1.6)
    assert origin(told) is Origin.TOLD
    told.energy.doubt.assumed_tokens = 3.0  # most of it was settled before anybody told
    assert origin(told) is Origin.MODELLED


def test_timings_that_cannot_be_do_not_reach_beyond_the_request() -> None:
    lying = entry("a", 1.0, ended=2.0)
    for timings in (Timings(queue_s=50.0), Timings(prefill_s=50.0), Timings(decode_s=50.0), Timings(50.0, 50.0, 50.0)):
        lying.timings = timings
        [timeline] = of(lying)
        assert 1.0 <= timeline.joined <= timeline.first <= timeline.left


def test_a_count_that_is_told_spreads_over_the_decode() -> None:
    counted = entry("a", 0.0, ended=2.0)
    counted.output_tokens, counted.output_estimated = 101, False
    [timeline] = of(counted)
    middle = (timeline.first + timeline.left) / 2
    assert timeline.output(middle, H200) == pytest.approx(50)
    assert timeline.output(5.0, H200) == pytest.approx(100)


def test_several_answers_get_a_token_each_a_step() -> None:
    one, four = entry("a", 0.0), entry("b", 0.0)
    four.sequences = 4
    [alone], [copies] = of(one), of(four)
    assert copies.output(1.0, H200) == pytest.approx(4 * alone.output(1.0, H200), rel=0.02)


def test_haste_tells_a_cached_prefix() -> None:
    e = entry("a", 0.0, prompt=8000, streamed=True)
    per_token_s = H200.step_s.per_prompt_token
    assert computed(e, H200, 8000 * per_token_s) == 8000
    assert computed(e, H200, 800 * per_token_s) == pytest.approx(800 * (1 + H200.band))
    assert computed(e, H200, inf) == 8000
    e.cached_tokens = 7000  # what the engine says goes before
    assert computed(e, H200, 8000 * per_token_s) == 1000
