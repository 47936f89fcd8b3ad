"""`paceline meter`: reads the meters of a GPU node, and tells what they read to proxies elsewhere."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

import click
from fastapi import Depends, FastAPI, HTTPException, Request, Response

from proxy.listen import CannotListen, address, http_server, listen
from telemetry.exposition import CONTENT_TYPE, devices
from telemetry.feed import Feed
from telemetry.meter import Meter, MeterUnavailable
from telemetry.meters import known, open_meters
from telemetry.recording import RecordingMeter, as_json

KEY_VARIABLE = "PACELINE_METER_KEY"
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"  # as `paceline serve` has it, which would be much to import


@click.command("meter", short_help="read this machine's energy for proxies elsewhere")
@click.option(
    "--meter",
    "names",
    multiple=True,
    metavar="NAME",
    help="nvml, amd, rapl, auto (GPUs and host, as far as they can be read) or replay:FILE; may be repeated. [auto]",
)
@click.option("--devices", metavar="LIST", default="", help="Indices, UUIDs or names, by commas. [all]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=9465, show_default=True, help="Port to listen on; 0 takes a free one.")
@click.option("--key-file", type=click.Path(path_type=Path), help=f"The key that callers must show. [${KEY_VARIABLE}]")
@click.option("--open", "unlocked", is_flag=True, help="Listen on an address that others reach, without a key.")
@click.option("--record", type=click.Path(path_type=Path), help="Append what is read to a file, for replay:FILE.")
def command(
    names: tuple[str, ...], devices: str, host: str, port: int, key_file: Path | None, unlocked: bool, record: Path | None
) -> None:
    """Read this machine's energy counters, and tell their steps to proxies elsewhere."""
    if unknown := [name for name in names if not known(name)]:
        raise click.UsageError(f"there is no meter {unknown[0]!r}: nvml, amd, rapl, auto or replay:FILE")
    key = read_key(key_file, os.environ)
    if not (key or unlocked or _is_loopback(host)):
        raise click.UsageError(f"{host} is reached by others: give a key by --key-file or ${KEY_VARIABLE}, or say --open")
    logging.basicConfig(level="INFO", format=LOG_FORMAT, stream=sys.stderr)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    try:
        meters = open_meters(names or ("auto",), [name for name in devices.split(",") if name])
        if record is not None:
            meters = [RecordingMeter(meter, record) for meter in meters]
        asyncio.run(serve(meters, host, port, key))
    except (MeterUnavailable, CannotListen) as error:
        click.echo(str(error), err=True)
        sys.exit(1)


def read_key(file: Path | None, environ: Mapping[str, str]) -> str:
    """The key that callers must show; empty when there is none.

    Raises:
        click.UsageError: it should be in the file, and is not. The message names the place, never a key.
    """
    if file is None:
        return environ.get(KEY_VARIABLE, "").strip()
    try:
        key = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"--key-file {file}: {type(error).__name__}") from error
    if not key:
        raise click.UsageError(f"--key-file {file} holds no key")
    return key


def create_meter(feed: Feed, key: str = "") -> FastAPI:
    """The API of one machine's meters.

    Args:
        feed: what they read.
        key: the one that callers must show; empty lets everybody in.
    """
    expected = f"Bearer {key}".encode()

    def authorized(request: Request) -> None:
        shown = request.headers.get("authorization", "").encode("latin-1")
        if key and not hmac.compare_digest(shown, expected):
            raise HTTPException(401, "this meter wants a key", {"www-authenticate": "Bearer"})

    api = FastAPI(title="Paceline meter", version=version("paceline"))
    locked = [Depends(authorized)]

    @api.get("/healthz")
    async def healthz() -> dict[str, Any]:
        """The process lives; whether all its meters could be read when they were last tried."""
        return {"status": "ok", "meters_read": not feed.lost}

    @api.get("/readings", dependencies=locked)
    async def readings(since: Annotated[str | None, "a cursor"] = None) -> dict[str, Any]:
        """Steps of the counters since a cursor, by this machine's monotonic clock, and what that clock says now."""
        steps = feed.since(since)
        told = [as_json(step) for step in steps.readings]
        return {"instance": feed.instance, "cursor": steps.cursor, "readings": told, "now_s": time.monotonic()}

    @api.get("/metrics", dependencies=locked)
    async def metrics() -> Response:
        """Prometheus exposition."""
        return Response(devices(feed.snapshot, time.monotonic()), headers={"content-type": CONTENT_TYPE})

    return api


async def serve(meters: Sequence[Meter], host: str, port: int, key: str) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        CannotListen: the address cannot be had.
    """
    sock = listen(host, port)
    feed = Feed(meters)
    server = http_server(create_meter(feed, key), grace_s=1)
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, setattr, server, "should_exit", True)
    feed.start()
    running = asyncio.create_task(server.serve([sock]))
    while not server.started:
        await asyncio.sleep(0.01)
    click.echo(f"paceline meter ready: {address(sock)}")
    sys.stdout.flush()
    await running
    feed.stop()


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
