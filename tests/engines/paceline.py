"""A real `paceline serve` in front of one engine, and the doors that everybody may use: both ports."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.engines.engine import own_environ
from tests.engines.environments import ROOT
from tests.engines.process import Process, eventually

READY = r"paceline ready: data (\S+) admin (\S+)"
OPTIONS = ("--host", "127.0.0.1", "--port", "0", "--admin-port", "0", "--meter", "none")


class Paceline:
    """Its two ports."""

    def __init__(self, process: Process, url: str, admin_url: str) -> None:
        self.process, self.url = process, url
        self.http = httpx.Client(base_url=url, trust_env=False, timeout=120)
        self.admin = httpx.Client(base_url=admin_url, trust_env=False, timeout=10)

    def status(self) -> dict[str, Any]:
        return dict(self.admin.get("/status").json())

    def in_flight(self) -> int:
        return int(self.status()["room"]["in_flight"])

    def waiting(self) -> int:
        room = self.status()["room"]
        return int(room["held"] + room["ready"])

    def ended(self, id: str) -> dict[str, Any]:
        """A request as the ledger tells it once it has ended."""
        told: dict[str, Any] = {}

        def over() -> bool:
            nonlocal told
            told = self.admin.get(f"/requests/{id}").json()
            return told["state"] == "ended"

        assert eventually(over), told
        return told


@contextmanager
def serving(log: Path, *options: str, **environ: str) -> Iterator[Paceline]:
    command = [sys.executable, "-u", "-m", "proxy.cli", "serve", *OPTIONS, *options]
    process = Process("paceline", command, log, {**own_environ(), **environ}, ROOT)
    try:
        process.until(lambda: process.printed(READY), within_s=30)
        ready = process.printed(READY)
        assert ready is not None
        paceline = Paceline(process, ready[1], ready[2])
        with paceline.http, paceline.admin:
            yield paceline
    finally:
        process.stop()
