"""TLS of a port: which files are good, what is said of those that are not, and others taken up while it listens."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from proxy.app import create_app
from proxy.certificates import BadCertificate, Certificates, check, of
from proxy.config import Limits, Tls
from proxy.listen import http_server
from proxy.reload import reload
from proxy.sources import ConfigError
from tests.proxy.test_forward import STREAM_HEAD, chunk, never_answer, token
from tests.serving import DataPlane, Seen, config_for, data_plane, running, upstream


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


def write(ca: trustme.CA, folder: Path, kind: trustme.KeyType = trustme.KeyType.ECDSA) -> Tls:
    """A certificate and its key, put in place as kubelet does: by other files under the same names."""
    issued = ca.issue_cert("127.0.0.1", key_type=kind)
    for file, pems in (("cert.pem", issued.cert_chain_pems), ("key.pem", [issued.private_key_pem])):
        new = folder / f"{file}.new"
        new.write_bytes(b"".join(pem.bytes() for pem in pems))
        new.replace(folder / file)
    return Tls(cert_file=str(folder / "cert.pem"), key_file=str(folder / "key.pem"))


def trusting(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


@asynccontextmanager
async def secured(script: Any, own: Certificates) -> AsyncIterator[tuple[str, DataPlane]]:
    """The data plane in front of a scripted server, over HTTPS; its URL."""
    async with upstream(script) as behind, data_plane(behind.address) as plane:
        server = http_server(plane.forward, grace_s=1, limits=Limits(), tls=own.context)
        server.config.host, server.config.port = "127.0.0.1", 0
        async with running(server) as address:
            yield f"https://{address}", plane


async def serial(url: str, ca: trustme.CA) -> int:
    """Of the certificate that a new connection sees."""
    host, port = url.removeprefix("https://").split(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=trusting(ca))
    told = writer.get_extra_info("peercert")
    writer.close()
    return int(told["serialNumber"], 16)


async def test_a_stream_comes_over_tls_as_it_is_made(ca: trustme.CA, tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(token(1)))
        await go_on.wait()
        writer.write(chunk(token(2)) + b"0\r\n\r\n")

    async with secured(answer, Certificates(write(ca, tmp_path))) as (url, plane):
        async with httpx.AsyncClient(verify=trusting(ca), trust_env=False) as client:
            async with client.stream("POST", f"{url}/generate_stream", json={"inputs": "a"}) as response:
                pieces = response.aiter_raw()
                assert await anext(pieces) == token(1)  # while the second is not made yet
                go_on.set()
                assert await anext(pieces) == token(2)
        plane.assert_at_rest()


async def test_a_client_that_leaves_over_tls_frees_its_slot(ca: trustme.CA, tmp_path: Path) -> None:
    async with secured(never_answer, Certificates(write(ca, tmp_path))) as (url, plane):
        async with httpx.AsyncClient(verify=trusting(ca), trust_env=False) as client:
            asked = asyncio.create_task(client.post(f"{url}/generate", json={"inputs": "a"}))
            while plane.scheduler.room.in_flight == 0:
                await asyncio.sleep(0.01)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
        while plane.forward.open:
            await asyncio.sleep(0.01)
        plane.assert_at_rest()


async def test_others_are_taken_up_while_a_stream_goes_on(ca: trustme.CA, tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(token(1)))
        await go_on.wait()
        writer.write(chunk(token(2)) + b"0\r\n\r\n")

    own = Certificates(write(ca, tmp_path))
    async with secured(answer, own) as (url, _), httpx.AsyncClient(verify=trusting(ca), trust_env=False) as client:
        first = await serial(url, ca)
        async with client.stream("POST", f"{url}/generate_stream", json={"inputs": "a"}) as response:
            pieces = response.aiter_raw()
            await anext(pieces)
            own.load_changed()
            assert await serial(url, ca) == first  # nothing has changed
            write(ca, tmp_path)
            own.load_changed()
            second = await serial(url, ca)
            assert second != first
            go_on.set()
            assert await anext(pieces) == token(2)


async def test_a_pair_that_does_not_fit_leaves_the_former_one(
    ca: trustme.CA, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = Certificates(write(ca, tmp_path))
    async with secured(never_answer, own) as (url, _):
        first = await serial(url, ca)
        ca.issue_cert("127.0.0.1").private_key_pem.write_to_path(str(tmp_path / "key.pem"))
        own.load_changed()
        own.load_changed()
        assert await serial(url, ca) == first
        assert caplog.text.count("is not the key of the certificate") == 1  # said once
        (tmp_path / "key.pem").unlink()
        own.load_changed()
        assert await serial(url, ca) == first
        write(ca, tmp_path)
        own.load_changed()
        assert await serial(url, ca) != first


async def test_a_certificate_of_another_kind_takes_the_place_of_the_former(ca: trustme.CA, tmp_path: Path) -> None:
    own = Certificates(write(ca, tmp_path))
    async with secured(never_answer, own) as (url, _):
        for kind in (trustme.KeyType.RSA, trustme.KeyType.ECDSA):
            before = await serial(url, ca)
            write(ca, tmp_path, kind)
            own.load_changed()
            assert await serial(url, ca) != before


async def test_old_versions_of_tls_are_refused(ca: trustme.CA, tmp_path: Path) -> None:
    own = Certificates(write(ca, tmp_path))
    assert own.context.minimum_version is ssl.TLSVersion.TLSv1_2  # a system may refuse older ones by itself
    async with secured(never_answer, own) as (url, _):
        host, port = url.removeprefix("https://").split(":")
        old = trusting(ca)
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionResetError)):  # the latter is uvloop's word for it
            await asyncio.open_connection(host, int(port), ssl=old)


async def test_plain_http_to_a_port_with_tls_gets_nothing(ca: trustme.CA, tmp_path: Path) -> None:
    async with secured(never_answer, Certificates(write(ca, tmp_path))) as (url, _):
        async with httpx.AsyncClient(trust_env=False) as client:
            with pytest.raises(httpx.HTTPError):
                await client.get(url.replace("https", "http") + "/health")


@pytest.mark.parametrize("port", ["tls", "admin.tls"])
async def test_a_port_gets_tls_at_the_start_only(port: str, ca: trustme.CA, tmp_path: Path) -> None:
    config, tls = config_for("http://127.0.0.1:1", **{"energy.meter": "none"}), write(ca, tmp_path)
    app = create_app(config, {})
    files = {f"{port}.{key}": value for key, value in tls.model_dump().items()}
    with pytest.raises(ConfigError, match=f"^{port}: cannot be changed without a restart"):
        reload(app, config_for("http://127.0.0.1:1", **{"energy.meter": "none"}, **files))
    assert app.config is config
    await app.stop()


def test_what_is_wrong_with_files_is_said(ca: trustme.CA, tmp_path: Path) -> None:
    good = write(ca, tmp_path)
    check(good)
    assert of(Tls()) is None
    issued = ca.issue_cert("127.0.0.1").private_key_pem
    issued.write_to_path(str(tmp_path / "other.pem"))
    key = serialization.load_pem_private_key(issued.bytes(), None)
    kind, how = serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    (tmp_path / "locked.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, kind, how))
    (tmp_path / "empty.pem").write_text("")
    for certificate, private, said in (
        ("nowhere.pem", "key.pem", "cert_file .*nowhere.pem: No such file"),
        ("cert.pem", "nowhere.pem", "key_file .*nowhere.pem: No such file"),
        ("cert.pem", "other.pem", "other.pem is not the key of the certificate in cert_file .*cert.pem"),
        ("cert.pem", "locked.pem", "locked.pem is encrypted, and nobody is here to type its password"),
        ("empty.pem", "key.pem", "are no certificate and key in PEM"),
        ("cert.pem", "empty.pem", "are no certificate and key in PEM"),
        ("key.pem", "cert.pem", "are no certificate and key in PEM"),
        (".", "key.pem", "Is a directory"),
    ):
        with pytest.raises(BadCertificate, match=said):
            check(Tls(cert_file=str(tmp_path / certificate), key_file=str(tmp_path / private)))


@pytest.mark.parametrize("port", ["tls", "admin.tls"])
def test_the_configuration_is_refused_with_the_reason(port: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{port}.*cert_file and key_file go together"):
        config_for("http://h:1", **{f"{port}.cert_file": "x"})
    with pytest.raises(ConfigError, match=f"{port}.*No such file") as refused:
        config_for("http://h:1", **{f"{port}.cert_file": "/nowhere", f"{port}.key_file": os.fspath(tmp_path)})
    assert port in str(refused.value)
