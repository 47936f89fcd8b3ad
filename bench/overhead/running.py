"""The proxies as processes: each started once on the measured core, and halted while another has its turn."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from bench.overhead.contenders import INHERITED, Ground, Start
from bench.overhead.stub import NotPossible, pinned

READY_WITHIN_S = 90.0
ENDS_WITHIN_S = 15.0
CHAT = b'{"model": "stub", "messages": [{"role": "user", "content": "Ready?"}], "max_tokens": 1}'


@dataclass(frozen=True, slots=True)
class Proxy:
    """One running proxy; it and its children are one process group."""

    version: str
    ground: Ground
    process: subprocess.Popen[bytes]

    @property
    def pids(self) -> list[int]:
        """Itself and all below it."""
        found = [self.process.pid]
        for pid in found:  # grows as it is read
            for task in _tasks(pid):
                with suppress(OSError):
                    found += map(int, (task / "children").read_text().split())
        return found

    @property
    def resident_bytes(self) -> int:
        """Zero once it has ended."""
        pages = 0
        for pid in self.pids:
            with suppress(OSError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def status(self) -> int | None:
        """With which it has ended, or is about to; None if it has not."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(0.5)
        return self.process.returncode

    @contextmanager
    def turn(self) -> Iterator[None]:
        """It runs in the block."""
        os.killpg(self.process.pid, signal.SIGCONT)
        try:
            yield
        finally:
            self.halt()

    def halt(self) -> None:
        os.killpg(self.process.pid, signal.SIGSTOP)


def _tasks(pid: int) -> list[Path]:
    with suppress(OSError):
        return list(Path(f"/proc/{pid}/task").iterdir())
    return []


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def started(
    make: Callable[[Ground], Start], ground: Ground, core: int, environ: Mapping[str, str] | None = None
) -> Iterator[Proxy]:
    """A proxy that has answered a chat, and runs.

    Raises:
        NotPossible: it cannot be had, or does not answer.
    """
    ground.folder.mkdir(parents=True, exist_ok=True)
    start, log = make(ground), ground.folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            pinned(core, *start.command),
            env={**INHERITED, **start.environ, **(environ or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _wait_until_ready(process, ground.port, log)
        yield Proxy(start.version, ground, process)
    finally:
        _stop(process)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    give_up_at = time.monotonic() + READY_WITHIN_S
    while said := _objection(port):
        if process.poll() is not None or time.monotonic() > give_up_at:
            end = log.read_text(errors="replace")[-1500:]
            raise NotPossible(f"it does not answer a chat ({said}); the end of {log}:\n{end}")
        time.sleep(0.05)


def _objection(port: int) -> str:
    """What came instead of an answer; empty for an answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("POST", "/v1/chat/completions", CHAT, {"content-type": "application/json"})
        answer = connection.getresponse()
        return "" if answer.status == 200 else f"{answer.status} {answer.read(200).decode(errors='replace')}"
    except (OSError, HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        connection.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGCONT)
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
