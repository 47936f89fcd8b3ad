"""Experiments over the admin port: begun, looked at and stopped."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError

from proxy.app import App
from proxy.config import Experiment
from proxy.experiments.places import Conflict
from proxy.experiments.plan import Plan
from proxy.experiments.report import overview, show


def create_routes(app: App) -> APIRouter:
    """The routes below /experiments."""
    routes = APIRouter()

    @routes.post("/experiments", status_code=201)
    async def start(request: Request) -> dict[str, Any]:
        """Begin an experiment; the body is what `[experiment]` is in the configuration. 409 says what stands against it."""
        made = await _asked(app, request, app.experiments.start)
        return await show(app.experiments, made.name)

    @routes.post("/experiments/plan")
    async def planned(request: Request) -> dict[str, Any]:
        """What the same body would begin, with its lengths made definite; nothing begins. Refused as it would be."""
        made = await _asked(app, request, app.experiments.planned)
        return {**made.as_json(), "state": "planned", "now": None, "blocks": [], "comparison": None, "log_lines": 0}

    @routes.get("/experiments")
    async def all_of_them() -> list[dict[str, Any]]:
        """All, the latest first, without their blocks."""
        return overview(app.experiments)

    @routes.get("/experiments/{name}")
    async def one(name: str) -> Response:
        """One, with its blocks and what they say. Whoever watches asks every second, so long ones are written in a thread."""
        try:
            return await asyncio.to_thread(JSONResponse, await show(app.experiments, name))
        except KeyError:
            raise _unknown(app, name) from None

    @routes.get("/experiments/{name}/log")
    async def log(name: str) -> Response:
        """All that was decided, oldest first: JSON lines."""
        if name not in app.experiments.running and name not in app.experiments.over:
            raise _unknown(app, name)
        lines = await app.experiments.store.lines(name)
        return Response("".join(json.dumps(line) + "\n" for line in lines), media_type="application/jsonl")

    @routes.post("/experiments/{name}/stop")
    async def stop(name: str) -> dict[str, Any]:
        """End it; control is in force when this answers."""
        if name in app.experiments.over:
            raise HTTPException(409, f"experiment {name} is {app.experiments.over[name].get('state')} already")
        if name not in app.experiments.running:
            raise _unknown(app, name)
        await app.experiments.stop(name)
        return await show(app.experiments, name)

    return routes


async def _asked(app: App, request: Request, do: Callable[[Experiment], Awaitable[Plan]]) -> Plan:
    """What a body asks for, done; or why not."""
    if "json" not in request.headers.get("content-type", ""):
        raise HTTPException(422, "send it with content-type: application/json")
    if app.forward.draining:
        raise HTTPException(409, "the proxy is closing")
    try:
        return await do(Experiment.model_validate_json(await request.body()))
    except ValidationError as error:
        raise HTTPException(422, [_problem(one) for one in error.errors()]) from error
    except ValueError as error:
        raise HTTPException(422, str(error)) from error
    except Conflict as error:
        raise HTTPException(409, str(error)) from error
    except OSError as error:
        raise HTTPException(507, f"it could not be kept, so it does not begin: {error}") from error


def _unknown(app: App, name: str) -> HTTPException:
    known = ", ".join(state["name"] for state in overview(app.experiments)) or "none"
    return HTTPException(404, f"no experiment {name!r}; there are {known}")


def _problem(error: Any) -> dict[str, Any]:
    """What is wrong and where; what was sent is not repeated."""
    return {"type": error["type"], "loc": ("body", *error["loc"]), "msg": error["msg"]}
