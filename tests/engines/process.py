"""Child processes of these tests: what they print is kept in a file, and none outlives the tests."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

ENDS_WITHIN_S = 10.0
TAIL = 6_000  # characters of a log that are shown upon failure


class Process:
    """One command in a process group of its own, run in `folder`."""

    def __init__(self, name: str, command: Sequence[str], log: Path, environ: Mapping[str, str], folder: Path) -> None:
        self.name, self.log = name, log
        log.touch()
        self._begins_at = log.stat().st_size  # what an earlier start printed is none of its words
        with log.open("ab") as output:
            self.child = subprocess.Popen(
                command,
                cwd=folder,
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        return self.child.poll() is None

    @property
    def cpu_s(self) -> float:
        """Processor seconds used so far, by all its threads."""
        fields = Path(f"/proc/{self.child.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def output(self) -> str:
        return self.log.read_bytes()[self._begins_at :].decode(errors="replace")

    def tail(self) -> str:
        return self.output()[-TAIL:]

    def printed(self, pattern: str) -> re.Match[str] | None:
        return re.search(pattern, self.output())

    def until(self, ready: Callable[[], object], within_s: float) -> None:
        """Wait until it is ready.

        Raises:
            RuntimeError: it ended before, or was not ready in time; the message holds what it printed.
        """
        end = time.monotonic() + within_s
        while not ready():
            if not self.alive:
                raise RuntimeError(f"{self.name} ended with status {self.child.returncode}; it printed:\n{self.tail()}")
            if time.monotonic() > end:
                raise RuntimeError(f"{self.name} was not ready within {within_s:g} s; it printed:\n{self.tail()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """SIGTERM to the group; SIGKILL to whatever of it is left after a while."""
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.child.wait(ENDS_WITHIN_S)
        self._signal(signal.SIGKILL)
        self.child.wait()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.child.pid, number)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(check: Callable[[], object], within_s: float = 5.0, every_s: float = 0.02) -> bool:
    """Whether something becomes true in time."""
    end = time.monotonic() + within_s
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(every_s)
    return True
