"""The engine by hand: what each step takes, costs, starts and ends."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from math import inf

import pytest

from policies.engine import Engine, Job, Step
from telemetry.cost import Linear, StepModel

# powers of two, so that sums of times are exact
MODEL = StepModel(
    "toy",
    step_s=Linear(0.25, 2**-6, 2**-8, 2**-14),
    step_j=Linear(2.0, 0.25, 0.125, 2**-8),
    idle_power_w=16.0,
    request_s=0.0,
    max_sequences=3,
    max_step_tokens=16,
)


def run(engine: Engine) -> list[Step]:
    """All steps until nothing is left to do."""
    steps: list[Step] = []
    while (at := engine.next_at) is not None:
        steps += engine.advance(at)
    return steps


def ends(steps: list[Step]) -> dict[str, float]:
    return {finished.id: step.at for step in steps for finished in step.ended}


def starts(steps: list[Step]) -> dict[str, float]:
    return {id: step.at for step in steps for id in step.started}


def test_one_job_step_by_step() -> None:
    engine = Engine(MODEL)
    engine.submit(Job("x", 8, 3), 0.0)
    prefill_s = 0.25 + 2**-6 + 8 * 2**-8
    decode_s = 0.25 + 2**-6
    first, second, third = run(engine)
    assert (first.at, first.started, first.ended) == (prefill_s, ("x",), ())
    assert second.at == prefill_s + decode_s + 9 * 2**-14  # reads the prompt and the first token
    assert third.at == second.at + decode_s + 10 * 2**-14
    (finished,) = third.ended
    assert finished.energy_j == pytest.approx(3 * (2.0 + 0.25) + 8 * 0.125 + (9 + 10) * 2**-8)
    assert engine.energy_j(third.at) == pytest.approx(finished.energy_j + 16.0 * third.at)
    assert (engine.in_flight, engine.next_at) == (0, None)


def test_a_job_of_one_token_starts_and_ends_in_one_step() -> None:
    engine = Engine(MODEL)
    engine.submit(Job("x", 8, 1), 0.0)
    (step,) = run(engine)
    assert (step.started, [finished.id for finished in step.ended]) == (("x",), ["x"])


def test_the_base_is_shared_by_those_in_the_step() -> None:
    engine = Engine(replace(MODEL, step_j=Linear(2.0, 0.0, 0.0, 0.0)))
    engine.submit(Job("x", 1, 2), 0.0)
    engine.submit(Job("y", 1, 4), 0.0)
    energy = {finished.id: finished.energy_j for step in run(engine) for finished in step.ended}
    assert energy == {"x": 2 * 1.0, "y": 2 * 1.0 + 2 * 2.0}


def test_who_comes_at_the_same_instant_is_in_the_same_step() -> None:
    engine = Engine(MODEL)
    engine.submit(Job("x", 1, 1), 1.0)
    engine.advance(1.0)
    engine.submit(Job("y", 1, 1), 1.0)
    (step,) = run(engine)
    assert (step.at, step.started) == (1.0 + 0.25 + 2 * 2**-6 + 2 * 2**-8, ("x", "y"))


def test_who_comes_at_the_start_of_a_step_is_in_it_and_who_comes_later_is_in_the_next() -> None:
    engine = Engine(MODEL)
    engine.submit(Job("x", 1, 3), 0.0)
    at = engine.next_at
    assert at is not None
    engine.advance(at)
    engine.submit(Job("prompt", 1, 1), at)  # the second step begins at this very instant
    (second,) = engine.advance(engine.next_at or inf)
    assert second.started == ("prompt",)
    engine.advance(second.at + 0.01)
    engine.submit(Job("late", 1, 1), second.at + 0.01)
    third, fourth = run(engine)
    assert (third.started, fourth.started) == ((), ("late",))


def test_a_request_takes_its_time_to_reach_the_engine() -> None:
    engine = Engine(replace(MODEL, request_s=0.5))
    engine.submit(Job("x", 1, 1), 1.0)
    assert engine.energy_j(1.5) == 16.0 * 1.5
    (step,) = run(engine)
    assert step.at == 1.5 + 0.25 + 2**-6 + 2**-8


def test_a_long_prompt_is_computed_in_chunks_beside_those_who_decode() -> None:
    engine = Engine(MODEL)
    engine.submit(Job("short", 2, 9), 0.0)
    engine.submit(Job("long", 40, 2), 0.0)
    steps = run(engine)
    # 2 + 14 tokens, then 15 beside one that decodes, then the last 11
    assert [index for index, step in enumerate(steps) if "long" in step.started] == [2]


def test_first_come_first_served_up_to_the_seats() -> None:
    engine = Engine(MODEL)
    for n in range(5):
        engine.submit(Job(f"r{n}", 1, 2), 0.0)
    assert [step.started for step in run(engine)] == [("r0", "r1", "r2"), (), ("r3", "r4"), ()]


def test_energy_between_steps_grows_evenly() -> None:
    engine = Engine(MODEL)
    engine.submit(Job("x", 8, 1), 0.0)
    end = engine.next_at or inf
    half, whole = engine.energy_j(end / 2), engine.energy_j(end)
    assert half == pytest.approx(whole / 2)
    assert engine.energy_j(end + 1) == pytest.approx(whole + 16.0)


@pytest.mark.parametrize("job", [Job("x", 0, 1), Job("x", 1, 0), Job("taken", 1, 1)])
def test_what_is_no_job_is_refused(job: Job) -> None:
    engine = Engine(MODEL)
    engine.submit(Job("taken", 1, 1), 0.0)
    with pytest.raises(ValueError, match=job.id):
        engine.submit(job, 0.0)


def test_a_driver_that_forgets_to_advance_is_told() -> None:
    engine = Engine(MODEL)
    engine.submit(Job("x", 1, 1), 0.0)
    with pytest.raises(ValueError, match="advance"):
        engine.submit(Job("y", 1, 1), 5.0)


def test_an_id_can_come_back_after_its_job_has_ended_or_was_cancelled() -> None:
    engine = Engine(MODEL)
    engine.submit(Job("x", 1, 1), 0.0)
    run(engine)
    engine.submit(Job("x", 1, 5), 1.0)
    engine.advance(1.5)
    engine.cancel("x", 1.5)
    engine.submit(Job("x", 1, 1), 1.5)
    assert list(ends(run(engine))) == ["x"]
    assert engine.in_flight == 0


def test_a_long_queue_costs_a_submit_nothing() -> None:
    engine = Engine(MODEL)
    for n in range(5_000):
        engine.submit(Job(f"r{n}", 1, 1), 0.0)
    tracemalloc.start()
    engine.submit(Job("one more", 1, 1), 0.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000  # bytes: a list of those who wait would be 40,000
