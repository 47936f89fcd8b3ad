"""Puts the proof's programs together: the proxy under test, the recorder beside it, and the phases."""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from bench.admin import AdminPort
from bench.processes import Ports, proxy
from bench.proof.companions import companion
from bench.proof.phases import Measurement, Settings, Tell
from bench.proof.plans import Shape
from bench.proof.stand import Stand

RECORDING = "recorder.csv"


async def measure(
    settings: Settings, shape: Shape, whole_s: float, foreign_s: float, tell: Tell, provenance: dict[str, Any]
) -> None:
    """Measure into the folder `settings.out`: a JSON file a phase, the recorder's file, and where they come from.

    Args:
        settings: what to measure, and where.
        shape: how much is sent.
        whole_s: how long it takes after the warm-up.
        foreign_s: how much of that is for the neighbour at the end.
        tell: told each run as it ends.
        provenance: written beside the rows.

    Raises:
        NotHere: there is no such meter on this machine.
        AdminError: the proxy does not tell joules.
        ProcessFailed: the proxy did not start.
    """
    recorded = ("--meter", settings.meter, "--url", settings.url, "--out", str(settings.out / RECORDING))
    async with AsyncExitStack() as stack:
        ports = await stack.enter_async_context(_proxy(settings))
        admin = await stack.enter_async_context(AdminPort(ports.admin))
        stand = Stand.of(ports.data, admin, settings.model, shape.calm_s, settings.seed)
        stack.push_async_callback(stand.close)
        await stack.enter_async_context(companion("bench.proof.recorder", *recorded))
        try:
            await Measurement(settings, shape, stand, tell).perform(whole_s, foreign_s)
            provenance["status_at_end"] = await admin.status()
        finally:
            (settings.out / "provenance.json").write_text(json.dumps(provenance, indent=1) + "\n")


@asynccontextmanager
async def _proxy(settings: Settings) -> AsyncIterator[Ports]:
    """Nobody is held, and the server's dialect is found as it would be for a user."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "paceline.toml"
        file.write_text(f"[energy]\nprofile = {json.dumps(settings.profile)}\n")
        options = ("--upstream", settings.url, "--meter", settings.meter, "--policy", "passthrough", "--config", str(file))
        async with proxy(*options) as ports:
            yield ports
