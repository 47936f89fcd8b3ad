"""The fit of the step model: it finds what made the numbers, says how sure it is, and refuses what cannot tell."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

np = pytest.importorskip("numpy")

from telemetry.cost import Linear, StepModel, load_profile, parse_profile, profile_text  # noqa: E402
from telemetry.fit import FitError, Work, fit  # noqa: E402
from telemetry.regression import t95  # noqa: E402

TRUE = replace(
    load_profile(),
    step_s=Linear(5e-3, 1.5e-5, 2.4e-5, 3.3e-8),
    step_j=Linear(1.8, 0.0135, 0.015, 2e-5),
    idle_power_w=120.0,
    request_s=3e-3,
)


def work(
    name: str, model: StepModel = TRUE, *, batch: int = 0, context: int = 0, prompt: int = 0, steps: int = 500, off: float = 0.0
) -> Work:
    """What a server of this model does in so many steps; `off` is by how much more it draws than the model says."""
    sequences, requests = (batch, 0) if batch else (1, steps)
    parts = (steps, steps * sequences, steps * prompt, steps * batch * context)
    seconds = model.request_s * requests + sum(n * each for n, each in zip(parts, (*_coefficients(model.step_s),), strict=True))
    net = sum(n * each for n, each in zip(parts, (*_coefficients(model.step_j),), strict=True))
    return Work(name, seconds, model.idle_power_w * seconds + net * (1 + off), 0.0, *parts, requests)


def _coefficients(linear: Linear) -> tuple[float, ...]:
    return linear.base, linear.per_sequence, linear.per_prompt_token, linear.per_context_token


def idle(watts: float = 120.0) -> Work:
    return Work("idle", 2.5, 2.5 * watts)


def runs(model: StepModel = TRUE, dice: Random | None = None) -> list[Work]:
    """Short and long contexts, prompts, both; with errors of one percent where dice are given."""

    def off() -> float:
        return dice.gauss(0, 0.01) if dice else 0.0

    found = [idle(model.idle_power_w * (1 + off())) for _ in range(4)]
    found += [work(f"decode {n}", model, batch=n, context=300, off=off()) for n in (1, 2, 4, 8, 16, 32, 64, 128)]
    found += [work(f"long {n}", model, batch=n, context=4096, off=off()) for n in (4, 16, 32)]
    found += [work(f"prefill {n}", model, prompt=n, off=off()) for n in (64, 256, 1024, 4096)]
    found += [work(f"mixed {n}", model, batch=16, context=300, prompt=n, off=off()) for n in (128, 512)]
    return found


def test_without_errors_it_finds_what_made_the_numbers() -> None:
    found = fit(runs(), load_profile())
    for fitted, true in ((found.model.step_s, TRUE.step_s), (found.model.step_j, TRUE.step_j)):
        assert _coefficients(fitted) == pytest.approx(_coefficients(true), rel=1e-6)
    assert found.model.request_s == pytest.approx(TRUE.request_s)
    assert found.model.idle_power_w == pytest.approx(120.0)
    assert found.model.band == 0.1
    assert not any(coefficient.doubt for coefficient in found.coefficients)


def test_what_it_finds_is_a_profile() -> None:
    found = fit(runs(dice=Random(3)), replace(load_profile(), name="mine", max_sequences=64))
    read = parse_profile(profile_text(found.model, {}), where="mine.json")
    assert read == found.model
    assert (read.name, read.max_sequences) == ("mine", 64)


def test_intervals_hold_the_truth_nineteen_times_of_twenty() -> None:
    inside = total = 0
    for seed in range(100):
        coefficients = fit(runs(dice=Random(seed)), load_profile()).coefficients
        true = dict(
            zip(("base", "per_sequence", "per_prompt_token", "per_context_token"), _coefficients(TRUE.step_j), strict=True)
        )
        for coefficient in coefficients:
            if coefficient.name.startswith("step_j."):
                total += 1
                inside += coefficient.low <= true[coefficient.name.removeprefix("step_j.")] <= coefficient.high
    assert total == 400
    assert 0.90 <= inside / total <= 0.99


def test_errors_that_attribution_reckons_with_grow_with_what_the_runs_leave_open() -> None:
    exact, noisy = (fit(found, load_profile()).model.step_j_error for found in (runs(), runs(dice=Random(3))))
    assert _coefficients(exact) == pytest.approx((0, 0, 0, 0), abs=1e-3)
    assert all(0.005 < error < 0.1 for error in _coefficients(noisy))


def test_a_cost_below_nothing_is_none_and_is_doubted() -> None:
    cheap = replace(TRUE, step_j=replace(TRUE.step_j, per_context_token=-3e-7))
    found = fit(runs(cheap), load_profile())
    context = next(one for one in found.coefficients if one.name == "step_j.per_context_token")
    assert context.value == found.model.step_j.per_context_token == 0.0
    assert "taken as none" in context.doubt
    assert found.model.step_j_error.per_context_token == 1.0
    assert found.model.step_j.base == pytest.approx(TRUE.step_j.base, rel=0.05)


def test_what_no_run_tells_is_said() -> None:
    free = replace(TRUE, step_s=replace(TRUE.step_s, per_context_token=0.0), step_j=replace(TRUE.step_j, per_context_token=0.0))
    without = [replace(one, context_tokens=0.0) for one in runs(free)]
    found = fit(without, load_profile())
    doubts = {one.name: one.doubt for one in found.coefficients if one.doubt}
    assert doubts == {"step_s.per_context_token": "no run tells it", "step_j.per_context_token": "no run tells it"}


def test_a_coefficient_that_noise_hides_is_doubted() -> None:
    tiny = replace(TRUE, step_j=replace(TRUE.step_j, per_context_token=1e-9))
    doubts = {one.name: one.doubt for one in fit(runs(tiny, Random(1)), load_profile()).coefficients}
    assert doubts["step_j.per_context_token"]
    assert not doubts["step_j.base"]


def test_the_band_is_the_error_of_a_run_that_was_not_in_the_fit() -> None:
    """A neighbour on the device in one run: without it the others predict the joules that it should have had."""
    works = runs()
    odd = next(n for n, one in enumerate(works) if one.name == "decode 4")
    clean = works[odd]
    net_j = clean.energy_j - TRUE.idle_power_w * clean.seconds
    works[odd] = replace(clean, energy_j=clean.energy_j + 0.5 * net_j)
    found = fit(works, load_profile())
    residual = next(one for one in found.residuals if one.work.name == "decode 4")
    assert residual.unseen_net_j == pytest.approx(net_j, rel=1e-6)
    assert found.model.band == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(
    ("works", "says"),
    [
        ([idle(), *runs()[4:]], "1 idle runs"),
        ([idle(), idle()], "no run with work"),
        ([idle(), idle(), *runs()[4:8]], "two more are needed"),
        ([idle(), idle(121.0)] + [replace(one, energy_j=120.5 * one.seconds) for one in runs()[4:]], "do not follow the work"),
        ([idle(), idle()] + [work("same", batch=8, context=300)] * 9, "too much alike"),
    ],
)
def test_runs_that_cannot_tell_are_refused(works: list[Work], says: str) -> None:
    with pytest.raises(FitError, match=says):
        fit(works, load_profile())


def test_student_s_t() -> None:
    for freedom, value in ((1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042)):
        assert t95(freedom) == pytest.approx(value, rel=0.002)
