"""How is a source cut into splits?

A split is the unit of work: a run of small files, a byte range of a large plain text file, or a row-group range of a
large Parquet file. Cutting depends on the files and the settings alone, never on workers.

Memory: 28 bytes a piece and 8 a split (100 TB in splits of 64 MB: 1.6 million), beside the files.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from winnow.shards import storage
from winnow.shards.inputs import InputError, InputFile, Piece, Split
from winnow.shards.on_demand import OnDemand
from winnow.shards.rows import ARCHIVES

OF_ARCHIVES = ("text", "code", "arxiv")
"""Formats that read files of files (`rows.ARCHIVES`)."""
FILES_PER_SPLIT = 4096
"""Bounds a split of tiny files, whose cost is in opening them (ours: about a second)."""


class Splits(OnDemand[Split]):
    """The splits of a source in order, held as columns; `splits[i].index` is i."""

    __slots__ = ("_file", "_files", "_size", "_source", "_start", "_starts", "_stop")

    def __init__(self, source: str, files: Sequence[InputFile] = ()):
        """Without splits; `add` and `close` make them."""
        self._source = source
        self._files = files
        self._file = array("i")
        self._start, self._stop, self._size = array("q"), array("q"), array("q")
        self._starts = array("q", [0])
        """Where the pieces of each split begin, and where the last one's end."""

    @property
    def pending(self) -> int:
        """Pieces that were added since a split was closed."""
        return len(self._file) - self._starts[-1]

    def add(self, file: int, start: int, stop: int, size: int) -> None:
        """Add a piece of the file of that rank to the split that is open."""
        self._file.append(file)
        self._start.append(start)
        self._stop.append(stop)
        self._size.append(size)

    def close(self) -> None:
        """End the split that is open, if it has any pieces."""
        if self.pending:
            self._starts.append(len(self._file))

    def __len__(self) -> int:
        return len(self._starts) - 1

    @property
    def costs(self) -> np.ndarray:
        """int64[splits]: the bytes of each, as stored."""
        starts = np.array(self._starts[:-1], np.int64)
        # Every split has a piece, so no range of the sum is empty.
        return np.add.reduceat(np.array(self._size, np.int64), starts) if len(starts) else starts

    @property
    def begins(self) -> tuple[np.ndarray, np.ndarray]:
        """uint64[splits] twice: of each one's first row the first half of the id, and where its piece begins."""
        firsts = np.array(self._starts[:-1], np.int64)
        halves = np.array([file.id_half(self._source) for file in self._files], np.uint64)
        return halves[np.array(self._file, np.int64)[firsts]], np.array(self._start, np.uint64)[firsts]

    def made(self, at: int) -> Split:
        return Split(at, tuple(map(self._piece, range(self._starts[at], self._starts[at + 1]))))

    def _piece(self, at: int) -> Piece:
        rank = self._file[at]
        file = self._files[rank]
        return Piece(
            rank,
            file.location,
            file.path,
            file.id_half(self._source),
            self._size[at],
            self._start[at],
            self._stop[at],
            file.size,
            file.fingerprint,
        )


def costs(splits: Sequence[Split]) -> np.ndarray:
    """int64[splits]: the bytes of each, as stored."""
    if isinstance(splits, Splits):
        return splits.costs
    return np.fromiter((split.cost for split in splits), np.int64, len(splits))


def begins(splits: Sequence[Split]) -> tuple[np.ndarray, np.ndarray]:
    """uint64[splits] twice: of each one's first row the first half of the id, and where its piece begins."""
    if isinstance(splits, Splits):
        return splits.begins
    firsts = [split.pieces[0] for split in splits]
    return np.array([p.id_half for p in firsts], np.uint64), np.array([p.start for p in firsts], np.uint64)


def cut(source: str, files: Sequence[InputFile], format_: str, split_bytes: int) -> Splits:
    """Cut a listing into splits of about `split_bytes` stored bytes, in file order.

    Large plain JSONL files are cut by byte range, large Parquet files by row groups, and WARC files where their
    records can be told apart; other compressed files, text files and archives are whole. Parquet footers of large
    files are read, a few at a time. Raises InputError for an archive in a format that does not look into one.
    """
    for file in files:
        if file.path.endswith(ARCHIVES) and format_ not in OF_ARCHIVES:
            raise InputError(
                f"source {source!r}: {file.path}: archives are read with format: text or code, not {format_}"
            )
    large = [i for i, f in enumerate(files) if f.size > split_bytes]
    ranges: dict[int, list[tuple[int, int, int]]] = {}
    if format_ == "parquet":
        with ThreadPoolExecutor(8) as pool:
            sizes = pool.map(lambda i: _row_group_bytes(source, files[i]), large)
            for i, groups in zip(large, sizes, strict=True):
                ranges[i] = group_ranges(groups, split_bytes)
    elif format_ in ("warc", "wet"):
        from winnow.shards.warc import ranges as record_ranges

        for i in large:
            ranges[i] = record_ranges(files[i].location, files[i].size, split_bytes)
    splits = Splits(source, files)
    held = 0
    for i, file in enumerate(files):
        if format_ == "jsonl" and file.compression is None and file.size > split_bytes:
            mine = byte_ranges(file.size, split_bytes)
        else:
            mine = ranges.pop(i, [(0, -1, file.size)])
        for start, stop, size in mine:
            if (held and held + size > split_bytes) or splits.pending == FILES_PER_SPLIT:
                splits.close()
                held = 0
            splits.add(i, start, stop, size)
            held += size
    splits.close()
    return splits


def byte_ranges(size: int, split_bytes: int) -> list[tuple[int, int, int]]:
    """Equal byte ranges (start, stop, bytes) of at most `split_bytes`; the last stop is -1."""
    n = -(-size // split_bytes)
    edges = [size * k // n for k in range(n + 1)]
    return [(a, b if k + 1 < n else -1, b - a) for k, (a, b) in enumerate(itertools.pairwise(edges))]


def group_ranges(groups: Sequence[int], split_bytes: int) -> list[tuple[int, int, int]]:
    """Ranges (first group, one past the last, bytes) of consecutive row groups of about `split_bytes`."""
    out: list[tuple[int, int, int]] = []
    start, held = 0, 0
    for g, size in enumerate(groups):
        if held and held + size > split_bytes:
            out.append((start, g, held))
            start, held = g, 0
        held += size
    out.append((start, len(groups), held))
    return out


def _row_group_bytes(source: str, file: InputFile) -> list[int]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with storage.open_input(file.location) as handle:
            meta = pq.ParquetFile(handle).metadata
            groups = [meta.row_group(g) for g in range(meta.num_row_groups)]
            return [sum(g.column(c).total_compressed_size for c in range(g.num_columns)) for g in groups]
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"source {source!r}: {file.path}: not a readable Parquet file ({error})") from error
