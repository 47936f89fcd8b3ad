"""The live page in a real browser: it moves, it is read by eye, by keyboard and by ear, and it says what it does not know."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, async_playwright, expect

from bench.processes import running
from policies.base import Tier, Waiting
from proxy.admin import create_admin
from proxy.app import App
from telemetry.ledger import Entry
from tests.end_to_end.paceline import Running, paceline
from tests.serving import served
from tests.tools import tool

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = {"inputs": "a b c", "parameters": {"max_new_tokens": 20}}
MANY = 10_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One for all; each test has a page of its own, which shares nothing with others."""
    async with async_playwright() as playwright:
        # in a container there is nobody whom the sandbox would protect from our own page
        chromium = await playwright.chromium.launch(executable_path=tool("chromium"), args=["--no-sandbox"])
        yield chromium
        await chromium.close()


@asynccontextmanager
async def opened(browser: Browser, url: str, *, complains: bool = False, **context: Any) -> AsyncIterator[Page]:
    """The page, whose every complaint and every request elsewhere fails the test."""
    async with await browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context}) as session:
        page = await session.new_page()
        page.set_default_timeout(15_000)
        said: list[str] = []
        elsewhere: list[str] = []
        page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith(url) else elsewhere.append(request.url))
        await page.goto(url)
        yield page
        assert (complains or said, elsewhere) == (complains or [], [])


async def ask(here: Running, requests: int, hold_s: float = 0.5) -> None:
    """So many at once, and all of them answered."""
    async with httpx.AsyncClient(base_url=here.url, trust_env=False, timeout=30) as client:
        held = {"x-paceline-max-hold": str(hold_s)}
        answers = await asyncio.gather(*(client.post("/generate", json=BODY, headers=held) for _ in range(requests)))
    assert {answer.status_code for answer in answers} == {200}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def busy(browser: Browser) -> AsyncIterator[Running]:
    """A proxy that has answered some requests."""
    async with paceline() as here:
        await ask(here, 12)
        yield here


async def test_numbers_and_curves_move_under_load(browser: Browser, busy: Running) -> None:
    async with opened(browser, busy.admin_url + "/") as page:
        await expect(page.locator("#state-text")).to_have_text("live")
        await expect(page.locator("#strategy")).to_have_text("policy span, placement spread")
        await expect(page.locator("#source")).to_have_text("joules are simulated, not measured")
        before = await page.locator("#foot").inner_text()
        await ask(busy, 12)
        await expect(page.locator("#n-answers")).not_to_have_text("0")
        await expect(page.locator("#n-request")).not_to_have_text("unknown")
        await expect(page.locator("#foot")).not_to_have_text(before)
        assert "simulated" in await page.locator("#n-power-note").inner_text()
        assert "simulated" in await page.locator("#n-request-note").inner_text()
        await expect(page.locator("#joules tbody tr")).to_have_count(1)
        await expect(page.locator("#groups tbody tr").first).to_contain_text("span")
        await expect(page.locator("#servers tbody tr")).to_contain_text("works")
        await expect(page.locator("#books")).to_contain_text("Conserved")
        await expect(page.locator("canvas")).to_have_count(4)
        assert await page.evaluate(INK) == [True] * 4, "each has been drawn on"
        power = page.locator("figure", has_text="Power").first
        await power.locator("summary").click()
        await expect(power.locator("details td").nth(1)).to_have_text(re.compile(r"\d+"))


INK = """() => [...document.querySelectorAll("canvas")].map((canvas) =>
    canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some((value) => value > 0))"""


async def test_light_and_dark_as_the_system_or_the_reader_wants(browser: Browser, busy: Running) -> None:
    paper = "() => getComputedStyle(document.body).backgroundColor"
    async with opened(browser, busy.admin_url + "/", color_scheme="dark", reduced_motion="reduce") as page:
        dark = await page.evaluate(paper)
        await page.get_by_text("Light", exact=True).click()
        light = await page.evaluate(paper)
        assert (dark, light) == ("rgb(20, 23, 26)", "rgb(247, 247, 245)")
        await page.reload()
        assert await page.evaluate(paper) == light, "it is remembered"
        await page.get_by_text("Auto", exact=True).click()
        assert await page.evaluate(paper) == dark
        moving = "() => getComputedStyle(document.querySelector('.bar i')).transitionDuration"
        await expect(page.locator("#books .bar")).to_have_count(1)
        assert await page.evaluate(moving) == "0s", "nothing moves for whoever wants it so"


