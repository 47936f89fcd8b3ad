"""What does not generate passes at once: to one fixed server, or to the one that keeps the thing which it names."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

from proxy.admission import Refusal
from proxy.call import Call
from proxy.config import Config
from proxy.exchange import DID_NOT_ANSWER, Exchange, NotReached
from proxy.fleet import Fleet, Pool, Server

log = logging.getLogger("paceline.passing")


@dataclass(slots=True)
class Passing:
    """Carries what is not scheduled."""

    config: Config
    fleet: Fleet
    exchange: Exchange

    async def run(self, call: Call) -> None:
        if self.config.models and call.method == "GET" and (listed := _listed(self.config, call.path)) is not None:
            await call.answer(200, listed)
            return
        for pool, server in (servers := self._candidates(call)):
            call.pool = pool
            try:
                await self.exchange.carry(call, server)
                return
            except NotReached as missed:
                log.warning("request %s: %s", call.id, missed.error)
                if server is servers[-1][1]:
                    raise Refusal(missed.error.status, "upstream", DID_NOT_ANSWER) from missed

    def _candidates(self, call: Call) -> list[tuple[Pool, Server]]:
        """The server for what is not scheduled, and who takes its place if it cannot be reached.

        A stored thing is on one server only. What is only read, and names no model, may be asked of another group, too.
        """
        kept = self.fleet.keeper(call.dialect.stored(call.path))
        if kept is not None:
            return [kept]
        pools = [call.pool]
        if call.pool is self.fleet.default and call.method in ("GET", "HEAD", "OPTIONS"):
            pools += [pool for pool in self.fleet.pools.values() if pool is not call.pool]
        return [(pool, server) for pool in pools for server in sorted(pool.servers.values(), key=lambda s: s is not pool.fixed)]


def model_in(body: bytes | None) -> str:
    """The model that a JSON body names, if it is one and names one."""
    try:
        data = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        return ""
    name = data.get("model") if isinstance(data, dict) else None
    return name if isinstance(name, str) else ""


def _listed(config: Config, path: str) -> bytes | None:
    """The models that are routed here, or one of them, as OpenAI's surface tells them; patterns are no names."""
    models = [
        {"id": model.name, "object": "model", "created": 0, "owned_by": "paceline"}
        for model in config.models
        if "*" not in model.name
    ]
    if path == "/v1/models":
        return json.dumps({"object": "list", "data": models}).encode()
    return next((json.dumps(model).encode() for model in models if path == f"/v1/models/{model['id']}"), None)
