"""Tenants share a scarce server by weight, a request counts as the slots it takes, and a continued one goes where it must."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from policies.base import Waiting
from policies.fairness import SPARE, Shares
from policies.passthrough import Passthrough
from policies.room import Room
from policies.spread import Spread


def room(slots: int | None = 1, servers: tuple[str, ...] = ("a",)) -> Room:
    return Room(Passthrough(), Spread(), dict.fromkeys(servers, slots))


def ask(id: str, tenant: str = "", *, tokens: int = 100, weight: float = 1.0, sequences: int = 1, server: str = "") -> Waiting:
    return Waiting(id, 0.0, 0.0, 0, tokens, tenant=tenant, weight=weight, sequences=sequences, server=server)


def served(room: Room, turns: int) -> list[str]:
    """Ids in the order in which a server of one slot takes them."""
    order = []
    for now in range(turns):
        for leaving in room.tick(float(now)).leaving:
            order.append(leaving.waiting.id)
            room.ended(leaving.waiting.id, float(now))
    return order


def test_a_late_small_tenant_does_not_stand_behind_a_flood() -> None:
    pool = room()
    for n in range(100):
        pool.admit(ask(f"flood{n}", "flood"))
    assert served(pool, 1) == ["flood0"]
    for n in range(3):
        pool.admit(ask(f"small{n}", "small"))
    order = served(pool, 10)
    assert [id for id in order if id.startswith("small")] == ["small0", "small1", "small2"]
    assert len([id for id in order[:6] if id.startswith("small")]) >= 2


@given(
    weights=st.lists(st.integers(1, 8), min_size=2, max_size=4), tokens=st.lists(st.integers(1, 200), min_size=4, max_size=4)
)
def test_service_is_shared_by_weight_within_one_request(weights: list[int], tokens: list[int]) -> None:
    pool = room()
    for tenant, weight in enumerate(weights):
        for n in range(300):
            pool.admit(ask(f"{tenant}-{n}", str(tenant), tokens=tokens[tenant], weight=float(weight)))
    got: Counter[int] = Counter()
    for id in served(pool, 200):
        got[int(id.split("-")[0])] += tokens[int(id.split("-")[0])]
    normal = [got[tenant] / weight for tenant, weight in enumerate(weights)]
    longest = [tokens[tenant] / weight for tenant, weight in enumerate(weights)]
    for one in range(len(weights)):
        for other in range(one):  # the bound of the paper, theorem 1: one request of each
            assert abs(normal[one] - normal[other]) <= longest[one] + longest[other] + 1e-6


def test_one_tenant_is_first_come_first_served() -> None:
    pool = room()
    for n in range(50):
        pool.admit(ask(f"r{n}", tokens=1 + n % 7))
    assert served(pool, 60) == [f"r{n}" for n in range(50)]


def test_who_gives_up_is_not_charged_to_his_tenant() -> None:
    shares = Shares()
    first = shares.start(ask("a", "red"))
    shares.start(ask("b", "red"))
    shares.gave_up(ask("b", "red"))
    assert (first, shares.start(ask("c", "red"))) == (0.0, 100.0)


def test_tenants_that_come_once_are_forgotten() -> None:
    shares = Shares()
    for n in range(10 * SPARE):
        shares.left(shares.start(ask("r", f"tenant{n}", tokens=1)) + 2)
    assert len(shares._finish) <= SPARE + 1


def test_a_request_takes_as_many_slots_as_it_has_sequences() -> None:
    pool = room(slots=4)
    pool.admit(ask("wide", sequences=3))
    pool.admit(ask("x"))
    pool.admit(ask("y"))
    assert [leaving.waiting.id for leaving in pool.tick(0.0).leaving] == ["wide", "x"]
    assert pool.server_views()[0].in_flight == 4
    pool.ended("wide", 0.0)
    assert [leaving.waiting.id for leaving in pool.tick(1.0).leaving] == ["y"]


def test_one_that_needs_several_slots_is_not_overtaken_for_ever() -> None:
    pool = room(slots=2)
    for id in ("x", "y"):
        pool.admit(ask(id))
    pool.tick(0.0)
    pool.admit(ask("wide", sequences=2))
    pool.admit(ask("z"))
    pool.ended("x", 0.0)
    assert not pool.tick(1.0).leaving
    pool.ended("y", 0.0)
    assert [leaving.waiting.id for leaving in pool.tick(2.0).leaving] == ["wide"]


def test_one_that_is_wider_than_the_server_gets_it_alone() -> None:
    pool = room(slots=2)
    pool.admit(ask("wide", sequences=9))
    pool.admit(ask("x"))
    assert [leaving.waiting.id for leaving in pool.tick(0.0).leaving] == ["wide"]
    pool.ended("wide", 0.0)
    assert [leaving.waiting.id for leaving in pool.tick(1.0).leaving] == ["x"]


def test_one_that_continues_goes_to_the_server_that_remembers() -> None:
    pool = room(slots=1, servers=("a", "b"))
    pool.admit(ask("first", server="b"))
    pool.admit(ask("second", server="b"))
    pool.admit(ask("third"))
    assert [(one.waiting.id, one.server) for one in pool.tick(0.0).leaving] == [("first", "b"), ("third", "a")]
    pool.ended("first", 0.0)
    assert [(one.waiting.id, one.server) for one in pool.tick(1.0).leaving] == [("second", "b")]


def test_a_retired_server_ends_what_it_has_and_gets_no_more() -> None:
    pool = room(slots=None, servers=("a", "b"))
    pool.admit(ask("x", server="b"))
    pool.tick(0.0)
    pool.retire_server("b")
    for n in range(4):
        pool.admit(ask(f"r{n}"))
    assert {one.server for one in pool.tick(1.0).leaving} == {"a"}
    assert [view.name for view in pool.server_views()] == ["a"]
    pool.ended("x", 0.0)
    pool.add_server("b", 1)
    assert [(view.name, view.in_flight) for view in pool.server_views()] == [("a", 4), ("b", 0)]


def test_a_server_that_comes_back_still_counts_what_it_has() -> None:
    pool = room(slots=1, servers=("a",))
    pool.admit(ask("x"))
    pool.tick(0.0)
    pool.retire_server("a")
    pool.add_server("a", 1)
    pool.admit(ask("y"))
    assert not pool.tick(1.0).leaving
    pool.ended("x", 0.0)
    assert [one.waiting.id for one in pool.tick(2.0).leaving] == ["y"]


def test_many_tenants_that_come_once_cost_no_more_than_one() -> None:
    pool = room(slots=None)
    for n in range(20 * SPARE):
        pool.admit(ask(f"r{n}", f"tenant{n}"))
        pool.tick(float(n))
    assert not pool._shares
    shares, looks = Shares(), 0
    for n in range(20 * SPARE):
        before = shares._finish
        shares.start(ask("r", f"tenant{n}"))
        looks += shares._finish is not before
    assert looks <= 10
