"""Does a document read like text rather than a list or a menu: FineWeb's quality rules.

Penedo et al. 2024, arXiv:2406.17557, section 3.6, as datatrove 0.9.0's FineWebQualityFilter computes them: documents
are removed of which too few lines end like a sentence, too many lines are short, too many characters are in lines
that were there before, or that have too many newlines for their words. Lines are cut at "\\n" and have a character
that is not whitespace (line_signals.py); the paper's bound on repeated lines is 0.1, the code's default
0.01, which is the default here, too.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from winnow.filters.rules import Ratio, Rule, Score, Signal
from winnow.filters.thresholds import rules_of

_SOURCE = "FineWeb, arXiv:2406.17557, by datatrove 0.9.0"

# setting -> score; in datatrove's order, which is the order in which reasons are looked for.
_OF_LINES: dict[str, Score] = {
    "min_nonblank_lines": Signal("nonblank_lines"),
    "min_terminal_line_frac": Ratio("terminal_lines", "nonblank_lines"),
    "max_short_line_frac": Ratio("short_lines", "nonblank_lines"),
    "max_dup_line_char_frac": Ratio("dup_nonblank_line_chars", "line_chars"),
}
_SCORES: dict[str, dict[str, Score]] = {
    "paper": _OF_LINES | {"max_newlines_per_word": Ratio("newlines", "words")},
    "datatrove": _OF_LINES | {"max_newlines_per_word": Ratio("newlines", "dt_words")},
}


class FineWebQuality(BaseModel):
    """FineWeb's quality rules with datatrove's bounds. None switches a rule off; 0 is the number zero.

    Each setting but `words` is one rule, ``fineweb-quality.<setting>``. A bound itself passes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: ClassVar[str] = "fineweb-quality"

    min_nonblank_lines: int | None = Field(1, ge=0)
    """Lines a document needs: with the default, a document of whitespace is dropped (datatrove's reason `empty`)."""
    min_terminal_line_frac: float | None = Field(0.12, ge=0, le=1)
    """Share of lines that need to end in punctuation that ends a sentence, of any script; a quotation mark or an
    "…" is none, and whitespace after it hides it."""
    max_short_line_frac: float | None = Field(0.67, ge=0, le=1)
    """Share of lines that may have at most 30 characters."""
    max_dup_line_char_frac: float | None = Field(0.01, ge=0, le=1)
    """Share of characters, newlines not counted, that may be in lines that have been there before."""
    max_newlines_per_word: float | None = Field(0.3, ge=0)
    """Newlines per word."""
    words: Literal["paper", "datatrove"] = "paper"
    """What a word is: a run of characters that are not whitespace, or what datatrove takes for English, a token of
    spaCy's (needs the extra `datatrove`)."""

    def rules(self) -> tuple[Rule, ...]:
        """One rule for each bound that is not None, in datatrove's order."""
        return rules_of(self, _SCORES[self.words], _SOURCE)
