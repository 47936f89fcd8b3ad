"""What one step of a continuous-batching engine costs in time and energy, as a linear model.

A step serves every running sequence once and computes a slice of the waiting prompts. Reading the weights is paid once
a step (the base), whatever the batch; each sequence, each prompt token and each token of context read adds its own part:

    cost = base + per_sequence * n + per_prompt_token * p + per_context_token * c

Energy is net of idle power: a device that is busy for a step draws ``idle_power_w`` for its duration besides. The shape
is the roofline argument of arXiv 2601.22362 (decode is bound by memory, prefill by compute), and the coefficients of a
profile are fitted to measurements (`telemetry/fit.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from importlib import resources
from importlib.resources.abc import Traversable
from math import inf
from pathlib import Path

BUILT_IN = "h200-llama8b"


@dataclass(frozen=True, slots=True)
class Linear:
    """The four coefficients of one cost: seconds or joules."""

    base: float
    per_sequence: float
    per_prompt_token: float
    per_context_token: float

    def __call__(self, sequences: float, prompt_tokens: float, context_tokens: float) -> float:
        return (
            self.base
            + self.per_sequence * sequences
            + self.per_prompt_token * prompt_tokens
            + self.per_context_token * context_tokens
        )


STEP_J_ERROR = Linear(0.125, 0.125, 0.125, 0.125)  # of profiles that do not tell: as they are believed, within a band of 25 %


@dataclass(frozen=True, slots=True)
class StepModel:
    """One model on one server: its steps' cost, its idle power, and its limits.

    Attributes:
        name: the profile's name.
        step_s: seconds of a step.
        step_j: joules of a step, net of idle power.
        idle_power_w: watts of the server's devices with the model loaded and nobody in flight.
        request_s: seconds from a request's arrival until the engine may schedule it (HTTP, tokenizer).
        max_sequences: most sequences in one batch.
        max_step_tokens: most tokens, decoded and prompt together, in one step (chunked prefill).
        band: relative error within which the model's energy is believed; attribution scales only inside it.
        step_j_error: relative standard errors of the coefficients of `step_j`.
        sleep_power_w: watts while the engine sleeps; None: it cannot.
        sleep_s: seconds until it sleeps.
        wake_s: seconds until it can work again.
        wake_j: joules of waking, net of idle power.
    """

    name: str
    step_s: Linear
    step_j: Linear
    idle_power_w: float
    request_s: float = 0.0
    max_sequences: int = 256
    max_step_tokens: int = 8192
    band: float = 0.25
    step_j_error: Linear = STEP_J_ERROR
    sleep_power_w: float | None = None
    sleep_s: float = 0.0
    wake_s: float = 0.0
    wake_j: float = 0.0

    def first_token_s(self, prompt_tokens: int) -> float:
        """Seconds from arrival to first token on an idle server, in whole steps of `max_step_tokens`."""
        full, rest = divmod(max(prompt_tokens, 1), self.max_step_tokens)
        steps = full + (rest > 0)
        return self.request_s + steps * self.step_s.base + self.step_s.per_prompt_token * prompt_tokens

    def alone_s(self, prompt_tokens: int, output_tokens: int) -> float:
        """Seconds from arrival to last token of a request that has the server for itself."""
        decode = max(output_tokens - 1, 0)
        context = decode * prompt_tokens + decode * (decode + 1) / 2
        return (
            self.first_token_s(prompt_tokens)
            + decode * (self.step_s.base + self.step_s.per_sequence)
            + self.step_s.per_context_token * context
        )


def built_in() -> dict[str, Traversable]:
    """The files of the built-in profiles, by name."""
    files = resources.files("telemetry.profiles").iterdir()
    return {file.name.removesuffix(".json"): file for file in files if file.name.endswith(".json")}


def load_profile(name_or_path: str = BUILT_IN) -> StepModel:
    """A built-in profile by its name, or any profile by the path of its JSON file.

    Raises:
        ValueError: no such profile, or the file does not hold one; the message says what is known.
    """
    known = built_in()
    try:
        text = known[name_or_path].read_text() if name_or_path in known else Path(name_or_path).read_text()
    except OSError as error:
        raise ValueError(
            f"no profile {name_or_path!r}: built in are {', '.join(sorted(known))}; else give a file's path ({error})"
        ) from error
    return parse_profile(text, where=name_or_path)


def parse_profile(text: str, *, where: str) -> StepModel:
    """The step model in a profile's JSON text.

    Raises:
        ValueError: not JSON, or a key is missing or unknown, or a value is no number that it can be.
    """
    try:
        data = json.loads(text)
        model = data["model"]
        step_s, step_j = Linear(**model.pop("step_s")), Linear(**model.pop("step_j"))
        error = Linear(**model.pop("step_j_error", asdict(STEP_J_ERROR)))
        read = StepModel(step_s=step_s, step_j=step_j, step_j_error=error, **model)
        if unfit := [f"{key} cannot be {value!r}" for key, value in _flat(asdict(read)) if not _fits(key, value)]:
            raise TypeError("; ".join(unfit))
        return read
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        allowed = ", ".join(f.name for f in fields(StepModel))
        raise ValueError(f"profile {where}: {type(error).__name__}: {error}; 'model' holds {allowed}") from error


def _flat(values: Mapping[str, object], of: str = "") -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{of}{key}.")
        else:
            yield of + key, value


def _fits(key: str, value: object) -> bool:
    if key == "name":
        return isinstance(value, str)
    if key in ("max_sequences", "max_step_tokens"):
        return isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if key == "sleep_power_w" and value is None:
        return True
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value < inf if key == "step_s.base" else 0 <= value < inf  # steps that take no time would never end


def profile_text(model: StepModel, provenance: Mapping[str, object]) -> str:
    """A profile's JSON text: the model, and where its numbers come from."""
    return json.dumps({"model": asdict(model), "provenance": dict(provenance)}, indent=2) + "\n"
