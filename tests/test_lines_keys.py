"""Are lines the same exactly when their normal forms are, and is what a cut leaves what its definition says?"""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from winnow.filters import line_keys as module
from winnow.filters.line_keys import PUNCTUATION, SeenKeys, cut_lines, line_keys
from winnow.filters.lines_settings import Lines

CORPORA = Path(__file__).resolve().parents[1].parent / "shared" / "corpora"
UNITS = ("line", "paragraph")

SPACES = [c for c in map(chr, range(0x110000)) if c.isspace()]
PIECES = [
    *(
        "a",
        "A",
        "Home",
        "HOME",
        "home",
        "é",
        "E\u0301",
        "ß",
        "ẞ",
        "İ",
        "i\u0307",
        "K",
        "k",
        "ſ",
        "中",
        "文",
        "𝔸",
        "😀",
    ),
    *("Σ", "σ", "ς", "ΟΔΟΣ", "οδος", "Ⱥ", "ⱥ", "Ǆ", "ǅ", "ǆ"),
    *("0", "7", "2026", "٣", "७", "𝟘", "²", "½", "①", "／", ":", "@", "[", "`", "{", "~", "!", "/", "."),
    *(
        " ",
        "  ",
        "\t",
        "\r",
        "\x00",
        "\x1f",
        "\x7f",
        "\x80",
        "\x85",
        "\x9f",
        "\xa0",
        "\u3000",
        "\u200b",
        "\ufeff",
    ),
    *PUNCTUATION,
    *("‐", "‘", "«", "1" * 9, "abcdefgh", "abcdefg", "ABCDEFGHI", "About us | Contact", "© 2024 Acme, Inc."),
    *("\U0010ffff", "\uffff", "\ue000", "\ud7ff"),
]
lines = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=8).map("".join),
    st.text(alphabet=st.characters(codec="utf-8"), max_size=12),
)
breaks = st.sampled_from(["\n", "\n", "\n", "\n\n", "\n \n", "\r\n", "\n\n\n", "\n\u3000\n"])


@st.composite
def texts(draw):
    """Lines of which some come again, behind breaks of all kinds."""
    some = draw(st.lists(lines, min_size=1, max_size=4))
    parts = draw(st.lists(st.sampled_from([*some, *some, "Home", "home"]), max_size=8))
    return "".join(part + draw(breaks) for part in parts) + draw(st.sampled_from(["", *some]))


def column(values):
    return pa.array(values, pa.large_string())


# ---- the definitions, slowly -------------------------------------------------------------------------------------


def lower(text):
    """Each character by itself; the final sigma as the other."""
    return "".join(c.lower() for c in text).replace("ς", "σ")


def normal(line):
    line = re.sub(r"\d", "0", lower(line.strip()))
    return "".join(c for c in line if c not in PUNCTUATION and not (c < " " or "\x7f" <= c <= "\x9f"))


def by_the_paper(line):
    """The same with Python's lower case of the whole line, as CCNet takes it."""
    line = re.sub(r"\d", "0", line.strip().lower())
    return "".join(c for c in line if c not in PUNCTUATION and not (c < " " or "\x7f" <= c <= "\x9f"))


def slow_units(text, by):
    """(numbers of a unit's lines, its normal form) of each unit."""
    every = enumerate(text.split("\n"))
    runs = [
        list(run) for filled, run in itertools.groupby(every, lambda pair: bool(pair[1].strip())) if filled
    ]
    units = runs if by == "paragraph" else [[pair] for run in runs for pair in run]
    return [([n for n, _ in unit], " ".join(normal(line) for _, line in unit)) for unit in units]


def slow_cut(text, by, gone):
    """What is left where the units with these numbers go; None where nothing but whitespace is."""
    units = slow_units(text, by)
    if not gone:
        return text
    if len(gone) == len(units):
        return None
    every = text.split("\n")
    stay = [numbers for u, (numbers, _) in enumerate(units) if u not in gone]
    away = set()
    for u in gone:
        numbers, _ = units[u]
        away.update(numbers)
        if by == "paragraph":
            after = units[u + 1][0][0] if u + 1 < len(units) else len(every)
            away.update(range(numbers[-1] + 1, after))
    if len(units) - 1 in gone:
        end = "\n" if text.endswith("\n") else ""
        return "\n".join(every[n] for n in range(stay[-1][-1] + 1) if n not in away) + end
    return "\n".join(line for n, line in enumerate(every) if n not in away)


