"""How long answers will be: learnt from those that have ended, by tenant and model, then by model."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

KEEP = 64  # latest lengths of each kind
FEWEST = 5  # of a kind, before it is believed
KINDS = 1_000  # the latest that are remembered


@dataclass(slots=True)
class Seen:
    """The latest lengths of one kind, with their sum and the largest, so that a request need not look at all of them."""

    latest: deque[int]
    total: int = 0
    largest: int = 0

    def saw(self, length: int) -> None:
        gone = self.latest[0] if len(self.latest) == self.latest.maxlen else None
        self.latest.append(length)
        self.total += length - (gone or 0)
        self.largest = max(self.latest) if gone == self.largest else max(self.largest, length)

    def mean(self, most: int) -> float:
        """No length counts for more than `most`."""
        total = self.total if self.largest <= most else sum(min(length, most) for length in self.latest)
        return total / len(self.latest)


@dataclass(slots=True)
class Lengths:
    """Expects of a request the mean of what its like has had, no answer longer than it may be.

    Its like are the latest of its tenant and model; while those are few, of its model; while those are few too, nothing is
    known but what it may be at most.
    """

    keep: int = KEEP
    _seen: OrderedDict[tuple[str, ...], Seen] = field(default_factory=OrderedDict)

    def saw(self, tenant: str, model: str, output_tokens: int) -> None:
        """An answer ended of itself, with so many tokens a sequence."""
        for kind in ((tenant, model), (model,)):
            if (seen := self._seen.get(kind)) is None:
                seen = self._seen[kind] = Seen(deque(maxlen=self.keep))
            seen.saw(output_tokens)
            self._seen.move_to_end(kind)
        while len(self._seen) > KINDS:
            self._seen.popitem(last=False)

    def expect(self, tenant: str, model: str, most: int) -> float:
        """Output tokens of a sequence that may have `most`."""
        for kind in ((tenant, model), (model,)):
            seen = self._seen.get(kind)
            if seen is not None and len(seen.latest) >= FEWEST:
                return seen.mean(most)
        return float(most)
