"""Is white space tidied step by step, and is ftfy spared only what it would leave alone?"""

import io
import json
import re
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from winnow.filters import repair
from winnow.filters.catalogue import Rewriting
from winnow.filters.repair import FTFY, Whitespace

CORPORA = Path(__file__).resolve().parents[1].parent / "shared" / "corpora"

SPACES = [c for c in map(chr, range(0x110000)) if c.isspace()]
# What nobody has assigned, or for private use, is alike: every 61st of it will do.
ALIKE = ("Cn", "Co", "Cs")
CHARS = [
    c for p, c in enumerate(map(chr, range(0x110000))) if unicodedata.category(c) not in ALIKE or p % 61 == 0
]
CHARS = [c for c in CHARS if not 0xD800 <= ord(c) < 0xE000]
NEIGHBOURS = [chr(ord(c) + step) for c in SPACES for step in (-1, 1)]
CONTROLS = [
    "\0",
    "\x08",
    "\x1b",
    "\x1f",
    "\x7f",
    "\x80",
    "\x9f",
    "\u200b",
    "\u2060",
    "\ufeff",
    "\u200d",
    "\xad",
]
BLANKS = [
    " ",
    "  ",
    "\t",
    " \t",
    "\u00a0",
    "\u202f",
    "\n",
    "\n\n",
    "\r\n",
    "\r",
    "\r\r\n",
    "\n\x00\n",
    "\n \n",
]
FRAGMENTS = [*SPACES, *NEIGHBOURS, *(CONTROLS + BLANKS) * 4, *["a", "b.", "é", "中", "😀", "\U0010ffff"] * 5]
spaced = st.one_of(st.lists(st.sampled_from(FRAGMENTS), max_size=25).map("".join), st.text(max_size=20))
tidiness = st.fixed_dictionaries(
    {
        **{name: st.booleans() for name in Whitespace.model_fields if name != "max_newlines"},
        "max_newlines": st.sampled_from([None, 1, 2, 3]),
    }
)


def batch(texts):
    return pa.record_batch({"text": pa.array(texts, pa.large_string())})


def slow_tidy(text, chosen):
    """The steps read aloud, one after the other."""
    ends = "\n\r\v\f\x1c-\x1e\x85\u2028\u2029"
    if chosen.line_ends:
        text = re.sub(f"\r\n|[{ends}]", "\n", text)
    if chosen.control_chars:
        text = "".join(c for c in text if c == "\t" or re.match(f"[{ends}]|[^\0-\x1f\x7f-\x9f]", c))
    if chosen.zero_width:
        text = re.sub("[\u200b\u2060\ufeff]", "", text)
    if chosen.no_break_spaces:
        text = re.sub("[\u00a0\u2007\u202f]", " ", text)
    if chosen.runs:
        text = re.sub("[ \t]+", " ", text)
    if chosen.trailing:
        text = "\n".join(line.rstrip() for line in text.split("\n"))
    if chosen.max_newlines is not None:
        text = re.sub(rf"\n{{{chosen.max_newlines},}}", "\n" * chosen.max_newlines, text)
    return text


@settings(deadline=None, max_examples=800)
@given(st.lists(spaced, min_size=1, max_size=6), tidiness, st.data())
def test_whitespace_agrees_with_its_steps_read_aloud(texts, chosen, more):
    start = more.draw(st.integers(0, len(texts)))
    stop = more.draw(st.integers(start, len(texts)))
    rules = Whitespace(**chosen)
    found = rules.rewrite(batch(texts).slice(start, stop - start))
    found.texts.validate(full=True)
    expected = [slow_tidy(text, rules) for text in texts[start:stop]]
    assert found.texts.to_pylist() == expected
    shorter = [len(old) - len(new) for old, new in zip(texts[start:stop], expected, strict=True)]
    np.testing.assert_array_equal(found.removed_chars, shorter)


def test_whitespace_treats_every_character_by_the_steps():
    texts = [f"a{c}b{c}\n" for c in CHARS]
    for rules in (Whitespace(), Whitespace(zero_width=True, no_break_spaces=True, runs=True)):
        assert rules.rewrite(batch(texts)).texts.to_pylist() == [slow_tidy(text, rules) for text in texts]


