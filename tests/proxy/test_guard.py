"""Who gets in at the admin port and who does not: holders of the token, this machine's programs, pages in a browser."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.admin import create_admin
from proxy.app import App, create_app
from proxy.guard import Rules, doubts, is_loopback
from proxy.sources import ConfigError, load
from tests.serving import config_for, served

TOKEN = "correct-horse-battery-staple"
BEARER = {"authorization": f"Bearer {TOKEN}"}
LOCAL = {"host": "127.0.0.1:9464"}


def rules(*, token: bool = False, **flags: Any) -> Rules:
    more = {"admin.token_env": "T"} if token else {}
    config = config_for("http://127.0.0.1:1", environ={"T": TOKEN}, **more, **flags)
    return Rules.of(config, {"T": TOKEN})


def status(of: Rules, method: str, headers: dict[str, str], peer: str = "127.0.0.1", path: str = "/policy") -> int:
    """What somebody gets who asks like this; 200: in."""
    refused = of.refusal(method, path, {name.encode(): value.encode() for name, value in headers.items()}, peer)
    return 200 if refused is None else refused.status


PROTECTED = rules(token=True, **{"admin.protect": "all"})


@pytest.mark.parametrize(
    ("headers", "peer", "expected"),
    [
        (LOCAL, "127.0.0.1", 200),
        ({"host": "localhost:9464"}, "::1", 200),
        ({"host": "[::1]:9464"}, "::ffff:127.0.0.1", 200),
        ({}, "127.0.0.1", 200),  # HTTP/1.0
        (LOCAL, "10.0.0.7", 403),
        (LOCAL, "", 403),
        (LOCAL | {"x-forwarded-for": "10.0.0.7"}, "127.0.0.1", 403),  # somebody else, through a proxy of this machine
        (LOCAL | {"forwarded": "for=10.0.0.7"}, "127.0.0.1", 403),
        (LOCAL | {"via": "1.1 gateway"}, "127.0.0.1", 403),
        (LOCAL | {"x-forwarded-proto": "https"}, "127.0.0.1", 403),  # Envoy's, which need not tell for whom
    ],
)
def test_without_a_token_only_this_machine_changes_anything(headers: dict[str, str], peer: str, expected: int) -> None:
    assert status(rules(), "PUT", headers, peer) == expected


def test_without_a_token_nobody_changes_anything_at_a_port_that_others_reach() -> None:
    of = rules(admin_host="0.0.0.0")
    assert status(of, "PUT", LOCAL, "127.0.0.1") == 403
    assert status(of, "DELETE", {"host": "paceline.prod.svc:9464"}, "10.0.0.7") == 403
    assert status(of, "GET", {"host": "paceline.prod.svc:9464"}, "10.0.0.7") == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_with_a_token_its_holder_changes_and_nobody_else(host: str) -> None:
    of = rules(token=True, admin_host=host)
    for method in ("PUT", "POST", "DELETE", "PATCH", "BREW"):
        assert status(of, method, LOCAL | BEARER, "10.0.0.7") == 200
        assert status(of, method, LOCAL, "127.0.0.1") == 401
    for shown in ("Bearer", "Bearer ", "Basic " + TOKEN, TOKEN, f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", "Bearer \xe4"):
        assert status(of, "PUT", LOCAL | {"authorization": shown}) == 401, shown
    assert status(of, "GET", LOCAL) == 200


def test_all_can_be_protected_but_for_probes() -> None:
    of = rules(token=True, **{"admin.protect": "all"})
    assert status(of, "GET", LOCAL, path="/metrics") == 401
    assert status(of, "GET", LOCAL | BEARER, path="/metrics") == 200
    for path in ("/healthz", "/readyz"):
        assert status(of, "GET", {"host": "10.1.2.3:9464"}, path=path) == 200
        assert status(of, "POST", LOCAL, path=path) == 401
    for path in ("/", "/page/app.js"):  # they hold nothing, and ask for the token
        assert status(of, "GET", LOCAL, path=path) == 200
        assert status(of, "PUT", LOCAL, path=path) == 401
        assert status(of, "GET", {"host": "evil.example"}, path=path) == 403
    for path in ("/pages", "/page", "//", "/live", "/page/../metrics", ""):
        assert status(of, "GET", LOCAL, path=path) == (200 if path.startswith("/page/") else 401), path


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_name_that_was_rebound_to_this_machine_is_not_ours(method: str) -> None:
    """A page's own name may be made to resolve to 127.0.0.1: its requests are then of one origin, and carry that name."""
    evil = {"host": "evil.example:9464", "origin": "http://evil.example:9464"}
    assert status(rules(), method, evil) == 403
    assert status(rules(token=True), method, evil | BEARER) == 403
    assert status(rules(**{"admin.hosts": ["paceline.example"]}), method, {"host": "PACELINE.example"}) == 200
    published = {"admin_host": "0.0.0.0", "admin.hosts": ["proxy"]}  # a container's, published to its host's loopback
    assert status(rules(token=True, **published), method, evil | BEARER) == 403
    for host in ("proxy:9464", "127.0.0.1:9464", "localhost:9464", "10.1.2.3:9464"):
        assert status(rules(token=True, **published), method, {"host": host} | BEARER) == 200


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:8080"}, 403),  # another program's page, on this machine
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "http://[::1"}, 403),  # nonsense
        ({"origin": "http://127.0.0.1:9464.evil.example"}, 403),
        ({"origin": "http://127.0.0.1:9464@evil.example"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "http://127.0.0.1:9464", "sec-fetch-site": "same-origin"}, 200),
        ({"origin": "https://paceline.example"}, 200),
        ({"sec-fetch-site": "none"}, 200),
    ],
)
def test_another_sites_page_changes_nothing(told: dict[str, str], expected: int) -> None:
    """A form needs no leave to post somewhere else, and `POST /reload` has no body that would have to be JSON."""
    of = rules(**{"admin.hosts": ["paceline.example"]})
    assert status(of, "POST", LOCAL | told, path="/reload") == expected


