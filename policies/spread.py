"""Least loaded first: what load balancers do, and the control arm of placement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from policies.base import Plan, View, Waiting


@dataclass(frozen=True, slots=True)
class Spread:
    """Each request goes to the server with the fewest sequences in flight, then the fewest tokens."""

    def place(self, group: Sequence[Waiting], view: View) -> Plan:
        load = {server: [server.in_flight, server.tokens] for server in view.servers}
        free = {server: server.free for server in view.servers}
        assignments = {}
        for waiting in group:
            open_servers = [server for server in load if server.takes(waiting, free[server])]
            if not open_servers:
                continue
            chosen = min(open_servers, key=load.__getitem__)
            load[chosen][0] += waiting.sequences
            load[chosen][1] += waiting.tokens
            free[chosen] -= waiting.sequences
            assignments[waiting.id] = chosen.name
        return Plan(assignments)
