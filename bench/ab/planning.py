"""What an experiment will take, told before it begins: its blocks, its time, and how small a difference it may show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from bench.ab.asking import strategy
from bench.ab.client import Client
from bench.ab.document import Document, arm_as_written
from bench.ab.forecast import POWER, Forecast, Unknown, forecast
from policies.strategy import UnknownStrategy
from telemetry.design import Design
from telemetry.sequential import fewest

TENTH = 0.1
ALPHA = 0.05  # the proxy's own, where nothing is asked for


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan.

    Attributes:
        asked: the body of `POST /experiments`.
        design: as the proxy makes it of that, with the lengths that it chooses where they are `auto`.
        forecast: what is expected of it, or why nobody can say; None: nobody asked.
    """

    asked: Mapping[str, Any]
    design: Design
    forecast: Forecast | Unknown | None
    notes: tuple[str, ...] = ()

    @property
    def same_arms(self) -> bool:
        return bool(self.asked["control"] == self.asked["treatment"])

    def lines(self) -> list[str]:
        """In words."""
        return [self._arms(), *self._lengths(), *self._expected(), *self._hint()]

    def _arms(self) -> str:
        control, treatment = (arm_as_written(self.asked[arm]) for arm in _ARMS)
        if self.same_arms:
            return f"A/A test: both arms are {control}. Whatever difference it shows is chance, or a fault."
        return f"control: {control}; treatment: {treatment}"

    def _lengths(self) -> list[str]:
        design = self.design
        share = 1 - design.burn_in_s / design.block_s
        ends = datetime.fromtimestamp(design.ends_unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        both = ", two at a time, one of either side," if design.parallel else ""
        whole = f"{design.blocks} blocks of {design.block_s:g} s{both} in {design.pairs} pairs: {lasts(design.lasts_s)}"
        return [f"{whole}, until {ends}; without the burn-in of {design.burn_in_s:g} s, {share:.0%} of that is analysed"]

    def _expected(self) -> list[str]:
        return [*self._too_few(), *self._foreseen()]

    def _too_few(self) -> list[str]:
        least = fewest(self.asked.get("alpha", ALPHA))
        few = self.design.pairs < least
        return [f"there is no interval before pair {least}, so this shows nothing, whatever it finds"] if few else []

    def _foreseen(self) -> list[str]:
        if self.forecast is None:
            return []
        if isinstance(self.forecast, Unknown):
            return [f"how small a difference it may show is not known: {self.forecast.why}"]
        least = self.forecast.detectable(self.design.pairs, self.asked["alpha"])
        shown = f"a saving of {least:.1%} or more is shown" if least < 1 else "no saving is shown, however large,"
        tenth = self.forecast.needed(TENTH, self.asked["alpha"])
        return [
            f"{shown} with a probability of {POWER:.0%}; for {TENTH:.0%} it takes {tenth or 'too many'} pairs",
            f"(pairs differ by chance by {self.forecast.sd:.1%}, standard deviation: {self.forecast.source})",
        ]

    def _hint(self) -> list[str]:
        """What surprises whoever tries a policy that holds for the first time."""
        control, treatment = (self.asked[arm]["policy"]["name"] for arm in _ARMS)
        watched = self.asked.get("guardrails", {}).get("ttft_p95", 0.0) is not None
        if not watched or treatment == "passthrough" or control == treatment:
            return []
        later = f"guardrail ttft_p95: who agreed to no wait and leaves with a group of {treatment} has his first token later"
        return [
            f"{later}, which may trip it; --guardrail ttft_p95=2 or =off says what may be, wait_p99_s=S bounds the others' wait"
        ]

    def as_json(self, document: Document | None) -> dict[str, Any]:
        told: dict[str, Any] = {"asked": dict(self.asked), "plan": self.lines()}
        told["design"] = asdict(self.design)
        told["forecast"] = asdict(self.forecast) if self.forecast is not None else None
        if isinstance(self.forecast, Forecast):
            told["detectable"] = self.forecast.detectable(self.design.pairs, self.asked["alpha"])
        return told | {"experiment": document.as_json() if document is not None else None}


_ARMS = ("control", "treatment")


def planned(client: Client, asked: Mapping[str, Any], told: Document, *, forecast: bool) -> Planned:
    """The plan of what is asked for, as the proxy has told it; nothing begins."""
    return Planned(asked, told.design, _foresee(client, asked, told.design) if forecast else None, told.notes)


def _foresee(client: Client, asked: Mapping[str, Any], design: Design) -> Forecast | Unknown:
    try:
        return forecast(client, asked, strategy(asked["control"]), design)
    except UnknownStrategy as error:
        return Unknown(f"control cannot be simulated here: {error}")


def lasts(seconds: float) -> str:
    """`2 h 5 min`, to two places."""
    whole = round(seconds)
    parts = [(whole // 86_400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    first = next((place for place, (count, _) in enumerate(parts) if count), 3)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count) or "0 s"
