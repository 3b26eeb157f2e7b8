"""How do the scores that `semantic` found where clusters meet get home to their splits?

The tasks that compare write runs of `FOUND`, divided at `Home.bounds_first` (homing.py); further rounds divide them
among the tasks of `semantic-scores`, which leave the row-aligned files of vector_scores.py.

Memory: what was found (48 bytes a document) about `SPLIT_ROWS` rows of homing.py, or one split, about three times.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from winnow.pipelines.exchanges import Part, Wire, read_parts
from winnow.pipelines.records import Outputs
from winnow.pipelines.standing import Standing
from winnow.pipelines.vector_scores import SCORE_SCHEMA, score_name
from winnow.shards import tables

BATCH_ROWS = 1 << 16
NONE = (1 << 32) - 1
"""In place of a neighbour's source: there is no neighbour."""
FOUND = Wire(
    np.dtype(
        [("split", "<u8"), ("row", "<u8"), ("high", "<u8"), ("low", "<u8"), ("source", "<u4"), ("cluster", "<u4"),
         ("score", "<f4"), ("similarity", "<f4")]
    ),
    ("split", "row"),
)  # fmt: skip
"""What is known of a document: number of its split in the group and row there; the halves of its neighbour's id and the
rank of the neighbour's source, or NONE; the rest as in SCORE_SCHEMA."""


@dataclass(frozen=True, slots=True)
class ScoresSpec:
    parts: tuple[Part, ...]
    inputs: tuple[tuple[int, Standing], ...]
    """With each split's number in the group."""


def scores_task(spec: ScoresSpec, outputs: Outputs) -> dict[str, Any]:
    """Write the scores of some splits, row-aligned with their documents; returns how many documents have one."""
    found, _, _ = read_parts(spec.parts, FOUND)
    for number, item in spec.inputs:
        a, b = np.searchsorted(found["split"], [number, number + 1])
        with (
            outputs.file(score_name(item.source, item.split)) as path,
            tables.arrow_writer(path, SCORE_SCHEMA) as writer,
        ):
            for batch in aligned(found[a:b], item.rows):
                writer.write_batch(batch)
    return {"documents": len(found)}


def aligned(found: np.ndarray, n: int) -> Iterator[pa.RecordBatch]:
    """The scores of a split of n rows as batches of SCORE_SCHEMA, a row for each of them; `found` is sorted by row."""
    for first in range(0, n, BATCH_ROWS):
        stop = min(first + BATCH_ROWS, n)
        a, b = np.searchsorted(found["row"], [first, stop])
        yield _batch(found[a:b], first, stop - first)


def _batch(mine: np.ndarray, first: int, n: int) -> pa.RecordBatch:
    rows = np.zeros(n, FOUND.dtype)
    rows["source"] = NONE
    where = mine["row"].astype(np.int64) - first
    rows[where] = mine
    absent = np.ones(n, bool)
    absent[where] = False
    alone = rows["source"] == NONE
    near = pa.array(~alone).buffers()[1]
    neighbours = tables.ids_of(rows["high"], rows["low"])
    return pa.record_batch(
        [
            pa.array(rows["score"], mask=absent),
            pa.Array.from_buffers(tables.ID, n, [near, neighbours.buffers()[1]]),
            pa.array(rows["source"], mask=alone),
            pa.array(rows["cluster"], mask=absent),
            pa.array(rows["similarity"], mask=absent),
        ],
        schema=SCORE_SCHEMA,
    )
