"""What the proof sends: every request of every run, decided by seeds, and about how long each phase takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from bench.arrivals import Load, Planned
from telemetry.cost import StepModel

CHAT = Load(requests=1, prompt_tokens="lognormal:400:0.9", output_tokens="lognormal:150:0.7")  # lengths as in chats
LONGEST_PROMPT, LONGEST_OUTPUT = 4096, 512
BLOCK = 16  # in each of so many requests, half are streamed

# one round of mixed load: seconds, and what comes in them
ROUND: Sequence[tuple[float, Load | None]] = (
    (12, replace(CHAT, rate=2, requests=None, duration_s=11)),
    (4, None),
    (10, replace(CHAT, rate=12, requests=None, duration_s=9)),
    (4, replace(CHAT, arrivals="burst", requests=32)),
    (12, replace(CHAT, rate=0.5, requests=None, duration_s=11)),
    (6, replace(CHAT, rate=6, requests=None, duration_s=5)),
    (6, replace(CHAT, arrivals="burst", requests=16)),
    (6, replace(CHAT, arrivals="fixed", rate=4, requests=None, duration_s=5)),
)
ROUND_S = sum(seconds for seconds, _ in ROUND)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request to be sent."""

    planned: Planned
    kind: str
    streamed: bool


@dataclass(frozen=True, slots=True)
class Kind:
    """A class of requests of one shape, and how they come."""

    name: str
    prompt_tokens: int
    output_tokens: int
    rate: float = 1.0
    requests: int = 1


@dataclass(frozen=True, slots=True)
class Shape:
    """How much is sent; the smallest serves to try the programs, not to prove anything.

    Attributes:
        equal: the requests of (b), at its rate, so many of them in each Poisson run.
        alone: how many are sent one after the other.
        bursts: how many bursts, of `burst` requests, `burst_every_s` apart.
        kinds: the two classes of (c).
        repeats: of each run of (c).
        steady: the traffic of (f), in each of its three parts.
        calm_s: the rest before and after each run; a second after the last request idle power can be learnt.
    """

    equal: Kind = Kind("equal", 256, 128, rate=4.0, requests=64)
    alone: int = 16
    bursts: int = 4
    burst: int = 16
    burst_every_s: float = 2.5
    kinds: tuple[Kind, Kind] = (Kind("A", 2048, 32, rate=4.0, requests=32), Kind("B", 128, 256, rate=2.5, requests=20))
    repeats: int = 3
    steady: Kind = Kind("steady", 256, 128, rate=4.0, requests=80)
    calm_s: float = 1.5

    def seconds(self, model: StepModel) -> dict[str, float]:
        """About how long each phase takes on a server of this model, the last answers of each run included."""
        one_s = model.alone_s(self.equal.prompt_tokens, self.equal.output_tokens)
        runs = (self.alone * one_s, self.equal.requests / self.equal.rate + one_s, self.bursts * self.burst_every_s + one_s)
        last_s = max(model.alone_s(kind.prompt_tokens, kind.output_tokens) for kind in self.kinds)
        each_s = max(kind.requests / kind.rate for kind in self.kinds) + last_s
        return {
            "b": 2 * (sum(runs) + len(runs) * 2 * self.calm_s),
            "c": 3 * self.repeats * (each_s + 2 * self.calm_s),
            "f": 3 * (self.steady.requests / self.steady.rate + one_s + 2 * self.calm_s),
        }


SMALL = Shape(
    equal=Kind("equal", 256, 128, rate=8.0, requests=16),
    alone=4,
    bursts=1,
    kinds=(Kind("A", 2048, 32, rate=4.0, requests=8), Kind("B", 128, 256, rate=2.5, requests=5)),
    repeats=2,
    steady=Kind("steady", 256, 128, rate=4.0, requests=16),
)


def one_kind(kind: Kind, seed: int) -> list[Asked]:
    """A Poisson load of one shape; the seed decides its instants and which half is streamed."""
    load = Load(
        rate=kind.rate,
        requests=kind.requests,
        prompt_tokens=str(kind.prompt_tokens),
        output_tokens=str(kind.output_tokens),
        seed=seed,
    )
    return halves(load.plan(), kind.name, seed)


def one_by_one(kind: Kind, requests: int, seed: int) -> list[Asked]:
    """All planned at once; the sender waits for each answer."""
    return halves([Planned(0.0, kind.prompt_tokens, kind.output_tokens)] * requests, kind.name, seed)


def in_bursts(kind: Kind, bursts: int, burst: int, every_s: float, seed: int) -> list[Asked]:
    planned = [Planned(n * every_s, kind.prompt_tokens, kind.output_tokens) for n in range(bursts) for _ in range(burst)]
    return halves(planned, kind.name, seed)


def together(*plans: Iterable[Asked]) -> list[Asked]:
    """Each request at the instant at which it came alone."""
    return sorted((asked for plan in plans for asked in plan), key=lambda asked: asked.planned.at_s)


def swapped(plan: Iterable[Asked]) -> list[Asked]:
    """The same requests, those streamed that were not: pairs that differ in nothing else."""
    return [replace(asked, streamed=not asked.streamed) for asked in plan]


def mixed(seconds: float, seed: int) -> list[Asked]:
    """Chat-like requests for so long: rates that change, bursts, pauses."""
    planned: list[Planned] = []
    began_s = 0.0
    for number, (part_s, load) in enumerate(ROUND):
        if load is not None:
            planned += (replace(p, at_s=p.at_s + began_s) for p in replace(load, seed=seed * len(ROUND) + number).plan())
        began_s += part_s
    return halves([_bounded(p) for p in planned if p.at_s < seconds], "chat", seed)


def _bounded(planned: Planned) -> Planned:
    return replace(
        planned,
        prompt_tokens=min(planned.prompt_tokens, LONGEST_PROMPT),
        output_tokens=min(planned.output_tokens, LONGEST_OUTPUT),
    )


def halves(plan: Sequence[Planned], kind: str, seed: int) -> list[Asked]:
    """Half of each block is streamed, in an order that the seed shuffles."""
    random = Random(f"{seed}/streamed/{kind}")
    return [Asked(planned, kind, streamed) for planned, streamed in zip(plan, _flags(len(plan), random), strict=True)]


def _flags(count: int, random: Random) -> Iterator[bool]:
    for start in range(0, count, BLOCK):
        flags = [number % 2 == 0 for number in range(min(BLOCK, count - start))]
        random.shuffle(flags)
        yield from flags
