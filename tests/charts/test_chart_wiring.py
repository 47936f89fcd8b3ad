"""The chart's objects fit each other, and Paceline: selectors, ports, policies, probes, the drain."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest

from proxy.meter import command as meter_command
from proxy.serve import command as serve_command
from proxy.sources import load
from telemetry import rapl
from tests.charts.helm import CHART, MINIMAL, NAMES, Rendered, Tree, example, render, selected, values_of
from tests.charts.mounted import on_this_disk


@pytest.mark.parametrize("name", NAMES)
def test_selectors_find_pods_and_ports(name: str) -> None:
    rendered = example(name)
    for service in rendered.of("Service"):
        (pod,) = [pod for labels, pod in rendered.pods() if selected(labels, service["spec"]["selector"])]
        named = {port["name"] for container in pod["containers"] for port in container["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= named
    for kind in ("Deployment", "DaemonSet", "PodDisruptionBudget"):
        for thing in rendered.of(kind):
            selector = thing["spec"]["selector"]["matchLabels"]
            assert len([labels for labels, _ in rendered.pods() if selected(labels, selector)]) == 1
    for spread in rendered.pod("proxy")["topologySpreadConstraints"]:
        assert selected(rendered.pods()[0][0], spread["labelSelector"]["matchLabels"])


def test_data_and_admin_have_services_of_their_own() -> None:
    rendered = example("monitored")
    assert [port["targetPort"] for port in rendered.one("Service")["spec"]["ports"]] == ["data"]
    assert [port["targetPort"] for port in rendered.one("Service", "paceline-admin")["spec"]["ports"]] == ["admin"]


def admitted(rendered: Rendered, component: str, port: int) -> list[Tree] | None:
    """Who may come in there: peers; none at all of them if everybody may."""
    labels = next(labels for labels, _ in rendered.pods() if labels["app.kubernetes.io/component"] == component)
    (policy,) = [p for p in rendered.of("NetworkPolicy") if selected(labels, p["spec"]["podSelector"]["matchLabels"])]
    (rule,) = [rule for rule in policy["spec"]["ingress"] if port in [one["port"] for one in rule["ports"]]]
    peers: list[Tree] | None = rule.get("from")
    return peers


@pytest.mark.parametrize(
    ("name", "monitor", "component"),
    [
        ("monitored", "paceline", "proxy"),
        ("tls-token", "paceline", "proxy"),
        ("gpu-meter", "paceline", "proxy"),
        ("gpu-meter", "paceline-meter", "meter"),
    ],
)
def test_what_prometheus_scrapes_lets_prometheus_in(name: str, monitor: str, component: str) -> None:
    rendered = example(name)
    spec = rendered.one("ServiceMonitor", monitor)["spec"]
    (endpoint,) = spec["endpoints"]
    (service,) = [s for s in rendered.of("Service") if selected(s["metadata"]["labels"], spec["selector"]["matchLabels"])]
    assert service["metadata"]["namespace"] in spec["namespaceSelector"]["matchNames"]
    (port,) = [port for port in service["spec"]["ports"] if port["name"] == endpoint["port"]]
    (container,) = rendered.pod(component)["containers"]
    number = next(one["containerPort"] for one in container["ports"] if one["name"] == port["targetPort"])
    peers = admitted(rendered, component, number)
    assert peers is not None
    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}} in peers
    assert endpoint["relabelings"] == [{"action": "replace", "targetLabel": "job", "replacement": monitor}]


def test_clients_may_come_from_anywhere_or_from_where_it_is_said_and_the_test_pod_always() -> None:
    assert admitted(example("minimal"), "proxy", 8080) is None
    peers = admitted(example("monitored"), "proxy", 8080)
    assert peers is not None
    assert peers[0] == {"namespaceSelector": {"matchLabels": {"team": "research"}}}
    for port in (8080, 9464):
        among = admitted(example("monitored"), "proxy", port) or []
        tester = next(labels for labels, pod in example("monitored").pods() if pod.get("restartPolicy") == "Never")
        assert any(selected(tester, peer["podSelector"]["matchLabels"]) for peer in among if "podSelector" in peer)


def test_the_proxy_may_read_the_meters() -> None:
    peers = admitted(example("gpu-meter"), "meter", 9465) or []
    proxy = example("gpu-meter").pods()[0][0]
    assert any(selected(proxy, peer["podSelector"]["matchLabels"]) for peer in peers if "podSelector" in peer)


@pytest.mark.parametrize(
    ("name", "ports"),
    [
        ("monitored", {53, 8000, 3128, 9400, 4318}),  # the HTTP proxy's, not the endpoint's behind it
        ("gpu-meter", {53, 8000, 9465}),
        ("replicas-redis", {53, 8001, 6380}),  # 8001 is what the pods behind the server's Service listen on
    ],
)
def test_outward_go_only_what_the_configuration_names(name: str, ports: set[int]) -> None:
    spec = example(name).one("NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert {port["port"] for rule in spec["egress"] for port in rule["ports"]} == ports


@pytest.mark.parametrize("name", NAMES)
def test_a_pod_has_time_for_its_drain(name: str, tmp_path: Path) -> None:
    config = load(on_this_disk(example(name).config(), tmp_path), {}, {})
    assert config.drain.linger_s > 0, "or endpoints would be removed after the port has closed"
    given = example(name).pod("proxy")["terminationGracePeriodSeconds"]
    assert given == math.ceil(config.drain.linger_s + config.drain.grace_s + 15)


@pytest.mark.parametrize(("name", "scheme"), [("minimal", "HTTP"), ("tls-token", "HTTPS")])
def test_probes_ask_the_admin_port_as_it_speaks(name: str, scheme: str) -> None:
    (container,) = example(name).pod("proxy")["containers"]
    asked = {probe: container[f"{probe}Probe"]["httpGet"] for probe in ("startup", "liveness", "readiness")}
    assert {probe: get["path"] for probe, get in asked.items()} == {
        "startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"
    }  # fmt: skip
    assert {(get["port"], get["scheme"]) for get in asked.values()} == {("admin", scheme)}


def test_another_name_and_another_version_change_no_selector(tmp_path: Path) -> None:
    other = tmp_path / "paceline"
    shutil.copytree(CHART, other)
    (other / "Chart.yaml").write_text((CHART / "Chart.yaml").read_text().replace("0.1.0", "9.9.9"))
    before, after = render(MINIMAL), render(MINIMAL, other)
    selectors = [one.one("Deployment")["spec"]["selector"]["matchLabels"] for one in (before, after)]
    assert selectors[0] == selectors[1], "a Deployment's selector cannot be changed, so no upgrade would go through"
    long = render({**values_of("gpu-meter"), "fullnameOverride": "x" * 63})
    assert max(len(thing["metadata"]["name"]) for thing in long.of("Service")) <= 63


def test_the_commands_are_ours() -> None:
    rendered = example("gpu-meter")
    serve, *args = rendered.pod("proxy")["containers"][0]["args"]
    assert serve == serve_command.name
    assert str(serve_command.make_context("serve", args).params["file"]) == "/etc/paceline/paceline.json"
    meter, *args = rendered.pod("meter")["containers"][0]["args"]
    assert meter == meter_command.name
    told = meter_command.make_context("meter", args).params
    assert (told["names"], told["port"], told["unlocked"]) == (("nvml", "rapl"), 9465, False)
    assert str(told["key_file"]) == "/run/secrets/paceline-meter/key"


def test_a_meter_sees_all_gpus_and_asks_for_none() -> None:
    pod = example("gpu-meter").pod("meter")
    environment = {one["name"]: one["value"] for one in pod["containers"][0]["env"]}
    assert environment == {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "utility"}
    assert pod["runtimeClassName"] == "nvidia"
    paths = {volume["name"]: volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume}
    assert set(paths.values()) == {"/sys/class/powercap", "/sys/devices/virtual/powercap"}
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert {mounts[name] for name in paths} == {f"/host{path}" for path in paths.values()}
    assert str(rapl.HOSTS) in mounts.values()


def test_another_configuration_rolls_the_pods_unless_it_shall_not() -> None:
    def checksum(values: Tree) -> str | None:
        annotations = render(values).one("Deployment")["spec"]["template"]["metadata"]["annotations"]
        told: str | None = annotations.get("checksum/config")
        return told

    other = {"config": {**MINIMAL["config"], "queue": {"limit": 5}}}
    assert checksum(MINIMAL) == checksum({**MINIMAL, "service": {"port": 81}}) != checksum(other)
    assert checksum({**other, "rollOnConfigChange": False}) is None


def test_replicas_and_volumes() -> None:
    assert example("monitored").one("Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    several = example("replicas-redis")
    deployment = several.one("Deployment")["spec"]
    assert "replicas" not in deployment, "the autoscaler's"
    assert deployment["strategy"]["type"] == "RollingUpdate"
    assert (
        several.one("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"]
        == several.one("Deployment")["metadata"]["name"]
    )
    (mount,) = [m for m in several.pod("proxy")["containers"][0]["volumeMounts"] if m["name"] == "data"]
    assert mount["subPathExpr"] == "$(POD_NAME)"
    assert render({**MINIMAL, "replicas": 3}).one("Deployment")["spec"]["replicas"] == 3
