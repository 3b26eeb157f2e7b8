"""Is every question of a Posts.xml put together with its answers, in bounded memory, and nothing lost in silence?"""

import gzip
import html
import random
import re
import tempfile
from collections import Counter
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.shards import decompress, readers, stackexchange
from winnow.shards.inputs import InputError, Piece
from winnow.shards.post_html import post_text
from winnow.shards.readers import ReadSettings
from winnow.shards.sorted_runs import SortedRuns
from winnow.shards.stackexchange import LOST

CORPORA = Path(__file__).resolve().parents[1].parent / "shared" / "corpora"
SETTINGS = ReadSettings("stackexchange")


def post(id_, kind=1, **more):
    columns = {"Id": id_, "PostTypeId": kind} | ({"Title": f"T{id_}"} if kind == 1 else {}) | more
    return "  <row " + " ".join(f"{k}={quoteattr(str(v))}" for k, v in columns.items()) + " />"


def answer(id_, question, score, body="yes", **more):
    return post(id_, 2, ParentId=question, Score=score, Body=f"<p>{body}</p>\n", **more)


def file(*posts):
    return (
        '\ufeff<?xml version="1.0" encoding="utf-8"?>\n<posts>\n' + "\n".join(posts) + "\n</posts>\n"
    ).encode()


def rows(tmp_path, data, name="Posts.xml", settings_=SETTINGS):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return list(stackexchange.rows(Piece(0, str(path), name, 1, len(data)), settings_))


def test_a_question_with_its_answers(tmp_path):
    question = post(
        5, Score=3, Body="<p>Why &lt; me?</p>\n", Tags="<a-b><c>", AcceptedAnswerId=9,
        CreationDate="2014-01-21T20:26:05.383", ContentLicense="CC BY-SA 3.0",
    )  # fmt: skip
    data = file(
        question,
        answer(6, 5, -2, "bad"),
        answer(8, 5, 4, "later", ContentLicense="CC BY-SA 4.0"),
        answer(7, 5, 4, "good"),
        answer(9, 5, 11, "best"),
    )
    (row,) = rows(tmp_path, data, "beer.meta.stackexchange.com/Posts.xml")
    assert row.columns == {
        "text": "Q: T5 Why < me?\n\nA: best\n\nA: good\n\nA: later\n\nA: bad",
        "id": 5,
        "url": "https://beer.meta.stackexchange.com/questions/5",
        "title": "T5",
        "tags": ["a-b", "c"],
        "score": 3,
        "answers": 4,
        "accepted": 9,
        "date": "2014-01-21T20:26:05.383",
        "licence": ["CC BY-SA 3.0", "CC BY-SA 4.0"],
    }
    assert row.position == 5


def test_questions_without_answers_and_answers_before_their_question(tmp_path):
    first, second = rows(tmp_path, file(answer(3, 12, 1), post(12), post(2)), "stackoverflow.com-Posts.xml")
    assert (first.columns["text"], first.columns["answers"], first.position) == ("Q: T2", 0, 2)
    assert (second.columns["text"], second.columns["answers"]) == ("Q: T12\n\nA: yes", 1)
    assert second.columns["url"] == "https://stackoverflow.com/questions/12"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param(answer(9, 77, 1), "no-question", id="orphan"),
        pytest.param(post(1), "duplicate", id="same-id-again"),
        pytest.param(post(9, 5), "post-type", id="tag-wiki"),
        pytest.param(post(9).replace('PostTypeId="1"', ""), "wrong-type", id="no-type"),
        pytest.param(post(9).replace("Title", "Name"), "wrong-type", id="no-title"),
        pytest.param(post(-9), "wrong-type", id="negative-id"),
        pytest.param(post("x"), "wrong-type", id="id-of-letters"),
        pytest.param(post(9, Score="1e3"), "wrong-type", id="score"),
        pytest.param(answer(9, "", 1), "wrong-type", id="answer-to-nothing"),
        pytest.param('<row Id="9"', "xml", id="cut"),
        pytest.param('<row Id="9" Body="&a;" />', "xml", id="undefined-entity"),
        pytest.param(
            '<!DOCTYPE p [<!ENTITY a "b">]><row Id="9" PostTypeId="1" />', "xml", id="document-type"
        ),
        pytest.param("<row>" * 100_000, "xml", id="deep"),
        pytest.param(post(9, Body="x" * (9 << 20)), "too-large", id="long-line"),
    ],
)
def test_what_is_no_document(tmp_path, line, reason):
    data = file(post(1), line, post(30))
    kept, after, lost = rows(tmp_path, data)
    assert (kept.position, after.position, lost.reason) == (1, 30, reason)
    assert lost.position == LOST + data.rindex(line.encode())
    assert lost.columns is None


