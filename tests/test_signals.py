"""Do the signals count what their definitions say, on any text, in any slice?"""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.filters.signals import SIGNALS, STOP_WORDS, scan

CORPORA = Path(__file__).resolve().parents[1].parent / "shared" / "corpora"

SPACES = [c for c in map(chr, range(0x110000)) if c.isspace()]
# Whitespace, and its neighbours, which are none and share its first bytes; ends of each length of UTF-8;
# letters of 1 to 4 bytes, a combining mark, a digit; bullets, ellipses and what looks like them.
NEIGHBOURS = [chr(ord(c) + step) for c in SPACES for step in (-1, 1)]
ENDS = ["\0", "\x7f", "\x80", "\u07ff", "\u0800", "\ud7ff", "\ue000", "\uffff", "\U00010000", "\U0010ffff"]
LETTERS = ["a", "Z", "é", "ß", "中", "あ", "𝔸", "𠀀", "e\u0301", "7", "😀"]
MARKS = ["-", "•", "–", "‧", "#", "##", ".", "..", "...", "....", "......", "…", "……", "…."]
BREAKS = ["\n", "\n\n", "\r\n", "\r", " \n", "\t", " ", " "]
NEARLY = ["The", "bee", "\0be", "be\0", "é", "tof", "thatx", "\x01be", "wìth"]
FRAGMENTS = [*SPACES, *NEIGHBOURS, *ENDS, *LETTERS, *(MARKS + BREAKS) * 4, *STOP_WORDS, *NEARLY]

awkward = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join),
    st.text(alphabet="\n .#-a…•é", max_size=12),
    st.text(max_size=20),
)


def column(texts):
    return pa.array(texts, pa.large_string())


def slow_signals(text):
    """The definitions read aloud, on Python strings."""
    words = text.split()
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return {
        "bytes": len(text.encode()),
        "chars": len(text),
        "words": len(words),
        "word_chars": sum(map(len, words)),
        "alpha_words": sum(any(c.isalpha() for c in word) for word in words),
        "hashes": text.count("#"),
        "ellipses": text.count("...") + text.count("…"),
        "lines": len(lines),
        "bullet_lines": sum(line.lstrip().startswith(("•", "-")) for line in lines),
        "ellipsis_lines": sum(line.rstrip().endswith(("...", "…")) for line in lines),
        "stop_words": len({"the", "be", "to", "of", "and", "that", "have", "with"} & set(words)),
    }


def assert_signals(found, texts):
    assert list(found) == list(SIGNALS)
    expected = [slow_signals(text) for text in texts]
    for name, counts in found.items():
        assert counts.dtype == np.uint64
        np.testing.assert_array_equal(counts, [row[name] for row in expected], err_msg=name)


@settings(deadline=None, max_examples=400)
@given(st.lists(awkward, min_size=1, max_size=8), st.data())
def test_agrees_with_the_definitions_read_aloud(texts, more):
    start = more.draw(st.integers(0, len(texts)))
    stop = more.draw(st.integers(start, len(texts)))
    assert_signals(scan(column(texts).slice(start, stop - start)), texts[start:stop])


@settings(deadline=None)
@given(st.lists(awkward, min_size=2, max_size=8), st.data())
def test_a_batch_cut_in_two_gives_the_same(texts, more):
    cut = more.draw(st.integers(1, len(texts) - 1))
    whole, front, back = scan(column(texts)), scan(column(texts[:cut])), scan(column(texts[cut:]))
    for name in SIGNALS:
        np.testing.assert_array_equal(whole[name], np.concatenate([front[name], back[name]]), err_msg=name)


def test_every_character_is_classed_as_python_classes_it():
    chars = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    found = scan(column(chars))
    np.testing.assert_array_equal(found["words"], [not c.isspace() for c in chars])
    np.testing.assert_array_equal(found["alpha_words"], [c.isalpha() for c in chars])
    np.testing.assert_array_equal(found["chars"], 1)
    assert (found["words"] == 0).sum() == len(SPACES) > 20


