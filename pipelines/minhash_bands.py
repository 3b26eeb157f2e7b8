"""Which documents share a bucket?

A bucket is one value of one band of the signatures. Each document that stands sends a row per band; rows of one bucket
meet in one partition, in survivors' order: source as the recipe names them, then the highest score, then the longest
text, then place in the corpus. From each bucket come edges between its first document and each other one; that they
make the same components as all pairs would is what `pipelines/components.py` needs.

Documents of earlier runs come before all others. A bucket of them alone makes no edge, and of a bucket at most
`anchors` of them have one: more of them would be no candidates for anybody (filters/minhash_clusters.py).

Memory: `partition_bytes` of rows (28 bytes each) about four times, whatever the size of a bucket: a partition that one
bucket makes too large is read in sorted blocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from winnow.pipelines.components import EDGES
from winnow.pipelines.documents import name
from winnow.pipelines.exchanges import Part, Wire, read_blocks, write_run
from winnow.pipelines.minhash_signatures import Signed, portions
from winnow.pipelines.records import Outputs
from winnow.pipelines.standing import Standing, rows_of
from winnow.shards import storage
from winnow.shards.inputs import InputError

BATCH_ROWS = 1 << 16
BANDS = Wire(
    np.dtype(
        [("key", "<u8"), ("source", "<u4"), ("score", "<u4"), ("length", "<u4"), ("split", "<u4"), ("row", "<u4")]
    ),
    ("key", "source", "score", "length", "split", "row"),
)  # fmt: skip
"""A document in a bucket. `score` and `length` are turned round (`falling_scores`, `falling_lengths`), so that rows
of a bucket sort in survivors' order."""
ORDER = ("source", "score", "length", "split", "row")
NO_BOUNDS = np.empty(0, np.uint64)


@dataclass(frozen=True, slots=True)
class Member:
    """A split whose documents are compared."""

    number: int
    """Among those of earlier runs, which come first, and of the group."""
    source: int
    """Rank of its source among theirs, and the group's."""
    standing: Standing
    signed: Signed


def falling_scores(column: pa.Array) -> np.ndarray:
    """uint32[n]: numbers that sort by falling score, as a float32; null and NaN are last."""
    with np.errstate(over="ignore"):
        scores = column.to_numpy(zero_copy_only=False).astype(np.float32) + np.float32(0)
    bits = scores.view(np.uint32)
    sign = np.uint32(1 << 31)
    rising = np.where(bits & sign, ~bits, bits | sign)
    return np.where(np.isnan(scores), np.uint32(0xFFFFFFFF), ~rising)


def falling_lengths(lengths: np.ndarray) -> np.ndarray:
    """uint32[n]: numbers that sort by falling length."""
    return np.uint32(0xFFFFFFFF) - lengths.astype(np.uint32)


def node_of(split: np.ndarray, row: np.ndarray) -> np.ndarray:
    """uint64[n]: a document's number in the graph."""
    return split.astype(np.uint64) << np.uint64(32) | row.astype(np.uint64)


# ---- buckets -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ScatterSpec:
    index: int
    members: tuple[Member, ...]
    bounds: np.ndarray
    run_rows: int
    survivor_score: str | None
    earlier: int
    """Sources of earlier runs: those whose rank is lower are not ours, and come before ours whatever their score."""


def scatter_task(spec: ScatterSpec, outputs: Outputs) -> dict[str, Any]:
    """Write the bands of the documents that stand as runs; counts them by source."""
    runs: list[dict[str, Any]] = []
    held: list[np.ndarray] = []
    standing: dict[str, int] = {}

    def flush() -> None:
        rows = np.concatenate([np.empty(0, BANDS.dtype), *held])
        held.clear()
        runs.append(write_run(outputs, f"run-{spec.index:08d}-{len(runs)}.bin", BANDS, rows, spec.bounds))

    for member in spec.members:
        ours = member.source >= spec.earlier
        keep, scores = _facts(member.standing, spec.survivor_score if ours else None)
        if ours:
            source = member.standing.source
            standing[source] = standing.get(source, 0) + int(keep.sum())
        signed = member.signed.rows()
        for places, keys in portions(member.signed, np.flatnonzero(keep[signed["row"]])):
            held.append(_band_rows(member, signed[places], keys, scores))
            if sum(map(len, held)) >= spec.run_rows:
                flush()
    if held or not runs:
        flush()
    return {"runs": runs, "standing": standing}


