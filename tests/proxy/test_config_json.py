"""A configuration file may be JSON: it means what TOML means, and is refused as TOML is."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from proxy.sources import ConfigError, load

TOML = """
upstreams = ["http://10.0.0.1:8000", { url = "http://10.0.0.2:8000", slots = 128 }]
[queue]
limit = 500
timeout_s = 1.5
[policy]
name = "capped"
params = { in_flight = 96, policy = { name = "window", params = { every_s = 1 } } }
"""


def written(tmp_path: Path, text: str, name: str = "paceline.json") -> Path:
    file = tmp_path / name
    file.write_text(text)
    return file


def test_it_means_what_toml_means(tmp_path: Path) -> None:
    as_toml = load(written(tmp_path, TOML, "paceline.toml"), {}, {})
    as_json = load(written(tmp_path, json.dumps(tomllib.loads(TOML))), {}, {})
    assert as_json == as_toml
    assert as_json.upstreams[1].slots == 128


def test_whole_numbers_may_be_written_where_seconds_are_meant(tmp_path: Path) -> None:
    config = load(written(tmp_path, '{"upstreams": ["http://a:1"], "queue": {"timeout_s": 2, "bytes": 1000000000}}'), {}, {})
    assert (config.queue.timeout_s, config.queue.bytes) == (2.0, 1_000_000_000)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"upstreams": ["http://a:1"],}', "paceline.json"),
        ('["http://a:1"]', "must hold one object"),
        ('{"port": 1, "port": 2}', "port: this key is there more than once"),
        ('{"upstreams": ["http://a:1"], "queue": {"limits": 1}}', "queue.limits"),
        ('{"upstreams": ["http://a:1"], "queue": {"limit": 1.5}}', "queue.limit"),
    ],
)
def test_what_is_wrong_is_told_with_its_file(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(written(tmp_path, text), {}, {})
    assert told in str(error.value)
    assert "paceline.json" in str(error.value)
