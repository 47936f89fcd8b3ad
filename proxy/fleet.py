"""The servers: in groups that can serve the same requests, each group with its own room, and what is known of every server."""

from __future__ import annotations

import asyncio
import fnmatch
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from policies.base import ServerState, ServerView
from policies.room import Room
from policies.strategy import Strategy
from proxy.breaker import Breaker, Circuit
from proxy.config import Config, DialectName, Model, Upstream
from proxy.dialects import DIALECTS, TGI, Dialect
from proxy.keys import key_of
from proxy.probe import Found
from proxy.scheduler import Scheduler
from proxy.upstream import Client, trust

log = logging.getLogger("paceline.fleet")

STORED_IDS = 100_000  # stored things whose server is remembered


@dataclass(slots=True)
class Server:
    """One inference server: how it is reached, what it said of itself, and whether it works."""

    config: Upstream
    client: Client
    control: httpx.AsyncClient  # probes and health checks
    breaker: Breaker
    told: DialectName = "auto"  # what all servers speak, by the configuration
    key: str = ""
    found: Found | None = None  # None: it has not answered yet
    paused_until: float = 0.0  # it said that it is busy
    in_use: int = 0  # exchanges under way
    trial_slots: int = 1  # while its circuit is half open: what it had then, and one more
    ask_again: bool = True  # what it is: it has not told, or may be another since
    awake_until: float = 0.0  # it would not sleep, and is not asked again before
    told_wakeful: bool = False  # ... which has been said
    tells_sleep: bool = True  # it has a route that tells whether it sleeps, as far as is known

    @property
    def name(self) -> str:
        return self.config.url

    @property
    def base_url(self) -> str:
        """What goes before a path. Behind a UNIX socket any host will do."""
        return "http://localhost" if self.config.url.startswith("unix:") else self.config.url

    @property
    def dialect(self) -> Dialect | None:
        """What it speaks; None while that is not known."""
        told = self.config.dialect if self.config.dialect != "auto" else self.told
        if told != "auto":
            return DIALECTS[told]
        return self.found.dialect if self.found is not None else None

    @property
    def is_told(self) -> bool:
        """Whether the configuration says what it speaks."""
        return self.config.dialect != "auto" or self.told != "auto"

    @property
    def slots(self) -> int | None:
        return self.config.slots or (self.found.slots if self.found is not None else None)

    def use_key(self, key: str) -> None:
        """Show it this key from now on, or none."""
        self.key = key
        self.control.headers.pop("authorization", None)
        if key:
            self.control.headers["authorization"] = f"Bearer {key}"

    async def close(self) -> None:
        await self.client.close()
        await self.control.aclose()


def connect(upstream: Upstream, config: Config, environ: Mapping[str, str]) -> Server:
    """A server that nobody has asked anything yet.

    Raises:
        KeyUnavailable: its key is not where it should be.
    """
    # one context for both clients, whose libraries' own ideas of whom to trust differ
    certificates = trust(upstream.ca_file, verify=upstream.verify) if upstream.url.startswith("https:") else True
    socket_path = upstream.url.removeprefix("unix://") if upstream.url.startswith("unix:") else None
    client = Client(
        connect_timeout_s=config.connect_timeout_s,
        answer_timeout_s=config.answer_timeout_s,
        window_bytes=config.limits.stream_window_bytes,
        certificates=certificates,
        socket_path=socket_path,
        http_proxy=upstream.http_proxy,
    )
    control = httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(verify=certificates, uds=socket_path, proxy=upstream.http_proxy),
        timeout=config.health.timeout_s,
        trust_env=False,
    )
    server = Server(upstream, client, control, Breaker(config.health), config.dialect)
    server.use_key(key_of(upstream, environ))
    return server


