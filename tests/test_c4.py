"""Does C4 keep the lines that its rules say, written as they say, and decide as datatrove does?"""

import io
import json
import re
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from winnow.filters import c4, c4_lines
from winnow.filters.c4 import C4, C4Paragraphs
from winnow.filters.c4_text import POLICY
from winnow.filters.catalogue import Rewriting, Ruling
from winnow.filters.rules import decide

CORPORA = Path(__file__).resolve().parents[1].parent / "shared" / "corpora"

SPACES = [c for c in map(chr, range(0x110000)) if c.isspace()]
# What nobody has assigned, or for private use, is alike: every 61st of it will do.
ALIKE = ("Cn", "Co", "Cs")
CHARS = [
    c for p, c in enumerate(map(chr, range(0x110000))) if unicodedata.category(c) not in ALIKE or p % 61 == 0
]
CHARS = [c for c in CHARS if not 0xD800 <= ord(c) < 0xE000]
NEIGHBOURS = [chr(ord(c) + step) for c in SPACES for step in (-1, 1)]
BREAKS = ["\n", "\r\n", "\r", "\n\r", "\u2028", "\x85", "\x1c", " \n", "\n\n"]
CITATIONS = [
    "[1]",
    "[]",
    "[edit]",
    "[citation needed]",
    "[٣४]",
    "[𝟘1]",
    "[",
    "]",
    "[[2]]",
    "[x]",
    "[Edit]",
    "[1",
]
ENDS = [
    ".",
    "?",
    "!",
    '"',
    "'",
    "...",
    "..",
    "…",
    '."',
    ".)",
    "?!",
    ".” ",
    ".’",
    "!]",
    ". ",
    "。",
    "a.b",
    "e.g. ",
    "Dr. ",
]
SHORT = [
    "e.g. ",
    "Dr. ",
    "Mr.",
    " J. ",
    " é. ",
    "3a. ",
    "St.\n",
    "Mrs. ",
    "xMr. ",
    "éMr. ",
    "P.S. ",
    "Prof. ",
    "_a. ",
]
PHRASES = [
    "Lorem Ipsum",
    "lorem",
    "javaScript",
    "java[1]script",
    *POLICY,
    "Use CooKies",
    "USES COO\u212aIES",
    "\u212a",
    "{",
]
WORDS = [
    "word ",
    "two words ",
    "a ",
    "é ",
    "中 ",
    "😀",
    "x" * 12 + " ",
    "é" * 12 + " ",
    "ſ",
    "İ",
    "use\ncookies",
]
FRAGMENTS = [*SPACES, *NEIGHBOURS, *(BREAKS + CITATIONS + ENDS + SHORT + PHRASES) * 3, *WORDS * 6]

awkward = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), max_size=25).map("".join),
    st.lists(st.sampled_from(["See here for it", *PHRASES, *CITATIONS, ". ", ".\n", " "]), max_size=12).map(
        "".join
    ),
    st.text(max_size=20),
)
choices = st.fixed_dictionaries(
    {
        "min_words_per_line": st.sampled_from([None, 0, 2, 3]),
        "max_word_chars": st.sampled_from([None, 0, 6, 12, 1000]),
        "terminal_punctuation": st.booleans(),
        "citations": st.booleans(),
        "lorem_ipsum": st.booleans(),
        "javascript": st.booleans(),
        "curly_bracket": st.booleans(),
        "policy": st.booleans(),
    }
)


def batch(texts):
    return pa.record_batch({"text": pa.array(texts, pa.large_string())})


def slow_sentences(line):
    """Ends of sentences read aloud, and what is left behind the last."""
    sentences = rest = 0
    for match in re.finditer(r"""([.?!]+)["')\]’”]*(?!\S)""", line):
        before = line[: match.start()]
        short = re.search(r"(?:\A|[\0-/:-@\[-`{-\x7f])(?:[A-Za-z]|Mr|Mrs|Ms|Dr|St)\Z", before)
        if not match[1].endswith("..") and (match[1] != "." or not short):
            sentences += 1
            rest = match.end()
    return max(1, sentences + bool(line[rest:].strip()))


