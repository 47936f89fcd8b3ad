"""`GET /live`: server-sent events, a frame a second, made once for all who watch, and not at all while nobody does."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from proxy.app import App
from proxy.live.history import History, take
from proxy.live.recent import Recent, note
from proxy.live.view import frame

log = logging.getLogger("paceline.live")

MOST_WATCHERS = 32
EVERY_S = 1.0
LOOKS_EVERY_S = 0.25  # whether the proxy closes, so that watchers do not delay its end
MOST_EVERY_S = 60
TRY_AGAIN_MS = 2_000


@dataclass(slots=True)
class Live:
    """What is watched, and by how many.

    A watcher takes the latest frame once his connection has taken the one before: whoever is slow misses some, and holds one.

    Attributes:
        watchers: streams that are open.
        number: of the latest sample.
        closing: the proxy ends, and so do all streams.
    """

    app: App
    recent: Recent
    history: History = field(default_factory=History)
    watchers: int = 0
    number: int = 0
    closing: bool = False
    _frame: tuple[int, bytes] = (-1, b"")
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Sample until cancelled."""
        self.sample()
        due_s = time.monotonic() + EVERY_S
        while True:
            await asyncio.sleep(min(LOOKS_EVERY_S, max(due_s - time.monotonic(), 0.0)))
            if time.monotonic() >= due_s:
                due_s = max(due_s + EVERY_S, time.monotonic())  # whoever stood still makes up for nothing
                self.sample()
            self.look()

    def sample(self) -> None:
        """One more of everything."""
        try:
            now_s = self.app.fleet.default.scheduler.clock()
            self.history.add(self.app, take(self.app, self.recent, now_s, time.time()))
        except Exception:  # nobody's request hangs on what is shown
            log.exception("the live page's sample failed")
            return
        self.number += 1
        self._tell()

    def look(self) -> None:
        """Once the last request of a closing proxy has gone, streams end."""
        if self.app.forward.draining and not self.app.forward.open and not self.closing:
            self.closing = True
            self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def frame(self) -> bytes:
        """The frame of the latest sample, made when the first asks for it."""
        if self._frame[0] != self.number:
            shown = frame(self.app, self.recent, self.history, self.app.fleet.default.scheduler.clock())
            self._frame = self.number, event("frame", shown, self.number)
        return self._frame[1]

    async def events(self, every: int) -> AsyncIterator[bytes]:
        """What one watcher gets: the last ten minutes, then a frame every so many samples."""
        yield b"retry: %d\n\n" % TRY_AGAIN_MS + event("history", {"every_s": EVERY_S, **self.history.columns()})
        while not self.closing:
            sent = self.number
            yield self.frame()
            while not self.closing and self.number < sent + every:
                await self._news.wait()
        yield event("closing", {})


def event(name: str, data: dict[str, Any], number: int | None = None) -> bytes:
    """One server-sent event."""
    id = f"id: {number}\n" if number is not None else ""
    return f"event: {name}\n{id}data: {json.dumps(data, separators=(',', ':'), allow_nan=False)}\n\n".encode()


class Stream(StreamingResponse):
    """A watcher's answer, which counts for as long as it lasts."""

    def __init__(self, live: Live, every: int) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}  # nginx would hold it back
        super().__init__(live.events(every), media_type="text/event-stream", headers=headers)
        self.live = live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.live.watchers += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.live.watchers -= 1


def create_live(app: App) -> APIRouter:
    """The route `/live`. Sampling begins here, on the running loop; without one (a description of the API) there is none."""
    routes, live = APIRouter(), Live(app, note(app))
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        app.run(live.run(), "paceline-live")

    @routes.get("/live", response_class=StreamingResponse)
    async def watch(every_s: Annotated[int, Query(ge=1, le=MOST_EVERY_S)] = 1) -> Stream:
        """What happens now, as server-sent events: `history` once, then a `frame` every `every_s` seconds."""
        if live.closing:
            raise HTTPException(503, "the proxy is closing")
        if live.watchers >= MOST_WATCHERS:
            raise HTTPException(503, f"{live.watchers} watch already, which is the limit; close a page or a `paceline top`")
        if not live.history.samples:
            raise HTTPException(503, "the proxy has just started; ask again in a second")
        return Stream(live, every_s)

    return routes
