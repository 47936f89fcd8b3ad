"""One strict, frozen tree of everything that can be set; `proxy/sources.py` reads it."""

from __future__ import annotations

import hashlib
import math
import pathlib
from collections.abc import Iterator
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, model_validator

from policies.base import Tier
from policies.lived import AS_RUN, STRAIGHT
from policies.strategy import Choice, Strategy, build
from telemetry.cost import BUILT_IN, StepModel, load_profile
from telemetry.factors import GRAMS, Factors, Rate, read_rate


class Section(BaseModel):
    """What all parts of the tree have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _base_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.username or parts.password:
        raise ValueError("must not hold a user name or a password; key_file or key_env give a server its key")
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
        return text
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("must be http://host:port or https://host:port, with a path at most, or unix:///path/of/socket")
    if parts.path.rstrip("/").endswith("/v1"):
        raise ValueError("must not end in /v1: clients' paths, which begin with it, are appended as they are")
    return text.rstrip("/")


def _proxy_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise ValueError("must be http://host:port or https://host:port, without a user name or a password")
    return text


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("must begin with /")
    return text


def _hash(text: str) -> str:
    if len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise ValueError("must be the SHA-256 of a key in hexadecimal (`paceline key` makes both)")
    return text


def _meter_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise ValueError("must be http:// or https://, without a user name or a password; key_file or key_env hold a key")
    return text


def _redis_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.username or parts.password or "@" in parts.netloc:
        raise ValueError("must not hold a user name or a password; username, and key_file or key_env, are for them")
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/") and not parts.query:
        return text
    number = parts.path.removeprefix("/")
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or parts.query or (number and not number.isdecimal()):
        raise ValueError(
            "must be redis://host:port, rediss://host:port (TLS), with /NUMBER of a database at most, or unix:///path"
        )
    return text


BaseUrl = Annotated[str, AfterValidator(_base_url)]
RedisUrl = Annotated[str, AfterValidator(_redis_url)]
MeterUrl = Annotated[str, AfterValidator(_meter_url)]
ProxyUrl = Annotated[str, AfterValidator(_proxy_url)]
Path = Annotated[str, AfterValidator(_path)]
KeyHash = Annotated[str, AfterValidator(_hash)]
Seconds = Annotated[float, Field(ge=0)]
Some = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=0, le=65535)]
MeterName = Literal["auto", "nvml", "amd", "rapl", "prometheus", "paceline", "replay", "modelled", "simulated", "none"]
DialectName = Literal["auto", "tgi", "vllm", "sglang", "llamacpp", "transformers", "openai"]


class Upstream(Section):
    """One inference server."""

    url: BaseUrl = Field(description="http://host:port, https://host:port (with a path at most), or unix:///path/of/socket")
    slots: Count | None = Field(None, description="most sequences at once; not set: what the server tells, else no limit")
    group: str = Field("default", description="servers of one group can serve the same requests, and share a queue")
    dialect: DialectName = Field("auto", description="what it speaks, if it is not asked")
    key_file: str | None = Field(None, description="file that holds the API key to send it instead of the client's")
    key_env: str | None = Field(None, description="environment variable that holds that key")
    ca_file: str | None = Field(None, description="certificates to trust instead of the system's")
    verify: bool = Field(True, description="false: take any certificate")
    http_proxy: ProxyUrl | None = Field(None, description="HTTP proxy on the way to it; HTTPS_PROXY and its like are ignored")


class Model(Section):
    """Where requests for a model go."""

    name: str = Field(description="what clients ask for; `*` stands for anything. The first that fits is taken")
    group: str = Field("default", description="the servers that it goes to")
    rewrite: str | None = Field(None, description="the name that the servers know it by")


class Named(Section):
    """A policy or a placement, and its parameters."""

    name: str = Field(description="a built-in name, or package.module:Name")
    params: dict[str, Any] = Field(default={}, description="its parameters")

    def choice(self) -> Choice:
        return Choice(self.name, self.params)


class Hold(Section):
    """What a tier's requests agree to."""

    default_s: Seconds = Field(description="slack of a request that names none")
    max_s: Seconds = Field(description="most slack that a request can have")


class RouteSlack(Section):
    """Slack for a route whose clients cannot send headers."""

    path: Path
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

    limit: Count = Field(100_000, description="most requests waiting; one more gets 429")
    tenant_limit: Count | None = Field(None, description="most requests of one tenant waiting")
    timeout_s: Seconds = Field(60.0, description="longest wait for a slot, once a request could be held no longer; then 503")
    bytes: Count = Field(1 << 30, description="most octets of request bodies in memory; one more request gets 429")
    tenant_bytes: Count | None = Field(None, description="most octets of one tenant's")