def slow_c4(text, chosen, sentences_of=slow_sentences):
    """The rules read aloud, line by line: ``(new text, signals)``."""
    signals = dict.fromkeys(c4_lines.SIGNALS, 0)
    kept = []
    for raw in text.splitlines():
        signals["lines"] += 1
        words, line = raw.split(), raw.strip()
        if chosen.max_word_chars is not None and max(map(len, words), default=0) > chosen.max_word_chars:
            signals["lines_long_word"] += 1
            continue
        if chosen.citations:
            line = re.sub(r"\[\d*\]|\[edit\]|\[citation needed\]", "", line)
        if chosen.terminal_punctuation and (not line.endswith(tuple(".?!\"'")) or line.endswith("...")):
            signals["lines_no_punctuation"] += 1
            continue
        if len(words) < (chosen.min_words_per_line or 0):
            signals["lines_few_words"] += 1
            continue
        lowered = line.lower()
        if chosen.lorem_ipsum and "lorem ipsum" in lowered and not signals["curly_bracket"]:
            signals["lorem_ipsum"] = 1
        if chosen.javascript and "javascript" in lowered:
            signals["lines_javascript"] += 1
            continue
        if chosen.curly_bracket and "{" in line and not signals["lorem_ipsum"]:
            signals["curly_bracket"] = 1
        if chosen.policy and any(phrase in lowered for phrase in POLICY):
            signals["lines_policy"] += 1
            continue
        signals["lines_kept"] += 1
        signals["sentences"] += sentences_of(line)
        kept.append(line)
    return "\n".join(kept).strip(), signals


def assert_c4(found, texts, chosen):
    expected = [slow_c4(text, chosen) for text in texts]
    assert found.texts.to_pylist() == [text for text, _ in expected]
    assert list(found.signals) == list(C4.columns)
    for name, counts in found.signals.items():
        assert counts.dtype == np.uint32
        wanted = [signals[name.removeprefix("c4.")] for _, signals in expected]
        np.testing.assert_array_equal(counts, wanted, err_msg=name)
    shorter = [len(old) - len(new) for old, (new, _) in zip(texts, expected, strict=True)]
    np.testing.assert_array_equal(found.removed_chars, shorter)


@settings(deadline=None, max_examples=800)
@given(st.lists(awkward, min_size=1, max_size=6), choices, st.data())
def test_agrees_with_the_rules_read_aloud(texts, chosen, more):
    start = more.draw(st.integers(0, len(texts)))
    stop = more.draw(st.integers(start, len(texts)))
    rules = C4(**chosen)
    found = rules.rewrite(batch(texts).slice(start, stop - start))
    found.texts.validate(full=True)
    assert_c4(found, texts[start:stop], rules)


def test_every_character_parts_words_and_lines_as_python_does():
    texts = [f"a{c}b." for c in CHARS] + [f"{c}[{c}]a b." for c in CHARS]
    rules = C4(min_words_per_line=2)
    found = rules.rewrite(batch(texts))
    expected = [slow_c4(text, rules, lambda line: 1) for text in texts]
    assert found.texts.to_pylist() == [text for text, _ in expected]
    np.testing.assert_array_equal(found.signals["c4.lines"], [signals["lines"] for _, signals in expected])


def test_no_character_becomes_a_letter_of_a_phrase_but_those_the_kernel_knows():
    becoming = {c: c.lower() for c in map(chr, range(0x80, 0x110000)) if re.search("[\0-\x7f]", c.lower())}
    assert becoming == {"\u212a": "k", "İ": "i̇"}
    assert not any(phrase[-1] == "i" for phrase in (*POLICY, "javascript", "lorem ipsum"))


