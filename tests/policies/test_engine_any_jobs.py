"""What must hold for any jobs on an engine, cancelled or not, however often its clock is moved."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


@dataclass(frozen=True)
class Plot:
    """What happens: jobs come, some are cancelled, and somebody looks at the clock in between."""

    jobs: list[tuple[float, Job]]
    cancels: list[tuple[float, str]]
    looks: list[float] = field(default_factory=list)


def play(plot: Plot, model: StepModel) -> tuple[Engine, list[Step]]:
    engine = Engine(model)
    steps: list[Step] = []
    happens = (
        [(at, 1, job) for at, job in plot.jobs] + [(at, 2, id) for at, id in plot.cancels] + [(at, 0, "") for at in plot.looks]
    )
    for at, kind, what in sorted(happens, key=lambda event: event[:2]):
        steps += engine.advance(at)
        if isinstance(what, Job):
            engine.submit(what, at)
        elif kind == 2:
            engine.cancel(what, at)
    return engine, steps + run(engine)


times = st.integers(0, 24).map(lambda n: n / 8)
jobs = st.lists(st.tuples(times, st.integers(1, 40), st.integers(1, 12)), min_size=1, max_size=12)
looks = st.lists(st.floats(0, 12), max_size=20)
models = st.builds(
    lambda request_s, sequences, tokens: replace(MODEL, request_s=request_s, max_sequences=sequences, max_step_tokens=tokens),
    st.sampled_from([0.0, 0.125]),
    st.integers(1, 6),
    st.integers(6, 32),
)


@st.composite
def plots(draw: st.DrawFn, *, cancels: bool = False) -> Plot:
    come = [(at, Job(f"r{n}", prompt, out)) for n, (at, prompt, out) in enumerate(sorted(draw(jobs), key=lambda job: job[0]))]
    gone = [(at + draw(times), job.id) for at, job in come if cancels and draw(st.booleans())]
    return Plot(come, gone, draw(looks))


@settings(deadline=None)
@given(plot=plots(), model=models)
def test_every_joule_is_somebodys_or_idle(plot: Plot, model: StepModel) -> None:
    engine, steps = play(plot, model)
    finished = [finished for step in steps for finished in step.ended]
    assert sorted(one.id for one in finished) == sorted(job.id for _, job in plot.jobs)
    active_j = sum(one.energy_j for one in finished)
    assert active_j + model.idle_power_w * engine.clock == pytest.approx(engine.energy_j(engine.clock), rel=1e-9)


@settings(deadline=None)
@given(plot=plots(cancels=True), model=models)
def test_how_often_the_clock_is_moved_makes_no_difference(plot: Plot, model: StepModel) -> None:
    """Up to rounding: an idle engine's joules are summed in as many parts as it is looked at."""
    looked, steps = play(plot, model)
    unseen, same = play(replace(plot, looks=[]), model)
    assert [(step.at, step.started, [one.id for one in step.ended]) for step in steps] == [
        (step.at, step.started, [one.id for one in step.ended]) for step in same
    ]
    assert [one.energy_j for step in steps for one in step.ended] == [one.energy_j for step in same for one in step.ended]
    at = max(looked.clock, unseen.clock)
    assert looked.energy_j(at) == pytest.approx(unseen.energy_j(at), rel=1e-9)


@settings(deadline=None)
@given(plot=plots(), model=models)
def test_each_job_gets_exactly_its_tokens_in_order_within_the_limits(plot: Plot, model: StepModel) -> None:
    engine, steps = play(plot, model)
    index = {step.at: n for n, step in enumerate(steps)}
    first, last = starts(steps), ends(steps)
    for at, job in plot.jobs:
        assert index[last[job.id]] - index[first[job.id]] == job.output_tokens - 1  # one token in each step
        assert first[job.id] > at + model.request_s
    assert [id for step in steps for id in step.started] == [job.id for _, job in plot.jobs]
    for n, step in enumerate(steps):
        busy = [job for _, job in plot.jobs if index[first[job.id]] < n <= index[last[job.id]]]
        assert len(busy) + len(step.started) <= model.max_sequences
    prompt_tokens = sum(job.prompt_tokens for _, job in plot.jobs)
    decoded = sum(job.output_tokens - 1 for _, job in plot.jobs)
    assert engine.steps == len(steps) >= ceil((prompt_tokens + decoded) / model.max_step_tokens)


