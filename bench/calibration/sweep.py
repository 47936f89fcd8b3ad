"""A calibration from its first question to its last run: what is done is in the journal, what is not is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from bench.calibration.asking import Asker, NotAnswered, Server, described, recognise, ways
from bench.calibration.journal import Journal
from bench.calibration.outcome import Outcome
from bench.calibration.plan import SHORT_TOKENS, Pace, Run, choose, plan
from bench.calibration.runs import PILOT_PROMPT, Bench, pilot
from bench.calibration.settings import Settings, Telling
from proxy.upstream import Client
from telemetry.cost import load_profile
from telemetry.meter import Meter, MeterUnavailable
from telemetry.monitor import Monitor
from telemetry.nvml import hardware

POLL_S = 0.005  # an edge of the counter is known so well, or as well as the meter can be read
FIRST_READING_S = 5.0
KEPT_S = 1.0  # an idle connection; engines close them after 5 s
MOST_FAILURES = 3  # in a row
SLACK = 3.0  # a run that takes so many times as long as it should is given up
WARM_S = 1.0  # a full batch, before anything is counted under load


class Gone(Exception):
    """The server answers no more; what is in the journal stays."""


async def sweep(settings: Settings, meter: Meter, journal: Journal, telling: Telling) -> list[Run]:
    """Make all runs that the budget allows and that are not in the journal; those that were left out.

    Raises:
        NotAnswered: the server does not serve at all.
        Gone: it did, and does no more.
        JournalError: the journal is another server's.
        MeterUnavailable: the meter tells nothing.
    """
    ends_s = time.monotonic() + settings.budget_s
    server = await recognise(settings.url, settings.dialect, settings.model)
    monitor = Monitor(meter, POLL_S)
    monitor.start()
    client = Client(answer_timeout_s=settings.timeout_s, keep_alive_s=KEPT_S)
    try:
        devices = await _devices(monitor)
        asker = Asker(server, client)
        await _way(asker)
        journal.begin(_identity(asker.server, settings, devices), _about(settings, devices))
        telling.about(f"{described(asker.server.as_json())}; metered: {', '.join(devices)}")
        if not asker.server.ignore_eos:
            telling.about("this server cannot be told to go on to the asked length: runs whose outputs end early say so")
        if asker.server.prompts == "text":
            telling.about("prompts are texts, of about a token a word; what the server counts is what is used")
        return await _Sweep(settings, journal, telling, asker, monitor, ends_s).run()
    finally:
        await client.close()
        await asyncio.to_thread(monitor.stop)


@dataclass(slots=True)
class _Sweep:
    settings: Settings
    journal: Journal
    telling: Telling
    asker: Asker
    monitor: Monitor
    ends_s: float
    late: float = 1.0  # how many times longer runs take than they should
    failures: int = 0

    async def run(self) -> list[Run]:
        settings, slots = self.settings, self.asker.server.slots
        runs = plan(min(settings.max_batch, slots) if slots else settings.max_batch)
        # nobody has been there yet, so this is the coolest that the devices are seen at
        await self._within(Pace(load_profile(), settings.window_s), [run for run in runs if run.block == 0])
        pace = await self._pace()
        await self._warm_up(max(run.batch for run in runs), pace)
        await self._within(pace, runs)
        return [run for run in runs if run.id not in self.journal.over]

    async def _within(self, pace: Pace, runs: Sequence[Run]) -> None:
        """Make as many as there is time for; what a server refuses takes none, which others then get."""
        made = -1
        while made:
            chosen, _ = choose(runs, self.journal.over, pace, self._left_s / self.late, self.settings.seed)
            made = await self._make(chosen, pace)

    @property
    def _left_s(self) -> float:
        return self.ends_s - time.monotonic()

    async def _pace(self) -> Pace:
        step_s, prompt_s = await pilot(self.asker)
        return Pace.measured(load_profile(), self.settings.window_s, step_s, prompt_s, PILOT_PROMPT)

    async def _warm_up(self, batch: int, pace: Pace) -> None:
        """Whatever engine and device do the first time, they do now."""
        seconds = min(WARM_S, self.settings.window_s)
        warm = replace(pace, window_s=seconds)
        await self._bench(warm).make(Run("", 0, "decode", batch, SHORT_TOKENS))

    def _bench(self, pace: Pace) -> Bench:
        return Bench(self.asker, self.monitor, pace, self.settings.max_step_tokens)

    async def _make(self, runs: Sequence[Run], pace: Pace) -> int:
        """Each in its turn, as long as there is time; how many."""
        bench, made = self._bench(pace), 0
        for place, run in enumerate(runs):
            expected_s = pace.expected_s(run)
            if self._left_s < expected_s * self.late:
                continue
            self.telling.begins(run, self.late * sum(pace.expected_s(later) for later in runs[place:]))
            began_s = time.monotonic()
            outcome = await self._one(bench, run, min(SLACK * expected_s + 5.0, max(self._left_s, expected_s)))
            took_s = time.monotonic() - began_s
            if outcome.work is not None:
                self.late = max(1.0, 0.7 * self.late + 0.3 * took_s / expected_s)
            self._write(run, outcome, took_s)
            made += 1
        return made

    async def _one(self, bench: Bench, run: Run, at_most_s: float) -> Outcome:
        try:
            async with asyncio.timeout(at_most_s):
                return await bench.make(run)
        except TimeoutError:
            return Outcome(notes=[f"not over after {at_most_s:.1f} s, and given up"], final=False)

    def _write(self, run: Run, outcome: Outcome, took_s: float) -> None:
        source = outcome.source.value if outcome.source else None
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self.journal.add(
            asdict(run), outcome.work, final=outcome.final, notes=outcome.notes, source=source, at=at, took_s=round(took_s, 3)
        )
        self.telling.ended(run, outcome)
        self.failures = 0 if outcome.final else self.failures + 1
        if self.failures >= MOST_FAILURES:
            raise Gone(f"{self.failures} runs failed one after the other, the last with: {'; '.join(outcome.notes)}")


async def _devices(monitor: Monitor) -> list[str]:
    """Whose counters are read.

    Raises:
        MeterUnavailable: nobody's.
    """
    ends_s = time.monotonic() + FIRST_READING_S
    while not monitor.latest.devices:
        if time.monotonic() > ends_s:
            raise MeterUnavailable(f"the meter told nothing in {FIRST_READING_S:g} s")
        await asyncio.sleep(0.02)
    return sorted(monitor.latest.devices)


async def _way(asker: Asker) -> None:
    """Find how the server can be asked.

    Raises:
        NotAnswered: in no way.
    """
    for server in ways(asker.server):
        asker.server = server
        try:
            await asker.whole(asker.body(16, 2))
        except NotAnswered as error:
            if not error.refused:
                raise
            refusal = error
        else:
            return
    raise refusal


def _identity(server: Server, settings: Settings, devices: Sequence[str]) -> Mapping[str, Any]:
    counted = {"meter": settings.meter, "devices": list(devices), "max_step_tokens": settings.max_step_tokens}
    return {**server.as_json(), **counted}


def _about(settings: Settings, devices: Sequence[str]) -> Mapping[str, Any]:
    asked = {**asdict(settings), "devices": list(settings.devices)}
    called = hardware(devices) if settings.meter == "nvml" else ""
    return {"began": datetime.now(UTC).isoformat(timespec="seconds"), "hardware": called, "settings": asked}
