"""Is a head trained as scikit-learn or the textbook says, the same each time, and applied to each vector by itself?"""

from __future__ import annotations

import io
import pickle
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.filters import embedding_head
from winnow.filters.embedding_head import HeadError, from_bytes, to_bytes, train
from winnow.filters.embedding_head_report import decision, of_classes, of_scores, spearman
from winnow.filters.head_settings import HeadOptions

DIMENSIONS = 24
SMALL = HeadOptions(trees=7, min_leaf=2, seed=3)
KINDS = ["logistic", "linear", "forest"]


def vectors(n: int, seed: int = 0) -> np.ndarray:
    """float32[n, d] of length 1."""
    found = np.random.default_rng(seed).normal(size=(n, DIMENSIONS)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def scored(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors, and a score from 0 to 5 that half depends on them."""
    found = vectors(n, seed)
    rng = np.random.default_rng(seed + 1)
    wanted = 2.5 + 4 * found[:, 0] - 3 * found[:, 1] + rng.normal(size=n) * 0.5
    return found, np.clip(np.rint(wanted), 0, 5)


@pytest.fixture(scope="module")
def trained():
    """A head of each kind on two classes, and of the two that take scores on scores."""
    found, targets = scored(300)
    heads = {kind: train(kind, found, targets >= 3, SMALL) for kind in KINDS}
    return heads | {f"scored {kind}": train(kind, found, targets, SMALL) for kind in KINDS[1:]}


# ---- training ------------------------------------------------------------------------------------------------


def test_the_logistic_head_is_scikit_learns():
    from sklearn.linear_model import LogisticRegression

    found, targets = scored(300)
    own = train("logistic", found, targets >= 3, HeadOptions(l2=0.5)).scores(found)
    theirs = LogisticRegression(C=2.0, max_iter=1000).fit(found, targets >= 3).predict_proba(found)[:, 1]
    np.testing.assert_allclose(own, theirs, atol=1e-6)
    assert (own >= 0.5).mean() == pytest.approx((targets >= 3).mean(), abs=0.1)


def test_the_linear_head_is_ridge_regression(monkeypatch):
    from sklearn.linear_model import Ridge

    monkeypatch.setattr(embedding_head, "BLOCK", 64)  # sums over several blocks
    found, targets = scored(300)
    own = train("linear", found, targets, HeadOptions(l2=2.5)).scores(found)
    theirs = Ridge(alpha=2.5).fit(found.astype(np.float64), targets).predict(found)
    np.testing.assert_allclose(own, theirs, atol=1e-6)
    # The textbook's normal equations, with a column of ones that costs nothing.
    ones = np.hstack([found.astype(np.float64), np.ones((300, 1))])
    penalty = np.diag([2.5] * DIMENSIONS + [0])
    slow = ones @ np.linalg.solve(ones.T @ ones + penalty, ones.T @ targets)
    np.testing.assert_allclose(own, slow, atol=1e-6)


@pytest.mark.parametrize("depth", [None, 3])
def test_the_forest_is_scikit_learns(depth, monkeypatch):
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    monkeypatch.setattr(embedding_head, "STATES", 7 * 40)  # 40 documents at a time
    found, targets = scored(300)
    others = vectors(500, seed=9)
    options = SMALL.model_copy(update={"depth": depth})
    same = {"n_estimators": 7, "min_samples_leaf": 2, "max_depth": depth, "random_state": 3}
    classes = RandomForestClassifier(**same, max_features="sqrt").fit(found, targets >= 3)
    own = train("forest", found, targets >= 3, options).scores(others)
    np.testing.assert_allclose(own, classes.predict_proba(others)[:, 1], atol=1e-7)
    regression = RandomForestRegressor(**same, max_features=1 / 3).fit(found, targets)
    own = train("forest", found, targets, options).scores(others)
    np.testing.assert_allclose(own, regression.predict(others), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_examples_give_the_same_bytes_at_another_time(kind, monkeypatch):
    found, targets = scored(200)
    first = to_bytes(train(kind, found, targets >= 3, SMALL))
    later = time.time() + 10**8
    monkeypatch.setattr(time, "time", lambda: later)
    assert to_bytes(train(kind, found, targets >= 3, SMALL)) == first
    assert to_bytes(train(kind, found[::-1], targets[::-1] >= 2, SMALL)) != first


def test_a_forests_seed_and_a_penalty_matter():
    found, targets = scored(200)
    for kind, change in (("forest", {"seed": 4}), ("linear", {"l2": 30.0}), ("logistic", {"l2": 30.0})):
        heads = [train(kind, found, targets >= 3, o) for o in (SMALL, SMALL.model_copy(update=change))]
        assert to_bytes(heads[0]) != to_bytes(heads[1])


@pytest.mark.parametrize("kind", KINDS)
def test_examples_of_one_class_or_none_give_no_head(kind):
    found = vectors(5)
    with pytest.raises(HeadError, match="all 5 examples to train on are good"):
        train(kind, found, np.ones(5, bool), SMALL)
    with pytest.raises(HeadError, match="all 5 examples to train on are bad"):
        train(kind, found, np.zeros(5, bool), SMALL)
    with pytest.raises(HeadError, match="no example"):
        train(kind, found[:0], np.zeros(0, bool), SMALL)


def test_a_logistic_head_that_does_not_settle_says_so(monkeypatch):
    monkeypatch.setattr(embedding_head, "MOST_ITERATIONS", 1)
    found, targets = scored(100)
    with pytest.raises(HeadError, match="has not settled after 1 steps; raise l2"):
        train("logistic", found, targets >= 3, SMALL)
    with pytest.raises(ValueError, match="on classes, not on scores"):
        train("logistic", found, targets, SMALL)


# ---- applying ------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.integers(0, 59), max_size=60), st.sampled_from([1, 2, 7, 1 << 10]))
def test_a_score_depends_on_its_own_vector_alone(trained, chosen, block):
    some = vectors(60, seed=5).astype(np.float16)
    before = embedding_head.BLOCK, embedding_head.STATES
    whole = {name: head.scores(some) for name, head in trained.items()}
    try:
        embedding_head.BLOCK, embedding_head.STATES = block, 7 * block
        for name, head in trained.items():
            found = head.scores(some[chosen])
            assert found.dtype == np.float32
            assert found.tobytes() == whole[name][chosen].tobytes()
    finally:
        embedding_head.BLOCK, embedding_head.STATES = before


def test_a_number_at_the_threshold_goes_left_and_trees_are_averaged():
    numbers = {"feature": [1, 0, 0, 0], "left": [1, 1, 2, 3], "right": [2, 1, 2, 3]}
    arrays = {k: np.array(v, np.int32) for k, v in numbers.items()}
    threshold, value = np.array([0.5, np.inf, np.inf, np.inf]), np.array([9.0, 1, 3, 10])
    roots = np.array([0, 3], np.int32)
    head = embedding_head.Forest(np.asarray(2), roots, threshold=threshold, value=value, **arrays)
    some = np.array([[0, 0.5], [0, np.nextafter(np.float32(0.5), np.float32(1))]], np.float32)
    assert head.scores(some).tolist() == [(1 + 10) / 2, (3 + 10) / 2]


def test_extreme_sums_are_probabilities():
    head = embedding_head.Linear(np.array([1e4]), np.asarray(0.0), np.asarray(True))
    found = head.scores(np.array([[-1.0], [0.0], [1.0]], np.float32))
    np.testing.assert_array_equal(found, np.array([0, 0.5, 1], np.float32))


def test_vectors_of_another_length_are_refused(trained):
    for head in trained.values():
        assert head.dimensions == DIMENSIONS
        with pytest.raises(HeadError, match=r"\(2, 3\) for a head on 24 numbers"):
            head.scores(np.zeros((2, 3), np.float16))
        assert len(head.scores(np.zeros((0, DIMENSIONS), np.float16))) == 0


def test_a_stored_head_scores_the_same(trained):
    some = vectors(40, seed=6)
    for head in trained.values():
        again = from_bytes(to_bytes(head))
        assert again.scores(some).tobytes() == head.scores(some).tobytes()


def test_what_is_no_head_is_refused(trained):
    whole = to_bytes(trained["forest"])
    other = io.BytesIO()
    np.savez(other, form=np.asarray("linear"), weights=np.zeros(3))
    sly = io.BytesIO()
    np.savez(sly, form=np.array(["linear", None], dtype=object))  # NumPy stores that as a pickle
    for data in (b"", b"PK", whole[: len(whole) // 2], other.getvalue(), sly.getvalue(), pickle.dumps([1])):
        with pytest.raises(HeadError, match="no head of a classifier"):
            from_bytes(data)


# ---- the report ----------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=20))
def test_decisions_are_counted(pairs):
    kept, good = (np.array([p[i] for p in pairs], bool) for i in (0, 1))
    found = decision(kept, good, 0.5)
    right = sum(k and g for k, g in pairs)
    precision = right / sum(kept) if kept.any() else None
    recall = right / sum(good) if good.any() else None
    assert found["precision"] == precision
    assert found["recall"] == recall
    if precision and recall:
        assert found["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert found["accuracy"] == (sum(k == g for k, g in pairs) / len(pairs) if pairs else None)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=30))
def test_spearmans_correlation_is_scipys(pairs):
    from scipy.stats import spearmanr

    a, b = (np.array([p[i] for p in pairs], float) for i in (0, 1))
    found = spearman(a, b)
    if len(set(a.tolist())) < 2 or len(set(b.tolist())) < 2:
        assert found is None
    else:
        assert found == pytest.approx(spearmanr(a, b).statistic)


def test_scored_examples_are_reported_as_fineweb_edus_are():
    targets = np.array([0.0, 1, 2, 3, 4, 5, 3, 0])
    scores = np.array([-0.6, 1.4, 2.6, 2.6, 3.4, 7.0, 2.4, 0.2], np.float32)
    found = of_scores(scores, targets, 3.0, probabilities=False)
    assert found["mse"] == pytest.approx(((scores - targets) ** 2).mean())
    assert found["confusion"]["scores"] == [0, 1, 2, 3, 4, 5]
    table = np.zeros((6, 6), int)
    for wanted, rounded in zip(targets, (0, 1, 3, 3, 3, 5, 2, 0), strict=True):
        table[int(wanted), rounded] += 1
    assert found["confusion"]["rows"] == table.tolist()
    # Rounded scores of 3 and more are 2.6, 2.6, 3.4 and 7.0; the first is of a document that should have 2.
    assert found["rounded"]["precision"] == found["rounded"]["recall"] == 3 / 4
    assert found["at_threshold"]["precision"] == 1.0
    assert found["at_threshold"]["recall"] == 2 / 4
    assert (found["positives"], found["negatives"]) == (4, 4)
    half = next(row for row in found["retention"] if row["share"] == 0.5)
    assert half["mean"] == pytest.approx((5 + 4 + 2 + 3) / 4)
    assert half["score"] == pytest.approx(2.6)
    assert found["retention"][-1]["mean"] == targets.mean()


def test_reports_without_examples_or_with_many_scores():
    nothing = of_scores(np.zeros(0, np.float32), np.zeros(0), None, probabilities=False)
    assert nothing == {"examples": 0, "spearman": None, "retention": [], "mse": None, "confusion": None}
    wide = of_scores(np.zeros(3, np.float32), np.array([0.0, 50, 100]), None, probabilities=False)
    assert wide["confusion"] is None
    chances = of_scores(np.array([0.2, 0.6], np.float32), np.array([1.0, 4.0]), 3.0, probabilities=True)
    assert chances["at_threshold"]["threshold"] == 0.5
    assert chances["at_threshold"]["f1"] == 1.0
    assert "mse" not in chances
    assert "rounded" not in chances


def test_two_classes_are_reported_as_a_fasttext_classifiers_are():
    found = of_classes(np.array([0.9, 0.4, 0.1], np.float32), np.array([True, True, False]))
    assert found["roc_auc"] == 1.0
    assert found["at_threshold"] == decision(
        np.array([True, False, False]), np.array([True, True, False]), 0.5
    )
    assert {"curve", "keeping", "positives", "negatives"} <= found.keys()
    assert of_classes(np.zeros(0, np.float32), np.zeros(0, bool))["roc_auc"] is None
