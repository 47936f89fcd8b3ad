"""Strategies by name: what is found, what is refused, and what the refusal says."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from policies.affine import Affine
from policies.base import Decision, Plan, Policy, View, Waiting
from policies.capped import Capped
from policies.ordered import Ordered
from policies.pack import Pack
from policies.passthrough import Passthrough
from policies.size import Size
from policies.span import Span
from policies.spread import Spread
from policies.strategy import PLACEMENTS, POLICIES, Choice, UnknownStrategy, build, build_placement, build_policy
from policies.window import Window


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


@dataclass(frozen=True)
class Many:
    """A policy made of several, perhaps one more, and what it finds out itself."""

    arms: tuple[Policy, ...] = ()
    other: Policy | None = None
    found: int = field(init=False, default=0)

    def decide(self, view: View, memory: object) -> Decision:
        return Decision()


@dataclass(frozen=True)
class Locked(Theirs):
    lock: ModuleType = sys


@dataclass(frozen=True)
class Unnamed(Theirs):
    nobody: "Nobody" = None  # type: ignore[name-defined]  # noqa: F821, UP037


class NotADataclass:
    def decide(self, view: View, memory: object) -> Decision:
        return Decision()


@pytest.fixture(autouse=True)
def theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that can be imported by name."""
    module: Any = ModuleType("their_policies")
    module.Theirs, module.TheirPlacement, module.NotADataclass = Theirs, TheirPlacement, NotADataclass
    module.instance, module.Many, module.Locked, module.Unnamed = Theirs(), Many, Locked, Unnamed
    module.Policy, module.ModuleType = Policy, ModuleType
    for cls in (Theirs, TheirPlacement, Many, Locked, Unnamed):
        monkeypatch.setattr(cls, "__module__", "their_policies")  # as if it were written there
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
    told: Any = strategy.describe()
    assert told["policy"] == {"name": "size", "params": {"n": 4, "wait_s": 2.0}}
    assert (told["placement"]["name"], told["placement"]["params"]["knee"]) == ("pack", 8)


@pytest.mark.parametrize("name", sorted(set(POLICIES) - {"carbon"}))  # that one needs a file
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
        ("spam", {}, "span, valley, window; yours is 'package.module:Name'"),
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
        ("capped", {"policy": "spam"}, "policy 'capped': policy: no policy 'spam': built in are adaptive, capped, "),
        (
            "capped",
            {"policy": {"name": "ordered", "params": {"policy": {"name": "size", "params": {"n": 0}}}}},
            "policy 'capped': policy: policy 'ordered': policy: policy 'size': n must be at least 1",
        ),
        ("capped", {"policy": 3}, "policy 'capped': policy: 3 is no policy: write its name, or {name = ..., params = {...}}"),
        ("capped", {"policy": {"name": "size", "n": 3}}, "is no policy: write its name"),
        ("capped", {"policy": {"name": "size", "params": 3}}, "is no policy: write its name"),
        ("capped", {"policy": "pack"}, "policy: no policy 'pack'"),
        ("capped", {"in_flight": "many"}, "policy 'capped': in_flight = 'many': Input should be a valid integer"),
        ("ordered", {"by": "size"}, "policy 'ordered': by = 'size': Input should be 'fifo', 'priority', 'deadline' or 'fair'"),
        ("their_policies:Many", {"arms": ["span", "spam"]}, "policy 'their_policies:Many': arms.1: no policy 'spam'"),
        ("their_policies:Locked", {"lock": "sys"}, "lock cannot be set, for its type, <class 'module'>, cannot be written"),
        ("their_policies:Unnamed", {}, "name 'Nobody' is not defined, which is a field's type"),
        ("their_policies:Many", {"found": 3}, "has no parameter 'found'; it has arms, other"),
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
    with pytest.raises(UnknownStrategy, match="no placement 'span': built in are affine, pack, sleepy, spread"):
        build(Choice("span", {}), Choice("span", {}))
    with pytest.raises(UnknownStrategy, match="placement 'pack': knee must be at least 1"):
        build(Choice("span", {}), Choice("pack", {"knee": 0}))


def test_a_choice_reads_as_it_is_written() -> None:
    assert str(Choice("size", {"n": 4, "wait_s": 1.5})) == "size n=4 wait_s=1.5"
    assert isinstance(build(Choice("span", {}), Choice("spread", {})).placement, Spread)


def test_policies_in_policies() -> None:
    nested = {"name": "ordered", "params": {"by": "fair", "policy": {"name": "window", "params": {"every_s": 1}}}}
    assert policy("capped", in_flight=96, policy=nested) == Capped(Ordered(Window(1.0), "fair"), in_flight=96)
    assert policy("capped", policy="passthrough") == Capped(Passthrough())
    assert policy("capped", policy="their_policies:Theirs") == Capped(Theirs())
    assert policy("capped", policy=Window(3.0)) == Capped(Window(3.0))
    assert policy("their_policies:Many", arms=["span", {"name": "size"}]) == Many((Span(), Size()))
    assert policy("their_policies:Many", other="span").other == Span()
    assert build_placement(Choice("affine", {"placement": "spread"})) == Affine(placement=Spread())


@pytest.mark.parametrize(
    ("choice", "inner"),
    [
        (Choice("capped", {"policy": "window", "tokens": 5000}), "window"),
        (Choice("capped", {"policy": {"name": "ordered", "params": {"by": "deadline"}}}), "ordered"),
        (Choice("prefix", {"policy": {"name": "their_policies:Theirs", "params": {"label": "y"}}}), "their_policies:Theirs"),
    ],
)
def test_what_is_told_makes_the_same_again(choice: Choice, inner: str) -> None:
    strategy = build(choice, Choice("sleepy", {"placement": {"name": "affine", "params": {"placement": "spread"}}}))
    told = json.loads(json.dumps(strategy.describe(), allow_nan=False))
    assert told["policy"]["params"]["policy"]["name"] == inner
    again = build(*(Choice(told[kind]["name"], told[kind]["params"]) for kind in ("policy", "placement")))
    assert again == strategy
    assert again.describe() == strategy.describe()


def test_what_is_told_has_a_policys_list_no_other_and_infinity() -> None:
    for choice in (
        Choice("their_policies:Many", {"arms": ["span", "size"], "other": "pace"}),
        Choice("their_policies:Many", {}),
        Choice("window", {"every_s": inf}),
    ):
        strategy = build(choice, Choice("spread", {}))
        told = json.loads(json.dumps(strategy.describe(), allow_nan=False))["policy"]
        assert build_policy(Choice(**told)) == strategy.policy
        assert "found" not in told["params"]


def test_where_modules_are_looked_for_is_said_when_one_is_not_found() -> None:
    assert "PYTHONPATH says where" in refusal("nowhere.at_all:Name")


def test_a_field_for_a_placement_takes_one() -> None:
    with pytest.raises(UnknownStrategy, match="placement 'affine': placement: no placement 'span'"):
        build_placement(Choice("affine", {"placement": "span"}))
