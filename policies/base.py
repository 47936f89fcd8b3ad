"""The whole contract between policies, placements and the room that asks them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

from telemetry.cost import StepModel
from telemetry.snapshot import UNKNOWN, Snapshot
from telemetry.traffic import UNKNOWN_TRAFFIC, Traffic


class Tier(StrEnum):
    """What a request's sender agreed to; OpenAI's `service_tier` values, `interactive` being its `default`."""

    PRIORITY = "priority"
    INTERACTIVE = "interactive"
    FLEX = "flex"
    BATCH = "batch"


class Outcome(StrEnum):
    """How a request's stay in the room ended; exactly one each, and the metric's label."""

    POLICY = "policy"  # the policy released it
    DEADLINE = "deadline"  # its hold ended by its own deadline before the policy let it go
    FAULT = "fault"  # the policy raised, so the room let it go
    DRAINED = "drained"  # the proxy is closing, so the room let it go
    CANCELLED = "cancelled"  # its client left while it waited
    REJECTED = "rejected"  # the queue was full when it came
    EXPIRED = "expired"  # no server had a slot for it in time


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a policy may know of a request."""

    id: str
    arrived_at: float  # monotonic seconds
    deadline: float  # monotonic seconds: latest release, by the request's own slack
    prompt_tokens: int  # an estimate unless the engine's tokenizer was asked
    max_new_tokens: int
    tier: Tier = Tier.INTERACTIVE
    priority: int = 0  # higher leaves first when slots are short
    tenant: str = ""  # whose share of the slots it uses; the empty name is one tenant too
    weight: float = 1.0  # of that share
    sequences: int = 1  # slots that it takes: `n`, `best_of` and each prompt of a list count
    server: str = ""  # the only server that can serve it, when it continues what that one stored
    model: str = ""
    prefix: bytes | None = None  # a digest of how its prompt begins; None: not known
    session: str = ""  # what it is a turn of, as its sender says
    expected_tokens: float = 0.0  # output tokens of a sequence, as its like had them (`telemetry/lengths.py`); 0: not asked yet
    again: bool = False  # it left before, to a server that did not take it

    @property
    def tokens(self) -> int:
        """Prompt and still possible output: what it may come to hold of a server's cache."""
        return self.prompt_tokens + self.max_new_tokens

    @property
    def output_tokens(self) -> float:
        """What is to be reckoned with: expected, else at most."""
        return self.expected_tokens or self.max_new_tokens


@dataclass(frozen=True, slots=True)
class InFlight:
    """A request that left and has not ended."""

    waiting: Waiting
    server: str
    released_at: float
    first_token_at: float | None = None


class ServerState(StrEnum):
    """Whether an engine can work at once."""

    AWAKE = "awake"
    FALLING_ASLEEP = "falling_asleep"
    ASLEEP = "asleep"
    WAKING = "waking"


@dataclass(frozen=True, slots=True)
class ServerView:
    """One server as the room knows it: the proxy's own count, never a polled copy."""

    name: str
    in_flight: int  # sequences: a request of n = 4 is four
    tokens: int  # prompt and still possible output tokens of the requests in flight
    slots: int | None  # most sequences at once; None: no limit known
    healthy: bool = True
    state: ServerState = ServerState.AWAKE
    empty_since: float | None = None  # monotonic seconds; None while somebody is there
    tpot_s: float | None = None  # seconds an output token after the first, of the latest streams that ended; None: none did

    @property
    def free(self) -> float:
        """Slots left; infinite without a limit, zero when unhealthy or not awake."""
        if not self.healthy or self.state is not ServerState.AWAKE:
            return 0
        return float("inf") if self.slots is None else max(self.slots - self.in_flight, 0)

    def takes(self, waiting: Waiting, free: float) -> bool:
        """Whether a request fits `free` slots here; one that is larger than the whole server gets it when it is empty."""
        return 0 < free >= (waiting.sequences if self.slots is None else min(waiting.sequences, self.slots))


class Queue(Protocol):
    """The held requests in order of arrival: sums at once, iteration lazily."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Waiting]: ...
    def __contains__(self, id: object) -> bool: ...
    @property
    def earliest_deadline(self) -> float:
        """Monotonic seconds; infinity when nobody waits."""
        ...

    @property
    def oldest_arrival(self) -> float:
        """Monotonic seconds; infinity when nobody waits."""
        ...

    @property
    def prompt_tokens(self) -> int: ...
    @property
    def max_new_tokens(self) -> int: ...
    def of(self, tier: Tier) -> Queue:
        """Those of one tier, with the same at hand."""
        ...

    def due_before(self, instant: float) -> Iterator[Waiting]:
        """Those whose deadline comes before it, in no order; costs as much as they are many, however many others wait."""
        ...


@dataclass(frozen=True, slots=True)
class View:
    """One pool of servers at one instant."""

    now: float  # monotonic seconds
    wall_s: float  # seconds since the epoch, for hours of the day
    waiting: Queue
    in_flight: Mapping[str, InFlight]
    servers: Sequence[ServerView]
    telemetry: Snapshot = UNKNOWN
    model: StepModel | None = None  # what a step costs on each of them; None: nobody said
    traffic: Traffic = UNKNOWN_TRAFFIC
    ready_sequences: int = 0  # of requests that have left their hold and have no slot yet
    ready_tokens: int = 0  # their prompt and possible output tokens


@dataclass(frozen=True, slots=True)
class Decision:
    """Who may leave now, when to ask again if nothing else happens, what to remember."""

    release: Sequence[str] = ()
    wake_at: float | None = None
    memory: object = None


class Policy(Protocol):
    """Answers: who of those held may leave now?

    A policy is a function of its arguments: no clock, no randomness, no dependence on how often it is asked. The room
    holds what no policy may break (`policies/room.py`), so a policy that errs costs joules, never a deadline.
    """

    def decide(self, view: View, memory: object) -> Decision: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """Which server each request of a group goes to; who is not named goes on waiting for a slot."""

    assignments: Mapping[str, str] = field(default_factory=dict)


class Placement(Protocol):
    """Answers: which server does each of these requests go to, the earlier ones of the group counted?"""

    def place(self, group: Sequence[Waiting], view: View) -> Plan: ...


class Action(StrEnum):
    """What a placement can ask of a server besides work."""

    SLEEP = "sleep"
    WAKE = "wake"


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What servers shall do, by their names, and when to ask again if nothing else happens."""

    actions: Mapping[str, Action] = field(default_factory=dict)
    wake_at: float | None = None


@runtime_checkable
class Tending(Protocol):
    """A placement that also tends servers: asked at each tick, after those who leave have left.

    The room lets nobody sleep who has work, and wakes a server by itself when somebody waits and none is awake.
    """

    def tend(self, view: View) -> Upkeep: ...
