"""How do rows of token ids become MDS shards, and how is such a shard read and checked?

MDS is the shard format of mosaicml-streaming, which reads what is written here; for the same rows
the files and the index are those of its MDSWriter, byte for byte (raw, with sha1 and xxh64; with
zstd the decompressed bytes are equal). Written from the format itself, because MDSWriter encodes
value by value and leaves a valid-looking index when it is interrupted.

A shard, little-endian:

    uint32          n, the number of rows
    uint32[n + 1]   where each row starts, from the start of the file, and where the last one ends
    bytes           the settings as JSON with sorted keys, the same for every shard of a layout
    bytes           the rows, one column `tokens`, no size field since all rows have one size

The *stored* file is what lies in storage: the raw shard, or its zstd frame. An *entry* is the index's
object for one shard: the settings, the number of rows, names, sizes and hashes.
Letters: n rows, `length` tokens a row.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import xxhash
import zstandard

Entry = dict[str, Any]
Buffer = bytes | bytearray | memoryview | np.ndarray

COLUMN = "tokens"
INDEX_NAME = "index.json"
HASHES: dict[str, Callable] = {"sha1": hashlib.sha1, "xxh64": xxhash.xxh64}

_OFFSET_BYTES = 4
_ZSTD = re.compile(r"zstd(?::([1-9]|1[0-9]|2[0-2]))?")  # the levels MDSWriter knows
_ENCODING = re.compile(r"ndarray:(?P<dtype>uint16|uint32):(?P<length>[1-9][0-9]{0,8})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The settings that every shard of a stream shares; they are written into each shard and entry."""

    dtype: str
    """"uint16" or "uint32": the narrowest that holds the tokenizer's largest id."""
    length: int
    """Tokens a row."""
    hashes: tuple[str, ...] = ("xxh64",)
    """Hashes of the raw and of the stored file, sorted. Writing with xxh64 takes half the CPU time of
    sha1 (measured), and the reader brings xxhash along; it guards against damage, not attackers."""
    compression: str | None = None
    """None, "zstd" (level 3) or "zstd:1" to "zstd:22"."""
    size_limit: int = 1 << 26
    """Bytes of a raw shard at most, header included: 64 MiB is MDSWriter's default."""

    def __post_init__(self) -> None:
        if self.dtype not in ("uint16", "uint32"):
            raise ValueError(f"dtype must be 'uint16' or 'uint32', not {self.dtype!r}")
        if not _is_int(self.length) or self.length < 1:
            raise ValueError(f"length must be at least 1 token, not {self.length!r}")
        if not isinstance(self.hashes, tuple) or not set(self.hashes) <= set(HASHES):
            raise ValueError(f"hashes must be a tuple of {sorted(HASHES)}, not {self.hashes!r}")
        if any(left >= right for left, right in pairwise(self.hashes)):
            raise ValueError(f"hashes must be sorted and unique, not {self.hashes!r}")
        if self.compression is not None and not _ZSTD.fullmatch(self.compression):
            raise ValueError(f"compression must be None or 'zstd:1' to 'zstd:22', not {self.compression!r}")
        # Rows are found by 32-bit offsets.
        if not _is_int(self.size_limit) or not 0 < self.size_limit < 1 << 32:
            raise ValueError(f"size_limit must be between 1 and 2**32 - 1 bytes, not {self.size_limit!r}")
        if rows_per_shard(self) < 1:
            raise ValueError(f"size_limit: no row of {self.length} tokens fits into {self.size_limit} bytes")


class Shard(NamedTuple):
    """A finished shard, not yet in storage."""

    files: list[tuple[str, Buffer]]
    """Names without directory, and their content: one file, the stored one."""
    entry: Entry
    """What the index says about it."""


class BlankShard(NamedTuple):
    """A raw shard whose rows are to be filled in."""

    raw: np.ndarray
    """uint8[bytes of the file], with its header."""
    rows: np.ndarray
    """The layout's dtype [n, length], little-endian: where the rows lie in `raw`."""


def settings(layout: Layout) -> Entry:
    """The settings of a layout under the names MDS gives them."""
    return {
        "version": 2,
        "format": "mds",
        "compression": layout.compression,
        "hashes": list(layout.hashes),
        "size_limit": layout.size_limit,
        "column_names": [COLUMN],
        "column_encodings": [f"ndarray:{layout.dtype}:{layout.length}"],
        "column_sizes": [_row_bytes(layout)],
    }


