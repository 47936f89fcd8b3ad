"""Who may come in, and with how much: tenants by their keys, and bounds on what waits and on what is held in memory."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from proxy.config import Config, Objective, Tenant
from proxy.keys import hash_of

NOBODY = Tenant(name="")
# where a client shows its key, and what a proxy that took it does not pass on
CREDENTIALS = (b"authorization", b"x-api-key", b"api-key")
FAIRNESS_ID = b"x-gateway-inference-fairness-id"
OBJECTIVE = b"x-gateway-inference-objective"

Headers = Mapping[bytes, bytes]


class Refusal(Exception):
    """A request that is not let in: the HTTP status, and the kind that the dialect's errors know it by."""

    def __init__(self, status: int, kind: str, text: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.status, self.kind, self.text, self.retry_after_s = status, kind, text, retry_after_s


def too_much(text: str) -> Refusal:
    return Refusal(429, "overloaded", text, retry_after_s=1)


@dataclass(slots=True)
class Load:
    """What one tenant, or all of them, have here now."""

    waiting: int = 0
    bytes: int = 0  # of request bodies, from their first octet until their answer begins


@dataclass(slots=True)
class Admission:
    """Keeps count, and refuses what is too much. `config` may be another one from one request to the next."""

    config: Config
    total: Load = field(default_factory=Load)
    _loads: dict[str, Load] = field(default_factory=dict)  # by tenant; those with nothing here are absent

    def tenant_of(self, method: str, path: str, headers: Headers) -> Tenant:
        """Whose request it is.

        Raises:
            Refusal: 401; a key is needed, and there is none or a wrong one.
        """
        tenants = self.config.tenants
        if not tenants:
            return NOBODY
        found = self._by_key(headers)
        if found is not None:
            return found
        if self.config.auth.required:
            # a browser asks whether it may ask, and cannot show a key with that
            preflight = method == "OPTIONS" and b"access-control-request-method" in headers
            if not preflight and path not in self.config.auth.open_paths:
                raise Refusal(401, "unauthorized", "a valid API key is needed")
            return NOBODY
        name = headers.get(FAIRNESS_ID, b"").decode("latin-1")
        # whoever has keys shows one
        return next((tenant for tenant in tenants if tenant.name == name and not tenant.key_hashes), NOBODY)

    def _by_key(self, headers: Headers) -> Tenant | None:
        for name in CREDENTIALS:
            shown = headers.get(name)
            if shown is None:
                continue
            scheme, _, rest = shown.partition(b" ")
            shown_hash = hash_of(rest.strip() if scheme.lower() == b"bearer" else shown)
            found = None
            for tenant in self.config.tenants:  # all of them, so that time tells nothing
                for known in tenant.key_hashes:
                    if hmac.compare_digest(known, shown_hash):
                        found = tenant
            if found is not None:
                return found
        return None

    def share_of(self, tenant: Tenant, headers: Headers) -> str:
        """Whose share of scarce slots a request uses: its tenant's; without one, who a gateway says it is for."""
        told = headers.get(FAIRNESS_ID, b"")[:128].decode("latin-1")
        # a configured name that is not this request's tenant is somebody's who has keys
        return tenant.name or ("" if any(known.name == told for known in self.config.tenants) else told)

    def objective_of(self, headers: Headers) -> Objective | None:
        name = headers.get(OBJECTIVE, b"").decode("latin-1")
        return next((objective for objective in self.config.objectives if objective.name == name), None) if name else None

    # --- what is held ---------------------------------------------------------------------------------------------

    def take_bytes(self, tenant: Tenant, count: int) -> None:
        """So many more octets of a body are in memory.

        Raises:
            Refusal: 429; with them there would be too many, and they are not counted.
        """
        queue = self.config.queue
        limit = tenant.bytes or queue.tenant_bytes
        if self.total.bytes + count > queue.bytes:
            raise Refusal(
                429, "overloaded", f"request bodies of {queue.bytes} bytes are held, which is the limit", retry_after_s=1
            )
        if tenant.name and limit is not None and self.load_of(tenant.name).bytes + count > limit:
            raise Refusal(
                429, "overloaded", f"{tenant.name} has {limit} bytes of requests here, which is its limit", retry_after_s=1
            )
        self._load(tenant).bytes += count
        self.total.bytes += count

    def drop_bytes(self, tenant: Tenant, count: int) -> None:
        self._load(tenant).bytes -= count
        self.total.bytes -= count
        self._forget(tenant)

    def begin_wait(self, tenant: Tenant) -> None:
        """One more request waits.

        Raises:
            Refusal: 429; its tenant has too many, and it is not counted.
        """
        limit = tenant.limit or self.config.queue.tenant_limit
        if tenant.name and limit is not None and self.load_of(tenant.name).waiting >= limit:
            raise Refusal(
                429, "overloaded", f"{limit} requests of {tenant.name} are waiting, which is its limit", retry_after_s=1
            )
        self._load(tenant).waiting += 1
        self.total.waiting += 1

    def end_wait(self, tenant: Tenant) -> None:
        self._load(tenant).waiting -= 1
        self.total.waiting -= 1
        self._forget(tenant)

    def load_of(self, name: str) -> Load:
        return self._loads.get(name, Load())

    def _load(self, tenant: Tenant) -> Load:
        return self._loads.setdefault(tenant.name, Load())

    def _forget(self, tenant: Tenant) -> None:
        load = self._loads[tenant.name]
        if not load.waiting and not load.bytes:
            del self._loads[tenant.name]
