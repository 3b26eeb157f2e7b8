"""Is every page of a dump its document, whatever the dump's schema, language and faults; and is markup read aright?"""

import bz2
import gzip
import re
import tracemalloc
from collections import Counter
from pathlib import Path

import mwparserfromhell
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.shards import decompress, mediawiki, readers
from winnow.shards.conversion import Unconvertible
from winnow.shards.convert_settings import Wikitext
from winnow.shards.inputs import InputError, Piece
from winnow.shards.readers import ReadSettings
from winnow.shards.wikitext import plain_wikitext

CORPORA = Path(__file__).resolve().parents[1].parent / "shared" / "corpora"
SETTINGS = ReadSettings("mediawiki")
SITE = (
    "<siteinfo><sitename>Вики</sitename><base>https://bg.example.org/wiki/Начало</base><namespaces>"
    '<namespace key="0"/><namespace key="1">Беседа</namespace><namespace key="6">Файл</namespace>'
    '<namespace key="14">Категория</namespace></namespaces></siteinfo>'
)


def page(title="A b", text="words", ns="<ns>0</ns>", more="", revision=""):
    return (
        f"<page><title>{title}</title>{ns}<id>7</id>{more}<revision><id>11</id>{revision}<contributor><id>3</id>"
        f"</contributor><model>wikitext</model><text>{text}</text></revision></page>"
    )


def dump(*pages, site=SITE):
    return f'<mediawiki version="0.10">{site}{"".join(pages)}</mediawiki>'.encode()


def rows(tmp_path, data, name="dump.xml", settings_=SETTINGS):
    path = tmp_path / name
    path.write_bytes(data)
    return list(mediawiki.rows(Piece(0, str(path), name, 1, len(data)), settings_))


def plain(markup):
    return plain_wikitext(markup, {}).text


# ---- pages ------------------------------------------------------------------------------------------------------


def test_columns_and_positions(tmp_path):
    data = dump(
        page(revision="<timestamp>2020-01-02T03:04:05Z</timestamp>"), page("C/d é", "x &lt;b&gt; &amp; y")
    )
    first, second = rows(tmp_path, data)
    assert first.columns == {
        "text": "words",
        "title": "A b",
        "page": 7,
        "revision": 11,
        "date": "2020-01-02T03:04:05Z",
        "url": "https://bg.example.org/wiki/A_b",
    }
    assert second.columns["text"] == "x <b> & y"
    assert second.columns["url"] == "https://bg.example.org/wiki/C/d_%C3%A9"
    assert [data[r.position : r.position + 6] for r in (first, second)] == [b"<page>"] * 2


@pytest.mark.parametrize(
    ("page_", "reason"),
    [
        pytest.param(page(ns="<ns>1</ns>"), "namespace", id="talk"),
        pytest.param(page("Беседа:A", ns=""), "namespace", id="talk-of-an-old-schema"),
        pytest.param(page("Part: two", ns=""), "", id="a-title-with-a-colon"),
        pytest.param(page(more='<redirect title="B"/>'), "redirect", id="redirect"),
        pytest.param(page(text="#REDIRECT [[B]]", ns=""), "redirect", id="redirect-of-an-old-schema"),
        pytest.param(page().replace(">wikitext<", ">css<"), "content-model", id="style-sheet"),
        pytest.param(page().replace("<text>", '<text deleted="deleted">'), "deleted", id="deleted"),
        pytest.param(page(text="a" * 101), "too-large", id="too-large"),
        pytest.param(page(text="a" * 100), "", id="as-large-as-may-be"),
    ],
)
def test_what_is_no_document(tmp_path, page_, reason):
    small = ReadSettings("mediawiki", max_document_bytes=100)
    assert [r.reason for r in rows(tmp_path, dump(page_, page()), settings_=small)] == [reason, ""]


def test_the_last_revision_in_the_file(tmp_path):
    history = page(text="old" * 100).replace(
        "</page>", "<revision><id>12</id><text>new</text></revision></page>"
    )
    (row,) = rows(tmp_path, dump(history), settings_=ReadSettings("mediawiki", max_document_bytes=100))
    assert (row.columns["text"], row.columns["revision"]) == ("new", 12)


