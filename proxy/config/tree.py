"""The whole tree of everything that can be set."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from policies.strategy import Strategy, build
from proxy.config.base import DialectName, Named, Port, Section, Some
from proxy.config.clients import Auth, Drain, Limits, Objective, Queue, Slack, Tenant
from proxy.config.energy import Energy, Ledger
from proxy.config.servers import Health, Model, Sleep, Upstream
from proxy.config.shared import Shared
from proxy.config.surfaces import Admin, Tls
from proxy.config.trials import Experiment, Experiments, Shadow
from telemetry.cost import StepModel, load_profile


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
    tls: Tls = Tls()
    admin: Admin = Admin()
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
    log_format: Literal["console", "json"] = Field("console", description="json: one object a line, for what collects logs")
    log_requests: bool = Field(False, description="one line for each request after its end; never a prompt, a query or a key")

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