@pytest.mark.parametrize(
    ("text", "chosen", "expected"),
    [
        pytest.param(
            "def f():\r\n\treturn  1 \r\n", {}, "def f():\n\treturn  1\n", id="code-keeps-its-shape"
        ),
        pytest.param("a\n \n\t\n\n b", {}, "a\n\n b", id="blank-lines-become-one"),
        pytest.param("\n\n\na\n\n\n", {}, "\n\na\n\n", id="also-at-the-ends"),
        pytest.param("a\n\n\nb", {"max_newlines": 1}, "a\nb", id="or-none"),
        pytest.param("a\x0cb\u2028c\x85d\re", {}, "a\nb\nc\nd\ne", id="every-end-of-line"),
        pytest.param("a\rb\x0c", {"line_ends": False}, "a\rb", id="left-where-they-are"),
        pytest.param("a\x00b\x1fc\x7fd\x9fe\tf", {}, "abcde\tf", id="controls-go-tabs-stay"),
        pytest.param("a \x00 b", {"runs": True}, "a b", id="runs-close-over-what-goes"),
        pytest.param("  a \t b", {"runs": True}, " a b", id="runs-at-the-begin-too"),
        pytest.param("a\u00a0 b", {"runs": True}, "a\u00a0 b", id="a-no-break-space-is-no-blank"),
        pytest.param("a\u00a0 b", {"runs": True, "no_break_spaces": True}, "a b", id="until-it-is-one"),
        pytest.param("ก\u200bข\u200d\ufeff", {}, "ก\u200bข\u200d\ufeff", id="zero-width-stays"),
        pytest.param("ก\u200bข\u200d\ufeff", {"zero_width": True}, "กข\u200d", id="and-goes-if-asked"),
        pytest.param("a \u3000\u00a0\n", {}, "a\n", id="wide-spaces-trail"),
        pytest.param("a \n", {"trailing": False}, "a \n", id="trailing-blanks-stay"),
    ],
)
def test_whitespace_by_hand(text, chosen, expected):
    assert Whitespace(**chosen).rewrite(batch([text])).texts.to_pylist() == [expected]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\n" * 1_000_000, id="a-million-newlines"),
        pytest.param("a" + " " * 1_000_000, id="a-million-blanks"),
        pytest.param(" \n" * 300_000 + "\u3000" * 100_000 + "b", id="blank-lines"),
        pytest.param("中\u2028😀\0" * 100_000, id="other-scripts"),
    ],
)
def test_whitespace_long_and_strange(text):
    for rules in (Whitespace(), Whitespace(runs=True, max_newlines=None, trailing=False)):
        assert rules.rewrite(batch([text, " a"])).texts.to_pylist() == [slow_tidy(text, rules), " a"]


@pytest.mark.parametrize("rules", [Whitespace(), FTFY()], ids=["whitespace", "ftfy"])
def test_where_nothing_changes_the_same_array_comes_back(rules):
    documents = batch(["Nothing to do & say.\n\n\tYes: é, “so” and 中.\n", "x "]).slice(0, 1)
    if isinstance(rules, FTFY):
        pytest.importorskip("ftfy")
    found = rules.rewrite(documents)
    assert found.texts.buffers()[2].address == documents.column("text").buffers()[2].address
    assert found.removed_chars.tolist() == [0]
    assert found.removed_chars.dtype == np.int64


@pytest.mark.parametrize("rules", [Whitespace(), FTFY()], ids=["whitespace", "ftfy"])
def test_they_are_filters_that_rewrite_and_drop_nothing(rules):
    assert isinstance(rules, Rewriting)
    assert rules.rules() == ()
    assert rules.columns == {}
    if isinstance(rules, FTFY):
        pytest.importorskip("ftfy")
    with pytest.raises(ValueError, match=r"^texts must have no nulls; 1 of 2 are null$"):
        rules.rewrite(batch(["a", None]))


def test_whitespace_refuses_what_is_no_text_column():
    with pytest.raises(TypeError, match=r"^texts must be a pyarrow LargeStringArray, not StringArray$"):
        Whitespace().rewrite(pa.record_batch({"text": pa.array(["a"], pa.string())}))
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Whitespace(max_newlines=0)