def test_slots_of_the_newest_schema(tmp_path):
    slots = page().replace("</revision>", "<content><role>x</role><text>slot</text></content></revision>")
    (row,) = rows(tmp_path, dump(slots))
    assert row.columns["text"] == "words"


def test_names_of_files_in_the_wikis_language(tmp_path):
    (row,) = rows(tmp_path, dump(page(text="[[Файл:x.jpg|a]] [[категория : B]] [[Файлове]]")))
    assert row.columns["text"] == "[[File:x.jpg|a]] [[Category: B]] [[Файлове]]"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_encodings(tmp_path, encoding):
    (row,) = rows(tmp_path, dump(page("Щ")).decode().encode(encoding))
    assert row.columns["title"] == "Щ"


def test_many_streams_in_a_file(tmp_path):
    """As Wikipedia's multistream dumps are: a head, a hundred pages each, a tail."""
    head, tail = dump().split(b"</mediawiki>")[0], b"</mediawiki>"
    streams = [head, page("A").encode(), page("B").encode(), tail]
    found = rows(tmp_path, b"".join(map(bz2.compress, streams)), "dump.xml.bz2")
    assert [(r.columns["title"], r.position) for r in found] == [
        ("A", len(head)),
        ("B", len(head) + len(streams[1])),
    ]


# ---- faults -----------------------------------------------------------------------------------------------------

BOMB = b'<!DOCTYPE m [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
OUTSIDE = b'<!DOCTYPE m SYSTEM "file:///etc/hostname" [<!ENTITY % p SYSTEM "http://127.0.0.1:9/">%p;]>'


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(BOMB + dump(page(text="&amp;b;")), "document type", id="entities"),
        pytest.param(OUTSIDE + dump(page()), "document type", id="external"),
        pytest.param(dump(page(text="&b;")), "undefined entity", id="undefined-entity"),
        pytest.param(dump("<page></pages>"), "mismatched tag", id="not-well-formed"),
        pytest.param(dump("<a>" * 40 + "</a>" * 40), "in each other", id="deep"),
        pytest.param(dump(*(f"<a{i}/>" for i in range(1001))), "names", id="names"),
        pytest.param(dump('<a b="' + "x" * (18 << 20) + '"/>'), "longer than", id="long-tag"),
        pytest.param(b"<html></html>", "root is <html>", id="another-root"),
        pytest.param(b"{}", "not a readable MediaWiki dump at byte 0", id="no-xml"),
    ],
)
def test_refused(tmp_path, data, words):
    with pytest.raises(InputError, match=words):
        rows(tmp_path, data)


WHOLE = dump(page("A"), page("B"))


@pytest.mark.parametrize(
    ("data", "error", "titles"),
    [
        pytest.param(WHOLE[: WHOLE.rindex(b"<model>")], decompress.TruncatedError, ["A"], id="cut-in-a-page"),
        pytest.param(
            WHOLE[: WHOLE.rindex(b"<text>") + 2], decompress.TruncatedError, ["A"], id="cut-in-a-tag"
        ),
        pytest.param(WHOLE[:-1], decompress.TruncatedError, ["A", "B"], id="cut-at-the-end"),
        pytest.param(b"", decompress.TruncatedError, [], id="empty"),
        pytest.param(WHOLE.replace(b"<title>B", b"<title>B<"), InputError, ["A"], id="broken"),
    ],
)
def test_pages_before_a_fault_are_read(tmp_path, data, error, titles):
    path = tmp_path / "dump.xml"
    path.write_bytes(data)
    read = mediawiki.rows(Piece(0, str(path), "dump.xml", 1, 0), SETTINGS)
    assert [next(read).columns["title"] for _ in titles] == titles
    with pytest.raises(error):
        next(read)


