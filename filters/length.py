"""Is a document long enough, and not too long: bounds on its words, characters, bytes and tokens.

A word is a run of characters that are not whitespace, a character is a code point, and bytes are those of the
UTF-8 text (signals.py). Tokens are those of the run's tokenizer, without control tokens; they are counted by
tokenizing the text, which costs more than everything else here. There is no default bound: what is too short
depends on the corpus.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator
from winnow.filters.rules import Rule, Signal

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_UNITS = ("words", "chars", "bytes", "tokens")


class TokenCounter(Protocol):
    """Counts tokens; the run brings one, for filters know no tokenizer."""

    def identity(self) -> Any:
        """What the counts depend on, as JSON can say it."""

    def count(self, texts: pa.LargeStringArray) -> np.ndarray:
        """Tokens of each text, uint32[n]."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Measures the signal `tokens`."""

    counter: TokenCounter | None

    @property
    def columns(self) -> Mapping[str, str]:
        return {"tokens": "uint32"}

    def identity(self) -> Any:
        assert self.counter is not None
        return self.counter.identity()

    def measure(self, documents: pa.RecordBatch) -> Mapping[str, Any]:
        assert self.counter is not None
        return {"tokens": self.counter.count(documents.column("text"))}


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
    min_tokens: int | None = Field(None, ge=0)
    """Tokens a document needs."""
    max_tokens: int | None = Field(None, ge=0)
    """Tokens a document may have."""

    _counter: TokenCounter | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _bounds_are_given_and_leave_room(self) -> Length:
        bounds = [(unit, getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")) for unit in _UNITS]
        if all(low is None and high is None for _, low, high in bounds):
            raise ValueError(f"length needs at least one of {', '.join(type(self).model_fields)}")
        for unit, low, high in bounds:
            if low is not None and high is not None and low > high:
                raise ValueError(f"min_{unit} ({low}) is above max_{unit} ({high}): nothing would pass")
        return self

    @property
    def wants_counter(self) -> bool:
        """Whether it needs `with_counter`."""
        return self.min_tokens is not None or self.max_tokens is not None

    def with_counter(self, counter: TokenCounter) -> Self:
        """The same settings, with what counts tokens."""
        copy = self.model_copy()
        copy._counter = counter
        return copy

    def measures(self) -> tuple[Tokens, ...]:
        """One where tokens are bounded; without a counter it can say its column, and no more."""
        return (Tokens(self._counter),) if self.wants_counter else ()

    def rules(self) -> tuple[Rule, ...]:
        """One rule for each bound given: words, characters, bytes, tokens; of each the minimum first."""
        found = []
        for unit in _UNITS:
            low, high = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            score, source = Signal(unit), "chosen in the recipe"
            if low is not None:
                found.append(Rule(name=f"{self.name}.min_{unit}", score=score, minimum=low, source=source))
            if high is not None:
                found.append(Rule(name=f"{self.name}.max_{unit}", score=score, maximum=high, source=source))
        return tuple(found)
