"""The table of metrics against the registry's own package."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from telemetry import names
from telemetry.names import Kind, Name

# opentelemetry.semconv marks gen_ai.* as moved to a repository that has no package yet
GEN_AI: Any = importlib.import_module("opentelemetry.semconv._incubating.metrics.gen_ai_metrics")
HW: Any = importlib.import_module("opentelemetry.semconv._incubating.metrics.hw_metrics")

STANDARD = {name.name: name for name in names.ALL if name.name.startswith(("gen_ai.", "hw."))}


class Asked:
    """A meter that notes what it is asked to create."""

    def __getattr__(self, method: str) -> Any:
        return lambda name, *args, **options: (method.removeprefix("create_").removeprefix("observable_"), options.get("unit"))


@pytest.mark.parametrize("name", STANDARD.values(), ids=lambda name: name.name)
def test_names_units_and_kinds_are_the_registrys(name: Name) -> None:
    module = GEN_AI if name.name.startswith("gen_ai.") else HW
    constant = name.name.upper().replace(".", "_")
    assert getattr(module, constant) == name.name
    create = getattr(module, f"create_{name.name.replace('.', '_')}")
    args = [Asked()] if name.kind is Kind.HISTOGRAM else [Asked(), []]
    try:
        kind, unit = create(*args)
    except TypeError:  # synchronous in the registry's package, asked for when somebody looks here
        kind, unit = create(Asked())
    assert (kind, unit) == (name.kind.value, name.unit)


def test_the_registrys_attributes() -> None:
    attributes: Any = importlib.import_module("opentelemetry.semconv._incubating.attributes.gen_ai_attributes")
    assert attributes.GEN_AI_OPERATION_NAME == names.OPERATION
    assert attributes.GEN_AI_PROVIDER_NAME == names.PROVIDER
    assert attributes.GEN_AI_REQUEST_MODEL == names.MODEL
    assert attributes.GEN_AI_TOKEN_TYPE == names.TOKEN_TYPE
    hw: Any = importlib.import_module("opentelemetry.semconv._incubating.attributes.hw_attributes")
    assert (hw.HW_ID, hw.HW_TYPE) == (names.HW_ID, names.HW_TYPE)
    assert hw.HwTypeValues.GPU.value == "gpu"


@pytest.mark.parametrize(
    ("name", "buckets"),
    [
        (names.DURATION, [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]),
        (names.FIRST_TOKEN, [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0]),
        (names.PER_TOKEN, [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5]),
        (
            names.TOKEN_USAGE,
            [1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864],
        ),
    ],
)
def test_buckets_are_those_the_registry_advises(name: Name, buckets: list[float]) -> None:
    assert list(name.buckets) == buckets


@pytest.mark.parametrize("name", names.ALL, ids=lambda name: name.name)
def test_each_metric_is_whole(name: Name) -> None:
    assert name.description
    assert (name.kind is Kind.HISTOGRAM) == bool(name.buckets)
    assert list(name.buckets) == sorted(set(name.buckets))
    states = ("{circuit}", "{generation}", "{state}", "{judgement}")
    assert name.unit in (
        "J",
        "W",
        "s",
        "By",
        "1",
        "{token}",
        "{request}",
        "{sequence}",
        "{retry}",
        "{fault}",
        "{pair}",
        *states,
    )
    assert name.name.startswith(("gen_ai.", "hw.", "paceline."))


def test_no_metric_twice_and_none_forgotten() -> None:
    assert len({name.name for name in names.ALL}) == len(names.ALL)
    assert {value for value in vars(names).values() if isinstance(value, Name)} == set(names.ALL)
