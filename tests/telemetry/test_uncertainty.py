"""A request's doubt: the law of propagation against finite differences, and what each cause adds."""

from __future__ import annotations

from dataclasses import fields, replace
from random import Random

import pytest

from telemetry.account import Account
from telemetry.attribution import settle
from telemetry.cost import Linear, StepModel, load_profile
from telemetry.ledger import Entry
from telemetry.snapshot import Interval, Source
from telemetry.timeline import Timeline
from telemetry.uncertainty import COVERAGE, Doubt

H200 = load_profile()
COEFFICIENTS = ("base", "per_sequence", "per_prompt_token", "per_context_token")


def served(n: int, dice: Random) -> Timeline:
    joined = dice.uniform(-0.3, 0.2)
    first = joined + dice.uniform(0.02, 0.2)
    seen = sorted(dice.uniform(first, 1.2) for _ in range(dice.randint(1, 60)))
    return Timeline(f"r{n}", joined, first, 1.2, 2000, ((joined, first, dice.uniform(100, 4000)),), 0, seen)


def scaled(model: StepModel, coefficient: str, by: float) -> StepModel:
    return replace(model, step_j=replace(model.step_j, **{coefficient: getattr(model.step_j, coefficient) * by}))


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
@pytest.mark.parametrize("seed", range(4))
def test_what_moves_with_a_coefficient_is_its_derivative(coefficient: str, seed: int) -> None:
    dice = Random(seed)
    there = [served(n, dice) for n in range(5)]
    counted = Interval("gpu", 0.0, 1.0, 90_000_000, Source.COUNTER)  # less than the model says, so all of it is shared

    def shares(by: float) -> dict[str, float]:
        return {id: s.active_uj / 1e6 for id, s in settle(counted, there, scaled(H200, coefficient, by), 50.0).shares.items()}

    up, down, h = shares(1.01), shares(0.99), 0.02
    place = COEFFICIENTS.index(coefficient)
    for id, share in settle(counted, there, H200, 50.0).shares.items():
        assert share.moved_j[place] == pytest.approx((up[id] - down[id]) / h, abs=0.02)


def test_who_is_alone_has_nothing_to_split() -> None:
    alone = settle(Interval("gpu", 0.0, 1.0, 90_000_000, Source.COUNTER), [served(0, Random(1))], H200, 50.0).shares["r0"]
    assert alone.moved_j == pytest.approx((0.0, 0.0, 0.0, 0.0))


def test_all_causes_add_up_as_squares() -> None:
    doubt = Doubt(edges_j2=4.0, base_j=1.0, sequence_j=2.0, blind_j=10.0, blindness=0.1, counts_j=3.0, idle_j=0.5)
    parts = doubt.parts()
    assert parts["edges_j"] == pytest.approx(COVERAGE * 2)
    assert parts["split_j"] == pytest.approx(COVERAGE * 5**0.5)
    assert parts["timeline_j"] == pytest.approx(COVERAGE)
    assert doubt.total_j == pytest.approx(sum(part**2 for part in parts.values()) ** 0.5)
    assert Doubt().total_j == 0.0


def account_of(*entries: Entry, model: StepModel = H200) -> Account:
    account = Account(model)
    for entry in entries:
        account.join(entry)
    return account


def streamed(id: str, began: float, seconds: float, *, prompt: int = 100) -> Entry:
    e = Entry(id, began, 0.0, prompt_tokens=prompt, prompt_estimated=False, streamed=True, released_at=began, server="gpu")
    step_s = H200.step_s.base
    for n in range(int(seconds / step_s)):
        e.saw_tokens(began + 0.02 + n * step_s, 1)
    e.ended_at, e.output_estimated = began + seconds, False
    return e


def intervals(until: float, *, edge_s: float = 0.0, power_w: float = 480.0, source: Source = Source.COUNTER) -> list[Interval]:
    uj = round(power_w * 0.1e6)
    return [
        Interval("gpu", n / 10, (n + 1) / 10, uj, source, start_edge_s=edge_s, end_edge_s=edge_s)
        for n in range(int(until * 10))
    ]


