"""How are the records of a stage kept together?

A stage of a large run has a hundred thousand records. Held as objects they are some kilobytes each, and the driver
holds those of every stage until the run ends; read one by one from an object store they are as many requests each time
a run goes on. So a `Ledger` holds them as compressed blocks of JSON, about a hundred bytes a record, and makes a
`Record` of what is asked for. When a stage is complete its driver *seals* it: the same blocks are one file,
`records/sealed`, which later runs read in place of the single records.

The single records stay. A sealed record counts while its own file is there; the seal is taken away before any task of
its stage is done again, so it is never older than a record. Without a seal, or with one that is damaged or of another
schema, the single records are read as ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
import xxhash
import zstandard
from winnow.pipelines.records import RECORDS, SCHEMA_VERSION, Record, decode, record_name
from winnow.shards import storage
from winnow.shards.on_demand import OnDemand

SEALED = f"{RECORDS}/sealed"
SEAL_FROM = 64
"""Records that are worth a seal: fewer are read one by one as quickly."""
BLOCK = 256
"""Records that are compressed together."""
THREADS, REMOTE_THREADS = 8, 32
"""That read single records: on a disk, and where each of them is a request to wait for."""
DIGEST_BYTES = 32
"""Hexadecimal xxh3-128 of all that follows it in a seal: a line of its own, a line of JSON, the blocks."""
BATCH = 4096
"""Single records that are asked for at a time."""


class Ledger(Mapping[int, Record]):
    """Records by task index, in ascending order of it."""

    def __init__(self, records: Iterable[Record] = ()):
        self.sealed = False
        """Whether a seal on disk holds exactly these records."""
        self.seal_there = False
        """Whether there is one, whatever it holds."""
        self._there = bytearray()
        """1 for every index of a record."""
        self._open: dict[int, dict[int, bytes]] = {}
        """Blocks that are being filled, by index // BLOCK: what will be compressed, by index."""
        self._closed: dict[int, bytes] = {}
        for record in records:
            self.add(record)

    def __len__(self) -> int:
        return self._there.count(1)

    def __contains__(self, index: object) -> bool:
        if not isinstance(index, int | np.integer) or not 0 <= index < len(self._there):
            return False
        return self._there[int(index)] == 1

    def __iter__(self) -> Iterator[int]:
        return (index for index, there in enumerate(self._there) if there)

    def __getitem__(self, index: int) -> Record:
        if index not in self:
            raise KeyError(index)
        block = index // BLOCK
        if block in self._closed:
            return _records_of(self._closed[block])[index]
        return _unpacked(orjson.loads(self._open[block][index]))

    def add(self, record: Record) -> None:
        """Take a record, in place of another of its index."""
        block = record.index // BLOCK
        if block in self._closed:
            self._open[block] = {r.index: _packed(r) for r in _records_of(self._closed.pop(block)).values()}
        held = self._open.setdefault(block, {})
        held[record.index] = _packed(record)
        self._note(record.index)
        self.sealed = False
        if len(held) == BLOCK:
            self._close(block)

    def _close(self, block: int) -> None:
        held = self._open.pop(block)
        rows = b",".join(held[index] for index in sorted(held))
        self._closed[block] = _exact(zstandard.ZstdCompressor(3).compress(b"[" + rows + b"]"))

    def in_order(self, indices: Sequence[int] | np.ndarray) -> Records:
        """The records of these tasks, in this order. Raises KeyError for one that is not there."""
        order = np.asarray(indices, np.int64)
        there = np.frombuffer(bytes(self._there), np.uint8)
        known = np.zeros(len(order), bool)
        inside = order < len(there)
        known[inside] = there[order[inside]] == 1
        if not known.all():
            raise KeyError(int(order[~known][0]))
        return Records(self, order)

    def seal(self, location: str) -> None:
        """Write the seal of a stage directory: all of its records are here, and none of them is being written."""
        for block in list(self._open):
            self._close(block)
        blocks = sorted(self._closed.items())
        sizes = [(block, len(data)) for block, data in blocks]
        header = orjson.dumps({"schema": SCHEMA_VERSION, "records": len(self), "blocks": sizes}) + b"\n"
        digest = xxhash.xxh3_128(header)
        for _, data in blocks:
            digest.update(data)
        with storage.commit(storage.join(location, SEALED)) as path, open(path, "wb") as file:
            file.writelines([digest.hexdigest().encode(), b"\n", header])
            file.writelines(data for _, data in blocks)
        self.sealed = self.seal_there = True

    def _take(self, block: int, data: bytes, indices: Iterable[int]) -> None:
        self._closed[block] = data
        for index in indices:
            self._note(index)

    def _note(self, index: int) -> None:
        if index >= len(self._there):
            self._there.extend(bytes(index + 1 - len(self._there)))
        self._there[index] = 1


