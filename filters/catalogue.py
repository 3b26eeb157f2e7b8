"""Which filters a recipe can name, and in which order their work is done.

There are two kinds. A filter with rules decides which documents stay, by the signals of their text
(scans.py, rules.py) or by signals that it measures itself (a model's score, a field of `meta`). A filter that
rewrites changes text, so that what comes after it must scan the new text: it cuts a source's list of filters
into segments. The work on one segment is: rewrite if it opens with a rewriter, scan once, measure, decide all
its rules, and let the documents that are kept go on to the next.

A filter's settings are a frozen pydantic model with a class attribute `name`; this module and theirs import
nothing heavier, so that a recipe can be checked in a moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from winnow.filters.bad_words import C4BadWords
from winnow.filters.c4 import C4, C4Paragraphs
from winnow.filters.code import Code
from winnow.filters.datatrove_block import DatatroveBlock
from winnow.filters.dclm import DclmLines, DclmPage, DclmRepetition, DclmUrls
from winnow.filters.field import MetaField
from winnow.filters.fineweb import FineWebQuality
from winnow.filters.gopher import GopherQuality
from winnow.filters.gopher_repetition import GopherRepetition
from winnow.filters.language import Language
from winnow.filters.length import Length
from winnow.filters.mc4 import MPTS2ORC, MPTmC4
from winnow.filters.pii import PII
from winnow.filters.plugin import Function
from winnow.filters.quality import Quality, QualityParagraphs, Scores
from winnow.filters.repair import FTFY, Whitespace
from winnow.filters.rewriting import Rewritten
from winnow.filters.rules import MAX_RULES, Rule, Signal
from winnow.filters.unicode_form import NFC
from winnow.filters.url import URL

if TYPE_CHECKING:
    import pyarrow as pa


class Measure(Protocol):
    """Something that gives documents signals which no scan of their text counts. Picklable and comparable."""

    @property
    def columns(self) -> Mapping[str, str]:
        """Its signals: name -> Arrow type, `uint32`, `int64`, `float32`, `float64` or `string`."""

    def identity(self) -> Any:
        """What its signals depend on beside the documents, as JSON says it: settings, a model's sha256, a version."""

    def measure(self, documents: pa.RecordBatch) -> Mapping[str, Any]:
        """The signals, an array of n each, of documents with the columns id, text, key and meta."""


@runtime_checkable
class Ruling(Protocol):
    """Settings of a filter that decides by rules. It may have a method `measures() -> tuple[Measure, ...]`."""

    name: ClassVar[str]

    def rules(self) -> tuple[Rule, ...]:
        """Its rules, in the order in which a reason is looked for."""


@runtime_checkable
class Rewriting(Protocol):
    """Settings of a filter that changes text, and may drop documents by rules on what it saw doing so."""

    name: ClassVar[str]

    @property
    def columns(self) -> Mapping[str, str]:
        """The signals it gives beside the text: name -> Arrow type."""

    def rewrite(self, documents: pa.RecordBatch) -> Rewritten:
        """The new texts of documents with the columns id, text, key and meta."""

    def rules(self) -> tuple[Rule, ...]:
        """Its rules; they may read `columns`, and are decided before those of the filters after it."""


FILTERS: dict[str, type[Ruling | Rewriting]] = {
    settings.name: settings
    for settings in (
        C4,
        C4BadWords,
        C4Paragraphs,
        Code,
        DatatroveBlock,
        DclmLines,
        DclmPage,
        DclmRepetition,
        DclmUrls,
        MetaField,
        FineWebQuality,
        Function,
        FTFY,
        GopherQuality,
        GopherRepetition,
        Language,
        Length,
        MPTS2ORC,
        MPTmC4,
        NFC,
        PII,
        Quality,
        QualityParagraphs,
        Scores,
        URL,
        Whitespace,
    )
}
"""Name in a recipe -> settings class."""


