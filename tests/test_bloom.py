"""Does the Bloom filter judge as a set of n-grams would, and is it wrong no more often than it says?"""

from __future__ import annotations

import inspect
import itertools
import json
import re
import typing
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pydantic
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from winnow.filters import bloom, uax29
from winnow.filters.bloom_settings import (
    MOST_BLOCKS,
    Bloom,
    bits_for,
    blocks_for,
    filter_bytes,
    plan_shards,
    rate_of,
)
from winnow.filters.jit import text_buffers

CORPORA = Path(__file__).parents[2] / "shared" / "corpora"
REMOVE = typing.get_args(Bloom.model_fields["remove"].annotation)
ROOMY = 1 << 14
"""Blocks in which a few thousand n-grams never meet."""


def large(texts: list[str]) -> pa.LargeStringArray:
    return pa.array(texts, pa.large_string())


# ---- the plain definition -------------------------------------------------------------------------------------


def is_space(char: str) -> bool:
    """Unicode's White_Space, which is Python's without four separators."""
    return char.isspace() and not 0x1C <= ord(char) <= 0x1F


def slow_tokens(text: str) -> list[str]:
    return [s for s in uax29.split(text) if not all(map(is_space, s))]


def slow_ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    tokens = slow_tokens(text)
    return [tuple(tokens[k : k + n]) for k in range(len(tokens) - n + 1)]


def slow_judge(texts: list[str], asked: Bloom) -> list[tuple[bool, int, int, str]]:
    """(dropped, n-grams seen, n-grams, text that is left) of each document, with a set in place of the filter."""
    everything: set[tuple[str, ...]] = set()
    answers = []
    for text in texts:
        paragraphs = [text] if asked.remove == "document" else text.split("\n")
        ngrams = [slow_ngrams(p, asked.ngram) for p in paragraphs]
        total = sum(map(len, ngrams))
        seen = sum(g in everything for grams in ngrams for g in grams)
        if asked.remove != "paragraph" and total and seen / total > asked.threshold:
            answers.append((True, seen, total, text))
            continue
        kept, own = [], set()
        for paragraph, grams in zip(paragraphs, ngrams, strict=True):
            known = sum(g in everything or g in own for g in grams)
            if asked.remove != "document" and grams and known / len(grams) > asked.threshold:
                continue
            kept.append(paragraph)
            own |= set(grams)
        everything |= own
        left = "\n".join(kept)
        emptied = len(kept) < len(paragraphs) and all(map(is_space, left))
        answers.append((emptied, seen, total, text if emptied else left))
    return answers


def judged(texts: pa.LargeStringArray, asked: Bloom, filter_: np.ndarray) -> list[tuple[bool, int, int, str]]:
    """What the kernel says, in the same shape."""
    found = bloom.judge(texts, asked, filter_)
    assert int(found.items.sum()) == len(found.cuts)
    answers = []
    first = 0
    for i, text in enumerate(texts.to_pylist()):
        mine = found.cuts[first : first + found.items[i]].tolist()
        first += len(mine)
        assert mine == sorted(set(mine)), "cuts ascend and do not adjoin"
        data, left, at = text.encode(), b"", 0
        for start, stop in zip(mine[0::2], mine[1::2], strict=True):
            left += data[at:start]
            at = stop
        left += data[at:]
        if found.dropped[i]:
            assert not mine
        answers.append((bool(found.dropped[i]), int(found.seen[i]), int(found.ngrams[i]), left.decode()))
    return answers


# ---- tokens ---------------------------------------------------------------------------------------------------

AWKWARD = [
    *"aZé中ไ7٣_'\".,:; \t\n\r\v\x1c\x7f\u2028\u0085\u00a0\u202f\u3000·’‿ー",
    *"\u0301\u00ad\u200d\u200bאבア🇦🇧👩❤",
    "\r\n",
    "letters and 3.14 digits",
    "can't",
    "12,345",
    "abcdefghijk",
]
awkward = st.one_of(
    st.lists(st.sampled_from(AWKWARD), max_size=20).map("".join),
    st.lists(st.sampled_from([*"a1.',: \n_", "é", "word", "longest.word"]), max_size=25).map("".join),
    st.text(max_size=20),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(awkward, max_size=4), st.integers(1, 3))
