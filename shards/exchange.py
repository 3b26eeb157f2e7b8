"""How do rows get from the tasks that made them to the tasks that need them together?

Map tasks write *runs*: rows sorted by their leading fields, the payload of each row (tokens, say) in
the same order, and one compact binary index of where each partition begins. Reduce tasks
range-read their partition from every run and merge. A partition is a range of keys, so partitions
in order, each sorted, are the whole sorted by (key, further fields): the result does not depend on
how many partitions or runs there were.

One round suffices while a run can be read in ranges of about a MiB; beyond that the partitions are
split in two or more rounds (a radix sort on files), so that no task opens more than about
`partition_bytes / RANGE_BYTES` files. How many partitions there are follows from input bytes and
settings, never from workers.

A run file: payload | rows | u64 row starts [parts + 1] | u64 payload starts [parts + 1] | footer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from winnow.shards import arrays, storage

RANGE_BYTES = 1 << 20
"""The mean range read that a round aims at: an object store's request costs about as much as a MiB."""
MAGIC = b"WNRUN001"
FOOTER = struct.Struct("<8sQQQ")


@dataclass(frozen=True, slots=True)
class Rounds:
    """The shape of an exchange."""

    partitions: int
    fanouts: tuple[int, ...]
    """Partitions a run is divided into, per round; their product is `partitions`."""


