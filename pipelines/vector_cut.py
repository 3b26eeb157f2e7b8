"""Which documents does a step that compares vectors drop?

It reads stored scores alone (vector_scores.py): the documents with the highest go. With `keep_fraction` exactly
⌈keep_fraction · n⌉ of the n that stand stay, those with the smallest scores; equal scores are told apart by a hash
of the seed and the document's id. With `eps` a document goes whose score is above 1 - eps, which is rounded to the
nearest float32: scores are stored as such, and greedy comparison decides by them as such (semantic_pairs.py).

Memory: that of order_statistic.py, a batch of scores, and 4 bytes for each document of a split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from winnow.pipelines.documents import name
from winnow.pipelines.engine import Done, Request, Work
from winnow.pipelines.jobs import Task
from winnow.pipelines.order_statistic import Last, find_last, groups_of, places_of
from winnow.pipelines.records import Outputs, Stage
from winnow.pipelines.standing import VERDICT_SCHEMA, Standing, write_verdicts
from winnow.pipelines.vector_scores import score_name
from winnow.shards import storage, tables

VERSION = 1
DRAW_SEED = 0x76656374


@dataclass(frozen=True, slots=True)
class Scored:
    """The documents of some splits that still stand, with their scores."""

    scores: str
    """Location of the step's scores."""
    inputs: tuple[Standing, ...]
    seed: int

    def places(self) -> Iterator[np.ndarray]:
        """Of the documents that stand, the lowest score first."""
        for item in self.inputs:
            for batch, draws in self.with_draws(item):
                stands = batch.column("score").is_valid().to_numpy(zero_copy_only=False)
                yield _places(batch, draws)[stands]

    def with_draws(self, item: Standing) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
        """The scores of all documents of a split, SCORE_SCHEMA batch by batch, and their draws, uint64[n]."""
        scores = tables.Aligned(score_batches(self.scores, item))
        rows = storage.join(item.documents, name("rows", item.split, "parquet"))
        for batch in tables.parquet_batches(rows, ["id"]):
            if batch.num_rows:
                draws = tables.mix(self.seed ^ DRAW_SEED, *tables.id_halves(batch.column("id")))
                yield scores.take(batch.num_rows), draws
        scores.end()


def score_batches(scores: str, item: Standing) -> Iterator[pa.RecordBatch]:
    """The scores of a split, SCORE_SCHEMA, a row for each of its documents; `scores` is their stage's location."""
    return tables.arrow_batches(storage.join(scores, score_name(item.source, item.split)))


def _places(batch: pa.RecordBatch, draws: np.ndarray) -> np.ndarray:
    # Negated: the lowest scores are to stay. Those of documents that do not stand are NaN, and not asked for.
    return places_of(-scores_of(batch), draws)


def scores_of(batch: pa.RecordBatch) -> np.ndarray:
    """float64[n]: the scores of a batch of SCORE_SCHEMA, NaN where a document does not stand."""
    return batch.column("score").to_numpy(zero_copy_only=False).astype(np.float64)


def bound_of(eps: float) -> float:
    """The highest score that stays."""
    return float(np.float32(1.0 - eps))


@dataclass(frozen=True, slots=True)
class CutSpec:
    scored: Scored
    group: tuple[str, ...]
    """Names of the sources by their rank."""
    last: Last | None
    """The last document that stays; None: `eps` decides, or there is no document."""
    eps: float | None
    """What was given, or what the share comes to."""


def cut_task(spec: CutSpec, outputs: Outputs) -> dict[str, Any]:
    """Write the verdicts on some splits, row-aligned with their documents."""
    counts: dict[str, dict[str, int]] = {
        k: {} for k in ("dropped", "dropped_bytes", "cut_documents", "cut_bytes", "pairs")
    }
    for item in spec.scored.inputs:
        write_verdicts(outputs, item.source, item.split, _verdicts(spec, item, counts))
    return counts | {"eps": spec.eps}


