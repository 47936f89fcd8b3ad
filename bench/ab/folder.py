"""Experiments read from the folder that a proxy kept them in, with no proxy there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.ab.document import BadDocument, Document, began_unix_s
from proxy.experiments.judging import merged
from proxy.experiments.store import DiskStore


def names(path: Path) -> list[str]:
    """Of all experiments in a folder, in the order in which they began; none where there is no folder."""
    return sorted(states := _states(path), key=lambda name: began_unix_s(states[name]))


def read(path: Path, name: str | None) -> Document:
    """One experiment, with its log.

    Args:
        path: what `experiments.path` was, or one experiment's own folder in it.
        name: which; None: the one that began last.

    Raises:
        BadDocument: there is none, or it cannot be read.
    """
    if (path / "state.json").is_file():
        path, name = path.parent, name or path.resolve().name
    known = names(path)
    if not known or (name is not None and name not in known):
        told = f"there are {', '.join(known)}" if known else "it holds none; a proxy keeps them in `experiments.path`"
        raise BadDocument(f"{path} has no experiment{f' {name!r}' if name else ''}: {told}")
    return asyncio.run(_whole(DiskStore(path), name or known[-1]))


async def _whole(store: DiskStore, name: str) -> Document:
    try:
        state, parts = (await store.states())[name], await store.parts(name)
        lines = await store.lines(name)
    except (OSError, ValueError) as error:
        raise BadDocument(f"{store.path / name} cannot be read: {error}") from error
    about = {"read": str(store.path / name), "read_unix_s": time.time(), "report_version": version("paceline")}
    found = Document.of({**state, "blocks": []}, lines, **about)
    return replace(found, blocks=tuple(merged(parts, lambda block: (), found.design)))


def _states(path: Path) -> Mapping[str, Mapping[str, Any]]:
    try:
        return asyncio.run(DiskStore(path).states())
    except (OSError, ValueError) as error:
        raise BadDocument(f"{path} cannot be read: {error}") from error
