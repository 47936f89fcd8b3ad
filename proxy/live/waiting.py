"""Who waits: how many, who has waited the longest, and why; never a walk over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from policies.base import ServerState, ServerView, Tier, View, Waiting
from proxy.app import App
from proxy.live.recent import Recent, Waiter

LONGEST_TOLD = 50
LONGEST_TEXT = 64  # clients choose models' names


def waiting(app: App, recent: Recent, now_s: float) -> dict[str, Any]:
    """Sums of all who wait, and those who have waited the longest."""
    pools = list(app.fleet.pools.values())
    views = {pool.name: pool.scheduler.room.view(now_s) for pool in pools}
    return {
        "held": sum(pool.scheduler.room.held for pool in pools),
        "ready": sum(pool.scheduler.room.ready for pool in pools),
        "limit": app.config.queue.limit,
        "by_tier": [told for tier in Tier if (told := _of_tier(tier, views, recent)) is not None],
        "longest": _longest(app, recent, views, now_s),
    }


def _of_tier(tier: Tier, views: dict[str, View], recent: Recent) -> dict[str, Any] | None:
    held = sum(len(view.waiting.of(tier)) for view in views.values())
    both = max(recent.by_tier[tier.value], held)
    return {"tier": tier, "held": held, "ready": both - held} if both else None


def _longest(app: App, recent: Recent, views: dict[str, View], now_s: float) -> list[dict[str, Any]]:
    # whoever is held and among the longest of all is among the longest held of his room, which is in order of arrival
    held = {waiting.id: waiting for view in views.values() for waiting in islice(view.waiting, LONGEST_TOLD)}
    policies = {pool.name: app.experiments.policy_name(pool) for pool in app.fleet.pools.values()}
    obstacles = {pool.name: obstacle(views[pool.name].servers) for pool in app.fleet.pools.values()}
    return [
        _told(waiter, held.get(waiter.entry.id), policies, obstacles, now_s)
        for waiter in recent.longest(LONGEST_TOLD)
        if waiter.pool.name in policies  # else its group has just gone
    ]


def _told(
    waiter: Waiter, held: Waiting | None, policies: dict[str, str], obstacles: dict[str, str], now_s: float
) -> dict[str, Any]:
    """One of them. A hold ends at its deadline at the latest; how long a slot takes to come free, nobody knows."""
    entry, pool = waiter.entry, waiter.pool.name
    return {
        "id": entry.id[:LONGEST_TEXT],
        "tier": entry.tier,
        "tenant": entry.tenant[:LONGEST_TEXT],
        "model": entry.model[:LONGEST_TEXT],
        "group": pool,
        "state": "held" if held is not None else "ready",
        "waited_s": round(max(now_s - entry.arrived_at, 0.0), 2),
        "deadline_in_s": round(held.deadline - now_s, 2) if held is not None else None,
        "why": f"held by {policies[pool]}" if held is not None else obstacles[pool],
    }


def obstacle(servers: Sequence[ServerView]) -> str:
    """Why the ready of a group do not leave, in words."""
    if not servers:
        return "its group has no server"
    working = [server for server in servers if server.healthy]
    if not working:
        return "no server works or takes more"
    awake = [server for server in working if server.state is ServerState.AWAKE]
    if not awake:
        waking = any(server.state is ServerState.WAKING for server in working)
        return "its server is waking" if waking else "its server is asleep"
    if any(server.free > 0 for server in awake):
        return "needs more slots than are free, or another server"
    slots = sum(server.slots or 0 for server in awake)
    return f"no free slot: all {slots} are taken"