def _facts(standing: Standing, survivor_score: str | None) -> tuple[np.ndarray, np.ndarray]:
    """(bool, uint32 falling scores) of all rows of a split."""
    keep, scores = np.zeros(standing.rows, bool), np.zeros(standing.rows, np.uint32)
    if survivor_score is not None:
        _check_signal(standing, survivor_score)
    aligned = rows_of(standing, [survivor_score or "id"])
    for first in range(0, standing.rows, BATCH_ROWS):
        batch = aligned.take(min(BATCH_ROWS, standing.rows - first))
        here = slice(first, first + batch.num_rows)
        keep[here] = batch.column("keep").to_numpy(zero_copy_only=False)
        if survivor_score is not None:
            scores[here] = falling_scores(batch.column(survivor_score))
    aligned.end()
    return keep, scores


def _check_signal(standing: Standing, signal: str) -> None:
    """Raises InputError where a split's rows have no such signal."""
    with storage.open_input(
        storage.join(standing.documents, name("rows", standing.split, "parquet"))
    ) as file:
        schema = pq.read_schema(file)
    if signal not in schema.names or pa.types.is_string(schema.field(signal).type):
        raise InputError(
            f"source {standing.source!r} has no number {signal!r}; survivor_score names one that a filter of every "
            "source measures"
        )


