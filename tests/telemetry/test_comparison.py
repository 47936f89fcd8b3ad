"""A comparison says what its blocks say: the effect, who paid, what speaks against it, and never more."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from math import exp, inf, log
from random import Random
from statistics import mean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.blocks import Block
from telemetry.comparison import Guardrails, compare
from telemetry.design import CONTROL, TREATMENT, Design, draw, orders
from telemetry.randomisation import chance


def designed(pairs: int = 12, seed: int = 1, stratum: int = 4) -> Design:
    return Design(1000.0, 60.0, 10.0, pairs, seed, stratum)


def blocks_of(design: Design, value: Callable[[int, int], float], seed: int = 5) -> list[Block]:
    """`value` says each block's joules a token by its place and arm."""
    random = Random(seed)
    result = []
    for index in range(design.blocks):
        arm, tokens = design.arm_of(index), random.randint(900, 1100)
        block = Block(
            index,
            arm,
            design.start_unix_s(index),
            design.start_unix_s(index + 1),
            energy_j=tokens * value(index, arm),
            source="counter",
            requests=100,
            completed=100,
            output_tokens=tokens,
            prompt_tokens=5000,
            ttft_p95_s=0.2 * exp(random.gauss(0, 0.02)),
            tpot_p95_s=0.01 * exp(random.gauss(0, 0.01)),
            wait_p99_s=0.1 + random.random() / 100,
            arrival_rate=2.0,
        )
        result.append(block)
    return result


def noisy(effect: float, sd: float = 0.02, seed: int = 3) -> Callable[[int, int], float]:
    random = Random(seed)
    return lambda index, arm: 0.3 * exp(random.gauss(0, sd)) * (1 + effect * (arm == TREATMENT))


def changed(blocks: list[Block], change: Callable[[Block], Block]) -> list[Block]:
    return [change(block) if block.arm == TREATMENT else block for block in blocks]


def test_a_saving_is_told_with_its_interval_and_everything_else() -> None:
    design = designed()
    found = compare(blocks_of(design, noisy(-0.23)), design)
    assert found.verdict == "saves"
    assert found.effect is not None
    assert found.effect.low is not None
    assert found.effect.high is not None
    assert found.effect.low < -0.23 < found.effect.high < 0
    assert found.says[0].startswith("The treatment saves 2")
    assert "joules a token (95 % always-valid interval)" in found.says[0]
    assert "No guardrail is worse: all are shown to be within their margins." in found.says
    assert found.pairs == found.planned == 12
    assert found.chance is not None
    assert found.chance.exact
    assert found.chance.p == pytest.approx(2 / 216)  # six orders in each of three strata; all the other way is as far
    assert found.of_sums is not None
    assert found.of_sums.low is not None
    assert found.of_sums.middle == pytest.approx(found.effect.middle, abs=0.01)
    assert found.arms[0].value == pytest.approx(0.3, rel=0.02)
    assert found.arms[1].value == pytest.approx(0.3 * 0.77, rel=0.02)
    assert not found.tripped
    assert all(check.holds is not False for check in found.checks)
    json.loads(json.dumps(found.as_json(), allow_nan=False))


def test_no_effect_is_not_shown_and_a_cost_is_a_cost() -> None:
    design = designed()
    nothing = compare(blocks_of(design, noisy(0.0)), design)
    assert nothing.verdict == "not shown"
    assert nothing.says[0].startswith("Not shown")
    assert compare(blocks_of(design, noisy(0.2)), design).verdict == "costs"


def test_before_there_are_pairs_it_says_so() -> None:
    design = designed()
    blocks = blocks_of(design, noisy(-0.5))
    for over in (0, 1, 2, 9):
        found = compare(blocks[:over], design)
        assert found.verdict == "incomplete"
        assert found.pairs == over // 2
        assert not found.lost, "a pair that is under way is not lost"
        json.dumps(found.as_json(), allow_nan=False)
    assert compare(blocks[:14], design).verdict == "saves"


