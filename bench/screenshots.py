"""Takes the pictures of the live page that stand in the documentation: a proxy at work, looked at in a real browser."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import click
import httpx

from bench.processes import Ports, engine, proxy, running

SLOTS = "24"
LOAD = ("--rate", "8", "--tiers", "flex=0.7,batch=0.28,interactive=0.02", "--max-hold", "flex=4,batch=12")
LENGTHS = ("--prompt-tokens", "uniform:64:512", "--output-tokens", "uniform:24:120", "--seed", "7")
BLOCK_S, PAIRS = 8.0, 8
EXPERIMENT: dict[str, Any] = {
    "name": "span-against-straight-through",
    "control": {"policy": {"name": "passthrough"}, "placement": {"name": "pack"}},
    "treatment": {"policy": {"name": "span"}, "placement": {"name": "pack"}},
    "block_s": BLOCK_S,
    "burn_in_s": 2.0,
    "pairs": PAIRS,
    "seed": 3,
    "guardrails": {"ttft_p95": None, "tpot_p95": None, "wait_p99_s": None, "errors": 0.01, "late": 0.01},
}
PICTURES = (  # name, colours, width, height, whole page
    ("live-light", "light", 1280, 900, True),
    ("live-dark", "dark", 1280, 900, True),
    ("live-narrow", "light", 390, 844, False),
)


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("docs"), show_default=True)
@click.option("--chromium", default=lambda: shutil.which("chromium") or "", help="The browser. [chromium]")
def main(out: Path, chromium: str) -> None:
    """Three minutes of simulated load with an experiment, then a picture each in light, in dark, and as on a telephone."""
    if not chromium:
        raise click.UsageError("no chromium: apt-get install chromium, or name one with --chromium")
    asyncio.run(_take(out, chromium))


async def _take(out: Path, chromium: str) -> None:
    from playwright.async_api import async_playwright  # only here

    async with AsyncExitStack() as stack:
        ports = await stack.enter_async_context(_proxy())
        await stack.enter_async_context(running("load", "--url", ports.data, "--duration", "600", *LOAD, *LENGTHS))
        playwright = await stack.enter_async_context(async_playwright())
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        click.echo("load begins, and with it an experiment; pictures are taken once it has shown something")
        await _experiment(ports.admin)
        for name, scheme, width, height, whole in PICTURES:
            viewport: Any = {"width": width, "height": height}
            colours: Any = scheme
            page = await browser.new_page(viewport=viewport, color_scheme=colours)
            await page.goto(ports.admin)
            # a moment that shows a waiting room at work
            await page.locator("#longest tbody tr").nth(8).wait_for(timeout=60_000)
            click.echo(_save(await page.screenshot(full_page=whole), out / f"{name}.png"))
            await page.close()
        await browser.close()


def _save(picture: bytes, file: Path) -> Path:
    """With a palette: a third of the octets, and no eye sees it."""
    from PIL import Image  # matplotlib's

    Image.open(BytesIO(picture)).convert("RGB").quantize(128).save(file, optimize=True)
    return file


@asynccontextmanager
async def _proxy() -> AsyncIterator[Ports]:
    """Two engines of few slots, which are filled one after the other."""
    options = ("--dialect", "tgi", "--max-concurrent", SLOTS)
    async with engine(*options) as first, engine(*options) as second:
        upstreams = ("--upstream", first, "--upstream", second)
        async with proxy(*upstreams, "--meter", "simulated", "--placement", "pack") as ports:
            yield ports


async def _experiment(admin_url: str) -> None:
    """It runs, and all but its last pair of blocks are over."""
    async with httpx.AsyncClient(base_url=admin_url, trust_env=False) as admin:
        await asyncio.sleep(10)
        (await admin.post("/experiments", json=EXPERIMENT)).raise_for_status()
        name = EXPERIMENT["name"]
        for _ in range(int(BLOCK_S * PAIRS * 4)):
            told = (await admin.get(f"/experiments/{name}")).json()
            found = told["comparison"]
            if found is not None and found["pairs"] >= PAIRS - 1:
                return
            await asyncio.sleep(1)
        raise click.ClickException(f"experiment {name} showed nothing")


if __name__ == "__main__":
    main()
