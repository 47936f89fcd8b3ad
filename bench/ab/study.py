"""The study of `bench/switchback_gpu.py`: its slices under one load, its folder, and its reports."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import click

from bench.ab import ending, folder, terminal
from bench.ab.asking import arm
from bench.ab.client import Client
from bench.ab.document import Document
from bench.ab.lines import Lines
from bench.ab.slices import joined, slice_of, strata
from bench.draws import BadSpec
from bench.processes import ProcessFailed, running
from bench.studies.provenance import provenance
from telemetry.design import Design

KINDS = ("ab", "aa")
STRAIGHT = {"policy": {"name": "passthrough", "params": {}}, "placement": {"name": "spread", "params": {}}}
ENDS_S = 12.0  # after the last block: its requests end, and their joules are settled
LOOKS_EVERY_S = 0.5
GUARDRAILS = {"ttft_p95": None, "tpot_p95": 1.5}  # all requests agree to wait


@dataclass(frozen=True, slots=True)
class Setting:
    """A study as it was asked for."""

    given: dict[str, Any]
    began_at: float = field(default_factory=time.monotonic)

    def __getattr__(self, name: str) -> Any:
        return self.given[name]

    @property
    def store(self) -> Path:
        return Path(self.given["out"]).resolve() / "experiments"

    @property
    def slice_s(self) -> float:
        return float(2 * self.given["slice_pairs"] * self.given["block_s"] + ENDS_S)

    @property
    def left_s(self) -> float:
        return float(self.given["budget_s"]) - (time.monotonic() - self.began_at)

    def design(self, kind: str) -> Design:
        """The whole one; an A/A test is its own draw."""
        seed = self.given["seed"] + KINDS.index(kind)
        return Design(0.0, self.given["block_s"], self.given["burn_in_s"], self.given["pairs"], seed, self.given["slice_pairs"])

    def arms(self, kind: str) -> dict[str, Any]:
        control = arm(self.given["control"], STRAIGHT)
        return {"control": control, "treatment": control if kind == "aa" else arm(self.given["treatment"], STRAIGHT)}


def same_study(setting: Setting) -> None:
    """A folder is of one study: what decides its blocks may not change between runs."""
    same = {key: value for key, value in setting.given.items() if key not in ("out", "budget_s", "warm_s", "pairs", "urls")}
    file = Path(setting.given["out"]) / "study.json"
    if not file.exists():
        file.write_text(json.dumps(same, indent=1) + "\n")
    elif changed := [key for key, value in json.loads(file.read_text()).items() if same.get(key) != value]:
        raise BadSpec(f"{file.parent} holds a study with another {', '.join(changed)}; choose another --out")


def study(setting: Setting) -> None:
    todo = _todo(setting)
    click.echo(
        f"{len(todo)} slices of {setting.slice_s:.0f} s are left, of {sum(len(strata(setting.design(k))) for k in KINDS)}"
    )
    if todo and setting.warm_s + setting.slice_s <= setting.left_s:
        ending.run(_perform(setting, todo))
    if left := _todo(setting):
        click.echo(f"{len(left)} slices found no time; the same command makes them")
    _report(setting)


async def _perform(setting: Setting, todo: Sequence[tuple[str, int]]) -> None:
    """As many slices as there is time for, under one load; one that was cut off is ended."""
    async with AsyncExitStack() as stack:
        data, admin = await _serving(stack, setting)
        load = await stack.enter_async_context(running("load", "--url", data, *_load(setting)))
        await asyncio.sleep(setting.warm_s)
        with Client(admin) as client:
            await asyncio.to_thread(client.stop_all)
            await asyncio.to_thread(_keep_provenance, client, setting)
            for kind, number in todo:
                if setting.slice_s > setting.left_s:
                    break
                await _run_slice(client, setting, kind, number)
                if load.process.returncode is not None:
                    raise ProcessFailed(f"the load ended too early; it printed:\n{load.output}")


async def _serving(stack: AsyncExitStack, setting: Setting) -> tuple[str, str]:
    """`paceline serve` in front of the servers; it keeps experiments in the folder."""
    environ = {
        **os.environ,
        "PACELINE_EXPERIMENTS__PATH": str(setting.store),
        "PACELINE_SLACK__INTERACTIVE__MAX_S": f"{max(setting.hold_s, 2.0):g}",
        "PACELINE_ENERGY__PROFILE": setting.profile,
    }
    options = [word for url in setting.urls for word in ("--upstream", url)]
    options += ["--policy", "passthrough", "--dialect", setting.dialect, "--meter", setting.meter, "--host", "127.0.0.1"]
    options += ["--port", "0", "--admin-port", "0", *(("--config", setting.config) if setting.config else ())]
    child = await stack.enter_async_context(running("serve", *options, environ=environ))
    ready = await child.ready(r"paceline ready: data (\S+) admin (\S+)")
    return ready[1], ready[2]


def _load(setting: Setting) -> list[str]:
    """Another seed in each run, so that no prompt is found in a prefix cache that a former run has filled."""
    seed = (setting.seed * 1_000_003 + int(time.time())) % 2**31
    told = {"rate": setting.rate, "duration": setting.left_s + 60, "seed": seed, "model": setting.model, "dialect": "openai"}
    told |= {"prompt-tokens": setting.prompt_tokens, "output-tokens": setting.output_tokens, "max-hold": setting.hold_s}
    words = [word for key, value in told.items() for word in (f"--{key}", str(value))]
    return [*words, "--prompt-ids", "--ignore-eos"]


async def _run_slice(client: Client, setting: Setting, kind: str, number: int) -> None:
    design = slice_of(setting.design(kind), number)
    asked = {
        "name": _name(kind, number),
        **setting.arms(kind),
        "block_s": design.block_s,
        "burn_in_s": design.burn_in_s,
        "pairs": design.pairs,
        "pairs_per_stratum": design.pairs_per_stratum,
        "seed": design.seed,
        "guardrails": GUARDRAILS,
    }
    document = await asyncio.to_thread(client.start, asked)
    told = Lines(terminal.plain())
    while document.running:
        told(document, client.url)
        await asyncio.sleep(LOOKS_EVERY_S)
        document = await asyncio.to_thread(client.get, document.name)
    told(document, client.url)
    click.echo(f"{document.name}: {document.state} {document.why}".rstrip())


def _name(kind: str, number: int) -> str:
    return f"{kind}-{number:03}"


def _todo(setting: Setting) -> list[tuple[str, int]]:
    """Slices that have not begun, the two experiments by turns. One that was cut off is not made again: its order is known."""
    begun = set(folder.names(setting.store))
    numbers = strata(setting.design(KINDS[0]))
    return [(kind, number) for number in numbers for kind in KINDS if _name(kind, number) not in begun]


def _slices(setting: Setting, kind: str) -> list[tuple[int, Document]]:
    begun = set(folder.names(setting.store))
    numbers = [number for number in strata(setting.design(kind)) if _name(kind, number) in begun]
    return [(number, folder.read(setting.store, _name(kind, number))) for number in numbers]


def _keep_provenance(client: Client, setting: Setting) -> None:
    """Of this run, before its first slice."""
    told = client.provenance()
    about = told | provenance("bench.switchback_gpu", setting.urls, setting.meter, told["devices"])
    (setting.out / f"provenance-{int(about['date_unix_s'])}.json").write_text(json.dumps(about, indent=1) + "\n")


def _report(setting: Setting) -> None:
    from bench.ab.page import page

    abouts = _abouts(setting.out)
    for kind in KINDS:
        if slices := _slices(setting, kind):
            document = replace(joined(setting.design(kind), kind, slices), provenance=_provenance(setting, abouts))
            (setting.out / f"report-{kind}.json").write_text(json.dumps(document.as_json(), indent=1) + "\n")
            (setting.out / f"report-{kind}.html").write_text(page(document))
            terminal.report(document, terminal.plain())


def _abouts(out: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(out.glob("provenance-*.json"))]


def _provenance(setting: Setting, abouts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of the last run, and how many there were."""
    traffic = ("rate", "hold_s", "prompt_tokens", "output_tokens", "model", "profile")
    return {
        **(abouts[-1] if abouts else {}),
        "runs": len(abouts),
        "traffic": ", ".join(f"{key} {setting.given[key]}" for key in traffic),
        "whole_design": asdict(setting.design(KINDS[0])),
    }
