"""Is a classifier on embeddings trained as its recipe says, once, and the same each time?"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from winnow.filters.embedding_head import from_bytes
from winnow.pipelines import embedding_training, examples
from winnow.pipelines.cluster import Inline
from winnow.pipelines.device import CPU
from winnow.pipelines.engine import Done, Engine
from winnow.pipelines.examples import examples_of
from winnow.pipelines.located import RecipeError
from winnow.pipelines.models import FILE
from winnow.pipelines.planning import plan
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import read

WORDS = ["theorem", "lemma", "energy", "river", "click", "buy", "winner", "cookie"]
"""The first half in good documents, the second in bad ones; each is a number of the vector."""
GOOD, BAD = WORDS[:4], WORDS[4:]


@dataclass(frozen=True)
class Counting:
    """An encoder that counts words: a document's vector depends on its text alone, and has length 1."""

    identity: dict[str, Any] = field(default_factory=lambda: {"sha256": "counts words"})
    memory: int = 0

    def vectors_of(self, texts: Iterable[pa.LargeStringArray], device: str) -> Iterator[np.ndarray]:
        assert device == "cpu"
        for array in texts:
            counts = [[text.split().count(word) for word in WORDS] for text in array.to_pylist()]
            found = np.array(counts, float)
            yield (found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1)).astype(np.float16)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No torch, for nothing here computes with it; and many small files, which need not outlast a power cut."""
    monkeypatch.setattr(embedding_training, "one_thread", contextlib.nullcontext)
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def document(share: float, rng: random.Random) -> str:
    """Forty words, `share` of them good ones."""
    return " ".join(rng.choice(GOOD if rng.random() < share else BAD) for _ in range(40))


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("corpora")
    rng = random.Random(1)
    rows = {
        "good": [{"text": document(0.8, rng)} for _ in range(120)],
        "bad": [{"text": document(0.2, rng)} for _ in range(150)],
        "scored": [
            {
                "text": document(score / 5, rng),
                "meta": {"edu": score if i % 10 else "none", "by": {"whom": "a model"}},
            }
            for i, score in enumerate(rng.randrange(6) for _ in range(200))
        ],
        "unscored": [{"text": document(0.5, rng)} for _ in range(20)],
    }
    for folder, found in rows.items():
        (root / folder).mkdir()
        for part in range(2):
            lines = [json.dumps(row) for row in found[part::2]]
            (root / folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n")
    return root


def recipe_text(root: Path) -> str:
    return f"""name: training
tokenizer: {{name: mistral-7b-v0.1}}
embedding_classifiers:
  useful:
    positive:
      books: {{read: {{format: jsonl, path: "{root}/good/*.jsonl"}}, filters: [{{length: {{min_words: 5}}}}]}}
    negative: {{spam: {{read: {{format: jsonl, path: "{root}/bad/*.jsonl"}}, sample: 100}}}}
    heldout: 20%
  edu:
    head: linear
    scored:
      rated: {{read: {{format: jsonl, path: "{root}/scored/*.jsonl"}}, score: meta.edu, sample: 150}}
    threshold: 3
    heldout: 25%
    options: {{l2: 0.1}}
