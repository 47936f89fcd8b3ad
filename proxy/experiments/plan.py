"""What an experiment is: two arms, a design, what is compared and what stops it; made of what was asked, and kept as JSON."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from policies.block_length import advised
from policies.sides import Split, SplitRefused
from policies.split import counterphase
from policies.strategy import Choice, Strategy, build
from policies.switchback import Ruling, ruling, switchback
from proxy.config import Experiment as Asked
from proxy.experiments.store import State
from telemetry.design import TREATMENT, Design
from telemetry.guardrails import Guardrails
from telemetry.ledger import Entry
from telemetry.traffic import Traffic

RUNNING, FINISHED, STOPPED, TRIPPED = "running", "finished", "stopped", "tripped"
ARMS = ("control", "treatment")


@dataclass(frozen=True, slots=True)
class Plan:
    """One experiment as it is kept.

    Attributes:
        state: running, finished (all blocks are over), stopped (somebody or something ended it) or tripped (a guardrail did).
        why: of the state, in words.
        shadow: both arms run as shadows too.
        split: the two sides, which have the arms by turns, one each at a time; None: the whole group changes its arm.
        notes: what whoever reads the result should know.
        devices: that its joules are of, as the proxy that began it knew them; none: it did not.
    """

    name: str
    group: str
    design: Design
    control: Strategy
    treatment: Strategy
    metric: str
    alpha: float
    guardrails: Guardrails
    state: str = RUNNING
    why: str = ""
    created_unix_s: float = 0.0
    ended_unix_s: float | None = None
    restarts: int = 0
    notes: tuple[str, ...] = ()
    shadow: bool = False
    devices: tuple[str, ...] = ()
    split: Split | None = None

    def __post_init__(self) -> None:
        if self.design.parallel != (self.split is not None):
            raise ValueError("a design in counterphase needs the servers of both its sides, and no other has sides")

    @property
    def same_arms(self) -> bool:
        """An A/A test: whatever it finds is error."""
        return self.control.describe() == self.treatment.describe()

    def strategy(self) -> Strategy:
        """What is in force while it runs."""
        if self.split is not None:
            return counterphase(self.design, self.split, self.control, self.treatment)
        return switchback(self.design, self.control, self.treatment)

    def ruling(self, unix_s: float) -> tuple[Ruling, ...]:
        """Who rules at an instant, on each side; in a ruling of a side, windows are its blocks."""
        return tuple(ruling(self.design.of_side(side), unix_s) for side in range(self.design.sides))

    def side_with(self, server: str) -> int | None:
        """The side that a server is on; None: on neither."""
        return 0 if self.split is None else self.split.side_with(server)

    def shadows(self) -> dict[str, Strategy]:
        """The arms as shadows: what each would do with all of the traffic."""
        both = zip(ARMS, (self.control, self.treatment), strict=True)
        return {f"{self.name[:50]}.{name}": arm for name, arm in both} if self.shadow and self.state == RUNNING else {}

    def arm(self, arm: int) -> Strategy:
        return self.treatment if arm == TREATMENT else self.control

    def ended(self, state: str, why: str, unix_s: float) -> Plan:
        return replace(self, state=state, why=why, ended_unix_s=unix_s)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "group": self.group,
            "state": self.state,
            "why": self.why,
            "design": asdict(self.design),
            "arms": [{"name": name, **arm.describe()} for name, arm in zip(ARMS, (self.control, self.treatment), strict=True)],
            "same_arms": self.same_arms,
            "metric": self.metric,
            "alpha": self.alpha,
            "guardrails": self.guardrails.as_json(),
            "created_unix_s": self.created_unix_s,
            "ended_unix_s": self.ended_unix_s,
            "restarts": self.restarts,
            "notes": list(self.notes),
            "shadow": self.shadow,
            "devices": list(self.devices),
            "split": None if self.split is None else {"a": list(self.split.a), "b": list(self.split.b)},
        }

    @classmethod
    def of(cls, state: State) -> Plan:
        """From its JSON.

        Raises:
            ValueError: it is none, or an arm cannot be built here (UnknownStrategy).
        """
        try:
            control, treatment = (_strategy(arm) for arm in state["arms"])
            design, sides = Design(**state["design"]), state.get("split")
            return cls(
                name=state["name"],
                group=state["group"],
                design=design,
                control=control,
                treatment=treatment,
                metric=state["metric"],
                alpha=state["alpha"],
                guardrails=Guardrails.of(state["guardrails"]),
                state=state["state"],
                why=state["why"],
                created_unix_s=state["created_unix_s"],
                ended_unix_s=state["ended_unix_s"],
                restarts=state["restarts"],
                notes=tuple(state["notes"]),
                shadow=state["shadow"],
                devices=tuple(state.get("devices", ())),
                split=None if sides is None else Split(tuple(sides["a"]), tuple(sides["b"]), design.seed),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"no state of an experiment: {error!r}") from error


def _strategy(arm: Mapping[str, Any]) -> Strategy:
    policy, placement = (Choice(arm[key]["name"], arm[key]["params"]) for key in ("policy", "placement"))
    return build(policy, placement)


def plan(
    asked: Asked,
    group: str,
    now_unix_s: float,
    entries: Iterable[Entry],
    traffic: Traffic,
    part: Callable[[Sequence[str], int], Split] | None = None,
) -> Plan:
    """What was asked for, made definite.

    Args:
        asked: see `[experiment]` in the configuration.
        group: of servers.
        now_unix_s: seconds since the epoch.
        entries: that ended lately, from which `auto` lengths are reckoned.
        traffic: ... and what arrives.
        part: makes the sides of the group's servers, of those that are named and a seed; None: nobody can here.

    Raises:
        ValueError: a guardrail that there is none of, lengths that do not fit, or sides that share a meter.
    """
    notes: tuple[str, ...] = ()
    block_s, burn_in_s = asked.block_s, asked.burn_in_s
    if "auto" in (block_s, burn_in_s):
        advice = advised(entries, traffic)
        burn_in_s = advice.burn_in_s if burn_in_s == "auto" else burn_in_s
        block_s = max(advice.block_s, 2 * float(burn_in_s)) if block_s == "auto" else block_s
        notes += (f"auto: blocks of {block_s:g} s with {burn_in_s:g} s of burn-in; {advice.why}",)
        if float(burn_in_s) >= float(block_s):
            raise ValueError(f"burn_in_s should be {burn_in_s:g} s ({advice.why}), which block_s must be longer than")
    seed = asked.seed if asked.seed is not None else secrets.randbelow(2**31)
    design = Design(
        began_unix_s=now_unix_s + asked.begins_in_s,
        block_s=float(block_s),
        burn_in_s=float(burn_in_s),
        pairs=asked.pairs,
        seed=seed,
        pairs_per_stratum=asked.pairs_per_stratum,
        parallel=asked.split is not None,
    )
    return Plan(
        name=asked.name,
        group=group,
        design=design,
        control=asked.control.strategy(),
        treatment=asked.treatment.strategy(),
        metric=asked.metric,
        alpha=asked.alpha,
        guardrails=Guardrails.of(asked.guardrails),
        created_unix_s=now_unix_s,
        notes=notes,
        shadow=asked.shadow,
        split=_sides(asked, seed, part),
    )


def _sides(asked: Asked, seed: int, part: Callable[[Sequence[str], int], Split] | None) -> Split | None:
    if asked.split is None:
        return None
    if part is None:
        raise SplitRefused("split: servers are not parted here")
    try:
        return part(asked.split.side, seed)
    except SplitRefused as refused:
        raise SplitRefused(f"split: {refused}") from refused
