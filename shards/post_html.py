"""What does the HTML of a Stack Exchange post say?

Posts are HTML that the site made of Markdown and sanitised, so that a pass over its tags is enough: they are well
nested, and quote `<`, `>` and `&`. Code keeps its lines and spaces; an item of a list begins a line with `* `; a
paragraph ends in an empty line; pictures go; a character is what its entity stands for. Linear in any text.
"""

from __future__ import annotations

import html
import re

# Possessive: of letters without an end of a tag there is one way to read them, and it is tried once.
TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*+)[^<>]*+>|<!--[^<>]*+>")
ENTITY = re.compile(r"&(?:[A-Za-z][A-Za-z0-9]{1,31}|#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6});")
PARAGRAPHS = frozenset([
    "p", "pre", "ul", "ol", "dl", "blockquote", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "table", "div",
])  # fmt: skip
LINES = frozenset([
    "li", "br", "tr", "dt", "dd",
])  # fmt: skip
SPACE = re.compile(r"[ \t\r\n\f]+")


def post_text(source: str) -> str:
    """The text of a post's HTML, without white space at its ends."""
    out = _Lines()
    at = pre = 0
    for tag in TAG.finditer(source):
        out.text(source[at : tag.start()], pre > 0)
        at = tag.end()
        name = (tag[2] or "").lower()
        if name == "pre":
            pre = max(pre + (-1 if tag[1] else 1), 0)
        if name in PARAGRAPHS:
            out.gap(2)
        elif name in LINES:
            out.gap(1)
            if name == "li" and not tag[1]:
                out.text("* ", True)
        elif name in ("td", "th") and not tag[1]:
            out.text(" ", False)
    out.text(source[at:], pre > 0)
    return "".join(out.parts).strip()


class _Lines:
    def __init__(self) -> None:
        self.parts: list[str] = []
        self.open_lines = 2
        """Line ends at the end of what is written."""
        self.spaced = True
        """Whether it ends in white space."""
        self.item = False
        """Whether it ends in the bullet of an item."""

    def gap(self, lines: int) -> None:
        """At least so many line ends between what is written and what comes; a paragraph in an item begins there."""
        if self.item or lines <= self.open_lines:
            return
        if self.parts:
            self.parts[-1] = self.parts[-1].rstrip(" ")
        self.parts.append("\n" * (lines - self.open_lines))
        self.open_lines, self.spaced = lines, True

    def text(self, source: str, verbatim: bool) -> None:
        if not verbatim:
            source = SPACE.sub(" ", source)
            if self.spaced:
                source = source.removeprefix(" ")
        if not source:
            return
        self.item = source == "* " and verbatim
        self.parts.append(
            ENTITY.sub(lambda entity: html.unescape(entity[0]), source) if "&" in source else source
        )
        self.open_lines = min(len(source) - len(source.rstrip("\n")), 2)
        self.spaced = source[-1] in " \n"
