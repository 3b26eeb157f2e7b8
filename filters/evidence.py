"""What in a text shows why a rule dropped it?

For a rule's name, a few short strings: the lines that it counts, the n-grams that come again, the words that are too
long. They are for a person who looks at a dropped document and asks whether the rule was right; they decide nothing.
Words are those between whitespace, and lines are cut at "\\n", also where a filter has other words or lines, so that
a count shown here may differ a little from the score. Rules on length have no evidence, for their score says it all,
nor have rules that go by a model, a list or another library, whose details say more.

A text is looked at as far as `LOOKED_AT` characters, so that no document takes longer than a second or so.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

LOOKED_AT = 1_000_000
"""Characters of a text that are searched."""
MOST = 5
"""Strings shown for a rule."""
SHOWN_CHARS = 100
"""Characters quoted of a line or an n-gram."""

_STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
_BULLETS = ("•", "-")
_DCLM_BULLETS = ("●", "•", "*", "-")
_ELLIPSES = ("...", "…")
_DCLM_ELLIPSES = ("...", ". . .", "…")
_SHORT_LINE_CHARS = 30
_LIST_ITEM_WORDS = 3

Evidence = Callable[[str], Iterable[str]]


def evidence(rule: str, text: str) -> list[str]:
    """At most `MOST` strings that show what the rule of this name saw in a text; [] where nothing can be shown."""
    show = EVIDENCE.get(rule)
    return [shown for shown, _ in zip(show(text[:LOOKED_AT]), range(MOST), strict=False)] if show else []


def quoted(text: str) -> str:
    """A text in quotes, in one line, cut at `SHOWN_CHARS` characters; what a terminal would obey is escaped."""
    return repr(text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…")


# ---- the most frequent ---------------------------------------------------------------------------------------


def _most_frequent(things: Iterable[str], least: int = 1) -> Iterator[str]:
    """Those that occur most often, of equally frequent ones the first."""
    for thing, n in Counter(things).most_common(MOST):
        if n >= least:
            yield f"{n:,} × {quoted(thing)}"


def _repeated(things: Iterable[str]) -> Iterator[str]:
    """Those that occur most often, more than once."""
    return _most_frequent(things, least=2)


def _repeated_by_chars(things: Iterable[str]) -> Iterator[str]:
    """Of those that occur more than once the ones whose repetitions take most characters."""
    counts = Counter(things)
    again = [thing for thing, n in counts.items() if n > 1 and thing]
    for thing in heapq.nlargest(MOST, again, key=lambda thing: (counts[thing] - 1) * len(thing)):
        yield f"{counts[thing]:,} × {quoted(thing)}"


def _words(fits: Callable[[str], bool]) -> Evidence:
    """The most frequent words that fit."""
    return lambda text: _most_frequent(filter(fits, text.split()))


def _chars(fits: Callable[[str], bool]) -> Evidence:
    """The most frequent characters that fit."""
    return lambda text: (
        f"{n:,} × {char!r}"
        for char, n in heapq.nlargest(MOST, Counter(text).items(), key=lambda item: fits(item[0]) * item[1])
        if fits(char)
    )


def _stop_words(text: str) -> list[str]:
    counts = Counter(text.split())
    there = [f"{counts[word]:,} × {word!r}" for word in _STOP_WORDS if word in counts]
    return there or [f"none of {', '.join(_STOP_WORDS)}"]


# ---- lines and words -----------------------------------------------------------------------------------------


def _lines_where(fits: Callable[[str], bool]) -> Evidence:
    """The first lines that fit."""
    return lambda text: (quoted(line) for line in text.split("\n") if fits(line))


def _lines_near(mark: str) -> Evidence:
    """The first lines that the mark is in, in any case of letters, from a little before it on."""

    def show(text: str) -> Iterator[str]:
        for line in text.split("\n"):
            at = line.lower().find(mark)
            if at >= 0:
                begin = max(0, at - SHOWN_CHARS // 4)
                yield quoted(("…" if begin else "") + line[begin:])

    return show


def _lines_with_most(marks: Iterable[str]) -> Evidence:
    """The lines with most of the marks."""

    def count(line: str) -> int:
        return sum(map(line.count, marks))

    return lambda text: (
        f"{n:,} in {quoted(line)}"
        for line in heapq.nlargest(MOST, text.split("\n"), key=count)
        if (n := count(line))
    )


def _longest(things: Iterable[str]) -> Iterator[str]:
    """The longest of them, each once."""
    for thing in heapq.nlargest(MOST, dict.fromkeys(things), key=len):
        yield f"{len(thing):,} characters: {quoted(thing)}"


def _longest_lines(text: str) -> Iterator[str]:
    return _longest(line for line in text.split("\n") if line)


def _lines_without_terminal(text: str) -> Iterator[str]:
    from winnow.filters.characters import terminal_punctuation

    ends = tuple(terminal_punctuation())
    return iter(_lines_where(lambda line: not _blank(line) and not line.endswith(ends))(text))


def _generated(text: str) -> Iterator[str]:
    from winnow.filters.code_signals import HEAD_LINES, MARKERS

    head = text.split("\n", HEAD_LINES)[:HEAD_LINES]
    return (quoted(line) for line in head if any(mark in line.lower() for mark in MARKERS))


def _blank(line: str) -> bool:
    return not line.strip()


def _nonblank_lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if not _blank(line)]


def _runs_of_lines(text: str) -> list[str]:
    """Lines and paragraphs as Gopher's repetition rules part them in datatrove 0.9.0."""
    return re.split("\n+", text)


