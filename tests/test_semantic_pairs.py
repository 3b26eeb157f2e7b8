"""Is each document's nearest earlier one found exactly, in big clusters and in many small ones?"""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs the extra embed")

from winnow.filters import largest_cosine, semantic_pairs  # noqa: E402
from winnow.filters.semantic_pairs import (  # noqa: E402
    nearest_before,
    nearest_before_many,
    nearest_kept,
    nearest_kept_many,
)

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def unit(rows):
    """float16 of length 1; rows of zeros stay zeros."""
    rows = np.asarray(rows, np.float64)
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return (rows / np.where(lengths, lengths, 1)).astype(np.float16)


def alike(n, d, seed):
    """Vectors with families of close ones, among them equal ones and ones that differ in a coordinate's last bit."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, n // 8), d))
    vectors = unit(
        centres[rng.integers(0, len(centres), n)]
        + rng.choice([0, 0.05, 0.5], (n, 1)) * rng.normal(size=(n, d))
    )
    touched = rng.random(n) < 0.5
    at = rng.integers(0, d, n)
    bits = vectors.view(np.uint16)
    bits[touched, at[touched]] ^= 1
    return vectors


def slow_before(vectors):
    """The whole matrix, as in the published code, in float64, where these products and sums are exact."""
    wide = vectors.astype(np.float64)
    products = wide @ wide.T
    products[np.triu_indices(len(vectors))] = -np.inf
    return scores(products, len(vectors))


def scores(products, n):
    if not n:
        return np.empty(0, np.float32), np.empty(0, np.int64)
    score, neighbour = np.clip(products.max(1), -1, 1).astype(np.float32), products.argmax(1)
    neighbour[products.max(1) == -np.inf] = -1
    return score, neighbour


def slow_kept(vectors, eps):
    """One document after the other against those that stay: semhash's rule, with an exact search for its index."""
    wide = vectors.astype(np.float64)
    kept, found = [], []
    for row, vector in enumerate(wide):
        near = [float(np.dot(wide[i], vector)) for i in kept]
        best = int(np.argmax(near)) if near else -1
        found.append((np.float32(np.clip(near[best], -1, 1)), kept[best]) if near else (np.float32(-1), -1))
        if not found[-1][0] > np.float32(1 - eps):
            kept.append(row)
    return np.array([s for s, _ in found], np.float32), np.array([i for _, i in found], np.int64)


