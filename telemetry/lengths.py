"""How long answers will be: learnt from those that have ended, by tenant and model, then by model."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

KEEP = 64  # latest lengths of each kind
FEWEST = 5  # of a kind, before it is believed
KINDS = 1_000  # the latest that are remembered


@dataclass(slots=True)
class Lengths:
    """Expects of a request the mean of what its like has had, no answer longer than it may be.

    Its like are the latest of its tenant and model; while those are few, of its model; while those are few too, nothing is
    known but what it may be at most.
    """

    keep: int = KEEP
    _seen: OrderedDict[tuple[str, ...], deque[int]] = field(default_factory=OrderedDict)

    def saw(self, tenant: str, model: str, output_tokens: int) -> None:
        """An answer ended of itself, with so many tokens a sequence."""
        for kind in ((tenant, model), (model,)):
            lengths = self._seen.setdefault(kind, deque(maxlen=self.keep))
            lengths.append(output_tokens)
            self._seen.move_to_end(kind)
        while len(self._seen) > KINDS:
            self._seen.popitem(last=False)

    def expect(self, tenant: str, model: str, most: int) -> float:
        """Output tokens of a sequence that may have `most`."""
        for kind in ((tenant, model), (model,)):
            lengths = self._seen.get(kind, ())
            if len(lengths) >= FEWEST:
                return sum(min(length, most) for length in lengths) / len(lengths)
        return float(most)
