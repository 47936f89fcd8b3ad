"""The control plane: what the proxy knows and does, on a port of its own."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict

from policies.base import Outcome
from policies.strategy import UnknownStrategy, build
from proxy import shadow_report
from proxy.app import App
from proxy.breaker import Circuit
from proxy.config import Config, Named
from proxy.experiments.routes import create_routes
from proxy.guard import Guard
from proxy.live.events import create_live
from proxy.live.page import create_page
from proxy.reload import reload
from proxy.selftest import selftest
from proxy.sources import ConfigError
from telemetry.ledger import Entry
from telemetry.records import record, tell
from telemetry.snapshot import Scope, Source
from telemetry.usage import KEYS, RULES

RECORDS_AT_ONCE = 50


class Change(BaseModel):
    """A strategy to put in force; what is not named stays as it is."""

    model_config = ConfigDict(extra="forbid")

    policy: Named | None = None
    placement: Named | None = None


def create_admin(app: App, read: Callable[[], Config] | None = None) -> FastAPI:
    """The admin API of one proxy. It is read far more often than written, and never on the path of a request.

    Args:
        app: whose.
        read: reads the configuration again; without it there is none to read.
    """
    read = read or (lambda: app.config)
    # no /docs: its page would run scripts of another site on the port that can change everything
    api = FastAPI(title="Paceline admin", version=version("paceline"), docs_url=None, redoc_url=None)
    api.add_middleware(Guard, rules=lambda: app.rules)

    @api.exception_handler(RequestValidationError)
    async def not_understood(request: Request, error: RequestValidationError) -> JSONResponse:
        """What is wrong and where. What was sent is not repeated: it need not be text."""
        detail = [{key: one[key] for key in ("type", "loc", "msg")} for one in error.errors()]
        if request.method != "GET" and "json" not in request.headers.get("content-type", ""):
            # not forgiven: a page in somebody's browser may send anything else than JSON without being asked
            detail.append({"type": "content_type", "loc": ("header",), "msg": "send it with content-type: application/json"})
        return JSONResponse({"detail": detail}, 422)

    @api.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @api.get("/readyz")
    async def readyz(response: Response) -> dict[str, Any]:
        """Requests are welcome: an upstream has answered and its circuit is not open, and no shutdown is under way."""
        answered = any(server.found is not None for server in app.fleet.servers)
        works = any(s.found is not None and s.breaker.circuit is not Circuit.OPEN for s in app.fleet.servers)
        ready = works and not app.forward.draining
        response.status_code = 200 if ready else 503
        return {"ready": ready, "upstream_answered": answered, "upstream_works": works, "draining": app.forward.draining}

    @api.get("/status")
    async def status() -> dict[str, Any]:
        """Everything at a glance."""
        return describe(app)

    @api.get("/energy")
    async def energy(since_s: float, until_s: float) -> dict[str, Any]:
        """Joules between two instants of the server's monotonic clock; 425 while they are not settled yet."""
        if app.energy is None:
            raise HTTPException(404, "no meter: energy is unknown")
        window = app.energy.between(since_s, until_s)
        if window is None:
            raise HTTPException(425, f"settled until {app.energy.settled_until_s}")
        return window

    @api.get("/selftest")
    async def selftest_now() -> dict[str, Any]:
        """Whether the energy that is told can be believed: checks, and the worst of their verdicts."""
        return selftest(app.energy, app.forward.model, app.fleet.default.scheduler.clock())

    @api.get("/requests/{id}")
    async def request(id: str) -> dict[str, object]:
        """One request, by its `x-paceline-request-id`; its energy is final about 200 ms after its end."""
        entry = app.ledger.get(id)
        if entry is None:
            raise HTTPException(404, "no such request, or too long ago")
        return {**tell(entry, app.factors), "energy_state": _energy_state(app, entry)}

    @api.get("/usage")
    async def usage(by: str = ",".join(KEYS)) -> dict[str, Any]:
        """Totals since the start, by any of tenant, model, policy and tier."""
        keys = list(dict.fromkeys(key for key in by.split(",") if key))
        if unknown := [key for key in keys if key not in KEYS]:
            raise HTTPException(422, f"by: {', '.join(unknown)}: no such key; they are {', '.join(KEYS)}")
        return describe_usage(app, keys)

    @api.get("/shadow")
    async def shadow() -> dict[str, Any]:
        """What other strategies would have done with the live arrivals, and what the one in force saves: all modelled."""
        return {**shadow_report.describe(app.shadows), "model_check": _model_check(app)}

    @api.get("/ledger")
    async def latest(limit: Annotated[int, Query(ge=1, le=20_000)] = 1_000) -> StreamingResponse:
        """The latest requests that have ended, as the ledger's files have them: JSON lines, in the order of their ends."""
        return StreamingResponse(_records(app, app.ledger.latest(limit)), media_type="application/jsonl")

    @api.get("/policy")
    async def policy() -> dict[str, Any]:
        """The strategy in force."""
        return app.fleet.default.scheduler.strategy.describe()

    @api.put("/policy")
    async def use(change: Change) -> dict[str, Any]:
        """Put another strategy in force, for all groups of servers; nobody who waits is lost."""
        if (why := app.experiments.refusal(app.fleet.pools)) is not None:
            raise HTTPException(409, why)
        strategy = app.fleet.default.scheduler.strategy
        now = {key: Named.model_validate(value) for key, value in strategy.describe().items()}
        try:
            new = build((change.policy or now["policy"]).choice(), (change.placement or now["placement"]).choice())
        except UnknownStrategy as error:
            raise HTTPException(422, str(error)) from error
        for pool in app.fleet.pools.values():
            pool.scheduler.use(new)
        return new.describe()

    @api.post("/reload")
    async def read_again() -> dict[str, Any]:
        """Read the configuration again, from where it came, and put it in force: all of it or, with 422, nothing."""
        try:
            reload(app, read())
        except ConfigError as error:
            raise HTTPException(422, str(error)) from error
        return _version(app)

    api.include_router(create_routes(app))
    api.include_router(create_live(app))
    api.include_router(create_page())

    @api.get("/metrics")
    async def metrics(request: Request) -> Response:
        """Prometheus exposition; OpenMetrics, with exemplars, for whoever accepts it."""
        accept = request.headers.get("accept", "")
        body, content_type = await asyncio.to_thread(app.telemetry.render, accept, app.telemetry.look())
        return Response(body, headers={"content-type": content_type})

    return api


