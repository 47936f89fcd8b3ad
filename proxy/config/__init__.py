"""One strict, frozen tree of everything that can be set, a file a theme; `proxy/sources.py` reads it."""

from __future__ import annotations

from proxy.config.base import DialectName, MeterName, Named, Section, sections_of
from proxy.config.clients import Auth, Drain, Hold, Limits, Objective, Queue, RouteSlack, Slack, Tenant
from proxy.config.energy import Carbon, Domain, Energy, Ledger, Price
from proxy.config.servers import Health, Model, Sleep, Upstream
from proxy.config.shared import Shared
from proxy.config.surfaces import Admin, Tls
from proxy.config.tree import Config
from proxy.config.trials import Arm, Experiment, Experiments, Shadow, ShadowStrategy, Split

__all__ = [
    "Admin",
    "Arm",
    "Auth",
    "Carbon",
    "Config",
    "DialectName",
    "Domain",
    "Drain",
    "Energy",
    "Experiment",
    "Experiments",
    "Health",
    "Hold",
    "Ledger",
    "Limits",
    "MeterName",
    "Model",
    "Named",
    "Objective",
    "Price",
    "Queue",
    "RouteSlack",
    "Section",
    "Shadow",
    "ShadowStrategy",
    "Shared",
    "Slack",
    "Sleep",
    "Split",
    "Tenant",
    "Tls",
    "Upstream",
    "sections_of",
]
