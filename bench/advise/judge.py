"""Chooses on the first part of a trace, reports on the rest, and says when the honest answer is: none.

Who chooses the best of many settings on some data and reports it on the same reports luck as well. So each lever's setting,
and the lever, are chosen on the first part, and every figure that is told is of the rest. Its interval is a bootstrap over
blocks of time (Künsch, "The jackknife and the bootstrap for general stationary observations", 1989, with blocks that do not
overlap), both strategies' blocks drawn together, since they share the traffic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from bench.advise.findings import Advice, Guardrails, Row, Saving
from bench.advise.further import on_top, what_if
from bench.advise.levers import STRAIGHT, Lever, Setting, missing, single, slack_s, sleeping, together
from bench.advise.trial import Stage, Trial, pessimistic, run, shareable
from policies.simulate import Arrival

CHOSEN_ON = 0.6  # of the trace's time
DRAWS = 2_000
ALIKE = 0.01  # joules that differ by less are alike
FEWEST, SHORTEST_S = 200, 60.0  # requests, and seconds of the part that is reported on
QUEUED_S = 1.0  # first tokens so late, straight through, say that there is too much traffic for these servers


Trials = list[tuple[Setting, Trial]]


@dataclass(slots=True)
class Judge:
    """Asks the simulator.

    Attributes:
        least: a smaller saving, as a share of all joules, is none.
        told: told of each setting that is about to be tried.
    """

    arrivals: Sequence[Arrival]
    stage: Stage
    guardrails: Guardrails = field(default_factory=Guardrails)
    least: float = 0.03
    seed: int = 0
    told: Callable[[str], None] = lambda setting: None
    tried: int = 0

    def judge(self) -> Advice:
        first, rest = split(self.arrivals)
        found = self._search(first)
        before = self._run(first, STRAIGHT, "straight through")
        straight = self._run(rest, STRAIGHT, "straight through")
        rows = [self._row(lever, found.get(lever), before, straight, rest) for lever in Lever]
        best, reasons = self._best(rows, straight, rest)
        most = shareable(rest, straight, self.stage.model)
        if best is None and most < self.least:
            reasons.append(f"batches are full already: {most:.1%} of all joules are what any schedule could save")
        advice = Advice(self.stage, straight, rows, best, reasons, most, self.tried, len(first))
        advice.on_top = list(on_top(best, rows, rest, self._run, self._saving, self.guardrails))
        if not any(slack_s(arrival) > 0 for arrival in rest):
            advice.what_if = list(what_if(best, straight, rest, self._run, self._saving))
        advice.tried = self.tried
        return advice

    # --- choosing -------------------------------------------------------------------------------------------------

    def _search(self, first: Sequence[Arrival]) -> dict[Lever, tuple[Setting, Trial]]:
        """The best setting of each lever within the guardrails, on the first part."""
        trials = self._all(first, single(first, self.stage))
        packing = self._least(trials, Lever.PACKING)
        asleep = sleeping(first, self.stage, packing[0].placement if packing is not None else None)
        trials += self._all(first, asleep)
        holding = _known(self._least(trials, lever) for lever in (Lever.GROUPING, Lever.DEFERRING))
        placing = _known(self._least(trials, lever) for lever in (Lever.PACKING, Lever.SLEEPING))
        both = together([setting.policy for setting in holding], [setting.placement for setting in placing])
        trials += self._all(first, both)
        return {lever: best for lever in Lever if (best := self._least(trials, lever)) is not None}

    def _all(self, arrivals: Sequence[Arrival], settings: Iterable[Setting]) -> Trials:
        return [(setting, self._run(arrivals, setting, str(setting))) for setting in settings]

    def _least(self, trials: Trials, lever: Lever) -> tuple[Setting, Trial] | None:
        tried = [pair for pair in trials if pair[0].lever is lever and not pair[1].faults]
        within = [pair for pair in tried if not self.guardrails.broken(pair[1])]
        if not within:
            return None
        enough_j = min(trial.energy_j for _, trial in within) * (1 + ALIKE)
        return min((pair for pair in within if pair[1].energy_j <= enough_j), key=_costs)

    def _run(self, arrivals: Sequence[Arrival], setting: Setting, name: str) -> Trial:
        self.told(name)
        self.tried += 1
        return run(arrivals, setting.strategy(), self.stage)

    # --- reporting ------------------------------------------------------------------------------------------------

    def _row(
        self, lever: Lever, chosen: tuple[Setting, Trial] | None, before: Trial, straight: Trial, rest: Sequence[Arrival]
    ) -> Row:
        if chosen is None:
            absent = missing(self.arrivals, self.stage)
            usual = "one of the two is not there" if lever is Lever.TOGETHER else "no setting keeps the guardrails"
            return Row(lever, why_not=absent.get(lever, usual))
        setting, tried = chosen
        trial = self._run(rest, setting, str(setting))
        return Row(
            lever,
            setting,
            trial,
            self._saving(straight, trial),
            broken=self.guardrails.broken(trial),
            before=1 - tried.energy_j / before.energy_j,
        )

    def _saving(self, straight: Trial, trial: Trial) -> Saving:
        share = 1 - trial.energy_j / straight.energy_j
        pairs = list(zip(straight.blocks_j, trial.blocks_j, strict=True))
        random, shares = Random(self.seed), []
        for _ in range(DRAWS):
            drawn = random.choices(pairs, k=len(pairs))
            shares.append(1 - sum(ours for _, ours in drawn) / sum(theirs for theirs, _ in drawn))
        shares.sort()
        return Saving(share, shares[int(0.025 * DRAWS)], shares[int(0.975 * DRAWS)])

    def _best(self, rows: list[Row], straight: Trial, rest: Sequence[Arrival]) -> tuple[Row | None, list[str]]:
        """The row to advise, with the model's doubt; or why there is none."""
        reasons = self._too_little(straight)
        usable = [row for row in rows if row.saving is not None and not row.broken]
        reasons += self._too_much(straight, rest)
        if not usable and not reasons:
            reasons.append("; ".join(f"{row.lever}: {row.why_not or ', '.join(row.broken)}" for row in rows))
        if reasons or not usable:
            return None, reasons
        row = self._simplest(usable)
        assert row.setting is not None
        assert row.saving is not None
        doubted = Stage(pessimistic(self.stage.model), self.stage.servers, self.stage.slots)
        self.told("with the model as far off as it may be")
        least = [run(rest, setting.strategy(), doubted).energy_j for setting in (STRAIGHT, row.setting)]
        saving = replace(row.saving, pessimistic=1 - least[1] / least[0])
        row = replace(row, saving=saving)
        rows[:] = [row if one.lever is row.lever else one for one in rows]
        reasons = self._not_worth(row, saving)
        return (None if reasons else row), reasons

    def _simplest(self, usable: Sequence[Row]) -> Row:
        """The first lever, in the order of what it costs users, that saved all but `least` of the most on the first part."""
        enough = max(row.before for row in usable) - self.least
        return next(row for row in usable if row.before >= enough)

    def _too_little(self, straight: Trial) -> list[str]:
        if straight.requests >= FEWEST and straight.span_s >= SHORTEST_S:
            return []
        had = f"{straight.requests} requests in {straight.span_s:.0f} s"
        return [f"too little to say: {had} are left to report on; at least {FEWEST} in {SHORTEST_S:.0f} s are needed"]

    def _too_much(self, straight: Trial, rest: Sequence[Arrival]) -> list[str]:
        """Whether requests queue straight through: for a slot, or in the engine."""
        longest = max(arrival.waiting.prompt_tokens for arrival in rest)
        first_s = (straight.all_waits.ttft_s or 0.0) - self.stage.model.first_token_s(longest)
        if first_s <= QUEUED_S:
            return []
        late = f"straight through, first tokens come {straight.all_waits.ttft_s:.1f} s after arrival (p99)"
        return [f"saturated: {late}. These servers have more traffic than they can take, and batches are large without a hold"]

    def _not_worth(self, row: Row, saving: Saving) -> list[str]:
        """Why not even the best is worth it."""
        best = f"the best, {row.lever} ({row.setting})"
        if saving.share < self.least:
            return [f"{best}, saves {saving.share:.1%}, less than the {self.least:.1%} asked for"]
        if saving.low <= 0:
            return [f"{best}, may save nothing: its interval is {saving.low:.1%} to {saving.high:.1%}"]
        if saving.pessimistic is not None and saving.pessimistic < self.least:
            within = f"saves {saving.share:.1%} by the profile, and {saving.pessimistic:.1%} if that is as far off as it may be"
            return [f"{best}, {within}: less than the {self.least:.1%} asked for. `paceline calibrate` makes a better profile"]
        return []


def _costs(pair: tuple[Setting, Trial]) -> tuple[float, float, float]:
    """What those who wait feel: of settings that save alike, the one with least of it is best."""
    trial = pair[1]
    return trial.all_waits.wait_s or 0.0, trial.waits.tpot_s or 0.0, trial.energy_j


def _known(found: Iterable[tuple[Setting, Trial] | None]) -> list[Setting]:
    return [pair[0] for pair in found if pair is not None]


def split(arrivals: Sequence[Arrival]) -> tuple[Sequence[Arrival], Sequence[Arrival]]:
    """The first part and the rest, by time; both have somebody.

    Raises:
        ValueError: fewer than two arrivals.
    """
    if len(arrivals) < 2:
        raise ValueError("two requests at least are needed")
    began, last = arrivals[0].waiting.arrived_at, arrivals[-1].waiting.arrived_at
    edge = began + CHOSEN_ON * (last - began)
    count = sum(arrival.waiting.arrived_at <= edge for arrival in arrivals)
    count = min(max(count, 1), len(arrivals) - 1)
    return arrivals[:count], arrivals[count:]
