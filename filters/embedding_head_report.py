"""How well does a head tell good documents from others?

From the scores of examples that training has not seen: of two classes what classifier_training.py reports of a
fastText classifier; of scored examples how near the scores come (mean squared error, rank correlation, the table of
rounded scores) and, where a threshold says which are good, both. Letters: n examples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from winnow.filters.classifier_training import report as classes_report

HALF = 0.5
SHARES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
MOST_SCORES = 21
"""Different rounded scores that a table is made of."""


def of_classes(scores: np.ndarray, good: np.ndarray, threshold: float = HALF) -> dict[str, Any]:
    """What scores, float32[n], say of examples of which some are good, bool[n].

    `positives`, `negatives`, `roc_auc`, `curve` and `keeping` are those of `classifier_training.report`;
    `at_threshold` is what `decision` says. What has no value is None.
    """
    found = classes_report(scores[good], scores[~good])
    del found["at_half"]  # `at_threshold` says it, at the threshold that is meant
    return found | {"at_threshold": decision(scores >= threshold, good, threshold)}


def of_scores(
    scores: np.ndarray, targets: np.ndarray, threshold: float | None, *, probabilities: bool
) -> dict[str, Any]:
    """What scores, float32[n], say of examples with a score each, float64[n].

    spearman : rank correlation, of equal scores the mean rank.
    retention : for shares of the examples kept, the highest scores first, the lowest `score` kept and the mean of what
        those examples should have.
    mse, confusion : not where scores are `probabilities`. `confusion` has a row for each rounded score that examples
        should have, and a column for each that they get (held within the same range); none of many different ones.
    With a threshold also what `of_classes` says of which examples reach it, and `rounded`: the decision by rounded
    scores, which is FineWeb-Edu's.
    """
    found: dict[str, Any] = {
        "examples": len(scores),
        "spearman": spearman(scores, targets),
        "retention": _retention(scores, targets),
    }
    if not probabilities:
        error = scores.astype(np.float64) - targets
        found |= {
            "mse": float((error**2).mean()) if len(error) else None,
            "confusion": _confusion(scores, targets),
        }
    if threshold is not None:
        good = targets >= threshold
        found |= of_classes(scores, good, HALF if probabilities else threshold)
        if not probabilities:
            found["rounded"] = decision(np.rint(scores) >= threshold, good, threshold)
    return found


def decision(kept: np.ndarray, good: np.ndarray, threshold: float) -> dict[str, Any]:
    """Precision, recall, F1 and accuracy of keeping some of the examples, bool[n] each."""
    right, n = int((kept & good).sum()), len(good)
    wanted, taken = int(good.sum()), int(kept.sum())
    return {
        "threshold": threshold,
        "precision": right / taken if taken else None,
        "recall": right / wanted if wanted else None,
        "f1": 2 * right / (wanted + taken) if wanted + taken else None,
        "accuracy": float((kept == good).mean()) if n else None,
    }


def spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    """Spearman's rank correlation; None where one side has only one value."""
    ranks = [_ranks(side) for side in (a, b)]
    if any(len(r) == 0 or r.min() == r.max() for r in ranks):
        return None
    x, y = (r - r.mean() for r in ranks)
    return float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[where]


def _retention(scores: np.ndarray, targets: np.ndarray) -> list[dict[str, float]]:
    n = len(scores)
    order = np.argsort(-scores, kind="stable")
    means = np.cumsum(targets[order]) / np.arange(1, n + 1)
    sizes = [max(1, int(np.ceil(round(share * n, 6)))) for share in SHARES] if n else []
    return [
        {"share": share, "score": float(scores[order[k - 1]]), "mean": float(means[k - 1])}
        for share, k in zip(SHARES, sizes, strict=False)
    ]


def _confusion(scores: np.ndarray, targets: np.ndarray) -> dict[str, Any] | None:
    if not len(targets):
        return None
    wanted = np.rint(targets)
    low, high = wanted.min(), wanted.max()
    if high - low >= MOST_SCORES:
        return None
    size = int(high - low) + 1
    given = np.clip(np.rint(scores.astype(np.float64)), low, high)
    table = np.zeros((size, size), np.int64)
    np.add.at(table, ((wanted - low).astype(np.int64), (given - low).astype(np.int64)), 1)
    return {"scores": [int(low) + k for k in range(size)], "rows": table.tolist()}