def _runs_of_paragraphs(text: str) -> list[str]:
    return re.split("\n{2,}", text.strip())


def _stripped(text: str, separator: str) -> list[str]:
    """Lines and paragraphs as DCLM's repetition rules have them."""
    return [part for part in map(str.strip, text.split(separator)) if part]


# ---- n-grams -------------------------------------------------------------------------------------------------


def _ngrams(words: list[str], n: int) -> Iterator[str]:
    return map(" ".join, zip(*(words[i:] for i in range(n)), strict=False))


def _met_again(words: list[str], n: int) -> Iterator[str]:
    """The n-grams that a walk meets again, written without spaces the same; behind such a one the walk goes on."""
    seen: set[str] = set()
    at = 0
    while at + n <= len(words):
        gram = words[at : at + n]
        joined = "".join(gram)
        if joined in seen:
            yield " ".join(gram)
        at += n if joined in seen else 1
        seen.add(joined)


def _top_ngrams(n: int) -> Evidence:
    return lambda text: _most_frequent(_ngrams(text.split(), n))


def _repeated_ngrams(n: int) -> Evidence:
    return lambda text: _repeated(_ngrams(text.split(), n))


def _duplicate_ngrams(n: int) -> Evidence:
    """How often the n-grams occur again, the first occurrence not counted."""

    def show(text: str) -> Iterator[str]:
        for gram, again in Counter(_met_again(text.split(), n)).most_common(MOST):
            yield f"{again:,} × again {quoted(gram)}"

    return show


# ---- which rule shows what -----------------------------------------------------------------------------------

_MOST_FREQUENT_WORDS = _words(lambda word: True)
_WORDS_WITHOUT_LETTER = _words(lambda word: not any(map(str.isalpha, word)))

