"""Whether a policy or a placement keeps the contract of `policies/base.py`: what a user runs on his own.

It is asked about drawn views and drives drawn loads in the simulator, while a witness notes each breach. What needs an
operating system (whether it reads files, clocks or global randomness) is noted by whoever calls, through `watch`, which
is entered around each question; `bench/examination.py` does.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from statistics import median
from typing import Any

from policies.base import Outcome, Tending, View, Waiting
from policies.passthrough import Passthrough
from policies.questions import MODEL, NOON_S, Draw, Load, loads, view, views
from policies.simulate import Served, Simulation
from policies.spread import Spread
from policies.strategy import Choice, Strategy, build_placement, build_policy
from policies.witness import Finding, Notes, TendingWitness, Watch, Witness

FOREIGN: tuple[object, ...] = ("r0", "f0", 3.5, -1, True, (), ("r0", 1.0), frozenset({"r0"}), object())
MOST_ASKED = 20_000  # times in one load of 60 requests
SLOW = 10.0  # times the simplest of its kind; as often again for one who lets everybody go
CROWD = 10_000


@dataclass(frozen=True, slots=True)
class Examiner:
    """All checks of one policy or placement.

    Attributes:
        kind: `policy` or `placement`.
        choice: what is examined.
        draw: gives numbers in [0, 1); the same ones each time, for answers to be compared with another process's.
        watch: entered around each question.
        clock: seconds, for what a question costs.
        notes: what is found.
    """

    kind: str
    choice: Choice
    draw: Callable[[], float]
    watch: Watch
    clock: Callable[[], float]
    notes: Notes

    def examine(self) -> list[Finding]:
        """Every check, in order; a breach of one keeps none of the others from being made.

        Raises:
            UnknownStrategy: there is no such policy or placement, or its parameters do not fit.
        """
        draw = Draw(self.draw)
        questions, foreign = list(self._questions(draw)), view(draw, 5, servers=2, flights=3)
        drawn_loads, crowd = list(loads(draw)), view(draw, CROWD, servers=4, flights=100, slack_s=60.0)
        self._check_form()
        self._check_answers(questions)
        if self.kind == "policy":
            self._check_foreign(foreign)
        for load in drawn_loads:
            self._check_load(load)
        self._check_cost(crowd)
        return self.notes.findings()

    def _make(self) -> Any:
        return build_policy(self.choice) if self.kind == "policy" else build_placement(self.choice)

    def _made(self, *checks: str) -> None:
        self.notes.made |= dict.fromkeys(checks)

    def _witness(self, thing: Any, where: str, *, closely: bool = False) -> Witness:
        cls = TendingWitness if isinstance(thing, Tending) else Witness
        return cls(thing, self.notes, self.watch, where, closely)

    # --- how it is written --------------------------------------------------------------------------------------------

    def _check_form(self) -> None:
        """Frozen, documented, and the same again after its parameters or itself have been written down and read."""
        self._made("documented", "rebuilt")
        thing = self._make()
        cls, doc = type(thing), type(thing).__doc__ or ""
        if not cls.__dataclass_params__.frozen:
            self.notes.breach("documented", f"{cls.__name__} is not frozen")
        if not doc or doc.startswith(f"{cls.__name__}("):  # which is what dataclass writes itself
            self.notes.breach("documented", f"{cls.__name__} has no docstring")
        try:
            if pickle.loads(pickle.dumps(thing)) != thing:
                self.notes.breach("rebuilt", "pickled and read again it is another")
        except Exception as error:  # anybody's code
            self.notes.breach("rebuilt", f"it cannot be pickled: {type(error).__name__}: {error}")
        self._check_told(thing)

    def _check_told(self, thing: Any) -> None:
        try:
            told: Any = Strategy(thing, thing, self.choice.name, self.choice.name).describe()[self.kind]
            make = build_policy if self.kind == "policy" else build_placement
            again: Any = make(Choice(told["name"], told["params"]))
        except Exception as error:  # anybody's code
            self.notes.breach("rebuilt", f"what it tells of itself does not make it again: {type(error).__name__}: {error}")
            return
        if again != thing:
            self.notes.breach("rebuilt", f"what it tells of itself, {told['params']}, makes another one")

    # --- what it answers ----------------------------------------------------------------------------------------------

    def _questions(self, draw: Draw) -> Iterator[tuple[str, View, Sequence[Waiting]]]:
        for name, asked in views(draw):
            yield name, asked, list(asked.waiting)[: draw.whole(1, 12)]

    def _check_answers(self, questions: Sequence[tuple[str, View, Sequence[Waiting]]]) -> None:
        """Each question is asked twice, then all again of another one like it, the last first: history must not matter."""
        self._made("answers", "known", "wakes", "pure", "steady", *(() if self.kind == "policy" else ("fits",)))
        thing, like_it = self._make(), self._make()
        answers = {}
        for n, (name, asked, group) in enumerate(questions):
            answers[name] = self._answers(self._witness(thing, name, closely=True), asked, group)
            for _ in range(n % 3):  # whoever does something every other time shall not be asked just then
                self._answer(self._witness(thing, name), asked, group)
            if self._answers(self._witness(thing, name), asked, group) != answers[name]:
                self.notes.breach("steady", f"{name}: asked twice, it answers differently")
        for name, asked, group in reversed(questions):
            if self._answers(self._witness(like_it, name), asked, group) != answers[name]:
                self.notes.breach("steady", f"{name}: another one like it, asked other things before, answers differently")
        self.notes.answers += [f"{name}: {answer}" for name, answer in answers.items()]

    def _answers(self, witness: Witness, asked: View, group: Sequence[Waiting]) -> str:
        """Its answers to one view, the second with the memory of the first; memory itself shows only in what comes of it."""
        first, memory = self._answer(witness, asked, group)
        return f"{first} {self._answer(witness, asked, group, memory)[0]}"

    def _answer(self, witness: Witness, asked: View, group: Sequence[Waiting], memory: object = None) -> tuple[str, object]:
        """One answer, and what it wants to remember."""
        with suppress(Exception):  # noted by the witness
            if self.kind == "policy":
                decision = witness.decide(asked, memory)
                return repr((list(decision.release), decision.wake_at)), decision.memory
            plan = sorted(witness.place(group, asked).assignments.items())
            upkeep = witness.tend(asked) if isinstance(witness, TendingWitness) else None
            return repr((plan, upkeep and (sorted(upkeep.actions.items()), upkeep.wake_at))), None
        return "raises", None

    def _check_foreign(self, asked: View) -> None:
        self._made("foreign")
        thing = self._make()
        for memory in FOREIGN:
            try:
                with self.watch():
                    thing.decide(asked, memory)
            except Exception as error:  # anybody's code
                self.notes.breach("foreign", f"with memory {memory!r:.40} it raises {type(error).__name__}: {error}")

    # --- what comes of it ---------------------------------------------------------------------------------------------

    def _check_load(self, load: Load) -> None:
        """The load runs through the simulator, where everybody has to leave, in time, without a tight row of questions."""
        self._made("lively")
        witness = self._witness(self._make(), f"in the simulator, {load.name}")
        other: Any = Spread() if self.kind == "policy" else Passthrough()
        policy, placement = (witness, other) if self.kind == "policy" else (other, witness)
        strategy = Strategy(policy, placement, "", "")
        servers = dict.fromkeys((f"server-{n}" for n in range(load.servers)), load.slots)
        served: list[Served] = []
        simulation = Simulation(strategy, MODEL, servers, wall_offset_s=NOON_S, on_served=served.append)
        for arrival in load.arrivals:
            simulation.arrive(arrival)
        while not simulation.over:
            if (at := simulation.next_at) == inf or witness.asked > MOST_ASKED:
                often = f"asked {witness.asked} times by second {simulation.now:g}, and no end"
                stuck = f"{len(simulation.open)} requests never leave, and nothing more happens"
                self.notes.breach("lively", f"{witness.where}: {stuck if at == inf else often}")
                return
            simulation.advance(at)
        self._check_served(served, load, witness.where)

    def _check_served(self, served: Sequence[Served], load: Load, where: str) -> None:
        late = [s for s in served if s.released_at > s.waiting.deadline]
        if late and load.slots is None:
            self.notes.breach("lively", f"{where}: {len(late)} left after their deadline")
        outcomes = {s.outcome for s in served}
        if self.kind == "policy" and outcomes <= {Outcome.DEADLINE}:
            self.notes.doubts["lively"].append(f"{where}: it let nobody go, each waited to the deadline")
        left = sorted((s.waiting.id, s.released_at, s.server) for s in served)
        self.notes.answers.append(f"{where}: {left}")

    # --- what it costs ------------------------------------------------------------------------------------------------

    def _check_cost(self, asked: View) -> None:
        """Milliseconds of a question with 10,000 waiting, and how often as much as the simplest of its kind takes."""
        self._made("cost")
        group = list(asked.waiting)[:100]
        simplest: Any = Passthrough() if self.kind == "policy" else Spread()
        try:
            costs = [self._cost(self._make(), asked, group), self._cost(simplest, asked, group)]
        except Exception as error:  # anybody's code
            self.notes.breach("cost", f"with {CROWD:,} waiting it raises {type(error).__name__}: {error}")
            return
        (cost_s, leaving), (simplest_s, _) = costs
        of = f"{CROWD:,} waiting, of whom {leaving:,} leave" if self.kind == "policy" else f"{len(group)} to place"
        ratio = f"{cost_s / simplest_s:.1f} times what {type(simplest).__name__.lower()} takes"
        self.notes.remarks["cost"] = detail = f"{cost_s * 1e3:.2f} ms with {of}; {ratio}"
        # who leaves does so once, who stays is asked about again and again
        if cost_s > SLOW * simplest_s * (SLOW if leaving > CROWD / 10 else 1):
            self.notes.doubts["cost"].append(detail)

    def _cost(self, thing: Any, asked: View, group: Sequence[Waiting]) -> tuple[float, int]:
        """Median seconds of a question, and how many leave by its answer."""
        costs_s, leaving = [], 0
        for _ in range(5):
            began_s = self.clock()
            answer = thing.decide(asked, None) if self.kind == "policy" else thing.place(group, asked)
            costs_s.append(self.clock() - began_s)
            leaving = len(answer.release) if self.kind == "policy" else 0
        return median(costs_s), leaving
