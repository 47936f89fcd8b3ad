"""Settles a recorded proof again, by the attribution as it is now: `python -m bench.proof.again DIR --profile FILE`.

Counter and requests are those of the recording; a stream's tokens, which it does not hold, are spread evenly from the first
to the last. So it shows what a change of the attribution makes of measurements that were made before it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import click

from bench.proof.equal import judge_equal
from bench.proof.rows import Phase, Row
from telemetry.account import Account
from telemetry.cost import StepModel, load_profile
from telemetry.ledger import Entry
from telemetry.monitor import Steps
from telemetry.snapshot import Interval, Reading, Source

SETTLE_EVERY_S = 0.1


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--profile", required=True, help="The step model, as it was given to the proof.")
def main(folder: Path, profile: str) -> None:
    """Judge (b) as it was recorded, and as it would be now."""
    phase, model = Phase.read(folder / "b.json"), load_profile(profile)
    for title, judged in (("as recorded", phase), ("settled again", settled_again(phase, intervals(folder), model))):
        print(title)
        for verdict in judge_equal(judged).verdicts:
            print(f"  {verdict.claim}: {verdict.told}")


def intervals(folder: Path) -> list[Interval]:
    """The counter's steps in the recording."""
    steps, found = Steps(), list[Interval]()
    with (folder / "recorder.csv").open(newline="") as lines:
        for row in csv.DictReader(lines):
            reading = Reading(row["device"], int(row["energy_uj"]), float(row["at_s"]), Source(row["source"]))
            found += steps.observe([reading])
    return found


def settled_again(phase: Phase, counted: Sequence[Interval], model: StepModel) -> Phase:
    """The phase with other joules."""
    seen = sorted(((_released_s(row), row) for row in phase.rows if row.energy is not None), key=lambda one: one[0])
    entries = {id(row): _entry(row, released_s) for released_s, row in seen}
    account, coming, until = Account(model), iter(counted), seen[-1][1].ended_s + 1.0
    pending, interval, now = list(seen), next(coming, None), counted[0].start_s
    while now < until:
        now += SETTLE_EVERY_S
        while pending and pending[0][0] <= now:
            account.join(entries[id(pending.pop(0)[1])])
        for row in phase.rows:
            if id(row) in entries:
                _see(entries[id(row)], row, now)
        while interval is not None and interval.end_s + 0.02 <= now:
            account.add([interval])
            interval = next(coming, None)
        account.settle(now)
    return replace(phase, rows=[_charged(row, entries.get(id(row))) for row in phase.rows])


def _released_s(row: Row) -> float:
    assert row.record is not None
    return row.sent_s + float(row.record["held_s"]) + float(row.record["queued_s"])


def _entry(row: Row, released_s: float) -> Entry:
    entry = Entry(f"{row.run}-{row.repeat}-{row.number}", row.sent_s, 0.0, streamed=row.streamed, released_at=released_s)
    entry.prompt_tokens, entry.prompt_estimated, entry.server = row.prompt_tokens, False, "recorded"
    return entry


def _tokens(row: Row) -> Iterator[float]:
    """When they came, as far as it is known."""
    assert row.record is not None
    first_s = row.sent_s + float(row.record["ttft_s"])
    for n in range(row.output_tokens):
        yield first_s + n * float(row.record["tpot_s"])


def _see(entry: Entry, row: Row, now: float) -> None:
    """What the proxy would have known by now."""
    assert row.record is not None
    ended_s = row.sent_s + float(row.record["duration_s"])
    if entry.ended_at is None and row.streamed:
        for at in _tokens(row):
            if now - SETTLE_EVERY_S < at <= now:
                entry.saw_tokens(at, 1)
    if entry.ended_at is None and ended_s <= now:
        entry.ended_at, entry.output_tokens, entry.output_estimated = ended_s, row.output_tokens, False


def _charged(row: Row, entry: Entry | None) -> Row:
    if entry is None or row.record is None:
        return row
    return replace(row, record={**row.record, "energy": entry.energy.as_json() if entry.energy.source is not None else None})


if __name__ == "__main__":
    main()
