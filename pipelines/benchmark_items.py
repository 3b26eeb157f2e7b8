"""What do the files of benchmarks hold, and where is the index of their n-grams?

A row is an item: the texts of some of its fields, one under the other. The files are read whole; benchmarks are small,
and what the stage `benchmark-index` depends on is their bytes (their sha256), not where they lie. It keeps the
index (filters/benchmark_index.py) as flat arrays, and the items' words.

Memory: the items' texts, about three times, and the index twice.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from winnow.filters.benchmark_index import Index, build, words
from winnow.filters.decontaminate_settings import Benchmark, Decontaminate
from winnow.pipelines.cluster import Task
from winnow.pipelines.engine import Request
from winnow.pipelines.records import Outputs, Stage, canonical
from winnow.shards import arrays, decompress, json_rows, storage, tables
from winnow.shards.inputs import InputError, default_root, list_source

VERSION = 1
ITEMS = "items.parquet"
ITEM_SCHEMA = pa.schema([("benchmark", pa.string()), ("item", pa.string()), ("words", pa.large_string())])
"""A row an item: whose it is, what it is called, and its words with single spaces between."""
ARRAYS = ("hashes", "edges", "members", "words", "probes", "shape")
"""Of the index, each a file."""

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz", ".json.zst", ".parquet")
LONGEST_ROW = 1 << 28


@dataclass(frozen=True, slots=True)
class BenchmarkFile:
    """A file of a benchmark, as it was when it was looked for."""

    benchmark: str
    path: str
    """Relative to the directory before the first wildcard: what names its items."""
    location: str
    sha256: str

    @property
    def identity(self) -> list[str]:
        return [self.benchmark, self.path, self.sha256]


@dataclass(frozen=True, slots=True)
class Item:
    benchmark: str
    name: str
    """What its own field for that says, or file and number of the row, from 0."""
    text: str


def find_files(benchmarks: Mapping[str, Benchmark]) -> tuple[BenchmarkFile, ...]:
    """The files of benchmarks, in the order in which they are named, then by path.

    Raises InputError where nothing matches, or a file is of a kind that is not read.
    """
    found = []
    for name, benchmark in benchmarks.items():
        paths = list(benchmark.path)
        for file in list_source(f"benchmark {name}", default_root(paths), paths):
            if not file.path.endswith(SUFFIXES):
                raise InputError(f"benchmark {name!r}: {file.path}: files of {', '.join(SUFFIXES)} are read")
            digest = hashlib.sha256(storage.read_bytes(file.location)).hexdigest()
            found.append(BenchmarkFile(name, file.path, file.location, digest))
    return tuple(found)


def items_of(file: BenchmarkFile, benchmark: Benchmark) -> Iterator[Item]:
    """The items of a file, in its order; one that lacks all fields has no text.

    Raises InputError for a file that changed since it was looked for, that is damaged, or of which no row has one of
    the fields.
    """
    data = storage.read_bytes(file.location)
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise InputError(f"{_shown(file)}: changed since the run was planned; run again")
    missing = set(benchmark.text)
    for i, row in enumerate(_rows(file, data)):
        if not isinstance(row, dict):
            raise InputError(f"{_shown(file)}: row {i} is no object")
        texts = []
        for path in benchmark.text:
            if text := _text(_at(row, path)):
                texts.append(text)
                missing.discard(path)
        name = _at(row, benchmark.id) if benchmark.id else None
        yield Item(file.benchmark, f"{file.path}:{i}" if name is None else str(name), "\n".join(texts))
    if missing:
        raise InputError(f"{_shown(file)}: no row has a text in the field {sorted(missing)[0]!r}")


def _rows(file: BenchmarkFile, data: bytes) -> Iterator[Any]:
    compression = {".gz": "gzip", ".zst": "zstd"}.get("." + file.path.rsplit(".", 1)[-1])
    whole = io.BytesIO(data)
    try:
        if file.path.endswith(".parquet"):
            for batch in pq.ParquetFile(whole).iter_batches(use_threads=False):
                yield from batch.to_pylist()
        elif ".jsonl" in file.path.rsplit("/", 1)[-1]:
            for _, line, _ in json_rows.lines(whole, compression, 0, -1, LONGEST_ROW):
                yield orjson.loads(line or b"")
        else:
            rows = orjson.loads(b"".join(decompress.blocks(whole, compression)))
            if not isinstance(rows, list):
                raise InputError(f"{_shown(file)}: a list of objects is wanted; the file holds none")
            yield from rows
    except (orjson.JSONDecodeError, pa.ArrowException, OSError) as error:
        raise InputError(f"{_shown(file)}: cannot be read: {error}") from error


def _shown(file: BenchmarkFile) -> str:
    return f"benchmark {file.benchmark!r}: {file.path}"


def _at(row: Any, path: str) -> Any:
    """What a path of keys with dots between leads to; a key that has dots itself is found, too."""
    while isinstance(row, dict):
        if path in row:
            return row[path]
        key, dot, path = path.partition(".")
        row = row.get(key) if dot else None
    return None


def _text(value: Any) -> str:
    """A value as text: what a list holds one under the other; nothing for an object."""
    if isinstance(value, list):
        return "\n".join(text for inner in value if (text := _text(inner)))
    if value is None or isinstance(value, dict):
        return ""
    # JSON can carry half a character as an escape; UTF-8 cannot.
    return str(value).encode("utf-8", "replace").decode()


@dataclass(frozen=True, slots=True)
class IndexSpec:
    files: tuple[BenchmarkFile, ...]
    benchmarks: dict[str, Benchmark]
    n: int
    min_words: int


@dataclass(frozen=True, eq=False, slots=True)
class Benchmarks:
    """An index as a task has it; lists are by item."""

    index: Index
    benchmark: list[str]
    item: list[str]
    normal: list[str]
    """Words with single spaces between."""


def index_request(settings: Decontaminate) -> Request:
    """The stage that keeps the index of a step's benchmarks. Raises InputError as `find_files` does."""
    files = find_files(settings.benchmarks)
    identity = {
        "files": [file.identity for file in files],
        "fields": {name: [b.text, b.id] for name, b in settings.benchmarks.items()},
        "n": settings.n,
        "min_words": settings.min_words,
    }
    digest = hashlib.sha256(canonical(identity)).hexdigest()[:16]
    spec = IndexSpec(files, settings.benchmarks, settings.n, settings.min_words)
    return Request(Stage(f"benchmark-index.{digest}", VERSION, identity), [Task(0, index_task, spec)])


