"""Are signatures, band keys and similarities what they are defined as, and unbiased?"""

import re

import datasketch
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from winnow.filters.lower_words import BLOCK_UNITS
from winnow.filters.minhash import (
    band_keys,
    estimate,
    jaccard,
    jaccard_between,
    signatures,
    slot_maps,
)
from winnow.filters.minhash_settings import MinHash
from winnow.filters.shingles import shingle_sets, shingles

sets_of_values = st.lists(st.sets(st.integers(0, 40), max_size=30), min_size=1, max_size=6)
texts_of_words = st.lists(
    st.lists(st.sampled_from(["one", "two", "Three", "fünf", "6"]), max_size=30).map(" ".join), max_size=5
)


def column(texts):
    return pa.array(texts, pa.large_string())


def many_words(count, seed=0, prefix="w"):
    numbers = np.random.default_rng(seed).integers(0, 1 << 40, count)
    return " ".join(f"{prefix}{number:x}" for number in numbers)


def slow_signatures(texts, settings, seed):
    values, ends = shingles(column(texts), settings)
    a, b = slot_maps(settings.resolved.slots, seed)
    parts = np.split(values, ends[:-1]) if texts else []
    slots = [(part[:, None].astype(np.uint64) * a + b).astype(np.uint32).min(axis=0) for part in parts]
    return np.array(slots, np.uint32).reshape(len(texts), settings.resolved.slots)


@given(
    texts_of_words, st.sampled_from([1, 2, 5]), st.sampled_from(["words", "chars"]), st.integers(0, 2**32 - 1)
)
def test_a_slot_is_the_least_of_its_map(texts, ngram, unit, seed):
    settings = MinHash(bands=7, rows=3, ngram=ngram, unit=unit)
    found = signatures(column(texts), settings, seed)
    assert found.dtype == np.uint32
    np.testing.assert_array_equal(found, slow_signatures(texts, settings, seed))


@pytest.mark.parametrize("bands", [1, 15, 16, 17, 112, 1023, 1024, 1025, 2500])
def test_any_number_of_slots(bands):
    texts = ["", "short", many_words(5), many_words(12), many_words(13), many_words(BLOCK_UNITS * 2 + 3)]
    settings = MinHash(bands=bands, rows=1)
    np.testing.assert_array_equal(signatures(column(texts), settings, 3), slow_signatures(texts, settings, 3))


def test_only_text_and_seed_matter():
    texts = [many_words(50, k) for k in range(5)]
    whole = signatures(column(texts), MinHash(), 1)
    np.testing.assert_array_equal(signatures(column(texts).slice(2, 2), MinHash(), 1), whole[2:4])
    np.testing.assert_array_equal(signatures(column(texts[::-1]), MinHash(), 1), whole[::-1])
    np.testing.assert_array_equal(signatures(column(texts), MinHash(seed=1), 9), whole)
    assert not (signatures(column(texts), MinHash(), 2) == whole).any()
    assert signatures(column([]), MinHash(), 1).shape == (0, 112)


def test_signatures_of_datatroves_hash_are_not_made_here():
    with pytest.raises(ValueError, match="hash: datatrove"):
        signatures(column(["a"]), MinHash(preset="datatrove"), 1)


def test_maps_are_permutations_and_all_different():
    a, b = slot_maps(9000, 1)
    assert (a % 2 == 1).all()
    assert len(np.unique(a)) > 8990
    assert len(np.unique(b)) > 8990
    fewer = slot_maps(112, 1)
    np.testing.assert_array_equal(fewer[0], a[:112])
    np.testing.assert_array_equal(fewer[1], b[:112])
    # Seeds that follow one another do not draw the same numbers one place on.
    assert not set(slot_maps(1000, 2)[1]) & set(b[:1000])


def test_stored_signatures_stay_good():
    text = "The quick brown fox jumps over the lazy dog, and the dog sleeps on."
    found = signatures(column([text]), MinHash(bands=2, rows=3), 17)
    assert found.tolist() == [GOLDEN]
    assert band_keys(found, 2, 3).tolist() == [GOLDEN_KEYS]


GOLDEN = [200724797, 497557570, 163225025, 123040245, 513496689, 342160027]
GOLDEN_KEYS = [359399520264151393, 14626333601982189418]


@given(st.lists(st.lists(st.integers(0, 1), min_size=12, max_size=12), min_size=1, max_size=8))
def test_band_keys_are_equal_where_all_rows_are(rows):
    signed = np.array(rows, np.uint32)
    keys = band_keys(signed, 4, 3)
    assert keys.dtype == np.uint64
    bands = signed.reshape(len(rows), 4, 3)
    same = (bands[:, None] == bands[None]).all(axis=3)
    np.testing.assert_array_equal(keys[:, None] == keys[None], same)
    # Equal rows in two bands are no reason to meet.
    assert all(len(set(row)) == 4 for row in keys.tolist())


def test_band_keys_tell_the_places_of_rows():
    signed = np.array([[1, 2, 3], [2, 1, 3], [3, 2, 1], [1, 2, 0], [0, 0, 0]], np.uint32)
    assert len(set(band_keys(signed, 1, 3)[:, 0])) == 5
    assert (
        band_keys(signed[:, ::-1][::2], 1, 3).tolist()
        == band_keys(np.array(signed[:, ::-1])[::2], 1, 3).tolist()
    )


def test_band_keys_of_many_are_all_different():
    signed = np.arange(300_000, dtype=np.uint32).reshape(-1, 2)
    keys = band_keys(signed, 2, 1)
    assert len(np.unique(keys)) == keys.size