def test_a_question_larger_than_a_document(tmp_path):
    data = file(post(1), *(answer(i, 1, 0, "x" * 100) for i in range(2, 50)), post(60))
    large, small = rows(tmp_path, data, settings_=ReadSettings("stackexchange", max_document_bytes=1000))
    assert (large.reason, small.position) == ("too-large", 60)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="UTF-16"):
        rows(tmp_path, file(post(1)).decode().encode("utf-16"))
    assert [r.reason for r in rows(tmp_path, b"\xff\n{}\n")] == ["xml", "xml"]
    assert rows(tmp_path, b"") == rows(tmp_path, b"<posts />") == []


def test_a_cut_file_gives_the_questions_before_the_cut(tmp_path):
    whole = gzip.compress(
        file(*(post(i, Body=f"<p>{random.Random(i).random()}</p>") for i in range(1, 4000)))
    )
    path = tmp_path / "Posts.xml.gz"
    path.write_bytes(whole[: len(whole) // 2])
    read = stackexchange.rows(Piece(0, str(path), path.name, 1, 0), SETTINGS)
    seen = []
    with pytest.raises(decompress.TruncatedError):
        seen.extend(row.position for row in read)
    assert seen == list(range(1, len(seen) + 1))
    assert 500 < len(seen) < 3500


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_order_within_any_budget(data):
    """Against the plain definition, with budgets of a few posts."""
    ids = data.draw(st.lists(st.integers(1, 30), unique=True, max_size=20))
    posts = {}
    for id_ in ids:
        kind = data.draw(st.sampled_from(["question", "answer"]))
        posts[id_] = (kind, data.draw(st.sampled_from([*ids, 99])), data.draw(st.integers(-3, 3)))
    expected = []
    for id_ in sorted(i for i in ids if posts[i][0] == "question"):
        answers = sorted((-posts[i][2], i) for i in ids if posts[i][:2] == ("answer", id_))
        expected.append("\n\n".join([f"Q: T{id_}", *(f"A: a{i}" for _, i in answers)]))
    lines = [post(i) if k == "question" else answer(i, q, s, f"a{i}") for i, (k, q, s) in posts.items()]
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(stackexchange, "SORT_BYTES", data.draw(st.sampled_from([1, 1000, 1 << 20])))
        found = rows(Path(directory), file(*lines))
    assert [r.columns["text"] for r in found if r.columns] == expected
    orphans = sum(k == "answer" and posts.get(q, ("",))[0] != "question" for k, q, _ in posts.values())
    assert [r.reason for r in found if not r.columns] == ["no-question"] * orphans
    assert [r.position for r in found] == sorted({r.position for r in found})


def test_runs_are_merged_and_leave_no_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    draw = random.Random(3)
    records = [
        (
            (draw.randrange(50), 0, -draw.randrange(9), n, n),
            draw.randbytes(draw.choice([0, 9, 5000, 200_000])),
        )
        for n in range(300)
    ]
    with SortedRuns(1 << 20) as runs:
        most = 0
        for key, payload in records:
            runs.add(key, payload)
            most = max(most, runs.bytes)
        assert len(runs.ends) > 5
        assert most < (1 << 20) + 200_000
        assert list(runs.merged()) == sorted(records)
        assert list(tmp_path.iterdir()) == []
    assert runs.file.closed


# ---- bodies -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("<p>one\ntwo</p>\n\n<p>three</p>\n", "one two\n\nthree"),
        ("<p>a</p>\n\n<ul>\n<li>b</li>\n<li><p>c</p></li>\n</ul>\n<p>d</p>", "a\n\n* b\n* c\n\nd"),
        ("<pre><code>if a &lt; b:\n    x &amp;= 1\n\n\n</code></pre>\n<p>e</p>", "if a < b:\n    x &= 1\n\n\ne"),
        ("a <b>b</b><i>c</i> <code>d  e</code><br>\nf &#39;&quot;&hellip; &no; &#xD800;", "a bc d e\nf '\"… &no; �"),
        ('<a href="http://a.example/?b&amp;c" title="x">y</a><img src="z" alt="w">', "y"),
        ("<h2>H</h2><blockquote>\n<p>q</p>\n</blockquote>1 < 2<3 <!-- c -->", "H\n\nq\n\n1 < 2<3"),
        ("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>", "a b\nc"),
        ("&#" + "9" * 5000 + ";", "&#" + "9" * 5000 + ";"),
        ("", ""),
    ],
)  # fmt: skip
def test_post_text(source, text):
    assert post_text(source) == text


