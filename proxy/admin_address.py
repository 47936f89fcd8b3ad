"""Where a command finds a proxy's admin port, what it shows there, and whose certificates it trusts."""

from __future__ import annotations

import functools
import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import click

TOKEN_ENV = "PACELINE_ADMIN_TOKEN"


class NoToken(click.ClickException):
    """The token or the certificates that were named cannot be had; the message names the place, never a token."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class AdminAddress:
    """An admin port and the way in; `httpx.Client(base_url=a.url, headers=a.headers, verify=a.verify)`."""

    url: str
    token: str = field(default="", repr=False)
    ca_file: str | None = None

    @classmethod
    def of(cls, told: str | Self) -> AdminAddress:
        """A bare URL is an admin port without a token."""
        return told if isinstance(told, AdminAddress) else cls(told)

    @classmethod
    def given(cls, url: str, token_file: str | None, ca_file: str | None, environ: Mapping[str, str]) -> AdminAddress:
        """What a command line says, and, unless it names a file, what the environment says.

        Raises:
            NoToken: see there.
        """
        return cls(url, _token(token_file, environ), ca_file)

    @property
    def headers(self) -> dict[str, str]:
        """What every request to it carries."""
        return {"authorization": f"Bearer {self.token}"} if self.token else {}

    @property
    def verify(self) -> ssl.SSLContext | bool:
        """Whose certificates are good.

        Raises:
            NoToken: there are none in the file.
        """
        if self.ca_file is None:
            return True
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            raise NoToken(f"--ca-file {self.ca_file} holds no certificates: {error}") from error


def admin_option(
    default: str | None = None, *, help: str = "The proxy's admin port.", names: tuple[str, ...] = ("--admin",)
) -> Callable[[Any], Any]:
    """Adds `--admin`, `--token-file` and `--ca-file` to a command, which gets `admin`: an AdminAddress, or None."""

    def on(command: Callable[..., Any]) -> Callable[..., Any]:
        @click.option(*names, "admin_url", default=default, show_default=default is not None, metavar="URL", help=help)
        @click.option("--token-file", metavar="FILE", help=f"Holds the admin port's token. [else the variable {TOKEN_ENV}]")
        @click.option("--ca-file", metavar="FILE", help="Certificates to trust at the admin port. [those that are known]")
        @functools.wraps(command)
        def with_admin(*args: Any, admin_url: str | None, token_file: str | None, ca_file: str | None, **given: Any) -> Any:
            if admin_url is None and (token_file or ca_file):
                raise click.UsageError("--token-file and --ca-file are for --admin URL")
            admin = AdminAddress.given(admin_url, token_file, ca_file, os.environ) if admin_url is not None else None
            return command(*args, admin=admin, **given)

        return with_admin

    return on


def _token(file: str | None, environ: Mapping[str, str]) -> str:
    if file is None:
        token, where = environ.get(TOKEN_ENV, "").strip(), f"the variable {TOKEN_ENV}"
    else:
        where = f"--token-file {file}"
        try:
            token = Path(file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise NoToken(f"{where}: {getattr(error, 'strerror', None) or 'is no text'}") from error
        if not token:
            raise NoToken(f"{where} holds no token")
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise NoToken(f"{where} holds more than one line or word, or no plain text")
    return token
