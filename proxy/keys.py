"""API keys: those that clients show, known by their hashes alone, and those that servers are shown, read from a safe place."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import click


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
    if shown.key_file is not None:
        try:
            key = Path(shown.key_file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise KeyUnavailable(f"{shown.url}: key_file {shown.key_file}: {type(error).__name__}") from error
        where = f"key_file {shown.key_file}"
    elif shown.key_env is not None:
        key, where = environ.get(shown.key_env, "").strip(), f"environment variable {shown.key_env}"
    else:
        return ""
    if not key:
        raise KeyUnavailable(f"{shown.url}: {where} holds no key")
    if not key.isascii() or not key.isprintable():
        raise KeyUnavailable(f"{shown.url}: {where} holds more than one line, or no plain text")
    return key


@click.command("key", short_help="make a key for a tenant")
def command() -> None:
    """Make a random API key for a tenant, and the hash of it that goes into the configuration."""
    key = "pl-" + secrets.token_urlsafe(32)
    click.echo(f"key, for the client; it is shown only now:  {key}")
    click.echo(f"key_hashes, for the configuration:          {hash_of(key)}")
