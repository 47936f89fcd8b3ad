"""Writes the chart's values.schema.json, and the tables of values in docs/kubernetes.md: `python -m bench.chart`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.chart.values import VALUES
from proxy.config import Config

ROOT = Path(__file__).parent.parent.parent
SCHEMA = ROOT / "charts/paceline/values.schema.json"
PAGE = ROOT / "docs/kubernetes.md"
TABLE = re.compile(r"(?<=<!-- values -->\n).*?(?=<!-- /values -->)", re.DOTALL)


def schema() -> dict[str, Any]:
    """The chart's own values, and below `config` the configuration of Paceline itself."""
    tree = Config.model_json_schema()
    parts = {name: _plain(part) for name, part in tree.pop("$defs").items()}
    config = _plain(tree)
    config["description"] = "Paceline's own configuration: docs/configuration.md"
    config["properties"]["upstreams"]["items"] = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/Upstream"}]}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart paceline; written by `python -m bench.chart`",
        "type": "object",
        "additionalProperties": False,
        "required": ["config"],
        "properties": {"config": config, "global": {"type": "object"}, **VALUES},
        "$defs": parts,
    }


def _plain(part: Any) -> Any:
    """Without generated titles, and without defaults: Helm fills in none, and Paceline has its own."""
    if isinstance(part, list):
        return [_plain(one) for one in part]
    if not isinstance(part, dict):
        return part
    kept = {key: _plain(value) for key, value in part.items() if key != "properties"}
    if isinstance(part.get("title"), str):
        del kept["title"]
    kept.pop("default", None)
    if "properties" in part:  # where `default` and `title` would be keys of ours
        kept["properties"] = {name: _plain(value) for name, value in part["properties"].items()}
    return kept


def rows(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """One row for each value that is described; those below it with dots."""
    for name, value in values.items():
        if "description" in value:
            yield f"| `{prefix}{name}` | {value['description']} |"
        yield from rows(value.get("properties", {}), f"{prefix}{name}.")


def table() -> str:
    return "\n| value | what it does |\n| --- | --- |\n" + "\n".join(rows(VALUES)) + "\n\n"


def page(text: str) -> str:
    """The page with its table as it should be."""
    return TABLE.sub(lambda _: table(), text)


def written() -> str:
    return json.dumps(schema(), indent=1) + "\n"
