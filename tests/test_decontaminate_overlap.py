"""Are n-grams of benchmarks found where they are, in any text, and is a document compared as difflib compares it?"""

import difflib
import itertools
import random
import re
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from winnow.filters.benchmark_index import build, count_hits, find, spelled, words
from winnow.filters.jit import text_buffers
from winnow.filters.matching_blocks import matched_share, matching_blocks
from winnow.filters.overlap import LONGEST, fold_table, hash_items, ring, widen


def column(texts):
    return pa.array(texts, pa.large_string())


# ---- words ----------------------------------------------------------------------------------------------------


def kind(char):
    """The folded character, "" for one that is as if it were not there, None for one that is in no word; a few are a
    letter and, behind it, what ends the word."""
    folded = "".join(c for c in unicodedata.normalize("NFD", char) if unicodedata.category(c) != "Mn")
    folded = folded.lower().replace("ς", "σ")
    return folded if not folded or re.match(r"\w", folded) else None


def slow_words(text):
    """(first byte, one past the last, word) of each word, character by character."""
    found, start, word, at = [], None, "", 0
    for char in [*text, " "]:
        folded = kind(char)
        if folded is None:
            if start is not None:
                found.append((start, at, word))
            start, word = None, ""
        else:
            if folded and start is None:
                start = at
            word += folded
        at += len(char.encode())
        if folded and not re.fullmatch(r"\w*", folded):
            found.append((start, at, re.match(r"\w+", word)[0]))
            start, word = None, ""
    return found


def word_hashes(texts):
    """The hashes of each text's words."""
    offsets, utf8 = text_buffers(column(texts))
    counts, hashes = np.zeros(len(texts), np.int64), np.zeros(sum(map(len, texts)) + 1, np.uint64)
    owners = np.zeros(len(hashes), np.uint32)
    n = hash_items(offsets, utf8, fold_table(), 1, 1, ring()[0], counts, hashes, owners)
    return np.split(hashes[:n], np.cumsum(counts)[:-1])


def test_every_character_is_folded_as_the_definition_says():
    kinds = {chr(point): unicodedata.category(chr(point)) for point in range(0x110000)}
    table = fold_table()
    assert all(table[ord(char)] == 0 for char, kind in kinds.items() if kind in ("Cn", "Co"))
    chars = [char for char, kind in kinds.items() if kind not in ("Cn", "Co", "Cs")]
    texts = [f"{char} x{char}y" for char in chars]
    of_word, of_hash = {}, {}
    for text, hashes in zip(texts, word_hashes(texts), strict=True):
        expected = words(text)
        assert len(hashes) == len(expected), ascii(text)
        for word, value in zip(expected, hashes.tolist(), strict=True):
            assert of_word.setdefault(word, value) == value, ascii(text)
            assert of_hash.setdefault(value, word) == word, ascii(text)
    assert len(of_word) > 100_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("Don't STOP—now, please_do", "don t stop now please_do", id="punctuation-parts-words"),
        pytest.param("Café cafe\u0301 CAFÉ", "cafe cafe cafe", id="accents-go"),
        pytest.param("ΟΔΟΣ οδος", "οδοσ οδοσ", id="the-last-sigma-is-a-sigma"),
        pytest.param("İstanbul", "istanbul", id="a-dot-above-goes"),
        pytest.param("\u0301a\u0301 \u0301 b", "a b", id="marks-alone-are-no-word"),
        pytest.param("각 \u1100\u1161\u11a8", "각 각", id="syllables-and-their-letters-are-the-same"),
        pytest.param("北京大学 x²", "北京大学 x²", id="a-run-of-ideographs-is-one-word"),
    ],
)
def test_words_by_hand(text, expected):
    expected = [unicodedata.normalize("NFD", word) for word in expected.split()]
    assert words(text) == expected
    (found,) = word_hashes([text])
    (same,) = word_hashes([" ".join(expected)])
    np.testing.assert_array_equal(found, same)


TOKENS = [
    "a",
    "b",
    "A",
    "the",
    "wordsofeight",
    "eightlet",
    "élan",
    "e\u0301lan",
    "Étoile",
    "中文",
    "각",
    "x_1",
]
GAPS = [" ", "  ", "\n", ", ", "-", "'", "😀", "\u3000", "", "\u0301 ", "\u0b94", "ᬆ"]
loose = st.lists(st.tuples(st.sampled_from(TOKENS), st.sampled_from(GAPS)), max_size=30).map(
    lambda pairs: "".join(token + gap for token, gap in pairs)
)
texts_ = st.one_of(loose, loose, st.text(max_size=20))


@settings(deadline=None, max_examples=300)
@given(texts_)
def test_the_words_of_any_text(text):
    assert [word for _, _, word in slow_words(text)] == words(text)
    mine, plain = word_hashes([text, " ".join(words(text))])
    np.testing.assert_array_equal(mine, plain)


# ---- n-grams --------------------------------------------------------------------------------------------------


