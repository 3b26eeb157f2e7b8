"""Which of many vectors is nearest to each of some, exactly?

Vectors are float16 and of length 1. The product of two float16 numbers and the sum of such products fit in a float64
without rounding: coordinates are multiples of 2^-24 and at most 1, so a cosine is a multiple of 2^-48 below 2. So the
largest cosine, and of equal ones the first, is the same number whatever the device, the threads, the size of blocks
and the order of adding: no run of k-means and no comparison depends on them.

Most of the work is done in float32 all the same: its rounding is bounded, and only rows whose best two are nearer to
each other than the bound are multiplied again in float64. A process may let CUDA use TF32 for it, which is faster and
holds a float16's 11 significant bits: the answers stay the same. It is not switched on here, as that would reach
what else multiplies in the process.

Letters: m rows, n columns, d dimensions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

BLOCKS = {"cpu": 1024, "cuda": 8192}
"""Rows, and columns, multiplied at once by type of device: 4 MiB and 256 MiB of products in float32."""


def block_of(device: str) -> int:
    """How many rows and columns are multiplied at once on a device, which may have a number: ``cuda:1``."""
    return BLOCKS[device.partition(":")[0]]


def tile(vectors: np.ndarray | torch.Tensor, first: int, stop: int, device: str) -> torch.Tensor:
    """Rows of a float16 matrix, in memory, in a mapped file or on the device, as float32[m, d] on the device."""
    return held(vectors[first:stop], device).float()


def held(vectors: np.ndarray | torch.Tensor, device: str) -> torch.Tensor:
    """A float16 matrix on the device."""
    import torch

    if isinstance(vectors, torch.Tensor):
        return vectors.to(device)
    # torch warns of arrays that cannot be written to, as those of a mapped file.
    return torch.from_numpy(np.array(vectors, np.float16)).to(device)


def raise_largest(
    largest: torch.Tensor,
    at: torch.Tensor,
    rows: torch.Tensor,
    columns: torch.Tensor,
    numbers: torch.Tensor,
    hidden: torch.Tensor | None = None,
) -> None:
    """Where a column is nearer to a row than `largest` says, put its cosine there, and its number in `at`.

    float64[m] and int64[m] of the rows, `tile`s float32[m, d] and float32[n, d] with ascending `numbers` int64[n];
    `hidden` bool[m, n] marks what must not be compared. Of equally near columns the first counts, and one that is there
    already stays.
    """
    import torch

    if not len(columns):
        return
    # d products of at most 1 in sum; TF32 units may cut where float32 rounds, hence 2^-23; two numbers are compared.
    slack = 2 * rows.shape[1] * 2.0**-23
    products = rows @ columns.T
    if hidden is not None:
        products.masked_fill_(hidden, -torch.inf)
    top, nearest = products.max(1)
    second = products.scatter_(1, nearest[:, None], -torch.inf).amax(1)
    rises = (top > largest - slack) & (top > -torch.inf)
    close = second >= top - slack
    clear = (rises & ~close).nonzero().squeeze(1)
    # Products of two float16 are exact in float32 already, and float16 turns into float64 far slower.
    best = nearest[clear]
    exact = (rows.index_select(0, clear) * columns.index_select(0, best)).sum(1, dtype=torch.float64)
    _put(largest, at, clear, exact, numbers[best])
    # float64 takes twice the room of the products, which are no longer needed.
    del products
    unclear = (rises & close).nonzero().squeeze(1)
    if not len(unclear):
        return
    wide = columns.double()
    for some in unclear.split(max(1, len(rows) // 2)):
        exact_products = rows.index_select(0, some).double() @ wide.T
        if hidden is not None:
            exact_products.masked_fill_(hidden[some], -torch.inf)
        exact, nearest = exact_products.max(1)
        _put(largest, at, some, exact, numbers[nearest])


def _put(
    largest: torch.Tensor, at: torch.Tensor, rows: torch.Tensor, exact: torch.Tensor, numbers: torch.Tensor
) -> None:
    higher = exact > largest[rows]
    largest[rows[higher]] = exact[higher]
    at[rows[higher]] = numbers[higher]


def cosines(exact: torch.Tensor) -> np.ndarray:
    """float32 of exact products, on the host. Stored vectors are not quite of length 1: what leaves [-1, 1] is cut."""
    return exact.clamp(-1.0, 1.0).float().cpu().numpy()
