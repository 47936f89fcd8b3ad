"""An hour of ordinary work: does memory stay flat, do the counts add up? `python -m bench.soak --minutes 60 --out DIR`.

`paceline serve` in front of two simulated engines, each a process of its own, about half busy. Streams and plain answers,
some that may wait, and clients that leave at random moments. Linux only, for it reads /proc.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import click

from bench.admin import AdminPort
from bench.arrivals import Load, Planned
from bench.bodies import Options
from bench.processes import engine, running
from bench.sample import Sample
from bench.senders import Clock, RawSender
from policies.base import Tier

WARM_UP = 0.1  # of the time
FLAT = 0.02
TOKEN_S = 0.005  # a little less than the simulated engines need for one
SETTLES_WITHIN_S = 20.0  # idle connections to servers are closed after 4 s
SPARE_FILES = 4  # connections of health checks and probes come and go


@dataclass(frozen=True, slots=True)
class Look:
    """The proxy at one instant."""

    at_s: float
    rss_bytes: int
    files: int
    cpu_s: float
    sent: int


@dataclass(slots=True)
class Traffic:
    """What the clients saw. Whoever was sent has been answered, has left, or has failed."""

    sent: int = 0
    answered: int = 0
    left: int = 0
    failures: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Bar:
    """One thing that must hold."""

    name: str
    holds: bool
    told: str


def look(pid: int, at_s: float, sent: int) -> Look:
    """Memory, open files and CPU seconds of a process, as the kernel tells them."""
    proc = Path(f"/proc/{pid}")
    rss = next(line for line in (proc / "status").read_text().splitlines() if line.startswith("VmRSS"))
    ticks = (proc / "stat").read_text().rpartition(")")[2].split()[11:13]
    return Look(at_s, int(rss.split()[1]) * 1024, len(list((proc / "fd").iterdir())), sum(map(int, ticks)) / 100, sent)


def growth(looks: Sequence[Look], seconds: float) -> float:
    """How much more memory the last tenth has than the first tenth after the warm-up, as a fraction; medians of both."""
    early = [look.rss_bytes for look in looks if WARM_UP <= look.at_s / seconds < WARM_UP + 0.1]
    late = [look.rss_bytes for look in looks if look.at_s / seconds >= 0.9]
    return median(late) / median(early) - 1


def count_bars(traffic: Traffic, status: dict[str, Any]) -> list[Bar]:
    """The sums of both sides."""
    ended, requests, room = sum(status["outcomes"].values()), status["requests"], status["room"]
    told = requests["completed"] + requests["failed"] + requests["retried"]
    met = traffic.answered + traffic.left
    connections = sum(server["connections"] for server in status["servers"])
    return [
        Bar("everybody was answered or left", traffic.sent == met, f"{traffic.sent} sent, {met}; {dict(traffic.failures)}"),
        Bar("every stay in the room had one end", status["admitted"] == ended, f"{status['admitted']} and {ended}"),
        Bar("every stay is a request or its retry", status["admitted"] == told, f"{status['admitted']} and {told}"),
        Bar("whoever was answered is counted", requests["completed"] >= traffic.answered, f"{requests['completed']}"),
        Bar("nobody is here any more", not requests["open"] and not any(room.values()), f"{requests['open']} open, {room}"),
        Bar("no body is held", requests["body_bytes"] == 0, f"{requests['body_bytes']} octets"),
        Bar("no connection to a server is left", not connections, f"{connections}"),
    ]


@dataclass(slots=True)
class Soak:
    """One run."""

    seconds: float
    rate: float
    leave: float
    every_s: float
    seed: int = 0
    traffic: Traffic = field(default_factory=Traffic)
    looks: list[Look] = field(default_factory=list)

    async def perform(self) -> dict[str, Any]:
        async with AsyncExitStack() as stack:
            urls = [await stack.enter_async_context(engine("--dialect", "tgi")) for _ in range(2)]
            upstreams = [option for url in urls for option in ("--upstream", url)]
            own = ("--host", "127.0.0.1", "--port", "0", "--admin-port", "0", "--meter", "simulated", "--log-level", "error")
            child = await stack.enter_async_context(running("serve", *own, *upstreams))
            ready = await child.ready(r"paceline ready: data (\S+) admin (\S+)")
            admin = await stack.enter_async_context(AdminPort(ready[2]))
            await admin.status()
            before = look(child.process.pid, 0.0, 0)
            await self._work(ready[1], child.process.pid)
            return await self._reckon(admin, child.process.pid, before)

    async def _work(self, url: str, pid: int) -> None:
        plan = Load(
            rate=self.rate,
            duration_s=self.seconds,
            prompt_tokens="uniform:20:400",
            output_tokens="uniform:2:40",
            tiers={Tier.INTERACTIVE: 0.8, Tier.FLEX: 0.2},
            seed=self.seed,
        ).plan()
        common = {"max_hold_s": {Tier.FLEX: 2.0}, "timeout_s": 60.0, "seed": self.seed}
        senders = [RawSender(Options(url, stream=stream, **common)) for stream in (True, False)]  # type: ignore[arg-type]
        random, clock = Random(self.seed), Clock(time.monotonic())
        watching = asyncio.create_task(self._watch(pid, clock))
        async with asyncio.TaskGroup() as group:
            for number, planned in enumerate(plan):
                await asyncio.sleep(max(planned.at_s - clock(), 0))
                stays_s = random.random() * planned.output_tokens * TOKEN_S if random.random() < self.leave else None
                group.create_task(self._send(senders[number % 2], planned, number, clock, stays_s))
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        for sender in senders:
            await sender.close()

    async def _send(self, sender: RawSender, planned: Planned, number: int, clock: Clock, stays_s: float | None) -> None:
        self.traffic.sent += 1
        sample = Sample(planned, clock())
        sending = asyncio.create_task(sender.send(sample, number, clock))
        await asyncio.wait({sending}, timeout=stays_s)
        if not sending.done():
            sending.cancel()
            await asyncio.wait({sending})
            self.traffic.left += 1
        elif sample.error:
            self.traffic.failures[sample.error] += 1
        else:
            self.traffic.answered += 1

    async def _watch(self, pid: int, clock: Clock) -> None:
        while True:
            self.looks.append(look(pid, clock(), self.traffic.sent))
            last, traffic = self.looks[-1], self.traffic
            told = f"{traffic.sent} sent, {traffic.answered} answered, {traffic.left} left, {dict(traffic.failures)}"
            print(f"{last.at_s:7.0f} s  {last.rss_bytes / 2**20:7.1f} MiB  {last.files:4} files  {told}", flush=True)
            await asyncio.sleep(self.every_s)

    async def _reckon(self, admin: AdminPort, pid: int, before: Look) -> dict[str, Any]:
        give_up_at = time.monotonic() + SETTLES_WITHIN_S
        while True:
            status, after = await admin.status(), look(pid, self.seconds, self.traffic.sent)
            files = Bar("open files are back", after.files <= before.files + SPARE_FILES, f"{before.files}, {after.files}")
            bars = [*count_bars(self.traffic, status), files]
            if all(bar.holds for bar in bars) or time.monotonic() > give_up_at:
                break
            await asyncio.sleep(0.5)
        grown = growth(self.looks, self.seconds) if len(self.looks) >= 60 else None
        if grown is not None:
            bars.append(Bar(f"memory is flat within {FLAT:.0%}", abs(grown) <= FLAT, f"{grown:+.2%}"))
        busy = (self.looks[-1].cpu_s - self.looks[0].cpu_s) / (self.looks[-1].at_s - self.looks[0].at_s or 1)
        told = {"seconds": self.seconds, "rate": self.rate, "leave": self.leave, "seed": self.seed}
        return {
            **told,
            "cpu": busy,
            "growth": grown,
            "bars": [asdict(bar) for bar in bars],
            "traffic": asdict(self.traffic),
            "looks": [asdict(look) for look in self.looks],
            "status": status,
        }


def plot(report: dict[str, Any], out: Path) -> None:
    """Memory over time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    minutes = [look["at_s"] / 60 for look in report["looks"]]
    axes.plot(minutes, [look["rss_bytes"] / 2**20 for look in report["looks"]], color="#0072B2")
    axes.axvspan(0, report["seconds"] / 60 * WARM_UP, color="#BBBBBB", alpha=0.4, label="warm-up")
    axes.set(xlabel="minutes", ylabel="resident memory, MiB", ylim=(0, None))
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=110)
    plt.close(figure)


@click.command()
@click.option("--minutes", type=float, default=60.0, show_default=True)
@click.option("--rate", type=float, default=150.0, show_default=True, help="Requests a second.")
@click.option("--leave", type=float, default=0.1, show_default=True, help="Share of clients that leave early.")
@click.option("--every", "every_s", type=float, default=10.0, show_default=True, help="Seconds between looks.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for report.json and soak.png.")
def main(minutes: float, rate: float, leave: float, every_s: float, seed: int, out: Path) -> None:
    """Run, report, and end with status 1 if a bar does not hold."""
    out.mkdir(parents=True, exist_ok=True)
    report = asyncio.run(Soak(minutes * 60, rate, leave, every_s, seed).perform())
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    plot(report, out / "soak.png")
    for bar in report["bars"]:
        print(f"{'holds' if bar['holds'] else 'FAILS'}  {bar['name']}: {bar['told']}")
    sys.exit(not all(bar["holds"] for bar in report["bars"]))


if __name__ == "__main__":
    main()
