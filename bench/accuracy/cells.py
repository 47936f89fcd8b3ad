"""What the study looks at: traffic from lone requests to near saturation, and one thing changed at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from bench.accuracy.metering import Metering
from bench.accuracy.replay import Sight
from bench.accuracy.traffic import Traffic
from telemetry.cost import Linear, StepModel

INTERVALS_S = (0.1, 1.0, 15.0)
STREAMED = (1.0, 0.5, 0.0)

LOADS = (
    Traffic("chat", 0.1, 600),
    Traffic("chat", 1, 200),
    Traffic("chat", 5, 90),
    Traffic("chat", 12, 60),
    Traffic("chat", 20, 60),
    Traffic("code", 0.2, 600),
    Traffic("code", 2, 200, burst=8),
    Traffic("code", 8, 60, burst=8),
    Traffic("code", 14, 60, burst=8),
)
LOOKED_INTO = (LOADS[1], LOADS[3], LOADS[4], LOADS[7])  # where causes are told apart
QUICK_LOADS = (Traffic("chat", 0.5, 40), Traffic("chat", 12, 20), Traffic("code", 8, 20, burst=8))

IDEAL = Sight(wire_s=0.0, guess=0.0, thinned=False)
EXACT = Metering(edges="exact")
USUAL = Sight(streamed=0.5)


@dataclass(frozen=True, slots=True)
class Cell:
    """One case.

    Attributes:
        kind: what of the statement "the truth lies within" it tests.
        name: what is special about it.
        model: a name of `MODELS`.
    """

    kind: str
    name: str
    traffic: Traffic
    metering: Metering = EXACT
    sight: Sight = IDEAL
    model: str = "exact"


@dataclass(frozen=True, slots=True)
class Off:
    """A profile that is wrong: each coefficient of joules and seconds, and idle power, times a factor."""

    base: float = 1.0
    sequence: float = 1.0
    prompt: float = 1.0
    context: float = 1.0
    idle: float = 1.0

    def of(self, model: StepModel) -> StepModel:
        return replace(
            model,
            step_s=self._linear(model.step_s),
            step_j=self._linear(model.step_j),
            idle_power_w=model.idle_power_w * self.idle,
        )

    def _linear(self, cost: Linear) -> Linear:
        return Linear(
            cost.base * self.base,
            cost.per_sequence * self.sequence,
            cost.per_prompt_token * self.prompt,
            cost.per_context_token * self.context,
        )


def _all(factor: float) -> Off:
    return Off(factor, factor, factor, factor)


MODELS: Mapping[str, Off] = {
    "exact": Off(),
    "all +10 %": _all(1.1),
    "all -10 %": _all(0.9),
    "all +25 %": _all(1.25),
    "all -25 %": _all(0.75),
    "mixed 10 %": Off(1.1, 0.9, 0.9, 1.1),
    "mixed 25 %": Off(1.25, 0.75, 0.75, 1.25),
    "base +25 %": Off(base=1.25),
    "sequence +25 %": Off(sequence=1.25),
    "prompt +25 %": Off(prompt=1.25),
    "prompt -25 %": Off(prompt=0.75),
    "context +25 %": Off(context=1.25),
    "idle +10 %": Off(idle=1.1),
}
QUICK_MODELS = ("all +10 %", "mixed 10 %")


@dataclass(frozen=True, slots=True)
class Plan:
    """All cells of a study."""

    cells: tuple[Cell, ...] = field(default_factory=tuple)

    @property
    def traffics(self) -> list[Traffic]:
        """The heaviest first, so that two processes end together."""
        return sorted({cell.traffic for cell in self.cells}, key=lambda t: -t.rate * t.duration_s)


def full() -> Plan:
    causes = (cell for traffic in LOOKED_INTO for cell in (*_causes(traffic), *_thinning(traffic)))
    wrong = (cell for traffic in LOOKED_INTO for cell in (*_models(traffic, tuple(MODELS)), *_counters(traffic)))
    return Plan((*_grid(LOADS), *causes, *wrong))


def quick() -> Plan:
    others = (cell for traffic in QUICK_LOADS[1:] for cell in (*_models(traffic, QUICK_MODELS), *_counters(traffic)))
    return Plan((*_grid(QUICK_LOADS), *others))


def _grid(loads: tuple[Traffic, ...]) -> Iterator[Cell]:
    """Everything as it usually is: looks every 20 ms, estimated prompts, some who leave."""
    for traffic in loads:
        for interval_s in INTERVALS_S:
            for streamed in STREAMED:
                yield Cell(
                    kind=f"every {interval_s:g} s",
                    name=f"{streamed:.0%} streamed",
                    traffic=traffic,
                    metering=Metering(interval_s),
                    sight=replace(USUAL, streamed=streamed),
                )


def _causes(traffic: Traffic) -> Iterator[Cell]:
    """Each cause alone, and all but it."""
    calm = replace(traffic, cancelled=0.0)
    usual = Cell("cause", "all of these", traffic, Metering(), USUAL)
    yield Cell("cause", "none", calm)
    yield usual
    yield Cell("cause", "only: some leave", traffic)
    yield replace(usual, name="without: some leave", traffic=calm)
    sights: Mapping[str, tuple[Sight, Sight]] = {
        "wire": (replace(IDEAL, wire_s=USUAL.wire_s), replace(USUAL, wire_s=0.0)),
        "prompts estimated": (replace(IDEAL, guess=USUAL.guess), replace(USUAL, guess=0.0)),
        "half not streamed": (replace(IDEAL, streamed=0.5), replace(USUAL, streamed=1.0)),
    }
    for name, (only, without) in sights.items():
        yield Cell("cause", f"only: {name}", calm, sight=only)
        yield replace(usual, name=f"without: {name}", sight=without)
    yield Cell("cause", "only: edges polled", calm, Metering())
    yield replace(usual, name="without: edges polled", metering=EXACT)
    yield Cell("cause", "only: none streamed", calm, sight=replace(IDEAL, streamed=0.0))
    yield Cell("cause", "only: none streamed, timings told", calm, sight=replace(IDEAL, streamed=0.0, told=True))
    for interval_s in INTERVALS_S[1:]:
        yield Cell("cause", f"only: every {interval_s:g} s", calm, Metering(interval_s, edges="exact"))


def _thinning(traffic: Traffic) -> Iterator[Cell]:
    for interval_s in INTERVALS_S:
        for thinned in (True, False):
            name = f"every {interval_s:g} s, {'thinned' if thinned else 'not thinned'}"
            yield Cell("thinning", name, traffic, Metering(interval_s), replace(USUAL, streamed=1.0, thinned=thinned))


def _models(traffic: Traffic, names: tuple[str, ...]) -> Iterator[Cell]:
    """Attribution by another profile than the engine's own."""
    for name in names:
        kind = "model" if name != "exact" else "model right"
        yield Cell(kind, name, traffic, Metering(), replace(USUAL, streamed=1.0), model=name)


def _counters(traffic: Traffic) -> Iterator[Cell]:
    """Counters that are told late, are off, or count a neighbour."""
    for interval_s in INTERVALS_S:
        yield Cell("loose edges", f"every {interval_s:g} s", traffic, Metering(interval_s, edges="loose"), USUAL)
    yield Cell("counter wobbles", "3 %", traffic, Metering(wobble=0.03), USUAL)
    yield Cell("neighbour", "100 W, half of the time", traffic, Metering(foreign_w=100.0), USUAL)
