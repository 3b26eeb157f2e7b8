"""Which lines, or paragraphs, does a source say again and again?"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict


class Lines(BaseModel):
    """Cuts lines that another document of the source has too: menus, notices, what a site says on every page.

    As CCNet does (Wenzek et al. 2020, arXiv:1911.00359); what is the same line, and where that differs
    from CCNet, is said in line_keys.py. A document of which nothing is left is dropped. There is no least length, so
    it is not for code, tables or verse: a lone bracket or a refrain goes too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str] = "lines"

    by: Literal["line", "paragraph"] = "line"
    """What is compared and cut: a line, or a paragraph, which is a run of lines between blank ones. CCNet's
    paragraphs are lines."""
    keep: Literal["first", "none"] = "first"
    """Which of equal lines stays: the first one of the source, or none that has an equal, its own document included.
    CCNet keeps none, among 50 of a crawl's 1,600 shards (mine.py: `hash_in_mem`; its `deduplicate` keeps the first)."""