@dataclass(slots=True)
class Pool:
    """One group of servers and the room in front of it.

    Attributes:
        dialect: what its requests are read as: what the first server speaks that has told; TGI until then.
        known: whether any has told, so that `dialect` is no guess.
        spoken: every dialect that one of its servers may speak.
    """

    name: str
    scheduler: Scheduler
    servers: dict[str, Server] = field(default_factory=dict)
    dialect: Dialect = TGI
    known: bool = False
    spoken: tuple[str, ...] = tuple(DIALECTS)

    @property
    def fixed(self) -> Server:
        """The server for what is not scheduled: always the same one while it works and is awake."""
        servers = list(self.servers.values())
        works = [server for server in servers if server.breaker.circuit is Circuit.CLOSED] or servers[:1]
        return next((server for server in works if self.state(server.name) is ServerState.AWAKE), works[0])

    def state(self, name: str) -> ServerState:
        """Whether a server can work at once, as far as is known."""
        views = self.scheduler.room.server_views()
        return next((view.state for view in views if view.name == name), ServerState.AWAKE)

    def describe(self, view: ServerView) -> dict[str, Any]:
        """What is told of one of its servers."""
        server = self.servers[view.name]
        return {
            "name": view.name,
            "group": self.name,
            "dialect": server.dialect.name if server.dialect is not None else None,
            "model": server.found.model if server.found is not None else None,
            "in_flight": view.in_flight,
            "tokens": view.tokens,
            "slots": view.slots,
            "healthy": view.healthy,
            "state": view.state.value,
            "circuit": server.breaker.circuit.value,
            "connections": server.client.connections,
        }

    def add(self, server: Server) -> None:
        self.servers[server.name] = server
        self.scheduler.add_server(server.name, server.slots)
        self.apply()

    def remove(self, name: str) -> Server:
        """No request leaves to it any more; those that it has go on. It is the caller's to close."""
        if self.state(name) is not ServerState.AWAKE:
            log.warning("upstream %s is not served any more, and is left %s", name, self.state(name).value.replace("_", " "))
        self.scheduler.retire_server(name)
        return self.servers.pop(name)

    def succeeded(self, name: str) -> None:
        """A request came to what it should."""
        server = self.servers.get(name)
        if server is None:
            return
        breaker = server.breaker
        if breaker.failures or breaker.bad_checks or breaker.circuit is not Circuit.CLOSED:
            if server.breaker.succeeded():
                log.info("upstream %s works again", name)
                server.ask_again = True  # it may have come back as another
            self.apply()

    def failed(self, name: str, *, surely: bool = False, by_check: bool = False) -> None:
        """A request or a check came to nothing, by the server's fault."""
        server = self.servers.get(name)
        if server is None:
            return
        now = self.scheduler.clock()
        if server.breaker.failed(now, surely=surely, by_check=by_check):
            alone = all(other.breaker.circuit is Circuit.OPEN for other in self.servers.values())
            what = "no other works, so it is used all the same" if alone else "it is left alone"
            log.warning("upstream %s fails: for %.1f s %s", name, server.breaker.until - now, what)
            self.apply()

    def try_again(self, server: Server) -> None:
        """Its circuit is half open: one request more than it has decides."""
        server.breaker.try_again()
        views = self.scheduler.room.server_views()
        more = 1 + next((view.in_flight for view in views if view.name == server.name), 0)
        server.trial_slots = more if server.slots is None else min(more, server.slots)
        self.apply()

    def pause(self, name: str, seconds: float) -> None:
        """A server has no room: nobody goes there for a while, and whoever can go nowhere else waits."""
        server = self.servers.get(name)
        if server is not None:
            server.paused_until = max(server.paused_until, self.scheduler.clock() + seconds)
            self.apply()
            asyncio.get_running_loop().call_later(seconds, self.resume)

    def resume(self) -> None:
        """Those whose pause is over, or all but: an event loop may be a millisecond early."""
        now = self.scheduler.clock()
        for server in self.servers.values():
            if 0 < server.paused_until <= now + 0.002:
                server.paused_until = 0.0
        self.apply()

    def apply(self) -> None:
        """Something of a server has changed. The room is told who may be used: all, if none works, for an answer of failure
        is better than none.
        """
        spoken = [server.dialect for server in self.servers.values() if server.dialect is not None]
        self.dialect, self.known = spoken[0] if spoken else TGI, bool(spoken)
        self.spoken = tuple({dialect.name for dialect in spoken}) if len(spoken) == len(self.servers) else tuple(DIALECTS)
        working = [server for server in self.servers.values() if server.breaker.circuit is not Circuit.OPEN]
        # one that has not told how many requests it takes would be given all there are, while another works that has
        told = [server for server in working if server.found is not None or server.config.slots is not None]
        sure = any(server.breaker.circuit is Circuit.CLOSED for server in told)
        usable = (told if sure else working) or list(self.servers.values())
        for server in self.servers.values():
            trial = server.breaker.circuit is Circuit.HALF_OPEN and len(working) > 1
            healthy = server in usable and not server.paused_until
            self.scheduler.set_server(server.name, healthy=healthy, slots=server.trial_slots if trial else server.slots)


@dataclass(slots=True)
class Fleet:
    """All pools, and which of them a request belongs to."""

    pools: dict[str, Pool]  # the first is where requests go that name no model
    models: tuple[Model, ...] = ()
    _stored: OrderedDict[str, str] = field(default_factory=OrderedDict)  # stored thing: server

    @property
    def default(self) -> Pool:
        return next(iter(self.pools.values()))

    @property
    def servers(self) -> Iterator[Server]:
        return (server for pool in self.pools.values() for server in pool.servers.values())

    def route(self, model: str) -> tuple[Pool, str | None] | None:
        """The pool that serves a model, and the name that it is known by there; None when nobody serves it."""
        if not self.models or not model:
            return self.default, None
        for route in self.models:
            if model == route.name or fits(model, route.name):
                return self.pools[route.group], route.rewrite
        return None

    def remember(self, id: str, server: str) -> None:
        """A server has stored something by this id."""
        self._stored[id] = server
        if len(self._stored) > STORED_IDS:
            self._stored.popitem(last=False)

    def keeper(self, id: str) -> tuple[Pool, Server] | None:
        """Who stored this; None when it is not known, or gone."""
        name = self._stored.get(id) if id else None
        return next(((pool, pool.servers[name]) for pool in self.pools.values() if name in pool.servers), None)

    def sum(self, count: Callable[[Room], int]) -> int:
        return sum(count(pool.scheduler.room) for pool in self.pools.values())


def fits(model: str, pattern: str) -> bool:
    """Whether a pattern, in which `*` stands for anything and nothing else does, is of a model's name."""
    return fnmatch.fnmatchcase(model, pattern.replace("[", "[[]").replace("?", "[?]"))


def create_fleet(config: Config, environ: Mapping[str, str]) -> Fleet:
    """All servers of a configuration, with the strategy that it names in front of each group. Needs a running loop."""
    fleet = Fleet({}, config.models)
    for group in config.groups():
        fleet.pools[group] = create_pool(group, config, config.strategy())
    for upstream in config.upstreams:
        fleet.pools[upstream.group].add(connect(upstream, config, environ))
    return fleet


def create_pool(name: str, config: Config, strategy: Strategy) -> Pool:
    room = Room(
        strategy.policy,
        strategy.placement,
        {},
        queue_limit=config.queue.limit,
        queue_timeout_s=config.queue.timeout_s,
        model=config.step_model(),
    )
    return Pool(name, Scheduler(room, strategy))
