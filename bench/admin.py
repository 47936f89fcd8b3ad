"""Paceline's admin port as its clients use it: status, joules of a window, single requests, the policy in force."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from proxy.admin_address import AdminAddress

SETTLES_WITHIN_S = 10.0
LOOK_AGAIN_S = 0.1
AT_ONCE = 8  # requests to the admin port, which the proxy's data plane shares a core with


class AdminError(Exception):
    """The admin port did not answer as it should; the message names it."""


@dataclass(frozen=True, slots=True)
class Window:
    """An interval of the server's monotonic clock."""

    since_s: float
    until_s: float

    @property
    def seconds(self) -> float:
        return self.until_s - self.since_s


class AdminPort:
    """One proxy's admin port; an asynchronous context."""

    def __init__(self, at: str | AdminAddress) -> None:
        at = AdminAddress.of(at)
        self.url = at.url.rstrip("/")
        self._client = httpx.AsyncClient(base_url=self.url, headers=at.headers, verify=at.verify, timeout=10, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def status(self) -> dict[str, Any]:
        return await self._json("GET", "/status")

    async def clock_offset_s(self) -> float:
        """What to add to this process's monotonic clock to have the server's; half a round trip is its error."""
        looks = []
        for _ in range(3):
            asked_at = time.monotonic()
            status = await self.status()
            answered_at = time.monotonic()
            looks.append((answered_at - asked_at, status["now_s"] - (asked_at + answered_at) / 2))
        return float(min(looks)[1])

    async def energy(self, window: Window) -> dict[str, Any] | None:
        """Joules of a window, once they are settled; None without a meter, or when they do not settle."""
        params = {"since_s": window.since_s, "until_s": window.until_s}
        give_up_at = time.monotonic() + SETTLES_WITHIN_S
        while time.monotonic() < give_up_at:
            answer = await self._send("GET", "/energy", params=params)
            if answer.status_code == 404:
                return None
            if answer.status_code != 425:
                return self._read(answer)
            await asyncio.sleep(LOOK_AGAIN_S)
        return None

    async def power_w(self, window: Window, step_s: float) -> list[tuple[float, float]]:
        """Mean power in each step of a settled window: seconds after its start, and watts."""
        curve = []
        for step in range(int(window.seconds / step_s)):
            since_s = window.since_s + step * step_s
            part = await self.energy(Window(since_s, since_s + step_s))
            if part is not None:
                curve.append(((step + 0.5) * step_s, part["counted_j"] / step_s))
        return curve

    async def requests(self, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """What is known of requests, by id, waiting for joules that are not final yet."""
        found: dict[str, dict[str, Any]] = {}
        give_up_at = time.monotonic() + SETTLES_WITHIN_S
        left = list(ids)

        async def look() -> None:
            while left:
                id = left.pop()
                record = await self._request(id, give_up_at)
                if record is not None:
                    found[id] = record

        await asyncio.gather(*(look() for _ in range(AT_ONCE)))
        return found

    async def _request(self, id: str, give_up_at: float) -> dict[str, Any] | None:
        while True:
            answer = await self._send("GET", f"/requests/{id}")
            if answer.status_code == 404:
                return None
            record = self._read(answer)
            ended = record["state"] == "ended" and (record["energy"] is None or record["energy"]["final"])
            if ended or time.monotonic() >= give_up_at:
                return record
            await asyncio.sleep(LOOK_AGAIN_S)

    async def use(self, **strategy: Mapping[str, Any]) -> None:
        """Put another policy or placement in force: `policy={"name": ..., "params": {...}}`."""
        await self._json("PUT", "/policy", json=strategy)

    async def _json(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        return self._read(await self._send(method, path, **more))

    async def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            return await self._client.request(method, path, **more)
        except httpx.HTTPError as error:
            raise AdminError(f"admin port {self.url}: {type(error).__name__} {error}") from error

    def _read(self, answer: httpx.Response) -> dict[str, Any]:
        if answer.status_code != 200:
            raise AdminError(f"admin port {self.url}: {answer.request.url.path} said {answer.status_code}: {answer.text[:200]}")
        value = answer.json()
        if not isinstance(value, dict):
            raise AdminError(f"admin port {self.url}: {answer.request.url.path} gave no object")
        return value
