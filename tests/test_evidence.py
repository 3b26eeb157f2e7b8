"""Does evidence show what the rules count: something where they count something, and the right thing?"""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.filters import code_signals, evidence, line_signals, word_signals
from winnow.filters.c4 import C4, C4Paragraphs
from winnow.filters.code import Code
from winnow.filters.dclm import DclmPage, DclmRepetition
from winnow.filters.evidence import EVIDENCE, LOOKED_AT, MOST, SHOWN_CHARS
from winnow.filters.fineweb import FineWebQuality
from winnow.filters.gopher import GopherQuality
from winnow.filters.gopher_repetition import GopherRepetition
from winnow.filters.mc4 import MPTS2ORC, MPTmC4
from winnow.filters.scans import scan

ALL = (C4, C4Paragraphs, Code, DclmPage, DclmRepetition, FineWebQuality, GopherQuality, GopherRepetition, MPTS2ORC,
       MPTmC4)  # fmt: skip

# Rule -> what its scan counts of that of which evidence is shown; both are there, or neither is.
COUNTS = {
    "gopher-quality.max_hashes_per_word": ["hashes"],
    "gopher-quality.max_ellipses_per_word": ["ellipses"],
    "gopher-quality.max_bullet_line_frac": ["bullet_lines"],
    "gopher-quality.max_ellipsis_line_frac": ["ellipsis_lines"],
    "gopher-quality.min_alpha_word_frac": ["words", "alpha_words"],
    "gopher-quality.max_mean_word_chars": ["words"],
    "gopher-repetition.max_dup_paragraph_frac": ["dup_paragraphs"],
    "gopher-repetition.max_dup_paragraph_char_frac": ["dup_paragraph_chars"],
    "gopher-repetition.max_dup_line_frac": ["dup_lines"],
    "gopher-repetition.max_dup_line_char_frac": ["dup_line_chars"],
    **{f"gopher-repetition.max_top_{n}gram_char_frac": [f"top_{n}gram_chars"] for n in (2, 3, 4)},
    **{f"gopher-repetition.max_dup_{n}gram_char_frac": [f"dup_{n}gram_chars"] for n in range(5, 11)},
    "fineweb-quality.min_terminal_line_frac": ["nonblank_lines", "terminal_lines"],
    "fineweb-quality.max_short_line_frac": ["short_lines"],
    "fineweb-quality.max_dup_line_char_frac": ["dup_nonblank_line_chars"],
    "dclm-repetition.max_repeated_line_frac": ["dclm_repeated_lines"],
    "dclm-repetition.max_repeated_line_char_frac": ["dclm_repeated_line_chars"],
    "dclm-repetition.max_repeated_paragraph_frac": ["dclm_repeated_paragraphs"],
    "dclm-repetition.max_repeated_paragraph_char_frac": ["dclm_repeated_paragraph_chars"],
    "mpt-mc4.min_alnum_char_frac": ["word_chars", "alnum_chars"],
    "mpt-mc4.alpha_top_char": ["word_chars"],
    "mpt-s2orc.max_top_word_frac": ["words"],
    "code.max_longest_line_chars": ["longest_line_chars"],
    "code.min_alnum_char_frac": ["chars", "alnum_chars"],
    "code.min_alpha_char_frac": ["chars", "alpha_chars"],
    "code.max_generated_marks": ["generated_marks"],
}
WORDS = [
    "a",
    "b",
    "to",
    "the",
    "be",
    "7",
    "é",
    "中",
    "#",
    "...",
    "…",
    "-",
    "•",
    "*",
    "end.",
    "Do not EDIT",
    "\u200b",
]
GAPS = [" ", " ", " ", "\n", "\n\n", "\n\n\n", "\t", "\r\n", " \n", "\u3000"]
texts = st.one_of(
    st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(GAPS)), max_size=40).map(
        lambda parts: "".join(word + gap for word, gap in parts)
    ),
    st.text(max_size=60),
)


def test_every_rule_with_evidence_is_one():
    rules = {rule.name for one in ALL for rule in one().rules()}
    assert not EVIDENCE.keys() - rules
    without = {rule.rpartition(".")[2] for rule in rules - EVIDENCE.keys()}
    assert without == {"min_words", "max_words", "min_sentences", "min_paragraphs", "min_nonblank_lines"}
    assert evidence.evidence("length.min_words", "a b") == evidence.evidence("no.such", "a b") == []


