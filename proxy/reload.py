"""Puts another configuration in force while requests run: all of it or nothing, and nobody who is here is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from policies.base import ServerState
from policies.strategy import Strategy
from proxy.app import App
from proxy.config import Config, Upstream
from proxy.fleet import Pool, Server, connect, create_pool
from proxy.guard import Rules
from proxy.keys import KeyUnavailable, key_of
from proxy.sources import ConfigError
from telemetry.factors import Factors

log = logging.getLogger("paceline.reload")

# what is built in when the process starts
FIXED = (
    "host",
    "port",
    "admin_host",
    "admin_port",
    "ledger",
    "experiments",
    "experiment",
    "shared",
    "tls",
    "log_format",
    "log_requests",
)
NOT_FIXED_ENERGY = {"carbon", "price"}
FIXED_LIMITS = (
    "header_bytes",
    "header_timeout_s",
    "body_timeout_s",
    "idle_timeout_s",
    "stall_timeout_s",
    "stream_window_bytes",
)
# what of an upstream is asked for at each request, so that its connections may stay
WITHOUT_CONNECTION = {"slots", "group", "dialect", "key_file", "key_env"}


def reload(app: App, config: Config) -> None:
    """From the next request on, `config` holds. Requests that are here go on: those in flight where they are.

    Raises:
        ConfigError: it changes what cannot be changed without a restart; nothing has been changed.
    """
    _check(app.config, config)
    _check_experiments(app, config)
    strategy, model, factors = config.strategy(), config.step_model(), _factors(config)
    before, fleet = app.config, app.fleet
    former, servers = dict(fleet.pools), {server.name: server for server in fleet.servers}
    rules = _rules(app, config)
    made = _connect(app, config, servers)  # whatever can fail has now been done
    changed_strategy = (before.policy, before.placement) != (config.policy, config.placement)
    # the same by name, but what it reads from a file is not
    reread = {name for name, pool in former.items() if _differs_inside(pool.scheduler.strategy, strategy)}
    fleet.pools = {group: former.get(group) or _new_pool(app, group, config) for group in config.groups()}
    fleet.models = config.models
    for upstream in config.upstreams:
        _place(app, config, upstream, servers.pop(upstream.url, None), made[upstream.url], former)
    for server in servers.values():
        _remove(app, server, former)
    for pool in fleet.pools.values():
        pool.scheduler.room.queue_limit, pool.scheduler.room.queue_timeout_s = config.queue.limit, config.queue.timeout_s
        if (changed_strategy or pool.name in reread) and pool.name in former:  # else what the admin port put in force stays so
            pool.scheduler.use(strategy)
        pool.apply()
    app.forward.use(config, model)
    app.factors, app.rules = factors, rules
    app.shadows.use(config)
    app.config = app.checks.config = config
    app.cast_shadows()
    if app.energy is not None:
        app.energy.serve({upstream.url for upstream in config.upstreams})
    logging.getLogger().setLevel(config.log_level.upper())
    app.generation += 1
    log.info("configuration %d (%s) is in force", app.generation, config.digest())


def _differs_inside(before: Strategy, after: Strategy) -> bool:
    return before.describe() == after.describe() and before != after


def _check(before: Config, after: Config) -> None:
    fixed = [key for key in FIXED if getattr(before, key) != getattr(after, key)]
    if before.energy.model_dump(exclude=NOT_FIXED_ENERGY) != after.energy.model_dump(exclude=NOT_FIXED_ENERGY):
        fixed.append("energy")
    fixed += [f"limits.{key}" for key in FIXED_LIMITS if getattr(before.limits, key) != getattr(after.limits, key)]
    if before.admin.tls != after.admin.tls:
        fixed.append("admin.tls")
    if fixed:
        raise ConfigError(f"{', '.join(fixed)}: cannot be changed without a restart; nothing has been changed")


def _check_experiments(app: App, config: Config) -> None:
    """Whoever experiments has control, and its group stays."""
    changed = (app.config.policy, app.config.placement) != (config.policy, config.placement)
    touched = [group for group in app.fleet.pools if changed or group not in config.groups()]
    if (why := app.experiments.refusal(touched)) is not None:
        raise ConfigError(f"{why}; nothing has been changed")


def _factors(config: Config) -> Factors:
    """What a joule stands for.

    Raises:
        ConfigError: a file cannot be read.
    """
    try:
        return config.energy.factors()
    except ValueError as error:
        raise ConfigError(f"{error}; nothing has been changed") from error


def _rules(app: App, config: Config) -> Rules:
    """Of the admin port.

    Raises:
        ConfigError: its token is not to be had.
    """
    try:
        return Rules.of(config, app.environ)
    except KeyUnavailable as error:
        raise ConfigError(f"{error}; nothing has been changed") from error


def _connect(app: App, config: Config, servers: Mapping[str, Server]) -> dict[str, tuple[Server | None, str]]:
    """By URL: a server connected anew where that is needed, and the key that it is shown.

    Raises:
        ConfigError: a key or a certificate is not to be had.
    """
    made: dict[str, tuple[Server | None, str]] = {}
    try:
        for upstream in config.upstreams:
            key, old = key_of(upstream, app.environ), servers.get(upstream.url)
            same = old is not None and _same_connection(app.config, config, old.config, upstream)
            made[upstream.url] = (None if same else connect(upstream, config, app.environ), key)
    except (OSError, ValueError) as error:
        for server, _ in made.values():
            if server is not None:
                app.run(server.close(), "paceline-close")
        raise ConfigError(f"{error}; nothing has been changed") from error
    return made


def _new_pool(app: App, group: str, config: Config) -> Pool:
    pool = create_pool(group, config, config.strategy())
    app.tell(pool)
    return pool


def _place(
    app: App,
    config: Config,
    upstream: Upstream,
    old: Server | None,
    made: tuple[Server | None, str],
    former: Mapping[str, Pool],
) -> None:
    """One server of the new configuration: new, as it was, moved to another group, or connected anew."""
    pool, (anew, key) = app.fleet.pools[upstream.group], made
    server = anew or old
    assert server is not None
    slept = False
    if old is not None:
        was_in = former[old.config.group]
        slept = was_in is not pool and was_in.state(old.name) is not ServerState.AWAKE
        if was_in is not pool and was_in.name in app.fleet.pools:
            was_in.remove(old.name)
        elif was_in is not pool:
            was_in.scheduler.drain()  # the group goes: who waits for it leaves to its servers now
        if anew is not None:
            app.run(_close_unused(old, was_in), "paceline-close")
            anew.found, anew.breaker, anew.ask_again = old.found, old.breaker, old.ask_again
            anew.paused_until, anew.trial_slots = old.paused_until, old.trial_slots
    if old is not None and (key, upstream.dialect, config.dialect) != (old.key, old.config.dialect, old.told):
        server.ask_again = True
    server.config, server.told = upstream, config.dialect
    server.breaker.health = config.health
    server.use_key(key)
    pool.add(server)
    if slept:  # or is on its way there, or back: its new room wakes it once it wants it, which disturbs nobody
        pool.scheduler.set_state(server.name, ServerState.ASLEEP)


def _same_connection(before: Config, after: Config, old: Upstream, new: Upstream) -> bool:
    timeouts = ("connect_timeout_s", "answer_timeout_s")
    same = (
        all(getattr(before, key) == getattr(after, key) for key in timeouts)
        and before.health.timeout_s == after.health.timeout_s
    )
    return same and old.model_dump(exclude=WITHOUT_CONNECTION) == new.model_dump(exclude=WITHOUT_CONNECTION)


def _remove(app: App, server: Server, former: Mapping[str, Pool]) -> None:
    """A server that is not in the new configuration: it ends what it has."""
    pool = former[server.config.group]
    if pool.name in app.fleet.pools:
        pool.remove(server.name)
    else:
        pool.scheduler.drain()  # the group goes: who waits for it leaves to its servers now
    app.run(_close_unused(server, pool), "paceline-close")


async def _close_unused(server: Server, pool: Pool) -> None:
    """Close a server's connections once nobody uses them, or can still come to."""
    room = pool.scheduler.room
    try:
        await asyncio.sleep(0.1)  # who has just been given a slot is on the way
        while server.in_use or (pool.servers.get(server.name) is server and (room.held or room.ready or room.in_flight)):
            await asyncio.sleep(0.1)
    finally:
        await server.close()
