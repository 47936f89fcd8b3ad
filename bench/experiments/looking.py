"""A look at a simulation at one instant: what its engines have drawn, and what each request has been charged of it so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from policies.engine import Engine
from policies.simulate import Served, Simulation


class ChargingEngine(Engine):
    """An engine that also tells what jobs in flight have been charged."""

    def charged_j(self, id: str) -> float:
        """Joules net of idle of the steps that are done; 0 if the job is not there.

        It is what `Finished` tells at the end, in the same terms, as far as it has come.
        """
        running = self._jobs.get(id)
        if running is None:
            return 0.0
        if running.computed < running.job.prompt_tokens:
            return running.energy_j
        steps, first = self.steps - running.joined_step, running.job.prompt_tokens + 1
        own_j = self.model.step_j.per_sequence * steps
        own_j += self.model.step_j.per_context_token * (steps * first + steps * (steps - 1) / 2)
        return running.energy_j + self._base_j - running.joined_base_j + own_j


@dataclass(frozen=True, slots=True)
class Look:
    """What was to be seen at an instant.

    Attributes:
        by_engine_j: of each engine since the simulation began, idle included.
        charged_j: to each request that had left and not ended, net of idle; the step under way is in nobody's yet.
    """

    by_engine_j: Mapping[str, float]
    charged_j: Mapping[str, float]

    @property
    def energy_j(self) -> float:
        """Of all engines."""
        return sum(self.by_engine_j.values())

    def of_servers(self, names: Sequence[str]) -> Look:
        """What some of the engines had drawn."""
        return Look({name: self.by_engine_j[name] for name in names}, self.charged_j)

    def of(self, one: Served, at: float) -> float:
        """Joules of a request that has ended meanwhile, up to this look at `at`, in simulated seconds."""
        if one.ended_at <= at:
            return one.energy_j
        return self.charged_j.get(one.waiting.id, 0.0)


def look(simulation: Simulation) -> Look:
    """At the instant that the simulation has come to; its engines are `ChargingEngine`s."""
    drawn_j = simulation.energy_j()  # first: it brings the engines up to the instant
    charged = {id: _charged_j(simulation, one) for id, one in simulation.open.items() if one.server}
    return Look(drawn_j, charged)


def _charged_j(simulation: Simulation, one: Served) -> float:
    """Of its sequences that have ended, and of those that run."""
    engine, id, sequences = simulation.engines[one.server], one.waiting.id, one.waiting.sequences
    assert isinstance(engine, ChargingEngine)
    jobs = [id] if sequences == 1 else [f"{id}/{number}" for number in range(sequences)]
    return one.energy_j + sum(engine.charged_j(job) for job in jobs)