def slow_grams(items, n, min_words):
    """n-gram -> the items that have it."""
    found = {}
    for i, item in enumerate(items):
        w = words(item)
        grams = [w[k : k + n] for k in range(len(w) - n + 1)] if len(w) >= n else [w] * (len(w) >= min_words)
        for gram in grams:
            found.setdefault(tuple(gram), set()).add(i)
    return found


def slow_hits(texts, items, n, min_words):
    """(document, first byte, one past the last, items) of each n-gram that items have."""
    grams = slow_grams(items, n, min_words)
    lengths = sorted({len(gram) for gram in grams})
    hits = []
    for i, text in enumerate(texts):
        found = slow_words(text)
        for last in range(len(found)):
            for length in lengths:
                first = last - length + 1
                gram = tuple(word for _, _, word in found[max(first, 0) : last + 1])
                if first >= 0 and gram in grams:
                    hits.append((i, found[first][0], found[last][1], tuple(sorted(grams[gram]))))
    return hits


def hits_of(texts, index):
    hits = find(texts, index)
    members = [
        tuple(index.members[a:b].tolist())
        for a, b in zip(index.edges[hits.grams], index.edges[hits.grams + 1], strict=True)
    ]
    return sorted(
        zip(hits.documents.tolist(), hits.starts.tolist(), hits.stops.tolist(), members, strict=True)
    )


few = st.lists(st.sampled_from(["a", "b", "A", "c", "é"]), max_size=25).map(" ".join)
long_enough = st.lists(st.sampled_from(TOKENS), min_size=1, max_size=12).map(" ".join)


@settings(deadline=None, max_examples=400)
@given(
    st.lists(st.one_of(few, long_enough), max_size=6),
    st.lists(st.one_of(few, texts_), min_size=1, max_size=5),
    st.integers(1, 14),
    st.data(),
)
def test_every_shared_ngram_is_found(items, texts, n, more):
    min_words = more.draw(st.integers(1, n))
    # Items as they are, and without their first word, in other text.
    texts = [*texts, " ".join([texts[0], *items[:2], *(" ".join(words(item)[1:]) for item in items)])]
    start = more.draw(st.integers(0, len(texts) - 1))
    index = build(column(items), n, min_words)
    mine = column(texts).slice(start)
    expected = slow_hits(texts[start:], items, n, min_words)
    assert hits_of(mine, index) == sorted(expected)
    counts = [sum(hit[0] == i for hit in expected) for i in range(len(mine))]
    np.testing.assert_array_equal(count_hits(mine, index), counts)


@pytest.mark.parametrize("words_before", range(12))
def test_an_ngram_is_found_wherever_it_begins(words_before):
    """An item's probes lie some words apart, so every part of it has to be tried."""
    item = [f"w{k}" for k in range(40)]
    index = build(column([" ".join(item)]), 13, 5)
    for first in range(40 - 12):
        text = " ".join(["x"] * words_before + item[first : first + 13] + ["y"] * 9)
        assert count_hits(column([text]), index)[0] == 1
        assert count_hits(column([text.replace(f"w{first + 12} ", "z ")]), index)[0] == 0


@settings(deadline=None)
@given(st.lists(st.one_of(few, long_enough), max_size=6), st.integers(1, 6), st.data())
def test_an_index_knows_its_items(items, n, more):
    min_words = more.draw(st.integers(1, n))
    index = build(column(items), n, min_words)
    grams = slow_grams(items, n, min_words)
    np.testing.assert_array_equal(index.words, [len(words(item)) for item in items])
    np.testing.assert_array_equal(
        index.grams, [sum(i in of for of in grams.values()) for i in range(len(items))]
    )
    assert len(index.hashes) == len(grams)
    told = spelled(index, np.arange(len(index.hashes)), [" ".join(words(item)) for item in items])
    assert sorted(told) == sorted(" ".join(gram) for gram in grams)
    which, whose = index.owners(np.arange(len(index.hashes)))
    assert sorted(zip((told[k] for k in which), whose.tolist(), strict=True)) == sorted(
        (" ".join(gram), item) for gram, of in grams.items() for item in of
    )


def test_one_ngram_of_several_items_and_a_short_item_inside_another():
    items = ["one two three four five", "zero one two three four", "two three four", "nine"]
    hits = hits_of(column(["", "zero ONE, two: three four! nine"]), build(column(items), 4, 2))
    assert hits == [(1, 0, 20, (1,)), (1, 5, 25, (0, 1)), (1, 10, 25, (2,))]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a " * 500_000, id="one-word-again-and-again"),
        pytest.param("\n" * 1_000_000, id="a-million-newlines"),
        pytest.param("q" * 1_000_000, id="one-line-of-base64"),
        pytest.param("😀" * 250_000, id="emoji"),
        pytest.param("ภาษาไทย" * 50_000, id="thai"),
        pytest.param("\u0301" * 300_000, id="marks"),
    ],
)
def test_long_and_strange(text):
    items = [" ".join("a" * 20), "a short one of words", "ภ า ษ า"]
    index = build(column(items), 13, 4)
    found = slow_words(text)
    expected = max(len(found) - 12, 0) if text.startswith("a") else 0
    assert count_hits(column([text, items[0]]), index).tolist()[1] == 8
    assert count_hits(column([text]), index)[0] == expected


