"""Where are documents' vectors, and which of them still stand?

The stage `embeddings.<embedding>.<source>` leaves two files for each split: `vectors-*.f16`, a row-major matrix of
little-endian float16 with a row for every document that stood when it was made, each of length 1; and `members-*.bin`,
MEMBERS in the same order: the document's row in the split and the halves of its id. Whoever needs vectors later
reads those whose documents still stand then.

Memory: `BATCH_ROWS` vectors, and 9 bytes for each document of a split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from winnow.pipelines.documents import name
from winnow.pipelines.engine import Done
from winnow.pipelines.records import Outputs
from winnow.pipelines.standing import Standing, rows_of
from winnow.shards import exchange, storage

MEMBERS = np.dtype([("row", "<u8"), ("high", "<u8"), ("low", "<u8")])
"""Row in the split, and the halves of the document's id."""
VECTORS = np.dtype("<f2")
BATCH_ROWS = 1 << 14
ROWS_AT_A_TIME = 1 << 16


@dataclass(frozen=True, slots=True)
class Embedded:
    """A split with its vectors."""

    standing: Standing
    """As the step at hand finds it."""
    place: str
    """Location of its source's embeddings."""
    documents: int
    """Vectors there are; fewer may still stand."""
    dimensions: int


def embedded(inputs: Sequence[Standing], made: Mapping[str, Done]) -> list[Embedded]:
    """The splits of sources with their vectors; `made` are the finished embeddings by source."""
    counts = {source: {r.index: r.counts for r in done.records} for source, done in made.items()}
    found = []
    for item in inputs:
        mine = counts[item.source][item.split]
        found.append(Embedded(item, made[item.source].location, mine["documents"], mine["dimensions"]))
    return found


def put_vectors(outputs: Outputs, split: int, members: np.ndarray, batches: Iterator[np.ndarray]) -> int:
    """Commit the vectors of a split: float16[n, d] batch by batch, in the order of `members`; returns d (0 of none)."""
    outputs.put(name("members", split, "bin"), members.tobytes())
    dimensions = rows = 0
    with outputs.file(name("vectors", split, "f16")) as path, open(path, "wb") as file:
        for batch in batches:
            dimensions, rows = batch.shape[1], rows + len(batch)
            file.write(np.ascontiguousarray(batch, VECTORS).data)
    if rows != len(members):
        raise ValueError(f"{rows} vectors for {len(members)} documents")
    return dimensions


def vector_batches(split: Embedded, rows: int = BATCH_ROWS) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(MEMBERS[n], float16[n, d]) of the documents of a split that stand, in order, at most `rows` at a time."""
    if not split.documents:
        return
    stands = _stands(split.standing)
    item = split.standing.split
    members_at = storage.join(split.place, name("members", item, "bin"))
    vectors_at = storage.join(split.place, name("vectors", item, "f16"))
    width = split.dimensions * VECTORS.itemsize
    for first in range(0, split.documents, rows):
        n = min(rows, split.documents - first)
        members = exchange.read_array(members_at, first * MEMBERS.itemsize, np.empty(n, MEMBERS))
        keep = stands[members["row"].astype(np.int64)]
        if not keep.any():
            continue
        vectors = exchange.read_array(vectors_at, first * width, np.empty((n, split.dimensions), VECTORS))
        yield (members, vectors) if keep.all() else (members[keep], vectors[keep])


def _stands(standing: Standing) -> np.ndarray:
    """bool[rows]: whether each document of a split stands."""
    rows = rows_of(standing, ["id"])
    found = np.zeros(standing.rows, bool)
    for first in range(0, standing.rows, ROWS_AT_A_TIME):
        stop = min(first + ROWS_AT_A_TIME, standing.rows)
        found[first:stop] = rows.take(stop - first).column("keep").to_numpy(zero_copy_only=False)
    return found
