"""Which questions does a Stack Exchange `Posts.xml` hold, and what was answered?

A document is a question with its answers, as RedPajama lays them out (RedPajama-Data v1, data_prep/stack_exchange):
`Q: `, the title and the question, then `A: ` and each answer, highest score first; a question without answers is
one too. Ours: of answers of one score the older comes first, where theirs is the one the file names first; `A:` has
one empty line before it whatever the post ends with; the language is not guessed. Bodies are made text by post_html.

Columns: `text`, `id` (the question's), `url` (where the file's name or directory tells the site, as
archive.org's do: stackoverflow.com-Posts.xml, beer.stackexchange.com/Posts.xml), `title`, `tags`, `score`, `answers`,
`accepted` (the answer's id), `date`, `licence` (the different ones of its posts; not in dumps before 2018).

The dump writes one row a line, sorted by id, with answers anywhere behind their question. A question's position is
its id. What makes no document has 2^62 more than its line's byte offset, and comes last:

    xml          a line that is no `<row …/>`       wrong-type   a number that is none, a question without a title
    too-large    a line or a document               no-question  an answer to a question that is not in the file
    post-type    neither question nor answer (a tag's wiki, a moderator's notice)
    duplicate    a question whose id was there before

The site's .7z archive is not read: unpack it.

Memory: `SORT_BYTES` of posts at a time, which are sorted and written to one nameless file in the temporary
directory (about the size of the text of the file), 64 KiB for each time that was, and one document. A file is
one split: the answers of a question are only known at its end.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import orjson
from winnow.shards import decompress, json_rows, storage
from winnow.shards.inputs import COMPRESSIONS, InputError, Piece
from winnow.shards.post_html import post_text
from winnow.shards.rows import Row
from winnow.shards.sorted_runs import SortedRuns

if TYPE_CHECKING:
    from winnow.shards.readers import ReadSettings

SORT_BYTES = 128 << 20
LONGEST_LINE = 8 << 20
"""Bytes; a post's body has at most 30,000 characters before it is HTML (Stack Exchange's limit)."""
LOST = 1 << 62
"""Added to the byte offset of a line that is no document."""
RAW_KEPT = 1000
QUESTION, ANSWER = "1", "2"
SITE = re.compile(r"(?:^|/)([a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:com|net|org))[-/]Posts\.xml", re.IGNORECASE)
# Possessive, so that a megabyte of spaces before something else is passed over once.
NO_ROW = re.compile(rb"\s*+(?:<\?xml[^>]*\?>)?+\s*+(?:</?posts\s*+/?>)?+\s*+")
BOM = b"\xef\xbb\xbf"


class _Unusable(Exception):
    """A post that goes into no document; the message is the reason."""


def rows(piece: Piece, settings: ReadSettings) -> Iterator[Row]:
    """Raises TruncatedError (after the documents of what is there) and InputError."""
    site = SITE.search(piece.path)
    with SortedRuns(SORT_BYTES) as posts, SortedRuns(SORT_BYTES) as lost:
        fault = _read(piece, posts, lost)
        for question, group in groupby(posts.merged(), key=lambda post: post[0][0]):
            document = _document(question, group, settings.max_document_bytes, lost)
            if document is not None:
                if site is not None and document.columns is not None:
                    document.columns["url"] = f"https://{site[1].lower()}/questions/{question}"
                yield document
        for (position, size, *_), payload in lost.merged():
            reason, _, raw = payload.partition(b" ")
            yield Row(position, None, size, reason.decode(), raw)
        if fault is not None:
            raise fault


def _read(piece: Piece, posts: SortedRuns, lost: SortedRuns) -> decompress.TruncatedError | None:
    """Sort the posts of a file by (question, question before answers, -score, id, offset)."""
    compression = COMPRESSIONS.get(os.path.splitext(piece.path)[1])
    with storage.open_input(piece.location) as file:
        try:
            for offset, line, size in json_rows.lines(file, compression, 0, -1, LONGEST_LINE):
                raw = bytes(line).removeprefix(BOM) if offset == 0 else bytes(line)
                too_large = len(line) < size
                if offset == 0 and raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise InputError(f"{piece.path}: UTF-16; Stack Exchange writes UTF-8")
                if not too_large and NO_ROW.fullmatch(raw):
                    continue
                try:
                    if too_large:
                        raise _Unusable("too-large")
                    key, columns = _post(raw)
                except _Unusable as error:
                    lost.add((LOST | offset, size, 0, 0, 0), f"{error} ".encode() + raw[:RAW_KEPT])
                else:
                    posts.add((*key, offset), orjson.dumps(columns))
        except decompress.TruncatedError as error:
            return error
    return None


def _post(line: bytes) -> tuple[tuple[int, int, int, int], dict[str, Any]]:
    """A post's key, and what is kept of it. Raises _Unusable."""
    # A line that begins with a row has no document type before it, so that there are no entities to expand.
    if not line.lstrip().startswith(b"<row"):
        raise _Unusable("xml")
    try:
        post = ElementTree.fromstring(line).attrib
    except (ElementTree.ParseError, ValueError):
        raise _Unusable("xml") from None
    kind = post.get("PostTypeId")
    if kind not in (QUESTION, ANSWER):
        raise _Unusable("post-type" if kind else "wrong-type")
    id_, score = _number(post, "Id"), _number(post, "Score", 0)
    columns: dict[str, Any] = {"body": post_text(post.get("Body", "")), "licence": post.get("ContentLicense")}
    if kind == ANSWER:
        return (_number(post, "ParentId"), 1, -score, id_), columns
    if not post.get("Title"):
        raise _Unusable("wrong-type")
    columns |= {
        "title": post["Title"],
        "tags": re.findall(r"[^<>|]+", post.get("Tags", "")),
        "score": score,
        "accepted": _number(post, "AcceptedAnswerId", 0) or None,
        "date": post.get("CreationDate"),
    }
    return (id_, 0, 0, id_), columns


def _number(post: dict[str, str], name: str, default: int | None = None) -> int:
    given = post.get(name, "")
    if not given and default is not None:
        return default
    sign = "-?" if name == "Score" else ""
    if not re.fullmatch(f"{sign}[0-9]{{1,12}}", given):
        raise _Unusable("wrong-type")
    return int(given)


def _document(
    question: int, posts: Iterator[tuple[tuple[int, ...], bytes]], max_bytes: int, lost: SortedRuns
) -> Row | None:
    """The posts of one question as a document; None without the question. What is left over goes to `lost`."""
    head: dict[str, Any] | None = None
    parts: list[str] = []
    licences: set[str] = set()
    size = 0
    for (_, kind, _, _, offset), payload in posts:
        post = orjson.loads(payload)
        if head is None or kind == 0:
            if kind == 1 or head is not None:
                reason = b"no-question " if kind == 1 else b"duplicate "
                lost.add((LOST | offset, len(payload), 0, 0, 0), reason + post["body"].encode()[:RAW_KEPT])
                continue
            head = post
            head["answers"] = 0
            parts.append(f"Q: {post['title']} {post['body']}".rstrip())
        else:
            head["answers"] += 1
            parts.append(f"A: {post['body']}".rstrip())
        size += len(parts[-1].encode())
        if post["licence"]:
            licences.add(post["licence"])
        if size > max_bytes:
            parts = [""]
    if head is None:
        return None
    if size > max_bytes:
        return Row(question, None, size, "too-large")
    del head["body"], head["licence"]
    columns = {"text": "\n\n".join(parts), "id": question} | {k: v for k, v in head.items() if v is not None}
    if licences:
        columns["licence"] = sorted(licences)
    return Row(question, columns, size)
