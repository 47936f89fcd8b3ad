"""The wheel that the image installs, put into an environment of its own."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import trustme

from tests.docker.compose import DOCKER, ROOT

FOLDERS = ("proxy", "policies", "telemetry", "bench")
ASK = "import importlib.metadata as m, json; print(json.dumps(m.packages_distributions()))"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a wheel of the working tree is installed, without what it depends on."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT)], check=True, timeout=100)
    (wheel,) = folder.glob("*.whl")
    into = ["--no-deps", "--no-index", "--target", str(folder / "site"), str(wheel)]
    subprocess.run([*pip, "install", *into], check=True, timeout=60)
    return folder / "site"


def test_its_folders_are_pacelines(installed: Path) -> None:
    asked = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(installed)!r}); {ASK}"],
        capture_output=True,
        check=True,
    )
    told = json.loads(asked.stdout)
    for folder in FOLDERS:
        assert told[folder] == ["paceline"]


def test_it_holds_all_that_is_no_code(installed: Path) -> None:
    """Profiles, pages, and whatever else lies beside the code."""
    kept = {path.relative_to(installed) for path in installed.rglob("*")}
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert path.relative_to(ROOT) in kept, path
    assert any("profiles" in path.parts for path in kept)
    assert not any("tests" in path.parts for path in kept)


@pytest.fixture(params=["http", "https"])
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """With TLS its certificate is of an authority that nobody knows, for a name that is not asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/healthz" else 503)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as serving:
        if request.param == "https":
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            trustme.CA().issue_cert("proxy.internal").configure_cert(context)
            serving.socket = context.wrap_socket(serving.socket, server_side=True)
        thread = Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"{request.param}://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


@pytest.mark.parametrize(("path", "status"), [("/healthz", 0), ("/readyz", 1)])
def test_the_health_check(server: str, path: str, status: int) -> None:
    asked = subprocess.run([DOCKER / "healthy.py"], env={"HEALTH_URL": server + path}, capture_output=True, check=False)
    assert asked.returncode == status, asked.stderr


def test_the_health_check_of_a_server_that_is_not_there() -> None:
    asked = subprocess.run([DOCKER / "healthy.py", "http://127.0.0.1:1/healthz"], capture_output=True, check=False)
    assert asked.returncode == 1
    assert b"http://127.0.0.1:1/healthz" in asked.stderr
