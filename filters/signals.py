"""What a document's text looks like in numbers: the counts that quality rules are made of.

Every count of `SIGNALS` is defined in the module that counts it: words in word_signals.py, n-grams of words in
repetition.py, lines and paragraphs in line_signals.py, characters in characters.py, marks of generated code in
code_signals.py. They come in groups: what one pass over the text gives at once. `scan` makes the passes whose
signals are asked for; a rule then divides and compares (rules.py).

Letters: n documents, b bytes of text, s signals.
"""

from collections.abc import Collection

import numpy as np
import pyarrow as pa
from winnow.filters.characters import (
    CHARACTER_SIGNALS,
    TOP_CHAR_SIGNALS,
    character_tables,
    scan_letters,
    scan_top_char,
)
from winnow.filters.code_signals import CODE_SIGNALS, scan_code
from winnow.filters.jit import text_buffers
from winnow.filters.line_signals import (
    LINE_LENGTH_SIGNALS,
    LINE_SIGNALS,
    PARAGRAPH_SIGNALS,
    line_set,
    most_lines,
    scan_line_lengths,
    scan_lines,
    scan_paragraphs,
)
from winnow.filters.repetition import NGRAM_SIGNALS, ngram_scratch
from winnow.filters.word_signals import (
    TOP_WORD_SIGNALS,
    WORD_SIGNALS,
    most_words,
    scan_words,
    word_arrays,
)

_BY_GROUP = {
    "words": WORD_SIGNALS,
    "ngrams": NGRAM_SIGNALS,
    "top_word": TOP_WORD_SIGNALS,
    "lines": LINE_SIGNALS,
    "paragraphs": PARAGRAPH_SIGNALS,
    "line_lengths": LINE_LENGTH_SIGNALS,
    "characters": CHARACTER_SIGNALS,
    "top_char": TOP_CHAR_SIGNALS,
    "code": CODE_SIGNALS,
}

GROUPS = {group: tuple(signals) for group, signals in _BY_GROUP.items()}
"""Group -> names of its signals, which are counted together."""

SIGNALS = {name: meaning for signals in _BY_GROUP.values() for name, meaning in signals.items()}
"""Signal name -> what it counts, group after group."""


def scan(texts: pa.LargeStringArray, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Signals of every document, ``{name: uint64[n]}``: those of every group that one of `names` is in.

    None asks for all. `texts` may be a slice; it is read in place. A document's signals depend on nothing but
    its text. uint64 wraps when subtracted: divide, or cast first.

    Memory: 8 bytes per signal and document; 2 MB of character tables once per process; while n-grams or the
    most common word are counted, 76 to 84 bytes for each word of the document with most words and 1 for each byte
    of the longest; while lines or paragraphs are, 16 to 32 for each line with characters of the document with most
    of them; while the most common character is, 8 MB.

    Raises
    ------
    TypeError
        `texts` is not a LargeStringArray.
    ValueError
        It has nulls.
    KeyError
        A name is not in `SIGNALS`.
    """
    wanted = set(SIGNALS if names is None else names)
    if unknown := sorted(wanted - set(SIGNALS)):
        raise KeyError(f"no scan counts {', '.join(unknown)}")
    offsets, utf8 = text_buffers(texts)
    asked = [group for group, signals in GROUPS.items() if not wanted.isdisjoint(signals)]
    counts = {
        group: np.empty((len(GROUPS[group]) if group in asked else 0, len(texts)), np.uint64)
        for group in GROUPS
    }
    for name, groups in _PASSES.items():
        if not set(groups).isdisjoint(asked):
            _pass(name, offsets, utf8, [counts[group] for group in groups])
    return {name: row for group in asked for name, row in zip(GROUPS[group], counts[group], strict=True)}


_PASSES = {
    "words": ("words", "ngrams", "top_word"),
    **{group: (group,) for group in GROUPS if group not in ("words", "ngrams", "top_word")},
}
"""Pass over the text -> groups that it counts, or those of them that are asked for."""


def _pass(name: str, offsets: np.ndarray, utf8: np.ndarray, counts: list[np.ndarray]) -> None:
    """Fill `counts`, uint64[s, n] for each group of the pass; s is 0 for a group that is not asked for."""
    tables = character_tables()
    if name == "words":
        _, ngrams, top_word = counts
        words, longest = most_words(offsets, utf8) if len(ngrams) or len(top_word) else (0, 0)
        scan_words(offsets, utf8, *tables, word_arrays(words), ngram_scratch(words, longest), *counts)
    elif name in ("lines", "paragraphs"):
        kernel = scan_lines if name == "lines" else scan_paragraphs
        kernel(offsets, utf8, *tables, line_set(most_lines(offsets, utf8)), *counts)
    elif name == "line_lengths":
        scan_line_lengths(offsets, utf8, *counts)
    elif name == "characters":
        scan_letters(offsets, utf8, *tables, *counts)
    elif name == "top_char":
        _, by_char = tables
        scan_top_char(offsets, utf8, by_char, np.zeros(len(by_char), np.uint32), *counts)
    else:
        scan_code(offsets, utf8, *counts)
