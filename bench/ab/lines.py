"""Shows a running experiment where there is no terminal: a line for each block as it is told."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from bench.ab.document import ARMS, Document
from bench.ab.words import bounds, effect, figure, per_unit


class Lines:
    """Remembers what it has shown."""

    def __init__(self, console: Console) -> None:
        self._console, self._told = console, 0

    def __call__(self, document: Document, url: str = "") -> None:
        if not self._told and url:
            self._console.print(f"{document.name} runs; admin port: {url}", highlight=False)
        for line in self._news(document):
            self._console.print(line, highlight=False, markup=False)
        self._told = max(self._told, 1)

    def _news(self, document: Document) -> Iterator[str]:
        for block in document.blocks[max(self._told - 1, 0) :]:
            value = figure(getattr(block, document.metric))
            whole = "" if block.complete else "; not whole, left out with its pair"
            side = f"side {document.side(block)}, " if document.design.parallel else ""
            place = f"block {block.index + 1} of {document.design.blocks}, {side}{ARMS[block.arm]}"
            yield f"{place}: {value} {per_unit(document.metric)}{whole}"
            if block.index % 2 and document.comparison.effect is not None:
                yield f"  so far {effect(document.comparison.effect)}, {bounds(document.comparison.effect, document.alpha)}"
        self._told = len(document.blocks) + 1
