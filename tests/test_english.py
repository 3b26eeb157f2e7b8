"""Are the words spaCy's, in any text, and the sentences too?"""

import io
import itertools
import json
import random
import re
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from winnow.filters import english, english_spacy
from winnow.filters.english_urls import is_url
from winnow.filters.jit import text_buffers

spacy = pytest.importorskip("spacy", reason="needs the extra `datatrove`")

CORPORA = Path(__file__).resolve().parents[1].parent / "shared" / "corpora"

NLP = spacy.blank("en")
NLP.add_pipe("sentencizer")
SPECIALS = sorted(text for text in NLP.tokenizer.rules if not any(map(str.isspace, text)))

AFFIXES = [
    *"()[]{}<>.,:;!?'\"-–—~/=+*^#$%&_@…°’‘“”|\\",
    "..",
    "...",
    "……",
    "--",
    "---",
    "——",
    "US$",
    "C$",
    "A$",
]
UNITS = ["km", "m/s", "km²", "МБ", "тбكم", "%", "'s", "'S", "’s", "’S", "€", "mph"]
LETTERS = [
    "foo",
    "Foo",
    "FOO",
    "A",
    "É",
    "é",
    "ß",
    "中",
    "あ",
    "ก",
    "я",
    "Я",
    "\u0301",
    "\u200b",
    "\ufeff",
    "𝔸",
    "_",
]
DIGITS = ["1", "23", "٣", "१", "²", "½", "10.0.0.1", "8.8.8.8"]
WHOLE = [
    "a.m",
    "p.m",
    "U.S",
    "e.g",
    "don't",
    "can't",
    "I'm",
    "°C",
    "°c.",
    "example.com",
    "a.b",
    "😀",
    "©",
    "·",
]
SPACES = [" "] * 6 + ["  ", "\n", "\t", "\u3000", "\r\n", "\n\n", "\u2028", " \n", "\x1f"]
PIECES = [*AFFIXES, *AFFIXES, *UNITS, *LETTERS, *DIGITS, *WHOLE]

URL_PIECES = [
    *("http://", "ftp://", "x://", "://", "mailto:", "user@", "a:b@", "@", "www.", "example.com", "a-b.co", "a_.co"),
    *(".", "..", "-", "_", ":", ":8", ":80", ":٣٣", ":65535", ":655350", "/", "/a?b=1#c", "?", "#", "é.fr", "x" * 64),
    *("x" * 63 + ".", "中.cn", "𝔸.com", ".C", ".co.uk", ".c", "." + "z" * 63, "." + "z" * 64, "localhost"),
    *("1.2.3.4", "10.1.2.3", "127.0.0.1", "169.254.1.1", "192.168.0.1", "172.16.0.1", "172.32.0.1", "172.2.2.2"),
    *("0.1.1.1", "223.255.255.254", "224.1.1.1", "1.256.1.1", "1.249.250.255", "1.1.1.0", "1.1.1", "1.00.1.1"),
    *("٣.1.1.1", "1.٣٣.1.1", "1٣٣.1.1.1٣", "1.1٣٣.1.2٣", "2٣.1.1.1", "22٣.1.1.1", "172.1٣.1.1", "172.2٣.1.1"),
]  # fmt: skip


def column(texts):
    return pa.array(texts, pa.large_string())


def words(texts):
    """Ours: a list of words for each text."""
    texts = column(texts)
    ends, starts, stops = english.split(texts)
    utf8 = text_buffers(texts)[1].tobytes()
    cut = [utf8[start:stop].decode() for start, stop in zip(starts, stops, strict=True)]
    return [cut[a:b] for a, b in itertools.pairwise(ends)]


def spacy_words(text):
    return [token.text.strip() for token in NLP.tokenizer(text) if token.text.strip()]


def spacy_sentences(text):
    """As datatrove's split_into_sentences counts: a text without any is one."""
    return max(1, sum(1 for _ in NLP(text).sents))


chunk = st.lists(st.one_of(st.sampled_from(PIECES), st.sampled_from(SPECIALS)), min_size=1, max_size=6).map(
    "".join
)
awkward = st.one_of(
    st.lists(st.tuples(chunk, st.sampled_from(SPACES)), max_size=8).map(lambda k: "".join(map("".join, k))),
    st.lists(st.sampled_from([*"():;=8.-'", "foo", " ", " "]), max_size=14).map("".join),
    st.text(max_size=20),
)


