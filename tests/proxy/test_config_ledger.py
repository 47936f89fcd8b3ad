"""What is wrong with the settings of the ledger's files, of carbon and of price is told with its place."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from proxy.sources import ConfigError, load
from tests.serving import config_for

SERVER = "127.0.0.1:1"


def refused(**flags: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        config_for(SERVER, **flags)
    return str(raised.value)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("carbon", {"grams_per_kwh": 56.0}, "`source`, who says so, go together"),
        ("carbon", {"source": "me"}, "`source`, who says so, go together"),
        ("carbon", {"grams_per_kwh": -1.0, "source": "me"}, "greater than or equal to 0"),
        ("carbon", {"grams_per_kwh": 1.0, "file": "x.csv", "source": "me"}, "not both"),
        ("carbon", {"file": "/no/such.csv", "source": "me"}, "/no/such.csv: "),
        ("price", {"per_kwh": 0.2, "source": "me"}, "a price and its `currency` go together"),
        ("price", {"per_kwh": 0.2, "source": "me", "currency": "euro"}, "should match pattern"),
        ("price", {"per_kwh": float("inf"), "source": "me", "currency": "EUR"}, "finite"),
    ],
)
def test_half_a_factor_is_none(key: str, value: dict[str, Any], told: str) -> None:
    text = refused(**{f"energy.{key}": value})
    assert text.startswith(f"energy.{key}")
    assert told in text


def test_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "price.csv"
    file.write_text("when,price\n2026-11-24T12:00Z,0.2\n2026-11-24T12:00Z,0.3\n")
    text = refused(**{"energy.price": {"file": str(file), "currency": "EUR", "source": "the exchange"}})
    assert text == (f"energy.price (flag --energy.price): {file}, line 3: 2026-11-24T12:00Z is not later than the line before")


def test_factors_come_from_any_source() -> None:
    environ = {"PACELINE_ENERGY__CARBON__GRAMS_PER_KWH": "56.0", "PACELINE_ENERGY__CARBON__SOURCE": "RTE, 2025"}
    config = load(None, environ, {"upstreams": [f"http://{SERVER}"]})
    assert config.energy.factors().at(0.0)["carbon"].source == "RTE, 2025"


def test_the_ledgers_directory_is_a_directory(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert f"{file} is no directory" in refused(**{"ledger.path": str(file)})
    assert config_for(SERVER, **{"ledger.path": str(tmp_path / "to" / "be" / "made")}).ledger.path


async def test_parquet_without_pyarrow_is_told_before_the_start() -> None:
    without = "import sys; sys.modules['pyarrow'] = None; from proxy.cli import main; main()"
    command = (sys.executable, "-c", without, "serve", "--check", "--upstream", f"http://{SERVER}")
    environ = {**os.environ, "PACELINE_LEDGER__PATH": "x", "PACELINE_LEDGER__FORMAT": "parquet"}
    child = await asyncio.create_subprocess_exec(*command, env=environ, stderr=asyncio.subprocess.PIPE)
    _, told = await child.communicate()
    assert child.returncode == 2
    assert "needs pyarrow: pip install 'paceline[parquet]'" in told.decode()
    assert config_for(SERVER, **{"ledger.path": "x", "ledger.format": "parquet"}).ledger.format == "parquet"