@settings(deadline=None)
@given(plot=plots(), model=models)
def test_no_step_computes_more_tokens_than_the_budget(plot: Plot, model: StepModel) -> None:
    """Seen from outside: with nothing but tokens costing time, a step's length counts them."""
    counting = replace(model, step_s=Linear(2.0**-10, 0.0, 1.0, 0.0), request_s=0.0)
    _, steps = play(replace(plot, jobs=[(0.0, job) for _, job in plot.jobs]), counting)
    first, last = starts(steps), ends(steps)
    began = 0.0
    for step in steps:
        decoding = sum(first[job.id] < step.at <= last[job.id] for _, job in plot.jobs)
        prompt_tokens = round(step.at - began - 2.0**-10)
        assert prompt_tokens + decoding <= model.max_step_tokens
        began = step.at


@settings(deadline=None)
@given(plot=plots(cancels=True), model=models)
def test_whoever_is_cancelled_leaves_nothing_behind(plot: Plot, model: StepModel) -> None:
    engine, steps = play(plot, model)
    last = ends(steps)
    cancelled = {id: at for at, id in plot.cancels}
    for _, job in plot.jobs:
        assert job.id in last or job.id in cancelled
        if job.id in last and job.id in cancelled:
            assert last[job.id] <= cancelled[job.id]
    assert (engine.in_flight, engine.waiting, engine.next_at) == (0, 0, None)
    assert (engine._decoding, engine._context, len(engine._prompts), len(engine._arriving)) == (0, 0, 0, 0)
    active_j = sum(one.energy_j for step in steps for one in step.ended)
    spent_j = engine.energy_j(engine.clock) - model.idle_power_w * engine.clock
    assert active_j <= spent_j * (1 + 1e-9) + 1e-9
    engine.submit(Job("next", 4, 2), engine.clock + 1)
    assert list(ends(run(engine))) == ["next"]


@settings(deadline=None)
@given(plot=plots(cancels=True), model=models)
def test_energy_never_falls(plot: Plot, model: StepModel) -> None:
    engine = Engine(model)
    before, happens = 0.0, [(at, 0, job, "") for at, job in plot.jobs] + [(at, 1, None, id) for at, id in plot.cancels]
    for at, _, job, id in sorted(happens, key=lambda event: event[:2]):
        engine.advance(at)
        assert engine.energy_j(at) >= before - 1e-9
        if job is not None:
            engine.submit(job, at)
        else:
            engine.cancel(id, at)
        before = engine.energy_j(at)


# lengths and times that are no sums of powers of two
UNEVEN = replace(MODEL, step_s=Linear(0.1, 0.003, 0.0007, 0.00001), step_j=Linear(1.7, 0.013, 0.011, 0.0003))


@settings(deadline=None)
@given(plot=plots(cancels=True), model=models)
def test_leaping_gives_the_same_starts_ends_and_joules_to_the_last_bit(plot: Plot, model: StepModel) -> None:
    model = replace(UNEVEN, request_s=model.request_s, max_sequences=model.max_sequences, max_step_tokens=model.max_step_tokens)
    engine, steps = play(plot, model)
    leaping = Engine(model)
    leapt: list[Step] = []
    happens = (
        [(at, 1, job) for at, job in plot.jobs] + [(at, 2, id) for at, id in plot.cancels] + [(at, 0, "") for at in plot.looks]
    )
    for at, kind, what in sorted(happens, key=lambda event: event[:2]):
        while (event_at := leaping.next_event_at) is not None and event_at <= at:
            leapt += leaping.leap(event_at)
        assert leaping.leap(at) == []  # nothing happens between events
        if isinstance(what, Job):
            leaping.submit(what, at)
        elif kind == 2:
            leaping.cancel(what, at)
    while (event_at := leaping.next_event_at) is not None:
        assert event_at >= leaping.clock
        leapt += leaping.leap(event_at)
    assert leapt == [step for step in steps if step.started or step.ended]
    assert leaping.steps == engine.steps
    at = max(engine.clock, leaping.clock)
    assert leaping.energy_j(at) == pytest.approx(engine.energy_j(at), rel=1e-9)
