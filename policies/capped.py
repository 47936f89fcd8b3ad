"""Holds back what would pass a bound: on sequences or tokens in flight, or on watts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import floor, inf

from policies.base import Decision, Policy, ServerState, View, Waiting
from policies.part import sooner
from policies.span import Span
from telemetry.snapshot import Hardware


@dataclass(frozen=True, slots=True)
class LetGo:
    """What a policy around another one remembers: the other's memory, and whom the other let go who still waits."""

    inner: object = None
    ids: Sequence[str] = ()
    read_at: float | None = None  # the counter's first step that was seen after the latest group had left


def ask(policy: Policy, view: View, memory: object) -> tuple[Decision, list[str]]:
    """What an inner policy decides, and all whom it has let go so far who still wait, those first that it names no more.

    A policy that let somebody go takes him for gone, and may not name him again: whoever holds him back has to remember.
    """
    known = memory if isinstance(memory, LetGo) else LetGo()
    decision = policy.decide(view, known.inner)
    named = dict.fromkeys(decision.release)
    return decision, [id for id in known.ids if id not in named and id in view.waiting] + list(named)


def those(ids: Sequence[str], view: View) -> Mapping[str, Waiting]:
    """The requests of these ids that wait, in order of arrival; costs a pass over all who came before the last of them."""
    wanted = set(ids)
    found: dict[str, Waiting] = {}
    for waiting in view.waiting:
        if len(found) == len(wanted):
            break
        if waiting.id in wanted:
            found[waiting.id] = waiting
    return found


