"""Does a document say the same things again and again: Gopher's repetition rules.

Rae et al. 2021, arXiv:2112.11446, table A1: documents are removed in which too many lines or paragraphs come
twice, in which the most frequent n-gram of 2 to 4 words covers too much of the text, or in which too much of the
text lies in n-grams of 5 to 10 words that were there before. The formulas, which the paper leaves open, are
datatrove 0.9.0's (repetition.py and line_signals.py define what is counted); shares are of all characters, so that
also whitespace is in what they are divided by.

A most frequent n-gram counts even where it occurs once: very short documents fail these rules.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from winnow.filters.rules import Ratio, Rule, Score
from winnow.filters.thresholds import rules_of

_SOURCES = {
    "paper": "Gopher, arXiv:2112.11446, table A1",
    "datatrove": "Gopher, arXiv:2112.11446, table A1, by datatrove 0.9.0",
}

# setting -> score; in datatrove's order, which is the order in which reasons are looked for.
_OF_LINES: dict[str, Score] = {
    "max_dup_paragraph_frac": Ratio("dup_paragraphs", "rep_paragraphs"),
    "max_dup_paragraph_char_frac": Ratio("dup_paragraph_chars", "chars"),
    "max_dup_line_frac": Ratio("dup_lines", "rep_lines"),
    "max_dup_line_char_frac": Ratio("dup_line_chars", "chars"),
}
_NGRAMS = (*(f"top_{n}gram" for n in (2, 3, 4)), *(f"dup_{n}gram" for n in range(5, 11)))
_SCORES: dict[str, dict[str, Score]] = {
    words: _OF_LINES | {f"max_{gram}_char_frac": Ratio(f"{prefix}{gram}_chars", "chars") for gram in _NGRAMS}
    for words, prefix in (("paper", ""), ("datatrove", "dt_"))
}


class GopherRepetition(BaseModel):
    """Gopher's repetition rules with the paper's bounds. None switches a rule off; 0 is the number zero.

    Each setting but `words` is one rule, ``gopher-repetition.<setting>``. A bound itself passes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: ClassVar[str] = "gopher-repetition"

    max_dup_paragraph_frac: float | None = Field(0.3, ge=0, le=1)
    """Share of paragraphs that may have been there before."""
    max_dup_paragraph_char_frac: float | None = Field(0.2, ge=0, le=1)
    """Share of characters that may be in such paragraphs."""
    max_dup_line_frac: float | None = Field(0.3, ge=0, le=1)
    """Share of lines that may have been there before."""
    max_dup_line_char_frac: float | None = Field(0.2, ge=0, le=1)
    """Share of characters that may be in such lines."""
    max_top_2gram_char_frac: float | None = Field(0.2, ge=0)
    """Share of characters that the most frequent two words in a row may take up."""
    max_top_3gram_char_frac: float | None = Field(0.18, ge=0)
    """The same for three words; n-grams overlap, so such shares may exceed 1."""
    max_top_4gram_char_frac: float | None = Field(0.16, ge=0)
    """The same for four words."""
    max_dup_5gram_char_frac: float | None = Field(0.15, ge=0, le=1)
    """Share of characters that may be in five words in a row that have been there before."""
    max_dup_6gram_char_frac: float | None = Field(0.14, ge=0, le=1)
    """The same for six words."""
    max_dup_7gram_char_frac: float | None = Field(0.13, ge=0, le=1)
    """The same for seven words."""
    max_dup_8gram_char_frac: float | None = Field(0.12, ge=0, le=1)
    """The same for eight words."""
    max_dup_9gram_char_frac: float | None = Field(0.11, ge=0, le=1)
    """The same for nine words."""
    max_dup_10gram_char_frac: float | None = Field(0.1, ge=0, le=1)
    """The same for ten words."""
    words: Literal["paper", "datatrove"] = "paper"
    """What a word is: a run of characters that are not whitespace, or what datatrove takes for English, a token of
    spaCy's (needs the extra `datatrove`)."""

    def rules(self) -> tuple[Rule, ...]:
        """One rule for each bound that is not None, in datatrove's order."""
        return rules_of(self, _SCORES[self.words], _SOURCES[self.words])
