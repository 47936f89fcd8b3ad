"""Whether the energy that is told can be believed: checks that run at the start, and whenever somebody asks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, astuple, dataclass
from enum import StrEnum
from typing import Any

from proxy.energy import Energy, MeteredDomain
from telemetry.account import Account
from telemetry.cost import StepModel
from telemetry.selftest import conservation_error_uj, shapley_error
from telemetry.snapshot import DeviceState, Scope, Source

log = logging.getLogger("paceline.energy")

AFTER_S = 5.0  # from the start, for the meters to have told something
COUNTER_BAND = 0.05  # a counter and its device's power, added up, may differ by so much; NVIDIA says 5 % of power readings
SURE_IDLE = 0.1  # relative standard error of idle power
ENOUGH_J = 1000.0  # to compare anything
FOREIGN = (
    "{0.watts:.0f} W, from the profile: it draws {0.quiet_w:.0f} W while none of our requests run. Somebody uses it past this "
    "proxy, whose joules are unattributed, or the profile is another card's (`paceline calibrate`)"
)
LEAST = "{0.watts:.1f} W, the least of the last minutes: of late it draws {0.quiet_w:.0f} W while none of our requests run"
AGAIN_S = 30.0  # between looks, once it runs


class Verdict(StrEnum):
    """What a check found; the later ones are the worse ones."""

    OK = "ok"
    UNKNOWN = "unknown"  # not enough was seen to tell
    WARNING = "warning"  # it can be right, and wants to be looked at
    FAILED = "failed"


BAD = (Verdict.WARNING, Verdict.FAILED)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    found: str


def _badness(check: Check) -> int:
    return list(Verdict).index(check.verdict)


def selftest(energy: Energy | None, model: StepModel, now: float) -> dict[str, Any]:
    """All checks, and the worst of their verdicts."""
    checks = list(_checks(energy, model, now))
    return {"verdict": max(checks, key=_badness).verdict, "checks": [asdict(check) for check in checks]}


async def watch(energy: Energy, model: StepModel) -> None:
    """Say in the log what is wrong, once the meters have had time, and from then on what has become better or worse."""
    await asyncio.sleep(AFTER_S)
    code, known = list(_code(model)), dict[str, Verdict]()
    while True:
        known |= _told([*code, *_state(energy, model, time.monotonic())], known)
        await asyncio.sleep(AGAIN_S)


def _told(checks: Iterable[Check], known: Mapping[str, Verdict]) -> dict[str, Verdict]:
    """Log those whose verdict is another than is known. Of several of one name (a domain's devices) the worst is told."""
    worst: dict[str, Check] = {}
    for check in checks:
        worst[check.name] = max(worst.get(check.name, check), check, key=_badness)
    found = {}
    for check in worst.values():
        found[check.name] = check.verdict
        bad, was_bad = check.verdict in BAD, known.get(check.name) in BAD
        if check.verdict is not known.get(check.name) and (bad or was_bad):
            log.log(logging.WARNING if bad else logging.INFO, "energy self-test: %s: %s: %s", *astuple(check))
    good = all(verdict is Verdict.OK for verdict in found.values())
    if good and not (known and all(known.get(name) is Verdict.OK for name in found)):
        log.info("energy self-test: %d checks are ok", len(found))
    return found


def _checks(energy: Energy | None, model: StepModel, now: float) -> Iterator[Check]:
    yield from _code(model)
    yield from _state(energy, model, now)


def _code(model: StepModel) -> Iterator[Check]:
    """Checks of the program itself, which tries some cases; tens of milliseconds."""
    wrong = shapley_error(model)
    yield Check("attribution is the Shapley value", _verdict(wrong < 1e-9), f"largest relative error {wrong:.1e}")
    lost_uj = sum(abs(conservation_error_uj(model, seed)) for seed in range(20))
    yield Check("attribution conserves", _verdict(lost_uj == 0), f"{lost_uj} uJ lost or made in 20 random intervals")


def _state(energy: Energy | None, model: StepModel, now: float) -> Iterator[Check]:
    """Checks of what has been read and charged so far."""
    if energy is None:
        yield Check("meter", Verdict.UNKNOWN, "there is none, so energy is unknown")
        return
    for domain in energy.domains:
        yield _meter(domain)
        for state in domain.monitor.seen().devices.values():
            yield _device(domain, state, now)
            yield from _two_ways(state)
    for domain, scope, account in energy.accounts():
        yield _conserves(domain, scope, account)
        if scope is Scope.GPU:
            yield _model(domain, account)
            yield from _idle(domain, account, model)


def _verdict(good: bool) -> Verdict:
    return Verdict.OK if good else Verdict.FAILED


def _meter(domain: MeteredDomain) -> Check:
    if domain.monitor.lost:
        return Check(f"meter of {domain.name}", Verdict.FAILED, "it cannot be read; the log says why")
    if not domain.monitor.latest.devices:
        return Check(f"meter of {domain.name}", Verdict.UNKNOWN, "it has told nothing yet")
    devices = ", ".join(domain.monitor.latest.devices)
    modelled = domain.source(Scope.GPU) is Source.MODELLED
    verdict = Verdict.WARNING if modelled else Verdict.OK
    return Check(f"meter of {domain.name}", verdict, f"{devices}{'; nobody measures, all is modelled' if modelled else ''}")


def _device(domain: MeteredDomain, state: DeviceState, now: float) -> Check:
    age_s, name = now - state.stepped_at_s, f"counter of {state.device}"
    if state.frozen or age_s > domain.monitor.silent_after_s:
        return Check(name, Verdict.FAILED, f"it has not moved for {age_s:.1f} s")
    if state.source is Source.POWER_INTEGRAL:
        return Check(name, Verdict.WARNING, "it is missing or broken: power is added up instead")
    return Check(name, Verdict.OK, f"it moved {age_s:.2f} s ago; {state.power_w:.0f} W")


def _two_ways(state: DeviceState) -> Iterator[Check]:
    """A counter held against the same device's power."""
    if state.integrated_uj is None or state.source is not Source.COUNTER:
        return
    name = f"counter against power of {state.device}"
    counted_j, integrated_j = state.counted_uj / 1e6, state.integrated_uj / 1e6
    if counted_j < ENOUGH_J:
        yield Check(name, Verdict.UNKNOWN, f"only {counted_j:.0f} J so far")
        return
    ratio = integrated_j / counted_j
    verdict = Verdict.OK if abs(ratio - 1) <= COUNTER_BAND else Verdict.WARNING
    yield Check(name, verdict, f"power added up is {ratio:.3f} of {counted_j:.0f} J")


def _conserves(domain: MeteredDomain, scope: Scope, account: Account) -> Check:
    totals, wrong_uj = account.totals, account.conservation_error_uj
    found = (
        f"{totals.counted_uj / 1e6:.3f} J counted = {totals.requests_uj / 1e6:.3f} requests + {totals.idle_uj / 1e6:.3f} idle "
        f"+ {totals.unattributed_uj / 1e6:.3f} unattributed, {wrong_uj} uJ amiss"
    )
    return Check(f"conservation of {domain.name} ({scope})", _verdict(wrong_uj == 0), found)


def _model(domain: MeteredDomain, account: Account) -> Check:
    """Whether the step model is that of this server."""
    name, requests_j = f"step model of {domain.name}", account.totals.requests_uj / 1e6
    if requests_j < ENOUGH_J or account.modelled_total_j <= 0:
        return Check(name, Verdict.UNKNOWN, f"only {requests_j:.0f} J of requests so far, of {ENOUGH_J:.0f} that it takes")
    ratio = requests_j / account.modelled_total_j
    fits = 1 - account.model.band < ratio < 1 + 0.9 * account.model.band  # at 1 + band it is cut off
    found = f"requests were charged {ratio:.2f} of what profile {account.model.name!r} says"
    if fits:
        return Check(name, Verdict.OK, found)
    return Check(name, Verdict.WARNING, f"{found}; `paceline calibrate` makes one of this server")


def _idle(domain: MeteredDomain, account: Account, model: StepModel) -> Iterator[Check]:
    for power in account.idle_powers():
        name = f"idle power of {domain.name}"
        if power.basis == "foreign":
            yield Check(name, Verdict.WARNING, FOREIGN.format(power))
            continue
        if power.basis == "least":
            yield Check(name, Verdict.UNKNOWN, LEAST.format(power))
            continue
        if power.basis != "learnt":
            yield Check(name, Verdict.UNKNOWN, f"{power.watts:.0f} W, from the profile: nobody was ever away for long enough")
            continue
        sure = power.error_w <= SURE_IDLE * power.watts
        found = f"{power.watts:.1f} W, give or take {power.error_w:.1f} W, learnt from {power.quiet_s:.0f} s of quiet"
        yield Check(name, Verdict.OK if sure else Verdict.WARNING, found)
