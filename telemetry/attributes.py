"""A request in OpenTelemetry's words: the attributes of its series and of its span. What is not known is absent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from telemetry import names
from telemetry.ledger import Energy, Entry

Attributes = dict[str, str | int]


def of_server(server: str) -> Attributes:
    """Address and port of a server's URL; a name that is no URL is an address."""
    parts = urlsplit(server)
    attributes: Attributes = {names.ADDRESS: parts.hostname or server} if server else {}
    if parts.hostname and parts.port:
        attributes[names.PORT] = parts.port
    return attributes


def of_gen_ai(entry: Entry, model: str) -> Attributes:
    """What OpenTelemetry's generative AI conventions ask for."""
    pairs = {names.OPERATION: entry.operation, names.PROVIDER: entry.dialect, names.MODEL: model}
    return _known({**pairs, **of_server(entry.server), names.ERROR: error_type(entry)})


def of_request(entry: Entry, model: str) -> Attributes:
    """What our own metrics tell requests apart by."""
    ours = {names.POLICY: entry.policy, names.TIER: entry.tier, names.TENANT: entry.tenant, names.MODEL: model}
    tried = {names.EXPERIMENT: entry.experiment, names.ARM: entry.arm}
    return _known({**ours, **tried, **of_server(entry.server)})


def of_energy(energy: Energy) -> Attributes:
    """How joules are known; nothing when they are not."""
    if energy.source is None:
        return {}
    return {names.SOURCE: energy.source.value, names.METHOD: energy.method, names.SCOPE: energy.scope}


def of_span(entry: Entry) -> dict[str, str | int | float]:
    """Everything about one request: here any value may be its own."""
    pairs: dict[str, str | int | float] = {
        "paceline.request.id": entry.id,
        names.OUTCOME: str(entry.outcome),
        "paceline.held_s": entry.held_s,
        "paceline.queued_s": entry.queued_s,
        "http.response.status_code": entry.status or "",
        "gen_ai.usage.input_tokens": "" if entry.prompt_estimated else entry.prompt_tokens,
        "gen_ai.usage.output_tokens": "" if entry.output_estimated else entry.output_tokens,
    }
    if entry.energy.source is not None:
        pairs["paceline.energy.joules"] = entry.energy.active_uj / 1e6
        pairs["paceline.energy.prefill_joules"] = entry.energy.prefill_uj / 1e6
        pairs["paceline.energy.uncertainty_joules"] = entry.energy.uncertainty_j
        pairs["paceline.energy.timeline"] = entry.energy.timeline
    if entry.host_energy is not None and entry.host_energy.source is not None:
        pairs["paceline.energy.host_joules"] = entry.host_energy.active_uj / 1e6
    known = {key: value for key, value in pairs.items() if value != ""}
    return {**known, **of_gen_ai(entry, entry.model), **of_request(entry, entry.model), **of_energy(entry.energy)}


def events(entry: Entry) -> Iterator[tuple[str, float]]:
    """What happened between arrival and end, and when (monotonic)."""
    for name, at in (("released", entry.released_at), ("first token", entry.first_token_at)):
        if at is not None:
            yield name, at


def error_type(entry: Entry) -> str:
    """OpenTelemetry's error.type: ours or the engine's word for it, else the status; empty when all went well."""
    return entry.error or (str(entry.status) if entry.status >= 400 else "")


def server_failed(entry: Entry) -> bool:
    """To OpenTelemetry, what the client did (a status of 4xx, leaving) is no error of the server's."""
    return entry.status >= 500 or (entry.error not in ("", "client_gone") and entry.status < 400)


def _known(pairs: Mapping[str, str | int]) -> Attributes:
    return {key: value for key, value in pairs.items() if value != ""}
