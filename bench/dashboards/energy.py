"""What a joule per request and per token is, on every dashboard alike: idle included, and net of idle power."""

from __future__ import annotations

from bench.dashboards.queries import GPU, WINDOW, over, rate
from telemetry import names

SOURCE = "energy_source"
NET = "Net: without what the GPUs draw with nobody in flight; that is what requests are charged."
WHOLE = "Idle included: all that the GPUs' meters counted, over the requests that ended with known joules. Proxies that meter "
WHOLE += "the same GPUs each tell all of it: choose one instance."
BY_SOURCE = "Told by source: counter, power_integral and replayed were measured; simulated and modelled were not."


def net_per_request(by: str = SOURCE, where: str = "", window: str = WINDOW) -> str:
    """Joules that requests were charged, over how many they were."""
    energy = names.REQUEST_ENERGY
    return over(rate(energy, by, where, "sum", window), rate(energy, by, where, "count", window))


def net_per_token(by: str = SOURCE, where: str = "", window: str = WINDOW) -> str:
    """... over their output tokens."""
    return over(rate(names.REQUEST_ENERGY, by, where, "sum", window), rate(names.OUTPUT_TOKENS, by, where, window=window))


def whole_per_request(window: str = WINDOW) -> str:
    """Counted joules, idle and unattributed ones included, over requests."""
    counted = rate(names.COUNTED_ENERGY, SOURCE, GPU, window=window)
    return over(counted, rate(names.REQUEST_ENERGY, SOURCE, "", "count", window))


def whole_per_token(window: str = WINDOW) -> str:
    """... over output tokens."""
    return over(rate(names.COUNTED_ENERGY, SOURCE, GPU, window=window), rate(names.OUTPUT_TOKENS, SOURCE, window=window))


def unattributed_share(by: str = "", window: str = WINDOW) -> str:
    """Of what idle power does not explain."""
    unattributed, counted, idle = (
        rate(name, by, GPU, window=window) for name in (names.UNATTRIBUTED_ENERGY, names.COUNTED_ENERGY, names.IDLE_ENERGY)
    )
    return f"{unattributed} / (({counted} - {idle}) > 0)"


def modelled_saving(window: str = WINDOW) -> str:
    """MODELLED: the share of joules that the strategy in force saves against straight through."""
    energy = names.SHADOW_ENERGY
    as_run, straight = (rate(energy, "", f'paceline_strategy="{name}"', window=window) for name in ("as_run", "straight"))
    return f"1 - {over(as_run, straight)}"