def test_a_block_that_fails_takes_its_pair_with_it() -> None:
    design = designed()
    blocks = blocks_of(design, noisy(-0.2))
    blocks[3] = replace(blocks[3], complete=False)
    blocks[8] = replace(blocks[8], energy_j=None)
    del blocks[20]
    found = compare(blocks, design)
    assert [lost.pair for lost in found.lost] == [1, 4, 10]
    assert found.pairs == 9
    assert set(found.ratios) == set(range(12)) - {1, 4, 10}
    assert any("incomplete" in said for said in found.says)
    assert next(check for check in found.checks if check.name == "lost").holds is False
    half = compare([*blocks[:2], replace(blocks[2], complete=False)], design)
    assert [lost.pair for lost in half.lost] == [1], "nothing can mend it any more"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda blocks: [*blocks, blocks[0]], "each once"),
        (lambda blocks: [replace(blocks[0], arm=1 - blocks[0].arm), *blocks[1:]], "seed"),
        (lambda blocks: [*blocks, replace(blocks[0], index=99)], "blocks 0 to 23"),
    ],
)
def test_blocks_of_another_design_are_refused(spoil: Callable[[list[Block]], list[Block]], says: str) -> None:
    design = designed()
    with pytest.raises(ValueError, match=says):
        compare(spoil(blocks_of(design, noisy(0.0))), design)


def test_an_unknown_metric_and_a_wrong_alpha_are_told_what_is_allowed() -> None:
    with pytest.raises(ValueError, match="j_per_token, j_per_request"):
        compare([], designed(), metric="watts")
    with pytest.raises(ValueError, match=r"between 0 and 0\.5"):
        compare([], designed(), alpha=2)


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 50), st.integers(1, 3))
def test_the_randomisation_test_counts_what_the_design_could_have_drawn(pairs: int, stratum: int, seed: int, lose: int) -> None:
    design, random = designed(pairs, seed, stratum), Random(seed)
    raw = [random.gauss(0.5, 1) for _ in range(pairs)]  # of each pair: second block less first
    kept = [pair for pair in range(pairs) if pair % (lose + 1) != 1]
    drawn = orders(design)
    signed = {pair: raw[pair] * (1 if drawn[pair] == CONTROL else -1) for pair in kept}
    found = chance(signed, design, 100_000)
    assert found is not None
    assert found.exact
    possible = {tuple(draw(design, Random(number))) for number in range(600)}
    if len(possible) > 50:
        return  # too many to be sure that all were drawn
    sums = [abs(sum(raw[pair] * (1 if way[pair] == CONTROL else -1) for pair in kept)) for way in possible]
    assert found.p == pytest.approx(mean(one >= abs(sum(signed.values())) - 1e-9 for one in sums))


def test_many_assignments_are_drawn_and_agree_with_all_of_them() -> None:
    design, random = designed(16), Random(2)
    differences = {pair: random.gauss(0.4, 1) for pair in range(16)}
    exact, drawn = chance(differences, design, 2000), chance(differences, design, 500)
    assert exact is not None
    assert drawn is not None
    assert (exact.exact, exact.assignments) == (True, 6**4)
    assert not drawn.exact
    assert drawn.p == pytest.approx(exact.p, abs=0.06)
    wide = chance(differences, designed(16, stratum=16), 4000)
    assert wide is not None
    assert wide.p == pytest.approx(exact.p, abs=0.1)
    assert chance(differences, designed(16, stratum=16), 4000) == wide, "the seed decides"
    long = chance(dict.fromkeys(range(2500), 0.1), designed(2500), 10_000)
    assert long is not None
    assert long.assignments == 1_000, "of many pairs fewer, or a proxy reckons for seconds after every block"


def test_a_slow_treatment_trips_its_guardrail_and_only_that() -> None:
    design = designed()
    blocks = changed(blocks_of(design, noisy(-0.2)), lambda block: replace(block, ttft_p95_s=(block.ttft_p95_s or 0) * 1.5))
    found = compare(blocks, design)
    assert found.tripped == ("ttft_p95",)
    assert any(said.startswith("Guardrails tripped: ttft_p95") for said in found.says)
    assert not compare(blocks[:8], design).tripped, "four pairs are too few for an interval"
    assert not compare(blocks, design, guardrails=Guardrails(ttft_p95=2.0)).tripped
    assert not compare(blocks, design, guardrails=Guardrails(ttft_p95=None)).tripped


