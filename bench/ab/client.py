"""Where experiments are asked for: a running proxy's admin port."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self

import httpx

from bench.ab.document import RUNNING, BadDocument, Document, began_unix_s
from policies.split import NAME as SPLIT
from policies.switchback import NAME as SWITCHBACK
from proxy.admin_address import AdminAddress
from telemetry.design import CONTROL

ANSWERS_WITHIN_S = 30.0  # a block's analysis may be under way


class NotAnswered(Exception):
    """The proxy was not reached, or said no; the message says what it said."""


class NotReached(NotAnswered):
    """Nobody is there now: it may be starting."""


class Client:
    """One proxy's admin port; a context."""

    def __init__(self, at: str | AdminAddress) -> None:
        self.at = at = AdminAddress.of(at)
        self.url = at.url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.url, headers=at.headers, verify=at.verify, timeout=ANSWERS_WITHIN_S, trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.close()

    def plan(self, asked: Mapping[str, Any]) -> Document:
        """What `start` would begin; refused as that would be, and nothing begins."""
        return Document.of(self._json("POST", "/experiments/plan", json=asked))

    def start(self, asked: Mapping[str, Any]) -> Document:
        """Begin an experiment."""
        return Document.of(self._json("POST", "/experiments", json=asked))

    def stop(self, name: str) -> Document:
        """Control rules from now on."""
        return Document.of(self._json("POST", f"/experiments/{name}/stop", json={}))

    def stop_all(self) -> None:
        """Whatever runs."""
        for told in self._all():
            if told["state"] == RUNNING:
                self.stop(told["name"])

    def names(self) -> list[str]:
        """Of all experiments, in the order in which they began."""
        return [told["name"] for told in sorted(self._all(), key=began_unix_s)]

    def all_of_them(self, odd: Callable[[str], None] = lambda told: None) -> list[Document]:
        """In the order in which they began. `odd` is told of each that cannot be read: it hides no other."""
        found = []
        for name in self.names():
            try:
                found.append(self.get(name))
            except BadDocument as error:
                odd(f"{name}: {error}")
        return found

    def latest(self) -> str:
        """The experiment that runs, else the one that began last.

        Raises:
            NotAnswered: there is none.
        """
        if not (told := self._all()):
            raise NotAnswered(f"{self.url} has no experiment; `paceline ab start` begins one")
        return _latest(told)

    def get(self, name: str) -> Document:
        """One experiment, without its log and where it comes from."""
        return Document.of(self._json("GET", f"/experiments/{name}"))

    def whole(self, name: str) -> Document:
        """One experiment with all that a report tells."""
        return Document.of(self._json("GET", f"/experiments/{name}"), self._log(name), **self.provenance())

    def status(self) -> dict[str, Any]:
        """The proxy's own."""
        told = self._json("GET", "/status")
        assert isinstance(told, dict)
        return told

    def in_force(self, group: str | None = None) -> Mapping[str, Any]:
        """Policy and placement of a group; while an experiment runs there, its control, which is what is there without it.

        All groups have the same, but for those on which experiments were: there control stays when one is over.
        """
        of_group = [one for one in self._all() if group in (None, one.get("group"))]
        told: Mapping[str, Any] = self.status()["strategy"]
        if any(one["state"] == RUNNING for one in of_group):
            return self.get(_latest(of_group)).arms[CONTROL]
        if group is not None and of_group and (now := self.get(_latest(of_group)).in_force) is not None:
            return now
        return self.get(self.latest()).arms[CONTROL] if told["policy"]["name"] in (SWITCHBACK, SPLIT) else told

    def provenance(self) -> dict[str, Any]:
        """Who told, when, and what stands behind it."""
        status = self.status()
        energy = status["energy"]
        return {
            "asked": self.url,
            "asked_unix_s": time.time(),
            "proxy_version": status["version"],
            "report_version": version("paceline"),
            "configuration": status["config"]["digest"],
            "dialect": status["dialect"],
            "servers": [f"{one['name']} ({one['model'] or 'model not told'})" for one in status["servers"]],
            "devices": [one["device"] for one in energy["devices"]] if energy is not None else [],
        }

    def _log(self, name: str) -> Sequence[Mapping[str, Any]]:
        return [json.loads(line) for line in self._send("GET", f"/experiments/{name}/log").text.splitlines() if line]

    def _all(self) -> list[Mapping[str, Any]]:
        told = self._json("GET", "/experiments")
        return list(told["experiments"] if isinstance(told, Mapping) else told)

    def _json(self, method: str, path: str, **more: Any) -> Any:
        answer = self._send(method, path, **more)
        try:
            return answer.json()
        except ValueError as error:
            raise NotAnswered(f"{self.url}{path} gave no JSON; --admin takes the admin port's URL") from error

    def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **more)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            hint = "--admin takes the admin port's URL, http://127.0.0.1:9464 as it comes"
            raise NotReached(f"{self.url}: {type(error).__name__} {error}; {hint}") from error
        if answer.is_error:
            raise NotAnswered(f"{self.url}{path} said {answer.status_code}: {_why(answer)}")
        return answer


def _latest(told: Sequence[Mapping[str, Any]]) -> str:
    """The one that runs, else the one that began last."""
    return str(max(told, key=lambda one: (one["state"] == RUNNING, began_unix_s(one)))["name"])


def _why(answer: httpx.Response) -> str:
    """FastAPI's `detail`: words, or a list of what is wrong and where."""
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return answer.text[:300]
    if isinstance(detail, str):
        return detail
    return "; ".join(f"{'.'.join(map(str, one.get('loc', ())))}: {one.get('msg', one)}" for one in detail)