@settings(deadline=None, max_examples=600)
@given(st.lists(awkward, min_size=1, max_size=6))
@example(
    ["", " ", "\n", " a", "a ", "a\n", "a.\n", "a. \n", "a.  b", "a.\n)", "a. ) b", "a.)\tb", "...", "! ?"]
)
def test_words_and_sentences_are_spacys(texts):
    assert words(texts) == [spacy_words(text) for text in texts]
    counts, sentences = english.count_words(column(texts))
    assert counts.tolist() == [len(spacy_words(text)) for text in texts]
    assert sentences.tolist() == [spacy_sentences(text) for text in texts]


def test_every_special_case_is_found_wherever_it_stands():
    frames = [
        "{}",
        "({})",
        "{},",
        "{}.",
        "'{}",
        "x{}",
        "{}x",
        "x-{}",
        "{}:",
        "a {} b",
        "{} {}",
        "{}{}",
        "5{}",
        "{}s",
    ]
    texts = [frame.format(text, text) for text in SPECIALS for frame in frames]
    assert words(texts) == [spacy_words(text) for text in texts]


@pytest.mark.parametrize("text", ["(=:) )", "8 ):8';", ":.a:( ()a", ".foo:( (", ": ((==-", ";a( :);a("])
def test_a_special_case_across_a_space_hides_one_within_a_chunk(text):
    """Where chunks are not independent: each alone would be cut otherwise."""
    chunks = text.split()
    assert words([text])[0] == spacy_words(text)
    assert words([text])[0] != [*itertools.chain(*words(chunks))]
    assert words(chunks) == [spacy_words(chunk) for chunk in chunks]
    for space in "\n", "\t", "\u3000", "  ":  # a word to spaCy, which nothing is matched across
        apart = text.replace(" ", space)
        assert words([apart])[0] == spacy_words(apart) == [*itertools.chain(*words(chunks))]


def test_a_special_case_that_becomes_more_words_than_it_was():
    """The only ones: in "°C." the scale alone would keep its dot."""
    text = "it is °C. or x°F., and (°K.) " * 40
    assert words([text])[0] == spacy_words(text)


@settings(deadline=None, max_examples=2000)
@given(
    st.one_of(st.lists(st.sampled_from(URL_PIECES), min_size=1, max_size=5).map("".join), st.text(min_size=1))
)
def test_urls_are_those_of_spacys_pattern(text):
    text = "".join(text.split())
    if text:
        utf8 = np.frombuffer(text.encode(), np.uint8)
        assert is_url(utf8, 0, len(utf8), english.load()) == bool(NLP.tokenizer.url_match(text)), text


def test_parts_of_urls_have_their_lengths():
    """Of a label 1 to 64 characters, of the last one 2 to 63, of a port 2 to 5 digits."""
    labels = [f"{'x' * size}.com" for size in range(1, 70)]
    labels += [f"{'é' * size}.com" for size in range(60, 70)] + [
        f"x{'-_' * size}x.com" for size in range(28, 36)
    ]
    tops = [f"x.{'z' * size}" for size in range(70)] + [f"x.{'é' * size}/" for size in range(60, 70)]
    ports = [f"x.com:{'8' * size}{end}" for size in range(8) for end in ("", "/", "x", "#")]
    for text in labels + tops + ports:
        utf8 = np.frombuffer(text.encode(), np.uint8)
        assert is_url(utf8, 0, len(utf8), english.load()) == bool(NLP.tokenizer.url_match(text)), text


def test_characters_are_what_spacy_takes_them_for():
    """Every character that differs from the one before it, in front, at the end, and between others."""
    flags = english.load()["by_char"][:0x110000]
    points = np.flatnonzero(np.diff(flags, prepend=flags[0] ^ 1))
    chars = [chr(c) for c in [*range(0x250), *points, *(points[1:] - 1)] if not 0xD800 <= c < 0xE000]
    chars = [c for c in dict.fromkeys(chars) if not c.isspace()]
    assert len(chars) > 2000
    texts = [
        frame.format(c)
        for c in chars
        for frame in ("{0}x", "x{0}", "x{0}.", "1{0}x", "x,{0},X{0}.{0}", "x-{0}-")
    ]
    assert words(texts) == [spacy_words(text) for text in texts]
    texts = [f"x. {c} {c}x x{c} y." for c in chars]
    assert english.count_words(column(texts))[1].tolist() == [spacy_sentences(text) for text in texts]


def test_kinds_are_those_of_pythons_and_datatroves_characters():
    from datatrove.utils.text import PUNCTUATION_SET

    flags = english.load()["by_char"]
    for point in range(0, 0x110000, 7):
        char = chr(point)
        assert bool(flags[point] & english.HAS_LETTER) == char.isalpha()
        assert bool(flags[point] & english.HAS_WORD_CHAR) == (char not in PUNCTUATION_SET)
    assert not any(flags[ord(char)] & english.HAS_WORD_CHAR for char in PUNCTUATION_SET)