def test_the_longest_ngrams():
    item = " ".join(str(k) for k in range(3 * LONGEST))
    index = build(column([item]), LONGEST, 1)
    assert count_hits(column([f"begin {item} end {item[:50]}"]), index)[0] == 2 * LONGEST + 1


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=60))
def test_bytes_that_are_no_utf8_are_read_to_an_end(raw):
    offsets = pa.py_buffer(np.array([0, len(raw)], np.int64).tobytes())
    broken = pa.LargeStringArray.from_buffers(1, offsets, pa.py_buffer(raw + bytes(3)))
    assert 0 <= count_hits(broken, build(column(["a", "b c"]), 2, 1))[0] <= len(raw)


# ---- cuts -----------------------------------------------------------------------------------------------------


def slow_widen(text, spans, margin):
    """Byte positions that belong to widened spans."""
    at = [0]
    for char in text:
        at.append(at[-1] + len(char.encode()))

    def inside(k):
        return 0 < k < len(text) and None not in (kind(text[k - 1]), kind(text[k]))

    covered = set()
    for start, stop in spans:
        start, stop = max(start - margin, 0), min(stop + margin, len(text))
        low, high = at[start] - 64, at[stop] + 64
        while inside(start) and at[start - 1] >= low:
            start -= 1
        while inside(stop) and at[stop] < high:
            stop += 1
        covered |= set(range(at[start], at[stop]))
    return covered, at


def positions(text):
    return st.lists(st.tuples(*[st.integers(0, len(text))] * 2).map(sorted), max_size=5)


long_words = st.lists(st.sampled_from(["a" * 63, "a" * 64, "é" * 32 + "a", "é" * 33, " "]), max_size=6).map(
    "".join
)


@settings(deadline=None, max_examples=300)
@given(
    st.one_of(texts_, long_words).flatmap(lambda text: st.tuples(st.just(text), positions(text))),
    st.integers(0, 12),
)
@example(("x" * 300, [(140, 150)]), 0)
@example(("é" * 300, [(140, 150)]), 5)
@example(("x" * 64 + " y " + "z" * 65, [(65, 66)]), 2)
def test_spans_are_widened_by_characters_and_to_whole_words(drawn, margin):
    text, spans = drawn
    spans = sorted((a, b) for a, b in spans if a < b)
    covered, at = slow_widen(text, spans, margin)
    utf8 = np.frombuffer(text.encode(), np.uint8)
    starts, stops = (np.array([at[span[k]] for span in spans], np.int64) for k in (0, 1))
    starts.flags.writeable = stops.flags.writeable = False
    edges = np.full((2, len(spans)), -1, np.int64)
    n = widen(utf8, 0, len(utf8), starts, stops, margin, fold_table(), edges[0], edges[1])
    cut = edges[:, :n].T.tolist()
    assert {byte for a, b in cut for byte in range(a, b)} == covered
    assert all(a < b for a, b in cut)
    assert all(first[1] < second[0] for first, second in itertools.pairwise(cut))
    assert all(edge in at for pair in cut for edge in pair)


# ---- matching blocks ------------------------------------------------------------------------------------------


def difflib_blocks(document, item):
    matcher = difflib.SequenceMatcher(None, document, item, autojunk=False)
    return [(block.a, block.size) for block in matcher.get_matching_blocks() if block.size > 5]


pieces = st.lists(st.sampled_from(["ab", "ba", "a", "the ", "the other ", "étoile ", "𝔸𝔹"]), max_size=30).map(
    "".join
)
either = st.one_of(pieces, st.text("ab", max_size=60), st.text("abc ", max_size=60))


@settings(deadline=None, max_examples=500)
@given(either, either, st.integers(0, 40), st.booleans())
def test_matching_blocks_are_difflibs(document, item, cut, shared):
    if shared:
        document = item[cut:] + document + item[:cut]
    assert matching_blocks(document, item) == difflib_blocks(document, item)


def test_matching_blocks_of_long_texts_are_difflibs():
    draw = random.Random(7)
    vocabulary = ["".join(draw.choices("etaoins", k=draw.randint(1, 7))) for _ in range(60)]
    for _ in range(25):
        document, item = (" ".join(draw.choices(vocabulary, k=k)) for k in (400, 70))
        blocks = difflib_blocks(document, item)
        assert matching_blocks(document, item) == blocks
        matched = " ".join("".join(document[a : a + n] for a, n in blocks).split())
        assert matched_share(document, item) == len(matched) / len(item)
    assert matched_share("any", "") == 0
    assert matched_share("", "any") == 0
