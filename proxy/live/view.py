"""One frame: all that is shown of one instant, as JSON; a function of what the proxy knows, and cheap whoever waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from itertools import islice
from typing import Any

from proxy import shadow_report
from proxy.app import App
from proxy.energy import MeteredDomain
from proxy.live.fleet import groups, servers
from proxy.live.history import History
from proxy.live.recent import Charged, Recent
from proxy.live.trials import experiments, in_force
from proxy.live.waiting import waiting
from telemetry.gauges import DomainTotals
from telemetry.snapshot import Scope, Source

MOST_POLICIES = 20  # clients choose none of them, but operators may try many

VERSION = version("paceline")


def frame(app: App, recent: Recent, history: History, now_s: float) -> dict[str, Any]:
    """The frame of this instant, with sums and rates as of the latest sample. What is unknown is null, never zero.

    Args:
        app: what is shown.
        recent: what has happened in it.
        history: with at least one sample.
        now_s: monotonic seconds.
    """
    return {
        "at_unix_s": history.now.at_unix_s + now_s - history.now.at_s,
        "version": VERSION,
        "config": {"generation": app.generation, "digest": app.config.digest()},
        "strategy": in_force(app),
        "draining": app.forward.draining,
        "point": history.points[-1],
        "energy": energy(app, history),
        "joules": joules(history),
        "gain": gain(app),
        "waiting": waiting(app, recent, now_s),
        "groups": groups(recent, now_s),
        "alone": history.now.alone - history.minute_ago.alone,
        "servers": servers(app, history),
        "experiments": experiments(app.experiments),
        "rates": history.rates(),
        "requests": {"open": app.forward.open, **asdict(app.forward.counts)},
    }


# --- joules -------------------------------------------------------------------------------------------------------------


def energy(app: App, history: History) -> dict[str, Any] | None:
    """What the meters say; None: there is none, or none has told yet."""
    if app.energy is None or not history.now.domains:
        return None
    seconds = history.now.at_s - history.minute_ago.at_s
    domains = [_domain(history, domain, scope) for domain in app.energy.domains for scope in Scope]
    return {
        "source": app.energy.source(Scope.GPU) or app.energy.source(Scope.HOST),
        "domains": [domain for domain in domains if domain is not None],
        "power_w": _power(app, history, Scope.GPU),
        "host_power_w": _power(app, history, Scope.HOST),
        "since_start": _books(history.now.domains, {}),
        "last_minute": {"seconds": round(seconds, 1), **_books(history.now.domains, history.minute_ago.domains)},
    }


def _domain(history: History, domain: MeteredDomain, scope: Scope) -> dict[str, Any] | None:
    """One domain's devices of one scope; None: its meter tells of none."""
    devices = domain.devices(scope)
    if not devices:
        return None
    return {
        "name": domain.name,
        "scope": scope,
        "source": domain.source(scope),
        "power_w": history.watts(domain, scope),
        "devices": len(devices),
        "upstreams": list(islice(domain.upstreams, 8)),
        "age_s": round(max(history.now.at_s - state.stepped_at_s for state in devices), 2),
        "frozen": [state.device for state in devices if state.frozen],
    }


def _power(app: App, history: History, scope: Scope) -> float | None:
    """Of all domains; None: nothing is known of any."""
    assert app.energy is not None
    known = [watts for domain in app.energy.domains if (watts := history.watts(domain, scope)) is not None]
    return round(sum(known), 1) if known else None


Books = Mapping[tuple[str, Scope], DomainTotals]


def _books(now: Books, then: Books) -> dict[str, float | None]:
    """What the GPUs' counters counted, and whose it was; without GPUs, the hosts'."""
    scope = Scope.GPU if any(key[1] is Scope.GPU for key in now) else Scope.HOST
    sums = dict.fromkeys(("counted_uj", "idle_uj", "unattributed_uj"), 0)
    for key, totals in now.items():
        if key[1] is scope:
            before = then.get(key)
            for name in sums:
                sums[name] += getattr(totals, name) - (getattr(before, name) if before is not None else 0)
    counted = sums["counted_uj"]
    return {
        "counted_j": counted / 1e6,
        "requests_j": (counted - sums["idle_uj"] - sums["unattributed_uj"]) / 1e6,
        "idle_j": sums["idle_uj"] / 1e6,
        "unattributed_j": sums["unattributed_uj"] / 1e6,
        "unattributed_share": sums["unattributed_uj"] / counted if counted > 0 else None,
        "conservation_error_uj": sum(totals.error_uj for key, totals in now.items() if key[1] is scope),
    }


def joules(history: History) -> dict[str, Any]:
    """What a request costs: all joules of the last minute over its answers, and what each policy's requests were charged."""
    then = history.minute_ago.charged
    by_policy = [
        {"policy": policy, "source": source, **_cost(since)}
        for (policy, source), charged in islice(history.now.charged.items(), MOST_POLICIES)
        if (since := charged.minus(then.get((policy, source), Charged()))).requests > 0
    ]
    all_in_j = history.all_in_j()
    return {
        "seconds": round(history.now.at_s - history.minute_ago.at_s, 1),
        "all_in_j": round(all_in_j, 3) if all_in_j is not None else None,
        "by_policy": by_policy,
    }


def _cost(charged: Charged) -> dict[str, Any]:
    tokens = charged.output_tokens
    return {
        "requests": charged.requests,
        "per_request_j": round(charged.energy_uj / 1e6 / charged.requests, 3),
        "per_token_j": round(charged.energy_uj / 1e6 / tokens, 4) if tokens else None,
    }


def gain(app: App) -> dict[str, Any] | None:
    """What the strategy in force saves against straight through, since the start: always the model's word; None: not known."""
    told = shadow_report.describe(app.shadows)["gain"]
    return {**told, "source": Source.MODELLED} if told is not None else None
