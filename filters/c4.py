"""Which lines of a web page are sentences, and is it a page of text at all: the rules that made C4.

Raffel et al. 2020, arXiv:1910.10683, section 2.2: of every page only the lines stay that end in terminal
punctuation, have some words, and do not speak of Javascript or cookies; pages with "lorem ipsum", with a curly
bracket, or with too few sentences left are dropped. The rules on long words, citations and policies are not in
the paper but in the code published with it (tensorflow-datasets). c4_lines.py says what each rule asks, in
which order. The paper's rule on bad words is a filter of its own (bad_words.py), and so is mC4's on paragraphs.

Lines, words and all rules on lines are those of datatrove's C4QualityFilter (0.9.0). Only sentences may be
counted in two ways, by `words`; the paper names none. On 17,000 English documents (web pages, documentation,
textbooks, novels, encyclopedia, text messages) both ways come to the same verdict for 99.8 %; where they do
not, it is mostly text messages that put no space behind a full stop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from winnow.filters.rewriting import Rewritten
from winnow.filters.rules import Rule, Signal

if TYPE_CHECKING:
    import pyarrow as pa

_SOURCE = "C4, arXiv:1910.10683, section 2.2"

# The names of c4_lines.SIGNALS, which cannot be imported here: that module compiles its kernels.
_SIGNALS = (
    "lines",
    "lines_kept",
    "lines_long_word",
    "lines_no_punctuation",
    "lines_few_words",
    "lines_javascript",
    "lines_policy",
    "lorem_ipsum",
    "curly_bracket",
    "sentences",
)


class C4(BaseModel):
    """C4's rules with its bounds. None and false switch a rule off.

    A text is rewritten to its kept lines, stripped and joined by newlines, also where the document is dropped.
    The rules that drop it are ``c4.lorem_ipsum``, ``c4.curly_bracket`` and ``c4.min_sentences``. Of the first
    two only the one whose line comes first fails, as in datatrove, which stops reading there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str] = "c4"
    columns: ClassVar[dict[str, str]] = {f"c4.{signal}": "uint32" for signal in _SIGNALS}

    words: Literal["paper", "datatrove"] = "paper"
    """Whose sentences `min_sentences` counts. `paper`: a rule on punctuation (c4_lines.py), without spaCy.
    `datatrove`: those of spaCy's sentencizer for English, as datatrove has them. No line is kept or dropped by it."""
    min_sentences: int | None = Field(5, ge=0)
    """Sentences that the kept lines of a document need."""
    min_words_per_line: int | None = Field(3, ge=0)
    """Words a line needs, citations counted among them."""
    max_word_chars: int | None = Field(1000, ge=0)
    """Characters that a word of a line may have."""
    terminal_punctuation: bool = True
    """Whether a line must end in one of . ? ! " ' and not in "..."."""
    citations: bool = True
    """Whether [1], [], [edit] and [citation needed] are taken out of lines."""
    lorem_ipsum: bool = True
    """Whether a line with "lorem ipsum", in any case, drops its document."""
    javascript: bool = True
    """Whether lines with "javascript", in any case, are dropped."""
    curly_bracket: bool = True
    """Whether a line with "{" drops its document."""
    policy: bool = True
    """Whether lines with a phrase such as "terms of use" or "use cookies" are dropped."""

    def rules(self) -> tuple[Rule, ...]:
        """The rules that drop documents, of those that are on."""
        found = [
            Rule(name=f"c4.{rule}", score=Signal(f"c4.{rule}"), maximum=0, source=_SOURCE)
            for rule in ("lorem_ipsum", "curly_bracket")
            if getattr(self, rule)
        ]
        if self.min_sentences is not None:
            score = Signal("c4.sentences")
            found.append(
                Rule(name="c4.min_sentences", score=score, minimum=self.min_sentences, source=_SOURCE)
            )
        return tuple(found)

    def rewrite(self, documents: pa.RecordBatch) -> Rewritten:
        """The kept lines of every document, and what became of all its lines.

        Where no text changes, the very same array comes back. Memory: one more copy of the texts.

        Raises
        ------
        TypeError
            The column `text` is not of the type large_string.
        ValueError
            A text is null.
        ModuleNotFoundError, RuntimeError
            `words: datatrove` without spaCy, or with one whose rules english.py does not know.
        """
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc
        from winnow.filters.c4_lines import keep_lines, strip_documents

        texts = documents.column("text")
        offsets, utf8, signals = keep_lines(
            texts,
            max_word_chars=self.max_word_chars,
            min_words=self.min_words_per_line,
            citations=self.citations,
            terminal_punctuation=self.terminal_punctuation,
            lorem_ipsum=self.lorem_ipsum,
            javascript=self.javascript,
            curly_bracket=self.curly_bracket,
            policy=self.policy,
        )
        columns = dict(zip(_SIGNALS, signals, strict=True))
        if self.words == "datatrove":
            from winnow.filters.c4_english import count_sentences

            columns["sentences"] = count_sentences(offsets, utf8, columns["lines_kept"])
        strip_documents(offsets, utf8)
        new = pa.LargeStringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(utf8))
        named = {f"c4.{signal}": counts for signal, counts in columns.items()}
        if new.equals(texts):
            return Rewritten(texts, np.zeros(len(texts), np.int64), named)
        before, after = (pc.utf8_length(array).to_numpy() for array in (texts, new))
        return Rewritten(new, before - after, named)


@dataclass(frozen=True, slots=True)
class LongLines:
    """Counts a document's lines, as "\\n" parts them, of at least so many characters."""

    min_chars: int
    columns: ClassVar[Mapping[str, str]] = {"c4-paragraphs.long_lines": "uint32"}

    def identity(self) -> Any:
        return {"long_lines": self.min_chars}

    def measure(self, documents: pa.RecordBatch) -> Mapping[str, Any]:
        """``c4-paragraphs.long_lines``, uint32[n]. Raises what `text_buffers` raises for texts that are none."""
        from winnow.filters.c4_lines import count_long_lines

        counts = count_long_lines(documents.column("text"), self.min_chars)
        return {"c4-paragraphs.long_lines": counts}


class C4Paragraphs(BaseModel):
    """mC4's rule that a page needs three lines of 200 characters, ``c4-paragraphs.min_paragraphs``.

    Xue et al. 2021, arXiv:2010.11934, section 3.1; datatrove 0.9.0's C4ParagraphFilter decides alike. Lines are
    parted by "\\n" alone and not stripped.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str] = "c4-paragraphs"

    min_paragraphs: int = Field(3, ge=1)
    """Long lines that a document needs."""
    min_paragraph_chars: int = Field(200, ge=1)
    """Characters that make a line a long one."""

    def measures(self) -> tuple[LongLines, ...]:
        """The count of long lines."""
        return (LongLines(self.min_paragraph_chars),)

    def rules(self) -> tuple[Rule, ...]:
        """The one rule."""
        score = Signal("c4-paragraphs.long_lines")
        source = "mC4, arXiv:2010.11934, section 3.1"
        return (
            Rule(name=f"{self.name}.min_paragraphs", score=score, minimum=self.min_paragraphs, source=source),
        )