@dataclass(frozen=True, slots=True)
class Capped:
    """What the inner policy lets go leaves in its order, as far as the bounds allow; the rest waits, at most to its deadline.

    A request that is larger than a bound leaves when nothing is in flight. Bounds are the pool's, all servers together;
    requests whose deadline has come leave whatever is in flight, and count.

    Who has left his hold and waits for a slot counts as in flight. Under a bound, whoever would find no slot is held, too, so
    who leaves next when slots are scarce is the inner policy's order (`ordered`), not the room's. While all servers sleep one
    request is let go, since that is what wakes a server.

    Watts are those of all GPUs that this proxy reads, so with several pools they are everybody's. A reading that is older
    than `stale_s`, or none, caps nothing: joules are not worth a request that nobody dares to send. Each reading lets go
    at most what it has room for, reckoned by the watts of a request in flight so far. That errs on the safe side, for
    a batch's first sequences are the dearest; a group that finds nobody in flight is reckoned by the step model, and is one
    request where there is none. A reading is a mean since the one before, so the next group waits for the second
    one after this group left: the first that it is in from begin to end. Simulated time has no readings: there `power_w`
    caps nothing.

    Attributes:
        policy: who may leave at all.
        in_flight: most sequences in flight; None: no bound.
        tokens: most prompt and still possible output tokens in flight; None: no bound.
        power_w: no request leaves while the GPUs draw more; None: no bound.
        stale_s: age in seconds from which on a reading is none.
    """

    policy: Policy = field(default_factory=Span)
    in_flight: int | None = None
    tokens: int | None = None
    power_w: float | None = None
    stale_s: float = 2.0

    def __post_init__(self) -> None:
        for name in ("in_flight", "tokens", "power_w"):
            bound = getattr(self, name)
            if bound is not None and not bound > 0:
                raise ValueError(f"{name} must be greater than 0, or not set")
        if not self.stale_s > 0:
            raise ValueError("stale_s must be greater than 0")

    def decide(self, view: View, memory: object) -> Decision:
        known = memory if isinstance(memory, LetGo) else LetGo()
        most, ask_at, read_at = self._most(view, known)
        if most < 1:  # the inner policy need not be asked now, for it does not depend on how often it is
            return Decision(wake_at=ask_at, memory=replace(known, read_at=read_at))
        decision, ids = ask(self.policy, view, known)
        most = int(min(most, len(ids)))
        found = those(ids[:most], view)
        first = [found[id] for id in ids[:most] if id in found]
        leaving = self._fitting(first, view)
        rest = (*(waiting.id for waiting in first[leaving:]), *ids[most:])
        release = [waiting.id for waiting in first[:leaving]]
        return Decision(release, sooner(decision.wake_at, ask_at if rest else None), LetGo(decision.memory, rest, read_at))

    def _most(self, view: View, known: LetGo) -> tuple[float, float | None, float | None]:
        """How many may leave at most, however small; when to ask again if nothing else happens; what was read when."""
        if (self.in_flight, self.tokens, self.power_w) == (None, None, None):
            return inf, None, None
        requests, ask_at, read_at = self._by_power(view, known)
        free = inf if self.in_flight is None else self.in_flight - _sequences(view)
        return min(requests, _slots(view), free), ask_at, read_at

    def _fitting(self, coming: Sequence[Waiting], view: View) -> int:
        """How many of those who come, in their order, leave."""
        if (self.in_flight, self.tokens, self.power_w) == (None, None, None):
            return len(coming)
        slots = _slots(view)
        sequences = _sequences(view)
        tokens = view.ready_tokens + sum(server.tokens for server in view.servers)
        for fitting, waiting in enumerate(coming):
            alone = not sequences
            sequences += waiting.sequences
            tokens += waiting.tokens
            slots -= waiting.sequences
            within = slots >= 0 and sequences <= (self.in_flight or inf) and tokens <= (self.tokens or inf)
            if not (within or alone):
                return fitting
        return len(coming)

    def _by_power(self, view: View, known: LetGo) -> tuple[float, float | None, float | None]:
        """How many requests the watts leave room for, when a reading that forbids any grows stale, and `read_at`."""
        devices = [d for d in view.telemetry.devices.values() if d.hardware is Hardware.GPU]
        stepped_at = min((device.stepped_at_s for device in devices), default=-inf)
        stale_at = stepped_at + self.stale_s
        if self.power_w is None or stale_at <= view.now or any(device.frozen for device in devices):
            return inf, None, None
        left_at = max((flight.released_at for flight in view.in_flight.values()), default=-inf)
        read_at = known.read_at
        if read_at is None or read_at < left_at:
            read_at = stepped_at if stepped_at >= left_at else None
        power_w = sum(device.power_w for device in devices)
        if not view.in_flight:
            room_w = self.power_w - power_w
            return max(_first_group(view, room_w), 1) if room_w > 0 else 0, stale_at, read_at  # one, to see what it draws
        if read_at is None or stepped_at <= read_at or power_w >= self.power_w:
            return 0, stale_at, read_at
        idle_w = view.model.idle_power_w * len(view.servers) if view.model else 0.0
        each_w = max(power_w - idle_w, 0.0) / len(view.in_flight)
        return floor((self.power_w - power_w) / each_w) if each_w else 1, stale_at, read_at


def _first_group(view: View, room_w: float) -> float:
    """How many sequences decode within so many watts above idle power, by the step model; prompts are not reckoned with."""
    if view.model is None:
        return 1
    step_j, step_s = view.model.step_j, view.model.step_s
    if len(view.servers) > 1:  # each may begin a batch of its own
        return room_w * step_s(1, 0, 0) // step_j(1, 0, 0) if step_j(1, 0, 0) else inf
    # the largest n with base_j + n sequence_j <= room_w (base_s + n sequence_s)
    dearer = step_j.per_sequence - room_w * step_s.per_sequence
    return inf if dearer <= 0 else (room_w * step_s.base - step_j.base) // dearer


def _sequences(view: View) -> int:
    """Those in flight, and those that will be as soon as there is a slot."""
    return view.ready_sequences + sum(server.in_flight for server in view.servers)


def _slots(view: View) -> float:
    """Slots that are free and nobody's; one if a server would have to be woken first, and none is being woken."""
    states = {server.state for server in view.servers if server.healthy}
    asleep = ServerState.ASLEEP in states and not states & {ServerState.AWAKE, ServerState.WAKING}
    if asleep:
        return 0 if view.ready_sequences else 1
    return sum(server.free for server in view.servers) - view.ready_sequences
