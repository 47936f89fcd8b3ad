"""`transformers serve` with continuous batching on the CPU, and a tiny random model made on the spot."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from tests.engines.engine import Engine
from tests.engines.environments import Environment

WORKING_CPU = 0.3  # of one processor: it uses nearly all of one while it generates, and nearly nothing else


class TransformersServe(Engine):
    """`requests` is needed by its command and asked for by none of its extras."""

    name = "transformers"
    environment = Environment("transformers", (("install", "transformers[serving]==5.17.0", "requests", "torch==2.13.0"),))
    extra: ClassVar[Mapping[str, Any]] = {"seed": 7}
    some, endless = 200, 3000
    survives = False  # its continuous batching answers 200 with an error, and 503 to everybody from then on
    unstreamed_cancels = False
    done = False
    model = str(environment.folder / "tiny-model")

    def prepare(self) -> None:
        if not Path(self.model, "model.safetensors").exists():
            self.environment.run("tiny_model.py", self.model)

    def command(self) -> list[str]:
        batching = ("--continuous-batching", "--cb-block-size=32", "--cb-num-blocks=256", "--cb-max-batch-tokens=256")
        where = ("--device=cpu", "--attn-implementation=sdpa", "--host=127.0.0.1", f"--port={self.port}")
        program = self.environment.python.with_name("transformers")
        return [str(program), "serve", self.model, *batching, *where, "--log-level=warning"]

    def environ(self) -> Mapping[str, str]:
        home = self.environment.folder / "hf-home"
        (home / "hub").mkdir(parents=True, exist_ok=True)  # without it /v1/models is a 500
        return {
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "OMP_NUM_THREADS": "1",
        }

    def busy(self) -> bool:
        """It tells nothing of what it does, so its processor time must."""
        assert self.process is not None
        before, at = self.process.cpu_s, time.monotonic()
        time.sleep(0.5)
        return (self.process.cpu_s - before) / (time.monotonic() - at) > WORKING_CPU
