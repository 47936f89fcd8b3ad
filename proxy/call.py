"""One request of the data port on its way through: what came, whose it is, where it goes, and what it was answered."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from os import urandom
from typing import TYPE_CHECKING

from proxy.admission import CREDENTIALS, NOBODY, Refusal
from proxy.config import Tenant
from proxy.dialects import Dialect
from proxy.dialects.base import Ask
from proxy.wire import ENERGY, Presence, Scope, Send, end_to_end

if TYPE_CHECKING:
    from proxy.delivery import HeldAnswer, HeldStream
    from proxy.fleet import Pool, Server
    from telemetry.ledger import Entry


@dataclass(slots=True, eq=False)
class Call:
    """One request. `entry` is its line in the ledger, if it generates."""

    scope: Scope
    send: Send
    pool: Pool
    arrived_at: float  # monotonic seconds
    id: str = field(default_factory=lambda: urandom(16).hex())
    body: bytes | None = None  # None: it has none, which is not the same as an empty one
    tenant: Tenant = NOBODY
    ask: Ask | None = None
    entry: Entry | None = None
    held_bytes: int = 0
    authenticated: bool = False  # this proxy took the client's key for itself, so it is not passed on
    rewritten: bool = False  # the body is not the client's any more
    started: bool = False  # the head of an answer is out
    status: int = 0  # of that head; 0: none is out
    complete: bool = False  # the answer's end was seen in it
    awaits_energy: bool = False  # its client asked to get its joules with the answer
    held: HeldAnswer | HeldStream | None = None  # what is left of the answer for when they are known
    cut: bool = False  # the proxy closes, and waits no longer for it
    task: asyncio.Task[None] | None = None
    headers: dict[bytes, bytes] = field(init=False)  # by lower-case name, until all that is told by them is known

    def __post_init__(self) -> None:
        self.headers = dict(self.scope["headers"])

    @property
    def presence(self) -> Presence:
        presence: Presence = self.scope[Presence.KEY]
        return presence

    @property
    def method(self) -> str:
        return str(self.scope["method"])

    @property
    def path(self) -> str:
        return str(self.scope["path"])

    @property
    def dialect(self) -> Dialect:
        return self.pool.dialect

    def headers_for(self, server: Server, body: bytes | None, *, identity: bool) -> list[tuple[bytes, bytes]]:
        """What goes up: end-to-end headers, the server's key in place of the client's, the length of a body that we changed.

        Args:
            server: which it goes to.
            body: what goes up, ours or the client's.
            identity: the answer must come unencoded, for it is to be changed.
        """
        credentials = CREDENTIALS if self.authenticated or server.key else ()
        changed = (b"content-length",) if self.rewritten or body is not self.body else ()
        encoding = (b"accept-encoding",) if identity else ()
        headers = end_to_end(self.scope["headers"], b"host", ENERGY, *credentials, *changed, *encoding)
        if changed and body is not None:
            headers.append((b"content-length", str(len(body)).encode()))
        if server.key:
            headers.append((b"authorization", b"Bearer " + server.key.encode()))
        return headers

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.started, self.status = True, status
        headers.append((b"x-paceline-request-id", self.id.encode()))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def refuse(self, refusal: Refusal) -> None:
        """An error of ours, in the shape that the dialect's clients expect."""
        body = json.dumps(self.dialect.error(self.path, refusal.text, refusal.kind)).encode()
        await self.answer(refusal.status, body, retry_after_s=refusal.retry_after_s)

    async def answer(self, status: int, body: bytes, *, retry_after_s: float | None = None) -> None:
        """A JSON answer of ours."""
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if retry_after_s is not None:
            headers.append((b"retry-after", str(max(round(retry_after_s), 1)).encode()))
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await self.start(status, headers)
        await self.send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else body, "more_body": False})
