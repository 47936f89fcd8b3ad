"""The control plane: what the proxy knows and does, on a port of its own."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel, ConfigDict

from policies.strategy import UnknownStrategy, build
from proxy.app import App
from proxy.config import Named


class Change(BaseModel):
    """A strategy to put in force; what is not named stays as it is."""

    model_config = ConfigDict(extra="forbid")

    policy: Named | None = None
    placement: Named | None = None


def create_admin(app: App) -> FastAPI:
    """The admin API of one proxy. It is read far more often than written, and never on the path of a request."""
    api = FastAPI(title="Paceline admin", version=version("paceline"))

    @api.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @api.get("/readyz")
    async def readyz(response: Response) -> dict[str, Any]:
        """Requests are welcome: an upstream has answered, and no shutdown is under way."""
        ready = bool(app.found) and not app.forward.draining
        response.status_code = 200 if ready else 503
        return {"ready": ready, "upstream_answered": bool(app.found), "draining": app.forward.draining}

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

    @api.get("/requests/{id}")
    async def request(id: str) -> dict[str, object]:
        """One request, by its `x-paceline-request-id`; its energy is final about 200 ms after its end."""
        entry = app.ledger.get(id)
        if entry is None:
            raise HTTPException(404, "no such request, or too long ago")
        return entry.as_json()

    @api.get("/policy")
    async def policy() -> dict[str, Any]:
        """The strategy in force."""
        return app.scheduler.strategy.describe()

    @api.put("/policy")
    async def use(change: Change) -> dict[str, Any]:
        """Put another strategy in force; nobody who waits is lost."""
        strategy = app.scheduler.strategy
        now = {key: Named.model_validate(value) for key, value in strategy.describe().items()}
        try:
            new = build((change.policy or now["policy"]).choice(), (change.placement or now["placement"]).choice())
        except UnknownStrategy as error:
            raise HTTPException(422, str(error)) from error
        app.scheduler.use(new)
        return new.describe()

    @api.get("/metrics")
    async def metrics() -> Response:
        """Prometheus exposition."""
        body, content_type = app.telemetry.render()
        return Response(body, headers={"content-type": content_type})

    return api


def describe(app: App) -> dict[str, Any]:
    """The answer of `/status`."""
    room, forward = app.scheduler.room, app.forward
    return {
        "version": version("paceline"),
        "now_s": app.scheduler.clock(),
        "strategy": app.scheduler.strategy.describe(),
        "dialect": forward.dialect.name,
        "draining": forward.draining,
        "room": {"held": room.held, "ready": room.ready, "in_flight": room.in_flight},
        "servers": [
            {"name": s.name, "in_flight": s.in_flight, "tokens": s.tokens, "slots": s.slots, "healthy": s.healthy}
            for s in room.server_views()
        ],
        "outcomes": {str(outcome): count for outcome, count in app.scheduler.outcomes.items()},
        "requests": {
            "completed": forward.completed,
            "failed": forward.failed,
            "prompt_tokens": forward.prompt_tokens,
            "output_tokens": forward.output_tokens,
        },
        "energy": app.energy.describe(app.scheduler.clock()) if app.energy is not None else None,
    }
