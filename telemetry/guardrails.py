"""Guardrails: how much worse the treatment may be for those who wait, and when an experiment is stopped because it is.

Each compares the treatment with the control over pairs, by an always-valid interval, so it may be looked at after every
block: it trips when all of the interval is beyond its margin, and holds when all of it is below. That takes some pairs; what is
plainly intolerable in the last pair alone trips at once, by a hard bound that makes no claim of being statistics. Shares and
waits do not even wait for their pair: the treatment's latest block is held against the control's latest, or against none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import exp, isfinite, sqrt
from typing import Any, Literal

from telemetry.blocks import Block
from telemetry.design import CONTROL, TREATMENT
from telemetry.pairs import Pair
from telemetry.sequential import always_valid
from telemetry.student import Interval

SHARES = ("errors", "late", "unfinished")
ENOUGH_REQUESTS = 20  # in each block of a pair, for a hard bound of a share to be asked
ENOUGH_FOR_P95 = 20  # of fewer, the slowest of them is the 95th percentile, by chance: it is not known
Judgement = Literal["holds", "open", "tripped", "unknown"]


@dataclass(frozen=True, slots=True)
class Guardrails:
    """Margins; None: that is not watched.

    Attributes:
        ttft_p95: most that the treatment's time to first token (95th percentile) may be, over the control's.
        tpot_p95: likewise of the time per output token.
        wait_p99_s: seconds that the proxy's own wait (99th percentile) may be longer.
        errors: share of requests that may end in an error beyond the control's.
        late: share of requests that may miss their deadline beyond the control's.
        unfinished: share of requests that may still not have ended long after their block, beyond the control's.
        hard_ratio: a ratio that trips from one pair alone.
        hard_share: a share that trips from one block alone, if it had `ENOUGH_REQUESTS`.
        hard_wait: likewise a wait, in multiples of `wait_p99_s`, however few had it.
    """

    ttft_p95: float | None = 1.1
    tpot_p95: float | None = 1.1
    wait_p99_s: float | None = None
    errors: float | None = 0.01
    late: float | None = 0.01
    unfinished: float | None = 0.01
    hard_ratio: float = 3.0
    hard_share: float = 0.2
    hard_wait: float = 3.0

    def __post_init__(self) -> None:
        for name in ("ttft_p95", "tpot_p95"):
            if (value := getattr(self, name)) is not None and not (isfinite(value) and value > 1):
                raise ValueError(f"guardrail {name} is a ratio above 1 (1.1: a tenth worse), or none; not {value}")
        for name in SHARES:
            if (value := getattr(self, name)) is not None and not 0 < value < 1:
                raise ValueError(f"guardrail {name} is a share between 0 and 1, or none; not {value}")
        if self.wait_p99_s is not None and not (isfinite(self.wait_p99_s) and self.wait_p99_s > 0):
            raise ValueError(f"guardrail wait_p99_s is seconds above 0, or none; not {self.wait_p99_s}")
        finite = isfinite(self.hard_ratio) and isfinite(self.hard_wait)
        if not (finite and self.hard_ratio > 1 and 0 < self.hard_share <= 1 and self.hard_wait >= 1):
            raise ValueError("guardrails: hard_ratio is above 1, hard_share between 0 and 1, and hard_wait at least 1")

    def as_json(self) -> dict[str, float | None]:
        return asdict(self)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Guardrails:
        """From its JSON; what is not named keeps its default.

        Raises:
            ValueError: an unknown name, or a value that is out of bounds; the message says what is allowed.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(data) - set(known)):
            raise ValueError(f"unknown guardrail {', '.join(unknown)}: there are {', '.join(known)}")
        for name, value in data.items():
            nullable = not name.startswith("hard_")
            if isinstance(value, bool) or not (isinstance(value, (int, float)) or (value is None and nullable)):
                raise ValueError(f"guardrail {name} is a number{', or null: not watched' if nullable else ''}; not {value!r}")
        return cls(**data)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one guardrail says.

    Attributes:
        name: as in `Guardrails`.
        unit: ratio, seconds or share; the interval and the margin are in it.
        margin: what is allowed.
        found: treatment against control, always valid; None: nothing is known of it.
        pairs: how many know it.
        judgement: holds (all of the interval is below the margin), tripped, open, or unknown.
        why: in words.
    """

    name: str
    unit: str
    margin: float
    found: Interval | None
    pairs: int
    judgement: Judgement
    why: str


def judge(pairs: Sequence[Pair], guardrails: Guardrails, planned: int, alpha: float) -> list[Verdict]:
    """A verdict for each that is watched; each trips wrongly with probability alpha at most, hard bounds apart."""
    result, hard = [], guardrails.hard_ratio
    if guardrails.ttft_p95 is not None:
        result.append(
            _ratio(
                "ttft_p95", lambda block: (block.ttft_p95_s, block.ttft_of), guardrails.ttft_p95, pairs, hard, planned, alpha
            )
        )
    if guardrails.tpot_p95 is not None:
        result.append(
            _ratio(
                "tpot_p95", lambda block: (block.tpot_p95_s, block.tpot_of), guardrails.tpot_p95, pairs, hard, planned, alpha
            )
        )
    if guardrails.wait_p99_s is not None:
        margin = guardrails.wait_p99_s
        waits = _known(pairs, lambda pair: pair.difference(lambda block: block.wait_p99_s))
        found = always_valid(waits, planned, alpha)
        # a wait is the proxy's own doing, however few have it: no chance of the engine's
        result.append(_verdict("wait_p99_s", "seconds", margin, found, waits, margin * guardrails.hard_wait))
    shares = {name: margin for name in SHARES if (margin := getattr(guardrails, name)) is not None}
    return result + [_share(name, margin, pairs, guardrails, planned, alpha) for name, margin in shares.items()]


def _known(pairs: Sequence[Pair], of: Callable[[Pair], float | None]) -> list[float]:
    return [value for pair in pairs if (value := of(pair)) is not None]


def _ratio(
    name: str,
    of: Callable[[Block], tuple[float | None, int | None]],
    margin: float,
    pairs: Sequence[Pair],
    hard: float,
    planned: int,
    alpha: float,
) -> Verdict:
    """Over the pairs whose blocks both have the percentile of enough; where nobody counted, it is taken to be of all."""

    def counted(block: Block) -> int:
        return block.requests if (many := of(block)[1]) is None else many

    logs = _known(pairs, lambda pair: pair.log_ratio(lambda block: of(block)[0] if counted(block) >= ENOUGH_FOR_P95 else None))
    found = exponential(always_valid(logs, planned, alpha))
    most = max((min(map(counted, pair.blocks)) for pair in pairs), default=0)
    few = f": it takes {ENOUGH_FOR_P95} in each of its blocks, and the fullest has {most}" if most < ENOUGH_FOR_P95 else ""
    return _verdict(name, "ratio", margin, found, [exp(value) for value in logs], hard, few)


def _share(name: str, margin: float, pairs: Sequence[Pair], guardrails: Guardrails, planned: int, alpha: float) -> Verdict:
    """Taken to vary at least as independent events do, were there one more: no error in few requests is no proof."""
    told = [pair for pair in pairs if pair.control.requests and pair.treatment.requests]
    differences = _known(told, lambda pair: pair.difference(lambda block: getattr(block, name) / block.requests))
    blocks = [block for pair in told for block in pair.blocks]
    events = 1 + sum(getattr(block, name) for block in blocks)
    least_sd = 2 * sqrt(events * len(told)) / max(sum(block.requests for block in blocks), 1)
    found = always_valid(differences, planned, alpha, least_sd=least_sd)
    return _verdict(name, "share", margin, found, differences, guardrails.hard_share if _enough(told) else None)


def _enough(pairs: Sequence[Pair]) -> bool:
    """Whether the last pair alone may be believed: one of a handful is a large share of them."""
    return bool(pairs) and min(block.requests for block in pairs[-1].blocks) >= ENOUGH_REQUESTS


def exponential(logs: Interval | None) -> Interval | None:
    """Of a logarithm, the ratio; what is too wide for a number is no bound."""
    if logs is None or logs.low is None or logs.high is None:
        return None if logs is None else Interval(exp(logs.middle))
    if logs.high > 700:
        return Interval(exp(logs.middle))
    return Interval(exp(logs.middle), exp(logs.low), exp(logs.high))


def _verdict(
    name: str, unit: str, margin: float, found: Interval | None, values: Sequence[float], hard: float | None, few: str = ""
) -> Verdict:
    judgement: Judgement
    if found is None or not values:
        return Verdict(name, unit, margin, None, 0, "unknown", f"{name}: no pair tells it{few}")
    if hard is not None and values[-1] > hard:
        judgement, why = "tripped", f"{values[-1]:.3g} in the last pair alone, and {hard:.3g} is the hard bound"
    elif found.above(margin):
        judgement, why = "tripped", f"{found.low:.3g} at the least, and {margin:.3g} is allowed"
    elif found.below(margin):
        judgement, why = "holds", f"{found.high:.3g} at the most, and {margin:.3g} is allowed"
    else:
        judgement, why = "open", f"{found.middle:.3g} so far, {margin:.3g} is allowed; more pairs are needed to tell"
    return Verdict(name, unit, margin, found, len(values), judgement, f"{name} ({unit}): {why}")


def breaches(blocks: Sequence[Block], guardrails: Guardrails) -> dict[str, str]:
    """The hard bounds that the treatment's latest block breaks by itself, and why; its control may be still to come.

    Args:
        blocks: of one design, in any order. The block is held against its pair's control if that is over, else against the
            control's latest before it, else against none: what is intolerable in the first block is not waited out.
        guardrails: whose hard bounds of shares and waits are asked. A ratio has its pair to wait for.
    """
    whole = sorted((block for block in blocks if block.complete), key=lambda block: block.index)
    last = next((block for block in reversed(whole) if block.arm == TREATMENT), None)
    if last is None:
        return {}
    before = next((b for b in reversed(whole) if b.arm == CONTROL and b.pair <= last.pair), None)
    found = {}
    if guardrails.wait_p99_s is not None:
        waits_s = (last.wait_p99_s or 0.0) - (before.wait_p99_s or 0.0 if before is not None else 0.0)
        found["wait_p99_s"] = waits_s, guardrails.wait_p99_s * guardrails.hard_wait
    for name in SHARES if last.requests >= ENOUGH_REQUESTS else ():
        if getattr(guardrails, name) is not None:
            found[name] = _part(last, name) - _part(before, name), guardrails.hard_share
    said = "in the treatment's latest block" + ("" if before is not None else ", with none of the control's before it")
    return {
        name: f"{name}: {value:.3g} more {said}, and {hard:.3g} is the hard bound"
        for name, (value, hard) in found.items()
        if value > hard
    }


def _part(block: Block | None, name: str) -> float:
    """A share; nothing where too few came to tell."""
    if block is None or block.requests < ENOUGH_REQUESTS:
        return 0.0
    return float(getattr(block, name)) / block.requests
