"""The design and its blocks: every order is drawn from one seed, either equally often in each stratum."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.blocks import Block
from telemetry.comparison import compare
from telemetry.design import CONTROL, TREATMENT, Design, draw, orders
from telemetry.randomisation import stratum_orders

designs = st.builds(
    Design,
    began_unix_s=st.floats(0, 2e9),
    block_s=st.floats(1, 3600),
    burn_in_s=st.just(0.5),
    pairs=st.integers(1, 40),
    seed=st.integers(0, 1000),
    pairs_per_stratum=st.integers(1, 9),
)


@given(designs)
def test_each_pair_has_both_arms_and_each_stratum_both_orders_alike(design: Design) -> None:
    for pair in range(design.pairs):
        assert {design.arm_of(2 * pair), design.arm_of(2 * pair + 1)} == {CONTROL, TREATMENT}
    for begins in range(0, design.pairs, design.pairs_per_stratum):
        stratum = orders(design)[begins : begins + design.pairs_per_stratum]
        assert abs(2 * sum(stratum) - len(stratum)) == len(stratum) % 2


@given(designs)
def test_every_instant_is_in_the_block_that_began_last(design: Design) -> None:
    for block in range(design.blocks):
        assert design.block_at(design.start_unix_s(block)) == block
        assert design.block_at(design.start_unix_s(block) + 0.9 * design.block_s) == block
    assert design.block_at(design.began_unix_s - 1) is None
    assert design.block_at(design.ends_unix_s + 1) is None


def test_the_seed_decides_all_of_it() -> None:
    assert orders(Design(0, 60, 0, 40, seed=3)) == orders(Design(9, 99, 9, 40, seed=3))
    assert orders(Design(0, 60, 0, 40, seed=3)) != orders(Design(0, 60, 0, 40, seed=4))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9])
def test_the_listed_orders_are_those_that_are_drawn_equally_often(size: int) -> None:
    design, random = Design(0, 60, 0, size, pairs_per_stratum=size), Random(1)
    listed = stratum_orders(size)
    assert listed is not None
    drawn = Counter(tuple(draw(design, random)) for _ in range(200 * len(listed)))
    assert set(drawn) == set(listed)
    assert min(drawn.values()) > 120
    assert max(drawn.values()) < 300


@pytest.mark.parametrize("wrong", [{"pairs": 0}, {"block_s": 0.0}, {"burn_in_s": 60.0}, {"began_unix_s": float("nan")}])
def test_what_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        Design(**({"began_unix_s": 0, "block_s": 60, "burn_in_s": 1, "pairs": 4} | wrong))  # type: ignore[arg-type]


def test_a_block_survives_json_and_unknown_keys_are_refused() -> None:
    block = Block(3, TREATMENT, 0.0, 60.0, energy_j=12.5, output_tokens=5, completed=2)
    assert Block.of(json.loads(json.dumps(block.as_json()))) == block
    assert block.j_per_token == 2.5
    assert block.j_per_request == 6.25
    with pytest.raises(ValueError, match="joules"):
        Block.of(block.as_json() | {"joules": 1})


@given(designs)
def test_in_counterphase_the_blocks_of_a_pair_are_two_sides_of_one_window(whole: Design) -> None:
    design = replace(whole, parallel=True)
    assert (design.windows, design.blocks, design.sides) == (design.pairs, 2 * design.pairs, 2)
    assert design.ends_unix_s == design.end_unix_s(design.blocks - 1)
    for window in range(design.windows):
        first, second = design.blocks_in(window)
        assert (design.side_of(first), design.side_of(second)) == (0, 1)
        assert design.start_unix_s(first) == design.start_unix_s(second)
        assert design.end_unix_s(first) == design.end_unix_s(second) == design.window_starts_unix_s(window + 1)
        middle = design.start_unix_s(first) + design.block_s / 2
        assert (design.block_at(middle, 0), design.block_at(middle, 1)) == (first, second)
        assert {design.arm_of(first), design.arm_of(second)} == {CONTROL, TREATMENT}
        for side, block in enumerate((first, second)):
            own = design.of_side(side)
            assert own.block_at(middle) == window
            assert own.arm_of(window) == design.arm_of(block)
    assert (design.block_at(design.ends_unix_s + 1, 1), design.of_side(1).ends_unix_s) == (None, design.ends_unix_s)


def test_a_switchback_has_one_side() -> None:
    design = Design(0, 60, 1, 4)
    assert design.of_side(0) is design
    assert [list(design.blocks_in(window)) for window in range(3)] == [[0], [1], [2]]
    assert (design.windows, design.lasts_s, replace(design, parallel=True).lasts_s) == (8, 480, 240)


def blocks_of(design: Design, effect: float, hungrier: float) -> list[Block]:
    """Side B takes `hungrier` times as much, and the treatment `effect` times; nothing is left to chance but traffic."""
    random, found = Random(1), []
    for index in range(design.blocks):
        tokens = random.randint(900, 1100)
        arm, side = design.arm_of(index), design.side_of(index)
        energy_j = tokens * (effect if arm == TREATMENT else 1.0) * (hungrier if side else 1.0) * random.uniform(0.99, 1.01)
        times = design.start_unix_s(index), design.end_unix_s(index)
        found.append(Block(index, arm, *times, energy_j, source="nvml", requests=50, completed=50, output_tokens=tokens))
    return found


def test_what_a_side_takes_more_is_told_and_is_no_effect() -> None:
    design = Design(0, 60, 1, 12, seed=2, parallel=True)
    found = compare(blocks_of(design, 0.5, 1.2), design)
    told = {check.name: check for check in found.checks}
    assert "order_effect" not in told
    assert told["sides"].holds is True
    assert "side B takes +20" in told["sides"].says.replace("+19", "+20")
    assert "widens the interval" in told["sides"].says
    assert "the control was on side A in 6 of 12 pairs" in told["order"].says
    assert found.effect is not None
    assert found.effect.middle == pytest.approx(-0.5, abs=0.01)
    assert found.verdict == "saves"
    assert any("at the same time on separate servers" in line for line in found.says)
    alike = compare(blocks_of(design, 0.5, 1.0), design)
    assert "widens" not in {check.name: check for check in alike.checks}["sides"].says
    one = compare(blocks_of(design, 0.5, 1.2)[:2], design)
    assert {check.name: check.holds for check in one.checks}["sides"] is None


def test_a_switchback_says_nothing_of_sides() -> None:
    design = Design(0, 60, 1, 12, seed=2)
    found = compare(blocks_of(design, 0.5, 1.0), design)
    assert {"order_effect", "order"} <= {check.name for check in found.checks}
    assert not any("separate servers" in line for line in found.says)
