"""How like is each document to the most like one before it in its cluster?

The tasks of two stages of `semantic` (semantic.py). `semantic-runs` assigns the documents of some splits to the
centroids and writes them, with their vectors, as runs sorted by cluster and then in survivors' order: source as the
recipe names them, then what `order` says, then id. `semantic-pairs` reads a range of clusters and compares within each
(filters/semantic_pairs.py); what it finds goes home to the splits (semantic_scores.py).

Memory: the centroids; `partition_bytes` of documents with their vectors three times; 24 bytes for each document of the
largest cluster. A cluster whose documents are more than `partition_bytes` passes through a scratch file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from winnow.filters.torch_threads import one_thread
from winnow.pipelines.clustering import centroids_at
from winnow.pipelines.exchanges import Part, Wire, read_blocks, write_run
from winnow.pipelines.records import Outputs
from winnow.pipelines.semantic_scores import FOUND, NONE
from winnow.pipelines.vectors import BATCH_ROWS, VECTORS, Embedded, vector_batches
from winnow.shards import arrays, scratch, tables

ORDER_SEED = 0x6F72646572
CLUSTERED = Wire(
    np.dtype(
        [("cluster", "<u8"), ("source", "<u4"), ("split", "<u4"), ("order", "<u8"), ("high", "<u8"), ("low", "<u8"),
         ("row", "<u4"), ("similarity", "<f4"), ("items", "<u4")]
    ),
    ("cluster", "source", "order", "high", "low"),
    VECTORS,
)  # fmt: skip
"""A document in its cluster, `split` by its number in the group; its payload is its vector."""


@dataclass(frozen=True, slots=True)
class RunsSpec:
    index: int
    splits: tuple[tuple[int, Embedded], ...]
    """With each one's number in the group."""
    dimensions: int
    centroids: str
    """Location of their stage."""
    order: str
    seed: int
    bounds: np.ndarray
    run_rows: int
    device: str


def runs_task(spec: RunsSpec, outputs: Outputs) -> dict[str, Any]:
    """Write the documents of some splits that stand as runs, cluster by cluster."""
    from winnow.filters.kmeans import assign

    centroids = centroids_at(spec.centroids)
    runs: list[dict[str, Any]] = []
    rows, vectors = [np.empty(0, CLUSTERED.dtype)], [np.empty((0, spec.dimensions), VECTORS)]
    held = documents = 0

    def flush() -> None:
        nonlocal held
        clustered, together = np.concatenate(rows), np.concatenate(vectors)
        del rows[1:], vectors[1:]
        held = 0
        # A large number of centroids is brought to the device once for all of them.
        with one_thread():
            clustered["cluster"], clustered["similarity"] = assign(together, centroids, spec.device)
        clustered["order"] = order_of(spec.order, clustered, spec.seed)
        file = f"run-{spec.index:08d}-{len(runs)}.bin"
        runs.append(write_run(outputs, file, CLUSTERED, clustered, spec.bounds, together.reshape(-1)))

    for number, split in spec.splits:
        for members, batch in vector_batches(split, min(BATCH_ROWS, spec.run_rows)):
            documents += len(batch)
            first = 0
            while first < len(batch):
                stop = min(first + spec.run_rows - held, len(batch))
                rows.append(_rows_of(number, split, members[first:stop]))
                vectors.append(batch[first:stop])
                held += stop - first
                first = stop
                if held == spec.run_rows:
                    flush()
    if held or not runs:
        flush()
    return {"runs": runs, "documents": documents}


def _rows_of(number: int, split: Embedded, members: np.ndarray) -> np.ndarray:
    """CLUSTERED of documents that are not assigned yet."""
    rows = np.zeros(len(members), CLUSTERED.dtype)
    rows["source"], rows["split"], rows["items"] = split.standing.rank, number, split.dimensions
    for field in ("high", "low", "row"):
        rows[field] = members[field]
    return rows


def order_of(order: str, rows: np.ndarray, seed: int) -> np.ndarray:
    """uint64[n]: numbers that rise in the order in which CLUSTERED of one cluster and source come.

    order : "hard" (least like the centroid first), "easy" (most like it first) or "random".
    """
    if order == "random":
        return tables.mix(seed ^ ORDER_SEED, rows["high"], rows["low"])
    bits = (rows["similarity"] + np.float32(0)).view(np.uint32)
    sign = np.uint32(1 << 31)
    rising = np.where(bits & sign, ~bits, bits | sign)
    return (rising if order == "hard" else ~rising).astype(np.uint64)


# ---- pairs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PairsSpec:
    index: int
    parts: tuple[Part, ...]
    dimensions: int
    greedy_eps: float | None
    """Compare with those that stay at this eps; None: with all before."""
    bounds: np.ndarray
    limit: int
    """Bytes of documents with their vectors that are held."""
    device: str


