"""Strategies by name: what is found, what is refused, and what the refusal says."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from policies.base import Decision, Plan, View, Waiting
from policies.pack import Pack
from policies.size import Size
from policies.span import Span
from policies.spread import Spread
from policies.strategy import PLACEMENTS, POLICIES, Choice, UnknownStrategy, build


@dataclass(frozen=True)
class Theirs:
    """A policy of somebody else's."""

    patience_s: float = 1.0
    label: str = "x"

    def decide(self, view: View, memory: object) -> Decision:
        return Decision()


@dataclass(frozen=True)
class TheirPlacement:
    def place(self, group: Sequence[Waiting], view: View) -> Plan:
        return Plan()


class NotADataclass:
    def decide(self, view: View, memory: object) -> Decision:
        return Decision()


@pytest.fixture(autouse=True)
def theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that can be imported by name."""
    module: Any = ModuleType("their_policies")
    module.Theirs, module.TheirPlacement, module.NotADataclass = Theirs, TheirPlacement, NotADataclass
    module.instance = Theirs()
    monkeypatch.setitem(sys.modules, "their_policies", module)


def policy(name: str, **params: object) -> Any:
    return build(Choice(name, params), Choice("spread", {})).policy


def refusal(name: str, **params: object) -> str:
    with pytest.raises(UnknownStrategy) as refused:
        policy(name, **params)
    return str(refused.value)


def test_by_name() -> None:
    strategy = build(Choice("size", {"n": 4}), Choice("pack", {"knee": 8}))
    assert (strategy.policy, strategy.placement) == (Size(4, 2.0), Pack(8))
    assert strategy.describe() == {
        "policy": {"name": "size", "params": {"n": 4, "wait_s": 2.0}},
        "placement": {"name": "pack", "params": {"knee": 8}},
    }


@pytest.mark.parametrize("name", POLICIES)
def test_each_built_in_policy_works_as_it_is(name: str) -> None:
    assert callable(policy(name).decide)


@pytest.mark.parametrize("name", PLACEMENTS)
def test_each_built_in_placement_works_as_it_is(name: str) -> None:
    assert callable(build(Choice("span", {}), Choice(name, {})).placement.place)


def test_by_import_string() -> None:
    assert policy("their_policies:Theirs", patience_s="2.5") == Theirs(2.5)
    strategy = build(Choice("policies.span:Span", {}), Choice("their_policies:TheirPlacement", {}))
    assert (strategy.policy, strategy.placement) == (Span(), TheirPlacement())
    assert strategy.policy_name == "policies.span:Span"


@pytest.mark.parametrize(
    ("name", "params", "says"),
    [
        ("spam", {}, "no policy 'spam': built in are "),
        ("spam", {}, "span, window; yours is 'package.module:Name'"),
        ("Span", {}, "no policy 'Span'"),
        ("", {}, "no policy ''"),
        (
            "nowhere.at_all:Name",
            {},
            "policy 'nowhere.at_all:Name' cannot be imported: ModuleNotFoundError: No module named 'nowhere'",
        ),
        ("policies.span:Spam", {}, "cannot be imported: AttributeError"),
        (":Name", {}, "cannot be imported: ValueError"),
        (".relative:Name", {}, "cannot be imported: TypeError"),
        ("policies.span:", {}, "cannot be imported: AttributeError"),
        ("their_policies:NotADataclass", {}, "is not a dataclass with a method 'decide'"),
        ("their_policies:TheirPlacement", {}, "is not a dataclass with a method 'decide'"),
        ("their_policies:instance", {}, "is not a dataclass"),
        ("size", {"m": 3}, "policy 'size' has no parameter 'm'; it has n, wait_s"),
        ("span", {"n": 3}, "policy 'span' has no parameter 'n'; it has none"),
        ("size", {"n": "many"}, "policy 'size': n = 'many': Input should be a valid integer"),
        ("size", {"n": 2.5}, "n = 2.5: Input should be a valid integer"),
        ("size", {"n": 0}, "policy 'size': n must be at least 1"),
        ("window", {"every_s": -1}, "policy 'window': every_s must be greater than 0"),
    ],
)
def test_a_refusal_says_what_is_wrong_and_what_is_allowed(name: str, params: dict[str, object], says: str) -> None:
    assert says in refusal(name, **params)


def test_all_problems_at_once() -> None:
    assert refusal("size", m=3, n="many").count("policy 'size'") == 2


def test_a_module_that_raises_is_refused_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_policies.py").write_text("1 / 0")
    (tmp_path / "unreadable_policies.py").write_text("class")
    monkeypatch.syspath_prepend(tmp_path)
    assert "ZeroDivisionError" in refusal("broken_policies:Name")
    assert "SyntaxError" in refusal("unreadable_policies:Name")


def test_a_placement_is_refused_as_a_placement() -> None:
    with pytest.raises(UnknownStrategy, match="no placement 'span': built in are pack, spread"):
        build(Choice("span", {}), Choice("span", {}))
    with pytest.raises(UnknownStrategy, match="placement 'pack': knee must be at least 1"):
        build(Choice("span", {}), Choice("pack", {"knee": 0}))


def test_a_choice_reads_as_it_is_written() -> None:
    assert str(Choice("size", {"n": 4, "wait_s": 1.5})) == "size n=4 wait_s=1.5"
    assert isinstance(build(Choice("span", {}), Choice("spread", {})).placement, Spread)
