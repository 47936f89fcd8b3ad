"""A proxy whose admin port has TLS and a token, and the commands that get in: real processes, real certificates."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
import pytest_asyncio
import trustme
from click.testing import CliRunner, Result

from bench.ab.command import command as ab
from bench.advise.command import command as advise
from bench.engine import SimulatedServer
from bench.load import command as load
from bench.processes import Child, running
from proxy.serve import command as serve
from tests.proxy.test_certificates import serial, trusting, write

TOKEN = "correct-horse-battery-staple"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Running:
    """Where it is, and what a command needs to get in."""

    child: Child
    data: str
    admin: str
    ca: trustme.CA
    folder: Path

    async def run(self, command: click.Command, *arguments: str, token: bool = True, environ: bool = False) -> Result:
        """A command, as its user would call it."""
        way = ("--admin", self.admin, "--ca-file", str(self.folder / "ca.pem"))
        way += ("--token-file", str(self.folder / "token")) if token else ()
        env = {"PACELINE_ADMIN_TOKEN": TOKEN if environ else None}
        return await asyncio.to_thread(CliRunner(env=env).invoke, command, [*arguments, *way])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def paceline(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    ca, folder = trustme.CA(), tmp_path_factory.mktemp("surfaces")
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    (folder / "token").write_text(TOKEN)
    tls = write(ca, folder)
    (folder / "paceline.json").write_text(
        json.dumps(
            {
                "host": "127.0.0.1",
                "port": 0,
                "admin_port": 0,
                "energy": {"meter": "none"},
                "limits": {"header_bytes": 8_192},
                "admin": {"token_file": str(folder / "token"), "protect": "all", "tls": tls.model_dump()},
            }
        )
    )
    async with SimulatedServer("tgi", speed=20) as engine:
        async with running("serve", "--config", str(folder / "paceline.json"), "--upstream", engine.url) as child:
            ready = await child.ready(r"paceline ready: data (http://\S+) admin (https://\S+)")
            yield Running(child, ready[1], ready[2], ca, folder)


async def test_commands_get_in_with_the_token_and_not_without(paceline: Running) -> None:
    few = ("--url", paceline.data, "--requests", "30", "--rate", "200", "--output-tokens", "3")
    for command, arguments in ((load, few), (ab, ("list",)), (advise, ("--json",))):
        refused = await paceline.run(command, *arguments, token=False)
        assert refused.exit_code != 0, refused.output
        assert "401" in refused.output, refused.output
        assert "PACELINE_ADMIN_TOKEN" in refused.output
        done = await paceline.run(command, *arguments)
        assert done.exit_code == 0, done.output
        by_variable = await paceline.run(command, *arguments, token=False, environ=True)
        assert by_variable.exit_code == 0, by_variable.output


async def test_a_report_of_load_has_no_token(paceline: Running) -> None:
    report = paceline.folder / "report.json"
    done = await paceline.run(load, "--url", paceline.data, "--requests", "2", "--out", str(report))
    assert done.exit_code == 0, done.output
    assert json.loads(report.read_text())["options"]["admin"] == paceline.admin
    assert TOKEN not in report.read_text() + done.output


async def test_probes_need_no_token(paceline: Running) -> None:
    async with httpx.AsyncClient(base_url=paceline.admin, verify=trusting(paceline.ca), trust_env=False) as client:
        answers = [(await client.get(path)).status_code for path in ("/healthz", "/readyz", "/metrics")]
        assert answers == [200, 200, 401]


async def test_nobody_fills_its_memory_with_a_head_that_does_not_end(paceline: Running) -> None:
    host, port = paceline.admin.removeprefix("https://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=trusting(paceline.ca))
    writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n" + b"x-more: more\r\n" * 1_000)
    async with asyncio.timeout(10):
        assert (await reader.read()).startswith(b"HTTP/1.1 431 ")
    writer.close()


async def test_a_token_file_that_is_none_is_named(paceline: Running, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    for file, said in ((tmp_path / "empty", "holds no token"), (tmp_path / "none", "No such file")):
        done = await paceline.run(ab, "list", "--token-file", str(file), token=False)
        assert (done.exit_code, said in done.output) == (2, True), done.output
    done = await asyncio.to_thread(CliRunner().invoke, load, ["--url", paceline.data, "--token-file", "x"])
    assert (done.exit_code, "are for --admin URL" in done.output) == (2, True)


async def test_sighup_takes_up_another_certificate_and_another_token(paceline: Running) -> None:
    first = await serial(paceline.admin, paceline.ca)
    write(paceline.ca, paceline.folder)
    (paceline.folder / "token").write_text("another-token-of-length")
    paceline.child.process.send_signal(signal.SIGHUP)
    await paceline.child.ready("was read again")
    assert await serial(paceline.admin, paceline.ca) != first
    with pytest.raises(ssl.SSLError):
        await serial(paceline.admin, trustme.CA())
    async with httpx.AsyncClient(base_url=paceline.admin, verify=trusting(paceline.ca), trust_env=False) as client:
        for token, expected in ((TOKEN, 401), ("another-token-of-length", 200)):
            answer = await client.get("/status", headers={"authorization": f"Bearer {token}"})
            assert answer.status_code == expected


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        ((), 0, ""),
        (("--admin-host", "0.0.0.0"), 0, "the admin port is open beyond this machine (0.0.0.0) without a token"),
    ],
)
async def test_check_tells_of_an_open_admin_port(options: tuple[Any, ...], status: int, said: str) -> None:
    done = CliRunner().invoke(serve, ["--check", "--upstream", "http://127.0.0.1:1", *options])
    assert (done.exit_code, said in done.output, "warning" in done.output) == (status, True, bool(said))
