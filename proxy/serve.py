"""`paceline serve`: reads the configuration, listens on both ports, and closes without losing a request."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import click

from policies.strategy import as_written
from proxy import certificates, guard, logs
from proxy.admin import create_admin
from proxy.app import App, create_app
from proxy.config import Config, MeterName
from proxy.dialects import DIALECTS
from proxy.keys import secrets_of
from proxy.listen import CannotListen, Server, address, http_server, listen, said_already
from proxy.reload import reload
from proxy.request_log import RequestLog
from proxy.sources import ConfigError, load, toml_or_text

log = logging.getLogger("paceline.serve")

LAST_OCTETS_S = 0.5  # for clients to take what is left in our buffers


@click.command("serve", short_help="run the proxy")
@click.option("--upstream", "upstreams", multiple=True, metavar="URL", help="An inference server; may be repeated.")
@click.option("--dialect", type=click.Choice(["auto", *DIALECTS]), help="What the servers speak. [auto]")
@click.option("--policy", metavar="NAME", help="Built-in name or package.module:Name. [span]")
@click.option("--set", "policy_params", multiple=True, metavar="KEY=VALUE", help="A parameter of the policy.")
@click.option("--placement", metavar="NAME", help="Built-in name or package.module:Name. [spread]")
@click.option("--set-placement", "placement_params", multiple=True, metavar="KEY=VALUE", help="A parameter of the placement.")
@click.option("--meter", type=click.Choice(get_args(MeterName)), help="Where joules come from. [auto]")
@click.option("--usage", type=click.Choice(["observe", "inject"]), help="How token counts are had. [observe]")
@click.option("--host", help="Address of the data port. [0.0.0.0]")
@click.option("--port", type=int, help="Data port. [8080]")
@click.option("--admin-host", help="Address of the admin port. [127.0.0.1]")
@click.option("--admin-port", type=int, help="Admin port. [9464]")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Least that is logged. [info]")
@click.option("--log-format", type=click.Choice(["console", "json"]), help="Lines for people, or an object a line. [console]")
@click.option(
    "--config", "file", type=click.Path(path_type=Path), help="A TOML or JSON file; environment and flags go before it."
)
@click.option("--check", is_flag=True, help="Check the configuration, print the strategy, and exit.")
def command(file: Path | None, check: bool, **options: Any) -> None:
    """Run the proxy in front of one or more inference servers."""

    def read() -> Config:
        config = load(file, os.environ, _flags(options))
        logs.hide(secrets_of(config, os.environ))
        return config

    try:
        config = read()
    except ConfigError as error:
        click.echo(f"the configuration has errors:\n{error}", err=True)
        sys.exit(2)
    if check:
        chosen = ", ".join(f"{kind} {as_written(told)}" for kind, told in config.strategy().describe().items())
        click.echo(f"the configuration is good: {chosen}")
        for doubt in guard.doubts(config):
            click.echo(f"warning: {doubt}", err=True)
        return
    json = logs.set_up(config)
    logging.getLogger("uvicorn.error").addFilter(said_already)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(config, read, json))


def _flags(options: dict[str, Any]) -> dict[str, Any]:
    """What was given on the command line, as dotted keys."""
    flags: dict[str, Any] = {}
    renamed = {"policy": "policy.name", "placement": "placement.name", "meter": "energy.meter"}
    renamed |= {key: key for key in ("dialect", "usage", "host", "port", "admin_host", "admin_port", "log_level", "log_format")}
    for key, dotted in renamed.items():
        if options[key] is not None:
            flags[dotted] = options[key]
    if options["upstreams"]:
        flags["upstreams"] = list(options["upstreams"])
    for kind in ("policy", "placement"):
        for pair in options[f"{kind}_params"]:
            key, equals, text = pair.partition("=")
            if not equals or not key:
                raise ConfigError(f"flag --set{'-placement' if kind == 'placement' else ''} {pair}: write KEY=VALUE")
            flags[f"{kind}.params.{key}"] = toml_or_text(text)
    return flags


async def serve(config: Config, read: Callable[[], Config], json: logs.Json | None = None) -> None:
    """Run until SIGTERM or SIGINT, then let go of who waits and finish what is in flight.

    Args:
        config: at the start.
        read: reads it again, for SIGHUP and the admin port.
        json: the formatter of logs, if that is what they are; it is told where requests' traces are found.
    """
    try:
        sockets = [listen(config.host, config.port), listen(config.admin_host, config.admin_port)]
        own = [certificates.of(tls) for tls in (config.tls, config.admin.tls)]
    except (CannotListen, certificates.BadCertificate) as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    app = create_app(config, os.environ)
    if json is not None:
        json.lookup = app.ledger.get
    requests = _log_of_requests(app)
    await app.start()
    watched = [one for one in own if one is not None]
    app.run(certificates.watch(watched), "paceline-certificates")
    tls = [one.context if one is not None else None for one in own]
    # its own grace is longer than ours, which ends with answers instead of cancellations
    data = http_server(app.forward, grace_s=config.drain.grace_s + 5, limits=config.limits, tls=tls[0])
    admin = http_server(create_admin(app, read), grace_s=1, limits=config.limits, tls=tls[1])
    running = [asyncio.create_task(server.serve([sock])) for server, sock in zip((data, admin), sockets, strict=True)]
    while not (data.started and admin.started):
        await asyncio.sleep(0.01)
    _collect_seldom()
    for doubt in guard.doubts(config):
        log.warning("%s", doubt)
    _say_ready([address(sock, tls=context is not None) for sock, context in zip(sockets, tls, strict=True)], json)
    again = _signals(app, read, watched)
    await again.closing.wait()
    await _close(app, data, running[0], again.at_once)
    admin.should_exit = True
    await running[1]
    await app.stop()
    if requests is not None:
        requests.write(all=True)


def _log_of_requests(app: App) -> RequestLog | None:
    """Where one is asked for."""
    if not app.config.log_requests:
        return None
    requests = RequestLog(app.settling, app.fleet.default.scheduler.clock)
    app.forward.on_left = requests.ended
    app.run(requests.run(), "paceline-requests")
    return requests


def _say_ready(where: Sequence[str], json: logs.Json | None) -> None:
    """On standard output, for whoever starts us; where logs are JSON, so is this."""
    said = "paceline ready: data {} admin {}".format(*where)
    click.echo(json.format(logging.makeLogRecord({"name": log.name, "msg": said, "levelname": "INFO"})) if json else said)
    sys.stdout.flush()


def _collect_seldom() -> None:
    """Garbage collection that does not look at what stays, nor after every other request.

    Requests leave no cycles of any size behind, and the latest 20,000 of them are kept, so each full collection would walk
    over them in vain, and everybody would wait for it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


