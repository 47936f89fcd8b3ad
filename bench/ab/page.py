"""A report as one HTML page that asks for nothing from elsewhere: what was found, how it went, and what to believe of it."""

from __future__ import annotations

from collections.abc import Iterator

from bench.ab import plots, sections
from bench.ab.document import ARMS, Document
from bench.ab.html import at, escape, figure_of
from bench.ab.planning import lasts
from bench.ab.style import STYLE
from bench.ab.words import VERDICTS, bounds, effect, marked, per_unit
from telemetry.design import CONTROL, TREATMENT

VERDICT_CLASS = {"saves": "good", "costs": "bad"}


def page(document: Document) -> str:
    """The page, UTF-8."""
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(document.name)}: {escape(VERDICTS[document.comparison.verdict])}</title>",
            f"<style>{STYLE}</style>\n</head>\n<body>",
            *_body(document),
            "</body>\n</html>\n",
        )
    )


def _body(document: Document) -> Iterator[str]:
    yield from _head(document)
    yield from _verdict(document)
    yield from _pictures(document)
    yield from sections.arms(document)
    yield from sections.guardrails(document)
    yield from sections.covariates(document)
    yield from sections.assumptions(document)
    yield from sections.concluded(document)
    yield from sections.blocks(document)
    yield from sections.log(document)
    yield from _provenance(document)


def _head(document: Document) -> Iterator[str]:
    design = document.design
    yield f"<h1>{escape(document.name)}</h1>"
    began = at(design.began_unix_s)
    last = max((block.end_unix_s for block in document.blocks), default=design.began_unix_s)
    state = document.state + (f": {document.why}" if document.why else "")
    yield f'<p class="soft">{document.kind}, {began} to {at(last)}; {escape(state)}.</p>'
    if document.simulated:
        sources = ", ".join(document.comparison.sources) or "simulated"
        yield f'<p><span class="marked">joules are {escape(sources)}, not measured</span></p>'
    if document.same_arms:
        yield '<p><span class="marked">A/A test: both arms are the same; whatever it finds is chance, or a fault</span></p>'
    yield '<div class="arms">'
    for arm in (CONTROL, TREATMENT):
        yield f'<span><span class="dot {ARMS[arm]}"></span>{escape(document.label(arm))}</span>'
    yield "</div>"
    yield from (f'<p class="soft">{escape(line)}</p>' for line in document.side_lines())


def _verdict(document: Document) -> Iterator[str]:
    found = document.comparison
    tone = "bad" if found.tripped else VERDICT_CLASS.get(found.verdict, "")
    yield f'<div class="verdict {tone}">'
    if found.effect is not None:
        yield f'<div class="big">{effect(found.effect)} <small>{per_unit(found.metric)}{escape(marked(document))}</small></div>'
        yield f"<p>{bounds(found.effect, found.alpha)}; {found.pairs} of {found.planned} pairs are analysed</p>"
    yield "<ul>"
    yield from (f"<li>{escape(line)}</li>" for line in found.says)
    yield "</ul></div>"


def _pictures(document: Document) -> Iterator[str]:
    yield "<h2>How it went</h2>"
    if not document.blocks:
        yield "<p>No block is over yet.</p>"
        return
    yield figure_of(
        plots.series(document),
        "Each bar is one block's joules over its output tokens, from the end of its burn-in. Dotted lines part the pairs; which"
        + (" side has which arm" if document.design.parallel else " arm goes first")
        + " in each was drawn before the start.",
    )
    yield figure_of(
        plots.course(document),
        "The verdict is the band's: once it leaves zero, it may be believed, whenever one looked. It begins with the pair from"
        " which on there can be an interval at all.",
    )


def _provenance(document: Document) -> Iterator[str]:
    design = document.design
    told = {
        "design": f"{design.pairs} pairs of blocks of {design.block_s:g} s, burn-in {design.burn_in_s:g} s, seed {design.seed},"
        f" strata of {design.pairs_per_stratum} pairs; {lasts(design.lasts_s)}",
        "group of servers": document.group,
        "restarts": str(document.restarts) if document.restarts else "",
        "notes": "; ".join(document.notes),
        **{key: _plain(key, value) for key, value in document.provenance.items()},
    }
    yield "<h2>Where this comes from</h2>\n<dl>"
    for key, value in told.items():
        if value:
            yield f"<dt>{escape(key.replace('_unix_s', '').replace('_', ' '))}</dt><dd>{escape(value)}</dd>"
    yield "</dl>"
    yield "<footer><p>Made by <code>paceline ab report</code>. The method and its sources: docs/experiments.md.</p></footer>"


def _plain(key: str, value: object) -> str:
    if key.endswith("_unix_s") and isinstance(value, (int, float)):
        return at(value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {one}" for name, one in value.items() if one is not None)
    return ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
