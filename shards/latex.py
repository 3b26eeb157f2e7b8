r"""What does a paper's LaTeX say?

RedPajama's cleaning of arXiv (RedPajama-Data v1, data_prep/arxiv/arxiv_cleaner.py), a file at a time: comments
go; what is before the first header (`\section`, `\chapter`, …) goes, and so does a file without one; what is
from `\appendix`, `\bibliography` or the list of references on goes; macros without arguments, of all the files of a
paper, are written out; the files are joined by a line end. The markup that is left stays.

Ours, where theirs loses or garbles text:

- Comments go first, so that a header in one is none; a `%` takes no character before it with it, and `\\%` begins
  one. An environment `comment` is one too.
- Headers before `\begin{document}` (in the definition of a command) are none; what is behind `\end{document}` goes.
  `\paragraph` is a header, as their comment says and their pattern does not; `\printbibliography` ends a paper.
- A definition may span lines and have braces in it, be a `\renewcommand` or `\providecommand`, or name its macro
  without braces; it is taken out. Names are letters, as TeX has them. Macros in the text of others are
  written out whatever the order, and those that come back to themselves not at all.
- A file that is no UTF-8 is taken for Latin-1 (theirs drops the paper); `\r` ends a line.

Linear in any text: a macro has at most `LONGEST` characters written out, a paper's first `MACROS` definitions count,
and it grows by them to at most `GROWTH` times its size.
"""

from __future__ import annotations

import re

from winnow.shards.conversion import Converted, Unconvertible

NEXT_FILE = "\0"
"""Between the files of a paper; TeX ignores it."""
LONGEST = 1024
MACROS = 2000
ROUNDS = 8
"""Macros are written out in each other so many times, twice as deep each time."""
GROWTH = 4
COMMENT = re.compile(r"(?m)^[ \t]*%.*\n?|(?<!\\)((?:\\\\)*)%.*$")
HEADER = re.compile(r"\\(?:chapter|part|(?:sub){0,2}section|(?:sub)?paragraph)\*?\s*[\[{]")
TAIL = re.compile(
    r"\\appendix(?![a-zA-Z])|\\bibliography\s*\{|\\printbibliography(?![a-zA-Z])"
    r"|\\begin\{(?:references|REFERENCES|thebibliography|appendix|appendices)\}|\\end\{document\}"
)
DEFINITION = re.compile(
    r"\\(?:(?:re)?newcommand|providecommand)\*?\s*(?:\{\s*\\([a-zA-Z@]+)\s*\}|\\([a-zA-Z@]+))\s*(?=\{)"
    r"|\\def\s*\\([a-zA-Z@]+)\s*(?=\{)"
)
COMMAND = re.compile(r"\\(?:([a-zA-Z@]+)|.)", re.DOTALL)
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
BEGIN_COMMENT, END_COMMENT = r"\begin{comment}", r"\end{comment}"
BEGIN_DOCUMENT = r"\begin{document}"


def plain_latex(data: bytes | str) -> Converted:
    """The text of a file, or of a paper's files with `NEXT_FILE` between them; markup stays.

    Raises Unconvertible: `no-section` (no file has a header), `too-large` (macros make it so).
    """
    parts = (
        data.split(NEXT_FILE)
        if isinstance(data, str)
        else map(_decoded, bytes(data).split(NEXT_FILE.encode()))
    )
    files, macros = _without_definitions([_without_comments(part) for part in parts if part])
    macros = _written_out(macros)
    left = (GROWTH - 1) * len(data) + LONGEST
    texts: list[str] = []
    for file in files:
        expanded = _expanded(file, macros, left)
        if expanded is None:
            raise Unconvertible("too-large")
        left -= max(len(expanded) - len(file), 0)
        if text := _body(expanded):
            texts.append(text)
    if not texts:
        raise Unconvertible("no-section")
    return Converted("\n".join(texts))


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _without_comments(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    kept, at = [], 0
    while (begin := text.find(BEGIN_COMMENT, at)) >= 0:
        end = text.find(END_COMMENT, begin)
        if end < 0:
            break
        kept.append(text[at:begin])
        at = end + len(END_COMMENT)
    kept.append(text[at:])
    return COMMENT.sub(lambda comment: comment[1] or "", "".join(kept))


def _without_definitions(files: list[str]) -> tuple[list[str], dict[str, str]]:
    """The files without the definitions of macros without arguments, and those by name; later ones win."""
    out, macros = [], {}
    left = MACROS
    for text in files:
        kept, at, search = [], 0, 0
        while left and (found := DEFINITION.search(text, search)) is not None:
            left -= 1
            search = found.end()
            value = _group(text, search)
            if value is not None:
                macros[found[1] or found[2] or found[3]] = value[1:-1]
                kept.append(text[at : found.start()])
                at = search = search + len(value)
        kept.append(text[at:])
        out.append("".join(kept))
    return out, macros


def _group(text: str, start: int) -> str | None:
    """The braces that open at `start` with what is in them; None for what is longer than a macro may be."""
    depth = 0
    for brace in BRACE.finditer(text, start, start + LONGEST + 2):
        if brace[0] == "{":
            depth += 1
        elif brace[0] == "}":
            depth -= 1
            if depth == 0:
                return text[start : brace.end()]
    return None


def _written_out(macros: dict[str, str]) -> dict[str, str]:
    """The macros with those in them written out, but for those that never end and those that grow too long."""
    for _ in range(ROUNDS):
        if not any(_names(value) & macros.keys() for value in macros.values()):
            return macros
        known = {name: value for name, value in macros.items() if name not in _names(value)}
        macros = {}
        for name, value in known.items():
            written = _expanded(value, known, LONGEST)
            if written is not None:
                macros[name] = written
    return {name: value for name, value in macros.items() if not _names(value) & macros.keys()}


def _names(text: str) -> set[str]:
    return {command[1] for command in COMMAND.finditer(text) if command[1]}


def _expanded(text: str, macros: dict[str, str], limit: int) -> str | None:
    """The text with macros written out; None where they add more than `limit` characters."""
    if not macros:
        return text
    left = limit

    def value(command: re.Match[str]) -> str:
        nonlocal left
        written = macros.get(command[1] or "")
        if written is None:
            return command[0]
        left -= len(written)
        return written if left >= 0 else ""

    expanded = COMMAND.sub(value, text)
    return expanded if left >= 0 else None


def _body(text: str) -> str:
    """From the first header to the references; "" without a header."""
    document = text.find(BEGIN_DOCUMENT)
    header = HEADER.search(text, max(document, 0))
    if header is None:
        return ""
    tail = TAIL.search(text, header.start())
    return text[header.start() : tail.start() if tail else len(text)].strip()
