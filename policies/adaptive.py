"""Hold only while holding saves more than it costs: a limit on how many wait, reckoned from traffic and the step model.

A busy engine burns its base power P (net of idle) whoever is in the batch, and a second of one request's wait is worth w
joules (`wait_j_per_s`). Requests come at rate r and last T; the load is L = r T. What requests need for themselves lengthens
every step: if a share u of time goes there, T is 1 / (1 - u) of what it is alone, and P = (1 - u) step_j.base / step_s.base.

*Straight through*, the engine is busy for the share 1 - exp(-L) of time (M/G/infinity), so it burns P (1 - exp(-L)) watts.

*Held*, as `span` does it, time goes in cycles: nobody (1/r), a hold of h, the flag's run T, during which whoever comes joins
at once. The engine runs for T and then until the last of these has ended: T + t with t = T - (1 - exp(-L)) / r. Those who
come during the hold wait for h/2 each, the first for h, so the cost per second is

    g(h) = (P (T + t) + w (h + r h^2 / 2)) / (1/r + h + T)

It is least where its derivative is 0, which is where w n = g, n = 1 + r h being how many wait by then: one goes on holding
as long as the wait of those held costs less per second than what a cycle costs per second anyway, which is postponed.
Solved for n:

    n = sqrt(L^2 + 2 L (P/w) (1 + t/T) - 1) - L

That is the control limit. It is of use only if g there, w n, is less than straight through burns; else everybody leaves at
once. That is so near saturation (L above about P / 2w: the engine is always busy, the base shared by all), and when next to
nobody comes (n below 1: the wait would be for nobody). Likewise when so many run already that each one's share of the base
is worth less than its wait (P/w sequences), when the batch is full, and when traffic has stopped. A deadline before the limit
is reached changes nothing: what a shorter hold saves and what it costs shrink alike.

Simulated, Poisson, 0.3 to 30 requests/s: joules and waits together within 4 % of the best limit found afterwards.

That the best rule is a limit is what the semi-Markov decision process of dynamic batching has (arXiv 2501.02181); here it
has a closed form, since a step's base is the same whatever the batch. Not reckoned with: servers beside the first (`pack`
fills one before the next). `w` is by default 10 J: on an H200 at 2 requests/s of 0.64 s, a first 2 s of hold saved 37 J for
each second of it, the next 6 s 5 J (measured): it shall take those and leave these.

Unknown traffic or no model: as `span`, to the deadline.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf, sqrt

from policies.base import Decision, View
from telemetry.cost import StepModel
from telemetry.traffic import Traffic

SILENCE = 5.0  # mean gaps between arrivals: so long a gap is one in 150


@dataclass(frozen=True, slots=True)
class Remembered:
    """The flag; else how many waited, and when the last of them came."""

    flag: str | None = None
    waiting: int = 0
    came_at: float = inf


@dataclass(frozen=True, slots=True)
class Adaptive:
    """Release all once so many wait that holding on costs more than it saves, at the latest at the earliest deadline.

    Those who come while the request that set it off, the flag, runs join at once.

    Attributes:
        wait_j_per_s: joules that a second of one request's wait is worth, above 0.
    """

    wait_j_per_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.wait_j_per_s < inf:
            raise ValueError("wait_j_per_s must be greater than 0, and finite")

    def decide(self, view: View, memory: object) -> Decision:
        known = memory if isinstance(memory, Remembered) else Remembered()
        waiting, n = view.waiting, len(view.waiting)
        came_at = view.now if n > known.waiting else known.came_at
        leave_at = min(waiting.earliest_deadline, came_at + _silence_s(view))
        flag = known.flag if known.flag in view.in_flight else None
        if flag is None and (view.now >= leave_at or n >= self.limit(view)):
            flag = min(waiting, key=lambda one: one.deadline).id
        if flag is None:
            return Decision(wake_at=leave_at, memory=Remembered(None, n, came_at))
        return Decision([one.id for one in waiting], memory=Remembered(flag))

    def limit(self, view: View) -> float:
        """How many may wait before all leave; infinity while that cannot be reckoned, 0 where there is nothing to save."""
        model, traffic = view.model, view.traffic
        if model is None or traffic.per_s is None:
            return inf
        free = 1 - traffic.per_s * own_s(model, traffic)  # 1 - u
        running = max((server.in_flight for server in view.servers), default=0)
        worth = free * model.step_j.base / model.step_s.base / self.wait_j_per_s  # P/w: how many waits P is worth
        if running >= min(worth, model.max_sequences):
            return 0.0
        load = traffic.per_s * model.alone_s(round(traffic.prompt_tokens), round(traffic.output_tokens)) / free
        busy = 1 - exp(-load)
        tail = 1 - busy / load if load else 0.0  # t/T
        limit = sqrt(max(load**2 + 2 * load * worth * (1 + tail) - 1, 0.0)) - load
        return limit if 1 < limit < worth * busy else 0.0


def _silence_s(view: View) -> float:
    """How long nobody may come before traffic counts as over, which a smoothed rate tells much later."""
    return SILENCE / view.traffic.per_s if view.model is not None and view.traffic.per_s else inf


def own_s(model: StepModel, traffic: Traffic) -> float:
    """Seconds by which a mean request lengthens steps, all together: its prompt, and its part of each step that it is in."""
    context_tokens = traffic.prompt_tokens + traffic.output_tokens / 2
    each_s = model.step_s.per_sequence + model.step_s.per_context_token * context_tokens
    return model.step_s.per_prompt_token * traffic.prompt_tokens + each_s * traffic.output_tokens
