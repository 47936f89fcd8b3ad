"""The conformance suite: what is built in passes, and each check catches the one who breaks it, and only him."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from policies.strategy import PLACEMENTS, POLICIES
from policies.witness import CHECKS

BAD = '''
import datetime, itertools, os, pathlib, random, socket, subprocess, threading, time
from dataclasses import dataclass, field
from policies.base import Action, Decision, Plan, Upkeep

def all_of(view):
    return [waiting.id for waiting in view.waiting]

@dataclass(frozen=True)
class Good:
    """Everybody at once."""
    def decide(self, view, memory):
        return Decision(all_of(view))

@dataclass
class NotFrozen:
    """Says what it does."""
    decide = Good.decide

@dataclass(frozen=True)
class Undocumented(Good):
    pass

@dataclass(frozen=True)
class CannotBePickled(Good):
    """Holds what no file can."""
    lock: object = field(default_factory=threading.Lock, compare=False)

@dataclass(frozen=True)
class AnotherWhenTold(Good):
    """Its parameter is not what it was given."""
    n: int = 1
    def __post_init__(self):
        object.__setattr__(self, "n", self.n + 1)

@dataclass(frozen=True)
class Raises(Good):
    """Cannot be without servers."""
    def decide(self, view, memory):
        return Decision(all_of(view) if view.servers[0] else ())

@dataclass(frozen=True)
class ReturnsAList(Good):
    """Has not read the contract."""
    def decide(self, view, memory):
        return all_of(view)

@dataclass(frozen=True)
class NotANumber(Good):
    """Wakes at no time."""
    def decide(self, view, memory):
        return Decision(all_of(view), wake_at=float("nan"))

@dataclass(frozen=True)
class Unknown(Good):
    """Releases who is not there."""
    def decide(self, view, memory):
        return Decision([*all_of(view), "nobody"])

@dataclass(frozen=True)
class Twice(Good):
    """Releases everybody twice."""
    def decide(self, view, memory):
        return Decision(all_of(view) * 2)

@dataclass(frozen=True)
class WakesInThePast(Good):
    """Wants to be asked at once, again and again."""
    def decide(self, view, memory):
        return Decision(all_of(view), wake_at=view.now)

@dataclass(frozen=True)
class EmptiesTheQueue(Good):
    """Takes who waits out of the queue."""
    def decide(self, view, memory):
        ids = all_of(view)
        for id in ids:
            view.waiting.remove(id)
        return Decision()

@dataclass(frozen=True)
class ChangesMemory(Good):
    """Adds to the memory that it gets."""
    def decide(self, view, memory):
        memory = memory if isinstance(memory, list) else []
        memory.append(view.now)
        return Decision(all_of(view), memory=memory)

COUNT = itertools.count()

@dataclass(frozen=True)
class Counts(Good):
    """Every other time."""
    def decide(self, view, memory):
        return Decision(all_of(view) if next(COUNT) % 2 else ())

@dataclass(frozen=True)
class TrustsMemory(Good):
    """Adds to whatever it remembers."""
    def decide(self, view, memory):
        return Decision(all_of(view), memory=(memory or 0) + 1)

@dataclass(frozen=True)
class Spins(Good):
    """Asks again at once, until the deadline."""
    def decide(self, view, memory):
        return Decision(wake_at=view.now + 1e-9)

@dataclass(frozen=True)
class LetsNobodyGo(Good):
    """Leaves it to the deadlines."""
    def decide(self, view, memory):
        return Decision()

@dataclass(frozen=True)
class Slow(Good):
    """Sorts everybody, over and over."""
    def decide(self, view, memory):
        for n in range(20):
            sorted(view.waiting, key=lambda waiting: (waiting.tenant, n))
        return Decision(all_of(view))

@dataclass(frozen=True)
class Reads(Good):
    """Looks into a file."""
    def decide(self, view, memory):
        pathlib.Path(__file__).read_text()
        return Decision(all_of(view))

@dataclass(frozen=True)
class Connects(Good):
    """Opens a socket."""
    def decide(self, view, memory):
        with socket.socket() as sock:
            sock.connect_ex(("127.0.0.1", 9))
        return Decision(all_of(view))

@dataclass(frozen=True)
class Starts(Good):
    """Starts a process."""
    def decide(self, view, memory):
        if len(view.waiting) == 5:
            subprocess.run(["true"])
        return Decision(all_of(view))

@dataclass(frozen=True)
class Threads(Good):
    """Starts a thread."""
    def decide(self, view, memory):
        if len(view.waiting) == 5:
            thread = threading.Thread(target=int)
            thread.start()
            thread.join()
        return Decision(all_of(view))

@dataclass(frozen=True)
class Prints(Good):
    """Says what it does."""
    def decide(self, view, memory):
        print("deciding")
        return Decision(all_of(view))

@dataclass(frozen=True)
class Imports(Good):
    """Looks for a module while it decides."""
    def decide(self, view, memory):
        import colorsys
        return Decision(all_of(view))

@dataclass(frozen=True)
class AsksTheTime(Good):
    """Has a clock."""
    def decide(self, view, memory):
        time.monotonic()
        return Decision(all_of(view))

@dataclass(frozen=True)
class AsksTheDay(Good):
    """Has a calendar."""
    def decide(self, view, memory):
        datetime.datetime.now()
        return Decision(all_of(view))

@dataclass(frozen=True)
class Chances(Good):
    """Draws from the process's randomness, and does nothing with it."""
    def decide(self, view, memory):
        random.choice((1, 2))
        return Decision(all_of(view))

@dataclass(frozen=True)
class Entropy(Good):
    """Draws from the machine's randomness."""
    def decide(self, view, memory):
        os.urandom(1)
        return Decision(all_of(view))

