"""Slack: who may be held, and for how long."""

from __future__ import annotations

import pytest

from policies.base import Tier
from proxy.agreement import slack_s, tier_of
from proxy.config import RouteSlack, Slack
from proxy.dialects.base import Ask
from telemetry.cost import load_profile

MODEL = load_profile()


def ask(tier: str = "", prompt_tokens: int = 100) -> Ask:
    return Ask("chat", False, prompt_tokens, True, 100, service_tier=tier)


@pytest.mark.parametrize(
    ("text", "tier"),
    [
        ("flex", Tier.FLEX),
        ("batch", Tier.BATCH),
        ("priority", Tier.PRIORITY),
        ("", Tier.INTERACTIVE),
        ("auto", Tier.INTERACTIVE),
    ],
)
def test_tiers(text: str, tier: Tier) -> None:
    assert tier_of(ask(text)) is tier


@pytest.mark.parametrize(
    ("tier", "headers", "expected"),
    [
        ("", {}, 0.0),
        ("", {b"x-paceline-max-hold": b"1.5"}, 1.5),
        ("", {b"x-paceline-max-hold": b"30"}, 2.0),
        ("flex", {}, 8.0),
        ("flex", {b"x-paceline-max-hold": b"30"}, 30.0),
        ("flex", {b"x-paceline-max-hold": b"0"}, 0.0),
        ("batch", {b"x-paceline-max-hold": b"1e9"}, 3600.0),
        ("priority", {b"x-paceline-max-hold": b"5"}, 0.0),
        ("flex", {b"x-paceline-max-hold": b"soon"}, 8.0),
        ("", {b"x-paceline-max-hold": b"nan"}, 0.0),
        ("", {b"x-paceline-max-hold": b"-1"}, 0.0),
        ("flex", {b"x-slo-ttft-ms": b"1"}, 0.0),
    ],
)
def test_what_was_agreed(tier: str, headers: dict[bytes, bytes], expected: float) -> None:
    request = ask(tier)
    assert slack_s(request, tier_of(request), "/", headers, Slack(), MODEL) == expected


def test_a_first_token_target_leaves_the_prompt_its_time() -> None:
    headers = {b"x-slo-ttft-ms": b"1000"}
    short, long = (slack_s(ask(prompt_tokens=n), Tier.INTERACTIVE, "/", headers, Slack(), MODEL) for n in (10, 10_000))
    assert long < short < 1.0
    assert short == pytest.approx(1.0 - MODEL.first_token_s(10))


def test_a_route_may_have_slack_of_its_own() -> None:
    slack = Slack(routes=(RouteSlack(path="/generate", default_s=1.0),))
    assert slack_s(ask(), Tier.INTERACTIVE, "/generate", {}, slack, MODEL) == 1.0
    assert slack_s(ask(), Tier.INTERACTIVE, "/", {}, slack, MODEL) == 0.0
