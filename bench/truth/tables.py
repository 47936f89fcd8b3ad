"""The study as Markdown: what is shown on the screen, and kept beside the picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import fmean, stdev
from typing import Any

from telemetry.student import quantile

LINE = "| {} |".format


def tables(report: Mapping[str, Any]) -> str:
    return "\n".join([*_false(report), "", *_covered(report), "", *_power(report), "", *_splits(report)]) + "\n"


def _percent(told: Mapping[str, Any]) -> str:
    low, high = told["interval"]
    return f"{100 * told['share']:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _named(told: Mapping[str, Any]) -> str:
    cell = told["cell"]
    return f"{cell['kind']}: {cell['name']}, {cell['pairs']} pairs, {cell['experiments']} experiments"


def _rows(*cells: str) -> str:
    return LINE(" | ".join(cells))


def _false(report: Mapping[str, Any]) -> Iterator[str]:
    yield "A/A: per cent of experiments that show an effect though there is none (95 % interval); 5 is allowed"
    yield ""
    heads = (
        "always valid, watched",
        "adjusted, watched",
        "t, watched",
        "asymptotic CS, watched",
        "t, at the end",
        "randomisation, at the end",
    )
    yield _rows("A/A", *heads, "a guardrail trips")
    yield _rows(*["---"] * 8)
    for told in report["cells"]:
        if told["effect_percent"] == 0:
            keys = ("watched", "adjusted_watched", "watched_student", "watched_asymptotic", "student", "randomised", "tripped")
            yield _rows(_named(told), *(_percent(told[key]) for key in keys))


def _covered(report: Mapping[str, Any]) -> Iterator[str]:
    yield "Coverage: per cent of experiments with the truth in the interval; 95 is promised. In brackets: half the interval, %"
    yield ""
    heads = ("always valid, every look", "adjusted, every look", "t, at the end", "adjusted, at the end", "ratio of sums")
    yield _rows("cell", "true effect", "mean estimate", *heads)
    yield _rows(*["---"] * 8)
    for told in report["cells"]:
        halves = [
            f" [{100 * told[key]:.1f}]" if told[key] else ""
            for key in ("half", "adjusted_valid_half", "student_half", "adjusted_half")
        ]
        keys = ("covered", "adjusted_always", "student_covered", "adjusted_covered", "sums_covered")
        shown = [_percent(told[key]) + half for key, half in zip(keys, [*halves, ""], strict=True)]
        yield _rows(_named(told), f"{told['effect_percent']:+.2f} %", f"{told['mean_percent']:+.2f} %", *shown)


def _power(report: Mapping[str, Any]) -> Iterator[str]:
    yield "Power: per cent of experiments that find a true effect"
    yield ""
    heads = ("always valid, watched", "at the end", "(predicted)", "adjusted, watched", "t, at the end", "(predicted)")
    yield _rows("cell", "effect", *heads)
    yield _rows(*["---"] * 8)
    for told in report["cells"]:
        if told["effect_percent"] != 0:
            expected = told["predicted"] or {}
            shown = [f"{100 * expected[key]:.1f}" if key in expected else "" for key in ("at_the_end", "student")]
            found = [_percent(told[key]) for key in ("watched", "at_the_end", "adjusted_watched", "student")]
            yield _rows(_named(told), f"{told['effect_percent']:+.1f} %", *found[:2], shown[0], *found[2:], shown[1])


def _splits(report: Mapping[str, Any]) -> Iterator[str]:
    yield "Passthrough against span on one server: joules a token, idle included, mean and standard deviation over experiments"
    yield ""
    yield _rows(
        "rate", "true", "split by request", "off by (95 %)", "switchback", "off by (95 %)", "net of idle: true", "split"
    )
    yield _rows(*["---"] * 8)
    for told in report["splits"]:
        true = told["true"]
        yield _rows(
            f"{told['rate']:g}/s, {len(true)} experiments",
            _spread(true),
            _spread(told["dealt"]),
            _off(told["dealt"], true),
            _spread(told["switchback"]),
            _off(told["switchback"], true),
            _spread(told["true_net"]),
            _spread(told["dealt_net"]),
        )


def _spread(values: list[float]) -> str:
    return f"{fmean(values):+.1f} % ± {stdev(values):.1f}"


def _off(values: list[float], true: list[float]) -> str:
    """By pairs of seeds, as they had the same traffic or as much of it."""
    gaps = [one - other for one, other in zip(values, true, strict=True)]
    return f"{fmean(gaps):+.1f} ± {quantile(0.975, len(gaps) - 1) * stdev(gaps) / len(gaps) ** 0.5:.1f}"
