"""`paceline top`: what a running proxy does, in a terminal, or one frame of it for a script."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any

import click
from rich.console import Console
from rich.live import Live

from bench.top.frames import Event, NoFrames, Refused, forever, once
from bench.top.keys import keys
from bench.top.screen import Screen
from proxy.admin_address import AdminAddress, admin_option

NARROWEST = 80
DRAWS_EVERY_S = 1.0


@click.command("top", short_help="what a running proxy does, in the terminal")
@admin_option("http://127.0.0.1:9464", names=("--url", "--admin"))
@click.option("--once", "only_once", is_flag=True, help="Print one frame, and leave.")
@click.option("--json", "as_json", is_flag=True, help="Print frames as JSON, one a line.")
def command(admin: AdminAddress, only_once: bool, as_json: bool) -> None:
    """What a running proxy does: power, joules a request, who waits and why, groups that left, servers, experiments.

    Keys: q leaves, p pauses, s sorts who waits. The same is on the admin port as a page for a browser.
    """
    try:
        if as_json:
            asyncio.run(_print(admin, only_once=only_once))
        elif only_once or not sys.stdout.isatty():
            asyncio.run(_show_once(admin))
        else:
            asyncio.run(_watch(admin))
    except NoFrames as error:
        click.echo(str(error), err=True)
        sys.exit(2 if isinstance(error, Refused) else 1)
    except KeyboardInterrupt:
        pass


def plain() -> Console:
    """Names are shown as they are: `[fd00::1]` is an address, and no markup."""
    return Console(markup=False, emoji=False)


async def _print(admin: AdminAddress, *, only_once: bool) -> None:
    async with aclosing(once(admin)) as events:
        async for event in events:
            if event.name == "frame":
                click.echo(json.dumps(event.data))
                if only_once:
                    return


async def _show_once(admin: AdminAddress) -> None:
    screen, console = Screen(admin.url), plain()
    if not console.is_terminal:
        console.width = max(console.width, NARROWEST)
    async with aclosing(once(admin)) as events:
        async for event in events:
            screen.take(event.name, event.data)
            if screen.frame is not None:
                console.print(screen.show(console.width))
                return
    raise NoFrames(f"admin port {admin.url}: the stream ended before its first frame")


async def _watch(admin: AdminAddress) -> None:
    screen, console, left = Screen(admin.url), plain(), asyncio.Event()
    with Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:

        def draw() -> None:
            live.update(screen.show(console.width, console.height, keys=True), refresh=True)

        def pressed(key: str) -> None:
            if key == "q":
                left.set()
            elif key == "p":
                screen.paused = not screen.paused
            elif key == "s":
                screen.sort()
            draw()

        def take(event: Event) -> None:
            screen.take(event.name, event.data)
            draw()

        with keys(pressed):
            draw()
            await _until(left, _follow(admin, take))


async def _follow(admin: AdminAddress, take: Callable[[Event], None]) -> None:
    async with aclosing(forever(admin)) as events:
        async for event in events:
            take(event)


async def _until(left: asyncio.Event, following: Coroutine[Any, Any, None]) -> None:
    """Until the reader leaves, or the admin port refuses."""
    tasks = asyncio.ensure_future(following), asyncio.ensure_future(left.wait())
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