def equal(found, expected):
    assert (found[0].dtype, found[1].dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


few = st.integers(1, 4).flatmap(
    lambda d: st.lists(st.lists(st.integers(-2, 2), min_size=d, max_size=d), max_size=20).map(
        lambda rows: unit(np.reshape(rows, (-1, d)))
    )
)


@given(few, st.integers(1, 7))
@settings(deadline=None, max_examples=100)
def test_a_cluster_is_the_plain_definition(vectors, block):
    equal(nearest_before(vectors, "cpu", block), slow_before(vectors))


@given(few, st.integers(1, 7), st.sampled_from([0.0, 0.05, 0.3, 1.0, 1.5, 2.0]))
@settings(deadline=None, max_examples=100)
def test_the_greedy_rule_is_the_plain_definition(vectors, block, eps):
    equal(nearest_kept(vectors, eps, "cpu", block), slow_kept(vectors, eps))


@given(few, st.lists(st.integers(0, 20), max_size=6), st.sampled_from([2, 4, 128]))
@settings(deadline=None, max_examples=100)
def test_many_clusters_are_each_as_if_alone(vectors, cuts, small):
    offsets = np.array(sorted([0, *(min(c, len(vectors)) for c in cuts), len(vectors)]), np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(semantic_pairs, "SMALL", small)
        patch.setattr(semantic_pairs, "SIZES", tuple(s for s in semantic_pairs.SIZES if s <= small))
        patch.setitem(largest_cosine.BLOCKS, "cpu", 8)
        before = nearest_before_many(vectors, offsets, "cpu")
        kept = nearest_kept_many(vectors, offsets, 0.3, "cpu")
    for first, stop in itertools.pairwise(offsets):
        for found, expected in (
            (before, slow_before(vectors[first:stop])),
            (kept, slow_kept(vectors[first:stop], 0.3)),
        ):
            near = np.where(expected[1] < 0, -1, expected[1] + first)
            equal((found[0][first:stop], found[1][first:stop]), (expected[0], near))


def test_five_thousand_documents_are_those_of_the_whole_matrix():
    vectors = alike(5000, 96, seed=1)
    expected = slow_before(vectors)
    equal(nearest_before(vectors, "cpu", block=700), expected)
    some = slice(0, 1000)
    torch.set_num_threads(2)
    equal(nearest_before(vectors[some], "cpu", block=300), (expected[0][some], expected[1][some]))


def test_the_greedy_rule_on_many_documents():
    vectors = alike(900, 64, seed=2)
    for eps in (0.001, 0.1):
        expected = slow_kept(vectors, eps)
        assert 0.05 < (expected[0] > np.float32(1 - eps)).mean() < 0.95
        equal(nearest_kept(vectors, eps, "cpu", block=200), expected)
        equal(nearest_kept(vectors, eps, "cpu"), expected)


def test_survivors_are_those_of_semdedups_rule():
    vectors = alike(300, 32, seed=3)
    score, _ = nearest_before(vectors, "cpu")
    wide = vectors.astype(np.float64)
    for eps in (0.01, 0.2):
        gone = {j for j in range(300) if any(wide[i] @ wide[j] > 1 - eps for i in range(j))}
        assert set(np.flatnonzero(score > np.float32(1 - eps))) == gone
        assert 10 < len(gone) < 290


def test_in_a_chain_the_greedy_rule_spares_every_other_link():
    angles = np.arange(10) * 0.2
    vectors = unit(np.stack([np.cos(angles), np.sin(angles)], 1))
    eps = 1 - np.cos(0.3)
    assert (nearest_before(vectors, "cpu")[0] > 1 - eps).tolist() == [False] + [True] * 9
    assert (nearest_kept(vectors, eps, "cpu")[0] > 1 - eps).tolist() == [False, True] * 5


def test_what_is_negative_stays_so_and_nothing_leaves_the_range_of_a_cosine():
    vectors = unit([[1, 0], [-1, 1], [-3, -4]])
    score, neighbour = nearest_before(vectors, "cpu")
    assert (score[0], neighbour[0]) == (-1, -1)
    assert (score[1:] < 0).all()
    assert neighbour[1:].tolist() == [0, 1]
    # Rounded to float16, some vectors are longer than 1: an equal pair has 1, so that eps = 0 drops nothing.
    doubled = np.repeat(unit(np.random.default_rng(4).normal(size=(200, 48))), 2, axis=0)
    score, neighbour = nearest_before(doubled, "cpu")
    assert score.max() == 1
    assert neighbour[1::2].tolist() == list(range(0, 400, 2))
    assert (nearest_before_many(doubled, np.arange(0, 401, 2), "cpu")[0] <= 1).all()
    assert (nearest_before(-doubled[:1].repeat(2, 0) * [[1], [-1]], "cpu")[0] >= -1).all()


def test_of_equal_documents_the_first_is_the_neighbour():
    vectors = np.repeat(unit([[3, 4, 0], [0, 3, 4]]), 500, axis=0)[np.r_[0:1000:2, 1:1000:2]]
    score, neighbour = nearest_before(vectors, "cpu", block=64)
    firsts = np.where((vectors == vectors[0]).all(1), 0, np.flatnonzero((vectors != vectors[0]).any(1))[0])
    assert np.array_equal(neighbour[score > 0.99], firsts[score > 0.99])
    assert (score > 0.99).sum() == 998


def test_none_and_one():
    for vectors in (np.empty((0, 4), np.float16), unit([[1, 2, 3, 4]])):
        n = len(vectors)
        offsets = np.array([0, 0, n, n], np.int64)
        for score, neighbour in (
            nearest_before(vectors, "cpu"),
            nearest_kept(vectors, 0.1, "cpu"),
            nearest_before_many(vectors, offsets, "cpu"),
            nearest_kept_many(vectors, offsets, 0.1, "cpu"),
        ):
            assert (score.tolist(), neighbour.tolist()) == ([-1] * n, [-1] * n)


class Watched:
    """A matrix in a mapped file that notes how many rows are read at once."""

    def __init__(self, mapped):
        self.mapped, self.most, self.read = mapped, 0, 0

    def __len__(self):
        return len(self.mapped)

    def __getitem__(self, rows):
        found = self.mapped[rows]
        self.most, self.read = max(self.most, len(found)), self.read + len(found)
        return found


@pytest.mark.parametrize(
    "compare", [nearest_before, lambda *rest, **named: nearest_kept(rest[0], 2.0, *rest[1:], **named)]
)
def test_a_cluster_in_a_file_is_read_block_by_block(tmp_path, monkeypatch, compare):
    vectors = alike(640, 16, seed=5)
    vectors.tofile(tmp_path / "vectors.f16")
    watched = Watched(np.memmap(tmp_path / "vectors.f16", np.float16, "r", shape=vectors.shape))
    made = []
    zeros = torch.Tensor.__matmul__

    def noted(self, other):
        made.append(self.shape[0] * other.shape[1])
        return zeros(self, other)

    monkeypatch.setattr(torch.Tensor, "__matmul__", noted)
    found = compare(watched, "cpu", block=64)
    assert watched.most <= 64
    assert max(made) <= 64 * 64
    # Ten blocks of rows, each with those up to its own.
    assert watched.read == sum(range(1, 11)) * 64
    monkeypatch.undo()
    equal(found, compare(vectors, "cpu"))


def test_a_device_that_holds_the_vectors_gives_the_same():
    vectors = alike(500, 16, seed=6)
    offsets = np.array([0, 3, 200, 500], np.int64)
    equal(nearest_before(vectors, "cpu:0", 100), nearest_before(vectors, "cpu"))
    equal(nearest_before_many(vectors, offsets, "cpu:0"), nearest_before_many(vectors, offsets, "cpu"))
    equal(nearest_kept(vectors, 0.1, "cpu:0", 100), nearest_kept(vectors, 0.1, "cpu"))
