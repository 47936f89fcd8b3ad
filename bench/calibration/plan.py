"""Which runs a calibration makes, how long each takes, and what is left out when there is not enough time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import ceil
from random import Random

from telemetry.cost import Linear, StepModel

SHORT_TOKENS = 64  # prompts of runs in which context should not matter
LOOPS = 2  # clients that send prompts beside a batch: while one's is computed, the other's is on its way
ROUNDS = 4
LEAD_S = 0.02  # by which the others of a batch are sent before the one that is watched
SKIPPED = 0.1  # part of a run before its batch is surely complete
FEWEST_PROMPTS = 6  # one after the other, however slow the server is
LONGEST_OUTPUT, SHORTEST_OUTPUT = 4_000, 40
REST = 0.8  # seconds of rest before an idle run, for each second of it


@dataclass(frozen=True, slots=True)
class Run:
    """One run.

    Attributes:
        block: runs of an earlier block come first, since they tell more; within one their order is drawn.
        kind: idle, decode, prefill (one prompt after the other, one token each), or mixed (both at once).
        batch: sequences that decode.
        prompt_tokens: of each of them, or of the prompts of `prefill`.
        beside_tokens: of the prompts that are computed while the batch of `mixed` decodes.
    """

    id: str
    block: int
    kind: str
    batch: int = 0
    prompt_tokens: int = 0
    beside_tokens: int = 0

    @property
    def name(self) -> str:
        """The same for all repeats."""
        match self.kind:
            case "idle":
                return "idle"
            case "prefill":
                return f"prefill {self.prompt_tokens}"
            case "decode":
                return f"decode {self.batch} x {self.prompt_tokens}"
        return f"mixed {self.batch} x {self.prompt_tokens} + {self.beside_tokens}"


def plan(max_batch: int) -> list[Run]:
    """All runs, the most informative first.

    The first runs span what the model has coefficients for: small and large batches, short and long prompts, long contexts,
    and both at once. The others fill in between, and then everything is repeated.
    """
    core = [
        *(("decode", batch, SHORT_TOKENS, 0) for batch in (1, min(32, max_batch), max_batch)),
        *(("prefill", 0, tokens, 0) for tokens in (256, 4096)),
        ("decode", min(32, max_batch), 2048, 0),
        ("mixed", min(16, max_batch), SHORT_TOKENS, 512),
        ("decode", min(8, max_batch), SHORT_TOKENS, 0),
    ]
    rest = [
        ("prefill", 0, 1024, 0),
        ("decode", 16, 8192, 0),
        ("decode", 64, SHORT_TOKENS, 0),
        ("prefill", 0, 64, 0),
        ("decode", 8, 4096, 0),
        ("mixed", 64, SHORT_TOKENS, 128),
        ("decode", 4, SHORT_TOKENS, 0),
        ("prefill", 0, 8192, 0),
        ("decode", 64, 1024, 0),
        ("decode", 16, SHORT_TOKENS, 0),
        ("prefill", 0, 512, 0),
        ("mixed", 4, SHORT_TOKENS, 2048),
        ("decode", 2, SHORT_TOKENS, 0),
        ("prefill", 0, 2048, 0),
        ("prefill", 0, 128, 0),
    ]
    idle = ("idle", 0, 0, 0)
    blocks = [[idle] * 3, core, [shape for shape in rest if shape[1] <= max_batch], [idle]]
    for _ in range(ROUNDS - 1):
        blocks += [core + blocks[2], [idle]]
    return list(_numbered(blocks))


def _numbered(blocks: Sequence[Sequence[tuple[str, int, int, int]]]) -> Iterator[Run]:
    times: dict[str, int] = {}
    for block, shapes in enumerate(blocks):
        for shape in dict.fromkeys(shapes) if shapes[0][0] != "idle" else shapes:  # a small batch may be the largest, too
            run = Run("", block, *shape)
            times[run.name] = times.get(run.name, 0) + 1
            yield replace(run, id=f"{run.name} #{times[run.name]}")


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast this server seems to be, which decides how much to ask for; the built-in model's shape, scaled."""

    model: StepModel
    window_s: float

    @classmethod
    def measured(cls, like: StepModel, window_s: float, step_s: float, prompt_s: float, prompt_tokens: int) -> Pace:
        """After a request alone had so long steps, and a prompt of so many tokens took so long."""
        scale = step_s / like.step_s(1, 0, SHORT_TOKENS)
        known_s = like.first_token_s(prompt_tokens) - like.step_s.per_prompt_token * prompt_tokens
        per_token_s = max(prompt_s - scale * known_s, 0.2 * prompt_s) / prompt_tokens
        old = like.step_s
        step = Linear(old.base * scale, old.per_sequence * scale, per_token_s, old.per_context_token * scale)
        return cls(replace(like, step_s=step, request_s=like.request_s * scale), window_s)

    def step_s(self, run: Run) -> float:
        """Seconds of one step of a run; a prompt's, from request to answer."""
        if run.kind == "prefill":
            return self.model.first_token_s(run.prompt_tokens)
        context = run.batch * (run.prompt_tokens + 200)
        return self.model.step_s(run.batch, run.beside_tokens, context)

    def output_tokens(self, run: Run) -> int:
        """Of the sequence whose tokens are watched: enough for the window, and for what is skipped before it."""
        wanted = ceil(1.15 * self.window_s / self.step_s(run) / (1 - SKIPPED)) + 8
        return min(max(wanted, SHORTEST_OUTPUT), LONGEST_OUTPUT)

    def longer_tokens(self, run: Run) -> int:
        """Of the others: they began earlier, by the steps in which their prompts were computed, and must not end first."""
        watched, alone_s = self.output_tokens(run), self.model.step_s(run.batch, 0, run.batch * run.prompt_tokens)
        return watched + ceil(0.1 * watched) + 8 + ceil(3 * LEAD_S / alone_s) + run.batch * run.prompt_tokens // 2048

    def prompts(self, run: Run) -> int:
        """About as many as one client can send in a run, and some more."""
        if run.kind == "prefill":
            return ceil(1.5 * self.window_s / self.step_s(run)) + 4
        return ceil(1.5 * self.output_tokens(run) / LOOPS) + 4

    def expected_s(self, run: Run) -> float:
        if run.kind == "idle":
            return self.window_s * (1.15 + REST)
        if run.kind == "prefill":
            return max(1.15 * self.window_s, FEWEST_PROMPTS * self.step_s(run)) + self.step_s(run)
        prompts_s = run.batch * run.prompt_tokens * self.model.step_s.per_prompt_token
        tokens = self.longer_tokens(run) if run.batch > 1 else self.output_tokens(run)
        return prompts_s + tokens * self.step_s(run) + 0.05


def choose(runs: Sequence[Run], done: Collection[str], pace: Pace, budget_s: float, seed: int) -> tuple[list[Run], list[Run]]:
    """The runs to make, in a drawn order so that heat and time do not go with size; and those for which no time is left."""
    chosen: list[Run] = []
    left_out: list[Run] = []
    for run in runs:
        if run.id in done:
            continue
        if (expected_s := pace.expected_s(run)) <= budget_s:
            chosen.append(run)
            budget_s -= expected_s
        else:
            left_out.append(run)
    ordered: list[Run] = []
    for block, group in groupby(chosen, key=lambda run: run.block):
        drawn = list(group)
        Random(f"{seed}/block/{block}").shuffle(drawn)
        ordered += drawn
    return ordered, left_out
