"""The demo in the terminal: progress while it runs, a table and a plain sentence at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from bench.demo_phases import Phase, Watched


class Screen:
    """Live where there is a terminal; else a line a phase."""

    def __init__(self, plan: Sequence[Phase], console: Console | None = None) -> None:
        self._plan = plan
        self._console = console or Console()
        self._seen: dict[str, Watched] = {}
        self._live = Live(self._table(), console=self._console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self._console.print("Starting simulated H200 engines and a proxy; every joule below is [bold]simulated[/].")
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def show(self, watched: Watched) -> None:
        """The latest of the phase that runs."""
        self._seen[watched.phase.name] = watched
        if self._console.is_terminal:
            self._live.update(self._table())
        elif watched.report is not None:
            energy = watched.report["energy"]
            joules = f"{energy['j_per_request']:.1f} J/request (simulated)" if energy else "energy unknown"
            self._console.print(f"{watched.phase.title}: {watched.report['completed']} requests, {joules}")

    def _table(self) -> Table:
        table = Table("", "power now W", "held", "in flight", "done", "J/request", title="simulated", title_justify="left")
        for phase in self._plan:
            watched = self._seen.get(phase.name)
            table.add_row(phase.title, *(_now(watched) if watched else ("", "", "", "", "")))
        return table

    def conclude(self, report: Mapping[str, Any]) -> None:
        """The table of all phases, and what it says."""
        self._live.stop()
        self._console.print(summary(report))
        for sentence in conclusions(report):
            self._console.print(sentence)


def _now(watched: Watched) -> tuple[str, ...]:
    if watched.report is not None:
        energy = watched.report["energy"]
        joules = f"{energy['j_per_request']:.1f}" if energy else "unknown"
        return ("", "", "", str(watched.report["completed"]), joules)
    room = watched.status.get("room", {})
    power = f"{watched.power[-1][1]:.0f}" if watched.power else ""
    return (power, str(room.get("held", "")), str(room.get("in_flight", "")), "...", "")


ROWS: tuple[tuple[str, Callable[[Mapping[str, Any]], str]], ...] = (
    ("requests", lambda r: f"{r['completed']}"),
    ("J/request with idle", lambda r: f"{r['energy']['j_per_request']:.1f}"),
    ("J/request charged", lambda r: f"{r['energy']['active_j_per_request']:.1f}"),
    ("J/output token", lambda r: f"{r['energy']['j_per_output_token']:.2f}"),
    ("mean power W", lambda r: f"{r['energy']['mean_power_w']:.0f}"),
    ("added wait s, interactive", lambda r: _wait(r, "interactive")),
    ("added wait s, flex", lambda r: _wait(r, "flex")),
    ("first token s, interactive", lambda r: _first(r, "interactive")),
    ("first token s, flex", lambda r: _first(r, "flex")),
    ("time per token ms", lambda r: _pair(r["latency"]["all"]["tpot_s"], 1000, 2)),
    ("group size, mean", lambda r: f"{r['groups']['mean']:.1f}" if r["groups"] else ""),
)


def _wait(report: Mapping[str, Any], tier: str) -> str:
    return _pair(report["latency"].get(tier, {}).get("wait_s"), 1, 3)


def _first(report: Mapping[str, Any], tier: str) -> str:
    return _pair(report["latency"].get(tier, {}).get("ttft_s"), 1, 3)


def _pair(percentiles: Mapping[str, float] | None, scale: float, digits: int) -> str:
    if percentiles is None:
        return "-"
    return f"{percentiles['p50'] * scale:.{digits}f} / {percentiles['p99'] * scale:.{digits}f}"


def summary(report: Mapping[str, Any]) -> Table:
    """A column a phase; every joule in it is simulated, and its title says so."""
    phases = report["phases"].values()
    title = f"all simulated: profile {report['profile']}, engine lag {report['lag']:.1%}; pairs are p50 / p99"
    table = Table("", *(phase["title"] for phase in phases), title=title, title_justify="left")
    for name, cell in ROWS:
        table.add_row(name, *(cell(phase["report"]) if phase["report"]["energy"] else "unknown" for phase in phases))
    return table


def conclusions(report: Mapping[str, Any]) -> list[str]:
    """What the comparisons say, and whether they may be believed."""
    problems = [f"{name}: {problem}" for name, phase in report["phases"].items() for problem in phase["report"]["problems"]]
    if report["void"]:
        problems.append(f"the engines were {report['lag']:.0%} late, so this machine is too busy: the run is void")
    told = [f"[bold red]{problem}[/]" for problem in problems]
    energies = {name: phase["report"]["energy"] for name, phase in report["phases"].items()}
    if None in energies.values():
        return told
    joules = {name: energy["j_per_request"] for name, energy in energies.items()}
    grouping, packing = joules["straight"] / joules["span"], joules["spread"] / joules["pack"]
    return [
        f"Grouping: {grouping:.2f} times fewer joules a request (simulated); {_cost(report['phases'])}.",
        f"Packing: {packing:.2f} times fewer joules a request (simulated); nobody waited.",
        *told,
    ]


def _cost(phases: Mapping[str, Any]) -> str:
    """Who paid for the grouping, and how much. An interactive request takes along who waits, and shares its first step."""
    straight, span = (phases[name]["report"]["latency"] for name in ("straight", "span"))
    told = []
    if (flex := span.get("flex")) and flex["wait_s"]:
        told.append(f"flex requests waited {flex['wait_s']['p50']:.1f} s in the median, {flex['wait_s']['max']:.1f} s at most")
    if "interactive" in span and "interactive" in straight:
        before, after = (1000 * latency["interactive"]["ttft_s"]["max"] for latency in (straight, span))
        told.append(f"interactive ones did not wait, but their latest first token came after {after:.0f} ms, not {before:.0f}")
    return "; ".join(told)
