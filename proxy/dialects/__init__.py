"""What a route means, per engine: which generate, what they ask for, where token counts and errors are told."""

from __future__ import annotations

from proxy.dialects.base import Dialect
from proxy.dialects.llamacpp import LLAMACPP
from proxy.dialects.openai import OPENAI
from proxy.dialects.sglang import SGLANG
from proxy.dialects.tgi import TGI
from proxy.dialects.transformers import TRANSFORMERS
from proxy.dialects.vllm import VLLM

DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (TGI, VLLM, SGLANG, LLAMACPP, TRANSFORMERS, OPENAI)}

__all__ = ["DIALECTS", "LLAMACPP", "OPENAI", "SGLANG", "TGI", "TRANSFORMERS", "VLLM", "Dialect"]
