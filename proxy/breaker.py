"""When a server is left alone, and when it is tried again: a circuit breaker, without clock or wire.

    closed --failures in a row, or no connection--> open --its time is over--> half open --success--> closed
                                                      ^------- a failure, twice as long ------'

(Nygard, "Release It!", 2007.) Half open lets one request through at a time; what it comes to decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from proxy.config import Health


class Circuit(StrEnum):
    """Whether requests may go to a server."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(slots=True)
class Breaker:
    """One server's circuit. Times are monotonic seconds."""

    health: Health
    circuit: Circuit = Circuit.CLOSED
    failures: int = 0  # of requests, in a row
    bad_checks: int = 0  # of its health route, in a row; a good one says nothing of its requests
    until: float = 0.0  # when an open circuit may be tried
    _open_s: float = 0.0  # how long the last opening was; 0 once it has worked again

    def succeeded(self) -> bool:
        """A request came to what it should; True if that closed its circuit."""
        self.failures, self.bad_checks, self._open_s = 0, 0, 0.0
        was, self.circuit = self.circuit, Circuit.CLOSED
        return was is not Circuit.CLOSED

    def failed(self, now: float, *, surely: bool = False, by_check: bool = False) -> bool:
        """A request, or a check, did not; True if that opened its circuit. `surely`: one such failure is enough."""
        if by_check:
            self.bad_checks += 1
        else:
            self.failures += 1
        if self.circuit is Circuit.OPEN:
            return False  # those that were under way when it opened say nothing new
        if self.circuit is Circuit.CLOSED and not surely and max(self.failures, self.bad_checks) < self.health.failures:
            return False
        self._open_s = min(self._open_s * 2 or self.health.open_s, self.health.max_open_s)
        self.circuit, self.until = Circuit.OPEN, now + self._open_s
        return True

    def due(self, now: float) -> bool:
        """Whether an open circuit's time is over."""
        return self.circuit is Circuit.OPEN and now >= self.until

    def try_again(self) -> None:
        """Half open: the next one decides."""
        self.circuit = Circuit.HALF_OPEN
