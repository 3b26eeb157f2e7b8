"""How many documents would another eps, or another share, keep?

The scores of a step that compares vectors do not depend on either (greedy comparison apart), so one pass over them
tells what every cut would leave. How many stay at each of `EPS` is counted as the cut counts (vector_cut.py); which
eps leaves each of `SHARES` comes from a histogram of `BINS` bins over [-1, 1], so it is a multiple of 2/65,536, the
largest that leaves at least that share.

Memory: 512 KiB of counts for each task, and a batch of scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from winnow.pipelines.documents import name
from winnow.pipelines.engine import Done, Request, Work
from winnow.pipelines.jobs import Task
from winnow.pipelines.order_statistic import groups_of
from winnow.pipelines.records import Outputs, Stage
from winnow.pipelines.standing import Standing
from winnow.pipelines.vector_cut import bound_of, score_batches, scores_of
from winnow.shards import storage

VERSION = 1
BINS = 1 << 16
EPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
"""SemDeDup's figures for C4 span 0.10 to 0.25, those for LAION 0.00095 to 0.03; NeMo Curator's are 0.01 and 0.07."""
SHARES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class CountSpec:
    index: int
    scores: str
    """Location of the step's scores."""
    inputs: tuple[Standing, ...]


def count_task(spec: CountSpec, outputs: Outputs) -> dict[str, Any]:
    """Count the scores of some splits by bin, and those that each of `EPS` keeps."""
    counts = np.zeros(BINS, np.uint64)
    kept = np.zeros(len(EPS), np.int64)
    for item in spec.inputs:
        for batch in score_batches(spec.scores, item):
            scores = scores_of(batch)
            scores = scores[~np.isnan(scores)]
            counts += np.bincount(_bins(scores), minlength=BINS).astype(np.uint64)
            kept += [int((scores <= bound_of(eps)).sum()) for eps in EPS]
    outputs.put(name("counts", spec.index, "bin"), counts.astype("<u8").tobytes())
    return {"kept": kept.tolist()}


def _bins(scores: np.ndarray) -> np.ndarray:
    """int64[n]: number of each score's bin; a bin's upper edge, -1 + 2 (number + 1) / BINS, belongs to it."""
    return np.clip(np.ceil((scores + 1) * (BINS / 2)) - 1, 0, BINS - 1).astype(np.int64)


@dataclass(frozen=True, slots=True)
class CurveSpec:
    counts: tuple[str, ...]
    """Locations of the tasks' counts."""
    kept: tuple[int, ...]
    """Documents that each of `EPS` keeps."""


def curve_task(spec: CurveSpec, outputs: Outputs) -> dict[str, Any]:
    """Add the counts up, and read the curve from them."""
    counts = np.zeros(BINS, np.uint64)
    for place in spec.counts:
        counts += np.frombuffer(storage.read_bytes(place), "<u8")
    upto = np.cumsum(counts)
    documents = int(upto[-1])
    eps_at: dict[str, float] = {}
    for share in SHARES if documents else ():
        at = int(np.searchsorted(upto, math.ceil(round(share * documents, 6))))
        eps_at[str(share)] = 2 - 2 * (at + 1) / BINS
    return {
        "documents": documents,
        "kept_at_eps": dict(zip(map(str, EPS), spec.kept, strict=True)),
        "eps_at_share": eps_at,
    }


def curve_work(step: str, group: Sequence[str], inputs: Sequence[Standing], scores: Done) -> Work[Done]:
    """The retention curve of a step from its scores; returns the finished stage `<step>-curve.<label>`.

    Its only record counts the `documents` that have a score, `kept_at_eps`, documents by eps, and `eps_at_share`, eps
    by the share that stays ({} where there is no document). Keys are decimal numbers: "0.1".
    """
    label = "+".join(group)[:80]
    counting = Stage(f"{step}-curve-counts.{label}", VERSION, {"eps": EPS}, (scores.stage.directory,))
    parts = groups_of([i.rows for i in inputs])
    specs = [CountSpec(i, scores.location, tuple(inputs[a:b])) for i, (a, b) in enumerate(parts)]
    done = yield Request(counting, [Task(s.index, count_task, s) for s in specs])
    kept = tuple(sum(r.counts["kept"][i] for r in done.records) for i in range(len(EPS)))
    places = tuple(storage.join(done.location, name("counts", s.index, "bin")) for s in specs)
    curve = Stage(f"{step}-curve.{label}", VERSION, {"shares": SHARES}, (counting.directory,))
    return (yield Request(curve, [Task(0, curve_task, CurveSpec(places, kept))]))
