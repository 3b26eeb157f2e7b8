"""Which bytes of an MDS shard are what, given its settings?

What every shard of a stream has in common (`Layout`), the JSON it stands in a shard and in the index as, and where
in a raw shard the rows and their columns lie. The format is told in mds.py.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import xxhash
from winnow.shards import loss_mask

Entry = dict[str, Any]

COLUMN = "tokens"
HASHES: dict[str, Callable] = {"sha1": hashlib.sha1, "xxh64": xxhash.xxh64}

OFFSET_BYTES = 4
_FACTS = ("dtype", "length", "compression", "size_limit")
_ZSTD = re.compile(r"zstd(?::([1-9]|1[0-9]|2[0-2]))?")  # the levels MDSWriter knows
_ENCODING = re.compile(r"ndarray:(?P<dtype>uint16|uint32):(?P<length>[1-9][0-9]{0,8})")
_ENCODINGS = "['ndarray:uint16|uint32:<length>'], or ['ndarray:uint8:<length>', the same]"


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
    loss_mask: bool = False
    """Whether there is a second column, of what is trained on."""

    def __post_init__(self) -> None:
        if self.dtype not in ("uint16", "uint32"):
            raise ValueError(f"dtype must be 'uint16' or 'uint32', not {self.dtype!r}")
        if not is_int(self.length) or self.length < 1:
            raise ValueError(f"length must be at least 1 token, not {self.length!r}")
        if not isinstance(self.hashes, tuple) or not set(self.hashes) <= set(HASHES):
            raise ValueError(f"hashes must be a tuple of {sorted(HASHES)}, not {self.hashes!r}")
        if any(left >= right for left, right in pairwise(self.hashes)):
            raise ValueError(f"hashes must be sorted and unique, not {self.hashes!r}")
        if self.compression is not None and not _ZSTD.fullmatch(self.compression):
            raise ValueError(f"compression must be None or 'zstd:1' to 'zstd:22', not {self.compression!r}")
        # Rows are found by 32-bit offsets.
        if not is_int(self.size_limit) or not 0 < self.size_limit < 1 << 32:
            raise ValueError(f"size_limit must be between 1 and 2**32 - 1 bytes, not {self.size_limit!r}")
        if rows_per_shard(self) < 1:
            raise ValueError(f"size_limit: no row of {self.length} tokens fits into {self.size_limit} bytes")

    @property
    def facts(self) -> dict[str, Any]:
        """What the settings of a stage of shards say; of columns beside the tokens only where there are some."""
        columns = {"columns": [loss_mask.COLUMN]} if self.loss_mask else {}
        return {name: getattr(self, name) for name in _FACTS} | {"hashes": list(self.hashes)} | columns


def layout_from(facts: Mapping[str, Any]) -> Layout:
    """The layout whose `facts` are among the settings of a stage."""
    given = {name: facts[name] for name in _FACTS}
    return Layout(
        **given, hashes=tuple(facts["hashes"]), loss_mask=loss_mask.COLUMN in facts.get("columns", ())
    )


def settings(layout: Layout) -> Entry:
    """The settings of a layout under the names MDS gives them."""
    return {
        "version": 2,
        "format": "mds",
        "compression": layout.compression,
        "hashes": list(layout.hashes),
        "size_limit": layout.size_limit,
        "column_names": [name for name, _, _ in _columns(layout)],
        "column_encodings": [f"ndarray:{dtype}:{layout.length}" for _, dtype, _ in _columns(layout)],
        "column_sizes": [size for _, _, size in _columns(layout)],
    }


def layout_of(entry: Entry) -> Layout:
    """The layout that an entry was written with.

    Raises ValueError for anything but a column `tokens` of fixed rows of uint16 or uint32, and one `loss_mask`
    beside it: other encodings of MDS are not read here, least of all `pkl`, which runs code when decoded.
    """
    encodings = entry.get("column_encodings")
    known = isinstance(encodings, list) and 1 <= len(encodings) <= 2
    match = _ENCODING.fullmatch(str(encodings[-1])) if known else None  # type: ignore[index]
    if not match:
        raise ValueError(f"column_encodings must be {_ENCODINGS}, not {encodings!r}")
    hashes, compression = entry.get("hashes"), entry.get("compression")
    layout = Layout(
        dtype=match["dtype"],
        length=int(match["length"]),
        hashes=tuple(map(str, hashes)) if isinstance(hashes, list) else (),
        compression=None if compression is None else str(compression),
        size_limit=entry.get("size_limit", 0),
        loss_mask=len(encodings) == 2,  # type: ignore[arg-type]
    )
    for key, wanted in settings(layout).items():
        if entry.get(key) != wanted:
            raise ValueError(f"{key} must be {wanted!r}, not {entry.get(key)!r}")
    return layout


def rows_per_shard(layout: Layout) -> int:
    """Rows in a full shard: as many as MDSWriter puts into one (16,367 of 2048 uint16 in 64 MiB)."""
    fixed = 2 * OFFSET_BYTES + len(settings_json(layout))
    return (layout.size_limit - fixed) // (row_bytes(layout) + OFFSET_BYTES)


def settings_json(layout: Layout) -> bytes:
    """As they stand in every shard."""
    return json.dumps(settings(layout), sort_keys=True).encode()


def _columns(layout: Layout) -> list[tuple[str, str, int]]:
    """(name, type, bytes a row) of every column, by name, as MDSWriter puts them."""
    tokens = (COLUMN, layout.dtype, layout.length * stored_dtype(layout).itemsize)
    return [(loss_mask.COLUMN, "uint8", layout.length), tokens] if layout.loss_mask else [tokens]


def row_bytes(layout: Layout) -> int:
    """Of all columns of a row."""
    return sum(size for _, _, size in _columns(layout))


def first_row_at(n_rows: int, layout: Layout) -> int:
    """The byte of a raw shard where its rows begin."""
    return OFFSET_BYTES * (n_rows + 2) + len(settings_json(layout))


def raw_size(n_rows: int, layout: Layout) -> int:
    """Bytes of a raw shard."""
    return first_row_at(n_rows, layout) + n_rows * row_bytes(layout)


def row_offsets(n_rows: int, layout: Layout) -> np.ndarray:
    """int64[n_rows + 1]: where each row of a raw shard begins, and where the last one ends."""
    return first_row_at(n_rows, layout) + np.arange(n_rows + 1, dtype=np.int64) * row_bytes(layout)


def stored_dtype(layout: Layout) -> np.dtype:
    """Of tokens, little-endian on any machine."""
    return np.dtype(layout.dtype).newbyteorder("<")


def views(data: np.ndarray, n_rows: int, layout: Layout) -> tuple[np.ndarray, np.ndarray | None]:
    """(tokens, loss mask or None), [n_rows, length] each, of the bytes of rows."""
    if not layout.loss_mask:
        return data.view(stored_dtype(layout)).reshape(n_rows, layout.length), None
    rows = data.reshape(n_rows, row_bytes(layout))
    return rows[:, layout.length :].view(stored_dtype(layout)), rows[:, : layout.length]


def is_int(value: Any) -> bool:
    """Whether a value of a JSON file is a whole number; Python takes true for one."""
    return isinstance(value, int) and not isinstance(value, bool)
