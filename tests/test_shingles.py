"""Are shingles what their definition says: of any text, wherever it lies, and however long it is?"""

import json
import random
import re
import string
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from winnow.filters.lower_words import BLOCK_UNITS, MOST_NGRAM
from winnow.filters.minhash import jaccard
from winnow.filters.minhash_settings import MinHash
from winnow.filters.shingles import SHORT, shingle_sets, shingles

TRUTH = Path(__file__).resolve().parents[1].parent / "shared" / "dedup_truth"

U64 = (1 << 64) - 1
EVERY_CHAR = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]

# Lengths around the 8 bytes that are hashed and the 64 that are looked at together; characters of 1 to 4 bytes, some
# with a lower case that takes more or fewer bytes; neighbours of ASCII's letters and digits; what ends a word.
LENGTHS = (1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65, 200)
LETTERS = [
    "a",
    "Z",
    "7",
    "_",
    "é",
    "É",
    "ß",
    "ẞ",
    "中",
    "𝔸",
    "𐐀",
    "Ⱥ",
    "K",
    "İ",
    "ı",
    "Σ",
    "ς",
    "DŽ",
    "Ა",
    "Ꭰ",
    "٣",
]
GAPS = [
    " ",
    "\n",
    ".",
    "-",
    "@",
    "[",
    "`",
    "{",
    "/",
    ":",
    "\0",
    "\x7f",
    "’",
    "—",
    "\u0301",
    "\u00a0",
    "\u3000",
    "😀",
    "¶",
]

words = st.builds("".join, st.lists(st.sampled_from([*LETTERS, *"abcXYZ019"]), min_size=1, max_size=20))
long_words = st.builds(
    lambda letter, length: letter * length, st.sampled_from(LETTERS), st.sampled_from(LENGTHS)
)
gaps = st.builds("".join, st.lists(st.sampled_from(GAPS), min_size=1, max_size=3))
documents = st.one_of(
    st.builds("".join, st.lists(st.one_of(words, words, long_words, gaps), max_size=40)),
    st.builds(" ".join, st.lists(st.sampled_from(["a", "b", "A", "cd"]), max_size=40)),
    st.lists(st.sampled_from(LETTERS + GAPS), max_size=200).map("".join),
    st.text(max_size=30),
)
units = st.sampled_from(["words", "chars"])


def column(texts):
    return pa.array(texts, pa.large_string())


def lists(texts, **settings):
    values, ends = shingles(column(texts), MinHash(**settings))
    assert values.dtype == np.uint32
    assert ends.dtype == np.int64
    return [part.tolist() for part in np.split(values, ends[:-1])] if texts else []


def slow_words(text):
    return ["".join(c.lower() for c in word) for word in re.findall(r"\w+", text)]


def slow_fold(state, value):
    mixed = ((((state << 27) | (state >> 37)) & U64) ^ value) * 0x9E3779B97F4A7C15 & U64
    return (mixed ^ (mixed >> 32)) * 0xC2B2AE3D27D4EB4F & U64


def slow_hash(data, state):
    for at in range(0, len(data), 8):
        state = slow_fold(state, int.from_bytes(data[at : at + 8], "little"))
    return state


def slow_hash_bare(data):
    state = slow_hash(data, len(data) * 0xD6E8FEB86659FD93 & U64)
    return state ^ (state >> 29)


def slow_shingles(text, ngram, unit):
    """The definition, step by step."""
    if unit == "words":
        hashes = [slow_hash(word.encode(), 0) for word in slow_words(text)]
    else:
        hashes = [slow_fold(0, ord(c)) for c in " ".join(slow_words(text))]
    if len(hashes) < ngram:
        state = 0x632BE59BD9B4E019
        for value in hashes:
            state = slow_fold(state, value)
        if not hashes:
            state = slow_fold(0xE220A8397B1DCDAF, slow_hash_bare(text.encode()))
        state = slow_fold(state, len(hashes))
        return [slow_fold(state, k) >> 32 for k in range(4)]
    found = []
    for first in range(len(hashes) - ngram + 1):
        gram = 0
        for value in hashes[first : first + ngram]:
            gram = (gram * 0x9E3779B97F4A7C15 + value) & U64
        found.append(((gram ^ (gram >> 32)) * 0xD6E8FEB86659FD93 & U64) >> 32)
    return found


@given(st.lists(documents, max_size=4), st.sampled_from([1, 2, 3, 5, 13]), units)
def test_any_text(texts, ngram, unit):
    expected = [slow_shingles(text, ngram, unit) for text in texts]
    assert lists(texts, ngram=ngram, unit=unit) == expected


