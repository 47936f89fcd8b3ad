"""What one experiment hands to its store: in order, once each, and later where the store cannot be had now."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from proxy.experiments.plan import Plan
from proxy.experiments.store import Part, Store
from telemetry.blocks import Block

log = logging.getLogger("paceline.experiment")


@dataclass(slots=True)
class Keeper:
    """Of one experiment.

    Attributes:
        replica: this process's name in the store.
        wall: seconds since the epoch.
        lines: of the log, that the store has.
    """

    name: str
    store: Store
    replica: str
    wall: Callable[[], float]
    lines: int = 0
    _state: Plan | None = None  # that the store has not had
    _parts: list[Part] = field(default_factory=list)  # likewise
    _lines: list[dict[str, Any]] = field(default_factory=list)
    _failed: bool = False
    _flushing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def behind(self) -> bool:
        """Whether there is something that the store has not had."""
        return bool(self._lines or self._parts or self._state is not None)

    async def state(self, plan: Plan) -> None:
        """The state, as it is now."""
        self._state = plan
        await self.flush()

    async def note(self, event: str, **what: Any) -> None:
        """A line of the log; what is None is left out."""
        known = {key: value for key, value in what.items() if value is not None}
        self._lines.append({"at_unix_s": self.wall(), "replica": self.replica, "event": event, **known})
        await self.flush()

    async def part(self, block: Block) -> None:
        """What was counted of a block."""
        self._parts.append(Part(self.replica, block))
        await self.flush()

    async def parts(self) -> dict[int, dict[str, Block]]:
        """Of all blocks by all replicas, with what the store has not had yet.

        Raises:
            OSError: the store cannot be had.
        """
        parts = {index: dict(of) for index, of in (await self.store.parts(self.name)).items()}
        for part in self._parts:
            parts.setdefault(part.block.index, {})[part.replica] = part.block
        return parts

    async def flush(self) -> None:
        """Hand over what waits; what is not taken is tried again with the next call."""
        async with self._flushing:
            try:
                await self._flush()
            except OSError as error:
                if not self._failed:
                    log.error("experiment %s: cannot be kept for now, and goes on: %s", self.name, error)
                self._failed = True
                return
            if self._failed:
                log.warning("experiment %s: is kept again", self.name)
            self._failed = False

    def give_up(self) -> None:
        """What waits cannot be written, ever."""
        self._lines.clear()
        self._parts.clear()
        self._state = None

    async def _flush(self) -> None:
        while self._lines:
            await self.store.log(self.name, self._lines[0])
            self._lines.pop(0)
            self.lines += 1
        while self._parts:
            await self.store.add_part(self.name, self._parts[0])
            self._parts.pop(0)
        while (state := self._state) is not None:
            await self.store.save(self.name, state.as_json())
            self._state = None if self._state is state else self._state