@example(
    ["a.\u0301b", "1,2.3;4", "x.1 1.x a:b a:1", "\u202f\u00a0\u202f", " \u0301", "abcdefg", "abcdefgh'"], 1
)
@example(["@[`{/:", "GZgz09", "aé", "a'é", "1.é", "a.", "a'", "_a_", "a_1 b"], 1)
def test_ngrams_are_counted_over_tokens(texts, n):
    for remove in ("both", "document"):
        paragraphs = [[t] if remove == "document" else t.split("\n") for t in texts]
        expected = [sum(len(slow_ngrams(p, n)) for p in parts) for parts in paragraphs]
        found = bloom.count_ngrams(large(texts), Bloom(ngram=n, remove=remove))
        assert found.tolist() == expected


@settings(deadline=None, max_examples=500)
@given(awkward, awkward, awkward)
@example("", "a.b,1.2", "c")
@example("", "abcdefgh", "ijk")
@example("", "x", "é")
def test_tokens_begin_and_end_where_segments_do(before, text, after):
    data = (before + text + after).encode()
    start = len(before.encode())
    stop = start + len(text.encode())
    found, at = [], start
    while True:
        first, at = uax29.next_token(np.frombuffer(data, np.uint8), at, stop, *uax29.character_tables())
        if at == first:
            break
        found.append(data[first:at].decode())
    expected = []
    for segment in uax29.split(text):
        if segment in ("\n", "\r\n"):
            expected.append("\n")
        elif not all(map(is_space, segment)):
            expected.append(segment)
    assert found == expected


def test_whitespace_is_unicodes():
    spaces = [c for c in map(chr, range(0x110000)) if not 0xD800 <= ord(c) < 0xE000 and is_space(c)]
    assert len(spaces) == 25  # of Unicode's PropList.txt
    candidates = [
        *spaces,
        *(chr(c) for c in range(0x3001) if unicodedata.category(chr(c)) in ("Cc", "Cf", "Zs", "Zl", "Zp")),
    ]
    counts = bloom.count_ngrams(large([f"{c} x" for c in candidates]), Bloom(ngram=1))
    assert [bool(k == 1) for k in counts] == [is_space(c) for c in candidates]


# ---- verdicts -------------------------------------------------------------------------------------------------

# Few words, so that n-grams come again; paragraphs that come again, in the document and in others.
words = st.sampled_from(["a", "b", "c", "so", "it's", "中", "é", ".", "1.5", ""])
paragraph = st.one_of(
    st.lists(words, max_size=8).map(" ".join),
    st.sampled_from(["a b c so a b", "so it's a b c .", "b a b a b a b", " ", "\t", "\u3000"]),
)
document = st.lists(paragraph, max_size=6).map("\n".join)


@pytest.mark.parametrize("remove", REMOVE)
@settings(deadline=None, max_examples=150)
@given(
    documents=st.lists(document, max_size=8),
    n=st.integers(1, 4),
    threshold=st.sampled_from([0.0, 0.25, 0.5, 0.8, 0.99]),
    batches=st.lists(st.integers(0, 8), max_size=2),
)
@example(documents=["a b c\na b c\n", "a b c"], n=2, threshold=0.5, batches=[])
@example(documents=["a b\nx\na b", "a b\n\n", "\na b"], n=2, threshold=0.5, batches=[])
def test_verdicts_are_those_of_a_set(remove, documents, n, threshold, batches):
    asked = Bloom(ngram=n, threshold=threshold, remove=remove)
    filter_ = bloom.new_filter(ROOMY)
    edges = sorted({0, len(documents), *(min(b, len(documents)) for b in batches)})
    whole = large(documents)
    found = []
    for a, b in itertools.pairwise(edges):
        found += judged(whole.slice(a, b - a), asked, filter_)
    assert found == slow_judge(documents, asked)


