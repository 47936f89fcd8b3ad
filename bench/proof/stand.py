"""The test stand: sends a run's plan through the proxy, and asks the admin port what became of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any, Self

from bench.admin import AdminError, AdminPort, Window
from bench.bodies import Options
from bench.proof.plans import Asked
from bench.proof.rows import Row, Run
from bench.sample import Sample
from bench.senders import Clock, RawSender

MOST_AT_ONCE = 64
TIMEOUT_S = 60.0


@dataclass(slots=True)
class Stand:
    """One proxy under test. Runs follow one another, each between two rests of `calm_s`."""

    admin: AdminPort
    senders: dict[bool, RawSender]
    calm_s: float
    _serial: int = 0  # of all requests: no prompt comes twice, so none is found in a cache
    _gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_AT_ONCE))

    @classmethod
    def of(cls, url: str, admin: AdminPort, model: str, calm_s: float, seed: int) -> Self:
        def sender(stream: bool) -> RawSender:
            same = {"prompt_ids": True, "ignore_eos": True, "timeout_s": TIMEOUT_S, "seed": seed}
            return RawSender(Options(url, dialect="openai", api="completions", stream=stream, model=model, **same))  # type: ignore[arg-type]

        return cls(admin, {stream: sender(stream) for stream in (True, False)}, calm_s)

    async def close(self) -> None:
        for sender in self.senders.values():
            await sender.close()

    async def run(self, name: str, repeat: int, plan: Sequence[Asked], *, one_by_one: bool = False) -> tuple[Run, list[Row]]:
        """Calm, the whole plan, calm; then what the admin port tells of it.

        Raises:
            AdminError: it does not tell.
        """
        since_s = time.monotonic()
        clock = Clock(since_s + self.calm_s)
        samples = await (self._in_turn(plan, clock) if one_by_one else self._open_loop(plan, clock))
        await asyncio.sleep(self.calm_s)
        window = Window(since_s, time.monotonic())
        joules = await self.joules(window)  # first: once they are settled, nobody's joules are still to come
        rows = await self._rows(name, repeat, plan, samples, clock)
        energy = (await self.admin.status())["energy"]
        devices = [device["device"] for device in energy["devices"]]
        return Run(name, repeat, window.since_s, window.until_s, float(energy["idle_power_w"]), devices, joules), rows

    async def joules(self, window: Window) -> dict[str, Any]:
        joules = await self.admin.energy(window)
        if joules is None:
            raise AdminError("the proxy has no meter, or its joules do not settle")
        return joules

    async def seconds(self, since_s: float, until_s: float) -> list[dict[str, float]]:
        """What the proxy says of each whole second."""
        told = []
        for number in range(int(until_s - since_s)):
            began_s = since_s + number
            joules = await self.joules(Window(began_s, began_s + 1.0))
            told.append({"since_s": began_s} | {part: value for part, value in joules.items() if part.endswith("_j")})
        return told

    async def _open_loop(self, plan: Sequence[Asked], clock: Clock) -> list[Sample]:
        async with asyncio.TaskGroup() as group:
            sending = []
            for asked in plan:
                await asyncio.sleep(max(asked.planned.at_s - clock(), 0.0))
                sending.append(group.create_task(self._send(asked, clock)))
        return [task.result() for task in sending]

    async def _in_turn(self, plan: Sequence[Asked], clock: Clock) -> list[Sample]:
        await asyncio.sleep(max(-clock(), 0.0))
        return [await self._send(asked, clock) for asked in plan]

    async def _send(self, asked: Asked, clock: Clock) -> Sample:
        self._serial += 1
        number = self._serial
        async with self._gate:
            sample = Sample(asked.planned, clock())
            await self.senders[asked.streamed].send(sample, number, clock)
        return sample

    async def _rows(self, name: str, repeat: int, plan: Sequence[Asked], samples: Sequence[Sample], clock: Clock) -> list[Row]:
        records = await self.admin.requests(sample.id for sample in samples if sample.id)
        return [
            Row(
                run=name,
                repeat=repeat,
                kind=asked.kind,
                number=number,
                streamed=asked.streamed,
                prompt_tokens=asked.planned.prompt_tokens,
                output_tokens=asked.planned.output_tokens,
                sent_s=clock.starts_at + sample.sent_at_s,
                ended_s=clock.starts_at + (sample.ended_at_s or sample.sent_at_s),
                error=sample.error,
                record=records.get(sample.id),
            )
            for number, (asked, sample) in enumerate(zip(plan, samples, strict=True))
        ]


def brief(run: Run, rows: Sequence[Row]) -> str:
    """One line of progress."""
    known = [row.energy["active_j"] for row in rows if row.energy is not None]
    failed = sum(bool(row.error) for row in rows)
    told = f"{mean(known):.2f} J each" if known else "no energy known"
    return (
        f"{len(rows)} requests, {failed} failed, {told}, {run.joules['counted_j']:.0f} J counted,"
        f" {run.unattributed_share:.2%} unattributed"
    )
