"""What an experiment is: two arms, a design, what is compared and what stops it; made of what was asked, and kept as JSON."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from policies.block_length import advised
from policies.strategy import Choice, Strategy, build
from policies.switchback import switchback
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
        notes: what whoever reads the result should know.
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

    @property
    def same_arms(self) -> bool:
        """An A/A test: whatever it finds is error."""
        return self.control.describe() == self.treatment.describe()

    def strategy(self) -> Strategy:
        """What is in force while it runs."""
        return switchback(self.design, self.control, self.treatment)

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
        }

    @classmethod
    def of(cls, state: State) -> Plan:
        """From its JSON.

        Raises:
            ValueError: it is none, or an arm cannot be built here (UnknownStrategy).
        """
        try:
            control, treatment = (_strategy(arm) for arm in state["arms"])
            return cls(
                name=state["name"],
                group=state["group"],
                design=Design(**state["design"]),
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
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"no state of an experiment: {error!r}") from error


def _strategy(arm: Mapping[str, Any]) -> Strategy:
    policy, placement = (Choice(arm[key]["name"], arm[key]["params"]) for key in ("policy", "placement"))
    return build(policy, placement)


def plan(asked: Asked, group: str, now_unix_s: float, entries: Iterable[Entry], traffic: Traffic) -> Plan:
    """What was asked for, made definite.

    Args:
        asked: see `[experiment]` in the configuration.
        group: of servers.
        now_unix_s: seconds since the epoch.
        entries: that ended lately, from which `auto` lengths are reckoned.
        traffic: ... and what arrives.

    Raises:
        ValueError: a guardrail that there is none of, or lengths that do not fit.
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
    )
