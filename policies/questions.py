"""What a policy or a placement can be asked: views of a pool, and loads for the simulator, drawn from a caller's seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import log

from policies.base import InFlight, ServerState, ServerView, Tier, View, Waiting
from policies.held import Held
from policies.simulate import Arrival
from telemetry.cost import Linear, StepModel
from telemetry.snapshot import UNKNOWN, DeviceState, Snapshot, Source
from telemetry.traffic import UNKNOWN_TRAFFIC, Traffic

MODEL = StepModel(
    "conformance",
    Linear(0.006, 1e-5, 5e-6, 1e-9),
    Linear(1.8, 0.018, 0.018, 2e-5),
    idle_power_w=118.0,
    sleep_power_w=76.0,
    sleep_s=1.0,
    wake_s=2.0,
)
NOON_S = 1.8e9  # some day, for policies that look at the hour


@dataclass(frozen=True, slots=True)
class Draw:
    """Draws from numbers in [0, 1)."""

    number: Callable[[], float]

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.number()

    def whole(self, low: int, high: int) -> int:
        """From `low` to `high`, both included."""
        return low + int(self.number() * (high - low + 1))

    def chance(self, share: float) -> bool:
        return self.number() < share

    def gap_s(self, per_s: float) -> float:
        """Seconds to the next arrival of a Poisson process."""
        return -log(1 - self.number()) / per_s


@dataclass(frozen=True, slots=True)
class Load:
    """Arrivals for the simulator, and the servers that they come to."""

    name: str
    arrivals: Sequence[Arrival]
    servers: int
    slots: int | None


def waiting(draw: Draw, id: str, arrived_at: float, slack_s: float | None = None) -> Waiting:
    """One request; half of them have no slack unless it is told."""
    drawn = draw.between(0.0, 30.0) if draw.chance(0.5) else 0.0
    slack_s = drawn if slack_s is None else slack_s
    return Waiting(
        id,
        arrived_at,
        arrived_at + slack_s,
        draw.whole(1, 2000),
        draw.whole(1, 300),
        tier=list(Tier)[draw.whole(1, 3)] if slack_s else Tier.INTERACTIVE,
        priority=draw.whole(0, 2),
        tenant=f"tenant-{draw.whole(0, 3)}",
        weight=float(draw.whole(1, 3)),
        sequences=draw.whole(2, 4) if draw.chance(0.1) else 1,
        model="m",
        prefix=bytes([draw.whole(0, 4)]) if draw.chance(0.7) else None,
        session=f"session-{draw.whole(0, 9)}" if draw.chance(0.3) else "",
        expected_tokens=draw.between(1.0, 300.0) if draw.chance(0.8) else 0.0,
    )


def views(draw: Draw) -> Iterator[tuple[str, View]]:
    """Views with their names, from the emptiest on; ids of those who wait are `r0`, `r1` and so on."""
    yield "one waits, nothing is known", view(draw, 1, servers=1, flights=0, known=False)
    yield "one waits, and no server is there", view(draw, 1, servers=0, flights=0, known=False)
    yield "one waits, nothing is in flight", view(draw, 1, servers=1, flights=0)
    for n in range(20):
        crowd = draw.whole(1, 40)
        yield f"view {n}: {crowd} wait", view(draw, crowd, servers=draw.whole(1, 4), flights=draw.whole(0, 30))


def view(draw: Draw, crowd: int, *, servers: int, flights: int, known: bool = True, slack_s: float | None = None) -> View:
    """One view at second 1,000.

    Args:
        draw: where it comes from.
        crowd: how many wait.
        servers: how many there are.
        flights: how many requests are in flight.
        known: whether telemetry, traffic and the model may be known.
        slack_s: of each who waits; None: drawn.
    """
    now, held = 1000.0, Held()
    for n, at in enumerate(sorted(now - draw.between(0.0, 10.0) for _ in range(crowd))):
        held.add(waiting(draw, f"r{n}", at, slack_s))
    names = [f"server-{n}" for n in range(servers)]
    flying = {f"f{n}": _flight(draw, f"f{n}", now, names) for n in range(flights if servers else 0)}
    model = MODEL if known and draw.chance(0.8) else None
    telemetry = _snapshot(draw, now) if known and draw.chance(0.7) else UNKNOWN
    traffic = _traffic(draw) if known and draw.chance(0.7) else UNKNOWN_TRAFFIC
    return View(
        now, NOON_S + now, held, flying, [_server(draw, name, flying, now) for name in names], telemetry, model, traffic
    )


def _flight(draw: Draw, id: str, now: float, servers: Sequence[str]) -> InFlight:
    arrived_at = now - draw.between(5.0, 60.0)
    released_at = arrived_at + draw.between(0.0, 4.0)
    first_token_at = released_at + 0.1 if draw.chance(0.7) else None
    return InFlight(waiting(draw, id, arrived_at), servers[draw.whole(0, len(servers) - 1)], released_at, first_token_at)


def _server(draw: Draw, name: str, flying: dict[str, InFlight], now: float) -> ServerView:
    mine = [flight.waiting for flight in flying.values() if flight.server == name]
    sequences = sum(each.sequences for each in mine)
    tokens = sum(each.tokens for each in mine)
    slots = draw.whole(1, 64) if draw.chance(0.5) else None
    state = list(ServerState)[draw.whole(0, 3)] if not mine and draw.chance(0.3) else ServerState.AWAKE
    empty_since = None if mine else now - draw.between(0.0, 600.0)
    tpot_s = draw.between(0.005, 0.05) if mine and draw.chance(0.8) else None
    return ServerView(name, sequences, tokens, slots, not draw.chance(0.1), state, empty_since, tpot_s)


def _snapshot(draw: Draw, now: float) -> Snapshot:
    stepped_at = now - (draw.between(0.0, 0.2) if draw.chance(0.7) else 600.0)
    return Snapshot(stepped_at, {"0": DeviceState("0", Source.COUNTER, 10**9, draw.between(76.0, 700.0), stepped_at)})


def _traffic(draw: Draw) -> Traffic:
    per_s = draw.between(0.01, 50.0)
    return Traffic(per_s, per_s * draw.number(), draw.between(1, 2000), draw.between(1, 300), draw.between(0.1, 30.0))


def loads(draw: Draw) -> Iterator[Load]:
    """Loads from a trickle to more than the slots can take."""
    for name, per_s, servers, slots in (
        ("a trickle", 0.2, 1, None),
        ("a load", 4.0, 2, None),
        ("a burst", 200.0, 3, None),
        ("scarce slots", 20.0, 2, 2),
        ("one slot", 5.0, 1, 1),
    ):
        at, arrivals = 0.0, []
        for n in range(60):
            at += draw.gap_s(per_s)
            arrivals.append(Arrival(waiting(draw, f"r{n}", at), draw.whole(1, 60)))
        yield Load(name, arrivals, servers, slots)
