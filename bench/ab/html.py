"""Pieces of HTML: tables, figures, instants."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape

__all__ = ["at", "escape", "figure_of", "table"]


def at(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def figure_of(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>" if svg else ""


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, words: bool = False) -> str:
    tag = ' class="words"' if words else ""
    top = "".join(f"<th{tag}>{escape(head)}</th>" for head in heads)
    body = "".join("<tr>" + "".join(f"<td{tag}>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{top}</tr>{body}</table></div>'