@dataclass(frozen=True, slots=True)
class Segment:
    """What is done between two texts: at most one rewriting, then one scan, the measures, and the rules on them."""

    rewriter: Rewriting | None
    """None in the first segment of a recipe that does not begin with a rewriting filter."""
    rules: tuple[Rule, ...]
    """The rules of all its filters, in their order; none is possible."""
    measures: tuple[Measure, ...] = field(default=())
    """What gives its signals beside the scan, each once."""

    @property
    def own_columns(self) -> dict[str, str]:
        """Signals of the rewriter and of the measures: name -> Arrow type."""
        columns: dict[str, str] = {}
        if self.rewriter is not None:
            columns[f"{self.rewriter.name}.removed_chars"] = "int64"
            columns[f"{self.rewriter.name}.text_bytes"] = "uint32"
            columns |= self.rewriter.columns
        for measure in self.measures:
            columns |= measure.columns
        return columns

    @property
    def scanned(self) -> tuple[str, ...]:
        """Signals that its rules need of the scan (scans.py)."""
        own = self.own_columns
        wanted = {s for rule in self.rules for s in rule.score.signals} - set(own)
        return tuple(sorted(wanted))

    @property
    def needed(self) -> tuple[str, ...]:
        """Every signal its rules read, the details among them."""
        wanted = {s for rule in self.rules for s in rule.score.signals}
        return tuple(sorted(wanted | {rule.detail for rule in self.rules if rule.detail}))


@dataclass(slots=True)
class _Open:
    rewriter: Rewriting | None = None
    rules: list[Rule] = field(default_factory=list)
    measures: list[Measure] = field(default_factory=list)

    def add(self, settings: Ruling | Rewriting) -> None:
        self.rules += settings.rules()
        if isinstance(settings, Rewriting):
            self.rules.append(_something_is_left(settings.name))
        for measure in measures_of(settings):
            if measure not in self.measures:
                self.measures.append(measure)

    @property
    def cuts(self) -> bool:
        return any(rule.fraction is not None for rule in self.rules)


def _something_is_left(rewriter: str) -> Rule:
    """The rule that drops documents of which a rewriting left nothing."""
    why = "a document without text is none"
    return Rule(name=f"{rewriter}.empty", score=Signal(f"{rewriter}.text_bytes"), minimum=1, source=why)


def measures_of(settings: Ruling | Rewriting) -> tuple[Measure, ...]:
    """The measures of a filter; none for one that goes by the scan alone."""
    return settings.measures() if hasattr(settings, "measures") else ()


def segments(filters: Sequence[Ruling | Rewriting], *, until_drop: bool = False) -> tuple[Segment, ...]:
    """Cut a source's filters, in their order, into segments; no filters at all are one empty segment.

    until_drop : open a segment, too, where a filter brings measures of its own, so that they are spared for
        documents that an earlier filter drops, and an empty one at the end, so that nothing that is dropped
        goes further. (A cut by fraction stays in the last segment: it needs everybody's scores.)

    Raises
    ------
    ValueError
        A segment has more rules than `MAX_RULES`, which is what `rules.decide` takes; two measures of a segment
        give a signal of the same name; a rule with a fraction is followed by a filter that rewrites.
    """
    opened: list[_Open] = []
    for settings in filters:
        rewrites = isinstance(settings, Rewriting)
        if rewrites and any(part.cuts for part in opened):
            raise ValueError(
                f"a filter that keeps a fraction comes before {settings.name!r}, which rewrites: put it after"
            )
        apart = until_drop and opened and measures_of(settings) and not opened[-1].cuts and opened[-1].rules
        if rewrites or apart or not opened:
            opened.append(_Open(settings if isinstance(settings, Rewriting) else None))
        opened[-1].add(settings)
    if until_drop and opened and opened[-1].rules and not opened[-1].cuts:
        opened.append(_Open())
    cut = tuple(Segment(o.rewriter, tuple(o.rules), tuple(o.measures)) for o in opened) or (
        Segment(None, ()),
    )
    for segment in cut:
        _check(segment)
    return cut


def _check(segment: Segment) -> None:
    if len(segment.rules) > MAX_RULES:
        place = f"after {segment.rewriter.name!r}" if segment.rewriter else "before any rewriting filter"
        found = f"{len(segment.rules)} rules {place}"
        raise ValueError(f"{found}; at most {MAX_RULES} can be decided together")
    seen: set[str] = set()
    for measure in segment.measures:
        if both := seen & set(measure.columns):
            raise ValueError(f"two filters give the signal {min(both)!r}; give one of them another `as`")
        seen |= set(measure.columns)