@pytest.mark.parametrize(
    ("text", "name", "count"),
    [
        pytest.param("", "lines", 0, id="an-empty-document-has-no-line"),
        pytest.param("\n", "lines", 1, id="a-newline-ends-a-blank-line"),
        pytest.param("a\n\nb", "lines", 3, id="blank-lines-count"),
        pytest.param("a\rb\u2028c\x85d", "lines", 1, id="only-newline-ends-a-line"),
        pytest.param("a\u00a0b\u3000c\x1cd", "words", 4, id="unicode-whitespace-parts-words"),
        pytest.param("a\u200bb", "words", 1, id="zero-width-space-is-no-whitespace"),
        pytest.param("don't stop.", "word_chars", 10, id="punctuation-stays-on-its-word"),
        pytest.param("1.2 ٣ Ⅷ x1 é 中", "alpha_words", 3, id="digits-and-roman-numerals-are-no-letters"),
        pytest.param("....... …", "ellipses", 3, id="seven-dots-are-two-ellipses"),
        pytest.param(".. . ..\n.", "ellipses", 0, id="dots-apart-are-no-ellipsis"),
        pytest.param("\t\u00a0- a\n•b\n– c\n-", "bullet_lines", 3, id="en-dash-is-no-bullet"),
        pytest.param("a- b\nc •", "bullet_lines", 0, id="a-bullet-inside-a-line-opens-none"),
        pytest.param("a... \r\nb…\n... c\nd....", "ellipsis_lines", 3, id="whitespace-after-an-ellipsis"),
        pytest.param("a...\n\n \n", "ellipsis_lines", 1, id="blank-lines-end-in-nothing"),
        pytest.param("the the The and, be to", "stop_words", 3, id="each-counts-once-in-exact-spelling"),
        pytest.param("\0be be\0 \x01be", "stop_words", 0, id="control-characters-are-part-of-a-word"),
        pytest.param("ébe éto 中of", "stop_words", 0, id="the-end-of-a-word-is-no-word"),
        pytest.param("word" + "\0" * 5 + "\x01be", "stop_words", 0, id="nor-is-the-end-of-a-long-one"),
        pytest.param("..a. .#.. ..-.", "ellipses", 0, id="dots-with-anything-between-are-none"),
    ],
)
def test_by_hand(text, name, count):
    assert scan(column([text]))[name][0] == count


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("." * 1_000_000, id="one-word-of-a-million-dots"),
        pytest.param("\n" * 1_000_000, id="a-million-blank-lines"),
        pytest.param("\u3000" * 300_000, id="only-wide-spaces"),
        pytest.param("a #" + "𠀀" * 300_000 + "#…", id="one-word-of-4-byte-letters"),
    ],
)
def test_long_and_strange(text):
    assert_signals(scan(column([text, "be"])), [text, "be"])


def test_a_document_ends_where_the_next_begins():
    texts = ["a.", "..", ".", "", "-", "•", "t", "he", "\n", "be"]
    assert_signals(scan(column(texts)), texts)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=40))
def test_bytes_that_are_no_utf8_give_counts_of_some_kind_and_an_end(raw):
    padded = pa.py_buffer(raw + bytes(3))  # the last lead byte may look for 3 more
    offsets = pa.py_buffer(np.array([0, len(raw)], np.int64).tobytes())
    found = scan(pa.LargeStringArray.from_buffers(1, offsets, padded))
    assert found["bytes"][0] == len(raw)
    assert found["word_chars"][0] <= found["chars"][0] <= len(raw)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_documents_without_text(n):
    assert_signals(scan(column([""] * n)), [""] * n)


def test_input_that_is_no_text_column_is_refused():
    with pytest.raises(TypeError, match=r"^texts must be a pyarrow LargeStringArray, not ChunkedArray$"):
        scan(pa.chunked_array([column(["a"])]))
    with pytest.raises(TypeError, match=r"^texts must be a pyarrow LargeStringArray, not StringArray$"):
        scan(pa.array(["a"], pa.string()))
    with pytest.raises(ValueError, match=r"^texts must have no nulls; 1 of 2 are null$"):
        scan(column(["a", None]))


@pytest.mark.parametrize("name", ["web_prose", "web_docs_multi", "low_quality"])
def test_agrees_on_real_text(name):
    zstandard = pytest.importorskip("zstandard")
    shards = sorted((CORPORA / name).glob("*.jsonl.zst"))
    if not shards:
        pytest.skip("needs the shared corpora beside the checkout")
    with open(shards[0], "rb") as file:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
        texts = [json.loads(line)["text"] for line, _ in zip(lines, range(300), strict=False)]
    found = scan(column(texts))
    assert_signals(found, texts)
    assert all(counts.any() for counts in found.values()), "a signal never occurred"
