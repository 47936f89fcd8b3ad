"""The commands as a user starts them: real processes, real signals."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import httpx
import pytest

from bench.processes import Child, engine, proxy, running

GENERATE = {"inputs": "a b c", "parameters": {"max_new_tokens": 200}}


async def ended(*arguments: str) -> tuple[int, str]:
    child = await Child.start(*arguments)
    return await child.finished(30), child.output


async def test_help_names_every_command() -> None:
    status, text = await ended("--help")
    assert status == 0
    assert all(command in text for command in ("serve", "demo", "engine", "load"))


async def test_check_tells_all_that_is_wrong_and_exits(tmp_path: Path) -> None:
    file = tmp_path / "paceline.toml"
    file.write_text('upstreams = ["http://127.0.0.1:1"]\nprot = 1\n[policy]\nname = "span"\n')
    status, text = await ended("serve", "--check", "--config", str(file), "--placement", "5", "--port", "70000")
    assert status == 2
    assert f"prot ({file}): no such key; allowed here: upstreams," in text
    assert "port (flag --port)" in text
    file.write_text('upstreams = ["http://127.0.0.1:1"]\n')
    status, text = await ended("serve", "--check", "--config", str(file), "--policy", "size", "--set", "n=4")
    assert (status, "the configuration is good: policy size n=4" in text) == (0, True), text


async def test_a_port_in_use_is_named() -> None:
    async with engine("--dialect", "tgi") as url:
        port = url.rsplit(":", 1)[1]
        status, text = await ended("serve", "--upstream", url, "--port", port, "--host", "127.0.0.1")
    assert status == 1
    assert f"cannot listen on 127.0.0.1:{port}" in text


async def test_a_term_signal_releases_who_waits_and_finishes_what_streams() -> None:
    async with engine("--dialect", "tgi") as url:
        options = ("--upstream", url, "--meter", "simulated", "--policy", "window", "--set", "every_s=60")
        own = ("--host", "127.0.0.1", "--port", "0", "--admin-port", "0")
        async with running("serve", *own, *options) as child:
            ready = await child.ready(r"data (\S+) admin (\S+)")
            async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
                streaming = asyncio.create_task(client.post(f"{ready[1]}/generate_stream", json=GENERATE))
                held = {"x-paceline-max-hold": "2"}
                waiting = asyncio.create_task(client.post(f"{ready[1]}/generate", json=GENERATE, headers=held))
                await asyncio.sleep(0.4)
                status = (await client.get(f"{ready[2]}/status")).json()
                assert (status["room"]["held"], status["room"]["in_flight"]) == (1, 1)
                child.process.send_signal(signal.SIGTERM)
                answers = await asyncio.gather(streaming, waiting)
            assert [answer.status_code for answer in answers] == [200, 200]
            assert answers[0].text.count("data:") == 200
            assert await child.finished(10) == 0


async def test_a_killed_server_is_a_502_and_a_line_in_the_log() -> None:
    own = ("--host", "127.0.0.1", "--port", "0", "--admin-port", "0")
    async with running("engine", "--dialect", "tgi", "--port", "0") as behind:
        url = (await behind.ready(r"engine ready on (\S+)"))[1]
        async with running("serve", *own, "--upstream", url, "--meter", "none") as child:
            ready = await child.ready(r"data (\S+) admin")
            async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
                body = {**GENERATE, "parameters": {"max_new_tokens": 2000}}
                cut = asyncio.create_task(client.post(f"{ready[1]}/generate_stream", json=body))
                await asyncio.sleep(0.5)
                os.kill(behind.process.pid, signal.SIGKILL)
                with pytest.raises(httpx.RemoteProtocolError):
                    await cut
                answer = await client.post(f"{ready[1]}/generate", json=GENERATE)
            assert answer.status_code == 502
            assert answer.json()["error_type"] == "upstream"
            await child.ready(f"WARNING paceline.generation: request \\w+: {url}")


async def test_four_engines_behind_one_proxy_are_packed() -> None:
    async with engine("--dialect", "tgi") as one, engine("--dialect", "tgi") as two:
        options = (
            "--upstream",
            one,
            "--upstream",
            two,
            "--meter",
            "simulated",
            "--placement",
            "pack",
            "--set-placement",
            "knee=4",
        )
        async with proxy(*options) as ports, httpx.AsyncClient(trust_env=False, timeout=20) as client:
            sending = [asyncio.create_task(client.post(f"{ports.data}/generate", json=GENERATE)) for _ in range(3)]
            await asyncio.sleep(0.4)
            servers = (await client.get(f"{ports.admin}/status")).json()["servers"]
            await asyncio.gather(*sending)
    assert sorted(server["in_flight"] for server in servers) == [0, 3]
