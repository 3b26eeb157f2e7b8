"""Does DCLM's counting of words, symbols, lines and repetition come out as its own Python would?"""

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
from winnow.filters import dclm_repetition
from winnow.filters.dclm_signals import GROUPS, SIGNALS, count_words, scan
from winnow.filters.uax29 import split

CORPORA = Path(__file__).resolve().parents[1].parent / "shared" / "corpora"
CORPUS_NAMES = ["web_prose", "low_quality", "web_docs_multi", "docs_en", "books_multi"]

SPACES = [" ", "\n", "\n\n", "\r", "\t", "\v", "\f", "\0", "\x1c", "\x1f", "\x85", "\xa0", "\u2028", "\u3000"]
MARKS = [
    "#",
    ".",
    "..",
    "...",
    ". . .",
    ". . . .",
    ".. . .",
    " . ",
    "…",
    "●",
    "•",
    "*",
    "-",
    "–",
    "◦",
    "(",
    "'",
]
WORDS = [
    "the",
    "The",
    "THAT",
    "be",
    "bé",
    "\0be",
    "with",
    "a",
    "b",
    "c",
    "d",
    "中",
    "文",
    "é",
    "x1",
    "²",
    "_a",
    "12",
]
awkward = st.one_of(
    st.lists(st.sampled_from(SPACES + MARKS * 2 + WORDS * 2 + [" "] * 30 + ["\n"] * 8), max_size=50).map(
        "".join
    ),
    st.text(alphabet="\n .#-*a…", max_size=25),
    st.text(max_size=20),
)
# Few different words and lines, so that much of it comes twice.
echoes = st.one_of(
    st.lists(
        st.sampled_from(["a ", "b ", "cc ", "dé ", "a b cc ", "a b cc dé e f g h i j k ", ". "]), max_size=60
    ).map("".join),
    st.lists(st.sampled_from(["a", " a\t", "bb", "", "\u3000", "é ", "a\n", "bb\n\n"]), max_size=20).map(
        "\n".join
    ),
)


def column(texts):
    return pa.array(texts, pa.large_string())


def slow_page(text):
    split_at_7 = re.split("[ \n\r\t\v\f\0]", text)
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return {
        "dclm_words": sum(word[:1].isalnum() for word in split_at_7),
        "dclm_symbols": sum(text.count(symbol) for symbol in ("#", "...", ". . .", "\u2026")),
        "dclm_stop_words": sum(
            word.lower() in {"the", "be", "to", "of", "and", "that", "have", "with"} for word in text.split()
        ),
        "dclm_lines": len(lines),
        "dclm_bullet_lines": sum(line.startswith(("●", "•", "*", "-")) for line in lines),
        "dclm_ellipsis_lines": sum(line.endswith(("...", ". . .", "\u2026")) for line in lines),
    }


def slow_segments(text):
    found = {}
    for name, gap in (("line", "\n"), ("paragraph", "\n\n")):
        segments = [s for part in text.split(gap) if (s := part.strip())]
        repeated = [s for s in segments if segments.count(s) > 1]
        found[f"dclm_{name}s"] = len(segments)
        found[f"dclm_{name}_chars"] = sum(map(len, segments))
        found[f"dclm_repeated_{name}s"] = len(repeated)
        found[f"dclm_repeated_{name}_chars"] = sum(map(len, repeated))
    return found


def slow_ngrams(text):
    words = [word for word in split(text) if word[0].isalnum()]
    found = {"dclm_word_chars": sum(map(len, words))}
    for n in range(2, 11):
        ngrams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        counts = Counter(ngrams)
        most = max(counts.values(), default=0)
        if n <= 4:
            longest = max((len("".join(g)) for g, count in counts.items() if count == most), default=0)
            found[f"dclm_top_{n}gram_chars"] = most * longest if most > 1 else 0
        else:
            inside = {i + k for i, g in enumerate(ngrams) if counts[g] > 1 for k in range(n)}
            found[f"dclm_repeated_{n}gram_chars"] = sum(len(words[i]) for i in inside)
    return found


def slow_signals(text):
    return slow_page(text) | slow_segments(text) | slow_ngrams(text)


def assert_signals(found, texts):
    assert list(found) == list(SIGNALS)
    expected = [slow_signals(text) for text in texts]
    for name, counts in found.items():
        assert counts.dtype == np.uint64
        np.testing.assert_array_equal(counts, [row[name] for row in expected], err_msg=name)


@settings(deadline=None, max_examples=600)
@given(st.lists(st.one_of(awkward, echoes), min_size=1, max_size=6), st.data())
def test_agrees_with_the_definitions_read_aloud(texts, more):
    start = more.draw(st.integers(0, len(texts)))
    stop = more.draw(st.integers(start, len(texts)))
    part = column(texts).slice(start, stop - start)
    found = scan(part)
    assert_signals(found, texts[start:stop])
    np.testing.assert_array_equal(count_words(part), found["dclm_words"])


@settings(deadline=None, max_examples=500)
@given(echoes)
@example("a b cc dé e f g h i j k " * 3 + "a b cc dé e f g h i j")
@example("a a a a a a a a a a a a")
def test_agrees_on_text_that_repeats_itself(text):
    assert_signals(scan(column([text, "", text])), [text, "", text])


@settings(deadline=None, max_examples=300)
@given(awkward)
@example("a\x1cb c\xa0d e\x0bf g\0h \u2028i\r\nj")
def test_words_are_those_of_fasttext(text):
    tokenize = pytest.importorskip("fasttext").FastText.tokenize
    assert scan(column([text]))["dclm_words"][0] == sum(word[0].isalnum() for word in tokenize(text))


