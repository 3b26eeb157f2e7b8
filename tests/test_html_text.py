"""Does a page become its text, whatever its encoding says, and however broken it is?"""

import json
import sys
import tarfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.shards.conversion import Unconvertible, convert
from winnow.shards.convert_settings import Html
from winnow.shards.html_text import decoded, page_text

CORPORA = Path(__file__).resolve().parents[1].parent / "shared" / "corpora"
RESILIPARSE = Html.model_validate({})
TRAFILATURA = Html.model_validate({"extractor": "trafilatura"})
BOTH = pytest.mark.parametrize("wanted", [RESILIPARSE, TRAFILATURA], ids=["resiliparse", "trafilatura"])
SENTENCE = "Quiet rivers carve deep valleys over many thousands of years, as every map of the hills shows. "
ARTICLE = """<!doctype html><html lang="en-GB"><head><title> On\n rivers </title><style>p {color: red}</style></head>
<body><nav><a href="/">Home</a> <a href="/all">All posts</a></nav>
<article><h1>Rivers</h1><p>%s</p><p>%s</p></article>
<script>var unseen = 1;</script><!-- unseen too --><footer>Terms of use</footer></body></html>"""
ARTICLE %= (SENTENCE * 3, SENTENCE.replace("rivers", "glaciers") * 3)


@BOTH
def test_the_article_and_nothing_around_it(wanted):
    page = convert(wanted, ARTICLE, {})
    assert page.columns == {"title": "On rivers", "lang": "en-GB"}
    assert SENTENCE.strip() in page.text
    assert "glaciers" in page.text
    assert not any(word in page.text for word in ("Home", "All posts", "unseen", "color", "Terms"))
    assert "\n" in page.text


@BOTH
def test_columns_of_the_row_are_left_to_it(wanted):
    assert page_text(ARTICLE, wanted, {"title": "mine"}).columns == {"lang": "en-GB"}
    assert page_text("<p>no head", wanted, {}).columns == {}
    assert page_text("<html lang=''><title> </title><p>x", wanted, {}).columns == {}


def test_a_title_is_cut_and_a_drawings_is_none():
    said = page_text(f"<title>{'a' * 10_000}</title><p>x", RESILIPARSE, {}).columns
    assert len(said["title"]) == 4096
    assert page_text("<svg><title>a drawing</title></svg><p>x", RESILIPARSE, {}).columns == {}


def test_plain_text_is_taken_as_it_is():
    text = "if a <b and c> d:\n\n    pass\n"
    assert page_text(text.encode(), TRAFILATURA, {"mime": "text/plain"}).text == text
    assert (
        page_text("ä<i>".encode("latin-1"), RESILIPARSE, {"mime": "text/plain", "charset": "latin1"}).text
        == "ä<i>"
    )


META = b'<html><head><meta charset="%s"></head><body>'


@pytest.mark.parametrize(
    ("data", "charset", "text"),
    [
        (b"\xef\xbb\xbfna\xc3\xafve", "latin-1", "naïve"),
        ("naïve".encode("utf-16"), None, "naïve"),
        (b"\xfe\xff" + "naïve".encode("utf-16-be"), "utf-8", "naïve"),
        (b"\xef\xbb\xbfna\xffve", None, "na\ufffdve"),
        ("naïve – „ja“".encode(), None, "naïve – „ja“"),
        ("naïve".encode(), "iso-8859-1", "naïve"),  # a header that is wrong
        ("naïve".encode("latin-1"), "ISO-8859-1", "naïve"),
        (b"\x93yes\x94", "iso-8859-1", "“yes”"),  # what browsers take Latin-1 for
        ("Привет".encode("koi8-r"), "koi8-r", "Привет"),
        ("Привет".encode("koi8-r"), " 'x'", None),
        ("日本".encode("iso-2022-jp"), "iso-2022-jp", "日本"),
        ("日本語".encode("shift_jis"), "x-sjis", "日本語"),
        ("汉字".encode("gb2312"), "gb2312", "汉字"),
        (META % b"koi8-r" + "Привет".encode("koi8-r"), None, "Привет"),
        (META % b"koi8-r" + "Привет".encode("cp1251"), "windows-1251", "Привет"),  # the header is before the page
        (b'<META http-equiv="Content-Type" content="text/html; charset=windows-1251">' + "Привет".encode("cp1251"),
         "unheard-of", "Привет"),
        (META % b"utf-16" + b"caf\xe9, na\xefve, \xe0 c\xf4t\xe9 d'un \xeatre", None, "café, naïve, à côté d'un être"),
        (META % b"utf-8" + b"a\xff", None, "a\ufffd"),
        (b"", None, ""),
        (b"ascii", None, "ascii"),
    ],
)  # fmt: skip
def test_encodings(data, charset, text):
    got = decoded(data, charset)
    assert decoded(bytearray(data), charset) == got
    assert text is None or got.endswith(text)