def index_task(spec: IndexSpec, outputs: Outputs) -> dict[str, Any]:
    """Read the benchmarks and index their n-grams; returns how many items each has.

    `too_short` are not looked for, `short` ones are n-grams of their whole length.
    """
    counts = {name: {"items": 0, "short": 0, "too_short": 0} for name in spec.benchmarks}
    items, normal = [], []
    for file in spec.files:
        for item in items_of(file, spec.benchmarks[file.benchmark]):
            items.append(item)
            normal.append(words(item.text))
            size, mine = len(normal[-1]), counts[item.benchmark]
            mine["items"] += 1
            mine["short"] += spec.min_words <= size < spec.n
            mine["too_short"] += size < spec.min_words
    texts = pa.array([" ".join(w) for w in normal], pa.large_string())
    index = build(texts, spec.n, spec.min_words)
    held = texts.nbytes
    for array in ARRAYS:
        save(outputs, f"{array}.npy", getattr(index, array))
        held += getattr(index, array).nbytes
    with outputs.file(ITEMS) as path, tables.RowWriter(path, ITEM_SCHEMA) as writer:
        names = (pa.array([i.benchmark for i in items]), pa.array([i.name for i in items]))
        writer.write(pa.record_batch([*names, texts], schema=ITEM_SCHEMA))
    return {"benchmarks": counts, "ngrams": len(index.hashes), "bytes": held}


@lru_cache(maxsize=1)
def load_benchmarks(location: str) -> Benchmarks:
    """The index that a finished stage keeps; once per process."""
    held = [load(storage.join(location, f"{array}.npy")) for array in ARRAYS]
    rows = pa.Table.from_batches(tables.parquet_batches(storage.join(location, ITEMS)), ITEM_SCHEMA)
    return Benchmarks(Index(*held), *rows.to_pydict().values())


def save(outputs: Outputs, file_name: str, array: np.ndarray) -> None:
    """Commit an array; equal arrays give equal files."""
    with outputs.file(file_name) as path, open(path, "wb") as file:
        arrays.save(file, array)


def load(location: str) -> np.ndarray:
    """An array that was saved. Raises FileNotFoundError, ValueError."""
    return np.load(io.BytesIO(storage.read_bytes(location)), allow_pickle=False)
