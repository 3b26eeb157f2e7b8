"""Is a classifier trained on what it is given, the same each time, and are its figures right?"""

import hashlib
import json
import os
import re

import fasttext
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from winnow.filters.classifier_training import (
    TrainingError,
    TrainingOptions,
    evaluate,
    report,
    roc_auc,
    shuffle_examples,
    train,
    write_examples,
)
from winnow.filters.model_files import find

SMALL = TrainingOptions(dim=8, buckets=1000, learning_rate=0.5)
GOOD = ["the", "proof", "follows", "from", "the", "lemma", "because", "each", "set", "is", "finite"]
BAD = ["click", "here", "now", "buy", "cheap", "offer", "win", "free", "prize", "today"]

scores = st.lists(st.sampled_from([0, 0.1, 0.25, 0.5, 0.5, 0.75, 1.00001]), min_size=1, max_size=30)


def texts(words, n, seed):
    rng = np.random.default_rng(seed)
    return ["\n".join(rng.choice(words, 8)) for _ in range(n)]


@pytest.fixture
def examples(tmp_path):
    """Files of 300 examples of each class."""
    for label, words in (("hq", GOOD), ("cc", BAD)):
        assert write_examples(tmp_path / f"{label}.txt", texts(words, 300, seed=1), label) == 300
    return [tmp_path / "hq.txt", tmp_path / "cc.txt"]


def test_dclms_options_are_the_defaults_and_the_rest_is_fasttexts():
    """DCLM: word bigrams, and fastText's own defaults."""
    options = TrainingOptions()
    assert options.word_ngrams == 2
    own = fasttext.FastText.unsupervised_default | {"lr": 0.1, "minCount": 1}
    assert (options.learning_rate, options.dim, options.epochs, options.buckets, options.min_count) == (
        own["lr"], own["dim"], own["epoch"], own["bucket"], own["minCount"],
    )  # fmt: skip
    assert (options.threads, options.newlines) == (1, "space")
    with pytest.raises(ValidationError, match="greater than 0"):
        TrainingOptions(learning_rate=0)


def test_the_same_examples_give_the_same_bytes(examples, tmp_path):
    made = train(examples, tmp_path / "a.bin", SMALL)
    assert train(examples, tmp_path / "b.bin", SMALL) == made
    train(examples, tmp_path / "c.bin", SMALL.model_copy(update={"seed": 1}))
    digests = [hashlib.sha256((tmp_path / f"{m}.bin").read_bytes()).hexdigest() for m in "abc"]
    assert digests[0] == digests[1] != digests[2]
    assert made["examples"] == {"cc": 300, "hq": 300}
    assert made["bytes"] == (tmp_path / "a.bin").stat().st_size
    assert made["words"] == len(set(GOOD) | set(BAD))
    assert made["options"] == SMALL.model_dump()
    assert made["fasttext"].startswith("fasttext-community ")
    assert json.loads(json.dumps(made)) == made
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.bin", "b.bin", "c.bin", "cc.txt", "hq.txt"]


def test_the_model_has_the_options_asked_for(examples, tmp_path):
    asked = TrainingOptions(
        word_ngrams=3, learning_rate=0.2, dim=5, epochs=2, buckets=777, min_count=3, seed=4
    )
    train(examples, tmp_path / "m.bin", asked)
    args = fasttext.load_model(str(tmp_path / "m.bin")).f.getArgs()
    found = (args.wordNgrams, args.dim, args.epoch, args.bucket, args.minCount, args.loss.name)
    assert found == (3, 5, 2, 777, 3, "softmax")
    assert args.maxn == 0


def test_a_model_that_could_not_be_written_whole_is_an_error(examples, tmp_path, monkeypatch):
    honest = fasttext.FastText._FastText.save_model

    def short(self, path):
        honest(self, path)
        os.truncate(path, os.path.getsize(path) - 1)

    monkeypatch.setattr(fasttext.FastText._FastText, "save_model", short)
    with pytest.raises(OSError, match="could not write the whole model"):
        train(examples, tmp_path / "m.bin", TrainingOptions(dim=4, buckets=100))