class Records(OnDemand[Record]):
    """The records of a stage's tasks, in their order."""

    __slots__ = ("_ledger", "_order")

    def __init__(self, ledger: Ledger, order: np.ndarray):
        self._ledger = ledger
        self._order = order

    def __len__(self) -> int:
        return len(self._order)

    def made(self, at: int) -> Record:
        return self._ledger[int(self._order[at])]


def _packed(record: Record) -> bytes:
    row = (
        record.index,
        record.counts,
        record.outputs,
        record.seconds,
        record.cpu_seconds,
        record.peak_bytes,
    )
    # Sorted as in the record's own file: what follows from a record must not depend on where it was read.
    return _exact(orjson.dumps(row, option=orjson.OPT_SORT_KEYS))


def _exact(data: bytes) -> bytes:
    """A copy in as much room as it needs: what orjson and zstandard return keeps that of the worst case."""
    return bytes(memoryview(data))


def _unpacked(row: list[Any]) -> Record:
    index, counts, outputs, *measured = row
    return Record(
        index, counts, {name: (size, digest) for name, (size, digest) in outputs.items()}, *measured
    )


@lru_cache(maxsize=4)
def _records_of(block: bytes) -> dict[int, Record]:
    rows = orjson.loads(zstandard.ZstdDecompressor().decompress(block))
    return {row[0]: _unpacked(row) for row in rows}


def _unsealed(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The blocks of a seal, by number. Raises ValueError for what is no seal of this schema, or a damaged one."""
    view = memoryview(data)
    digest = xxhash.xxh3_128_hexdigest(view[DIGEST_BYTES + 1 :]).encode()
    if data[: DIGEST_BYTES + 1] != digest + b"\n":
        raise ValueError("not a whole seal")
    at = data.index(b"\n", DIGEST_BYTES + 1) + 1
    header = orjson.loads(view[DIGEST_BYTES + 1 : at])
    if header["schema"] != SCHEMA_VERSION:
        raise ValueError("a seal of another schema")
    for block, length in header["blocks"]:
        yield block, bytes(view[at : at + length])
        at += length


def completed(location: str) -> Ledger:
    """The records of a stage directory whose outputs are there in full, by task index."""
    sizes = storage.list_files(location)
    return _read(location, sizes, whole=True)


def recorded(location: str) -> Ledger:
    """The records of a stage directory that can be read, by task index."""
    return _read(location, storage.list_files(location), whole=False)


def _read(location: str, sizes: Mapping[str, int], *, whole: bool) -> Ledger:
    """`sizes` are those of the directory's files; `whole`: only records whose outputs have the recorded sizes."""
    ledger = Ledger()
    found: set[str] = set()
    exact = SEALED in sizes

    def counts(record: Record) -> bool:
        outputs = record.outputs.items() if whole else ()
        return all(sizes.get(output) == size for output, (size, _) in outputs)

    try:
        blocks = list(_unsealed(storage.read_bytes(storage.join(location, SEALED)))) if exact else []
        for block, data in blocks:
            records = _records_of(data)
            there = [r for r in records.values() if record_name(r.index) in sizes]
            found.update(record_name(r.index) for r in there)
            good = [r for r in there if counts(r)]
            if len(good) == len(records):
                ledger._take(block, data, records)
                continue
            exact = False
            for record in good:
                ledger.add(record)
    except (FileNotFoundError, ValueError, KeyError, TypeError, zstandard.ZstdError):
        ledger, found, exact = Ledger(), set(), False
    single = [n for n in sizes if n.startswith(RECORDS + "/") and n.endswith(".json") and n not in found]
    for record in _single(location, sorted(single)):
        if counts(record):
            ledger.add(record)
    ledger.sealed = exact and not single
    ledger.seal_there = SEALED in sizes
    return ledger


def _single(location: str, names: Sequence[str]) -> Iterator[Record]:
    """The records of these files that can be read."""

    def load(name: str) -> Record | None:
        place = storage.join(location, name)
        try:
            record = decode(storage.read_bytes(place), place)
            return record if record_name(record.index) == name else None
        except (AttributeError, KeyError, TypeError, ValueError):
            return None

    with ThreadPoolExecutor(THREADS if storage.is_local(location) else REMOTE_THREADS) as pool:
        for first in range(0, len(names), BATCH):
            found = pool.map(load, names[first : first + BATCH])
            yield from (record for record in found if record is not None)
