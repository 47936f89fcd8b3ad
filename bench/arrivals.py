"""Plans a load: when each request is sent, how long it is, and in which tier, all of it decided by one seed."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate, islice, repeat, takewhile
from math import isfinite
from pathlib import Path
from random import Random

from bench.draws import BadSpec, lengths
from policies.base import Tier

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")  # of Azure's LLM inference traces
INTERACTIVE: Mapping[Tier, float] = {Tier.INTERACTIVE: 1.0}

Gap = Callable[[Random, float], float]

# seconds between arrivals, from a rate in requests a second
GAPS: Mapping[str, Gap] = {
    "poisson": lambda random, rate: random.expovariate(rate),
    "fixed": lambda random, rate: 1 / rate,
    "uniform": lambda random, rate: random.uniform(0, 2 / rate),
    "burst": lambda random, rate: 0.0,
}
ARRIVALS = (*GAPS, "trace")


@dataclass(frozen=True, slots=True)
class Planned:
    """One request to be sent."""

    at_s: float  # seconds after the load's start
    prompt_tokens: int
    output_tokens: int
    tier: Tier = Tier.INTERACTIVE


@dataclass(frozen=True, slots=True)
class Load:
    """A load as it is asked for.

    Attributes:
        arrivals: poisson, fixed and uniform (gaps between 0 and twice the mean) come at `rate`; burst all at once;
            trace when the file says, counted from its first row.
        rate: requests a second.
        requests: most requests.
        duration_s: no request is sent later than this.
        trace: a file in the format of Azure's LLM inference traces.
        speedup: how many times faster than it was recorded a trace is played.
        prompt_tokens: a length spec (`bench/draws.py`); None: what the trace says, else 256.
        output_tokens: the same; else 128.
        tiers: each tier's share.
        seed: decides everything that is drawn; instants, lengths and tiers each have random numbers of their own, so
            that a change in one leaves the others as they are.
    """

    arrivals: str = "poisson"
    rate: float = 1.0
    requests: int | None = None
    duration_s: float | None = None
    trace: Path | None = None
    speedup: float = 1.0
    prompt_tokens: str | None = None
    output_tokens: str | None = None
    tiers: Mapping[Tier, float] = field(default_factory=lambda: INTERACTIVE)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.arrivals not in ARRIVALS:
            raise BadSpec(f"arrivals {self.arrivals!r} are not known; they are {', '.join(ARRIVALS)}")
        if (self.trace is None) == (self.arrivals == "trace"):
            raise BadSpec("a trace file belongs to the arrivals 'trace', and to no other")
        for name in ("rate", "requests", "duration_s", "speedup"):
            value = getattr(self, name)
            if value is not None and not (isfinite(value) and value > 0):
                raise BadSpec(f"{name} must be more than 0, not {value}")
        if self.arrivals == "burst" and self.requests is None:
            raise BadSpec("a burst needs a number of requests")
        if self.arrivals != "trace" and self.requests is None and self.duration_s is None:
            raise BadSpec("a number of requests or a duration must end the load")

    def plan(self) -> list[Planned]:
        """Every request, in order of time.

        Raises:
            BadSpec: a spec or the trace cannot be read, or the plan is empty.
        """
        rows = _rows(self.trace, self.speedup) if self.trace else self._drawn_rows()
        if self.duration_s is not None:
            last_s = self.duration_s
            rows = takewhile(lambda row: row[0] <= last_s, rows)
        kept = list(islice(rows, self.requests))
        if not kept:
            raise BadSpec("the plan holds no request: more time, a higher rate, or another trace")
        prompts = self._lengths("prompt", self.prompt_tokens, [row[1] for row in kept])
        outputs = self._lengths("output", self.output_tokens, [row[2] for row in kept])
        chosen = self._random("tiers").choices(list(self.tiers), list(self.tiers.values()), k=len(kept))
        instants = [row[0] for row in kept]
        return [Planned(*drawn) for drawn in zip(instants, prompts, outputs, chosen, strict=True)]

    def _random(self, what: str) -> Random:
        return Random(f"{self.seed}/{what}")

    def _drawn_rows(self) -> Iterator[tuple[float, int, int]]:
        random, gap = self._random("instants"), GAPS[self.arrivals]
        instants = accumulate((gap(random, self.rate) for _ in repeat(None)), initial=0.0)
        return ((at_s, 256, 128) for at_s in instants)

    def _lengths(self, what: str, spec: str | None, default: Sequence[int]) -> list[int]:
        if spec is None or spec == "trace":
            return list(default)
        random, draw = self._random(what), lengths(spec)
        return [draw(random) for _ in default]


def _rows(trace: Path, speedup: float) -> Iterator[tuple[float, int, int]]:
    """Seconds since the trace's first row, prompt tokens, output tokens.

    Raises:
        BadSpec: the file is missing, or is in another format.
    """
    try:
        with trace.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if missing := set(COLUMNS) - set(reader.fieldnames or ()):
                raise BadSpec(f"{trace}: no column {', '.join(sorted(missing))}; the header must name {', '.join(COLUMNS)}")
            yield from _in_order(((reader.line_num, row) for row in reader), trace, speedup)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadSpec(f"trace {trace}: {error}") from error


def _in_order(rows: Iterable[tuple[int, dict[str, str]]], trace: Path, speedup: float) -> Iterator[tuple[float, int, int]]:
    began, latest_s = None, 0.0
    for line, row in rows:
        try:
            instant, prompt, output = _instant(row[COLUMNS[0]]), int(row[COLUMNS[1]]), int(row[COLUMNS[2]])
        except (ValueError, TypeError) as error:
            raise BadSpec(f"{trace}, line {line}: {error}") from error
        began = instant if began is None else began
        at_s = (instant - began).total_seconds() / speedup
        if at_s < latest_s:
            raise BadSpec(f"{trace}, line {line}: its instant lies before that of the line above")
        latest_s = at_s
        yield at_s, max(prompt, 1), max(output, 1)


def _instant(text: str) -> datetime:
    """A timestamp; Azure writes seven digits of a second, which is one more than Python takes."""
    head, dot, fraction = text.strip().partition(".")
    return datetime.fromisoformat(f"{head}.{fraction[:6]:0<6}" if dot else head)