@pytest.mark.parametrize(
    ("name", "change", "guardrails"),
    [
        ("ttft_p95", lambda block: replace(block, ttft_p95_s=1.0), Guardrails()),
        ("tpot_p95", lambda block: replace(block, tpot_p95_s=0.1), Guardrails()),
        ("wait_p99_s", lambda block: replace(block, wait_p99_s=9.0), Guardrails(wait_p99_s=2.0)),
        ("errors", lambda block: replace(block, errors=60), Guardrails()),
        ("late", lambda block: replace(block, late=60), Guardrails()),
    ],
)
def test_what_is_intolerable_trips_after_one_pair(name: str, change: Callable[[Block], Block], guardrails: Guardrails) -> None:
    design = designed()
    blocks = changed(blocks_of(design, noisy(0.0))[:2], change)
    assert compare(blocks, design, guardrails=guardrails).tripped == (name,)


def test_a_treatment_under_which_nothing_is_answered_trips_though_there_is_nothing_to_divide_by() -> None:
    design = designed()
    none: dict[str, Any] = {"errors": 100, "completed": 0, "output_tokens": 0, "ttft_p95_s": None, "tpot_p95_s": None}
    dead = changed(blocks_of(design, noisy(0.0))[:2], lambda block: replace(block, **none))
    found = compare(dead, design)
    assert (found.pairs, [one.pair for one in found.lost]) == (0, [0])
    assert found.tripped == ("errors",)
    unmetered = [replace(block, energy_j=None, errors=60 * block.arm) for block in blocks_of(design, noisy(0.0))[:2]]
    assert compare(unmetered, design).tripped == ("errors",), "a meter that fails blinds no guardrail"
    away = [replace(block, complete=block.arm != TREATMENT) for block in dead]
    assert not compare(away, design).tripped


def test_the_slowest_of_a_handful_trips_nothing_alone() -> None:
    design = designed()
    slow: dict[str, Any] = {"requests": 3, "completed": 3, "ttft_p95_s": 1.0}
    few = changed(blocks_of(design, noisy(0.0))[:2], lambda block: replace(block, **slow))
    assert not compare(few, design).tripped
    held = [replace(block, wait_p99_s=9.0 * block.arm) for block in few]
    assert compare(held, design, guardrails=Guardrails(wait_p99_s=2.0)).tripped == ("wait_p99_s",), "it is the proxy that holds"


