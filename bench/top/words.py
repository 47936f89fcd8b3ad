"""How numbers and names are written on the screen, as on the page."""

from __future__ import annotations

from collections.abc import Sequence

BARS = "▁▂▃▄▅▆▇█"
UNKNOWN = "unknown"
MEASURED = ("counter", "power_integral")


def figure(value: float | None) -> str:
    """Three figures or so: 0.284, 2.84, 28.4, 284, 2,840."""
    if value is None:
        return UNKNOWN
    size = abs(value)
    return f"{value:,.{0 if size >= 100 or size == 0 else 1 if size >= 10 else 2 if size >= 1 else 3}f}"


def seconds(value: float | None) -> str:
    if value is None:
        return "-"
    if value < 0:
        return "now"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 100:
        return f"{value:.1f} s"
    return f"{value / 60:.0f} min" if value < 5400 else f"{value / 3600:.1f} h"


def share(value: float | None, digits: int = 1) -> str:
    return UNKNOWN if value is None else f"{value * 100:.{digits}f} %"


def server(name: str) -> str:
    return name.removeprefix("http://").removeprefix("https://")


def curve(values: Sequence[float | None], width: int) -> str:
    """The latest values as a line of bars from zero up, each the mean of its part; a gap where nothing is known."""
    if not values or width < 1:
        return ""
    each = -(-len(values) // width)
    parts = [[one for one in values[at : at + each] if one is not None] for at in range(len(values) % each, len(values), each)]
    means = [sum(part) / len(part) if part else None for part in parts]
    most = max((one for one in means if one is not None), default=0.0)
    return "".join(" " if one is None else BARS[round(one / most * (len(BARS) - 1)) if most > 0 else 0] for one in means)
