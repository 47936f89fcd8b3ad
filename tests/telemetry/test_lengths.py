"""What answers are expected to be long: the mean of what their like have had, no more than they may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.lengths import FEWEST, Lengths


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(0, 60), st.integers(1, 12))
def test_it_is_the_mean_of_the_latest_none_counting_for_more_than_is_allowed(lengths: list[int], most: int, keep: int) -> None:
    seen = Lengths(keep=keep)
    for length in lengths:
        seen.saw("tenant", "model", length)
    latest = lengths[-keep:]
    if len(latest) < FEWEST:
        assert seen.expect("tenant", "model", most) == most
    else:
        assert seen.expect("tenant", "model", most) == pytest.approx(sum(min(one, most) for one in latest) / len(latest))


def test_a_new_tenant_is_like_others_of_its_model() -> None:
    seen = Lengths()
    for _ in range(FEWEST):
        seen.saw("known", "model", 20)
    assert seen.expect("new", "model", 100) == 20
    assert seen.expect("new", "other", 100) == 100
