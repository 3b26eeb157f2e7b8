"""Is a classifier trained as its recipe says, once, and the same each time; and do filters go by it?"""

from __future__ import annotations

import json
import random
from pathlib import Path

import orjson
import pytest
from winnow.pipelines import open_run, run
from winnow.pipelines.audit import sample_dropped
from winnow.pipelines.examples import draw_limit, groups, texts_of
from winnow.pipelines.located import RecipeError
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import read
from winnow.pipelines.report import classifier_lines
from winnow.pipelines.tracing import Tracer

SILENT = Progress(stream=None)
GOOD = ["theorem", "proof", "lemma", "energy", "cell", "equation", "history", "river", "because", "therefore"]
BAD = [
    "click",
    "buy",
    "cheap",
    "now",
    "subscribe",
    "winner",
    "login",
    "cookie",
    "offer",
    "casino",
    "deal",
    "free",
]


def document(words: list[str], rng: random.Random) -> str:
    return " ".join(rng.choices(words, k=30)) + "\n" + " ".join(rng.choices([*words, "the", "of"], k=20))


def write(folder: Path, words: list[str], n: int, seed: int) -> None:
    folder.mkdir()
    rng = random.Random(seed)
    for part in range(2):
        lines = [json.dumps({"text": document(words, rng), "n": i}) for i in range(n // 2)]
        (folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("corpora")
    write(root / "good", GOOD, 400, 1)
    write(root / "bad", BAD, 400, 2)
    (root / "web").mkdir()
    rng = random.Random(3)
    lines = [
        json.dumps({"text": document(GOOD if i % 4 == 0 else BAD, rng), "good": i % 4 == 0})
        for i in range(200)
    ]
    (root / "web" / "a.jsonl").write_text("\n".join(lines) + "\n")
    return root


def recipe(root: Path, *changes: str):
    text = f"""name: training
tokenizer: {{name: mistral-7b-v0.1}}
sequence: {{length: 16}}
classifiers:
  useful:
    positive: {{books: {{read: {{format: jsonl, path: "{root}/good/*.jsonl"}}, sample: 250}}}}
    negative:
      spam: {{read: {{format: jsonl, path: "{root}/bad/*.jsonl"}}, filters: [{{length: {{min_words: 5}}}}]}}
    heldout: 20%
    options: {{dim: 8, buckets: 1000, epochs: 3}}
sources:
  web:
    read: {{format: jsonl, path: "{root}/web/*.jsonl"}}
    filters: [{{fasttext: {{model: useful, keep_fraction: 0.25}}}}]
limits: {{split_bytes: 20KB}}
"""
    return read(text, "r.yaml", list(changes))


def make(root: Path, out: Path, *changes: str, until: str | None = None):
    return run(recipe(root, *changes), str(out), inline=True, progress=SILENT, until=until)


@pytest.fixture(scope="module")
def made(corpora, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    return out, make(corpora, out)


def test_the_best_quarter_stays_and_it_is_the_good_one(made):
    out, corpus = made
    facts = corpus.mixture["sources"][0]
    assert facts["dropped"] == {"fasttext.useful.keep_fraction": 150}
    assert facts["kept_documents"] == 50
    opened = open_run(str(out))
    words = opened.decode(Tracer(opened).tokens("web", "train", 0)).split()
    assert set(words) & set(GOOD)
    assert not set(words) & set(BAD)


def test_the_report_says_what_it_was_trained_and_tested_on(made):
    out, corpus = made
    facts = corpus.mixture["classifiers"]["useful"]
    trained, held = facts["examples"], facts["heldout"]
    assert trained["hq"] + held["positives"] == 250
    assert trained["cc"] + held["negatives"] == 400
    assert 20 < held["positives"] < 80
    assert held["roc_auc"] == 1.0
    assert facts["options"]["dim"] == 8
    assert (out / facts["model"]).stat().st_size == facts["bytes"]
    manifest = orjson.loads((out / "manifest.json").read_bytes())
    assert any(s["name"] == "classifier.useful" for s in manifest["stages"])


def test_stats_say_how_the_classifier_does(made):
    (line,) = classifier_lines(made[1].mixture)
    assert line.startswith("classifier useful: trained on ")
    assert line.endswith("precision 1.000 and recall 1.000 at 0.5, ROC AUC 1.0000")


def test_few_more_documents_than_the_sample_are_looked_at():
    assert draw_limit(None, 10) == draw_limit(10, 10) == 2**64 - 1
    assert 0.001 < draw_limit(1000, 10**6) / 2**64 < 0.0013


def test_texts_are_split_by_what_is_held_out_and_none_is_lost(made, monkeypatch):
    from winnow.pipelines import training

    _, corpus = made
    seen = {}

    def keep(spec, outputs):
        for label, samples in spec.samples.items():
            seen[label] = [list(texts_of(samples, heldout=held)) for held in (False, True)]
        raise RuntimeError("enough")

    monkeypatch.setattr(training, "training_task", keep)
    with pytest.raises(RuntimeError, match="enough"):
        run(
            corpus.recipe.model_copy(update={"seed": 18}),
            str(made[0].parent / "other"),
            inline=True,
            progress=SILENT,
        )
    assert [len(a) + len(b) for a, b in seen.values()] == [250, 400]
    for kept, held in seen.values():
        assert not set(kept) & set(held)


def test_a_second_run_trains_the_same_model_and_a_continued_one_none(corpora, made, tmp_path):
    out, corpus = made
    again = make(corpora, out)
    assert sum(again.redone.values()) == 0
    other = make(corpora, tmp_path / "run", "limits.split_bytes=8KB", until="documents")
    models = [c.models["useful"].sha256 for c in (corpus, other)]
    assert models[0] == models[1], "the model depends on how its examples are cut"


def test_a_classifier_that_is_there_needs_nothing_of_what_led_to_it(corpora, tmp_path):
    import shutil

    out = tmp_path / "run"
    make(corpora, out)
    for stage in (out / "stages").iterdir():
        if stage.name.startswith(("examples.", "documents.useful", "filters.useful")):
            shutil.rmtree(stage)
    again = make(corpora, out)
    assert sum(again.redone.values()) == 0


def test_behind_dedup_the_share_is_of_what_dedup_left(corpora, made, tmp_path):
    """DCLM takes its tenth of what its Bloom filter left."""
    doubled = tmp_path / "doubled"
    doubled.mkdir()
    for n in range(2):
        (doubled / f"{n}.jsonl").write_bytes((corpora / "web" / "a.jsonl").read_bytes())
    changes = [
        f"sources.web.read.path={doubled}/*.jsonl",
        "sources.web.filters=[]",
        "sources.web.dedup.exact=true",
    ]
    use = "sources.web.quality=[{classifier: useful, keep_fraction: 0.25}]"
    behind = make(corpora, tmp_path / "behind", *changes, use)
    facts = behind.mixture["sources"][0]
    assert (facts["rows"], facts["kept_documents"]) == (400, 50)
    assert facts["quality"]["dropped"] == {"useful.keep_fraction": 150}
    first = made[1].mixture["sources"][0]
    assert facts["kept_bytes"] == first["kept_bytes"], "the filter keeps the same documents"
    # A model's file is the same as the classifier that it is a copy of.
    model = tmp_path / "useful.bin"
    model.write_bytes((made[0] / made[1].mixture["classifiers"]["useful"]["model"]).read_bytes())
    by_file = f"sources.web.quality=[{{model: {model}, keep_fraction: 0.25}}]"
    again = make(corpora, tmp_path / "behind", *changes, by_file, "classifiers={}")
    assert again.mixture["sources"][0]["kept_bytes"] == first["kept_bytes"]
    assert again.redone["quality-scores.useful.web"] == 0, "the same model, the same scores"
    found = sample_dropped(open_run(str(tmp_path / "behind")), "useful.keep_fraction", 3)
    assert len(found) == 3
    assert all(row.score < row.threshold for row in found)


def test_other_options_are_another_model_and_other_shards(corpora, tmp_path):
    out = tmp_path / "run"
    first = make(corpora, out, until="filters")
    second = make(corpora, out, "classifiers.useful.options.epochs=4", until="filters")
    assert first.models["useful"].sha256 != second.models["useful"].sha256
    assert second.redone["examples.useful.positive.books"] == 0
    assert second.redone["documents.web"] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            "sources.web.filters=[{fasttext: {model: nowhere.bin}}]",
            "no file 'nowhere.bin'",
            id="no-file",
        ),
        pytest.param(
            "classifiers.useful.negative.spam.filters=[{fasttext: {model: useful}}]",
            "'useful' is a classifier of this recipe; its examples come before it",
            id="itself",
        ),
        pytest.param(
            "classifiers.useful.negative.spam.filters=[{fasttext: {model: a.bin, keep_fraction: 0.1}}]",
            "a filter of a classifier's examples cannot keep a fraction",
            id="fraction",
        ),
        pytest.param("classifiers.useful.positive={}", "must not be empty", id="no-examples"),
        pytest.param(
            "classifiers.useful.options.epoch=4", "unknown key 'epoch'; did you mean 'epochs'?", id="option"
        ),
    ],
)
def test_mistakes_are_located(corpora, tmp_path, change, message):
    with pytest.raises(RecipeError, match=message.replace("?", r"\?")) as caught:
        make(corpora, tmp_path / "run", change)
    assert str(caught.value).startswith("--set")


def test_the_plan_shows_what_is_trained(corpora, capsys):
    from winnow.pipelines.plan_report import plan_facts, print_plan
    from winnow.pipelines.planning import plan

    facts = plan_facts(plan(recipe(corpora)))
    assert set(facts["classifiers"]["useful"]["examples"]["positive"]) == {"books"}
    print_plan(facts)
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("classifier useful")]
    assert "positive books (" in line
    assert "negative spam (" in line


def test_splits_are_grouped_so_that_few_files_are_open():
    assert groups(3) == [(0,), (1,), (2,)]
    wide = groups(1000)
    assert len(wide) <= 256
    assert [split for group in wide for split in group] == list(range(1000))
