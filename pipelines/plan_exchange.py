"""What shape have a run's exchanges: partitions, rounds, files a task opens, bytes it reads at once?

The shuffle of every source and the steps of dedup that compare documents are exchanges (shards/exchange.py). How many
partitions one has follows from its bytes and `limits.partition_bytes`, and from these all else; here it is worked out
for estimated bytes, without any work. Mixing moves nothing of its own: a shard's task reads rows of the shuffled
sources where they lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from winnow.pipelines.ledger import BLOCK
from winnow.pipelines.numbers import show_bytes
from winnow.pipelines.planning import Plan
from winnow.shards import exchange

READS = 3
"""Of each part that a task reads: the run's index, the rows, the payload (which some have none of)."""
RUN_BYTES, RECORD_BYTES = 70, 100
"""What the driver holds of a run of the round that is read, and of every round's runs in their records (ours)."""
ENTRY_BYTES = 4
"""What each of these has of each partition of a run: sizes below 4 GiB, and compressed digits (ours: 3.4 to 4)."""
DECODED_RUNS, DECODED_BYTES, DECODED_ENTRY_BYTES = 5 * BLOCK, 1700, 56
"""Runs whose records are decoded at a time while a round's are read; bytes of each, and for each partition (ours)."""
TASK_BYTES = 350
"""What the driver holds of a task that has not run yet (ours: benchmarks/many_splits.py)."""


@dataclass(frozen=True, slots=True)
class Shape:
    """An exchange of so many bytes, by its mean figures."""

    total: int
    rounds: exchange.Rounds
    runs: tuple[int, ...]
    """That each round leaves."""
    files: int
    """Runs that a task reads of, in the round where they are the most."""
    range_bytes: int
    """That a task reads of one run, in the round where they are the fewest."""

    @property
    def requests(self) -> int:
        """What all rounds ask of the store: reads of parts, and a put for each run."""
        parts = sum(runs * fanout for runs, fanout in zip(self.runs, self.rounds.fanouts, strict=True))
        return READS * parts + sum(self.runs)

    @property
    def left_bytes(self) -> int:
        """Of runs below RUN until `winnow clean`: every round writes all there is once."""
        return len(self.rounds.fanouts) * self.total

    @property
    def driver_bytes(self) -> int:
        """The most that the driver holds: records of all rounds, the runs of the round that is read, and tasks.

        Records stay until the run ends.
        """
        shapes = list(zip(self.runs, self.rounds.fanouts, strict=True))
        records = sum(runs * (RECORD_BYTES + ENTRY_BYTES * fanout) for runs, fanout in shapes)
        read = max(runs * (RUN_BYTES + ENTRY_BYTES * fanout) for runs, fanout in shapes)
        decoded = max(
            min(runs, DECODED_RUNS) * (DECODED_BYTES + DECODED_ENTRY_BYTES * fanout)
            for runs, fanout in shapes
        )
        return records + read + decoded + TASK_BYTES * max(*self.runs, self.rounds.partitions)


def shape_of(total: int, partition_bytes: int) -> Shape:
    """The shape of an exchange of `total` bytes in partitions of about `partition_bytes`."""
    rounds = exchange.plan_rounds(total, partition_bytes)
    runs, files, ranges, groups = [], 1, [], 1
    last = len(rounds.fanouts) - 1
    for i, fanout in enumerate(rounds.fanouts):
        # A run holds about a partition's bytes, and belongs to one group of the round before.
        runs.append(groups * max(1, -(-total // (groups * partition_bytes))))
        ranges.append(total // (runs[i] * fanout))
        groups *= fanout
        most = runs[i] // (groups // fanout)
        files = max(files, most if i == last else min(most, fanout + 1))
    return Shape(total, rounds, tuple(runs), files, min(ranges))


def exchange_facts(plan: Plan, dedup: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each exchange whose bytes can be estimated its shape; `dedup` is what plan_dedup.py says of the steps."""
    limit = plan.recipe.limits.partition_bytes
    found = [
        {"of": "shuffle", "group": [s.name]} | _facts(plan.shuffled_bytes(s), limit)
        for s in plan.sources
        if s.unknown is None
    ]
    for step in dedup:
        if step["partitions"]:
            facts = _facts(step["exchange_bytes_estimate"], limit)
            found.append({"of": step["step"], "group": list(step["group"])} | facts)
    return found


def _facts(total: int, partition_bytes: int) -> dict[str, Any]:
    shape = shape_of(total, partition_bytes)
    return {
        "bytes_estimate": total,
        "partitions": shape.rounds.partitions,
        "fanouts": list(shape.rounds.fanouts),
        "runs_estimate": list(shape.runs),
        "files_per_task": shape.files,
        "range_bytes": shape.range_bytes,
        "requests_estimate": shape.requests,
        "runs_bytes_estimate": shape.left_bytes,
        "driver_bytes_estimate": shape.driver_bytes,
    }


def exchange_lines(facts: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each exchange."""
    return [_line(one) for one in facts]


def _line(one: Mapping[str, Any]) -> str:
    fanouts, of = one["fanouts"], "shuffle of" if one["of"] == "shuffle" else f"{one['of']} dedup of"
    rounds = "1 round" if len(fanouts) == 1 else f"{len(fanouts)} rounds ({' × '.join(map(str, fanouts))})"
    return (
        f"exchange: {of} {', '.join(one['group'])}: ~ {show_bytes(one['bytes_estimate'])}, "
        f"{_counted(one['partitions'], 'partition')} in {rounds}; a task reads ~ {show_bytes(one['range_bytes'])} of "
        f"{'each of ' if one['files_per_task'] > 1 else ''}{_counted(one['files_per_task'], 'file')}; "
        f"~ {one['requests_estimate']:,} requests, driver ~ {show_bytes(one['driver_bytes_estimate'])}"
    )


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"
