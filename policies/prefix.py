"""Requests whose prompts begin alike leave together, while what the engine has computed of the beginning is still there.

An engine with a prefix cache computes a shared beginning once (Kwon et al., "Efficient Memory Management for Large Language
Model Serving with PagedAttention", SOSP 2023; Zheng et al., "SGLang", NeurIPS 2024), if those who share it come to one
server before it is evicted. This policy brings them together in time; the placement `affine` brings them to one server. What is
saved is prompt tokens' energy alone: a group's decode costs what any group's costs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf, nextafter

from policies.base import Decision, Policy, View, Waiting
from policies.span import Span


@dataclass(frozen=True, slots=True)
class Prefix:
    """Whoever shares a prefix with one who leaves, by the inner policy or by the deadline, leaves with it.

    A policy's `Waiting.prefix` is a digest, so what is shared is the whole digested beginning, or nothing. Requests whose
    prefix is not known take nobody along. Around `capped` it lets go more than the bound; `capped` belongs around it.

    Attributes:
        policy: who leaves first.
        most: how many requests of one prefix leave together, those included that leave anyway; the oldest first.
    """

    policy: Policy = field(default_factory=Span)
    most: int = 32

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError("most must be at least 1")

    def decide(self, view: View, memory: object) -> Decision:
        decision = self.policy.decide(view, memory)
        leaving = dict.fromkeys(id for id in decision.release if id in view.waiting)
        if len(leaving) < len(view.waiting):
            due = {waiting.id for waiting in view.waiting.due_before(nextafter(view.now, inf))}
            if leaving or due:
                leaving |= dict.fromkeys(waiting.id for waiting in self._along(view, leaving.keys() | due))
        return Decision(list(leaving), decision.wake_at, decision.memory)

    def _along(self, view: View, leaving: set[str]) -> Iterator[Waiting]:
        """Who else goes for a shared prefix's sake, in order of arrival."""
        leave = Counter(waiting.prefix for waiting in view.waiting if waiting.id in leaving)
        del leave[None]
        if not leave:
            return
        for waiting in view.waiting:
            if waiting.id not in leaving and 0 < leave[waiting.prefix] < self.most:
                leave[waiting.prefix] += 1
                yield waiting
