"""Puts the experiments of a proxy together: where they are kept, alone or with other replicas."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from proxy.config import Config
from proxy.energy import Energy
from proxy.experiments.experiments import Experiments
from proxy.experiments.store import DiskStore, MemoryStore, Store
from proxy.fleet import Fleet
from proxy.shared_store import create_shared
from telemetry.ledger import Ledger


def create_experiments(
    config: Config, environ: Mapping[str, str], fleet: Fleet, ledger: Ledger, energy: Energy | None
) -> Experiments:
    """Nothing is read yet, and nobody asked.

    Raises:
        KeyUnavailable: Redis's password is not where it should be.
    """
    path = config.experiments.path
    store: Store = DiskStore(Path(path)) if path is not None else MemoryStore()
    experiments = Experiments(fleet, ledger, energy, store, kept=path is not None)
    if (shared := create_shared(config, environ, store)) is not None:
        experiments.store = experiments.shared = shared
        experiments.wall, experiments.replica = shared.clock.now_unix_s, shared.replica
        experiments.leads, experiments.expected = (lambda: shared.leads), shared.expected
        shared.on_change = experiments.adopt
    return experiments
