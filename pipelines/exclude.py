"""Which documents are to be taken out of the shards?

The files of a source's `exclude` have an entry a line: a document's id (32 hexadecimal digits) or its key, exactly as
the source's `key` column has it. White space (ASCII) around an entry, blank lines and lines that begin with `#` do not
count; a key that is equal to an entry for several documents takes all of them. Of a source the documents that stand are
searched: those that filters and dedup left. What an entry names no such document is counted, and the first are shown.

Three stages: `exclude-list.<source>` sorts the entries; `exclude-found.<source>`, a task per split, compares them with
the ids and keys of its documents, and writes a row of dropped.py's schema for each that is found; `exclude.<source>`
brings the ids of all splits together and counts what was not found. Their identity is the content of the lists,
not where these lie. What is done with the ids is for takedown.py.

Memory: sorting takes the lists up to twelve times (short keys); a task per split 16 bytes an entry with a row group of
ids and keys; the last one 24 bytes an entry and 16 a document that is found.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from winnow.pipelines.cluster import Task
from winnow.pipelines.documents import lost_batch, name
from winnow.pipelines.dropped import SCHEMA, SURVIVOR
from winnow.pipelines.engine import Done, Request, Work
from winnow.pipelines.recipe import Recipe
from winnow.pipelines.records import Outputs, Stage
from winnow.pipelines.standing import Standing, rows_of
from winnow.shards import storage, tables
from winnow.shards.inputs import InputError

VERSION = 1
REASON = "exclude"
"""Stage and filter of the rows in RUN/dropped."""
SHOWN = 20
"""Entries without a document that are named."""
SHOWN_CHARS = 200
BATCH_ROWS = 1 << 16
ENTRIES = pa.schema([("text", pa.large_string()), ("number", pa.uint64())])
"""The entries in the order of their hashes; `number` is their place in the lists."""
ENTRY_ROWS = 1 << 10
"""Entries in a batch: what is read to compare one of them."""
ID = re.compile(r"^[0-9A-Fa-f]{32}$")
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Lists:
    """The lists of one source."""

    places: tuple[str, ...]
    digest: str
    """Of their content."""


def read_lists(recipe: Recipe) -> dict[str, Lists]:
    """The lists of every source that has some. Raises RecipeError for a file that is not there or not UTF-8."""
    found = {}
    for source, settings in recipe.sources.items():
        places = tuple(map(storage.absolute, settings.exclude))
        digest = hashlib.sha256()
        for i, place in enumerate(places):
            at = ("sources", source, "exclude", i)
            try:
                content = storage.read_bytes(place)
                content.decode()
            except OSError as error:
                raise recipe.located(at, f"{place}: {error.strerror or error}") from error
            except UnicodeDecodeError as error:
                line = error.object.count(b"\n", 0, error.start) + 1
                raise recipe.located(at, f"{place}:{line}: the list is not UTF-8 text") from None
            digest.update(len(content).to_bytes(8, "little") + content)
        if places:
            found[source] = Lists(places, digest.hexdigest())
    return found


def list_task(spec: Lists, outputs: Outputs) -> dict[str, Any]:
    """Sort the entries of a source's lists. Raises InputError when a list is another one than when the run began."""
    digest = hashlib.sha256()
    lines = []
    for place in spec.places:
        content = storage.read_bytes(place)
        digest.update(len(content).to_bytes(8, "little") + content)
        lines.append(_entries(content))
    if digest.hexdigest() != spec.digest:
        raise InputError(f"{', '.join(spec.places)}: changed since the run began")
    texts = pc.unique(pa.chunked_array(lines, pa.large_string()))
    hashes = _hashes(texts)
    order = np.argsort(hashes, kind="stable")
    _put(outputs, "hashes.bin", hashes[order])
    sorted_ = pa.record_batch(
        [texts.take(pa.array(order)), pa.array(order.astype(np.uint64))], schema=ENTRIES
    )
    with outputs.file("entries.arrow") as path, tables.arrow_writer(path, ENTRIES) as writer:
        for first in range(0, len(order), ENTRY_ROWS):
            writer.write_batch(sorted_.slice(first, ENTRY_ROWS))
    _put(outputs, "ids.bin", Ids.of(_ids_of(texts)[1]).stored())
    return {"entries": len(texts)}


