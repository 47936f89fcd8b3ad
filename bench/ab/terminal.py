"""Experiments on a terminal: the plan, how it stands, and what it came to."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.ab.document import ARMS, Document
from bench.ab.planning import Planned, lasts
from bench.ab.words import (
    JUDGED,
    VERDICTS,
    across,
    bounds,
    effect,
    figure,
    latencies,
    lines_of_look_once,
    marked,
    per_unit,
    reading,
)
from telemetry.blocks import Block
from telemetry.guardrails import Verdict

WIDE = 140  # columns where the terminal does not say
SHOWN = 12  # blocks of a running experiment
COLOUR = {"holds": "green", "open": "yellow", "tripped": "bold red", "unknown": "dim"}
VERDICT_COLOUR = {"saves": "bold green", "costs": "bold red", "not shown": "bold", "incomplete": "bold yellow"}


def plain() -> Console:
    """A console that is as wide as a report needs where it is no terminal."""
    console = Console()
    if not console.is_terminal:
        console.width = WIDE
    return console


def plan(planned: Planned, document: Document | None, console: Console) -> None:
    for line in planned.lines():
        console.print(line, highlight=False, markup=False)
    for note in planned.notes if document is None else document.notes:
        console.print(note, highlight=False, markup=False)
    if document is None:
        console.print("Nothing was begun (--plan).", highlight=False, style="dim")
        return
    console.print(
        f"[bold]{document.name}[/] runs; `paceline ab status {document.name} --watch` looks at it,"
        f" `paceline ab stop {document.name}` ends it",
        highlight=False,
    )


def status(document: Document, url: str = "", silent: str = "") -> RenderableType:
    """How it stands: what rules now, the latest blocks, the effect so far, and the guardrails.

    Args:
        document: as it was told last.
        url: of the admin port, where nobody knows it.
        silent: why the proxy does not answer now.
    """
    parts: list[RenderableType] = [_head(document), _effect(document)]
    if document.blocks:
        parts.append(_blocks(document.blocks[-SHOWN:], document))
    if document.comparison.guardrails and document.comparison.pairs:
        parts.append(_guardrails(document.comparison.guardrails))
    if document.running:
        parts.append(Text("Looking often does no harm: the interval allows for it.", style="dim"))
    if (other := document.other_in_force) is not None:
        parts.append(Text(f"In force now is {other}, and not this experiment's control.", style="yellow"))
    if silent:
        parts.append(Text(f"It does not answer, and is asked again; above is what it told last. {silent}", style="yellow"))
    if url:
        parts.append(Text(f"admin port: {url}", style="dim"))
    return Group(*parts)


def _head(document: Document) -> Text:
    design = document.design
    told = Text.assemble((document.name, "bold"), f": {_state(document)}\n")
    for arm in (0, 1):
        told.append(f"  {document.label(arm)}\n")
    for line in document.side_lines():
        told.append(f"  {line}\n")
    if document.same_arms:
        told.append("  A/A test: both arms are the same, so whatever it finds is chance or a fault\n")
    lengths = f"{design.blocks} blocks of {design.block_s:g} s, burn-in {design.burn_in_s:g} s, seed {design.seed}"
    told.append(f"  {document.kind.lower()}: {lengths}\n", "dim")
    return told


def _state(document: Document) -> str:
    if not document.running or not document.now:
        return f"{document.state}{f': {document.why}' if document.why else ''}"
    block, ends = document.now.get("block"), document.now.get("ends_unix_s")
    left = lasts(max(document.design.ends_unix_s - time.time(), 0))
    sides = document.now.get("sides")
    ruling = f"side A has {sides[0]} and side B {sides[1]}" if sides else f"{document.now['arm']} rules"
    rules = ruling + (f" for {max(ends - time.time(), 0):.0f} s more" if ends else "")
    also = f" and {block + 2}" if sides and block is not None else ""
    where = f"block {block + 1}{also} of {document.design.blocks}" if block is not None else "no block is due"
    return f"running, {where}; {rules}; {left} left" + (f". {document.why}" if document.why else "")


def _effect(document: Document) -> Text:
    found = document.comparison
    told = Text.assemble("  ", (VERDICTS[found.verdict], VERDICT_COLOUR[found.verdict]))
    if found.effect is not None:
        told.append(f"  {effect(found.effect)} {per_unit(found.metric)}{marked(document)}", "bold")
        told.append(f", {bounds(found.effect, found.alpha)}, after {found.pairs} of {found.planned} pairs")
    if found.lost:
        told.append(f"; {len(found.lost)} pairs lost")
    return told.append("\n")


def _blocks(blocks: Sequence[Block], document: Document) -> Table:
    heads = [
        "block",
        *(["side"] if document.design.parallel else []),
        "arm",
        per_unit(document.metric),
        "J",
        "requests",
        "tokens",
        "first token p95",
        "a token p95",
    ]
    table = _table([*heads, "wait p99", "errors", "late"])
    for block in blocks:
        style = ("cyan" if block.arm == 0 else "dark_orange") if block.complete else "dim strike"
        table.add_row(
            str(block.index + 1),
            *([document.side(block)] if document.design.parallel else []),
            ARMS[block.arm],
            figure(getattr(block, document.metric)),
            figure(block.energy_j, 0),
            str(block.requests),
            str(block.output_tokens),
            *latencies(block),
            str(block.errors or ""),
            str(block.late or ""),
            style=style,
        )
    return table


def _guardrails(verdicts: Sequence[Verdict]) -> Table:
    table = _table(["guardrail", "treatment against control", "allowed", "pairs", ""], words=(4,))
    for one in verdicts:
        told = JUDGED[one.judgement]
        table.add_row(one.name, *reading(one), str(one.pairs), f"[{COLOUR[one.judgement]}]{told}[/]")
    return table


def report(document: Document, console: Console) -> None:
    """All of it."""
    found = document.comparison
    console.print(_head(document))
    console.print(_effect(document))
    for line in found.says:
        console.print(f"- {line}", highlight=False, markup=False)
    console.print()
    console.print(_arms(document))
    for line in lines_of_look_once(document):
        console.print(line, highlight=False, markup=False, style="dim")
    if found.guardrails:
        console.print(_guardrails(found.guardrails))
    console.print(_checks(document))
    console.print(_blocks(document.blocks, document))


def _arms(document: Document) -> Table:
    heads = ["arm", per_unit(document.metric), "J", "requests", "tokens", "errors", "late", "burn-in J", "across borders J"]
    table = _table(heads)
    for arm, number in zip(document.comparison.arms, (0, 1), strict=True):
        counts = (arm.requests, arm.output_tokens, arm.errors, arm.late)
        joules = (figure(arm.burn_in_j, 0), across(arm))
        table.add_row(document.label(number), figure(arm.value), figure(arm.energy_j, 0), *(f"{n:,}" for n in counts), *joules)
    return table


def _checks(document: Document) -> Table:
    table = _table(["what is assumed", "", ""], words=(1, 2))
    marks = {True: "[green]holds[/]", False: "[bold red]doubt[/]", None: "[dim]too early[/]"}
    for check in document.comparison.checks:
        table.add_row(check.name.replace("_", " "), marks[check.holds], Text(check.says))
    return table


def listing(documents: Sequence[Document]) -> RenderableType:
    """One line each."""
    if not documents:
        return Text("no experiment; `paceline ab start` begins one")
    table = _table(["name", "state", "control", "treatment", "pairs", "effect", ""], words=(1, 2, 3, 6))
    for one in documents:
        found = one.comparison
        table.add_row(
            one.name,
            one.state,
            one.arm(0),
            one.arm(1),
            f"{found.pairs} of {found.planned}",
            effect(found.effect) if found.effect is not None else "",
            VERDICTS[found.verdict],
        )
    return table


def _table(heads: Sequence[str], words: Sequence[int] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for number, head in enumerate(heads):
        left = number == 0 or number in words
        table.add_column(head, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    return table