@pytest.mark.parametrize(
    ("line", "sentences"),
    [
        pytest.param("One. Two! Three?", 3, id="each-mark"),
        pytest.param("No end here", 1, id="none"),
        pytest.param("One. And a rest", 2, id="a-rest"),
        pytest.param("What?! Well... maybe.. So?. Yes!.. no..", 3, id="runs-of-marks"),
        pytest.param("He said \"go.\" (She went.) 'Now!' “Yes.” Fine.", 5, id="quotes-and-brackets"),
        pytest.param("Version 1.5 of a.b is e.g. fine", 1, id="marks-within-words"),
        pytest.param("Dr. J. R. Smith met Mrs. X. He left.", 1, id="initials-and-titles"),
        pytest.param("Prof. Smith. So said 3a. and é.", 4, id="what-is-no-short-form"),
        pytest.param("A。B！C.", 1, id="no-space-no-end"),
        pytest.param("One.\u00a0Two.\u3000Three.", 3, id="wide-spaces"),
        pytest.param("A. B. C.", 1, id="only-initials"),
    ],
)
def test_sentences_by_hand(line, sentences):
    assert slow_sentences(line) == sentences
    found = C4(min_words_per_line=None, terminal_punctuation=False).rewrite(batch([line]))
    assert found.signals["c4.sentences"][0] == sentences


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        pytest.param("Some words here.\nNo end\nTwo words.", "Some words here.", id="ends-and-words"),
        pytest.param(
            " Some words here. \r\n\tAnd more of them! ", "Some words here.\nAnd more of them!", id="stripped"
        ),
        pytest.param("It goes on and on...", "", id="an-ellipsis-is-no-end"),
        pytest.param("It is known.[12]", "It is known.", id="citations-go"),
        pytest.param("[1] It is known.\nIt is so.", "It is known.\nIt is so.", id="and-the-space-they-leave"),
        pytest.param("It is known. [12]", "", id="a-space-before-one-is-an-end-without-mark"),
        pytest.param("Is [1] [2].", "Is  .", id="citations-count-as-words"),
        pytest.param(
            "Turn Java[1]Script on now.\nWe use CooKies on this site.", "", id="phrases-without-citations"
        ),
        pytest.param(
            "Read our terms of\nuse with care.\nIt is all good.",
            "use with care.\nIt is all good.",
            id="not-over-lines",
        ),
    ],
)
def test_lines_by_hand(text, kept):
    assert C4().rewrite(batch([text])).texts.to_pylist() == [kept]


def verdict(text, **chosen):
    rules = C4(**chosen)
    found = rules.rewrite(batch([text]))
    first = decide(rules.rules(), found.signals, 1).first[0]
    return "kept" if first < 0 else rules.rules()[first].name


FIVE = "It is so. It is so! Is it? It is so. It is so."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(FIVE, "kept", id="five-are-enough"),
        pytest.param(FIVE[:-10], "c4.min_sentences", id="four-are-not"),
        pytest.param("", "c4.min_sentences", id="nothing"),
        pytest.param(
            f"{FIVE}\nLorem Ipsum it is.\nSome {{ here now.", "c4.lorem_ipsum", id="the-first-line-decides"
        ),
        pytest.param(
            f"{FIVE}\nSome {{ here now.\nLorem Ipsum it is.", "c4.curly_bracket", id="whichever-it-is"
        ),
        pytest.param(f"{FIVE}\nLorem ipsum {{ it is.", "c4.lorem_ipsum", id="in-one-line-lorem-ipsum"),
        pytest.param(f"{FIVE}\nThis javascript has a {{ here.", "kept", id="a-dropped-line-says-nothing"),
        pytest.param(
            f"{FIVE}\nA privacy policy with a {{ here.", "c4.curly_bracket", id="unless-it-is-dropped-later"
        ),
        pytest.param(f"{FIVE}\nfunction() {{", "kept", id="nor-one-without-end"),
    ],
)
def test_documents_by_hand(text, expected):
    assert verdict(text) == expected


