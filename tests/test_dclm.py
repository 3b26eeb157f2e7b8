"""Do the four filters keep the pages that DCLM's own steps keep, and drop the others for the same reason?"""

import io
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from winnow.filters.dclm import DclmLines, DclmPage, DclmRepetition, DclmUrls, Lacking
from winnow.filters.rules import decide
from winnow.filters.scans import scan
from winnow.filters.uax29 import split

CORPORA = Path(__file__).resolve().parents[1].parent / "shared" / "corpora"

SENTENCES = [
    "The cat sat on the mat with a hat. ",
    "It is of no use to be here. ",
    "Numbers 1 2 3 4 5 # # ... ",
    "- item\n",
]
SENTENCES += [
    "word ",
    "other ",
    "of ",
    "the ",
    "12 ",
    "…\n",
    "\n",
    "\n\n",
    "more text that goes on and on\n",
    "* * *\n",
    "中文",
]
page_like = st.lists(st.tuples(st.sampled_from(SENTENCES), st.integers(1, 12)), max_size=14).map(
    lambda parts: "".join(sentence * times for sentence, times in parts)
)


def batch(texts):
    return pa.record_batch({"text": pa.array(texts, pa.large_string())})


def reasons(texts, *filters):
    """Name of the first failing rule of each text, None where it is kept."""
    rules = [rule for settings in filters for rule in settings.rules()]
    signals = scan(pa.array(texts, pa.large_string()), {s for rule in rules for s in rule.score.signals})
    return [rules[i].name if i >= 0 else None for i in decide(rules, signals, len(texts)).first]


def slow_page(text):
    """Steps 9 to 15 of the recipe: the name of the rule that drops the page."""
    counted = [word for word in re.split("[ \n\r\t\v\f\0]", text) if word and word[0].isalnum()]
    if len(counted) < 50:
        return "min_words"
    if len(counted) > 100_000:
        return "max_words"
    words = text.split()
    mean = sum(len(word) for word in words) / len(words)
    if mean < 3 or mean > 10:
        return "min_mean_word_chars" if mean < 3 else "max_mean_word_chars"
    if sum(text.count(symbol) for symbol in ("#", "...", ". . .", "\u2026")) / len(words) > 0.1:
        return "max_symbols_per_word"
    lines = [stripped for line in text.split("\n") if (stripped := line.strip())]
    if sum(line.startswith(("●", "•", "*", "-")) for line in lines) > 0.9 * len(lines):
        return "max_bullet_line_frac"
    if sum(line.endswith(("...", ". . .", "\u2026")) for line in lines) > 0.3 * len(lines):
        return "max_ellipsis_line_frac"
    if sum(not any(c.isalpha() for c in word) for word in words) / len(words) > 0.2:
        return "max_non_alpha_word_frac"
    if sum(word.lower() in {"the", "be", "to", "of", "and", "that", "have", "with"} for word in words) < 2:
        return "min_stop_words"
    return None


def slow_repetition(text, split=split):
    """Step 16: the name of the first of the thirteen tests that drops the page."""
    segments = {}
    for kind, gap in (("line", "\n"), ("paragraph", "\n\n")):
        segments[kind] = [s for part in re.split(gap, text) if (s := part.strip())]
    for of_chars, bound in ((False, 0.3), (True, 0.2)):
        for kind, found in segments.items():
            if len(found) < 2:
                continue
            weigh = len if of_chars else lambda _: 1
            repeated = sum(weigh(s) * n for s, n in Counter(found).items() if n > 1)
            if repeated / sum(map(weigh, found)) > bound:
                return f"max_repeated_{kind}_{'char_' if of_chars else ''}frac"
    words = [word for word in split(text) if word[0].isalnum()]
    total = sum(map(len, words))
    for n, bound in zip(range(2, 11), (0.2, 0.18, 0.16, 0.15, 0.14, 0.13, 0.12, 0.11, 0.10), strict=True):
        ngrams = list(zip(*(words[k:] for k in range(n)), strict=False))
        counts = Counter(ngrams)
        most = max(counts.values(), default=1)
        if most == 1:
            continue
        if n <= 4:
            chars = most * max(len("".join(ngram)) for ngram, count in counts.items() if count == most)
        else:
            inside = {i + k for i, ngram in enumerate(ngrams) if counts[ngram] > 1 for k in range(n)}
            chars = sum(len(words[i]) for i in inside)
        if chars / total > bound:
            return f"max_{'top' if n <= 4 else 'repeated'}_{n}gram_char_frac"
    return None


def slow_reason(text, split=split):
    if rule := slow_page(text):
        return f"dclm-page.{rule}"
    rule = slow_repetition(text, split)
    return f"dclm-repetition.{rule}" if rule else None


@settings(deadline=None, max_examples=500)
@given(st.lists(page_like, min_size=1, max_size=5))
@example([f"{'the and more ' * 20}\n" + "\n".join(f"* line {i} of it" for i in range(9)) + "\n* … " * 4])
@example(["a\n\nb\n\na " + " ".join(f"word{i} of the kind{i}" for i in range(60))])
def test_first_reasons_are_those_of_dclm(texts):
    assert reasons(texts, DclmPage(), DclmRepetition()) == [slow_reason(text) for text in texts]


def prose(n):
    return " ".join(f"word{i}" if i % 5 else "the" for i in range(n))


