"""Are lines dropped, and phrases cut, as DCLM's seven steps would do it one after the other?"""

import io
import json
import re
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from winnow.filters import dclm_lines
from winnow.filters.dclm_lines import COUNTED, drop_lines

CORPORA = Path(__file__).resolve().parents[1].parent / "shared" / "corpora"
DCLM = {
    "max_upper_frac": 0.5,
    "max_digit_frac": 0.999999,
    "counters": True,
    "min_words": 2,
    "max_cut_words": 10,
}

PIECES = [
    "a b",
    "word",
    "AB",
    "ABCd",
    "É",
    "ß",
    "12",
    "٣",
    "²",
    "3 likes",
    "3.5K VIEWS",
    "1,0m  liKes",
    "(7 followerſ)",
    "_3 likes",
]
PIECES += [
    "2 Apples",
    "items in cart",
    "İtems in cart",
    "ITEMS IN CART now",
    "read more...",
    "Read more abc",
    "read more » x",
]
PIECES += [
    "read more",
    "more",
    "Sign-in",
    "ſıgn-in x",
    "sign-in",
    "gn-",
    " in cart",
    "…",
    "...",
    "-",
    "one two three four five six",
]
GAPS = [" ", " ", " ", "\n", "\n", "\n", "\n\n", "\t", "\u3000", "\r\n", "\x1f", "", ""]
awkward = st.lists(st.sampled_from(PIECES + GAPS * 3), max_size=24).map("".join)


def strip_lines(lines):
    return "\n".join(lines).strip()


def slow_steps(text, max_upper_frac, max_digit_frac, counters, min_words, max_cut_words):
    """DCLM's modifiers in the recipe's order; where one would drop the page, what is left is ""."""
    if max_upper_frac is not None:
        text = strip_lines(
            li
            for li in text.split("\n")
            if not li or sum(c.isupper() for c in li) / len(li) <= max_upper_frac
        )
    if max_digit_frac is not None:
        text = strip_lines(
            li
            for li in text.split("\n")
            if not li or sum(c.isdigit() for c in li) / len(li) <= max_digit_frac
        )
    if counters:
        pattern = (
            r"^\W*\d(?:,|\.|\d)*(?:K|k|M|m|B|b)?\s+(?:likes|shares|comments|retweets|reposts|quotes|bookmarks|upvotes"
            r"|downvotes|downloads|views|followers)\W*$"
        )
        text = strip_lines(li for li in text.split("\n") if not re.search(pattern, li.lower()))
    text = "\n".join(li for li in text.split("\n") if len(li.split()) >= min_words or not li)
    for pattern in (r"\s?(?:items in cart)", r"\s?(?:read more...)$", r"^(?:sign-in)\s?"):
        left = []
        for line in text.split("\n"):
            cut = (
                re.sub(pattern, "", line, flags=re.IGNORECASE) if len(line.split()) <= max_cut_words else line
            )
            if not line or not (cut == "" or cut.isspace()):
                left.append(cut)
        text = strip_lines(left)
    return text


def column(texts):
    return pa.array(texts, pa.large_string())


some_settings = st.fixed_dictionaries(
    {
        "max_upper_frac": st.sampled_from([0.5, 0.5, 0.0, 0.3, None]),
        "max_digit_frac": st.sampled_from([0.999999, 0.999999, 0.5, None]),
        "counters": st.sampled_from([True, True, False]),
        "min_words": st.sampled_from([2, 2, 0, 3]),
        "max_cut_words": st.sampled_from([10, 10, 0, 3]),
    }
)


@settings(deadline=None, max_examples=1200)
@given(st.lists(awkward, min_size=1, max_size=4), st.one_of(st.just(DCLM), some_settings), st.data())
@example(["12 ", " AB\n 1 "], DCLM | {"max_upper_frac": None, "min_words": 0}, None)
@example(["12 ", " AB\n 1 "], DCLM | {"max_digit_frac": None, "max_upper_frac": None, "min_words": 0}, None)
@example(["\t12\nab", " 12\u3000"], DCLM | {"min_words": 0}, None)
@example(["a b\n7 li\u212aes", "a b\n8 boo\u212amarks"], DCLM, None)
def test_agrees_with_the_steps_one_after_the_other(texts, chosen, more):
    start = more.draw(st.integers(0, len(texts))) if more else 0
    found = drop_lines(column(texts).slice(start), **chosen)
    assert found.to_pylist() == [slow_steps(text, **chosen) for text in texts[start:]]
    found.validate(full=True)


