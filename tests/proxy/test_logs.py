"""Lines of logs, for people and for machines, and what ties them to requests and traces."""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy import logs
from proxy.logs import Console, Json, hide
from proxy.request_log import RequestLog
from telemetry.ledger import Entry
from tests.end_to_end.paceline import paceline

ROOT = Path(__file__).parents[2]
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(autouse=True)
def nothing_stays_hidden() -> Iterator[None]:
    yield
    logs.HIDDEN.clear()


def line(formatter: logging.Formatter, message: str, *args: object, **more: Any) -> str:
    """What one call of a logger comes to."""
    stream = StringIO()
    logger, handler = logging.Logger("paceline.test"), logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger.addHandler(handler)
    logger.warning(message, *args, **more)
    return stream.getvalue()


def test_an_object_a_line() -> None:
    text = line(Json(), "two\nlines of %s", "a server", extra={"size": 3, "nothing": None})
    assert text.count("\n") == 1
    told = json.loads(text)
    assert told.pop("time").endswith("Z")
    assert told == {"level": "warning", "logger": "paceline.test", "message": "two\nlines of a server", "size": 3}


def test_a_stack_is_a_field() -> None:
    try:
        raise ValueError("odd")
    except ValueError:
        text = line(Json(), "failed", exc_info=True)
    assert text.count("\n") == 1
    assert json.loads(text)["stack"].endswith("ValueError: odd")
    assert json.loads(text)["stack"].startswith("Traceback")


def test_a_line_about_a_request_has_its_ids() -> None:
    entry = Entry("r1", 0.0, 0.0, traceparent=f"00-{TRACE}-{SPAN}-01")
    formatter = Json()
    formatter.lookup = {"r1": entry, "r2": Entry("r2", 0.0, 0.0, traceparent="nonsense")}.get
    told = json.loads(line(formatter, "request %s: answer broke off: %s", "r1", "why"))
    assert (told["request_id"], told["trace_id"], "span_id" in told) == ("r1", TRACE, False)
    entry.span = (int(TRACE, 16), 7)
    assert json.loads(line(formatter, "request %s ended", "r1"))["span_id"] == "0000000000000007"
    for other in ("r2", "r3"):
        told = json.loads(line(formatter, "request %s ended", other))
        assert (told["request_id"], "trace_id" in told) == (other, False)
    assert json.loads(line(formatter, "upstream %s sleeps", "http://a"))["upstream"] == "http://a"
    assert "request_id" not in json.loads(line(formatter, "%d requests are here", 3))


