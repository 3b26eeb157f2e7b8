"""What does a recipe say about benchmarks that training data must not contain?

The settings of the step `decontaminate`. Two methods:

ngram        Brown et al. 2020 (GPT-3), arXiv:2005.14165, appendix C: an n-gram of words that training data shares
             with a benchmark is contamination, unless it is in more than `max_documents` training documents.
             It is cut out with `margin` characters on each side; what is left in pieces shorter than that goes
             too, and a document in more than `MAX_PIECES` pieces goes as a whole.
cosmopedia   the rule of Cosmopedia (huggingface/cosmopedia, decontamination/): a shared n-gram makes a document a
             candidate; it is dropped if blocks of its text that match the item's make up more than `min_overlap`
             of the item.

Words, n-grams and matching blocks are defined where they are computed: overlap.py, matching_blocks.py.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

MAX_PIECES = 10
"""Pieces that cuts may leave of a document (GPT-3)."""
_BY_METHOD: dict[str, dict[str, Any]] = {
    "cosmopedia": {"n": 10, "max_documents": None, "min_overlap": 0.5, "action": "drop"}
}
"""What a method's authors do where it is not what the fields below say."""


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Texts = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_as_tuple), Field(min_length=1)
]


class Benchmark(BaseModel):
    """One benchmark: a row of its files is an item."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Texts
    """Globs of `.jsonl` files (also `.jsonl.gz`, `.jsonl.zst`), of `.json` files that hold a list, of `.parquet`."""
    text: Texts
    """The fields that make up an item's text, with dots between the keys of nested ones; lists are joined. A field
    that a row lacks is passed over."""
    id: Annotated[str, Field(min_length=1)] | None = None
    """The field that names an item; None: the file's path and the number of the row, from 0."""


class Decontaminate(BaseModel):
    """Which benchmarks, what counts as contamination, and what is done about it.

    Where `method` is cosmopedia the defaults are n 10, max_documents null, min_overlap 0.5, action drop.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: ClassVar[str] = "decontaminate"

    benchmarks: dict[Annotated[str, Field(min_length=1)], Benchmark] = Field(min_length=1)
    """By the name that reports call them."""
    method: Literal["ngram", "cosmopedia"] = "ngram"
    """Whose rule: GPT-3's or Cosmopedia's."""
    n: int = Field(13, ge=2, le=64)
    """Words of an n-gram (GPT-3: 13, Cosmopedia: 10)."""
    min_words: int = Field(8, ge=1)
    """An item of fewer than n words is one n-gram of its whole length, if it has at least so many; 8 is the
    shortest that GPT-3's authors compare natural text by. Shorter items are counted, and not looked for."""
    max_documents: int | None = Field(10, ge=1)
    """An n-gram in more documents than this, of all that the step sees, is a common phrase and no contamination
    (GPT-3); so is, then, an item that was copied often. null: every n-gram counts."""
    min_overlap: float = Field(0.0, ge=0, lt=1)
    """A document is contaminated by an item if more than this share of it is found there: of its n-grams
    (ngram; 0: any one will do), or of its characters (cosmopedia)."""
    action: Literal["drop", "cut"] = "cut"
    """Drop the document, or cut from it the n-grams of the items that contaminate it."""
    margin: int = Field(200, ge=0)
    """Characters cut on each side of an n-gram, and on to the end of a word; and the length of a piece between
    cuts that may stay (GPT-3: 200 for both)."""

    @model_validator(mode="before")
    @classmethod
    def _as_its_authors_do(cls, given: Any) -> Any:
        if not isinstance(given, dict) or not isinstance(given.get("method"), str):
            return given
        return _BY_METHOD.get(given["method"], {}) | given

    @model_validator(mode="after")
    def _short_is_shorter(self) -> Decontaminate:
        if self.min_words > self.n:
            raise ValueError(f"min_words ({self.min_words}) is above n ({self.n}): no item would be short")
        return self