PARTS = ["<p>", "</p>", "<pre>", "</pre>", "<li>", "<", ">", "&", "&lt;", " ", "\n", "é", "<br/>", "*"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=30).map("".join))
def test_words_are_kept(source):
    plain = re.sub(r"<[^<>]*>", lambda tag: " " if re.match("</?[a-z]", tag[0]) else tag[0], source)
    wanted = re.sub(r"[\s*]+", "", html.unescape(plain))
    assert re.sub(r"[\s*]+", "", post_text(source)) == wanted


@pytest.mark.parametrize("unit", ["<", "<a", "<p>", "&", "&#", " ", "\n", "<pre>", "<li>", "a<!--", "a"])
@pytest.mark.parametrize("before", ["", "<a", "<!--"])
def test_long_bodies_do_not_stall(unit, before):
    post_text(before + unit * (1_000_000 // len(unit)))


@pytest.mark.parametrize("line", ["<a" + "a" * 200_000, "<" + "a1" * 100_000 + " b", " " * 200_000 + "x"])
def test_long_lines_do_not_stall(tmp_path, line):
    (question,) = rows(tmp_path, file(post(1, Body=line)))
    assert question.columns["text"].startswith("Q: T1")
    assert [row.reason for row in rows(tmp_path, line.encode())] == ["xml"]


# ---- a real dump ------------------------------------------------------------------------------------------------


def test_real_posts():
    found = sorted((CORPORA / "qa_stackexchange").glob("*.xml.zst"))
    if not found:
        pytest.skip("needs the shared corpora beside the checkout")
    path = found[0]
    piece = Piece(0, str(path), path.name, 1, path.stat().st_size)
    stream = b"".join(decompress.blocks(path.open("rb"), "zstd")).decode("utf-8-sig")
    kinds = Counter(re.findall(r'PostTypeId="(\d+)"', stream))
    read = list(stackexchange.rows(piece, SETTINGS))
    assert sum(r.columns is not None for r in read) == kinds["1"] > 100
    assert sum(r.columns["answers"] for r in read if r.columns) == kinds["2"]
    assert Counter(r.reason for r in read if r.reason) == {
        "post-type": kinds.total() - kinds["1"] - kinds["2"]
    }
    documents = [
        d for b in readers.read([piece], ReadSettings("stackexchange", key="id"), readers.Seen())
        for d in b.table.to_pylist()
    ]  # fmt: skip
    assert [d["key"] for d in documents] == [str(r.columns["id"]) for r in read if r.columns]


def test_bodies_agree_with_lxml():
    from lxml import html as lxml_html

    found = sorted((CORPORA / "qa_stackexchange").glob("*.xml.zst"))
    if not found:
        pytest.skip("needs the shared corpora beside the checkout")
    stream = b"".join(decompress.blocks(found[0].open("rb"), "zstd")).decode("utf-8-sig")
    bodies = [html.unescape(body) for body in re.findall(r' Body="([^"]+)"', stream)]
    for body in bodies:
        theirs = lxml_html.fromstring(f"<div>{body}</div>").text_content()
        assert re.findall(r"\w+", post_text(body).replace("\xad", "")) == re.findall(
            r"\w+", theirs.replace("\xad", "")
        )
    assert len(bodies) > 400