def test_every_rule_can_be_switched_off():
    assert [rule.name for rule in C4().rules()] == ["c4.lorem_ipsum", "c4.curly_bracket", "c4.min_sentences"]
    none = C4(min_sentences=None, lorem_ipsum=False, curly_bracket=False)
    assert none.rules() == ()
    nothing = dict.fromkeys(("terminal_punctuation", "citations", "javascript", "policy"), False)
    off = none.model_copy(update={**nothing, "min_words_per_line": None, "max_word_chars": None})
    text = "[1]\njavascript\nlorem ipsum {\nuse cookies\n" + "x" * 2000
    assert off.rewrite(batch([text])).texts.to_pylist() == [text]


def test_where_nothing_changes_the_same_array_comes_back():
    documents = batch(["Some words here.\nAnd some more.", ""]).slice(0, 1)
    found = C4().rewrite(documents)
    assert found.texts.buffers()[2].address == documents.column("text").buffers()[2].address
    assert found.removed_chars.tolist() == [0]
    same_length = C4().rewrite(batch(["Some words here.\rAnd some more."]))
    assert same_length.texts.to_pylist() == ["Some words here.\nAnd some more."]
    assert same_length.removed_chars.tolist() == [0]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("." * 1_000_000, id="a-million-marks"),
        pytest.param("\n" * 1_000_000, id="a-million-lines"),
        pytest.param(("a. " + '"' * 2000) * 400, id="quotes-after-quotes"),
        pytest.param("[" + "1" * 1_000_000 + "\n[" + "[1" * 300_000, id="brackets-that-never-close"),
        pytest.param("use use cookie lorem " * 50_000, id="phrases-that-only-begin"),
        pytest.param("\u2003[1]" * 200_000 + ".", id="whitespace-that-is-stripped"),
        pytest.param("中文。😀 " * 60_000 + "!", id="other-scripts"),
    ],
)
@pytest.mark.parametrize("strict", [True, False], ids=["defaults", "lenient"])
def test_long_and_strange(text, strict):
    lenient = {"min_words_per_line": None, "max_word_chars": None, "terminal_punctuation": False}
    rules = C4(**({} if strict else lenient))
    found = rules.rewrite(batch([text, "a. b c."]))
    expected = [slow_c4(each, rules, lambda line: 1)[0] for each in (text, "a. b c.")]
    assert found.texts.to_pylist() == expected


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=40))
def test_bytes_that_are_no_utf8_come_to_an_end(raw):
    padded = pa.py_buffer(raw + bytes(3))
    offsets = pa.py_buffer(np.array([0, len(raw)], np.int64).tobytes())
    texts = pa.LargeStringArray.from_buffers(1, offsets, padded)
    kept_offsets, _, _ = c4_lines.keep_lines(
        texts, max_word_chars=5, min_words=1, citations=True, terminal_punctuation=False,
        lorem_ipsum=True, javascript=True, curly_bracket=True, policy=True,
    )  # fmt: skip
    assert 0 <= kept_offsets[1] <= len(raw)


def test_settings_name_the_kernels_signals():
    assert tuple(c4_lines.SIGNALS) == c4._SIGNALS
    assert isinstance(C4(), Rewriting)


def test_input_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"^texts must have no nulls; 1 of 2 are null$"):
        C4().rewrite(batch(["a", None]))
    with pytest.raises(TypeError, match=r"^texts must be a pyarrow LargeStringArray, not StringArray$"):
        C4().rewrite(pa.record_batch({"text": pa.array(["a"], pa.string())}))
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        C4(min_sentences=-1)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.lists(st.sampled_from(["é", "ab", "\n", "\r", "中中", ""]), max_size=12).map("".join), max_size=5
    ),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_paragraphs_are_long_lines(texts, paragraphs, chars):
    rules = C4Paragraphs(min_paragraphs=paragraphs, min_paragraph_chars=chars)
    (measure,) = rules.measures()
    found = measure.measure(batch(["x\ny", *texts]).slice(1))
    assert list(found) == list(measure.columns)
    kept = decide(rules.rules(), found, len(texts)).first < 0
    longest = [sorted(map(len, text.split("\n")), reverse=True) for text in texts]
    assert kept.tolist() == [len(found) >= paragraphs and found[paragraphs - 1] >= chars for found in longest]


