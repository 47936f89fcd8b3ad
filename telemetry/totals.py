"""What was counted, and whose it was: totals since the start, and an hour of their history."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import overload

HISTORY = 36_000  # settlements remembered: an hour of one device


@dataclass(frozen=True, slots=True)
class Totals:
    """Microjoules since the start, up to an instant; `counted` is the sum of the others."""

    at_s: float = -inf
    counted_uj: int = 0
    requests_uj: int = 0
    idle_uj: int = 0
    unattributed_uj: int = 0

    def plus(self, at_s: float, requests_uj: int, idle_uj: int, unattributed_uj: int) -> Totals:
        return Totals(
            at_s,
            self.counted_uj + requests_uj + idle_uj + unattributed_uj,
            self.requests_uj + requests_uj,
            self.idle_uj + idle_uj,
            self.unattributed_uj + unattributed_uj,
        )

    def minus(self, other: Totals) -> Totals:
        return Totals(
            self.at_s,
            self.counted_uj - other.counted_uj,
            self.requests_uj - other.requests_uj,
            self.idle_uj - other.idle_uj,
            self.unattributed_uj - other.unattributed_uj,
        )

    def towards(self, later: Totals, part: float) -> Totals:
        """What the totals were `part` of the way to later ones."""

        def between(a: int, b: int) -> int:
            return a + round((b - a) * part)

        requests = between(self.requests_uj, later.requests_uj)
        idle = between(self.idle_uj, later.idle_uj)
        unattributed = between(self.unattributed_uj, later.unattributed_uj)
        at_s = self.at_s + (later.at_s - self.at_s) * part
        return Totals(at_s, requests + idle + unattributed, requests, idle, unattributed)


class History(Sequence[Totals]):
    """Totals in order of time, 32 octets each, so that an hour of them is no weight; the oldest are forgotten."""

    def __init__(self) -> None:
        self._at_s = array("d")
        self._uj = array("q")  # requests, idle and unattributed, one after the other

    def __len__(self) -> int:
        return len(self._at_s)

    @overload
    def __getitem__(self, index: int) -> Totals: ...
    @overload
    def __getitem__(self, index: slice) -> list[Totals]: ...
    def __getitem__(self, index: int | slice) -> Totals | list[Totals]:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        requests, idle, unattributed = self._uj[3 * at : 3 * at + 3]
        return Totals(self._at_s[at], requests + idle + unattributed, requests, idle, unattributed)

    def append(self, totals: Totals) -> None:
        self._at_s.append(totals.at_s)
        self._uj.extend((totals.requests_uj, totals.idle_uj, totals.unattributed_uj))
        if len(self) > 2 * HISTORY:
            del self._at_s[:HISTORY]
            del self._uj[: 3 * HISTORY]


def at(history: Sequence[Totals], at_s: float) -> Totals:
    """The totals at an instant, between the settlements around it."""
    after = bisect_left(history, at_s, key=lambda totals: totals.at_s)
    if after == 0:
        return history[0]
    before, later = history[after - 1], history[min(after, len(history) - 1)]
    if later.at_s <= before.at_s:
        return later
    return before.towards(later, (at_s - before.at_s) / (later.at_s - before.at_s))


def together(parts: Sequence[Totals], at_s: float) -> Totals:
    return Totals(
        at_s,
        sum(part.counted_uj for part in parts),
        sum(part.requests_uj for part in parts),
        sum(part.idle_uj for part in parts),
        sum(part.unattributed_uj for part in parts),
    )
