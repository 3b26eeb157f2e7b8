"""Is a document prose rather than boilerplate, lists or noise: Gopher's quality rules.

Rae et al. 2021, arXiv:2112.11446, appendix A: documents are removed that have too few or too many words,
words that are too short or long on average, too many hashes, ellipses, bullet points, words without a letter,
or too few English stop words. The paper names no word splitter; a word here is a run of characters that are
not whitespace (word_signals.py, where all counted things are defined). With `words: datatrove` the decision is
that of datatrove 0.9.0's GopherQualityFilter for English: words are spaCy's tokens, and lines are cut as
``str.splitlines`` does. That makes the rule on alphabetic words far harsher: the tokens cut off punctuation, and
each such token is a word without a letter.

The rules are made for English, and for prose: code, tables, poems and other languages mostly fail them.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from winnow.filters.rules import Ratio, Rule, Score, Signal
from winnow.filters.thresholds import rules_of

_SOURCES = {
    "paper": "Gopher, arXiv:2112.11446, appendix A",
    "datatrove": "Gopher, arXiv:2112.11446, appendix A, by datatrove 0.9.0",
}

# setting -> score; in the paper's order, which is the order in which reasons are looked for, datatrove's too.
_SCORES: dict[str, dict[str, Score]] = {
    "paper": {
        "min_words": Signal("words"),
        "max_words": Signal("words"),
        "min_mean_word_chars": Ratio("word_chars", "words"),
        "max_mean_word_chars": Ratio("word_chars", "words"),
        "max_hashes_per_word": Ratio("hashes", "words"),
        "max_ellipses_per_word": Ratio("ellipses", "words"),
        "max_bullet_line_frac": Ratio("bullet_lines", "lines"),
        "max_ellipsis_line_frac": Ratio("ellipsis_lines", "lines"),
        "min_alpha_word_frac": Ratio("alpha_words", "words"),
        "min_stop_words": Signal("stop_words"),
    },
    "datatrove": {
        "min_words": Signal("dt_nonsymbol_words"),
        "max_words": Signal("dt_nonsymbol_words"),
        "min_mean_word_chars": Ratio("dt_nonsymbol_word_chars", "dt_nonsymbol_words"),
        "max_mean_word_chars": Ratio("dt_nonsymbol_word_chars", "dt_nonsymbol_words"),
        "max_hashes_per_word": Ratio("hashes", "dt_words"),
        "max_ellipses_per_word": Ratio("ellipses", "dt_words"),
        "max_bullet_line_frac": Ratio("dt_bullet_lines", "dt_lines"),
        "max_ellipsis_line_frac": Ratio("dt_ellipsis_lines", "dt_lines"),
        "min_alpha_word_frac": Ratio("dt_alpha_words", "dt_words"),
        "min_stop_words": Signal("dt_stop_words"),
    },
}


class GopherQuality(BaseModel):
    """Gopher's quality rules with the paper's bounds. None switches a rule off; 0 is the number zero.

    Each setting but `words` is one rule, ``gopher-quality.<setting>``. A bound itself passes: 50 words are enough. A
    document without words has no mean or share of words, and one without lines no share of lines; those rules
    let it pass.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: ClassVar[str] = "gopher-quality"

    min_words: int | None = Field(50, ge=0)
    """Words a document needs."""
    max_words: int | None = Field(100_000, ge=0)
    """Words a document may have. This drops most books: they are longer."""
    min_mean_word_chars: float | None = Field(3.0, ge=0)
    """Lowest mean length of a word, in characters, its punctuation included."""
    max_mean_word_chars: float | None = Field(10.0, ge=0)
    """Highest mean length of a word, in characters, its punctuation included."""
    max_hashes_per_word: float | None = Field(0.1, ge=0)
    """"#" characters per word: the paper's symbol-to-word ratio."""
    max_ellipses_per_word: float | None = Field(0.1, ge=0)
    """Ellipses ("..." or "…") per word: the paper's symbol-to-word ratio again."""
    max_bullet_line_frac: float | None = Field(0.9, ge=0, le=1)
    """Share of lines that may open with a bullet, "•" or "-"."""
    max_ellipsis_line_frac: float | None = Field(0.3, ge=0, le=1)
    """Share of lines that may end in an ellipsis."""
    min_alpha_word_frac: float | None = Field(0.8, ge=0, le=1)
    """Share of words that need an alphabetic character."""
    min_stop_words: int | None = Field(2, ge=0, le=8)
    """How many different ones of the, be, to, of, and, that, have, with must occur."""
    words: Literal["paper", "datatrove"] = "paper"
    """What a word is: a run of characters that are not whitespace, or what datatrove takes for English, a token of
    spaCy's (needs the extra `datatrove`); then words of only punctuation are left out where words are counted and
    their mean length is taken."""

    @model_validator(mode="after")
    def _bounds_leave_room(self) -> GopherQuality:
        for thing in ("words", "mean_word_chars"):
            low, high = getattr(self, f"min_{thing}"), getattr(self, f"max_{thing}")
            if low is not None and high is not None and low > high:
                raise ValueError(f"min_{thing} ({low}) is above max_{thing} ({high}): nothing would pass")
        return self

    def rules(self) -> tuple[Rule, ...]:
        """One rule for each bound that is not None, in the order of the settings."""
        return rules_of(self, _SCORES[self.words], _SOURCES[self.words])
