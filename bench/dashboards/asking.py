"""Asks a Prometheus what a dashboard asks, with Grafana's variables put in as Grafana would."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from types import TracebackType
from typing import Any, Self

import httpx

JOB = "paceline"  # as docker/prometheus and the chart's ServiceMonitor call it
VARIABLES = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


class Refused(Exception):
    """Prometheus did not take a query; the message says why."""


@dataclass(frozen=True, slots=True)
class Series:
    """What one set of labels came to: (Unix seconds, value), in order."""

    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]

    @property
    def finite(self) -> bool:
        """Something in it can be shown."""
        return any(isfinite(value) for _, value in self.points)


@dataclass(frozen=True, slots=True)
class Times:
    """What is shown, in Unix seconds: from, to, and steps between points."""

    from_s: float
    to_s: float
    step_s: float = 1.0


class Prometheus:
    """One Prometheus; a context."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=30, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.close()

    def ask(self, target: Mapping[str, Any], times: Times, chosen: Mapping[str, str]) -> list[Series]:
        """What a panel's target shows.

        Raises:
            Refused: it is no PromQL, or a variable in it is none.
        """
        query = substituted(target["expr"], times, chosen)
        if target.get("instant"):
            found = self._get("/api/v1/query", query=query, time=times.to_s)
            return [Series(one["metric"], [_point(one["value"])]) for one in found["result"]]
        found = self._get("/api/v1/query_range", query=query, start=times.from_s, end=times.to_s, step=times.step_s)
        return [Series(one["metric"], [_point(value) for value in one["values"]]) for one in found["result"]]

    def values(self, query: str, times: Times, chosen: Mapping[str, str]) -> list[str]:
        """What a variable `label_values(METRIC, LABEL)` offers.

        Raises:
            Refused: it is none.
        """
        parts = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        if parts is None:
            raise Refused(f"{query}: it is not label_values(METRIC, LABEL)")
        match = substituted(parts[1], times, chosen)
        found: list[str] = self._get(f"/api/v1/label/{parts[2]}/values", **{"match[]": match})
        return found

    def first_s(self, job: str) -> float:
        """When it first saw the job, within an hour: Unix seconds."""
        found = self._get("/api/v1/query", query=f'min_over_time(timestamp(up{{job="{job}"}})[1h:1s])')
        return min(float(one["value"][1]) for one in found["result"])

    def rules(self) -> list[dict[str, Any]]:
        """Its groups of rules, with their health and the alerts that are pending or fire."""
        found: list[dict[str, Any]] = self._get("/api/v1/rules")["groups"]
        return found

    def _get(self, path: str, **params: str | float) -> Any:
        answer = self._http.get(path, params=params).json()
        if answer["status"] != "success":
            raise Refused(f"{params}: {answer['error']}")
        return answer["data"]


def substituted(expr: str, times: Times, chosen: Mapping[str, str]) -> str:
    """A query as Grafana sends it.

    Args:
        expr: with variables.
        times: decide `$__range`; `$__rate_interval` is a quarter of that, as on a dashboard of a minute.
        chosen: what each of the dashboard's own variables stands for; all of one is its allValue.

    Raises:
        Refused: it has a variable that Grafana and the dashboard do not know.
    """
    range_s = max(round(times.to_s - times.from_s), 4)
    known = {"__range": f"{range_s}s", "__rate_interval": f"{max(range_s // 4, 4)}s", **chosen}

    def put(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name not in known:
            raise Refused(f"{expr}: ${name} is no variable of this dashboard")
        return known[name]

    return VARIABLES.sub(put, expr)


def all_of(dashboard: Mapping[str, Any]) -> dict[str, str]:
    """Its variables as they stand when somebody opens it; all jobs are those that tell Paceline's metrics: here, one."""
    return {variable["name"]: variable.get("allValue", JOB) for variable in queries(dashboard)}


def queries(dashboard: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Those of its variables that ask Prometheus."""
    yield from (variable for variable in dashboard["templating"]["list"] if variable["type"] == "query")


def panels(dashboard: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Those that show something: no rows."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def read(text: str) -> dict[str, Any]:
    """A dashboard from its file."""
    found: dict[str, Any] = json.loads(text)
    return found


def _point(value: Sequence[Any]) -> tuple[float, float]:
    return float(value[0]), float(value[1])
