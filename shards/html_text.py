"""Which text does a web page show?

Two extractors: Resiliparse's main content (Bevendorff et al., ECIR 2018; DCLM's choice, arXiv:2406.11794 section 4),
and Trafilatura (Barbaresi, ACL 2021; RefinedWeb's choice, arXiv:2306.01116, and FineWeb's). Bytes are decoded first:

    1. a byte order mark    2. UTF-8, where the bytes are valid UTF-8 and not ASCII alone
    3. the header's charset 4. the page's own <meta>    5. uchardet's guess

The HTML standard has 2 after 4; but hardly anything else is valid UTF-8 by accident, and pages that are declared
wrongly are common. What does not decode becomes U+FFFD. No network, no state from one page to the next.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from typing import Any

from winnow.shards.conversion import Converted, Unconvertible
from winnow.shards.convert_settings import Html

MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
PRESCAN = 1024
"""Bytes in which the HTML standard looks for <meta>."""
META = re.compile(rb"<meta\s[^>]{0,512}?charset\s*=\s*[\"']?\s*([\w:.-]{1,40})", re.I)
WIDER = {"euc_kr": "cp949", "shift_jis": "cp932", "gbk": "gb18030", "big5": "big5hkscs"}
"""What the Encoding Standard means by Python's narrower codecs of these names."""
FALLBACK = "cp1252"
SPACES = re.compile(r"\s+")
TITLE = 1 << 12
"""Characters of a title that are kept."""


def page_text(data: bytes | str, settings: Html, row: Mapping[str, Any]) -> Converted:
    """The text of a page, with its `title` and `lang` (the attribute of <html>) where it has them.

    `row` may say the `charset` of the bytes, and with `mime` that they are plain text, which is taken as it
    is. A column that the row has is left to it. Raises Unconvertible, and ImportError without the packages of the
    extra `web`.
    """
    html = decoded(data, row.get("charset")) if isinstance(data, bytes | bytearray) else data
    if row.get("mime") == "text/plain":
        return Converted(html)
    try:
        html.encode()
    except UnicodeEncodeError:
        raise Unconvertible("surrogate") from None
    text, said = EXTRACTORS[settings.extractor](html)
    said = {name: SPACES.sub(" ", value).strip()[:TITLE] for name, value in said.items() if value}
    return Converted(text, {name: value for name, value in said.items() if value and name not in row})


def decoded(data: bytes | bytearray, charset: Any = None) -> str:
    """A page's bytes as a string; see the module."""
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    if not data.isascii():
        try:
            return data.decode()
        except UnicodeDecodeError:
            pass
    return data.decode(_encoding(bytes(data), charset), "replace")


def _encoding(data: bytes, charset: Any) -> str:
    try:
        from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5
    except ImportError:
        raise _missing("Resiliparse") from None

    meta = META.search(data[:PRESCAN])
    for label in (charset, meta[1].decode("ascii", "replace") if meta else None):
        known = isinstance(label, str) and map_encoding_to_html5(label.strip().lower(), False)
        # A <meta> that could be read, and a header beside bytes without a mark, do not say UTF-16 truly.
        if known and not known.startswith("utf-16"):
            return WIDER.get(known, known)
    # By the standard's names the guesser calls what the standard has no name for UTF-8 (cp949, for one).
    guess = (detect_encoding(data, html5_compatible=False) or FALLBACK).lower()
    guess = map_encoding_to_html5(guess, False) or guess
    try:
        codecs.lookup(guess)
    except LookupError:
        return FALLBACK
    return WIDER.get(guess, guess)


def _resiliparse(html: str) -> tuple[str, dict[str, str | None]]:
    """Main content with the library's other settings as they are; DCLM does not publish its own."""
    try:
        from resiliparse.extract.html2text import extract_plain_text
        from resiliparse.parse.html import HTMLTree
    except ImportError:
        raise _missing("Resiliparse") from None

    tree = HTMLTree.parse(html)
    root = tree.document and tree.document.query_selector("html")
    said = {"title": tree.title, "lang": root.getattr("lang") if root else None}
    return extract_plain_text(tree, main_content=True), said


def _trafilatura(html: str) -> tuple[str, dict[str, str | None]]:
    """Precision before recall and no comments, as datatrove (0.9.0) has it.

    datatrove also drops a paragraph that occurred twice before, in any page the process has seen: which ones
    depends on who read what. Here a page is judged alone, and nothing is dropped so.
    """
    try:
        from trafilatura import extract
        from trafilatura.utils import load_html
    except ImportError as error:
        raise _missing(f"Trafilatura ({' '.join(str(error).split())})") from None

    tree = load_html(html)
    if tree is None:
        return "", {}
    title = tree.find(".//title")
    said = {"title": title.text if title is not None else None, "lang": tree.get("lang")}
    text = extract(tree, favor_precision=True, include_comments=False, deduplicate=False)
    return text or "", said


def _missing(package: str) -> ImportError:
    return ImportError(f"the text of web pages needs {package}: pip install 'winnow[web]'")


EXTRACTORS = {"resiliparse": _resiliparse, "trafilatura": _trafilatura}
