"""Values: the schema is the code's, Helm refuses what Paceline would, and what it lets by is what Paceline reads."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import helm_python
import pytest
import yaml
from click.testing import CliRunner

from bench.chart.schema import PAGE, SCHEMA, page, schema, written
from policies.capped import Capped
from policies.window import Window
from proxy.serve import command
from proxy.sources import load
from tests.charts.helm import CHART, MINIMAL, NAMES, Tree, example, render
from tests.charts.mounted import on_this_disk

ROOT = CHART.parent.parent


def test_the_schema_and_the_table_are_the_codes() -> None:
    assert SCHEMA.read_text() == written(), "python -m bench.chart"
    assert PAGE.read_text() == page(PAGE.read_text()), "python -m bench.chart"


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["appVersion"] == project["version"]


def leaves(values: Tree, described: Tree) -> Iterator[tuple[str, Tree]]:
    for name, value in values.items():
        below = described[name].get("properties")
        if isinstance(value, dict) and below:
            yield from leaves(value, below)
        else:
            yield name, described[name]


def test_every_value_has_a_default_that_is_described() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    told = schema()["properties"]
    assert values.keys() == told.keys() - {"global"}
    del values["config"]
    for name, part in leaves(values, told):
        assert "description" in part or name in ("name", "key", "to", "ports", "startup", "liveness", "readiness"), name


@pytest.mark.parametrize("name", NAMES)
def test_serve_takes_the_rendered_configuration(name: str, tmp_path: Path) -> None:
    file = on_this_disk(example(name).config(), tmp_path)
    told = CliRunner().invoke(command, ["--check", "--config", str(file)])
    assert told.exit_code == 0, told.output
    assert "the configuration is good" in told.output


def test_helms_numbers_are_still_whole_where_they_must_be(tmp_path: Path) -> None:
    config = load(on_this_disk(example("monitored").config(), tmp_path), {}, {})
    assert (config.queue.limit, config.queue.bytes) == (50_000, 1_000_000_000)
    assert (config.slack.flex.default_s, config.slack.flex.max_s) == (4.0, 30.5)
    assert config.strategy().policy == Capped(Window(1.0), in_flight=96)


@pytest.mark.parametrize("number", [1, 1e6, 1e9, 2**31, 2**40, 1e15])
def test_large_numbers(number: float, tmp_path: Path) -> None:
    rendered = render({"config": {**MINIMAL["config"], "queue": {"bytes": number}}})
    assert load(on_this_disk(rendered.config(), tmp_path), {}, {}).queue.bytes == int(number)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"config": {}}, "missing property 'upstreams'"),
        ({"config": {"upstreams": []}}, "/config/upstreams"),
        ({"config": {"upstreams": [{"url": "http://a:1", "slot": 3}]}}, "/config/upstreams/0"),
        ({"config": {"upstreams": ["http://a:1"], "queue": {"limt": 3}}}, "'limt' not allowed"),
        ({"config": {"upstreams": ["http://a:1"], "queue": {"limit": "3"}}}, "/config/queue/limit"),
        ({"config": {"upstreams": ["http://a:1"], "queue": {"limit": 1.5}}}, "/config/queue/limit"),
        ({"config": {"upstreams": ["http://a:1"], "busy": "queue"}}, "/config/busy"),
        ({"config": {"upstreams": ["http://a:1"], "tenants": [{"name": "a", "key": "secret"}]}}, "'key' not allowed"),
        ({**MINIMAL, "replica": 2}, "'replica' not allowed"),
        ({**MINIMAL, "service": {"type": "Public"}}, "/service/type"),
        ({**MINIMAL, "image": {"digest": "latest"}}, "/image/digest"),
        ({**MINIMAL, "meter": {"enabled": True}}, "meter.keySecret.name"),
        ({"config": {**MINIMAL["config"], "admin_host": "127.0.0.1"}}, "probes come from outside"),
        ({"config": {**MINIMAL["config"], "port": 0}}, "ports that are known"),
        ({**MINIMAL, "replicas": 2, "persistence": {"enabled": True}}, "ReadWriteMany"),
        ({"config": {**MINIMAL["config"], "experiments": {"path": "/x"}}, "replicas": 2}, "config.shared.url"),
    ],
)
def test_helm_refuses_what_cannot_work(values: Tree, told: str) -> None:
    with pytest.raises(helm_python.HelmError) as error:
        render(values)
    assert told in str(error.value)


def test_what_the_page_shows_renders_and_is_good(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) >= 3
    for number, block in enumerate(blocks):
        values = yaml.safe_load(block)
        config = {**MINIMAL["config"], **values.get("config", {})}
        (tmp_path / str(number)).mkdir()
        load(on_this_disk(render({**values, "config": config}).config(), tmp_path / str(number)), {}, {})


def test_a_server_may_be_a_string_or_a_table_and_a_parent_chart_may_hand_down_globals() -> None:
    config = render({"config": {"upstreams": ["http://a:1", {"url": "http://b:1", "slots": 4}]}, "global": {"x": 1}}).config()
    assert json.loads(config)["upstreams"] == ["http://a:1", {"url": "http://b:1", "slots": 4}]


def test_notes_say_what_should_be_known() -> None:
    alone = render({**MINIMAL, "replicas": 2}).notes
    assert "several replicas without config.shared.url" in alone
    assert "the admin port refuses changes" in alone
    assert "several replicas" not in example("replicas-redis").notes
    assert "https://paceline.llm.svc:8080" in example("tls-token").notes
    assert "refuses changes" not in example("tls-token").notes
    assert "end with their pod" in render({"config": {**MINIMAL["config"], "ledger": {"path": "/var/lib/paceline/l"}}}).notes
    assert "energy is unknown" in example("minimal").notes
    assert "energy is unknown" not in example("gpu-meter").notes
