"""Are word boundaries where Unicode's rules put them, and does every character have the class Unicode gives it?"""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from winnow.filters.uax29 import character_tables, next_word, split
from winnow.filters.uax29_table import CLASSES, PICTOGRAPHIC

# One or more of every class and of what is ignored, letters of each length in UTF-8, and pictographs that are letters.
OF_EVERY_CLASS = [
    *"aZé中ไ7٣_'\".,:; \t\n\r\v\u2028\u0085\u3000·’‿ー",
    *"\u0301\u00ad\u200d\u200c\u200b\u2060\ufe0f",
    *"אבアカ🇦🇧🇨👩❤ⓂℹA\u0600\U0001d7d9\U0001f3fb²ªǅ",
    *"\r\n",
    "\r\n",
    "👩\u200d❤",
]
awkward = st.one_of(
    st.lists(st.sampled_from(OF_EVERY_CLASS), max_size=25).map("".join),
    st.lists(st.sampled_from(OF_EVERY_CLASS[:20] + [" ", "a", "1"] * 5), max_size=25).map("".join),
    st.text(max_size=20),
)


def klass(char):
    return CLASSES[character_tables()[1][ord(char)] & 31]


def slow_split(text):
    """UAX #29's list of rules, tried in their order between any two characters."""
    letters, ignored = ("ALetter", "Hebrew_Letter"), ("Extend", "Format", "ZWJ")
    in_letters, in_digits = (
        ("MidLetter", "MidNumLet", "Single_Quote"),
        ("MidNum", "MidNumLet", "Single_Quote"),
    )
    breaks = ("CR", "LF", "Newline")
    classes = [klass(c) for c in text]
    # WB4: what is ignored belongs to the character before it, unless there is none, or it is a line break.
    own = [i for i, c in enumerate(classes) if c not in ignored or i == 0 or classes[i - 1] in breaks]
    own += [i for i in range(1, len(text)) if i not in own and not set(range(i)) & set(own)]
    effective = {i: classes[i] for i in own}

    def around(i):
        at = own.index(i)
        names = [effective[k] for k in own]
        padded = [None, None, *names, None, None]
        return padded[at], padded[at + 1], padded[at + 2], padded[at + 3]

    def joined(i):
        left, right = classes[i - 1], classes[i]
        if (left, right) == ("CR", "LF"):
            return True
        if left in breaks or right in breaks:
            return False
        if left == "ZWJ" and character_tables()[1][ord(text[i])] & PICTOGRAPHIC:
            return True
        if left == right == "WSegSpace":
            return True
        if right in ignored:
            return True
        two, one, here, after = around(i)
        if one in letters and here in letters:
            return True
        if one in letters and here in in_letters and after in letters:
            return True
        if two in letters and one in in_letters and here in letters:
            return True
        if (one, here) == ("Hebrew_Letter", "Single_Quote"):
            return True
        if (one, here, after) == ("Hebrew_Letter", "Double_Quote", "Hebrew_Letter"):
            return True
        if (two, one, here) == ("Hebrew_Letter", "Double_Quote", "Hebrew_Letter"):
            return True
        if one in (*letters, "Numeric") and here in (*letters, "Numeric"):
            return True
        if (two, here) == ("Numeric", "Numeric") and one in in_digits:
            return True
        if (one, after) == ("Numeric", "Numeric") and here in in_digits:
            return True
        if one == here == "Katakana":
            return True
        if one in (*letters, "Numeric", "Katakana", "ExtendNumLet") and here == "ExtendNumLet":
            return True
        if one == "ExtendNumLet" and here in (*letters, "Numeric", "Katakana"):
            return True
        if one == here == "Regional_Indicator":
            flags, k = 0, own.index(i) - 1
            while k >= 0 and effective[own[k]] == "Regional_Indicator":
                flags, k = flags + 1, k - 1
            return flags % 2 == 1
        return False

    cuts = [i for i in range(1, len(text)) if not joined(i)]
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)] if text else []


def words(text):
    """What `next_word` finds, as ``(word, its characters)``."""
    encoded, at, found = text.encode(), 0, []
    utf8 = np.frombuffer(encoded, np.uint8)
    while True:
        start, at, chars = next_word(utf8, at, len(encoded), *character_tables())
        if start == len(encoded):
            return found
        found.append((encoded[start:at].decode(), chars))


