"""Which GPUs the servers on this machine run on: from a URL to the process that listens there, and to the GPUs it uses."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Protocol
from urllib.parse import urlsplit

import psutil

from telemetry.meter import MeterUnavailable
from telemetry.nvml import compute_processes

# TGI's router listens, and its shards are its siblings: children of the launcher
LAUNCHERS = ("text-generation",)
HINT = "name its devices in energy.domains"


@dataclass(frozen=True, slots=True)
class Found:
    """Where a server runs, as far as it can be told.

    Attributes:
        devices: UUIDs of GPUs; empty when unknown.
        reason: why they are unknown, or how they were found; one sentence for the log.
    """

    devices: tuple[str, ...]
    reason: str


class Processes(Protocol):
    """What has to be known of this machine's processes."""

    def is_here(self, host: str) -> bool:
        """Whether an address is this machine's own."""
        ...

    def listeners(self, port: int) -> Collection[int]:
        """Processes that listen on a TCP port, as far as we may see them."""
        ...

    def is_open(self, port: int) -> bool:
        """Whether anybody listens on a TCP port, seen or not."""
        ...

    def family(self, pid: int) -> Collection[int]:
        """A process with all that it has started; and the rest of a server that was started in parts."""
        ...

    def name(self, pid: int) -> str: ...


def devices_of(
    urls: Sequence[str],
    *,
    processes: Processes | None = None,
    compute: Callable[[], Mapping[str, Collection[int]]] = compute_processes,
) -> dict[str, Found]:
    """The GPUs of each server. It looks through all processes once for each URL, so it blocks for some milliseconds.

    Args:
        urls: the servers', as `http://host:port`.
        processes: this machine's; None is the real ones.
        compute: the processes that use each GPU, by its UUID.
    """
    try:
        users = compute()
    except MeterUnavailable as error:
        return {url: Found((), str(error)) for url in urls}
    looked = processes or LocalProcesses()
    return {url: _find(url, looked, users) for url in urls}


def _find(url: str, processes: Processes, users: Mapping[str, Collection[int]]) -> Found:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if not processes.is_here(parts.hostname or ""):
        return Found((), f"{url} is not on this machine: {HINT}, and let `paceline meter` run there")
    pids = processes.listeners(port)
    if not pids:
        if processes.is_open(port):
            return Found((), f"we may not see which process listens at {url} (another user's, or a container's): {HINT}")
        return Found((), f"nobody listens at {url} yet")
    family = {member for pid in pids for member in processes.family(pid)}
    devices = tuple(sorted(uuid for uuid, using in users.items() if family & set(using)))
    who = ", ".join(f"{processes.name(pid)} ({pid})" for pid in sorted(pids))
    if not devices:
        return Found((), f"{who} at {url} uses no GPU that we can see; containers hide processes from each other: {HINT}")
    return Found(devices, f"{who} at {url} runs on {', '.join(devices)}")


class LocalProcesses:
    """The processes that the operating system shows us. What ends while we look, or is hidden from us, is not there."""

    def is_here(self, host: str) -> bool:
        try:
            addresses = {info[4][0] for info in socket.getaddrinfo(host, None)}
        except OSError:
            return False
        own = {address.address for each in psutil.net_if_addrs().values() for address in each}
        return any(str(address) in own or ip_address(str(address).partition("%")[0]).is_loopback for address in addresses)

    def listeners(self, port: int) -> Collection[int]:
        return {pid for pid in self._listening(port) if pid is not None}

    def is_open(self, port: int) -> bool:
        return bool(self._listening(port))

    def family(self, pid: int) -> Collection[int]:
        try:
            process = psutil.Process(pid)
            parent = process.parent()
            if parent is not None and parent.name().startswith(LAUNCHERS):
                process = parent
            return {process.pid, *(child.pid for child in process.children(recursive=True))}
        except psutil.Error:
            return {pid}

    def name(self, pid: int) -> str:
        try:
            return psutil.Process(pid).name()
        except psutil.Error:
            return "a process"

    def _listening(self, port: int) -> list[int | None]:
        try:
            connections = psutil.net_connections("tcp")
        except psutil.AccessDenied:  # macOS lets only root look
            return [None]
        return [c.pid for c in connections if c.status == psutil.CONN_LISTEN and c.laddr and c.laddr.port == port]