def test_paragraphs_are_a_filter_of_rules():
    (measure,) = C4Paragraphs().measures()
    assert isinstance(C4Paragraphs(), Ruling)
    assert measure == C4Paragraphs(min_paragraphs=5).measures()[0]
    assert measure.identity() == {"long_lines": 200}


def texts_of(name, n):
    zstandard = pytest.importorskip("zstandard")
    shards = sorted((CORPORA / name).glob("*.jsonl.zst"))
    if not shards:
        pytest.skip("needs the shared corpora beside the checkout")
    with open(shards[0], "rb") as file:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
        return [json.loads(line)["text"][:20_000] for line, _ in zip(lines, range(n), strict=False)]


REASONS = {
    "kept": True,
    "c4.lorem_ipsum": (False, "lorem_ipsum"),
    "c4.curly_bracket": (False, "curly_bracket"),
    "c4.min_sentences": (False, "too_few_sentences"),
}


def assert_decides_like(peer, rules, texts):
    """The same decision, reason and rewritten text as datatrove's filter, which leaves dropped texts as they were."""
    data = pytest.importorskip("datatrove.data")
    found = rules.rewrite(batch(texts))
    first = decide(rules.rules(), found.signals, len(texts)).first
    for text, new, rule in zip(texts, found.texts.to_pylist(), first, strict=True):
        document = data.Document(text=text, id="")
        assert REASONS["kept" if rule < 0 else rules.rules()[rule].name] == peer.filter(document)
        assert rule >= 0 or document.text == new


@settings(deadline=None, max_examples=300)
@given(texts=st.lists(awkward, min_size=1, max_size=4), lenient=st.booleans())
def test_decides_as_datatrove_with_these_sentences(texts, lenient):
    filters = pytest.importorskip("datatrove.pipeline.filters.c4_filters")
    peer = filters.C4QualityFilter(filter_no_terminal_punct=not lenient, min_num_sentences=2)
    rules = C4(terminal_punctuation=not lenient, min_sentences=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filters, "split_into_sentences", lambda line, language: [""] * slow_sentences(line))
        assert_decides_like(peer, rules, texts)


@settings(deadline=None, max_examples=200)
@given(texts=st.lists(awkward, min_size=1, max_size=4), lenient=st.booleans())
def test_decides_as_datatrove_with_spacys_sentences(texts, lenient):
    filters = pytest.importorskip("datatrove.pipeline.filters.c4_filters")
    pytest.importorskip("spacy")
    peer = filters.C4QualityFilter(
        filter_no_terminal_punct=not lenient, min_words_per_line=0, min_num_sentences=2
    )
    rules = C4(words="datatrove", terminal_punctuation=not lenient, min_words_per_line=0, min_sentences=2)
    assert_decides_like(peer, rules, texts)


@pytest.mark.parametrize("lenient", [False, True], ids=["defaults", "lenient"])
@pytest.mark.parametrize("name", ["web_prose", "docs_en", "textbooks"])
def test_decides_as_datatrove_on_real_text(name, lenient):
    filters = pytest.importorskip("datatrove.pipeline.filters.c4_filters")
    pytest.importorskip("spacy")
    texts = texts_of(name, 40)
    peer = filters.C4QualityFilter(filter_no_terminal_punct=not lenient)
    assert_decides_like(peer, C4(words="datatrove", terminal_punctuation=not lenient), texts)


@pytest.mark.parametrize("name", ["web_prose", "low_quality"])
def test_agrees_on_real_text(name):
    texts = texts_of(name, 200)
    for rules in (C4(), C4(terminal_punctuation=False, min_words_per_line=None)):
        assert_c4(rules.rewrite(batch(texts)), texts, rules)
