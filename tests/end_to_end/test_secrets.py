"""No key, password, token, prompt, answer or query is in anything that a running proxy tells, even when all goes wrong."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from bench.processes import Child, running
from proxy.keys import hash_of

TRACE = "0af7651916cd43dd8448eb211c80319c"
SECRETS = {
    name: f"{name}-5ecret-{number:032x}"
    for number, name in enumerate(("upstream", "meter", "redis", "admin", "collector", "client", "stranger"))
}
TOLD = (
    "my-prompt-is-private",
    "the-answer-is-private",
    "a-query-is-private",
)  # what passes through, and is nobody's but theirs
PROMPT, ANSWER, QUERY = TOLD
PAGE = b'DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0",UUID="GPU-1"} 1\n'
READ = ("/status", "/metrics", "/usage", "/ledger", "/shadow", "/experiments", "/policy", "/selftest", "/openapi.json", "/")
EVENT = b'data: {"choices": [{"index": 0, "text": "%s"}]}\n\n' % ANSWER.encode()


class Echo(BaseHTTPRequestHandler):
    """A server that repeats in its errors all that it was shown, keys and bodies, as some do."""

    protocol_version = "HTTP/1.1"
    got: list[bytes]

    def do_GET(self) -> None:
        self._answer(200 if self.path.startswith("/metrics") and len(self.got) < 3 else 500, PAGE)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path.startswith("/v1/traces"):
            self._answer(200 if len(self.got) % 2 == 0 else 400, b"", body)
        elif b"break off" in body:
            self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            self.wfile.write(b"%x\r\n%s\r\n" % (len(EVENT), EVENT))
            self.close_connection = True
        elif b"no http" in body:
            self.wfile.write(f"{self.headers['authorization']} {PROMPT}\r\n\r\n".encode())
            self.close_connection = True
        elif b"fail" in body:
            self._answer(500, b"", body)
        else:
            self._answer(200, json.dumps({"choices": [{"index": 0, "text": ANSWER}], "usage": {}}).encode())

    def _answer(self, status: int, answer: bytes, body: bytes = b"") -> None:
        self.got.append(body)
        if status != 200:
            answer = f"bad key {self.headers['authorization']} {self.path} ".encode() + body
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def echoing() -> Iterator[tuple[str, list[bytes]]]:
    got: list[bytes] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Echo,), {"got": got}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@asynccontextmanager
async def old_redis() -> AsyncIterator[str]:
    """It repeats what it does not know, passwords too, as Redis does with AUTH in a HELLO that it is too old for."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(4096):
                words = " ".join(line for line in data.decode().split("\r\n") if line and line[0] not in "*$")
                writer.write(f"-ERR unknown command, with args beginning with: {words}\r\n".encode())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@dataclass
class Told:
    """All that a proxy told while everything went wrong."""

    lines: list[str]
    pages: dict[str, str]
    files: dict[str, bytes]
    traces: bytes
    ids: dict[str, str] = field(default_factory=dict)

    def everything(self) -> Iterator[tuple[str, bytes]]:
        yield "output", "\n".join(self.lines).encode()
        yield from ((path, page.encode()) for path, page in self.pages.items())
        yield from self.files.items()
        yield "traces", self.traces


def configuration(folder: Path, server: str, meter: str, redis: str) -> Path:
    for name in ("meter", "admin"):
        (folder / name).write_text(SECRETS[name] + "\n")
    file = folder / "paceline.toml"
    file.write_text(f"""
upstreams = [{{ url = "{server}", dialect = "openai", key_env = "UPSTREAM_KEY" }}]
host = "127.0.0.1"
port = 0
admin_port = 0
log_level = "debug"
log_format = "json"
log_requests = true
admin = {{ token_file = "{folder}/admin", protect = "all" }}
energy = {{ meter = "prometheus", url = "{meter}/metrics", key_file = "{folder}/meter", poll_s = 0.1 }}
shared = {{ url = "{redis}", key_env = "REDIS_KEY", every_s = 0.2, timeout_s = 0.5 }}
ledger = {{ path = "{folder}/ledger" }}
experiments = {{ path = "{folder}/experiments" }}
auth = {{ required = true }}
limits = {{ body_bytes = 2000 }}
tenants = [{{ name = "mine", key_hashes = ["{hash_of(SECRETS["client"])}"] }}]
""")
    return file


