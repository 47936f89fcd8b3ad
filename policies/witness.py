"""Who stands between a policy or placement and whoever asks it, and notes each breach of the contract of `policies/base.py`."""

from __future__ import annotations

import pickle
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from math import isnan
from typing import Any

from policies.base import Action, Decision, Plan, Upkeep, View, Waiting


class Verdict(StrEnum):
    """What came out of a check."""

    GOOD = "good"
    DOUBTFUL = "doubtful"
    BAD = "bad"


CHECKS = {  # what is asked, and what to do when it is not so
    "documented": "make it @dataclass(frozen=True) and give the class a docstring: its fields are its configuration",
    "rebuilt": "let each field be a number, a text, a list, a policy or a placement, and define it in a module",
    "answers": "return a Decision (a Plan, an Upkeep) for any view: nobody in flight, no server, no traffic known",
    "known": "name only those who wait (or are of the group), once each, and only servers of the view",
    "fits": "count `free` down while you assign, and ask `server.takes(waiting, free)`",
    "wakes": "leave wake_at out, or name an instant after view.now",
    "pure": "change nothing that you were handed, nor yourself: what you must remember goes out and in as memory",
    "steady": "depend on view and memory alone: no counter, no cache, no set whose order decides",
    "foreign": "test memory with isinstance before use: after a change of policy it can be anything",
    "lively": "name a wake_at while somebody is held and nothing else would happen, and none in a tight row",
    "cost": "use the sums of view.waiting, its due_before and of; do not walk over all who wait to release nobody",
    "quiet": "no file, socket, process, thread, import or print while deciding: what is slow belongs to telemetry",
    "timeless": "take the time from view.now and view.wall_s, and randomness from ids or from a parameter",
    "seeds": "let no order of a set or a hash() decide: sort, or use a dict",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's verdict, what was seen, and what to do about it."""

    check: str
    verdict: Verdict
    detail: str = ""

    @property
    def advice(self) -> str:
        return "" if self.verdict is Verdict.GOOD else CHECKS[self.check]


@dataclass(slots=True)
class Notes:
    """What was seen so far, by check: each check that was made, its breaches, its doubts."""

    breaches: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    doubts: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    remarks: dict[str, str] = field(default_factory=dict)
    made: dict[str, None] = field(default_factory=dict)
    answers: list[str] = field(default_factory=list)  # to be compared with those of another process

    def breach(self, check: str, detail: str) -> None:
        self.breaches[check].append(detail)

    def findings(self) -> list[Finding]:
        return [self._finding(check) for check in CHECKS if check in self.made or check in self.breaches]

    def _finding(self, check: str) -> Finding:
        for verdict, found in ((Verdict.BAD, self.breaches), (Verdict.DOUBTFUL, self.doubts)):
            if seen := found.get(check):
                details = list(dict.fromkeys(seen))
                more = f" (and {len(details) - 1} like it)" if len(details) > 1 else ""
                return Finding(check, verdict, details[0] + more)
        return Finding(check, Verdict.GOOD, self.remarks.get(check, ""))


Watch = Callable[[], AbstractContextManager[None]]


@dataclass(slots=True)
class Witness:
    """Stands between a policy or placement and whoever asks it, and notes breaches.

    Attributes:
        thing: the policy or placement.
        notes: where breaches go.
        watch: entered around each question.
        where: what is being asked about, for the notes.
        closely: whether to look for changes of what was handed in, which takes a pass over it.
        asked: how often.
    """

    thing: Any
    notes: Notes
    watch: Watch
    where: str = ""
    closely: bool = False
    asked: int = 0

    def decide(self, view: View, memory: object) -> Decision:
        decision: Decision = self._ask("decide", view, memory)
        self._expect(isinstance(decision, Decision), "answers", f"returns {type(decision).__name__}, not a Decision")
        release = decision.release
        texts = isinstance(release, Sequence) and not isinstance(release, str) and all(isinstance(id, str) for id in release)
        self._expect(texts, "answers", f"releases {release!r:.60}, which is no list of ids")
        for id in release:
            if id not in view.waiting:
                self._note("known", f"releases {id!r}, who does not wait")
        if len(set(release)) < len(release):
            self._note("known", "releases somebody twice")
        self._check_wake(decision.wake_at, view)
        return decision

    def place(self, group: Sequence[Waiting], view: View) -> Plan:
        plan: Plan = self._ask("place", group, view)
        self._expect(isinstance(plan, Plan), "answers", f"returns {type(plan).__name__}, not a Plan")
        by_id = {waiting.id: waiting for waiting in group}
        by_name = {server.name: server for server in view.servers}
        free = {server.name: server.free for server in view.servers}
        for id, name in plan.assignments.items():
            if id not in by_id or name not in by_name:
                self._note("known", f"sends {id!r} to {name!r}, one of whom is not there")
            elif not by_name[name].takes(by_id[id], free[name]):
                self._note("fits", f"sends {id!r} to {name!r}, which has {free[name]} slots left and is {by_name[name].state}")
            else:
                free[name] -= by_id[id].sequences
        return plan

    def _ask(self, method: str, *question: Any) -> Any:
        self.asked += 1
        before = _looks(self.thing, question) if self.closely else b""
        try:
            with self.watch():
                answer = getattr(self.thing, method)(*question)
        except Exception as error:
            self._note("answers", f"raises {type(error).__name__}: {error}")
            raise
        if self.closely and _looks(self.thing, question) != before:
            self._note("pure", f"{method} changes what it was handed, or itself")
        return answer

    def _check_wake(self, wake_at: Any, view: View) -> None:
        number = isinstance(wake_at, int | float) and not isnan(wake_at)
        self._expect(wake_at is None or number, "answers", f"wake_at is {wake_at!r}")
        if wake_at is not None and wake_at <= view.now:
            self._note("wakes", f"wants to be asked again at {wake_at}, and it is {view.now} already")

    def _expect(self, true: bool, check: str, detail: str) -> None:
        if not true:
            self._note(check, detail)
            raise TypeError(detail)

    def _note(self, check: str, detail: str) -> None:
        self.notes.breach(check, f"{self.where}: {detail}")


class TendingWitness(Witness):
    """The witness of a placement that tends servers: a room tells those by their having the method."""

    def tend(self, view: View) -> Upkeep:
        upkeep: Upkeep = self._ask("tend", view)
        self._expect(isinstance(upkeep, Upkeep), "answers", f"returns {type(upkeep).__name__}, not an Upkeep")
        names = {server.name for server in view.servers}
        for name, action in upkeep.actions.items():
            if name not in names or not isinstance(action, Action):
                self._note("known", f"tells {name!r} to {action!r}")
        self._check_wake(upkeep.wake_at, view)
        return upkeep


def _looks(thing: object, question: Sequence[Any]) -> bytes:
    """All that could be changed, to be compared."""
    parts: list[object] = [thing]
    for part in question:
        if isinstance(part, View):
            parts += [list(part.waiting), dict(part.in_flight), list(part.servers), part.telemetry, part.now, part.traffic]
        else:
            parts.append(part)
    try:
        return pickle.dumps(parts)
    except Exception:  # anybody's memory can be anything
        return repr(parts).encode()
