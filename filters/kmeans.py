"""Around which directions do vectors lie: spherical k-means.

Vectors of length 1 go to the centroid of the largest cosine, of equal ones to the first; a centroid is the sum of its
vectors, scaled to length 1 (Dhillon and Modha 2001). SemDeDup (arXiv:2303.09540) and D4 (arXiv:2308.12284) cluster
so, with faiss. Differences from faiss's ``Kmeans(spherical=True)``: it starts with vectors drawn at random, here with
the first ones of an order that the caller makes random; it fills an empty cluster by splitting a big one, here the
vector farthest from its centroid fills it; it goes on for all iterations, here it stops when nothing moves.

Centroids have the precision of float16, so that all cosines are exact (largest_cosine.py), and sums of float16 in
float64 are: below 2^29 vectors no bit is lost. So the result depends on the vectors and their order, and not on
threads, blocks or atomic additions. Only a centroid's length is rounded before float16 is reached: two devices could
differ where that rounding decides.

Letters: n vectors, d dimensions, k centroids.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from winnow.filters.largest_cosine import block_of, cosines, held, raise_largest, tile
from winnow.filters.torch_threads import one_thread

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """Centroids, and how they came about."""

    centroids: np.ndarray
    """float32[k, d] of length 1, with the precision of float16."""
    inertia: tuple[float, ...]
    """Of each iteration: the mean over the vectors of 1 - cosine to the centroid, before the centroids moved."""
    reseeded: tuple[int, ...]
    """Of each iteration: clusters that were empty, and got a vector far from its own centroid."""


def fit(sample: np.ndarray, k: int, iterations: int, device: str, threads: int = 1) -> Fitted:
    """k centroids of vectors, float16[n, d] of length 1 or all zeros, in an order as good as random.

    Fewer than `k` different vectors give as many centroids as there are, vectors of zeros not counted; no vectors
    give none. `threads` take blocks of vectors side by side, each with one of torch's threads; the result does not
    depend on them.

    Memory: the sample, on the device too if that is no CPU; 24 bytes for each coordinate of a centroid; 32 for each
    vector; for each thread the blocks of `assign`.
    """
    import torch

    first = _first_different(sample, k)
    centroids = sample[first].astype(np.float16)
    inertia: list[float] = []
    reseeded: list[int] = []
    before: np.ndarray | None = None
    with one_thread():
        vectors = sample if device == "cpu" else held(sample, device)
        for _ in range(iterations if len(centroids) else 0):
            sums = torch.zeros(centroids.shape, dtype=torch.float64, device=device)
            cluster, similarity = _nearest(vectors, centroids, device, sums, threads)
            inertia.append(float(np.mean(1.0 - similarity, dtype=np.float64)))
            empty = np.flatnonzero(np.bincount(cluster, minlength=len(centroids)) == 0)
            seeds = _farthest(sample, similarity, len(empty))
            reseeded.append(len(seeds))
            if before is not None and not len(seeds) and np.array_equal(cluster, before):
                break
            before = cluster
            centroids = _scaled(sums, centroids)
            centroids[empty[: len(seeds)]] = sample[seeds]
    return Fitted(centroids.astype(np.float32), tuple(inertia), tuple(reseeded))


def assign(vectors: np.ndarray, centroids: np.ndarray, device: str) -> tuple[np.ndarray, np.ndarray]:
    """(cluster uint32[n], similarity float32[n]): the nearest centroid, of equal ones the first, and the cosine to it.

    `vectors` are float16[n, d], in memory or a file that is mapped, `centroids` those of `fit`.

    Memory: 8 bytes for each pair of a block of rows and one of centroids (`largest_cosine.BLOCKS`) and 32 for each
    coordinate of a block; 16 for each vector; the centroids in float16.

    Raises
    ------
    ValueError
        There are vectors, and no centroids.
    """
    if len(vectors) and not len(centroids):
        raise ValueError(f"{len(vectors)} vectors, and no centroid to assign them to")
    cluster, similarity = _nearest(vectors, centroids.astype(np.float16), device, None, 1)
    return cluster.astype(np.uint32), similarity


def _nearest(
    vectors: np.ndarray | torch.Tensor,
    centroids: np.ndarray,
    device: str,
    sums: torch.Tensor | None,
    threads: int,
) -> tuple[np.ndarray, np.ndarray]:
    """(cluster int64[n], similarity float32[n]); each cluster's vectors are added to `sums`, float64[k, d]."""
    import torch

    block = block_of(device)
    cluster, similarity = np.empty(len(vectors), np.int64), np.empty(len(vectors), np.float32)
    columns = held(centroids, device)
    numbers = torch.arange(len(centroids), device=device)
    adding = Lock()

    def one(first: int) -> None:
        rows = tile(vectors, first, first + block, device)
        largest = torch.full((len(rows),), -torch.inf, dtype=torch.float64, device=device)
        at = torch.zeros(len(rows), dtype=torch.int64, device=device)
        for c in range(0, len(columns), block):
            raise_largest(largest, at, rows, tile(columns, c, c + block, device), numbers[c : c + block])
        if sums is not None:
            wide = rows.double()
            # In any order: these sums are exact.
            with adding:
                sums.index_add_(0, at, wide)
        cluster[first : first + len(rows)] = at.cpu().numpy()
        similarity[first : first + len(rows)] = cosines(largest)

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(one, range(0, len(vectors), block)):
            pass
    return cluster, similarity


def _scaled(sums: torch.Tensor, centroids: np.ndarray) -> np.ndarray:
    """float16[k, d] of length 1; a centroid whose vectors cancel out, or that has none, stays as it was."""
    lengths = sums.square().sum(1, keepdim=True).sqrt()
    moved = (lengths > 0).squeeze(1).cpu().numpy()
    found = centroids.copy()
    # By way of float32, as devices may do it or not.
    found[moved] = (sums / lengths).float().half().cpu().numpy()[moved]
    return found


def _first_different(sample: np.ndarray, k: int) -> np.ndarray:
    """Rows of the first k vectors that differ, zeros left out; of nothing but zeros the first."""
    rows = _different(sample, iter(range(len(sample))), k)
    return rows if len(rows) or not len(sample) else np.zeros(1, np.int64)


def _farthest(sample: np.ndarray, similarity: np.ndarray, wanted: int) -> np.ndarray:
    """Rows of `wanted` different vectors, or all there are, the least similar first, of equal ones the first."""
    if not wanted:
        return np.empty(0, np.int64)
    among = wanted
    while True:
        # Different vectors may be rare among the farthest: look among ever more of them, and never sort the rest.
        among = min(2 * among, len(sample))
        bound = np.partition(similarity, among - 1)[among - 1]
        rows = np.flatnonzero(similarity <= bound)
        rows = rows[np.argsort(similarity[rows], kind="stable")]
        found = _different(sample, iter(rows.tolist()), wanted)
        if len(found) == wanted or among == len(sample):
            return found


def _different(sample: np.ndarray, rows: Iterator[int], wanted: int) -> np.ndarray:
    """The first `wanted` of `rows` whose vectors differ from each other and from zeros."""
    seen = {bytes(sample.shape[1] * 2)}
    found: list[int] = []
    for row in rows:
        if len(found) == wanted:
            break
        # Adding zero makes one zero of both.
        key = (sample[row] + np.float16(0)).tobytes()
        if key not in seen:
            seen.add(key)
            found.append(row)
    return np.array(found, np.int64)
