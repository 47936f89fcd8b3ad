"""10,000 connections whose requests a real `paceline serve` holds: the memory that each of them costs."""

from __future__ import annotations

import json
import resource
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from bench.overhead.contenders import Ground, Start, paceline
from bench.overhead.environments import Tell
from bench.overhead.running import Proxy, free_port, started
from bench.overhead.stub import Cores, Load, NotPossible, Upstream, apply, compiled, request_file, upstream

HOLD_S = 1e6
HELD_WITHIN_S = 60.0
SPARE_FILES = 200
ENVIRON = {"PACELINE_SLACK__INTERACTIVE__MAX_S": str(HOLD_S), "PACELINE_POLICY__PARAMS": f"{{ every_s = {HOLD_S:.0f} }}"}


@dataclass(frozen=True, slots=True)
class Crowd:
    """Resident memory of a process a waiting request, its connection included.

    `others_bytes` is what an app costs on the same server that only reads the body and waits, so the difference is ours.
    """

    paceline_bytes: float
    others_bytes: float

    @property
    def own_bytes(self) -> float:
        return self.paceline_bytes - self.others_bytes


def holding(on: Ground) -> Start:
    """Paceline as it is measured elsewhere, but with a window that does not open."""
    start = paceline(on)
    return replace(start, command=tuple("window" if part == "passthrough" else part for part in start.command), environ={
        **start.environ, **ENVIRON
    })  # fmt: skip


def patient(on: Ground) -> Start:
    return Start((sys.executable, "-m", "bench.overhead.patient", str(on.port)), "")


def held_by_paceline(proxy: Proxy) -> int:
    return int(_get(proxy.ground.spare_port, "/status")["room"]["held"])


def held_by_patient(proxy: Proxy) -> int:
    return int(_get(proxy.ground.port, "/")["waiting"])


def crowd(waiting: int, bench: Path, tell: Tell) -> Crowd:
    """Open so many connections to each, one request on each.

    Raises:
        NotPossible: too few open files are allowed, or not all requests came to wait.
    """
    _allow_files(waiting + SPARE_FILES)
    with upstream(compiled("upstream", bench / "bin"), Cores.here().load) as stub:
        ours = _bytes_each(waiting, holding, held_by_paceline, stub, bench, tell)
        return Crowd(ours, _bytes_each(waiting, patient, held_by_patient, stub, bench, tell))


def _bytes_each(
    waiting: int, make: Callable[[Ground], Start], held: Callable[[Proxy], int], stub: Upstream, bench: Path, tell: Tell
) -> float:
    cores, request = Cores.here(), request_file(bench / "bin", streamed=False)
    ground = Ground(stub.port, free_port(), free_port(), (bench / "run" / "crowd").absolute(), bench.absolute(), tell)
    with started(make, ground, cores.proxy) as proxy, ExitStack() as stack:
        # what is made at first use; these requests have no slack, so they are not held
        apply(Load(16, 1.0, 0.0), compiled("load", bench / "bin"), cores.load, ground.port, request)
        before = proxy.resident_bytes
        text = request.read_bytes().replace(b"\r\n\r\n", f"\r\nx-paceline-max-hold: {HOLD_S}\r\n\r\n".encode(), 1)
        for _ in range(waiting):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", ground.port)))
            connection.sendall(text)
        _wait_until(lambda: held(proxy), waiting)
        return (proxy.resident_bytes - before) / waiting


def _wait_until(held: Callable[[], int], waiting: int) -> None:
    give_up_at = time.monotonic() + HELD_WITHIN_S
    while (count := held()) < waiting:
        if time.monotonic() > give_up_at:
            raise NotPossible(f"{count} of {waiting} requests wait after {HELD_WITHIN_S:.0f} s")
        time.sleep(0.2)


def _get(port: int, path: str) -> dict[str, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        return dict(json.loads(connection.getresponse().read()))
    finally:
        connection.close()


def _allow_files(count: int) -> None:
    """For this process and those that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise NotPossible(f"{count} open files are needed and {hard} are allowed: ulimit -n")
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
