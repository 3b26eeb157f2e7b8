"""What can a finished run be asked?

`open_run` opens a published run: its statistics, which documents a sample is made of and back, whether its
shards are whole, and what in it nobody refers to any more. Reads only what it shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from winnow.pipelines import publish, stream
from winnow.pipelines.documents import name
from winnow.pipelines.pack import SPLITS, provenance_name
from winnow.pipelines.recipe import Recipe, read
from winnow.pipelines.records import completed
from winnow.pipelines.tokens import load_vocabulary
from winnow.shards import mds, storage, tables
from winnow.tokenize.encoder import Encoder

DOCUMENT_ID = re.compile(r"[0-9A-Fa-f]{32}")


class NotFinishedError(RuntimeError):
    """The directory holds no published run."""


class UnknownError(LookupError):
    """A stream, sample or document that the run does not have."""


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
    byte_start: int
    """Bytes of the document's text, as the tokenizer normalised it."""
    byte_end: int


@dataclass(frozen=True, slots=True)
class DocumentTrace:
    """What became of a document."""

    document: str
    source: str
    path: str
    position: int
    split: str | None
    """None where the document was dropped."""
    samples: tuple[int, ...]
    tokens: int
    unused_tokens: int
    """Tokens in the tail that fills no sample."""


class FinishedRun:
    """A published run."""

    def __init__(self, location: str):
        self.location = storage.absolute(location)
        if not storage.exists(storage.join(self.location, "manifest.json")):
            raise NotFinishedError(
                f"{self.location} has no manifest.json: the run has not finished (or it is no run); "
                "`winnow run` continues it"
            )
        self.manifest = publish.read_json(self.location, "manifest.json")
        if changed := publish.torn(self.location, self.manifest):
            raise NotFinishedError(
                f"{self.location}: publishing was interrupted ({', '.join(changed)} and manifest.json are of "
                "different runs); `winnow run` completes it"
            )
        self.mixture = publish.read_json(self.location, "mixture.json")
        self.places = {s["name"]: s for s in self.manifest["sources"]}
        self._listings: dict[str, dict[int, str]] = {}

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe, with every default."""
        text = storage.read_bytes(storage.join(self.location, "recipe.yaml")).decode()
        return read(text, storage.join(self.location, "recipe.yaml"))

    def stage(self, source: str, kind: str) -> str:
        """Location of a source's stage. Raises UnknownError for a source that is not there."""
        if source not in self.places:
            raise UnknownError(f"there is no stream {source!r}; the run has {', '.join(self.places)}")
        return storage.join(self.location, "stages", self.places[source][kind])

    @property
    def tokenizer(self) -> str:
        """Location of the tokenizer's stage."""
        return self.stage_named("tokenizer")

    def stage_named(self, name: str) -> str:
        """Location of the stage of that name: its kind, and its source where it belongs to one."""
        directory = next(s["directory"] for s in self.manifest["stages"] if s["name"] == name)
        return storage.join(self.location, "stages", directory)

    # ---- samples and documents ------------------------------------------------------------------------------

    def entries(self, source: str, split: str) -> list[dict[str, Any]]:
        """Index entries of the shards of a split; [] where it has none."""
        if split not in SPLITS:
            raise UnknownError(f"there is no split {split!r}; there are {', '.join(SPLITS)}")
        place = storage.join(self.stage(source, "shards"), split, mds.INDEX_NAME)
        return mds.read_index(storage.read_bytes(place)) if storage.exists(place) else []

    def locate(self, source: str, split: str, sample: int) -> tuple[int, dict[str, Any], int]:
        """(shard, index entry, row in it) of a sample. Raises UnknownError outside the stream."""
        first = 0
        for shard, entry in enumerate(self.entries(source, split)):
            if first <= sample < first + entry["samples"]:
                return shard, entry, sample - first
            first += entry["samples"]
        there = f", 0 to {first - 1:,}" if first else ""
        raise UnknownError(f"{source} {split} has {first:,} samples{there}; there is no {sample}")

    def sample_tokens(self, source: str, split: str, sample: int) -> np.ndarray:
        """The token ids of a sample, uint16 or uint32 [length]."""
        _, entry, row = self.locate(source, split, sample)
        file = (entry["zip_data"] or entry["raw_data"])["basename"]
        stored = storage.read_bytes(storage.join(self.stage(source, "shards"), split, file))
        return mds.read_rows(mds.raw_shard(stored, entry), entry, row, row + 1)[0]

    def decode(self, ids: np.ndarray) -> str:
        """The text of token ids, control tokens by name."""
        vocabulary = load_vocabulary(self.tokenizer)
        return Encoder(vocabulary, vocabulary.reference, append="none").decode(ids)

    def trace_sample(self, source: str, split: str, sample: int) -> list[Piece]:
        """Which documents a sample is made of, in order."""
        shard, _, _ = self.locate(source, split, sample)
        place = storage.join(self.stage(source, "shards"), provenance_name(split, shard))
        files = self._files(source)
        pieces = []
        with storage.open_input(place) as handle:
            table = pq.read_table(handle, filters=[("sample", "=", sample)])
        for row in table.to_pylist():
            half, position = int.from_bytes(row["id"][:8], "big"), int.from_bytes(row["id"][8:], "big")
            pieces.append(
                Piece(sample, row["offset"], row["tokens"], row["id"].hex(), source, files.get(half, "?"), position,
                      row["byte_start"], row["byte_end"])
            )  # fmt: skip
        return pieces

    def trace_document(self, document: str) -> DocumentTrace:
        """Which samples a document is in. Its place follows from its id: nothing is searched through.

        Raises UnknownError for an id that is not 32 hexadecimal digits or of no file of the run.
        """
        source, path, position = self.place_of(document)
        half = int(document[:16], 16)
        bounds = np.array([int(b) for b in self.places[source]["partition_bounds"]], np.uint64)
        high, low = np.array([half], np.uint64), np.array([position], np.uint64)
        key = int(stream.order_keys(self.recipe.seed, high, low, low, 0.0)[0])
        train = self.places[source]["train_partitions"]
        records = completed(self.stage(source, "stream"))
        for split, k, parts in (
            ("train", key, range(train)),
            ("val", key | stream.VAL, range(train, len(bounds) + 1)),
        ):
            partition = int(np.searchsorted(bounds, np.uint64(k), side="right"))
            if partition not in parts:
                continue
            rows = self._stream_rows(source, partition, records[partition].counts["documents"])
            at = np.flatnonzero((rows["key"] == k) & (rows["high"] == half) & (rows["low"] == position))
            if not len(at):
                continue
            i = int(at[0])
            before = sum(records[p].counts["tokens"] for p in parts if p < partition)
            begin = before + (int(rows["end"][i - 1]) if i else 0)
            end = before + int(rows["end"][i])
            length = self.mixture["sequence_length"]
            usable = next(s for s in self.mixture["sources"] if s["name"] == source)[split]["rows"] * length
            last = min(end, usable)
            samples = tuple(range(begin // length, (last - 1) // length + 1)) if last > begin else ()
            unused = end - max(begin, min(end, usable))
            return DocumentTrace(document, source, path, position, split, samples, end - begin, unused)
        return DocumentTrace(document, source, path, position, None, (), 0, 0)

    def place_of(self, document: str) -> tuple[str, str, int]:
        """(source, path, position) that an id tells; whether a document begins there is not looked at.

        Raises UnknownError as `trace_document` does.
        """
        if not DOCUMENT_ID.fullmatch(document):
            raise UnknownError(f"{document!r} is no document id: 32 hexadecimal digits")
        source, path = self._owner(int(document[:16], 16), document)
        return source, path, int(document[16:], 16)

    def _stream_rows(self, source: str, partition: int, documents: int) -> np.ndarray:
        place = storage.join(self.stage(source, "stream"), name("stream", partition, "rows"))
        data = storage.read_range(place, 0, documents * stream.ROWS.itemsize)
        return np.frombuffer(data, stream.ROWS)

    def _files(self, source: str) -> dict[int, str]:
        """First half of an id -> path, in the order of the listing."""
        if source not in self._listings:
            with storage.open_input(storage.join(self.stage(source, "documents"), "files.parquet")) as handle:
                table = pq.read_table(handle, columns=["id_half", "path"])
            halves, paths = (table.column(c).to_pylist() for c in ("id_half", "path"))
            self._listings[source] = dict(zip(halves, paths, strict=True))
        return self._listings[source]

    def file_ranks(self, source: str) -> dict[int, int]:
        """First half of an id -> the file's place in the order of the source."""
        return {half: rank for rank, half in enumerate(self._files(source))}

    def _owner(self, half: int, document: str) -> tuple[str, str]:
        for source in self.places:
            path = self._files(source).get(half)
            if path is not None:
                return source, path
        raise UnknownError(f"document {document} is from no file of this run")

    # ---- checks ---------------------------------------------------------------------------------------------

    def verify(self) -> Iterator[str]:
        """Check the published shards: index, sizes, hashes, headers, counts, token range, provenance; yield problems.

        Memory: one shard (twice when compressed).
        """
        max_id = self.mixture["tokenizer"]["max_id"]
        for source in self.mixture["sources"]:
            for split in SPLITS:
                yield from self._verify_stream(source, split, max_id)

    def _verify_stream(self, facts: dict[str, Any], split: str, max_id: int) -> Iterator[str]:
        source = facts["name"]
        place = storage.join(self.stage(source, "shards"), split)
        label = f"{source}/{split}"
        try:
            entries = self.entries(source, split)
        except (ValueError, OSError) as error:
            yield f"{label}: index.json: {error}"
            return
        if len(entries) != facts[split]["shards"]:
            yield f"{label}: the index lists {len(entries)} shards, mixture.json {facts[split]['shards']}"
        rows = sum(e["samples"] for e in entries)
        if rows != facts[split]["rows"]:
            yield f"{label}: the index lists {rows:,} samples, mixture.json {facts[split]['rows']:,}"
        for number, entry in enumerate(entries):
            file = (entry["zip_data"] or entry["raw_data"])["basename"]
            try:
                stored = storage.read_bytes(storage.join(place, file))
            except OSError as error:
                yield f"{label}/{file}: cannot be read ({error.strerror or error})"
                continue
            for problem in mds.check_shard(stored, entry, max_id):
                yield f"{label}/{file}: {problem}"
            yield from self._verify_provenance(source, split, number, entry, label)

    def _verify_provenance(
        self, source: str, split: str, number: int, entry: dict[str, Any], label: str
    ) -> Iterator[str]:
        place = storage.join(self.stage(source, "shards"), provenance_name(split, number))
        wanted = entry["samples"] * self.mixture["sequence_length"]
        try:
            tokens = sum(
                int(b.column("tokens").to_numpy().sum(dtype=np.int64))
                for b in tables.parquet_batches(place, ["tokens"])
            )
        except (OSError, ValueError) as error:
            yield f"{label}: provenance of shard {number} cannot be read ({error})"
            return
        if tokens != wanted:
            yield f"{label}: provenance of shard {number} covers {tokens:,} tokens, the shard has {wanted:,}"

    def unreferenced(self) -> dict[str, int]:
        """Stage directories that the manifest does not name, and attempts a kill left: relative path -> bytes."""
        referenced = {s["directory"] for s in self.manifest["stages"]}
        stages = storage.join(self.location, "stages")
        sizes: dict[str, int] = {}
        for path, size in storage.list_files(stages).items():
            directory = path.split("/", 1)[0]
            if directory not in referenced:
                sizes[f"stages/{directory}"] = sizes.get(f"stages/{directory}", 0) + size
        for path, size in storage.list_files(stages, unfinished=True).items():
            if path.split("/", 1)[0] in referenced:
                sizes[f"stages/{path}"] = size
        return dict(sorted(sizes.items()))


def open_run(location: str) -> FinishedRun:
    """Open a published run. Raises NotFinishedError, SchemaError."""
    return FinishedRun(location)