def _verdicts(spec: CutSpec, item: Standing, counts: dict[str, dict[str, int]]) -> Iterator[pa.RecordBatch]:
    """The verdicts on a split, VERDICT_SCHEMA; what they drop is counted."""

    def add(what: str, key: str, n: int) -> None:
        if n:
            counts[what][key] = counts[what].get(key, 0) + n

    rows = storage.join(item.documents, name("rows", item.split, "parquet"))
    sizes = tables.Aligned(tables.parquet_batches(rows, ["text_bytes"]))
    for batch, draws in spec.scored.with_draws(item):
        n = batch.num_rows
        goes = _goes(spec, batch, draws)
        of_bytes = sizes.take(n).column("text_bytes").to_numpy()
        add("dropped", item.source, int(goes.sum()))
        add("dropped_bytes", item.source, int(of_bytes[goes].sum(dtype=np.int64)))
        gone = pa.array(goes)
        sources = batch.column("source").filter(gone).drop_null().to_numpy()
        for rank, pairs in enumerate(np.bincount(sources, minlength=len(spec.group))):
            add("pairs", f"{item.source} of {spec.group[rank]}", int(pairs))
        # `detail` stays null: beside a survivor it is the name of an earlier run's source.
        yield pa.record_batch(
            [
                gone,
                _where(gone, batch.column("neighbour")),
                pa.array(scores_of(batch), mask=~goes),
                pa.nulls(n, pa.string()),
                pa.nulls(n, pa.list_(pa.uint32())),
            ],
            schema=VERDICT_SCHEMA,
        )


def _where(mask: pa.Array, column: pa.Array) -> pa.Array:
    """The column's values where the mask is set, null elsewhere."""
    places = np.arange(len(column))
    return column.take(pa.array(places, mask=~mask.to_numpy(zero_copy_only=False)))


def _goes(spec: CutSpec, batch: pa.RecordBatch, draws: np.ndarray) -> np.ndarray:
    """bool[n]: which documents are dropped."""
    scores = scores_of(batch)
    if spec.last is not None:
        return ~np.isnan(scores) & ~spec.last.reaches(_places(batch, draws))
    if spec.eps is None:
        return np.zeros(len(scores), bool)
    return scores > bound_of(spec.eps)  # false of NaN: no score, no verdict


def final_stage(
    step: str,
    group: Sequence[str],
    scores: Stage,
    keep_fraction: float | None,
    eps: float | None,
    seed: int,
) -> Stage:
    """The identity of a step's verdicts, from that of its scores. Where the cut lies follows from them."""
    settings: dict[str, Any] = {"group": list(group)}
    settings |= {"eps": eps} if keep_fraction is None else {"keep_fraction": keep_fraction, "seed": seed}
    return Stage(f"{step}.{'+'.join(group)[:80]}", VERSION, settings, (scores.directory,))


def task_count(inputs: Sequence[Standing]) -> int:
    """Tasks of that stage: for `engine.finished`."""
    return len(groups_of([i.rows for i in inputs]))


def cut(
    step: str,
    group: Sequence[str],
    inputs: Sequence[Standing],
    scores: Done,
    keep_fraction: float | None,
    eps: float | None,
    seed: int,
) -> Work[Done]:
    """Decide by stored scores which documents a step drops; returns the finished stage of its verdicts.

    Its records count, by source, documents `dropped` and their `dropped_bytes`, `cut_documents` and `cut_bytes` ({}:
    no text is cut), and, by "source of neighbour's source", `pairs`; and, the same in each, `eps`: what was given, or
    1 minus the score of the last document that stays, null where there is none. Of documents with just that score as
    many go as the share says.

    keep_fraction, eps : one of them is given.
    """
    final = final_stage(step, group, scores.stage, keep_fraction, eps, seed)
    parts = [
        Scored(scores.location, tuple(inputs[a:b]), seed) for a, b in groups_of([i.rows for i in inputs])
    ]
    last = None
    if keep_fraction is not None:
        label = "+".join(group)[:80]
        upstream = (scores.stage.directory,)
        last = yield from find_last(f"{step}-cut", label, parts, keep_fraction, {"seed": seed}, upstream)
        eps = 1.0 + last.score if last is not None else None  # the score was negated
    specs = [CutSpec(part, tuple(group), last, eps) for part in parts]
    return (yield Request(final, [Task(i, cut_task, spec) for i, spec in enumerate(specs)]))
