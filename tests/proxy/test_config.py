"""The configuration: where values come from, and what is said when they are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from policies.span import Span
from policies.window import Window
from proxy.config import Config
from proxy.sources import ConfigError, load

URL = "http://127.0.0.1:8000"


def problems(file: Path | None = None, environ: dict[str, str] | None = None, **flags: Any) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load(file, environ or {}, flags)
    return str(error.value).splitlines()


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "paceline.toml"
    file.write_text(text)
    return file


def test_defaults_need_only_an_upstream() -> None:
    config = load(None, {}, {"upstreams": [URL]})
    assert isinstance(config.strategy().policy, Span)
    assert (config.port, config.admin_host, config.admin_port) == (8080, "127.0.0.1", 9464)


def test_flags_beat_environment_beats_file_beats_defaults(tmp_path: Path) -> None:
    file = written(tmp_path, f'upstreams = ["{URL}"]\nport = 1\nadmin_port = 1\n[queue]\nlimit = 1\ntimeout_s = 1\n')
    environ = {"PACELINE_ADMIN_PORT": "2", "PACELINE_QUEUE__LIMIT": "2", "OTHER": "x"}
    config = load(file, environ, {"queue.limit": 3})
    assert (config.port, config.admin_port, config.queue.limit, config.queue.timeout_s) == (1, 2, 3, 1.0)


def test_an_upstream_is_a_url_or_a_table(tmp_path: Path) -> None:
    file = written(tmp_path, f'upstreams = ["{URL}/", {{url = "https://tgi.example", slots = 128}}]\n')
    assert [(u.url, u.slots) for u in load(file, {}, {}).upstreams] == [(URL, None), ("https://tgi.example", 128)]


def test_policy_parameters_reach_the_policy() -> None:
    config = load(None, {"PACELINE_POLICY__PARAMS__EVERY_S": "0.5"}, {"upstreams": [URL], "policy.name": "window"})
    assert config.strategy().policy == Window(every_s=0.5)


def test_a_part_of_a_section_leaves_its_rest_as_it_was() -> None:
    config = load(None, {}, {"upstreams": [URL], "slack.interactive.max_s": 9.0})
    assert (config.slack.interactive.default_s, config.slack.interactive.max_s, config.slack.flex.max_s) == (0.0, 9.0, 60.0)


def test_all_errors_at_once_each_with_its_place(tmp_path: Path) -> None:
    file = written(tmp_path, f'upstreams = ["{URL}"]\nprot = 1\nport = "80"\n[queue]\nlimits = 5\n')
    lines = problems(file, {"PACELINE_DIALECT": "smtp"}, log_level="loud")
    assert len(lines) == 5
    text = "\n".join(lines)
    assert f"prot ({file}): no such key; allowed here: upstreams, models, host, port," in text
    assert f"port ({file}): Input should be a valid integer" in text
    assert f"queue.limits ({file}): no such key; allowed here: limit, tenant_limit, timeout_s" in text
    assert "dialect (environment PACELINE_DIALECT): Input should be 'auto', 'tgi', 'vllm', 'sglang', " in text
    assert "log_level (flag --log-level)" in text


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, "upstreams: missing; give at least one --upstream URL"),
        ({"upstreams": ["localhost:8000"]}, "upstreams.0.url (flag --upstream): must be http://host:port"),
        ({"upstreams": [URL], "policy.name": "spam"}, "no policy 'spam': built in are adaptive, capped, carbon"),
        ({"upstreams": [URL], "policy.name": "window", "policy.params.n": 1}, "'window' has no parameter 'n'; it has every_s"),
        ({"upstreams": [URL], "policy.name": "window", "policy.params.every_s": 0}, "every_s must be greater than 0"),
        ({"upstreams": [URL], "placement.name": "nowhere:Pack"}, "cannot be imported"),
        ({"upstreams": [URL], "energy.profile": "abacus"}, "no profile 'abacus': built in are h100-llama8b"),
        (
            {"upstreams": [URL], "energy.domains": [{"devices": ["0"], "upstreams": ["http://other:1"]}]},
            "http://other:1 is no upstream",
        ),
    ],
)
def test_what_is_wrong_is_named(flags: dict[str, Any], expected: str) -> None:
    assert expected in "\n".join(problems(**flags))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "absent.toml" in problems(tmp_path / "absent.toml")[0]
    assert "paceline.toml" in problems(written(tmp_path, "port ="))[0]


def test_the_tree_is_frozen() -> None:
    config = load(None, {}, {"upstreams": [URL]})
    with pytest.raises(ValueError, match="frozen"):
        config.port = 1  # type: ignore[misc]


def test_every_key_has_a_default_or_is_the_upstreams() -> None:
    assert [name for name, f in Config.model_fields.items() if f.is_required()] == ["upstreams"]


def test_policy_and_placement_are_both_told() -> None:
    lines = problems(**{"upstreams": [URL], "policy.name": "a", "placement.name": "pack", "placement.params.knee": 0})
    assert lines[0].startswith("policy (flag --policy): no policy 'a'")
    assert lines[1].startswith("placement (flag --placement, flag --set-placement knee): placement 'pack': knee must be")


def test_what_kubernetes_sets_for_a_service_is_no_setting() -> None:
    links = {
        "PACELINE_PORT": "tcp://10.0.0.1:8080",
        "PACELINE_SERVICE_HOST": "10.0.0.1",
        "PACELINE_SERVICE_PORT_HTTP": "8080",
        "PACELINE_PORT_8080_TCP_ADDR": "10.0.0.1",
    }
    assert load(None, links, {"upstreams": [URL]}).port == 8080


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"port": 9464, "host": "127.0.0.1"}, "9464 is the admin port"),
        ({"upstreams": [f"{URL}/v1"]}, "must not end in /v1"),
        ({"slack.routes": [{"path": "generate", "default_s": 1.0}]}, "must begin with /"),
        ({"models": [{"name": "a"}, {"name": "a"}]}, "a is named more than once"),
        ({"upstreams": [{"url": "https://b:1", "ca_file": __file__}]}, "holds no certificates"),
        ({"drain.grace_s": float("inf")}, "should be a finite number"),
        ({"slack.batch.max_s": float("nan")}, "should be a finite number"),
    ],
)
def test_what_cannot_be_meant_is_said(flags: dict[str, Any], said: str) -> None:
    assert said in "\n".join(problems(**{"upstreams": [URL], **flags}))


@pytest.mark.parametrize(
    "flags",
    [
        {"tenants": [{"name": "t", "key_hashes": ["pl-a-secret"]}]},
        {"upstreams": ["http://user:a-secret@host:1"]},
    ],
)
def test_a_secret_in_the_wrong_place_is_not_repeated(flags: dict[str, Any]) -> None:
    assert "a-secret" not in "\n".join(problems(**{"upstreams": [URL], **flags}))