@pytest.mark.parametrize("unit", ["words", "chars"])
@pytest.mark.parametrize("ngram", [1, 5, MOST_NGRAM])
def test_documents_of_many_blocks(ngram, unit):
    rng = random.Random(ngram)
    letters = string.ascii_letters + "éİ中_"
    for w in (BLOCK_UNITS - 1, BLOCK_UNITS, BLOCK_UNITS + 1, 3 * BLOCK_UNITS + 7):
        made = ["".join(rng.choices(letters, k=rng.choice([1, 2, 5, 9, 70]))) for _ in range(w)]
        text = "".join(word + rng.choice([" ", ", ", "\n\n", "—"]) for word in made)
        assert lists([text], ngram=ngram, unit=unit) == [slow_shingles(text, ngram, unit)]


@pytest.mark.parametrize("unit", ["words", "chars"])
def test_every_character_is_in_words_where_python_says_so_and_has_pythons_lower_case(unit):
    for start in range(0, len(EVERY_CHAR), 1 << 14):
        text = " ".join(EVERY_CHAR[start : start + (1 << 14)])
        assert lists([text], ngram=2, unit=unit) == [slow_shingles(text, 2, unit)]


def test_where_the_words_of_the_lower_cased_text_are_others():
    """Two differences to ``re.findall(r"\\w+", text.lower())``; that there is no third, every character says."""
    assert slow_words("ΟΔΟΣ") == ["οδοσ"]
    assert re.findall(r"\w+", "ΟΔΟΣ".lower()) == ["οδος"]
    assert slow_words("İlk") == ["i̇lk"]
    assert re.findall(r"\w+", "İlk".lower()) == ["i", "lk"]
    text = " ".join(c + "x" for c in EVERY_CHAR if c not in "İ")
    assert slow_words(text) == re.findall(r"\w+", text.lower())


def test_where_a_text_lies_makes_no_difference():
    texts = [
        "",
        "Ein Wort",
        "x" * 63 + " é",
        "—" * 21,
        "one two three four five six",
        "中文 字",
        "tail of it a b c d",
    ]
    alone = [lists([text])[0] for text in texts]
    assert lists(texts) == alone
    # The neighbours' bytes lie right before and behind, also where a document ends within the 64 or the 8.
    for start in range(len(texts)):
        for stop in range(start, len(texts) + 1):
            values, ends = shingles(column(texts).slice(start, stop - start), MinHash())
            assert values.tolist() == [value for part in alone[start:stop] for value in part]
            assert len(ends) == stop - start
    for pad in range(70):
        text = "y" * pad + " the quick brown fox jumps over it"
        assert lists([text, "zzz"])[0] == lists([text])[0] == slow_shingles(text, 5, "words")


@given(documents, gaps)
def test_what_lies_between_words_makes_no_difference(text, gap):
    found = re.findall(r"\w+", text)
    if len(found) >= 5:
        assert lists([gap + gap.join(found) + gap]) == lists([text])


short = st.lists(st.sampled_from(["a", "b", "ab", "A", "é"]), max_size=6)


@given(short, short, units)
def test_short_documents_share_nothing_unless_they_are_the_same(left, right, unit):
    ngram = 7 if unit == "words" else 20
    mine, theirs = lists([" ".join(left), " ".join(right)], ngram=ngram, unit=unit)
    assert len(mine) == len(theirs) == SHORT
    same = slow_words(" ".join(left)) == slow_words(" ".join(right))
    assert (mine == theirs) == same
    assert set(mine).isdisjoint(theirs) == (not same)


def test_documents_without_words_are_told_apart_by_their_bytes():
    texts = [
        "",
        " ",
        "  ",
        "\0",
        "\0\0",
        "😀",
        "😀😀",
        "...",
        "." * 8,
        "." * 16,
        "-" * 1000,
        "-" * 1001,
        "“”",
    ]
    found = lists(texts)
    assert [len(part) for part in found] == [SHORT] * len(texts)
    assert len({value for part in found for value in part}) == SHORT * len(texts)
    assert lists([*texts, *texts]) == found + found


def test_a_short_document_is_none_of_the_shingles_of_a_long_one():
    long = " ".join(f"w{k}" for k in range(5000))
    parts = lists([long, "w0 w1 w2 w3", "w1", "w7 w8"])
    assert not any(set(parts[0]) & set(part) for part in parts[1:])


@given(st.lists(documents, max_size=4), units)
def test_sets_are_the_shingles_once_each_and_in_order(texts, unit):
    values, ends = shingle_sets(column(texts), MinHash(ngram=2, unit=unit))
    expected = [sorted(set(slow_shingles(text, 2, unit))) for text in texts]
    assert values.tolist() == [value for part in expected for value in part]
    assert ends.tolist() == np.cumsum([len(part) for part in expected]).tolist()