def layout_of(entry: Entry) -> Layout:
    """The layout that an entry was written with.

    Raises ValueError for anything but one column `tokens` of fixed rows of uint16 or uint32: other
    encodings of MDS are not read here, least of all `pkl`, which runs code when decoded.
    """
    encodings = entry.get("column_encodings")
    match = _ENCODING.fullmatch(str(encodings[0])) if isinstance(encodings, list) and encodings else None
    if not match:
        raise ValueError(f"column_encodings must be one of ndarray:uint16|uint32:<length>, not {encodings!r}")
    hashes, compression = entry.get("hashes"), entry.get("compression")
    layout = Layout(
        dtype=match["dtype"],
        length=int(match["length"]),
        hashes=tuple(map(str, hashes)) if isinstance(hashes, list) else (),
        compression=None if compression is None else str(compression),
        size_limit=entry.get("size_limit", 0),
    )
    for key, wanted in settings(layout).items():
        if entry.get(key) != wanted:
            raise ValueError(f"{key} must be {wanted!r}, not {entry.get(key)!r}")
    return layout


def rows_per_shard(layout: Layout) -> int:
    """Rows in a full shard: as many as MDSWriter puts into one (16,367 of 2048 uint16 in 64 MiB)."""
    fixed = 2 * _OFFSET_BYTES + len(_settings_json(layout))
    return (layout.size_limit - fixed) // (_row_bytes(layout) + _OFFSET_BYTES)


def blank_shard(n_rows: int, layout: Layout) -> BlankShard:
    """A raw shard with its header, and room for 1 to rows_per_shard(layout) rows; ValueError for another number.

    Rows that are read straight into it cost no copy. Memory: at most `size_limit` bytes, and the offsets.
    """
    _check_count(n_rows, layout)
    first, config = _first_row_at(n_rows, layout), _settings_json(layout)
    raw = np.empty(_raw_size(n_rows, layout), np.uint8)
    raw[:_OFFSET_BYTES].view("<u4")[0] = n_rows
    header_end = first - len(config)
    raw[_OFFSET_BYTES:header_end].view("<u4")[:] = _row_offsets(n_rows, layout)
    raw[header_end:first] = np.frombuffer(config, np.uint8)
    return BlankShard(raw, raw[first:].view(_stored_dtype(layout)).reshape(n_rows, layout.length))


def finish_shard(filled: BlankShard, layout: Layout, index: int) -> Shard:
    """Make shard number `index` of a directory from a blank one whose rows are filled in.

    With compression the stored file is the zstd frame alone, as MDSWriter leaves it, and takes memory of its own.
    """
    if not _is_int(index) or index < 0:
        raise ValueError(f"a shard's number must be 0 or more, not {index!r}")
    raw_name = f"shard.{index:05}.mds"
    raw_data = _file_facts(raw_name, filled.raw, layout)
    entry = {**settings(layout), "samples": len(filled.rows), "raw_data": raw_data, "zip_data": None}
    if layout.compression is None:
        return Shard([(raw_name, filled.raw)], entry)
    level = int(layout.compression.partition(":")[2] or 3)  # 3 is MDSWriter's for a bare "zstd"
    frame = zstandard.ZstdCompressor(level=level).compress(filled.raw.data)
    zip_name = f"{raw_name}.zstd"
    return Shard([(zip_name, frame)], {**entry, "zip_data": _file_facts(zip_name, frame, layout)})


def write_shard(rows: np.ndarray, layout: Layout, index: int) -> Shard:
    """Make shard number `index` of a directory from a copy of rows; nothing is put into storage.

    rows : integer[n, layout.length], 1 <= n <= rows_per_shard(layout), of any integer type, byte order and strides.

    Memory as `blank_shard` and `finish_shard`. Raises ValueError for another shape or type, and for an id that
    the layout's dtype does not hold (a cast would wrap it silently).
    """
    _check_rows(rows, layout)
    blank = blank_shard(len(rows), layout)
    blank.rows[...] = rows
    return finish_shard(blank, layout, index)


def index_json(entries: Sequence[Entry]) -> bytes:
    """The bytes of `index.json` for these shards, in this order: the order of a stream's rows."""
    return json.dumps({"version": 2, "shards": list(entries)}, sort_keys=True).encode()