EVIDENCE: dict[str, Evidence] = {
    "gopher-quality.min_mean_word_chars": _words(lambda word: len(word) < 3),
    "gopher-quality.max_mean_word_chars": lambda text: _longest(text.split()),
    "gopher-quality.max_hashes_per_word": _lines_with_most("#"),
    "gopher-quality.max_ellipses_per_word": _lines_with_most(_ELLIPSES),
    "gopher-quality.max_bullet_line_frac": _lines_where(lambda line: line.lstrip().startswith(_BULLETS)),
    "gopher-quality.max_ellipsis_line_frac": _lines_where(lambda line: line.rstrip().endswith(_ELLIPSES)),
    "gopher-quality.min_alpha_word_frac": _WORDS_WITHOUT_LETTER,
    "gopher-quality.min_stop_words": _stop_words,
    "gopher-repetition.max_dup_paragraph_frac": lambda text: _repeated(_runs_of_paragraphs(text)),
    "gopher-repetition.max_dup_paragraph_char_frac": lambda text: _repeated_by_chars(
        _runs_of_paragraphs(text)
    ),
    "gopher-repetition.max_dup_line_frac": lambda text: _repeated(_runs_of_lines(text)),
    "gopher-repetition.max_dup_line_char_frac": lambda text: _repeated_by_chars(_runs_of_lines(text)),
    **{f"gopher-repetition.max_top_{n}gram_char_frac": _top_ngrams(n) for n in (2, 3, 4)},
    **{f"gopher-repetition.max_dup_{n}gram_char_frac": _duplicate_ngrams(n) for n in range(5, 11)},
    "c4.lorem_ipsum": _lines_near("lorem ipsum"),
    "c4.curly_bracket": _lines_near("{"),
    "c4-paragraphs.min_paragraphs": _longest_lines,
    "fineweb-quality.min_terminal_line_frac": _lines_without_terminal,
    "fineweb-quality.max_short_line_frac": _lines_where(
        lambda line: not _blank(line) and len(line) <= _SHORT_LINE_CHARS
    ),
    "fineweb-quality.max_dup_line_char_frac": lambda text: _repeated_by_chars(_nonblank_lines(text)),
    "fineweb-quality.max_newlines_per_word": _lines_where(
        lambda line: not _blank(line) and len(line.split()) <= _LIST_ITEM_WORDS
    ),
    "dclm-page.min_mean_word_chars": _words(lambda word: len(word) < 3),
    "dclm-page.max_mean_word_chars": lambda text: _longest(text.split()),
    "dclm-page.max_symbols_per_word": _lines_with_most(("#", *_DCLM_ELLIPSES)),
    "dclm-page.max_bullet_line_frac": _lines_where(lambda line: line.lstrip().startswith(_DCLM_BULLETS)),
    "dclm-page.max_ellipsis_line_frac": _lines_where(lambda line: line.rstrip().endswith(_DCLM_ELLIPSES)),
    "dclm-page.max_non_alpha_word_frac": _WORDS_WITHOUT_LETTER,
    "dclm-page.min_stop_words": _stop_words,
    "dclm-repetition.max_repeated_line_frac": lambda text: _repeated(_stripped(text, "\n")),
    "dclm-repetition.max_repeated_line_char_frac": lambda text: _repeated_by_chars(_stripped(text, "\n")),
    "dclm-repetition.max_repeated_paragraph_frac": lambda text: _repeated(_stripped(text, "\n\n")),
    "dclm-repetition.max_repeated_paragraph_char_frac": lambda text: _repeated_by_chars(
        _stripped(text, "\n\n")
    ),
    **{f"dclm-repetition.max_top_{n}gram_char_frac": _top_ngrams(n) for n in (2, 3, 4)},
    **{f"dclm-repetition.max_repeated_{n}gram_char_frac": _repeated_ngrams(n) for n in range(5, 11)},
    "mpt-mc4.alpha_top_char": _chars(lambda char: not char.isspace()),
    "mpt-mc4.min_alnum_char_frac": _chars(lambda char: not char.isspace() and not char.isalnum()),
    "mpt-mc4.max_top_word_frac_long": _MOST_FREQUENT_WORDS,
    "mpt-mc4.max_top_word_frac_short": _MOST_FREQUENT_WORDS,
    "mpt-s2orc.alpha_top_word": _MOST_FREQUENT_WORDS,
    "mpt-s2orc.max_top_word_frac": _MOST_FREQUENT_WORDS,
    "code.max_longest_line_chars": _longest_lines,
    "code.max_mean_line_chars": _longest_lines,
    "code.min_alnum_char_frac": _chars(lambda char: not char.isalnum()),
    "code.min_alpha_char_frac": _chars(lambda char: not char.isalpha()),
    "code.max_generated_marks": _generated,
    "code.max_xml_prologues": lambda text: [quoted(text[:SHOWN_CHARS])],
}
"""Name of a rule -> what shows it; `evidence` takes the first `MOST`."""
