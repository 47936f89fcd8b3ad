"""Policies that nobody should write."""

from __future__ import annotations

import time
from dataclasses import dataclass

from policies.base import Decision, View


@dataclass(frozen=True, slots=True)
class Blocks:
    """Keeps the whole process for a while whenever it is asked, and releases everybody."""

    seconds: float = 0.3

    def decide(self, view: View, memory: object) -> Decision:
        time.sleep(self.seconds)
        return Decision([waiting.id for waiting in view.waiting])


@dataclass(frozen=True, slots=True)
class Raises:
    """Has an opinion on nothing."""

    def decide(self, view: View, memory: object) -> Decision:
        raise RuntimeError("no opinion")
