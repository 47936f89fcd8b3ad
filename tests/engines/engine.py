"""What the contract needs of an engine: how it is started, what it answers to, and how it tells that it is at work."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import httpx

from tests.engines.environments import Environment
from tests.engines.process import Process, eventually, free_port


class Engine(ABC):
    """One kind of engine, and its process once it is started.

    Attributes:
        name: what Paceline's dialect for it is called.
        extra: members of a request's body that make its answer repeatable, and as long as it was asked for.
        look_every_s: how often it may be asked whether it is busy.
        quick: what undoes the part of `extra` that makes many short answers slow.
        some: tokens of an answer that takes a second or so.
        endless: more tokens than any test waits for.
        many: short answers that take it some seconds.
        always_counts: its streams tell token counts without being asked.
        survives: it refuses a prompt that is too long, and goes on.
        unstreamed_cancels: the engine stops working for a client that left an answer that is not streamed.
        done: the engine ends its streams with `data: [DONE]`.
    """

    name: ClassVar[str]
    environment: ClassVar[Environment]
    extra: ClassVar[Mapping[str, Any]] = {}
    look_every_s: ClassVar[float] = 0.02
    quick: ClassVar[Mapping[str, Any]] = {}
    some: ClassVar[int] = 48
    endless: ClassVar[int] = 900
    many: ClassVar[int] = 200
    always_counts: ClassVar[bool] = True
    ready_within_s: ClassVar[float] = 60.0
    survives: ClassVar[bool] = True
    unstreamed_cancels: ClassVar[bool] = True
    done: ClassVar[bool] = True
    model: str

    def __init__(self, logs: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, trust_env=False, timeout=120)
        self._log = logs / f"{self.name}.log"
        self._restarts = 1
        self.process: Process | None = None

    @abstractmethod
    def command(self) -> list[str]: ...

    @abstractmethod
    def busy(self) -> bool:
        """Whether it generates or has somebody waiting, by its own account."""

    def idle(self, within_s: float) -> bool:
        """Whether it comes to rest in time."""
        return eventually(lambda: not self.busy(), within_s, self.look_every_s)

    def environ(self) -> Mapping[str, str]:
        return {}

    def prepare(self) -> None:  # noqa: B027 - not every engine needs anything
        """Whatever must exist before its first start, made in its environment."""

    def start(self) -> None:
        """Start it, a second time if need be: one start in some ten of a native server was seen to vanish."""
        if self.process is None:
            self.environment.make()
            self.prepare()
        while True:
            environ = {**own_environ(), **self.environ()}
            self.process = Process(self.name, self.command(), self._log, environ, self.environment.folder)
            try:
                self.process.until(self._answers, self.ready_within_s)
                return
            except RuntimeError:
                self.process.stop()
                if not self._restarts:
                    raise
                self._restarts -= 1

    def revive(self) -> None:
        """Before a test: start it again if it has vanished since the last one."""
        if self.process is None or not self.process.alive:
            self.start()

    def stop(self) -> None:
        self.http.close()
        if self.process is not None:
            self.process.stop()

    def _answers(self) -> bool:
        try:
            return self.http.get("/health").status_code == 200
        except httpx.HTTPError:
            return False

    def metric(self, name: str) -> float:
        """A gauge of its own metrics, over all labels."""
        text = self.http.get("/metrics").text
        return sum(float(value) for value in re.findall(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE))

    def asking(self, tokens: int, text: str = "Tell me about a bicycle race.", **more: Any) -> dict[str, Any]:
        """A chat's body."""
        messages = [{"role": "user", "content": text}]
        return {"model": self.model, "messages": messages, "max_tokens": tokens, "temperature": 0, **self.extra, **more}


def own_environ() -> dict[str, str]:
    """This process's environment without what would configure Paceline, or lead an engine to our packages."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PACELINE_", "PYTHONPATH"))}