def assert_units(values, found, by):
    slow = [unit for value in values for unit in slow_units(value, by)]
    assert np.diff(found.edges).tolist() == [len(slow_units(value, by)) for value in values]
    assert len(found.keys) == len(slow)
    assert found.keys.all(), "0 is no key"
    keys = {}
    for (_, form), key in zip(slow, found.keys.tolist(), strict=True):
        assert keys.setdefault(form, key) == key, form
    assert len(set(keys.values())) == len(keys), "two forms have one key"
    for i, value in enumerate(values):
        data = value.encode()
        every = value.split("\n")
        starts = [0, *itertools.accumulate(len(line.encode()) + 1 for line in every)]
        for u, (numbers, _) in enumerate(slow_units(value, by), start=found.edges[i]):
            begin, end = int(found.begins[u]), int(found.ends[u])
            assert (begin, end) == (starts[numbers[0]], min(starts[numbers[-1] + 1], len(data)))
            assert end == len(data) or data[end - 1 : end] == b"\n"


# ---- what a unit is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", UNITS)
@given(st.lists(texts(), max_size=5), st.integers(0, 2))
def test_units_are_the_same_exactly_when_their_forms_are(by, values, skip):
    skip = min(skip, len(values))  # a slice, whose buffers begin elsewhere
    assert_units(values[skip:], line_keys(column(values).slice(skip), by), by)


def test_every_character_is_folded_as_its_form_says():
    every = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000 and chr(c) != "\n"]
    ordinary = [
        c for c in every if c > "\u3000" and c.lower() == c and not c.isdecimal() and c not in PUNCTUATION
    ]
    values = [f"x{c}y" for c in [*sorted(set(every) - set(ordinary)), *ordinary[::61]]]
    forms = {}
    for form, key in zip(map(normal, values), line_keys(column(values), "line").keys.tolist(), strict=True):
        assert forms.setdefault(form, key) == key, form
    assert len(set(forms.values())) == len(forms)


@given(st.lists(lines.map(lambda line: line.replace("\n", "")), max_size=6))
def test_what_is_the_same_for_ccnet_is_the_same_here(values):
    values = [value for value in values if value.strip()]
    keys = line_keys(column(values), "line").keys.tolist()
    by_form = {}
    for value, key in zip(values, keys, strict=True):
        assert by_form.setdefault(by_the_paper(value), key) == key


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Copyright 2019", "  COPYRIGHT 2026\r", True),
        ("»Read more…", "read more", True),
        ("» Read more", "read more", False),
        ("Read more...", "Read more", False),
        ("a,b", "ab", False),
        ("a\tb", "ab", True),
        ("a b", "a  b", False),
        ("café", "cafe", False),
        ("ΟΔΟΣ", "οδος", True),
        ("Page ٣", "page 7", True),
        ("x²", "x0", False),
        ("12345678", "1234567", False),
        ("abcdefgh", "abcdefgh—", True),
        ("—", "…", True),
    ],
)
def test_same_lines_by_hand(one, other, same):
    a, b = line_keys(column([one, other]), "line").keys.tolist()
    assert (a == b) is same


def test_a_paragraph_may_break_its_lines_elsewhere():
    found = line_keys(
        column(["All rights\nreserved.\n\nNext", "all  \n", "\n\nAll rights reserved. \n \n\n"]), "paragraph"
    )
    assert found.edges.tolist() == [0, 2, 3, 4]
    assert found.keys[0] == found.keys[3]
    assert len(set(found.keys.tolist())) == 3


def test_a_key_does_not_depend_on_what_is_around_the_line():
    line = "The QUICK brown fox — 12 times"
    keys = [
        line_keys(column(["." * n + "\n" + line + end]), "line").keys[1]
        for n in range(1, 17)
        for end in ("", "\n", "\n" + "x" * 9, " " * 9)
    ]
    assert len(set(map(int, keys))) == 1


# ---- cuts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", UNITS)
@given(st.lists(texts(), max_size=4), st.integers(0, 2), st.randoms(use_true_random=False))
def test_what_is_left_is_what_the_definition_leaves(by, values, skip, random):
    values = values[min(skip, len(values)) :]
    array = column(["skipped\nline", *values]).slice(1)
    found = line_keys(array, by)
    share = random.choice([0, 0.3, 0.7, 1])
    gone = np.array([random.random() < share for _ in found.keys], bool)
    cuts = cut_lines(array, found, by, gone)
    assert cuts.places.dtype == np.uint32
    for i, value in enumerate(values):
        mine = np.flatnonzero(gone[found.edges[i] : found.edges[i + 1]]).tolist()
        expected = slow_cut(value, by, set(mine))
        places = cuts.places[cuts.edges[i] : cuts.edges[i + 1]].tolist()
        assert places == sorted(set(places)), "ascending and disjoint"
        data = value.encode()
        edges = [0, *places, len(data)]
        left = b"".join(data[a:b] for a, b in zip(edges[0::2], edges[1::2], strict=True)).decode()
        assert cuts.dropped[i] == (expected is None)
        assert left == (expected or "")
        if cuts.dropped[i]:
            assert places == [0, len(data)]