def test_band_keys_refuse_another_split():
    with pytest.raises(ValueError, match="6 slots are no 2 bands of 2 rows"):
        band_keys(np.zeros((1, 6), np.uint32), 2, 2)


def store(sets):
    ends = np.cumsum([len(values) for values in sets]).astype(np.int64)
    return np.array([value for values in sets for value in sorted(values)], np.uint32), ends


@given(sets_of_values, sets_of_values)
def test_jaccard_is_that_of_pythons_sets(mine, theirs):
    def slow(left, right):
        return len(left & right) / len(left | right) if left | right else 0.0

    left, right = (grid.ravel() for grid in np.indices((len(mine), len(mine))))
    expected = [slow(mine[i], mine[j]) for i, j in zip(left, right, strict=True)]
    assert jaccard(*store(mine), left, right).tolist() == expected
    left, right = (grid.ravel() for grid in np.indices((len(mine), len(theirs))))
    expected = [slow(mine[i], theirs[j]) for i, j in zip(left, right, strict=True)]
    assert jaccard_between(store(mine), store(theirs), left, right).tolist() == expected


def test_jaccard_of_large_values():
    sets = [{0, 2**32 - 1, 2**31}, {2**31, 2**31 - 1, 2**32 - 1}]
    assert jaccard(*store(sets), np.array([0]), np.array([1])).tolist() == [0.5]


def test_estimate_is_the_share_of_equal_slots():
    rng = np.random.default_rng(5)
    for dtype in (np.uint32, np.uint64):
        signed = rng.integers(0, 3, (50, 112)).astype(dtype)
        left, right = rng.integers(0, 50, (2, 5000))
        expected = [(signed[i] == signed[j]).sum() / 112 for i, j in zip(left, right, strict=True)]
        np.testing.assert_allclose(estimate(signed, left, right), expected, atol=1e-12)
    assert len(estimate(signed, np.zeros(0, np.int64), np.zeros(0, np.int64))) == 0


@pytest.mark.parametrize("pairs", [([0, 2], [0, 0]), ([0], [-1]), ([5], [0])])
def test_pairs_of_documents_that_are_not_there(pairs):
    left, right = (np.array(side) for side in pairs)
    with pytest.raises(IndexError, match="none of the 2"):
        jaccard(*store([{1}, {2}]), left, right)
    with pytest.raises(IndexError, match="none of the 2"):
        estimate(np.zeros((2, 4), np.uint32), left, right)
    with pytest.raises(ValueError, match="no pairs"):
        estimate(np.zeros((2, 4), np.uint32), np.zeros(1, np.int64), np.zeros(2, np.int64))


def overlapping(shared, own, seed):
    """Two texts whose sets of single words have a Jaccard similarity of shared / (shared + 2 own)."""
    both = many_words(shared, seed)
    return [f"{both} {many_words(own, seed + 1, side)}" for side in "xy"]


@pytest.mark.parametrize(("shared", "own"), [(10, 45), (60, 20), (90, 5), (5, 0)])
def test_the_estimate_is_unbiased(shared, own):
    settings, pairs = MinHash(bands=128, rows=1, ngram=1), 300
    texts = [text for k in range(pairs) for text in overlapping(shared, own, 10 * k)]
    signed = signatures(column(texts), settings, 1)
    left, right = np.arange(0, 2 * pairs, 2), np.arange(1, 2 * pairs, 2)
    s = jaccard(*shingle_sets(column(texts), settings), left, right)
    errors = estimate(signed, left, right) - s
    spread = np.sqrt(s * (1 - s) / 128)
    assert abs(errors.mean()) <= 3 * spread.mean() / np.sqrt(pairs)
    assert abs(errors.std() - spread.mean()) <= 0.15 * spread.mean()


def test_the_estimate_is_unbiased_for_a_million_shingles():
    """Of a million 32-bit hashes a few hundred meet: no bias that a thousand slots could show."""
    settings, slots = MinHash(bands=1024, rows=1, ngram=1), 1024
    errors = []
    for seed, (shared, own) in enumerate([(500_000, 250_000), (900_000, 50_000), (200_000, 400_000)]):
        texts = column(overlapping(shared, own, 100 * seed))
        s = jaccard(*shingle_sets(texts, settings), np.array([0]), np.array([1]))[0]
        assert s == pytest.approx(shared / (shared + 2 * own), abs=2e-4)
        found = estimate(signatures(texts, settings, seed), np.array([0]), np.array([1]))[0]
        errors.append((found - s) / np.sqrt(s * (1 - s) / slots))
    assert np.abs(errors).max() < 3


def test_errors_are_those_of_datasketch():
    """The same pairs through datasketch's MinHash: as many slots make as large errors, and neither has a bias."""
    settings, pairs = MinHash(bands=128, rows=1, ngram=1), 100
    texts = [text for k in range(pairs) for text in overlapping(50, 12, 10 * k)]
    theirs = []
    for text in texts:
        sketch = datasketch.MinHash(num_perm=128, seed=1)
        sketch.update_batch([word.encode() for word in re.findall(r"\w+", text)])
        theirs.append(sketch)
    left, right = np.arange(0, 2 * pairs, 2), np.arange(1, 2 * pairs, 2)
    s = jaccard(*shingle_sets(column(texts), settings), left, right)
    ours = estimate(signatures(column(texts), settings, 1), left, right) - s
    theirs = np.array([theirs[i].jaccard(theirs[j]) for i, j in zip(left, right, strict=True)]) - s
    expected = np.sqrt(s * (1 - s) / 128).mean()
    for errors in (ours, theirs):
        assert abs(errors.mean()) < 3 * expected / np.sqrt(pairs)
        assert 0.75 < errors.std() / expected < 1.25