# What ftfy looks for: mojibake of many encodings, whole and torn, entities, escapes, and ordinary text.
BROKEN = ["âœ”", "â€™", "Ã©", "Ã ", "Ã", "Â ", "à²", "рџ", "вЂ™", "β€™", "ã€", "ï»¿", "\x93", "\x85", "Ã\xa0"]
BROKEN += [
    "œ1",
    "√±",
    "ГўВЂВ.a",
    "×²",
    "a€",
    "°",
    "ﬁ",
    "Ａ",
    "ﾀ",
    "“",
    "‘",
    "\u2028",
    "\ufeff",
    "\ufff9",
    "e\u0301",
    "�",
]
MARKUP = [
    "&amp;",
    "&lt;",
    "&#233;",
    "&#x2019;",
    "&eacute;",
    "&AMP;",
    "& ",
    "&nosuch;",
    "<",
    "<b>",
    "&amp",
    "&lt;b&gt;",
]
CONTROL = ["\0", "\x0b", "\x0c", "\x1b[31m", "\x1b", "\x7f", "\r\n", "\r", "\n", "\n\n", "\t"]
SOUND = [
    "a",
    "word ",
    "é",
    "ü ",
    "中文",
    "Я ",
    "’s ",
    "—",
    " ",
    ". ",
    "😀",
    "x" * 20,
    "y" * 40,
]
broken = st.one_of(
    st.lists(st.sampled_from([*BROKEN, *MARKUP, *CONTROL, *SOUND * 4]), max_size=16).map("".join),
    st.text(alphabet="aÃÂâ€™œ \n<&;amp\x80\xa0°", max_size=16),
    st.text(max_size=20),
)
ascii_text = st.text(st.characters(max_codepoint=127), max_size=40)
SWITCHES = [name for name in FTFY.model_fields if name not in ("unescape_html", "normalization")]
fixing = st.fixed_dictionaries(
    {
        **{name: st.booleans() for name in SWITCHES},
        "unescape_html": st.sampled_from(["auto", True, False]),
        "normalization": st.sampled_from([None, "NFC", "NFKC"]),
    }
)


def fixed(ftfy, text, rules):
    return ftfy.fix_text(text, ftfy.TextFixerConfig(**rules.model_dump()))


@settings(deadline=None, max_examples=600)
@given(st.lists(st.one_of(broken, ascii_text), min_size=1, max_size=5), st.one_of(st.just({}), fixing))
def test_ftfy_gives_what_ftfy_gives(texts, chosen):
    ftfy = pytest.importorskip("ftfy")
    rules = FTFY(**chosen)
    found = rules.rewrite(batch(["x", *texts]).slice(1))
    expected = [fixed(ftfy, text, rules) for text in texts]
    assert found.texts.to_pylist() == expected
    shorter = [len(old) - len(new) for old, new in zip(texts, expected, strict=True)]
    np.testing.assert_array_equal(found.removed_chars, shorter)


@settings(deadline=None, max_examples=200)
@given(broken)
def test_ftfy_gives_what_datatroves_formatter_gives(text):
    pytest.importorskip("ftfy")
    formatters = pytest.importorskip("datatrove.pipeline.formatters.ftfy")
    assert FTFY().rewrite(batch([text])).texts[0].as_py() == formatters.FTFYFormatter().format(text)


def test_ftfy_treats_every_character_alike_alone_and_between_letters():
    ftfy = pytest.importorskip("ftfy")
    chars = [chr(point) for point in range(0x3100) if not 0xD800 <= point < 0xE000]
    chars += ["\ufeff", "\ufff9", "\ufffc", "\ufffd", "ﬁ", "Ａ", "\uf8ff", "😀"]
    texts = [text for c in chars for text in (c, f"{c} a", f"a{c}B")]
    for rules in (FTFY(), FTFY(**dict.fromkeys(SWITCHES, True), normalization="NFC")):
        expected = [fixed(ftfy, text, rules) for text in texts]
        assert rules.rewrite(batch(texts)).texts.to_pylist() == expected