def _band_rows(member: Member, signed: np.ndarray, keys: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """BANDS[m * bands] of m documents. signed : SIGNED[m]; keys : uint64[m, bands]; scores : uint32, of all rows."""
    rows = np.empty(keys.shape, BANDS.dtype)
    rows["key"] = keys
    rows["source"], rows["split"] = member.source, member.number
    rows["row"] = signed["row"][:, None]
    rows["score"] = scores[signed["row"]][:, None]
    rows["length"] = falling_lengths(signed["length"])[:, None]
    return rows.reshape(-1)


@dataclass(frozen=True, slots=True)
class BucketSpec:
    index: int
    parts: tuple[Part, ...]
    earlier: int
    """Sources of earlier runs: those whose rank is lower are not ours."""
    anchors: int
    limit: int
    """Bytes of rows that are held."""


def bucket_task(spec: BucketSpec, outputs: Outputs) -> dict[str, Any]:
    """Write the edges of the buckets of one partition; counts buckets by size."""
    buckets = Buckets(spec.earlier, spec.anchors)
    runs: list[dict[str, Any]] = []
    held: list[np.ndarray] = []

    def flush() -> None:
        edges = np.concatenate([np.empty(0, EDGES.dtype), *held])
        held.clear()
        edges = distinct_edges(edges)
        run = f"run-{spec.index:08d}-{len(runs)}.bin"
        runs.append(write_run(outputs, run, EDGES, edges, NO_BOUNDS))

    for rows, _, _ in read_blocks(spec.parts, BANDS, spec.limit):
        held.append(buckets.edges(rows))
        if sum(e.nbytes for e in held) >= spec.limit // 4:
            flush()
    if held or not runs:
        flush()
    buckets.close()
    return {"runs": runs, "buckets": buckets.sizes.counts, "largest_bucket": buckets.sizes.largest}


def distinct_edges(edges: np.ndarray) -> np.ndarray:
    """Each edge once, sorted: near-duplicates share many buckets."""
    edges = edges.take(np.lexsort((edges["b"], edges["a"])))
    new = np.ones(len(edges), bool)
    new[1:] = (edges["a"][1:] != edges["a"][:-1]) | (edges["b"][1:] != edges["b"][:-1])
    return edges[new]


@dataclass(slots=True)
class Sizes:
    """Groups of two and more documents, counted by size: from each power of two to the next."""

    counts: dict[str, int] = field(default_factory=dict)
    """By the power of two."""
    largest: int = 0

    def add(self, sizes: np.ndarray) -> None:
        sizes = sizes[sizes > 1]
        if not len(sizes):
            return
        self.largest = max(self.largest, int(sizes.max()))
        exponents = np.frexp(sizes.astype(np.float64))[1] - 1
        for exponent, n in enumerate(np.bincount(exponents)):
            if n:
                key = str(1 << exponent)
                self.counts[key] = self.counts.get(key, 0) + int(n)


def total_sizes(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Counts of groups by size, summed, smallest first."""
    out: dict[str, int] = {}
    for mine in counts:
        for size, n in mine.items():
            out[size] = out.get(size, 0) + n
    return dict(sorted(out.items(), key=lambda item: int(item[0])))


class Buckets:
    """Turns sorted rows of buckets, which come block by block, into edges."""

    def __init__(self, earlier: int, anchors: int):
        self.earlier, self.anchors = earlier, anchors
        self.sizes = Sizes()
        # Of the bucket that is open: its key, first document, rows so far, whether one of them is ours, and edges
        # that are wanted only if one is.
        self.key: np.uint64 | None = None
        self.leader = np.uint64(0)
        self.rows = 0
        self.ours = False
        self.waiting = np.empty(0, EDGES.dtype)

    def edges(self, rows: np.ndarray) -> np.ndarray:
        """EDGES of the next rows, which are not empty, and of those before that waited for them."""
        n = len(rows)
        keys, nodes = rows["key"], node_of(rows["split"], rows["row"])
        new = np.ones(n, bool)
        np.not_equal(keys[1:], keys[:-1], out=new[1:])
        new[0] = self.key is None or keys[0] != self.key
        if new[0]:
            self.close()
        starts = np.flatnonzero(new)
        # Group 0 is the bucket that was open, if it goes on.
        group = np.cumsum(new) - int(new[0])
        firsts = starts if new[0] else np.concatenate([np.array([-self.rows]), starts])
        leaders = nodes[starts] if new[0] else np.concatenate([np.array([self.leader]), nodes[starts]])
        ours = rows["source"] >= self.earlier
        has_ours = np.zeros(len(firsts), bool)
        has_ours[group[ours]] = True
        if not new[0]:
            has_ours[0] |= self.ours

        place = np.arange(n) - firsts[group]
        wanted = (place > 0) & (ours | (place < self.anchors))
        edges = np.empty(int(wanted.sum()), EDGES.dtype)
        edges["a"], edges["b"] = leaders[group[wanted]], nodes[wanted]
        of = group[wanted]
        found = [edges[has_ours[of]]]
        last = len(firsts) - 1
        if len(self.waiting):
            if has_ours[0]:
                found.append(self.waiting)
            if has_ours[0] or last > 0:
                self.waiting = self.waiting[:0]
        if not has_ours[last]:
            self.waiting = np.concatenate([self.waiting, edges[of == last]])

        counts = np.diff(firsts, append=n)
        self.sizes.add(counts[:-1][has_ours[:-1]])
        self.key, self.leader, self.rows, self.ours = (
            keys[-1],
            leaders[-1],
            int(counts[-1]),
            bool(has_ours[-1]),
        )
        return np.concatenate(found)

    def close(self) -> None:
        """The open bucket has no more rows."""
        if self.ours:
            self.sizes.add(np.array([self.rows]))
        self.key, self.rows, self.ours = None, 0, False
        self.waiting = self.waiting[:0]