@settings(deadline=None, max_examples=1500)
@given(awkward)
@example("a\u0301'\u200db")
@example("\n\u0301\u0301a\u0301:\u00adb")
@example("א'א\"א\"'1.2,3..4")
@example("🇦\u200d🇧🇨 🇦🇧🇨🇦")
@example("\u0301'a")
def test_agrees_with_the_rules_read_aloud(text):
    assert split(text) == slow_split(text)


@settings(deadline=None, max_examples=1500)
@given(awkward)
@example("don't_stop \u0301a _b c_ 'd e\u0301f 3.14 a.b.")
@example("x\r\ny  \u0301z")
def test_words_are_the_segments_that_open_with_a_letter_or_digit(text):
    assert words(text) == [(s, len(s)) for s in split(text) if s[0].isalnum()]


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        pytest.param(
            "can't 32.3, o.k.", ["can't", " ", "32.3", ",", " ", "o.k", "."], id="annex-29-own-example"
        ),
        pytest.param(
            "a.b 1.a a.1", ["a.b", " ", "1", ".", "a", " ", "a", ".", "1"], id="a-stop-between-like-kinds"
        ),
        pytest.param("_x x_ x__1", ["_x", " ", "x_", " ", "x__1"], id="underscores-connect"),
        pytest.param("  \t \n\n", ["  ", "\t", " ", "\n", "\n"], id="spaces-run-together-tabs-do-not"),
        pytest.param("a\r\nb\n\r", ["a", "\r\n", "b", "\n", "\r"], id="cr-lf-is-one"),
        pytest.param(
            "中文 ไทย", ["中", "文", " ", "ไ", "ท", "ย"], id="ideographs-and-thai-letters-stand-alone"
        ),
        pytest.param("カタカナ ひら", ["カタカナ", " ", "ひ", "ら"], id="katakana-runs-hiragana-does-not"),
        pytest.param("🇦🇧🇨🇩🇪", ["🇦🇧", "🇨🇩", "🇪"], id="flags-in-pairs"),
        pytest.param("👩\u200d👦👦", ["👩\u200d👦", "👦"], id="joined-emoji"),
        pytest.param('א" א"ב א\'', ["א", '"', " ", 'א"ב', " ", "א'"], id="hebrew-quotes"),
        pytest.param("a\u00adb a\u200bb", ["a\u00adb", " ", "a", "\u200b", "b"], id="soft-hyphen-is-ignored"),
        pytest.param("", [], id="nothing"),
    ],
)
def test_by_hand(text, segments):
    assert split(text) == segments


def test_every_character_has_the_class_that_uniseg_gives_it():
    breaks = pytest.importorskip("uniseg.wordbreak")
    pictographic = pytest.importorskip("uniseg.emoji").extended_pictographic
    by_char = character_tables()[1]
    for c in map(chr, range(0x110000)):
        ours = int(by_char[ord(c)])
        assert CLASSES[ours & 31] == breaks.word_break(c).value, hex(ord(c))
        assert bool(ours & PICTOGRAPHIC) == bool(pictographic(c)), hex(ord(c))


def test_a_word_may_start_where_python_sees_a_letter_or_digit():
    starts = character_tables()[1] & 64 != 0
    assert [c for c in range(0x110000) if starts[c]] == [c for c in range(0x110000) if chr(c).isalnum()]


@settings(deadline=None, max_examples=800)
@given(awkward)
def test_agrees_with_uniseg(text):
    breaks = pytest.importorskip("uniseg.wordbreak")
    assert split(text) == list(breaks.words(text))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a" * 1_000_000, id="one-word"),
        pytest.param("a'" * 500_000, id="quotes"),
        pytest.param("a'" + "\u0301" * 500_000, id="a-quote-and-marks-without-end"),
        pytest.param("\n" * 1_000_000, id="newlines"),
        pytest.param("ไ" * 300_000 + "中" * 300_000, id="thai-and-chinese"),
        pytest.param("🇦" * 100_001, id="flags"),
        pytest.param("👩\u200d" * 100_000, id="one-family"),
    ],
)
def test_long_and_strange(text):
    assert "".join(split(text)) == text
    assert sum(len(word) for word, _ in words(text)) <= len(text)


def test_tables_are_read_only():
    assert not any(table.flags.writeable for table in character_tables())
