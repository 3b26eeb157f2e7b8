"""How do rows of token ids become MDS shards, and how is such a shard read and checked?

MDS is the shard format of mosaicml-streaming, which reads what is written here; for the same rows
the files and the index are those of its MDSWriter, byte for byte (raw, with sha1 and xxh64; with
zstd the decompressed bytes are equal). Written from the format itself, because MDSWriter encodes
value by value and leaves a valid-looking index when it is interrupted.

A shard, little-endian:

    uint32          n, the number of rows
    uint32[n + 1]   where each row starts, from the start of the file, and where the last one ends
    bytes           the settings as JSON with sorted keys, the same for every shard of a layout
    bytes           the rows, no size field since all rows have one size: the column `tokens`, and before it, where
                    the layout has one, `loss_mask` (uint8: 1 where a token is trained on, else 0)

The *stored* file is what lies in storage: the raw shard, or its zstd frame. An *entry* is the index's
object for one shard: the settings, the number of rows, names, sizes and hashes.
Letters: n rows, `length` tokens a row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import zstandard
from winnow.shards import loss_mask
from winnow.shards.mds_layout import (
    HASHES,
    OFFSET_BYTES,
    Entry,
    Layout,
    first_row_at,
    is_int,
    layout_of,
    raw_size,
    row_bytes,
    row_offsets,
    rows_per_shard,
    settings,
    settings_json,
    views,
)  # fmt: skip

Buffer = bytes | bytearray | memoryview | np.ndarray

INDEX_NAME = "index.json"


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
    mask: np.ndarray | None
    """uint8[n, length], likewise; None where the layout has none."""

    def put(self, where: Any, tokens: np.ndarray) -> None:
        """Put rows of tokens, with the mask's bit (loss_mask.py) where the layout has a mask, at an index."""
        if self.mask is None:
            self.rows[where] = tokens
        else:
            self.rows[where] = loss_mask.ids_of(tokens)
            self.mask[where] = loss_mask.mask_of(tokens)


def blank_shard(n_rows: int, layout: Layout) -> BlankShard:
    """A raw shard with its header, and room for 1 to rows_per_shard(layout) rows; ValueError for another number.

    Rows that are read straight into it cost no copy. Memory: at most `size_limit` bytes, and the offsets.
    """
    _check_count(n_rows, layout)
    first, config = first_row_at(n_rows, layout), settings_json(layout)
    raw = np.empty(raw_size(n_rows, layout), np.uint8)
    raw[:OFFSET_BYTES].view("<u4")[0] = n_rows
    header_end = first - len(config)
    raw[OFFSET_BYTES:header_end].view("<u4")[:] = row_offsets(n_rows, layout)
    raw[header_end:first] = np.frombuffer(config, np.uint8)
    return BlankShard(raw, *views(raw[first:], n_rows, layout))


def finish_shard(filled: BlankShard, layout: Layout, index: int) -> Shard:
    """Make shard number `index` of a directory from a blank one whose rows are filled in.

    With compression the stored file is the zstd frame alone, as MDSWriter leaves it, and takes memory of its own.
    """
    if not is_int(index) or index < 0:
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


def write_shard(rows: np.ndarray, layout: Layout, index: int, mask: np.ndarray | None = None) -> Shard:
    """Make shard number `index` of a directory from a copy of rows; nothing is put into storage.

    rows : integer[n, layout.length], 1 <= n <= rows_per_shard(layout), of any integer type, byte order and strides.
    mask : uint8[n, layout.length], of a layout that has one.

    Memory as `blank_shard` and `finish_shard`. Raises ValueError for another shape or type, and for an id that
    the layout's dtype does not hold (a cast would wrap it silently).
    """
    _check_rows(rows, layout)
    blank = blank_shard(len(rows), layout)
    blank.rows[...] = rows
    if blank.mask is not None:
        blank.mask[...] = mask
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
    """Tokens of the rows `start` to `stop` of a raw shard: uint16 or uint32 [stop - start, length], a view of `raw`.

    Raises ValueError when the shard has no such rows or `raw` ends before them; `check_shard` says
    whether they are what was written.
    """
    return _read(raw, entry, start, stop)[0]


def read_mask(raw: Buffer, entry: Entry, start: int, stop: int) -> np.ndarray | None:
    """Their loss mask, uint8[stop - start, length], as `read_rows`; None where the shard has none."""
    return _read(raw, entry, start, stop)[1]


def row_columns(row: Buffer, layout: Layout) -> tuple[np.ndarray, np.ndarray | None]:
    """(tokens, loss mask or None), [length] each, of the bytes of one row."""
    tokens, mask = views(np.frombuffer(row, np.uint8), 1, layout)
    return tokens[0], None if mask is None else mask[0]


def _read(raw: Buffer, entry: Entry, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
    layout = layout_of(entry)
    raw, n_rows = _as_bytes(raw), entry["samples"]
    if not 0 <= start <= stop <= n_rows:
        raise ValueError(f"rows {start} to {stop} asked of a shard of {n_rows}")
    begin = first_row_at(n_rows, layout) + start * row_bytes(layout)
    size = (stop - start) * row_bytes(layout)
    if begin + size > len(raw):
        raise ValueError(f"the shard ends after {len(raw)} bytes, before row {stop}")
    return views(np.frombuffer(raw, np.uint8, size, begin), stop - start, layout)


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
    n_rows, size = entry["samples"], raw_size(entry["samples"], layout)
    first, config = first_row_at(n_rows, layout), settings_json(layout)
    if len(raw) >= OFFSET_BYTES:
        n_found = int.from_bytes(raw[:OFFSET_BYTES], "little")
        if n_found != n_rows:
            yield f"the header counts {n_found} rows, the index {n_rows}"
    if len(raw) != size:
        yield f"{n_rows} rows take {size} bytes, it has {len(raw)}"
        return
    offsets = np.frombuffer(raw, "<u4", n_rows + 1, OFFSET_BYTES)
    if not np.array_equal(offsets, row_offsets(n_rows, layout)):
        yield "the offsets of its rows are wrong"
    if raw[first - len(config) : first] != config:
        yield "its settings differ from the index"
    tokens, mask = _read(raw, entry, 0, n_rows)
    largest = int(tokens.max())
    if largest > max_id:
        yield f"token id {largest} is larger than {max_id}, the largest allowed"
    if mask is not None and int(mask.max()) > 1:
        yield f"its loss mask has the value {int(mask.max())}, where 0 and 1 are allowed"


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
    if not is_int(entry.get("samples")) or not 1 <= entry["samples"] <= rows_per_shard(layout):
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
    if not is_int(size) or not 0 < size < 1 << 32:
        raise ValueError(f"{key}: bytes must be 1 to 2**32 - 1, not {size!r}")
    if not isinstance(hashes, dict) or hashes.keys() != set(layout.hashes):
        raise ValueError(f"{key}: hashes must be exactly {list(layout.hashes)}")


def _file_facts(name: str, content: Buffer, layout: Layout) -> dict:
    hashes = {algorithm: HASHES[algorithm](content).hexdigest() for algorithm in layout.hashes}
    return {"basename": name, "bytes": len(content), "hashes": hashes}


def _as_bytes(buffer: Buffer) -> memoryview:
    view = buffer.data if isinstance(buffer, np.ndarray) else memoryview(buffer)
    return view.cast("B")


def _is_plain_path(path: str) -> bool:
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts and "\\" not in path and str(pure) == path
