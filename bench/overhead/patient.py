"""What any ASGI app costs in whose server requests wait: it reads the body, and never answers."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

import uvicorn
import uvloop


class Patient:
    """Answers a GET, and a chat that does not ask to be held, with the number of those that wait."""

    def __init__(self) -> None:
        self.waiting = 0

    async def __call__(self, scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        body = (await receive()).get("body", b"")
        if any(name == b"x-paceline-max-hold" for name, _ in scope["headers"]):
            self.waiting += 1
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        del body
        told = json.dumps({"waiting": self.waiting}).encode()
        head = [(b"content-length", str(len(told)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": told})


if __name__ == "__main__":
    options = {"loop": "none", "http": "httptools", "ws": "none", "lifespan": "off", "access_log": False}
    config = uvicorn.Config(Patient(), port=int(sys.argv[1]), log_level="warning", backlog=8192, **options)  # type: ignore[arg-type]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(uvicorn.Server(config).serve())
