"""The servers as they are, and the groups of requests that left to them."""

from __future__ import annotations

from typing import Any

from proxy.app import App
from proxy.energy import Energy
from proxy.live.history import History
from proxy.live.recent import Group, Recent
from telemetry.snapshot import Scope

MOST_SERVERS = 200  # told one by one


def servers(app: App, history: History) -> list[dict[str, Any]]:
    """Each server; its watts only where its devices serve nobody else, else they are not its own."""
    alone = _alone(app.energy, history) if app.energy is not None else {}
    views = [(pool, view) for pool in app.fleet.pools.values() for view in pool.scheduler.room.server_views()]
    return [pool.describe(view) | {"power_w": alone.get(view.name)} for pool, view in views[:MOST_SERVERS]]


def _alone(energy: Energy, history: History) -> dict[str, float | None]:
    """Watts of the servers whose domain has no other."""
    return {domain.upstreams[0]: history.watts(domain, Scope.GPU) for domain in energy.domains if len(domain.upstreams) == 1}


def groups(recent: Recent, now_s: float) -> list[dict[str, Any]]:
    """Those that left, the latest first."""
    return [_group(group, now_s) for group in reversed(recent.groups)]


def _group(group: Group, now_s: float) -> dict[str, Any]:
    return {
        "number": group.number,
        "ago_s": round(max(now_s - group.at_s, 0.0), 2),
        "group": group.pool,
        "size": group.size,
        "policy": group.policy,
        "waited_s": round(group.waited_s, 3),
        "servers": dict(group.servers.most_common(8)),
        "outcomes": dict(group.outcomes),
    }