async def misuse(data: str, ids: dict[str, str]) -> None:
    """Requests that go well and requests that do not."""
    own = {"authorization": f"Bearer {SECRETS['client']}", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    async with httpx.AsyncClient(base_url=data, headers=own, trust_env=False, timeout=20) as client:

        async def ask(name: str, **more: object) -> None:
            body = {"model": "m", "prompt": f"{PROMPT} {name}", "max_tokens": 3, **more}
            with suppress(httpx.HTTPError):
                async with client.stream("POST", f"/v1/completions?api_key={QUERY}", json=body) as answer:
                    ids[name] = answer.headers.get("x-paceline-request-id", "")
                    await answer.aread()

        for name in ("well", "fail", "no http"):
            await ask(name)
        await ask("break off", stream=True)
        await ask("too long", more="x" * 3000)
        await client.post("/v1/completions", content=f'{{"prompt": "{PROMPT}'.encode())
        await client.post(f"/sleep?{QUERY}")
        stranger = {"authorization": f"Bearer {SECRETS['stranger']}"}
        await client.post("/v1/completions", json={"prompt": PROMPT}, headers=stranger)
        with suppress(httpx.TimeoutException):
            await client.post("/v1/completions", json={"prompt": PROMPT}, timeout=0.001)


async def look(admin: str, ids: dict[str, str]) -> dict[str, str]:
    """Every page of the admin port, and attempts at what is not allowed there."""
    own = {"authorization": f"Bearer {SECRETS['admin']}"}
    wrong = {"authorization": f"Bearer {SECRETS['stranger']}"}
    async with httpx.AsyncClient(base_url=admin, trust_env=False, timeout=20) as client:
        assert (await client.get("/status", headers=wrong)).status_code == 401
        assert (await client.put("/policy", json={"policy": PROMPT}, headers=wrong)).status_code == 401
        assert (await client.get("/healthz")).status_code == 200
        pages = {f"/requests/{id}": (await client.get(f"/requests/{id}", headers=own)).text for id in ids.values() if id}
        pages["/policy (bad)"] = (await client.put("/policy", json={"policy": SECRETS["stranger"]}, headers=own)).text
        for path in READ:
            answer = await client.get(path, headers=own)
            assert answer.status_code == 200, path
            pages[path] = answer.text
        while "/live" not in pages:  # it says 503 until it has something to tell
            async with client.stream("GET", "/live", headers=own) as events:
                if events.status_code == 200:
                    pages["/live"] = await anext(line async for line in events.aiter_lines() if line.startswith("data:"))
        return pages


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """`paceline serve` with every secret that there is, badly treated by everybody around it."""
    folder, ids = tmp_path_factory.mktemp("secrets"), dict[str, str]()
    with echoing() as (server, _), echoing() as (meter, _), echoing() as (collector, traces):
        environ = os.environ | {
            "UPSTREAM_KEY": SECRETS["upstream"],
            "REDIS_KEY": SECRETS["redis"],
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector}/v1/traces",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS": f"authorization=Bearer%20{SECRETS['collector']}",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        async with old_redis() as redis:
            file = configuration(folder, server, meter, redis)
            child: Child
            async with running("serve", "--config", str(file), environ=environ) as child:
                ready = json.loads((await child.ready(r".*paceline ready.*"))[0])["message"].split()
                await misuse(ready[3], ids)
                await child.ready("go on without Redis")
                await child.ready("the meter cannot be read|meter")
                pages = await look(ready[5], ids)
            files = {str(file): file.read_bytes() for sub in ("ledger", "experiments") for file in (folder / sub).rglob("*")}
            return Told(child.lines, pages, files, b"".join(traces), ids)


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_nobody_is_told_a_secret(told: Told) -> None:
    for where, text in told.everything():
        for name, secret in SECRETS.items():
            assert secret.encode() not in text, (where, name, _near(text, secret))
        assert hash_of(SECRETS["client"]).encode() not in text, where


async def test_nobody_is_told_what_was_asked_or_answered(told: Told) -> None:
    for where, text in told.everything():
        for private in TOLD:
            assert private.encode() not in text, (where, _near(text, private))


async def test_all_of_it_was_looked_at(told: Told) -> None:
    """Else the tests above could pass on nothing."""
    output = "\n".join(told.lines)
    assert all(told.ids[name] for name in ("well", "fail", "no http", "break off", "too long"))
    assert told.ids["break off"] in output
    assert "unknown command" in output, "Redis's error was logged"
    assert any(told.ids["well"].encode() in text for text in told.files.values())
    assert bytes.fromhex(TRACE) in told.traces
    assert told.ids["well"] in told.pages["/ledger"]


async def test_each_line_is_an_object(told: Told) -> None:
    for line in told.lines:
        parsed = json.loads(line)
        assert {"time", "level", "logger", "message"} <= set(parsed), line
        assert parsed["time"].endswith("Z"), line


async def test_each_request_has_a_line_that_joins_it_to_its_trace(told: Told) -> None:
    lines = {one["request_id"]: one for line in told.lines if (one := json.loads(line))["logger"] == "paceline.requests"}
    well = lines[told.ids["well"]]
    assert (well["method"], well["path"], well["status"], well["tenant"]) == ("POST", "/v1/completions", 200, "mine")
    assert (well["policy"], well["outcome"], well["trace_id"]) == ("span", "policy", TRACE)
    assert bytes.fromhex(well["span_id"]) in told.traces
    assert lines[told.ids["too long"]]["status"] == 413
    assert lines[told.ids["break off"]]["error"]
    about = [one for line in told.lines if (one := json.loads(line)).get("request_id") == told.ids["break off"]]
    assert {one["trace_id"] for one in about} == {TRACE}
    assert len(about) > 1  # a warning, and the line at its end


def _near(text: bytes, found: str) -> str:
    at = text.find(found.encode())
    return text[max(at - 300, 0) : at + 100].decode(errors="replace")
