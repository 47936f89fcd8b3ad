"""What all parts of the configuration are made of: strict sections, and checked kinds of values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from policies.strategy import Choice


class Section(BaseModel):
    """What all parts of the tree have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _base_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.username or parts.password:
        raise ValueError("must not hold a user name or a password; key_file or key_env give a server its key")
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
        return text
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("must be http://host:port or https://host:port, with a path at most, or unix:///path/of/socket")
    if parts.path.rstrip("/").endswith("/v1"):
        raise ValueError("must not end in /v1: clients' paths, which begin with it, are appended as they are")
    return text.rstrip("/")


def _proxy_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise ValueError("must be http://host:port or https://host:port, without a user name or a password")
    return text


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("must begin with /")
    return text


def _hash(text: str) -> str:
    if len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise ValueError("must be the SHA-256 of a key in hexadecimal (`paceline key` makes both)")
    return text


def _meter_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise ValueError("must be http:// or https://, without a user name or a password; key_file or key_env hold a key")
    return text


def _redis_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.username or parts.password or "@" in parts.netloc:
        raise ValueError("must not hold a user name or a password; username, and key_file or key_env, are for them")
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/") and not parts.query:
        return text
    number = parts.path.removeprefix("/")
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or parts.query or (number and not number.isdecimal()):
        raise ValueError(
            "must be redis://host:port, rediss://host:port (TLS), with /NUMBER of a database at most, or unix:///path"
        )
    return text


BaseUrl = Annotated[str, AfterValidator(_base_url)]
RedisUrl = Annotated[str, AfterValidator(_redis_url)]
MeterUrl = Annotated[str, AfterValidator(_meter_url)]
ProxyUrl = Annotated[str, AfterValidator(_proxy_url)]
Path = Annotated[str, AfterValidator(_path)]
KeyHash = Annotated[str, AfterValidator(_hash)]
Seconds = Annotated[float, Field(ge=0)]
Some = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=0, le=65535)]
MeterName = Literal["auto", "nvml", "amd", "rapl", "prometheus", "paceline", "replay", "modelled", "simulated", "none"]
DialectName = Literal["auto", "tgi", "vllm", "sglang", "llamacpp", "transformers", "openai"]


class Named(Section):
    """A policy or a placement, and its parameters."""

    name: str = Field(description="a built-in name, or package.module:Name")
    params: dict[str, Any] = Field(default={}, description="its parameters")

    def choice(self) -> Choice:
        return Choice(self.name, self.params)


def sections_of(annotation: Any) -> Iterator[type[Section]]:
    """The sections that a field's type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from sections_of(inner)
