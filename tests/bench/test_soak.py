"""The soak's arithmetic, and the soak itself for a few seconds."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from bench.soak import Look, Soak, Traffic, count_bars, growth

MIB = 2**20


def looks(*mib: float) -> list[Look]:
    """Evenly over a hundred seconds."""
    return [Look(100 * n / len(mib), int(amount * MIB), 20, 0.0, 0) for n, amount in enumerate(mib)]


def test_growth_leaves_the_warm_up_out_and_takes_medians() -> None:
    flat = [*range(10), *[100.0] * 90]
    assert growth(looks(*flat), 100) == 0
    grown = [50.0] * 10 + [100.0] * 80 + [103.0] * 10
    assert growth(looks(*grown), 100) == pytest.approx(0.03)
    one_peak = [100.0] * 95 + [500.0] + [100.0] * 4
    assert growth(looks(*one_peak), 100) == 0


def status(**changed: Any) -> dict[str, Any]:
    told = {
        "admitted": 10,
        "outcomes": {"policy": 8, "cancelled": 2},
        "requests": {"open": 0, "body_bytes": 0, "completed": 7, "failed": 2, "retried": 1},
        "room": {"held": 0, "ready": 0, "in_flight": 0},
        "servers": [{"connections": 0}],
    }
    return {**told, **changed}


def fails(traffic: Traffic, told: dict[str, Any]) -> list[str]:
    return [bar.name for bar in count_bars(traffic, told) if not bar.holds]


def test_every_sum_that_does_not_add_up_is_named() -> None:
    good = Traffic(sent=9, answered=7, left=2)
    assert fails(good, status()) == []
    assert fails(Traffic(9, 6, 2, Counter(timeout=1)), status()) == ["everybody was answered or left"]
    assert fails(good, status(outcomes={"policy": 9})) == ["every stay in the room had one end"]
    assert fails(good, status(room={"held": 0, "ready": 1, "in_flight": 0})) == ["nobody is here any more"]
    assert fails(good, status(servers=[{"connections": 2}])) == ["no connection to a server is left"]


async def test_a_short_soak_adds_up() -> None:
    report = await Soak(seconds=8, rate=40, leave=0.2, every_s=1).perform()
    assert [bar["name"] for bar in report["bars"] if not bar["holds"]] == []
    assert report["growth"] is None  # too short to tell
    assert report["traffic"]["left"] > 10
    assert report["traffic"]["sent"] > 200
