"""Are the words of a list found where the rule says, and as datatrove finds them?"""

import pickle
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.filters.bad_words import C4BadWords
from winnow.filters.catalogue import Ruling
from winnow.filters.rules import decide

LISTED = ["bad", "bad word", "bad-ish", "b*d", "très", "🖕", "x-", "sm", "悪い", "-ly", "k", "word!"]
PARTS = [
    *LISTED,
    "BAD",
    "Très",
    "good",
    "_",
    "1",
    "é",
    " ",
    " ",
    "\n",
    ".",
    "-",
    "\u212a",
    "İ",
    "悪",
    "word",
    "中",
]
texts_of_parts = st.lists(st.sampled_from(PARTS), max_size=12).map("".join)


def batch(texts):
    return pa.record_batch({"text": pa.array(texts, pa.large_string())})


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    listed = tmp_path_factory.mktemp("lists") / "en"
    listed.write_text("\n".join([*LISTED, "", "  spaced  ", "bad"]) + "\n", encoding="utf-8")
    return str(listed)


def found_in(texts, **chosen):
    (measure,) = C4BadWords(**chosen).settled().measures()
    return measure.measure(batch(texts))


def slow_find(text, words, apart):
    """The rule read aloud: a word at a place, and what stands before and behind it."""
    text = text.lower()
    for at in range(len(text)):
        for word in words:
            end = at + len(word)
            before, behind = text[at - 1 : at] if at else "", text[end : end + 1]
            alone = not re.match(r"\w", before) and not re.match(r"\w", behind)
            if text.startswith(word, at) and (alone or not apart):
                return True
    return False


@settings(deadline=None, max_examples=600)
@given(st.lists(texts_of_parts, min_size=1, max_size=5), st.sampled_from(["en", "ja"]))
def test_agrees_with_the_rule_read_aloud(path, texts, language):
    found = found_in(["bad", *texts], words=path, language=language)
    words = [*(set(LISTED) - {"sm"}), "spaced"]
    expected = [slow_find(text, words, language == "en") for text in texts]
    np.testing.assert_array_equal(found["c4-bad-words.found"][1:], expected)
    assert [word != "" for word in found["c4-bad-words.word"].to_pylist()[1:]] == expected


@pytest.mark.parametrize(
    ("text", "word"),
    [
        pytest.param("A BAD day", "bad", id="in-any-case"),
        pytest.param("badly, not_bad, bad1", "", id="not-within-words"),
        pytest.param("a bad word.", "bad word", id="the-longest-at-a-place"),
        pytest.param("(bad)", "bad", id="between-signs"),
        pytest.param("x🖕x", "", id="a-sign-within-a-word"),
        pytest.param("go 🖕!", "🖕", id="a-sign"),
        pytest.param("b.d bxd b*d", "b*d", id="no-pattern"),
        pytest.param("sm", "", id="passed-over-as-datatrove-does"),
        pytest.param("that is spaced out", "spaced", id="stripped-from-the-list"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_by_hand(path, text, word):
    assert found_in([text], words=path)["c4-bad-words.word"].to_pylist() == [word]


def test_without_spaces_a_word_counts_anywhere(path):
    assert found_in(["これは悪いです"], words=path)["c4-bad-words.found"].tolist() == [0]
    assert found_in(["これは悪いです"], words=path, language="ja")["c4-bad-words.found"].tolist() == [1]


def test_a_share_of_the_documents_stays_by_a_hash_of_their_text(path):
    texts = [f"bad {i}" for i in range(1000)] + ["good"]
    found = found_in(texts, words=path, keep_fraction=0.3)
    kept = found["c4-bad-words.found"] == 0
    assert 250 < kept[:-1].sum() < 350
    assert kept[-1]
    assert found["c4-bad-words.word"].to_pylist() == ["bad"] * 1000 + [""]
    backwards = found_in(texts[::-1], words=path, keep_fraction=0.3)
    np.testing.assert_array_equal(backwards["c4-bad-words.found"][::-1], found["c4-bad-words.found"])
    assert not found_in(texts, words=path, keep_fraction=1.0)["c4-bad-words.found"].any()


def test_the_rule_drops_and_names_the_word(path):
    rules = C4BadWords(words=path).rules()
    verdicts = decide(rules, found_in(["bad", "good"], words=path), 2)
    assert verdicts.first.tolist() == [0, -1]
    assert rules[0].name == "c4-bad-words.words"
    assert rules[0].detail == "c4-bad-words.word"
    assert isinstance(C4BadWords(words=path), Ruling)


def test_the_measure_travels_without_the_file_and_is_known_by_its_words(path, tmp_path):
    (measure,) = C4BadWords(words=path).settled().measures()
    measure.find("bad")
    travelled = pickle.loads(pickle.dumps(measure))
    assert travelled == measure
    assert travelled.find("a bad one") == "bad"
    same = tmp_path / "same"
    same.write_text("\n".join(["spaced", *LISTED[::-1]]), encoding="utf-8")
    assert C4BadWords(words=str(same)).settled().measures()[0].identity() == measure.identity()
    same.write_text("other", encoding="utf-8")
    assert C4BadWords(words=str(same)).settled().measures()[0].identity() != measure.identity()
    same.write_text("\n\n", encoding="utf-8")
    assert C4BadWords(words=str(same)).settled().measures()[0].find("anything") is None


def test_a_list_that_is_not_there_is_an_error_that_says_where_it_is(tmp_path):
    settings = C4BadWords(words=str(tmp_path / "none"))
    message = r"no list of bad words can be read at '.*none' \(.*\); lists are at github\.com/"
    with pytest.raises(ValueError, match=message):
        settings.settled()


def test_nulls_are_refused(path):
    with pytest.raises(ValueError, match=r"^texts must have no nulls; 1 of 2 are null$"):
        found_in(["a", None], words=path)


def test_a_long_text_takes_no_longer_than_others(path):
    texts = ["bad" * 300_000, "b" * 1_000_000, "-" * 1_000_000, "ba " * 300_000]
    assert not found_in(texts, words=path)["c4-bad-words.found"].any()


def test_decides_as_datatrove(path, monkeypatch):
    filters = pytest.importorskip("datatrove.pipeline.filters.c4_filters")
    data = pytest.importorskip("datatrove.data")
    listed = path + ".without-blank-lines"
    with open(listed, "w", encoding="utf-8") as file:
        file.write("\n".join(LISTED))
    monkeypatch.setattr(filters, "cached_asset_path_or_download", lambda *args, **kwargs: listed)
    peers = {language: filters.C4BadWordsFilter(default_language=language) for language in ("en", "ja")}

    @settings(deadline=None, max_examples=300)
    @given(texts_of_parts, st.sampled_from(["en", "ja"]))
    def check(text, language):
        found = found_in([text], words=listed, language=language)["c4-bad-words.found"][0]
        assert (peers[language].filter(data.Document(text=text, id="")) is True) == (not found)

    check()


def test_settled_words_need_no_file_any_more(tmp_path):
    place = tmp_path / "list"
    place.write_text("worse\nbad\n")
    settled = C4BadWords(words=str(place)).settled()
    before = settled.measures()[0].identity()
    place.unlink()
    (measure,) = pickle.loads(pickle.dumps(settled)).measures()
    assert measure.identity() == before
    assert measure.find("a bad word") == "bad"
