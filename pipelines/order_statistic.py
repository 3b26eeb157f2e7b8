"""Where does a fraction of many documents end, when no one may hold them all?

Every document has a place in an order: a number of 128 bits, of its score and of a draw, a hash of the seed and its
id, which tells equal scores apart. The ⌈fraction · n⌉ documents with the smallest places stay. So the cut is exact,
and the same however the documents are split.

The last place that stays is found without gathering documents, by radix selection: a round of tasks counts how many
documents have each value of the next 16 bits among those that share the bits found so far, and the driver follows
the bucket that holds the last one to stay. Once few documents share them, their places are listed, and the last
round is a sort.

Memory: 512 KiB of counts for the driver and each task, a batch of places, and `LISTED` places of 16 bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from winnow.pipelines.engine import Done, Request, Work
from winnow.pipelines.jobs import Task
from winnow.pipelines.records import Outputs, Record, Stage
from winnow.shards import exchange, storage

VERSION = 1
DIGIT_BITS = 16
DIGITS = 8
"""Of a place: four of the score, four of the draw."""
LISTED = 1 << 16
"""Documents whose places are sorted rather than counted."""
TASK_ROWS = 1 << 22
"""Documents whose places one task computes."""
_SIGN = np.uint64(1 << 63)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


class Places(Protocol):
    """Some of the documents, for one task: what it needs to compute their places. It can be pickled."""

    def places(self) -> Iterator[np.ndarray]:
        """uint64[n, 2] batch by batch, as `places_of` makes them, of the documents that the fraction is taken of."""


@dataclass(frozen=True, slots=True)
class Last:
    """The last document that stays."""

    high: int
    low: int
    """Its draw."""
    kept: int
    """Documents that stay, itself among them."""
    documents: int
    """That the fraction was taken of."""

    @property
    def score(self) -> float:
        """Its score, as it was given to `places_of`."""
        ascending = ~np.uint64(self.high)
        bits = ascending ^ (_SIGN if ascending & _SIGN else _ALL)
        return float(np.array([bits], np.uint64).view(np.float64)[0])

    def reaches(self, places: np.ndarray) -> np.ndarray:
        """bool[n]: which of the places, uint64[n, 2], stay."""
        high, low = places[:, 0], places[:, 1]
        return (high < np.uint64(self.high)) | ((high == np.uint64(self.high)) & (low <= np.uint64(self.low)))


def places_of(scores: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """uint64[n, 2]: each document's place in the order, the highest score first; -0.0 and 0.0 are the same score.

    Where the lowest scores are to stay, hand in -scores. scores : a float type, compared as float64; draws : uint64.
    """
    bits = (scores.astype(np.float64) + 0.0).view(np.uint64)
    ascending = bits ^ np.where(bits & _SIGN, _ALL, _SIGN)
    return np.stack([~ascending, draws.astype(np.uint64)], axis=1)


def groups_of(rows: Sequence[int]) -> list[tuple[int, int]]:
    """Ranges of consecutive splits, with these numbers of documents, whose places one task computes."""
    return exchange.group_by_bytes(rows, TASK_ROWS)


def find_last(
    kind: str,
    label: str,
    parts: Sequence[Places],
    fraction: float,
    settings: Mapping[str, Any],
    upstream: tuple[str, ...],
) -> Work[Last | None]:
    """The last of the ⌈fraction · n⌉ documents with the smallest places; None where there is no document.

    Runs the stages `<kind>-<round>.<label>` and `<kind>-listed-<round>.<label>`.

    parts : a task of each round reads one. settings : what places depend on beside the stages `upstream`
    (directories).
    """
    prefix: tuple[int, ...] = ()
    total = kept = 0
    left = -1  # documents that are to stay, of those whose places begin with the prefix
    while True:
        done = yield _round(f"{kind}-{len(prefix)}.{label}", parts, prefix, False, settings, upstream)
        counts = _sum(done)
        if left < 0:
            total = int(counts.sum())
            if not total:
                return None
            left = kept = max(1, math.ceil(round(fraction * total, 6)))  # a fraction is above 0
        upto = np.cumsum(counts)
        digit = int(np.searchsorted(upto, left))
        left -= int(upto[digit] - counts[digit])
        prefix = (*prefix, digit)
        if len(prefix) == DIGITS:
            high, low = (_join(prefix[i : i + DIGITS // 2]) for i in (0, DIGITS // 2))
            return Last(high, low, kept, total)
        if counts[digit] <= LISTED:
            done = yield _round(
                f"{kind}-listed-{len(prefix)}.{label}", parts, prefix, True, settings, upstream
            )
            places = np.concatenate([_read(done, r).reshape(-1, 2) for r in done.records])
            high, low = places[np.lexsort((places[:, 1], places[:, 0]))[left - 1]].tolist()
            return Last(high, low, kept, total)


@dataclass(frozen=True, slots=True)
class RoundSpec:
    part: Places
    prefix: tuple[int, ...]
    """Digits found so far."""
    listed: bool
    """List the places that begin with the prefix, rather than count their next digit."""
    name: str


def round_task(spec: RoundSpec, outputs: Outputs) -> dict[str, Any]:
    """Count, or list, the places that begin with the prefix; returns how many there are."""
    counts = np.zeros(1 << DIGIT_BITS, np.uint64)
    listed = [np.empty((0, 2), np.uint64)]
    for places in spec.part.places():
        mine = places[_begins_with(places, spec.prefix)]
        if spec.listed:
            listed.append(mine)
        else:
            digits = _digit(mine, len(spec.prefix))
            counts += np.bincount(digits, minlength=1 << DIGIT_BITS).astype(np.uint64)
    found = np.concatenate(listed) if spec.listed else counts
    outputs.put(spec.name, found.astype("<u8").tobytes())
    return {"documents": len(found) if spec.listed else int(counts.sum())}


def _round(
    name: str,
    parts: Sequence[Places],
    prefix: tuple[int, ...],
    listed: bool,
    settings: Mapping[str, Any],
    upstream: tuple[str, ...],
) -> Request:
    stage = Stage(name, VERSION, {**settings, "prefix": list(prefix)}, upstream)
    specs = [RoundSpec(part, prefix, listed, f"counts-{i:08d}.bin") for i, part in enumerate(parts)]
    return Request(stage, [Task(i, round_task, spec) for i, spec in enumerate(specs)])


def _digit(places: np.ndarray, at: int) -> np.ndarray:
    """int64[n]: digit number `at` of each place."""
    half, within = divmod(at, DIGITS // 2)
    shift = np.uint64(64 - DIGIT_BITS * (within + 1))
    return ((places[:, half] >> shift) & np.uint64((1 << DIGIT_BITS) - 1)).astype(np.int64)


def _begins_with(places: np.ndarray, prefix: Sequence[int]) -> np.ndarray:
    same = np.ones(len(places), bool)
    for at, digit in enumerate(prefix):
        same &= _digit(places, at) == digit
    return same


def _join(digits: Sequence[int]) -> int:
    value = 0
    for digit in digits:
        value = value << DIGIT_BITS | digit
    return value


def _sum(done: Done) -> np.ndarray:
    total = np.zeros(1 << DIGIT_BITS, np.uint64)
    for record in done.records:
        total += _read(done, record)
    return total


def _read(done: Done, record: Record) -> np.ndarray:
    (name,) = record.outputs
    return np.frombuffer(storage.read_bytes(storage.join(done.location, name)), "<u8")
