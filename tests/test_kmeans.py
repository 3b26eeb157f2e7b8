"""Are centroids and clusters those of the plain definition, whatever the blocks and threads?"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs the extra embed")

from winnow.filters import largest_cosine  # noqa: E402
from winnow.filters.kmeans import assign, fit  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def unit(rows):
    """float16 of length 1; rows of zeros stay zeros."""
    rows = np.asarray(rows, np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths, lengths, 1)).astype(np.float16)


def scattered(n, d, groups, spread, seed):
    """Vectors around random directions, in random order, and the direction of each."""
    rng = np.random.default_rng(seed)
    centres, group = rng.normal(size=(groups, d)), rng.integers(0, groups, n)
    return unit(centres[group] + spread * rng.normal(size=(n, d))), group


def slow_assign(vectors, centroids):
    exact = vectors.astype(np.float64) @ centroids.astype(np.float64).T
    return exact.argmax(1), np.clip(exact.max(1), -1, 1).astype(np.float32)


def firsts_that_differ(vectors, order, wanted):
    rows, seen = [], [[0.0] * vectors.shape[1]]
    for row in order:
        if vectors[row].tolist() not in seen and len(rows) < wanted:
            seen.append(vectors[row].tolist())
            rows.append(int(row))
    return rows


def slow_fit(vectors, k, iterations):
    """The definition, vector by vector: centroids, inertia and reseeds of each iteration."""
    rows = firsts_that_differ(vectors, range(len(vectors)), k) or [0]
    centroids, before, inertia, reseeded = vectors[rows], None, [], []
    for _ in range(iterations):
        cluster, similarity = slow_assign(vectors, centroids)
        inertia.append(np.mean([1 - float(s) for s in similarity]))
        empty = [c for c in range(len(centroids)) if c not in cluster]
        farthest = sorted(range(len(vectors)), key=lambda i: (similarity[i], i))
        seeds = firsts_that_differ(vectors, farthest, len(empty))
        reseeded.append(len(seeds))
        if not seeds and before is not None and (cluster == before).all():
            break
        before, moved = cluster, centroids.copy()
        for c in range(len(centroids)):
            total = vectors[cluster == c].astype(np.float64).sum(0)
            if (length := np.sqrt((total * total).sum())) > 0:
                moved[c] = (total / length).astype(np.float32).astype(np.float16)
        for c, row in zip(empty, seeds, strict=False):
            moved[c] = vectors[row]
        centroids = moved
    return centroids, inertia, reseeded


few = st.integers(1, 4).flatmap(
    lambda d: st.lists(st.lists(st.integers(-2, 2), min_size=d, max_size=d), min_size=1, max_size=25)
)


@given(few, st.integers(1, 9), st.integers(1, 6), st.integers(2, 7))
@settings(deadline=None, max_examples=100)
def test_it_is_the_plain_definition(rows, k, iterations, block):
    vectors = unit(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(largest_cosine.BLOCKS, "cpu", block)
        found = fit(vectors, k, iterations, "cpu")
        cluster, similarity = assign(vectors, found.centroids, "cpu")
    centroids, inertia, reseeded = slow_fit(vectors, k, iterations)
    assert found.centroids.dtype == np.float32
    np.testing.assert_array_equal(found.centroids, centroids.astype(np.float32))
    np.testing.assert_allclose(found.inertia, inertia, atol=1e-7)
    assert list(found.reseeded) == reseeded
    expected = slow_assign(vectors, centroids)
    assert (cluster.dtype, similarity.dtype) == (np.uint32, np.float32)
    np.testing.assert_array_equal(cluster, expected[0])
    np.testing.assert_array_equal(similarity, expected[1])


def test_neither_blocks_nor_threads_change_a_bit(monkeypatch):
    vectors, _ = scattered(1000, 64, 40, 1.0, seed=3)
    one = fit(vectors, 30, 5, "cpu")
    monkeypatch.setitem(largest_cosine.BLOCKS, "cpu", 113)
    other = fit(vectors, 30, 5, "cpu", threads=2)
    assert torch.get_num_threads() == 1
    np.testing.assert_array_equal(one.centroids, other.centroids)
    assert (one.inertia, one.reseeded) == (other.inertia, other.reseeded)
    centroids, _, _ = slow_fit(vectors, 30, 5)
    np.testing.assert_array_equal(one.centroids, centroids.astype(np.float32))


def test_it_finds_what_is_apart():
    vectors, group = scattered(2000, 32, 8, 0.05, seed=5)
    # One of each direction first: from other starts k-means may end with two centroids in one direction.
    seeded = vectors[[np.flatnonzero(group == g)[0] for g in range(8)] + list(range(2000))]
    found = fit(seeded, 8, 20, "cpu")
    cluster, similarity = assign(vectors, found.centroids, "cpu")
    np.testing.assert_array_equal(cluster, group)
    assert similarity.min() > 0.9
    assert len(found.inertia) == 2
    np.testing.assert_allclose(np.linalg.norm(found.centroids, axis=1), 1, atol=1e-3)


def test_it_is_as_tight_as_scikit_learns():
    cluster_module = pytest.importorskip("sklearn.cluster", reason="needs the extra embed")
    vectors, _ = scattered(4000, 32, 60, 0.6, seed=7)
    ours = fit(vectors, 50, 20, "cpu")
    # Theirs from the same start; length 1 is given to its centres afterwards.
    theirs = cluster_module.KMeans(50, init=vectors[:50].astype(np.float32), n_init=1, max_iter=20)
    theirs.fit(vectors.astype(np.float32))

    def spread(centroids):
        return 1 - slow_assign(vectors, centroids)[1].mean()

    assert spread(ours.centroids) < 1.03 * spread(unit(theirs.cluster_centers_))


def test_a_vector_far_from_all_fills_an_empty_cluster():
    # The first two share a cluster once the third centroid has moved between them; the last is far from all.
    vectors = unit([[1, 0, 0], [0, 1, 0]] + [[1, 1, 0]] * 30 + [[-1, -1, 5]] * 2 + [[0, 0, 0]] * 3)
    start = vectors[[2, 3, 0, 1]]
    found = fit(np.concatenate([start, vectors]), 4, 10, "cpu")
    assert len(found.centroids) == 4
    cluster, _ = assign(vectors, found.centroids, "cpu")
    assert len(set(cluster[[0, 1, 2, 32]])) == 4


def test_few_different_vectors_make_few_centroids():
    vectors = unit([[1, 0], [1, 0], [0, 1], [-0.0, 1], [0, 0]] * 10)
    assert fit(vectors, 5, 3, "cpu").centroids.tolist() == [[1, 0], [0, 1]]
    nothing = fit(np.zeros((4, 2), np.float16), 3, 3, "cpu").centroids
    assert nothing.tolist() == [[0, 0]]
    assert assign(np.zeros((4, 2), np.float16), nothing, "cpu")[0].tolist() == [0] * 4


def test_nothing_makes_nothing():
    empty = np.empty((0, 3), np.float16)
    found = fit(empty, 4, 3, "cpu")
    assert (found.centroids.shape, found.inertia) == ((0, 3), ())
    cluster, similarity = assign(empty, found.centroids, "cpu")
    assert (cluster.shape, similarity.shape) == ((0,), (0,))
    with pytest.raises(ValueError, match="no centroid"):
        assign(np.ones((1, 3), np.float16), found.centroids, "cpu")


def test_a_mapped_file_is_read_block_by_block(tmp_path, monkeypatch):
    vectors, _ = scattered(500, 8, 5, 0.5, seed=11)
    vectors.tofile(tmp_path / "vectors.f16")
    mapped = np.memmap(tmp_path / "vectors.f16", np.float16, "r", shape=(500, 8))
    centroids = fit(mapped, 6, 5, "cpu").centroids
    np.testing.assert_array_equal(centroids, fit(vectors, 6, 5, "cpu").centroids)
    monkeypatch.setitem(largest_cosine.BLOCKS, "cpu", 33)
    for mine, other in zip(
        assign(mapped, centroids, "cpu"), slow_assign(vectors, centroids.astype(np.float16)), strict=True
    ):
        np.testing.assert_array_equal(mine, other)


def test_a_device_that_holds_the_vectors_gives_the_same():
    vectors, _ = scattered(300, 16, 9, 0.7, seed=13)
    here, there = fit(vectors, 9, 4, "cpu"), fit(vectors, 9, 4, "cpu:0")
    np.testing.assert_array_equal(here.centroids, there.centroids)
    for mine, other in zip(
        assign(vectors, here.centroids, "cpu"), assign(vectors, here.centroids, "cpu:0"), strict=True
    ):
        np.testing.assert_array_equal(mine, other)
