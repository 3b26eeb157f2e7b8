"""Are URLs, addresses and spare newlines cut where DCLM's regular expressions find them?"""

import io
import json
import re
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from winnow.filters.dclm_tlds import ASCII_TLDS, OTHER_TLDS
from winnow.filters.dclm_urls import cut_urls

CORPORA = Path(__file__).resolve().parents[1].parent / "shared" / "corpora"

PIECES = [
    "http://",
    "https://",
    "ftp://",
    "sftp://",
    "://",
    "www.",
    "example",
    ".com",
    ".co",
    ".co.uk",
    ".org",
    "a",
    "B",
]
PIECES += [
    ".COM",
    ".py",
    ".museum",
    ".x",
    "_",
    "-",
    ".",
    "..",
    "/",
    "/path?q=1&r",
    "(",
    ")",
    "#top",
    "=",
    "~",
    "%20",
    "@",
]
PIECES += [
    " ",
    "  ",
    "\t",
    "\n",
    "\n\n",
    "\u00a0",
    "\u3000",
    "\x1f",
    " " * 11,
    "\n" * 4,
    "é",
    "中",
    "’",
    "…",
    "\u0301",
]
PIECES += [
    ".中国",
    ".рф",
    ".vermögensberater",
    ".verm",
    ".vermö",
    ".भारत",
    "ा",
    ".இந்தியா",
    "ம்",
    ".測試",
    "1",
    "12",
    ".2.3",
    "255.",
    "1.2.3.4",
    "300.1.1.1",
    "v1.2.3.4.5",
]
PIECES += ["the", "See", "HTTP", "ſee", "K", "com", "x" * 250, "7" * 10]
awkward = st.lists(st.sampled_from(PIECES + [" "] * 6 + [".com", ".", "a"] * 3), max_size=16).map("".join)


def slow_cut(text, quirks, max_newlines):
    """The two modifiers as DCLM's description of them reads."""
    tlds = sorted((ASCII_TLDS + " " + OTHER_TLDS).split(), key=len, reverse=True)
    either = "|".join(map(re.escape, tlds))
    scheme, host, tail = (
        r"((https?|ftp)://)?",
        r"[-a-zA-Z0-9@:%._\+~#=]{1,256}",
        r"[-a-zA-Z0-9()@:%_\+.~#?&//=]*",
    )
    if not quirks or re.match(either, text, re.IGNORECASE):
        text = re.sub(rf"\s{{0,10}}{scheme}{host}\.({either})\b({tail})", "", text)
    text = re.sub(rf"\s{{0,10}}\b{scheme}(?:[0-2]?[0-9]{{1,2}}\.){{3}}[0-2]?[0-9]{{1,2}}{tail}", "", text)
    return text if max_newlines is None else re.sub(rf"\n{{{max_newlines + 1},}}", "\n" * max_newlines, text)


def column(texts):
    return pa.array(texts, pa.large_string())


@settings(deadline=None, max_examples=400)
@given(st.lists(awkward, min_size=1, max_size=4), st.booleans(), st.sampled_from([None, 1, 2]), st.data())
@example(["see a.vermögensberater/x, b.vermö c.рф d.中国/x"], True, 2, None)
@example(["See http://a.com   \n x.com", "a b.com"], True, 2, None)
@example(
    ["x" * 300 + ".com", "x" * 250 + ".com" + "y" * 250 + ".中国z", "\t" * 12 + "a.com:http://b.org c"],
    False,
    2,
    None,
)
def test_agrees_with_the_patterns(texts, quirks, max_newlines, more):
    start = more.draw(st.integers(0, len(texts))) if more else 0
    found = cut_urls(column(texts).slice(start), quirks=quirks, max_newlines=max_newlines)
    assert found.to_pylist() == [slow_cut(text, quirks, max_newlines) for text in texts[start:]]
    found.validate(full=True)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        pytest.param("go to https://a.org/c?d=(e), or x.com.", "go to, or", id="gap-and-path-go-with-it"),
        pytest.param(
            "see file.py and e.g.this, me@mail.org", "see and e.g.this,", id="files-and-addresses-go-too"
        ),
        pytest.param("WWW.EXAMPLE.COM stays", "WWW.EXAMPLE.COM stays", id="capitals-are-no-domain"),
        pytest.param(
            "at 127.0.0.1:80/x or v1.2.3.4, 1.2.3", "at or v1.2.3.4, 1.2.3", id="ipv4-at-a-word's-start"
        ),
        pytest.param(
            "end.Next com. .com x.comx x.com_", "end.Next com. .com x.comx x.com_", id="no-host-or-no-domain"
        ),
        pytest.param("a\n\n\n\nb\n\nc\n \n\n\n", "a\n\nb\n\nc\n \n\n", id="two-newlines-stay"),
        pytest.param("a" + " " * 12 + "x.com b", "a   b", id="ten-characters-of-space"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_by_hand(text, left):
    assert cut_urls(column([text]), quirks=False, max_newlines=2).to_pylist() == [left]


def test_dclm_looks_for_urls_only_behind_a_domain():
    texts = ["a plain x.com page", "See x.com", "http://x.com", "The x.com 1.2.3.4", "a 1.2.3.4"]
    left = ["a plain x.com page", "See", "", "The", "a"]
    assert cut_urls(column(texts), quirks=True, max_newlines=2).to_pylist() == left


def test_text_without_urls_comes_back_as_it_is():
    texts = column(["no", "thing", "1.2.3 a.рx", ".com", "v1.2.3.4"])
    assert cut_urls(texts, quirks=False, max_newlines=2) is texts


def test_input_that_is_no_text_column_is_refused():
    with pytest.raises(TypeError, match=r"^texts must be a pyarrow LargeStringArray, not StringArray$"):
        cut_urls(pa.array(["a"], pa.string()), quirks=False, max_newlines=2)
    with pytest.raises(ValueError, match=r"^texts must have no nulls; 1 of 1 are null$"):
        cut_urls(column([None]), quirks=False, max_newlines=2)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a." * 500_000 + "рф", id="dots"),
        pytest.param("x" * 1_000_000 + ".com", id="a-long-host"),
        pytest.param("a.com " * 150_000, id="many-urls"),
        pytest.param("\n" * 1_000_000, id="newlines"),
        pytest.param("1." * 300_000, id="numbers"),
    ],
)
def test_long_and_strange(text):
    [left] = cut_urls(column([text]), quirks=False, max_newlines=2).to_pylist()
    assert len(left) <= len(text)
    assert "a.com" not in left


@pytest.mark.parametrize("name", ["web_prose", "low_quality", "web_docs_multi", "docs_en"])
@pytest.mark.parametrize("quirks", [False, True])
def test_agrees_on_real_text(name, quirks):
    zstandard = pytest.importorskip("zstandard")
    shards = sorted((CORPORA / name).glob("*.jsonl.zst"))
    if not shards:
        pytest.skip("needs the shared corpora beside the checkout")
    with open(shards[0], "rb") as file:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
        texts = [json.loads(line)["text"][:4000] for line, _ in zip(lines, range(60), strict=False)]
    found = cut_urls(column(texts), quirks=quirks, max_newlines=2).to_pylist()
    assert found == [slow_cut(text, quirks, 2) for text in texts]
    assert quirks or found != texts, "no text had a URL"
