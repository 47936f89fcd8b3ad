"""What clients may do: whose they are, how long they may wait, how much they may ask for."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from policies.base import Tier
from proxy.config.base import Count, KeyHash, Path, Seconds, Section, Some


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


class Drain(Section):
    """What SIGTERM does."""

    linger_s: Seconds = Field(0.0, description="go on listening for so long after readiness is off, for load balancers")
    waiting: Literal["release", "refuse"] = Field(
        "release", description="requests that are held leave at once, or get 503 with retry-after"
    )
    grace_s: Seconds = Field(30.0, description="then what still waits gets 503, and what still runs is cut off")
