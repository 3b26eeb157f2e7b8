"""Which documents does the last segment of a source's filters keep?

The stage `filters` decides it from stored signals alone: it reads no text. `verdict-*.arrow` is row-aligned with the
documents: first failing rule (-1: kept), mask of all that fail, score and threshold.

Memory: a row group of signals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from winnow.filters.catalogue import Segment
from winnow.filters.rules import Cut, Rule, Verdicts
from winnow.pipelines.documents import Tally, name, numbers
from winnow.pipelines.records import Outputs
from winnow.shards import storage, tables

VERSION = 2
CUT_SEED = 0x637574
VERDICT_SCHEMA = pa.schema(
    [("first", pa.int16()), ("failing", pa.uint64()), ("score", pa.float64()), ("threshold", pa.float64())]
)


@dataclass(frozen=True, slots=True)
class FiltersSpec:
    split: int
    documents: str
    """Location of the documents stage."""
    rules: tuple[Rule, ...]
    """Of the last segment."""
    cuts: Mapping[int, Cut] = field(default_factory=dict)
    """Where the rules with a fraction cut, by index of the rule."""
    seed: int = 0


def filters_task(spec: FiltersSpec, outputs: Outputs) -> dict[str, Any]:
    """Decide the last segment of one split from its stored signals; returns what each rule dropped first."""
    tally = Tally()
    kept = kept_bytes = 0
    rules = spec.rules
    with (
        outputs.file(name("verdict", spec.split, "arrow")) as path,
        tables.arrow_writer(path, VERDICT_SCHEMA) as writer,
    ):
        for batch in signal_batches(spec.documents, spec.split, rules):
            verdicts = decided(rules, batch, spec.cuts, spec.seed)
            columns = (verdicts.first, verdicts.failing, verdicts.score, verdicts.threshold)
            writer.write_batch(pa.record_batch([pa.array(c) for c in columns], schema=VERDICT_SCHEMA))
            sizes = batch.column("text_bytes").to_numpy()
            tally.decided(rules, verdicts, sizes, dict(zip(batch.schema.names, batch.columns, strict=True)))
            keep = verdicts.first < 0
            kept += int(keep.sum())
            kept_bytes += int(sizes[keep].sum())
    return {
        "kept": kept,
        "kept_bytes": kept_bytes,
        "dropped": tally.by_reason,
        "dropped_bytes": tally.bytes_by_reason,
        "failing": tally.failing,
        "only": tally.only,
        "details": tally.details,
    }


def signal_batches(documents: str, split: int, rules: Sequence[Rule]) -> Iterator[pa.RecordBatch]:
    """The rows of a split with what the rules need: id, text_bytes, and every signal that one of them reads."""
    needed = Segment(None, tuple(rules)).needed
    location = storage.join(documents, name("rows", split, "parquet"))
    return tables.parquet_batches(location, ["id", "text_bytes", *needed])


def decided(rules: Sequence[Rule], batch: pa.RecordBatch, cuts: Mapping[int, Cut], seed: int) -> Verdicts:
    """The rules' verdicts on rows with their signals."""
    from winnow.filters.rules import decide

    signals = numbers({s: batch.column(s) for s in Segment(None, tuple(rules)).needed})
    draws = draws_of(batch, seed) if cuts else None
    return decide(rules, signals, batch.num_rows, cuts, draws)


def draws_of(batch: pa.RecordBatch, seed: int) -> np.ndarray:
    """uint64[n]: each document's own random number, which decides between equal scores at a cut."""
    return tables.mix(seed ^ CUT_SEED, *tables.id_halves(batch.column("id")))


def kept_batches(
    documents: str, filters: str, split: int, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """The rows of a split, these columns of them and last a column `keep`: whether the filters leave the document."""
    verdicts = tables.Aligned(tables.arrow_batches(storage.join(filters, name("verdict", split, "arrow"))))
    rows = storage.join(documents, name("rows", split, "parquet"))
    for batch in tables.parquet_batches(rows, columns):
        keep = pc.less(verdicts.take(batch.num_rows).column("first"), 0)
        yield batch.append_column("keep", keep)
    verdicts.end()
