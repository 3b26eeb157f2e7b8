"""Which earlier document is each one most like?

SemDeDup (arXiv:2303.09540, section 3.2): within a cluster, whose documents stand in the order in which they should
survive, M of a document is its largest cosine to any one before it; it goes if M is above 1 - eps, whether that other
one stays or not. `nearest_before` gives M, `nearest_kept` the greedy rule: only documents that stay are compared with.

The published code makes the whole matrix of a cluster, n^2 numbers; here only blocks of it exist, above the diagonal.
Scores are the exact cosines of the stored vectors (largest_cosine.py), rounded once, to float32: they depend on the
vectors and their order alone.

Letters: n documents, d dimensions, k clusters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from winnow.filters.largest_cosine import block_of, cosines, held, raise_largest, tile

if TYPE_CHECKING:
    import torch

SMALL = 128
"""Clusters of no more documents are compared many at a time, as whole squares in float64."""
SIZES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, SMALL)
"""Sizes that small clusters are filled up to."""
RESIDENT = 1 << 31
"""A cluster of no more bytes is put on a GPU at once, larger ones block by block, again and again."""


def nearest_before(
    vectors: np.ndarray, device: str, block: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(score float32[n], neighbour int64[n]): the largest cosine to a document before, and the first row that has it.

    The first document has -1 and -1. `vectors` are float16[n, d] of length 1 in the order of survivors, in memory or
    in a file that is mapped. `block`: rows and columns at once; default: `largest_cosine.BLOCKS`.

    Memory: 8 bytes for each of block x block pairs, 32 for each coordinate of a block, 12 for each document.
    """
    import torch

    block = block or block_of(device)
    n = len(vectors)
    score, neighbour = np.empty(n, np.float32), np.empty(n, np.int64)
    matrix = _resident(vectors, device)
    later = torch.ones((min(block, n),) * 2, dtype=torch.bool, device=device).triu()
    for first in range(0, n, block):
        rows = tile(matrix, first, first + block, device)
        largest, at = _nothing(len(rows), device)
        for c in range(0, first, block):
            columns = tile(matrix, c, c + block, device)
            raise_largest(largest, at, rows, columns, torch.arange(c, c + block, device=device))
        own = torch.arange(first, first + len(rows), device=device)
        raise_largest(largest, at, rows, rows, own, later[: len(rows), : len(rows)])
        score[first : first + len(rows)] = cosines(largest)
        neighbour[first : first + len(rows)] = at.cpu().numpy()
    return score, neighbour


