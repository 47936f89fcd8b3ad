"""What stands in a report below its pictures: arms, guardrails, balance, assumptions, conclusions, blocks, the log."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from bench.ab import verdict_plots
from bench.ab.document import ARMS, Document
from bench.ab.html import at, escape, figure_of, table
from bench.ab.words import JUDGED, across, figure, latencies, lines_of_look_once, once, per_unit, reading
from telemetry.blocks import Block

GOOD, BAD, OPEN = "good", "bad", "open"
JUDGED_CLASS = {"holds": GOOD, "tripped": BAD, "open": OPEN, "unknown": ""}
CHECKED = {True: (GOOD, "holds"), False: (BAD, "doubt"), None: ("", "too early to tell")}
LIMITS = (
    "It is of this traffic, on these servers, in this time; another load may answer otherwise.",
    "The interval may be looked at as often as anybody likes. The other figures are for one look at the end.",
    "Guardrails compare percentiles of blocks, which a policy that holds requests moves for those who agreed to be held.",
)


def arms(document: Document) -> Iterator[str]:
    found = document.comparison
    yield "<h2>Both arms, analysed pairs</h2>"
    heads = (
        "arm",
        per_unit(found.metric),
        "joules",
        "requests",
        "completed",
        "output tokens",
        "errors",
        "late",
        "crossing",
        "burn-in J",
        "across borders J",
    )
    rows = [
        (
            ARMS[number],
            figure(arm.value),
            figure(arm.energy_j, 0),
            *(f"{count:,}" for count in (arm.requests, arm.completed, arm.output_tokens, arm.errors, arm.late, arm.crossing)),
            figure(arm.burn_in_j, 0),
            across(arm),
        )
        for number, arm in enumerate(found.arms)
    ]
    yield table(heads, rows)
    yield (
        '<p class="soft">Requests count in the block that they arrived in. Joules across borders: what an arm\'s requests used'
        " after their block (its sum lacks them), and what others' requests used within it (its sum has them too many).</p>"
    )
    yield "<ul>"
    yield from (f'<li class="soft">{escape(line)}</li>' for line in lines_of_look_once(document))
    yield "</ul>"


def guardrails(document: Document) -> Iterator[str]:
    found = document.comparison.guardrails
    yield "<h2>Guardrails</h2>"
    if not found:
        yield "<p>None was set.</p>"
        return
    yield figure_of(
        verdict_plots.guardrails(document),
        "The experiment stops once an always-valid interval is wholly beyond its line.",
    )
    yield '<div class="scroll"><table><tr><th>guardrail</th><th>treatment against control</th><th>allowed</th><th>pairs</th>'
    yield '<th class="words">verdict</th></tr>'
    for one in found:
        told, allowed = reading(one)
        yield (
            f"<tr><td>{escape(one.name)}</td><td>{told}</td><td>{allowed}</td><td>{one.pairs}</td>"
            f'<td class="words {JUDGED_CLASS[one.judgement]}">{JUDGED[one.judgement]}</td></tr>'
        )
    yield "</table></div>"


def covariates(document: Document) -> Iterator[str]:
    found = document.comparison
    if not found.covariates:
        return
    yield "<h2>Were the arms tried on the same traffic?</h2>"
    yield figure_of(
        verdict_plots.balance(document),
        "Means and 95 % intervals over pairs. The orders were drawn, so only chance parts them.",
    )
    rows = [
        (
            one.name.replace("_", " "),
            f"{one.control:.4g}",
            f"{one.treatment:.4g}",
            {True: "even", False: "uneven", None: "too early to tell"}[one.even],
        )
        for one in found.covariates
    ]
    yield table(("", "control", "treatment", "balance"), rows)
    if found.adjusted is not None:
        yield f"<p>With these equal, the effect is {once(found.adjusted)} (for one look).</p>"


def assumptions(document: Document) -> Iterator[str]:
    yield "<h2>What is assumed, and whether it holds</h2>"
    yield '<div class="scroll"><table><tr><th>assumption</th><th class="words">verdict</th><th class="words">why</th></tr>'
    for check in document.comparison.checks:
        tone, word = CHECKED[check.holds]
        name = escape(check.name.replace("_", " "))
        yield f'<tr><td>{name}</td><td class="words {tone}">{word}</td><td class="words">{escape(check.says)}</td></tr>'
    yield "</table></div>"


def concluded(document: Document) -> Iterator[str]:
    """What follows, and what does not."""
    yield "<h2>What may be concluded</h2>\n<ul>"
    yield from (f"<li>{escape(line)}</li>" for line in (*_may(document), *LIMITS))
    yield "</ul>"


def _may(document: Document) -> Iterator[str]:
    found = document.comparison
    certain = ceil(1 / document.alpha)
    if document.same_arms:
        if found.verdict in ("saves", "costs"):
            yield (
                f"Both arms are the same, and a difference was found all the same. That happens to at most one A/A test in"
                f" {certain}; if another finds one too, the set-up is at fault: do not believe an A/B test of it."
            )
        else:
            yield "The A/A test found nothing, as it should. That it can find something, only an A/B test shows."
    elif found.verdict == "saves":
        yield "The treatment takes fewer joules for the same work. The interval says how many fewer; its middle alone does not."
    elif found.verdict == "costs":
        yield "The treatment takes more joules for the same work: leave the control in force."
    elif found.verdict == "not shown":
        yield "That there is no difference is not shown either: the interval holds all that may be. More pairs narrow it."
    else:
        yield "Nothing yet: there are too few pairs that are whole."
    if document.simulated:
        yield "Its joules are a model's. What a real server saves, only a meter says."


def blocks(document: Document) -> Iterator[str]:
    if not document.blocks:
        return
    yield f"<h2>Blocks</h2>\n<details><summary>all {len(document.blocks)} blocks</summary>"
    unit = per_unit(document.metric)
    heads: tuple[str, ...] = (
        "block",
        *(["side"] if document.design.parallel else []),
        "arm",
        unit,
        "J",
        "burn-in J",
        "requests",
        "tokens",
        "first token p95",
    )
    heads += ("a token p95", "wait p99", "errors", "late", "°C")
    yield '<div class="scroll"><table><tr>' + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"
    lost = {one.pair for one in document.comparison.lost}
    for block in document.blocks:
        row = "".join(f"<td>{cell}</td>" for cell in _block(block, document))
        yield f"{'<tr class=lost>' if block.pair in lost else '<tr>'}{row}</tr>"
    yield "</table></div>"
    yield from (f'<p class="soft">Pair {one.pair + 1} is lost: {escape(one.why)}.</p>' for one in document.comparison.lost)
    yield "</details>"


def _block(block: Block, document: Document) -> tuple[str, ...]:
    return (
        str(block.index + 1),
        *([document.side(block)] if document.design.parallel else []),
        f'<span class="dot {ARMS[block.arm]}"></span>{ARMS[block.arm]}',
        figure(getattr(block, document.metric)),
        figure(block.energy_j, 0),
        figure(block.burn_in_j, 0),
        f"{block.requests:,}",
        f"{block.output_tokens:,}",
        *latencies(block, digits=1),
        str(block.errors),
        str(block.late),
        "" if block.temperature_c is None else f"{block.temperature_c:.0f}",
    )


def log(document: Document) -> Iterator[str]:
    if not document.logged:
        return
    yield f"<h2>Log</h2>\n<details><summary>{len(document.logged)} decisions</summary>"
    rows = []
    for line in document.logged:
        about = [f"{key} {line[key]}" for key in ("arm", "side", "why", "guardrails") if line.get(key)]
        block = line["block"]["index"] if isinstance(line.get("block"), dict) else line.get("block")
        place = f"block {block + 1}" if isinstance(block, int) else ""
        rows.append((at(line.get("at_unix_s", 0.0)), str(line.get("event", "")), place, "; ".join(about)))
    yield table(("when", "what", "", ""), rows, words=True)
    yield "</details>"
