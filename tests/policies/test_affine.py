"""Affinity: what begins alike goes to one server, unless that has too much."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.affine import Affine
from policies.base import ServerState, ServerView, View, Waiting
from policies.held import Held
from policies.spread import Spread

NAMES = "abcdef"


def view(*servers: ServerView) -> View:
    return View(0.0, 0.0, Held(), {}, servers)


def idle(names: str = NAMES) -> list[ServerView]:
    return [ServerView(name, 0, 0, None) for name in names]


def asks(prefix: str = "", session: str = "", tenant: str = "", *, n: int = 1) -> list[Waiting]:
    beginning = prefix.encode() or None
    return [Waiting(f"r{i}", 0.0, 0.0, 10, 10, prefix=beginning, session=session, tenant=tenant) for i in range(n)]


def places(placement: Affine, group: list[Waiting], *servers: ServerView) -> list[str]:
    return list(placement.place(group, view(*servers)).assignments.values())


KEYS = [f"beginning {i}" for i in range(300)]


def owners(names: str) -> dict[str, str]:
    return {key: places(Affine(), asks(key), *idle(names))[0] for key in KEYS}


def test_keys_are_shared_out_and_each_has_one_server_in_whatever_order_they_are_named() -> None:
    shares = Counter(owners(NAMES).values())
    assert set(shares) == set(NAMES)
    assert max(shares.values()) < 2 * min(shares.values())
    assert owners(NAMES) == owners(NAMES[::-1])


def test_a_server_that_goes_moves_its_own_keys_only_and_takes_them_again_when_it_comes_back() -> None:
    before, without = owners(NAMES), owners(NAMES.replace("c", ""))
    moved = {key for key in KEYS if before[key] != without[key]}
    assert moved == {key for key in KEYS if before[key] == "c"}


@pytest.mark.parametrize("away", [{"healthy": False}, {"state": ServerState.ASLEEP}, {"state": ServerState.WAKING}])
def test_a_server_that_cannot_work_counts_as_gone(away: dict[str, Any]) -> None:
    before, without = owners("abc"), owners("ab")
    for key in KEYS[:50]:
        servers = [*idle("ab"), replace(idle("c")[0], **away)]
        assert places(Affine(), asks(key), *servers) == [without[key]]
    assert "c" in before.values()


def test_a_popular_key_is_bounded() -> None:
    (own,) = places(Affine(), asks("x"), *idle())
    placed = places(Affine(overload=1.5, floor=4, placement=Spread()), asks("x", n=60), *idle())
    assert placed[:4] == [own] * 4  # the floor
    # 1.5 times the mean of 10; the rest is spread
    assert Counter(placed)[own] == 15
    assert min(Counter(placed).values()) >= 8


def test_what_is_there_already_counts() -> None:
    (own,) = places(Affine(), asks("x"), *idle())
    busy = [replace(one, in_flight=16 if one.name == own else 2) for one in idle()]
    assert places(Affine(placement=Spread()), asks("x"), *busy) != [own]
    busy = [replace(one, in_flight=16 if one.name == own else 14) for one in idle()]
    assert places(Affine(placement=Spread()), asks("x"), *busy) == [own]


def test_who_has_no_key_goes_where_the_other_placement_says() -> None:
    assert places(Affine(placement=Spread()), asks(n=3), *idle("abc")) == ["a", "b", "c"]
    assert places(Affine(), asks(n=3), *idle("abc")) == ["a", "a", "a"]


def test_the_other_placement_sees_who_was_placed_by_a_key() -> None:
    (own,) = places(Affine(), asks("x"), *idle("ab"))
    both = places(Affine(placement=Spread()), [*asks("x"), replace(asks()[0], id="other")], *idle("ab"))
    assert both == [own, "ab".replace(own, "")]


def test_a_full_server_is_not_insisted_on() -> None:
    (own,) = places(Affine(), asks("x"), *idle("ab"))
    full = [replace(one, slots=1, in_flight=int(one.name == own)) for one in idle("ab")]
    assert places(Affine(), asks("x"), *full) == ["ab".replace(own, "")]


def test_sessions_are_a_tenants_own_and_what_counts_can_be_chosen() -> None:
    sessions = {s: places(Affine(by="session"), asks("x", s), *idle())[0] for s in KEYS[:40]}
    assert len(set(sessions.values())) > 1
    assert any(places(Affine(by="session"), asks("x", s, "other"), *idle()) != [own] for s, own in sessions.items())
    either = Affine(by="session or prefix")
    assert {s: places(either, asks("x", s), *idle())[0] for s in sessions} == sessions
    assert places(either, asks("x"), *idle()) == places(Affine(), asks("x"), *idle())
    assert places(Affine(by="session"), asks("x"), *idle()) == ["a"]  # it names none


@pytest.mark.parametrize("params", [{"by": "name"}, {"overload": 0.9}, {"overload": float("nan")}, {"floor": -1}])
def test_nonsense_is_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(params))):
        Affine(**params)


@given(
    keys=st.lists(st.sampled_from(["", "x", "y", "z"]), max_size=40),
    loads=st.lists(st.integers(0, 30), min_size=1, max_size=6),
    overload=st.floats(1, 3),
    floor=st.integers(0, 10),
)
def test_no_keys_server_is_above_the_bound(keys: list[str], loads: list[int], overload: float, floor: int) -> None:
    servers = [replace(one, in_flight=load) for one, load in zip(idle(), loads, strict=False)]
    group = [replace(asks(key)[0], id=str(i)) for i, key in enumerate(keys)]
    plan = Affine(overload=overload, floor=floor, placement=Spread()).place(group, view(*servers)).assignments
    assert list(plan) == [waiting.id for waiting in group]
    count = {one.name: one.in_flight for one in servers}
    for waiting in group:
        least = min(count.values())
        count[plan[waiting.id]] += 1
        own = Affine(overload=1e9).place([waiting], view(*servers)).assignments[waiting.id]
        if waiting.prefix is None or plan[waiting.id] != own:
            assert count[plan[waiting.id]] == least + 1  # spread
        else:
            most = max(-(-overload * sum(count.values()) // len(servers)), floor)
            assert count[own] <= most or count[own] == least + 1
