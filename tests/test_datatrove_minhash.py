"""Are the signatures datatrove's, of any text, and so the clusters?"""

import io
import itertools
import json
import random
import sys
import unicodedata
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import example, given
from hypothesis import strategies as st
from winnow.filters import datatrove_text, english, english_rules
from winnow.filters.datatrove_minhash import band_keys, parameters, signatures, xxh64
from winnow.filters.datatrove_text import PAD, simplified, simplify
from winnow.filters.datatrove_words import specials, words_of_simplified

pytest.importorskip("spacy", reason="needs the extra `datatrove`")
pytest.importorskip("datatrove", reason="needs the extra `datatrove`")

import spacy
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster
from datatrove.utils.text import simplify_text

TRUTH = Path(__file__).resolve().parents[1].parent / "shared" / "dedup_truth"

NO_SLOT = 2**64 - 1
POINTS = [p for p in range(0x110000) if not 0xD800 <= p < 0xE000]
ORDERED = [
    c
    for c in map(chr, POINTS)
    if c != "Σ"
    and any(
        unicodedata.combining(part) and unicodedata.category(part) != "Mn"
        for part in unicodedata.normalize("NFD", c.lower())
    )
]

NUMBERS = ["0", "12", "٣", "१२", "𝟗", "𑽐", ".", ",", "،", "٫", "⎖", "1.2.3", "1,234,567.8", "²", "Ⅷ"]
CASES = ["A", "É", "İ", "Σ", "ΑΣ", "ς", "ẞ", "K", "Å", "Ⱥ", "Dž", "ΐ", "ŉ"]
MARKS = ["\u0301", "\u0316", "\u0301\u0316", "\u0338", "\u034f", "\u20dd", "\u0903", *ORDERED]
FORMS = ["é", "각", "한국어", "ো", "≠", "\u037e", "`", "´", "ﬁ", "中", "あ", "가́", "😀", "\u2126"]
SPACES = [" ", " ", " ", "  ", "\n", "\t", "\u3000", "\u2028", "\x85", "\x1c", "\xa0", "\u200b"]
WORDS = ["the", "cannot", "Gonna", "don't", "0km", "5°C.", "a.m.", "c++", "e.g.", "it's", "www.a.org", "Mr."]
PIECES = [*NUMBERS, *CASES, *MARKS[:7], *FORMS, *WORDS, *SPACES * 2, *"!/—”:-_|$~'", "\0", "\x7f"]
some_text = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=40).map("".join),
    st.lists(st.sampled_from([*MARKS, *"a 1", "é", "각"]), max_size=20).map("".join),
    st.text(max_size=20),
)


def column(texts):
    return pa.array(texts, pa.large_string())


@pytest.fixture(scope="module")
def datatrove_step(tmp_path_factory):
    """datatrove's own step for a configuration, whose methods are called on single texts."""
    made = {}

    def step(**config):
        key = tuple(config.items())
        if key not in made:
            folder = str(tmp_path_factory.mktemp("datatrove"))
            made[key] = MinhashDedupSignature(folder, MinhashConfig(**config))
        return made[key]

    return step


def slow_signature(step, text):
    """The signature of one text by datatrove; None where it has none."""
    shingles = step.get_shingles(text)
    return [slot for bucket in step.get_signature(shingles) for slot in bucket] if shingles.size else None


def assert_signed_as(step, texts, **settings):
    rows, signed = signatures(column(texts), **settings)
    for text, row, has in zip(texts, rows.tolist(), signed, strict=True):
        expected = slow_signature(step, text)
        assert has == (expected is not None), text
        assert row == (expected or [NO_SLOT] * len(row)), text


def test_golden_values():
    """Printed by datatrove 0.9.0 with its defaults."""
    text = "The quick brown fox, aged 12.5 years, can't jump over Zoë's lazy dog on Monday; e.g. it won't."
    simple = "the quick brown fox aged 0 years can t jump over zoe s lazy dog on monday e g it won t"
    assert simplify(column([text])).to_pylist() == [simple]
    a, b = parameters(112, 1)
    assert a[:2].tolist() == [775169054918279404, 1758426461858698313]
    assert b[:2].tolist() == [1062448801025099917, 1324811268927594100]
    first = b"the quick brown fox aged"
    assert xxh64(np.frombuffer(first + bytes(PAD), np.uint8), 0, len(first)) == 1011826756027247215
    rows, signed = signatures(column([text]))
    assert signed.tolist() == [True]
    assert rows[0, :3].tolist() == [622574886794934837, 111477205465765260, 35637673063018658]


