"""API keys: those that clients show, known by their hashes alone, and those that servers are shown, read from a safe place."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import click

from proxy.config import Admin, Config

SHORTEST_TOKEN = 16  # characters: a shorter one might be guessed over the network


class Shown(Protocol):
    """Something that is shown a key."""

    @property
    def url(self) -> str | None: ...
    @property
    def key_file(self) -> str | None: ...
    @property
    def key_env(self) -> str | None: ...


class KeyUnavailable(ValueError):
    """A key that should be in a file or a variable is not there; the message names the place, never a key."""


def hash_of(key: str | bytes) -> str:
    """How a key is kept.

    A plain SHA-256 is enough, for keys are long and random: there is nothing to guess that salt and slowness would
    protect, as they protect passwords.
    """
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).hexdigest()


def key_of(shown: Shown, environ: Mapping[str, str]) -> str:
    """The key that a server or a meter is shown, from its file or variable; empty when it has none.

    Raises:
        KeyUnavailable: see there.
    """
    return secret(shown.url, "key", shown.key_file, shown.key_env, environ)


def secret(whose: str | None, what: str, file: str | None, variable: str | None, environ: Mapping[str, str]) -> str:
    """A key or a token from its file or its variable, one line of plain text; empty when it has neither.

    Raises:
        KeyUnavailable: see there.
    """
    if file is not None:
        where = f"{what}_file {file}"
        try:
            found = Path(file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise KeyUnavailable(f"{whose}: {where}: {type(error).__name__}") from error
    elif variable is not None:
        found, where = environ.get(variable, "").strip(), f"environment variable {variable}"
    else:
        return ""
    if not found:
        raise KeyUnavailable(f"{whose}: {where} holds no {what}")
    if not found.isascii() or not found.isprintable():
        raise KeyUnavailable(f"{whose}: {where} holds more than one line, or no plain text")
    return found


def token_of(admin: Admin, environ: Mapping[str, str]) -> str:
    """The admin port's token; empty when there is none.

    Raises:
        KeyUnavailable: it is not where it should be, or is too short to be one.
    """
    token = secret("admin", "token", admin.token_file, admin.token_env, environ)
    if token and (len(token) < SHORTEST_TOKEN or " " in token):
        raise KeyUnavailable(
            f"admin: a token has {SHORTEST_TOKEN} characters at least, and no space; `openssl rand -hex 32` makes one"
        )
    return token


def secrets_of(config: Config, environ: Mapping[str, str]) -> Iterator[str]:
    """Every key, password and token that a configuration names, as far as they can be had."""
    shown_to: tuple[Shown, ...] = (*config.upstreams, config.energy, config.shared)
    for shown in shown_to:
        with suppress(KeyUnavailable):
            yield key_of(shown, environ)
    with suppress(KeyUnavailable):
        yield token_of(config.admin, environ)


@click.command("key", short_help="make a key for a tenant")
def command() -> None:
    """Make a random API key for a tenant, and the hash of it that goes into the configuration."""
    key = "pl-" + secrets.token_urlsafe(32)
    click.echo(f"key, for the client; it is shown only now:  {key}")
    click.echo(f"key_hashes, for the configuration:          {hash_of(key)}")
