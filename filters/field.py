"""What does the publisher say of a document: rules on a field of its row.

A reader keeps the columns of a row beside text and key as one JSON object, `meta`. A rule can go by a number in
it, as published scores are (AutoMathText's `meta.lm_q1q2_score`, FineWeb-Edu's `score`, the fastText score of
DCLM-Baseline), or by one of a few values, like the language of The Stack's files (`lang`).

A path is the keys on the way to a value, with dots between: `meta.lm_q1q2_score` is the key `lm_q1q2_score` of the
object under the key `meta`, which AutoMathText's rows have. A key that has dots itself is found too. Letters: n
documents.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from winnow.filters.rules import Rule, Signal

if TYPE_CHECKING:
    import pyarrow as pa

Value = bool | int | float | str
_CHOSEN = "chosen in the recipe"
_SHOWN_CHARS = 200
"""How much of a value is stored."""


class MetaField(BaseModel):
    """Keeps documents by a field: by bounds on a number, by a share of the source, or by a list of values.

    Signals: ``field.<as>`` is the number (NaN where there is none), or with `keep` or `drop` the value as text;
    then ``field.<as>.listed`` is 1 for those that the list names. ``field.<as>.missing`` is 1 where the path leads
    to nothing, to null, or to something of another kind than asked for (text where a number is, a list). Rules are
    called ``field.<as>.missing``, ``field.<as>.min`` and so on, in that order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)
    name: ClassVar[str] = "field"

    path: str = Field(min_length=1)
    """Keys inside `meta`, with dots between."""
    min: float | None = None
    """Lowest number that passes."""
    max: float | None = None
    """Highest number that passes."""
    keep_fraction: float | None = Field(None, gt=0, le=1)
    """Share of the source's documents that pass, those with the highest numbers."""
    keep: tuple[Value, ...] | None = Field(None, min_length=1)
    """The only values that pass. 1 and 1.0 are the same; true and "1" are others."""
    drop: tuple[Value, ...] | None = Field(None, min_length=1)
    """The values that do not pass."""
    missing: Literal["drop", "keep"] = "drop"
    """What becomes of a document without such a value."""
    as_: str | None = Field(None, alias="as", min_length=1)
    """The signal's name after `field.`; None: the path."""

    @field_validator("keep", "drop", mode="before")
    @classmethod
    def _one_value_is_a_list_of_one(cls, values: Any) -> Any:
        return (values,) if isinstance(values, bool | int | float | str) else values

    @model_validator(mode="after")
    def _one_kind_of_rule(self) -> Self:
        bounds = self.min is not None or self.max is not None
        kinds = (bounds, self.keep_fraction is not None, self.keep is not None, self.drop is not None)
        if sum(kinds) != 1:
            raise ValueError("field needs one of: bounds (min, max), keep_fraction, keep, drop")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min ({self.min}) is above max ({self.max}): nothing would pass")
        return self

    @property
    def signal(self) -> str:
        """The name of its first signal."""
        return f"{self.name}.{self.as_ or self.path}"

    def measures(self) -> tuple[NumberField | ListedField]:
        """The one measure."""
        if listed := self.keep or self.drop:
            return (ListedField(self.path, self.signal, tuple(_comparable(v) for v in listed)),)
        return (NumberField(self.path, self.signal),)

    def rules(self) -> tuple[Rule, ...]:
        """One on what is missing, unless that is kept, and one for each bound."""
        number, listed = Signal(self.signal), Signal(f"{self.signal}.listed")
        asked: dict[str, dict[str, Any]] = {
            "min": {"score": number, "minimum": self.min},
            "max": {"score": number, "maximum": self.max},
            "keep_fraction": {"score": number, "fraction": self.keep_fraction},
            "keep": {"score": listed, "minimum": 1, "detail": self.signal},
            "drop": {"score": listed, "maximum": 0, "detail": self.signal},
        }
        found = [
            Rule(name=f"{self.signal}.{setting}", source=_CHOSEN, **bound)
            for setting, bound in asked.items()
            if getattr(self, setting) is not None
        ]
        if self.missing == "drop":
            score, name = Signal(f"{self.signal}.missing"), f"{self.signal}.missing"
            return (Rule(name=name, score=score, maximum=0, source=_CHOSEN), *found)
        return tuple(found)