def test_a_cut_dump_with_keep(tmp_path):
    whole = gzip.compress(dump(*(page(f"T{i}", "words " * 50) for i in range(2000))))
    (tmp_path / "dump.xml.gz").write_bytes(whole[: len(whole) // 2])
    piece = Piece(0, str(tmp_path / "dump.xml.gz"), "dump.xml.gz", 1, 0)
    seen = readers.Seen()
    kept = ReadSettings("mediawiki", key="url", on_truncated="keep")
    documents = [d for b in readers.read([piece], kept, seen) for d in b.table.to_pylist()]
    assert 100 < len(documents) < 2000
    assert seen.truncated == ["dump.xml.gz"]
    assert documents[1]["key"] == "https://bg.example.org/wiki/T1"
    with pytest.raises(InputError, match="ends too early"):
        list(readers.read([piece], SETTINGS, readers.Seen()))


def test_a_page_beyond_any_limit_is_not_held(tmp_path):
    many = (
        b"<page><title>A</title><ns>0</ns><revision><text>"
        + b"word " * (1 << 23)
        + b"</text></revision></page>"
    )
    data = gzip.compress(dump().replace(b"</mediawiki>", many + b"</mediawiki>"), 1)
    (tmp_path / "dump.xml.gz").write_bytes(data)
    piece = Piece(0, str(tmp_path / "dump.xml.gz"), "dump.xml.gz", 1, 0)
    tracemalloc.start()
    (row,) = mediawiki.rows(piece, ReadSettings("mediawiki", max_document_bytes=1 << 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (row.reason, row.size > 40 << 20) == ("too-large", True)
    assert peak < 12 << 20


def test_names_beyond_any_limit_are_not_held(tmp_path):
    names = "".join(f'<namespace key="{i}">{"x" * 2_000_000}{i}</namespace>' for i in range(100, 110))
    site = f"<siteinfo><base>http://a.org/{'b' * 1_000_000}</base><namespaces>{names}</namespaces></siteinfo>"
    data = dump(page("t" * 1_000_000), page("A"), site=site)
    (tmp_path / "dump.xml.gz").write_bytes(gzip.compress(data, 1))
    piece = Piece(0, str(tmp_path / "dump.xml.gz"), "dump.xml.gz", 1, 0)
    tracemalloc.start()
    long, short = mediawiki.rows(piece, SETTINGS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert short.columns["title"] == "A"
    assert long.columns["title"] == "t" * mediawiki.LONGEST_FACT
    assert peak < 8 << 20


def test_links_are_compared_with_few_names(tmp_path):
    hostile = ["[" * 500 + "x", " " * 500 + "File x", *("a" * 500 + str(i) for i in range(400))]
    names = "".join(f'<namespace key="6">{name}</namespace>' for name in hostile)
    text = "[" * 100_000 + "[[" + " " * 100_000 + ("[[" + "a" * 499) * 500
    (row,) = rows(
        tmp_path, dump(page(text=text), site=f"<siteinfo><namespaces>{names}</namespaces></siteinfo>")
    )
    assert row.columns["text"] == text


# ---- markup -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("'''A''' is ''b'' and '''''c'''''; l''''x'''", "A is b and c; l'x"),
        ("[[Linked page|shown]], [[Other]] and [[:Category:Seen]]s", "shown, Other and Category:Seens"),
        ("[[#History]] [[de:Anders]][[zh-min-nan:X]][[de:Anders|said]] [[Star Trek: X]]", "History said Star Trek: X"),
        ("a[[File:x.jpg|thumb|A [[b]] caption]] b [[Bild:y.PNG|thumb|c]][[Category:D]]", "a b"),
        ("{{Infobox|a={{b}}}}Text{{cite|x}}.<ref>note</ref><ref name=a /> End<!-- no -->", "Text. End"),
        ("before\n{| class=x\n! h\n|-\n| cell\n|}\nafter", "before\n\nafter"),
        ("[https://a.example words here] [https://b.example] https://c.example/", "words here  https://c.example/"),
        ("== A ==\ntext\n=== B ===\n{{gone}}\n== C ==\n=== D ===\nmore\n== E ==\n", "A\n\ntext\n\nC\n\nD\n\nmore"),
        ("* one\n** two\n# three\n: four\n* {{gone}}\n; a : b", "* one\n  * two\n* three\nfour\na : b"),
        ("where <math>x^2</math> is <code>a ** b</code><br/>and", "where $x^2$ is a ** b\nand"),
        ("<syntaxhighlight lang=c>\n#include <a>\n* b\n</syntaxhighlight>", "#include <a>\n* b"),
        ("__NOTOC__a __init__ &nbsp;&eacute;&#x263a; &#xD800;", "a __init__ \xa0é☺"),
        ("<nowiki>''[[x]]''</nowiki> <b>c</b> <gallery>\nx.jpg|d\n</gallery><references/>", "''[[x]]'' c"),
        ("{{only}}[[Category:X]]", ""),
        ("\0\1a", "a"),
    ],
)  # fmt: skip
def test_markup(markup, text):
    assert plain(markup) == text


def test_bytes_that_are_no_text():
    with pytest.raises(Unconvertible) as caught:
        plain_wikitext(b"\xff", {})
    assert caught.value.reason == "utf8"
    assert plain_wikitext("é".encode(), {}).text == "é"


PIECES = [
    "{{", "}}", "[[", "]]", "|", "'''", "== ", "\n", "* ", "<ref>", "</ref>", "<b>", "</b>", "{|", "|}", "a", "&lt;",
    "__", "é", ":",
]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_any_markup_is_read(markup):
    text = plain(markup)
    assert "\0" not in text
    assert "\1" not in text
    assert text == text.strip()


@pytest.mark.parametrize("unit", ["a\n", "'", "_", "* ", "[[a:b.", "]]", "éa ", "=", "\U0001f600", "ก"])
def test_long_texts_do_not_stall(unit):
    plain(unit * (200_000 // len(unit)))


@pytest.mark.parametrize("unit", ["{{", "[[", "<b>", "{|", "{{{", "[http://a "])
def test_deep_markup_does_not_crash(unit):
    plain("x" + unit * 300 + "y")


# ---- real dumps -------------------------------------------------------------------------------------------------


def real(name):
    found = list((CORPORA / "wiki").glob(name))
    if not found:
        pytest.skip("needs the shared corpora beside the checkout")
    return Piece(0, str(found[0]), found[0].name, 1, found[0].stat().st_size)


def test_real_dumps():
    piece = real("gensim__enwiki-latest*.xml.zst")
    assert Counter(r.reason for r in mediawiki.rows(piece, SETTINGS)) == {
        "": 106,
        "redirect": 99,
        "namespace": 1,
    }
    piece = real("gensim__bgwiki*.xml.zst")  # UTF-16
    assert [r.reason for r in mediawiki.rows(piece, SETTINGS)].count("") == 1


def test_words_agree_with_strip_code():
    """The `wikipedia` builder of Hugging Face is strip_code, after files, references and tables are taken out."""
    ours, theirs = Counter(), Counter()
    pages = (r for r in mediawiki.rows(real("gensim__enwiki-latest*.xml.zst"), SETTINGS) if r.columns)
    for row, _ in zip(pages, range(3), strict=False):
        markup = row.columns["text"]
        code = mwparserfromhell.parse(markup)
        hidden = [
            link
            for link in code.filter_wikilinks()
            if re.match("(?i)(file|image|category):", str(link.title))
        ]
        for node in hidden + [tag for tag in code.filter_tags() if str(tag.tag) in ("ref", "table")]:
            try:
                code.remove(node)
            except ValueError:
                continue  # it lies in one that is gone
        theirs += Counter(re.findall(r"\w+", code.strip_code()))
        ours += Counter(re.findall(r"\w+", plain(markup)))
    assert theirs.total() > 10_000
    assert (ours & theirs).total() > 0.97 * max(ours.total(), theirs.total())


def test_dump_to_documents():
    """Through the reader and the converting process."""
    piece = real("gensim__enwiki-table-markup.xml.zst")
    whole = ReadSettings("mediawiki", convert=Wikitext.model_validate({}))
    documents = [d for b in readers.read([piece], whole, readers.Seen()) for d in b.table.to_pylist()]
    assert len(documents) == 5
    assert documents[0]["text"].startswith("The constructive vote of no confidence (in German: konstruktives")
    assert not re.search(r"\{\||\[\[|\{\{", documents[0]["text"])