def read_index(index: bytes) -> list[Entry]:
    """The entries of an `index.json`, every field checked.

    Raises ValueError for JSON that is damaged or of another version or format, for columns other
    than `tokens` in uint16 or uint32 rows, and for names that leave the index's directory.
    """
    try:
        content = json.loads(index)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the index is not JSON: {error.__class__.__name__}") from None
    if not isinstance(content, dict) or not isinstance(content.get("shards"), list):
        raise ValueError("the index is not an object with a list of shards")
    if content.get("version") != 2:
        raise ValueError(f"the index has version {content.get('version')!r}, only 2 is read here")
    for number, entry in enumerate(content["shards"]):
        try:
            _check_entry(entry)
        except ValueError as error:
            raise ValueError(f"shard {number} of the index: {error}") from None
    return content["shards"]


def raw_shard(stored: Buffer, entry: Entry) -> memoryview:
    """The raw shard inside a stored file: the file itself, or its zstd frame decompressed.

    Allocates the raw size that the index states and never more. Raises ValueError when the file is
    not a frame of that size.
    """
    stored = _as_bytes(stored)
    if entry["compression"] is None:
        return stored
    size = entry["raw_data"]["bytes"]
    try:
        # A damaged header may claim any size, and would be believed.
        if zstandard.frame_content_size(stored) != size:
            raise ValueError(f"not a zstd frame of the {size} bytes that the index states")
        return memoryview(zstandard.ZstdDecompressor().decompress(stored))
    except zstandard.ZstdError as error:
        raise ValueError(f"zstd cannot decompress it: {error}") from None


def read_rows(raw: Buffer, entry: Entry, start: int, stop: int) -> np.ndarray:
    """Rows `start` to `stop` of a raw shard: uint16 or uint32 [stop - start, length], a view of `raw`.

    Raises ValueError when the shard has no such rows or `raw` ends before them; `check_shard` says
    whether they are what was written.
    """
    layout = layout_of(entry)
    raw, n_rows = _as_bytes(raw), entry["samples"]
    if not 0 <= start <= stop <= n_rows:
        raise ValueError(f"rows {start} to {stop} asked of a shard of {n_rows}")
    begin = _first_row_at(n_rows, layout) + start * _row_bytes(layout)
    if begin + (stop - start) * _row_bytes(layout) > len(raw):
        raise ValueError(f"the shard ends after {len(raw)} bytes, before row {stop}")
    count = (stop - start) * layout.length
    return np.frombuffer(raw, _stored_dtype(layout), count, begin).reshape(stop - start, layout.length)


def check_shard(stored: Buffer, entry: Entry, max_id: int) -> list[str]:
    """Everything that is wrong with a stored file, given its entry from `read_index`; nothing is raised.

    Compared: sizes and hashes of the stored and of the raw file, the header's number of rows, every
    offset, the settings inside the shard, and each token id with `max_id`, the largest one allowed.
    Memory: the raw shard when it has to be decompressed, and the offsets.
    """
    layout, stored = layout_of(entry), _as_bytes(stored)
    raw_data, zip_data = entry["raw_data"], entry["zip_data"]
    if zip_data:
        problems = list(_file_problems(stored, zip_data))
        try:
            raw = raw_shard(stored, entry)
        except ValueError as error:
            return [*problems, f"{zip_data['basename']}: {error}"]
    else:
        problems, raw = [], stored
    name, inside = raw_data["basename"], _content_problems(raw, entry, layout, max_id)
    return [*problems, *_file_problems(raw, raw_data), *(f"{name}: {problem}" for problem in inside)]


def _content_problems(raw: memoryview, entry: Entry, layout: Layout, max_id: int) -> Iterator[str]:
    n_rows, size = entry["samples"], _raw_size(entry["samples"], layout)
    first, config = _first_row_at(n_rows, layout), _settings_json(layout)
    if len(raw) >= _OFFSET_BYTES:
        n_found = int.from_bytes(raw[:_OFFSET_BYTES], "little")
        if n_found != n_rows:
            yield f"the header counts {n_found} rows, the index {n_rows}"
    if len(raw) != size:
        yield f"{n_rows} rows take {size} bytes, it has {len(raw)}"
        return
    offsets = np.frombuffer(raw, "<u4", n_rows + 1, _OFFSET_BYTES)
    if not np.array_equal(offsets, _row_offsets(n_rows, layout)):
        yield "the offsets of its rows are wrong"
    if raw[first - len(config) : first] != config:
        yield "its settings differ from the index"
    largest = int(read_rows(raw, entry, 0, n_rows).max())
    if largest > max_id:
        yield f"token id {largest} is larger than {max_id}, the largest allowed"


