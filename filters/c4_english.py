"""How many sentences does datatrove count in the lines that C4 keeps?

Each line alone is given to spaCy's sentencizer there; here to its native equal (english.py). Letters: n
documents, b bytes of text, m words that there is room for.
"""

import numpy as np
from winnow.filters.english import (
    MARKS,
    RULES,
    WORDS,
    load,
    most_words,
    scratch,
    sentences_of_document,
    words_of_document,
)
from winnow.filters.jit import OFFSETS, UTF8, njit, types

_AT = types.int64
_LINES = types.Array(types.uint32, 1, "C", readonly=True)
_SENTENCES = types.Array(types.uint32, 1, "C")
_NEWLINE = ord("\n")


def count_sentences(offsets: np.ndarray, utf8: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """Sentences of each document's lines, uint32[n]; a line without a word has one.

    Parameters
    ----------
    offsets, utf8 : int64[n + 1], uint8[b]
        From `keep_lines`, not yet stripped.
    lines : uint32[n]
        How many lines each document has; of empty text there may be one, or none.

    Raises
    ------
    ModuleNotFoundError, RuntimeError
        As english.py's `load` does: there is no spaCy, or one whose rules it does not know.
    """
    offsets, utf8, lines = offsets.view(), utf8.view(), lines.view()
    for array in (offsets, utf8, lines):
        array.flags.writeable = False
    sentences = np.empty(len(lines), np.uint32)
    rules, done, m = load(), 0, most_words(offsets)
    while (done := _count_sentences(offsets, utf8, lines, rules, *scratch(m), done, sentences)) < len(lines):
        m *= 2
    return sentences


@njit(_AT(OFFSETS, UTF8, _LINES, RULES, WORDS, MARKS, _AT, _SENTENCES))
def _count_sentences(offsets, utf8, lines, rules, words, marks, done, sentences):
    """Fill `sentences` of documents from `done` on; the first whose words have no room, or n."""
    for i in range(done, len(lines)):
        begin, end = offsets[i], offsets[i + 1]
        count = 0
        for _ in range(lines[i]):
            stop = begin
            while stop < end and utf8[stop] != _NEWLINE:
                stop += 1
            n = words_of_document(utf8, begin, stop, rules, words, marks)
            if n < 0:
                return i
            count += sentences_of_document(utf8, begin, stop, words, n)
            begin = stop + 1
        sentences[i] = count
    return len(lines)
