"""A strategy made of two: which of them rules is a matter of time, as the design of a switchback says it.

Policy and placement change together, at the borders of blocks, by the wall clock alone: so a simulator, a proxy that was
restarted and several proxies with one design all agree, and nothing but the design need be told. Before the first block,
after the last one, and wherever a clock leaves the experiment, control rules.

What an arm remembers lives within one block: each block begins as if its arm had just been put in force, also where the same
arm ruled the block before, so that all blocks of an arm are alike. Those whom the former arm holds are the next one's to let
go, and those in flight run on; that is what burn-in is for (`telemetry/design.py`).

How long blocks and burn-ins should be: `policies/block_length.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from policies.base import Action, Decision, Placement, Plan, Policy, ServerState, Tending, Upkeep, View, Waiting
from policies.part import sooner
from policies.strategy import Strategy
from telemetry.design import CONTROL, Design

NAME = "switchback"
ROUNDING_S = 1e-6  # seconds since the epoch are no finer than a quarter of that, so sums of them meet a border give or take it


@dataclass(frozen=True, slots=True)
class Ruling:
    """Which arm rules, and until when.

    Attributes:
        block: -1 before the first, and the number of blocks after the last.
        arm: CONTROL or TREATMENT.
        until_unix_s: infinite after the last block.
    """

    block: int
    arm: int
    until_unix_s: float


def ruling(design: Design, unix_s: float) -> Ruling:
    """Who rules at an instant, seconds since the epoch; at a border, give or take a microsecond, already the next."""
    block = design.block_at(unix_s + ROUNDING_S)
    if block is not None:
        return Ruling(block, design.arm_of(block), design.start_unix_s(block + 1))
    if unix_s + ROUNDING_S < design.began_unix_s:
        return Ruling(-1, CONTROL, design.began_unix_s)
    return Ruling(design.blocks, CONTROL, inf)


@dataclass(frozen=True, slots=True)
class Remembered:
    """What an arm remembers, and in which block."""

    block: int
    inner: object


@dataclass(frozen=True, slots=True)
class SwitchedPolicy:
    """The policy of the arm that rules."""

    design: Design
    control: Policy
    treatment: Policy

    def decide(self, view: View, memory: object) -> Decision:
        now = ruling(self.design, view.wall_s)
        known = memory.inner if isinstance(memory, Remembered) and memory.block == now.block else None
        decision = (self.control if now.arm == CONTROL else self.treatment).decide(view, known)
        return Decision(decision.release, _sooner(decision.wake_at, now, view), Remembered(now.block, decision.memory))


@dataclass(frozen=True, slots=True)
class SwitchedPlacement:
    """The placement of the arm that rules."""

    design: Design
    control: Placement
    treatment: Placement

    def place(self, group: Sequence[Waiting], view: View) -> Plan:
        return self._ruling(view).place(group, view)

    def _ruling(self, view: View) -> Placement:
        return self.control if ruling(self.design, view.wall_s).arm == CONTROL else self.treatment


@dataclass(frozen=True, slots=True)
class TendingSwitchedPlacement(SwitchedPlacement):
    """... where one of them at least tends servers. Under one that tends none, all are awake, as they are when it is alone."""

    def tend(self, view: View) -> Upkeep:
        inner = self._ruling(view)
        upkeep = inner.tend(view) if isinstance(inner, Tending) else Upkeep(dict.fromkeys(_asleep(view), Action.WAKE))
        return Upkeep(upkeep.actions, _sooner(upkeep.wake_at, ruling(self.design, view.wall_s), view))


def switchback(design: Design, control: Strategy, treatment: Strategy) -> Strategy:
    """The strategy that is control in some blocks of time, and treatment in the others.

    It needs an instant since the epoch with every question (`View.wall_s`), which both drivers of the room hand in.
    """
    tends = isinstance(control.placement, Tending) or isinstance(treatment.placement, Tending)
    placement = (TendingSwitchedPlacement if tends else SwitchedPlacement)(design, control.placement, treatment.placement)
    return Strategy(SwitchedPolicy(design, control.policy, treatment.policy), placement, NAME, NAME)


def _asleep(view: View) -> list[str]:
    return [server.name for server in view.servers if server.healthy and server.state is ServerState.ASLEEP]


def _sooner(wake_at: float | None, now: Ruling, view: View) -> float | None:
    """What the arm asked for, or the block's border, in monotonic seconds."""
    if now.until_unix_s == inf:
        return wake_at
    border = view.now + (now.until_unix_s - view.wall_s)
    return sooner(wake_at, border)