def test_no_mojibake_is_longer_than_the_context_that_is_kept():
    badness = pytest.importorskip("ftfy.badness")
    parser = sys.modules.get("re._parser") or pytest.importorskip("sre_parse")
    assert parser.parse(badness.BADNESS_RE.pattern, badness.BADNESS_RE.flags).getwidth()[1] < repair._CONTEXT


def test_no_mojibake_is_ascii():
    badness = pytest.importorskip("ftfy.badness")

    @settings(deadline=None, max_examples=500)
    @given(ascii_text)
    def check(text):
        assert not badness.is_bad(text)

    check()


def test_ftfy_by_hand():
    pytest.importorskip("ftfy")
    texts = [
        "âœ” No problems",
        "a &lt; b\n&amp;\n<b>\n&amp;",
        "“curly” ﬁ",
        "it\x92s \x1b[1mbold\x1b[0m\0",
        "R&D; AT&T",
        "Ça va 1.\nÃ la mode",
    ]
    expected = ["✔ No problems", "a < b\n&\n<b>\n&amp;", "“curly” ﬁ", "it’s bold", "R&D; AT&T"]
    expected.append("Ça va 1.\nà la mode")
    assert FTFY().rewrite(batch(texts)).texts.to_pylist() == expected


@pytest.mark.parametrize("levels", [1, 2, 15, 16, 17, 40])
@pytest.mark.parametrize("escape", ["amp;", "#38;", "AMP;#x26;"])
@pytest.mark.parametrize("rest", ["", "lt;", "amp", "amp;;Ã©", " "])
def test_deep_escapes_come_to_what_ftfy_brings_them_to(levels, escape, rest):
    ftfy = pytest.importorskip("ftfy")
    text = f"a &{escape * levels}{rest}b"
    for rules in (FTFY(), FTFY(unescape_html=False)):
        assert rules.rewrite(batch([text])).texts.to_pylist() == [fixed(ftfy, text, rules)]


def test_a_million_escapes_are_no_million_passes():
    pytest.importorskip("ftfy")
    assert FTFY().rewrite(batch(["&" + "amp;" * 250_000 + "lt;"])).texts.to_pylist() == ["<"]


def test_a_line_too_long_for_ftfy_is_cut_as_ftfy_cuts_it():
    ftfy = pytest.importorskip("ftfy")
    text = "é" + "X" * 999_999 + "Â A" + "Y" * 40 + "\nsound é line"
    found = FTFY().rewrite(batch([text])).texts[0].as_py()
    assert found == fixed(ftfy, text, FTFY())


def test_sound_documents_are_not_given_to_ftfy(monkeypatch):
    ftfy = pytest.importorskip("ftfy")
    asked = []
    monkeypatch.setattr(ftfy, "fix_text", lambda text, config: asked.append(text) or text)
    repair._repairer.cache_clear()
    sound = [
        "plain ASCII & more",
        "Ünïcode “quotes” — 中文 й",
        "<b> &lt; after markup",
        "one line\nanother é\n",
    ]
    FTFY().rewrite(batch([*sound, "sound é\nit\x92s not\nsound"]))
    repair._repairer.cache_clear()
    assert asked == ["it\x92s not\n"]


def test_without_ftfy_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ftfy", None)
    repair._repairer.cache_clear()
    with pytest.raises(ImportError, match=r"^the filter ftfy needs ftfy: pip install 'winnow\[datatrove\]'$"):
        FTFY().rewrite(batch(["a"]))


@pytest.mark.parametrize("name", ["web_prose", "low_quality", "web_docs_multi"])
def test_agrees_on_real_text(name):
    ftfy = pytest.importorskip("ftfy")
    zstandard = pytest.importorskip("zstandard")
    shards = sorted((CORPORA / name).glob("*.jsonl.zst"))
    if not shards:
        pytest.skip("needs the shared corpora beside the checkout")
    with open(shards[0], "rb") as file:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
        texts = [json.loads(line)["text"] for line, _ in zip(lines, range(150), strict=False)]
    found = FTFY().rewrite(batch(texts)).texts.to_pylist()
    assert found == [fixed(ftfy, text, FTFY()) for text in texts]
    rules = Whitespace(runs=True)
    assert rules.rewrite(batch(texts)).texts.to_pylist() == [slow_tidy(text, rules) for text in texts]
