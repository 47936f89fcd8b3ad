"""Where an experiment can run: a group of servers and its devices, which no other uses, and which of two gives way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from proxy.energy import Energy
from proxy.experiments.devices import Devices
from proxy.experiments.plan import FINISHED, STOPPED, Plan
from proxy.experiments.run import Running
from proxy.fleet import Fleet, Pool

HOW_TO_STOP = "`paceline ab stop {name}`, or POST /experiments/{name}/stop on the admin port, ends it"


class Conflict(Exception):
    """It cannot be done now; the message says what stands against it."""


@dataclass(frozen=True, slots=True)
class Places:
    """Groups, meters, and who is there.

    Attributes:
        running: experiments by name, as they are at any time.
    """

    fleet: Fleet
    energy: Energy | None
    running: Mapping[str, Running]

    def only_group(self) -> str:
        if len(self.fleet.pools) > 1:
            raise ValueError(f"group: which of {', '.join(self.fleet.pools)}?")
        return self.fleet.default.name

    def free(self, group: str) -> tuple[Pool, Devices]:
        """The group and its devices, if nobody experiments on them, and they are metered."""
        pool, devices = self.place(group)
        if whose := ", ".join(sorted(devices.unmetered)):
            raise Conflict(f"no meter tells the devices' joules of {whose}, and they are what is compared")
        for other, what in self.rivals(pool, devices):
            raise Conflict(f"experiment {other.plan.name} runs on {what}. {HOW_TO_STOP.format(name=other.plan.name)}")
        return pool, devices

    def place(self, group: str) -> tuple[Pool, Devices]:
        """The group and its devices; none, where there is no meter."""
        pool = self.fleet.pools.get(group)
        if pool is None:
            raise ValueError(f"no group {group!r}; there are {', '.join(self.fleet.pools)}")
        return pool, Devices(self.energy or Energy([]), pool)

    def rivals(self, pool: Pool, devices: Devices) -> list[tuple[Running, str]]:
        """Those that run on the group or on its devices, and on what."""
        found, own = [], {domain.name for domain in devices.domains}
        for one in self.running.values():
            shared = own & {domain.name for domain in one.devices.domains}
            if one.pool is pool or shared:
                found.append((one, f"group {pool.name}" if one.pool is pool else f"the devices of {', '.join(sorted(shared))}"))
        return found


def gives_way(read: Plan, rivals: Iterable[Plan], now_unix_s: float) -> Plan | None:
    """How one ends that comes to where others run; None: it goes on, and they give way.

    Of two the one that was begun first goes on, by the clock that all replicas have in common, so that all agree.
    """
    for one in rivals:
        if read.design.ends_unix_s <= now_unix_s:
            return read.ended(FINISHED, "all blocks are over", now_unix_s)
        if now_unix_s < one.design.ends_unix_s and (one.created_unix_s, one.name) < (read.created_unix_s, read.name):
            return read.ended(STOPPED, gave_way_to(one), now_unix_s)
    return None


def gave_way_to(other: Plan) -> str:
    which = "which was begun earlier, through another proxy, on the same servers or devices"
    return f"gave way to experiment {other.name}, {which}"
