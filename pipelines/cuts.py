"""Where does a fraction of a source's documents end?

A rule with a fraction keeps the documents with the highest scores, of those that pass every rule before it in
the last segment: exactly ⌈fraction · n⌉ of the n that have a score. Equal scores are told apart by a hash of the
seed and the document's id, so the cut is exact, and the same however the source is split.

The cut is found without gathering documents, by radix selection over stored signals: a document's place in the
order is a number of 128 bits (score, then draw), a round counts how many documents have each value of the next
16 bits among those that share the bits found so far, and the driver follows the bucket that holds the last
document to stay. Once few documents share them, their numbers are listed, and the last round is a sort.

Memory: 512 KiB of counts for the driver and each task, a row group of signals, and `LISTED` numbers of 16 bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from winnow.filters.rules import Cut, Rule, score_of
from winnow.pipelines.cluster import Task
from winnow.pipelines.documents import numbers
from winnow.pipelines.engine import Done, Request, Work
from winnow.pipelines.records import Outputs, Record, Stage
from winnow.pipelines.verdicts import decided, draws_of, signal_batches
from winnow.shards import exchange, storage

VERSION = 1
DIGIT_BITS = 16
DIGITS = 8
"""Of a place in the order: four of the score, four of the draw."""
LISTED = 1 << 16
"""Documents whose places are sorted rather than counted."""
TASK_ROWS = 1 << 22
"""Documents whose stored signals one task reads."""
_SIGN = np.uint64(1 << 63)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True, slots=True)
class CountSpec:
    documents: str
    """Location of the documents stage."""
    splits: tuple[int, ...]
    rules: tuple[Rule, ...]
    """The last segment's, up to the one that cuts, which is the last here."""
    cuts: Mapping[int, Cut]
    """Of those before it."""
    prefix: tuple[int, ...]
    """Digits found so far."""
    listed: bool
    """List the places that begin with the prefix, rather than count their next digit."""
    seed: int
    name: str


def count_task(spec: CountSpec, outputs: Outputs) -> dict[str, Any]:
    """Count, or list, the places that begin with the prefix; returns how many there are."""
    counts = np.zeros(1 << DIGIT_BITS, np.uint64)
    places: list[np.ndarray] = []
    for split in spec.splits:
        for batch in signal_batches(spec.documents, split, spec.rules):
            before = decided(spec.rules[:-1], batch, spec.cuts, spec.seed)
            signals = numbers(dict(zip(batch.schema.names, batch.columns, strict=True)))
            score = score_of(spec.rules[-1], signals, batch.num_rows)
            wanted = (before.first < 0) & ~np.isnan(score)
            mine = places_of(score[wanted], draws_of(batch, spec.seed)[wanted])
            mine = mine[_begins_with(mine, spec.prefix)]
            if spec.listed:
                places.append(mine)
            else:
                counts += np.bincount(_digit(mine, len(spec.prefix)), minlength=1 << DIGIT_BITS).astype(
                    np.uint64
                )
    if spec.listed:
        found = np.concatenate([np.empty((0, 2), np.uint64), *places])
        outputs.put(spec.name, found.astype("<u8").tobytes())
        return {"documents": len(found)}
    outputs.put(spec.name, counts.astype("<u8").tobytes())
    return {"documents": int(counts.sum())}


