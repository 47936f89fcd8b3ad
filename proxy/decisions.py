"""The file of all decisions of shadows: JSON lines, of bounded length, written in the shadows' thread."""

from __future__ import annotations

import json
import logging
from logging.handlers import RotatingFileHandler

from policies.simulate import Served

log = logging.getLogger("paceline.shadow")


class Decisions(RotatingFileHandler):
    """At its length it becomes `....1`, and a new one is begun. One that cannot be written is told once, and stops nothing."""

    def __init__(self, path: str, most_bytes: int) -> None:
        super().__init__(path, maxBytes=most_bytes, backupCount=1, delay=True)
        self._failed = False

    def told(self, strategy: str, served: Served, wall_offset_s: float) -> None:
        """One request leaves with a strategy."""
        line = json.dumps(
            {
                "strategy": strategy,
                "id": served.waiting.id,
                "arrived_unix_s": served.waiting.arrived_at + wall_offset_s,
                "released_unix_s": served.released_at + wall_offset_s,
                "wait_s": served.wait_s,
                "server": served.server,
                "outcome": str(served.outcome),
            }
        )
        self.handle(logging.LogRecord("shadow", logging.INFO, "", 0, line, None, None))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not self._failed:
            log.warning("the file of shadows' decisions cannot be written: %s", self.baseFilename, exc_info=True)
        self._failed = True