def test_words_are_counted_where_there_are_no_buckets(examples, tmp_path):
    made = train(examples, tmp_path / "m.bin", SMALL.model_copy(update={"word_ngrams": 1}))
    assert made["words"] == len(set(GOOD) | set(BAD))


def test_the_model_tells_what_it_was_trained_to(examples, tmp_path):
    train(examples, tmp_path / "m.bin", SMALL)
    unseen = pa.array(texts(GOOD, 60, seed=2), pa.large_string())
    found = evaluate(find(str(tmp_path / "m.bin")), unseen, iter(texts(BAD, 40, seed=2)))
    assert (found["positives"], found["negatives"]) == (60, 40)
    assert found["roc_auc"] == 1.0
    assert found["at_half"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert json.loads(json.dumps(found)) == found
    turned = evaluate(find(str(tmp_path / "m.bin")), unseen, texts(BAD, 40, seed=2), label="cc")
    assert turned["roc_auc"] == 0.0
    in_parts = evaluate(
        find(str(tmp_path / "m.bin")), [unseen.slice(0, 7), unseen.slice(7)], texts(BAD, 40, 2)
    )
    assert in_parts == found


def test_examples_are_lines_as_they_are_scored(tmp_path):
    given = ["  one\ntwo\r\nthree\u2028four ", "", "\n\t \0", "\u3000fünf\x85"]
    assert write_examples(tmp_path / "e.txt", given, "hq") == 2
    lines = (tmp_path / "e.txt").read_bytes().decode().split("\n")
    assert [line.split(" ", 1)[0] for line in lines] == ["__label__hq", "__label__hq", ""]
    assert [line.split()[1:] for line in lines] == [["one", "two", "three", "four"], ["fünf"], []]
    assert write_examples(tmp_path / "e.txt", pa.array(given, pa.large_string()), "hq", "remove") == 2
    assert (tmp_path / "e.txt").read_bytes().startswith(b"__label__hq onetwo\rthree")


def test_a_label_in_a_text_is_no_label(tmp_path):
    """fastText would learn `__label__cc` from a page about fastText."""
    given = [
        "__label__cc a __label__ b\0__label__x\tx__label__y",
        "__label__hq __label__cc",
        "see\n__label__hq\nnow",
    ]
    assert write_examples(tmp_path / "e.txt", given, "hq") == 2
    found = [re.split("[ \0\t]+", line) for line in (tmp_path / "e.txt").read_text().split("\n")]
    assert found == [["__label__hq", "a", "b", "x__label__y"], ["__label__hq", "see", "now"], [""]]


@given(st.lists(st.text(max_size=30), max_size=5))
def test_any_text_is_one_example_or_none(tmp_path_factory, given):
    path = tmp_path_factory.getbasetemp() / "any.txt"
    n = write_examples(path, given, "hq")
    lines = path.read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert len(lines) == n
    assert all(line.startswith(b"__label__hq ") for line in lines)
    assert n <= sum(bool(text.strip()) for text in given)


def test_classes_are_mixed_and_every_line_is_kept(tmp_path):
    for label, n in (("hq", 500), ("cc", 300)):
        write_examples(tmp_path / f"{label}.txt", (f"{label} {i}" for i in range(n)), label)
    files = [tmp_path / "hq.txt", tmp_path / "cc.txt"]
    out = tmp_path / "out.txt"
    assert shuffle_examples(files, out, seed=3) == {"cc": 300, "hq": 500}
    lines = out.read_text().splitlines()
    assert sorted(lines) == sorted(line for file in files for line in file.read_text().splitlines())
    ahead = sum(line.startswith("__label__hq") for line in lines[:400])
    assert 200 < ahead < 300
    again, other = tmp_path / "again.txt", tmp_path / "other.txt"
    shuffle_examples(files, again, seed=3)
    shuffle_examples(files, other, seed=4)
    assert again.read_text() == out.read_text() != other.read_text()


def test_the_seed_is_also_that_of_the_first_values(tmp_path):
    """Of seeds that give two examples the same order."""
    for label in ("hq", "cc"):
        write_examples(tmp_path / f"{label}.txt", [f"only {label}"], label)
    files = [tmp_path / "hq.txt", tmp_path / "cc.txt"]
    found: dict[str, list[bytes]] = {}
    for seed in range(6):
        shuffle_examples(files, tmp_path / "order.txt", seed)
        train(files, tmp_path / "m.bin", SMALL.model_copy(update={"seed": seed}))
        found.setdefault((tmp_path / "order.txt").read_text(), []).append((tmp_path / "m.bin").read_bytes())
    assert any(len(models) > 1 for models in found.values())
    assert all(len(set(models)) == len(models) for models in found.values())


def test_one_class_alone_is_refused(examples, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(TrainingError, match=r"examples of two labels at least; there are 300 of 'hq'$"):
        train([examples[0], tmp_path / "empty.txt"], tmp_path / "m.bin", SMALL)
    with pytest.raises(TrainingError, match=r"there are none$"):
        train([tmp_path / "empty.txt"], tmp_path / "m.bin", SMALL)
    assert not (tmp_path / "m.bin").exists()


def test_training_that_diverges_says_what_to_change(examples, tmp_path):
    with pytest.raises(TrainingError, match=r"training diverged: .* at learning_rate 1000000\.0; lower it"):
        train(examples, tmp_path / "m.bin", SMALL.model_copy(update={"learning_rate": 1e6}))


def test_words_that_are_all_too_rare_say_what_to_change(examples, tmp_path):
    with pytest.raises(TrainingError, match=r"no word occurs min_count \(100000\) times"):
        train(examples, tmp_path / "m.bin", SMALL.model_copy(update={"min_count": 100_000}))


@given(scores, scores)
def test_the_area_is_the_chance_that_a_positive_scores_higher(positives, negatives):
    pairs = [(p > n) + (p == n) / 2 for p in positives for n in negatives]
    assert roc_auc(np.array(positives), np.array(negatives)) == pytest.approx(np.mean(pairs))


@given(scores, scores)
def test_figures_are_what_counting_gives(positives, negatives):
    found = report(np.array(positives, np.float32), np.array(negatives, np.float32))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    p, n = (np.array(side, np.float32).astype(float) for side in (positives, negatives))
    every = np.concatenate([p, n])

    def counted(threshold):
        kept, right = (every >= threshold).sum(), (p >= threshold).sum()
        return kept / len(every), right / kept if kept else None, right / len(p)

    _, precision, recall = counted(0.5)
    assert found["at_half"]["precision"] == precision
    assert found["at_half"]["recall"] == recall
    if precision and recall:
        assert found["at_half"]["f1"] == pytest.approx(2 / (1 / precision + 1 / recall))
    else:
        assert found["at_half"]["f1"] == 0
    assert len(found["curve"]) <= 51
    assert found["curve"][0]["kept"] == 1
    assert found["curve"][-1]["threshold"] == every.max()
    for row in found["curve"]:
        assert (row["kept"], row["precision"], row["recall"]) == counted(row["threshold"])
    for row in found["keeping"]:
        for side, key in ((p, "of_positives"), (n, "of_negatives")):
            reach = [s for s in side if (side >= s).mean() >= row["share"] - 1e-9]
            assert row[key] == max(reach)


def test_a_side_without_texts_leaves_figures_out():
    found = report(np.zeros(0, np.float32), np.ones(3, np.float32))
    assert found == {
        "positives": 0, "negatives": 3, "at_half": None, "roc_auc": None, "curve": None, "keeping": None,
    }  # fmt: skip
