"""A simulated inference server over real HTTP: TGI's wire or vLLM's, continuous batching, and an energy counter.

Its tokens are made up, its timing and its joules are the step model's (`telemetry/cost.py`), run by real time. With a
speed of X everything is X times as fast, and so is the energy counter: a step costs the same joules, idle power seen
from outside is X times the model's. Beside the engine's routes there are `/simulator/energy` (the counter, moving every
100 ms of engine time), `/simulator/truth` (each finished request's joules, net of idle, by its `x-request-id`) and
`/simulator/status`. Where the wire is more than 5 % late the run is void, and says so.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Mapping
from typing import Any, Self

import click

from bench.engine.driver import Driver
from bench.engine.flight import ClientGone
from bench.engine.listener import Listener
from bench.engine.openai_wire import OpenAIWire
from bench.engine.tgi_wire import TgiWire
from bench.engine.wire import Exchange, Receive, Send
from proxy.listen import CannotListen
from telemetry.cost import BUILT_IN, StepModel, load_profile

WIRES: dict[str, type[TgiWire | OpenAIWire]] = {"tgi": TgiWire, "openai": OpenAIWire}
MODEL_ID = "meta-llama/Llama-3.1-8B-Instruct"
CONCURRENT: dict[str, int | None] = {
    "tgi": 128,
    "openai": None,
}  # as the engines come: TGI refuses the next at once, vLLM queues it
USUAL = -1  # ... for this dialect


class SimulatedServer:
    """One engine, its wire and its clock: `async with SimulatedServer("tgi", speed=10) as server: ... server.url`."""

    def __init__(
        self,
        dialect: str = "tgi",
        model: StepModel | None = None,
        *,
        speed: float = 1.0,
        max_concurrent: int | None = USUAL,
        model_id: str = MODEL_ID,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        """Nothing runs before `start`; port 0 takes a free one."""
        most = CONCURRENT[dialect] if max_concurrent == USUAL else max_concurrent
        self.driver = Driver(model or load_profile(), speed=speed, max_concurrent=most)
        self.wire = WIRES[dialect](self.driver, model_id)
        self._simulator = {
            "/simulator/energy": self._energy,
            "/simulator/truth": self._truth,
            "/simulator/status": self._status,
        }
        self._listener = Listener(self, host, port, self.wire.headers)

    async def start(self) -> None:
        await self._listener.start()

    async def stop(self) -> None:
        """Closes every connection, as a killed server would, and waits until nothing runs."""
        await self._listener.stop()
        self.driver.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        return self._listener.url

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """The ASGI application."""
        exchange = Exchange(scope, receive, send)
        told = self._simulator.get(exchange.path)
        try:
            if told is None:
                await self.wire(exchange)
            else:
                self.driver.catch_up()
                await exchange.answer_json(200, told())
        except ClientGone:
            pass

    def _energy(self) -> dict[str, object]:
        counter = self.driver.counter
        # the mean over the counter's last interval, as a wattmeter outside would show it
        return {
            "energy_mj": int(counter.energy_j * 1000),
            "source": "simulated",
            "power_w": counter.power_w * self.driver.speed,
        }

    def _truth(self) -> dict[str, object]:
        return {"requests": dict(self.driver.truth)}

    def _status(self) -> dict[str, object]:
        driver = self.driver
        return {
            "lag": driver.lag.share,
            "void": driver.lag.void,
            "late_s": driver.lag.late_s,
            "served_s": driver.lag.served_s,
            "in_flight": driver.in_flight,
            "steps": driver.engine.steps,
            "energy_j": driver.engine.energy_j(driver.now()),
            "speed": driver.speed,
            "dialect": self.wire.name,
            "profile": driver.model.name,
        }


@click.command("engine", short_help="run a simulated engine")
@click.option("--dialect", type=click.Choice(list(WIRES)), default="tgi", show_default=True, help="What it speaks.")
@click.option("--profile", default=BUILT_IN, show_default=True, help="A built-in step model, or a JSON file's path.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=int, default=0, help="0 takes a free one, and prints it. [0]")
@click.option("--speed", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True, help="Times real time.")
@click.option(
    "--max-concurrent", type=click.IntRange(min=1), help="Sequences at once; more are refused. [tgi: 128, openai: no limit]"
)
@click.option("--model-id", default=MODEL_ID, show_default=True, help="What it calls its model.")
def command(dialect: str, profile: str, host: str, port: int, speed: float, max_concurrent: int | None, model_id: str) -> None:
    """Run a simulated engine: real HTTP, modelled time and energy."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        model = load_profile(profile)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        most = USUAL if max_concurrent is None else max_concurrent
        runner.run(_serve(dialect, model, speed=speed, max_concurrent=most, model_id=model_id, host=host, port=port))


async def _serve(dialect: str, model: StepModel, **options: Any) -> None:
    """Until a signal; the last line is how late the wire was."""
    stopped = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stopped.set)
    server = SimulatedServer(dialect, model, **options)
    try:
        await server.start()
    except CannotListen as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"engine ready on {server.url} ({dialect}, {model.name}, {server.driver.speed:g}x)")
    sys.stdout.flush()
    await stopped.wait()
    await server.stop()
    lag = server.driver.lag
    click.echo(f"engine stopped: the wire was {lag.share:.2%} late{', so this run is void' if lag.void else ''}")
