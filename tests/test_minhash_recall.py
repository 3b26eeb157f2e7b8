"""Are pairs found as often as 1 - (1 - s^r)^b says, for every preset, seed and similarity?

On ../shared/dedup_truth: 4,680 pairs of real documents with their exact similarity, half of them planted at 0.5 to 1.
How many pairs of a bin share a band is a sum of coins of known bias, one a pair. Each bin's count is judged by its
exact distribution; "3 standard deviations" is the probability that a normal variable leaves them, 0.27 %.
"""

import functools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from winnow.filters.minhash import band_keys, jaccard, signatures
from winnow.filters.minhash_settings import MinHash
from winnow.filters.minhash_split import collision
from winnow.filters.shingles import shingle_sets

TRUTH = Path(__file__).resolve().parents[1].parent / "shared" / "dedup_truth"
SEEDS = (1, 2, 3, 4, 5)
PRESETS = ("fineweb", "dclm", "dolma3", "refinedweb")
THREE_SD, FOUR_AND_A_HALF_SD = 0.0027, 6.8e-6


@functools.cache
def truth():
    """(texts of the documents that are in pairs, left, right, similarity) of the set."""
    if not TRUTH.is_dir():
        pytest.skip("needs the shared corpora beside the checkout")
    with open(TRUTH / "pairs.jsonl", encoding="utf-8") as lines:
        pairs = [json.loads(line) for line in lines]
    wanted = {pair[side] for pair in pairs for side in "ab"}
    with zstandard.open(TRUTH / "docs.jsonl.zst", "rt", encoding="utf-8") as lines:
        texts = {row["id"]: row["text"] for row in map(json.loads, lines) if row["id"] in wanted}
    place = {id_: i for i, id_ in enumerate(texts)}
    left, right = (np.array([place[pair[side]] for pair in pairs]) for side in "ab")
    column = pa.array(list(texts.values()), pa.large_string())
    return column, left, right, jaccard(*shingle_sets(column, MinHash()), left, right)


def probability_as_far(chances, count):
    """How probable a sum of coins is that is as far out as `count`, on its side, twice."""
    distribution = np.ones(1)
    for chance in chances:
        distribution = np.convolve(distribution, [1 - chance, chance])
    return min(1.0, 2 * min(distribution[: count + 1].sum(), distribution[count:].sum()))


def judged(preset):
    """(seed, bin's lower edge, pairs, found, expected, probability) of every bin."""
    texts, left, right, similarity = truth()
    settings = MinHash(preset=preset)
    bands, rows = settings.resolved.bands, settings.resolved.rows
    chances = np.array([collision(s, bands, rows) for s in similarity])
    bins = np.minimum(np.floor(similarity * 20 + 1e-9), 19)
    for seed in SEEDS:
        keys = band_keys(signatures(texts, settings, seed), bands, rows)
        found = (keys[left] == keys[right]).any(axis=1)
        for number in np.unique(bins):
            here = bins == number
            count, expected = int(found[here].sum()), float(chances[here].sum())
            yield (
                seed,
                number / 20,
                int(here.sum()),
                count,
                expected,
                probability_as_far(chances[here], count),
            )


@pytest.mark.slow
def test_recall_by_similarity():
    rows = [(preset, *row) for preset in PRESETS for row in judged(preset)]
    assert len(rows) >= len(PRESETS) * len(SEEDS) * 14
    print(*(f"{preset:10} seed {seed} from {edge:.2f}: {found:4} of {pairs:4}, expected {expected:6.1f}, p {p:.4f}"
            for preset, seed, edge, pairs, found, expected, p in rows), sep="\n")  # fmt: skip
    probabilities = np.array([row[-1] for row in rows])
    assert (probabilities < THREE_SD).mean() <= 0.01
    assert probabilities.min() > FOUR_AND_A_HALF_SD
    # Were pairs found too often or too seldom throughout, no single bin need show it.
    for preset in PRESETS:
        mine = np.array([(found - expected, expected * (1 - expected / pairs))
                         for name, _, _, pairs, found, expected, _ in rows if name == preset])  # fmt: skip
        assert abs(mine[:, 0].sum()) < 3 * np.sqrt(mine[:, 1].sum())


def test_a_wanted_recall_is_reached():
    texts, left, right, similarity = truth()
    settings = MinHash(threshold=0.7, min_recall=0.99)
    bands, rows = settings.resolved.bands, settings.resolved.rows
    near = similarity >= 0.7
    for seed in SEEDS:
        keys = band_keys(signatures(texts, settings, seed), bands, rows)
        assert (keys[left] == keys[right]).any(axis=1)[near].mean() >= 0.99


def test_equal_texts_always_meet():
    texts, left, right, similarity = truth()
    settings = MinHash(preset="fineweb")
    keys = band_keys(signatures(texts, settings, 1), 14, 8)
    same = similarity == 1
    assert same.sum() > 500
    assert (keys[left[same]] == keys[right[same]]).all()
