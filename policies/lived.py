"""What shadows are fed with, and what they come to: requests as they were lived, and totals in modelled joules."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

from policies.base import Action, Waiting
from policies.simulate import Arrival

STRAIGHT, AS_RUN = "straight", "as_run"
LATE_S = 0.01  # a release is late for its deadline by more than what an event loop may be
LATEST = 4_096  # waits and first tokens of so many requests are kept


@dataclass(frozen=True, slots=True)
class Lived:
    """A request that has ended, and when and where it really left.

    Attributes:
        waiting: as its room knew it.
        prompt_tokens: that it had; its room may have had an estimate.
        output_tokens: that it came to have, all sequences together.
        released_at: monotonic seconds.
        server: that it left to.
        policy: that let it go.
        ttft_s: as it was seen; None: nobody saw it.
    """

    waiting: Waiting
    prompt_tokens: int
    output_tokens: int
    released_at: float
    server: str
    policy: str = ""
    ttft_s: float | None = None

    @property
    def arrival(self) -> Arrival:
        """What each room expects of it is for each to learn."""
        known = replace(self.waiting, prompt_tokens=max(self.prompt_tokens, 1), expected_tokens=0.0)
        return Arrival(known, self.output_tokens)


@dataclass(frozen=True, slots=True)
class Tended:
    """A server that was really told to sleep or to wake."""

    at: float
    server: str
    action: Action


@dataclass(slots=True)
class Totals:
    """What one strategy came to, in modelled joules; it outlives the rooms that it was had in.

    Attributes:
        active_j: of requests that have ended, net of idle.
        rest_j: of all engines as if nobody had come: idle, asleep, waking.
        saved_j: straight through less this, of requests that have ended with both, and of rest.
        saved_by: the same by the policy that let a request go, or was in force; as run only.
        straight_j: active joules straight through of those requests.
        late: requests that left after their deadline.
    """

    requests: int = 0
    active_j: float = 0.0
    rest_j: float = 0.0
    saved_j: float = 0.0
    straight_j: float = 0.0
    saved_by: dict[str, float] = field(default_factory=dict)
    compared: int = 0
    late: int = 0
    faults: int = 0
    releases: dict[str, int] = field(default_factory=dict)
    waits_s: deque[float] = field(default_factory=lambda: deque(maxlen=LATEST))
    ttfts_s: deque[float] = field(default_factory=lambda: deque(maxlen=LATEST))

    @property
    def energy_j(self) -> float:
        return self.active_j + self.rest_j

    def saved(self, joules: float, policy: str) -> None:
        self.saved_j += joules
        self.saved_by[policy] = self.saved_by.get(policy, 0.0) + joules
