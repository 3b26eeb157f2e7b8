"""How are documents' tokens written for Megatron-LM and the trainers that read its indexed datasets?

Two files, little-endian (Megatron-LM, megatron/core/datasets/indexed_dataset.py):

    PREFIX.bin     the ids of all sequences one after the other
    PREFIX.idx     bytes[9]      "MMIDIDX" and two zero bytes
                   uint64        1, the version
                   uint8         the type of an id: 8 for uint16, 4 for int32
                   uint64        n, the number of sequences
                   uint64        n + 1, the number of entries of the last array
                   int32[n]      tokens of each sequence
                   int64[n]      the byte of PREFIX.bin where each sequence begins
                   int64[n + 1]  the sequence each document begins with, and n

A sequence is a document here. Megatron knows no uint32: ids that need more than 16 bits are int32.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

import numpy as np
from winnow.shards import arrays, storage
from winnow.shards.token_files import Documents

HEADER = struct.Struct("<9sQBQQ")
MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
TYPES: dict[str, tuple[int, np.dtype]] = {"uint16": (8, np.dtype("<u2")), "uint32": (4, np.dtype("<i4"))}
"""By the dtype of our ids: Megatron's code, and what is written."""
BLOCK = 1 << 18
"""Documents whose index entries are computed at a time."""


def index_bytes(documents: int) -> int:
    """Size of the index: 20 bytes a document, and its frame."""
    return HEADER.size + 20 * documents + 8


def write(prefix: str, dtype: str, blocks: Iterable[Documents]) -> None:
    """Write the dataset at the location `prefix`; its index appears last.

    dtype : "uint16" or "uint32", of the ids.

    Memory: a block, and 20 bytes for each of `BLOCK` documents: the later arrays of the index are computed
    from the first, read back from the file. Raises ValueError for an id or a document that the format does
    not hold.
    """
    code, stored = TYPES[dtype]
    most = np.iinfo(np.int32).max
    n = 0
    with (
        storage.commit(f"{prefix}.idx") as idx_path,
        storage.commit(f"{prefix}.bin") as bin_path,
        open(bin_path, "wb") as ids,
        open(idx_path, "wb+") as index,
    ):
        index.write(bytes(HEADER.size))
        for block in blocks:
            for what, values in (
                ("token id", block.tokens),
                ("number of a document's tokens", block.lengths),
            ):
                if len(values) and int(values.max()) > most:
                    raise ValueError(f"{what} {int(values.max()):,} is more than Megatron's {most:,}")
            arrays.write(ids, block.tokens.astype(stored, copy=False))
            arrays.write(index, block.lengths.astype("<i4"))
            n += len(block.lengths)
        begin = 0
        for first in range(0, n, BLOCK):
            index.seek(HEADER.size + 4 * first)
            sizes = np.fromfile(index, "<i4", min(BLOCK, n - first)).astype(np.int64) * stored.itemsize
            index.seek(HEADER.size + 4 * n + 8 * first)
            arrays.write(index, (begin + np.cumsum(sizes) - sizes).astype("<i8"))
            begin += int(sizes.sum())
        for first in range(0, n + 1, BLOCK):
            arrays.write(index, np.arange(first, min(first + BLOCK, n + 1), dtype="<i8"))
        index.seek(0)
        index.write(HEADER.pack(MAGIC, VERSION, code, n, n + 1))
