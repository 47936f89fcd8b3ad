"""`paceline top` as it is used: one frame for a script, a screen with keys, and a sentence where there is nothing to show."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import struct
import sys
import termios
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from bench.processes import Child
from bench.top.command import plain
from bench.top.screen import ORDERS, Screen
from bench.top.words import curve, figure, seconds, share
from tests.end_to_end.paceline import Running, paceline

BODY = {"inputs": "a b c", "parameters": {"max_new_tokens": 20}}


async def ask(here: Running) -> None:
    async with httpx.AsyncClient(base_url=here.url, trust_env=False, timeout=30) as client:
        held = {"x-paceline-max-hold": "0.5"}
        answers = await asyncio.gather(*(client.post("/generate", json=BODY, headers=held) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {200}


async def top(*arguments: str, environ: dict[str, str] | None = None) -> tuple[int, str]:
    child = await Child.start("top", *arguments, environ={**os.environ, "COLUMNS": "80", **(environ or {})})
    return await child.finished(30), child.output


async def test_one_frame_for_people_and_one_for_programs() -> None:
    async with paceline() as here:
        await ask(here)
        await asyncio.sleep(1.2)  # the next sample knows of them
        (status, text), (also, told) = await asyncio.gather(
            top("--once", "--url", here.admin_url), top("--once", "--json", "--admin", here.admin_url)
        )
    assert (status, also) == (0, 0)
    assert "policy span, placement spread" in text
    assert "joules are simulated, not measured" in text
    assert re.search(r"\d W +[\d.]+ J", text), "watts, and joules a request"
    assert re.search(r"requests [\d.,]+ J, idle [\d.,]+ J, unattributed [\d.]+ %, conserved", text)
    assert max(map(len, text.splitlines())) <= 80
    frame = json.loads(told)
    assert (frame["requests"]["completed"], frame["energy"]["source"]) == (8, "simulated")


async def test_keys_pause_sort_and_leave() -> None:
    async with paceline() as here:
        terminal, inside = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "proxy.cli", "top", "--url", here.admin_url),
            stdin=inside,
            stdout=inside,
            stderr=inside,
            env={**os.environ, "TERM": "xterm-256color"},
        )
        os.close(inside)
        shown = bytearray()
        loop = asyncio.get_running_loop()
        loop.add_reader(terminal, lambda: shown.extend(_read(terminal, loop)))

        async def until(text: bytes) -> None:
            async with asyncio.timeout(20):
                while text not in shown:
                    await asyncio.sleep(0.02)

        await until(b"placement spread")
        assert b"\x1b[?1049h" in shown, "on a screen of its own"
        os.write(terminal, b"s")
        await until(b"nearest deadline")
        os.write(terminal, b"p")
        await until(b"p goes on")
        os.write(terminal, b"q")
        async with asyncio.timeout(10):
            assert await process.wait() == 0
        assert shown.rstrip().endswith(b"\x1b[?25h") or b"\x1b[?1049l" in shown, "and leaves it as it was"
        loop.remove_reader(terminal)
        os.close(terminal)


def _read(terminal: int, loop: asyncio.AbstractEventLoop) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other side has gone
        loop.remove_reader(terminal)
        return b""


async def test_a_port_that_gives_no_frames_is_named_with_why(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("open-sesame-open-sesame-open-sesame\n")
    closed = {"admin.token_file": str(tmp_path / "token"), "admin.protect": "all"}
    async with paceline(**closed) as here:
        answers = await asyncio.gather(
            top("--once", "--url", "http://127.0.0.1:1"),
            top("--once", "--url", here.admin_url),
            top("--once", "--url", here.admin_url, "--token-file", str(tmp_path / "token")),
        )
    (gone, gone_said), (refused, refused_said), (let_in, _) = answers
    assert (gone, refused, let_in) == (1, 2, 0)
    assert gone_said.startswith("admin port http://127.0.0.1:1: ")
    assert "401" in refused_said
    assert "open-sesame" not in refused_said


FRAME: dict[str, Any] = {
    "at_unix_s": 1.7e9,
    "strategy": {"policy": "span", "placement": "pack"},
    "draining": False,
    "point": {"in_flight": 48, "power_w": {}},
    "energy": None,
    "joules": {"all_in_j": None, "by_policy": []},
    "gain": None,
    "waiting": {
        "held": 9_000,
        "ready": 1_000,
        "by_tier": [{"tier": "flex", "held": 9_000, "ready": 1_000}],
        "longest": [
            {
                "id": str(n),
                "tier": "flex",
                "tenant": "acme",
                "waited_s": 60.0 - n,
                "deadline_in_s": 1.0 + n,
                "why": "held by span",
            }
            for n in range(50)
        ],
    },
    "alone": 3,
    "groups": [
        {"ago_s": n, "size": 4, "waited_s": 1.0, "policy": "span", "servers": {f"http://server-{n}:8000": 4}} for n in range(50)
    ],
    "servers": [
        {"name": f"http://server-{n}:8000", "group": "a", "in_flight": 4, "slots": 8, "power_w": None, "circuit": "closed"}
        | {"state": "asleep" if n else "awake", "healthy": True}
        for n in range(30)
    ],
    "experiments": [],
    "rates": {},
}


@pytest.mark.parametrize("height", [24, 30, 60])
@pytest.mark.parametrize("width", [80, 132])
def test_it_fits_the_screen_whoever_waits(width: int, height: int) -> None:
    screen = Screen("http://localhost:9464")
    screen.take("frame", FRAME)
    console = Console(width=width, height=height, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    with console.capture() as captured:
        console.print(screen.show(width, height, keys=True))
    lines = captured.get().splitlines()
    console.file.close()
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "flex 9,000 held 1,000 ready" in text
    assert "no meter: energy is unknown" in text
    assert "60.0 s" in text, "who has waited the longest"
    assert "server-0" in text


def test_names_are_no_markup() -> None:
    screen, console = Screen("http://localhost:9464"), plain()
    server = {**FRAME["servers"][0], "name": "http://[fd00::1]:8000"}
    waiting = {**FRAME["waiting"], "longest": [{**FRAME["waiting"]["longest"][0], "tenant": "[/of] :100:"}]}
    screen.take("frame", {**FRAME, "servers": [server], "waiting": waiting})
    with console.capture() as captured:
        console.print(screen.show(80))
    assert "[fd00::1]:8000" in captured.get()
    assert "[/of] :100:" in captured.get()


def test_a_reader_sorts_pauses_and_is_told_of_a_loss() -> None:
    screen = Screen("http://localhost:9464")
    screen.take("frame", FRAME)
    orders = []
    for _ in ORDERS:
        screen.sort()
        orders.append(screen.order)
    assert sorted(orders) == sorted(ORDERS)
    assert orders[-1] == "longest wait"
    screen.paused = True
    screen.take("frame", {**FRAME, "alone": 99})
    assert screen.frame == FRAME
    screen.take("lost", {"why": "it ended"})
    console = Console(width=80)
    with console.capture() as captured:
        console.print(screen.show(80))
    assert "it ended" in captured.get()


def test_numbers_are_written_as_on_the_page() -> None:
    values = (0.2841, 2.841, 28.41, 2841.0, 0.0, None)
    assert [figure(value) for value in values] == ["0.284", "2.84", "28.4", "2,841", "0", "unknown"]
    waits_s = (0.25, 2.5, 600.0, 7200.0, -1.0, None)
    assert [seconds(wait_s) for wait_s in waits_s] == ["250 ms", "2.5 s", "10 min", "2.0 h", "now", "-"]
    assert (share(0.4861), share(None)) == ("48.6 %", "unknown")
    assert curve([0.0, 50.0, 100.0, None], 4) == "▁▅█ "
    assert curve([1.0] * 600, 30) == "█" * 30
    assert curve([], 30) == ""
