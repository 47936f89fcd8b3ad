"""Requests that begin alike, or belong to one session, go to one server: it has computed their beginning already.

A prompt token that is found in a server's prefix cache costs no prefill. Which server is a key's is said by rendezvous
hashing (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998): each server draws a lot for each
key, and the highest has it. So there is nothing to remember, all replicas agree, and a server that comes or goes moves its own
keys only. A popular key cannot bury its server: above a bound on the load (Mirrokni, Thorup and Zadimoghaddam, "Consistent
hashing with bounded loads", SODA 2018) a request goes where one without a key would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from math import ceil
from typing import Literal

from policies.base import Placement, Plan, ServerState, ServerView, View, Waiting
from policies.pack import Pack


@dataclass(frozen=True, slots=True)
class Affine:
    """Each request goes to the server of its key, unless that has too much; who has no key is placed by another placement.

    Attributes:
        by: what the key is: "prefix", how the prompt begins; "session", what the sender says it is a turn of;
            "session or prefix", the one that is there.
        overload: a key's server takes so many times the mean load of all; 1 is a balance without affinity.
        floor: ... but always so many sequences, however idle the others are.
        placement: for requests without a key, and those above the bound.
    """

    by: Literal["prefix", "session", "session or prefix"] = "prefix"
    overload: float = 1.25
    floor: int = 16
    placement: Placement = field(default_factory=Pack)

    def __post_init__(self) -> None:
        if self.by not in ("prefix", "session", "session or prefix"):
            raise ValueError('by must be "prefix", "session" or "session or prefix"')
        if not self.overload >= 1:
            raise ValueError("overload must be at least 1")
        if self.floor < 0:
            raise ValueError("floor must be at least 0")

    def place(self, group: Sequence[Waiting], view: View) -> Plan:
        assignments: dict[str, str] = {}
        for waiting in group:  # one by one, for each counts for the next
            chosen = self._own(waiting, view)
            if chosen is None:
                chosen = self.placement.place([waiting], view).assignments.get(waiting.id)
            if chosen is not None:
                assignments[waiting.id] = chosen
                view = _with(view, chosen, waiting)
        return Plan(assignments)

    def _own(self, waiting: Waiting, view: View) -> str | None:
        """The server of its key, if it has one that can take it."""
        key = self._key(waiting)
        there = [server for server in view.servers if server.healthy and server.state is ServerState.AWAKE]
        if not key or not there:
            return None
        server = max(there, key=lambda server: _lot(key, server.name))
        most = self._most(there, waiting)
        fits = server.takes(waiting, server.free) and server.in_flight + waiting.sequences <= most
        return server.name if fits else None

    def _most(self, servers: Sequence[ServerView], waiting: Waiting) -> int:
        """Sequences that one of them may have, this request counted."""
        total = sum(server.in_flight for server in servers) + waiting.sequences
        return max(ceil(self.overload * total / len(servers)), self.floor)

    def _key(self, waiting: Waiting) -> bytes:
        session = f"{waiting.tenant}\0{waiting.session}".encode("utf-8", "replace") if waiting.session else b""
        prefix = waiting.prefix or b""
        if self.by == "session or prefix":
            return session or prefix
        return prefix if self.by == "prefix" else session


def _lot(key: bytes, server: str) -> bytes:
    return blake2b(server.encode("utf-8", "replace"), digest_size=8, key=blake2b(key, digest_size=16).digest()).digest()


def _with(view: View, name: str, waiting: Waiting) -> View:
    """The view once a request has been sent to a server."""
    more = waiting.tokens
    servers = [
        replace(server, in_flight=server.in_flight + waiting.sequences, tokens=server.tokens + more, empty_since=None)
        if server.name == name
        else server
        for server in view.servers
    ]
    return replace(view, servers=servers)
