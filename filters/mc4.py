"""Which documents did MPT-7B train on: the rules MosaicML put on English mC4 and on S2ORC.

MosaicML, "Introducing MPT-7B" (2023), appendix on data. The blog gives one sentence to each source and no code, so
this is our reading of it:

character       for the most common one and for the alphanumeric share, whitespace is none. A blank is the most
                common character of nearly every English document, and 92 % of all characters are alphanumeric in
                none: of 500 English Wikipedia articles 0 % would pass; without whitespace 94 % do (median 0.96).
word            a run of characters that are not whitespace, in exactly this spelling: "The" and "the" are two.
most common     of equally common ones, the one that comes first in the document.
paragraph       nonblank lines that follow one another.

What else the blog asks of S2ORC (an open licence, a title and an abstract, English, the years 1970 to 2022) is no
matter of the text; languages and fields of `meta` have filters of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from winnow.filters.rules import Ratio, Rule, Score, Signal
from winnow.filters.thresholds import rules_of

if TYPE_CHECKING:
    import numpy as np

_SOURCE = "MosaicML, Introducing MPT-7B (2023), appendix"
_TOP_WORD = Ratio("top_word_count", "words")


@dataclass(frozen=True, slots=True)
class ForLengths:
    """A score for documents with more than `above` and at most `most` words; NaN for others."""

    score: Score
    above: int
    most: int | None = None

    @property
    def signals(self) -> tuple[str, ...]:
        return (*self.score.signals, "words")

    def __call__(self, signals: Mapping[str, np.ndarray]) -> np.ndarray:
        import numpy as np

        words = signals["words"]
        concerned = words > self.above if self.most is None else (words > self.above) & (words <= self.most)
        return np.where(concerned, self.score(signals), np.nan)


class MPTmC4(BaseModel):
    """MPT's rules on English mC4. None switches a rule off; 0 is the number zero.

    Each setting but `long_above_words` is one rule, ``mpt-mc4.<setting>``. A bound itself passes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: ClassVar[str] = "mpt-mc4"

    alpha_top_char: Literal[True] | None = True
    """The most common character has to be alphabetic."""
    min_alnum_char_frac: float | None = Field(0.92, ge=0, le=1)
    """Share of characters, whitespace not counted, that need to be alphanumeric."""
    max_top_word_frac_long: float | None = Field(0.075, ge=0, le=1)
    """Share of the words of a long document that may be the most common word."""
    max_top_word_frac_short: float | None = Field(0.3, ge=0, le=1)
    """The same for documents that are not long."""
    min_words: int | None = Field(200, ge=0)
    """Words a document needs."""
    max_words: int | None = Field(50_000, ge=0)
    """Words a document may have."""
    long_above_words: int = Field(500, ge=0)
    """A document with more words than this is long."""

    @model_validator(mode="after")
    def _bounds_leave_room(self) -> MPTmC4:
        low, high = self.min_words, self.max_words
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_words ({low}) is above max_words ({high}): nothing would pass")
        return self

    def rules(self) -> tuple[Rule, ...]:
        """One rule for each bound that is not None, in the order of the settings."""
        scores: dict[str, Score] = {
            "alpha_top_char": Signal("top_char_alpha"),
            "min_alnum_char_frac": Ratio("alnum_chars", "word_chars"),
            "max_top_word_frac_long": ForLengths(_TOP_WORD, self.long_above_words),
            "max_top_word_frac_short": ForLengths(_TOP_WORD, -1, self.long_above_words),
            "min_words": Signal("words"),
            "max_words": Signal("words"),
        }
        return rules_of(self, scores, _SOURCE)


class MPTS2ORC(BaseModel):
    """MPT's rules on the text of S2ORC's papers. None switches a rule off; 0 is the number zero.

    Each setting is one rule, ``mpt-s2orc.<setting>``. A bound itself passes; the blog's "less than 7.5 %" is read
    as "at most".
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: ClassVar[str] = "mpt-s2orc"

    min_words: int | None = Field(500, ge=0)
    """Words a paper needs."""
    min_paragraphs: int | None = Field(5, ge=0)
    """Paragraphs it needs."""
    alpha_top_word: Literal[True] | None = True
    """All characters of the most common word have to be alphabetic."""
    max_top_word_frac: float | None = Field(0.075, ge=0, le=1)
    """Share of words that may be the most common word."""

    def rules(self) -> tuple[Rule, ...]:
        """One rule for each setting that is not None, in the order of the settings."""
        scores: dict[str, Score] = {
            "min_words": Signal("words"),
            "min_paragraphs": Signal("paragraphs"),
            "alpha_top_word": Signal("top_word_alpha"),
            "max_top_word_frac": _TOP_WORD,
        }
        return rules_of(self, scores, _SOURCE)
