"""Attribution: the Shapley value of the step model, adding up to the counter exactly."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from math import inf
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.attribution import apportion, settle, weights
from telemetry.cost import Linear, StepModel, load_profile
from telemetry.snapshot import Interval, Source
from telemetry.timeline import Timeline

H200 = load_profile()
MODEL = StepModel("toy", Linear(0.01, 0.0, 0.0, 0.0), Linear(2.0, 0.5, 0.1, 0.01), idle_power_w=50.0, band=0.25)


def interval(start: float, end: float, energy_uj: int) -> Interval:
    return Interval("gpu", start, end, energy_uj, Source.COUNTER)


def decoding(id: str, tokens: int, prompt: int) -> Timeline:
    """A stream that decodes all through the cut from 0 to 1, its tokens evenly spread."""
    seen = [(n + 1) / tokens for n in range(tokens)]
    return Timeline(id, -1.0, -0.5, inf, prompt, ((-1.0, -0.5, prompt),), 0, seen)


def prefilling(id: str, prompt: int) -> Timeline:
    return Timeline(id, -0.5, inf, inf, prompt, ((-0.5, 1.5, prompt),), 0, [])


def cost(coalition: list[tuple[int, float, float]], steps: int) -> float:
    """What the engine would have used for these members only: output, prompt and context tokens of each."""
    own = (
        n * MODEL.step_j.per_sequence + p * MODEL.step_j.per_prompt_token + c * MODEL.step_j.per_context_token
        for n, p, c in coalition
    )
    return (steps * MODEL.step_j.base if coalition else 0.0) + sum(own)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 500), min_size=1, max_size=3), st.lists(st.integers(1, 500), max_size=2), st.integers(1, 8))
def test_weights_are_the_shapley_value(streams: list[int], prompts: list[int], steps: int) -> None:
    members = [decoding(f"d{n}", steps, prompt) for n, prompt in enumerate(streams)]
    members += [prefilling(f"p{n}", prompt) for n, prompt in enumerate(prompts)]
    used = [(steps, 0.0, steps * (prompt + steps / 2)) for prompt in streams] + [(0, prompt / 2, 0.0) for prompt in prompts]
    expected = [0.0] * len(members)
    orders = list(permutations(range(len(members))))
    for order in orders:
        for place, player in enumerate(order):
            before = [used[other] for other in order[:place]]
            expected[player] += (cost([*before, used[player]], steps) - cost(before, steps)) / len(orders)
    assert [weight.joules for weight in weights(0.0, 1.0, members, MODEL)] == pytest.approx(expected)


timelines = st.builds(
    lambda n, joined, prefill, decode, prompt, streamed, running, tokens: Timeline(
        f"r{n}",
        joined,
        joined + prefill if prefill < 1.5 else inf,
        inf if running else joined + prefill + decode,
        prompt,
        ((joined, joined + max(min(prefill, 1.5), 1e-9), prompt),),
        0,
        sorted(joined + prefill + at * decode for at in tokens) if streamed else None,
    ),
    st.integers(0, 10**9),
    st.floats(-2, 2),
    st.floats(0, 2),
    st.floats(0, 2),
    st.integers(1, 5000),
    st.booleans(),
    st.booleans(),
    st.lists(st.floats(0, 1), max_size=20),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(timelines, max_size=8, unique_by=lambda t: t.id),
    st.floats(-1, 1),
    st.floats(0.001, 1.5),
    st.integers(0, 10**9),
    st.floats(0, 500),
    st.integers(1, 4),
)
def test_every_interval_is_conserved(
    there: list[Timeline], start: float, seconds: float, energy_uj: int, idle_power_w: float, devices: int
) -> None:
    counted = interval(start, start + seconds, energy_uj)
    result = settle(counted, there, H200, idle_power_w, devices=devices)
    assert sum(share.active_uj for share in result.shares.values()) + result.idle_uj + result.unattributed_uj == energy_uj
    assert result.idle_uj >= 0
    assert result.unattributed_uj >= 0
    assert result.idle_uj <= round(idle_power_w * counted.seconds * 1e6)
    for timeline in there:
        share = result.shares.get(timeline.id)
        if share is None:
            assert timeline.joined >= counted.end_s or timeline.left <= counted.start_s
        else:
            assert 0 <= share.prefill_uj <= share.active_uj


def test_weights_too_small_for_their_squares_are_conserved() -> None:
    instant = 7.851024403362684e-175
    there = [
        Timeline("r0", 0.0, instant, instant, 1, ((0.0, 1e-9, 1),), 0, []),
        Timeline("r1", 0.0, 0.0, 1.0, 1, ((0.0, 1e-9, 1),), 0, None),
    ]
    for timelines in (there, there[:1]):
        result = settle(interval(0.0, 1.0, 10**6), timelines, H200, 0.0, devices=1)
        charged_uj = sum(share.active_uj for share in result.shares.values())
        assert charged_uj + result.idle_uj + result.unattributed_uj == 10**6


@given(st.integers(0, 10**12), st.lists(st.floats(0, 1e6), max_size=30))
def test_apportioning_is_exact(total: int, parts: list[float]) -> None:
    whole = apportion(total, parts)
    assert sum(whole) == (total if sum(parts) > 0 else 0)
    assert all(part >= 0 for part in whole)
    assert all(amount == 0 for amount, part in zip(whole, parts, strict=True) if part == 0)


def test_nobody_there_leaves_what_is_not_idle_unattributed() -> None:
    result = settle(interval(0, 1, 80_000_000), [], MODEL, 50.0)
    assert (result.shares, result.idle_uj, result.unattributed_uj) == ({}, 50_000_000, 30_000_000)


def test_a_neighbours_energy_is_not_charged_to_requests() -> None:
    member = decoding("a", 10, 100)
    modelled = weights(0.0, 1.0, [member], MODEL)[0].joules
    result = settle(interval(0, 1, 50_000_000 + round(modelled * 3e6)), [member], MODEL, 50.0)
    assert result.shares["a"].active_uj == int(modelled * 1.25e6)
    assert result.unattributed_uj == pytest.approx(modelled * 1.75e6, abs=2)


def test_when_less_was_counted_requests_share_what_was_counted() -> None:
    result = settle(interval(0, 1, 51_000_000), [decoding("a", 10, 100), decoding("b", 10, 100)], MODEL, 50.0)
    assert (result.shares["a"].active_uj, result.shares["b"].active_uj, result.unattributed_uj) == (500_000, 500_000, 0)


def test_equal_requests_get_equal_joules_whatever_the_cuts() -> None:
    one, other = decoding("a", 20, 100), decoding("b", 20, 100)
    passing = Timeline("c", 0.31, 0.42, 0.77, 300, ((0.31, 0.42, 300),), 0, [0.42, 0.5, 0.77])
    result = settle(interval(0, 1, 90_000_000), [one, passing, other], MODEL, 50.0)
    assert abs(result.shares["a"].active_uj - result.shares["b"].active_uj) <= 3


def test_before_the_first_token_is_prefill() -> None:
    member = Timeline("a", 0.0, 0.5, 1.0, 1000, ((0.0, 0.5, 1000),), 0, [0.5, 0.75, 1.0])
    share = settle(interval(0, 1, 150_000_000), [member], MODEL, 50.0).shares["a"]
    assert 0 < share.prefill_uj < share.active_uj
    assert settle(interval(0, 0.5, 75_000_000), [member], MODEL, 50.0).shares["a"].prefill_uj > 0
    assert settle(interval(0.5, 1, 75_000_000), [member], MODEL, 50.0).shares["a"].prefill_uj == 0


def test_servers_of_one_device_do_not_share_steps() -> None:
    """Each server reads its own weights: two of them, one request each, cost twice what one costs with one."""
    one, other = decoding("a", 10, 100), replace(decoding("b", 10, 100), server="other")
    alone = weights(0.0, 1.0, [one], MODEL)[0].joules
    together = weights(0.0, 1.0, [one, decoding("b", 10, 100)], MODEL)[0].joules
    energy_uj = 50_000_000 + round(2 * alone * 1e6)
    apart = settle(interval(0, 1, energy_uj), [one, other], MODEL, 50.0)
    assert apart.shares["a"].active_uj == pytest.approx(alone * 1e6, abs=2)
    assert together < alone
    assert apart.unattributed_uj == 0


def served(n: int, joined: float, seconds: float) -> Timeline:
    """A stream of ten tokens, a tenth of its life in prefill."""
    first = joined + seconds / 10
    seen = [first + (seconds - seconds / 10) * k / 9 for k in range(10)]
    return Timeline(f"r{n}", joined, first, joined + seconds, 100, ((joined, first, 100.0),), 0, seen)


@pytest.mark.parametrize("seed", range(5))
def test_thinned_edges_conserve_and_say_nearly_the_same(seed: int) -> None:
    dice = Random(seed)
    coming = [served(n, dice.uniform(-0.05, 0.1), dice.uniform(0.02, 0.06)) for n in range(150)]
    counted = interval(0.0, 0.1, 40_000_000)
    exact = settle(counted, coming, H200, 100.0, most_parts=10**9)
    thin = settle(counted, coming, H200, 100.0, most_parts=4000)
    for result in (exact, thin):
        assert sum(share.active_uj for share in result.shares.values()) + result.idle_uj + result.unattributed_uj == 40_000_000
    assert thin.shares.keys() == exact.shares.keys()
    # 150 requests of 20 to 60 ms, in cuts of 4 ms: what moves is what a step is long
    moved = sum(abs(thin.shares[id].active_uj - share.active_uj) for id, share in exact.shares.items()) / 2
    assert moved <= 0.1 * sum(share.active_uj for share in exact.shares.values())


def test_requests_shorter_than_a_cut_still_pay() -> None:
    coming = [served(n, n / 10_000, 0.0005) for n in range(900)]
    result = settle(interval(0.0, 0.1, 40_000_000), coming, H200, 100.0, most_parts=4000)
    assert all(share.active_uj > 0 for share in result.shares.values())