def test_what_is_written_twice_is_the_same():
    """Importing the modules that count would compile their kernels."""
    assert evidence._STOP_WORDS == word_signals.STOP_WORDS
    assert evidence._SHORT_LINE_CHARS == line_signals.SHORT_LINE_CHARS


@settings(max_examples=300)
@given(texts)
def test_there_is_evidence_where_something_is_counted(text):
    names = {signal for counted in COUNTS.values() for signal in counted}
    signals = {name: int(n[0]) for name, n in scan(pa.array([text], pa.large_string()), names).items()}
    for rule, (whole, *less) in COUNTS.items():
        counted = signals[whole] - sum(signals[part] for part in less)
        assert bool(evidence.evidence(rule, text)) == (counted > 0), rule


@settings(max_examples=200)
@given(texts, st.sampled_from(sorted(EVIDENCE)))
def test_a_few_short_lines_whatever_the_text(text, rule):
    shown = evidence.evidence(rule, text)
    assert len(shown) <= max(MOST, len(word_signals.STOP_WORDS))
    for line in shown:
        assert len(line.splitlines()) == 1
        assert line.isprintable()


@settings(max_examples=200)
@given(st.lists(st.sampled_from(["a", "b", "ab", "c"]), max_size=40), st.integers(2, 4))
def test_the_top_ngram_is_the_most_frequent_one_and_the_first(words, n):
    grams = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
    shown = evidence.evidence(f"gopher-repetition.max_top_{n}gram_char_frac", " ".join(words))
    if not grams:
        assert shown == []
        return
    best = max(grams, key=grams.count)  # the first of the equals
    assert shown[0] == f"{grams.count(best)} × {best!r}"
    assert len(shown) == min(MOST, len(set(grams)))


@settings(max_examples=200)
@given(st.lists(st.sampled_from(["a", "ab", "b", "ba"]), max_size=60))
def test_duplicate_ngrams_are_those_that_the_score_counts(words):
    """Their characters add up to the signal where all of them are shown."""
    text = " ".join(words)
    shown = evidence.evidence("gopher-repetition.max_dup_5gram_char_frac", text)
    counted = int(scan(pa.array([text], pa.large_string()), ["dup_5gram_chars"])["dup_5gram_chars"][0])
    total = 0
    for line in shown:
        times, _, gram = line.partition(" × again ")
        total += int(times) * len(gram.strip("'").replace(" ", ""))
    assert total == counted if len(shown) < MOST else total <= counted