@given(st.binary(max_size=150), st.integers(0, 9), st.integers(0, 255))
def test_xxh64_is_that_of_the_xxhash_package(data, start, behind):
    start = min(start, len(data))
    read = np.frombuffer(data + bytes([behind]) * PAD, np.uint8)
    assert xxh64(read, start, len(data)) == xxhash.xxh64_intdigest(data[start:])


@pytest.mark.parametrize("around", ["{}", "a{}b", "1{}2", " {} ", "1{}", "\u0301{}\u0316", "Σ{}x"])
def test_every_character_is_simplified_as_datatrove_does(around):
    """A few hundred to a text, with a word between: what depends on neighbours has only its own."""
    for_python = set(ORDERED) | {"Σ"}
    chars = [c for c in map(chr, POINTS) if c not in for_python] + sorted(for_python)
    texts = [" x ".join(around.format(c) for c in chars[at : at + 500]) for at in range(0, len(chars), 500)]
    assert simplify(column(texts)).to_pylist() == [simplify_text(text) for text in texts]


@given(st.lists(some_text, max_size=5))
@example(["Σ", "ΑΣ", "ΑΣ.", "ΑΣα", "Σ\u0301", "\u302e Σ \u302f\u302e"])
@example([" \u0301 a", "a \u0301 ", "\u0301 \u0301", "a \u0301 b", "1\u03012", "\u0301"])
@example(["1.2.3", "1..2", ".5", "5.", "1٫٢⎖3", "1.٣.", "1,2,3,4"])
@example(["\u302f\u302e", "\u302f \u302e", "\u302f\u0301\u302e", "\u302f\u034f\u302e", "\U0001d160\u302e"])
@example(["각" * 50, "a" * 3, "", " ", "각", "\u302f" + "각" * 50])
@example(["각", "a" * 6])
@example(["각각", "a" * 12, "Σ" * 6])
def test_any_text_is_simplified_as_datatrove_does(texts):
    offsets, utf8 = simplified(column(texts))
    found = [bytes(utf8[start:stop]).decode() for start, stop in itertools.pairwise(offsets)]
    assert found == simplify(column(texts)).to_pylist() == [simplify_text(text) for text in texts]
    assert len(utf8) >= offsets[-1] + PAD


@pytest.mark.parametrize("marks", ["\u302e\u302a", "\ua953\u302e", "\u302f\u302a\u1baa"])
def test_marks_are_put_in_order_in_linear_time(marks):
    """What `simplify_text` calls, `unicodedata.normalize`, takes time by the square of a run of marks."""
    assert simplify(column(["a" + marks * 200 + "b"])).to_pylist() == [simplify_text("a" + marks * 200 + "b")]
    (long,) = simplify(column(["a" + marks * 200_000 + "b"])).to_pylist()
    kept = sorted(marks.replace("\u302a", ""), key=unicodedata.combining)
    assert long == "a" + "".join(mark * 200_000 for mark in kept) + "b"


def test_a_slice_of_a_column_is_read_in_place():
    texts = ["Σαν 1.5", "", "각각각 a", "The B, c d e f g.", "\u302f\u302e x"]
    rows, signed = signatures(column(texts))
    for start in range(6):
        for size in range(6 - start):
            part = column(texts).slice(start, size)
            assert simplify(part).to_pylist() == [simplify_text(text) for text in texts[start : start + size]]
            some_rows, some_signed = signatures(part)
            np.testing.assert_array_equal(some_rows, rows[start : start + size])
            np.testing.assert_array_equal(some_signed, signed[start : start + size])


def test_characters_of_words_in_simplified_text_are_no_affixes():
    """So a chunk of letters is a word, unless it is a special case."""
    letters = english.load()["by_char"][ord("a") : ord("z") + 1]
    assert not np.any(letters & english_rules.ACTIVE)


def words_of(text, room):
    """The words of a text without whitespace other than spaces, as the kernel cuts them; None for lack of room."""
    utf8 = text.encode()
    read = np.frombuffer(b"b " + utf8 + b"a" * PAD, np.uint8)
    words, marks = english.scratch(room)
    n = words_of_simplified(read, 2, 2 + len(utf8), english.load(), specials(), words, marks)
    if n < 0:
        return None
    return [read[a:b].tobytes().decode() for a, b in zip(words.starts[:n], words.stops[:n], strict=True)]


SPACY = spacy.blank("en").tokenizer
SPECIALS = sorted(text for text in SPACY.rules if not any(map(str.isspace, text)))
CHUNKS = ["cannot", "gonna", "id", "im", "couldntve", "couldntvex", "whenllve", "word", "internationally"]
CHUNKS += [
    "0km",
    "0",
    "é",
    "dont\u0435",
    "中文",
    "ab",
    "abcdefgh",
    "abcdefghi",
    "a" * 16,
    "≠",
    "a≠b",
    "`",
    "x`",
    "‿",
]


