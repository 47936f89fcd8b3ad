"""What a simulated engine has done, and how late its wire was with it."""

from __future__ import annotations

from dataclasses import dataclass

LARGEST_LAG = 0.05


@dataclass(slots=True)
class Lag:
    """How late the wire was with last tokens, over how long the model had worked on them; wall seconds."""

    late_s: float = 0.0
    served_s: float = 0.0

    @property
    def share(self) -> float:
        return self.late_s / self.served_s if self.served_s else 0.0

    @property
    def void(self) -> bool:
        """Whether what was measured here would measure the wire; judged once it has served for a second."""
        return self.served_s >= 1.0 and self.share > LARGEST_LAG


@dataclass(slots=True)
class Tally:
    """What the engine has done since it started."""

    requests: int = 0
    succeeded: int = 0
    overloaded: int = 0
    dropped: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
