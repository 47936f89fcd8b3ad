"""The parts of the screen below its numbers: servers, who waits, groups that left, joules, experiments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.top.words import MEASURED, figure, seconds, server, share

QUIET, MARK = "dim", "yellow"
ORDERS: Mapping[str, Any] = {  # of who waits; `s` goes to the next
    "longest wait": lambda row: -row["waited_s"],
    "nearest deadline": lambda row: row["deadline_in_s"] if row["deadline_in_s"] is not None else float("inf"),
    "tier": lambda row: (row["tier"], -row["waited_s"]),
    "tenant": lambda row: (row["tenant"], -row["waited_s"]),
}


def grid(*columns: str) -> Table:
    """Numbers to the right (>), words to the left; what is too long for its column is cut."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=QUIET, expand=False)
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", no_wrap=True)
    return table


def servers(frame: Mapping[str, Any], most: int) -> RenderableType:
    table = grid("server", ">in flight", ">slots", ">power", "state", "group")
    for row in frame["servers"][:most]:
        state = server_state(row)
        table.add_row(
            server(row["name"])[:30],
            f"{row['in_flight']:,}",
            "no limit" if row["slots"] is None else f"{row['slots']:,}",
            "-" if row["power_w"] is None else f"{row['power_w']:.0f} W",
            Text(state, style="" if state == "works" else "bold red" if "fails" in state else MARK),
            row["group"][:12],
        )
    return titled("Servers", table, len(frame["servers"]) - most)


def server_state(row: Mapping[str, Any]) -> str:
    if row["circuit"] == "open":
        return "fails: circuit open"
    if row["circuit"] != "closed":
        return "is tried again"
    if row["state"] != "awake":
        return str(row["state"]).replace("_", " ")
    return "works" if row["healthy"] else "takes no more"


def waiting(frame: Mapping[str, Any], order: str, most: int) -> RenderableType:
    room = frame["waiting"]
    tiers = ", ".join(f"{tier['tier']} {tier['held']:,} held {tier['ready']:,} ready" for tier in room["by_tier"])
    table = grid(">waited", ">at the latest in", "tier", "tenant", "why")
    for row in sorted(room["longest"], key=ORDERS[order])[:most]:
        latest = seconds(row["deadline_in_s"])
        table.add_row(seconds(row["waited_s"]), latest, row["tier"], row["tenant"][:12] or "-", row["why"][:40])
    return titled(f"Waiting: {tiers or 'nobody'}", table, room["held"] + room["ready"] - min(most, len(room["longest"])))


def groups(frame: Mapping[str, Any], most: int) -> RenderableType:
    table = grid(">ago", ">size", ">first waited", "let go by", "to")
    for row in frame["groups"][:most]:
        to = ", ".join(
            f"{count} x {server(name)}" if len(row["servers"]) > 1 else server(name) for name, count in row["servers"].items()
        )
        table.add_row(
            seconds(row["ago_s"]),
            str(row["size"]),
            seconds(row["waited_s"]),
            row["policy"],
            to if len(to) <= 36 else f"{to[:35]}…",
        )
    return titled(f"Groups that left; {frame['alone']:,} requests alone in the last minute", table, 0)


def joules(frame: Mapping[str, Any]) -> RenderableType:
    if frame["energy"] is None:
        return Text("Joules: unknown, as no meter tells of these servers", style="bold", no_wrap=True)
    minute, error_uj = frame["energy"]["last_minute"], frame["energy"]["since_start"]["conservation_error_uj"]
    line = Text.assemble(
        ("Last minute  ", "bold"),
        f"requests {figure(minute['requests_j'])} J, idle {figure(minute['idle_j'])} J, "
        f"unattributed {share(minute['unattributed_share'], 2)}, ",
        ("conserved", QUIET) if error_uj == 0 else (f"NOT CONSERVED by {error_uj:,} uJ", "bold red"),
        no_wrap=True,
    )
    for row in frame["joules"]["by_policy"]:
        mark = "" if row["source"] in MEASURED else f", {row['source']}"
        told = f"\n  {row['policy']}: {figure(row['per_request_j'])} J a request, {figure(row['per_token_j'])} a token"
        line.append(f"{told}, net of idle ({row['requests']:,} requests{mark})")
    return line


def experiment(one: Mapping[str, Any]) -> RenderableType:
    found = one["result"]
    ends = f" for {seconds(one['ends_in_s'])}" if one["ends_in_s"] is not None else ""
    sides = ", ".join(f"{side} {arm}" for side, arm in zip("AB", one["sides"] or (), strict=False))
    line = Text.assemble(
        (f"Experiment {one['name']}  ", "bold"), f"{sides or one['arm']}: {one['policy']}{ends}; ", no_wrap=True
    )
    if found is None or found["effect"] is None:
        return line.append("no pair is analysed yet")
    bounds = f" ({share(found['low'])} to {share(found['high'])})" if found["low"] is not None else ""
    line.append(
        f"effect {share(found['effect'])}{bounds}, {found['verdict']}, {found['pairs']} of {one['pairs_planned']} pairs"
    )
    tripped = [name for name, judged in found["guardrails"].items() if judged == "tripped"]
    return line.append(f"; {', '.join(tripped)} tripped", style="bold red") if tripped else line


def titled(title: str, table: Table, more: int) -> RenderableType:
    head = Text.assemble((title, "bold"), (f"  and {more:,} more" if more > 0 and table.row_count else "", QUIET), no_wrap=True)
    return Group(head, table) if table.row_count else head