def test_few_errors_of_few_requests_prove_nothing() -> None:
    design = designed()
    few = [replace(block, requests=4, completed=4) for block in blocks_of(design, noisy(0.0))]
    errors = next(one for one in compare(few, design).guardrails if one.name == "errors")
    assert errors.judgement == "open", "no error of 48 requests is no proof of less than one in a hundred"
    none = [replace(block, ttft_p95_s=None) for block in few]
    assert next(one for one in compare(none, design).guardrails if one.name == "ttft_p95").judgement == "unknown"


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"ttft": 1.1}, "unknown guardrail ttft: there are ttft_p95"),
        ({"ttft_p95": 0.9}, "ratio above 1"),
        ({"errors": "many"}, "a number, or null"),
        ({"late": 2}, "share between 0 and 1"),
        ({"wait_p99_s": -1}, "seconds above 0"),
        ({"hard_ratio": None}, "hard_ratio is a number;"),
        ({"hard_ratio": inf}, "hard_ratio is above 1"),
        ({"errors": True}, "a number"),
    ],
)
def test_guardrails_that_make_no_sense_are_refused(told: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Guardrails.of(told)
    assert Guardrails.of(Guardrails(wait_p99_s=3).as_json()) == Guardrails(wait_p99_s=3)


def test_a_drift_cancels_and_is_not_taken_for_an_effect() -> None:
    design = designed()
    found = compare(blocks_of(design, lambda index, arm: 0.3 * exp(0.05 * index)), design)
    assert found.verdict == "not shown"
    assert found.effect is not None
    assert abs(found.effect.middle) < 1e-9
    assert next(check for check in found.checks if check.name == "order_effect").holds is False, "the drift is told"


def test_an_effect_that_drifts_and_joules_across_borders_are_doubted() -> None:
    design = designed()
    drifting = compare(blocks_of(design, lambda index, arm: 0.3 * exp(-0.02 * index * (arm == TREATMENT))), design)
    assert next(check for check in drifting.checks if check.name == "trend").holds is False
    carried = changed(blocks_of(design, noisy(0.0)), lambda block: replace(block, boundary_j=(block.energy_j or 0) * 0.3))
    found = compare(carried, design)
    assert next(check for check in found.checks if check.name == "carry_over").holds is False
    assert found.conserved is not None
    assert found.conserved.middle == pytest.approx(0.3, abs=0.03)
    assert any(said.startswith("Doubt (carry over)") for said in found.says)


def test_joules_that_nobody_measured_are_called_so() -> None:
    design = designed()
    found = compare([replace(block, source="simulated") for block in blocks_of(design, noisy(-0.2))], design)
    assert "simulated joules a token" in found.says[0]
    mixed = blocks_of(design, noisy(-0.2))
    mixed[0] = replace(mixed[0], source="modelled")
    assert any("not to be compared" in said for said in compare(mixed, design).says)


def test_adjustment_takes_out_what_the_arms_did_not_choose() -> None:
    """Joules follow the arrival rate, which chance deals unevenly; the line through it leaves the effect."""
    design, random = designed(), Random(8)
    rates = [exp(random.gauss(0, 0.3)) for _ in range(design.blocks)]
    noise = noisy(-0.1, sd=0.01)
    blocks = [
        replace(block, arrival_rate=rates[block.index])
        for block in blocks_of(design, lambda index, arm: noise(index, arm) / rates[index])
    ]
    found = compare(blocks, design)
    assert found.at_the_end is not None
    assert found.at_the_end.low is not None
    assert found.at_the_end.high is not None
    assert found.adjusted is not None
    assert found.adjusted.low is not None
    assert found.adjusted.high is not None
    assert found.adjusted_by == ("arrival_rate", "output_tokens")
    assert found.adjusted.low < -0.1 < found.adjusted.high
    assert found.adjusted.high - found.adjusted.low < (found.at_the_end.high - found.at_the_end.low) / 5
    assert found.adjusted_valid is not None
    assert found.adjusted_valid.low is not None
    assert found.adjusted_valid.low < found.adjusted.low
    assert "With equal arrival rates, answers' lengths the change is" in found.says[1]


def test_the_line_is_that_of_least_squares() -> None:
    np = pytest.importorskip("numpy")
    design, random = designed(16), Random(9)
    blocks = [
        replace(
            block,
            arrival_rate=exp(random.gauss(0, 0.3)),
            prompt_tokens=random.randint(2000, 9000),
            temperature_c=random.gauss(60, 5),
        )
        for block in blocks_of(design, noisy(-0.1))
    ]
    found = compare(blocks, design)
    assert found.adjusted_by == ("arrival_rate", "prompt_tokens", "output_tokens", "temperature_c")
    by = {(block.pair, block.arm): block for block in blocks}
    two = [(by[pair, CONTROL], by[pair, TREATMENT]) for pair in range(16)]
    columns = [
        [
            1,
            log(t.arrival_rate / c.arrival_rate),
            log(t.prompt_tokens / c.prompt_tokens),
            log(t.output_tokens / c.output_tokens),
            (t.temperature_c or 0) - (c.temperature_c or 0),
        ]
        for c, t in two
    ]
    logs = [log(found.ratios[pair]) for pair in range(16)]
    fitted = np.linalg.lstsq(np.array(columns), np.array(logs), rcond=None)[0]
    assert found.adjusted is not None
    assert found.adjusted.middle == pytest.approx(exp(fitted[0]) - 1)


def test_unequal_covariates_are_told() -> None:
    design, random = designed(), Random(1)
    hot = changed(
        [replace(block, temperature_c=50 + random.random()) for block in blocks_of(design, noisy(0.0))],
        lambda block: replace(block, temperature_c=60 + random.random()),
    )
    found = compare(hot, design)
    assert next(one for one in found.covariates if one.name == "temperature_c").even is False
    assert any("temperature_c was 50" in said for said in found.says)


@given(st.lists(st.sampled_from(range(24)), unique=True), st.integers(0, 99))
def test_any_part_of_an_experiment_can_be_compared(indices: list[int], seed: int) -> None:
    design, random = designed(), Random(seed)
    blocks = blocks_of(design, noisy(0.1, 0.5, seed), seed)
    some = [replace(blocks[index], complete=random.random() < 0.8, completed=random.choice([0, 50])) for index in indices]
    found = compare(some, design, metric="j_per_request", draws=200)
    assert found.pairs + len(found.lost) <= 12
    json.dumps(found.as_json(), allow_nan=False)
