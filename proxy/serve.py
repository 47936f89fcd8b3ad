"""`paceline serve`: reads the configuration, listens on both ports, and closes without losing a request."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

from proxy.admin import create_admin
from proxy.app import App, create_app
from proxy.config import Config, ConfigError, load, toml_or_text
from proxy.listen import CannotListen, address, http_server, listen

log = logging.getLogger("paceline.serve")

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@click.command("serve", short_help="run the proxy")
@click.option("--upstream", "upstreams", multiple=True, metavar="URL", help="An inference server; may be repeated.")
@click.option("--dialect", type=click.Choice(["auto", "tgi", "openai"]), help="What the servers speak. [auto]")
@click.option("--policy", metavar="NAME", help="Built-in name or package.module:Name. [span]")
@click.option("--set", "policy_params", multiple=True, metavar="KEY=VALUE", help="A parameter of the policy.")
@click.option("--placement", metavar="NAME", help="Built-in name or package.module:Name. [spread]")
@click.option("--set-placement", "placement_params", multiple=True, metavar="KEY=VALUE", help="A parameter of the placement.")
@click.option("--meter", type=click.Choice(["auto", "nvml", "simulated", "none"]), help="Where joules come from. [auto]")
@click.option("--host", help="Address of the data port. [0.0.0.0]")
@click.option("--port", type=int, help="Data port. [8080]")
@click.option("--admin-host", help="Address of the admin port. [127.0.0.1]")
@click.option("--admin-port", type=int, help="Admin port. [9464]")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="[info]")
@click.option("--config", "file", type=click.Path(path_type=Path), help="A TOML file; environment and flags go before it.")
@click.option("--check", is_flag=True, help="Check the configuration, print the strategy, and exit.")
def command(file: Path | None, check: bool, **options: Any) -> None:
    """Run the proxy in front of one or more inference servers."""
    try:
        config = load(file, os.environ, _flags(options))
    except ConfigError as error:
        click.echo(f"the configuration has errors:\n{error}", err=True)
        sys.exit(2)
    if check:
        click.echo(f"the configuration is good: {config.strategy().describe()}")
        return
    logging.basicConfig(level=config.log_level.upper(), format=LOG_FORMAT, stream=sys.stderr)
    for chatty in ("httpx", "uvicorn.error"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(config))


def _flags(options: dict[str, Any]) -> dict[str, Any]:
    """What was given on the command line, as dotted keys."""
    flags: dict[str, Any] = {}
    renamed = {"policy": "policy.name", "placement": "placement.name", "meter": "energy.meter"}
    for key in ("dialect", "policy", "placement", "meter", "host", "port", "admin_host", "admin_port", "log_level"):
        if options[key] is not None:
            flags[renamed.get(key, key)] = options[key]
    if options["upstreams"]:
        flags["upstreams"] = list(options["upstreams"])
    for kind in ("policy", "placement"):
        for pair in options[f"{kind}_params"]:
            key, equals, text = pair.partition("=")
            if not equals or not key:
                raise ConfigError(f"flag --set{'-placement' if kind == 'placement' else ''} {pair}: write KEY=VALUE")
            flags[f"{kind}.params.{key}"] = toml_or_text(text)
    return flags


async def serve(config: Config) -> None:
    """Run until SIGTERM or SIGINT, then let go of who waits and finish what is in flight."""
    try:
        sockets = [listen(config.host, config.port), listen(config.admin_host, config.admin_port)]
    except CannotListen as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    app = create_app(config, os.environ)
    await app.start()
    data, admin = http_server(app.forward, drain_s=config.drain_s), http_server(create_admin(app), drain_s=1)
    running = [asyncio.create_task(server.serve([sock])) for server, sock in zip((data, admin), sockets, strict=True)]
    while not (data.started and admin.started):
        await asyncio.sleep(0.01)
    click.echo(f"paceline ready: data {address(sockets[0])} admin {address(sockets[1])}")
    sys.stdout.flush()
    await _closing(app)
    data.should_exit = True
    await running[0]
    admin.should_exit = True
    await running[1]
    await app.stop()


async def _closing(app: App) -> None:
    """Wait for a signal; then no new request is held, and everybody who waits leaves."""
    signalled = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, signalled.set)
    await signalled.wait()
    log.info("closing: %r", app.scheduler.room)
    app.drain()
