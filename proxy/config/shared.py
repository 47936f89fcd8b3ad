"""What several proxies know together, and where that is kept."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from proxy.config.base import RedisUrl, Section, Some


class Shared(Section):
    """What several proxies in front of the same servers know together, through Redis."""

    url: RedisUrl | None = Field(
        None, description="redis://host:port, rediss://host:port (TLS), /NUMBER for a database; not set: this proxy is alone"
    )
    prefix: Annotated[str, Field(pattern="^[A-Za-z0-9_.-]{1,64}$")] = Field(
        "paceline", description="of all keys; proxies of other servers need another"
    )
    replica: Annotated[str, Field(pattern="^[A-Za-z0-9_.-]{1,64}$")] | None = Field(
        None, description="this proxy's name among them, each its own; not set: the host's name and the data port"
    )
    username: str | None = Field(None, description="Redis's user; not set: its default one")
    key_file: str | None = Field(None, description="file that holds Redis's password; it is never in the URL")
    key_env: str | None = Field(None, description="environment variable that holds that password")
    ca_file: str | None = Field(None, description="certificates to trust instead of the system's")
    verify: bool = Field(True, description="false: take any certificate")
    timeout_s: Some = Field(1.0, description="longest wait for one answer; no request ever waits for it")
    every_s: Some = Field(1.0, description="seconds between looks")
    lease_s: Some = Field(10.0, description="a leader that is silent for so long is none; at least 3 (every_s + timeout_s)")
    keep_s: Some = Field(30 * 86400.0, description="keys that nobody writes are forgotten after this")

    @model_validator(mode="after")
    def _whole(self) -> Shared:
        if self.key_file and self.key_env:
            raise ValueError("key_file and key_env are two places for one password")
        if self.lease_s < 3 * (self.every_s + self.timeout_s):
            raise ValueError("lease_s must be at least three times every_s + timeout_s")
        if self.ca_file and not (self.url or "").startswith("rediss://"):
            raise ValueError("ca_file is for rediss://")
        return self
