"""Who may use the admin port: whoever holds the token; without one, this machine's own programs, and no page in a browser."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.config import Config
from proxy.keys import token_of

log = logging.getLogger("paceline.guard")

READS = frozenset({"GET", "HEAD", "OPTIONS"})
OPEN = frozenset({"/healthz", "/readyz"})  # for whoever restarts us; they tell nothing else
PAGE, OF_PAGE = "/", "/page/"  # the page in a browser holds no data, and asks for the token itself
FORWARDED = (b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip")
HEADERS = ((b"x-content-type-options", b"nosniff"), (b"x-frame-options", b"DENY"))
HOW = "set admin.token_file or admin.token_env, and send `authorization: Bearer TOKEN` (--token-file, PACELINE_ADMIN_TOKEN)"


@dataclass(frozen=True, slots=True)
class Refused:
    """Why somebody may not."""

    status: int
    why: str


def is_loopback(host: str) -> bool:
    """Whether an address or a name is this machine's alone."""
    if host == "localhost":
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def doubts(config: Config) -> Iterator[str]:
    """What an operator should know of how the admin port stands open."""
    if is_loopback(config.admin_host) or config.admin.token_file or config.admin.token_env:
        return
    yield (
        f"the admin port is open beyond this machine ({config.admin_host}) without a token: whoever reaches it sees tenants, "
        f"models and every request's figures, and nobody can change anything; {HOW}"
    )


@dataclass(frozen=True, slots=True)
class Rules:
    """What one configuration allows.

    Attributes:
        token: its SHA-256, so that all comparisons are of equal length; empty: there is none.
        local: the port is bound to this machine alone.
    """

    token: bytes
    protect_all: bool
    hosts: frozenset[str]
    local: bool

    @classmethod
    def of(cls, config: Config, environ: Mapping[str, str]) -> Rules:
        """Read the token.

        Raises:
            KeyUnavailable: see `token_of`.
        """
        token = token_of(config.admin, environ)
        digest = hashlib.sha256(token.encode()).digest() if token else b""
        return cls(digest, config.admin.protect == "all", frozenset(config.admin.hosts), is_loopback(config.admin_host))

    def refusal(self, method: str, path: str, headers: Mapping[bytes, bytes], peer: str) -> Refused | None:
        """Why this request is refused; None: it is not.

        Args:
            method: in capitals.
            path: without a query.
            headers: by lower-case name.
            peer: the other side's address.
        """
        if path in OPEN and method in READS:
            return None
        if (self.local or self.hosts) and not self._known(headers.get(b"host", b"").decode("latin-1")):
            return Refused(403, "this admin port is asked for by a name that is not its own; admin.hosts allows more")
        if method in READS:
            if _embeds(headers):
                return Refused(403, "a page of another site may link here, and keep nothing here busy")
            empty = path == PAGE or path.startswith(OF_PAGE)
            return self._unless_token(headers) if self.protect_all and not empty else None
        if (page := _page(headers)) is not None and not self._may_change(page, headers):
            return Refused(403, "a page of another site may not change anything here")
        if self.token:
            return self._unless_token(headers)
        return self._unless_local(headers, peer)

    def _known(self, host: str) -> bool:
        """Whether a Host header names this machine: a page whose name was rebound to a loopback address names itself."""
        name = _name_of(host)
        return not host or is_loopback(name) or _address(name) is not None or name in self.hosts

    def _may_change(self, page: str, headers: Mapping[bytes, bytes]) -> bool:
        """Whether a page's origin is this port itself."""
        own, named = headers.get(b"host", b"").decode("latin-1").lower(), page.partition("://")[2].lower()
        return named == own != "" or _name_of(named) in self.hosts

    def _unless_token(self, headers: Mapping[bytes, bytes]) -> Refused | None:
        scheme, _, shown = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not shown.strip():
            return Refused(401, f"this admin port wants its token: {HOW}")
        if not hmac.compare_digest(hashlib.sha256(shown.strip()).digest(), self.token):
            return Refused(401, "this is not the admin port's token")
        return None

    def _unless_local(self, headers: Mapping[bytes, bytes], peer: str) -> Refused | None:
        if self.local and is_loopback(peer) and not any(name in headers for name in FORWARDED):
            return None
        return Refused(403, f"without a token nothing is changed but from this machine, at a port of its own: {HOW}")


@dataclass(slots=True)
class Guard:
    """An ASGI middleware; `rules` gives those in force."""

    app: ASGIApp
    rules: Callable[[], Rules]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        peer = (scope.get("client") or ("",))[0]
        refused = self.rules().refusal(scope["method"], scope["path"], dict(scope["headers"]), peer)
        if refused is None:
            if scope["method"] not in READS:
                log.info("admin port: %s %r by %s", scope["method"], scope["path"], peer)
            await self.app(scope, receive, _with_headers(send))
            return
        headers = {"www-authenticate": 'Bearer realm="paceline admin"'} if refused.status == 401 else None
        log.warning("admin port: %s %r of %s refused: %s", scope["method"], scope["path"], peer, refused.why)
        await JSONResponse({"detail": refused.why}, refused.status, headers)(scope, receive, _with_headers(send))


def _with_headers(send: Send) -> Send:
    """What no browser should do with anything of ours: guess types, or show it in another site's frame."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name for name, _ in message["headers"]}
            message = {**message, "headers": [*message["headers"], *(one for one in HEADERS if one[0] not in present)]}
        await send(message)

    return sending


def _page(headers: Mapping[bytes, bytes]) -> str | None:
    """The origin of the page that a browser asks for; `null` where it hides it; None: no browser, or no page of another."""
    if (origin := headers.get(b"origin")) is not None:
        return origin.decode("latin-1")
    crossing = headers.get(b"sec-fetch-site", b"none") in (b"cross-site", b"same-site")
    return "null" if crossing else None


def _embeds(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a page of another site asks for itself: it could not read the answer, but could hold all places of `/live`."""
    return headers.get(b"sec-fetch-site") == b"cross-site" and headers.get(b"sec-fetch-mode") != b"navigate"


def _name_of(host: str) -> str:
    """A host without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
