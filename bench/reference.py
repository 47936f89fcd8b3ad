"""Writes docs/configuration.md from the configuration itself, and the other references: `python -m bench.reference`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic_core import PydanticUndefined

from bench import reference_commands, reference_metrics
from proxy.config import Arm, Config, Domain, Experiment, Model, Objective, Section, ShadowStrategy, Split, Tenant, Upstream

PAGE = Path(__file__).parent.parent / "docs/configuration.md"

HEAD = """# Configuration

Written by `python -m bench.reference` from `proxy/config/`.

Sources, each stronger than the one before: defaults, the file of `--config`, environment variables, flags. The file is TOML, or
JSON if its name ends in `.json`: the same keys, tables as objects. A variable is `PACELINE_` and the key in capitals with `__`
for the dots: `PACELINE_QUEUE__LIMIT=500`. Values are read as TOML where they are TOML, else as text. Wrong keys and values are
told with their places and what is allowed, all of them at once, and then what does not fit together; `paceline serve --check`
tells without serving.

    upstreams = ["http://10.0.0.1:8000", { url = "http://10.0.0.2:8000", slots = 128 }]

    [policy]
    name = "size"
    params = { n = 16, wait_s = 1.5 }

    [slack.flex]
    default_s = 4.0
    max_s = 30.0

A parameter that is a policy itself is written by its name, or as a table of `name` and `params`:
`params = { in_flight = 96, policy = { name = "window", params = { every_s = 1 } } }` of `capped`; as flags `--policy capped
--set in_flight=96 --set policy=window --set policy.params.every_s=1`. `paceline policy list` names what is built in.

SIGHUP and `POST /reload` on the admin port read all of it again, and put all of it or nothing in force, without dropping a
request. What needs a restart is refused there by name: `host`, `port`, `admin_host`, `admin_port`, `tls`, `admin.tls`,
`ledger`, `experiments`, `experiment`, `shared`, `log_format`, `log_requests`, `energy` but for `energy.carbon` and
`energy.price`, and
of `limits` all but `body_bytes`; and while an experiment runs, so are another policy and placement. Tokens and certificates are
read again with it. `paceline.config.generation` tells which is in force, by a digest.

"""

COLUMNS = "| key | default | meaning |\n| --- | --- | --- |\n"

# the tables that a configuration may have several of
LISTS: dict[str, type[Section]] = {
    "upstreams": Upstream,
    "models": Model,
    "tenants": Tenant,
    "objectives": Objective,
    "energy.domains": Domain,
    "shadow.strategies": ShadowStrategy,
}


# the tables that a configuration may have one of, and need not
ONES: dict[str, type[Section]] = {
    "experiment": Experiment,
    "experiment.split": Split,
    "experiment.control": Arm,
    "experiment.treatment": Arm,
}


def rows(section: type[Section], prefix: str = "", default: Any = None) -> Iterator[str]:
    """One row for each key, those of sections below it with dots."""
    for name, field in section.model_fields.items():
        value = getattr(default, name) if default is not None else field.default
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section) and isinstance(value, Section):
            yield from rows(inner, f"{prefix}{name}.", value)
            continue
        shown = "(none: required)" if value is PydanticUndefined else "(not set)" if value is None else f"`{_toml(value)}`"
        yield f"| `{prefix}{name}` | {shown} | {field.description or _allowed(inner)} |"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(list(value) if isinstance(value, tuple) else value)


def _allowed(annotation: Any) -> str:
    """The values of a choice, else nothing."""
    values = [value for value in get_args(annotation) if isinstance(value, str)]
    return "one of " + ", ".join(f"`{value}`" for value in values) if values else ""


def page() -> str:
    parts = [HEAD + COLUMNS + "\n".join(rows(Config))]
    for name, section in LISTS.items():
        parts.append(f"## {name}\n\nTables of `[[{name}]]`:\n\n{COLUMNS}" + "\n".join(rows(section)))
    for name, section in ONES.items():
        parts.append(f"## {name}\n\nThe table `[{name}]`:\n\n{COLUMNS}" + "\n".join(rows(section)))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    reference_metrics.PAGE.write_text(reference_metrics.page())
    reference_commands.PAGE.write_text(reference_commands.page())