def python_texts() -> list[str]:
    """Source of modules, and pieces of it said again in other places."""
    rng = np.random.default_rng(3)
    sources = [inspect.getsource(m) for m in (inspect, re, json, typing, pydantic, zstandard)]
    texts = []
    for source in sources:
        lines = source.split("\n")
        texts += ["\n".join(lines[start : start + 60]) for start in range(0, len(lines), 60)]
    for _ in range(200):
        one, other = (texts[int(k)].split("\n") for k in rng.integers(0, len(texts), 2))
        cut = int(rng.integers(0, 60))
        texts.append("\n".join(one[:cut] + other[cut:]))
    return texts


@pytest.mark.parametrize("remove", REMOVE)
def test_verdicts_of_real_text_are_those_of_a_set(remove):
    asked = Bloom(ngram=7, remove=remove)
    texts = python_texts()
    answers = slow_judge(texts, asked)
    assert judged(large(texts), asked, bloom.new_filter(1 << 18)) == answers
    assert any(a[0] for a in answers) == (remove != "paragraph")
    assert any(a[3] != t for a, t in zip(answers, texts, strict=True)) == (remove != "document")


@pytest.mark.skipif(not CORPORA.is_dir(), reason="needs the shared corpora beside the checkout")
@pytest.mark.parametrize("remove", ["both", "document"])
def test_verdicts_of_the_corpora_are_those_of_a_set(remove):
    texts: list[str] = []
    for folder in ("docs_en", "web_docs_multi", "wiki", "licences"):
        size = 0
        with zstandard.open(
            sorted((CORPORA / folder).glob("*.jsonl.zst"))[0], "rt", encoding="utf-8"
        ) as lines:
            for line in lines:
                texts.append(json.loads(line)["text"])
                size += len(texts[-1])
                if size > 200_000:
                    break
    asked = Bloom(remove=remove)
    assert judged(large(texts), asked, bloom.new_filter(1 << 18)) == slow_judge(texts, asked)


def test_by_hand():
    asked = Bloom(ngram=3, threshold=0.5)
    filter_ = bloom.new_filter(ROOMY)
    first = "one two three four five\nshort line\nsix seven eight nine"
    texts = [
        first,
        first,
        "new words stand here now, and then\none two three four five",
        "one two three four five\nnew lines are to be read, all of them",
        "not said yet, not once.\nnot said yet, not once.\nshort line",
        "one two three four five\n \n",
    ]
    found = judged(large(texts), asked, filter_)
    assert [f[0] for f in found] == [False, True, False, False, False, True]
    assert found[1][1:3] == (5, 5)
    assert [f[3] for f in found[2:5]] == [
        "new words stand here now, and then",
        "new lines are to be read, all of them",
        "not said yet, not once.\nshort line",
    ]


def test_a_dropped_document_leaves_nothing():
    old = "the words of an old document that all others repeat"
    new = "what nobody else has said before"
    asked = Bloom(ngram=3, threshold=0.5)
    filter_ = bloom.new_filter(ROOMY)
    answers = judged(large([old, f"{old}\n{new}", new]), asked, filter_)
    assert [a[0] for a in answers] == [False, True, False]
    assert answers[2][1] == 0


def test_the_threshold_itself_stays():
    asked = Bloom(ngram=1, threshold=0.5)
    answers = judged(large(["a b", "a b c d", "a b c d e"]), asked, bloom.new_filter(ROOMY))
    assert [a[0] for a in answers] == [False, False, True]


def test_every_byte_may_be_an_ngram():
    asked = Bloom(ngram=1, remove="document")
    answers = judged(large(["!?,;", "!?,;"]), asked, bloom.new_filter(ROOMY))
    assert [a[:3] for a in answers] == [(False, 0, 4), (True, 4, 4)]


