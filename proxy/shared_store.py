"""A store of experiments that several proxies share: kept here first, and brought together through Redis behind it.

Every call is answered by this replica's own store, so no Redis, a slow one and one that has lost everything cost nothing but
the common view: which arm rules is a function of time, parts of blocks stay here and are told later. Whatever this replica
knows of an experiment and Redis does not is told, and the other way round, so each has all of it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from proxy.config import Config
from proxy.experiments.store import Part, State, Store
from proxy.keys import key_of
from proxy.replicas import Known, Presence, by_id, is_over, there
from proxy.shared import Beat, Link, SharedUnavailable
from proxy.shared_clock import SharedClock
from telemetry.blocks import Block

log = logging.getLogger("paceline.shared")

AGAIN_S = 60.0  # trouble that lasts is logged so often
MOST_PAUSE_S = 10.0  # between looks at a Redis that does not answer
HEARD_S = 15.0  # who was not seen for so long is not here any more


async def _nobody(name: str, state: State) -> None:
    """Wants to know."""


@dataclass(slots=True)
class _Trouble:
    """What is wrong now, since when, and when that was last logged."""

    error: str
    since_s: float
    logged_s: float = -math.inf


class SharedStore:
    """One replica's experiments, and the others'."""

    def __init__(self, link: Link, local: Store, clock: SharedClock | None = None) -> None:
        """Nothing is asked yet.

        Args:
            link: to Redis.
            local: where this replica keeps what it knows; on a disk it outlives the process.
            clock: is set by what Redis tells; its monotonic one must be the link's.
        """
        self.link, self.local, self.clock = link, local, clock or SharedClock()
        self.on_change: Callable[[str, State], Awaitable[None]] = _nobody
        self._dirty: set[str] = set()
        self._revisions: dict[str, int] = {}
        self._versions: dict[str, int] = {}
        self._epoch = ""
        self._replicas: Mapping[str, Presence] = {}
        self._reached = False  # by the last look
        self._trouble: _Trouble | None = None
        self._saving = asyncio.Lock()
        self._syncing = asyncio.Lock()
        self._woken = asyncio.Event()

    # --- what others ask ------------------------------------------------------------------------------------------

    @property
    def replica(self) -> str:
        return self.link.replica

    @property
    def leads(self) -> bool:
        """Whether this replica is to judge: one does, or each does for itself while it cannot reach Redis."""
        return self.link.holds_lease or not self._reached

    @property
    def lead_s(self) -> float:
        """So long before its first block an experiment should be told, for all to know of it in time."""
        return 3 * (self.link.settings.every_s + self.link.settings.timeout_s)

    def expected(self, block: Block) -> Collection[str]:
        """The replicas that were there during a block, each of which has a part of it to tell.

        While Redis is away, those that were there when it went: they cannot say that they have left.
        """
        if self._reached:
            return there(self._replicas, block)
        went_unix_s = max((one.seen_unix_s for one in self._replicas.values()), default=0.0)
        lasting = {name: replace(one, seen_unix_s=math.inf) for name, one in self._here(went_unix_s).items()}
        return there({**self._replicas, **lasting}, block)

    def _here(self, at_unix_s: float) -> dict[str, Presence]:
        return {name: one for name, one in self._replicas.items() if at_unix_s - one.seen_unix_s < HEARD_S}

    async def states(self) -> Mapping[str, State]:
        return await self.local.states()

    async def save(self, name: str, state: State) -> None:
        async with self._saving:
            await self.local.save(name, state)
            self._revisions[name] = self._revisions.get(name, 0) + 1
        self._changed(name)

    async def log(self, name: str, line: Mapping[str, Any]) -> None:
        await self.local.log(name, {"replica": self.replica, **line})
        self._changed(name)

    async def lines(self, name: str) -> Sequence[Mapping[str, Any]]:
        """Of all replicas, by the time of each."""
        return sorted(await self.local.lines(name), key=_instant)

    async def add_part(self, name: str, part: Part) -> None:
        await self.local.add_part(name, part)
        self._changed(name)

    async def parts(self, name: str) -> Mapping[int, Mapping[str, Block]]:
        return await self.local.parts(name)

    def describe(self) -> dict[str, Any]:
        """For `/status`."""
        return {
            "url": self.link.settings.url,
            "reachable": self._reached,
            "error": self._trouble.error if self._trouble is not None else None,
            "replica": self.replica,
            "leads": self.link.holds_lease,
            "replicas": sorted(self._here(self.clock.now_unix_s())),
            "clock_ahead_s": self.clock.ahead_s,
            "clock_doubt_s": self.clock.doubt_s,
            "untold": sorted(self._dirty),
        }

    # --- behind it --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        every_s = pause_s = self.link.settings.every_s
        while True:
            if await self.sync():
                pause_s = every_s
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._woken.wait()
            else:
                await asyncio.sleep(pause_s)
                pause_s = max(every_s, min(2 * pause_s, MOST_PAUSE_S))

    async def sync(self) -> bool:
        """One look at Redis, and what is new on either side brought to the other; False if that could not be."""
        async with self._syncing:
            return await self._sync()

    async def _sync(self) -> bool:
        self._woken.clear()
        try:
            beat = await asyncio.to_thread(self.link.beat, self._replicas)
            await self._look(beat)
            for name in sorted(self._dirty | self._news(beat)):
                await self._exchange(name)
        except SharedUnavailable as error:
            self._troubled(str(error))
            return False
        except Exception as error:  # whatever it is, the next look may do better
            log.debug("what replicas share", exc_info=True)
            self._troubled(f"this replica's own store: {type(error).__name__}: {error}")
            return False
        if self._trouble is not None:
            log.warning("Redis is back after %.0f s", self.clock.clock() - self._trouble.since_s)
        self._reached, self._trouble = True, None
        return True

    async def close(self) -> None:
        """Tell what is untold, if that can be done at once, and let another lead."""
        if self._dirty:
            await self.sync()
        await asyncio.to_thread(self.link.close)

    async def _look(self, beat: Beat) -> None:
        if beat.taken_by is not None:
            log.warning("another proxy calls itself %s too: give each its own shared.replica", self.replica)
        if beat.epoch != self._epoch or not self._reached:  # it may have lost anything
            if self._epoch and beat.epoch != self._epoch:
                self.clock.forget()
            self._versions.clear()
            self._dirty |= {name for name, state in (await self.local.states()).items() if self._remembered(state)}
        self._epoch, self._replicas = beat.epoch, beat.replicas
        self.clock.add(beat.answered.unix_s, beat.answered.asked_s, beat.answered.answered_s)

    def _remembered(self, state: State) -> bool:
        """Not what is long over, and forgotten in Redis: it is still on the disk."""
        design = state.get("design")
        began = design.get("began_unix_s") if isinstance(design, Mapping) else None
        old = isinstance(began, int | float) and self.clock.now_unix_s() - began > self.link.settings.keep_s
        return not (old and is_over(state))

    def _news(self, beat: Beat) -> set[str]:
        return {name for name, version in beat.versions.items() if self._versions.get(name) != version}

    async def _exchange(self, name: str) -> None:
        """One experiment: told and asked."""
        self._dirty.discard(name)
        try:
            revision, ours = self._revisions.get(name, 0), await self._ours(name)
            both, version = await asyncio.to_thread(self.link.exchange, name, ours)
            for line in (line for id, line in both.lines.items() if id not in ours.lines):
                await self.local.log(name, line)
            for part in (part for key, part in both.parts.items() if ours.parts.get(key) != part):
                await self.local.add_part(name, part)
            taken = await self._take(name, both, ours, revision)
        except BaseException:
            self._dirty.add(name)
            raise
        self._versions[name] = version
        if taken is not None:
            await self._tell(name, taken)

    async def _take(self, name: str, both: Known, ours: Known, revision: int) -> State | None:
        """Another replica's state is ours from now on, unless ours was changed meanwhile: then that is told next."""
        if both.state is None:
            return None
        async with self._saving:
            if self._revisions.get(name, 0) != revision:
                self._dirty.add(name)
                return None
            self._revisions[name] = both.revision
            if both.state == ours.state:
                return None
            await self.local.save(name, both.state)
        return both.state

    async def _tell(self, name: str, state: State) -> None:
        try:
            await self.on_change(name, state)
        except Exception:
            log.exception("experiment %s: what another replica has changed could not be put in force", name)

    async def _ours(self, name: str) -> Known:
        parts = await self.local.parts(name)
        return Known(
            (await self.local.states()).get(name),
            self._revisions.get(name, 0),
            {(index, replica): Part(replica, block) for index, told in parts.items() for replica, block in told.items()},
            await asyncio.to_thread(by_id, await self.local.lines(name)),
        )

    def _changed(self, name: str) -> None:
        self._dirty.add(name)
        self._woken.set()

    def _troubled(self, error: str) -> None:
        self._reached, now_s = False, self.clock.clock()
        self._trouble = trouble = self._trouble or _Trouble(error, now_s)
        trouble.error = error
        if now_s - trouble.logged_s >= AGAIN_S:
            log.warning("experiments go on without Redis, for %.0f s now: %s", now_s - trouble.since_s, error)
            trouble.logged_s = now_s


def _instant(line: Mapping[str, Any]) -> float:
    at = line.get("at_unix_s")
    return float(at) if isinstance(at, int | float) else 0.0


def replica_name(config: Config) -> str:
    """A proxy's name among its like: the configured one, else the host's and the data port."""
    host = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:48]
    return config.shared.replica or f"{host}-{config.port or os.getpid()}"


def create_shared(config: Config, environ: Mapping[str, str], local: Store) -> SharedStore | None:
    """What this proxy shares with others; None where it is alone.

    Raises:
        KeyUnavailable: Redis's password is not where it should be.
    """
    if config.shared.url is None:
        return None
    return SharedStore(Link(config.shared, replica_name(config), key_of(config.shared, environ)), local)
