"""What an experiment's blocks say of its arms: the effect on joules, how sure that is, who paid for it, and what to conclude.

The unit of analysis is the pair of blocks, never the request: requests of one block share a batch, a queue and a card. A pair's
difference is the logarithm of the treatment's joules a token over the control's; their mean, as a share, is the effect. The
verdict comes from the always-valid interval alone (`telemetry/sequential.py`), so whoever watches, and stops when he likes,
is misled no more often than alpha says. Student's interval and the randomisation test stand beside it, for those who look once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from statistics import fmean
from typing import Any, Literal

from telemetry.arms import Arm, arm_of, conserved, of_sums
from telemetry.blocks import Block
from telemetry.checks import Check, checks
from telemetry.conclusions import conclude
from telemetry.covariates import Covariate, adjusted, balance
from telemetry.design import Design
from telemetry.detection import detectable, factor
from telemetry.guardrails import Guardrails, Verdict, breaches, judge
from telemetry.pairs import METRICS, Lost, Pair, guarded, paired
from telemetry.randomisation import Chance, chance
from telemetry.sequential import always_valid
from telemetry.student import Interval, deviation, mean_interval

__all__ = ["Arm", "Comparison", "Guardrails", "compare", "detectable"]

Says = Literal["saves", "costs", "not shown", "incomplete"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """All of it. Effects are shares: -0.2 is a fifth less than the control.

    Attributes:
        metric: j_per_token or j_per_request.
        alpha: how often the always-valid interval may be wrong, over the whole experiment.
        verdict: saves, costs, not shown, or incomplete (too few pairs for any interval).
        says: sentences, the verdict first.
        planned: pairs of the design.
        pairs: that are analysed.
        lost: those that are over and are not.
        sources: where the joules come from.
        arms: control, then treatment.
        effect: mean over pairs, with the always-valid interval: it may be looked at at any time.
        at_the_end: the same with Student's interval: valid for one look, at a time fixed beforehand.
        of_sums: ratio of the arms' sums, with the delta method's interval over pairs; for one look too.
        conserved: the effect if blocks are charged for their own requests across borders (+ boundary - carried), for one look.
        adjusted: the effect with equal covariates, for one look; None: too few pairs.
        adjusted_valid: the same, always valid as `effect` is; no verdict hangs on it, as an arm might change who comes.
        adjusted_by: those covariates.
        chance: the randomisation test, for one look.
        sd: of pairs' log ratios.
        detectable: least saving that so many planned pairs find with probability 0.8, watched; None: unknown.
        lag_1: autocorrelation of the differences of consecutive pairs.
        effective_pairs: how many independent ones they are worth.
        guardrails: a verdict each.
        tripped: names of those that say stop.
        covariates: what the arms did not choose.
        checks: of what the conclusions assume.
        ratios: treatment over control of each analysed pair, by pair.
    """

    metric: str
    alpha: float
    verdict: Says
    says: tuple[str, ...]
    planned: int
    pairs: int
    lost: tuple[Lost, ...]
    sources: tuple[str, ...]
    arms: tuple[Arm, Arm]
    effect: Interval | None
    at_the_end: Interval | None
    of_sums: Interval | None
    conserved: Interval | None
    adjusted: Interval | None
    adjusted_valid: Interval | None
    adjusted_by: tuple[str, ...]
    chance: Chance | None
    sd: float | None
    detectable: float | None
    lag_1: float | None
    effective_pairs: float | None
    guardrails: tuple[Verdict, ...]
    tripped: tuple[str, ...]
    covariates: tuple[Covariate, ...]
    checks: tuple[Check, ...]
    ratios: dict[int, float]

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"ratios": {str(pair): ratio for pair, ratio in self.ratios.items()}}


def compare(
    blocks: Sequence[Block],
    design: Design,
    *,
    metric: str = "j_per_token",
    alpha: float = 0.05,
    guardrails: Guardrails = Guardrails(),  # noqa: B008 - it is frozen
    draws: int = 10_000,
) -> Comparison:
    """What the blocks say so far; a function of its arguments; tens of milliseconds, of a thousand pairs a tenth of a second.

    Args:
        blocks: those that are over, in any order.
        design: its seed decides the random draws as well.
        metric: j_per_token or j_per_request.
        alpha: how often the verdict may be wrong.
        guardrails: margins for those who wait.
        draws: of the randomisation test, where there are more assignments.

    Raises:
        ValueError: blocks that are not of this design, an unknown metric, or an alpha that is none.
    """
    if not 0 < alpha <= 0.5:
        raise ValueError(f"alpha is between 0 and 0.5 (0.05: one verdict in twenty may be wrong), not {alpha}")
    pairs, lost = paired(blocks, design, metric)
    logs = {pair.number: value for pair in pairs if (value := pair.log_ratio(METRICS[metric])) is not None}
    values = list(logs.values())
    sd = deviation(values) if len(values) > 1 else None
    fair = adjusted(values, pairs, design.pairs, alpha)
    lag_1 = autocorrelation(values)
    arms = ("control", [pair.control for pair in pairs]), ("treatment", [pair.treatment for pair in pairs])
    found = Comparison(
        metric=metric,
        alpha=alpha,
        verdict="incomplete",
        says=(),
        planned=design.pairs,
        pairs=len(pairs),
        lost=tuple(lost),
        sources=tuple(sorted({block.source for pair in pairs for block in pair.blocks})),
        arms=(arm_of(*arms[0], metric), arm_of(*arms[1], metric)),
        effect=relative(always_valid(values, design.pairs, alpha)),
        at_the_end=relative(mean_interval(values, alpha)),
        of_sums=of_sums(pairs, metric, alpha),
        conserved=relative(mean_interval(conserved(pairs, metric), alpha)),
        adjusted=None if fair is None else relative(fair.at_the_end),
        adjusted_valid=None if fair is None else relative(fair.effect),
        adjusted_by=() if fair is None else fair.by,
        chance=chance(logs, design, draws),
        sd=sd,
        detectable=None if sd is None or design.pairs < 2 else detectable(sd, design.pairs, alpha),
        lag_1=lag_1,
        effective_pairs=None if lag_1 is None else len(values) * min((1 - lag_1) / (1 + lag_1), 1.0),
        guardrails=(guards := tuple(_judged(blocks, design, guardrails, alpha))),
        tripped=tuple(one.name for one in guards if one.judgement == "tripped"),
        covariates=tuple(balance(pairs)),
        checks=(),
        ratios={pair: factor(value) + 1 for pair, value in logs.items()},
    )
    return _concluded(found, pairs, logs, design)


def _concluded(found: Comparison, pairs: Sequence[Pair], logs: Mapping[int, float], design: Design) -> Comparison:
    """With its checks, its verdict and what it says."""
    checked = checks(pairs, logs, design, found.lost, found.sources, found.at_the_end, found.conserved, found.lag_1)
    verdict = verdict_of(found.effect)
    said = conclude(
        verdict,
        found.effect,
        found.metric,
        found.alpha,
        found.pairs,
        found.planned,
        found.lost,
        found.sources,
        found.guardrails,
        checked,
        found.covariates,
        found.adjusted_valid,
        found.adjusted_by,
    )
    return replace(found, verdict=verdict, checks=tuple(checked), says=tuple(said))


def _judged(blocks: Sequence[Block], design: Design, guardrails: Guardrails, alpha: float) -> list[Verdict]:
    """Of all pairs, and of the block that waits for its pair."""
    broken = breaches(blocks, guardrails)
    verdicts = judge(guarded(blocks, design), guardrails, design.pairs, alpha)
    return [replace(one, judgement="tripped", why=broken[one.name]) if one.name in broken else one for one in verdicts]


def verdict_of(effect: Interval | None) -> Says:
    if effect is None or not effect.bounded:
        return "incomplete"
    return "saves" if effect.below(0.0) else "costs" if effect.above(0.0) else "not shown"


def relative(logs: Interval | None) -> Interval | None:
    """A mean of log ratios as a share; what is too wide for a number is no bound."""
    if logs is None or logs.low is None or logs.high is None or logs.high > 700:
        return None if logs is None else Interval(factor(logs.middle))
    return Interval(factor(logs.middle), factor(logs.low), factor(logs.high))


def autocorrelation(values: Sequence[float]) -> float | None:
    """Of consecutive values, between -1 and 1; None of fewer than four, or of equal ones."""
    if len(values) < 4:
        return None
    middle = fmean(values)
    rest = [value - middle for value in values]
    size = sum(value * value for value in rest)
    if size <= (1e-12 * len(rest)) ** 2:
        return None
    return max(min(sum(a * b for a, b in pairwise(rest)) / size, 0.999), -0.999)
