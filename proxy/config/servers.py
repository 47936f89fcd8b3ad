"""The servers: which there are, which of them a model is for, when they are healthy, how they sleep."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from proxy.config.base import BaseUrl, Count, DialectName, ProxyUrl, Seconds, Section, Some


class Upstream(Section):
    """One inference server."""

    url: BaseUrl = Field(description="http://host:port, https://host:port (with a path at most), or unix:///path/of/socket")
    slots: Count | None = Field(None, description="most sequences at once; not set: what the server tells, else no limit")
    group: str = Field("default", description="servers of one group can serve the same requests, and share a queue")
    dialect: DialectName = Field("auto", description="what it speaks, if it is not asked")
    key_file: str | None = Field(None, description="file that holds the API key to send it instead of the client's")
    key_env: str | None = Field(None, description="environment variable that holds that key")
    ca_file: str | None = Field(None, description="certificates to trust instead of the system's")
    verify: bool = Field(True, description="false: take any certificate")
    http_proxy: ProxyUrl | None = Field(None, description="HTTP proxy on the way to it; HTTPS_PROXY and its like are ignored")


class Model(Section):
    """Where requests for a model go."""

    name: str = Field(description="what clients ask for; `*` stands for anything. The first that fits is taken")
    group: str = Field("default", description="the servers that it goes to")
    rewrite: str | None = Field(None, description="the name that the servers know it by")


class Health(Section):
    """When a server is left alone, and when it is tried again."""

    every_s: Seconds = Field(5.0, description="seconds between active checks, by the dialect's cheap route; 0: none")
    timeout_s: Some = Field(2.0, description="longest wait for such a check")
    failures: Count = Field(3, description="failures in a row, of checks or of requests, that open a server's circuit")
    open_s: Some = Field(2.0, description="how long an open circuit stays so; doubles with each failed trial")
    max_open_s: Some = Field(60.0, description="... up to this")


class Sleep(Section):
    """How servers are told to sleep, where the placement wants that (`sleepy`)."""

    level: Literal[1] = Field(1, description="vLLM's: 1 moves weights to the host's memory. 2 drops them, and is not offered")
    timeout_s: Some = Field(60.0, description="longest wait until a server sleeps, or can work again")
    again_s: Some = Field(60.0, description="a server that would not sleep is not asked again before")
