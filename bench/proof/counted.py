"""Proof (a): the proxy's account against the counter, the counter against integrated power, and what is left over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bench.proof.claims import Judged, Verdict
from bench.proof.figures import Spread
from bench.proof.recording import Recording
from bench.proof.rows import Phase, Row

WINDOW_S = 10.0
LONG_ENOUGH_S = 600.0
AGREES_WITHIN = 0.03
ACCOUNT_WITHIN = 0.005  # the two look at the counter at other instants, and so see its steps a little elsewhere
UNATTRIBUTED_BELOW = 0.03
EXACT_J = 1e-5  # microjoules, told as floats

Second = Mapping[str, float]


def judge_counted(phases: Sequence[Phase], recording: Recording) -> Judged:
    """All phases together are the load."""
    seconds = sorted((second for phase in phases for second in phase.seconds), key=lambda second: second["since_s"])
    if not seconds:
        return Judged([Verdict("a", "the counter agrees with integrated power", None, "nothing was measured")])
    devices = sorted({device for phase in phases for run in phase.runs for device in run.devices})
    numbers = _numbers(seconds, recording, devices)
    own = [phase for phase in phases if phase.name != "f"]  # with nobody else on the device
    shares = _shares([second for phase in own for second in phase.seconds], [row for phase in own for row in phase.rows])
    return Judged(
        [_against_power(numbers), _against_counter(numbers), _left_over(shares), _conserved(seconds)],
        {**numbers, "unattributed": shares},
    )


def _numbers(seconds: Sequence[Second], recording: Recording, devices: Sequence[str]) -> dict[str, Any]:
    since_s, until_s = seconds[0]["since_s"], seconds[-1]["since_s"] + 1.0
    counter_j = recording.counter_j(since_s, until_s, devices)
    power_j = recording.power_j(since_s, until_s, devices)
    spans = [(second["since_s"], second["since_s"] + 1.0) for second in seconds]
    recorded = [recording.counter_j(since, until, devices) for since, until in spans]
    windows = list(_windows(since_s, until_s, recording, devices))
    return {
        "seconds": until_s - since_s,
        "sources": sorted(recording.sources),
        "counter_j": counter_j,
        "power_j": power_j,
        "ratio": counter_j / power_j if counter_j is not None and power_j else None,
        "windows_of_10_s": windows,
        "spread": asdict(spread) if (spread := Spread.of([w["ratio"] for w in windows])) else None,
        "account_j": sum(second["counted_j"] for second in seconds),
        "counter_in_the_same_seconds_j": None if None in recorded else sum(joules or 0.0 for joules in recorded),
    }


def _windows(since_s: float, until_s: float, recording: Recording, devices: Sequence[str]) -> Iterator[dict[str, float]]:
    for number in range(int((until_s - since_s) / WINDOW_S)):
        began_s = since_s + number * WINDOW_S
        counter_j = recording.counter_j(began_s, began_s + WINDOW_S, devices)
        power_j = recording.power_j(began_s, began_s + WINDOW_S, devices)
        if counter_j is not None and power_j:
            yield {"at_s": began_s - since_s, "power_w": counter_j / WINDOW_S, "ratio": counter_j / power_j}


def _shares(seconds: Sequence[Second], rows: Sequence[Row]) -> dict[str, float | None]:
    """Of what the counter moved in seconds with somebody there, without anybody, and in all."""
    busy = list(_busy(rows))
    loaded = [any(start < s["since_s"] + 1.0 and end > s["since_s"] for start, end in busy) for s in seconds]
    return {
        "all": _share(seconds),
        "loaded": _share([second for second, there in zip(seconds, loaded, strict=True) if there]),
        "idle": _share([second for second, there in zip(seconds, loaded, strict=True) if not there]),
    }


def _busy(rows: Sequence[Row]) -> Iterator[tuple[float, float]]:
    """Times with somebody in flight."""
    start = end = float("-inf")
    for row in sorted(rows, key=lambda row: row.sent_s):
        if row.sent_s > end:
            yield start, end
            start = row.sent_s
        end = max(end, row.ended_s)
    yield start, end


def _share(seconds: Sequence[Second]) -> float | None:
    counted_j = sum(second["counted_j"] for second in seconds)
    return sum(second["unattributed_j"] for second in seconds) / counted_j if counted_j else None


def _against_power(numbers: Mapping[str, Any]) -> Verdict:
    claim = f"over {LONG_ENOUGH_S / 60:.0f} min of mixed load counter and integrated power agree within {AGREES_WITHIN:.0%}"
    ratio, spread, seconds = numbers["ratio"], numbers["spread"], numbers["seconds"]
    if numbers["sources"] != ["counter"] or ratio is None or spread is None:
        return Verdict("a", claim, None, f"no power is told beside a counter (source: {', '.join(numbers['sources'])})")
    told = f"ratio {ratio:.4f} over {seconds:.0f} s; 10-s windows {spread['least']:.4f} to {spread['most']:.4f}"
    return Verdict("a", claim, abs(ratio - 1) <= AGREES_WITHIN if seconds >= LONG_ENOUGH_S else None, told)


def _against_counter(numbers: Mapping[str, Any]) -> Verdict:
    claim = f"the proxy counts what the counter moved, within {ACCOUNT_WITHIN:.1%}"
    account_j, counter_j = numbers["account_j"], numbers["counter_in_the_same_seconds_j"]
    if not counter_j:
        return Verdict("a", claim, None, "the recorder did not see all of it")
    told = f"{account_j:.1f} J in its account, {counter_j:.1f} J on the counter"
    return Verdict("a", claim, abs(account_j / counter_j - 1) <= ACCOUNT_WITHIN, told)


def _left_over(shares: Mapping[str, float | None]) -> Verdict:
    claim = f"less than {UNATTRIBUTED_BELOW:.0%} is unattributed with no neighbour"
    if shares["all"] is None:
        return Verdict("a", claim, None, "nothing was measured without one")
    told = ", ".join(f"{name} {share:.2%}" for name, share in shares.items() if share is not None)
    return Verdict("a", claim, shares["all"] < UNATTRIBUTED_BELOW, told)


def _conserved(seconds: Sequence[Second]) -> Verdict:
    most_j = max(abs(s["counted_j"] - s["requests_j"] - s["idle_j"] - s["unattributed_j"]) for s in seconds)
    claim = "requests + idle + unattributed = counted in every second"
    return Verdict("a", claim, most_j <= EXACT_J, f"{len(seconds)} seconds, {most_j:.1e} J off at most")