@given(
    st.lists(st.sampled_from(CHUNKS + SPECIALS), max_size=12), st.sampled_from([" ", "  ", "", "≠", "0", "("])
)
@example(SPECIALS, " ")
@example([special[:-1] for special in SPECIALS], " ")
@example(["x" + special for special in SPECIALS], " ")
@example([special + "s" for special in SPECIALS], " ")
@example(SPECIALS, "≠")
@example(["(a.m)", "8a.m.", "(", "a.m)"], " ")
def test_words_of_simplified_text_are_spacys(chunks, between):
    for text in (between.join(chunks), simplify_text(between.join(chunks))):
        expected = [word.text for word in SPACY(text) if not word.is_space]
        assert words_of(text, 2 * len(text.encode())) == expected


def test_words_without_room():
    assert words_of("a b c", 3) == ["a", "b", "c"]
    assert words_of("a b c", 2) is None
    assert words_of("a cannot", 2) is None


@given(texts=st.lists(some_text, max_size=5))
@example(["a b c d", "a b c d e", "a b c d e f", "", "a, b. c d-e"])
@example(["a \u0301 b c d e", "a b c d e \u0301 f g h i j k", "aa b  c d e \u0316  \u0301 f"])
@example(["cannot gonna 0km a b", "one two three four 5km", "I cannot see it", "5 °C. in U.S. a.m."])
def test_any_text_is_signed_as_datatrove_does(datatrove_step, texts):
    assert_signed_as(datatrove_step(), texts)


@pytest.mark.parametrize(
    ("ngram", "bands", "rows", "seed"), [(1, 3, 5, 0), (3, 1, 1, 42), (8, 20, 9, 2**32 - 1)]
)
def test_other_settings(datatrove_step, ngram, bands, rows, seed):
    step = datatrove_step(n_grams=ngram, num_buckets=bands, hashes_per_bucket=rows, seed=seed)
    words = random.Random(3).choices(WORDS, k=400)
    texts = [" ".join(words[:size]) for size in (0, 1, 2, 3, 7, 8, 9, 50, 400)]
    assert_signed_as(step, texts, ngram=ngram, slots=bands * rows, seed=seed)


def test_texts_of_any_length_are_signed(datatrove_step):
    """Around the sizes that hashes are taken in: groups and blocks, of which the last is filled up."""
    words = [f"w{chr(97 + i % 26)}{chr(97 + i // 26 % 26)}{chr(97 + i // 676)}" for i in range(4200)]
    random.Random(5).shuffle(words)
    sizes = [*range(4, 40), 67, 68, 69, 2050, 2051, 2052, 2053, 2054, 2084, 4100, 4101, 4200]
    assert_signed_as(datatrove_step(), [" ".join(words[:size]) for size in sizes])


def test_words_longer_than_any_block(datatrove_step):
    texts = [f"{'x' * size} b {'cd' * size} e f g {'é' * size}" for size in (1, 31, 32, 33, 100, 4000)]
    assert_signed_as(datatrove_step(), texts)


HOSTILE = {
    "one-letter words": "a " * 500_000,
    "newlines": "\n" * 1_000_000,
    "one word": "x" * 1_000_000,
    "base64": "QUJD+/9=" * 125_000,
    "digits": "1" * 1_000_000,
    "versions": "1." * 500_000,
    "emoji": "😀" * 250_000,
    "thai": "สวัสดี" * 55_000,
    "chinese": "中文，字。" * 66_000,
    "hangul": "한국어" * 110_000,
    "marks": "a" + "\u0301\u0316" * 250_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_megabyte_of_anything_is_signed(text):
    """And stands in nobody's way; shorter, all these are compared with datatrove's below."""
    (row, *others), signed = signatures(column([text, "a b c d e f", text]))
    np.testing.assert_array_equal(row, others[1])
    np.testing.assert_array_equal(others[:1], signatures(column(["a b c d e f"]))[0])
    assert signed[1]


def test_hostile_text_is_signed_as_datatrove_does(datatrove_step):
    texts = [text[:6000] for text in HOSTILE.values()]
    assert_signed_as(datatrove_step(), texts)


def test_what_cannot_be_signed_is_an_error():
    with pytest.raises(ValueError, match="ngram 0 and slots 112"):
        signatures(column(["a"]), ngram=0)
    with pytest.raises(ValueError, match="ngram 5 and slots 0"):
        signatures(column(["a"]), slots=0)
    with pytest.raises(TypeError, match="LargeStringArray"):
        signatures(pa.array(["a"]))
    with pytest.raises(ValueError, match="no nulls"):
        signatures(column(["a", None]))


def test_without_datatrove_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datatrove.utils.text", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'winnow\[datatrove\]'"):
        datatrove_text._tables.__wrapped__()


