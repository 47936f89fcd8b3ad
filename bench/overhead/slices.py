"""What is measured, and the rounds in which every proxy has its turn at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from bench.overhead.contenders import PROXIES, Ground
from bench.overhead.environments import Tell
from bench.overhead.running import Proxy, free_port, started
from bench.overhead.stub import Cores, Load, NotPossible, Upstream, apply, compiled, request_file, upstream

DIRECT = "direct"
EVENTS = 64
GAP_US = 20_000
STREAM_S = EVENTS * GAP_US / 1e6
FAULTS = {
    "cut_off": "answers broken off",
    "miscounted": "streams with events missing or twice",
    "bad_status": "statuses other than 2xx",
    "unfinished": "answers not finished",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of traffic."""

    name: str
    load: Load
    gap_us: int = 0  # between a stream's events


# a paced load begins with its streams spread over the length of one, as they are in a server that has run for a while
SHAPES = (
    Shape("json-1", Load(1, 2.0, 0.3)),
    Shape("json-16", Load(16, 2.0, 0.3)),
    Shape("json-64", Load(64, 2.0, 0.3)),
    Shape("burst-1", Load(1, 1.5, 0.3, events=EVENTS)),
    Shape("burst-16", Load(16, 3.0, 0.3, events=EVENTS)),
    Shape("paced-64", Load(64, 4.0, STREAM_S + 0.4, STREAM_S, events=EVENTS), GAP_US),
)


def scaled(shapes: Sequence[Shape], factor: float) -> list[Shape]:
    """The same with shorter windows; what warms up stays, or streams would not have begun."""
    return [replace(shape, load=replace(shape.load, window_s=shape.load.window_s * factor)) for shape in shapes]


@dataclass(frozen=True, slots=True)
class Slice:
    """One proxy under one shape in one round. A void one is told and counts for nothing."""

    round: int
    proxy: str
    shape: str
    void: str  # why; empty for a good one
    found: Mapping[str, float]  # what load.c told


@dataclass(frozen=True, slots=True)
class Contender:
    """What was there to be measured, or why it was not."""

    version: str = ""
    absent: str = ""
    resident_mib: float = 0.0  # after the last round


@dataclass(frozen=True, slots=True)
class Measured:
    """All slices of one run."""

    contenders: Mapping[str, Contender]
    slices: Sequence[Slice]
    otlp_exports: int  # what Paceline pushed while it was measured


def void(shape: Shape, found: Mapping[str, float]) -> str:
    """Why a slice counts for nothing; empty if it counts."""
    faults = [f"{found[key]:.0f} {words}" for key, words in FAULTS.items() if found[key]]
    if not found["events" if shape.gap_us else "requests"]:
        faults.insert(0, "nothing was completed")
    return ", ".join(faults)


def measure(names: Sequence[str], shapes: Sequence[Shape], rounds: int, bench: Path, tell: Tell) -> Measured:
    """Every proxy in every round, in an order that rotates.

    Raises:
        NotPossible: what all of them need is missing.
    """
    cores = Cores.here()
    binary, load = (compiled(name, bench / "bin") for name in ("upstream", "load"))
    requests = {streamed: request_file(bench / "bin", streamed=streamed) for streamed in (False, True)}
    with ExitStack() as stack:
        stub = stack.enter_context(upstream(binary, cores.load))
        proxies, absent = _start(names, stub, cores, bench, tell, stack)
        slices: list[Slice] = []
        for round in range(1, rounds + 1):
            for name in rotated([name for name in names if name not in absent], round):
                for shape in shapes:
                    stub.stream(EVENTS, shape.gap_us)
                    request = requests[shape.load.events > 0]
                    slices.append(_slice(round, name, shape, load, request, cores, proxies.get(name), stub))
                    tell(f"round {round}/{rounds}  {name:12} {shape.name:9} {_briefly(slices[-1])}")
        contenders = {name: Contender(proxy.version, "", proxy.resident_bytes / 2**20) for name, proxy in proxies.items()}
        missing = {name: Contender(absent=why) for name, why in absent.items()}
        return Measured({**contenders, **missing}, slices, stub.served()["otlp"])


def rotated(names: Sequence[str], by: int) -> list[str]:
    """So that nobody always follows the same one, or is always first."""
    start = by % len(names)
    return [*names[start:], *names[:start]]


def _start(
    names: Sequence[str], stub: Upstream, cores: Cores, bench: Path, tell: Tell, stack: ExitStack
) -> tuple[dict[str, Proxy], dict[str, str]]:
    """All proxies that can be had, halted; and why the others cannot."""
    proxies, absent = {}, {}
    for name in names:
        if name == DIRECT:
            continue
        tell(f"{name}: starting")
        try:
            proxy = stack.enter_context(started(PROXIES[name], _ground(name, stub, bench, tell), cores.proxy))
        except NotPossible as error:
            absent[name] = str(error)
            tell(f"{name}: left out: {error}")
            continue
        proxy.halt()
        proxies[name] = proxy
    return proxies, absent


def _ground(name: str, stub: Upstream, bench: Path, tell: Tell) -> Ground:
    return Ground(stub.port, free_port(), free_port(), (bench / "run" / name).absolute(), bench.absolute(), tell)


def _slice(
    round: int, name: str, shape: Shape, load: Path, request: Path, cores: Cores, proxy: Proxy | None, stub: Upstream
) -> Slice:
    try:
        if proxy is None:
            found = apply(shape.load, load, cores.load, stub.port, request)
        else:
            with proxy.turn():
                found = apply(shape.load, load, cores.load, proxy.ground.port, request, proxy.pids)
        why = void(shape, found)
    except (NotPossible, ProcessLookupError) as error:  # it has died, which is told, and the others go on
        found, why = {}, f"{type(error).__name__}: {error}"
    if why and proxy is not None and (status := proxy.status) is not None:
        why = f"the proxy ended with status {status}"
    return Slice(round, name, shape.name, why, found)


def _briefly(slice: Slice) -> str:
    if slice.void:
        return f"VOID: {slice.void}"
    what, found = ("event", slice.found) if slice.shape.startswith("paced") else ("whole", slice.found)
    count = found["events" if what == "event" else "requests"]
    return f"{count / found['window_s']:8,.0f} {what.replace('whole', 'answer')}s/s  p50 {found[f'{what}_p50_us']:,.0f} us"
