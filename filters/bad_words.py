"""Does a document hold a word of a list of bad words: C4's rule, with a list that the recipe names.

Raffel et al. 2020, arXiv:1910.10683, section 2.2, dropped every page with a word of the "List of Dirty,
Naughty, Obscene or Otherwise Bad Words". The list is not shipped here: it is a file, one word or phrase a line.

The text is lower-cased, and a word counts where no letter, digit or underscore stands directly before or after
it; in Japanese, Thai and Chinese, which put no spaces between words, anywhere. This decides as datatrove's
C4BadWordsFilter (0.9.0) does, and like it passes over a few short words of those languages that occur in a
tenth of all pages. Where it differs: blank lines in the file are no word (there, one would match every text);
which documents with bad words are kept by `keep_fraction` goes by a hash of the text, not by their order; and
the language is a setting, not a field of each document.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr
from winnow.filters.rules import Rule, Signal

if TYPE_CHECKING:
    import pyarrow as pa

LISTS = "github.com/LDNOOBW/List-of-Dirty-Naughty-Obscene-and-Otherwise-Bad-Words"
"""Where the lists are, a file for each language."""

_WITHOUT_SPACES = ("ja", "th", "zh")
_PASSED_OVER = frozenset({"sm", "グロ", "女の子", "性"})
"""datatrove's allow-list, which it takes off the list of every language."""


@dataclass(frozen=True)
class BadWordsFound:
    """Looks for the words of a list. It holds the words themselves, so that a worker needs no file."""

    words: tuple[str, ...]
    """In lower case, sorted, none twice."""
    apart: bool
    """Whether a word must stand apart from letters, digits and underscores."""
    keep_fraction: float
    columns: ClassVar[Mapping[str, str]] = {"c4-bad-words.found": "uint32", "c4-bad-words.word": "string"}

    def identity(self) -> Any:
        listed = hashlib.sha256("\n".join(self.words).encode()).hexdigest()
        return {"bad_words": listed, "apart": self.apart, "keep_fraction": self.keep_fraction}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        # Longest first, so that the word reported is the longest of those that begin at one place.
        anyone = "|".join(map(re.escape, sorted(self.words, key=lambda word: (-len(word), word))))
        return re.compile(rf"(?:\W|^)({anyone})(?:\W|$)" if self.apart else f"({anyone})")

    @cached_property
    def _openings(self) -> frozenset[str]:
        """The runs of letters, digits and underscores that words begin with."""
        return frozenset(run.group() for word in self.words if (run := re.match(r"\w+", word)))

    @cached_property
    def _symbols(self) -> tuple[str, ...]:
        """The words that begin otherwise: an emoji."""
        return tuple(word for word in self.words if not re.match(r"\w", word))

    def find(self, text: str) -> str | None:
        """The first word of the list in a text; None where there is none."""
        lowered = text.lower()
        if not self.words:
            return None
        if self.apart:
            # A word that stands apart begins with a whole run of the text: a set of those is quickly asked.
            maybe = not self._openings.isdisjoint(re.findall(r"\w+", lowered))
            maybe = maybe or any(symbol in lowered for symbol in self._symbols)
        else:
            maybe = any(word in lowered for word in self.words)
        found = self._pattern.search(lowered) if maybe else None
        return found.group(1) if found else None

    def measure(self, documents: pa.RecordBatch) -> Mapping[str, Any]:
        """``c4-bad-words.found``, 1 where a document is to go; ``c4-bad-words.word``, what was found or "".

        Raises
        ------
        ValueError
            A text is null.
        """
        import numpy as np
        import pyarrow as pa

        texts = documents.column("text")
        if texts.null_count:
            raise ValueError(f"texts must have no nulls; {texts.null_count} of {len(texts)} are null")
        found = np.zeros(len(texts), np.uint32)
        words = [""] * len(texts)
        for i, scalar in enumerate(texts):
            text = scalar.as_py()
            word = self.find(text)
            if word is not None:
                words[i] = word
                found[i] = _draw(text) >= self.keep_fraction
        return {"c4-bad-words.found": found, "c4-bad-words.word": pa.array(words, pa.string())}


def _draw(text: str) -> float:
    """A number of at least 0, below 1, that depends on the text alone."""
    digest = hashlib.blake2b(text.encode(), digest_size=6, person=b"c4-bad-words").digest()
    return int.from_bytes(digest, "big") / 2**48


def _read(path: str) -> tuple[str, ...]:
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"no list of bad words can be read at {path!r} ({error}); lists are at {LISTS}"
        ) from error
    return tuple(sorted({line.strip() for line in lines} - _PASSED_OVER - {""}))


class C4BadWords(BaseModel):
    """C4's rule on bad words, ``c4-bad-words.words``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: ClassVar[str] = "c4-bad-words"

    words: str
    """Path of the list: one word or phrase a line, in UTF-8 and lower case."""
    language: str = "en"
    """The list's language; in ja, th and zh a word counts inside others, too."""
    keep_fraction: float = Field(0.0, ge=0, le=1)
    """Share of the documents with bad words that stay all the same, drawn by a hash of their text."""

    _listed: tuple[str, ...] | None = PrivateAttr(None)

    def settled(self) -> Self:
        """The same settings with the words as they are in the file now, for a worker that has no such file.

        Raises ValueError where it cannot be read.
        """
        copy = self.model_copy()
        copy._listed = _read(self.words)
        return copy

    def measures(self) -> tuple[BadWordsFound, ...]:
        """The search for the words; before they are `settled` it can say its columns, and no more."""
        return (BadWordsFound(self._listed or (), self.language not in _WITHOUT_SPACES, self.keep_fraction),)

    def rules(self) -> tuple[Rule, ...]:
        """The one rule; its detail is the word that was found."""
        found, word = BadWordsFound.columns
        source = "C4, arXiv:1910.10683, section 2.2"
        return (Rule(name=f"{self.name}.words", score=Signal(found), maximum=0, detail=word, source=source),)