def test_another_sites_page_keeps_nothing_busy() -> None:
    """It gets no answer to read, but `/live` goes on for as long as somebody listens, and has 32 places."""
    for mode, expected in (("no-cors", 403), ("cors", 403), ("navigate", 200)):
        crossing = LOCAL | {"sec-fetch-site": "cross-site", "sec-fetch-mode": mode}
        assert status(rules(), "GET", crossing, path="/live") == expected
    assert status(rules(), "GET", LOCAL | {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}, path="/live") == 200


@pytest.mark.parametrize("host", ["[::1", "[", "evil.example@127.0.0.1.evil.example", "\xff", "localhost.evil.example"])
def test_a_host_that_is_nonsense_is_refused_and_breaks_nothing(host: str) -> None:
    assert status(rules(), "GET", {"host": host}) == 403


@given(
    st.dictionaries(
        st.sampled_from([b"host", b"origin", b"authorization", b"sec-fetch-site", b"forwarded"]), st.binary(max_size=40)
    )
)
def test_whatever_comes_is_judged_and_nobody_guesses_the_token(headers: dict[bytes, bytes]) -> None:
    for method in ("GET", "PUT"):
        refused = PROTECTED.refusal(method, "/policy", headers, "127.0.0.1")
        assert refused is not None
        assert refused.status in (401, 403)


def test_loopback_is_told_from_others() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost", "::ffff:127.0.0.1"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "", "localhost.example", "127.0.0.1.example"))


@pytest.mark.parametrize(
    ("flags", "environ", "said"),
    [
        ({"admin.token_file": "/nowhere"}, {}, "token_file /nowhere: FileNotFoundError"),
        ({"admin.token_env": "T"}, {}, "environment variable T holds no token"),
        ({"admin.token_env": "T"}, {"T": "short"}, "16 characters at least"),
        ({"admin.token_env": "T"}, {"T": "two words are no token"}, "no space"),
        ({"admin.token_env": "T", "admin.token_file": "x"}, {}, "two places for one token"),
        ({"admin.protect": "all"}, {}, "needs token_file or token_env"),
        ({"admin.hosts": ["http://paceline.example"]}, {}, "must be a name alone"),
    ],
)
def test_a_token_that_is_none_is_refused_by_name_and_never_shown(
    flags: dict[str, Any], environ: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        load(None, environ, {"upstreams": ["http://127.0.0.1:1"], **flags})
    assert said in str(refused.value)
    assert "short" not in str(refused.value)


def test_the_variable_of_commands_is_no_setting() -> None:
    assert config_for("http://h:1", environ={"PACELINE_ADMIN_TOKEN": TOKEN}).admin.token_env is None


def test_a_token_in_the_wrong_place_is_not_repeated() -> None:
    for key in ("admin.token", "admin.token_file"):
        with pytest.raises(ConfigError) as refused:
            config_for("http://h:1", **{key: [TOKEN]})
        assert TOKEN not in str(refused.value)


def test_an_open_port_is_told_of() -> None:
    assert not list(doubts(config_for("http://h:1")))
    assert "without a token" in next(doubts(config_for("http://h:1", admin_host="0.0.0.0")))
    assert not list(doubts(config_for("http://h:1", admin_host="0.0.0.0", environ={"T": TOKEN}, **{"admin.token_env": "T"})))


@asynccontextmanager
async def admin(environ: dict[str, str], **flags: Any) -> AsyncIterator[tuple[App, httpx.AsyncClient]]:
    """A real admin port of a proxy that has no server to ask."""
    config = config_for("http://127.0.0.1:1", environ=environ, **{"energy.meter": "none", "health.every_s": 0, **flags})
    app = create_app(config, environ)
    try:
        async with served(create_admin(app)) as address:
            async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client:
                yield app, client
    finally:
        await app.stop()


async def test_the_port_says_how_to_get_in() -> None:
    async with admin({"T": TOKEN}, **{"admin.token_env": "T"}) as (app, client):
        answer = await client.put("/policy", json={"policy": {"name": "passthrough"}})
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == 'Bearer realm="paceline admin"'
        assert "PACELINE_ADMIN_TOKEN" in answer.json()["detail"]
        assert app.fleet.default.scheduler.strategy.policy_name == "span"
        answer = await client.put("/policy", json={"policy": {"name": "passthrough"}}, headers=BEARER)
        assert answer.status_code == 200
        assert app.fleet.default.scheduler.strategy.policy_name == "passthrough"
        answer = await client.get("/status")
        assert (answer.status_code, answer.headers["x-content-type-options"]) == (200, "nosniff")
        assert (await client.get("/docs")).status_code == 404  # its page would load another site's scripts


async def test_another_token_holds_after_a_reload_and_one_that_has_gone_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    async with admin({}, **{"admin.token_file": str(file)}) as (_, client):
        assert (await client.post("/reload", headers=BEARER)).status_code == 200
        file.write_text("another-token-of-length")
        assert (await client.post("/reload", headers=BEARER)).status_code == 200  # by the former one
        assert (await client.post("/reload", headers=BEARER)).status_code == 401
        new = {"authorization": "Bearer another-token-of-length"}
        assert (await client.post("/reload", headers=new)).status_code == 200
        file.unlink()
        assert (await client.post("/reload", headers=new)).status_code == 422
        assert (await client.post("/reload")).status_code == 401
        file.write_text(TOKEN)
        assert (await client.post("/reload", headers=new)).status_code == 200
