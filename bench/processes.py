"""Paceline's commands as real child processes: started, waited for until they are ready, and ended cleanly."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

READY_WITHIN_S = 30.0
ENDS_WITHIN_S = 10.0
LINES_KEPT = 200


class ProcessFailed(Exception):
    """A child ended when it should not have, or was not ready in time; the message holds its output."""


@dataclass(slots=True)
class Child:
    """One running command; all that it prints is read, so that it never blocks, and the end of it is kept."""

    name: str
    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)
    _reading: asyncio.Task[None] | None = None
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    async def start(cls, *arguments: str, environ: Mapping[str, str] | None = None) -> Child:
        """Start `paceline ARGUMENTS...`; None is this process's environment."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-u", "-m", "proxy.cli", *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environ,
            start_new_session=True,  # Ctrl-C ends this process, which then ends its children in order
        )
        child = cls(" ".join(("paceline", *arguments)), process)
        child._reading = asyncio.create_task(child._read())
        return child

    async def ready(self, pattern: str, within_s: float = READY_WITHIN_S) -> re.Match[str]:
        """The first line of output that matches.

        Raises:
            ProcessFailed: it ended before, or did not print it in time.
        """
        try:
            async with asyncio.timeout(within_s):
                return await self._line(pattern)
        except TimeoutError:
            raise ProcessFailed(f"{self.name} was not ready within {within_s:g} s{self._output()}") from None

    async def finished(self, within_s: float) -> int:
        """The exit status of a command that ends by itself.

        Raises:
            ProcessFailed: it did not.
        """
        try:
            async with asyncio.timeout(within_s):
                return await self._ended()
        except TimeoutError:
            raise ProcessFailed(f"{self.name} did not end within {within_s:g} s{self._output()}") from None

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL for one that does not listen to it."""
        if self.process.returncode is None:
            self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(ENDS_WITHIN_S):
                await self._ended()
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self._ended()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # it has just ended by itself
            self.process.send_signal(number)

    async def _ended(self) -> int:
        status = await self.process.wait()
        if self._reading is not None:
            await self._reading
        return status

    async def _line(self, pattern: str) -> re.Match[str]:
        seen = 0
        while True:
            self._news.clear()
            for line in self.lines[seen:]:
                if match := re.search(pattern, line):
                    return match
            seen = len(self.lines)
            if self._reading is None or self._reading.done():
                status = await self.process.wait()
                raise ProcessFailed(f"{self.name} ended with status {status} before it was ready{self._output()}")
            await self._news.wait()

    async def _read(self) -> None:
        assert self.process.stdout is not None
        try:
            async for line in self.process.stdout:
                self.lines.append(line.decode(errors="replace").rstrip())
                self._news.set()
        finally:
            self._news.set()

    def _output(self) -> str:
        return f"; it printed:\n{self.output}" if self.lines else "; it printed nothing"


@asynccontextmanager
async def running(*arguments: str, environ: Mapping[str, str] | None = None) -> AsyncIterator[Child]:
    """A command that is stopped at the end of the block."""
    child = await Child.start(*arguments, environ=environ)
    try:
        yield child
    finally:
        await asyncio.shield(child.stop())


@asynccontextmanager
async def engine(*options: str) -> AsyncIterator[str]:
    """`paceline engine` on a free port; yields its URL."""
    async with running("engine", "--port", "0", *options) as child:
        yield (await child.ready(r"engine ready on (\S+)"))[1]


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a proxy listens."""

    data: str
    admin: str


@asynccontextmanager
async def proxy(*options: str) -> AsyncIterator[Ports]:
    """`paceline serve` on free ports of this machine alone; yields their URLs."""
    own = ("--host", "127.0.0.1", "--port", "0", "--admin-port", "0")
    async with running("serve", *own, *options) as child:
        ready = await child.ready(r"paceline ready: data (\S+) admin (\S+)")
        yield Ports(ready[1], ready[2])
