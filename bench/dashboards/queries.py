"""PromQL from the table of metric names: what dashboards ask is always something that Paceline exports."""

from __future__ import annotations

from telemetry import names
from telemetry.names import Name, exported

SCOPE = 'job=~"$job",instance=~"$instance"'
WINDOW = "$__rate_interval"
RANGE = "$__range"
SERVER = "server_address, server_port"
COMPLETED = 'error_type=""'
GPU = 'energy_scope="gpu"'


def of(name: Name, where: str = "", part: str = "") -> str:
    """The series of the chosen proxies that `where` fits."""
    return f"{exported(name, part)}{{{','.join(filter(None, (SCOPE, where)))}}}"


def total(name: Name, by: str = "", where: str = "") -> str:
    """A gauge, added up."""
    return f"{_sum(by)}({of(name, where)})"


def power() -> str:
    """Watts of each device. Several proxies may meter one, and each then tells all of its watts."""
    return f"max by (hw_id, energy_source) ({of(names.HW_POWER)})"


def rate(name: Name, by: str = "", where: str = "", part: str = "", window: str = WINDOW) -> str:
    """So much a second."""
    return f"{_sum(by)}(rate({of(name, where, part)}[{window}]))"


def increase(name: Name, by: str = "", where: str = "", part: str = "", window: str = RANGE) -> str:
    """So much in all of the time that is shown."""
    return f"{_sum(by)}(increase({of(name, where, part)}[{window}]))"


def quantile(q: float, name: Name, by: str = "", where: str = "") -> str:
    """Of a histogram."""
    return f"histogram_quantile({q}, {rate(name, ', '.join(filter(None, ('le', by))), where, 'bucket')})"


def mean(name: Name, by: str = "", where: str = "", window: str = WINDOW) -> str:
    """Of a histogram: its sum over its count."""
    return over(rate(name, by, where, "sum", window), rate(name, by, where, "count", window))


def over(numerator: str, denominator: str) -> str:
    """A ratio, or nothing where there is nothing to divide by."""
    return f"{numerator} / ({denominator} > 0)"


def _sum(by: str) -> str:
    return f"sum by ({by}) " if by else "sum "