async def test_the_keyboard_reaches_everything(browser: Browser, busy: Running) -> None:
    async with opened(browser, busy.admin_url + "/") as page:
        await expect(page.locator("#groups tbody tr").first).to_contain_text("span")
        await page.keyboard.press("Tab")
        await expect(page.locator(".skip")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.locator("main")).to_be_focused()
        await page.keyboard.press("Shift+Tab")
        await expect(page.locator("input[name=theme]:checked")).to_be_focused()
        await page.keyboard.press("Shift+Tab")
        await page.keyboard.press("Space")
        await expect(page.locator("#pause")).to_have_attribute("aria-pressed", "true")
        await expect(page.locator("#state-text")).to_have_text("paused")
        stands = await page.locator("#foot").inner_text()
        await ask(busy, 8)
        rows = page.locator("#groups tbody tr")
        for _ in range(20):
            await page.keyboard.press("Tab")
            if await rows.first.evaluate("(row) => row === document.activeElement"):
                break
        await expect(rows.first).to_be_focused()
        await page.keyboard.press("ArrowDown")
        if await rows.count() > 1:
            await expect(rows.nth(1)).to_be_focused()
        assert await page.locator("#foot").inner_text() == stands, "paused is paused"


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing(browser: Browser, busy: Running, scheme: str) -> None:
    async with opened(browser, busy.admin_url + "/", color_scheme=scheme) as page:
        await expect(page.locator("#groups tbody tr").first).to_contain_text("span")
        assert (await page.locator("#summary").inner_text()).count("simulated") == 1
        assert await complaints(page) == []


async def complaints(page: Page) -> list[tuple[str, list[str]]]:
    """What axe finds, and where."""
    found = (await Axe().run(page)).response["violations"]
    return [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]


@pytest.mark.parametrize("width", [360, 1920])
async def test_it_fits_narrow_and_wide(browser: Browser, busy: Running, width: int) -> None:
    async with opened(browser, busy.admin_url + "/", viewport={"width": width, "height": 800}) as page:
        await expect(page.locator("#groups tbody tr").first).to_contain_text("span")
        assert await page.evaluate("() => document.scrollingElement.scrollWidth") <= width


async def test_names_are_shown_and_never_run(browser: Browser, busy: Running) -> None:
    """Clients name models, servers too; and whoever may change things names tenants, experiments and policies."""
    evil = '<img src=x onerror="window.ran = 1"><script>window.ran = 1</script>'
    async with busy.admin.stream("GET", "/live") as answer:
        told = ""
        async for text in answer.aiter_text():
            told += text
            if "event: frame" in told and told.endswith("\n\n"):
                break
    history, frame = (json.loads(line[6:]) for line in told.splitlines() if line.startswith("data: "))
    waiter = dict.fromkeys(("id", "tier", "tenant", "model", "group", "state", "why"), evil)
    frame["waiting"]["longest"] = [{**waiter, "waited_s": 1.0, "deadline_in_s": None}]
    frame["waiting"]["by_tier"] = [{"tier": evil, "held": 1, "ready": 0}]
    frame["strategy"] |= {"policy": evil, "experiment": evil}
    frame["servers"] = [{**server, "name": evil, "group": evil, "model": evil, "state": evil} for server in frame["servers"]]
    frame["groups"] = [{**group, "policy": evil, "servers": {evil: 2}, "outcomes": {evil: 1}} for group in frame["groups"]]
    frame["joules"]["by_policy"] = [{**cost, "policy": evil, "source": evil} for cost in frame["joules"]["by_policy"]]
    frame["point"] |= {"power_w": {evil: 3.0, "b": 4.0}, "at_unix_s": frame["point"]["at_unix_s"] + 1}
    events = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in (("history", history), ("frame", frame)))
    async with opened(browser, busy.admin_url + "/", complains=True) as page:
        await page.route("**/live", lambda route: route.fulfill(content_type="text/event-stream", body=events))
        await page.route("**/requests/**", lambda route: route.fulfill(status=404, json={"detail": evil}))
        await page.reload()
        await expect(page.locator("#longest tbody tr")).to_contain_text(evil)
        await page.locator("#longest tbody a").click()
        await expect(page.locator("#request-told")).to_have_text(evil)
        await expect(page.locator("#servers tbody tr")).to_contain_text(evil)
        await expect(page.locator("#charts .legend").first).to_contain_text(evil)
        assert await page.evaluate("window.ran ?? 0") == 0
        assert (await page.locator("img").count(), await page.locator("script").count()) == (0, 3)


async def test_a_lost_stream_is_said_and_comes_back(browser: Browser) -> None:
    async with paceline() as here:
        admin = create_admin(here.app)

        async def behind(scope: Any, receive: Any, send: Any) -> None:
            await admin(scope, receive, send)

        async with served(behind) as address, opened(browser, f"http://{address}/", complains=True) as page:
            await expect(page.locator("#state-text")).to_have_text("live")
            here.app.forward.draining = True
            await expect(page.locator("#lost")).to_contain_text("The stream is lost: the proxy is closing. What is shown is of")
            await expect(page.locator("body")).to_have_attribute("data-stale", "")
            here.app.forward.draining, admin = False, create_admin(here.app)
            await expect(page.locator("#state-text")).to_have_text("live")
            await expect(page.locator("#lost")).to_be_hidden()


