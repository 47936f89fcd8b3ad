"""Fill one server before using the next: full batches cost fewer joules a token, and empty servers only idle.

Nobody waits for it; tokens come a little slower, which is what the knee bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from policies.base import Plan, View, Waiting


@dataclass(frozen=True, slots=True)
class Pack:
    """Each request goes to the fullest server below its knee; when all are past it, to the emptiest.

    Attributes:
        knee: sequences in flight at which a server counts as full (beyond it, time per token grows faster than
            joules per token fall; 64 on an H200 with an 8B model).
    """

    knee: int = 64

    def __post_init__(self) -> None:
        if self.knee < 1:
            raise ValueError("knee must be at least 1")

    def place(self, group: Sequence[Waiting], view: View) -> Plan:
        load = {server: server.in_flight for server in view.servers}
        free = {server: server.free for server in view.servers}
        assignments = {}
        for waiting in group:
            open_servers = [server for server in load if server.takes(waiting, free[server])]
            if not open_servers:
                continue
            below = [server for server in open_servers if load[server] < self.knee]
            chosen = max(below, key=load.__getitem__) if below else min(open_servers, key=load.__getitem__)
            load[chosen] += waiting.sequences
            free[chosen] -= waiting.sequences
            assignments[waiting.id] = chosen.name
        return Plan(assignments)
