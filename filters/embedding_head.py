"""Which documents are good, by their vectors?

A head is a small model on top of an encoder's vectors; the encoder itself is not trained. `logistic` gives the
probability of the good class; `linear` is ridge regression on scores, as FineWeb-Edu's head on a frozen encoder
(Penedo et al. 2024, arXiv:2406.17557: scores 0 to 5, F1 0.82 at 3); `forest` is a random forest, as phi-1's
classifier on an encoder's output (Gunasekar et al. 2023, arXiv:2306.11644). Neither paper prints more settings.

The same examples in the same order give the same bytes, for one version of scikit-learn and of BLAS. A document's score
depends on its own vector alone, to the last bit, whatever stands in the batch beside it; so sums of a linear head
are no matrix product. A head is stored as plain arrays (npz) and applied without scikit-learn.

Letters: n documents, d numbers in a vector, t trees. Memory: while a linear head is applied `BLOCK` vectors as float64,
of a forest `STATES` places in trees; while one is trained, see `train`.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeAlias

import numpy as np
from winnow.filters.head_settings import HeadOptions

Kind: TypeAlias = Literal["logistic", "linear", "forest"]
BLOCK = 1 << 10
"""Vectors that are looked at together."""
STATES = 1 << 15
MOST_ITERATIONS = 1000


class HeadError(ValueError):
    """The examples or the options give no head, or a file holds none; the text says why."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A weighted sum of a vector's numbers, for `logistic` made a probability."""

    weights: np.ndarray
    """float64[d]"""
    bias: np.ndarray
    """float64[]"""
    logistic: np.ndarray
    """bool[]"""

    @property
    def dimensions(self) -> int:
        return len(self.weights)

    def scores(self, vectors: np.ndarray) -> np.ndarray:
        """float32[n] of float16 or float32 vectors [n, d]. Raises HeadError where d is another one."""
        found = np.empty(len(vectors), np.float32)
        for first, block in _blocks(vectors, self.dimensions, BLOCK):
            # Row by row: a matrix product's sums depend on how many rows there are.
            sums = np.einsum("ij,j->i", block.astype(np.float64), self.weights) + self.bias
            found[first : first + len(block)] = _sigmoid(sums) if self.logistic else sums
        return found


