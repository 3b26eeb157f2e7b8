"""Do classifiers' scores reach the rules unchanged, by document and by paragraph, and in sums?"""

import json
import pickle
from itertools import pairwise

import fasttext
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from winnow.filters.catalogue import Rewriting, Ruling, segments
from winnow.filters.fasttext_model import load, one_line
from winnow.filters.model_files import ModelError, find
from winnow.filters.quality import Quality, QualityParagraphs, Scores, WeightedSum, paragraphs
from winnow.filters.rules import decide

GOOD = ["the", "proof", "follows", "from", "the", "lemma", "because", "each", "set", "is", "finite"]
BAD = ["click", "here", "now", "buy", "cheap", "offer", "win", "free", "prize", "today"]
BREAKS = ["\n", "\r\n", "\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
SPACES = [" ", "\t", "\x1f", "\u00a0", "\u3000", "\u200b", "\0"]
texts_of_trouble = st.lists(
    st.sampled_from([*BREAKS, *SPACES, "a", "é", "中", "\U0010ffff"]), max_size=12
).map("".join)


def documents(texts):
    return pa.record_batch({"text": pa.array(texts, pa.large_string())})


def trained(path, labels=("hq", "cc"), **more):
    rng = np.random.default_rng(3)
    examples = path.with_suffix(".txt")
    with open(examples, "w") as file:
        for _ in range(400):
            for at, label in enumerate(labels):
                words = rng.choice((GOOD, BAD)[at % 2], 8)
                file.write(f"__label__{label} {' '.join(words)}\n")
    options = {"dim": 8, "lr": 0.5, "epoch": 10, "wordNgrams": 2, "bucket": 1000, "thread": 1} | more
    fasttext.train_supervised(str(examples), verbose=0, **options).save_model(str(path))
    return find(str(path))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Tells GOOD words from BAD ones."""
    return trained(tmp_path_factory.mktemp("model") / "good.bad.bin")


def of(model, kind=Quality, **more):
    return kind(model=model.path, **more).with_file(model.path, model.sha256)


def scored(filter_, texts):
    (measure,) = filter_.measures()
    found = measure.measure(documents(texts))
    assert list(found) == list(measure.columns) == [filter_.signal]
    return found[filter_.signal]


TEXTS = [" ".join(GOOD), " ".join(BAD), "the lemma is\nfree today", "unheard of", "", "\n\n"]


def test_agrees_with_fasttext_on_dclms_line(model):
    raw = fasttext.load_model(model.path)
    scores = scored(of(model), TEXTS)
    assert scores.dtype == np.float32
    for text, score in zip(TEXTS, scores, strict=True):
        labels, found = raw.predict(" ".join(text.strip().splitlines()), k=-1)
        assert score == np.float32(dict(zip(labels, found, strict=True))["__label__hq"])
    assert scores[0] > 0.9 > 0.1 > scores[1]


def test_agrees_with_fasttext_on_datatroves_line(model):
    raw = fasttext.load_model(model.path)
    texts = ["the\nlemma", " the proof\n", "buy\n\nnow"]
    for text, score in zip(texts, scored(of(model, newlines="remove"), texts), strict=True):
        labels, found = raw.predict(text.strip().replace("\n", ""), k=-1)
        assert score == np.float32(dict(zip(labels, found, strict=True))["__label__hq"])
    assert (scored(of(model), texts) != scored(of(model, newlines="remove"), texts)).any()


@given(texts_of_trouble)
def test_a_text_becomes_the_line_that_python_would_make_of_it(text):
    # fastText parts words at spaces, and takes any number of them for one.
    def words(line):
        return [word for word in line.split(b" ") if word]

    assert words(one_line(text.encode(), "space")) == words(" ".join(text.strip().splitlines()).encode())
    assert one_line(text.encode(), "remove") == text.strip().replace("\n", "").encode()
    assert b"\n" not in one_line(text.encode(), "space")


@settings(max_examples=100)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=5), st.data())
def test_documents_are_judged_one_by_one(model, texts, more):
    start = more.draw(st.integers(0, len(texts) - 1))
    (measure,) = of(model).measures()
    part = measure.measure(documents(texts).slice(start))["fasttext.good_bad"]
    alone = [measure.measure(documents([text]))["fasttext.good_bad"][0] for text in texts[start:]]
    np.testing.assert_array_equal(part, alone)


@pytest.mark.parametrize("text", ["a" * 10**6, "\n" * 10**6, "ก" * 300_000, "\0" * 10**6, "😀 " * 10**5])
def test_long_and_strange(model, text):
    assert scored(of(model), [text, " ".join(GOOD)])[1] > 0.9


def test_bounds_become_rules(model):
    def decided(**bounds):
        filter_ = of(model, **bounds)
        return decide(filter_.rules(), {filter_.signal: scored(filter_, TEXTS[:3])}, 3).first.tolist()

    middle = float(scored(of(model), TEXTS)[2])
    assert decided() == [-1, -1, -1]
    assert decided(min_score=middle) == [-1, 0, -1]
    assert decided(max_score=middle) == [0, -1, -1]
    assert decided(min_score=middle, max_score=middle) == [1, 0, -1]
    (rule,) = of(model, keep_fraction=0.1).rules()
    assert (rule.name, rule.fraction, rule.minimum) == ("fasttext.good_bad.keep_fraction", 0.1, None)


def test_a_signal_is_called_after_the_model_or_as_asked(model):
    assert of(model).signal == "fasttext.good_bad"
    assert Quality(model="web.v2").signal == "fasttext.web_v2"
    asked = Quality.model_validate({"model": "models/x.bin", "as": "math", "min_score": 0.5})
    assert asked.signal == "fasttext.math"
    assert asked.rules()[0].name == "fasttext.math.min_score"
    assert asked.model_dump(by_alias=True)["as"] == "math"


def test_several_classifiers_go_together_when_their_signals_differ(model):
    both = [of(model), Quality(model=model.path, label="cc", as_="bad").with_file(model.path, model.sha256)]
    (segment,) = segments([*both, Scores(weights={"fasttext.good_bad": 1, "fasttext.bad": 1}, min_score=0)])
    assert segment.own_columns == {"fasttext.good_bad": "float32", "fasttext.bad": "float32"}
    assert segment.scanned == ()
    with pytest.raises(ValueError, match=r"two filters give the signal 'fasttext\.good_bad'"):
        segments([of(model), of(model, label="cc")])
    assert len(segments([of(model), of(model, min_score=0.1)])[0].measures) == 1


def test_label_names_go_with_and_without_the_prefix(model):
    texts = TEXTS[:3]
    np.testing.assert_array_equal(scored(of(model), texts), scored(of(model, label="__label__hq"), texts))
    total = scored(of(model), texts) + scored(of(model, label="cc"), texts)
    np.testing.assert_allclose(total, 1, atol=1e-4)
    with pytest.raises(ModelError, match=r"good\.bad\.bin has no label 'good'; its labels: cc, hq$"):
        scored(of(model, label="good"), texts)


def test_labels_that_fasttext_leaves_out_score_0(tmp_path):
    """Hierarchical softmax gives no label that is less probable than about 1e-5."""
    labels = [f"l{i}" for i in range(40)]
    model = trained(tmp_path / "many.bin", labels=labels, loss="hs", lr=1.0, epoch=40)
    raw = fasttext.load_model(model.path)
    texts = TEXTS[:2]
    named = [dict(zip(*raw.predict(text, k=-1), strict=True)) for text in texts]
    for label in labels:
        expected = [np.float32(found.get(f"__label__{label}", 0)) for found in named]
        assert scored(of(model, label=label), texts).tolist() == expected


def test_a_compressed_model_will_do(model, tmp_path):
    smaller = fasttext.load_model(model.path)
    smaller.quantize()
    smaller.save_model(str(tmp_path / "small.ftz"))
    scores = scored(of(find(str(tmp_path / "small.ftz"))), TEXTS[:2])
    assert scores[0] > 0.8 > 0.2 > scores[1]


def test_identity_is_what_the_model_holds_and_not_where_it_is(model):
    def identity(sha256=model.sha256, **more):
        (measure,) = Quality(model="a.bin", **more).with_file("anywhere", sha256).measures()
        return json.dumps(measure.identity())

    assert identity() == identity(label="__label__hq", min_score=0.3)
    assert model.sha256 in identity()
    assert len({identity(), identity(label="cc"), identity(newlines="remove"), identity("0" * 64)}) == 4
    (measure,) = Quality(model="a.bin").measures()
    assert list(measure.columns) == ["fasttext.a"]
    with pytest.raises(ModelError, match=r"no model file was given to the filter 'fasttext\.a'"):
        measure.identity()


def test_settings_and_measures_travel(model):
    for filter_ in (of(model, as_="q"), of(model, QualityParagraphs, min_score=0.5)):
        there = pickle.loads(pickle.dumps(filter_))
        assert there == filter_
        assert there.file == model
    (measure,) = of(model).measures()
    assert pickle.loads(pickle.dumps(measure)) == measure


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        (Quality, {"keep_fraction": 0.1, "min_score": 0.5}, "goes without"),
        (Quality, {"keep_fraction": 0}, "greater than 0"),
        (Quality, {"min_score": 0.6, "max_score": 0.5}, "nothing would pass"),
        (Quality, {"as": "a b"}, "letters, digits"),
        (Quality, {"newlines": "keep"}, "'space' or 'remove'"),
        (QualityParagraphs, {}, "min_score"),
        (Scores, {"weights": {}, "min_score": 1}, "at least 1 item"),
        (Scores, {"weights": {"a": 1}}, "needs min_score, max_score or keep_fraction"),
    ],
)
def test_settings_that_make_no_sense_are_refused(kind, given, said):
    with pytest.raises(ValidationError, match=said):
        kind.model_validate(({} if kind is Scores else {"model": "m.bin"}) | given)


def test_the_filters_are_of_the_kinds_they_say(model):
    assert not isinstance(of(model), Rewriting)
    assert isinstance(of(model), Ruling)
    assert isinstance(of(model, QualityParagraphs, min_score=0), Rewriting)


# Sums of scores.


@given(
    st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9), st.floats(0, 1, width=32)), min_size=1, max_size=6)
)
def test_a_sum_weighs_each_signal(rows):
    a, b, c = (np.array(column) for column in zip(*rows, strict=True))
    score = WeightedSum((("a", 2.0), ("c", -0.5), ("b", 0.25)))
    assert score.signals == ("a", "c", "b")
    np.testing.assert_allclose(score({"a": a, "b": b, "c": c.astype(np.float32)}), 2 * a - 0.5 * c + 0.25 * b)


def test_a_sum_without_a_value_fails_nothing():
    filter_ = Scores(weights={"a": 1, "b": 1}, min_score=1.5)
    signals = {"a": np.array([1, 1, np.nan]), "b": np.array([1, 0, 0])}
    verdicts = decide(filter_.rules(), signals, 3)
    assert verdicts.first.tolist() == [-1, 0, -1]
    assert filter_.rules()[0].name == "scores.min_score"


# Paragraphs.


def slow_paragraphs(text):
    """The definition read aloud: a line that is not blank opens a paragraph, but for the first, and if it is not
    already open by blank lines alone."""
    lines = text.splitlines(keepends=True)
    starts = [i for i, line in enumerate(lines) if line.strip()]
    edges = [0, *starts[1:], len(lines)] if lines else []
    return ["".join(lines[a:b]) for a, b in pairwise(edges)]


@given(texts_of_trouble)
def test_paragraphs_are_cut_as_defined_and_nothing_is_lost(text):
    found = paragraphs(text)
    assert found == slow_paragraphs(text)
    assert "".join(found) == text


def rewritten(filter_, texts):
    found = filter_.rewrite(documents(texts))
    assert list(found.signals) == list(filter_.columns)
    return found


def test_bad_paragraphs_are_taken_out(model):
    good, bad = " ".join(GOOD), " ".join(BAD)
    texts = [f"{good}\r\n\r\n{bad}\n{good}", f"\n{bad}\n\n{bad}\n", good, ""]
    filter_ = of(model, QualityParagraphs, min_score=0.5)
    found = rewritten(filter_, texts)
    assert found.texts.to_pylist() == [f"{good}\r\n\r\n{good}", "", good, ""]
    assert found.removed_chars.tolist() == [len(bad) + 1, 2 * len(bad) + 4, 0, 0]
    kept, removed, score = (found.signals[name] for name in filter_.columns)
    assert kept.tolist() == [2, 0, 1, 0]
    assert removed.tolist() == [1, 2, 0, 0]
    high, low = (float(scored(of(model), [text])[0]) for text in (good, bad))
    sizes = [len(good) + 4, len(bad) + 1, len(good)]
    assert score[0] == pytest.approx(np.average([high, low, high], weights=sizes), rel=1e-6)
    assert score[2] == pytest.approx(high, rel=1e-6)
    assert np.isnan(score[3])
    verdicts = decide(filter_.rules(), found.signals, 4)
    assert verdicts.first.tolist() == [-1, 0, -1, 0]


def test_where_nothing_is_taken_out_the_same_array_comes_back(model):
    batch = documents([" ".join(GOOD), "\r\n"])
    found = of(model, QualityParagraphs, min_score=0).rewrite(batch)
    assert found.texts.equals(batch.column("text"))
    assert found.texts.buffers()[2].address == batch.column("text").buffers()[2].address
    assert not found.removed_chars.any()


def test_the_paragraph_at_the_bound_stays(model):
    score = float(scored(of(model), ["the prize is"])[0])
    for bound, left in ((score, ["the prize is"]), (np.nextafter(score, 1), [""])):
        assert (
            rewritten(of(model, QualityParagraphs, min_score=bound), ["the prize is"]).texts.to_pylist()
            == left
        )


def test_what_texts_depend_on_leaves_out_the_rule(model):
    def identity(**more):
        return json.dumps(of(model, QualityParagraphs, **({"min_score": 0.5} | more)).identity())

    assert identity() == identity(min_paragraphs=None) == identity(label="__label__hq")
    assert len({identity(), identity(min_score=0.4), identity(label="cc"), identity(newlines="remove")}) == 4
    assert of(model, QualityParagraphs, min_score=0.5, min_paragraphs=None).rules() == ()


def test_many_paragraphs(model):
    found = rewritten(of(model, QualityParagraphs, min_score=0.5), ["the\nbuy\n" * 20_000, "\n" * 10**6])
    assert found.signals["fasttext-paragraphs.removed"][0] == 20_000
    assert load(model).predict(b"") == load(model).predict(b"")
