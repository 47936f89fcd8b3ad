"""One strict, frozen tree of everything that can be set: defaults < file < environment < flags, read once.

Environment variables are `PACELINE_` and the key, with `__` between levels (`PACELINE_QUEUE__LIMIT=500`); their values,
and those of `--set`, are read as TOML where they are TOML, else as text.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from policies.strategy import Choice, Strategy, UnknownStrategy, build, build_placement, build_policy
from telemetry.cost import BUILT_IN, StepModel, load_profile

PREFIX = "PACELINE_"

# the flags that are not called as their keys are
FLAGS = {"upstreams": "--upstream", "policy.name": "--policy", "placement.name": "--placement", "energy.meter": "--meter"}


class ConfigError(Exception):
    """Everything that is wrong with a configuration, one line each."""


class Section(BaseModel):
    """What all parts of the tree have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _base_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("must be http://host:port or https://host:port, with a path at most")
    return text.rstrip("/")


BaseUrl = Annotated[str, AfterValidator(_base_url)]
Seconds = Annotated[float, Field(ge=0)]
Port = Annotated[int, Field(ge=0, le=65535)]


class Upstream(Section):
    """One inference server."""

    url: BaseUrl
    slots: Annotated[int, Field(ge=1)] | None = Field(
        None, description="most requests at once; not set: what a TGI server's /info says, else no limit"
    )


class Named(Section):
    """A policy or a placement, and its parameters."""

    name: str = Field(description="a built-in name, or package.module:Name")
    params: dict[str, Any] = Field(default={}, description="its parameters")

    def choice(self) -> Choice:
        return Choice(self.name, self.params)


class Hold(Section):
    """What a tier's requests agree to."""

    default_s: Seconds = Field(description="slack of a request that names none")
    max_s: Seconds = Field(description="most slack that a request can ask for")


class RouteSlack(Section):
    """Slack for a route whose clients cannot send headers."""

    path: str
    default_s: Seconds


class Slack(Section):
    """How long requests may be held, by tier; nobody waits who did not agree to."""

    priority: Hold = Hold(default_s=0.0, max_s=0.0)
    interactive: Hold = Hold(default_s=0.0, max_s=2.0)
    flex: Hold = Hold(default_s=8.0, max_s=60.0)
    batch: Hold = Hold(default_s=60.0, max_s=3600.0)
    routes: tuple[RouteSlack, ...] = Field(
        (), description="tables of `path` and `default_s`: slack of routes, for clients that send none"
    )


class Queue(Section):
    """The bounds of the waiting room."""

    limit: Annotated[int, Field(ge=1)] = Field(100_000, description="most requests waiting; one more gets 429")
    timeout_s: Seconds = Field(60.0, description="longest wait for a slot, after any hold; then 503")


class Domain(Section):
    """Devices, and the servers that run on them."""

    devices: tuple[str, ...] = Field(description="NVML indices or UUIDs; for simulated engines their URLs")
    upstreams: tuple[BaseUrl, ...]


class Energy(Section):
    """Where joules come from and how they are split."""

    meter: Literal["auto", "nvml", "simulated", "none"] = Field(
        "auto", description="auto: nvml where there is a driver, else none"
    )
    profile: str = Field(BUILT_IN, description="step model: a built-in name or a JSON file's path")
    poll_s: Annotated[float, Field(ge=0.001, le=1)] = Field(0.02, description="seconds between looks at the counters")
    domains: tuple[Domain, ...] = Field((), description="not set: all devices serve all upstreams (simulated: one each)")


class Config(Section):
    """The whole tree."""

    upstreams: tuple[Annotated[Upstream, BeforeValidator(lambda v: {"url": v} if isinstance(v, str) else v)], ...] = Field(
        min_length=1, description="the servers: a URL each, or a table of `url` and `slots` (most requests at once)"
    )
    host: str = Field("0.0.0.0", description="address of the data port")
    port: Port = Field(8080, description="data port; 0 takes a free one")
    admin_host: str = Field("127.0.0.1", description="address of the admin port")
    admin_port: Port = Field(9464, description="admin port: API, metrics, probes")
    dialect: Literal["auto", "tgi", "openai"] = Field("auto", description="auto asks the first upstream")
    policy: Named = Named(name="span")
    placement: Named = Named(name="spread")
    slack: Slack = Slack()
    queue: Queue = Queue()
    energy: Energy = Energy()
    connect_timeout_s: Annotated[float, Field(gt=0)] = Field(5.0, description="longest wait for a connection to a server")
    answer_timeout_s: Annotated[float, Field(gt=0)] | None = Field(
        None, description="longest silence of a server; not set: no limit"
    )
    drain_s: Seconds = Field(30.0, description="grace for requests in flight after SIGTERM")
    allow_engine_admin: bool = Field(False, description="let /sleep, /wake_up and their like through the data port")
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def strategy(self) -> Strategy:
        """The policy and placement in force at the start."""
        return build(self.policy.choice(), self.placement.choice())

    def step_model(self) -> StepModel:
        return load_profile(self.energy.profile)


def load(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> Config:
    """The configuration of all sources together.

    Args:
        file: a TOML file.
        environ: the process's environment.
        flags: what the command line says, as dotted keys and values.

    Raises:
        ConfigError: with every problem, its key, its place and what is allowed.
    """
    merged = Config.model_construct(upstreams=()).model_dump(mode="json", exclude={"upstreams"})
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
        ("energy.domains", lambda: _check_domains(config)),
    ):
        try:
            check()
        except (UnknownStrategy, ValueError) as error:
            problems.append(f"{_place(key, places)}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def _from_file(file: Path | None) -> Iterator[tuple[str, str, Any]]:
    if file is None:
        return
    try:
        tree = tomllib.loads(file.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from error
    for key, value in tree.items():
        yield str(file), key, value


def _from_environ(environ: Mapping[str, str]) -> Iterator[tuple[str, str, Any]]:
    for name, text in sorted(environ.items()):
        if name.startswith(PREFIX) and not _is_service_link(name, text):
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


def _put(tree: dict[str, Any], path: list[str], value: Any) -> None:
    """Lay a stronger source's value over the tree."""
    *parents, last = path
    for parent in parents:
        below = tree.setdefault(parent, {})
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
    given = json.dumps(problem["input"], default=str)
    return f"{_place(key, places)}: {problem['msg'].removeprefix('Value error, ')} (given: {given[:80]})"


def _flag(key: str) -> str:
    """The command line's name of a key."""
    parent, _, parameter = key.rpartition(".params.")
    if parent:
        return f"--set{'-placement' if parent == 'placement' else ''} {parameter}"
    return FLAGS.get(key, "--" + key.replace("_", "-"))


def _fields_at(loc: tuple[Any, ...]) -> list[str]:
    """Names allowed in the section at `loc`."""
    section: Any = Config
    for part in loc:
        if isinstance(part, int):
            continue
        annotation = section.model_fields[part].annotation
        section = next((s for s in _sections(annotation)), None)
        if section is None:
            return []
    return list(section.model_fields)


def _sections(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _sections(inner)


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
