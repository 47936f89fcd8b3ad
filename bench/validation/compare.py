"""How far the simulated figures are from the measured ones, and whether that is within what was promised."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, log
from statistics import fmean

from bench.validation.case import Case, Figures, mean_figures


@dataclass(frozen=True, slots=True)
class Bound:
    """What a difference may be: relative, or absolute in the figure's unit where the figure is small."""

    relative: float
    absolute: float = 0.0


WIRE_S = 0.005  # what a wire, a loop's wake-ups and HTTP add is no difference between schedules
BOUNDS: Mapping[str, Bound] = {
    "j_per_request": Bound(0.05),
    "saving": Bound(0.05),
    "wait_p50_s": Bound(0.10, WIRE_S),
    "wait_p99_s": Bound(0.10, WIRE_S),
    "ttft_p50_s": Bound(0.10, WIRE_S),
    "ttft_p99_s": Bound(0.10, WIRE_S),
    "tpot_p50_s": Bound(0.10),
    "tpot_p99_s": Bound(0.10),
    "e2e_p50_s": Bound(0.10, WIRE_S),
    "e2e_p99_s": Bound(0.10, WIRE_S),
    "duration_s": Bound(0.05),
}  # figures that are not here are told and not judged


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure both ways; `holds` is None for figures that have no bound."""

    figure: str
    measured: float
    simulated: float
    holds: bool | None

    @property
    def relative(self) -> float | None:
        """Simulated over measured, less one; None for times so short that the wire is most of them."""
        bound = BOUNDS.get(self.figure)
        return self.simulated / self.measured - 1 if abs(self.measured) > (bound.absolute if bound else 0.0) else None


@dataclass(frozen=True, slots=True)
class Pair:
    """A case and its twin."""

    case: Case
    simulated: Figures
    told: Mapping[str, object] = field(default_factory=dict)  # how it was run


@dataclass(frozen=True, slots=True)
class Line:
    """One arm of one study, the mean over its seeds; `compared` also has the saving against the study's first arm."""

    study: str
    arm: str
    runs: int
    requests: int
    seen: bool  # whether the profile was fitted to it
    note: str
    compared: Sequence[Compared]
    sd_j: float | None = None  # of joules a request, over draws of what is not known; None: nothing was drawn

    def of(self, figure: str) -> Compared | None:
        return next((one for one in self.compared if one.figure == figure), None)


def compare(measured: Figures, simulated: Figures) -> list[Compared]:
    """All figures that both have."""
    return [_judged(name, value, simulated[name]) for name, value in measured.items() if name in simulated]


def _judged(name: str, measured: float, simulated: float) -> Compared:
    bound = BOUNDS.get(name)
    off = abs(simulated - measured)
    holds = None if bound is None else off <= max(bound.relative * abs(measured), bound.absolute)
    return Compared(name, measured, simulated, holds)


def lines(pairs: Sequence[Pair], profile: str) -> list[Line]:
    """By study and arm, in the order in which they came."""
    arms: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs:
        arms.setdefault((pair.case.study, pair.case.arm), []).append(pair)
    first: dict[str, list[Pair]] = {}
    for (study, _), found in arms.items():
        if study not in first or found[0].case.base:
            first[study] = found
    return [_line(found, first[study], profile) for (study, _), found in arms.items()]


def _line(pairs: Sequence[Pair], base: Sequence[Pair], profile: str) -> Line:
    case = pairs[0].case
    compared = compare(mean_figures([p.case.measured for p in pairs]), mean_figures([p.simulated for p in pairs]))
    if case.arm != base[0].case.arm and {p.case.seed for p in pairs} & {p.case.seed for p in base}:
        measured = _saving(pairs, base, lambda pair: pair.case.measured)
        compared.append(_judged("saving", measured, _saving(pairs, base, lambda pair: pair.simulated)))
    requests = sum(len(p.case.draws[0]) if p.case.draws else p.case.closed.requests if p.case.closed else 0 for p in pairs)
    sd_j = pairs[0].simulated.get("j_per_request_sd")
    return Line(case.study, case.arm, len(pairs), requests, profile in case.fitted, case.note, compared, sd_j)


def _saving(pairs: Iterable[Pair], base: Iterable[Pair], of: Callable[[Pair], Figures]) -> float:
    """How many times fewer joules than the first arm: the geometric mean over seeds that both have."""
    first = {pair.case.seed: of(pair)["j_per_request"] for pair in base}
    return exp(fmean(log(first[p.case.seed] / of(p)["j_per_request"]) for p in pairs if p.case.seed in first))
