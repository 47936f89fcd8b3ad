"""Tells servers to sleep and to wake when their room wants that, and tells the room what has become of them.

Nothing here cuts a request: the room lets only servers sleep that have none of its own, and engines are told to wait for
whatever else they have. A server that does not do as it is told costs joules or one server, never a request: one that will not
sleep stays in use, one that will not wake counts as failed, and is tried again once its circuit is.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass, field

from policies.base import Action, ServerState
from proxy.config import Sleep
from proxy.dialects.sleep_routes import SleepRoutes
from proxy.fleet import Fleet, Pool, Server

log = logging.getLogger("paceline.sleeping")

SETTLED = (ServerState.AWAKE, ServerState.ASLEEP)
LEAST_PAUSE_S = 0.5  # between attempts to wake a server


class Unwilling(Exception):
    """A server did not do as it was told; the message says how.

    Attributes:
        unsure: it may have done so all the same, or yet do it.
    """

    def __init__(self, message: str, *, unsure: bool = False) -> None:
        super().__init__(message)
        self.unsure = unsure


@dataclass(slots=True)
class Sleeping:
    """What is under way, one task a server."""

    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def act(self, pool: Pool, name: str, action: Action, settings: Sleep, *, closing: bool = False) -> None:
        """Carry out what a room wants; returns at once, and the room is told when it is done.

        Args:
            pool: whose room.
            name: of the server.
            action: what it shall do.
            settings: in force now.
            closing: nobody is sent to sleep any more.
        """
        server = pool.servers.get(name)
        if server is None:
            return
        if action is Action.SLEEP and (closing or server.awake_until > pool.scheduler.clock()):
            # without a word to the scheduler, which would ask its room at once, and that us
            pool.scheduler.room.set_state(name, ServerState.AWAKE)
            return
        work = _fall_asleep(pool, server, settings) if action is Action.SLEEP else _wake(pool, server, settings)
        task = asyncio.create_task(work, name=f"paceline-{action.value}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self, fleet: Fleet) -> None:
        """Break off what is under way, and say who is left asleep: nobody is woken for nothing."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        states = [(name, pool.state(name)) for pool in fleet.pools.values() for name in pool.servers]
        left = [f"{name} ({state.value.replace('_', ' ')})" for name, state in states if state is not ServerState.AWAKE]
        if left:
            log.warning("not awake at the end: %s; nobody else will wake them", ", ".join(left))


async def _fall_asleep(pool: Pool, server: Server, settings: Sleep) -> None:
    try:
        routes = _routes(server)
        await _post(server, routes, routes.sleep, settings.timeout_s)
        if await told(server) is False:
            raise Unwilling("it says that it is awake")
    except Unwilling as error:
        server.awake_until = pool.scheduler.clock() + settings.again_s
        log.log(logging.DEBUG if server.told_wakeful else logging.WARNING, "upstream %s does not sleep: %s", server.name, error)
        server.told_wakeful = True
        if error.unsure:
            await _undo(server, settings)
        pool.scheduler.set_state(server.name, ServerState.AWAKE)
        return
    server.told_wakeful = False
    log.info("upstream %s sleeps", server.name)
    pool.scheduler.set_state(server.name, ServerState.ASLEEP)


async def _undo(server: Server, settings: Sleep) -> None:
    """It may yet fall asleep, for all that is known; whoever is awake is not disturbed by being told to wake."""
    try:
        if await told(server) is not False:
            routes = _routes(server)
            await _post(server, routes, routes.wake, settings.timeout_s)
    except Unwilling as error:
        log.debug("upstream %s: %s", server.name, error)


async def _wake(pool: Pool, server: Server, settings: Sleep) -> None:
    since = pool.scheduler.clock()
    try:
        routes = _routes(server)
        await _post(server, routes, routes.wake, settings.timeout_s)
        if await told(server):
            raise Unwilling("it says that it is still asleep")
    except Unwilling as error:
        log.warning("upstream %s does not wake: %s", server.name, error)
        pool.failed(server.name, surely=True)
        # it is not asked again before its circuit is tried again; meanwhile the room may wake another
        await asyncio.sleep(max(server.breaker.until - pool.scheduler.clock(), LEAST_PAUSE_S))
        pool.scheduler.set_state(server.name, ServerState.ASLEEP)
        return
    log.info("upstream %s woke in %.2f s", server.name, pool.scheduler.clock() - since)
    pool.succeeded(server.name)
    pool.scheduler.set_state(server.name, ServerState.AWAKE)


async def observe(pool: Pool, server: Server) -> None:
    """Whether a server sleeps, as it tells itself: since before we came, or because somebody else told it to."""
    before = pool.state(server.name)
    if before not in SETTLED or not server.tells_sleep:
        return
    asleep = await told(server)
    state = ServerState.ASLEEP if asleep else ServerState.AWAKE
    if asleep is None or state is before or pool.state(server.name) is not before:
        return  # or something else has happened to it meanwhile
    log.info("upstream %s is %s, and not by us", server.name, state.value)
    pool.scheduler.set_state(server.name, state)


async def told(server: Server) -> bool | None:
    """Whether a server says that it sleeps; None where it says nothing."""
    routes = server.dialect.sleep if server.dialect is not None else None
    if routes is None or routes.told_by is None:
        return None
    try:
        answer = await server.control.get(server.base_url + routes.told_by)
        server.tells_sleep = answer.status_code != 404
        asleep = answer.json().get("is_sleeping") if answer.status_code == 200 else None
    except Exception as error:  # whatever it is, it tells nothing
        log.debug("upstream %s: %r", server.name, error)
        return None
    return asleep if isinstance(asleep, bool) else None


def _routes(server: Server) -> SleepRoutes:
    """How its engine is told.

    Raises:
        Unwilling: it has no such routes, or has not said yet what it is.
    """
    if server.dialect is None:
        raise Unwilling("it has not told yet what it speaks")
    if server.dialect.sleep is None:
        raise Unwilling(f"an engine that speaks {server.dialect.name} has no route for that")
    return server.dialect.sleep


async def _post(server: Server, routes: SleepRoutes, path: str, timeout_s: float) -> None:
    """Tell it, and wait until it has done so.

    Raises:
        Unwilling: it did not.
    """
    body = {} if routes.body is None else {"content": json.dumps(routes.body), "headers": {"content-type": "application/json"}}
    server.in_use += 1  # so that a reload does not close its connections meanwhile
    try:
        async with asyncio.timeout(timeout_s):
            answer = await server.control.post(server.base_url + path, timeout=timeout_s, **body)  # type: ignore[arg-type]
    except Exception as error:  # whatever it is: a server that is neither awake nor asleep would be lost
        raise Unwilling(f"{path}: {error or type(error).__name__}", unsure=True) from error
    finally:
        server.in_use -= 1
    if answer.status_code >= 300:
        hint = f"; it needs {routes.needs}" if answer.status_code in (403, 404, 405, 501) else ""
        raise Unwilling(f"{path} answers {answer.status_code}{hint}", unsure=answer.status_code >= 500)
