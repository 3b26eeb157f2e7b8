"""What may a terminal be shown?

Texts of documents, and names of files and keys, are somebody else's: a terminal obeys some of their characters
(colours, the title, the clipboard; the direction of writing). JSON has escapes of its own (json_output.py).
"""

from __future__ import annotations

import sys


def printable(text: str) -> str:
    """Text that a terminal shows and does not obey: other whitespace than newlines is blanks, the rest is escaped."""
    return "\n".join(map(one_line, text.split("\n")))


def one_line(text: str) -> str:
    """The same on one line: newlines are blanks, too."""
    return "".join(
        c if c.isprintable() else " " if c.isspace() else c.encode("unicode_escape", "surrogatepass").decode()
        for c in text
    )


def for_output(text: str) -> str:
    """A document's text for standard output: as it is into a file or a pipe, and printable on a terminal."""
    return printable(text) if sys.stdout.isatty() else text