def test_order_decides_which_document_stays():
    asked = Bloom(ngram=2)
    texts = ["a b c d", "a b c d"]
    assert [a[0] for a in judged(large(texts), asked, bloom.new_filter(ROOMY))] == [False, True]


@pytest.mark.parametrize(
    "text",
    [
        "x" * 1_000_000,
        "\n" * 1_000_000,
        "QmFzZTY0" * 100_000 + "==",
        "👩\u200d❤" * 80_000,
        "a\u0301." * 200_000,
        "ภาษาไทย" * 50_000,
        "中文" * 150_000,
        "a " * 400_000,
        "." * 500_000,
        "one two three four five six\n" * 30_000,
        "\u0301" * 400_000,
    ],
    ids=lambda t: repr(t[:6]),
)
def test_odd_text(text):
    filter_ = bloom.new_filter(1 << 15)
    for remove in REMOVE:
        asked = Bloom(ngram=5, remove=remove)
        (first, second) = bloom.judge(large([text, text]), asked, filter_).ngrams.tolist()
        assert first == second == bloom.count_ngrams(large([text]), asked)[0]


def test_empty_and_sliced_columns():
    asked = Bloom(ngram=2)
    filter_ = bloom.new_filter(16)
    nothing = bloom.judge(large([]), asked, filter_)
    assert len(nothing.dropped) == len(nothing.cuts) == 0
    assert bloom.judge(large(["", "\n", " "]), asked, filter_).dropped.tolist() == [False] * 3
    assert bloom.measured_rate(filter_) == 0
    with pytest.raises(TypeError):
        bloom.judge(pa.array(["a"]), asked, filter_)
    with pytest.raises(ValueError, match="nulls"):
        bloom.judge(large([None]), asked, filter_)


def test_nothing_is_read_or_written_beyond_a_document():
    """Neighbours in the buffer change nothing: the last word of one and the first of the next do not join."""
    asked = Bloom(ngram=2)
    texts = ["ab cd", "ef gh", "12,", "3 4", "é", "\u0301 x"]
    together = judged(large(texts), asked, bloom.new_filter(ROOMY))
    filter_ = bloom.new_filter(ROOMY)
    alone = [judged(large([t]), asked, filter_)[0] for t in texts]
    assert together == alone
    offsets, _ = text_buffers(large(texts).slice(1))
    assert offsets[0] > 0
    assert judged(large(texts).slice(1), asked, bloom.new_filter(ROOMY)) == together[1:]


# ---- the filter -----------------------------------------------------------------------------------------------


def hashes(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << 64, n, np.uint64)


@pytest.mark.parametrize(("ngrams", "rate"), [(6_000_000, 0.01), (1_500_000, 0.001), (300_000, 0.1)])
def test_a_full_filter_keeps_the_rate(ngrams, rate):
    filter_ = bloom.new_filter(blocks_for(ngrams, rate))
    if rate == 0.01:
        assert filter_.nbytes >= 7 << 20
    inside = hashes(1, ngrams)
    bloom.insert(filter_, inside)
    assert bloom.count_seen(filter_, inside) == ngrams, "what is in it is found"
    tried = 4_000_000
    found = bloom.count_seen(filter_, hashes(2, tried)) / tried
    spread = (rate / tried) ** 0.5
    assert 0.94 * rate < found <= rate
    assert abs(found - bloom.measured_rate(filter_)) < 4 * spread
    assert bloom.measured_rate(filter_) == pytest.approx(rate_of(filter_.nbytes * 8 / ngrams), rel=0.01)


