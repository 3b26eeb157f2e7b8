"""Which sample of a published index is which row, in which shard, made of which pieces?

A *row* is numbered as the stage has it that the shards come from: the base. Without a takedown (takedown.py) a sample's
number is its row's; after one the rows left in each shard tell, and the provenance of the shard in question.

Provenance is read by row groups: first their column `sample`, then the group that has the row.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from winnow.pipelines import takedown
from winnow.pipelines.pack import provenance_name
from winnow.pipelines.split_rows import readable
from winnow.shards import mds, storage, tables


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of one stream and split in one packing, as its index numbers them."""

    location: str
    """Of the stage that is published: the shards' own, or a takedown's."""
    split: str
    layout: mds.Layout
    n_rows: int
    """Of the stage that the shards come from, before any takedown."""
    left: np.ndarray | None
    """int64[shards]: rows after a takedown; None without one."""

    @property
    def per_shard(self) -> int:
        return mds.rows_per_shard(self.layout)

    @property
    def n_samples(self) -> int:
        return self.n_rows if self.left is None else int(self.left.sum())

    def locate(self, sample: int) -> tuple[int, int, int]:
        """(shard, row in it, number of the row in the base) of a sample that there is."""
        if self.left is None:
            return sample // self.per_shard, sample % self.per_shard, sample
        ends = np.cumsum(self.left)
        shard = int(np.searchsorted(ends, sample, side="right"))
        row = sample - int(ends[shard] - self.left[shard])
        return shard, row, int(self._rows_in(shard)[row])

    def of_rows(self, rows: Iterable[int]) -> tuple[list[int], int]:
        """(samples that the base's rows are, how many of the rows a takedown dropped)."""
        if self.left is None:
            return sorted(rows), 0
        firsts = np.cumsum(self.left) - self.left
        found, dropped = [], 0
        in_shard: dict[int, np.ndarray] = {}
        for row in sorted(rows):
            shard = row // self.per_shard
            if shard not in in_shard:
                in_shard = {shard: self._rows_in(shard)}
            at = int(np.searchsorted(in_shard[shard], row))
            if at < len(in_shard[shard]) and in_shard[shard][at] == row:
                found.append(int(firsts[shard]) + at)
            else:
                dropped += 1
        return found, dropped

    def _rows_in(self, shard: int) -> np.ndarray:
        """The base's rows that a shard still has."""
        assert self.left is not None
        first = shard * self.per_shard
        if self.left[shard] == min(self.per_shard, self.n_rows - first):
            return np.arange(first, first + self.left[shard])
        if not self.left[shard]:
            return np.empty(0, np.int64)
        return np.unique(_column(self.provenance(shard), "sample")).astype(np.int64)

    def provenance(self, shard: int) -> str:
        return storage.join(self.location, provenance_name(self.split, shard))

    def row(self, shard: int, row: int) -> tuple[np.ndarray, np.ndarray | None]:
        """(tokens, loss mask or None) of a row: of a shard that is not compressed, only they are read."""
        file = storage.join(self.location, self.split, f"shard.{shard:05}.mds")
        with readable(file):
            if self.layout.compression is None:
                start, stop = np.frombuffer(storage.read_range(file, 4 + 4 * row, 8), "<u4").tolist()
                return mds.row_columns(storage.read_range(file, start, stop - start), self.layout)
            index = storage.join(self.location, self.split, mds.INDEX_NAME)
            entries = {takedown.number_of(e): e for e in mds.read_index(storage.read_bytes(index))}
            raw = mds.raw_shard(storage.read_bytes(f"{file}.zstd"), entries[shard])
            tokens, mask = (
                read(raw, entries[shard], row, row + 1) for read in (mds.read_rows, mds.read_mask)
            )
            assert tokens is not None
            return tokens[0], None if mask is None else mask[0]

    def pieces(self, shard: int, row: int) -> pa.Table:
        """The provenance of a row, by its number in the base."""
        return _pieces(self.provenance(shard), row)


def _column(place: str, column: str) -> np.ndarray:
    with readable(place):
        parts = [batch.column(0).to_numpy() for batch in tables.parquet_batches(place, [column])]
    return np.concatenate(parts)


def _pieces(place: str, row: int) -> pa.Table:
    """The pieces of one row of the base."""
    with readable(place), storage.open_input(place) as handle:
        file = pq.ParquetFile(handle)
        found = []
        for group in range(file.num_row_groups):
            samples = file.read_row_group(group, columns=["sample"], use_threads=False).column(0).to_numpy()
            if len(samples) and samples[-1] < row:
                continue
            a, b = np.searchsorted(samples, np.array([row, row + 1], samples.dtype))
            if a < b:
                found.append(file.read_row_group(group, use_threads=False).slice(int(a), int(b - a)))
            if b < len(samples):
                break
        if not found:
            raise ValueError(f"row {row} is not in it")
        return pa.concat_tables(found)
