"""Writes docs/commands.md from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

import click

from proxy.cli import main

PAGE = Path(__file__).parent.parent / "docs/commands.md"

HEAD = """# Commands

Written by `python -m bench.reference` from the commands; each says the same by `--help`.

`paceline serve` takes its settings as flags, too; all of them are in [configuration.md](configuration.md).
"""


def page() -> str:
    """The whole page: every command, its arguments and options."""
    return HEAD + "".join(_section(command, path) for command, path in commands(main, "paceline"))


def commands(command: click.Command, path: str) -> Iterator[tuple[click.Command, str]]:
    """Every command below one, and how it is called."""
    if not isinstance(command, click.Group):
        yield command, path
        return
    context = click.Context(command, info_name=path)
    for name in command.list_commands(context):
        if (below := command.get_command(context, name)) is not None:
            yield from commands(below, f"{path} {name}")


def _section(command: click.Command, path: str) -> str:
    context = click.Context(command, info_name=path)
    usage = " ".join(command.collect_usage_pieces(context))
    options = [option for option in command.get_params(context) if isinstance(option, click.Option) and not option.hidden]
    rows = "".join(_row(option, context) for option in options if "--help" not in option.opts)
    table = f"\n| option | default | meaning |\n| --- | --- | --- |\n{rows}" if rows else ""
    return f"\n## {path}\n\n    {path} {usage}\n\n{_text(command)}\n{table}"


def _text(command: click.Command) -> str:
    """Its help; what click shows as it is written is shown as it is written."""
    paragraphs = cleandoc(command.help or "").split("\n\n")
    return "\n\n".join(
        "```\n" + paragraph.removeprefix("\b\n") + "\n```" if paragraph.startswith("\b") else " ".join(paragraph.split())
        for paragraph in paragraphs
    )


def _row(option: click.Option, context: click.Context) -> str:
    """A row, as `--help` would say it."""
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    kind = "" if option.is_flag else f" {_escaped(option.make_metavar(context))}"
    default = option.get_default(context, call=False)
    shown = "" if option.is_flag or default is None or callable(default) or not option.show_default else f"`{default}`"
    meaning = _escaped(" ".join((option.help or "").split()))
    return f"| {names}{kind} | {'required' if option.required else shown} | {meaning} |\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
