"""Is a page what DCLM-Baseline kept: its rules on pages and on repetition, with its bounds.

Li et al. 2024, arXiv:2406.11794; the recipe is mlfoundations/dclm, dclm_baseline_refinedweb.yaml, which follows
RefinedWeb (Penedo et al. 2023, arXiv:2306.01116) and Gopher (Rae et al. 2021, arXiv:2112.11446). Its heuristics are
four filters here, in this order: `dclm-urls` (dclm_urls.py), language, `dclm-page`, `dclm-repetition`, `dclm-lines`
(dclm_lines.py). What is counted is defined in dclm_signals.py and dclm_repetition.py.

DCLM also drops a page without words, or without a line, at every step; here a share of nothing fails no rule, and
`dclm-page.min_words` drops such a page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from winnow.filters.rewriting import Rewritten
from winnow.filters.rules import Ratio, Rule, Score, Signal
from winnow.filters.thresholds import rules_of

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_SOURCE = "DCLM, arXiv:2406.11794, dclm_baseline_refinedweb.yaml"


@dataclass(frozen=True, slots=True)
class Lacking:
    """The score that is the share of one signal that another one lacks: ``(whole - part) / whole``.

    NaN where `whole` is 0, negative where `part` is the larger one.
    """

    whole: str
    part: str

    @property
    def signals(self) -> tuple[str, ...]:
        return (self.whole, self.part)

    def __call__(self, signals: Mapping[str, np.ndarray]) -> np.ndarray:
        import numpy as np

        whole = signals[self.whole].astype(np.int64)
        share = np.full(len(whole), np.nan)
        return np.divide(whole - signals[self.part].astype(np.int64), whole, out=share, where=whole != 0)


# setting -> score; in the recipe's order, which is the order in which reasons are looked for.
_PAGE_SCORES: dict[str, Score] = {
    "min_words": Signal("dclm_words"),
    "max_words": Signal("dclm_words"),
    "min_mean_word_chars": Ratio("word_chars", "words"),
    "max_mean_word_chars": Ratio("word_chars", "words"),
    "max_symbols_per_word": Ratio("dclm_symbols", "words"),
    "max_bullet_line_frac": Ratio("dclm_bullet_lines", "dclm_lines"),
    "max_ellipsis_line_frac": Ratio("dclm_ellipsis_lines", "dclm_lines"),
    "max_non_alpha_word_frac": Lacking("words", "alpha_words"),
    "min_stop_words": Signal("dclm_stop_words"),
}
_REPETITION_SCORES: dict[str, Score] = {
    "max_repeated_line_frac": Ratio("dclm_repeated_lines", "dclm_lines"),
    "max_repeated_paragraph_frac": Ratio("dclm_repeated_paragraphs", "dclm_paragraphs"),
    "max_repeated_line_char_frac": Ratio("dclm_repeated_line_chars", "dclm_line_chars"),
    "max_repeated_paragraph_char_frac": Ratio("dclm_repeated_paragraph_chars", "dclm_paragraph_chars"),
    **{f"max_top_{n}gram_char_frac": Ratio(f"dclm_top_{n}gram_chars", "dclm_word_chars") for n in (2, 3, 4)},
    **{
        f"max_repeated_{n}gram_char_frac": Ratio(f"dclm_repeated_{n}gram_chars", "dclm_word_chars")
        for n in range(5, 11)
    },
}
_LINE_SCORES: dict[str, Score] = {
    "max_removed_word_frac": Lacking("dclm-lines.words_before", "dclm-lines.words_after")
}


def _shortened(
    before: pa.LargeStringArray, after: pa.LargeStringArray, signals: Mapping[str, np.ndarray]
) -> Rewritten:
    """What a filter gives back that made `after` of `before`."""
    import numpy as np
    import pyarrow.compute as pc

    if after is before:
        return Rewritten(before, np.zeros(len(before), np.int64), signals)
    removed = pc.utf8_length(before).to_numpy() - pc.utf8_length(after).to_numpy()
    return Rewritten(after, removed, signals)


class DclmPage(BaseModel):
    """DCLM's rules on a page's words, symbols and lines. None switches a rule off; 0 is the number zero.

    Each setting is one rule, ``dclm-page.<setting>``. A bound itself passes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: ClassVar[str] = "dclm-page"

    min_words: int | None = Field(50, ge=0)
    """Words a page needs: fastText's, without those that open with punctuation."""
    max_words: int | None = Field(100_000, ge=0)
    """Words a page may have, counted the same way."""
    min_mean_word_chars: float | None = Field(3.0, ge=0)
    """Lowest mean length of what stands between whitespace, in characters."""
    max_mean_word_chars: float | None = Field(10.0, ge=0)
    """Highest mean length of what stands between whitespace, in characters."""
    max_symbols_per_word: float | None = Field(0.1, ge=0)
    """"#", "...", ". . ." and "…" for each word between whitespace."""
    max_bullet_line_frac: float | None = Field(0.9, ge=0, le=1)
    """Share of lines that may open with a bullet, "●", "•", "*" or "-"."""
    max_ellipsis_line_frac: float | None = Field(0.3, ge=0, le=1)
    """Share of lines that may end in "...", ". . ." or "…"."""
    max_non_alpha_word_frac: float | None = Field(0.2, ge=0, le=1)
    """Share of words between whitespace that may have no letter."""
    min_stop_words: int | None = Field(2, ge=0)
    """How often one of the, be, to, of, and, that, have, with must occur; the same one twice is enough."""

    @model_validator(mode="after")
    def _bounds_leave_room(self) -> DclmPage:
        for thing in ("words", "mean_word_chars"):
            low, high = getattr(self, f"min_{thing}"), getattr(self, f"max_{thing}")
            if low is not None and high is not None and low > high:
                raise ValueError(f"min_{thing} ({low}) is above max_{thing} ({high}): nothing would pass")
        return self

    def rules(self) -> tuple[Rule, ...]:
        """One rule for each setting that is not None, in the order of the settings."""
        return rules_of(self, _PAGE_SCORES, _SOURCE)