class Tenant(Section):
    """Whose requests they are: its keys, its share, its bounds."""

    name: str = Field(description="as it is in metrics, in the ledger, and in a gateway's `x-gateway-inference-fairness-id`")
    key_hashes: tuple[KeyHash, ...] = Field((), description="SHA-256 of its keys, in hexadecimal")
    weight: Some = Field(1.0, description="its share of scarce slots, against other tenants' weights")
    priority: int = Field(0, description="added to its tier's: higher leaves first when slots are scarce")
    limit: Count | None = Field(None, description="most requests waiting; not set: queue.tenant_limit")
    bytes: Count | None = Field(None, description="most octets of bodies in memory; not set: queue.tenant_bytes")
    slack_s: Seconds | None = Field(None, description="slack of its requests that name none, within their tier's maximum")


class Auth(Section):
    """Who may use the data port."""

    required: bool = Field(False, description="only who holds a tenant's key; it is then not passed on")
    open_paths: tuple[Path, ...] = Field(("/health", "/ping"), description="paths that need no key")


class Objective(Section):
    """What an `x-gateway-inference-objective` stands for."""

    name: str = Field(description="the header's value")
    tier: Literal["priority", "interactive", "flex", "batch"] = "interactive"
    priority: int = Field(0, description="added to its tier's")

    @property
    def as_tier(self) -> Tier:
        return Tier(self.tier)


class Limits(Section):
    """What one client may ask of this process."""

    body_bytes: Count = Field(64 << 20, description="longest request body; a longer one gets 413")
    header_bytes: Count = Field(64 << 10, description="longest request head; a longer one gets 431")
    header_timeout_s: Some = Field(20.0, description="longest wait for a whole request head")
    body_timeout_s: Some = Field(30.0, description="longest silence within a request body; then 408")
    idle_timeout_s: Count = Field(75, description="idle connections of clients are closed after this; whole seconds")
    stall_timeout_s: Some = Field(120.0, description="a client that takes nothing of its answer for so long is let go")
    stream_window_bytes: Count = Field(64 << 10, description="octets of one answer that wait in memory for a slow client")


class Health(Section):
    """When a server is left alone, and when it is tried again."""

    every_s: Seconds = Field(5.0, description="seconds between active checks, by the dialect's cheap route; 0: none")
    timeout_s: Some = Field(2.0, description="longest wait for such a check")
    failures: Count = Field(3, description="failures in a row, of checks or of requests, that open a server's circuit")
    open_s: Some = Field(2.0, description="how long an open circuit stays so; doubles with each failed trial")
    max_open_s: Some = Field(60.0, description="... up to this")


class Sleep(Section):
    """How servers are told to sleep, where the placement wants that (`sleepy`)."""

    level: Literal[1] = Field(1, description="vLLM's: 1 moves weights to the host's memory. 2 drops them, and is not offered")
    timeout_s: Some = Field(60.0, description="longest wait until a server sleeps, or can work again")
    again_s: Some = Field(60.0, description="a server that would not sleep is not asked again before")


class Drain(Section):
    """What SIGTERM does."""

    linger_s: Seconds = Field(0.0, description="go on listening for so long after readiness is off, for load balancers")
    waiting: Literal["release", "refuse"] = Field(
        "release", description="requests that are held leave at once, or get 503 with retry-after"
    )
    grace_s: Seconds = Field(30.0, description="then what still waits gets 503, and what still runs is cut off")


class Domain(Section):
    """Devices, and the servers that run on them."""

    devices: tuple[str, ...] = Field(
        (),
        description="as the meter names them (NVML: indices or UUIDs; simulated engines: their URLs); none: all",
    )
    upstreams: tuple[BaseUrl, ...] = Field(description="URLs of the servers that they serve")
    url: MeterUrl | None = Field(None, description="the meter's, of `prometheus` and `paceline`; not set: energy.url")


