"""What Docker is given: checked by real tools, and held to what the documents promise."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from proxy.config import Config, MeterName
from tests.docker.compose import DOCKER, ROOT, STACKS, compose, hadolint, stack
from tests.tools import tool

ENGINES = ("vllm", "tgi")  # of others, as they come


def services(file: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = stack(file)["services"]
    return found


def everyone() -> list[tuple[str, str]]:
    return [(file, name) for file in STACKS for name in services(file)]


def test_hadolint_finds_nothing() -> None:
    checked = subprocess.run([hadolint(), str(DOCKER / "Dockerfile")], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_compose_refuses_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text("services: {x: {image: y, healthchek: {}}}\n")
    assert compose("--file", str(tmp_path / "compose.yaml"), "config", "-q").returncode != 0


@pytest.mark.parametrize("file", STACKS)
def test_the_stacks_are_whole(file: str) -> None:
    found = services(file)
    assert {"proxy", "otel-collector", "jaeger", "prometheus", "grafana"} <= set(found)
    for service in found.values():
        for mounted in service.get("volumes", ()):
            assert mounted["type"] == "volume" or Path(mounted["source"]).exists(), mounted


@pytest.mark.parametrize("file", STACKS)
def test_services_have_no_more_rights_than_they_need(file: str) -> None:
    for name, service in services(file).items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged"), name
        if name not in ENGINES:
            assert service["read_only"], name
            assert service["deploy"]["resources"]["limits"]["memory"], name


@pytest.mark.parametrize("file", STACKS)
def test_nothing_is_reached_from_other_machines(file: str) -> None:
    published = [port for service in services(file).values() for port in service.get("ports", ())]
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}


@pytest.mark.parametrize("file", STACKS)
def test_images_are_pinned_and_secrets_are_files(file: str) -> None:
    for name, service in services(file).items():
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name
        told = " ".join(map(str, (service.get("environment") or {}).values()))
        assert not re.search(r"(?i)password|token=|bearer", told), name
    assert stack(file)["secrets"]["admin-token"]["file"] == str(DOCKER / "secrets" / "admin-token")


@pytest.mark.parametrize("file", STACKS)
def test_compose_waits_for_a_drain(file: str) -> None:
    config = proxy_config(file)
    grace_s = float(services(file)["proxy"]["stop_grace_period"].removesuffix("s"))
    assert grace_s >= config.drain.linger_s + config.drain.grace_s + 5


def proxy_config(file: str) -> Config:
    (mounted,) = [v["source"] for v in services(file)["proxy"]["volumes"] if v["target"] == "/etc/paceline/paceline.toml"]
    return Config.model_validate_json(json.dumps(tomllib.loads(Path(mounted).read_text())))


def test_the_gpu_stack_meters_the_card_that_the_engine_computes_on() -> None:
    found = services("compose.gpu.yaml")
    assert proxy_config("compose.gpu.yaml").energy.meter == "nvml"
    devices = {name: found[name]["deploy"]["resources"]["reservations"]["devices"][0] for name in ("proxy", *ENGINES)}
    assert {tuple(device["device_ids"]) for device in devices.values()} == {("0",)}
    assert devices["proxy"]["capabilities"] == ["utility"]
    port = proxy_config("compose.gpu.yaml").upstreams[0].url.rpartition(":")[2]
    for engine in ENGINES:
        assert found[engine]["networks"]["default"]["aliases"] == ["engine"]
        assert found[engine]["command"][-2:] == ["--port", port]


def test_prometheus_takes_its_configuration() -> None:
    config = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
    checked = subprocess.run(
        [tool("promtool"), "check", "config", "--syntax-only", str(DOCKER / "prometheus" / "prometheus.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    (targets,) = [job["static_configs"][0]["targets"] for job in config["scrape_configs"] if job["job_name"] == "paceline"]
    assert targets == [f"proxy:{proxy_config('compose.yaml').admin_port}"]


def test_the_collector_is_wired() -> None:
    """No collector can be had here; these are its parts, all of which its core distribution has."""
    config = yaml.safe_load((DOCKER / "otel-collector" / "config.yaml").read_text())
    assert set(config) == {"receivers", "processors", "exporters", "service"}
    used: dict[str, set[str]] = {"receivers": set(), "processors": set(), "exporters": set()}
    for pipeline in config["service"]["pipelines"].values():
        for part, names in pipeline.items():
            used[part] |= set(names)
    assert used == {part: set(config[part]) for part in used}
    assert used == {"receivers": {"otlp"}, "processors": {"memory_limiter", "batch"}, "exporters": {"otlp_grpc"}}
    asked = services("compose.yaml")["proxy"]["environment"]["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]
    host, port = re.fullmatch(r"http://([\w-]+):(\d+)/v1/traces", asked).groups()  # type: ignore[union-attr]
    assert host in services("compose.yaml")
    assert config["receivers"]["otlp"]["protocols"]["http"]["endpoint"].endswith(f":{port}")
    assert config["exporters"]["otlp_grpc"]["endpoint"].partition(":")[0] in services("compose.yaml")


def test_grafana_finds_what_dashboards_name() -> None:
    provisioning = DOCKER / "grafana" / "provisioning"
    sources = yaml.safe_load((provisioning / "datasources" / "paceline.yaml").read_text())["datasources"]
    assert {source["uid"] for source in sources} == {"prometheus", "traces"}
    hosts = {re.sub(r"http://([\w-]+):\d+", r"\1", source["url"]) for source in sources}
    grafana = services("compose.yaml")["grafana"]
    assert hosts <= set(services("compose.yaml"))
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "paceline.yaml").read_text())["providers"]
    mounted = {volume["target"]: volume["source"] for volume in grafana["volumes"]}
    folder = Path(mounted[provider["options"]["path"]])
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == provider["options"]["path"]
    assert (folder / home.name).exists()


def locked(name: str) -> dict[str, str]:
    """Versions by package; each has hashes."""
    blocks = re.split(r"\n(?=\S)", (DOCKER / name).read_text().strip())
    assert all("--hash=sha256:" in block for block in blocks)
    pins = [Requirement(block.partition(" \\")[0]) for block in blocks]
    return {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in pins}


def test_the_lock_satisfies_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pins = locked("requirements.lock")
    for requirement in map(Requirement, project["project"]["dependencies"]):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)], prereleases=True), requirement
    build = locked("build.lock")
    for name in (*project["build-system"]["requires"], *(DOCKER / "build.in").read_text().split()):
        assert canonicalize_name(Requirement(name).name) in build


def test_the_image_is_built_from_the_code_alone() -> None:
    """Everything that is copied is let through to the builder, and little else is."""
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied: set[str] = set()
    for line in (DOCKER / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY") and "--from" not in line:
            copied |= {word for word in line.split()[1:-1] if not word.startswith("--")}
    assert copied == let_through
    assert all((ROOT / path).exists() for path in copied)


def test_the_image_runs_as_the_user_that_the_chart_expects() -> None:
    dockerfile = (DOCKER / "Dockerfile").read_text()
    assert re.search(r"^USER 10001:10001$", dockerfile, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["paceline"\]$', dockerfile, re.MULTILINE)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"ARG VERSION={version}" in dockerfile
    assert services("compose.yaml")["proxy"]["image"] == f"paceline:{version}"


def test_the_page_of_what_was_exercised_names_what_there_is() -> None:
    page = (ROOT / "docs" / "exercised.md").read_text()
    for file, name in everyone():
        assert f"`{name}`" in page, f"{name} of {file}"
    for meter in set(get_args(MeterName)) - {"auto", "none"}:
        assert f"`{meter}`" in page, meter
    for path in re.findall(r"`((?:tests|docker|bench|charts)/[\w./-]+)`", page):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"\]\(([\w./-]+)\)", page):
        assert (ROOT / "docs" / path).exists(), path
