"""Puts another configuration in force while requests run: all of it or nothing, and nobody who is here is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from proxy.app import App
from proxy.config import Config, Upstream
from proxy.fleet import Pool, Server, connect, create_pool
from proxy.keys import key_of
from proxy.sources import ConfigError

log = logging.getLogger("paceline.reload")

# what is built in when the process starts
FIXED = ("host", "port", "admin_host", "admin_port", "energy")
FIXED_LIMITS = ("header_bytes", "header_timeout_s", "idle_timeout_s", "stall_timeout_s", "stream_window_bytes")
# what of an upstream is asked for at each request, so that its connections may stay
WITHOUT_CONNECTION = {"slots", "group", "dialect", "key_file", "key_env"}


def reload(app: App, config: Config) -> None:
    """From the next request on, `config` holds. Requests that are here go on: those in flight where they are.

    Raises:
        ConfigError: it changes what cannot be changed without a restart; nothing has been changed.
    """
    _check(app.config, config)
    strategy, model = config.strategy(), config.step_model()
    keys = {upstream.url: key_of(upstream, app.environ) for upstream in config.upstreams}
    before = app.config
    changed_strategy = (before.policy, before.placement) != (config.policy, config.placement)
    fleet = app.fleet
    former, servers = dict(fleet.pools), {server.name: server for server in fleet.servers}
    fleet.pools = {group: former.get(group) or _new_pool(app, group, config) for group in config.groups()}
    fleet.models = config.models
    for upstream in config.upstreams:
        _place(app, config, upstream, servers.pop(upstream.url, None), keys[upstream.url], former)
    for server in servers.values():
        _remove(app, server, former, fleet.pools)
    for pool in fleet.pools.values():
        pool.scheduler.room.queue_limit, pool.scheduler.room.queue_timeout_s = config.queue.limit, config.queue.timeout_s
        if changed_strategy and pool.name in former:  # else what the admin port put in force stays so
            pool.scheduler.use(strategy)
        pool.apply()
    app.forward.use(config, model)
    app.config = app.checks.config = config
    if app.energy is not None:
        app.energy.serve({upstream.url for upstream in config.upstreams})
    logging.getLogger().setLevel(config.log_level.upper())
    app.generation += 1
    log.info("configuration %d (%s) is in force", app.generation, config.digest())


def _check(before: Config, after: Config) -> None:
    fixed = [key for key in FIXED if getattr(before, key) != getattr(after, key)]
    fixed += [f"limits.{key}" for key in FIXED_LIMITS if getattr(before.limits, key) != getattr(after.limits, key)]
    if fixed:
        raise ConfigError(f"{', '.join(fixed)}: cannot be changed without a restart; nothing has been changed")


def _new_pool(app: App, group: str, config: Config) -> Pool:
    pool = create_pool(group, config, config.strategy())
    app.tell(pool)
    return pool


def _place(app: App, config: Config, upstream: Upstream, server: Server | None, key: str, former: Mapping[str, Pool]) -> None:
    """One server of the new configuration: as it was, moved to another group, or connected anew."""
    pool = app.fleet.pools[upstream.group]
    if server is None:
        pool.add(connect(upstream, config, app.environ))
        return
    old = former[server.config.group]
    if not _same_connection(app.config, config, server.config, upstream):
        app.run(_close_unused(server), "paceline-close")
        anew = connect(upstream, config, app.environ)
        anew.found, anew.breaker = server.found, server.breaker
        server = anew
    server.config, server.told = upstream, config.dialect
    server.breaker.health = config.health
    server.use_key(key)
    if old is not pool:
        old.remove(server.name)
    pool.add(server)


def _same_connection(before: Config, after: Config, old: Upstream, new: Upstream) -> bool:
    timeouts = ("connect_timeout_s", "answer_timeout_s")
    same = (
        all(getattr(before, key) == getattr(after, key) for key in timeouts)
        and before.health.timeout_s == after.health.timeout_s
    )
    return same and old.model_dump(exclude=WITHOUT_CONNECTION) == new.model_dump(exclude=WITHOUT_CONNECTION)


def _remove(app: App, server: Server, former: Mapping[str, Pool], pools: Mapping[str, Pool]) -> None:
    """A server that is not in the new configuration: it ends what it has."""
    pool = former[server.config.group]
    if pool.name in pools:
        pool.remove(server.name)
    else:
        pool.scheduler.drain()  # the whole group goes: who waits for it leaves to it now
    app.run(_close_unused(server, pool if pool.name not in pools else None), "paceline-close")


async def _close_unused(server: Server, pool: Pool | None = None) -> None:
    """Close a server's connections once nobody uses them, or can still come to."""
    await asyncio.sleep(0.1)  # who has just been given a slot is on the way
    while server.in_use or (pool is not None and (pool.scheduler.room.held or pool.scheduler.room.ready)):
        await asyncio.sleep(0.1)
    await server.close()
