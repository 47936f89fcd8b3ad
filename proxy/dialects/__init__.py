"""What a route means, per engine: which generate, what they ask for, where token counts and errors are told."""

from __future__ import annotations

from proxy.dialects.base import Dialect
from proxy.dialects.openai import OPENAI
from proxy.dialects.tgi import TGI

DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (TGI, OPENAI)}

__all__ = ["DIALECTS", "OPENAI", "TGI", "Dialect"]