PARAGRAPHS = "\n\n".join(
    ["the same", "and so"] * 2
    + [f"of thing{i} here\nthat are x{i}thing\nwith line three y{i}thing" for i in range(6)]
)
"""Four of ten paragraphs come twice, and so do only four of 22 lines."""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(
            PARAGRAPHS,
            "dclm-repetition.max_repeated_paragraph_frac",
            id="paragraphs-are-counted-in-paragraphs",
        ),
        pytest.param(prose(50), None, id="fifty-words-are-enough"),
        pytest.param(prose(49) + " (a)", "dclm-page.min_words", id="punctuation-first-is-no-word"),
        pytest.param(prose(100_001), "dclm-page.max_words", id="too-many-words"),
        pytest.param("a of the " * 20, "dclm-page.min_mean_word_chars", id="short-words"),
        pytest.param(prose(50) + " the" + " #" * 6, "dclm-page.max_symbols_per_word", id="symbols"),
        pytest.param(prose(60).replace("the", "these"), "dclm-page.min_stop_words", id="no-stop-words"),
        pytest.param(prose(60).replace("the", "these") + " The THE", None, id="one-stop-word-twice"),
        pytest.param(
            "\n".join(f"- {prose(60)[i * 20 : i * 20 + 20]}" for i in range(17)),
            "dclm-page.max_bullet_line_frac",
            id="bullets",
        ),
    ],
)
def test_by_hand(text, reason):
    assert reasons([text], DclmPage(), DclmRepetition())[0] == reason


def test_what_is_empty_fails_only_the_number_of_words():
    rules = (*DclmPage().rules(), *DclmRepetition().rules())
    texts = ["", " \n\n ", "..."]
    signals = scan(pa.array(texts, pa.large_string()), {s for rule in rules for s in rule.score.signals})
    failing = decide(rules, signals, 3).failing.tolist()
    only_words_and_stop_words = 1 << 0 | 1 << 8
    assert failing[:2] == [only_words_and_stop_words] * 2


def test_each_setting_is_a_rule_and_none_switches_it_off():
    assert [rule.name for rule in DclmPage().rules()] == [
        f"dclm-page.{name}" for name in DclmPage.model_fields
    ]
    names = [f"dclm-repetition.{name}" for name in DclmRepetition.model_fields]
    assert [rule.name for rule in DclmRepetition().rules()] == names
    assert len(DclmRepetition(max_top_2gram_char_frac=None).rules()) == len(names) - 1
    assert [rule.name for rule in DclmLines().rules()] == ["dclm-lines.max_removed_word_frac"]
    assert DclmLines(max_removed_word_frac=None).rules() == DclmUrls().rules() == ()
    with pytest.raises(
        ValidationError, match=r"min_words \(60\) is above max_words \(50\): nothing would pass"
    ):
        DclmPage(min_words=60, max_words=50)


def test_a_page_may_lose_one_word_in_twenty():
    lines = [f"line {i} has four" for i in range(19)]
    texts = [
        "\n".join([*lines, "one two three 4\nTHREE LOUD WORDS 4"]),
        "\n".join([*lines, "AND THESE ARE FIVE\nALSO"]),
        "(a)",
    ]
    done = DclmLines().rewrite(batch(texts))
    before, after = (done.signals[f"dclm-lines.words_{when}"] for when in ("before", "after"))
    assert before.tolist() == [84, 81, 0]
    assert after.tolist() == [80, 76, 0]
    assert before.dtype == after.dtype == np.uint32
    assert decide(DclmLines().rules(), done.signals, 3).first.tolist() == [-1, 0, -1]
    assert done.removed_chars.tolist() == [
        len(t) - len(n) for t, n in zip(texts, done.texts.to_pylist(), strict=True)
    ]


def test_rewriting_counts_characters_and_leaves_alone_what_needs_nothing():
    texts = ["é see http://a.com/x", "plain\n\n\n\nlines", "nothing"]
    done = DclmUrls().rewrite(batch(texts))
    assert done.texts.to_pylist() == ["é see", "plain\n\nlines", "nothing"]
    assert done.removed_chars.tolist() == [15, 2, 0]
    documents = batch(["nothing to do", "for either"])
    for filter_ in (DclmUrls(), DclmLines()):
        done = filter_.rewrite(documents)
        assert done.texts.to_pylist() == documents.column("text").to_pylist()
        assert not done.removed_chars.any()
        assert set(done.signals) == set(filter_.columns)


def test_a_share_that_is_lacking_may_be_negative_or_no_number():
    score = Lacking("a", "b")
    assert score.signals == ("a", "b")
    found = score({"a": np.array([0, 4, 4], np.uint32), "b": np.array([0, 1, 5], np.uint32)})
    np.testing.assert_array_equal(found, [np.nan, 0.75, -0.25])


@pytest.mark.parametrize("name", ["web_prose", "low_quality", "web_docs_multi", "docs_en", "textbooks"])
def test_agrees_on_real_text_with_the_words_of_uniseg(name):
    zstandard = pytest.importorskip("zstandard")
    words = pytest.importorskip("uniseg.wordbreak").words
    shards = sorted((CORPORA / name).glob("*.jsonl.zst"))
    if not shards:
        pytest.skip("needs the shared corpora beside the checkout")
    with open(shards[0], "rb") as file:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
        texts = [json.loads(line)["text"] for line, _ in zip(lines, range(300), strict=False)]
    # Every third text is long enough to be a page and short enough for uniseg; more would take minutes.
    texts = [text for text in texts if 300 < len(text) < 6000][::3][:50]
    expected = [slow_reason(text, words) for text in texts]
    assert reasons(texts, DclmPage(), DclmRepetition()) == expected
    assert None in expected, "no page was kept"
