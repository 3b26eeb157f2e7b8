"""Which document was each duplicate dropped for, and how do the two differ?

`sample_pairs` draws duplicates as `winnow audit --filter` draws dropped documents, and puts each beside its survivor:
the words that both have and those that only one has, by the longest common blocks (difflib). `cluster_of` lists all
documents that one survivor stands for.

Memory: a batch of text, and the first `COMPARED_WORDS` words of two documents.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from winnow.pipelines.audit import Place, earlier_runs, place_of, sample_of
from winnow.pipelines.dedup_settings import WITH_VECTORS
from winnow.pipelines.documents import name
from winnow.pipelines.finished import FinishedRun, UnknownError
from winnow.pipelines.located import nearest
from winnow.pipelines.split_rows import find_rows, readable, splits_of, splits_to_search, texts_of_rows
from winnow.shards import storage, tables

NAMING = ("exact", "minhash")
"""Steps of dedup that name a survivor."""
COMPARED_WORDS = 3000
"""Of each document: difflib's time grows with the product."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A duplicate and the document that is kept instead."""

    dropped: Place
    survivor: Place
    step: str
    score: float | None
    """Jaccard similarity, where the step computes one."""
    blocks: tuple[tuple[bool, str, str], ...]
    """(whether the same, words of the duplicate, words of the survivor), in order. Empty where a text is not there."""


@dataclass(frozen=True, slots=True)
class Member:
    """A document that was dropped for another one, or by `semantic`, being most like it."""

    place: Place
    step: str
    score: float | None


def sample_pairs(
    run: FinishedRun, n: int, source: str | None = None, seed: int | None = None, step: str | None = None
) -> list[Pair]:
    """Up to n duplicates with their survivors, in an order of the seed's.

    step : `exact` or `minhash`; default: either.

    Raises UnknownError for a source or step that is not in the run, or where no step of it names survivors;
    NotFinishedError when a stage is not there.
    """
    every = [s.name for s in run.recipe.dedup_steps()]
    steps = [name for name in every if name in NAMING]
    if step in WITH_VECTORS and step in every:
        raise UnknownError(
            f"{step!r} names no survivors: what a document is like may go itself; "
            f"`--semantic --filter {step}` shows the documents nearest to the cut"
        )
    if not steps:
        raise UnknownError("no step of this run's dedup names survivors; exact and minhash do")
    if step is not None and step not in steps:
        raise UnknownError(f"{step!r} names no survivors in this run{nearest(step, steps, 'these do')}")
    drawn = sample_of(run, {step} if step else set(steps), n, source, seed)
    return [
        Pair(d.place, d.survivor, d.filter, d.score, _blocks(run, d.place, d.survivor))
        for d in drawn
        if d.survivor is not None
    ]


def _blocks(run: FinishedRun, dropped: Place, survivor: Place) -> tuple[tuple[bool, str, str], ...]:
    one, other = _text(run, dropped), _text(run, survivor)
    return () if one is None or other is None else tuple(compared(one, other))


def compared(one: str, other: str) -> Iterator[tuple[bool, str, str]]:
    """(whether the same, words of the first text, words of the second), in order, of the first `COMPARED_WORDS`."""
    a, b = one.split()[:COMPARED_WORDS], other.split()[:COMPARED_WORDS]
    for kind, a1, a2, b1, b2 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        yield kind == "equal", " ".join(a[a1:a2]), " ".join(b[b1:b2])


def _text(run: FinishedRun, place: Place) -> str | None:
    """A document's text as filters left it; None where it is of an earlier run that is not there any more."""
    opened, source = run, place.source
    if source not in run.places:
        found = [(earlier, names[source]) for earlier, names in earlier_runs(run) if source in names]
        if not found:
            return None
        opened, source = found[0]
    documents = opened.stage(source, "documents")
    id_ = bytes.fromhex(place.document)
    if int.from_bytes(id_[:8], "big") not in opened.file_ranks(source):
        return None
    for split in splits_to_search(documents, splits_of(opened, source), opened.file_ranks(source), id_):
        rows = find_rows(storage.join(documents, name("rows", split, "parquet")), [id_], [])
        if rows:
            number, _ = rows[id_]
            return texts_of_rows(documents, split, [number])[number]
    return None


def cluster_of(run: FinishedRun, document: str) -> list[Member]:
    """All documents of the run that were dropped for this one, in the order of sources, files and positions.

    Those among them that `semantic` dropped are most like it; it may have been dropped itself.

    Reads the survivors' column of the whole report. Raises UnknownError for an id that is none.
    """
    survivor = bytes.fromhex(place_of(run, document.lower()).document)
    found: list[Member] = []
    for source in run.places:
        place = run.stage_named(f"dropped.{source}")
        for split in splits_of(run, source):
            found += _members(run, storage.join(place, name("dropped", split, "parquet")), survivor)
    return found


def _members(run: FinishedRun, place: str, survivor: bytes) -> Iterator[Member]:
    with readable(place), storage.open_input(place) as handle:
        file = pq.ParquetFile(handle)
        for group in range(file.num_row_groups):
            names = file.read_row_group(group, columns=["survivor", "detail"], use_threads=False)
            # A survivor of an earlier run may have the same id: its source is in the detail.
            mine = pc.and_(
                pc.equal(names.column("survivor"), pa.scalar(survivor, tables.ID)),
                pc.is_null(names.column("detail")),
            )
            if pc.any(mine).as_py():
                columns = ["id", "filter", "score"]
                rows = file.read_row_group(group, columns=columns, use_threads=False).filter(mine)
                for row in rows.to_pylist():
                    yield Member(place_of(run, row["id"].hex()), row["filter"], row["score"])
