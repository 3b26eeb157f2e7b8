"""Which documents is a sample made of, and which samples is a document in?

Both ways a few files are read, however large the run. A sample's number is its place in the published index. What lies
where is arithmetic as long as nothing was taken down: shard = row // rows a shard. After a takedown (takedown.py) a
sample's row is found by the rows left in each shard, and by the provenance of its own one.

    sample -> shard and row -> provenance of the row -> documents, bytes of their text, keys
    document -> key of its source's order -> partition -> tokens of the stream -> rows -> positions -> samples

Memory: one row group of provenance, a list of a source's files, and for documents of `pad` and `best-fit` the plan of
a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isqrt
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from winnow.pipelines import mixed, packings, split_rows, stream, takedown
from winnow.pipelines.chat_tracing import byte_ends
from winnow.pipelines.documents import name
from winnow.pipelines.engine import Done
from winnow.pipelines.exclude import Ids, ids_place
from winnow.pipelines.finished import FinishedRun, UnknownError
from winnow.pipelines.ledger import completed
from winnow.pipelines.pack import SPLITS, stage_name, windows_name
from winnow.pipelines.packings import Packing
from winnow.pipelines.published_samples import Samples
from winnow.pipelines.records import put_again
from winnow.pipelines.split_rows import readable
from winnow.shards import mds_layout, packed_rows, storage, tables, token_stream
from winnow.shards.interleave import MixedOrder
from winnow.shards.packed_rows import PackedRows

MIXED = "mixed"
"""The stream that is all sources."""
PARTITIONS = "partitions.bin"
"""uint64[partitions, 2] in a stage `stream`: documents and tokens of each."""
READ_ROWS = 1 << 12
"""Rows of documents that are read at once."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a document in a sample."""

    sample: int
    offset: int
    """Token of the sample it begins at."""
    tokens: int
    document: str
    """Id, 32 hexadecimal digits."""
    source: str
    path: str
    position: int
    """Of the row in its file: byte of the decompressed stream, or row number."""
    key: str | None
    """The publisher's own id or URL."""
    byte_start: int | None
    """Bytes of the document's text, as the tokenizer normalised it; None where its pieces do not spell bytes."""
    byte_end: int | None
    trained: int | None = None
    """Tokens that are trained on; None where the shards have no loss mask."""


@dataclass(frozen=True, slots=True)
class DocumentTrace:
    """Where a document is in the samples of one packing."""

    document: str
    source: str
    path: str
    position: int
    key: str | None
    split: str | None
    """None where the document was dropped, a conversation without tokens among them."""
    packing: str
    stream: str | None
    """That has the samples: the source's own, or `mixed`."""
    samples: tuple[int, ...]
    samples_dropped: int
    """By a takedown, for this document or for others in the same samples."""
    excluded: bool
    """Whether a list of `exclude` names it."""
    tokens: int
    unused_tokens: int
    """In no sample of the packing: the tail that fills none, or the part of another phase."""


def put_partitions(done: Done) -> None:
    """Keep how large the partitions of a finished stage `stream` are in one file, so that no records need be read."""
    sizes = [(r.counts["documents"], r.counts["tokens"]) for r in done.records]
    put_again(storage.join(done.location, PARTITIONS), np.array(sizes, "<u8").tobytes())