class Source(Section):
    """Who says what a kilowatt-hour stands for, and where that is read."""

    source: str = Field("", description="who says so; required")
    file: str | None = Field(
        None, description="CSV file of values over time instead: ISO 8601 with an offset or Unix seconds, and a value"
    )
    step_s: Some = Field(3600.0, description="a value of the file holds until the next, at most for so long")

    def _check(self, value: float | None) -> None:
        if value is not None and self.file is not None:
            raise ValueError("one value, or a file of values: not both")
        if (value is not None or self.file is not None) != bool(self.source):
            raise ValueError("a value or a file, and `source`, who says so, go together")

    def _rate(self, unit: str, value: float | None, least: float) -> Rate | None:
        if self.file is not None:
            return read_rate(pathlib.Path(self.file), unit, self.source, self.step_s, least)
        return Rate.constant(unit, value, self.source) if value is not None else None


class Carbon(Source):
    """How much carbon dioxide (equivalent) a kilowatt-hour stands for."""

    grams_per_kwh: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        None, description="grams of CO2 equivalent a kilowatt-hour"
    )

    @model_validator(mode="after")
    def _whole(self) -> Carbon:
        self._check(self.grams_per_kwh)
        return self

    def rate(self) -> Rate | None:
        return self._rate(GRAMS, self.grams_per_kwh, 0.0)


class Price(Source):
    """What a kilowatt-hour costs."""

    per_kwh: FiniteFloat | None = Field(None, description="price of a kilowatt-hour; prices can be negative")
    currency: Annotated[str, Field(pattern="^([A-Z]{3})?$")] = Field("", description="three letters of ISO 4217; required")

    @model_validator(mode="after")
    def _whole(self) -> Price:
        self._check(self.per_kwh)
        if bool(self.source) != bool(self.currency):
            raise ValueError("a price and its `currency` go together")
        return self

    def rate(self) -> Rate | None:
        return self._rate(self.currency, self.per_kwh, -math.inf)


class Energy(Section):
    """Where joules come from and how they are split."""

    meter: MeterName = Field("auto", description="where joules come from; auto: nvml where there is a driver, else none")
    host: Literal["auto", "rapl", "none"] = Field(
        "auto",
        description="meter of this machine's CPUs and memory, beside one of its GPUs; auto: rapl where it may be read",
    )
    url: MeterUrl | None = Field(
        None, description="of the meter: an exporter's page (`prometheus`), or a `paceline meter` (`paceline`)"
    )
    key_file: str | None = Field(None, description="file that holds the key to show it")
    key_env: str | None = Field(None, description="environment variable that holds that key")
    ca_file: str | None = Field(None, description="certificates to trust instead of the system's")
    file: str | None = Field(None, description="the recording that `replay` plays")
    profile: str = Field(BUILT_IN, description="step model: a built-in name or a JSON file's path")
    poll_s: Annotated[float, Field(ge=0.001, le=60)] | None = Field(
        None, description="seconds between looks at the meter; not set: as the meter wants (nvml: 0.02, prometheus: 1)"
    )
    domains: tuple[Domain, ...] = Field(
        (), description="not set: found by the servers' processes where that can be, else all devices serve all upstreams"
    )
    wait_s: Seconds = Field(
        2.0, description="longest wait for the joules of a request that came with `x-paceline-energy: wait`"
    )
    carbon: Carbon = Carbon()
    price: Price = Price()

    def factors(self) -> Factors:
        """What a joule stands for, read from files where it is in files.

        Raises:
            ValueError: a file cannot be read, or a line of it is wrong.
        """
        return Factors(self.carbon.rate(), self.price.rate())


class Ledger(Section):
    """Files of finished requests: no prompt and no answer is ever in them."""

    path: str | None = Field(None, description="directory of the files; not set: none are written")
    format: Literal["jsonl", "parquet"] = Field("jsonl", description="jsonl: readable while written; parquet: needs pyarrow")
    rotate_bytes: Count = Field(64 << 20, description="a file is finished once it is so long (Parquet: as it is in memory)")
    rotate_s: Some = Field(3600.0, description="... or so old")
    keep: Count | None = Field(None, description="so many files are kept in the directory, the oldest go; not set: all")


