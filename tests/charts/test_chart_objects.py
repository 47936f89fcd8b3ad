"""Every object of the chart, for every example of values, is what Kubernetes' own schemas and the operator's take."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml
from cloudcoil.models.prometheus_operator import v1
from kubernetes_validate import utils as kubernetes

from tests.charts.helm import CHART, MINIMAL, NAMES, Tree, example, render, values_of

OPERATORS = {"ServiceMonitor": v1.ServiceMonitor, "PrometheusRule": v1.PrometheusRule}
OLDEST, NEWEST = "1.27", "1.37"


@pytest.mark.parametrize("name", NAMES)
def test_helm_finds_nothing_wrong(name: str) -> None:
    told = helm_python.chart.lint(CHART, values_of(name), strict=True)
    assert told["errors"] == []
    assert {message["error"] for message in told["messages"]} <= {"icon is recommended"}


@pytest.mark.parametrize("name", NAMES)
def test_kubernetes_takes_every_object(name: str) -> None:
    for thing in example(name).objects:
        if thing["kind"] not in OPERATORS:
            for version in (OLDEST, NEWEST):
                kubernetes.validate(thing, version, strict=True)
        assert thing["metadata"]["labels"]["app.kubernetes.io/instance"] == "paceline"
        assert "namespace" in thing["metadata"]


@pytest.mark.parametrize("name", NAMES)
def test_the_prometheus_operator_takes_its_objects(name: str) -> None:
    for thing in example(name).objects:
        if (model := OPERATORS.get(thing["kind"])) is not None:
            taken = model.model_validate(thing)
            assert within(thing, taken.model_dump(mode="json", by_alias=True)), "the operator knows no such key"


def within(small: Any, large: Any) -> bool:
    """Whether all that is in one tree is in the other; models drop what they do not know."""
    if isinstance(small, dict):
        return isinstance(large, dict) and all(key in large and within(value, large[key]) for key, value in small.items())
    if isinstance(small, list):
        return isinstance(large, list) and len(small) == len(large) and all(map(within, small, large))
    return bool(small == large)


def test_nothing_needs_the_operator_unless_it_is_asked_for() -> None:
    assert {thing["apiVersion"].partition("/")[0] for thing in example("minimal").objects} == {
        "v1", "apps", "policy", "networking.k8s.io"
    }  # fmt: skip


def test_no_secret_is_made_and_every_one_that_is_named_is_mounted() -> None:
    for name in NAMES:
        assert not example(name).of("Secret")
    pod = example("tls-token").pod("proxy")
    secrets = {volume["secret"]["secretName"]: volume["name"] for volume in pod["volumes"] if "secret" in volume}
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert {secret: mounts[volume] for secret, volume in secrets.items()} == {
        "paceline-admin": "/run/secrets/paceline-admin",
        "paceline-tls": "/run/secrets/paceline-tls",
        "tgi-key": "/run/secrets/tgi-key",
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_pod_is_as_little_privileged_as_can_be(name: str) -> None:
    for labels, pod in example(name).pods():
        host_too = labels["app.kubernetes.io/component"] == "meter" and name == "gpu-meter"
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False, "a service named paceline would set PACELINE_PORT"
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["securityContext"]["runAsNonRoot"] is not host_too
        assert pod["securityContext"]["runAsUser"] == (0 if host_too else 10001)
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert not any("gpu" in resource for resource in container["resources"]["limits"])
            written = {mount["mountPath"] for mount in container.get("volumeMounts", []) if not mount.get("readOnly")}
            assert written <= {"/tmp", "/var/lib/paceline"}


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart with a rule and a dashboard that have what templates stumble over."""
    chart = tmp_path_factory.mktemp("chart") / "paceline"
    shutil.copytree(CHART, chart)
    for folder in ("rules", "dashboards"):
        shutil.rmtree(chart / folder, ignore_errors=True)
        (chart / folder).mkdir()
    rule = {"alert": "A", "expr": "a > 1e3", "for": "5m", "annotations": {"summary": "{{ $labels.instance }} has {{ $value }}"}}
    (chart / "rules/a.yaml").write_text(yaml.safe_dump({"groups": [{"name": "a", "interval": "15s", "rules": [rule]}]}))
    (chart / "rules/b.yaml").write_text('groups: [{name: b, rules: [{record: "x:y", expr: vector(1)}]}]')
    (chart / "dashboards/overview.json").write_text('{"title": "{{instance}} \\" \\n $__rate_interval"}\n')
    return chart


def test_rules_and_dashboards_come_as_they_are(furnished: Path) -> None:
    asked: Tree = {"prometheusRule": {"enabled": True}, "dashboards": {"enabled": True, "annotations": {"grafana_folder": "P"}}}
    rendered = render({**MINIMAL, **asked}, furnished)
    files = [yaml.safe_load((furnished / "rules" / name).read_text()) for name in ("a.yaml", "b.yaml")]
    assert rendered.one("PrometheusRule")["spec"]["groups"] == [group for file in files for group in file["groups"]]
    dashboard = rendered.one("ConfigMap", "paceline-overview")
    assert dashboard["data"] == {"paceline-overview.json": (furnished / "dashboards/overview.json").read_text()}
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert dashboard["metadata"]["annotations"] == {"grafana_folder": "P"}


def test_all_that_the_chart_has_of_them_comes() -> None:
    rendered = example("monitored")
    rules = [yaml.safe_load(file.read_text()) for file in sorted((CHART / "rules").glob("*.yaml"))]
    assert rendered.one("PrometheusRule")["spec"]["groups"] == [group for file in rules for group in file["groups"]]
    maps = {name: text for one in rendered.of("ConfigMap") for name, text in one["data"].items()}
    for file in (CHART / "dashboards").glob("*.json"):
        assert maps[f"paceline-{file.name}"] == file.read_text()
        assert len(file.read_bytes()) < 1 << 20, "a ConfigMap holds no more"
