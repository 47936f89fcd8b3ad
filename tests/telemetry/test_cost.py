"""The step model in numbers, and its profiles: read, refused, and what their fit still gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from policies.engine import Engine, Job
from telemetry.cost import BUILT_IN, Linear, StepModel, load_profile, parse_profile, profile_text

MODEL = StepModel(
    "toy", Linear(0.25, 0.01, 0.001, 0.0), Linear(2.0, 0.1, 0.01, 0.001), idle_power_w=100.0, request_s=0.5, max_step_tokens=100
)


def test_a_cost_is_linear() -> None:
    assert MODEL.step_j(0, 0, 0) == 2.0
    assert MODEL.step_j(3, 20, 500) == pytest.approx(2.0 + 0.3 + 0.2 + 0.5)


@pytest.mark.parametrize(("prompt_tokens", "seconds"), [(0, 0.75), (1, 0.751), (100, 0.85), (101, 1.101), (250, 1.5)])
def test_a_first_token_takes_whole_steps(prompt_tokens: int, seconds: float) -> None:
    assert MODEL.first_token_s(prompt_tokens) == pytest.approx(seconds)


@pytest.mark.parametrize(("prompt_tokens", "output_tokens"), [(10, 1), (256, 128), (8193, 20), (20_000, 2)])
def test_a_request_alone_takes_what_the_engine_takes(prompt_tokens: int, output_tokens: int) -> None:
    model = load_profile()
    engine = Engine(model)
    engine.submit(Job("x", prompt_tokens, output_tokens), 0.0)
    while (at := engine.next_at) is not None:
        engine.advance(at)
    assert model.alone_s(prompt_tokens, output_tokens) == pytest.approx(engine.clock, rel=0.01)


def test_the_built_in_profile() -> None:
    model = load_profile()
    assert model.name == BUILT_IN
    # the round figures of an H200 with an 8B model: joules a step, a sequence and a prompt token; watts when idle
    assert 1.6 < model.step_j.base < 2.0
    assert 0.01 < model.step_j.per_sequence < 0.02
    assert 0.01 < model.step_j.per_prompt_token < 0.02
    assert 110 < model.idle_power_w < 125


def test_a_profile_by_its_path(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(profile_text(MODEL, {"hardware": "a toy"}))
    assert load_profile(str(file)) == MODEL
    assert json.loads(file.read_text())["provenance"] == {"hardware": "a toy"}


def test_a_profile_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    known = f"h100-llama8b-bf16, {BUILT_IN}, .*"
    with pytest.raises(ValueError, match=f"no profile 'h100': built in are {known}; else give a file's path"):
        load_profile("h100")
    with pytest.raises(ValueError, match="no profile"):
        load_profile(str(tmp_path))


def edited(edit: Callable[[dict[str, Any]], object]) -> str:
    """A good profile's text, spoilt."""
    data = {"model": asdict(MODEL)}
    edit(data)
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "JSONDecodeError"),
        ("[]", "TypeError"),
        ("{}", "KeyError: 'model'"),
        ('{"model": 3}', "AttributeError"),
        (edited(lambda data: data["model"].pop("step_j")), "KeyError: 'step_j'"),
        (edited(lambda data: data["model"].pop("idle_power_w")), "idle_power_w"),
        (edited(lambda data: data["model"]["step_s"].pop("base")), "base"),
        (edited(lambda data: data["model"].update(volume=3)), "volume"),
        (edited(lambda data: data["model"]["step_s"].update(volume=3)), "volume"),
        (edited(lambda data: data["model"].update(step_s="fast")), "TypeError"),
        (edited(lambda data: data["model"]["step_s"].update(base="fast")), "step_s.base cannot be 'fast'"),
        (edited(lambda data: data["model"]["step_s"].update(base=0)), "step_s.base cannot be 0"),
        (edited(lambda data: data["model"]["step_j"].update(base=-1.0)), "step_j.base cannot be -1.0"),
        (edited(lambda data: data["model"].update(idle_power_w=None)), "idle_power_w cannot be None"),
        (edited(lambda data: data["model"].update(idle_power_w=float("nan"))), "idle_power_w cannot be nan"),
        (edited(lambda data: data["model"].update(request_s=float("inf"))), "request_s cannot be inf"),
        (edited(lambda data: data["model"].update(request_s=True)), "request_s cannot be True"),
        (edited(lambda data: data["model"].update(max_sequences=2.5)), "max_sequences cannot be 2.5"),
        (edited(lambda data: data["model"].update(max_step_tokens=0)), "max_step_tokens cannot be 0"),
        (edited(lambda data: data["model"].update(name=7)), "name cannot be 7"),
    ],
)
def test_what_is_no_profile_is_refused_and_the_message_says_why(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=r"profile mine\.json: ") as refused:
        parse_profile(text, where="mine.json")
    assert says in str(refused.value)
    assert "'model' holds name, step_s, step_j, idle_power_w" in str(refused.value)


def test_all_that_is_unfit_is_told_at_once() -> None:
    with pytest.raises(ValueError, match=r"step_s\.base cannot be 'x'; band cannot be -1"):
        parse_profile(edited(lambda data: (data["model"]["step_s"].update(base="x"), data["model"].update(band=-1))), where="")


@pytest.mark.slow
def test_the_built_in_profile_is_what_its_command_fits_to_its_data() -> None:
    pytest.importorskip("numpy")
    from bench import fit_profile

    runs, idle_w = fit_profile.read()
    fitted = json.loads(
        profile_text(fit_profile.fit(runs, fit_profile.start(idle_w), fit_profile.replay), fit_profile.PROVENANCE)
    )
    shipped = json.loads(fit_profile.PROFILE.read_text())
    assert fitted["provenance"] == shipped["provenance"]
    for coefficients in ("step_s", "step_j"):
        # other builds of LAPACK round otherwise
        assert fitted["model"].pop(coefficients) == pytest.approx(shipped["model"].pop(coefficients), rel=1e-6)
    assert fitted["model"].pop("request_s") == pytest.approx(shipped["model"].pop("request_s"), rel=1e-6)
    shipped["model"].update((key, fitted["model"][key]) for key in ("sleep_power_w", "sleep_s", "wake_s", "wake_j"))
    assert fitted["model"] == shipped["model"]
