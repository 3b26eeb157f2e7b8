"""What does a page of MediaWiki markup say?

mwparserfromhell (0.7) parses; what is kept is ours to choose. Templates, tables, references, links to files,
categories and other languages, comments and magic words go; a link is its text, a heading a line, an item of a list
a line with `*`, two spaces a level. Source code is kept as it stands. A formula is kept as its LaTeX between dollars:
the builder of Hugging Face's `wikipedia` set leaves a hole in the sentence. That builder also keeps the names of
categories and headings with nothing below them, and drops the marks of lists; otherwise the words are the same.

A document that the parser takes too long for, or dies of, is the sandbox's to stop.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from winnow.shards.conversion import Converted, Unconvertible

HIDDEN_LINK = re.compile(r"\s*(?:file|image|media|category)\s*:", re.IGNORECASE)
MEDIA = (
    ".jpg", ".jpeg", ".png", ".gif", ".svg", ".tif", ".tiff", ".webp", ".xcf", ".djvu", ".pdf", ".ogg", ".oga", ".ogv",
    ".webm", ".mp3", ".wav", ".flac", ".mid", ".midi",
)  # fmt: skip
"""What a link into another namespace ends in that is a picture or a sound, whatever the wiki calls its files."""
OTHER_LANGUAGE = re.compile(r"\s*(?:[a-z]{2,3}|simple|[a-z]{2,3}(?:-[a-z]+)+)\s*:\s*[^\s]")
HIDDEN_TAGS = frozenset([
    "ref", "references", "table", "gallery", "timeline", "imagemap", "graph", "score", "templatedata",
    "categorytree", "inputbox", "mapframe", "maplink", "section", "templatestyles", "indicator",
    "includeonly", "style", "script", "hiero",
])  # fmt: skip
CODE_TAGS = frozenset(("code", "pre", "source", "syntaxhighlight"))
MATH_TAGS = frozenset(("math", "chem", "ce"))
BLOCK_TAGS = frozenset([
    "p", "div", "blockquote", "center", "poem", "pre", "source", "syntaxhighlight", "hr", "h1", "h2", "h3",
    "h4", "h5", "h6",
])  # fmt: skip
MAGIC = re.compile(r"__(\w+?)__")
QUOTES = re.compile(r"'{2,}")
BLANK_LINES = re.compile(r"\n{3,}")
TEXT_LEVEL = 9
"""Of what is no heading; a heading's level is 1 to 6."""
HEADING, MARK = "\x00", "\x01"
"""Begin a heading and a mark of a list while the page is put together; XML has no such characters."""
MARKS = re.compile(r"(?m)^((?:\x01[*#:;])+)[ \t]*|\x01[*#:;]")


def plain_wikitext(data: bytes | str, row: Mapping[str, Any]) -> Converted:
    """The text of a page; "" for one that is templates and links to pictures alone.

    Raises Unconvertible: `utf8`, `wikitext` (the parser gave up), `too-deep`.
    """
    try:
        import mwparserfromhell
    except ImportError as error:
        raise ImportError("MediaWiki markup needs mwparserfromhell: pip install 'winnow[web]'") from error

    try:
        markup = data.decode() if isinstance(data, bytes | bytearray) else data
        # Quotes as tags are what the parser is slowest at, and unbalanced ones derail it.
        code = mwparserfromhell.parse(markup.translate({0: "", 1: ""}), skip_style_tags=True)
        out: list[str] = []
        _write(code.nodes, out)
    except UnicodeDecodeError:
        raise Unconvertible("utf8") from None
    except mwparserfromhell.parser.ParserError:
        raise Unconvertible("wikitext") from None
    except RecursionError:
        raise Unconvertible("too-deep") from None
    return Converted(_laid_out("".join(out)))


def _write(nodes: Iterable[Any], out: list[str]) -> None:
    from mwparserfromhell import nodes as kinds

    for node in nodes:
        if isinstance(node, kinds.Text):
            out.append(_shown(node.value))
        elif isinstance(node, kinds.Wikilink):
            _write_link(node, out)
        elif isinstance(node, kinds.Tag):
            _write_tag(node, out)
        elif isinstance(node, kinds.Heading):
            title: list[str] = []
            _write(node.title.nodes, title)
            text = " ".join("".join(title).split())
            out.append(f"\n{HEADING}{node.level}{text}\n")
        elif isinstance(node, kinds.ExternalLink):
            if node.title is not None:
                _write(node.title.nodes, out)
            elif not node.brackets:
                out.append(str(node.url))
        elif isinstance(node, kinds.HTMLEntity):
            out.append(_character(node))


def _shown(text: str) -> str:
    """Text without what is no character of it: quotes that are bold and italics, magic words."""
    if "''" in text:
        # Of four quotes one is an apostrophe, of more than five all but five (mediawiki.org, Help:Formatting).
        text = QUOTES.sub(lambda run: "'" * (1 if len(run[0]) == 4 else max(len(run[0]) - 5, 0)), text)
    return MAGIC.sub(lambda word: "" if word[1].isupper() else word[0], text) if "__" in text else text


def _character(node: Any) -> str:
    try:
        character = node.normalize()
    except (ValueError, KeyError, OverflowError):
        return str(node)
    # Half a character is none; a non-breaking space is one in the markup too.
    return "" if "\ud800" <= character <= "\udfff" or character < "\t" else character


def _write_link(node: Any, out: list[str]) -> None:
    title = str(node.title)
    if HIDDEN_LINK.match(title) or (node.text is None and OTHER_LANGUAGE.match(title)):
        return
    if ":" in title.lstrip(" :") and title.rstrip().lower().endswith(MEDIA) and title.lstrip()[:1] != ":":
        return
    if node.text is None:
        out.append(title.strip().lstrip(":#"))
    else:
        _write(node.text.nodes, out)


def _write_tag(node: Any, out: list[str]) -> None:
    tag = str(node.tag).strip().lower()
    if node.wiki_markup in ("*", "#", ":", ";"):
        out.append(MARK + node.wiki_markup)
    elif tag == "br":
        out.append("\n")
    elif tag in HIDDEN_TAGS or node.contents is None:
        out.append("\n" if tag in BLOCK_TAGS else "")
    else:
        edge = "\n" if tag in BLOCK_TAGS else ""
        out.append(edge)
        if tag in MATH_TAGS:
            out.append(f"${str(node.contents).strip()}$")
        elif tag in CODE_TAGS or tag == "nowiki":
            out.append(str(node.contents))
        else:
            _write(node.contents.nodes, out)
        out.append(edge)


def _laid_out(text: str) -> str:
    """Lines without trailing white space, marks of lists as bullets, headings only where something is below."""
    text = MARKS.sub(_bullet, text)
    kept: list[str] = []
    below = 0
    for line in reversed(text.split("\n")):
        if line.startswith(HEADING):
            level = int(line[1])
            if level < below:
                kept += ["", line[2:], ""]
                below = level
            continue
        line = line.rstrip()
        if line.strip("* "):
            below = TEXT_LEVEL
        elif line:
            continue  # an item whose template is gone
        kept.append(line)
    return BLANK_LINES.sub("\n\n", "\n".join(reversed(kept))).strip()


def _bullet(marks: re.Match[str]) -> str:
    run = marks[1]
    if run is None:  # `; term : its definition`
        return ":"
    return "" if run[-1] in ":;" else "  " * (len(run) // 2 - 1) + "* "
