"""Which of the documents that share buckets are near enough to a survivor to go?

The documents of a component meet in one partition of an exchange, in survivors' order, each with its band keys and what
it is compared by: its set of shingles, for which its text is read once more, or its signature. There they are decided
one after another (filters/minhash_clusters.py), and the verdicts go home (homing.py).

Memory: `partition_bytes` of documents about four times, and `HELD_BYTES` of one component's survivors and buckets.
Where that is not enough, documents that come later stay unless they match what is held: they are counted as
`unverified`. It is no limit of the recipe's, so that no limit decides who stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from winnow.filters.minhash_settings import MinHash
from winnow.pipelines.components import LABELS
from winnow.pipelines.exchanges import Part, Wire, read_blocks, read_parts, write_run
from winnow.pipelines.homing import VERDICTS, verdict_rows
from winnow.pipelines.minhash_bands import (
    BATCH_ROWS,
    ORDER,
    Member,
    Sizes,
    falling_lengths,
    falling_scores,
)
from winnow.pipelines.minhash_signatures import Signing
from winnow.pipelines.records import Outputs
from winnow.pipelines.standing import rows_of, texts_of
from winnow.shards import tables

HELD_BYTES = 256 << 20
"""For the survivors and buckets of one component (ours: 30,000 survivors of 4 KiB, 70,000 documents of 14 bands)."""
COMPONENT_SEED = 0x636F6D70
MEMBERS = Wire(
    np.dtype(
        [("key", "<u8"), ("source", "<u4"), ("score", "<u4"), ("length", "<u4"), ("split", "<u4"), ("row", "<u4"),
         ("items", "<u4"), ("high", "<u8"), ("low", "<u8")]
    ),
    ("key", *ORDER),
    np.dtype("<u4"),
)  # fmt: skip
"""A document of a component: hash of the component's label, its place in survivors' order, words of payload, its id."""


@dataclass(frozen=True, slots=True)
class Payload:
    """What of a document travels to where it is compared."""

    keys: bool
    signature: bool
    shingles: bool

    @classmethod
    def of(cls, settings: MinHash, earlier: bool) -> Payload:
        """As the settings need it; documents of earlier runs are compared by signatures."""
        resolved = settings.resolved
        return cls(
            keys=resolved.cluster == "star",
            signature=resolved.verify == "estimate" or (earlier and resolved.verify == "exact"),
            shingles=resolved.verify == "exact",
        )


# ---- documents of components ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MembersSpec:
    index: int
    members: tuple[Member, ...]
    labels: tuple[Part, ...]
    """Of the documents of these splits."""
    payload: Payload
    earlier: int
    """Sources of earlier runs; no text of theirs is read."""
    bounds: np.ndarray
    run_bytes: int
    survivor_score: str | None


@dataclass(frozen=True, slots=True)
class _Found:
    """Documents of a component, of one batch of a split."""

    places: np.ndarray
    """Among those of the split that have a signature."""
    signed: np.ndarray
    """SIGNED of them."""
    labels: np.ndarray
    batch: pa.RecordBatch
    texts: pa.LargeStringArray | None


def members_task(spec: MembersSpec, outputs: Outputs) -> dict[str, Any]:
    """Write the documents of some splits that are in a component as runs by component."""
    labels, _, _ = read_parts(spec.labels, LABELS)
    runs: list[dict[str, Any]] = []
    held: list[tuple[np.ndarray, np.ndarray]] = []

    def flush() -> None:
        rows = np.concatenate([np.empty(0, MEMBERS.dtype), *(r for r, _ in held)])
        words = np.concatenate([np.empty(0, np.uint32), *(w for _, w in held)])
        held.clear()
        run = f"run-{spec.index:08d}-{len(runs)}.bin"
        runs.append(write_run(outputs, run, MEMBERS, rows, spec.bounds, words))

    for member in spec.members:
        for found in _documents(spec, member, labels):
            held.append(_member_rows(spec, member, found))
            if sum(r.nbytes + w.nbytes for r, w in held) >= spec.run_bytes:
                flush()
    if held or not runs:
        flush()
    return {"runs": runs, "documents": len(labels)}


def _documents(spec: MembersSpec, member: Member, labels: np.ndarray) -> Iterator[_Found]:
    """The documents of a split that are in a component, at most a portion of signatures at a time."""
    first, stop = np.searchsorted(
        labels["node"], np.array([member.number, member.number + 1], np.uint64) << np.uint64(32)
    )
    mine = labels[first:stop]
    if not len(mine):
        return
    wanted = mine["node"].astype(np.int64) & 0xFFFFFFFF
    signed = member.signed.rows()
    ours = member.source >= spec.earlier
    columns = ["id", *([spec.survivor_score] if spec.survivor_score and ours else [])]
    texts_wanted = spec.payload.shingles and ours
    for where, batch, texts in _batches(member, columns, texts_wanted):
        a, b = np.searchsorted(wanted, [where[0], where[-1] + 1])
        for at in range(a, b, member.signed.signing.portion):
            rows = wanted[at : min(b, at + member.signed.signing.portion)]
            take = pa.array(np.searchsorted(where, rows))
            places = np.searchsorted(signed["row"], rows)
            yield _Found(
                places,
                signed[places],
                mine["label"][at : at + len(rows)],
                batch.take(take),
                None if texts is None else texts.take(take),
            )


def _batches(
    member: Member, columns: list[str], texts_wanted: bool
) -> Iterator[tuple[np.ndarray, pa.RecordBatch, pa.LargeStringArray | None]]:
    """(rows in the split, columns, texts) of documents that stand, or of all where no texts are wanted."""
    standing = member.standing
    if texts_wanted:
        for part in texts_of(standing, columns):
            yield part.where, part.rows, part.texts
        return
    aligned = rows_of(standing, columns)
    for first in range(0, standing.rows, BATCH_ROWS):
        batch = aligned.take(min(BATCH_ROWS, standing.rows - first))
        yield first + np.arange(batch.num_rows), batch, None


def _member_rows(spec: MembersSpec, member: Member, found: _Found) -> tuple[np.ndarray, np.ndarray]:
    """MEMBERS[m] and their words."""
    signing, signed, n = member.signed.signing, found.signed, len(found.places)
    rows = np.empty(n, MEMBERS.dtype)
    rows["key"] = tables.mix(COMPONENT_SEED, found.labels)
    rows["source"], rows["split"], rows["row"] = member.source, member.number, signed["row"]
    rows["length"], rows["score"] = falling_lengths(signed["length"]), 0
    if spec.survivor_score is not None and member.source >= spec.earlier:
        rows["score"] = falling_scores(found.batch.column(spec.survivor_score))
    rows["high"], rows["low"] = tables.id_halves(found.batch.column("id"))

    head = np.empty((n, 0), np.uint32)
    if spec.payload.keys or spec.payload.signature:
        signatures = member.signed.pick(found.places)
        if spec.payload.keys:
            head = signing.band_keys(signatures).astype("<u8").view("<u4").reshape(n, -1)
        if spec.payload.signature:
            head = np.concatenate([head, signatures.view("<u4").reshape(n, -1)], axis=1)
    if found.texts is None:
        rows["items"] = head.shape[1]
        return rows, head.reshape(-1)

    from winnow.filters.shingles import shingle_sets

    shingles, ends = shingle_sets(found.texts, signing.settings)
    sizes = np.diff(ends, prepend=0).astype(np.int64)
    rows["items"] = head.shape[1] + sizes
    words = np.empty(n * head.shape[1] + len(shingles), np.uint32)
    in_head = np.zeros(len(words), bool)
    begins = np.cumsum(rows["items"].astype(np.int64)) - rows["items"]
    in_head[begins[:, None] + np.arange(head.shape[1])] = True
    words[in_head], words[~in_head] = head.reshape(-1), shingles
    return rows, words


# ---- verdicts ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VerifySpec:
    index: int
    parts: tuple[Part, ...]
    signing: Signing
    payload: Payload
    earlier: tuple[int, int]
    """Splits and sources of earlier runs, which come before ours."""
    group: int
    """Sources of ours."""
    held_bytes: int
    bounds: np.ndarray
    limit: int
    """Bytes of documents, and of verdicts, that are held."""


def verify_task(spec: VerifySpec, outputs: Outputs) -> dict[str, Any]:
    """Decide the components of one partition; write the verdicts of what goes, count components by size."""
    components = Components(spec)
    runs: list[dict[str, Any]] = []
    held: list[np.ndarray] = []

    def flush() -> None:
        rows = np.concatenate([np.empty(0, VERDICTS.dtype), *held])
        held.clear()
        run = f"run-{spec.index:08d}-{len(runs)}.bin"
        runs.append(write_run(outputs, run, VERDICTS, rows, spec.bounds, np.empty(0, VERDICTS.payload)))

    for rows, words, ends in read_blocks(spec.parts, MEMBERS, spec.limit):
        assert words is not None
        assert ends is not None
        held.append(components.verdicts(rows, words, ends))
        if sum(v.nbytes for v in held) >= spec.limit:
            flush()
    if held or not runs:
        flush()
    components.close()
    return {
        "runs": runs,
        "clusters": components.sizes.counts,
        "largest_cluster": components.sizes.largest,
        "unverified": components.unverified,
    }


class Components:
    """Decides sorted documents of components, which come block by block."""

    def __init__(self, spec: VerifySpec):
        from winnow.filters import minhash_clusters as kernel

        settings, payload = spec.signing.settings, spec.payload
        resolved = settings.resolved
        self.spec = spec
        self.clusters = kernel.Clusters(
            kernel.Comparison(
                bands=resolved.bands if payload.keys else 0,
                signature=spec.signing.document_bytes // 4 if payload.signature else 0,
                slot_words=spec.signing.dtype.itemsize // 4,
                anchors=settings.anchors,
                verify={"none": kernel.NONE, "estimate": kernel.ESTIMATE, "exact": kernel.EXACT}[
                    resolved.verify
                ],
                threshold=resolved.threshold,
                component=resolved.cluster == "component",
            ),
            spec.held_bytes,
        )
        self.open_length = kernel.OPEN
        self.sizes = Sizes()
        self.unverified = 0
        self.decided = 0
        # Of the component that is open: its key, documents so far, and its survivors, with their numbers.
        self.key: np.uint64 | None = None
        self.documents = 0
        self.survivors = np.empty(0, MEMBERS.dtype)
        self.numbers = np.empty(0, np.int64)

    def verdicts(self, rows: np.ndarray, words: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """VERDICTS of those of the next documents (at least one) that go."""
        n = len(rows)
        new = np.ones(n, bool)
        np.not_equal(rows["key"][1:], rows["key"][:-1], out=new[1:])
        new[0] = self.key is None or rows["key"][0] != self.key
        opens = self._opens(new)
        splits, sources = self.spec.earlier
        fixed = rows["source"] < sources
        survivor, score, unverified = self.clusters.decide(opens, fixed, words, ends.astype(np.int64))
        self.unverified += unverified

        gone = np.flatnonzero(survivor >= 0)
        of = self._documents(rows, survivor[gone])
        verdicts = verdict_rows(len(gone))
        verdicts["split"], verdicts["row"] = rows["split"][gone] - np.uint32(splits), rows["row"][gone]
        verdicts["high"], verdicts["low"], verdicts["score"] = of["high"], of["low"], score[gone]
        # Our sources are numbered first on the way home.
        rank = of["source"].astype(np.int64)
        verdicts["source"] = np.where(rank < sources, self.spec.group + rank, rank - sources)

        numbers = self.clusters.held()
        self.survivors, self.numbers = self._documents(rows, numbers), numbers
        self.decided += n
        self.key = rows["key"][-1]
        return verdicts

    def _opens(self, new: np.ndarray) -> np.ndarray:
        """Where components open, and how long they are; counts those that close."""
        starts = np.flatnonzero(new)
        if not len(starts):
            self.documents += len(new)
            return np.zeros(len(new), np.int64)
        lengths = np.diff(starts, append=len(new))
        self.sizes.add(np.concatenate([np.array([self.documents + starts[0]]), lengths[:-1]]))
        self.documents = int(lengths[-1])
        opens = np.zeros(len(new), np.int64)
        opens[starts] = lengths
        opens[starts[-1]] = self.open_length
        return opens

    def _documents(self, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """MEMBERS of documents by their numbers: of this block, or survivors of the component that it goes on with."""
        out = np.empty(len(numbers), MEMBERS.dtype)
        here = numbers >= self.decided
        out[here] = rows[numbers[here] - self.decided]
        out[~here] = self.survivors[np.searchsorted(self.numbers, numbers[~here])]
        return out

    def close(self) -> None:
        """The open component has no more documents."""
        self.sizes.add(np.array([self.documents]))
