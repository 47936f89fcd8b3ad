"""Programs that work beside the proof: started, told a line at a time, and ended by closing their standard input."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

READY_WITHIN_S = 90.0  # a CUDA context on a busy host takes its time
ENDS_WITHIN_S = 10.0
READY = "ready"


class NotHere(Exception):
    """The program cannot do its work on this machine; the message says why."""


@dataclass(frozen=True, slots=True)
class Companion:
    """A running program that reads lines, and ends when there are no more."""

    process: Process

    async def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        await self.process.stdin.drain()


@asynccontextmanager
async def companion(module: str, *arguments: str) -> AsyncIterator[Companion]:
    """`python -m MODULE ARGUMENTS` until the end of the block.

    Raises:
        NotHere: it said something else than that it is ready.
    """
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, *arguments, stdin=PIPE, stdout=PIPE)
    try:
        await _ready(process, module)
        yield Companion(process)
    finally:
        await asyncio.shield(_end(process))


async def _ready(process: Process, module: str) -> None:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(READY_WITHIN_S):
            line = (await process.stdout.readline()).decode().strip()
    except TimeoutError:
        line = f"it was not ready within {READY_WITHIN_S:g} s"
    if line != READY:
        raise NotHere(f"{module}: {line or 'it ended without a word'}")


async def _end(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(ENDS_WITHIN_S):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):  # it has just ended by itself
            process.kill()
        await process.wait()