@settings(deadline=None, max_examples=600)
@given(st.text(alphabet="aB1 \n\t²É\u3000", max_size=30))
@example(" \n 12\na b\n  ")
@example("\t12\n\na b\nAAb\n")
def test_agrees_where_only_the_ends_and_shares_matter(text):
    found = drop_lines(column([text]), **DCLM)
    assert found.to_pylist() == [slow_steps(text, **DCLM)]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        pytest.param("ABC de\nABCD ef\nsee that", "ABC de\nsee that", id="half-in-capitals-stays"),
        pytest.param("12 34\n1234\nno 12", "12 34\nno 12", id="digits-only"),
        pytest.param("a b\n 12", "a b", id="the-last-line-is-stripped-before-digits-are-counted"),
        pytest.param("* 3.5K likes!\n3 likes you\nlikes 3\n12 VIEWs", "3 likes you\nlikes 3", id="counters"),
        pytest.param("one\n\ntwo words\n \nthree", "two words", id="short-lines-go-empty-ones-stay-inside"),
        pytest.param("so 3 items in cart now\na b", "so 3 now\na b", id="items-in-cart-with-one-space"),
        pytest.param(
            "full text read more at\nfull text Read more »",
            "full text\nfull text Read more »",
            id="read-more",
        ),
        pytest.param("Sign-in to see\nto Sign-in", "to see\nto Sign-in", id="sign-in-only-in-front"),
        pytest.param("a b c d e f g h items in cart", "a b c d e f g h items in cart", id="eleven-words"),
        pytest.param("a b c d e f g items in cart", "a b c d e f g", id="ten-words"),
        pytest.param("read more now!\na b", "read more now!\na b", id="five-characters-are-no-three"),
        pytest.param("Sign-in items in cart\na b\n\n", "a b", id="a-line-cut-empty-goes"),
        pytest.param("\n a b \n", "a b", id="the-text-is-stripped"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_by_hand(text, left):
    assert drop_lines(column([text]), **DCLM).to_pylist() == [left]


def test_text_that_stays_comes_back_as_it_is():
    texts = column(["a b\n\nc d", "", "3 Apples are his", "he reads more now or"])
    assert drop_lines(texts, **DCLM) is texts
    off = {
        "max_upper_frac": None,
        "max_digit_frac": None,
        "counters": False,
        "min_words": 0,
        "max_cut_words": 0,
    }
    texts = column(["A\n1\n3 likes\nSign-in"])
    assert drop_lines(texts, **off) is texts


def test_the_kernel_leaves_to_re_whatever_re_could_match():
    """The letters that the kernel looks for have no other characters that `re` or ``lower`` take for them."""
    every_char = "".join(map(chr, range(0x110000)))
    for letter in "ncartdmoeg-":
        found = set(re.findall(re.escape(letter), every_char, re.IGNORECASE))
        assert found == {letter, letter.upper()}, letter
    for letter, beyond in (("i", {"İ", "ı"}), ("s", {"ſ"})):
        assert set(re.findall(letter, every_char, re.IGNORECASE)) == {letter, letter.upper()} | beyond
    for c in every_char:
        low = c.lower()
        assert bool(re.match(r"\w", c)) == bool(re.search(r"\w", low)), c
        assert bool(re.match(r"\d", c)) == bool(re.match(r"\d", low)), c
        assert c.isascii() or c == "\u212a" or not set(low) & set("".join(COUNTED)) or c == "İ", c
    assert all(name.isascii() for name in COUNTED)


def test_every_character_is_classed_as_python_and_re_class_it():
    _, by_char = dclm_lines._character_tables()
    asked = (
        str.isspace,
        str.isupper,
        str.isdigit,
        lambda c: re.match(r"\w", c),
        lambda c: re.match(r"\d", c),
        str.isalpha,
    )
    for number, ask in enumerate(asked):
        bits = by_char[:0x110000] >> number & 1
        assert [c for c in range(0x110000) if bits[c]] == [c for c in range(0x110000) if ask(chr(c))]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a" * 1_000_000, id="one-line"),
        pytest.param("\n" * 1_000_000, id="a-million-newlines"),
        pytest.param("3 likes\n" * 50_000 + "a b", id="counters"),
        pytest.param("in cart " * 100_000, id="cart-in-a-long-line"),
        pytest.param("1," * 300_000 + " likes", id="one-long-number"),
        pytest.param("😀 😀\n" * 100_000, id="emoji"),
        pytest.param(" " * 1_000_000, id="spaces"),
    ],
)
def test_long_and_strange(text):
    [left] = drop_lines(column([text]), **DCLM).to_pylist()
    assert left == slow_steps(text, **DCLM)


@pytest.mark.parametrize("name", ["web_prose", "low_quality", "web_docs_multi", "docs_en"])
def test_agrees_on_real_text(name):
    zstandard = pytest.importorskip("zstandard")
    shards = sorted((CORPORA / name).glob("*.jsonl.zst"))
    if not shards:
        pytest.skip("needs the shared corpora beside the checkout")
    with open(shards[0], "rb") as file:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
        texts = [json.loads(line)["text"] for line, _ in zip(lines, range(400), strict=False)]
    found = drop_lines(column(texts), **DCLM).to_pylist()
    assert found == [slow_steps(text, **DCLM) for text in texts]
    assert found != texts, "no text lost a line"
