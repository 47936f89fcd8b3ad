"""An experiment as the admin API and the store tell it: read strictly, with its analysis made again where blocks allow it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from policies.sides import Split
from policies.strategy import as_written
from telemetry.blocks import Block
from telemetry.checks import SIMULATED
from telemetry.comparison import Comparison, compare
from telemetry.design import CONTROL, SIDES, Design
from telemetry.guardrails import Guardrails

ARMS = ("control", "treatment")
MOST_OF_COURSE = 200  # points of a curve
RUNNING, FINISHED, STOPPED = "running", "finished", "stopped"


class BadDocument(ValueError):
    """What was told is no experiment; the message says what is missing."""


@dataclass(frozen=True)
class Document:
    """One experiment.

    Attributes:
        state: running, finished, stopped or tripped.
        why: what ended it, in words; empty while it runs.
        arms: control's and treatment's `{"policy": ..., "placement": ...}`.
        now: the block that is due and its arm; None when it is over.
        blocks: in their order, those that are not whole included.
        logged: the log's lines, where they were asked for.
        notes: what the proxy wants a reader to know, such as where its lengths come from.
        restarts: of the proxy, while it ran.
        in_force: the strategy of its group now; None: nobody told.
        sides: of a split, the servers of either; None: the whole group changed its arm.
        provenance: where all this comes from: versions, servers, meter, who was asked and when.
    """

    name: str
    state: str
    why: str
    group: str
    design: Design
    arms: tuple[Mapping[str, Any], Mapping[str, Any]]
    metric: str
    alpha: float
    guardrails: Guardrails
    now: Mapping[str, Any] | None
    blocks: tuple[Block, ...]
    notes: tuple[str, ...] = ()
    restarts: int = 0
    logged: tuple[Mapping[str, Any], ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    sides: Split | None = None
    in_force: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, told: Mapping[str, Any], logged: Sequence[Mapping[str, Any]] = (), **about: Any) -> Document:
        """From JSON.

        Raises:
            BadDocument: see there.
        """
        try:
            by_name = {arm["name"]: arm for arm in told["arms"]}
            sides = told.get("split")
            return cls(
                name=told["name"],
                state=told["state"],
                why=told.get("why") or "",
                group=told.get("group") or "",
                design=Design(**told["design"]),
                arms=(by_name[ARMS[0]], by_name[ARMS[1]]),
                metric=told["metric"],
                alpha=told["alpha"],
                guardrails=Guardrails.of(told["guardrails"]),
                now=told.get("now"),
                blocks=tuple(Block.of(block) for block in told["blocks"]),
                notes=tuple(told.get("notes") or ()),
                restarts=told.get("restarts", 0),
                logged=tuple(logged),
                provenance=about,
                in_force=told.get("in_force"),
                sides=None if sides is None else Split(tuple(sides["a"]), tuple(sides["b"]), told["design"]["seed"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadDocument(f"this is no experiment as Paceline tells it: {type(error).__name__}: {error}") from error

    @property
    def kind(self) -> str:
        return "Split in counterphase" if self.design.parallel else "Switchback"

    def side(self, block: Block) -> str:
        """`A` or `B`; empty: there are no sides."""
        return SIDES[self.design.side_of(block.index)] if self.design.parallel else ""

    def side_lines(self) -> list[str]:
        """Whose servers are whose."""
        if self.sides is None:
            return []
        return [f"side {name}: {', '.join(self.sides.servers(side))}" for side, name in enumerate(SIDES)]

    @property
    def running(self) -> bool:
        return self.state == RUNNING

    @property
    def finished(self) -> bool:
        """All of its blocks are over."""
        return self.state == FINISHED

    @property
    def same_arms(self) -> bool:
        """Whether it is an A/A test: what it finds, it finds wrongly."""
        return _strategy(self.arms[0]) == _strategy(self.arms[1])

    @property
    def other_in_force(self) -> str | None:
        """What is in force though it is over, and is not its control: a restart puts the configuration's in force."""
        if self.running or self.in_force is None or _strategy(self.in_force) == _strategy(self.arms[CONTROL]):
            return None
        return arm_as_written(self.in_force)

    def arm(self, arm: int) -> str:
        """As it is written."""
        return arm_as_written(self.arms[arm])

    def label(self, arm: int) -> str:
        return f"{'control' if arm == CONTROL else 'treatment'}: {self.arm(arm)}"

    @cached_property
    def comparison(self) -> Comparison:
        """Of all blocks so far; made again here, so that report and proxy cannot differ in what they look at."""
        return self.compare(self.blocks)

    def compare(self, blocks: Sequence[Block], *, draws: int = 10_000) -> Comparison:
        return compare(blocks, self.design, metric=self.metric, alpha=self.alpha, guardrails=self.guardrails, draws=draws)

    @cached_property
    def course(self) -> list[Comparison]:
        """As it looked after each pair; after some of them, where there are more than a curve shows."""
        ends = [end for end in range(2, len(self.blocks) + 1) if self.blocks[end - 1].index % 2 == 1]
        ends = ends[:: -(-len(ends) // MOST_OF_COURSE) or 1] + ends[-1:]
        # a picture of the course needs no randomisation test: few draws
        found = [self.compare(self.blocks[:end], draws=1) for end in ends]
        return [one for number, one in enumerate(found) if one.pairs and (number == 0 or one.pairs > found[number - 1].pairs)]

    @property
    def simulated(self) -> bool:
        """Whether any joule in it was not measured."""
        return any(block.source in SIMULATED for block in self.blocks)

    def as_json(self) -> dict[str, Any]:
        """As the admin API tells it, with the analysis and where it comes from."""
        return {
            "name": self.name,
            "state": self.state,
            "why": self.why,
            "group": self.group,
            "design": asdict(self.design),
            "split": None if self.sides is None else {"a": list(self.sides.a), "b": list(self.sides.b)},
            "arms": [{"name": name, **arm} for name, arm in zip(ARMS, self.arms, strict=True)],
            "same_arms": self.same_arms,
            "metric": self.metric,
            "alpha": self.alpha,
            "guardrails": self.guardrails.as_json(),
            "now": self.now,
            "notes": list(self.notes),
            "restarts": self.restarts,
            "blocks": [block.as_json() for block in self.blocks],
            "comparison": self.comparison.as_json(),
            "log": list(self.logged),
            "provenance": dict(self.provenance),
        }


def began_unix_s(told: Mapping[str, Any]) -> float:
    """Of an experiment as it is listed or kept; 0 of what is none, which must not hide the others."""
    design = told.get("design")
    began = design.get("began_unix_s") if isinstance(design, Mapping) else None
    return float(began) if isinstance(began, int | float) else 0.0


def arm_as_written(arm: Mapping[str, Any]) -> str:
    """`span / pack knee=32`."""
    return f"{as_written(arm['policy'])} / {as_written(arm['placement'])}"


def _strategy(arm: Mapping[str, Any]) -> tuple[object, object]:
    return arm["policy"], arm["placement"]