async def test_without_a_meter_energy_is_unknown(browser: Browser) -> None:
    async with paceline(**{"energy.meter": "none"}) as here:
        await ask(here, 2)
        async with opened(browser, here.admin_url + "/") as page:
            await expect(page.locator("#source")).to_have_text("no meter: energy is unknown")
            await expect(page.locator("#n-power")).to_have_text("unknown")
            await expect(page.locator("#n-request")).to_have_text("unknown")
            await expect(page.locator("#joules-note")).to_contain_text("unknown")
            await expect(page.locator(".plot").first).to_contain_text("No meter: power is unknown.")


async def test_a_closed_port_asks_for_its_token_and_keeps_it_in_the_tab(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("open-sesame-open-sesame-open-sesame\n")
    closed = {"admin.token_file": str(tmp_path / "token"), "admin.protect": "all"}
    async with paceline(**closed) as here, await browser.new_context() as session:
        page = await session.new_page()
        await page.goto(here.admin_url + "/")
        await expect(page.get_by_role("dialog")).to_be_visible()
        assert await complaints(page) == []
        await page.get_by_label("Admin token").fill("wrong")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert").filter(has_text="That token is not the one.")).to_be_visible()
        await page.get_by_label("Admin token").fill("open-sesame-open-sesame-open-sesame")
        await page.get_by_role("button", name="Show the page").click()
        await expect(page.locator("#state-text")).to_have_text("live")
        await page.reload()
        await expect(page.locator("#state-text")).to_have_text("live")
        another = await session.new_page()
        await another.goto(here.admin_url + "/")
        await expect(another.get_by_role("dialog")).to_be_visible()


async def test_it_works_below_any_prefix(browser: Browser) -> None:
    async with paceline() as here:

        async def prefixed(scope: Any, receive: Any, send: Any) -> None:
            """A reverse proxy that serves it at /ops/paceline/."""
            assert scope["path"].startswith("/ops/paceline/")
            await admin({**scope, "path": scope["path"].removeprefix("/ops/paceline")}, receive, send)

        admin = create_admin(here.app)
        async with served(prefixed) as address:
            async with opened(browser, f"http://{address}/ops/paceline/") as page:
                await expect(page.locator("#state-text")).to_have_text("live")


async def test_ten_thousand_wait_and_the_page_stays_as_quick(browser: Browser) -> None:
    async with paceline() as here, AsyncExitStack() as waiting:
        await crowd(here.app, waiting)
        async with opened(browser, here.admin_url + "/") as page:
            await expect(page.locator("#n-waiting")).to_have_text("10,000")
            await expect(page.locator("#longest tbody tr")).to_have_count(50)
            await expect(page.locator("#longest tbody tr").first).to_contain_text("held by span")
            await expect(page.locator("#tiers")).to_contain_text("flex5,000 held, 0 ready")
            await page.get_by_text("Dark", exact=True).click()
            assert await complaints(page) == []
            await page.locator("#longest tbody tr").first.focus()
            await page.keyboard.press("Enter")
            told = page.get_by_role("dialog")
            await expect(told).to_contain_text("waits-0")
            await expect(told).to_contain_text("state: waiting")
            await page.keyboard.press("Escape")
            await expect(told).to_be_hidden()
            at = await page.locator("#foot").inner_text()
            await expect(page.locator("#foot")).not_to_have_text(at)
        await ask(here, 3, hold_s=0.0)


async def crowd(app: App, stack: AsyncExitStack) -> None:
    """Ten thousand who wait for ten minutes and more, as requests do, but that no client stands behind them."""
    pool, generation = app.fleet.default, app.forward.generation
    tasks = []
    for number in range(MANY):
        tier, at = (Tier.FLEX, Tier.BATCH)[number % 2], pool.scheduler.clock()
        entry = Entry(f"waits-{number}", at, 0.0, tier=tier.value)
        app.ledger.open(entry)
        generation.on_arrival(pool, entry)
        waiting = Waiting(entry.id, at, at + 600.0 + number, 10, 10, tier=tier)
        tasks.append(asyncio.create_task(pool.scheduler.wait_turn(waiting)))

    async def go() -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    stack.push_async_callback(go)
    await asyncio.sleep(0)


async def test_a_watcher_does_not_delay_the_end_of_the_proxy() -> None:
    own = ("--host", "127.0.0.1", "--port", "0", "--admin-port", "0", "--upstream", "http://127.0.0.1:1", "--meter", "none")
    async with running("serve", *own) as child, httpx.AsyncClient(trust_env=False) as client:
        admin_url = (await child.ready(r"admin (\S+)"))[1]
        async with client.stream("GET", f"{admin_url}/live") as answer:
            lines = answer.aiter_lines()
            while (await anext(lines)) != "event: frame":
                pass
            child.process.terminate()
            told = [line async for line in lines]
        assert await child.finished(10) == 0
    assert "event: closing" in told
    assert "Cancel" not in child.output, "nobody had to be cut off"
