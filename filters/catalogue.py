"""Which filters a recipe can name, and in which order their work is done.

There are two kinds. A filter with rules decides which documents stay, by the signals of their text
(signals.py, rules.py). A filter that rewrites changes text, so that what comes after it must scan the new
text: it cuts a source's list of filters into segments. The work on one segment is: rewrite if it opens with a
rewriter, scan once, decide all its rules, and let the documents that are kept go on to the next.

A filter's settings are a frozen pydantic model with a class attribute `name`; this module and theirs import
nothing heavier, so that a recipe can be checked in a moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from winnow.filters.gopher import GopherQuality
from winnow.filters.length import Length
from winnow.filters.rules import MAX_RULES, Rule
from winnow.filters.unicode_form import NFC

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


@runtime_checkable
class Ruling(Protocol):
    """Settings of a filter that decides by rules."""

    name: ClassVar[str]

    def rules(self) -> tuple[Rule, ...]:
        """Its rules, in the order in which a reason is looked for."""


@runtime_checkable
class Rewriting(Protocol):
    """Settings of a filter that changes text."""

    name: ClassVar[str]

    def rewrite(self, texts: pa.LargeStringArray) -> tuple[pa.LargeStringArray, np.ndarray]:
        """The new texts, and int64[n]: by how many characters each became shorter."""


FILTERS: dict[str, type[Ruling | Rewriting]] = {
    settings.name: settings for settings in (GopherQuality, Length, NFC)
}
"""Name in a recipe -> settings class."""


@dataclass(frozen=True, slots=True)
class Segment:
    """What is done between two texts: at most one rewriting, then one scan and the rules on it."""

    rewriter: Rewriting | None
    """None in the first segment of a recipe that does not begin with a rewriting filter."""
    rules: tuple[Rule, ...]
    """The rules of all its filters, in their order; none is possible."""


def segments(filters: Sequence[Ruling | Rewriting]) -> tuple[Segment, ...]:
    """Cut a source's filters, in their order, into segments; no filters at all are one empty segment.

    Raises
    ------
    ValueError
        A segment has more rules than `MAX_RULES`, which is what `rules.decide` takes.
    """
    opened: list[tuple[Rewriting | None, list[Rule]]] = []
    for settings in filters:
        if isinstance(settings, Rewriting):
            opened.append((settings, []))
            continue
        if not opened:
            opened.append((None, []))
        opened[-1][1].extend(settings.rules())
    cut = tuple(Segment(rewriter, tuple(rules)) for rewriter, rules in opened) or (Segment(None, ()),)
    for segment in cut:
        if len(segment.rules) > MAX_RULES:
            place = f"after {segment.rewriter.name!r}" if segment.rewriter else "before any rewriting filter"
            found = f"{len(segment.rules)} rules {place}"
            raise ValueError(f"{found}; at most {MAX_RULES} can be decided together")
    return cut
