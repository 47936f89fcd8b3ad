"""How the two ports are kept: TLS of each, and who may look and change at the admin port."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from proxy.config.base import Section


def _name(text: str) -> str:
    if not text or text != text.strip() or set(text) & set("/:@?# "):
        raise ValueError("must be a name alone, such as paceline.example: without scheme, port and path")
    return text.lower()


class Tls(Section):
    """TLS of one port; not set: it speaks plain HTTP. Certificates that change on disk are taken up without a restart."""

    cert_file: str | None = Field(None, description="PEM file of the certificate and its chain; needs key_file")
    key_file: str | None = Field(None, description="PEM file of its private key, not encrypted")

    @model_validator(mode="after")
    def _whole(self) -> Tls:
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("cert_file and key_file go together")
        return self

    @property
    def on(self) -> bool:
        return self.cert_file is not None


class Admin(Section):
    """Who may use the admin port. Changes are everything but GET, HEAD and OPTIONS."""

    token_file: str | None = Field(
        None, description="file that holds the token for changes (`authorization: Bearer ...`); none: from this machine alone"
    )
    token_env: str | None = Field(None, description="environment variable that holds that token")
    protect: Literal["changes", "all"] = Field(
        "changes", description="all: reads need the token too, metrics included; `/healthz` and `/readyz` never do"
    )
    hosts: tuple[Annotated[str, AfterValidator(_name)], ...] = Field(
        (),
        description="names, besides this machine's own and addresses, by which the admin port may be asked (a reverse proxy's, "
        "a container's); none: on loopback no others, elsewhere any",
    )
    tls: Tls = Tls()

    @model_validator(mode="after")
    def _whole(self) -> Admin:
        if self.token_file and self.token_env:
            raise ValueError("token_file and token_env are two places for one token")
        if self.protect == "all" and not (self.token_file or self.token_env):
            raise ValueError('protect = "all" needs token_file or token_env')
        return self