@pytest.mark.parametrize(
    ("rule", "text", "shown"),
    [
        ("gopher-quality.min_mean_word_chars", "a b a long", ["2 × 'a'", "1 × 'b'"]),
        ("gopher-quality.max_mean_word_chars", "bb aaaa bb c", [
            "4 characters: 'aaaa'", "2 characters: 'bb'", "1 characters: 'c'"]),
        ("gopher-quality.max_hashes_per_word", "# a\nb\n## #c\n", ["3 in '## #c'", "1 in '# a'"]),
        ("gopher-quality.max_ellipses_per_word", "a... b…\nc....", ["2 in 'a... b…'", "1 in 'c....'"]),
        ("gopher-quality.max_bullet_line_frac", "- a\nb - c\n  • d", ["'- a'", "'  • d'"]),
        ("gopher-quality.max_ellipsis_line_frac", "a... \nb... c\nd…", ["'a... '", "'d…'"]),
        ("gopher-quality.min_alpha_word_frac", "1 2 a1 1", ["2 × '1'", "1 × '2'"]),
        ("gopher-quality.min_stop_words", "The the the of", ["2 × 'the'", "1 × 'of'"]),
        ("gopher-quality.min_stop_words", "The", ["none of the, be, to, of, and, that, have, with"]),
        ("gopher-repetition.max_dup_line_frac", "a\nbcd\na\n\na\nbcd", ["3 × 'a'", "2 × 'bcd'"]),
        ("gopher-repetition.max_dup_line_char_frac", "a\nbcd\na\n\na\nbcd", ["2 × 'bcd'", "3 × 'a'"]),
        ("gopher-repetition.max_dup_paragraph_frac", "a\nb\n\nc\n\n\na\nb", ["2 × 'a\\nb'"]),
        ("gopher-repetition.max_dup_5gram_char_frac", "a b c d e x a b c d e", ["1 × again 'a b c d e'"]),
        ("c4.lorem_ipsum", "x\nLorem Ipsum dolor\n", ["'Lorem Ipsum dolor'"]),
        ("c4.curly_bracket", "f() {\n}\n{ x", ["'f() {'", "'{ x'"]),
        ("c4-paragraphs.min_paragraphs", "aa\nb\n", ["2 characters: 'aa'", "1 characters: 'b'"]),
        ("fineweb-quality.min_terminal_line_frac", "One.\nTwo\n\n三。\nFour.\"", ["'Two'", "'Four.\"'"]),
        ("fineweb-quality.max_short_line_frac", f"{'a' * 30}\n{'b' * 31}\n \nc", [repr("a" * 30), "'c'"]),
        ("fineweb-quality.max_newlines_per_word", "a b c\na b c d\n\nx", ["'a b c'", "'x'"]),
        ("fineweb-quality.max_dup_line_char_frac", "aa\n\n\nb\nb\nb\naa\naa\n", ["3 × 'aa'", "3 × 'b'"]),
        ("dclm-page.max_symbols_per_word", "a . . . b\n# #\n", ["2 in '# #'", "1 in 'a . . . b'"]),
        ("dclm-page.max_bullet_line_frac", "* a\n● b\nc", ["'* a'", "'● b'"]),
        ("dclm-page.max_ellipsis_line_frac", "a . . .\nb", ["'a . . .'"]),
        ("dclm-repetition.max_repeated_line_frac", " a\na \nb\n\n", ["2 × 'a'"]),
        ("dclm-repetition.max_repeated_5gram_char_frac", "a a a a a a", ["2 × 'a a a a a'"]),
        ("mpt-mc4.alpha_top_char", "aab  \n", ["2 × 'a'", "1 × 'b'"]),
        ("mpt-mc4.min_alnum_char_frac", "a-1 --", ["3 × '-'"]),
        ("mpt-s2orc.alpha_top_word", "= = x", ["2 × '='", "1 × 'x'"]),
        ("code.max_mean_line_chars", "ab\n\nc", ["2 characters: 'ab'", "1 characters: 'c'"]),
        ("code.min_alpha_char_frac", "a11 ", ["2 × '1'", "1 × ' '"]),
        ("code.max_generated_marks", "x\n// Do Not Edit!\n", ["'// Do Not Edit!'"]),
        ("code.max_xml_prologues", "<?xml version='1.0'?>", ['"<?xml version=\'1.0\'?>"']),
    ],
)  # fmt: skip
def test_by_hand(rule, text, shown):
    assert evidence.evidence(rule, text) == shown


def test_generated_marks_are_looked_for_in_the_head_only():
    late = "\n" * code_signals.HEAD_LINES + "do not edit"
    assert evidence.evidence("code.max_generated_marks", late) == []
    assert evidence.evidence("code.max_generated_marks", late[1:]) == ["'do not edit'"]


def test_long_and_strange_things_are_cut_and_escaped():
    (shown,) = evidence.evidence("c4.curly_bracket", "{" + "x" * SHOWN_CHARS)
    assert shown == repr("{" + "x" * (SHOWN_CHARS - 2) + "…")
    (shown,) = evidence.evidence("c4.curly_bracket", "{" + "x" * (SHOWN_CHARS - 1))
    assert "…" not in shown
    (shown,) = evidence.evidence("c4.lorem_ipsum", "x" * SHOWN_CHARS + " LOREM ipsum" + "y" * SHOWN_CHARS)
    assert len(shown) == SHOWN_CHARS + 2
    assert shown.startswith("'…xxx")
    assert "x LOREM ipsumy" in shown
    assert evidence.evidence("c4.curly_bracket", "\x1b[31m{\u202e") == ["'\\x1b[31m{\\u202e'"]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("x" * 3_000_000, id="one-word"),
        pytest.param("a " * 1_500_000, id="one-word-again-and-again"),
        pytest.param("\n" * 3_000_000, id="only-newlines"),
        pytest.param("😀" * 2_000_000, id="emoji"),
        pytest.param("".join(f"{i:x} " for i in range(400_000)), id="no-word-twice"),
    ],
)
def test_no_text_is_too_long(text):
    for rule in ("gopher-repetition.max_dup_10gram_char_frac", "gopher-repetition.max_top_2gram_char_frac",
                 "gopher-quality.max_mean_word_chars", "code.max_longest_line_chars"):  # fmt: skip
        assert evidence.evidence(rule, text) == evidence.evidence(rule, text[:LOOKED_AT])
