"""Least loaded first: what load balancers do, and the control arm of placement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from policies.base import Plan, View, Waiting


@dataclass(frozen=True, slots=True)
class Spread:
    """Each request goes to the server with the fewest in flight, then the fewest tokens."""

    def place(self, group: Sequence[Waiting], view: View) -> Plan:
        load = {server.name: [server.in_flight, server.tokens] for server in view.servers}
        free = {server.name: server.free for server in view.servers}
        assignments = {}
        for waiting in group:
            open_servers = [name for name in load if free[name] >= 1]
            if not open_servers:
                break
            name = min(open_servers, key=load.__getitem__)
            load[name][0] += 1
            load[name][1] += waiting.prompt_tokens + waiting.max_new_tokens
            free[name] -= 1
            assignments[waiting.id] = name
        return Plan(assignments)
