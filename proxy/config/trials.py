"""What is tried beside or instead of the strategy in force: shadows and experiments."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from policies.lived import AS_RUN, STRAIGHT
from policies.strategy import Strategy, build
from proxy.config.base import Count, Named, Seconds, Section, Some

WEEK_S = 604_800.0


class ShadowStrategy(Section):
    """A strategy that is tried on the live arrivals, with modelled engines."""

    name: Annotated[str, Field(pattern="^[A-Za-z0-9_.-]{1,64}$")] = Field(
        description="as it is in metrics: letters, digits, `_`, `.` and `-`; not `straight` or `as_run`"
    )
    policy: Named = Named(name="passthrough")
    placement: Named = Named(name="spread")

    @model_validator(mode="after")
    def _free(self) -> ShadowStrategy:
        if self.name in (STRAIGHT, AS_RUN):
            raise ValueError(f"name {self.name!r} is taken: it is what shadows are held against")
        self.strategy()
        return self

    def strategy(self) -> Strategy:
        return build(self.policy.choice(), self.placement.choice())


class Shadow(Section):
    """What other strategies would have done with the live arrivals, and what the one in force saves; all modelled."""

    gain: bool = Field(True, description="reckon what the strategy in force saves (`paceline.energy.saved`, modelled)")
    strategies: tuple[ShadowStrategy, ...] = Field((), description="tables; see [shadow.strategies](#shadowstrategies)")
    share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.02, description="most of one core that this may take; what it cannot keep up with is left out, and counted"
    )
    lag_s: Some = Field(
        60.0,
        description="a request that is with its server for longer is taken for as long as its like, and counted as guessed",
    )
    log: str | None = Field(None, description="file of all decisions of shadows, JSON lines; not set: none")
    log_bytes: Count = Field(64 << 20, description="at this length it becomes `....1`, and a new one is begun")

    @model_validator(mode="after")
    def _names(self) -> Shadow:
        names = [strategy.name for strategy in self.strategies]
        if len(set(names)) < len(names):
            raise ValueError(f"strategies: names must differ, and are {', '.join(names)}")
        return self

    @property
    def on(self) -> bool:
        return self.gain or bool(self.strategies)


class Arm(Section):
    """A strategy that an experiment tries."""

    policy: Named = Named(name="passthrough")
    placement: Named = Named(name="spread")

    def strategy(self) -> Strategy:
        return build(self.policy.choice(), self.placement.choice())


class Split(Section):
    """Two sides of the group's servers that have the arms at the same time, by turns; they may share no meter."""

    side: tuple[str, ...] = Field(
        (), description="URLs of one side's servers; the rest are the other's. Empty: as the meters part them, if in two"
    )


class Experiment(Section):
    """Two strategies against each other on the live traffic, by blocks of time: an experiment that begins with the process."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = Field(
        description="its own, for ever: one that has ended does not begin again. Letters, digits, `.`, `_` and `-`"
    )
    group: str | None = Field(None, description="of servers; not set: the only one")
    split: Split | None = Field(
        None,
        description="two sides of the servers, with either arm at the same time; see [experiment.split](#experimentsplit). "
        "Not set: the whole group changes its arm, block by block",
    )
    control: Arm = Field(
        Arm(), description="`policy` and `placement`, each a table; rules before, after, and once anything is wrong"
    )
    treatment: Arm = Field(
        description="`policy` and `placement`, each a table: what is tried; the same as control is an A/A test"
    )
    block_s: Annotated[float, Field(ge=0.1, le=WEEK_S)] | Literal["auto"] = Field(
        "auto", description="seconds of a block; auto: from how long requests lasted lately"
    )
    burn_in_s: Seconds | Literal["auto"] = Field("auto", description="seconds at the beginning of each that are not analysed")
    pairs: Annotated[int, Field(ge=1, le=10_000)] = Field(
        12, description="pairs of blocks: one of each arm, in an order that is drawn"
    )
    pairs_per_stratum: Count = Field(4, description="within so many pairs in a row both orders come equally often")
    seed: int | None = Field(None, description="decides every order; not set: drawn, and told")
    metric: Literal["j_per_token", "j_per_request"] = Field("j_per_token", description="what is compared")
    alpha: Annotated[float, Field(ge=1e-6, lt=0.5)] = Field(0.05, description="how often an interval may be wrong")
    guardrails: dict[str, float | None] = Field({}, description="bounds that stop it; those not named keep their defaults")
    begins_in_s: Annotated[Seconds, Field(le=WEEK_S)] = Field(0.0, description="seconds until its first block")
    shadow: bool = Field(
        False, description="true: each arm runs on all traffic as a shadow too (`NAME.control`, `NAME.treatment`), modelled"
    )

    @model_validator(mode="after")
    def _possible(self) -> Experiment:
        if "auto" not in (self.block_s, self.burn_in_s) and float(self.burn_in_s) >= float(self.block_s):
            raise ValueError("burn_in_s must be shorter than block_s")
        self.control.strategy()
        self.treatment.strategy()
        return self


class Experiments(Section):
    """Where experiments are kept, so that they go on after a restart."""

    path: str | None = Field(None, description="directory of their states, logs and blocks; not set: they end with the process")
