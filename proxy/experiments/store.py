"""Where experiments are kept, so that they outlive the process: states, what happened, and what blocks came to.

Of each experiment there is one state (a JSON object, replaced whole), a log that only grows, and parts of blocks: what each
replica counted in a block. On a disk that is a directory for each experiment:

    DIR/<name>/state.json     replaced by renaming, so it is never half a state
    DIR/<name>/log.jsonl      one decision a line, each synced before it counts
    DIR/<name>/blocks.jsonl   one part a line; of the same block and replica the last one counts
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from telemetry.blocks import Block

log = logging.getLogger("paceline.experiment")

State = Mapping[str, Any]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # also a directory's name


@dataclass(frozen=True, slots=True)
class Part:
    """What one replica counted of one block."""

    replica: str
    block: Block

    def as_json(self) -> dict[str, Any]:
        return {"replica": self.replica, "block": self.block.as_json()}

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Part:
        """From its JSON.

        Raises:
            ValueError: it is none.
        """
        replica, block = data.get("replica"), data.get("block")
        if not isinstance(replica, str) or not isinstance(block, Mapping):
            raise ValueError("a part of a block has a replica's name and a block")
        return cls(replica, Block.of(block))


class Store(Protocol):
    """Keeps experiments. Names are checked before; what is written stays written once a call returns.

    Every call may raise OSError: the store cannot be had now. Whoever calls goes on without it, and tries again.
    """

    async def states(self) -> Mapping[str, State]:
        """The state of every experiment, by name."""
        ...

    async def save(self, name: str, state: State) -> None:
        """The experiment's state is now this, whole or not at all."""
        ...

    async def log(self, name: str, line: Mapping[str, Any]) -> None:
        """Something was decided: a JSON object, appended."""
        ...

    async def lines(self, name: str) -> Sequence[Mapping[str, Any]]:
        """The log so far, oldest first; empty for an unknown name."""
        ...

    async def add_part(self, name: str, part: Part) -> None:
        """What a replica counted in the block `part.block.index`; told again, the last one counts."""
        ...

    async def parts(self, name: str) -> Mapping[int, Mapping[str, Block]]:
        """By block, by replica: what was counted."""
        ...


def check_name(name: str) -> str:
    """The name, if it can be one.

    Raises:
        ValueError: it cannot.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r}: a name has up to 64 letters, digits, `.`, `_` or `-`, and begins with a letter or digit")
    return name


@dataclass(frozen=True, slots=True)
class DiskStore:
    """In a directory, for one proxy. Files are small and written seldom, in a thread: no request waits for a disk.

    Blocks are asked for every few seconds, so they are read once, and remembered from then on: nobody else writes them.
    """

    path: Path
    _parts: dict[str, dict[int, dict[str, Block]]] = field(default_factory=dict)
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def states(self) -> Mapping[str, State]:
        return await asyncio.to_thread(self._states)

    async def save(self, name: str, state: State) -> None:
        await asyncio.to_thread(_replace, self._file(name, "state.json"), state)

    async def log(self, name: str, line: Mapping[str, Any]) -> None:
        await asyncio.to_thread(_append, self._file(name, "log.jsonl"), line)

    async def lines(self, name: str) -> Sequence[Mapping[str, Any]]:
        return await asyncio.to_thread(_read, self._file(name, "log.jsonl"))

    async def add_part(self, name: str, part: Part) -> None:
        async with self._reading:
            await asyncio.to_thread(_append, self._file(name, "blocks.jsonl"), part.as_json())
            if name in self._parts:
                self._parts[name].setdefault(part.block.index, {})[part.replica] = part.block

    async def parts(self, name: str) -> Mapping[int, Mapping[str, Block]]:
        file = self._file(name, "blocks.jsonl")
        async with self._reading:
            if name not in self._parts:
                self._parts[name] = await asyncio.to_thread(lambda: by_block(map(Part.of, _read(file))))
            return {index: dict(of) for index, of in self._parts[name].items()}

    def _file(self, name: str, file: str) -> Path:
        return self.path / check_name(name) / file

    def _states(self) -> dict[str, State]:
        found: dict[str, State] = {}
        for file in sorted(self.path.glob("*/state.json")):
            try:
                found[check_name(file.parent.name)] = _object(file)
            except ValueError as error:  # the others' are fine
                log.error("%s is no state of an experiment, and is passed over: %s", file, error)
        return found


class MemoryStore:
    """For a proxy that was given no directory: experiments end with the process, and say so."""

    def __init__(self) -> None:
        self._states: dict[str, State] = {}
        self._lines: dict[str, list[Mapping[str, Any]]] = {}
        self._parts: dict[str, list[Part]] = {}

    async def states(self) -> Mapping[str, State]:
        return dict(self._states)

    async def save(self, name: str, state: State) -> None:
        self._states[check_name(name)] = state

    async def log(self, name: str, line: Mapping[str, Any]) -> None:
        self._lines.setdefault(name, []).append(line)

    async def lines(self, name: str) -> Sequence[Mapping[str, Any]]:
        return list(self._lines.get(name, ()))

    async def add_part(self, name: str, part: Part) -> None:
        self._parts.setdefault(name, []).append(part)

    async def parts(self, name: str) -> Mapping[int, Mapping[str, Block]]:
        return by_block(self._parts.get(name, ()))


def by_block(parts: Iterable[Part]) -> dict[int, dict[str, Block]]:
    """Parts in the order in which they were told; of the same block and replica the last one counts."""
    found: dict[int, dict[str, Block]] = {}
    for part in parts:
        found.setdefault(part.block.index, {})[part.replica] = part.block
    return found


def _object(file: Path) -> State:
    state = json.loads(file.read_text())
    if not isinstance(state, dict):
        raise ValueError("must hold a JSON object")
    return state


def _replace(file: Path, state: State) -> None:
    text = json.dumps(state, allow_nan=False)  # what cannot be written leaves nothing behind
    _directory(file.parent)
    new = file.with_suffix(".new")
    with new.open("w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    new.replace(file)
    _sync(file.parent)


def _append(file: Path, line: Mapping[str, Any]) -> None:
    """A whole line in one write. If the former one was cut (the power failed), this one begins on a line of its own."""
    _directory(file.parent)
    with file.open("ab+") as out:
        torn = b""
        if out.tell():
            out.seek(-1, os.SEEK_END)
            torn = b"" if out.read(1) == b"\n" else b"\n"
        out.write(torn + json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n")
        out.flush()
        os.fsync(out.fileno())


def _read(file: Path) -> list[Mapping[str, Any]]:
    """All whole lines; half a line is what a failing power left."""
    found: list[Mapping[str, Any]] = []
    with suppress(FileNotFoundError):
        for line in file.read_bytes().split(b"\n"):
            with suppress(ValueError):
                if isinstance(value := json.loads(line), dict):
                    found.append(value)
    return found


def _directory(path: Path) -> None:
    if not path.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        _sync(path.parent)


def _sync(directory: Path) -> None:
    """A rename is on the disk once its directory is."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
