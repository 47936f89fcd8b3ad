"""Asks the servers, again and again: what they speak until they have told, and whether they are well."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from policies.base import ServerState
from proxy.breaker import Circuit
from proxy.config import Config
from proxy.fleet import Fleet, Pool, Server
from proxy.probe import ask
from proxy.sleeping import observe

log = logging.getLogger("paceline.checks")

PROBE_EVERY_S = 2.0
LOOK_EVERY_S = 0.25  # at open circuits, whose time may be over


@dataclass(slots=True)
class Checks:
    """The tasks that keep a fleet's picture of its servers true."""

    config: Config
    fleet: Fleet
    asked: bool = False  # so that a server that is not there yet is said once
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Ask every server once, then go on in the background."""
        await self.discover()
        self.asked = True
        self._tasks = [
            asyncio.create_task(self._repeat(), name="paceline-checks"),
            asyncio.create_task(self._reopen(), name="paceline-circuits"),
        ]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def discover(self) -> None:
        """What each server speaks that has not told yet, and how many requests it takes."""
        missing = [(pool, server) for pool, server in self._all() if server.ask_again]
        await asyncio.gather(*(self._discover(pool, server) for pool, server in missing))

    async def _discover(self, pool: Pool, server: Server) -> None:
        found = await ask(server.control, server.base_url, server.dialect if server.is_told else None)
        if found is None:
            log.log(logging.DEBUG if self.asked else logging.WARNING, "upstream %s does not answer yet", server.name)
            return
        server.found, server.ask_again = found, False
        log.info("upstream %s speaks %s %s (%s)", server.name, found.dialect.name, found.model, found.how)
        if found.refused and server.key:
            log.warning("upstream %s refuses the key that it is shown", server.name)
        server.tells_sleep = True
        pool.apply()
        await observe(pool, server)

    async def _repeat(self) -> None:
        """One round after the other, health checks at their own pace, whatever goes wrong."""
        checked_at = 0.0
        while True:
            await asyncio.sleep(min(PROBE_EVERY_S, self.config.health.every_s or PROBE_EVERY_S))
            try:
                await self.discover()
                now = asyncio.get_running_loop().time()
                if self.config.health.every_s and now - checked_at >= self.config.health.every_s * 0.99:
                    checked_at = now
                    await asyncio.gather(*(self._check(pool, server) for pool, server in self._all()))
            except Exception:  # a check that fails in its own way must not be the last one
                log.exception("checking the servers failed")

    async def _check(self, pool: Pool, server: Server) -> None:
        """A server in trial is judged by its requests, not by what its health route says; a sleeper is left alone."""
        if server.found is None or server.breaker.circuit is not Circuit.CLOSED:
            return
        await observe(pool, server)
        if pool.state(server.name) is not ServerState.AWAKE:
            return
        if await self._is_well(server):
            server.breaker.bad_checks = 0
        else:
            pool.failed(server.name, by_check=True)

    async def _is_well(self, server: Server) -> bool:
        """Whether its health route says so; one that is closed to us or absent says nothing."""
        assert server.dialect is not None
        try:
            async with asyncio.timeout(self.config.health.timeout_s):  # the client's own begins anew with each octet
                answer = await server.control.get(server.base_url + server.dialect.health)
        except Exception as error:  # whatever it is, it does not answer as it should
            log.debug("upstream %s: %r", server.name, error)
            return False
        return answer.status_code < 500

    async def _reopen(self) -> None:
        """Open circuits whose time is over are tried: first their health route, if there are checks, then one request."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await asyncio.gather(*(self._try_again(pool, server) for pool, server in self._all()))
            except Exception:
                log.exception("trying a server again failed")

    async def _try_again(self, pool: Pool, server: Server) -> None:
        if server.paused_until:
            pool.resume()
        if not server.breaker.due(pool.scheduler.clock()):
            return
        server.breaker.try_again()  # so that it is not tried twice meanwhile
        unchecked = not self.config.health.every_s or pool.state(server.name) is not ServerState.AWAKE
        well = unchecked or server.dialect is None or await self._is_well(server)
        if server.breaker.circuit is not Circuit.HALF_OPEN:
            return  # a request has decided meanwhile
        if well:
            pool.try_again(server)
        else:
            pool.failed(server.name, by_check=True)

    def _all(self) -> list[tuple[Pool, Server]]:
        return [(pool, server) for pool in self.fleet.pools.values() for server in pool.servers.values()]
