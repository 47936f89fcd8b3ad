"""Where joules come from, what they stand for, and where they are written down."""

from __future__ import annotations

import math
import pathlib
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, model_validator

from proxy.config.base import BaseUrl, Count, MeterName, MeterUrl, Seconds, Section, Some
from telemetry.cost import BUILT_IN
from telemetry.factors import GRAMS, Factors, Rate, read_rate


class Domain(Section):
    """Devices, and the servers that run on them."""

    devices: tuple[str, ...] = Field(
        (),
        description="as the meter names them (NVML: indices or UUIDs; simulated engines: their URLs); none: all",
    )
    upstreams: tuple[BaseUrl, ...] = Field(description="URLs of the servers that they serve")
    url: MeterUrl | None = Field(None, description="the meter's, of `prometheus` and `paceline`; not set: energy.url")


class Source(Section):
    """Who says what a kilowatt-hour stands for, and where that is read."""

    source: str = Field("", description="who says so; required")
    file: str | None = Field(
        None, description="CSV file of values over time instead: ISO 8601 with an offset or Unix seconds, and a value"
    )
    step_s: Some = Field(3600.0, description="a value of the file holds until the next, at most for so long")

    def _check(self, value: float | None) -> None:
        if value is not None and self.file is not None:
            raise ValueError("one value, or a file of values: not both")
        if (value is not None or self.file is not None) != bool(self.source):
            raise ValueError("a value or a file, and `source`, who says so, go together")

    def _rate(self, unit: str, value: float | None, least: float) -> Rate | None:
        if self.file is not None:
            return read_rate(pathlib.Path(self.file), unit, self.source, self.step_s, least)
        return Rate.constant(unit, value, self.source) if value is not None else None


class Carbon(Source):
    """How much carbon dioxide (equivalent) a kilowatt-hour stands for."""

    grams_per_kwh: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        None, description="grams of CO2 equivalent a kilowatt-hour"
    )

    @model_validator(mode="after")
    def _whole(self) -> Carbon:
        self._check(self.grams_per_kwh)
        return self

    def rate(self) -> Rate | None:
        return self._rate(GRAMS, self.grams_per_kwh, 0.0)


class Price(Source):
    """What a kilowatt-hour costs."""

    per_kwh: FiniteFloat | None = Field(None, description="price of a kilowatt-hour; prices can be negative")
    currency: Annotated[str, Field(pattern="^([A-Z]{3})?$")] = Field("", description="three letters of ISO 4217; required")

    @model_validator(mode="after")
    def _whole(self) -> Price:
        self._check(self.per_kwh)
        if bool(self.source) != bool(self.currency):
            raise ValueError("a price and its `currency` go together")
        return self

    def rate(self) -> Rate | None:
        return self._rate(self.currency, self.per_kwh, -math.inf)


class Energy(Section):
    """Where joules come from and how they are split."""

    meter: MeterName = Field("auto", description="where joules come from; auto: nvml where there is a driver, else none")
    host: Literal["auto", "rapl", "none"] = Field(
        "auto",
        description="meter of this machine's CPUs and memory, beside one of its GPUs; auto: rapl where it may be read",
    )
    url: MeterUrl | None = Field(
        None, description="of the meter: an exporter's page (`prometheus`), or a `paceline meter` (`paceline`)"
    )
    key_file: str | None = Field(None, description="file that holds the key to show it")
    key_env: str | None = Field(None, description="environment variable that holds that key")
    ca_file: str | None = Field(None, description="certificates to trust instead of the system's")
    file: str | None = Field(None, description="the recording that `replay` plays")
    profile: str = Field(BUILT_IN, description="step model: a built-in name or a JSON file's path")
    poll_s: Annotated[float, Field(ge=0.001, le=60)] | None = Field(
        None, description="seconds between looks at the meter; not set: as the meter wants (nvml: 0.02, prometheus: 1)"
    )
    domains: tuple[Domain, ...] = Field(
        (), description="not set: found by the servers' processes where that can be, else all devices serve all upstreams"
    )
    wait_s: Seconds = Field(
        2.0, description="longest wait for the joules of a request that came with `x-paceline-energy: wait`"
    )
    carbon: Carbon = Carbon()
    price: Price = Price()

    def factors(self) -> Factors:
        """What a joule stands for, read from files where it is in files.

        Raises:
            ValueError: a file cannot be read, or a line of it is wrong.
        """
        return Factors(self.carbon.rate(), self.price.rate())


class Ledger(Section):
    """Files of finished requests: no prompt and no answer is ever in them."""

    path: str | None = Field(None, description="directory of the files; not set: none are written")
    format: Literal["jsonl", "parquet"] = Field("jsonl", description="jsonl: readable while written; parquet: needs pyarrow")
    rotate_bytes: Count = Field(64 << 20, description="a file is finished once it is so long (Parquet: as it is in memory)")
    rotate_s: Some = Field(3600.0, description="... or so old")
    keep: Count | None = Field(None, description="so many files are kept in the directory, the oldest go; not set: all")
