"""Which pages does a MediaWiki XML dump hold?

Any export schema from 0.3 to 0.11 (mediawiki.org, Help:Export), in any encoding that expat knows, compressed or not.
A document is a page: the text is the markup of its last revision in the file, its position the byte offset of its
`<page>` in the decompressed stream. The names that the wiki's language has for files and categories are written as
English ones in links, so that wikitext.py knows them. What is no document, beside the reasons of readers.py:

    namespace      not of namespace 0 (talk, users, files, …)    redirect   to another page
    content-model  not wikitext (a script, a style sheet, JSON)  deleted    the text is hidden

A dump that ends early is truncated, plain or compressed; XML that is not well-formed, of another root, with a document
type (which is where entities would be defined and fetched) or with a tag of more than 16 MB is refused: an InputError
with the offset, after the pages before it.

Memory: one page of at most `max_bytes` of a conversion, or `max_document_bytes`, one block, and one tag; of names,
dates and the like `LONGEST_FACT` characters each, for at most `NAMES` namespaces.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from xml.parsers import expat

from winnow.shards import decompress, storage
from winnow.shards.inputs import COMPRESSIONS, InputError, Piece
from winnow.shards.rows import Row

if TYPE_CHECKING:
    from winnow.shards.readers import ReadSettings

DEEPEST = 32
"""Elements in each other; the schema has seven."""
NAMES = 1000
"""Different names of elements and attributes, which the parser keeps; the schema has about 70."""
LONGEST_TAG = 16 << 20
LONGEST_FACT = 1 << 10
"""Characters that are kept of any element but the text; a title has at most 255 bytes."""
ENDED = (
    expat.errors.codes[expat.errors.XML_ERROR_NO_ELEMENTS],
    expat.errors.codes[expat.errors.XML_ERROR_UNCLOSED_TOKEN],
    expat.errors.codes[expat.errors.XML_ERROR_PARTIAL_CHAR],
    expat.errors.codes[expat.errors.XML_ERROR_UNCLOSED_CDATA_SECTION],
)
"""What expat says of XML that is well-formed as far as it goes."""
ENGLISH = {"-2": "Media", "6": "File", "14": "Category"}
"""The namespaces whose links show no text, by number."""
KEPT = {
    ("page", "title"), ("page", "ns"), ("page", "id"), ("siteinfo", "base"), ("namespaces", "namespace"),
    ("revision", "id"), ("revision", "timestamp"), ("revision", "model"), ("revision", "text"),
}  # fmt: skip
"""Elements whose characters are read, with what they lie in."""


class _Refused(Exception):
    """XML that is not to be read; the message says why."""


def rows(piece: Piece, settings: ReadSettings) -> Iterator[Row]:
    """Raises TruncatedError and InputError after the pages before the fault."""
    convert = settings.convert
    dump = _Dump(convert.max_bytes if convert is not None else settings.max_document_bytes)
    parser, fed = dump.parser, 0
    compression = COMPRESSIONS.get(os.path.splitext(piece.path)[1])
    with storage.open_input(piece.location) as file:
        fault: Exception | None = None
        try:
            for block in decompress.blocks(file, compression):
                parser.Parse(block, False)
                fed += len(block)
                yield from dump.take()
                if fed - parser.CurrentByteIndex > LONGEST_TAG:
                    raise _Refused(f"a tag is longer than {LONGEST_TAG} bytes")
            try:
                parser.Parse(b"", True)
            except expat.ExpatError as error:
                if error.code not in ENDED:
                    raise
                raise decompress.TruncatedError("the dump ends inside an element") from error
        except (expat.ExpatError, _Refused) as error:
            where = max(parser.CurrentByteIndex, 0)
            fault = InputError(f"{piece.path}: not a readable MediaWiki dump at byte {where} ({error})")
            fault.__cause__ = error
        except decompress.TruncatedError as error:
            fault = error
        yield from dump.take()
        if fault is not None:
            raise fault


class _Dump:
    """Gathers pages from the parser's events."""

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self.pages: list[Row] = []
        self.path: list[str] = []
        self.names: set[str] = set()
        self.namespaces: dict[str, str] = {}
        self.localised: re.Pattern[str] | None = None
        self.site = ""
        self.held: list[str] | None = None
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.StartDoctypeDeclHandler = self._doctype
        self._open_page(0)

    def take(self) -> Iterator[Row]:
        """The pages that have ended since the last call."""
        pages, self.pages = self.pages, []
        yield from pages

    def _doctype(self, *_: Any) -> None:
        raise _Refused("it has a document type")

    def _open_page(self, start: int) -> None:
        self.start = start
        self.page: dict[str, str] = {}
        self.revision: dict[str, str] = {}
        self.redirect: str | None = None
        self.deleted = False

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        path = self.path
        if not path and name != "mediawiki":
            raise _Refused(f"its root is <{name[:100]}>")
        inside = path[-1] if path else ""
        path.append(name)
        self._bound(name, attributes)
        if name == "page":
            self._open_page(self.parser.CurrentByteIndex)
        elif name == "revision":
            self.revision, self.deleted = {}, False
        elif name == "redirect" and inside == "page":
            self.redirect = attributes.get("title", "")
        if (inside, name) in KEPT:
            self.attributes = attributes
            self.held, self.size = [], 0
            self.most = self.max_bytes if name == "text" else LONGEST_FACT
            self.parser.CharacterDataHandler = self._characters

    def _bound(self, name: str, attributes: dict[str, str]) -> None:
        if len(self.path) > DEEPEST:
            raise _Refused(f"more than {DEEPEST} elements in each other")
        if name not in self.names or not self.names.issuperset(attributes):
            self.names.update((name, *attributes))
            if len(self.names) > NAMES:
                raise _Refused(f"more than {NAMES} names of elements")

    def _characters(self, text: str) -> None:
        room = self.most - self.size
        self.size += len(text)
        if room > 0 and self.held is not None:
            self.held.append(text[:room])

    def _end(self, name: str) -> None:
        self.path.pop()
        inside = self.path[-1] if self.path else ""
        if self.held is not None and (inside, name) in KEPT:
            self._keep(inside, name, "".join(self.held))
            self.parser.CharacterDataHandler = None
            self.held = None
        elif name == "siteinfo":
            self._localise()
        elif name == "page":
            self.pages.append(self._row(self.parser.CurrentByteIndex - self.start))
            self._open_page(0)

    def _keep(self, inside: str, name: str, value: str) -> None:
        if inside == "page":
            self.page[name] = value
        elif inside == "revision":
            if name == "text":
                self.deleted = "deleted" in self.attributes
                if self.size > self.max_bytes:
                    self.revision["too-large"] = ""
            self.revision[name] = value
        elif name == "base":
            self.site = value.rpartition("/")[0]
        elif len(self.namespaces) < NAMES:
            self.namespaces[value] = self.attributes.get("key", "")

    def _localise(self) -> None:
        # One name of each, as the wiki has it, and one that can stand in a link: a link is compared with few names.
        named = {key: name.strip(" _") for name, key in self.namespaces.items() if key in ENGLISH}
        local = {name: ENGLISH[key] for key, name in named.items() if name and "[" not in name}
        if set(local) - set(local.values()):
            either = "|".join(re.escape(name).replace(r"\ ", "[ _]") for name in local)
            self.localised = re.compile(rf"\[\[[ _]*+({either})[ _]*+:", re.IGNORECASE)
            self.english = {name.casefold(): english for name, english in local.items()}

    def _row(self, size: int) -> Row:
        title, revision = self.page.get("title", ""), self.revision
        text = revision.get("text", "")
        reason = self._reason(title, text)
        if reason:
            return Row(self.start, None, size, reason, text[:1000].encode())
        columns: dict[str, Any] = {"text": self._in_english(text), "title": title}
        for name, given in (("page", self.page.get("id")), ("revision", revision.get("id"))):
            if given is not None and given.isdecimal():
                columns[name] = int(given[:19])
        if "timestamp" in revision:
            columns["date"] = revision["timestamp"]
        if self.site:
            columns["url"] = f"{self.site}/{quote(title.replace(' ', '_'), safe='/:;@$!*(),~')}"
        return Row(self.start, columns, size)

    def _reason(self, title: str, text: str) -> str:
        # Schemas before 0.6 do not say a page's namespace, nor before 0.4 that it is a redirect.
        namespace = self.page.get("ns") or self.namespaces.get(title.partition(":")[0], "0")
        if namespace.strip() != "0":
            return "namespace"
        if self.redirect is not None or text[:200].lstrip().lower().startswith("#redirect"):
            return "redirect"
        if self.revision.get("model", "wikitext") != "wikitext":
            return "content-model"
        if self.deleted:
            return "deleted"
        return "too-large" if "too-large" in self.revision else ""

    def _in_english(self, text: str) -> str:
        if self.localised is None:
            return text
        english = self.english
        return self.localised.sub(
            lambda link: f"[[{english.get(link[1].replace('_', ' ').casefold(), link[1])}:", text
        )
