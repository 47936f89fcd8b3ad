"""Runs a compose file's services natively, in namespaces of their own, where hosts and paths are what the files say.

Reads a plan (see `stack.py`) as one line of JSON, then requests line by line; answers each with one of JSON. It is process 1,
so when its input ends everything ends. The tree of files is a read-only overlay, as in the stack; only volumes can be written.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

READY_WITHIN_S = 40.0


def main() -> None:
    plan = json.loads(sys.stdin.readline())
    _loopback()
    _root(Path(plan["scratch"]), plan)
    services = Services(plan)
    try:
        services.start()
        _tell({"ready": True})
    except Exception as error:
        _tell({"ready": False, "error": f"{error}\n{services.output()}"})
    for line in sys.stdin:
        try:
            _tell(services.answer(json.loads(line)))
        except Exception as error:
            _tell({"error": f"{type(error).__name__}: {error}"})


def _tell(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def _loopback() -> None:
    with socket.socket() as sock:
        fcntl.ioctl(sock, 0x8914, struct.pack("16sH14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: up, running


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _root(scratch: Path, plan: dict[str, Any]) -> None:
    """A tree of files: the machine's beneath, above it the services' where their containers have them; then it is closed."""
    _mount("--make-rprivate", "/")
    _mount("-t", "tmpfs", "tmpfs", str(scratch))
    upper, work, root = (scratch / name for name in ("upper", "work", "root"))
    for folder in (upper, work, root):
        folder.mkdir()
    _mount("-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={upper},workdir={work}", str(root))
    for path in (*plan["machine"], os.path.realpath(sys.executable)):
        _let_in(root, path, plan["machine"])
    for path in ("/proc", "/dev", "/sys", *plan["machine"]):
        _under(root, path).mkdir(parents=True, exist_ok=True)
        _mount("--rbind", path, str(_under(root, path)))
    _under(root, "/etc/hosts").write_text("".join(f"127.0.0.1 {name}\n" for name in ("localhost", *plan["hosts"])))
    for target, source in plan["files"].items():
        _bind(source, _under(root, target))
    for target in plan["volumes"]:
        _under(root, target).mkdir(parents=True, exist_ok=True)
        _mount("-t", "tmpfs", "-o", f"uid={plan['uid']},gid={plan['uid']},mode=0750", "tmpfs", str(_under(root, target)))
    _mount("-o", "remount,ro", str(root))
    os.chroot(root)
    os.chdir("/")


def _let_in(root: Path, path: str, machine: list[str]) -> None:
    """Folders above it are open to all, in the overlay alone: services are another user, and Python may lie in root's home."""
    for parent in Path(path).parents:
        if not any(parent.is_relative_to(mounted) for mounted in machine) and parent != Path("/"):
            there = _under(root, str(parent))
            there.chmod(there.stat().st_mode | 0o005)


def _under(root: Path, path: str) -> Path:
    return root / path.removeprefix("/")


def _bind(source: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if Path(source).is_dir():
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    _mount("--bind", "-o", "ro", source, str(target))


class Services:
    """The services of the plan, in its order, each begun when those before it are healthy."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._logs = Path(plan["logs"])

    def start(self) -> None:
        for service in self._plan["services"]:
            with (self._logs / f"{service['name']}.log").open("wb") as log:
                self._running[service["name"]] = subprocess.Popen(
                    [*self._as_user(), *service["command"]],
                    env={"PATH": self._plan["path"], **service["environment"]},
                    cwd=service["folder"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            self._healthy(service)

    def _as_user(self) -> list[str]:
        if not self._plan["uid"]:
            return []
        ids = (f"--reuid={self._plan['uid']}", f"--regid={self._plan['uid']}", "--clear-groups")
        return ["setpriv", *ids, "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]

    def _healthy(self, service: dict[str, Any]) -> None:
        """By the service's own check; a check by the image's wget is asked by hand."""
        test, until = service["healthcheck"], time.monotonic() + READY_WITHIN_S
        while test and not self._passes(test, service):
            ended = self._running[service["name"]].poll()
            if ended is not None or time.monotonic() > until:
                raise RuntimeError(f"{service['name']} is not healthy (status {ended})")
            time.sleep(0.2)

    def _passes(self, test: list[str], service: dict[str, Any]) -> bool:
        if test[1] == "wget":
            return self._get({"get": test[-1]}).get("status") == 200
        return subprocess.run(test[1:], env={"PATH": self._plan["path"]}, capture_output=True, check=False).returncode == 0

    def output(self) -> str:
        logs = sorted(self._logs.glob("*.log"))
        return "\n".join(f"--- {log.stem}\n{log.read_text(errors='replace')[-3000:]}" for log in logs)

    # --- requests ---------------------------------------------------------------------------------------------------

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        if "get" in asked:
            return self._get(asked)
        if "run" in asked:
            return self._run(asked)
        return self._stop(asked["stop"])

    def _get(self, asked: dict[str, Any]) -> dict[str, Any]:
        body = asked["body"].encode() if "body" in asked else None
        request = urllib.request.Request(asked["get"], body, asked.get("headers", {}), method=asked.get("method"))
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return {"status": response.status, "body": response.read().decode()}
        except urllib.error.HTTPError as error:
            return {"status": error.code, "body": error.read().decode()}
        except OSError as error:
            return {"status": 0, "body": str(error)}

    def _run(self, asked: dict[str, Any]) -> dict[str, Any]:
        """A command as in the service's container (`docker compose exec`)."""
        service = next(s for s in self._plan["services"] if s["name"] == asked["in"])
        done = subprocess.run(
            [*self._as_user(), *asked["run"]],
            env={"PATH": self._plan["path"], **service["environment"]},
            cwd=service["folder"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return {"status": done.returncode, "output": done.stdout + done.stderr}

    def _stop(self, name: str) -> dict[str, Any]:
        process = self._running[name]
        process.send_signal(signal.SIGTERM)
        return {"status": process.wait(60), "output": (self._logs / f"{name}.log").read_text(errors="replace")}


if __name__ == "__main__":
    main()
