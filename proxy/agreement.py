"""What a request's sender agreed to: its tier, how long it may be held, and what it is a turn of."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from policies.base import Tier
from proxy.config import Hold, Objective, Slack
from proxy.dialects.base import Ask
from telemetry.cost import StepModel

TIERS = {"flex": Tier.FLEX, "batch": Tier.BATCH, "priority": Tier.PRIORITY}
PRIORITIES = {Tier.PRIORITY: 2, Tier.INTERACTIVE: 1, Tier.FLEX: 0, Tier.BATCH: -1}


def tier_of(ask: Ask, objective: Objective | None = None) -> Tier:
    """OpenAI's `service_tier`, else the objective's; whatever else it says (auto, default, nothing) is interactive."""
    return TIERS.get(ask.service_tier, objective.as_tier if objective is not None else Tier.INTERACTIVE)


def slack_s(
    ask: Ask,
    tier: Tier,
    path: str,
    headers: Mapping[bytes, bytes],
    slack: Slack,
    model: StepModel,
    tenant_s: float | None = None,
) -> float:
    """Seconds that the request may be held.

    The first that speaks decides: `x-paceline-max-hold` (seconds), `x-slo-ttft-ms` (a target for the first token, less
    what the step model says an idle server takes to reach it), the tenant's, the route's and then the tier's default. No
    answer exceeds the tier's maximum. A header that is no number says nothing.
    """
    hold: Hold = getattr(slack, tier.value)
    asked = _number(headers.get(b"x-paceline-max-hold"))
    if asked is None and (target_ms := _number(headers.get(b"x-slo-ttft-ms"))) is not None:
        asked = target_ms / 1000 - model.first_token_s(ask.prompt_tokens)
    if asked is None:
        asked = tenant_s
    if asked is None:
        asked = next((route.default_s for route in slack.routes if route.path == path), hold.default_s)
    return min(max(asked, 0.0), hold.max_s)


def session_of(ask: Ask, headers: Mapping[bytes, bytes]) -> str:
    """What the request is a turn of: `x-session-id`, llama.cpp's `x-conversation-id`, else what its body says."""
    told = headers.get(b"x-session-id") or headers.get(b"x-conversation-id")
    return told[:256].decode("latin-1") if told else ask.session


def _number(value: bytes | None) -> float | None:
    try:
        number = float(value) if value is not None else None
    except ValueError:
        return None
    return number if number is not None and isfinite(number) else None
