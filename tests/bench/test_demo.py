"""The demo, as a user starts it, and its picture."""

from __future__ import annotations

import json
from pathlib import Path

from bench.processes import Child


async def test_the_demo_compares_and_keeps_its_word(tmp_path: Path) -> None:
    child = await Child.start("demo", "--quick", "--out", str(tmp_path / "demo"))
    assert await child.finished(60) == 0, child.output
    report = json.loads((tmp_path / "demo/report.json").read_text())
    assert report["marked"] == "simulated"
    phases = {name: phase["report"] for name, phase in report["phases"].items()}
    assert set(phases) == {"straight", "span", "spread", "pack"}
    for phase in phases.values():
        assert phase["completed"] == phase["planned"]
        assert phase["energy"]["source"] == "simulated"
    # the same traffic in both arms of a comparison
    assert phases["straight"]["planned"] == phases["span"]["planned"]
    assert phases["span"]["energy"]["active_j_per_request"] < phases["straight"]["energy"]["active_j_per_request"]
    assert phases["pack"]["energy"]["j_per_request"] < phases["spread"]["energy"]["j_per_request"]
    interactive = phases["span"]["latency"].get("interactive")
    assert interactive is None or interactive["wait_s"]["max"] < 0.1
    assert "simulated" in child.output
    assert (tmp_path / "demo/report.png").read_bytes().startswith(b"\x89PNG")