def test_sets_of_equal_documents_side_by_side():
    """The last shingle of one document is the first of the next: each keeps its own."""
    values, ends = shingle_sets(column(["one two"] * 3), MinHash(ngram=2))
    assert ends.tolist() == [1, 2, 3]
    assert len(set(values.tolist())) == 1


HARD = [
    "a" * 1_000_000,
    "\n" * 1_000_000,
    "é" * 500_000,
    "x\n" * 500_000,
    "😀" * 250_000,
    "ภาษา" * 80_000,
    "İ" * 300_000,
]


@pytest.mark.parametrize("text", HARD, ids=["letters", "newlines", "é", "lines", "emoji", "Thai", "dotted I"])
def test_a_megabyte_of_one_kind(text):
    assert lists([text], ngram=3) == [slow_shingles(text, 3, "words")]
    values, ends = shingle_sets(column([text]), MinHash(unit="chars"))
    assert values.tolist() == sorted(set(slow_shingles(text, 5, "chars")))
    assert ends.tolist() == [len(values)]


def test_stored_shingles_stay_good():
    """Signatures are kept and compared with those of later runs: the numbers themselves are a promise."""
    assert lists(["The quick brown Fox jumps over the lazy dog"]) == [GOLDEN]
    assert lists(["The quick brown Fox"], unit="chars", ngram=18) == [GOLDEN_CHARS]
    assert lists(["Too short", ""]) == GOLDEN_SHORT


GOLDEN = [1746910944, 2846834884, 4005955687, 249747551, 2645547456]
GOLDEN_CHARS = [4151708587, 764906291]
GOLDEN_SHORT = [
    [1912292740, 782248892, 3740054294, 3865651941],
    [1134377200, 2647066257, 2237726286, 2905745654],
]


GUARDED = """
import ctypes, mmap
import numpy as np, pyarrow as pa
from winnow.filters.minhash_settings import MinHash
from winnow.filters.shingles import shingles

page = mmap.PAGESIZE
place = mmap.mmap(-1, 2 * page)
address = ctypes.addressof(ctypes.c_char.from_buffer(place))
assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + page), page, 0) == 0
texts = ["word " * 9 + "a", "b" * 8, "c" * 63, "d " * 40, "中文", "e é", "😀", "f " * 31 + "İ"]
for text in texts:
    data = text.encode()
    place[page - len(data) : page] = data
    utf8 = pa.foreign_buffer(address + page - len(data), len(data), place)
    offsets = pa.py_buffer(np.array([0, len(data)], np.int64))
    column = pa.Array.from_buffers(pa.large_string(), 1, [None, offsets, utf8])
    for unit in ("words", "chars"):
        there, _ = shingles(column, MinHash(unit=unit))
        assert there.tolist() == shingles(pa.array([text], pa.large_string()), MinHash(unit=unit))[0].tolist()
print("read nothing behind it")
"""


def test_nothing_behind_the_text_is_read():
    """The text ends where memory does: one byte more and the process is gone."""
    done = subprocess.run([sys.executable, "-c", GUARDED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "read nothing behind it\n"), done.stderr


def test_no_documents():
    values, ends = shingles(column([]), MinHash())
    assert (len(values), len(ends)) == (0, 0)
    values, ends = shingle_sets(column([]), MinHash())
    assert (len(values), len(ends)) == (0, 0)


def test_what_is_no_column_of_text_is_refused():
    with pytest.raises(TypeError, match="LargeStringArray"):
        shingles(pa.array(["a"]), MinHash())
    with pytest.raises(ValueError, match="nulls"):
        shingle_sets(column(["a", None]), MinHash())


def test_jaccard_of_the_truth_set():
    """Its similarities are those of word 5-grams of ``re.findall(r"\\w+", text.lower())``, counted without hashes."""
    if not TRUTH.is_dir():
        pytest.skip("needs the shared corpora beside the checkout")
    with zstandard.open(TRUTH / "docs.jsonl.zst", "rt", encoding="utf-8") as lines:
        texts = {row["id"]: row["text"] for row in map(json.loads, lines)}
    place = {id_: i for i, id_ in enumerate(texts)}
    with open(TRUTH / "pairs.jsonl", encoding="utf-8") as lines:
        pairs = [json.loads(line) for line in lines]
    sets, ends = shingle_sets(column(list(texts.values())), MinHash())
    left, right = (np.array([place[pair[side]] for pair in pairs]) for side in "ab")
    found = jaccard(sets, ends, left, right)
    apart = [
        pair
        for pair, similarity in zip(pairs, found, strict=True)
        if abs(similarity - pair["jaccard"]) > 1e-6
    ]
    # "İ" ends a word in the truth set's definition and is a part of it in ours.
    assert all("İ" in texts[pair["a"]] + texts[pair["b"]] for pair in apart)
    assert len(apart) <= 2
    assert np.abs(found - [pair["jaccard"] for pair in pairs]).max() < 0.005
