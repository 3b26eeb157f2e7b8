"""By which words is a cluster of documents told from all others?

Of a sample of the cluster's documents and one of all documents it is counted in how many each word is. Words are in the
order of how sure their odds are higher in the cluster: the log-odds ratio with an informative Dirichlet prior, divided
by its standard deviation (Monroe, Colaresi, Quinn 2008, "Fightin' Words", doi 10.1093/pan/mpn018, eq. 16, 20 and
22). The prior are the words of both samples together, weighing `PRIOR` times what the cluster's weigh: a word that
is rare in both has to be much more frequent to stand in front.

A word is a run of letters, digits, marks and underscores with a letter in it, in lower case: of code, its
keywords and whole identifiers. Of scripts written without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese) each
two neighbouring characters are a word.

Memory: the words of a document.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

CHARS = 2000
"""Of a document that are looked at."""
LONGEST = 30
"""Characters of a word; longer runs are base64, hashes and the like."""
PRIOR = 0.1
SURE = 1.96
"""Standard deviations above zero from which on a word counts as more frequent: the paper's."""
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)


def words(text: str) -> set[str]:
    """The words of the first `CHARS` characters of a text; one that goes on behind these is none of them."""
    patterns = _patterns()
    stop = min(len(text), CHARS)
    while 0 < stop < len(text) and patterns.spaced.match(text[stop - 1]):
        stop -= 1
    found: set[str] = set()
    for run in set(patterns.run.findall(text[:stop].lower())):
        if not patterns.spaced.match(run):
            found.update(a + b for a, b in pairwise(run))
        elif 2 <= len(run) <= LONGEST and any(map(str.isalpha, run)):
            found.add(run)
    return found


class _Patterns(NamedTuple):
    spaced: re.Pattern[str]
    """A character of a word, but for scripts without spaces."""
    run: re.Pattern[str]
    """As many of either kind as there are."""


@cache
def _patterns() -> _Patterns:
    # `\w` has no marks, without which a word of Devanagari or a decomposed "é" is cut into pieces.
    marks = "".join(chr(c) for c in range(0x20000) if unicodedata.category(chr(c)).startswith("M"))
    marks = re.sub(f"[{UNSPACED}]", "", marks)
    spaced = rf"[^\W{UNSPACED}]|[{marks}]"
    runs = rf"[{UNSPACED}]+|(?:[^\W{UNSPACED}]+|[{marks}]+)+"
    return _Patterns(re.compile(spaced), re.compile(runs))


def document_counts(texts: Iterable[str]) -> Counter[str]:
    """In how many of the texts each word is."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(words(text))
    return counts


def characteristic(cluster: Counter[str], everything: Counter[str], n: int) -> list[str]:
    """The n words, or fewer, that tell a cluster from everything, the surest first; equal ones by the alphabet.

    cluster, everything : in how many documents of either sample each word is (`document_counts`).

    Words that are in one document alone, or not surely more frequent than elsewhere, are none.
    """
    names = sorted(word for word, count in cluster.items() if count > 1)
    if not names:
        return []
    inside = np.array([cluster[word] for word in names], np.float64)
    outside = np.array([everything[word] for word in names], np.float64)
    all_inside, all_outside = sum(cluster.values()), sum(everything.values())
    words_of_prior = PRIOR * all_inside
    prior = words_of_prior * (inside + outside) / (all_inside + all_outside)
    odds = _log_odds(inside + prior, all_inside + words_of_prior)
    odds -= _log_odds(outside + prior, all_outside + words_of_prior)
    scores = odds / np.sqrt(1 / (inside + prior) + 1 / (outside + prior))
    # Rounded, so that the last bit of a logarithm, which differs between machines, decides nothing.
    order = np.argsort(-np.round(scores, 9), kind="stable")
    return [names[i] for i in order[:n].tolist() if scores[i] > SURE]


def _log_odds(counts: np.ndarray, total: float) -> np.ndarray:
    # Where there is one word alone, nothing is left of the total, or the rounding of it.
    return np.log(counts / np.maximum(total - counts, 1e-9))
