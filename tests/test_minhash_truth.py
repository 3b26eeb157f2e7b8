"""Does a run drop what is near enough to its survivor, and nothing else: on documents whose similarity is known?

../shared/dedup_truth: 20,000 real documents, and the exact Jaccard of 4,680 pairs (lower-cased word 5-grams).
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import zstandard
from winnow.pipelines import run
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import read
from winnow.pipelines.standing import verdict_name
from winnow.shards import tables

TRUTH = Path(__file__).resolve().parents[1].parent / "shared" / "dedup_truth"
SILENT = Progress(stream=None)
SEEDS = (1, 2, 3)


def recipe(seed: int, minhash: str):
    return read(
        f"""
name: truth
seed: {seed}
tokenizer: {{name: mistral-7b-v0.1}}
sources:
  truth:
    read: {{format: jsonl, path: "{TRUTH}/docs.jsonl.zst", key: id}}
    dedup: {{minhash: {minhash}}}
""",
        "truth.yaml",
        [],
    )


@pytest.fixture(scope="module")
def truth():
    """(texts by id, [(a, b, jaccard)])."""
    if not TRUTH.is_dir():
        pytest.skip("needs the shared corpora beside the checkout")
    with zstandard.open(TRUTH / "docs.jsonl.zst", "rt", encoding="utf-8") as lines:
        texts = {row["id"]: row["text"] for row in map(json.loads, lines)}
    with open(TRUTH / "pairs.jsonl", encoding="utf-8") as lines:
        pairs = [(p["a"], p["b"], p["jaccard"]) for p in map(json.loads, lines)]
    return texts, pairs


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One run directory for all seeds and settings: documents are read once."""
    return tmp_path_factory.mktemp("truth") / "run"


def gone_of(place, made):
    """{id: (survivor's id, score)} of the documents that go."""
    corpus = run(made, str(place), inline=True, progress=SILENT, until="dedup")
    source = corpus.sources["truth"]
    (step,) = source.steps
    ids, verdicts = [], []
    for split in source.plan.splits:
        rows = f"{source.documents.location}/rows-{split.index:08d}.parquet"
        for batch in tables.parquet_batches(rows, ["id", "key"]):
            ids += zip(*(c.to_pylist() for c in batch.columns), strict=True)
        for batch in tables.arrow_batches(f"{step.location}/{verdict_name('truth', split.index)}"):
            verdicts += batch.to_pylist()
    named = dict(ids)
    return {
        key: (named[v["survivor"]], v["score"])
        for (_, key), v in zip(ids, verdicts, strict=True)
        if v["dropped"]
    }


def jaccard(one: str, other: str) -> float:
    a, b = (
        {tuple(words[i : i + 5]) for i in range(len(words) - 4)}
        for words in (re.findall(r"\w+", t.lower()) for t in (one, other))
    )
    return len(a & b) / len(a | b) if a | b else float(one == other)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("settings", "threshold", "least_recall"),
    [("{threshold: 0.7, min_recall: 0.99}", 0.7, 0.99), ("fineweb", 0.75, None)],
    ids=["recall-0.99", "fineweb"],
)
def test_what_goes_is_near_enough_and_what_is_near_goes(
    truth, place, seed, settings, threshold, least_recall
):
    texts, pairs = truth
    gone = gone_of(place, recipe(seed, settings))
    assert len(gone) > 1500
    wrong = 0
    for key, (survivor, score) in gone.items():
        assert survivor not in gone
        true = jaccard(texts[key], texts[survivor])
        assert score == pytest.approx(true, abs=1e-6) or true == 0.0, "a short document has other shingles"
        wrong += true < threshold
    assert wrong / len(gone) <= 0.01, f"{wrong} of {len(gone)} went for a survivor that is not near enough"
    if least_recall is not None:
        near = [(a, b) for a, b, similarity in pairs if similarity >= threshold]
        assert len(near) > 1500
        found = sum(a in gone or b in gone for a, b in near)
        assert found / len(near) >= least_recall


def test_the_estimate_drops_nearly_the_same(truth, place):
    settings = "{threshold: 0.75, min_recall: 0.99"
    exact, estimate = (gone_of(place, recipe(1, f"{settings}, verify: {v}}}")) for v in ("exact", "estimate"))
    assert len(exact.keys() ^ estimate.keys()) < 0.2 * len(exact)
    differences = [abs(estimate[k][1] - exact[k][1]) for k in exact.keys() & estimate.keys()]
    assert max(differences) < 0.25
