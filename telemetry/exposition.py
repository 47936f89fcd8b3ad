"""Devices in Prometheus's text format, by the names that the proxy's own metrics have there."""

from __future__ import annotations

from collections.abc import Iterator

from telemetry import names
from telemetry.gauges import SERIES, Gauges
from telemetry.names import Kind, Name
from telemetry.snapshot import Snapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
UNITS = {"J": "joules", "W": "watts", "s": "seconds"}
ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def devices(snapshot: Snapshot, now_s: float) -> str:
    """Energy, power and age of all devices.

    Args:
        snapshot: the devices.
        now_s: monotonic clock.
    """
    gauges = Gauges(now_s=now_s, telemetry=snapshot)
    return "".join(line for name in (names.HW_ENERGY, names.HW_POWER, names.METER_AGE) for line in _metric(name, gauges))


def _metric(name: Name, gauges: Gauges) -> Iterator[str]:
    shown = f"{name.name.replace('.', '_')}_{UNITS[name.unit]}" + ("_total" if name.kind is Kind.COUNTER else "")
    yield f"# HELP {shown} {name.description}\n# TYPE {shown} {name.kind}\n"
    for value, attributes in SERIES[name](gauges):
        labels = ",".join(f'{key.replace(".", "_")}="{str(told).translate(ESCAPES)}"' for key, told in attributes.items())
        yield f"{shown}{{{labels}}} {value!r}\n"