@dataclass(frozen=True, slots=True)
class NumberField:
    """Measures a number of `meta`."""

    path: str
    signal: str

    @property
    def columns(self) -> Mapping[str, str]:
        return {self.signal: "float64", f"{self.signal}.missing": "uint32"}

    def identity(self) -> Any:
        return ["number", self.path]

    def measure(self, documents: pa.RecordBatch) -> Mapping[str, Any]:
        """A document without the number has NaN. Booleans are no numbers."""
        import numpy as np

        found = (_number(value) for value in values(documents, self.path))
        numbers = np.fromiter(found, np.float64, documents.num_rows)
        return {self.signal: numbers, f"{self.signal}.missing": np.isnan(numbers).astype(np.uint32)}


@dataclass(frozen=True, slots=True)
class ListedField:
    """Measures whether a value of `meta` is one of some."""

    path: str
    signal: str
    listed: tuple[tuple[str, float | str], ...]
    """Kind and value, as `_comparable` gives them."""

    @property
    def columns(self) -> Mapping[str, str]:
        return {self.signal: "string", f"{self.signal}.listed": "float32", f"{self.signal}.missing": "uint32"}

    def identity(self) -> Any:
        return ["listed", self.path, sorted(map(list, self.listed))]

    def measure(self, documents: pa.RecordBatch) -> Mapping[str, Any]:
        """A document without a value has null, and NaN in place of whether it is listed: no value, no verdict."""
        import numpy as np
        import pyarrow as pa

        shown: list[str | None] = []
        listed = np.full(documents.num_rows, np.nan, np.float32)
        wanted = frozenset(self.listed)
        for i, value in enumerate(values(documents, self.path)):
            if isinstance(value, bool | int | float | str):
                shown.append(_shown(value))
                listed[i] = _comparable(value) in wanted
            else:
                shown.append(None)
        return {
            self.signal: pa.array(shown, pa.string()),
            f"{self.signal}.listed": listed,
            f"{self.signal}.missing": np.isnan(listed).astype(np.uint32),
        }


def values(documents: pa.RecordBatch, path: str) -> Iterator[Any]:
    """What the path leads to in each document's `meta`; None where it leads nowhere. Raises what `rows` does."""
    return (_at(row, path) for row in rows(documents))


def rows(documents: pa.RecordBatch) -> Iterator[Any]:
    """Each document's `meta`, read; None where it is null.

    Raises
    ------
    ValueError
        `meta` is no JSON; the text names the document.
    """
    import orjson

    for i, meta in enumerate(documents.column("meta")):
        text = meta.as_py()
        try:
            yield None if text is None else orjson.loads(text)
        except orjson.JSONDecodeError:
            yield _read_slowly(text, documents, i)


def _read_slowly(text: str, documents: pa.RecordBatch, i: int) -> Any:
    """What the standard library reads and orjson does not: NaN, and halves of characters."""
    import json

    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"the meta of document {document_id(documents, i)} is no JSON: {error}") from None


def document_id(documents: pa.RecordBatch, i: int) -> str:
    """A document's id as text: an id of bytes in hexadecimal."""
    found = documents.column("id")[i].as_py()
    return found.hex() if isinstance(found, bytes) else str(found)


def _at(row: Any, path: str) -> Any:
    while isinstance(row, dict):
        if path in row:
            return row[path]
        key, dot, path = path.partition(".")
        if not dot:
            return None
        row = row.get(key)
    return None


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # an integer beyond what a float can hold
        return math.inf if value > 0 else -math.inf


def _comparable(value: Value) -> tuple[str, float | str]:
    """Two values are the same where these are: Python takes True for 1, and a recipe does not mean that."""
    if isinstance(value, bool):
        return "boolean", float(value)
    if isinstance(value, str):
        return "string", value
    return "number", _number(value)


def _shown(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = value if isinstance(value, str) else repr(value)
    # JSON can carry half a character as an escape; UTF-8 cannot.
    return text[:_SHOWN_CHARS].encode("utf-8", "replace").decode()