def plan_rounds(total_bytes: int, partition_bytes: int, range_bytes: int = RANGE_BYTES) -> Rounds:
    """The fewest rounds in which a mean range is at least `range_bytes`, fan-outs as equal as they come.

    A round's run holds about `partition_bytes`, so its fan-out is at most `partition_bytes / range_bytes`
    (at least 2).
    """
    wanted = max(1, -(-total_bytes // partition_bytes))
    widest = max(2, partition_bytes // range_bytes)
    rounds = 1
    while widest**rounds < wanted:
        rounds += 1
    fanouts, left = [], wanted
    for r in range(rounds, 0, -1):
        fan = 1
        while fan**r < left:
            fan += 1
        fanouts.append(fan)
        left = -(-left // fan)
    product = 1
    for fan in fanouts:
        product *= fan
    return Rounds(product, tuple(fanouts))


def uniform_bounds(partitions: int, low: int = 0, high: int = 1 << 64) -> np.ndarray:
    """uint64[partitions - 1]: where partitions 1, 2, … begin when keys are spread evenly over [low, high)."""
    return np.array([low + (high - low) * p // partitions for p in range(1, partitions)], np.uint64)


def coarse_bounds(bounds: np.ndarray, fanouts: Sequence[int], round_: int) -> np.ndarray:
    """The bounds between the groups of partitions that a run of this round tells apart."""
    step = 1
    for fan in fanouts[round_ + 1 :]:
        step *= fan
    return bounds[step - 1 :: step]


def group_by_bytes(sizes: Sequence[int] | np.ndarray, limit: int, most: int = 1000) -> list[tuple[int, int]]:
    """Ranges of consecutive inputs that hold about `limit` bytes, and at most `most` inputs, each."""
    n = len(sizes)
    ends = np.zeros(n + 1, np.int64)
    np.cumsum(np.asarray(sizes, np.int64), out=ends[1:])
    out: list[tuple[int, int]] = []
    start = 0
    while start < n:
        fits = int(np.searchsorted(ends, ends[start] + limit, "right")) - 1
        stop = min(max(fits, start + 1), start + most, n)
        out.append((start, stop))
        start = stop
    return out


def sort_order(rows: np.ndarray, fields: Sequence[str]) -> np.ndarray:
    """int64[n]: the order that sorts a structured array by these fields, the first one foremost; stable.

    The first field is uint64. Where it is mostly a hash, its upper bits and the row number are sorted as one number,
    which takes a twentieth of the time of a sort by all fields, and the few rows that look equal are put right.
    """
    n = len(rows)
    bits = max(n - 1, 1).bit_length()
    low = np.uint64((1 << bits) - 1)
    packed = rows[fields[0]] & ~low
    packed |= np.arange(n, dtype=np.uint64)
    packed.sort()
    order = (packed & low).astype(np.int64)
    packed >>= np.uint64(bits)
    tied = np.zeros(n, bool)
    np.equal(packed[1:], packed[:-1], out=tied[1:])
    tied[:-1] |= tied[1:]
    where = np.flatnonzero(tied)
    if 2 * len(where) > n:
        return np.lexsort([rows[f] for f in reversed(fields)])
    if len(where):
        mine = order[where]
        alike = rows.take(mine)
        order[where] = mine[np.lexsort([alike[f] for f in reversed(fields)])]
    return order


def payload_take(payload: np.ndarray, starts: np.ndarray, ends: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Gather the slices payload[starts[i]:ends[i]] in the given order into one array of the same dtype.

    starts, ends, order : int64[n]. Memory: the result.
    """
    # Slice by slice: an index per item, as NumPy's and Arrow's `take` build it, is four times the payload.
    item = payload.dtype.itemsize
    lengths = (ends - starts)[order]
    out = np.empty(int(lengths.sum()), payload.dtype)
    if not len(out):
        return out
    source, target = payload.data.cast("B"), out.data.cast("B")
    stops = np.cumsum(lengths) * item
    begins = stops - lengths * item
    for a, b, c, d in zip(
        (starts[order] * item).tolist(),
        (ends[order] * item).tolist(),
        begins.tolist(),
        stops.tolist(),
        strict=True,
    ):
        target[c:d] = source[a:b]
    return out


def write_run(
    path: str,
    rows: np.ndarray,
    key: str,
    bounds: np.ndarray,
    payload: np.ndarray | None,
    ends: np.ndarray | None,
) -> None:
    """Write a run to a local path.

    rows : structured[n], sorted by `key` first.
    bounds : uint64[p - 1], where partitions 1 … p-1 begin.
    payload, ends : the payload in row order and uint64[n], one past each row's last item; or None.
    """
    row_starts = np.empty(len(bounds) + 2, np.uint64)
    row_starts[0] = 0
    row_starts[1:-1] = np.searchsorted(rows[key], bounds, side="left")
    row_starts[-1] = len(rows)
    if payload is None or ends is None:
        payload_starts = np.zeros_like(row_starts)
        item = 1
    else:
        edges = np.concatenate([np.zeros(1, np.uint64), ends.astype(np.uint64)])
        payload_starts = edges[row_starts.astype(np.int64)]
        item = payload.dtype.itemsize
    with open(path, "wb") as file:
        if payload is not None:
            arrays.write(file, payload)
        arrays.write(file, rows)
        arrays.write(file, row_starts)
        arrays.write(file, payload_starts)
        file.write(FOOTER.pack(MAGIC, len(row_starts) - 1, rows.dtype.itemsize, item))


@dataclass(frozen=True, slots=True)
class Run:
    """A run's index, and where to read its partitions."""

    location: str
    row_starts: np.ndarray
    payload_starts: np.ndarray
    row_bytes: int
    item_bytes: int

    @property
    def partitions(self) -> int:
        return len(self.row_starts) - 1

    def partition_bytes(self) -> np.ndarray:
        """int64[partitions]: bytes of rows and payload."""
        rows = np.diff(self.row_starts.astype(np.int64)) * self.row_bytes
        return rows + np.diff(self.payload_starts.astype(np.int64)) * self.item_bytes

    def read(
        self, partition: int, dtype: np.dtype, payload: np.dtype | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The rows and payload of one partition. Raises ValueError when the run was written with other types."""
        first, last = (int(x) for x in self.row_starts[partition : partition + 2])
        rows = self.read_rows(first, last, dtype)
        if payload is None:
            return rows, None
        first, last = (int(x) for x in self.payload_starts[partition : partition + 2])
        return rows, self.read_items(first, last, payload)

    def read_rows(self, first: int, last: int, dtype: np.dtype) -> np.ndarray:
        """Rows `first` to `last` of the run. Raises ValueError when they are of another type."""
        if dtype.itemsize != self.row_bytes:
            raise ValueError(f"{self.location}: rows of {self.row_bytes} bytes, not {dtype.itemsize}")
        base = int(self.payload_starts[-1]) * self.item_bytes
        return read_array(self.location, base + first * self.row_bytes, np.empty(last - first, dtype))

    def read_items(self, first: int, last: int, payload: np.dtype) -> np.ndarray:
        """Items `first` to `last` of the run's payload. Raises ValueError when they are of another type."""
        if payload.itemsize != self.item_bytes:
            raise ValueError(f"{self.location}: items of {self.item_bytes} bytes, not {payload.itemsize}")
        return read_array(self.location, first * self.item_bytes, np.empty(last - first, payload))


def read_array(location: str, start: int, out: np.ndarray) -> np.ndarray:
    """Fill a contiguous array from byte `start` of a file, and return it. Raises OSError when the file is too short."""
    if out.nbytes:
        storage.read_into(location, start, out.reshape(-1).view(np.uint8).data)
    return out


def open_run(location: str, size: int, partitions: int) -> Run:
    """Read the index of a run of known size and number of partitions. Raises ValueError for a foreign or cut file."""
    tail = 16 * (partitions + 1) + FOOTER.size
    if size < tail:
        raise ValueError(f"{location}: {size} bytes are too few for a run of {partitions} partitions")
    data = storage.read_range(location, size - tail, tail)
    magic, found, row_bytes, item = FOOTER.unpack(data[-FOOTER.size :])
    if magic != MAGIC or found != partitions:
        raise ValueError(f"{location}: not a run of {partitions} partitions")
    starts = np.frombuffer(data[: -FOOTER.size], np.uint64)
    run = Run(location, starts[: partitions + 1], starts[partitions + 1 :], row_bytes, item)
    if int(run.partition_bytes().sum()) + tail != size:
        raise ValueError(f"{location}: {size} bytes are not what its index tells")
    return run


def gather(
    parts: Sequence[tuple[Run, int]], dtype: np.dtype, fields: Sequence[str], payload: np.dtype | None = None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Read partitions (of runs, the same range of keys each) and merge them, sorted by `fields`.

    Returns rows (structured[n]), the payload in row order and uint64[n] ends of each row's payload
    (None and None without payload). With payload, rows have a field `items`: the payload's length.
    Memory: the partition, twice.
    """
    return _merged([run.read(partition, dtype, payload) for run, partition in parts], dtype, fields, payload)


@dataclass(slots=True)
class _Reader:
    """A partition of a run that is read piece by piece."""

    run: Run
    at: int
    """The row to read next."""
    stop: int
    item: int
    """The item of the payload to read next."""
    row_bytes: int
    """Of a row with its payload, on average."""
    rows: np.ndarray
    """Read, and not yet handed out."""
    payload: np.ndarray | None
    """Theirs; None where there is none."""

    def fill(self, limit: int) -> None:
        """Read about `limit` bytes, at least one row, if nothing is left of what was read before."""
        if len(self.rows) or self.at == self.stop:
            return
        last = min(self.stop, self.at + max(1, limit // self.row_bytes))
        self.rows = self.run.read_rows(self.at, last, self.rows.dtype)
        if self.payload is not None:
            ends = np.cumsum(self.rows["items"].astype(np.int64))
            whole = max(1, int(np.searchsorted(ends * self.payload.itemsize, limit, side="right")))
            self.rows = self.rows[:whole]
            n = int(ends[len(self.rows) - 1])
            self.payload = self.run.read_items(self.item, self.item + n, self.payload.dtype)
            self.item += n
        self.at += len(self.rows)

    def take(self, n: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Hand out the first n rows."""
        rows, self.rows = self.rows[:n], self.rows[n:]
        if self.payload is None:
            return rows, None
        items = int(rows["items"].sum(dtype=np.int64))
        payload, self.payload = self.payload[:items], self.payload[items:]
        return rows, payload


def sorted_blocks(
    parts: Sequence[tuple[Run, int]],
    dtype: np.dtype,
    fields: Sequence[str],
    payload: np.dtype | None,
    limit: int,
) -> Iterator[tuple[np.ndarray, np.ndarray | None, np.ndarray | None]]:
    """What `gather` returns, block by block of about `limit` bytes: for partitions that one key can make too large.

    Blocks in order are the whole, sorted by `fields`; none is empty, and a key may go on in the next one.
    Memory: the limit (or a row of each run, if that is more), three times.
    """
    sizes = [int(run.partition_bytes()[partition]) for run, partition in parts]
    if sum(sizes) <= limit:
        whole = gather(parts, dtype, fields, payload)
        if len(whole[0]):
            yield whole
        return
    share = limit // len(parts)
    readers = []
    for (run, partition), size in zip(parts, sizes, strict=True):
        first, stop = (int(x) for x in run.row_starts[partition : partition + 2])
        mean = max(1, size // max(1, stop - first))
        items = None if payload is None else np.empty(0, payload)
        item = int(run.payload_starts[partition])
        readers.append(_Reader(run, first, stop, item, mean, np.empty(0, dtype), items))
    while True:
        for reader in readers:
            reader.fill(share)
        readers = [r for r in readers if len(r.rows)]
        if not readers:
            return
        # What is not yet read comes after the last row of its run that is; so up to the first of these all is known.
        lasts = [r.rows[-1] for r in readers if r.at < r.stop]
        bound = min(lasts, key=lambda row: tuple(row[f] for f in fields), default=None)
        taken = [r.take(len(r.rows) if bound is None else _upto(r.rows, bound, fields)) for r in readers]
        yield _merged(taken, dtype, fields, payload)


def _upto(rows: np.ndarray, bound: np.void, fields: Sequence[str]) -> int:
    """How many of the sorted rows come not after `bound`."""
    low, high = 0, len(rows)
    for field in fields:
        column = rows[field][low:high]
        below, equal = (
            np.searchsorted(column, bound[field], "left"),
            np.searchsorted(column, bound[field], "right"),
        )
        low, high = low + int(below), low + int(equal)
    return high


def _merged(
    read: list[tuple[np.ndarray, np.ndarray | None]],
    dtype: np.dtype,
    fields: Sequence[str],
    payload: np.dtype | None,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """What `gather` returns, of sorted rows with their payload. `read` is empty afterwards, to spare memory."""
    rows = np.concatenate([np.empty(0, dtype), *(r for r, _ in read)])
    items = [p for _, p in read if p is not None]
    read.clear()
    order = sort_order(rows, fields)
    if payload is None:
        return rows.take(order), None, None
    data = np.concatenate([np.empty(0, payload), *items])
    del items
    stops = np.cumsum(rows["items"].astype(np.int64))
    data = payload_take(data, stops - rows["items"].astype(np.int64), stops, order)
    rows = rows.take(order)
    return rows, data, np.cumsum(rows["items"].astype(np.uint64))