@dataclass(slots=True)
class Signals:
    """What the process was told: to close, and then, by a second signal, to close at once."""

    closing: asyncio.Event = field(default_factory=asyncio.Event)
    at_once: asyncio.Event = field(default_factory=asyncio.Event)

    def close(self) -> None:
        (self.at_once if self.closing.is_set() else self.closing).set()


def _signals(app: App, read: Callable[[], Config], watched: Sequence[certificates.Certificates]) -> Signals:
    """SIGTERM and SIGINT close, twice at once; SIGHUP reads configuration and certificates again."""
    signals, loop = Signals(), asyncio.get_running_loop()

    def read_again() -> None:
        try:
            reload(app, read())
        except ConfigError as error:
            log.error("the configuration was not read again, and the former one stays in force: %s", error)
        for one in watched:
            one.load_changed()

    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, signals.close)
    loop.add_signal_handler(signal.SIGHUP, read_again)
    return signals


async def _close(app: App, data: Server, running: asyncio.Task[None], at_once: asyncio.Event) -> None:
    """Not ready any more; listen a while longer; then finish what is here, within the grace; then cut."""
    drain = app.config.drain
    log.info("closing: %d requests are here", app.forward.open)
    app.drain()
    await _either(at_once.wait(), drain.linger_s)
    data.should_exit = True
    if not at_once.is_set():
        await _either(at_once.wait(), drain.grace_s, running)
    if app.forward.open:
        log.warning("the grace is over: %d requests are cut off", app.forward.open)
        app.cut()
    await _either(asyncio.sleep(LAST_OCTETS_S), LAST_OCTETS_S, running)
    data.force_exit = True  # whoever has not taken what is left of an answer by now will not
    await running


async def _either(event: Coroutine[Any, Any, Any], seconds: float, *also: asyncio.Task[None]) -> None:
    """Until an event, the end of a task or of some seconds, whichever comes first."""
    waiting = asyncio.ensure_future(event)
    await asyncio.wait({waiting, *also}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
