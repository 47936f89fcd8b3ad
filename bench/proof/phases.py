"""The phases of the proof, one after the other; what each has measured is written down as it is done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from bench.proof.companions import NotHere, companion
from bench.proof.plans import ROUND_S, Asked, Shape, in_bursts, mixed, one_by_one, one_kind, swapped, together
from bench.proof.rows import Phase
from bench.proof.stand import Stand, brief

LEAST_MIXED_S = 10.0  # a shorter round of mixed load is none
LAST_ANSWERS_S = 5.0  # of a round of mixed load
LEARNS_IDLE_S = 4.0  # from the warm-up's end until the proxy knows the idle power of this device
FOREIGN_WARMS_S = 1.0

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """What to prove, and where.

    Attributes:
        phases: those to measure, of a, b, c and f.
        profile: the step model that the proxy reads: a built-in name or a JSON file's path.
        seed: decides every plan.
    """

    url: str
    model: str
    meter: str
    out: Path
    phases: Collection[str]
    profile: str
    seed: int = 1


@dataclass(slots=True)
class Measurement:
    """One measurement under way."""

    settings: Settings
    shape: Shape
    stand: Stand
    tell: Tell
    ends_at_s: float = 0.0
    _phases: dict[str, Phase] = field(default_factory=dict)
    _rounds: count[int] = field(default_factory=lambda: count(1))
    _told_until_s: float = 0.0

    async def perform(self, whole_s: float, foreign_s: float) -> None:
        """All phases in `whole_s` after the warm-up; the mixed load leaves `foreign_s` to the neighbour."""
        await self._warm_up()
        self._told_until_s = time.monotonic()
        self.ends_at_s = self._told_until_s + whole_s
        wanted = self.settings.phases
        if "b" in wanted:
            await self._equal()
        if "c" in wanted:
            await self._apart_and_together()
        if "a" in wanted:
            await self._mixed(self.ends_at_s - foreign_s)
        if "f" in wanted:
            await self._foreign()
        if "a" in wanted:
            await self._mixed(self.ends_at_s)  # what the neighbour left
            await self._rest()

    async def _warm_up(self) -> None:
        """Kernels are loaded and the idle power is learnt before anything counts."""
        kinds = [*self.shape.kinds, self.shape.equal]
        await self.stand.run("warm-up", 1, [asked for kind in kinds for asked in one_by_one(kind, 4, 0)])
        await asyncio.sleep(LEARNS_IDLE_S if self.settings.meter != "simulated" else 0.0)

    async def _equal(self) -> None:
        """Equal requests, each sent twice with the same company: once streamed, once not."""
        shape, seed = self.shape, self.settings.seed
        plans = {
            "alone": one_by_one(shape.equal, shape.alone, seed),
            "poisson": one_kind(shape.equal, seed),
            "bursts": in_bursts(shape.equal, shape.bursts, shape.burst, shape.burst_every_s, seed),
        }
        for name, plan in plans.items():
            for repeat, asked in enumerate((plan, swapped(plan)), 1):
                await self._run("b", name, repeat, asked)
        await self._save("b")

    async def _apart_and_together(self) -> None:
        """The same arrivals in every repeat: what differs between repeats is how well it can be measured."""
        first, second = (one_kind(kind, self.settings.seed) for kind in self.shape.kinds)
        plans = [("A", first), ("B", second), ("AB", together(first, second))]
        for repeat in range(1, self.shape.repeats + 1):
            for name, plan in plans[repeat % 3 :] + plans[: repeat % 3]:  # none is always the first
                await self._run("c", name, repeat, plan)
        await self._save("c")

    async def _mixed(self, until_s: float) -> None:
        """Round after round."""
        while (left_s := until_s - time.monotonic() - 2 * self.shape.calm_s - LAST_ANSWERS_S) >= LEAST_MIXED_S:
            repeat = next(self._rounds)
            await self._run("a", "mixed", repeat, mixed(min(left_s, ROUND_S), self.settings.seed + repeat))
            await self._save("a")

    async def _foreign(self) -> None:
        """A neighbour's work between two times without it; our own traffic is the same in all three."""
        if self.settings.meter != "nvml":
            self._skip("f", f"the meter {self.settings.meter} has no device for a neighbour to work on")
            return
        plan = one_kind(self.shape.steady, self.settings.seed)
        try:
            async with companion("bench.proof.foreign") as neighbour:
                for name in ("before", "during", "after"):
                    await neighbour.tell("go" if name == "during" else "stop")
                    await asyncio.sleep(FOREIGN_WARMS_S)
                    await self._run("f", name, 1, plan)
        except NotHere as error:
            self._skip("f", str(error))
            return
        await self._save("f")

    async def _rest(self) -> None:
        """Nobody is there until the time is over, and a second more, so that no second of it is missing."""
        await asyncio.sleep(max(self.ends_at_s + 1.0 - time.monotonic(), 0.0))
        await self._save("a")

    async def _run(self, phase: str, name: str, repeat: int, plan: list[Asked]) -> None:
        run, rows = await self.stand.run(name, repeat, plan, one_by_one=(phase, name) == ("b", "alone"))
        found = self._phases.setdefault(phase, Phase(phase))
        found.runs.append(run)
        found.rows.extend(rows)
        self.tell(f"({phase}) {name} {repeat}: {brief(run, rows)}")

    async def _save(self, phase: str) -> None:
        """Every second since what was written before belongs to this phase."""
        found = self._phases.setdefault(phase, Phase(phase))
        seconds = await self.stand.seconds(self._told_until_s, time.monotonic())
        self._told_until_s += len(seconds)
        found.seconds.extend(seconds)
        found.save(self.settings.out)

    def _skip(self, phase: str, why: str) -> None:
        self.tell(f"({phase}) skipped: {why}")
        Phase(phase, skipped=why).save(self.settings.out)