def describe(app: App) -> dict[str, Any]:
    """The answer of `/status`. Without names, it is of all groups together."""
    fleet, forward = app.fleet, app.forward
    schedulers = [pool.scheduler for pool in fleet.pools.values()]
    now_s = fleet.default.scheduler.clock()
    return {
        "version": version("paceline"),
        "config": _version(app),
        "now_s": now_s,
        "strategy": fleet.default.scheduler.strategy.describe(),
        "dialect": fleet.default.dialect.name,
        "draining": forward.draining,
        "room": {
            "held": fleet.sum(lambda room: room.held),
            "ready": fleet.sum(lambda room: room.ready),
            "in_flight": fleet.sum(lambda room: room.in_flight),
        },
        "servers": [pool.describe(view) for pool in fleet.pools.values() for view in pool.scheduler.room.server_views()],
        "admitted": sum(scheduler.admitted for scheduler in schedulers),
        "outcomes": {str(outcome): sum(scheduler.outcomes[outcome] for scheduler in schedulers) for outcome in Outcome},
        "shared": app.experiments.shared.describe() if app.experiments.shared is not None else None,
        "requests": {"open": forward.open, "body_bytes": forward.admission.total.bytes, **asdict(forward.counts)},
        "energy": app.energy.describe(now_s) if app.energy is not None else None,
    }


def describe_usage(app: App, keys: Sequence[str]) -> dict[str, Any]:
    """The answer of `/usage`."""
    domains = app.energy.totals() if app.energy is not None else []
    return {
        "since_unix_s": app.usage.since_unix_s,
        "until_unix_s": time.time(),
        "by": keys,
        "open": sum(1 for _ in app.ledger.open_entries()),
        "settling": len(app.settling),
        "groups": app.usage.by(keys),
        "energy": app.usage.domains(domains),
        "rules": RULES,
    }


async def _records(app: App, entries: Sequence[Entry]) -> AsyncIterator[bytes]:
    """In small pieces, between which requests go on."""
    for start in range(0, len(entries), RECORDS_AT_ONCE):
        lines = (json.dumps(record(entry, app.factors)) for entry in entries[start : start + RECORDS_AT_ONCE])
        yield "".join(line + "\n" for line in lines).encode()
        await asyncio.sleep(0)


def _model_check(app: App) -> dict[str, Any] | None:
    """What requests were charged of measured joules, beside what the model says of the same; None: nobody measures."""
    domains = [domain for domain in (app.energy.totals() if app.energy is not None else ()) if domain.scope is Scope.GPU]
    sources = sorted({str(domain.source) for domain in domains} - {Source.MODELLED.value})
    modelled_j = sum(domain.modelled_j for domain in domains)
    if not sources or modelled_j <= 0:
        return None
    measured_j = sum(domain.counted_uj - domain.idle_uj for domain in domains) / 1e6
    return {"measured_j": measured_j, "source": sources, "modelled_j": modelled_j, "ratio": measured_j / modelled_j}


def _energy_state(app: App, entry: Entry) -> str:
    """Whether more can become known of a request's joules: no energy may mean not yet, or never."""
    if entry.energy.final:
        return "final"
    return "settling" if entry.ended_at is None or entry.id in app.settling else "unknown"


def _version(app: App) -> dict[str, Any]:
    return {"generation": app.generation, "digest": app.config.digest()}
