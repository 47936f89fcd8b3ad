"""A stretch of decode steps in which nobody starts, ends or leaves, in closed form.

Every sequence's context grows by its token a step, so the k-th of n sequences' steps takes and costs

    c(k) = base + per_sequence * n + per_context_token * (context + n * (k - 1))

and k of them k * c(1) + per_context_token * n * k * (k - 1) / 2. Instants and joules after any step are reckoned from the
stretch's begin, so they are the same to the last bit whether steps are taken one by one or leapt over.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf, sqrt

from telemetry.cost import Linear, StepModel


@dataclass(frozen=True, slots=True)
class Stretch:
    """Where it begins: the instant, the steps done, the joules drawn, the base shares summed, and who decodes.

    Attributes:
        at: seconds.
        steps: the engine's steps before it.
        energy_j: everything drawn before it.
        base_j: the engine's sum of base shares before it.
        sequences: that decode all through it.
        context_tokens: read by its first step.
    """

    model: StepModel
    at: float
    steps: int
    energy_j: float
    base_j: float
    sequences: int
    context_tokens: int

    def end(self, k: int) -> float:
        """When its k-th step ends."""
        return self.at + self._sum(self.model.step_s, k)

    def energy_at(self, k: int) -> float:
        """Everything drawn until then, idle power included."""
        return self.energy_j + self.model.idle_power_w * (self.end(k) - self.at) + self._sum(self.model.step_j, k)

    def base_at(self, k: int) -> float:
        """The base shares of everybody until then."""
        return self.base_j + k * (self.model.step_j.base / self.sequences)

    def steps_by(self, instant: float) -> int:
        """How many of its steps end at or before an instant."""
        k = self._estimate(instant)
        while self.end(k + 1) <= instant:
            k += 1
        while k > 0 and self.end(k) > instant:
            k -= 1
        return k

    def steps_before(self, instant: float) -> int:
        """How many of its steps start before an instant: the next starts at or after it."""
        k = self.steps_by(instant)
        return k if self.end(k) >= instant else k + 1

    def _sum(self, cost: Linear, k: int) -> float:
        return k * cost(self.sequences, 0, self.context_tokens) + cost.per_context_token * self.sequences * (k * (k - 1) / 2)

    def _estimate(self, instant: float) -> int:
        """The root of the sum's parabola, up to rounding."""
        seconds = instant - self.at
        if not 0 < seconds < inf:
            return 0
        first = self.model.step_s(self.sequences, 0, self.context_tokens)
        half = self.model.step_s.per_context_token * self.sequences / 2
        # half * k^2 + (first - half) * k = seconds, in the form that does not cancel when half is small
        linear = first - half
        root = linear + sqrt(max(linear * linear + 4 * half * seconds, 0.0))
        return max(ceil(2 * seconds / root) - 1, 0) if root > 0 else 0
