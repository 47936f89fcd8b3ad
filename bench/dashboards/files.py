"""Which dashboards there are, and where their JSON lies."""

from __future__ import annotations

from pathlib import Path

from bench.dashboards.audit import audit
from bench.dashboards.experiments import experiments
from bench.dashboards.fleet import fleet
from bench.dashboards.overview import overview
from bench.dashboards.tenants import tenants

FOLDER = Path(__file__).parents[2] / "charts/paceline/dashboards"


def dashboards() -> dict[str, str]:
    """JSON by the name of its file."""
    made = {"overview": overview, "experiments": experiments, "audit": audit, "fleet": fleet, "tenants": tenants}
    return {name: make() for name, make in made.items()}
