"""Is a file code that people wrote, rather than data, minified or generated: the rules of The Stack and StarCoder.

The bounds on lines and alphanumeric characters are those of Codex (Chen et al. 2021, arXiv:2107.03374) with the
numbers of The Stack (Kocetkov et al. 2022, arXiv:2211.15533; BigCode's preprocessing: 1000, 100, 0.25). StarCoder
(Li et al. 2023, arXiv:2305.06161) sets them by file extension, asks some extensions for alphabetic characters
instead, and drops XML; DeepSeek-Coder (Guo et al. 2024, arXiv:2401.14196) asks every file for a quarter of
alphabetic characters, which is the default here. What marks generated code stands in code_signals.py.

Lines end at "\\n" only, and a "\\r" before it is one of their characters; BigCode cuts with ``str.splitlines``. Their
rules on the visible text of HTML and on the size of JSON and YAML are not among these.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field
from winnow.filters.rules import Ratio, Rule, Score, Signal
from winnow.filters.thresholds import rules_of

_SOURCE = "The Stack, arXiv:2211.15533; StarCoder, arXiv:2305.06161"

# setting -> score, in the order in which reasons are looked for.
_SCORES: dict[str, Score] = {
    "max_longest_line_chars": Signal("longest_line_chars"),
    "max_mean_line_chars": Ratio("line_chars", "lines"),
    "min_alnum_char_frac": Ratio("alnum_chars", "chars"),
    "min_alpha_char_frac": Ratio("alpha_chars", "chars"),
    "max_generated_marks": Signal("generated_marks"),
    "max_xml_prologues": Signal("xml_prologue"),
}


class Code(BaseModel):
    """Rules on source code with BigCode's bounds. None switches a rule off; 0 is the number zero.

    Each setting is one rule, ``code.<setting>``. A bound itself passes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: ClassVar[str] = "code"

    max_longest_line_chars: int | None = Field(1000, ge=0)
    """Characters the longest line may have."""
    max_mean_line_chars: float | None = Field(100.0, ge=0)
    """Characters a line may have on average; blank lines are lines."""
    min_alnum_char_frac: float | None = Field(0.25, ge=0, le=1)
    """Share of characters, whitespace among them, that need to be alphanumeric."""
    min_alpha_char_frac: float | None = Field(0.25, ge=0, le=1)
    """Share of characters that need to be alphabetic."""
    max_generated_marks: int | None = Field(0, ge=0)
    """Markers of generated code that may be in the first five lines."""
    max_xml_prologues: int | None = Field(0, ge=0)
    """0 drops files with "<?xml version=" in the first 100 characters; for XSLT, say None."""

    def rules(self) -> tuple[Rule, ...]:
        """One rule for each setting that is not None, in the order of the settings."""
        return rules_of(self, _SCORES, _SOURCE)
