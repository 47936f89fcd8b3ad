"""One experiment as somebody sees it who looks after every pair, and what many of them come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import log1p, sqrt
from statistics import fmean

from telemetry.blocks import Block
from telemetry.comparison import Guardrails, compare
from telemetry.covariates import adjusted
from telemetry.design import Design
from telemetry.guardrails import judge
from telemetry.pairs import METRICS, paired
from telemetry.sequential import always_valid, asymptotic
from telemetry.student import Interval, mean_interval

METRIC, ALPHA = "j_per_token", 0.05
DRAWS = 1_000
Z95 = 1.96


@dataclass(frozen=True, slots=True)
class Trial:
    """What one experiment said; the truth is a log ratio.

    Attributes:
        estimate: log ratio.
        watched: the always-valid interval left nothing out at some look.
        watched_asymptotic: likewise the asymptotic confidence sequence, from the second pair on.
        watched_student: likewise Student's interval, which is for one look.
        at_the_end: the always-valid interval left nothing out at the last look.
        student: likewise Student's.
        randomised: p of the randomisation test at the last look was at most alpha.
        covered: the truth was in the always-valid interval at every look.
        student_covered: the truth was in Student's interval at the last look.
        adjusted_covered: likewise in the adjusted one; None: there was none.
        sums_covered: likewise in that of the ratio of sums.
        half: of the always-valid interval at the end; None: there was none.
        student_half: of Student's.
        adjusted_half: of the adjusted.
        adjusted_watched: the adjusted always-valid interval left nothing out at some look.
        adjusted_always: the truth was in it at every look.
        adjusted_found: it left nothing out at the last look.
        adjusted_valid_half: half of it at the end.
        tripped: a guardrail tripped at some look.
    """

    estimate: float
    watched: bool
    watched_asymptotic: bool
    watched_student: bool
    at_the_end: bool
    student: bool
    randomised: bool
    covered: bool
    student_covered: bool
    adjusted_covered: bool | None
    sums_covered: bool
    half: float | None
    student_half: float | None
    adjusted_half: float | None
    adjusted_watched: bool
    adjusted_always: bool
    adjusted_found: bool
    adjusted_valid_half: float | None
    tripped: bool


def trial(design: Design, blocks: Sequence[Block], truth: float, guardrails: Guardrails = Guardrails()) -> Trial:  # noqa: B008
    """Look at an experiment after every pair."""
    pairs, _ = paired(blocks, design, METRIC)
    logs = [value for pair in pairs if (value := pair.log_ratio(METRICS[METRIC])) is not None]
    looks = [logs[:seen] for seen in range(2, len(logs) + 1)]
    valid = [always_valid(seen, design.pairs, ALPHA) for seen in looks]
    last = compare(blocks, design, metric=METRIC, alpha=ALPHA, guardrails=guardrails, draws=DRAWS)
    verdicts = [one for seen in range(1, len(pairs) + 1) for one in judge(pairs[:seen], guardrails, design.pairs, ALPHA)]
    student = mean_interval(logs, ALPHA)
    lines = [adjusted(logs[:seen], pairs[:seen], design.pairs, ALPHA) for seen in range(2, len(pairs) + 1)]
    fair = [None if line is None else line.effect for line in lines]
    return Trial(
        estimate=fmean(logs),
        watched=any(_excludes(one, 0.0) for one in valid),
        watched_asymptotic=any(_excludes(asymptotic(seen, design.pairs, ALPHA), 0.0) for seen in looks),
        watched_student=any(_excludes(mean_interval(seen, ALPHA), 0.0) for seen in looks),
        at_the_end=_excludes(valid[-1], 0.0),
        student=_excludes(student, 0.0),
        randomised=last.chance is not None and last.chance.p <= ALPHA,
        covered=not any(_excludes(one, truth) for one in valid),
        student_covered=not _excludes(student, truth),
        adjusted_covered=None if last.adjusted is None else not _excludes(_logs(last.adjusted), truth),
        sums_covered=not _excludes(_logs(last.of_sums), truth),
        half=_half(valid[-1]),
        student_half=_half(student),
        adjusted_half=_half(_logs(last.adjusted)),
        adjusted_watched=any(_excludes(one, 0.0) for one in fair),
        adjusted_always=not any(_excludes(one, truth) for one in fair),
        adjusted_found=_excludes(fair[-1], 0.0),
        adjusted_valid_half=_half(fair[-1]),
        tripped=any(one.judgement == "tripped" for one in verdicts),
    )


def _excludes(found: Interval | None, value: float) -> bool:
    return found is not None and found.excludes(value)


def _half(found: Interval | None) -> float | None:
    return None if found is None or found.low is None or found.high is None else (found.high - found.low) / 2


def _logs(found: Interval | None) -> Interval | None:
    if found is None or found.low is None or found.high is None:
        return None
    return Interval(log1p(found.middle), log1p(max(found.low, -0.999999)), log1p(found.high))


@dataclass(frozen=True, slots=True)
class Share:
    """How many of how many, with Wilson's interval of 95 %."""

    of: int
    count: int

    @property
    def share(self) -> float:
        return self.count / self.of if self.of else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        if not self.of:
            return 0.0, 1.0
        scale = 1 + Z95**2 / self.of
        middle = (self.share + Z95**2 / (2 * self.of)) / scale
        half = Z95 / scale * sqrt(self.share * (1 - self.share) / self.of + Z95**2 / (4 * self.of**2))
        return max(middle - half, 0.0), min(middle + half, 1.0)

    def as_json(self) -> dict[str, object]:
        return asdict(self) | {"share": self.share, "interval": self.interval}

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.share:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def share(told: Sequence[bool | None]) -> Share:
    known = [one for one in told if one is not None]
    return Share(len(known), sum(known))
