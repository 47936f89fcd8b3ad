"""What one sleep and one waking of a vLLM cost: seconds, watts and joules, its meter read directly.

vLLM's `/sleep?level=1` moves the weights to the host's memory and drops the KV cache; `/wake_up` brings them back. (Level 2
drops the weights too: who wakes it has to load them, by other means.) Nobody else may use the server: sleeping aborts what is
in flight.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count

import httpx

from bench.arrivals import Planned
from bench.bodies import Options
from bench.sample import Sample
from bench.senders import Clock, RawSender
from bench.studies.counting import Counters
from bench.studies.intervals import Interval, mean_interval

ENABLE = "start vLLM with --enable-sleep-mode, and VLLM_SERVER_DEV_MODE=1 in its environment"
LEVEL = 1
CALL_WITHIN_S = 300.0
LOOK_EVERY_S = 0.02


class CannotSleep(Exception):
    """The server does not do what the measurement needs; the message says what."""


@dataclass(frozen=True, slots=True)
class Pauses:
    """Seconds of a repeat that pass without work.

    Attributes:
        rest_s: after work and after falling asleep, before power is measured.
        window_s: in which power is measured, awake and asleep.
        tail_s: after waking, which its joules include: copies and clocks end a little later than the answer comes.
    """

    rest_s: float = 3.0
    window_s: float = 5.0
    tail_s: float = 1.0

    @property
    def whole_s(self) -> float:
        return 2 * (self.rest_s + self.window_s) + self.tail_s


@dataclass(frozen=True, slots=True)
class Repeat:
    """One sleep and one waking.

    Attributes:
        sleep_s: until the server said that it sleeps.
        sleep_j: joules meanwhile, net of idle power.
        wake_s: until it said that it is awake.
        wake_j: joules from the call until `tail_s` after it was awake, net of idle power; negative if it drew less.
        ttft_before_s: first token of a request before.
        ttft_after_s: of the first request after waking, which is sent once the tail is over.
        ttft_later_s: of the next.
    """

    idle_power_w: float
    sleep_s: float
    sleep_j: float
    sleep_power_w: float
    wake_s: float
    wake_j: float
    ttft_before_s: float
    ttft_after_s: float
    ttft_later_s: float


@dataclass(slots=True)
class Sleeper:
    """One server that can sleep."""

    url: str
    model: str
    prompt_tokens: int = 256
    output_tokens: int = 16
    _client: httpx.AsyncClient = field(init=False)
    _sender: RawSender = field(init=False)
    _numbers: count[int] = field(default_factory=count)

    async def __aenter__(self) -> Sleeper:
        self._client = httpx.AsyncClient(base_url=self.url, timeout=CALL_WITHIN_S, trust_env=False)
        same = Options(self.url, dialect="openai", api="completions", prompt_ids=True, model=self.model, ignore_eos=True)
        self._sender = RawSender(same)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._sender.close()
        await self._client.aclose()

    async def asleep(self) -> bool:
        answer = await self._call("GET", "/is_sleeping")
        try:
            return bool(answer.json()["is_sleeping"])
        except (ValueError, KeyError, TypeError) as error:
            raise CannotSleep(f"{self.url}/is_sleeping said {answer.text[:200]!r}") from error

    async def sleep(self) -> tuple[float, float]:
        """When it was told to, and when it said that it does."""
        return await self._until(True, lambda: self._call("POST", f"/sleep?level={LEVEL}"))

    async def wake(self) -> tuple[float, float]:
        return await self._until(False, lambda: self._call("POST", "/wake_up"))

    async def ttft_s(self) -> float:
        """Seconds to the first token of a request alone, with a prompt of its own.

        Raises:
            CannotSleep: it was not answered.
        """
        sample = Sample(Planned(0.0, self.prompt_tokens, self.output_tokens), 0.0)
        await self._sender.send(sample, next(self._numbers), Clock(time.monotonic()))
        if sample.ttft_s is None or sample.error:
            raise CannotSleep(f"{self.url} did not answer a request: {sample.error or 'no token'}")
        return sample.ttft_s

    async def _until(self, asleep: bool, call: Callable[[], Awaitable[object]]) -> tuple[float, float]:
        began_s = time.monotonic()
        await call()
        while await self.asleep() is not asleep:
            if time.monotonic() > began_s + CALL_WITHIN_S:
                raise CannotSleep(f"{self.url} is not {'asleep' if asleep else 'awake'} after {CALL_WITHIN_S:g} s")
            await asyncio.sleep(LOOK_EVERY_S)
        return began_s, time.monotonic()

    async def _call(self, method: str, path: str) -> httpx.Response:
        try:
            answer = await self._client.request(method, path)
        except httpx.HTTPError as error:
            raise CannotSleep(f"{self.url}{path}: {type(error).__name__} {error}") from error
        if answer.status_code in (404, 405):
            raise CannotSleep(f"{self.url} has no {path.partition('?')[0]}: {ENABLE}")
        if answer.status_code != 200:
            raise CannotSleep(f"{self.url}{path} said {answer.status_code}: {answer.text[:200]}")
        return answer


async def repeat(server: Sleeper, counters: Counters, pauses: Pauses) -> Repeat:
    """One sleep and one waking; the server is awake afterwards, whatever happens.

    Raises:
        CannotSleep, MeterUnavailable: see there.
    """
    before_s = await server.ttft_s()
    await asyncio.sleep(pauses.rest_s)
    idle_w = await _power_w(counters, pauses.window_s)
    try:
        fell_s, asleep_s = await server.sleep()
        await asyncio.sleep(pauses.rest_s)
        asleep_w = await _power_w(counters, pauses.window_s)
    except BaseException:
        await asyncio.shield(server.wake())
        raise
    called_s, awake_s = await server.wake()
    await asyncio.sleep(pauses.tail_s)
    over_s = time.monotonic()
    after_s, later_s = await server.ttft_s(), await server.ttft_s()
    return Repeat(
        idle_power_w=idle_w,
        sleep_s=asleep_s - fell_s,
        sleep_j=await counters.joules(fell_s, asleep_s) - idle_w * (asleep_s - fell_s),
        sleep_power_w=asleep_w,
        wake_s=awake_s - called_s,
        wake_j=await counters.joules(called_s, over_s) - idle_w * (over_s - called_s),
        ttft_before_s=before_s,
        ttft_after_s=after_s,
        ttft_later_s=later_s,
    )


async def _power_w(counters: Counters, window_s: float) -> float:
    """Mean power of the next seconds."""
    since_s = time.monotonic()
    await asyncio.sleep(window_s)
    return await counters.joules(since_s, since_s + window_s) / window_s


FIELDS = tuple(Repeat.__dataclass_fields__)


def intervals(repeats: list[dict[str, float]]) -> dict[str, Interval]:
    """The mean of each number with its interval."""
    found = {name: mean_interval([of[name] for of in repeats]) for name in FIELDS}
    return {name: interval for name, interval in found.items() if interval is not None}


def step_model(means: dict[str, Interval]) -> dict[str, float]:
    """The four fields of a `StepModel`, whose joules of waking cannot be negative."""
    fields = {name: means[name].middle for name in ("sleep_power_w", "sleep_s", "wake_s", "wake_j")}
    return {**fields, "wake_j": max(fields["wake_j"], 0.0)}
