"""Do MPT's rules on mC4 and S2ORC drop what MosaicML's sentences say they should?"""

import math
import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from winnow.filters.mc4 import MPTS2ORC, ForLengths, MPTmC4
from winnow.filters.rules import Ratio, Signal, decide
from winnow.filters.signals import scan


def reasons(filter_settings, texts):
    """Name of the setting whose rule fails first for each text, None where kept."""
    rules = filter_settings.rules()
    names = {signal for rule in rules for signal in rule.score.signals}
    verdicts = decide(rules, scan(pa.array(texts, pa.large_string()), names), len(texts))
    return [rules[i].name.partition(".")[2] if i >= 0 else None for i in verdicts.first]


def words(n, top=0):
    """A text of n words of letters, of which `top` are the same and no others are."""
    return " ".join(["eve"] * top + [f"e{letters(k)}" for k in range(n - top)])


def letters(number):
    return "".join(chr(ord("a") + digit) for digit in np.unravel_index(number, (26,) * 4))


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        pytest.param(words(200), None, id="200-words"),
        pytest.param(words(199), "min_words", id="199-words"),
        pytest.param(words(50_000), None, id="50000-words"),
        pytest.param(words(50_001), "max_words", id="50001-words"),
        pytest.param(words(500, top=150), None, id="three-tenths-of-500-words"),
        pytest.param(words(500, top=151), "max_top_word_frac_short", id="more-than-three-tenths"),
        pytest.param(words(501, top=38), "max_top_word_frac_long", id="of-501-words-38-are-too-many"),
        pytest.param(words(501, top=37), None, id="and-37-are-not"),
        pytest.param(words(300) + " 1111" * 400, "alpha_top_char", id="a-digit-is-the-most-common-character"),
        pytest.param(words(300) + " " * 9000, None, id="a-blank-is-no-character"),
        pytest.param(words(240) + " -.,-" * 30, "min_alnum_char_frac", id="punctuation"),
        pytest.param("  \n", "alpha_top_char", id="no-character"),
    ],
)
def test_mc4_by_hand(text, setting):
    assert reasons(MPTmC4(), [text]) == [setting]


def test_mc4_takes_whitespace_out_of_the_alphanumeric_share():
    text = " ".join(["abcdefghijkl,"] * 12 + [letters(n) for n in range(300)])
    characters = len("".join(text.split()))
    share = sum(map(str.isalnum, text)) / characters
    assert 0.92 < share < 1
    exactly = MPTmC4(min_alnum_char_frac=share)
    assert reasons(exactly, [text, text + ","]) == [None, "min_alnum_char_frac"]


def paper(paragraphs, n=600, top=0):
    """A text of n words of letters in so many paragraphs."""
    found = words(n, top).split()
    size = math.ceil(n / paragraphs)
    return "\n\n".join(" ".join(found[k : k + size]) for k in range(0, n, size))


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        pytest.param(paper(5), None, id="five-paragraphs"),
        pytest.param(paper(4), "min_paragraphs", id="four-paragraphs"),
        pytest.param(paper(6).replace("\n\n", "\n"), "min_paragraphs", id="lines-are-no-paragraphs"),
        pytest.param(paper(6).replace("\n\n", "\r\n \r\n"), None, id="whitespace-between-paragraphs"),
        pytest.param(paper(5, n=500), None, id="500-words"),
        pytest.param(paper(5, n=499), "min_words", id="499-words"),
        pytest.param(paper(5, top=45), None, id="75-in-a-thousand"),
        pytest.param(paper(5, top=46), "max_top_word_frac", id="and-one-more"),
        pytest.param(paper(5, top=20).replace("eve", "e.g."), "alpha_top_word", id="the-top-word-has-dots"),
        pytest.param(paper(5, top=20).replace("eve", "中文"), None, id="letters-of-any-script"),
    ],
)
def test_s2orc_by_hand(text, setting):
    assert reasons(MPTS2ORC(), [text]) == [setting]


@pytest.mark.parametrize("model", [MPTmC4, MPTS2ORC])
def test_settings_are_rules_in_order(model):
    rules = model().rules()
    bounds = {name: value for name, value in model().model_dump().items() if name != "long_above_words"}
    assert [rule.name for rule in rules] == [f"{model.name}.{name}" for name in bounds]
    for rule, (name, bound) in zip(rules, bounds.items(), strict=True):
        assert (rule.minimum, rule.maximum) == ((None, bound) if name.startswith("max_") else (bound, None))
    assert model(**dict.fromkeys(bounds)).rules() == ()
    assert pickle.loads(pickle.dumps(rules)) == rules


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=6),
    st.integers(-1, 9),
    st.none() | st.integers(0, 9),
)
def test_a_score_for_lengths(documents, above, most):
    score = ForLengths(Ratio("count", "words"), above, most)
    assert score.signals == ("count", "words", "words")
    signals = {
        "count": np.array([count for count, _ in documents], np.uint64),
        "words": np.array([n for _, n in documents], np.uint64),
    }
    expected = [
        count / n if n > max(above, 0) and (most is None or n <= most) else np.nan for count, n in documents
    ]
    np.testing.assert_array_equal(score(signals), np.array(expected, float))


def test_a_score_for_lengths_takes_any_score():
    signals = {"x": np.array([5, 6], np.uint64), "words": np.array([1, 2], np.uint64)}
    np.testing.assert_array_equal(ForLengths(Signal("x"), 1)(signals), [np.nan, 6])


def test_where_long_begins_can_be_set():
    text = words(300, top=60)
    assert reasons(MPTmC4(), [text]) == [None]
    assert reasons(MPTmC4(long_above_words=299), [text]) == ["max_top_word_frac_long"]
    assert reasons(MPTmC4(long_above_words=299, max_top_word_frac_long=None), [text]) == [None]


@pytest.mark.parametrize(
    ("model", "wrong", "message"),
    [
        (MPTmC4, {"min_alnum_char_frac": 92}, "less than or equal to 1"),
        (MPTmC4, {"alpha_top_char": False}, "Input should be True"),
        (
            MPTmC4,
            {"min_words": 9, "max_words": 8},
            r"min_words \(9\) is above max_words \(8\): nothing would pass",
        ),
        (MPTS2ORC, {"max_words": 9}, "Extra inputs are not permitted"),
    ],
)
def test_refuses(model, wrong, message):
    with pytest.raises(ValidationError, match=message):
        model(**wrong)