def test_every_line_about_a_request_begins_with_it() -> None:
    """It is how a line gets its ids."""
    about = 0
    for file in [*(ROOT / "proxy").rglob("*.py"), *(ROOT / "telemetry").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("log.") and len(node.args) > 1:
                named = [ast.unparse(argument) for argument in node.args[1:]]
                if any(name in ("call.id", "entry.id") for name in named):
                    about += 1
                    assert ast.literal_eval(node.args[0]).startswith("request %s"), (file, node.lineno)
                    assert named[0] in ("call.id", "entry.id"), (file, node.lineno)
    assert about > 5


def test_people_get_one_line_that_no_server_can_break() -> None:
    text = line(Console(logs.CONSOLE), "upstream %s said %s", "a", "ok\nERROR all is lost\x1b[2J\x85", extra={"size": 3})
    assert text.count("\n") == 1
    assert text.endswith("WARNING paceline.test: upstream a said ok\\nERROR all is lost\\x1b[2J\\x85 size=3\n")


@pytest.mark.parametrize("formatter", [Json(), Console(logs.CONSOLE)])
def test_what_is_hidden_is_in_no_line(formatter: logging.Formatter) -> None:
    hide(["a-secret", ""])
    try:
        raise ValueError("bad key a-secret")
    except ValueError:
        text = line(formatter, "it said %s", "a-secret!", exc_info=True, extra={"field": "xa-secretx"})
    assert "a-secret" not in text
    assert text.count("[hidden]") == 4  # the words, the field, the line of code and the error


def test_whatever_a_secret_is_it_is_hidden_and_the_rest_is_left() -> None:
    hide(["12", "12-and-more", 'quo"te', "back\\slash"])
    told = json.loads(line(Json(), "%s and %s and %r", 'quo"te', "12-and-more", "back\\slash", extra={"duration_s": 0.125}))
    assert (told["message"], told["duration_s"]) == ("[hidden] and [hidden] and '[hidden]'", 0.125)
    assert line(Console(logs.CONSOLE), "ended", extra={"error": 'bad quo"te'}).endswith('error="bad [hidden]"\n')


def test_a_field_looks_like_one_whatever_is_in_it() -> None:
    text = line(Console(logs.CONSOLE), "ended", extra={"path": "/a status=200", "status": 404, "tenant": 'x"'})
    assert text.endswith('ended path="/a status=200" status=404 tenant="x\\""\n')


def test_no_line_of_a_stack_looks_like_one_of_ours() -> None:
    try:
        raise ValueError("odd\n2026-11-25 00:00:00,000 ERROR paceline: all is lost\x1b[2J")
    except ValueError:
        first, *others = line(Console(logs.CONSOLE), "failed", exc_info=True).splitlines()
    assert first.endswith("failed")
    assert all(one.startswith("  ") for one in others)
    assert others[-1] == "  2026-11-25 00:00:00,000 ERROR paceline: all is lost\\x1b[2J"


def test_what_nobody_caught_is_an_object_too() -> None:
    """A process of its own, for it changes hooks of the interpreter."""
    code = (
        "import threading, warnings\n"
        "from proxy import logs; from proxy.sources import load\n"
        "logs.set_up(load(None, {}, {'upstreams': ['http://h:1'], 'log_format': 'json'}))\n"
        "warnings.warn('old')\n"
        "def odd(): raise KeyError('in a thread')\n"
        "thread = threading.Thread(target=odd); thread.start(); thread.join()\n"
        "raise ValueError('in the main thread')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    told = [json.loads(text) for text in ended.stderr.splitlines()]
    assert [one["level"] for one in told] == ["warning", "critical", "critical"]
    assert "old" in told[0]["message"]
    assert ["in a thread" in told[1]["stack"], "in the main thread" in told[2]["stack"]] == [True, True]
    assert (ended.returncode, ended.stdout) == (1, "")


async def test_a_requests_line_has_its_joules(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "paceline.requests")
    async with paceline() as running:
        requests = RequestLog(running.app.settling, running.app.fleet.default.scheduler.clock)
        running.app.forward.on_left = requests.ended
        writing = asyncio.create_task(requests.run())
        assert running.app.energy is not None
        while not any(domain.accounts for domain in running.app.energy.domains):
            await asyncio.sleep(0.02)  # what ends before the meter's first interval has no joules
        async with httpx.AsyncClient(base_url=running.url, trust_env=False) as client:
            body = {"inputs": "a b c", "parameters": {"max_new_tokens": 5}}
            answer = await client.post("/generate?secret=query", json=body)
            await client.get("/info?secret=query")
            told = await running.energy_of(answer.headers["x-paceline-request-id"])
            while len([record for record in caplog.records if record.name == "paceline.requests"]) < 2:
                await asyncio.sleep(0.02)
        writing.cancel()
    lines = {record.__dict__["path"]: record.__dict__ for record in caplog.records if record.name == "paceline.requests"}
    generated, info = lines["/generate"], lines["/info"]
    assert generated["energy_j"] == pytest.approx(told["energy"]["active_j"], abs=1e-6)
    assert (generated["energy_source"], generated["output_tokens"], generated["status"]) == ("simulated", 5, 200)
    assert generated["server"] == running.engines[0].url
    assert (info["status"], "server" in info, "energy_j" in info) == (200, False, False)
    assert "query" not in str(lines)


def test_whoever_never_gets_joules_is_written_all_the_same() -> None:
    now = 100.0
    lines: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = lines.append  # type: ignore[method-assign]
    logging.getLogger("paceline.requests").addHandler(handler)
    logging.getLogger("paceline.requests").setLevel(logging.INFO)
    try:
        settling = {"r1"}
        requests = RequestLog(settling, lambda: now)
        call: Any = type("Left", (), {"id": "r1", "method": "POST", "path": "/x", "status": 0, "arrived_at": 98.0})()
        call.tenant, call.entry = type("T", (), {"name": ""})(), Entry("r1", 98.0, 0.0)
        requests.ended(call)
        requests.write()
        assert not lines
        now += 5.0
        requests.write()
        assert not lines
        now += 6.0
        requests.write()
        assert [record.getMessage() for record in lines] == ["request r1 ended"]
        requests.ended(call)
        requests.write(all=True)  # the proxy closes
        assert len(lines) == 2
    finally:
        logging.getLogger("paceline.requests").removeHandler(handler)