class DclmRepetition(BaseModel):
    """DCLM's rules on repetition. None switches a rule off; 0 is the number zero.

    Each setting is one rule, ``dclm-repetition.<setting>``. A bound itself passes. Every occurrence of what occurs
    more than once counts, and the shares of top n-grams may be above 1: overlaps count too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: ClassVar[str] = "dclm-repetition"

    max_repeated_line_frac: float | None = Field(0.30, ge=0)
    """Share of lines that may occur more than once."""
    max_repeated_paragraph_frac: float | None = Field(0.30, ge=0)
    """Share of paragraphs that may occur more than once."""
    max_repeated_line_char_frac: float | None = Field(0.20, ge=0)
    """Share of the lines' characters that may lie in repeated lines."""
    max_repeated_paragraph_char_frac: float | None = Field(0.20, ge=0)
    """Share of the paragraphs' characters that may lie in repeated paragraphs."""
    max_top_2gram_char_frac: float | None = Field(0.20, ge=0)
    """Share of the words' characters that the most frequent 2-gram may take."""
    max_top_3gram_char_frac: float | None = Field(0.18, ge=0)
    """The same for 3-grams."""
    max_top_4gram_char_frac: float | None = Field(0.16, ge=0)
    """The same for 4-grams."""
    max_repeated_5gram_char_frac: float | None = Field(0.15, ge=0)
    """Share of the words' characters that may lie in 5-grams that occur more than once."""
    max_repeated_6gram_char_frac: float | None = Field(0.14, ge=0)
    """The same for 6-grams."""
    max_repeated_7gram_char_frac: float | None = Field(0.13, ge=0)
    """The same for 7-grams."""
    max_repeated_8gram_char_frac: float | None = Field(0.12, ge=0)
    """The same for 8-grams."""
    max_repeated_9gram_char_frac: float | None = Field(0.11, ge=0)
    """The same for 9-grams."""
    max_repeated_10gram_char_frac: float | None = Field(0.10, ge=0)
    """The same for 10-grams."""

    def rules(self) -> tuple[Rule, ...]:
        """One rule for each setting that is not None, in the order of the settings."""
        return rules_of(self, _REPETITION_SCORES, _SOURCE)


