"""Into how many bands, of how many rows, is a MinHash signature split?

Two documents of Jaccard similarity s agree in a slot of their signatures with probability s, so in all r rows of a
band with s^r, and in at least one of b bands, which makes them candidates, with 1 - (1 - s^r)^b: `collision`.

Letters: b bands, r rows, t threshold.
"""

from __future__ import annotations

import math
from functools import cache

MAX_SLOTS = 20_000
"""Bands times rows at most. The largest published signature has 9,000 slots (RefinedWeb, arXiv:2306.01116)."""

MOST_AT_HALF = 0.1
"""How often `cheapest` lets a pair at half the threshold become candidates, at most."""

_PANELS, _NODES = 16, 24


def collision(similarity: float, bands: int, rows: int) -> float:
    """How probable it is that two documents share a band: ``1 - (1 - similarity ** rows) ** bands``."""
    agree = similarity**rows
    return 1.0 if agree >= 1 else -math.expm1(bands * math.log1p(-agree))


def implied_threshold(bands: int, rows: int) -> float:
    """``(1 / bands) ** (1 / rows)``, about where `collision` is steepest."""
    return (1 / bands) ** (1 / rows)


@cache
def cheapest(threshold: float, min_recall: float) -> tuple[int, int]:
    """``(bands, rows)`` with the fewest slots that find at least `min_recall` of the pairs at `threshold`.

    Recall alone would always choose one row (4 bands for 0.99 at 0.7), for then slots are fewest; but so nearly every
    document meets nearly every other. So a split has to tell apart, too: a pair at half the threshold may become
    candidates in one case of ten (`MOST_AT_HALF`). Of splits with equally many slots the one with more rows is taken:
    it has fewer false candidates.

    Raises
    ------
    ValueError
        `threshold` is not in (0, 1], `min_recall` not in (0, 1), or no split of at most `MAX_SLOTS` slots does it.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}: it has to be above 0 and at most 1")
    if not 0 < min_recall < 1:
        raise ValueError(f"min_recall is {min_recall}: it has to be between 0 and 1")
    best: tuple[int, int] | None = None
    # Fewest slots are `rows` at least: past the best split no larger number of rows can be as cheap.
    rows = 1
    while rows <= (MAX_SLOTS if best is None else best[0] * best[1]):
        bands = _fewest_bands(threshold, min_recall, rows)
        if bands * rows > MAX_SLOTS:
            break  # more rows need more slots still
        fits = best is None or bands * rows <= best[0] * best[1]
        if fits and collision(threshold / 2, bands, rows) <= MOST_AT_HALF:
            best = bands, rows
        rows += 1
    if best is None:
        raise ValueError(
            f"no split of at most {MAX_SLOTS} slots finds {min_recall} of the pairs at {threshold} and leaves out nine "
            f"tenths of those at {threshold / 2}: lower min_recall or raise threshold"
        )
    return best


def _fewest_bands(threshold: float, min_recall: float, rows: int) -> int:
    """The fewest bands of so many rows that reach the recall; more than `MAX_SLOTS` where only very many would."""
    agree = threshold**rows
    if agree >= 1:
        return 1
    if agree < 1e-12:
        return MAX_SLOTS + 1
    bands = max(1, math.ceil(math.log1p(-min_recall) / math.log1p(-agree)))
    # The logarithms round: the bound is `collision` itself.
    while bands > 1 and collision(threshold, bands - 1, rows) >= min_recall:
        bands -= 1
    while collision(threshold, bands, rows) < min_recall:
        bands += 1
    return bands


@cache
def datasketch(
    threshold: float, slots: int, false_positive_weight: float = 0.5, false_negative_weight: float = 0.5
) -> tuple[int, int]:
    """``(bands, rows)`` that datasketch 2.0's MinHashLSH takes for `threshold` and `slots` permutations.

    Of all splits of at most so many slots the one with the smallest weighted sum of two areas under the curve of
    `collision`: false positives below the threshold, false negatives above it; of equal ones the one with fewest bands,
    then fewest rows. datasketch integrates adaptively, to 1.5e-8; here the integrals are Gauss-Legendre sums, good to
    1e-12, so the choice can differ only where two splits are that near to each other. With a weight of 0 many are, for
    areas that are nothing but rounding: there it does differ.

    Raises
    ------
    ValueError
        `threshold` is not in [0, 1], or `slots` is not positive.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}: it has to lie between 0 and 1")
    if slots < 1:
        raise ValueError(f"slots is {slots}: a signature needs one at least")
    # Imported here: settings are checked without NumPy wherever nobody asks for this split.
    import numpy as np

    places, weights = np.polynomial.legendre.leggauss(_NODES)

    def panels(low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
        edges = np.linspace(low, high, _PANELS + 1)
        half = (edges[1:] - edges[:-1])[:, None] / 2
        middle = (edges[1:] + edges[:-1])[:, None] / 2
        return (middle + half * places).ravel(), (half * weights).ravel()

    below, below_weights = panels(0.0, threshold)
    above, above_weights = panels(threshold, 1.0)
    best, least = (0, 0), math.inf
    for bands in range(1, slots + 1):
        for rows in range(1, slots // bands + 1):
            false_positive = below_weights @ (1 - (1 - below**rows) ** bands)
            # Twice from 1, as datasketch writes it: what is below rounding counts as nothing there, and so here.
            false_negative = above_weights @ (1 - (1 - (1 - above**rows) ** bands))
            error = false_positive * false_positive_weight + false_negative * false_negative_weight
            if error < least:
                best, least = (bands, rows), float(error)
    return best