@pytest.mark.parametrize("encoding", ["cp1251", "shift_jis", "gb18030", "euc_kr", "iso8859_7"])
def test_an_encoding_that_nobody_says_is_guessed(encoding):
    words = {
        "cp1251": "Тихие реки прорезают глубокие долины на протяжении многих тысяч лет. ",
        "shift_jis": "静かな川は何千年もの時をかけて深い谷を刻みます。",
        "gb18030": "安静的河流经过数千年的时间冲刷出深深的山谷。",
        "euc_kr": "고요한 강은 수천 년에 걸쳐 깊은 골짜기를 만듭니다. ",
        "iso8859_7": "Τα ήσυχα ποτάμια σκάβουν βαθιές κοιλάδες για χιλιάδες χρόνια. ",
    }[encoding]
    assert decoded((words * 20).encode(encoding)) == words * 20


@given(st.binary(max_size=300), st.none() | st.text(max_size=12) | st.integers())
@settings(deadline=None, max_examples=200)
def test_any_bytes_decode(data, charset):
    decoded(data, charset).encode()
    page_text(data, RESILIPARSE, {"charset": charset}).text.encode()


@BOTH
@pytest.mark.parametrize(
    "page",
    [
        "", " \n", "\0" * 100, "<", "<" * 20_000, "&#" * 2000 + ";", "&#xD800;&#0;&#1114112;", "<![CDATA[", "<!--",
        "<div>" * 1000 + "x", "<b>" * 3000 + "x", "<table>" * 500, "<p>" * 500, "</p>" * 3000, "<a " + "a=" * 5000,
        '<?xml version="1.0" encoding="utf-16"?><html><p>hello</p></html>', "a" * 200_000, "\n" * 200_000,
        "<script>" + "x" * 10_000, "<plaintext><p>x", "<frameset><frame src=x>", "\ufffe\U0010ffff\x01\x7f",
    ],
    ids=repr,
)  # fmt: skip
def test_broken_pages_become_some_text(wanted, page):
    assert isinstance(page_text(page, wanted, {}).text.encode(), bytes)


@BOTH
def test_half_a_character_is_no_text(wanted):
    with pytest.raises(Unconvertible, match="surrogate"):
        page_text("<p>a\ud800", wanted, {})


@BOTH
def test_a_page_is_read_alike_whatever_was_read_before(wanted):
    # Trafilatura can remember the paragraphs of earlier pages, and drop what it has seen too often.
    first = page_text(ARTICLE, wanted, {})
    for _ in range(4):
        page_text(ARTICLE.replace("Rivers", "Others"), wanted, {})
    assert page_text(ARTICLE, wanted, {}) == first


@pytest.mark.parametrize(
    ("wanted", "module"), [(RESILIPARSE, "resiliparse.extract.html2text"), (TRAFILATURA, "trafilatura")]
)
def test_a_missing_package_is_named(monkeypatch, wanted, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'winnow\[web\]'"):
        page_text(ARTICLE, wanted, {})


def real_pages(count):
    archives = sorted((CORPORA / "web_html_pages").glob("trafilatura-0*.tar.zst"))
    if not archives:
        pytest.skip("needs the shared corpora beside the checkout")
    truth = {}
    with zstandard.open(
        next((CORPORA / "web_html_pages").glob("trafilatura-truth-*")), "rt", encoding="utf-8"
    ) as lines:
        truth = {row["file"]: row for row in map(json.loads, lines)}
    with zstandard.open(archives[1], "rb") as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            row = truth.get(member.name.rsplit("/", 1)[-1])
            if row and count:
                count -= 1
                yield archive.extractfile(member).read(), row


@BOTH
def test_real_pages_keep_what_they_should(wanted):
    kept = lost = 0
    for data, row in real_pages(12):
        text = " ".join(page_text(data, wanted, {}).text.split())
        found = [" ".join(string.split()) in text for string in row["with"]]
        kept, lost = kept + sum(found), lost + len(found) - sum(found)
    assert kept > 5 * lost
