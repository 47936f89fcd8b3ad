"""The laptop's stack run natively: services of docker/compose.yaml with their own commands, files, hosts and health checks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docker import sink
from tests.docker.compose import DOCKER, ROOT, packaged, stack
from tests.tools import tool

# what cannot be had here: its files are checked by themselves (test_files.py), and what sends to it sends to a stand-in
ABSENT = ("grafana", "jaeger")
ENOUGH = ("engine-1", "engine-2", "otel-collector", "proxy", "load", "prometheus")  # in an order that depends_on allows

Ask = Callable[..., dict[str, Any]]


class Stack:
    """A running stack; `ask` is carried out within its network."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self.hear()

    def hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the stack ended with {self._process.wait(10)}"
        answer: dict[str, Any] = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer

    def get(self, url: str, **more: Any) -> Any:
        """JSON from a service, by the name that it has in the stack."""
        answer = self.ask(get=url, **more)
        assert answer["status"] == 200, answer
        return json.loads(answer["body"])

    def query(self, promql: str) -> list[dict[str, Any]]:
        """What Prometheus answers."""
        body = {"get": "http://prometheus:9090/api/v1/query", "body": f"query={promql}"}
        answer = self.get(body["get"], body=body["body"], headers={"content-type": "application/x-www-form-urlencoded"})
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found


@contextmanager
def running(folder: Path, secrets: dict[str, str]) -> Iterator[Stack]:
    """The stack, healthy, with the contents of its secrets.

    Args:
        folder: for logs, secrets and what is mounted; a short path outside of the project.
        secrets: their contents, by name.
    """
    plan = _plan(folder, secrets)
    namespaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*namespaces, "true"], capture_output=True, check=False).returncode:
        missing = "namespaces of one's own need Linux, util-linux and root"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with subprocess.Popen(
        [*namespaces, sys.executable, str(Path(__file__).with_name("inside.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(plan) + "\n")
        process.stdin.flush()
        try:
            stack = Stack(process)
            assert stack.hear()["ready"]
            yield stack
        finally:
            process.stdin.close()
            process.wait(20)


def _plan(folder: Path, secrets: dict[str, str]) -> dict[str, Any]:
    services = stack("compose.yaml")["services"]
    for name in ("logs", "secrets", "scratch"):
        (folder / name).mkdir()
    for name, content in secrets.items():
        (folder / "secrets" / name).write_text(content)
    folder.chmod(0o755)
    files: dict[str, str] = {}
    volumes: set[str] = set()
    for name in ENOUGH:
        for volume in services[name].get("volumes", ()):
            if volume["type"] == "bind":
                files[volume["target"]] = volume["source"]
            else:
                volumes.add(volume["target"])
        files |= {s["target"]: str(folder / "secrets" / s["source"]) for s in services[name].get("secrets", ())}
    files["/usr/local/bin/healthy"] = str(DOCKER / "healthy.py")  # as in the image
    return {
        "hosts": list(services),
        "files": files,
        "volumes": sorted(volumes),
        "machine": [str(ROOT), sys.prefix, str(folder)],
        "scratch": str(folder / "scratch"),
        "logs": str(folder / "logs"),
        "path": os.pathsep.join((str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin")),
        "uid": 10001 if ROOT.stat().st_mode & 0o005 == 0o005 else 0,  # the image's, if it may read the checkout
        "services": [_sink(), *(_service(name, services[name]) for name in ENOUGH)],
    }


def _service(name: str, service: dict[str, Any]) -> dict[str, Any]:
    program = {"prometheus": [tool("prometheus")] if name == "prometheus" else []}.get(name, ["paceline"])
    command = [*program, *service["command"]]
    if name == "otel-collector":
        command = _collector()
    check = service.get("healthcheck", {})
    return {
        "name": name,
        "command": command,
        "environment": {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", **(service.get("environment") or {})},
        "folder": "/var/lib/paceline" if program == ["paceline"] else "/",
        "healthcheck": [] if check.get("disable") else check.get("test", []),
    }


def _collector() -> list[str]:
    """Rotel, listening where the collector's configuration says; the collector itself is in no package registry."""
    config = yaml.safe_load((DOCKER / "otel-collector" / "config.yaml").read_text())
    listens = config["receivers"]["otlp"]["protocols"]
    host = config["exporters"]["otlp_grpc"]["endpoint"].partition(":")[0]
    return [
        packaged("rotel", "rotel-agent"),
        "start",
        f"--otlp-grpc-endpoint={listens['grpc']['endpoint']}",
        f"--otlp-http-endpoint={listens['http']['endpoint']}",
        "--exporter=otlp",
        "--otlp-exporter-protocol=http",
        f"--otlp-exporter-endpoint=http://{host}:{sink.PORT}",
        "--batch-timeout=500ms",
    ]


def _sink() -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.docker.sink"]
    check = ["CMD", "healthy", f"http://127.0.0.1:{sink.PORT}/"]
    return {"name": "jaeger", "command": command, "environment": {}, "folder": str(ROOT), "healthcheck": check}
