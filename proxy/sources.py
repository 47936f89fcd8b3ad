"""Reads the configuration: defaults < file < environment < flags, and says what is wrong, all of it at once.

Environment variables are `PACELINE_` and the key, with `__` between levels (`PACELINE_QUEUE__LIMIT=500`); their values,
and those of `--set`, are read as TOML where they are TOML, else as text. Among parameters a name and its own parameters
may come apart: `--set policy=window --set policy.params.every_s=1`.
"""

from __future__ import annotations

import json
import re
import ssl
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from policies.strategy import UnknownStrategy, build_placement, build_policy
from proxy import certificates
from proxy.config import Config, sections_of
from proxy.keys import KeyUnavailable, key_of, token_of

PREFIX = "PACELINE_"
NOT_OURS = ("PACELINE_METER_KEY", "PACELINE_ADMIN_TOKEN")  # what `paceline meter`, and what talks to an admin port, read

# the flags that are not called as their keys are
FLAGS = {"upstreams": "--upstream", "policy.name": "--policy", "placement.name": "--placement", "energy.meter": "--meter"}


class ConfigError(Exception):
    """Everything that is wrong with a configuration, one line each."""


def load(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> Config:
    """The configuration of all sources together.

    Args:
        file: a TOML file, or a JSON file, whose name ends in `.json`.
        environ: the process's environment.
        flags: what the command line says, as dotted keys and values.

    Raises:
        ConfigError: with every problem, its key, its place and what is allowed.
    """
    merged = Config.model_construct(upstreams=()).model_dump(mode="json", exclude={"upstreams", "experiment"})
    places: dict[str, str] = {}
    for place, key, value in (
        *_from_file(file),
        *_from_environ(environ),
        *((f"flag {_flag(k)}", k, v) for k, v in flags.items()),
    ):
        try:
            _put(merged, key.split("."), value)
        except TypeError as error:
            raise ConfigError(f"{place}: {key}: {error}") from error
        places[key] = place
    problems: list[str] = []
    try:
        # JSON mode: strict about types, yet arrays become tuples
        config = Config.model_validate_json(json.dumps(merged, default=str))
    except ValidationError as error:
        told = [problem for problem in error.errors() if problem["type"] != "too_short" or len(error.errors()) == 1]
        raise ConfigError("\n".join(_explain(problem, places) for problem in told)) from error
    for key, check in (
        ("policy", lambda: build_policy(config.policy.choice())),
        ("placement", lambda: build_placement(config.placement.choice())),
        ("energy.profile", config.step_model),
        ("energy.carbon", config.energy.carbon.rate),
        ("energy.price", config.energy.price.rate),
        ("ledger", lambda: _check_ledger(config)),
        ("energy.domains", lambda: _check_domains(config)),
        ("energy", lambda: _check_meter(config, environ)),
        ("upstreams", lambda: _check_upstreams(config, environ)),
        ("models", lambda: _check_models(config)),
        ("port", lambda: _check_ports(config)),
        ("tenants", lambda: _check_tenants(config)),
        ("shared", lambda: key_of(config.shared, environ)),
        ("tls", lambda: certificates.check(config.tls)),
        ("admin.tls", lambda: certificates.check(config.admin.tls)),
        ("admin", lambda: token_of(config.admin, environ)),
    ):
        try:
            check()
        except (UnknownStrategy, KeyUnavailable, ValueError) as error:
            problems.append(f"{_place(key, places)}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def _from_file(file: Path | None) -> Iterator[tuple[str, str, Any]]:
    if file is None:
        return
    try:
        tree = _json(file.read_text()) if file.suffix == ".json" else tomllib.loads(file.read_text())
    except (OSError, ValueError) as error:  # no text, no TOML and no JSON are all ValueErrors
        raise ConfigError(f"{file}: {error}") from error
    for key, value in tree.items():
        yield str(file), key, value


def _json(text: str) -> dict[str, Any]:
    """A tree of keys as JSON writes it, with what TOML forbids forbidden: a key that comes twice."""

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if again := next((key for key in keys if keys.count(key) > 1), None):
            raise ValueError(f"{again}: this key is there more than once")
        return dict(pairs)

    tree = json.loads(text, object_pairs_hook=table)
    if not isinstance(tree, dict):
        raise ValueError("must hold one object: the keys and their values")
    return tree


def _from_environ(environ: Mapping[str, str]) -> Iterator[tuple[str, str, Any]]:
    for name, text in sorted(environ.items()):
        if name.startswith(PREFIX) and name not in NOT_OURS and not _is_service_link(name, text):
            yield f"environment {name}", name.removeprefix(PREFIX).lower().replace("__", "."), toml_or_text(text)


def _is_service_link(name: str, text: str) -> bool:
    """Kubernetes sets such variables for every service, one named `paceline` among them."""
    return text.startswith(("tcp://", "udp://")) or re.search(r"_SERVICE_(HOST|PORT)|_PORT_\d+_(TCP|UDP)", name) is not None


def toml_or_text(text: str) -> Any:
    """A value as TOML writes it, else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def parameters(pairs: Iterable[str]) -> dict[str, Any]:
    """What `--set KEY=VALUE` says, given several times; keys may have dots, and values are as TOML writes them, else text.

    Raises:
        ConfigError: one of them is no pair, or one's key goes through another's value.
    """
    tree: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {pair}: write KEY=VALUE")
        try:
            _put(tree, key.split("."), toml_or_text(text))
        except TypeError as error:
            raise ConfigError(f"--set {pair}: {error}") from error
    return tree


def _put(tree: dict[str, Any], path: list[str], value: Any) -> None:
    """Lay a stronger source's value over the tree."""
    *parents, last = path
    for depth, parent in enumerate(parents):
        below = tree.setdefault(parent, {})
        if isinstance(below, str) and path[depth + 1] == "params":
            below = tree[parent] = {"name": below}  # a name may be written without its table
        if not isinstance(below, dict):
            raise TypeError(f"{parent!r} is no table")
        tree = below
    if isinstance(value, dict) and isinstance(tree.get(last), dict):
        for key, inner in value.items():
            _put(tree[last], [key], inner)
    else:
        tree[last] = value


def _explain(problem: Any, places: Mapping[str, str]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    allowed = ""
    if problem["type"] == "extra_forbidden":
        fields = _fields_at(problem["loc"][:-1])
        allowed = f"; allowed here: {', '.join(fields)}" if fields else ""
        return f"{_place(key, places)}: no such key{allowed}"
    if problem["type"] == "missing":
        return f"{_place(key, places)}: missing" + ("; give at least one --upstream URL" if key == "upstreams" else "")
    if "key" in key or "token" in key or "@" in str(problem["input"]):  # a secret, perhaps, in the wrong place
        return f"{_place(key, places)}: {problem['msg'].removeprefix('Value error, ')}"
    given = json.dumps(problem["input"], default=str)
    return f"{_place(key, places)}: {problem['msg'].removeprefix('Value error, ')} (given: {given[:80]})"


def _flag(key: str) -> str:
    """The command line's name of a key."""
    parent, _, parameter = key.partition(".params.")
    if parameter:
        return f"--set{'-placement' if parent == 'placement' else ''} {parameter}"
    return FLAGS.get(key, "--" + key.replace("_", "-"))


def _fields_at(loc: tuple[Any, ...]) -> list[str]:
    """Names allowed in the section at `loc`."""
    section: Any = Config
    for part in loc:
        if isinstance(part, int):
            continue
        annotation = section.model_fields[part].annotation
        section = next((s for s in sections_of(annotation)), None)
        if section is None:
            return []
    return list(section.model_fields)


def _place(key: str, places: Mapping[str, str]) -> str:
    """The key, and which source set it or a part of it."""
    near = [
        place for known, place in places.items() if key == known or key.startswith(known + ".") or known.startswith(key + ".")
    ]
    return f"{key} ({', '.join(dict.fromkeys(near))})" if near else key


def _check_domains(config: Config) -> None:
    urls = {upstream.url for upstream in config.upstreams}
    served = [url for domain in config.energy.domains for url in domain.upstreams]
    for url in served:
        if url not in urls:
            raise ValueError(f"{url} is no upstream; they are {', '.join(sorted(urls))}")
        if served.count(url) > 1:
            raise ValueError(f"{url} is in more than one domain")
    _check_devices(config)


def _check_devices(config: Config) -> None:
    """One device in two domains would be counted twice."""
    energy = config.energy
    if energy.meter in ("simulated", "modelled"):
        return
    for meter in {domain.url or energy.url for domain in energy.domains}:
        domains = [domain for domain in energy.domains if (domain.url or energy.url) == meter]
        devices = [device for domain in domains for device in domain.devices]
        if len(domains) > 1 and not all(domain.devices for domain in domains):
            raise ValueError("several domains of one meter must each name their devices, or all would have all of them")
        for device in devices:
            if devices.count(device) > 1:
                raise ValueError(f"the device {device} is in more than one domain")


def _check_meter(config: Config, environ: Mapping[str, str]) -> None:
    energy = config.energy
    named = energy.url or (energy.domains and all(domain.url for domain in energy.domains))
    if energy.meter in ("prometheus", "paceline") and not named:
        raise ValueError(f"the meter {energy.meter!r} needs a url")
    if energy.meter == "replay" and not energy.file:
        raise ValueError("the meter 'replay' needs the recording's file")
    key_of(energy, environ)


def _check_ledger(config: Config) -> None:
    ledger = config.ledger
    if ledger.path is not None and Path(ledger.path).exists() and not Path(ledger.path).is_dir():
        raise ValueError(f"{ledger.path} is no directory")
    if ledger.path is not None and ledger.format == "parquet" and find_spec("pyarrow") is None:
        raise ValueError("format = \"parquet\" needs pyarrow: pip install 'paceline[parquet]'")


def _check_upstreams(config: Config, environ: Mapping[str, str]) -> None:
    urls = [upstream.url for upstream in config.upstreams]
    for upstream in config.upstreams:
        if urls.count(upstream.url) > 1:
            raise ValueError(f"{upstream.url} is named more than once")
        if upstream.key_file and upstream.key_env:
            raise ValueError(f"{upstream.url}: key_file and key_env are two places for one key")
        try:
            _ = upstream.ca_file and ssl.create_default_context(cafile=upstream.ca_file)
        except OSError as error:
            raise ValueError(f"{upstream.url}: ca_file {upstream.ca_file} holds no certificates: {error}") from error
        key_of(upstream, environ)


def _check_ports(config: Config) -> None:
    hosts = {config.host, config.admin_host}
    if config.port == config.admin_port != 0 and (len(hosts) == 1 or hosts & {"0.0.0.0", "::", ""}):
        raise ValueError(f"{config.port} is the admin port, too")


def _check_models(config: Config) -> None:
    names = [model.name for model in config.models]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name} is named more than once")
    for model in config.models:
        if model.group not in config.groups():
            raise ValueError(f"{model.name}: no upstream is of group {model.group!r}; groups are {', '.join(config.groups())}")


def _check_tenants(config: Config) -> None:
    for what, values in (
        ("tenant", [tenant.name for tenant in config.tenants]),
        ("key hash", [hash for tenant in config.tenants for hash in tenant.key_hashes]),
        ("objective", [objective.name for objective in config.objectives]),
    ):
        for value in values:
            if values.count(value) > 1:
                raise ValueError(f"{what} {value} is named more than once")
    if config.auth.required and not any(tenant.key_hashes for tenant in config.tenants):
        raise ValueError("auth.required, but no tenant has a key, so nobody could come in")