class Tracer:
    """Answers for one finished run; what it has read of the run's layout it keeps."""

    def __init__(self, run: FinishedRun):
        self.run = run
        self._read: dict[str, dict[str, Any]] = {}
        self._files: dict[str, pa.Table] = {}
        self._partitions: dict[str, np.ndarray] = {}

    # ---- how the run lies ---------------------------------------------------------------------------------

    @cached_property
    def packings(self) -> list[Packing]:
        """The main one first."""
        return packings.packings(self.run.recipe.sequence)

    @cached_property
    def stages(self) -> dict[str, str]:
        """Directories of the run's stages, by name."""
        return {s["name"]: s["directory"] for s in self.run.manifest["stages"]}

    def samples(self, stream_name: str, split: str, packing: str | None = None) -> Samples:
        """The samples of a stream. Raises UnknownError for what the run does not have."""
        if split not in SPLITS:
            raise UnknownError(f"there is no split {split!r}; there are {', '.join(SPLITS)}")
        way = self._packing(packing)
        mixture = self._mixed(way) if split == "train" else None
        if mixture is None:
            self.run.stage(stream_name, "stream")  # raises UnknownError
            n_rows = self._rows(stream_name, split, way).n_rows
            return self._samples(self._name("shards", stream_name, way), split, n_rows)
        if stream_name != MIXED:
            self.run.stage(stream_name, "stream")
            raise UnknownError(
                f"all training samples are in the stream {MIXED!r}, those of {stream_name!r} too"
            )
        return self._samples(mixture, split, self._order(mixture).interleaving.n_rows)

    def _samples(self, base: str, split: str, n_rows: int) -> Samples:
        settings = self._settings(base)
        layout = mds_layout.layout_from(settings)
        taken = takedown.stage_name(base)
        if taken not in self.stages or not n_rows:
            return Samples(self._location(base), split, layout, n_rows, None)
        place = storage.join(self._location(taken), takedown.rows_name(split))
        with readable(place):
            left = np.frombuffer(storage.read_bytes(place), "<u4").astype(np.int64)
        return Samples(self._location(taken), split, layout, n_rows, left)

    def _packing(self, packing: str | None) -> Packing:
        for way in self.packings:
            if packing in (None, way.name):
                return way
        raise UnknownError(
            f"there is no packing {packing!r}; the run has {', '.join(p.name for p in self.packings)}"
        )

    def _name(self, kind: str, source: str, way: Packing) -> str:
        return stage_name(kind, source, way, way == self.packings[0])

    def _mixed(self, way: Packing) -> str | None:
        """The stage of a mixed stream."""
        stage = MIXED if way == self.packings[0] else f"{MIXED}-{way.name}"
        return stage if stage in self.stages else None

    def _order(self, mixture: str) -> MixedOrder:
        return mixed.order_of(self._settings(mixture))

    def _location(self, stage: str) -> str:
        return storage.join(self.run.location, "stages", self.stages[stage])

    def _settings(self, stage: str) -> dict[str, Any]:
        if stage not in self._read:
            place = storage.join(self._location(stage), "stage.json")
            with readable(place):
                self._read[stage] = orjson.loads(storage.read_bytes(place))["settings"]
        return self._read[stage]

    def _sizes(self, source: str, split: str) -> np.ndarray:
        """int64[partitions, 2]: documents and tokens of the partitions of a split of a source's stream."""
        if source not in self._partitions:
            location = self.run.stage(source, "stream")
            place = storage.join(location, PARTITIONS)
            if storage.exists(place):
                sizes = np.frombuffer(storage.read_bytes(place), "<u8")
            else:
                records = sorted(completed(location).items())
                sizes = np.array([(r.counts["documents"], r.counts["tokens"]) for _, r in records])
            self._partitions[source] = sizes.reshape(-1, 2).astype(np.int64)
        train = self.run.places[source]["train_partitions"]
        return self._partitions[source][:train] if split == "train" else self._partitions[source][train:]

    def _rows(self, source: str, split: str, way: Packing) -> PackedRows:
        """The rows of a source, without its tokens."""
        settings = self._settings(self._name("shards", source, way))
        bare = token_stream.TokenStream((), settings["dtype"], stream.ROWS)
        if settings["pack"] == "concat":
            n_tokens = int(self._sizes(source, split)[:, 1].sum())
            return packed_rows.concat(bare, way.length, *way.part(split, n_tokens))
        location = self._location(self._name("packs", source, way))
        place = storage.join(location, windows_name(split))
        with readable(place):
            windows = np.frombuffer(storage.read_bytes(place), packed_rows.WINDOWS)
        plans = storage.join(location, split)
        return packed_rows.windowed(bare, way.length, settings["pad_id"], plans, windows)

    # ---- from samples to documents ------------------------------------------------------------------------

    def _located(
        self, stream_name: str, split: str, sample: int, packing: str | None
    ) -> tuple[Samples, tuple[int, int, int]]:
        samples = self.samples(stream_name, split, packing)
        if not 0 <= sample < samples.n_samples:
            n = samples.n_samples
            there = f", 0 to {n - 1:,}" if n else ""
            raise UnknownError(f"{stream_name} {split} has {n:,} samples{there}; there is no {sample}")
        return samples, samples.locate(sample)

    def tokens(self, stream_name: str, split: str, sample: int, packing: str | None = None) -> np.ndarray:
        """The token ids of a sample, uint16 or uint32 [length]. Raises UnknownError, NotFinishedError."""
        samples, (shard, row, _) = self._located(stream_name, split, sample, packing)
        return samples.row(shard, row)[0]

    def sample(self, stream_name: str, split: str, sample: int, packing: str | None = None) -> list[Piece]:
        """Which documents a sample is made of, in order. Raises UnknownError, NotFinishedError."""
        samples, (shard, in_shard, row) = self._located(stream_name, split, sample, packing)
        rows = samples.pieces(shard, row).to_pylist()
        places = {r["id"]: self.run.place_of(r["id"].hex()) for r in rows}
        keys = self.keys(places)
        mask = samples.row(shard, in_shard)[1]
        found = [
            Piece(
                sample, r["offset"], r["tokens"], r["id"].hex(), *places[r["id"]], keys.get(r["id"]),
                r["byte_start"], r["byte_end"],
                None if mask is None else int(mask[r["offset"] : r["offset"] + r["tokens"]].sum()),
            )
            for r in rows
        ]  # fmt: skip
        # All documents of a sample are of one source.
        if found and self._is_chat(found[0].source):
            return self._of_conversations(found, split, self._packing(packing), row)
        return found

    def _of_conversations(self, pieces: Sequence[Piece], split: str, way: Packing, row: int) -> list[Piece]:
        """The pieces of a row of the base, with the bytes that they spell of conversations."""
        source = pieces[0].source
        mixture = self._mixed(way) if split == "train" else None
        if mixture is not None:
            _, row = self._order(mixture).locate(row)
        rows = self._rows(source, split, way)
        found = []
        for piece in pieces:
            within = self._in_stream(source, split, int(piece.document[:16], 16), piece.position)
            ends = byte_ends(self.run, source, bytes.fromhex(piece.document))
            if within is None or ends is None:
                found.append(piece)
                continue
            first = rows.start_of(row, piece.offset) - within[0]
            start = int(ends[first - 1]) if first else 0
            found.append(replace(piece, byte_start=start, byte_end=int(ends[first + piece.tokens - 1])))
        return found

    def keys(self, places: dict[bytes, tuple[str, str, int]]) -> dict[bytes, str | None]:
        """The publisher's keys of documents, given where they are from; of sources without keys nothing is read."""
        found: dict[bytes, str | None] = {}
        sources = {source for source, _, _ in places.values()}
        for source in sources:
            if self.run.recipe.sources[source].read.key is None:
                continue
            documents = self.run.stage(source, "documents")
            splits, ranks = split_rows.splits_of(self.run, source), self.run.file_ranks(source)
            for id_ in (i for i, place in places.items() if place[0] == source):
                for split in split_rows.splits_to_search(documents, splits, ranks, id_):
                    rows = split_rows.find_rows(
                        storage.join(documents, name("rows", split, "parquet")), [id_], ["key"]
                    )
                    if id_ in rows:
                        found[id_] = rows[id_][1].column("key")[0].as_py()
                        break
        return found

    # ---- from documents to samples ------------------------------------------------------------------------

    def document(self, document: str, packing: str | None = None) -> DocumentTrace:
        """Which samples a document is in. Its place follows from its id: nothing is searched through.

        Raises UnknownError as `place_of` and for a packing that there is not, NotFinishedError.
        """
        way = self._packing(packing)
        source, path, position = place = self.run.place_of(document)
        id_ = bytes.fromhex(document)
        document = id_.hex()
        key = self.keys({id_: place}).get(id_)
        trace = DocumentTrace(
            document, source, path, position, key, None, way.name, None, (), 0, self._is_excluded(source, id_), 0, 0
        )  # fmt: skip
        for split in SPLITS:
            found = self._in_stream(source, split, int(document[:16], 16), position)
            if found is not None and not (found[0] == found[1] and self._is_chat(source)):
                return self._in_samples(trace, split, way, *found)
        return trace

    def _in_samples(
        self, trace: DocumentTrace, split: str, way: Packing, begin: int, end: int
    ) -> DocumentTrace:
        """The trace of a document that is the tokens [begin, end) of a stream."""
        rows = self._rows(trace.source, split, way)
        own = [row for a, b in rows.rows_of(begin, end) for row in range(a, b)]
        mixture = self._mixed(way) if split == "train" else None
        if mixture is None:
            name_, positions = trace.source, own
        else:
            order = self._order(mixture)
            name_, positions = MIXED, [p for row in own for p in order.positions_of(trace.source, row)]
        samples, dropped = self.samples(name_, split, way.name).of_rows(positions)
        return replace(
            trace,
            split=split,
            stream=name_,
            samples=tuple(samples),
            samples_dropped=dropped,
            tokens=end - begin,
            unused_tokens=end - begin - _used(rows, begin, end, own),
        )

    def _is_chat(self, source: str) -> bool:
        return self.run.recipe.sources[source].read.chat is not None

    def _is_excluded(self, source: str, id_: bytes) -> bool:
        stage = f"exclude.{source}"
        if stage not in self.stages:
            return False
        place = ids_place(self._location(stage))
        with readable(place):
            return bool(Ids.read(place).find(pa.array([id_], tables.ID))[0] >= 0)

    def _in_stream(self, source: str, split: str, high: int, low: int) -> tuple[int, int] | None:
        """The tokens [begin, end) of a split's stream that are a document's."""
        halves = np.array([high], np.uint64), np.array([low], np.uint64)
        key = int(stream.order_keys(self.run.recipe.seed, *halves, halves[1], 0.0)[0])
        train = self.run.places[source]["train_partitions"]
        bounds = [0, *(int(b) for b in self.run.places[source]["partition_bounds"])]
        first = 0
        if split == "val":
            key, first = key | stream.VAL, train
        sizes = self._sizes(source, split)
        partition = int(np.searchsorted(np.array(bounds, np.uint64), np.uint64(key), side="right")) - 1
        if not 0 <= partition - first < len(sizes):
            return None
        stop = (*bounds, stream.VAL if split == "train" else 1 << 64)[partition + 1]
        share = (key - bounds[partition]) / (stop - bounds[partition])
        place = storage.join(self.run.stage(source, "stream"), name("stream", partition, "rows"))
        within = _find_row(place, int(sizes[partition - first, 0]), share, key, high, low)
        if within is None:
            return None
        before = int(sizes[: partition - first, 1].sum())
        return before + within[0], before + within[1]