def _file_problems(content: memoryview, facts: dict) -> Iterator[str]:
    if len(content) != facts["bytes"]:
        yield f"{facts['basename']}: {len(content)} bytes, the index says {facts['bytes']}"
    for name, wanted in facts["hashes"].items():
        found = HASHES[name](content).hexdigest()
        if found != wanted:
            yield f"{facts['basename']}: {name} is {found}, the index says {wanted}"


def _check_rows(rows: np.ndarray, layout: Layout) -> None:
    if rows.ndim != 2 or rows.shape[1] != layout.length:
        raise ValueError(f"rows must have the shape [n, {layout.length}], not {list(rows.shape)}")
    _check_count(len(rows), layout)
    if not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(f"token ids must be integers, not {rows.dtype}")
    if np.can_cast(rows.dtype, layout.dtype, "safe"):
        return
    largest, smallest = int(rows.max()), int(rows.min())
    if largest > np.iinfo(layout.dtype).max:
        raise ValueError(f"token id {largest} does not fit into {layout.dtype}")
    if smallest < 0:
        raise ValueError(f"token id {smallest} is negative")


def _check_count(n_rows: int, layout: Layout) -> None:
    if not 1 <= n_rows <= rows_per_shard(layout):
        raise ValueError(f"a shard of this layout holds 1 to {rows_per_shard(layout)} rows, not {n_rows}")


def _check_entry(entry: Any) -> None:
    if not isinstance(entry, dict):
        raise ValueError("not an object")
    layout = layout_of(entry)
    unknown = sorted(entry.keys() - settings(layout).keys() - {"samples", "raw_data", "zip_data"})
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}")
    if not _is_int(entry.get("samples")) or not 1 <= entry["samples"] <= rows_per_shard(layout):
        raise ValueError(f"samples must be 1 to {rows_per_shard(layout)}, not {entry.get('samples')!r}")
    _check_file_facts("raw_data", entry.get("raw_data"), layout)
    if layout.compression:
        _check_file_facts("zip_data", entry.get("zip_data"), layout)
    elif entry.get("zip_data", "") is not None:
        raise ValueError("zip_data must be null without compression")


def _check_file_facts(key: str, facts: Any, layout: Layout) -> None:
    if not isinstance(facts, dict) or facts.keys() != {"basename", "bytes", "hashes"}:
        raise ValueError(f"{key} must have basename, bytes and hashes")
    name, size, hashes = facts["basename"], facts["bytes"], facts["hashes"]
    if not isinstance(name, str) or not _is_plain_path(name):
        raise ValueError(f"{key}: {name!r} is not a relative path below the index")
    if not _is_int(size) or not 0 < size < 1 << 32:
        raise ValueError(f"{key}: bytes must be 1 to 2**32 - 1, not {size!r}")
    if not isinstance(hashes, dict) or hashes.keys() != set(layout.hashes):
        raise ValueError(f"{key}: hashes must be exactly {list(layout.hashes)}")


def _file_facts(name: str, content: Buffer, layout: Layout) -> dict:
    hashes = {algorithm: HASHES[algorithm](content).hexdigest() for algorithm in layout.hashes}
    return {"basename": name, "bytes": len(content), "hashes": hashes}


def _settings_json(layout: Layout) -> bytes:
    return json.dumps(settings(layout), sort_keys=True).encode()


def _row_bytes(layout: Layout) -> int:
    return layout.length * _stored_dtype(layout).itemsize


def _first_row_at(n_rows: int, layout: Layout) -> int:
    return _OFFSET_BYTES * (n_rows + 2) + len(_settings_json(layout))


def _raw_size(n_rows: int, layout: Layout) -> int:
    return _first_row_at(n_rows, layout) + n_rows * _row_bytes(layout)


def _row_offsets(n_rows: int, layout: Layout) -> np.ndarray:
    return _first_row_at(n_rows, layout) + np.arange(n_rows + 1, dtype=np.int64) * _row_bytes(layout)


def _stored_dtype(layout: Layout) -> np.dtype:
    return np.dtype(layout.dtype).newbyteorder("<")


def _as_bytes(buffer: Buffer) -> memoryview:
    view = buffer.data if isinstance(buffer, np.ndarray) else memoryview(buffer)
    return view.cast("B")


def _is_plain_path(path: str) -> bool:
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts and "\\" not in path and str(pure) == path


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
