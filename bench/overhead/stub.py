"""The two C programs, compiled where they run: the upstream that is far faster than any proxy, and the load."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).parent


class NotPossible(Exception):
    """Something that is needed is not there; the message says what."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Where everything runs: upstream and load on one core, the proxy that is measured on another."""

    load: int
    proxy: int

    @classmethod
    def here(cls) -> Cores:
        cores = sorted(os.sched_getaffinity(0))
        return cls(cores[0], cores[-1])

    @property
    def shared(self) -> bool:
        """There is only one core, so that the figures say little."""
        return self.load == self.proxy


def pinned(core: int, *command: str) -> tuple[str, ...]:
    return ("taskset", "-c", str(core), *command)


def compiled(name: str, into: Path) -> Path:
    """The binary of one of our C files.

    Raises:
        NotPossible: there is no C compiler, or it refused.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise NotPossible("no C compiler: install gcc")
    into.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [compiler, "-O2", "-o", str(into / name), str(SOURCES / f"{name}.c")], check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise NotPossible(f"{name}.c cannot be compiled:\n{done.stderr}")
    return into / name


@dataclass(frozen=True, slots=True)
class Upstream:
    """The running upstream."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stream(self, events: int, gap_us: int) -> None:
        """From now on a stream has `events` events, one every `gap_us`; 0 is as fast as it can."""
        self._get(f"/stub/{events}/{gap_us}")

    def served(self) -> dict[str, int]:
        """Requests, events, and OTLP exports taken."""
        return {str(key): int(value) for key, value in self._get("/stub").items()}

    def _get(self, path: str) -> dict[str, Any]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            return dict(json.loads(connection.getresponse().read()))
        finally:
            connection.close()


@contextmanager
def upstream(binary: Path, core: int) -> Iterator[Upstream]:
    with subprocess.Popen(pinned(core, str(binary)), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Upstream(int(process.stdout.readline()))
        finally:
            process.terminate()


@dataclass(frozen=True, slots=True)
class Load:
    """One closed-loop load; `stagger_s` spreads the connections' starts."""

    connections: int
    window_s: float
    warm_s: float
    stagger_s: float = 0.0
    events: int = 0  # of each answer; 0: JSON


def apply(load: Load, binary: Path, core: int, port: int, request: Path, pids: Sequence[int] = ()) -> dict[str, float]:
    """What the load found, and the CPU time of `pids` within its window.

    Raises:
        NotPossible: it could not connect.
    """
    times = (f"{seconds * 1000:.0f}" for seconds in (load.warm_s, load.window_s, load.stagger_s))
    told = ",".join(map(str, pids)) or "-"
    command = (str(binary), str(port), str(load.connections), *times, str(load.events), told, str(request))
    done = subprocess.run(pinned(core, *command), check=False, capture_output=True, text=True)
    if done.returncode:
        raise NotPossible(done.stderr.strip() or f"the load ended with status {done.returncode}")
    return dict(json.loads(done.stdout))


def request_file(into: Path, *, streamed: bool) -> Path:
    """A chat of about 150 bytes as one whole HTTP request."""
    chat = {"model": "stub", "messages": [{"role": "user", "content": "Why do riders ride in a row?"}], "max_tokens": 64}
    options = {"stream": True, "stream_options": {"include_usage": True}} if streamed else {"temperature": 0.0, "seed": 7}
    body = json.dumps({**chat, **options})
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer none\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    file = into / ("stream.http" if streamed else "json.http")
    file.write_text(head + body, newline="")
    return file