def _used(rows: PackedRows, begin: int, end: int, own: Sequence[int]) -> int:
    """Tokens of a document that are in rows."""
    if rows.pad_id is not None:
        return end - begin if own else 0
    return max(0, min(end, rows.begin + rows.n_rows * rows.length) - max(begin, rows.begin))


def _find_row(
    place: str, documents: int, share: float, key: int, high: int, low: int
) -> tuple[int, int] | None:
    """Where in a partition a document's tokens are. Its keys are hashes, so it lies near `share` of the documents."""
    spread = max(READ_ROWS // 2, 4 * isqrt(documents))
    guess = int(share * documents)
    item = stream.ROWS.itemsize
    while True:
        a, b = max(0, guess - spread), min(documents, guess + spread)
        with readable(place):
            rows = np.frombuffer(storage.read_range(place, a * item, (b - a) * item), stream.ROWS)
        if (a == 0 or rows["key"][0] < key) and (b == documents or rows["key"][-1] > key):
            break
        spread *= 8
    at = np.flatnonzero((rows["key"] == key) & (rows["high"] == high) & (rows["low"] == low))
    if not len(at):
        return None
    i = int(at[0])
    # With a > 0 the first row's key is another's.
    return (int(rows["end"][i - 1]) if i else 0), int(rows["end"][i])