def places_of(scores: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """uint64[n, 2]: each document's place in the order, the highest score first; -0.0 and 0.0 are the same score."""
    bits = (scores.astype(np.float64) + 0.0).view(np.uint64)
    ascending = bits ^ np.where(bits & _SIGN, _ALL, _SIGN)
    return np.stack([~ascending, draws.astype(np.uint64)], axis=1)


def _score_at(high: int) -> float:
    """The score of a place's first half."""
    ascending = ~np.uint64(high)
    bits = ascending ^ (_SIGN if ascending & _SIGN else _ALL)
    return float(np.array([bits], np.uint64).view(np.float64)[0])


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


def find_cuts(
    source: str, documents: Done, rules: Sequence[Rule], seed: int, part: Sequence[int] | None = None
) -> Work[dict[int, Cut]]:
    """The cut of every rule of the last segment that has a fraction, by its index; {} where none has.

    part : numbers of the splits that are looked at, whose records `documents` has; None: all of the source.
    """
    cuts: dict[int, Cut] = {}
    for index, rule in enumerate(rules):
        if rule.fraction is not None:
            cut = yield from _find_cut(source, documents, tuple(rules[: index + 1]), dict(cuts), seed, part)
            if cut is not None:
                cuts[index] = cut
    return cuts


def _find_cut(
    source: str,
    documents: Done,
    rules: tuple[Rule, ...],
    cuts: Mapping[int, Cut],
    seed: int,
    part: Sequence[int] | None,
) -> Work[Cut | None]:
    """The cut of the last of `rules`; None where no document has a score."""
    prefix: tuple[int, ...] = ()
    left = -1  # documents that are to stay, of those whose places begin with the prefix
    while True:
        done = yield _round(source, documents, rules, cuts, prefix, False, seed, part)
        counts = _sum(done)
        if left < 0:
            total = int(counts.sum())
            if not total:
                return None
            fraction = rules[-1].fraction
            assert fraction is not None
            left = math.ceil(round(fraction * total, 6))
        upto = np.cumsum(counts)
        digit = int(np.searchsorted(upto, left))
        left -= int(upto[digit] - counts[digit])
        prefix = (*prefix, digit)
        if len(prefix) == DIGITS:
            return _cut_of(*(_join(prefix[i : i + DIGITS // 2]) for i in (0, DIGITS // 2)))
        if counts[digit] <= LISTED:
            done = yield _round(source, documents, rules, cuts, prefix, True, seed, part)
            places = np.concatenate([_read(done, r).reshape(-1, 2) for r in done.records])
            high, low = places[np.lexsort((places[:, 1], places[:, 0]))[left - 1]].tolist()
            return _cut_of(high, low)


def _cut_of(high: int, low: int) -> Cut:
    return Cut(_score_at(high), low)


def _join(digits: Sequence[int]) -> int:
    value = 0
    for digit in digits:
        value = value << DIGIT_BITS | digit
    return value


def _round(
    source: str,
    documents: Done,
    rules: tuple[Rule, ...],
    cuts: Mapping[int, Cut],
    prefix: tuple[int, ...],
    listed: bool,
    seed: int,
    part: Sequence[int] | None,
) -> Request:
    kind = "cut-listed" if listed else "cut"
    settings: dict[str, Any] = {
        "rules": [rule_identity(r) for r in rules],
        "cuts": [[i, c.score, c.draw] for i, c in cuts.items()],
        "prefix": list(prefix),
        "seed": seed,
    }
    if part is not None:
        settings["splits"] = list(part)
    stage = Stage(
        f"{kind}{len(rules) - 1}-{len(prefix)}.{source}", VERSION, settings, (documents.stage.directory,)
    )
    tasks = []
    sizes = [r.counts["documents"] for r in documents.records]
    for i, (a, b) in enumerate(exchange.group_by_bytes(sizes, TASK_ROWS)):
        splits = tuple(documents.records[k].index for k in range(a, b))
        spec = CountSpec(documents.location, splits, rules, cuts, prefix, listed, seed, f"counts-{i:08d}.bin")
        tasks.append(Task(i, count_task, spec))
    return Request(stage, tasks)


def rule_identity(rule: Rule) -> list[Any]:
    """What a rule decides by, as JSON can say it."""
    return [rule.name, rule.minimum, rule.maximum, rule.fraction, repr(rule.score)]


def _sum(done: Done) -> np.ndarray:
    total = np.zeros(1 << DIGIT_BITS, np.uint64)
    for record in done.records:
        total += _read(done, record)
    return total


def _read(done: Done, record: Record) -> np.ndarray:
    (name,) = record.outputs
    return np.frombuffer(storage.read_bytes(storage.join(done.location, name)), "<u8")
