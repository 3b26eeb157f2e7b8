"""What may a recipe say about Bloom-filter dedup, and how large does a filter have to be?

The step is DCLM's (Li et al. 2024, arXiv:2406.11794, section 4.2 and appendix L; mlfoundations/dclm, dedup/bff); how it
decides is defined in bloom.py. This module is light: a recipe is checked, and shards are planned, without NumPy.

The filter is a blocked one (Putze, Sanders, Singler 2009, doi 10.1145/1498698.1594230): an n-gram has all its 7 bits
in one block of 512, which is a cache line. Some blocks hold more n-grams than others, so that a rate of 0.01 takes
9.93 bits an n-gram where one without blocks takes 9.59.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

BITS = 7
"""Set for each n-gram: the best number at DCLM's rate of 0.01, where log2(1/rate) is 6.6."""
BLOCK_BITS = 512
MOST_SHARDS = (1 << 16) - 1
MOST_BLOCKS = (1 << 32) - 1
"""Of one filter: 256 GiB."""
SPARE = 1.01
"""Times the bits that a rate needs (ours: so that a full filter does not miss it by chance)."""
UNEVEN = 1.05
"""Times the mean, for the largest of several shards (ours: a hash divides documents well, but not exactly)."""


class Bloom(BaseModel):
    """DCLM's dedup of paragraphs and documents by n-grams in a Bloom filter (its `old-both`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    ngram: Annotated[int, Field(ge=1, le=1000)] = 13
    """Tokens of an n-gram: words of UAX #29, marks of punctuation among them. DCLM's; from 5 tokens on, it
    found, short lines go and MMLU falls."""
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.8
    """What has a larger share than this of n-grams that were seen before goes. DCLM's."""
    remove: Literal["both", "paragraph", "document"] = "both"
    """Paragraphs, and then documents (DCLM's `old-both`); paragraphs alone; or documents as wholes, whose n-grams run
    across the ends of lines."""
    false_positive_rate: Annotated[float, Field(ge=1e-6, le=0.5)] = 0.01
    """Of n-grams that were not seen, the share that may be taken for seen when the filter is full. DCLM's, which found
    that 0.1, 0.01 and 0.001 remove equally much."""
    shards: Annotated[int, Field(ge=1, le=MOST_SHARDS)] = 1
    """Parts that documents are divided into by hash of their ids; only documents of one part are compared. A filter
    takes memory in proportion to its part, and more shards keep more text: DCLM used 100. A setting of its own, never
    the number of workers: it decides which documents stay."""
    memory: Annotated[int, Field(ge=1 << 20)] | None = None
    """Bytes that the task of a shard may take, filter and all; default: `limits.task_memory`. It does not change the
    result: where it is not enough, the run stops before any document is judged, and says how many shards fit."""


def rate_of(bits_per_ngram: float) -> float:
    """The false-positive rate of a filter with so many bits for each n-gram that is in it.

    Exact for n-grams that choose a block, and in it 7 times a bit, at random, as many blocks as one likes: the number
    of n-grams in a block is Poisson's, and the 7 bits that are asked for are d different ones.
    """
    mean = BLOCK_BITS / bits_per_ngram
    total = 0.0
    last = int(mean + 12 * math.sqrt(mean) + 20)
    for n in range(1, last + 1):
        weight = math.exp(n * math.log(mean) - mean - math.lgamma(n + 1))
        total += weight * _all_set(BITS * n)
    return min(1.0, total)


@cache
def _all_set(throws: int) -> float:
    """How likely 7 bits chosen at random are all set in a block in which `throws` bits were set at random."""
    return sum(
        share * sum((-1) ** j * math.comb(d, j) * (1 - j / BLOCK_BITS) ** throws for j in range(d + 1))
        for d, share in _DIFFERENT.items()
    )


def _different() -> dict[int, float]:
    """d -> how likely 7 random bits of a block are d different ones."""
    shares = {0: 1.0}
    for _ in range(BITS):
        after: dict[int, float] = {}
        for d, share in shares.items():
            after[d] = after.get(d, 0.0) + share * d / BLOCK_BITS
            after[d + 1] = after.get(d + 1, 0.0) + share * (1 - d / BLOCK_BITS)
        shares = after
    return {d: share for d, share in shares.items() if share}


_DIFFERENT = _different()


@cache
def bits_for(rate: float) -> float:
    """Bits for each n-gram that a filter needs for a false-positive rate."""
    low, high = 1.0, 4096.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        if rate_of(middle) > rate:
            low = middle
        else:
            high = middle
    return high


def blocks_for(ngrams: int, rate: float) -> int:
    """Blocks of a filter for `ngrams` different n-grams, at least 1."""
    return max(1, math.ceil(ngrams * SPARE * bits_for(rate) / BLOCK_BITS))


def filter_bytes(ngrams: int, rate: float) -> int:
    """Bytes of that filter."""
    return blocks_for(ngrams, rate) * BLOCK_BITS // 8


def plan_shards(ngrams: int, rate: float, memory: int) -> int:
    """The fewest shards of `ngrams` n-grams in all whose filters take `memory` bytes each, or less.

    It may be more than `MOST_SHARDS`. Raises ValueError where not even a filter of one block fits.
    """
    room = min(memory * 8 // BLOCK_BITS, MOST_BLOCKS)
    if room < 1:
        raise ValueError(f"no filter fits {memory:,} bytes")
    held = int(room * BLOCK_BITS / (SPARE * bits_for(rate)))
    if ngrams <= held:
        return 1
    return max(2, math.ceil(ngrams * UNEVEN / max(1, held)))


def judging_bytes(ngrams: int) -> int:
    """Bytes that judging takes beside the filter, where no document has more n-grams than this; see bloom.py."""
    return 40 * ngrams
