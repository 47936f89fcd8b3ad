"""The Secrets that a rendered configuration names, as files of this disk: certificates that are real, keys that are not."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import trustme

MOUNTED = "/run/secrets"


@cache
def authority() -> trustme.CA:
    return trustme.CA()


@cache
def certificate() -> trustme.LeafCert:
    return authority().issue_cert("localhost", "127.0.0.1")


def on_this_disk(config: str, folder: Path) -> Path:
    """The configuration as a file, with what it names below /run/secrets put below a folder."""
    contents = {
        "tls.crt": certificate().cert_chain_pems[0].bytes(),
        "tls.key": certificate().private_key_pem.bytes(),
        "ca.crt": authority().cert_pem.bytes(),
    }
    for name in set(re.findall(rf"{MOUNTED}/([^\"]+)", config)):
        file = folder / "secrets" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(contents.get(file.name, f"not-a-secret-{file.name}\n".encode()))
    written = folder / "paceline.json"
    written.write_text(config.replace(MOUNTED, str(folder / "secrets")))
    return written
