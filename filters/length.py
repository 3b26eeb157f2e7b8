"""Is a document long enough, and not too long: bounds on its words, characters and bytes.

A word is a run of characters that are not whitespace, a character is a code point, and bytes are those of the
UTF-8 text (signals.py). There is no default bound: what is too short depends on the corpus.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from winnow.filters.rules import Rule, Signal

_UNITS = ("words", "chars", "bytes")


class Length(BaseModel):
    """Bounds on length. None is no bound; a bound itself passes. Each is a rule, ``length.<setting>``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str] = "length"

    min_words: int | None = Field(None, ge=0)
    """Words a document needs."""
    max_words: int | None = Field(None, ge=0)
    """Words a document may have."""
    min_chars: int | None = Field(None, ge=0)
    """Characters a document needs."""
    max_chars: int | None = Field(None, ge=0)
    """Characters a document may have."""
    min_bytes: int | None = Field(None, ge=0)
    """Bytes of UTF-8 a document needs."""
    max_bytes: int | None = Field(None, ge=0)
    """Bytes of UTF-8 a document may have."""

    @model_validator(mode="after")
    def _bounds_are_given_and_leave_room(self) -> Length:
        bounds = [(unit, getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")) for unit in _UNITS]
        if all(low is None and high is None for _, low, high in bounds):
            raise ValueError(f"length needs at least one of {', '.join(type(self).model_fields)}")
        for unit, low, high in bounds:
            if low is not None and high is not None and low > high:
                raise ValueError(f"min_{unit} ({low}) is above max_{unit} ({high}): nothing would pass")
        return self

    def rules(self) -> tuple[Rule, ...]:
        """One rule for each bound given: words, characters, bytes; of each the minimum first."""
        found = []
        for unit in _UNITS:
            low, high = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            score, source = Signal(unit), "chosen in the recipe"
            if low is not None:
                found.append(Rule(name=f"{self.name}.min_{unit}", score=score, minimum=low, source=source))
            if high is not None:
                found.append(Rule(name=f"{self.name}.max_{unit}", score=score, maximum=high, source=source))
        return tuple(found)
