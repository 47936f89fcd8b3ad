"""The process in which a policy is examined: it sees what the policy does to the operating system while it decides.

An audit hook notes files, sockets, processes and threads; a profile function notes calls of clocks and of randomness that
was not handed in. Both are one for a process and stay, which is why this is one of its own. The profile sees what Python
code calls, not what C code calls of itself (`map(time.time, ...)`); the answers of a second process, begun later with
another hash seed, are compared for that.
"""

from __future__ import annotations

import _thread
import io
import json
import random
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from types import BuiltinFunctionType, FrameType
from typing import Any

from policies.conformance import Examiner
from policies.strategy import Choice, UnknownStrategy
from policies.witness import Notes

FILES = ("open", "os.", "shutil.", "tempfile.", "glob.", "pathlib.", "mmap.", "fcntl.", "sqlite3.", "import")
WIRES = ("socket.", "urllib.", "http.", "ftplib.", "smtplib.", "syslog.", "pty.", "builtins.input")
OTHERS = ("subprocess.", "_thread.", "signal.", "ctypes.")
TOUCHES = FILES + WIRES + OTHERS  # audit events, by their beginnings
CLOCKS = {"time", "monotonic", "perf_counter", "process_time", "thread_time", "clock_gettime", "sleep"}
DAYS = {"now", "utcnow", "today"}
GLOBAL: Any = getattr(random.random, "__self__", None)  # the generator behind the functions of the module


@dataclass(slots=True)
class Spies:
    """What is seen while a question is asked, and only then."""

    notes: Notes
    watching: bool = False

    @contextmanager
    def watch(self) -> Iterator[None]:
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            self.watching = True
            sys.setprofile(self._called)
            try:
                yield
            finally:
                sys.setprofile(None)
                self.watching = False
        if said.getvalue():
            self.notes.breach("quiet", f"it prints {said.getvalue()!r:.40}")

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.watching and event.startswith(TOUCHES):
            self.notes.breach("quiet", f"{event} {', '.join(map(repr, arguments))!s:.60}")

    def _called(self, frame: FrameType, event: str, called: Any) -> None:
        if event != "c_call" or not self.watching:
            return
        if called is _thread.start_new_thread:  # no audit event before Python 3.12
            self.notes.breach("quiet", f"a thread is started in {frame.f_code.co_name}, line {frame.f_lineno}")
        if what := _not_a_function_of_its_arguments(called):
            self.notes.breach("timeless", f"{what} is called in {frame.f_code.co_name}, line {frame.f_lineno}")


def _not_a_function_of_its_arguments(called: Any) -> str:
    """The name of a clock or of the process's randomness; empty for everything else."""
    if not isinstance(called, BuiltinFunctionType):
        return ""
    name, module, owner = called.__name__, called.__module__, called.__self__
    if module == "time" and name.removesuffix("_ns") in CLOCKS:
        return f"time.{name}"
    if isinstance(owner, type) and issubclass(owner, date) and name in DAYS:
        return f"{owner.__name__}.{name}"
    if owner is GLOBAL or isinstance(owner, random.SystemRandom):
        return f"random ({name})"
    return "os.urandom" if name == "urandom" else ""


def examine(kind: str, name: str, params: Mapping[str, object], seed: int, spies: Spies) -> dict[str, Any]:
    """All findings of one policy or placement, and a digest of each of its answers.

    Raises:
        UnknownStrategy: there is none, or its parameters do not fit.
    """
    notes = spies.notes = Notes()
    notes.made |= dict.fromkeys(("quiet", "timeless"))
    draw = random.Random(seed).random
    findings = Examiner(kind, Choice(name, params), draw, spies.watch, time.perf_counter, notes).examine()
    told = [{"check": f.check, "verdict": f.verdict, "detail": f.detail, "advice": f.advice} for f in findings]
    answers = [(answer.partition(": ")[0], sha256(answer.encode()).hexdigest()[:16]) for answer in notes.answers]
    return {"findings": told, "answers": answers}


def main() -> None:
    """Reads what to examine from standard input, as JSON lines, and writes a line of findings for each."""
    out, sys.stdout = sys.stdout, sys.stderr  # what their modules print is no answer
    spies = Spies(Notes())
    sys.addaudithook(spies.audit)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            result = examine(asked["kind"], asked["name"], asked["params"], asked["seed"], spies)
        except UnknownStrategy as error:
            result = {"error": str(error)}
        print(json.dumps(result), file=out, flush=True)


if __name__ == "__main__":
    main()