def pairs_task(spec: PairsSpec, outputs: Outputs) -> dict[str, Any]:
    """Compare the documents of each cluster of one partition; write what was found as runs by split."""
    runs: list[dict[str, Any]] = []
    held: list[np.ndarray] = []
    documents = clusters = largest = 0

    def flush() -> None:
        found = np.concatenate([np.empty(0, FOUND.dtype), *held])
        held.clear()
        runs.append(write_run(outputs, f"run-{spec.index:08d}-{len(runs)}.bin", FOUND, found, spec.bounds))

    at_a_time = max(1, spec.limit // FOUND.dtype.itemsize)
    for rows, vectors, edges in whole_clusters(spec):
        score, neighbour = _compare(vectors, edges, spec)
        documents, clusters = documents + len(rows), clusters + len(edges) - 1
        largest = max(largest, int(np.diff(edges).max()))
        for first in range(0, len(rows), at_a_time):
            held.append(_found(rows, score, neighbour, first, first + at_a_time))
            if sum(map(len, held)) >= at_a_time:
                flush()
    if held or not runs:
        flush()
    return {"runs": runs, "documents": documents, "clusters": clusters, "largest": largest}


def _compare(vectors: np.ndarray, edges: np.ndarray, spec: PairsSpec) -> tuple[np.ndarray, np.ndarray]:
    """(score float32[n], neighbour int64[n] or -1) of vectors that lie cluster by cluster, between `edges`."""
    from winnow.filters.semantic_pairs import nearest_before_many, nearest_kept_many

    with one_thread():
        if spec.greedy_eps is None:
            return nearest_before_many(vectors, edges, spec.device)
        return nearest_kept_many(vectors, edges, spec.greedy_eps, spec.device)


def _found(rows: np.ndarray, score: np.ndarray, neighbour: np.ndarray, first: int, stop: int) -> np.ndarray:
    """FOUND of rows `first` to `stop`, of which `neighbour` are indices into `rows`."""
    mine, before = rows[first:stop], neighbour[first:stop]
    found = np.zeros(len(mine), FOUND.dtype)
    for field in ("split", "row", "cluster", "similarity"):
        found[field] = mine[field]
    found["score"], found["source"] = score[first:stop], NONE
    has = before >= 0
    for field in ("high", "low", "source"):
        found[field][has] = rows[field][before[has]]
    return found


def whole_clusters(spec: PairsSpec) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The documents of a partition, some whole clusters at a time.

    Yields (CLUSTERED[n] in survivors' order, cluster by cluster; float16[n, d], their vectors; int64[c + 1], where each
    cluster begins, and n). A cluster that is more than half of `limit` comes alone, mapped from scratch files.
    """
    half = max(1, spec.limit // 2)
    rows, vectors = np.empty(0, CLUSTERED.dtype), np.empty((0, spec.dimensions), VECTORS)
    large: _Large | None = None
    with ExitStack() as files:
        for block, payload, _ in read_blocks(spec.parts, CLUSTERED, half):
            assert payload is not None
            fresh = payload.reshape(len(block), spec.dimensions)
            if large is not None:
                n = int(np.searchsorted(block["cluster"], large.cluster, side="right"))
                large.add(block[:n], fresh[:n])
                block, fresh = block[n:], fresh[n:]
                if not len(block):
                    continue
                yield large.whole()
                large = None
            rows, vectors = np.concatenate([rows, block]), np.concatenate([vectors, fresh])
            last = int(np.searchsorted(rows["cluster"], rows["cluster"][-1]))
            if last:
                yield rows[:last], vectors[:last], _edges(rows["cluster"][:last])
            rows, vectors = rows[last:], vectors[last:]
            if rows.nbytes + vectors.nbytes > half:
                of_rows, of_vectors = (files.enter_context(scratch.nameless()) for _ in range(2))
                large = _Large(int(rows["cluster"][0]), spec.dimensions, of_rows, of_vectors)
                large.add(rows, vectors)
                rows, vectors = rows[:0].copy(), vectors[:0].copy()
        if large is not None:
            yield large.whole()
        elif len(rows):
            yield rows, vectors, _edges(rows["cluster"])


def _edges(clusters: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.concatenate([[True], clusters[1:] != clusters[:-1], [True]]))


@dataclass(frozen=True, slots=True)
class _Large:
    """A cluster on its way through scratch files, which have no names."""

    cluster: int
    dimensions: int
    rows: BinaryIO
    vectors: BinaryIO

    def add(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        arrays.write(self.rows, rows)
        arrays.write(self.vectors, vectors)

    def whole(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What `whole_clusters` yields. The files are gone when nobody holds it any more."""
        with self.rows, self.vectors:
            self.rows.flush()
            self.vectors.flush()
            rows = np.memmap(self.rows, CLUSTERED.dtype, "r")
            vectors = np.memmap(self.vectors, VECTORS, "r").reshape(-1, self.dimensions)
        return rows, vectors, np.array([0, len(rows)])