@dataclass(frozen=True, slots=True)
class Forest:
    """Binary trees, the nodes of all of them one after the other; the score is the mean of the leaves' values."""

    inputs: np.ndarray
    """int64[], d"""
    roots: np.ndarray
    """int32[t], each tree's first node."""
    feature: np.ndarray
    """int32[nodes], the number of the vector that decides."""
    threshold: np.ndarray
    """float64[nodes]; a larger number goes right."""
    left: np.ndarray
    """int32[nodes], the next node; of a leaf itself."""
    right: np.ndarray
    value: np.ndarray
    """float64[nodes]: share of good examples, or their mean score."""

    @property
    def dimensions(self) -> int:
        return int(self.inputs)

    def scores(self, vectors: np.ndarray) -> np.ndarray:
        """float32[n] of float16 or float32 vectors [n, d]. Raises HeadError where d is another one."""
        found = np.empty(len(vectors), np.float32)
        trees = len(self.roots)
        for first, block in _blocks(vectors, self.dimensions, max(1, STATES // trees)):
            rows = np.repeat(np.arange(len(block)), trees)
            places = np.tile(self.roots, len(block))
            walking = np.arange(len(places))
            values = block.astype(np.float32)
            while len(walking):
                nodes = places[walking]
                goes_left = values[rows[walking], self.feature[nodes]] <= self.threshold[nodes]
                following = np.where(goes_left, self.left[nodes], self.right[nodes])
                places[walking] = following
                walking = walking[self.left[following] != following]
            found[first : first + len(block)] = self.value[places].reshape(len(block), trees).mean(axis=1)
        return found


Head: TypeAlias = Linear | Forest


def train(kind: Kind, vectors: np.ndarray, targets: np.ndarray, options: HeadOptions) -> Head:
    """Train a head on float32 vectors [n, d].

    Memory beside the vectors: of `linear` 8 d² bytes; of `logistic` a few numbers for each example; of `forest` its
    trees, which without a `depth` may have two nodes for each example.

    targets : bool[n], which examples are good (`linear` is to give these 1, the others 0); or, not for `logistic`,
        float64[n], their scores.

    Raises HeadError where the examples are of one class, there is none, or the numbers do not settle.
    """
    from threadpoolctl import threadpool_limits

    if not len(targets):
        raise HeadError("there is no example to train on")
    classes = targets.dtype == np.bool_
    if kind == "logistic" and not classes:
        raise ValueError("a logistic head is trained on classes, not on scores")
    if classes and targets.all() == targets.any():
        raise HeadError(f"all {len(targets):,} examples to train on are {'good' if targets[0] else 'bad'}")
    with threadpool_limits(1):  # sums of several threads come in any order
        if kind == "forest":
            return _forest(vectors, targets, options)
        return (_logistic if kind == "logistic" else _ridge)(vectors, targets, options)


def _logistic(vectors: np.ndarray, good: np.ndarray, options: HeadOptions) -> Linear:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1 / options.l2, max_iter=MOST_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            model.fit(vectors, good)
        except ConvergenceWarning:
            message = f"logistic regression has not settled after {MOST_ITERATIONS:,} steps; raise l2"
            raise HeadError(message) from None
    bias = np.asarray(model.intercept_[0], np.float64)
    return Linear(model.coef_[0].astype(np.float64), bias, np.asarray(True))


def _ridge(vectors: np.ndarray, targets: np.ndarray, options: HeadOptions) -> Linear:
    """The weights that make (squared errors + l2 · squared weights) smallest; the bias is free."""
    n, d = vectors.shape
    wanted = targets.astype(np.float64)
    middle = sum(block.sum(axis=0, dtype=np.float64) for _, block in _blocks(vectors, d, BLOCK)) / n
    products, right = np.eye(d) * options.l2, np.zeros(d)
    for first, block in _blocks(vectors, d, BLOCK):
        centred = block.astype(np.float64) - middle
        products += centred.T @ centred
        right += centred.T @ (wanted[first : first + len(block)] - wanted.mean())
    weights = np.linalg.solve(products, right)
    return Linear(weights, np.asarray(wanted.mean() - middle @ weights), np.asarray(False))


def _forest(vectors: np.ndarray, targets: np.ndarray, options: HeadOptions) -> Forest:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    classes = targets.dtype == np.bool_
    # A split looks at some of the numbers: √d for classes, d/3 for scores (Breiman 2001, doi 10.1023/A:1010933404324;
    # Hastie, Tibshirani and Friedman 2009, section 15.3).
    make, share = (RandomForestClassifier, "sqrt") if classes else (RandomForestRegressor, 1 / 3)
    model = make(
        n_estimators=options.trees,
        max_depth=options.depth,
        min_samples_leaf=options.min_leaf,
        max_features=share,
        random_state=options.seed,
        n_jobs=1,
    ).fit(vectors, targets)
    parts: dict[str, list[np.ndarray]] = {k: [] for k in ("feature", "threshold", "left", "right", "value")}
    roots, first = [], 0
    for tree in (estimator.tree_ for estimator in model.estimators_):
        own = first + np.arange(tree.node_count)
        leaf = tree.children_left < 0
        roots.append(first)
        parts["feature"].append(np.where(leaf, 0, tree.feature))
        parts["threshold"].append(np.where(leaf, np.inf, tree.threshold))
        parts["left"].append(np.where(leaf, own, first + tree.children_left))
        parts["right"].append(np.where(leaf, own, first + tree.children_right))
        value = tree.value[:, 0, :]
        parts["value"].append(value[:, 1] / value.sum(axis=1) if classes else value[:, 0])
        first += tree.node_count
    joined = {k: np.concatenate(v) for k, v in parts.items()}
    narrow = {k: joined[k].astype(np.int32) for k in ("feature", "left", "right")}
    inputs = np.asarray(vectors.shape[1])
    return Forest(inputs, np.array(roots, np.int32), **{**joined, **narrow})


def _blocks(vectors: np.ndarray, dimensions: int, rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """(number of the first, [at most `rows`, d]) one after the other."""
    if vectors.ndim != 2 or vectors.shape[1] != dimensions:
        raise HeadError(f"vectors of shape {vectors.shape} for a head on {dimensions} numbers")
    for first in range(0, len(vectors), rows):
        yield first, vectors[first : first + rows]


def _sigmoid(sums: np.ndarray) -> np.ndarray:
    away = np.exp(-np.abs(sums))  # at most 1: nothing overflows
    return np.where(sums >= 0, 1, away) / (1 + away)


FORMS: dict[str, type[Head]] = {"linear": Linear, "forest": Forest}


def to_bytes(head: Head) -> bytes:
    """A head as the file that keeps it."""
    form = next(name for name, kind in FORMS.items() if isinstance(head, kind))
    file = io.BytesIO()
    np.savez(file, form=np.asarray(form), **asdict(head))
    return file.getvalue()


def from_bytes(data: bytes) -> Head:
    """The head that a file keeps; no code of the file is run. Raises HeadError where there is none."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            kind = FORMS[str(stored["form"])]
            return kind(**{field.name: stored[field.name] for field in fields(kind)})
    except (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise HeadError(f"this is no head of a classifier on embeddings: {error}") from error


def described(head: Head) -> dict[str, Any]:
    """How large a head is, as JSON can say it."""
    found: dict[str, Any] = {"dimensions": head.dimensions}
    if isinstance(head, Forest):
        found |= {"trees": len(head.roots), "nodes": len(head.feature)}
    return found
