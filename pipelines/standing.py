"""Which documents still stand before a step of dedup, and with which text?

Dedup is a chain of steps (dedup_settings.STEPS), and a source's `quality` is one more. Text is written once, by the
stage `documents`; a step leaves, for each split, one verdict file that is row-aligned with it: whether the step drops
the document, its survivor, a score, and which bytes of its text are cut. What a later step and the tokenizer read is
the stored text behind the verdicts of the filters and of every step before.

`cuts` are byte offsets start, end, start, end … into the text as the step saw it, which is after the cuts of
the steps before: ascending, disjoint, on the borders of characters.

Memory: an Arrow batch of text, once more where it is cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from winnow.pipelines.documents import name, offsets
from winnow.pipelines.records import Outputs
from winnow.pipelines.verdicts import kept_batches
from winnow.shards import exchange, storage, tables

if TYPE_CHECKING:
    from winnow.pipelines.corpus import SourceRun
    from winnow.pipelines.engine import Done
    from winnow.pipelines.planning import SourcePlan

VERDICT_SCHEMA = pa.schema(
    [
        ("dropped", pa.bool_()),
        ("survivor", tables.ID),
        ("score", pa.float64()),
        ("detail", pa.string()),
        ("cuts", pa.list_(pa.uint32())),
    ]
)
"""A row per document of a split. `survivor`, `score`, `detail` and `cuts` are null where there is none."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A split as a step of dedup finds it."""

    source: str
    rank: int
    """Of the source among those of the group: the first named source's documents win."""
    split: int
    """Index within its source."""
    rows: int
    """Documents of the split, those among them that do not stand any more."""
    documents: str
    """Location of the documents stage."""
    filters: str
    steps: tuple[str, ...] = ()
    """Locations of the verdicts of the steps before, in order."""
    files: tuple[tuple[int, int], ...] = ()
    """(first half of its documents' ids, rank in the source's listing) of each file it has pieces of."""
    documents_left: int = 0
    bytes_left: int = 0
    """What filters left: bounds of what stands."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Documents that stand, of one batch of a split."""

    where: np.ndarray
    """int64[n], their rows in the split."""
    rows: pa.RecordBatch
    texts: pa.LargeStringArray
    """What earlier steps left of them."""
    is_cut: bool
    """Whether an earlier step cut any text of the batch."""


def verdict_name(source: str, split: int) -> str:
    """The file of a split's verdicts in the stage of a step."""
    return name(f"verdict.{source}", split, "arrow")


def step_of(location: str) -> str:
    """The name of the step whose verdicts lie at a location."""
    return location.rstrip("/").rsplit("/", 1)[-1].split(".", 1)[0]


def rows_of(standing: Standing, columns: Sequence[str] = ("id",)) -> tables.Aligned:
    """All rows of a split with the given columns of `rows-*.parquet`, and `keep`: whether the document stands."""

    def batches() -> Iterator[pa.RecordBatch]:
        steps = _steps(standing, ["dropped"])
        rows = kept_batches(standing.documents, standing.filters, standing.split, columns)
        at = len(columns)
        for batch in rows:
            keep = batch.column("keep")
            for step in steps:
                keep = pc.and_not(keep, step.take(batch.num_rows).column("dropped"))
            yield batch.set_column(at, "keep", keep)
        for step in steps:
            step.end()

    return tables.Aligned(batches())


def texts_of(standing: Standing, columns: Sequence[str] = ("id",)) -> Iterator[Texts]:
    """The documents of a split that stand, batch by batch of text, with columns of `rows-*.parquet`."""
    rows = rows_of(standing, columns)
    steps = _steps(standing, ["cuts"])
    first = 0
    place = storage.join(standing.documents, name("text", standing.split, "arrow"))
    for batch in tables.arrow_batches(place):
        n = batch.num_rows
        if n == 0:
            continue
        table = rows.take(n)
        keep = table.column("keep")
        cuts = [step.take(n).column("cuts") for step in steps]
        if pc.any(keep).as_py():
            texts, is_cut = batch.column("text"), False
            if not pc.all(keep).as_py():
                texts = texts.filter(keep)
            for column in cuts:
                mine = column.filter(keep)
                if mine.null_count < len(mine):
                    texts, is_cut = cut_texts(texts, mine), True
            where = first + np.flatnonzero(keep.to_numpy(zero_copy_only=False))
            yield Texts(where, table.filter(keep).drop_columns(["keep"]), texts, is_cut)
        first += n
    rows.end()


def _steps(standing: Standing, columns: list[str]) -> list[tables.Aligned]:
    """The verdicts of the steps before, of each some columns."""

    def batches(location: str) -> Iterator[pa.RecordBatch]:
        for batch in tables.arrow_batches(location):
            yield batch.select(columns)

    file = verdict_name(standing.source, standing.split)
    return [tables.Aligned(batches(storage.join(step, file))) for step in standing.steps]


def cut_texts(texts: pa.LargeStringArray, cuts: pa.ListArray) -> pa.LargeStringArray:
    """Texts without what is cut from them; null and [] cut nothing. Memory: the result."""
    n = len(texts)
    edges = offsets(texts)
    counts = pc.fill_null(pc.list_value_length(cuts), 0).to_numpy().astype(np.int64)
    values = cuts.flatten().to_numpy().astype(np.int64)
    # What stays of a text is the slices between its begin, the offsets of its cuts, and its end.
    slices = np.empty(len(values) + 2 * n, np.int64)
    stops = np.cumsum(counts + 2)
    begins = stops - counts - 2
    inner = np.ones(len(slices), bool)
    inner[begins] = inner[stops - 1] = False
    slices[begins], slices[stops - 1] = edges[:-1], edges[1:]
    slices[inner] = values + np.repeat(edges[:-1], counts)
    starts, ends = slices[0::2], slices[1::2]
    data = np.frombuffer(texts.buffers()[2] or b"", np.uint8)
    kept = exchange.payload_take(data, starts, ends, np.arange(len(starts)))
    totals = np.zeros(len(starts) + 1, np.int64)
    np.cumsum(ends - starts, out=totals[1:])
    bounds = np.concatenate([np.zeros(1, np.int64), totals[stops // 2]])
    return pa.LargeStringArray.from_buffers(n, pa.py_buffer(bounds), pa.py_buffer(kept))


def write_verdicts(outputs: Outputs, source: str, split: int, batches: Iterable[pa.RecordBatch]) -> None:
    """Commit the verdicts of a split: batches of `VERDICT_SCHEMA`, all its rows in order."""
    with (
        outputs.file(verdict_name(source, split)) as path,
        tables.arrow_writer(path, VERDICT_SCHEMA) as writer,
    ):
        for batch in batches:
            writer.write_batch(batch)


def standings(source: SourceRun, rank: int = 0) -> list[Standing]:
    """The splits of a source behind its filters and the steps that it has gone through."""
    return standings_of(source.plan, source.documents, source.filters, source.steps, rank)


def standings_of(
    source: SourcePlan, documents: Done, filters: Done, steps: Sequence[Done] = (), rank: int = 0
) -> list[Standing]:
    """The same, of the splits that `source` has."""
    places = tuple(done.location for done in steps)
    return [
        Standing(
            source=source.name,
            rank=rank,
            split=split.index,
            rows=read.counts["documents"],
            documents=documents.location,
            filters=filters.location,
            steps=places,
            files=tuple(sorted({(p.id_half, p.file) for p in split.pieces})),
            documents_left=kept.counts["kept"],
            bytes_left=kept.counts["kept_bytes"],
        )
        for split, read, kept in zip(source.splits, documents.records, filters.records, strict=True)
    ]
