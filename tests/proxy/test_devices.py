"""From a server's URL to its GPUs: real sockets and real processes, with a stand-in for what the driver says alone."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Collection
from dataclasses import dataclass, field

import pytest

from proxy.devices import LocalProcesses, devices_of
from telemetry.meter import MeterUnavailable

LISTEN = """
import socket, subprocess, sys, time
with socket.create_server(("127.0.0.1", 0)) as server:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print(server.getsockname()[1], child.pid, flush=True)
    sys.stdin.read()
    child.kill()
    child.wait()
"""


async def test_a_server_whose_child_computes_as_an_engine_core_does() -> None:
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LISTEN, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout is not None
    port, child = map(int, (await server.stdout.readline()).split())
    url = f"http://127.0.0.1:{port}"
    users = {"GPU-a": {child}, "GPU-b": {os.getpid()}, "GPU-c": {child, 1}}
    try:
        found = devices_of([url], compute=lambda: users)[url]
        assert found.devices == ("GPU-a", "GPU-c")
        assert f"({server.pid}) at {url} runs on GPU-a, GPU-c" in found.reason
        assert devices_of([f"http://localhost:{port}/"], compute=lambda: {"GPU-z": {server.pid}}).popitem()[1].devices == (
            "GPU-z",
        )
    finally:
        assert server.stdin is not None
        server.stdin.close()
        await server.wait()


def test_a_server_without_a_gpu_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        found = devices_of([url], compute=lambda: {"GPU-a": {1}})[url]
    assert found.devices == ()
    assert f"({os.getpid()}) at {url} uses no GPU that we can see" in found.reason


def test_nobody_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    assert devices_of([url], compute=dict)[url].reason == f"nobody listens at {url} yet"


@pytest.mark.parametrize(
    ("host", "here"), [("127.0.0.1", True), ("localhost", True), ("203.0.113.9", False), ("no.invalid", False)]
)
def test_what_is_on_this_machine(host: str, here: bool) -> None:
    assert LocalProcesses().is_here(host) is here


@dataclass
class Hidden:
    """A machine that shows little: somebody listens, and we may not see who."""

    here: bool = True
    families: dict[int, set[int]] = field(default_factory=dict)

    def is_here(self, host: str) -> bool:
        return self.here

    def listeners(self, port: int) -> Collection[int]:
        return self.families.keys()

    def is_open(self, port: int) -> bool:
        return True

    def family(self, pid: int) -> Collection[int]:
        return self.families[pid]

    def name(self, pid: int) -> str:
        return "vllm"


def test_a_hidden_process_a_far_machine_and_no_driver_are_told_apart() -> None:
    def no_driver() -> dict[str, set[int]]:
        raise MeterUnavailable("NVML: NVML Shared Library Not Found")

    url = "http://gpu-7:8000"
    assert "we may not see which process" in devices_of([url], processes=Hidden(), compute=dict)[url].reason
    assert "is not on this machine" in devices_of([url], processes=Hidden(here=False), compute=dict)[url].reason
    assert devices_of([url], processes=Hidden(), compute=no_driver)[url].reason == "NVML: NVML Shared Library Not Found"


def test_workers_that_listen_together_are_one_server() -> None:
    url = "http://gpu-7:8000"
    machine = Hidden(families={7: {7, 8}, 9: {9}})
    found = devices_of([url], processes=machine, compute=lambda: {"GPU-b": {9}, "GPU-a": {8}, "GPU-c": {3}})
    assert found[url].devices == ("GPU-a", "GPU-b")
