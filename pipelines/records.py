"""What is done, and can be trusted?

A stage is an immutable directory `RUN/stages/<name>-<hash16>/`; the hash covers the stage's settings,
its algorithm's version and the identities of its inputs, so other settings are another directory and
going back to old ones finds them done. A task writes its outputs and, last of all, its record. A record's
*identity* (counts, sizes and hashes of outputs) is the same on every attempt; its *measurement* (seconds,
host, memory) is not, and enters no hash.

What is recorded, and whose outputs have the recorded sizes, is trusted; everything else is redone. How records are
read back, and held: ledger.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import xxhash
from winnow.shards import storage

SCHEMA_VERSION = 4
RECORDS = "records"


class SchemaError(RuntimeError):
    """A run directory was written by a version of Winnow whose files this one does not read."""


def canonical(value: Any) -> bytes:
    """JSON with sorted keys: what stage hashes are taken of."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)


@dataclass(frozen=True)
class Stage:
    """The identity of one stage of a run."""

    name: str
    """Kind, and source where it belongs to one: `documents.c4`."""
    version: int
    """Of the algorithm; raised when the same settings give other outputs."""
    settings: Mapping[str, Any]
    inputs: tuple[str, ...] = ()
    """Directories of the stages it reads."""

    @property
    def kind(self) -> str:
        return self.name.split(".", 1)[0]

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA_VERSION,
            "name": self.name,
            "version": self.version,
            "settings": self.settings,
            "inputs": list(self.inputs),
        }

    @property
    def directory(self) -> str:
        """`<name>-<hash16>`, below RUN/stages."""
        return f"{self.name}-{hashlib.sha256(canonical(self.identity)).hexdigest()[:16]}"

    def location(self, run: str) -> str:
        return storage.join(run, "stages", self.directory)


@dataclass(frozen=True, slots=True)
class Record:
    """What a finished task left."""

    index: int
    counts: dict[str, Any]
    outputs: dict[str, tuple[int, str]]
    """Bytes and xxh3-128 of each output, by name inside the stage's directory."""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """User and system time of the task."""
    peak_bytes: int = 0


@dataclass(slots=True)
class Outputs:
    """Collects a task's outputs as it commits them."""

    location: str
    files: dict[str, tuple[int, str]] = field(default_factory=dict)

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[str]:
        """Yield a local path to write; the file is committed as `name` and counted when the block ends well."""
        with storage.commit(storage.join(self.location, name)) as path:
            yield path
            self.files[name] = (os.path.getsize(path), file_hash(path))

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Commit a small file."""
        with self.file(name) as path, open(path, "wb") as file:
            file.write(data)


def file_hash(path: str) -> str:
    """xxh3-128 of a local file, hexadecimal."""
    digest = xxhash.xxh3_128()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def record_name(index: int) -> str:
    """The file of a task's record in its stage's directory."""
    return f"{RECORDS}/{index:08d}.json"


TaskFunction = Callable[[Any, Outputs], dict[str, Any]]
"""Takes a task's specification and where to commit; returns the counts of its record."""


def perform(
    location: str, index: int, function: TaskFunction, spec: Any, whose: int = resource.RUSAGE_SELF
) -> Record:
    """Run one task and write its record; what a worker does, with or without Ray.

    whose : RUSAGE_THREAD where the process does other tasks at the same time: CPU time is then this thread's.
    """
    outputs = Outputs(location)
    wall, before = time.perf_counter(), resource.getrusage(whose)
    counts = function(spec, outputs)
    after = resource.getrusage(whose)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    record = Record(index, counts, outputs.files, time.perf_counter() - wall, cpu, after.ru_maxrss * 1024)
    storage.put_bytes(storage.join(location, record_name(index)), _encode(record))
    return record


def _encode(record: Record) -> bytes:
    return orjson.dumps(
        {
            "schema": SCHEMA_VERSION,
            "identity": {"index": record.index, "counts": record.counts, "outputs": record.outputs},
            "measurement": {
                "seconds": round(record.seconds, 6),
                "cpu_seconds": round(record.cpu_seconds, 6),
                "peak_bytes": record.peak_bytes,
                "host": platform.node(),
                "pid": os.getpid(),
            },
        },
        option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2,
    )


def decode(data: bytes, location: str) -> Record:
    """A record from its file. Raises SchemaError, ValueError, KeyError, TypeError."""
    value = orjson.loads(data)
    if value.get("schema") != SCHEMA_VERSION:
        raise SchemaError(
            f"{location}: schema {value.get('schema')}, this Winnow reads {SCHEMA_VERSION}; use another RUN"
        )
    identity, measured = value["identity"], value["measurement"]
    return Record(
        identity["index"],
        identity["counts"],
        {name: (size, digest) for name, (size, digest) in identity["outputs"].items()},
        measured["seconds"],
        measured["cpu_seconds"],
        measured["peak_bytes"],
    )


def identity_of(records: Sequence[Record]) -> str:
    """A digest of the identities of a stage's records."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(canonical([record.index, record.counts, record.outputs]))
    return digest.hexdigest()


def put_again(place: str, data: bytes) -> None:
    """Put a file that follows from records, unless it is there as it must be: what was damaged is mended."""
    if not storage.exists(place) or storage.read_bytes(place) != data:
        storage.put_bytes(place, data)


def describe(stage: Stage, run: str) -> None:
    """Write the stage's identity beside its outputs, once."""
    place = storage.join(stage.location(run), "stage.json")
    if not storage.exists(place):
        storage.put_bytes(
            place, orjson.dumps(stage.identity, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
        )


def total(records: Sequence[Record], *keys: str) -> Any:
    """The sum over records of a count, nested by keys; a mapping of counts is summed by key."""
    out: Any = 0
    for record in records:
        value: Any = record.counts
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is None:
            continue
        if isinstance(value, Mapping):
            out = out or {}
            for name, n in value.items():
                out[name] = out.get(name, 0) + n
        else:
            out += value
    # A record that was read back has its keys in another order than one that was just made.
    return dict(sorted(out.items())) if isinstance(out, dict) else out