sources: {{web: {{read: {{format: jsonl, path: "{root}/bad/*.jsonl"}}}}}}
limits: {{split_bytes: 10KB}}
"""


def recipe(root: Path, *changes: str):
    return read(recipe_text(root), "r.yaml", list(changes))


def train(root: Path, out: Path, *changes: str) -> tuple[Engine, dict[str, Done]]:
    engine = Engine(str(out), Inline(), Progress(stream=None))
    planned = plan(recipe(root, *changes))
    encoders, devices = {"default": Counting()}, {"default": CPU}
    return engine, embedding_training.train(engine, planned, {}, None, encoders, devices)  # type: ignore[arg-type]


def redone(engine: Engine) -> set[str]:
    return {done.stage.name for done in engine.performed if done.redone}


def report(done: Done) -> dict[str, Any]:
    return orjson.loads((Path(done.location) / "report.json").read_bytes())


def head(done: Done):
    return from_bytes((Path(done.location) / FILE).read_bytes())


@pytest.fixture(scope="module")
def made(corpora, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding_training, "one_thread", contextlib.nullcontext)
        patch.setattr(os, "fsync", lambda fd: None)
        return (out, *train(corpora, out))


def scores_of(done: Done, *shares: float) -> list[float]:
    """The mean score of documents with these shares of good words."""
    rng = random.Random(7)
    texts = pa.array([document(share, rng) for share in shares for _ in range(20)], pa.large_string())
    (vectors,) = Counting().vectors_of([texts], "cpu")
    return head(done).scores(vectors).reshape(len(shares), 20).mean(axis=1).tolist()


def test_a_head_tells_the_two_classes_apart(made):
    _, _, done = made
    bad, good = scores_of(done["useful"], 0.2, 0.8)
    assert bad < 0.2 < 0.8 < good
    facts = report(done["useful"])
    trained, held = facts["examples"], facts["heldout"]
    assert list(trained) == ["positive", "negative"]
    assert trained["positive"] + held["positives"] == 120
    assert trained["negative"] + held["negatives"] == 100
    assert 20 < held["positives"] + held["negatives"] < 70
    assert held["roc_auc"] > 0.99
    assert held["at_threshold"]["f1"] > 0.9
    assert facts["head"] == "logistic"
    assert facts["dimensions"] == len(WORDS)


def test_a_head_learns_scores_and_documents_without_one_are_counted(made):
    _, engine, done = made
    found = scores_of(done["edu"], 0.0, 0.4, 1.0)
    assert found == sorted(found)
    assert found[1] == pytest.approx(2, abs=0.5)
    facts = report(done["edu"])
    held = facts["heldout"]
    assert facts["without_score"] > 0
    assert facts["examples"]["scored"] + held["examples"] + facts["without_score"] == 150
    assert held["mse"] < 1
    assert held["spearman"] > 0.8
    assert held["at_threshold"]["threshold"] == 3
    assert held["rounded"]["f1"] > 0.8
    assert np.sum(held["confusion"]["rows"]) == held["examples"]
    counts = engine.done["example-vectors.default.edu.scored.rated"].records[0].counts
    assert counts["without_score"] == facts["without_score"]
    assert counts["examples"] == 150 - facts["without_score"]


@pytest.mark.parametrize(
    ("kind", "options", "least"),
    [
        ("logistic", {"l2": 2.0}, 0.5),
        ("forest", {"trees": 9, "depth": None, "min_leaf": 1, "seed": 0}, 3),
    ],
)
def test_other_heads_on_scores_need_no_new_vectors(corpora, made, kind, options, least):
    out, _, _ = made
    setting = "{trees: 9}" if kind == "forest" else "{l2: 2}"
    changes = {"head": kind, "options": setting}
    engine, done = train(corpora, out, *(f"embedding_classifiers.edu.{k}={v}" for k, v in changes.items()))
    assert report(done["edu"])["options"] == options
    assert redone(engine) <= {"embedding-classifier.edu"}
    low, high = scores_of(done["edu"], 0.1, 0.9)
    assert low < least < high
    held = report(done["edu"])["heldout"]
    assert held["at_threshold"]["threshold"] == least
    assert ("mse" in held) == (kind == "forest")


def test_another_option_trains_that_head_alone(corpora, made):
    out, _, done = made
    engine, again = train(corpora, out)
    assert not redone(engine)
    assert {k: d.stage for k, d in again.items()} == {k: d.stage for k, d in done.items()}
    engine, _ = train(corpora, out, "embedding_classifiers.edu.options.l2=3")
    assert redone(engine) == {"embedding-classifier.edu"}


def test_the_same_head_however_files_are_cut(corpora, made, tmp_path, monkeypatch):
    _, _, done = made
    monkeypatch.setattr(embedding_training, "TASK_EXAMPLES", 37)
    monkeypatch.setattr(embedding_training, "BATCH_EXAMPLES", 5)
    monkeypatch.setattr(examples, "MOST_FILES", 2)
    engine, other = train(corpora, tmp_path / "run", "limits.split_bytes=2KB")
    assert len(engine.done["example-vectors.default.useful.negative.spam"].records) == 3
    for classifier in done:
        digests = [d[classifier].records[0].counts["sha256"] for d in (done, other)]
        assert digests[0] == digests[1]
        assert report(done[classifier]) == report(other[classifier])


def test_a_head_that_is_there_needs_nothing_of_what_led_to_it(corpora, made, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(made[0], out)
    for stage in (out / "stages").iterdir():
        if not stage.name.startswith("embedding-classifier."):
            shutil.rmtree(stage)
    engine, done = train(corpora, out)
    assert not redone(engine)
    assert set(done) == {"useful", "edu"}


def test_examples_that_give_no_head_are_located(corpora, made):
    changes = ("head=logistic", "threshold=9")
    with pytest.raises(RecipeError, match="train on are bad") as caught:
        train(corpora, made[0], *(f"embedding_classifiers.edu.{change}" for change in changes))
    begin = recipe_text(corpora).splitlines().index("  edu:") + 1
    assert str(caught.value).startswith((f"r.yaml:{begin}:", f"r.yaml:{begin + 1}:"))


def test_a_field_without_scores_is_located_and_others_are_named(corpora, made):
    change = "embedding_classifiers.edu.scored.rated.score=meta.nowhere"
    with pytest.raises(RecipeError) as caught:
        train(corpora, made[0], change, "embedding_classifiers.edu.scored.rated.sample=null")
    assert str(caught.value) == (
        f"--set {change.partition('=')[0]}:1:1: none of 200 examples has a number in the field 'meta.nowhere' of meta "
        "(there: 'meta.edu', 'meta.by')"
    )
    place, where = "embedding_classifiers.edu.scored.rated", f"{corpora}/unscored/*.jsonl"
    with pytest.raises(RecipeError, match=r"none of 20 examples .*'meta.edu'.* \(the first has no field\)"):
        train(corpora, made[0], f"{place}.read.path={where}", f"{place}.sample=null")


def test_a_kind_without_examples_is_located_before_its_classifier_embeds_any(corpora, tmp_path):
    change = "embedding_classifiers.useful.negative.spam.filters=[{length: {min_words: 99}}]"
    with pytest.raises(RecipeError) as caught:
        train(corpora, tmp_path, change)
    lines = recipe_text(corpora).splitlines()
    begin = next(i for i, line in enumerate(lines, 1) if line.startswith("    negative:"))
    assert str(caught.value) == (
        f"r.yaml:{begin}:15: no negative example is left (negative spam: 150 read, 0 pass its filters)"
    )
    assert not list((tmp_path / "stages").glob("example-vectors.default.useful.*"))


def test_one_source_of_a_kind_may_be_empty_and_not_all(corpora, tmp_path):
    none = "filters: [{length: {min_words: 99}}]"
    more = f'{{read: {{format: jsonl, path: "{corpora}/bad/*.jsonl"}}, {none}}}'
    _, done = train(corpora, tmp_path, f"embedding_classifiers.useful.negative.more={more}")
    trained = report(done["useful"])
    assert trained["examples"]["negative"] + trained["heldout"]["negatives"] == 100
    place = "embedding_classifiers.edu.scored.rated.filters"
    with pytest.raises(RecipeError, match=r"no scored example is left \(scored rated: 200 read, 0 pass its"):
        train(corpora, tmp_path, f"{place}=[{none.removeprefix('filters: [')}")


def test_the_plan_lists_their_examples_and_says_where_there_are_none(corpora):
    planned = plan(recipe(corpora))
    assert {k: list(v) for k, v in planned.embedding_examples.items()} == {
        "useful": ["positive", "negative"],
        "edu": ["scored"],
    }
    assert planned.examples == {}
    change = "embedding_classifiers.useful.negative.spam.read.path=nowhere/*.jsonl"
    with pytest.raises(RecipeError, match="nowhere") as caught:
        plan(recipe(corpora, change))
    assert str(caught.value).startswith("--set")


def test_filters_of_examples_are_checked(corpora, tmp_path):
    change = "embedding_classifiers.useful.negative.spam.filters=[{c4-bad-words: {language: xx}}]"
    with pytest.raises(RecipeError) as caught:
        train(corpora, tmp_path, change)
    assert str(caught.value).startswith("--set")


def test_examples_are_in_the_order_of_their_draws_in_any_portions(made):
    _, engine, _ = made
    drawn = engine.done["examples.edu.scored.rated"]
    assert len(drawn.records) > 1
    sample = examples.sample_of(drawn, 150)
    whole = list(examples_of(sample))
    assert len(whole) == 150
    parts = [e for first in range(0, 200, 40) for e in examples_of(sample, first, first + 40)]
    assert parts == whole
    missing = sum(e.score is None for e in whole)
    assert missing == report(made[2]["edu"])["without_score"]
    held = list(examples.texts_of([sample], heldout=True))
    assert held == [e.text for e in whole if e.heldout]
    assert 15 < len(held) < 60