LONG = {
    "one line": "word, (another): it's a.m. ",
    "newlines": "\n",
    "base64": "aGVsbG8gd29ybGQ+/9",
    "opening": "(",
    "dots and dashes": ".-",
    "single dots": ". ",
    "quotes": "'s",
    "at signs": "a@",
    "colons": "a:b/",
    "hosts": "a.",
    "emoticons": ":( (",
    "emoji": "😀",
    "Thai": "กินข้าวหรือยัง",
    "Chinese": "我们今天去北京。",
}


@pytest.mark.parametrize("again", LONG.values(), ids=LONG)
def test_a_megabyte_of_the_same_is_cut_to_its_end(again):
    """spaCy itself takes quadratic time on some of these, and is asked for a few hundred characters only."""
    short = again * (300 // len(again))
    assert words([short]) == [spacy_words(short)]
    text = again * (1_000_000 // len(again.encode()))
    cut = words([text])[0]
    assert "".join(cut) == "".join(text.split())
    some = (len(spacy_words(short)) - 1) // 2  # what is far from the end
    assert cut[:some] == spacy_words(short)[:some]


def test_a_slice_of_a_column_is_read_in_place():
    texts = ["(see below): foo", "I can't.", "", "5km/h at 8a.m."]
    for start, stop in itertools.combinations(range(5), 2):
        part = column(texts).slice(start, stop - start)
        assert english.count_words(part)[0].tolist() == [len(spacy_words(text)) for text in texts[start:stop]]


def test_a_word_that_datatrove_may_lose_is_kept():
    """The one known difference. spaCy's table of words cannot hold "IS_ALPHA" in a `memory_zone`, where datatrove
    calls it: by what the process met before, datatrove keeps the word, takes it out of the text, or fails."""
    assert words(["the IS_ALPHA, flag"]) == [["the", "IS_ALPHA", ",", "flag"]]


def test_rules_that_are_not_known_are_an_error(monkeypatch):
    from spacy.lang.en import English

    for name, value in [
        ("infixes", [*English.Defaults.infixes, "x"]),
        ("prefixes", [*English.Defaults.prefixes, "xx"]),
        ("suffixes", [*English.Defaults.suffixes, r"(?<=x)\."]),
        ("token_match", re.compile("x").match),
        ("url_match", re.compile("x").match),
        ("tokenizer_exceptions", {"x" * 64: [{65: "x" * 64}]}),
    ]:
        with monkeypatch.context() as changed:
            changed.setattr(English.Defaults, name, value)
            with pytest.raises(RuntimeError, match=r"spaCy 3.* than those compiled here"):
                english_spacy.load.__wrapped__()


def test_without_spacy_the_error_says_what_to_install(monkeypatch):
    for module in [name for name in sys.modules if name.partition(".")[0] == "spacy"]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'winnow\[datatrove\]'"):
        english_spacy.load.__wrapped__()


def documents(name, most):
    import zstandard

    folder = CORPORA / name
    if not folder.is_dir():
        pytest.skip("needs the shared corpora beside the checkout")
    for file in sorted(folder.glob("part-*.jsonl.zst")):
        with open(file, "rb") as raw:
            reader = zstandard.ZstdDecompressor().stream_reader(raw)
            for line in itertools.islice(io.TextIOWrapper(reader, encoding="utf-8", newline="\n"), most):
                yield json.loads(line)["text"][:200_000]


@pytest.mark.parametrize(
    "name", ["web_prose", "docs_en", "textbooks", "books_en", "low_quality", "readmes", "licences"]
)
def test_real_text_is_cut_as_spacy_cuts_it(name):
    texts = list(documents(name, 200))
    chosen = random.Random(1)
    chunks = sorted({chunk for text in texts for chunk in text.split() if len(chunk) < 1000})
    chunks = chosen.sample(chunks, min(len(chunks), 8000))
    same = sum(a == spacy_words(b) for a, b in zip(words(chunks), chunks, strict=True))
    assert same / len(chunks) >= 0.99  # what the kernels are to decide at least
    assert same == len(chunks)  # what they do
    sample = [text[:5000] for text in chosen.sample(texts, min(len(texts), 40))]
    assert words(sample) == [spacy_words(text) for text in sample]
    lines = [line for text in sample for line in text.splitlines()]
    assert english.count_words(column(lines))[1].tolist() == [spacy_sentences(line) for line in lines]