def test_the_rate_of_a_filter_filled_with_text():
    """Hashes of n-grams that overlap in 12 of 13 tokens spread as random numbers do."""
    rng = np.random.default_rng(5)
    vocabulary = np.array([f"w{k}" for k in range(3000)])
    asked = Bloom(remove="document")

    def texts(n: int) -> pa.LargeStringArray:
        return large([" ".join(vocabulary[rng.integers(0, 3000, 2000)]) for _ in range(n)])

    first = texts(150)
    ngrams = int(bloom.count_ngrams(first, asked).sum())
    filter_ = bloom.new_filter(blocks_for(ngrams, asked.false_positive_rate))
    bloom.judge(first, asked, filter_)
    untouched = Bloom(
        remove="document", threshold=0.0
    )  # drops whoever has one n-gram seen, so nothing is put in
    found = bloom.judge(texts(150), untouched, filter_)
    assert found.dropped.all()
    assert 0.009 < found.seen.sum() / found.ngrams.sum() <= 0.0101


def test_the_measured_rate_by_hand():
    filter_ = bloom.new_filter(2)
    filter_[:8] = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
    assert bloom.measured_rate(filter_) == 0.5
    filter_[8:] = np.uint64(0x5555_5555_5555_5555)
    assert bloom.measured_rate(filter_) == 0.5 + 0.5**8


def test_blocks_are_cache_lines_and_all_are_used():
    filter_ = bloom.new_filter(1000)
    assert (filter_.ctypes.data % 64, filter_.nbytes, int(filter_.sum())) == (0, 64_000, 0)
    bloom.insert(filter_, hashes(1, 20_000))
    assert filter_.reshape(-1, 8).any(axis=1).all()
    one = bloom.new_filter(1000)
    bloom.insert(one, hashes(4, 1))
    assert int(one.reshape(-1, 8).any(axis=1).sum()) == 1
    assert 1 <= int(np.bitwise_count(one).sum()) <= 7
    for blocks in (0, -1, MOST_BLOCKS + 1):
        with pytest.raises(ValueError, match="blocks"):
            bloom.new_filter(blocks)


# ---- sizes ----------------------------------------------------------------------------------------------------


def test_sizes():
    assert rate_of(bits_for(0.01)) == pytest.approx(0.01, rel=1e-4)
    assert 9.585 < bits_for(0.01) < 10, "a filter without blocks needs log2(e) * log2(100) bits"
    assert filter_bytes(0, 0.01) == 64
    assert filter_bytes(10**9, 0.01) == pytest.approx(10**9 * 1.01 * bits_for(0.01) / 8, rel=1e-6)
    assert [bits_for(r) for r in (0.5, 0.1, 0.01, 1e-3, 1e-6)] == sorted(
        bits_for(r) for r in (0.5, 0.1, 0.01, 1e-3, 1e-6)
    )


@settings(deadline=None)
@given(st.integers(0, 10**13), st.sampled_from([0.1, 0.01, 1e-3]), st.integers(64, 1 << 42))
def test_planned_shards_fit(ngrams, rate, memory):
    shards = plan_shards(ngrams, rate, memory)
    share = ngrams if shards == 1 else int(1.04 * ngrams / shards)
    assert filter_bytes(share, rate) <= max(memory, 2 * 64)
    assert blocks_for(share, rate) <= MOST_BLOCKS
    if shards > 2:
        assert filter_bytes(int(1.1 * ngrams / (shards - 1)), rate) > min(memory, MOST_BLOCKS * 64) - 64


def test_no_filter_fits_nothing():
    with pytest.raises(ValueError, match="no filter fits 10 bytes"):
        plan_shards(1, 0.01, 10)


@pytest.mark.parametrize(
    "wrong",
    [{"ngram": 0}, {"threshold": 1}, {"shards": 0}, {"shards": 1 << 16}, {"remove": "line"}, {"unknown": 1},
     {"false_positive_rate": 0}, {"memory": 1}],
)  # fmt: skip
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(pydantic.ValidationError):
        Bloom(**wrong)


def test_settings_are_dclms():
    asked = Bloom()
    assert (asked.ngram, asked.threshold, asked.false_positive_rate) == (13, 0.8, 0.01)
    assert (asked.remove, asked.shards) == ("both", 1)
