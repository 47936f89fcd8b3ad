"""`python -m bench.proof --url URL --model NAME --meter nvml --out DIR`: proves on a running server that joules are true.

Starts `paceline serve` in front of the server, and a recorder that reads the device apart from it; (a) the counter against
integrated power, (b) equal requests streamed and not, (c) two classes apart and together, (d) other methods of splitting,
(f) a neighbour on the device. Mixed load fills the time that these leave. `python -m bench.proof.plot DIR` draws it.
"""

from __future__ import annotations

import asyncio
import platform
import shlex
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from bench.admin import AdminError
from bench.processes import ProcessFailed
from bench.proof.companions import NotHere
from bench.proof.measure import measure
from bench.proof.phases import Settings, Tell
from bench.proof.plans import SMALL, Shape
from bench.proof.verdicts import MEASURED, PROOFS, judge
from telemetry.cost import BUILT_IN, StepModel, load_profile

STARTS_S = 12.0  # proxy, recorder and warm-up
FOREIGN_STARTS_S = 15.0  # its CUDA context


@click.command()
@click.option("--url", default="http://127.0.0.1:8011", show_default=True, help="A running server that speaks OpenAI's API.")
@click.option("--model", default="m", show_default=True, help="What the server calls its model.")
@click.option("--meter", type=click.Choice(["nvml", "simulated"]), default="nvml", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A folder.")
@click.option("--minutes", type=float, default=10.0, show_default=True, help="Of load; mixed load fills them.")
@click.option("--only", default=",".join(PROOFS), show_default=True, help="Which proofs.")
@click.option("--profile", default=BUILT_IN, show_default=True, help="A built-in step model, or a JSON file's path.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--small", is_flag=True, help="A tenth of everything, to try it; it proves nothing.")
@click.option("--judge", "only_judge", is_flag=True, help="Measure nothing: judge what lies in the folder.")
def main(out: Path, only: str, profile: str, only_judge: bool, small: bool, minutes: float, **given: Any) -> None:
    """Measure, judge, and end with status 1 if a claim does not hold."""
    proofs = [name.strip() for name in only.split(",") if name.strip()]
    if unknown := set(proofs) - set(PROOFS):
        raise click.UsageError(f"--only {', '.join(sorted(unknown))}: there are {', '.join(PROOFS)}")
    try:
        steps = load_profile(profile)
        if not only_judge:
            phases = [name for name in MEASURED if name in proofs]
            _measure(Settings(out=out, phases=phases, profile=profile, **given), SMALL if small else Shape(), minutes, steps)
        verdicts = judge(out, steps, proofs)
    except (ValueError, NotHere, AdminError, ProcessFailed, FileNotFoundError) as error:
        raise click.ClickException(str(error)) from error
    for verdict in verdicts:
        click.echo(str(verdict))
    sys.exit(any(verdict.holds is False for verdict in verdicts))


def _measure(settings: Settings, shape: Shape, minutes: float, steps: StepModel) -> None:
    """Tells the plan first, and keeps to it: what is left of the time is mixed load.

    Raises:
        NotHere, AdminError, ProcessFailed: it cannot be measured.
    """
    if not settings.phases:
        raise click.UsageError("(d) looks at what other proofs measure: name one of them too")
    if settings.out.exists() and any(settings.out.iterdir()):
        raise click.UsageError(f"{settings.out} is not empty: it may hold an earlier measurement")
    settings.out.mkdir(parents=True, exist_ok=True)
    expected = {name: seconds for name, seconds in shape.seconds(steps).items() if name in settings.phases}
    if settings.meter != "nvml":
        expected.pop("f", None)  # there is no device for a neighbour
    elif "f" in expected:
        expected["f"] += FOREIGN_STARTS_S
    whole_s = max(minutes * 60, sum(expected.values())) if "a" in settings.phases else sum(expected.values())
    tell = _teller(STARTS_S + whole_s)
    fixed = [f"({name}) {seconds:.0f} s" for name, seconds in expected.items()]
    filler = [f"(a) mixed load for {whole_s - sum(expected.values()):.0f} s"] if "a" in settings.phases else []
    tell(f"start and warm-up {STARTS_S:.0f} s, then {', '.join([*fixed, *filler])}")
    provenance = {
        "command": shlex.join(("python", "-m", "bench.proof", *sys.argv[1:])),
        "date_unix_s": time.time(),
        "versions": {"paceline": version("paceline"), "python": platform.python_version()},
        "settings": asdict(settings) | {"out": str(settings.out)},
        "shape": asdict(shape),
        "step_model": asdict(steps),
    }
    asyncio.run(measure(settings, shape, whole_s, expected.get("f", 0.0), tell, provenance))


def _teller(whole_s: float) -> Tell:
    """Progress, with the time left."""
    ends_at_s = time.monotonic() + whole_s

    def tell(text: str) -> None:
        click.echo(f"{max(ends_at_s - time.monotonic(), 0.0):4.0f} s left  {text}", err=True)

    return tell


if __name__ == "__main__":
    main()
