"""One request in the simulated engine: its sequences, and the tokens that its handler has not taken yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from policies.engine import Job

SILENCE_S = 15.0  # wall seconds without a token after which TGI sends a comment


class ClientGone(Exception):
    """The client closed its connection: nobody reads what would be sent."""


@dataclass(slots=True)
class Track:
    """One sequence of a request; instants are the engine's."""

    flight: Flight
    index: int
    job: Job
    began_at: float | None = None  # start of the step that finished its prompt
    ended_at: float | None = None
    energy_j: float = 0.0


class Flight:
    """Made by `Driver.submit`: the driver puts tokens in, one handler takes them out."""

    def __init__(self, id: str, arrived_at: float, streamed: bool, on_end: Callable[[Flight], None]) -> None:
        self.id = id
        self.arrived_at = arrived_at
        self.streamed = streamed
        self.tracks: list[Track] = []
        self.untold = 0  # tokens of a stream that the handler has not taken
        self.gone = False
        self._on_end = on_end  # told once: cancelled, or handed over
        self._over = False
        self._running = 0
        self._fresh: list[int] = []
        self._waiter: asyncio.Future[None] | None = None
        self._told_at = 0.0
        self._alarm: asyncio.TimerHandle | None = None

    def add(self, job: Job) -> Track:
        track = Track(self, len(self.tracks), job)
        self.tracks.append(track)
        self.untold += job.output_tokens
        self._running += 1
        return track

    # what the driver calls

    def token(self, index: int) -> None:
        self._fresh.append(index)
        self._wake()

    def ended(self) -> None:
        self._running -= 1
        if not self._running:
            self._wake()

    # what the handler calls

    async def fresh(self) -> list[int]:
        """The sequence of each new token, in order; nothing after a long silence.

        Raises:
            ClientGone: nobody is there to be told.
        """
        self._told_at = asyncio.get_running_loop().time()
        if self._alarm is None:
            self._listen()
        if not self._fresh:
            await self._wait()
        fresh, self._fresh = self._fresh, []
        self.untold -= len(fresh)
        return fresh

    async def finished(self) -> None:
        """Returns when all sequences have ended.

        Raises:
            ClientGone: as above.
        """
        while self._running:
            await self._wait()

    def handed_over(self) -> None:
        """The last byte of the response is with the socket."""
        if not self._over:
            self._close()

    def cancel(self) -> None:
        """The client left, or the handler failed; nothing happens once the response is handed over."""
        if not self._over:
            self.gone = True
            self._close()
            self._wake()

    @property
    def ended_at(self) -> float:
        """When the last sequence ended."""
        return max(track.ended_at or 0.0 for track in self.tracks)

    @property
    def energy_j(self) -> float:
        return sum(track.energy_j for track in self.tracks)

    async def _wait(self) -> None:
        if not self.gone:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self.gone:
            raise ClientGone

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _listen(self) -> None:
        """One timer for the stream's life, not one a token."""
        loop = asyncio.get_running_loop()
        quiet_s = loop.time() - self._told_at
        if quiet_s >= SILENCE_S:
            self._wake()
            quiet_s = 0.0
        self._alarm = loop.call_later(SILENCE_S - quiet_s, self._listen)

    def _close(self) -> None:
        self._over = True
        if self._alarm is not None:
            self._alarm.cancel()
        self._on_end(self)
