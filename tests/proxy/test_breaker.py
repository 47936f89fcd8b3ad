"""The circuit breaker by hand and by any order of events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.breaker import Breaker, Circuit
from proxy.config import Health

HEALTH = Health(failures=3, open_s=2.0, max_open_s=10.0)


def test_some_failures_in_a_row_open_it() -> None:
    breaker = Breaker(HEALTH)
    assert [breaker.failed(0.0), breaker.failed(0.0)] == [False, False]
    breaker.succeeded()
    assert [breaker.failed(0.0) for _ in range(3)] == [False, False, True]
    assert breaker.circuit is Circuit.OPEN


def test_no_connection_is_enough() -> None:
    assert Breaker(HEALTH).failed(0.0, surely=True)


def test_it_is_tried_when_its_time_is_over_and_a_success_closes_it() -> None:
    breaker = Breaker(HEALTH)
    breaker.failed(0.0, surely=True)
    assert not breaker.due(1.9)
    assert breaker.due(2.0)
    breaker.try_again()
    assert breaker.circuit is Circuit.HALF_OPEN
    assert breaker.succeeded()
    assert breaker.circuit is Circuit.CLOSED
    assert not breaker.succeeded()


def test_each_failed_trial_leaves_it_alone_twice_as_long_until_a_bound() -> None:
    breaker, now, pauses = Breaker(HEALTH), 0.0, []
    breaker.failed(now, surely=True)
    for _ in range(5):
        pauses.append(breaker.until - now)
        now = breaker.until
        breaker.try_again()
        assert breaker.failed(now)  # one is enough in a trial
    assert pauses == [2.0, 4.0, 8.0, 10.0, 10.0]
    breaker.try_again()
    breaker.succeeded()
    breaker.failed(now, surely=True)
    assert breaker.until - now == 2.0


@given(st.lists(st.tuples(st.sampled_from(["ok", "bad", "sure", "look"]), st.floats(0, 20)), max_size=60))
def test_whatever_happens_it_is_never_closed_to_trials_for_ever(events: list[tuple[str, float]]) -> None:
    breaker, now = Breaker(HEALTH), 0.0
    for what, later in events:
        now += later
        if what == "ok":
            breaker.succeeded()
            assert breaker.circuit is Circuit.CLOSED
        elif what == "look":
            if breaker.due(now):
                breaker.try_again()
        else:
            opened = breaker.failed(now, surely=what == "sure")
            assert not opened or breaker.circuit is Circuit.OPEN
        assert breaker.circuit is not Circuit.OPEN or breaker.until <= now + HEALTH.max_open_s
        assert breaker.failures >= 0
