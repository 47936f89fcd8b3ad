"""The design and its blocks: every order is drawn from one seed, either equally often in each stratum."""

from __future__ import annotations

import json
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.blocks import Block
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