@pytest.mark.parametrize(
    ("text", "name", "count"),
    [
        pytest.param("a (b) c, 'd é ² _ 3", "dclm_words", 5, id="only-the-first-character-decides"),
        pytest.param("a\xa0b c\x1cd", "dclm_words", 2, id="no-break-space-ends-no-word"),
        pytest.param("\x1ca \xa0b c", "dclm_words", 1, id="and-opens-one-that-does-not-count"),
        pytest.param("....... . . . . . . #…", "dclm_symbols", 6, id="each-symbol-by-itself"),
        pytest.param(". . . . .", "dclm_symbols", 1, id="spaced-dots-do-not-overlap"),
        pytest.param(". .\n. . .  . .", "dclm_symbols", 1, id="one-space-between-dots-no-newline"),
        pytest.param("The the THE t-he the, the\0", "dclm_stop_words", 3, id="stop-words-in-any-case"),
        pytest.param("* a\n\u3000● b\n•\n- \n– c\n", "dclm_bullet_lines", 4, id="bullets"),
        pytest.param("a. . .\nb ...\t\n…\n.. .\n", "dclm_ellipsis_lines", 3, id="ellipses"),
        pytest.param("a\n\na\n \n b\t\na", "dclm_repeated_lines", 3, id="every-occurrence-and-no-blank-line"),
        pytest.param("aé\naé \nb", "dclm_repeated_line_chars", 4, id="characters-without-whitespace-at-ends"),
        pytest.param("a\n\n\nb\n\n\n\na", "dclm_paragraphs", 3, id="paragraphs"),
        pytest.param(
            "a\nb\n\na\nb\n\na\n b", "dclm_repeated_paragraphs", 2, id="inside-a-paragraph-spaces-count"
        ),
        pytest.param("x. Don't 3.14_", "dclm_word_chars", 11, id="punctuation-inside-a-word-counts"),
        pytest.param("a bb a bb a cc a cc", "dclm_top_2gram_chars", 6, id="most-frequent-2-gram"),
        pytest.param("a a a a", "dclm_top_2gram_chars", 6, id="overlaps-count"),
        pytest.param("a b x cc dd y a b z cc dd", "dclm_top_2gram_chars", 8, id="ties-take-the-longest"),
        pytest.param("a b c d e f", "dclm_top_2gram_chars", 0, id="nothing-comes-twice"),
        pytest.param("a b c d e a b c d e", "dclm_repeated_5gram_chars", 10, id="both-occurrences"),
        pytest.param("a b c d e f a b c d e f", "dclm_repeated_5gram_chars", 12, id="a-word-counts-once"),
    ],
)
def test_by_hand(text, name, count):
    assert scan(column([text]))[name][0] == count


def test_only_what_is_asked_for_is_counted():
    for group, names in GROUPS.items():
        assert tuple(scan(column(["a b"]), [names[-1]])) == names, group
    with pytest.raises(KeyError, match=r"^'no scan counts dclm_wurst'$"):
        scan(column(["a"]), ["dclm_wurst", "dclm_words"])


def test_no_character_becomes_a_letter_of_a_stop_word_in_lower_case():
    letters = set("thebofandvwi")
    beyond = [c for c in map(chr, range(128, 0x110000)) if set(c.lower()) & letters]
    assert beyond == ["İ"], "and that becomes two characters"
    assert scan(column(["wİth"]))["dclm_stop_words"][0] == 0


def test_working_memory_grows_for_documents_of_short_words():
    dense = ["a²" * 40, "b\nc\n" * 400, "中" * 3000, "plain words here"]
    assert_signals(scan(column(dense)), dense)


def test_words_of_one_hash_are_told_apart_by_their_bytes():
    texts = np.frombuffer(b"ab ab cd", np.uint8)
    memory = dclm_repetition.scratch(3)
    memory[0][:], memory[1][:], memory[2][:] = [0, 3, 6], [2, 5, 8], [7, 7, 7]
    dclm_repetition._number(texts, 3, memory)
    assert memory[4][:3].tolist() == [0, 0, 2]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("." * 300_000, id="one-word-of-dots"),
        pytest.param(". " * 300_000, id="spaced-dots"),
        pytest.param("\n" * 1_000_000, id="a-million-newlines"),
        pytest.param("a\n" * 30_000, id="lines-of-one-letter"),
        pytest.param("QUJD" * 250_000, id="base64"),
        pytest.param("😀" * 100_000, id="emoji"),
        pytest.param("ภาษาไทย" * 5_000, id="thai"),
    ],
)
def test_long_and_strange(text):
    page = slow_page(text)
    found = scan(column([text, "be"]))
    assert {name: int(found[name][0]) for name in page} == page
    assert found["dclm_stop_words"][1] == 1


@pytest.mark.parametrize("name", CORPUS_NAMES)
def test_agrees_on_real_text(name):
    zstandard = pytest.importorskip("zstandard")
    shards = sorted((CORPORA / name).glob("*.jsonl.zst"))
    if not shards:
        pytest.skip("needs the shared corpora beside the checkout")
    with open(shards[0], "rb") as file:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
        texts = [json.loads(line)["text"] for line, _ in zip(lines, range(120), strict=False)]
    found = scan(column(texts))
    texts = [text for text in texts if len(text) < 20_000]
    assert_signals(scan(column(texts)), texts)
    assert found["dclm_top_2gram_chars"].any(), "no pair of words came twice"
