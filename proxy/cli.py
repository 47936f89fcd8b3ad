"""The `paceline` command: each of its commands is named here by an import string, and imported only when it is used."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version

import click

COMMANDS = {
    "serve": "proxy.serve:command",
    "demo": "bench.demo:command",
    "engine": "bench.engine.server:command",
    "meter": "proxy.meter:command",
    "load": "bench.load:command",
    "calibrate": "bench.calibrate:command",
    "simulate": "bench.simulation.command:command",
    "advise": "bench.advise.command:command",
    "policy": "bench.policy:command",
    "ab": "bench.ab.command:command",
    "top": "bench.top.command:command",
    "key": "proxy.keys:command",
}


class LazyGroup(click.Group):
    """A group that imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=LazyGroup)
@click.version_option(version("paceline"), prog_name="paceline")
def main() -> None:
    """An energy-aware HTTP proxy in front of LLM inference servers."""


if __name__ == "__main__":
    main()
