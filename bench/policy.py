"""`paceline policy`: which policies and placements there are, what their parameters mean, and whether yours is sound."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bench.draws import BadSpec, finite
from policies.strategy import PLACEMENTS, POLICIES, UnknownStrategy, find
from policies.witness import CHECKS
from proxy.sources import ConfigError, parameters

COLOURS = {"good": "green", "doubtful": "yellow", "bad": "bold red"}
HASH_SEEDS = ("1", "2")  # the second process only has to answer like the first
KIND = click.option("--kind", type=click.Choice(["policy", "placement"]), help="[what a built-in name is, else policy]")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("policy", short_help="policies and placements: list, show, check")
def command() -> None:
    """Which policies and placements there are, what their parameters mean, and whether yours keeps the contract."""


@command.command("list")
@JSON
def list_all(as_json: bool) -> None:
    """List what is built in."""
    rows: list[dict[str, Any]] = [
        {"kind": kind, "name": name, "summary": _summary(find(kind, name)), "parameters": _parameters(find(kind, name))}
        for kind, names in (("policy", POLICIES), ("placement", PLACEMENTS))
        for name in sorted(names)
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table("kind", "name", "parameters", "what it does")
    for row in rows:
        told = ", ".join(f"{key}={value}" for key, value in row["parameters"].items())
        table.add_row(row["kind"], row["name"], told, row["summary"])
    Console().print(table)


@command.command("show")
@click.argument("name")
@KIND
def show(name: str, kind: str | None) -> None:
    """Say what NAME does, what its parameters mean, and why it is as it is."""
    kind = kind or _kind(name)
    try:
        cls = find(kind, name)
    except UnknownStrategy as error:
        raise click.UsageError(str(error)) from error
    module = inspect.getdoc(inspect.getmodule(cls)) or ""
    click.echo(f"{kind} {name}\n\n{module}\n\n{inspect.getdoc(cls) or ''}\n")
    for key, value in _parameters(cls).items():
        click.echo(f"  --set{'-placement' if kind == 'placement' else ''} {key}={value}")


@command.command("check")
@click.argument("name")
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="A parameter; may be repeated.")
@KIND
@click.option("--seed", type=int, default=0, show_default=True, help="What the questions are drawn from.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1, 86_400),
    default=120.0,
    help="Seconds; then it has failed.",
    show_default=True,
)
@JSON
def check(name: str, pairs: Sequence[str], kind: str | None, seed: int, timeout_s: float, as_json: bool) -> None:
    """Check that NAME, built-in or package.module:Name, keeps the contract of policies and placements.

    It is examined in processes of its own. Exits with 1 if a check fails, with 2 if there is nothing to check.
    """
    kind = kind or _kind(name)
    try:
        finite({"timeout": timeout_s})
        asked = {"kind": kind, "name": name, "params": parameters(pairs), "seed": seed}
    except (BadSpec, ConfigError) as error:
        raise click.UsageError(str(error)) from error
    with Console(stderr=True).status(f"examining {name}"):
        findings = _examined(asked, timeout_s)
    failed = any(finding["verdict"] == "bad" for finding in findings)
    if as_json:
        click.echo(json.dumps({"kind": kind, "name": name, "good": not failed, "findings": findings}, indent=2))
    else:
        _show(kind, name, findings)
    sys.exit(1 if failed else 0)


def _examined(asked: Mapping[str, Any], timeout_s: float) -> list[dict[str, str]]:
    """The findings of the first process, and whether the second, whose hashes are others, answers alike."""
    results = []
    for hash_seed in HASH_SEEDS:
        try:
            results.append(_examine(asked, hash_seed, timeout_s))
        except subprocess.TimeoutExpired:
            return [_finding("lively", "bad", f"no answer within {timeout_s:g} s: it hangs, or is very slow")]
    first, second = results
    if error := first.get("error"):
        raise click.UsageError(error)
    differing = [name for (name, one), (_, other) in zip(first["answers"], second["answers"], strict=False) if one != other]
    seen = f"{differing[0]}: another process, with another hash seed, answers differently" if differing else ""
    findings: list[dict[str, str]] = first["findings"]
    return [*findings, _finding("seeds", "bad" if differing else "good", seen)]


def _examine(asked: Mapping[str, Any], hash_seed: str, timeout_s: float) -> dict[str, Any]:
    child = subprocess.run(
        [sys.executable, "-P", "-m", "bench.examination"],
        input=json.dumps(asked),
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if child.returncode:
        last = (child.stderr.strip() or "nothing was said").splitlines()[-1]
        said = f"its process ended with status {child.returncode}: {last}"
        return {"findings": [_finding("answers", "bad", said)], "answers": []}
    try:
        result: dict[str, Any] = json.loads(child.stdout)
    except json.JSONDecodeError:
        return {"findings": [_finding("answers", "bad", "its process ended before it was examined")], "answers": []}
    return result


def _finding(check: str, verdict: str, detail: str) -> dict[str, str]:
    return {"check": check, "verdict": verdict, "detail": detail, "advice": "" if verdict == "good" else CHECKS[check]}


def _show(kind: str, name: str, findings: Sequence[Mapping[str, str]]) -> None:
    table = Table("check", "verdict", "what was seen, and what to do", title=f"{kind} {name}")
    for finding in findings:
        colour, advice = COLOURS[finding["verdict"]], finding["advice"]
        told = finding["detail"] + (f"\n-> {advice}" if advice else "")
        table.add_row(finding["check"], f"[{colour}]{finding['verdict']}[/]", told.replace("[", r"\["))
    Console().print(table)


def _kind(name: str) -> str:
    return "placement" if name in PLACEMENTS else "policy"


def _summary(cls: type) -> str:
    """The first sentence of what it says of itself, on one line."""
    paragraph = (inspect.getdoc(cls) or "").partition("\n\n")[0]
    return " ".join(paragraph.split())


def _parameters(cls: type) -> dict[str, str]:
    """Names and defaults, as they are written."""
    return {f.name: _default(f) for f in fields(cls) if f.init}


def _default(field: Field[Any]) -> str:
    if field.default is not MISSING:
        return "(not set)" if field.default is None else str(field.default)
    if field.default_factory is not MISSING:
        made = field.default_factory()
        return type(made).__name__.lower() if hasattr(made, "decide") or hasattr(made, "place") else str(made)
    return "(required)"
