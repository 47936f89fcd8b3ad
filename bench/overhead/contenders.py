"""The proxies: how each is told of the upstream and started on its core, and what else it needs first."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from bench.overhead.environments import Tell, environment, version_in
from bench.overhead.stub import NotPossible

# no process-wide settings of whoever runs this reach a proxy
INHERITED = {key: value for key, value in os.environ.items() if not key.startswith(("PACELINE_", "OTEL_", "LITELLM_"))}

# tracing at 1 %, and metrics pushed twelve times as often as by default, so that every window pays for it
TELEMETRY = {
    "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
    "OTEL_TRACES_SAMPLER_ARG": "0.01",
    "OTEL_METRIC_EXPORT_INTERVAL": "5000",
}

NGINX = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_requests 1000000000;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    upstream stub {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://stub; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }}
    }}
}}
"""

LITELLM = """
model_list:
  - model_name: stub
    litellm_params: {{model: openai/stub, api_base: "http://127.0.0.1:{upstream}/v1", api_key: none}}
"""


@dataclass(frozen=True, slots=True)
class Ground:
    """What a proxy is started with."""

    upstream: int  # port
    port: int  # its own
    spare_port: int  # for its metrics or administration
    folder: Path  # for its files
    bench: Path  # where environments are kept
    tell: Tell

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.upstream}"


@dataclass(frozen=True, slots=True)
class Start:
    """A command, what it runs with, and which version it is."""

    command: tuple[str, ...]
    version: str
    environ: Mapping[str, str] = field(default_factory=dict)


def nginx(on: Ground) -> Start:
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if binary is None:
        raise NotPossible("nginx is not installed: apt-get install nginx")
    file = on.folder / "nginx.conf"
    file.write_text(NGINX.format(folder=on.folder, upstream=on.upstream, port=on.port))
    told = subprocess.run([binary, "-v"], check=False, capture_output=True, text=True).stderr
    return Start((binary, "-c", str(file), "-p", str(on.folder), "-e", "stderr"), told.strip().rpartition("/")[2])


def bare(on: Ground) -> Start:
    parts = ", ".join(f"{name} {version(name)}" for name in ("uvicorn", "uvloop", "httptools", "aiohttp"))
    return Start((sys.executable, "-m", "bench.overhead.bare", on.url, str(on.port)), parts)


def paceline(on: Ground) -> Start:
    own = ("--host", "127.0.0.1", "--port", str(on.port), "--admin-port", str(on.spare_port), "--log-level", "warning")
    options = ("--upstream", on.url, "--policy", "passthrough", "--meter", "simulated")
    return Start(
        (sys.executable, "-m", "proxy.cli", "serve", *own, *options),
        version("paceline"),
        {**TELEMETRY, "OTEL_EXPORTER_OTLP_ENDPOINT": on.url},
    )


def vllm_router(on: Ground) -> Start:
    bin = environment("vllm-router", ["vllm-router==0.1.17"], on.bench, on.tell)
    own = ("--host", "127.0.0.1", "--port", str(on.port), "--prometheus-port", str(on.spare_port), "--log-level", "error")
    return Start(
        (str(bin / "vllm-router"), "--worker-urls", on.url, "--policy", "round_robin", *own), version_in(bin, "vllm-router")
    )


def litellm(on: Ground) -> Start:
    # fixed, so that runs of different days compare
    bin = environment("litellm", ["litellm[proxy]==1.106.2"], on.bench, on.tell)
    file = on.folder / "litellm.yaml"
    file.write_text(LITELLM.format(upstream=on.upstream))
    own = ("--host", "127.0.0.1", "--port", str(on.port), "--num_workers", "1", "--telemetry", "False")
    environ = {"LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    return Start((str(bin / "litellm"), "--config", str(file), *own), version_in(bin, "litellm"), environ)


PROXIES: Mapping[str, Callable[[Ground], Start]] = {
    "nginx": nginx,
    "bare": bare,
    "paceline": paceline,
    "vllm-router": vllm_router,
    "litellm": litellm,
}
