"""How much traffic there is, smoothed: the rate of arrivals, their mean lengths, and how long they may wait."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, expm1, inf

MEMORY_S = 60.0  # an arrival so long ago weighs 1/e
FEWEST = 3.0  # arrivals in memory, as they weigh, before a rate is told


@dataclass(frozen=True, slots=True)
class Traffic:
    """What arrives, as far as it can be told from what arrived.

    Attributes:
        per_s: arrivals a second; None while there were too few to tell.
        flexible_per_s: of these, arrivals that may wait at all.
        prompt_tokens: mean of an arrival.
        output_tokens: mean that an arrival is expected to have.
        slack_s: mean that a flexible arrival may wait.
    """

    per_s: float | None = None
    flexible_per_s: float = 0.0
    prompt_tokens: float = 0.0
    output_tokens: float = 0.0
    slack_s: float = 0.0


UNKNOWN_TRAFFIC = Traffic()


@dataclass(slots=True)
class Arrivals:
    """Learns a `Traffic` from arrivals, each of which weighs exp(-age / memory).

    The sum of weights of a Poisson process of rate r, watched for a time t, has the mean r * memory * (1 - exp(-t / memory)):
    dividing by it gives a rate that is unbiased from the start. Arrivals are told in the order of their times.
    """

    memory_s: float = MEMORY_S
    _since: float = inf
    _at: float = -inf
    _weight: float = 0.0
    _flexible: float = 0.0
    _prompt: float = 0.0
    _output: float = 0.0
    _slack: float = 0.0
    _told: tuple[float, Traffic] = (-inf, UNKNOWN_TRAFFIC)  # several ask at one instant

    def saw(self, at: float, prompt_tokens: float, output_tokens: float, slack_s: float) -> None:
        """One arrival at `at`, monotonic seconds."""
        fade = self._fade(at)
        flexible = slack_s > 0
        self._since = min(self._since, at)
        self._at = max(self._at, at)
        self._weight = self._weight * fade + 1
        self._flexible = self._flexible * fade + flexible
        self._prompt = self._prompt * fade + prompt_tokens
        self._output = self._output * fade + output_tokens
        self._slack = self._slack * fade + (slack_s if flexible else 0.0)
        self._told = (-inf, UNKNOWN_TRAFFIC)

    def at(self, now: float) -> Traffic:
        """What can be told at `now`; unknown while there is little to tell from."""
        if self._told[0] != now:
            self._told = now, self._reckon(now)
        return self._told[1]

    def _reckon(self, now: float) -> Traffic:
        fade = self._fade(now)
        weight = self._weight * fade
        watched = now - self._since
        worth_s = -self.memory_s * expm1(-watched / self.memory_s)
        if weight < FEWEST or not worth_s > 0:
            return UNKNOWN_TRAFFIC
        # the first arrival began the watch, so it says nothing of the rate
        first = exp(-watched / self.memory_s)
        return Traffic(
            per_s=(weight - first) / worth_s,
            flexible_per_s=max(self._flexible * fade - first, 0.0) / worth_s,
            prompt_tokens=self._prompt / self._weight,
            output_tokens=self._output / self._weight,
            slack_s=self._slack / self._flexible if self._flexible else 0.0,
        )

    def _fade(self, at: float) -> float:
        return exp(-max(at - self._at, 0.0) / self.memory_s) if self._weight else 0.0


@dataclass(slots=True)
class Smoothed:
    """A mean in which each value weighs `share` when it comes, and less with each that follows."""

    share: float = 0.2
    value: float | None = None

    def saw(self, value: float) -> None:
        self.value = value if self.value is None else self.value + self.share * (value - self.value)

    def forget(self) -> None:
        self.value = None
