"""A simulation's tables for the terminal; every joule in them is modelled, and says so."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from bench.report import OVERALL, Percentiles
from bench.simulation.figures import Figures, front
from bench.simulation.run import Found, Setting

LEGEND = (
    "p50 / p99; active: net of idle power; against straight: its joules over these; wait: what is added;"
    " *: no other has both fewer joules and less wait on average"
)


def show(found: Found, setting: Setting, console: Console) -> None:
    """All of it; two tables, so that each fits into a terminal."""
    console.print(_joules(found, setting))
    console.print(_service(found))
    tiers = [name for name in found.straight.latency if name != OVERALL]
    if len(tiers) > 1:
        console.print(_by_tier(found.strategies, tiers))
    console.print(f"[dim]{LEGEND}[/]", highlight=False, soft_wrap=True)
    for line in remarks(found, setting):
        console.print(line, highlight=False, soft_wrap=True)


def _shown(found: Found) -> list[Figures]:
    return [*found.strategies, *([found.achieved] if found.achieved else [])]


def _joules(found: Found, setting: Setting) -> Table:
    slept = any(one.asleep_s for one in _shown(found))
    title = f"Simulated with profile {setting.model.name}: joules are modelled, none is measured"
    heads = ["policy / placement", "J/request", "active", "idle", "J/token", "against straight"]
    weighed = [f"{setting.rate.unit}/request"] if setting.rate is not None else []
    table = _table(title, [*heads, *weighed, *(["asleep h"] if slept else [])])
    best = front(found.strategies)
    for one in _shown(found):
        if one is found.achieved:
            table.add_section()
        table.add_row(
            f"{one.name}{' *' if one.name in best and one is not found.achieved else ''}",
            f"{one.j_per_request:,.1f}",
            f"{one.active_j_per_request:,.1f}",
            f"{one.idle_j / one.energy_j:.0%}" if one.energy_j else "",
            f"{one.energy_j / max(one.output_tokens, 1):,.2f}",
            _against(one, found.straight),
            *([_footprint(one, found.straight)] if weighed else []),
            *([f"{one.asleep_s / 3600:,.2f}"] if slept else []),
        )
    if found.optimum is not None:
        active = found.optimum.active_j / max(found.straight.completed, 1)
        table.add_row("no schedule spends less than", "", f"{active:,.1f}", *[""] * (len(table.columns) - 3))
    return table


def _service(found: Found) -> Table:
    bad = [name for name in ("late", "refused", "faults") if any(getattr(one, name) for one in _shown(found))]
    table = _table("What it did to requests", ["policy / placement", "wait s", "first token s", "ms/token", "group", *bad])
    for one in _shown(found):
        latency = one.overall
        table.add_row(
            one.name,
            pair(latency.wait_s),
            pair(latency.ttft_s),
            pair(latency.tpot_s, 1000, 1),
            f"{one.group_mean:,.1f}",
            *(_bad(getattr(one, name)) for name in bad),
        )
    return table


def _against(one: Figures, straight: Figures) -> str:
    if one is straight or not one.j_per_request:
        return ""
    ratio = straight.j_per_request / one.j_per_request
    return f"{ratio:.2f}x ({1 / ratio - 1:+.0%})"


def _footprint(one: Figures, straight: Figures) -> str:
    had, before = one.footprint_per_request, straight.footprint_per_request
    if had is None:
        return ""
    change = f" ({had / before - 1:+.1%})" if before and one is not straight else ""
    return f"{had:,.3g}{change}"


def _by_tier(strategies: Sequence[Figures], tiers: Sequence[str]) -> Table:
    heads = [f"{tier}: {what}" for tier in tiers for what in ("wait s", "first token s")]
    table = _table("By tier, p50 / p99", ["policy / placement", *heads])
    for one in strategies:
        told = [one.latency.get(tier) for tier in tiers]
        cells = [(pair(at.wait_s), pair(at.ttft_s)) if at else ("", "") for at in told]
        table.add_row(one.name, *(cell for both in cells for cell in both))
    return table


def remarks(found: Found, setting: Setting) -> list[str]:
    """What the figures say, in words."""
    said = []
    best = found.least_active
    if found.optimum is not None and found.achieved is not None:
        above = best.active_j / found.optimum.active_j - 1
        reached = found.achieved.active_j / found.optimum.active_j - 1
        said.append(
            f"Least active joules: {best.name}, {above:.1%} above what no schedule can be below"
            f" (a schedule that knows all lengths and arrivals comes within {reached:.1%} of it)."
        )
    elif found.without:
        said.append(found.without)
    if any(one.late for one in found.strategies):
        said.append("Late: left after their deadline because no server had a slot; no policy chose that.")
    if setting.model.sleep_power_w is None and any("sleepy" in one.name for one in found.strategies):
        said.append(f"Profile {setting.model.name} does not say that a server can sleep (sleep_power_w), so none slept.")
    said += [*_weighed(found, setting), *setting.notes]
    nobody = all(arrival.waiting.deadline <= arrival.waiting.arrived_at for arrival in setting.arrivals)
    if nobody and not any("no request is" in note for note in setting.notes):
        said.append("Nobody may be held, so a policy has nothing to decide; --slack-all S or --slack flex=S says what if.")
    return said


def _weighed(found: Found, setting: Setting) -> list[str]:
    """What grams are of, and which joules are not in them."""
    if setting.rate is None:
        return []
    said = [f"{setting.rate.unit}/request: each interval's joules, idle ones too, times what {setting.rate.source} says then."]
    unknown = max(one.footprint.unknown_j / one.energy_j for one in found.strategies if one.footprint and one.energy_j)
    if unknown > 0:
        said.append(f"Up to {unknown:.1%} of a strategy's joules are in none: the file has no value for when they are drawn.")
    return said


def pair(part: Percentiles | None, times: float = 1.0, digits: int = 2) -> str:
    """`p50 / p99`."""
    return "" if part is None else f"{part.p50 * times:,.{digits}f} / {part.p99 * times:,.{digits}f}"


def _bad(count: int) -> str:
    return f"[bold red]{count:,}[/]" if count else ""


def _table(title: str, heads: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for number, head in enumerate(heads):
        table.add_column(head, justify="left" if number == 0 else "right", no_wrap=number > 0, overflow="fold")
    return table