def test_band_keys_are_equal_where_band_and_slots_are():
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 3, (5000, 6), np.uint64)
    keys = band_keys(rows, 3, 2)
    bands = [(k, *rows[i, 2 * k : 2 * k + 2].tolist()) for i in range(5000) for k in range(3)]
    assert (
        len(set(bands))
        == len(set(keys.ravel().tolist()))
        == len(set(zip(bands, keys.ravel().tolist(), strict=True)))
        == 27
    )
    different = np.arange(1_200_000, dtype=np.uint64).reshape(-1, 2)
    assert len(np.unique(band_keys(different, 1, 2))) == len(different)
    for bit in range(64):
        assert (
            len(np.unique(band_keys(different ^ np.uint64(1 << bit), 1, 2) >> np.uint64(32)))
            > len(different) * 0.999
        )
    np.testing.assert_array_equal(band_keys(np.asfortranarray(rows), 3, 2), keys)
    assert band_keys(rows[:0], 3, 2).shape == (0, 3)
    for bands_, rows_ in ((3, 3), (0, 6), (-3, -2)):
        with pytest.raises(ValueError, match="6 slots are not"):
            band_keys(rows, bands_, rows_)


@pytest.fixture(scope="module")
def truth():
    """1,500 documents, with both of most pairs of near duplicates, in the order of the file."""
    zstandard = pytest.importorskip("zstandard")
    if not TRUTH.is_dir():
        pytest.skip("needs the shared corpora beside the checkout")
    pairs = [json.loads(line) for line in (TRUTH / "pairs.jsonl").read_text().splitlines()[:700]]
    chosen = {pair[side] for pair in pairs for side in "ab"}
    with open(TRUTH / "docs.jsonl.zst", "rb") as raw:
        lines = io.TextIOWrapper(
            zstandard.ZstdDecompressor().stream_reader(raw), encoding="utf-8", newline="\n"
        )
        documents = [json.loads(line) for line in lines]
    others = [document["id"] for document in documents if document["id"] not in chosen]
    chosen |= set(others[: 1500 - len(chosen)])
    return [document["text"] for document in documents if document["id"] in chosen]


@pytest.fixture(scope="module")
def datatrove_run(truth, tmp_path_factory):
    """The folder in which datatrove has been through its stages 1 to 3."""
    folder = tmp_path_factory.mktemp("stages")
    signed, matched, clustered = (str(folder / name) for name in ("signed", "matched", "clustered"))
    documents = [Document(text=text, id=str(i)) for i, text in enumerate(truth)]
    stages = [
        ([documents, MinhashDedupSignature(signed)], 1),
        ([MinhashDedupBuckets(signed, matched)], 14),
        ([MinhashDedupCluster(matched, clustered, save_cluster_id=True)], 1),
    ]
    for k, (pipeline, tasks) in enumerate(stages):
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=str(folder / f"log{k}")).run()
    return folder


@pytest.mark.slow
def test_signatures_of_real_text_are_datatroves(truth, datatrove_run):
    rows, signed = signatures(column(truth))
    assert len(truth) == 1500
    for band in range(14):
        stored = np.fromfile(
            datatrove_run / f"signed/bucket_{band:03d}/00000.minhash.sig", np.dtype("<8u8, <u4")
        )
        assert sorted(stored["f1"].tolist()) == np.flatnonzero(signed).tolist()
        np.testing.assert_array_equal(rows[stored["f1"], 8 * band : 8 * band + 8], stored["f0"])


def union(sets):
    """Groups of what is connected by being in one of the sets, of those of two and more."""
    group = {}
    for members in sets:
        joined = set(members).union(*(group[member] for member in members if member in group))
        group.update(dict.fromkeys(joined, frozenset(joined)))
    return {members for members in group.values() if len(members) > 1}


@pytest.mark.slow
def test_clusters_of_real_text_are_datatroves(truth, datatrove_run):
    rows, signed = signatures(column(truth))
    sharing = defaultdict(list)
    for document in np.flatnonzero(signed).tolist():
        for key in band_keys(rows[document : document + 1])[0].tolist():
            sharing[key].append(document)
    clusters = defaultdict(set)
    stored = np.fromfile(datatrove_run / "clustered/000000.clusters", np.dtype("<u4, <u4"))
    for document, cluster in stored.tolist():
        clusters[cluster].add(document)
    assert len(clusters) > 250
    assert union(sharing.values()) == {frozenset(members) for members in clusters.values()}
