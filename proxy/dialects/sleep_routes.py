"""How engines are told to sleep and to wake, and how they tell that they do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SleepRoutes:
    """An engine's own administration of sleep: paths to POST to, with their queries.

    Attributes:
        sleep: lets it sleep, once what is in flight has ended; answered when it sleeps.
        wake: answered when it can work again.
        told_by: GET: JSON that has `is_sleeping`; None: it does not tell.
        body: JSON of both, None for none.
        needs: what it must be started with.
    """

    sleep: str
    wake: str
    told_by: str | None
    body: Mapping[str, object] | None
    needs: str


# level 1: weights to the host's memory, no cache. Without a mode it would abort whatever somebody else has in flight there
VLLM = SleepRoutes(
    sleep="/sleep?level=1&mode=wait",
    wake="/wake_up",
    told_by="/is_sleeping",
    body=None,
    needs="--enable-sleep-mode, and VLLM_SERVER_DEV_MODE=1 in its environment",
)

SGLANG = SleepRoutes(
    sleep="/release_memory_occupation",
    wake="/resume_memory_occupation",
    told_by=None,
    body={},
    needs="--enable-memory-saver",
)