class DclmUrls(BaseModel):
    """Cuts URLs and IPv4 addresses out of the text, and newlines of which there are too many in a row.

    What is a URL, and where DCLM does not look for any, is said in dclm_urls.py. It drops nothing; DCLM drops a page
    of which nothing is left, which `dclm-page.min_words` does here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str] = "dclm-urls"
    columns: ClassVar[Mapping[str, str]] = {}

    quirks: bool = False
    """Whether URLs are cut as DCLM's code does: only from a page whose first letters are a top-level domain."""
    max_newlines: int | None = Field(2, ge=1)
    """Newlines in a row that stay; None for any number."""

    def rules(self) -> tuple[Rule, ...]:
        """None."""
        return ()

    def rewrite(self, documents: pa.RecordBatch) -> Rewritten:
        """The texts without URLs; the very same array where there are none. Memory: up to two more copies.

        Raises
        ------
        TypeError
            The column `text` is not of the type large_string.
        ValueError
            A text is null.
        """
        from winnow.filters.dclm_urls import cut_urls

        texts = documents.column("text")
        return _shortened(texts, cut_urls(texts, quirks=self.quirks, max_newlines=self.max_newlines), {})


class DclmLines(BaseModel):
    """Drops lines that are no text, cuts three phrases, and drops a page that loses too many words by it.

    The steps are those of dclm_lines.py, in its order. The rule is ``dclm-lines.max_removed_word_frac``; it reads the
    signals `words_before` and `words_after`, fastText's words without those that open with punctuation. A page that
    has none before has no share to lose and passes; `dclm-page.min_words` drops it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: ClassVar[str] = "dclm-lines"
    columns: ClassVar[Mapping[str, str]] = {
        "dclm-lines.words_before": "uint32",
        "dclm-lines.words_after": "uint32",
    }

    max_upper_frac: float | None = Field(0.5, ge=0, le=1)
    """Share of a line's characters that may be upper case."""
    max_digit_frac: float | None = Field(0.999999, ge=0, le=1)
    """Share of a line's characters that may be digits."""
    counters: bool = True
    """Whether lines that count likes, shares, comments and the like are dropped."""
    min_line_words: int = Field(2, ge=0)
    """Words a line needs; lines without characters stay."""
    max_cut_words: int = Field(10, ge=0)
    """Words of the longest lines of which "items in cart", "Read more..." and "Sign-in" are cut."""
    max_removed_word_frac: float | None = Field(0.05, ge=0, le=1)
    """Share of its words that a page may lose; None keeps every page."""

    def rules(self) -> tuple[Rule, ...]:
        """The one rule, or none."""
        return rules_of(self, _LINE_SCORES, _SOURCE)

    def rewrite(self, documents: pa.RecordBatch) -> Rewritten:
        """The texts without those lines and phrases; the very same array where all stay as they are.

        Memory: up to two more copies of the texts. Raises what `DclmUrls.rewrite` raises.
        """
        from winnow.filters.dclm_lines import drop_lines
        from winnow.filters.dclm_signals import count_words

        texts = documents.column("text")
        left = drop_lines(
            texts,
            max_upper_frac=self.max_upper_frac,
            max_digit_frac=self.max_digit_frac,
            counters=self.counters,
            min_words=self.min_line_words,
            max_cut_words=self.max_cut_words,
        )
        signals = dict(zip(self.columns, (count_words(texts), count_words(left)), strict=True))
        return _shortened(texts, left, signals)
