"""How long must a repeated stretch of text be for its later occurrences to go?

The settings of the step `substrings`; it imports nothing heavier than pydantic, for recipes are checked with it. What
is compared is in substrings.py.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field


class Substrings(BaseModel):
    """Exact substring dedup: of a stretch of text that occurs again, the first occurrence stays."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str] = "substrings"

    min_bytes: int = Field(500, ge=8, le=1 << 12)
    """UTF-8 bytes that have to be equal. 500 is Dolma 3's (its dataset card: substrings of 500 bytes and more); Lee
    et al. 2022, arXiv:2107.06499, take 50 BPE tokens, about 200 bytes of English. The time that text of one letter
    takes grows with it, hence the upper limit."""