def nearest_before_many(
    vectors: np.ndarray, offsets: np.ndarray, device: str
) -> tuple[np.ndarray, np.ndarray]:
    """`nearest_before` of every cluster, ``vectors[offsets[i]:offsets[i + 1]]``; neighbours are rows of `vectors`.

    `offsets` is int64[k + 1]. Clusters of one size are compared together, so that many small ones cost no more than few
    big ones.
    """
    score, neighbour = np.full(len(vectors), -1, np.float32), np.full(len(vectors), -1, np.int64)
    sizes = np.diff(offsets)
    below = 1
    for size in SIZES:
        # Singletons have their answer.
        firsts = offsets[:-1][(sizes > below) & (sizes <= size)]
        below = size
        some = max(1, block_of(device) ** 2 // (2 * size * (size + vectors.shape[1])))
        for i in range(0, len(firsts), some):
            chosen = firsts[i : i + some]
            _squares(vectors, chosen, offsets, size, device, score, neighbour)
    for i in np.flatnonzero(sizes > SMALL):
        rows = slice(offsets[i], offsets[i + 1])
        score[rows], near = nearest_before(vectors[rows], device)
        neighbour[rows] = np.where(near < 0, -1, near + offsets[i])
    return score, neighbour


def nearest_kept(
    vectors: np.ndarray, eps: float, device: str, block: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(score float32[n], neighbour int64[n]) as `nearest_before` has them, to the documents before that stay.

    A document goes whose score is above 1 - eps, both in float32: so ``score > np.float32(1 - eps)`` says who went.

    Memory: 24 bytes for each of block x block pairs, 32 for each coordinate of a block, 13 for each document.
    """
    import torch

    block = block or block_of(device)
    n = len(vectors)
    score, neighbour = np.empty(n, np.float32), np.empty(n, np.int64)
    stays = np.ones(n, bool)
    bound = np.float32(1 - eps)
    matrix = _resident(vectors, device)
    later = torch.ones((min(block, n),) * 2, dtype=torch.bool, device=device).triu()
    for first in range(0, n, block):
        rows = tile(matrix, first, first + block, device)
        largest, at = _nothing(len(rows), device)
        for c in range(0, first, block):
            kept = torch.from_numpy(np.flatnonzero(stays[c : c + block])).to(device)
            raise_largest(largest, at, rows, tile(matrix, c, c + block, device)[kept], kept + c)
        wide = rows.double()
        own = (wide @ wide.T).masked_fill_(later[: len(rows), : len(rows)], -torch.inf)
        like = (own.clamp(-1.0, 1.0).float() > float(bound)).cpu().numpy()
        here = stays[first : first + len(rows)]
        here &= ~(cosines(largest) > bound)
        # Whether a row goes depends on rows above it in the block: they are settled first.
        for row in np.flatnonzero(here & like.any(1)):
            here[row] = not (like[row] & here).any()
        kept = torch.from_numpy(np.flatnonzero(here)).to(device)
        if len(kept):
            top, nearest = own[:, kept].max(1)
            higher = top > largest
            largest[higher] = top[higher]
            at[higher] = kept[nearest[higher]] + first
        score[first : first + len(rows)] = cosines(largest)
        neighbour[first : first + len(rows)] = at.cpu().numpy()
    return score, neighbour


def nearest_kept_many(
    vectors: np.ndarray, offsets: np.ndarray, eps: float, device: str
) -> tuple[np.ndarray, np.ndarray]:
    """`nearest_kept` of every cluster, as `nearest_before_many` has it.

    A cluster in which nothing is above 1 - eps loses nothing, and the rules agree; only the others are gone through
    again.
    """
    score, neighbour = nearest_before_many(vectors, offsets, device)
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    for i in np.unique(owner[score > np.float32(1 - eps)]):
        rows = slice(offsets[i], offsets[i + 1])
        score[rows], near = nearest_kept(vectors[rows], eps, device)
        neighbour[rows] = np.where(near < 0, -1, near + offsets[i])
    return score, neighbour


def _squares(
    vectors: np.ndarray,
    firsts: np.ndarray,
    offsets: np.ndarray,
    size: int,
    device: str,
    score: np.ndarray,
    neighbour: np.ndarray,
) -> None:
    """The answers for clusters of at most `size` documents that begin at `firsts`."""
    import torch

    stops = offsets[np.searchsorted(offsets, firsts, side="right")]
    rows = firsts[:, None] + np.arange(size)
    inside = rows < stops[:, None]
    # What fills a cluster up stands behind its documents, so none of them is compared with it.
    rows = np.minimum(rows, len(vectors) - 1)
    wide = held(vectors[rows], device).float().double()
    later = torch.ones((size, size), dtype=torch.bool, device=device).triu()
    top, nearest = torch.bmm(wide, wide.transpose(1, 2)).masked_fill_(later, -torch.inf).max(2)
    answered = inside.copy()
    answered[:, 0] = False
    score[rows[answered]] = cosines(top)[answered]
    neighbour[rows[answered]] = (nearest.cpu().numpy() + firsts[:, None])[answered]


def _resident(vectors: np.ndarray, device: str) -> np.ndarray | torch.Tensor:
    """The vectors, on the device if that is no CPU and they are few enough."""
    return vectors if device == "cpu" or vectors.nbytes > RESIDENT else held(vectors, device)


def _nothing(rows: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest cosines of rows and where they are, before anything is compared."""
    import torch

    return (
        torch.full((rows,), -torch.inf, dtype=torch.float64, device=device),
        torch.full((rows,), -1, dtype=torch.int64, device=device),
    )
