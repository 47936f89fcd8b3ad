"""What can go wrong in `paceline ab` for its user's reasons, told in a line instead of a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from bench.ab.client import NotAnswered
from bench.ab.document import BadDocument
from bench.draws import BadSpec
from bench.processes import ProcessFailed


@contextmanager
def errors() -> Iterator[None]:
    """Ctrl-C is no error: it ends what is looked at."""
    try:
        yield
    except (NotAnswered, BadDocument, BadSpec, ProcessFailed) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        click.echo("", err=True)