class Shared(Section):
    """What several proxies in front of the same servers know together, through Redis."""

    url: RedisUrl | None = Field(
        None, description="redis://host:port, rediss://host:port (TLS), /NUMBER for a database; not set: this proxy is alone"
    )
    prefix: Annotated[str, Field(pattern="^[A-Za-z0-9_.-]{1,64}$")] = Field(
        "paceline", description="of all keys; proxies of other servers need another"
    )
    replica: Annotated[str, Field(pattern="^[A-Za-z0-9_.-]{1,64}$")] | None = Field(
        None, description="this proxy's name among them, each its own; not set: the host's name and the data port"
    )
    username: str | None = Field(None, description="Redis's user; not set: its default one")
    key_file: str | None = Field(None, description="file that holds Redis's password; it is never in the URL")
    key_env: str | None = Field(None, description="environment variable that holds that password")
    ca_file: str | None = Field(None, description="certificates to trust instead of the system's")
    verify: bool = Field(True, description="false: take any certificate")
    timeout_s: Some = Field(1.0, description="longest wait for one answer; no request ever waits for it")
    every_s: Some = Field(1.0, description="seconds between looks")
    lease_s: Some = Field(10.0, description="a leader that is silent for so long is none; at least 3 (every_s + timeout_s)")
    keep_s: Some = Field(30 * 86400.0, description="keys that nobody writes are forgotten after this")

    @model_validator(mode="after")
    def _whole(self) -> Shared:
        if self.key_file and self.key_env:
            raise ValueError("key_file and key_env are two places for one password")
        if self.lease_s < 3 * (self.every_s + self.timeout_s):
            raise ValueError("lease_s must be at least three times every_s + timeout_s")
        if self.ca_file and not (self.url or "").startswith("rediss://"):
            raise ValueError("ca_file is for rediss://")
        return self


class ShadowStrategy(Section):
    """A strategy that is tried on the live arrivals, with modelled engines."""

    name: Annotated[str, Field(pattern="^[A-Za-z0-9_.-]{1,64}$")] = Field(
        description="as it is in metrics: letters, digits, `_`, `.` and `-`; not `straight` or `as_run`"
    )
    policy: Named = Named(name="passthrough")
    placement: Named = Named(name="spread")

    @model_validator(mode="after")
    def _free(self) -> ShadowStrategy:
        if self.name in (STRAIGHT, AS_RUN):
            raise ValueError(f"name {self.name!r} is taken: it is what shadows are held against")
        self.strategy()
        return self

    def strategy(self) -> Strategy:
        return build(self.policy.choice(), self.placement.choice())


class Shadow(Section):
    """What other strategies would have done with the live arrivals, and what the one in force saves; all modelled."""

    gain: bool = Field(True, description="reckon what the strategy in force saves (`paceline.energy.saved`, modelled)")
    strategies: tuple[ShadowStrategy, ...] = Field((), description="tables; see [shadow.strategies](#shadowstrategies)")
    share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.05, description="most of one core that this may take; what it cannot keep up with is left out, and counted"
    )
    lag_s: Some = Field(
        60.0,
        description="a request that is with its server for longer is taken for as long as its like, and counted as guessed",
    )
    log: str | None = Field(None, description="file of all decisions of shadows, JSON lines; not set: none")
    log_bytes: Count = Field(64 << 20, description="at this length it becomes `....1`, and a new one is begun")

    @model_validator(mode="after")
    def _names(self) -> Shadow:
        names = [strategy.name for strategy in self.strategies]
        if len(set(names)) < len(names):
            raise ValueError(f"strategies: names must differ, and are {', '.join(names)}")
        return self

    @property
    def on(self) -> bool:
        return self.gain or bool(self.strategies)


class Arm(Section):
    """A strategy that an experiment tries."""

    policy: Named = Named(name="passthrough")
    placement: Named = Named(name="spread")

    def strategy(self) -> Strategy:
        return build(self.policy.choice(), self.placement.choice())


