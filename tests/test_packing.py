"""Does every token get a place of its own in a row, and does best fit fit best?"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.tokenize import packing


def documents(sizes, begin=0):
    """(begins, ends) of documents of so many tokens, one after another in a stream from `begin` on."""
    ends = begin + np.cumsum(np.array(sizes, np.int64), dtype=np.int64)
    return ends - np.array(sizes, np.int64), ends


def rows_of(plan, length):
    """The tokens of every row (their places in the stream), None where it is padding: a walk over the pieces."""
    rows = [[None] * length for _ in range(plan.n_rows)]
    for row, offset, start, tokens in zip(*(a.tolist() for a in plan[:4]), strict=True):
        for i in range(tokens):
            assert rows[row][offset + i] is None, "two pieces overlap"
            rows[row][offset + i] = start + i
    return rows


def slow_best_fit(sizes, length):
    """Best-fit decreasing as the paper tells it: each item into the fullest bin that still holds it."""
    bins = []
    for size in sorted(sizes, reverse=True):
        fitting = [b for b in bins if sum(b) + size <= length]
        if fitting:
            max(fitting, key=sum).append(size)
        else:
            bins.append([size])
    return bins


def rooms(bins, length):
    return sorted(length - sum(b) for b in bins)


# Few sizes, so that many are equal; and many, so that few are.
LENGTHS = st.sampled_from([2, 3, 7, 12, 30, 1023, 1024, 1025, 3000])
SIZES = st.integers(0, 9) | st.integers(0, 40) | st.integers(0, 4000)


@settings(deadline=None, max_examples=300)
@given(st.lists(SIZES, max_size=60), LENGTHS, st.integers(0, 10**13))
@pytest.mark.parametrize("pack", [packing.padded, packing.best_fit])
def test_every_token_lies_in_one_place(pack, sizes, length, begin):
    begins, ends = documents(sizes, begin)
    there = ends > begins
    plan = packing.lay(pack(begins[there], ends[there], length))
    rows = rows_of(plan, length)
    placed = sorted(t for row in rows for t in row if t is not None)
    assert placed == list(range(begin, begin + sum(sizes)))
    for row in rows:
        held = [t for t in row if t is not None]
        assert held, "a row of padding alone"
        assert row == held + [None] * (length - len(held)), "padding comes last"
        assert held == sorted(held), "documents of a row keep the stream's order"
    key = plan.row * length + plan.offset
    assert (np.diff(key) > 0).all(), "pieces are sorted by row and offset"
    where = {t: r for r, row in enumerate(rows) for t in row if t is not None}
    for a, b in zip(begins.tolist(), ends.tolist(), strict=True):
        parts = {where[t] for t in range(a, b)}
        assert len(parts) == -(-(b - a) // length), "a document is in more rows than it has to be"
        if pack is packing.padded:
            assert all(rows[where[t]][0] == t for t in range(a, b, length)), "a piece does not begin its row"


@settings(deadline=None, max_examples=400)
@given(st.data(), LENGTHS)
def test_best_fit_is_best_fit_decreasing(data, length):
    """Which of equally full bins is taken changes neither their number nor how full they get."""
    sizes = data.draw(st.lists(st.integers(1, min(length, 12)) | st.integers(1, length), max_size=80))
    found, n = packing.best_fit_bins(np.array(sizes, np.int64), length)
    bins = [[] for _ in range(n)]
    for size, bin_ in zip(sizes, found.tolist(), strict=True):
        bins[bin_].append(size)
    assert rooms(bins, length) == rooms(slow_best_fit(sizes, length), length)
    assert n >= -(-sum(sizes) // length)
    assert sum(2 * sum(b) <= length for b in bins) <= 1, "two bins that are at most half full could be one"


@settings(deadline=None)
@given(st.lists(SIZES, max_size=40), LENGTHS, st.integers(0, 2**32))
def test_reordered_rows_are_the_same_rows(sizes, length, seed):
    begins, ends = documents([s for s in sizes if s])
    rows = packing.best_fit(begins, ends, length)
    keys = np.random.default_rng(seed).integers(0, 4, rows.n_rows).astype(np.uint64)
    before, after = (rows_of(packing.lay(r), length) for r in (rows, packing.reordered(rows, keys)))
    order = sorted(range(rows.n_rows), key=lambda r: keys[r])  # stable
    assert after == [before[r] for r in order]


def test_by_hand():
    """Rows of 10: 25 tokens are two full rows and 5; then 7, 5, 4, 3, 1 go where they fit best."""
    begins, ends = documents([3, 25, 7, 4, 1])
    plan = packing.lay(packing.best_fit(begins, ends, 10))
    assert rows_of(plan, 10) == [
        list(range(3, 13)),
        list(range(13, 23)),
        [0, 1, 2, *range(28, 35)],
        [*range(23, 28), *range(35, 40)],
    ]
    padded = packing.lay(packing.padded(begins, ends, 10))
    assert padded.tokens.tolist() == [3, 10, 10, 5, 7, 4, 1]
    assert padded.row.tolist() == list(range(7))


@pytest.mark.parametrize("length", [512, 2048, 8192, 65_536, 1 << 20])
def test_lengths_that_models_have(length):
    """Of documents as long as the web's, best fit leaves hardly any room; padding is what is left over."""
    rng = np.random.default_rng(3)
    sizes = np.maximum(1, rng.lognormal(6, 1.3, 20_000)).astype(np.int64)
    begins, ends = documents(sizes.tolist())
    plan = packing.best_fit(begins, ends, length)
    assert plan.tokens.sum() == sizes.sum()
    least = -(-int(sizes.sum()) // length)
    assert least <= plan.n_rows <= least + max(1, least // 100)
    assert np.bincount(plan.row, plan.tokens, plan.n_rows).max() <= length
    assert np.bincount(plan.row, plan.tokens, plan.n_rows).min() > 0


@pytest.mark.parametrize("pack", [packing.padded, packing.best_fit])
def test_no_documents(pack):
    none = np.empty(0, np.int64)
    rows = pack(none, none, 8)
    assert rows.n_rows == 0
    assert len(packing.lay(packing.reordered(rows, np.empty(0, np.uint64))).row) == 0


def test_a_million_equal_documents_are_one_step():
    """Documents of one size meet rows of one room: placed together, however many."""
    bins, n = packing.best_fit_bins(np.full(1_000_000, 500), 2048)
    assert n == 250_000
    assert np.bincount(bins).tolist() == [4] * n


def test_a_document_far_longer_than_a_row():
    begins, ends = documents([5, 100_000_003, 5])
    plan = packing.best_fit(begins, ends, 1 << 20)
    assert plan.n_rows == 96
    assert np.sort(plan.tokens)[-95:].tolist() == [1 << 20] * 95
