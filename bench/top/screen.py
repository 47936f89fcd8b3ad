"""A frame on a screen from some 80 columns on, of any height: numbers and power, and below them the parts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.top import parts
from bench.top.parts import MARK, ORDERS, QUIET
from bench.top.words import MEASURED, UNKNOWN, curve, figure, server, share

FIXED_LINES = 14  # all but the rows of tables, policies and experiments
UNBOUNDED = 12  # rows of a table where the screen has no height
KEPT = 600


@dataclass(slots=True)
class Screen:
    """What is shown, and how its reader wants it.

    Attributes:
        url: of the admin port.
        power_w: of all devices, a value a second.
        lost: why nothing comes; empty while it does.
    """

    url: str
    frame: dict[str, Any] | None = None
    power_w: list[float | None] = field(default_factory=list)
    lost: str = ""
    paused: bool = False
    order: str = "longest wait"

    def take(self, name: str, data: dict[str, Any]) -> None:
        """An event of the stream."""
        if name == "history":
            columns = data["power_w"].values()
            self.power_w = [_sum(values) for values in zip(*columns, strict=True)] if columns else []
        elif name == "frame":
            self.lost = ""
            self.power_w = [*self.power_w, _sum(data["point"]["power_w"].values())][-KEPT:]
            if not self.paused:
                self.frame = data
        elif name in ("lost", "closing"):
            self.lost = data.get("why", "the proxy is closing")

    def sort(self) -> None:
        names = list(ORDERS)
        self.order = names[(names.index(self.order) + 1) % len(names)]

    def show(self, width: int, height: int | None = None, *, keys: bool = False) -> RenderableType:
        """Fits the width; and the height, where there is one, as long as there is room for a row of each table."""
        if self.frame is None:
            return Text(self.lost or f"admin port {self.url}: waiting for the first frame", style=MARK if self.lost else QUIET)
        frame, rows = self.frame, _rows(self.frame, height)
        shown = [
            self._head(frame),
            _numbers(frame),
            _power(self.power_w, frame, width),
            parts.servers(frame, rows[0]),
            parts.waiting(frame, self.order, rows[1]),
            parts.groups(frame, rows[2]),
            parts.joules(frame),
            *(parts.experiment(one) for one in frame["experiments"]),
        ]
        if keys:
            state = "p goes on" if self.paused else "p pauses"
            shown.append(Text(f"q leaves  {state}  s sorts who waits: {self.order}", style=QUIET, no_wrap=True))
        return Group(*shown)

    def _head(self, frame: Mapping[str, Any]) -> RenderableType:
        strategy, at = frame["strategy"], time.strftime("%H:%M:%S", time.localtime(frame["at_unix_s"]))
        state = "lost" if self.lost else "paused" if self.paused else "closing" if frame["draining"] else "live"
        line = Text.assemble(
            ("Paceline ", "bold"),
            (f"{server(self.url)}  ", QUIET),
            f"policy {strategy['policy']}, placement {strategy['placement']}  ",
            (f"{state} {at}", "bold red" if self.lost else QUIET),
            no_wrap=True,
        )
        said = self.lost or _mark(frame)
        return Group(line, Text(said, style="red" if self.lost else MARK, no_wrap=True)) if said else line


def _mark(frame: Mapping[str, Any]) -> str:
    """What is to be known of every joule on the screen."""
    energy = frame["energy"]
    if energy is None:
        return "no meter: energy is unknown"
    return "" if energy["source"] in MEASURED else f"joules are {energy['source']}, not measured"


def _sum(values: Sequence[float | None] | Any) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _rows(frame: Mapping[str, Any], height: int | None) -> tuple[int, int, int]:
    """How many rows servers, who waits and groups get: servers a third, the others what is left."""
    wanted = len(frame["servers"]), len(frame["waiting"]["longest"]), len(frame["groups"])
    if height is None:
        return wanted[0], min(wanted[1], UNBOUNDED), min(wanted[2], UNBOUNDED)
    left = height - FIXED_LINES - len(frame["joules"]["by_policy"]) - len(frame["experiments"])
    servers = max(min(wanted[0], left // 3), 1)
    groups = min(wanted[2], max((left - servers) // 2, 1))
    waiting = max(min(wanted[1], left - servers - groups), 1)
    return servers, waiting, max(left - servers - min(waiting, wanted[1]), 1)


def _numbers(frame: Mapping[str, Any]) -> RenderableType:
    energy, room, rates, gain = frame["energy"], frame["waiting"], frame["rates"], frame["gain"]
    watts = None if energy is None else energy["power_w"] if energy["power_w"] is not None else energy["host_power_w"]
    request = frame["joules"]["all_in_j"]
    told = {
        "power": figure(watts) + (" W" if watts is not None else ""),
        "a request": figure(request) + (" J" if request is not None else ""),
        "saved, modelled": share(gain["saved_share_of_active"]) if gain is not None else UNKNOWN,
        "waiting": f"{room['held'] + room['ready']:,}",
        "in flight": f"{frame['point']['in_flight']:,}",
        "answers/s": f"{rates.get('completed', 0.0):.1f}",
        "failed/s": f"{rates.get('failed', 0.0):.1f}",
    }
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=QUIET)
    for name in told:
        table.add_column(name, no_wrap=True)
    table.add_row(*(Text(value, style="bold" if value != UNKNOWN else QUIET) for value in told.values()))
    return table


def _power(power_w: Sequence[float | None], frame: Mapping[str, Any], width: int) -> RenderableType:
    if frame["energy"] is None:
        return Text("")
    drawn = curve(power_w, max(width - 34, 10))
    most = max((value for value in power_w if value is not None), default=0.0)
    minutes = f"{len(power_w) / 60:.0f} min" if len(power_w) >= 90 else f"{len(power_w)} s"
    return Text.assemble(("power ", QUIET), (drawn, "cyan"), (f" {minutes}, up to {figure(most)} W", QUIET), no_wrap=True)