@pytest.mark.parametrize(
    ("by", "text", "gone", "left"),
    [
        ("line", "a\nb\nc", [1], "a\nc"),
        ("line", "a\nb", [1], "a"),
        ("line", "a\nb\n", [1], "a\n"),
        ("line", "a\r\nb\r\nc", [0], "b\r\nc"),
        ("line", "a\n\nb\n\nc", [1], "a\n\n\nc"),
        ("line", "a\n\nb\n\nc\n", [1, 2], "a\n"),
        ("line", "\n\na\nb", [0], "\n\nb"),
        ("paragraph", "a\nb\n\nc\n\n\nd\n", [1], "a\nb\n\nd\n"),
        ("paragraph", "a\nb\n\nc\n\n\nd", [2], "a\nb\n\nc"),
        ("paragraph", "a\nb\n\nc", [0], "c"),
    ],
)
def test_cuts_by_hand(by, text, gone, left):
    found = line_keys(column([text]), by)
    flags = np.isin(np.arange(len(found.keys)), gone)
    cuts = cut_lines(column([text]), found, by, flags)
    edges = [0, *cuts.places.tolist(), len(text)]
    assert "".join(text[a:b] for a, b in zip(edges[0::2], edges[1::2], strict=True)) == left
    assert slow_cut(text, by, set(gone)) == left


# ---- the set of keys ---------------------------------------------------------------------------------------------


@given(
    st.lists(st.lists(st.integers(1, 12) | st.integers(1, 2**64 - 1), max_size=30), max_size=4),
    st.integers(1, 9),
)
def test_seen_keys_numbers_what_is_new_until_it_is_full(batches, most):
    seen = SeenKeys(most)
    met: dict[int, int] = {}
    for batch in batches:
        left = batch
        while True:
            new = seen.add(np.array(left, np.uint64)).tolist()
            for key, is_new in zip(left, new, strict=False):
                assert is_new == (key not in met)
                met[key] = met.get(key, 0) + 1
            assert seen.keys.tolist() == list(met)
            assert seen.again.tolist() == [n > 1 for n in met.values()]
            left = left[len(new) :]
            if not left:
                break
            assert len(met) == most, "it stopped with room left"
            assert left[0] not in met
            seen.clear()
            met.clear()


# ---- any text, real text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", UNITS)
@pytest.mark.parametrize(
    "text",
    ["", "\n", "\n" * 100_000, " \n" * 50_000, "a\n" * 100_000, "x" * 1_000_000, "中" * 300_000, "😀\n" * 50_000,
     "ก็" * 200_000, "QUJDREVG" * 100_000, "\u3000" * 100_000, "a\n\n" * 50_000, "\x00" * 100_000],
    ids=lambda text: ascii(text[:6]),
)  # fmt: skip
def test_awkward_documents(by, text):
    found = line_keys(column([text, "a\nb"]), by)
    assert_units([text, "a\nb"], found, by)
    cuts = cut_lines(column([text, "a\nb"]), found, by, np.ones(len(found.keys), bool))
    assert cuts.dropped.tolist() == [bool(text.strip()), True]


def test_texts_are_checked():
    with pytest.raises(TypeError, match="LargeStringArray"):
        line_keys(pa.array(["a"]), "line")
    with pytest.raises(ValueError, match="nulls"):
        line_keys(column(["a", None]), "line")
    assert len(line_keys(column([]), "line").keys) == 0


def test_tables_are_not_to_be_written():
    with pytest.raises(ValueError, match="read-only"):
        module._line_spellings()[0] = 1


@pytest.mark.parametrize("by", UNITS)
def test_real_text(by):
    if not CORPORA.is_dir():
        pytest.skip("needs the shared corpora beside the checkout")
    import zstandard

    values = []
    for folder in ("web_crawl_text", "web_docs_multi", "code", "low_quality", "wiki"):
        for path in sorted((CORPORA / folder).glob("*.jsonl.zst"))[:2]:
            with zstandard.open(path, "rt", encoding="utf-8") as rows:
                table = [
                    re.search(r'"text": ?("(?:[^"\\]|\\.)*")', row)
                    for row, _ in zip(rows, range(40), strict=False)
                ]
            values += [json.loads(found.group(1))[:10_000] for found in table if found]
    assert len(values) > 100
    assert_units(values, line_keys(column(values), by), by)


# ---- settings ----------------------------------------------------------------------------------------------------


def test_settings():
    assert Lines().model_dump() == {"by": "line", "keep": "first"}
    with pytest.raises(ValueError, match="by"):
        Lines(by="sentence")
    with pytest.raises(ValueError, match="extra"):
        Lines(min_chars=3)
