"""What may be concluded from an experiment, in sentences that claim no more than its interval does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from telemetry.checks import SIMULATED, Check
from telemetry.covariates import Covariate
from telemetry.guardrails import Verdict
from telemetry.pairs import Lost
from telemetry.student import Interval

COVARIED = {
    "side": "servers",
    "arrival_rate": "arrival rates",
    "prompt_tokens": "prompts",
    "output_tokens": "answers' lengths",
    "temperature_c": "temperatures",
}
SPLIT = (
    "The arms ran at the same time on separate servers: they share no batch, no cache and no meter, and each had either side. "
    "They share the room, and each had its side's part of the requests: with all of them an arm may do better or worse."
)
PER = {"j_per_token": "joules a token", "j_per_request": "joules a request"}


def conclude(
    verdict: str,
    effect: Interval | None,
    metric: str,
    alpha: float,
    pairs: int,
    planned: int,
    lost: Sequence[Lost],
    sources: Sequence[str],
    guardrails: Sequence[Verdict],
    checks: Sequence[Check],
    covariates: Sequence[Covariate],
    adjusted: Interval | None,
    by: Sequence[str],
) -> Iterator[str]:
    """Sentences: the verdict, the guardrails, how far it is, and whatever speaks against it."""
    marked = next((f"{source} " for source in sources if source in SIMULATED), "")
    yield _headline(effect, f"{marked}{PER[metric]}", alpha, pairs, verdict)
    if adjusted is not None and adjusted.low is not None and adjusted.high is not None:
        bounds = f"{_signed(adjusted.low)} to {_signed(adjusted.high)}"
        words = ", ".join(COVARIED[name] for name in by)
        yield f"With equal {words} the change is {_signed(adjusted.middle)} % ({bounds}), if the arms do not change those."
    yield _guarded(guardrails)
    far = f"{pairs} of {planned} pairs are analysed"
    yield far + (f"; {len(lost)} were lost: {'; '.join(one.why for one in lost[:3])}." if lost else ".")
    if any(check.name == "sides" for check in checks):
        yield SPLIT
    for check in checks:
        if check.holds is False:
            yield f"Doubt ({check.name.replace('_', ' ')}): {check.says}."
    for one in covariates:
        if one.even is False:
            yield (
                f"Doubt (balance): {one.name} was {one.control:.4g} under the control and {one.treatment:.4g} under the "
                "treatment, which is more than chance makes easily; see the adjusted effect."
            )


def _headline(effect: Interval | None, what: str, alpha: float, pairs: int, verdict: str) -> str:
    if effect is None or effect.low is None or effect.high is None:
        some = f"; so far {100 * effect.middle:+.0f} % {what}" if effect is not None else ""
        return f"Incomplete: {pairs} pairs are too few for an interval{some}."
    sure = f"{100 * (1 - alpha):g} % always-valid interval"
    if verdict == "saves":
        bounds = f"{_shown(-effect.high)} to {_shown(-effect.low)}"
        return f"The treatment saves {_shown(-effect.middle)} % ({bounds}) {what} ({sure})."
    if verdict == "costs":
        bounds = f"{_shown(effect.low)} to {_shown(effect.high)}"
        return f"The treatment costs {_shown(effect.middle)} % ({bounds}) more {what} ({sure})."
    bounds = f"{_signed(effect.low)} to {_signed(effect.high)}"
    return f"Not shown: the treatment changes {what} by {_signed(effect.middle)} % ({bounds}; {sure}), so it may be nothing."


def _guarded(guardrails: Sequence[Verdict]) -> str:
    if not guardrails:
        return "No guardrail was set."
    if tripped := [one for one in guardrails if one.judgement == "tripped"]:
        return f"Guardrails tripped: {'; '.join(one.why for one in tripped)}."
    if unsure := [one for one in guardrails if one.judgement != "holds"]:
        return f"No guardrail tripped; not shown to hold: {'; '.join(one.why for one in unsure)}."
    return "No guardrail is worse: all are shown to be within their margins."


def _shown(share: float) -> str:
    """Per cent, with a decimal where it is small."""
    return f"{100 * share:.1f}" if abs(share) < 0.1 else f"{100 * share:.0f}"


def _signed(share: float) -> str:
    return ("+" if share >= 0 else "-") + _shown(abs(share))