@dataclass(frozen=True)
class Place:
    """The first that takes it, each assignment visible to the next."""
    def place(self, group, view):
        free = {server.name: server.free for server in view.servers}
        found = {}
        for waiting in group:
            for server in view.servers:
                if server.takes(waiting, free[server.name]):
                    free[server.name] -= waiting.sequences
                    found[waiting.id] = server.name
                    break
        return Plan(found)

@dataclass(frozen=True)
class Overfills(Place):
    """All to the first."""
    def place(self, group, view):
        return Plan({waiting.id: view.servers[0].name for waiting in group if view.servers})

@dataclass(frozen=True)
class Elsewhere(Place):
    """To a server that it made up."""
    def place(self, group, view):
        return Plan({**super().place(group, view).assignments, group[-1].id: "elsewhere"})

@dataclass(frozen=True)
class Nowhere(Place):
    """Nobody anywhere."""
    def place(self, group, view):
        return Plan()

@dataclass(frozen=True)
class TellsStrangers(Place):
    """Puts servers to sleep that are not there."""
    def tend(self, view):
        return Upkeep({"stranger": Action.SLEEP})

@dataclass(frozen=True)
class TendsInThePast(Place):
    """Wants to be asked at once."""
    def tend(self, view):
        return Upkeep(wake_at=view.now - 1)
'''

BREAKS = {  # by whom: what, of all checks
    "Good": set(),
    "NotFrozen": {"documented"},
    "Undocumented": {"documented"},
    "CannotBePickled": {"rebuilt"},
    "AnotherWhenTold": {"rebuilt"},
    "Raises": {"answers"},
    "ReturnsAList": {"answers"},
    "NotANumber": {"answers"},
    "Unknown": {"known"},
    "Twice": {"known"},
    "WakesInThePast": {"wakes"},
    "EmptiesTheQueue": {"pure", "lively"},
    "ChangesMemory": {"pure"},
    "Counts": {"steady"},
    "TrustsMemory": {"foreign"},
    "Spins": {"lively"},
    "LetsNobodyGo": {"lively (doubtful)"},
    "Slow": {"cost (doubtful)"},
    "Reads": {"quiet"},
    "Connects": {"quiet"},
    "Starts": {"quiet"},
    "Threads": {"quiet"},
    "Prints": {"quiet"},
    "Imports": {"quiet"},
    "AsksTheTime": {"timeless"},
    "AsksTheDay": {"timeless"},
    "Chances": {"timeless"},
    "Entropy": {"timeless"},
}
PLACEMENTS_BREAK = {
    "Place": set(),
    "Overfills": {"fits"},
    "Elsewhere": {"known", "lively"},
    "Nowhere": {"lively"},
    "TellsStrangers": {"known"},
    "TendsInThePast": {"wakes"},
}
CARBON = "at,value\n1800000000,300\n1800003600,100\n1800007200,400\n"


def examined(at: Path, *asked: tuple[str, str, dict[str, Any]]) -> dict[str, Any]:
    """What one process says of each."""
    lines = "\n".join(json.dumps({"kind": kind, "name": name, "params": params, "seed": 3}) for kind, name, params in asked)
    env = {**os.environ, "PYTHONPATH": f"{at}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [sys.executable, "-m", "bench.examination"],
        input=lines,
        env=env,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: result for (_, name, _), result in zip(asked, results, strict=True)}


def broken(result: dict[str, Any], *, but: str = "") -> set[str]:
    assert "error" not in result, result
    findings = [(finding["check"], finding["verdict"]) for finding in result["findings"] if finding["check"] != but]
    return {check if verdict == "bad" else f"{check} ({verdict})" for check, verdict in findings if verdict != "good"}


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    at = tmp_path_factory.mktemp("bad")
    (at / "bad_ones.py").write_text(BAD)
    asked = [("policy", f"bad_ones:{name}", {}) for name in BREAKS]
    asked += [("placement", f"bad_ones:{name}", {}) for name in PLACEMENTS_BREAK]
    return examined(at, *asked)


@pytest.mark.parametrize(("name", "breaks"), [*BREAKS.items(), *PLACEMENTS_BREAK.items()])
def test_each_check_catches_who_breaks_it(bad: dict[str, Any], name: str, breaks: set[str]) -> None:
    result = bad[f"bad_ones:{name}"]
    # how long a question takes is the machine's doing, too
    assert broken(result, but="" if name == "Slow" else "cost") == breaks
    assert all(finding["advice"] for finding in result["findings"] if finding["verdict"] != "good")


def test_every_check_is_broken_by_somebody() -> None:
    broken_by_somebody = {check.split(" ")[0] for breaks in (*BREAKS.values(), *PLACEMENTS_BREAK.values()) for check in breaks}
    assert broken_by_somebody | {"seeds"} == set(CHECKS)  # which takes two processes: tests/bench/test_policy_command.py


def test_what_is_built_in_passes(tmp_path: Path) -> None:
    (tmp_path / "grams.csv").write_text(CARBON)
    params: dict[str, dict[str, Any]] = {
        "carbon": {"file": str(tmp_path / "grams.csv")},
        "capped": {"in_flight": 4, "tokens": 5000, "power_w": 300, "policy": {"name": "size", "params": {"n": 3}}},
        "ordered": {"by": "fair", "policy": "passthrough"},
    }
    asked = [("policy", name, params.get(name, {})) for name in POLICIES]
    asked += [("placement", name, {}) for name in PLACEMENTS]
    results = examined(tmp_path, *asked)
    assert {name: broken(result, but="cost") for name, result in results.items()} == {name: set() for _, name, _ in asked}