class Experiment(Section):
    """Two strategies against each other on the live traffic, by blocks of time: an experiment that begins with the process."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = Field(
        description="its own, for ever: one that has ended does not begin again. Letters, digits, `.`, `_` and `-`"
    )
    group: str | None = Field(None, description="of servers; not set: the only one")
    control: Arm = Field(
        Arm(), description="`policy` and `placement`, each a table; rules before, after, and once anything is wrong"
    )
    treatment: Arm = Field(
        description="`policy` and `placement`, each a table: what is tried; the same as control is an A/A test"
    )
    block_s: Annotated[float, Field(ge=0.1)] | Literal["auto"] = Field(
        "auto", description="seconds of a block; auto: from how long requests lasted lately"
    )
    burn_in_s: Seconds | Literal["auto"] = Field("auto", description="seconds at the beginning of each that are not analysed")
    pairs: Annotated[int, Field(ge=1, le=10_000)] = Field(
        12, description="pairs of blocks: one of each arm, in an order that is drawn"
    )
    pairs_per_stratum: Count = Field(4, description="within so many pairs in a row both orders come equally often")
    seed: int | None = Field(None, description="decides every order; not set: drawn, and told")
    metric: Literal["j_per_token", "j_per_request"] = Field("j_per_token", description="what is compared")
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = Field(0.05, description="how often an interval may be wrong")
    guardrails: dict[str, float | None] = Field({}, description="bounds that stop it; those not named keep their defaults")
    begins_in_s: Seconds = Field(0.0, description="seconds until its first block")
    shadow: bool = Field(
        False, description="true: each arm runs on all traffic as a shadow too (`NAME.control`, `NAME.treatment`), modelled"
    )

    @model_validator(mode="after")
    def _possible(self) -> Experiment:
        if "auto" not in (self.block_s, self.burn_in_s) and float(self.burn_in_s) >= float(self.block_s):
            raise ValueError("burn_in_s must be shorter than block_s")
        self.control.strategy()
        self.treatment.strategy()
        return self


class Experiments(Section):
    """Where experiments are kept, so that they go on after a restart."""

    path: str | None = Field(None, description="directory of their states, logs and blocks; not set: they end with the process")


class Config(Section):
    """The whole tree."""

    upstreams: tuple[Annotated[Upstream, BeforeValidator(lambda v: {"url": v} if isinstance(v, str) else v)], ...] = Field(
        min_length=1, description="the servers: a URL each, or a table; see [upstreams](#upstreams)"
    )
    models: tuple[Model, ...] = Field((), description="routes by model name; see [models](#models). None: all go to one group")
    host: str = Field("0.0.0.0", description="address of the data port")
    port: Port = Field(8080, description="data port; 0 takes a free one")
    admin_host: str = Field("127.0.0.1", description="address of the admin port")
    admin_port: Port = Field(9464, description="admin port: API, metrics, probes")
    dialect: DialectName = Field("auto", description="what the servers speak; auto asks them")
    usage: Literal["observe", "inject"] = Field(
        "observe", description="inject: ask engines for token counts that a stream would not tell, and take them out again"
    )
    busy: Literal["pass", "wait"] = Field(
        "pass", description="what is done with a server's own 429 or 503: passed on, or waited for within queue.timeout_s"
    )
    policy: Named = Named(name="span")
    placement: Named = Named(name="spread")
    slack: Slack = Slack()
    queue: Queue = Queue()
    tenants: tuple[Tenant, ...] = Field((), description="tables; see [tenants](#tenants)")
    objectives: tuple[Objective, ...] = Field((), description="tables; see [objectives](#objectives)")
    auth: Auth = Auth()
    limits: Limits = Limits()
    health: Health = Health()
    sleep: Sleep = Sleep()
    drain: Drain = Drain()
    energy: Energy = Energy()
    ledger: Ledger = Ledger()
    shadow: Shadow = Shadow()
    shared: Shared = Shared()
    experiments: Experiments = Experiments()
    experiment: Experiment | None = Field(
        None,
        description="one that begins with the process; see [experiment](#experiment). Not set: by `paceline ab start` only",
    )
    connect_timeout_s: Some = Field(5.0, description="longest wait for a connection to a server")
    answer_timeout_s: Some = Field(600.0, description="longest silence of a server, before its answer or within it")
    paths: tuple[str, ...] = Field(
        (), description="only paths that fit one of these are carried, `*` standing for anything; none: all are"
    )
    allow_engine_admin: bool = Field(False, description="let /sleep, /wake_up and their like through the data port")
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _kept(self) -> Config:
        if self.experiment is None:
            return self
        if self.experiments.path is None:
            raise ValueError("experiment: needs experiments.path, or each restart would begin it anew")
        groups = self.groups()
        if self.experiment.group is None and len(groups) > 1:
            raise ValueError(f"experiment.group: which of {', '.join(groups)}?")
        if self.experiment.group is not None and self.experiment.group not in groups:
            raise ValueError(f"experiment.group: no group {self.experiment.group!r}; there are {', '.join(groups)}")
        return self

    def strategy(self) -> Strategy:
        """The policy and placement in force at the start."""
        return build(self.policy.choice(), self.placement.choice())

    def step_model(self) -> StepModel:
        return load_profile(self.energy.profile)

    def groups(self) -> tuple[str, ...]:
        """Names of the groups of servers, in order of appearance; the first is where unnamed models go."""
        return tuple(dict.fromkeys(upstream.group for upstream in self.upstreams))

    def digest(self) -> str:
        """Twelve hexadecimal digits that tell one configuration from another. It holds no secret, and neither do they."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]


def sections_of(annotation: Any) -> Iterator[type[Section]]:
    """The sections that a field's type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from sections_of(inner)
