"""vLLM's routes of sleep before a simulated engine: it draws less, takes nobody in, and needs its time to wake.

`POST /sleep?level=&mode=`, `POST /wake_up`, `GET /is_sleeping`, as a vLLM has them with --enable-sleep-mode and
VLLM_SERVER_DEV_MODE=1: without a mode whoever is in flight is cut off, and new requests get 503 from then on. What differs:
the joules of all levels but 0 are the same, who is cut off gets no partial answer, and mode `keep` is refused.
"""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qs

from bench.engine.driver import Driver
from bench.engine.openai_requests import bad_request
from bench.engine.wire import Exchange, Handler

LOOK_EVERY_S = 0.005  # at what is in flight
LEVELS = ("0", "1", "2")
MODES = ("abort", "wait")


class Sleep:
    """Whether the engine sleeps, and its ways there and back; one at a time."""

    def __init__(self, driver: Driver) -> None:
        self.level = 0  # 0: awake, or only closed
        self._driver = driver
        self._turn = asyncio.Lock()

    @property
    def routes(self) -> dict[str, dict[str, Handler]]:
        return {
            "/sleep": {"POST": self._sleep},
            "/wake_up": {"POST": self._wake_up},
            "/is_sleeping": {"GET": self._is_sleeping},
        }

    async def _sleep(self, exchange: Exchange) -> None:
        level, mode = _asked(exchange, "level", "1", LEVELS), _asked(exchange, "mode", "abort", MODES)
        async with self._turn:
            self._driver.closed = True
            if mode == "abort":
                self._driver.cancel_all()
            while self._driver.in_flight:
                await asyncio.sleep(LOOK_EVERY_S)
            if level != "0" and not self.level:
                asleep_at = self._driver.engine.sleep(self._driver.catch_up())
                assert asleep_at is not None, "it has nobody, and can"
                await self._until(asleep_at)
                self.level = int(level)
        await exchange.answer(200)

    async def _wake_up(self, exchange: Exchange) -> None:
        async with self._turn:
            if self.level:
                await self._until(self._driver.engine.wake(self._driver.catch_up()))
            self.level, self._driver.closed = 0, False
        await exchange.answer(200)

    async def _is_sleeping(self, exchange: Exchange) -> None:
        await exchange.answer_json(200, {"is_sleeping": self._driver.closed})

    async def _until(self, engine_s: float) -> None:
        await asyncio.sleep(max((engine_s - self._driver.now()) / self._driver.speed, 0.0))


def _asked(exchange: Exchange, name: str, usual: str, allowed: tuple[str, ...]) -> str:
    """A parameter of the query.

    Raises:
        Refused: it is not one of those allowed.
    """
    value: str = parse_qs(exchange.query.decode("latin-1")).get(name, [usual])[-1]
    if value not in allowed:
        raise bad_request(f"{name} must be one of {', '.join(allowed)}, got {value!r}.", name)
    return value