def _entries(content: bytes) -> pa.LargeStringArray:
    text = pa.array([content.removeprefix(BOM).decode()], pa.large_string())
    lines = pc.ascii_trim_whitespace(pc.split_pattern(text, "\n").flatten())
    return lines.filter(pc.and_(pc.not_equal(lines, ""), pc.invert(pc.starts_with(lines, "#"))))


def _hashes(texts: pa.Array) -> np.ndarray:
    """uint64[n], xxh3 of each text; of a null, of nothing."""
    digest = xxhash.xxh3_64_intdigest
    found = np.empty(len(texts), np.uint64)
    # A Python string is several times a short text: of few at a time.
    for first in range(0, len(texts), BATCH_ROWS):
        some = texts.slice(first, BATCH_ROWS)
        found[first : first + len(some)] = [digest(t or "") for t in some.to_pylist()]
    return found


def _ids_of(texts: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """(int64[n], tables.ID[n]): which texts are ids of documents, and these."""
    where = np.flatnonzero(pc.match_substring_regex(texts, ID.pattern).to_numpy(zero_copy_only=False))
    digits = pc.cast(texts.take(pa.array(where)), pa.large_string())
    if not len(where):
        return where, pa.array([], tables.ID)
    edges = np.frombuffer(digits.buffers()[1], np.int64)[digits.offset : digits.offset + len(digits) + 1]
    letters = np.frombuffer(digits.buffers()[2], np.uint8)[edges[0] : edges[-1]].reshape(-1, 32)
    # Of hexadecimal digits the low four bits are the value, and nine less for a letter.
    nibbles = (letters & 15) + 9 * (letters >> 6)
    data = (nibbles[:, 0::2] << 4 | nibbles[:, 1::2]).astype(np.uint8)
    return where, pa.FixedSizeBinaryArray.from_buffers(
        tables.ID, len(where), [None, pa.py_buffer(data.tobytes())]
    )


def _put(outputs: Outputs, file: str, values: np.ndarray) -> None:
    outputs.put(file, values.tobytes())


@dataclass(frozen=True, slots=True)
class Ids:
    """Document ids in ascending order, none twice: two halves, uint64[n] each."""

    high: np.ndarray
    low: np.ndarray

    @staticmethod
    def of(ids: pa.Array) -> Ids:
        """Those of a column, in order and each once."""
        high, low = tables.id_halves(ids) if len(ids) else np.empty((2, 0), np.uint64)
        order = np.lexsort((low, high))
        high, low = high[order], low[order]
        fresh = np.ones(len(high), bool)
        fresh[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
        return Ids(high[fresh], low[fresh])

    @staticmethod
    def read(location: str) -> Ids:
        """Those that `stored` wrote."""
        halves = np.frombuffer(storage.read_bytes(location), "<u8").reshape(2, -1)
        return Ids(halves[0], halves[1])

    def stored(self) -> np.ndarray:
        return np.stack([self.high, self.low]).astype("<u8")

    def __len__(self) -> int:
        return len(self.high)

    def find(self, ids: pa.Array) -> np.ndarray:
        """int64[n]: where each of a column of ids is among these, -1 where it is not."""
        high, low = tables.id_halves(ids)
        begins = np.searchsorted(self.high, high, "left")
        ends = np.searchsorted(self.high, high, "right")
        out = np.full(len(ids), -1, np.int64)
        asked = np.flatnonzero(begins < ends)
        left, right, wanted = begins[asked], ends[asked], low[asked]
        while (between := left < right).any():
            middle = (left + right) // 2
            below = between & (self.low[np.minimum(middle, len(self) - 1)] < wanted)
            left, right = np.where(below, middle + 1, left), np.where(between & ~below, middle, right)
        there = left < ends[asked]
        there[there] = self.low[left[there]] == wanted[there]
        out[asked[there]] = left[there]
        return out


class Entries:
    """The sorted entries of a source, to find documents by."""

    def __init__(self, location: str):
        self.texts = storage.join(location, "entries.arrow")
        self.hashes = np.frombuffer(storage.read_bytes(storage.join(location, "hashes.bin")), np.uint64)
        self.ids = Ids.read(storage.join(location, "ids.bin"))

    def find(self, rows: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
        """(bool[n], int64[n]): whether an entry is the id of a row, and which one is its key, or -1."""
        by_id = self.ids.find(rows.column("id")) >= 0
        by_key = np.full(rows.num_rows, -1, np.int64)
        keys = rows.column("key")
        if keys.null_count == len(keys) or not len(self.hashes):
            return by_id, by_key
        hashes = _hashes(keys)
        first = np.searchsorted(self.hashes, hashes)
        equal = self.hashes[np.minimum(first, len(self.hashes) - 1)] == hashes
        equal &= keys.is_valid().to_numpy(zero_copy_only=False)
        where = np.flatnonzero(equal)
        for row, entry in zip(
            where.tolist(), self._confirmed(keys.take(pa.array(where)), first[where]), strict=True
        ):
            by_key[row] = entry
        return by_id, by_key

    def _confirmed(self, keys: pa.Array, first: np.ndarray) -> Iterator[int]:
        """The entry that each key is, -1 for those whose hash alone is equal; `first` has the key's hash, and maybe
        some after it."""
        if not len(keys):
            return
        with tables.arrow_file(self.texts) as reader:
            held: dict[int, pa.Array] = {}
            for key, start in zip(keys.to_pylist(), first.tolist(), strict=True):
                entry, found = start, -1
                while found < 0 and entry < len(self.hashes) and self.hashes[entry] == self.hashes[start]:
                    block = entry // ENTRY_ROWS
                    if block not in held:
                        held = {block: reader.get_batch(block).column("text")}
                    if held[block][entry % ENTRY_ROWS].as_py() == key:
                        found = entry
                    entry += 1
                yield found


@dataclass(frozen=True, slots=True)
class FindSpec:
    standing: Standing
    """With all steps of dedup."""
    entries: str
    """Location of the sorted entries."""


def find_task(spec: FindSpec, outputs: Outputs) -> dict[str, Any]:
    """Find the documents of one split that an entry names; nothing is written where there are none."""
    entries = Entries(spec.entries)
    aligned = rows_of(spec.standing, ["id", "key"])
    found = []
    for first in range(0, spec.standing.rows, BATCH_ROWS):
        batch = aligned.take(min(BATCH_ROWS, spec.standing.rows - first))
        batch = batch.filter(batch.column("keep"))
        if not batch.num_rows:
            continue
        by_id, by_key = entries.find(batch)
        where = np.flatnonzero(by_id | (by_key >= 0))
        if len(where):
            found.append(_report(batch.take(pa.array(where)), by_id[where]))
    aligned.end()
    if found:
        with (
            outputs.file(name("dropped", spec.standing.split, "parquet")) as path,
            tables.RowWriter(path, SCHEMA) as writer,
        ):
            for rows in found:
                writer.write(rows)
    return {"documents": sum(rows.num_rows for rows in found)}


def _report(rows: pa.RecordBatch, by_id: np.ndarray) -> pa.RecordBatch:
    """Rows for RUN/dropped; `detail` is by what the document was named."""
    n = rows.num_rows
    batch = lost_batch(
        ids=rows.column("id"),
        keys=rows.column("key"),
        stage=REASON,
        filters=[REASON] * n,
        details=["id" if named else "key" for named in by_id.tolist()],
    )
    return batch.add_column(SURVIVOR, SCHEMA.field("survivor"), pa.nulls(n, tables.ID))


@dataclass(frozen=True, slots=True)
class MergeSpec:
    entries: str
    found: tuple[str, ...]
    """Locations of what the splits have."""


def merge_task(spec: MergeSpec, outputs: Outputs) -> dict[str, Any]:
    """Bring the ids of all splits together; count the entries, and those that name no document."""
    entries = Entries(spec.entries)
    named = np.zeros(len(entries.hashes), bool)
    named_ids = np.zeros(len(entries.ids), bool)
    high, low = [], []
    for place in spec.found:
        for rows in tables.parquet_batches(place, ["id", "key"]):
            _, by_key = entries.find(rows)
            named[by_key[by_key >= 0]] = True
            at = entries.ids.find(rows.column("id"))
            named_ids[at[at >= 0]] = True
            halves = tables.id_halves(rows.column("id"))
            high.append(halves[0])
            low.append(halves[1])
    both = np.stack([np.concatenate([np.empty(0, np.uint64), *half]) for half in (high, low)])
    ids = Ids(*both[:, np.lexsort(both[::-1])])
    _put(outputs, "ids.bin", ids.stored())
    not_found, first = _not_found(entries, named, named_ids)
    return {
        "documents": len(ids),
        "entries": len(named),
        "not_found": not_found,
        "not_found_first": first,
    }


def _not_found(entries: Entries, named: np.ndarray, named_ids: np.ndarray) -> tuple[int, list[str]]:
    """How many entries are neither the key nor the id of a document, and the first ones in the lists' order."""
    count = row = 0
    first: list[tuple[int, str]] = []
    for batch in tables.arrow_batches(entries.texts):
        left = batch.filter(pa.array(~named[row : row + batch.num_rows]))
        row += batch.num_rows
        where, ids = _ids_of(left.column("text"))
        unnamed = np.ones(left.num_rows, bool)
        if len(where):
            unnamed[where] = ~named_ids[entries.ids.find(ids)]
        count += int(unnamed.sum())
        left = left.filter(pa.array(unnamed))
        numbers, texts = left.column("number").to_pylist(), left.column("text").to_pylist()
        first += [(number, text[:SHOWN_CHARS]) for number, text in zip(numbers, texts, strict=True)]
        first = sorted(first)[:SHOWN]
    return count, [text for _, text in first]


@dataclass(frozen=True, slots=True)
class Excluded:
    """The documents of one source that are to go."""

    source: str
    done: Done
    """Its one task counts `documents`, `entries`, `not_found` and shows `not_found_first`."""
    found: Done
    """A file `dropped-*.parquet` for each split that has some: for RUN/dropped."""

    @property
    def ids(self) -> str:
        """Location of the sorted ids, for `Ids.read`."""
        return ids_place(self.done.location)

    @property
    def counts(self) -> Mapping[str, Any]:
        return self.done.records[0].counts


def ids_place(location: str) -> str:
    """Where the stage `exclude.<source>` has the sorted ids."""
    return storage.join(location, "ids.bin")


def exclude(
    source: str, lists: Lists, inputs: Sequence[Standing], upstream: Sequence[Stage]
) -> Work[Excluded]:
    """Find the documents of a source that its lists name.

    inputs : its splits, behind filters and all steps of dedup.
    upstream : the stages that decided what stands.
    """
    identity = {"lists": lists.digest}
    listing = yield Request(Stage(f"exclude-list.{source}", VERSION, identity), [Task(0, list_task, lists)])
    stage = Stage(
        f"exclude-found.{source}",
        VERSION,
        {"source": source},
        (listing.stage.directory, *(s.directory for s in upstream)),
    )
    found = yield Request(stage, [Task(s.split, find_task, FindSpec(s, listing.location)) for s in inputs])
    places = tuple(storage.join(found.location, file) for record in found.records for file in record.outputs)
    merged = yield Request(
        Stage(f"exclude.{source}", VERSION, {}, (found.stage.directory,)),
        [Task(0, merge_task, MergeSpec(listing.location, places))],
    )
    return Excluded(source, merged, found)
