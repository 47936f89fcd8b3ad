"""How wrong a request's joules can be: what each settlement adds to its doubt, and what that comes to in the end."""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, sqrt

from telemetry.snapshot import Source

COVERAGE = 1.96  # standard uncertainties in half a 95 % interval
UNIFORM = 1 / sqrt(3)  # the standard uncertainty of what lies anywhere within one half-width
BLINDNESS = 0.15  # relative standard error of a timeline that nobody saw, until the domain has learnt its own
LEAST_BLINDNESS = 0.1  # ... and at the least: counts agree where phases do not
PHASE_ERROR = 0.2  # relative standard error of where in a queue of prompts the joules of one were used
GUESS_ERROR = 0.25  # relative standard error of a prompt's length that was guessed from its text
# Half-widths, relative, of what meters tell. A counter and its own device's power agree within 3 % (docs/results); of power
# readings NVIDIA says 5 %. A simulated counter is taken to be as good as a real one.
METER_ERRORS = {Source.COUNTER: 0.03, Source.SIMULATED: 0.03, Source.POWER_INTEGRAL: 0.05, Source.REPLAYED: 0.05}


@dataclass(slots=True)
class Doubt:
    """What is doubtful of one request's joules, added up over its settlements, in joules.

    Errors of the step model's coefficients and of idle power are the same in every settlement, so they are added up with
    their signs; the edges of intervals are independent, so their squares are. The sum of a request's parts is by the law of
    propagation of uncertainty (JCGM 100:2008, 5.1.2).

    Attributes:
        edges_j2: variance from when intervals began and ended, and from when the request came and went.
        base_j: what would move if the model's `base` were off by its standard error; likewise the other coefficients.
        blind_j: what hangs on timelines that nobody has seen: its own, or its mates'.
        phase_j: what hangs on when prompts were computed, where nobody knows.
        guess_j: what would move if guessed lengths of prompts, its own and its mates', were off by all of them.
        counts_j: what its token counts, told too late, say of its settled joules; a half-width.
        idle_j: what would move if idle power were off by its standard error.
        excess_j: what it was charged beyond the model: somebody else may have used it.
        missing_j: unattributed joules of the time when it was a guess what it did: they may have been its own.
        model_j: what nobody measured can be off by; a half-width.
        meter_j: what the meter can be off by; a half-width.
        blindness: relative standard error of timelines that nobody saw.
        assumed_tokens: output tokens that it was taken to have when it was settled without being seen.
        assumed_prompt: tokens of its prompt that were taken to have been computed.
        unseen_j: joules of its decode that were settled so, as far as there were others to share them with.
    """

    edges_j2: float = 0.0
    base_j: float = 0.0
    sequence_j: float = 0.0
    prompt_j: float = 0.0
    context_j: float = 0.0
    blind_j: float = 0.0
    phase_j: float = 0.0
    guess_j: float = 0.0
    counts_j: float = 0.0
    idle_j: float = 0.0
    excess_j: float = 0.0
    missing_j: float = 0.0
    model_j: float = 0.0
    meter_j: float = 0.0
    blindness: float = BLINDNESS
    assumed_tokens: float = 0.0
    assumed_prompt: float = 0.0
    unseen_j: float = 0.0

    def parts(self) -> dict[str, float]:
        """Half-widths of 95 % intervals by cause, in joules."""
        return {
            "edges_j": COVERAGE * sqrt(self.edges_j2),
            "split_j": COVERAGE * hypot(self.base_j, self.sequence_j, self.prompt_j, self.context_j),
            "timeline_j": COVERAGE * (max(self.blindness, LEAST_BLINDNESS) * self.blind_j + PHASE_ERROR * self.phase_j)
            + self.missing_j,
            "counts_j": hypot(COVERAGE * GUESS_ERROR * self.guess_j, self.counts_j),
            "idle_j": COVERAGE * self.idle_j,
            "foreign_j": max(self.excess_j, 0.0),
            "model_j": self.model_j,
            "meter_j": self.meter_j,
        }

    @property
    def total_j(self) -> float:
        """Half the width of the 95 % interval, all causes together."""
        return hypot(*self.parts().values())
