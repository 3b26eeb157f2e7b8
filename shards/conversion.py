"""How does a document in a format of its own become plain text?

`convert` is what the process of shards/sandbox.py does for each document.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from winnow.shards.convert_settings import Conversion, Html, Latex, Notebook, Wikitext


class Unconvertible(Exception):
    """A document that does not become text."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Converted:
    text: str
    columns: dict[str, Any] = field(default_factory=dict)
    """What the document says of itself (a page's title, a notebook's language); goes to `meta`."""


def convert(settings: Conversion, data: bytes | str, row: Mapping[str, Any]) -> Converted:
    """The text of one document; `row` are its other columns. Raises Unconvertible.

    The libraries are imported when the first document of their kind comes.
    """
    if isinstance(settings, Html):
        from winnow.shards.html_text import page_text

        return page_text(data, settings, row)
    if isinstance(settings, Notebook):
        from winnow.shards.notebooks import script

        return script(data, settings)
    if isinstance(settings, Latex):
        from winnow.shards.latex import plain_latex

        return plain_latex(data)
    assert isinstance(settings, Wikitext)
    from winnow.shards.wikitext import plain_wikitext

    return plain_wikitext(data, row)