def parts(e: Entry) -> dict[str, float]:
    return e.energy.doubt.parts()


def test_edges_matter_where_somebody_comes_or_goes_and_nowhere_else() -> None:
    """A second of decoding at 480 W: the energy of two edges, not of ten."""
    sharp, blurred = streamed("a", 0.0, 1.0), streamed("a", 0.0, 1.0)
    for e, edge_s in ((sharp, 0.0), (blurred, 0.01)):
        account = account_of(e)
        account.add(intervals(1.0, edge_s=edge_s))
        account.settle(10.0)
    more = parts(blurred)["edges_j"] - parts(sharp)["edges_j"]
    assert 0.5 * 360 * 0.01 < more < 4 * 360 * 0.01


def test_a_neighbour_who_may_have_used_it_is_a_doubt() -> None:
    e = streamed("a", 0.0, 1.0)
    account = account_of(e)
    account.add(intervals(1.0, power_w=900.0))
    account.settle(10.0)
    assert account.totals.unattributed_uj > 0
    assert parts(e)["foreign_j"] == pytest.approx(e.energy.active_uj / 1e6 * H200.band / (1 + H200.band), rel=1e-3)


def test_what_nobody_measured_is_as_doubtful_as_its_model() -> None:
    e = streamed("a", 0.0, 1.0)
    account = account_of(e)
    account.add(intervals(1.0, source=Source.MODELLED))
    account.settle(10.0)
    assert parts(e)["model_j"] == pytest.approx(e.energy.active_uj / 1e6 * H200.band)


def test_a_prompt_that_was_cached_after_all_is_a_doubt_about_its_joules() -> None:
    plain, cached = streamed("a", 0.0, 1.0, prompt=3000), streamed("a", 0.0, 1.0, prompt=3000)
    for e in (plain, cached):
        account = account_of(e)
        account.add(intervals(0.5))
        account.settle(0.8)
        if e is cached:
            e.cached_tokens = 2900  # told with the last event
        account.add(intervals(1.2)[5:])
        account.settle(10.0)
    assert parts(plain)["counts_j"] == pytest.approx(0.0, abs=1e-6)
    assert 0 < parts(cached)["counts_j"] <= 2900 * H200.step_j.per_prompt_token
    assert cached.energy.active_uj == pytest.approx(plain.energy.active_uj, rel=0.02)  # nothing is rewritten


def test_an_unseen_request_and_its_mates_are_doubtful_and_the_domain_learns_how_much() -> None:
    unseen, mate = streamed("a", 0.0, 1.0), streamed("b", 0.0, 1.0)
    unseen.streamed, unseen.first_token_at = False, None
    unseen.tokens.clear()
    running = unseen.ended_at
    unseen.ended_at = None
    account = account_of(unseen, mate)
    seed = account.blindness
    account.add(intervals(0.8))
    account.settle(1.1)
    unseen.ended_at, unseen.output_tokens = running, 100  # it had half of what it was taken to have
    account.add(intervals(1.2)[8:])
    account.settle(10.0)
    assert parts(mate)["timeline_j"] > 0
    assert parts(unseen)["counts_j"] > 0.2 * unseen.energy.active_uj / 1e6
    assert account.blindness != seed


def test_a_profile_can_tell_how_sure_it_is() -> None:
    sure = replace(H200, step_j_error=Linear(0.0, 0.0, 0.0, 0.0))
    found = []
    for model in (H200, sure):
        one, other = streamed("a", 0.0, 1.0, prompt=4000), streamed("b", 0.3, 0.5, prompt=10)
        account = account_of(one, other, model=model)
        account.add(intervals(1.2))
        account.settle(10.0)
        found.append(parts(one)["split_j"])
    assert found[0] > 0
    assert found[1] == 0


def test_every_cause_has_a_name() -> None:
    assert len(Doubt().parts()) == 8
    assert all(getattr(Doubt(), field.name) >= 0 for field in fields(Doubt))
