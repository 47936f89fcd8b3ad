"""TLS of the ports: certificates from files, checked before they are used, and taken up again when the files change."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from proxy.config import Tls

log = logging.getLogger("paceline.certificates")

LOOK_EVERY_S = 5.0
Stamp = tuple[tuple[int, int, int], ...]


class BadCertificate(ValueError):
    """A certificate and its key cannot be used; the message names the file and the reason."""


def check(tls: Tls) -> None:
    """Whether the files can be used.

    Raises:
        BadCertificate: see there.
    """
    if tls.on:
        _load(_context(), tls)


@dataclass(slots=True)
class Certificates:
    """One port's certificates. `context` is for as long as the port listens; new connections see what was loaded last.

    Each loading makes a context of its own, into which a connection changes as it begins: one that is loaded twice would keep
    the former certificate beside the new one where their kinds of key differ, and clients would choose.
    """

    tls: Tls
    context: ssl.SSLContext = field(init=False)
    _latest: ssl.SSLContext = field(init=False)
    _stamp: Stamp | None = None

    def __post_init__(self) -> None:
        self.context = _context()
        self.context.sni_callback = self._begin  # it is called without a name as well
        self.load()

    def _begin(self, connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._latest

    def load(self) -> None:
        """Read the files.

        Raises:
            BadCertificate: nothing has changed.
        """
        stamp, context = _stamp(self.tls), _context()
        _load(context, self.tls)
        self._latest, self._stamp = context, stamp

    def load_changed(self) -> None:
        """Read the files again if they are others than before. If they cannot be used, the former stay in force."""
        stamp = _stamp(self.tls)
        if stamp == self._stamp:
            return
        try:
            self.load()
        except BadCertificate as error:
            # certificate and key may come one after the other: said once, tried again at the next change
            log.error("the former certificate stays in force: %s", error)
            self._stamp = stamp
        else:
            log.info("%s was read again", self.tls.cert_file)


def of(tls: Tls) -> Certificates | None:
    """Those of a port; None where it has no TLS.

    Raises:
        BadCertificate: see there.
    """
    return Certificates(tls) if tls.on else None


async def watch(watched: Sequence[Certificates]) -> None:
    """Look at the files every few seconds, for ever: who renews certificates seldom sends signals."""
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        for one in watched:
            one.load_changed()


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _load(context: ssl.SSLContext, tls: Tls) -> None:
    assert tls.cert_file is not None
    assert tls.key_file is not None
    asked: list[bool] = []

    def no_password() -> str:
        asked.append(True)
        return ""

    for name, file in (("cert_file", tls.cert_file), ("key_file", tls.key_file)):
        try:
            Path(file).read_bytes()
        except OSError as error:
            raise BadCertificate(f"{name} {file}: {error.strerror}") from error
    try:
        context.load_cert_chain(tls.cert_file, tls.key_file, no_password)
    except (ssl.SSLError, OSError) as error:
        raise BadCertificate(_why(tls, error, encrypted=bool(asked))) from error


def _why(tls: Tls, error: OSError, *, encrypted: bool) -> str:
    if encrypted:
        return f"key_file {tls.key_file} is encrypted, and nobody is here to type its password: decrypt it, and guard the file"
    if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
        return f"key_file {tls.key_file} is not the key of the certificate in cert_file {tls.cert_file}"
    return f"cert_file {tls.cert_file} and key_file {tls.key_file} are no certificate and key in PEM: {error}"


def _stamp(tls: Tls) -> Stamp | None:
    """What tells files from what they were: kubelet and cert-manager put others in their place."""
    try:
        looks = [Path(str(file)).stat() for file in (tls.cert_file, tls.key_file)]
    except OSError:
        return None
    return tuple((look.st_mtime_ns, look.st_size, look.st_ino) for look in looks)
