r"""Is a paper cleaned as RedPajama cleans it, and where not, as latex.py says; within bounds on any text?"""

import itertools
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.shards import decompress, latex
from winnow.shards.conversion import Unconvertible
from winnow.shards.latex import plain_latex

CORPORA = Path(__file__).resolve().parents[1].parent / "shared" / "corpora"


def body(source):
    """The text behind a header."""
    return plain_latex("\\section{S}\n" + source).text.removeprefix("\\section{S}").lstrip("\n")


def outcome(source):
    """(text, "") or ("", reason)."""
    try:
        return plain_latex(source).text, ""
    except Unconvertible as error:
        return "", error.reason


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (r"\title{T} \begin{abstract}a\end{abstract} \section{One} b", r"\section{One} b"),
        (r"pre \subsubsection*{A} b \section{C}", r"\subsubsection*{A} b \section{C}"),
        (r"pre \chapter[short]{Long} b", r"\chapter[short]{Long} b"),
        (r"pre \paragraph{P} b", r"\paragraph{P} b"),
        ("% \\section{No}\n\\sectional{no} \\section{Yes} b", r"\section{Yes} b"),
        (r"\newenvironment{x}{\section{#1}}{} \begin{document} a \section{Y} b", r"\section{Y} b"),
        (r"\section{S} b \appendix \section{A}", r"\section{S} b"),
        (r"\section{S} b \appendixname{} c", r"\section{S} b \appendixname{} c"),
        (r"\section{S} b \bibliography{refs} c", r"\section{S} b"),
        (r"\section{S} b \bibliographystyle{x} c", r"\section{S} b \bibliographystyle{x} c"),
        (r"\section{S} b \begin{thebibliography}{9} \bibitem{x}", r"\section{S} b"),
        (r"\section{S} b \begin{references} c", r"\section{S} b"),
        (r"\section{S} b \printbibliography c", r"\section{S} b"),
        (r"\section{S} b \end{document} \section{T}", r"\section{S} b"),
        ("\\section{A} a\0no header\0\\bibliography{x} \\section{B} b", "\\section{A} a\n\\section{B} b"),
    ],
)
def test_what_is_kept(source, text):
    assert plain_latex(source).text == text
    assert plain_latex(source.encode()).text == text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("a % b\nc", "a \nc"),
        ("a\n  % b\nc", "a\nc"),
        ("%b\r\nc\r% d\re", "c\ne"),
        (r"50\% of", r"50\% of"),
        ("a \\\\% b\nc", "a \\\\\nc"),
        ("a \\\\\\% b", "a \\\\\\% b"),
        ("a\\begin{comment} b\n\\end{comment}c", "ac"),
        ("a\\begin{comment} b", "a\\begin{comment} b"),
    ],
)
def test_comments(source, text):
    assert body(source) == text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (r"\newcommand{\R}{\mathbb{R}}$\R^n \Real$", r"$\mathbb{R}^n \Real$"),
        (r"\newcommand*\R{R}\R", "R"),
        ("\\renewcommand { \\R } {a\n{b}}\\R", "a\n{b}"),
        (r"\def\R{R}\providecommand{\S}{S}\R\S", "RS"),
        (r"\def \R {R}\\R \R", r"\\R R"),
        (r"\def\a{\b x}\def\b{\c y}\def\c{z}\a", "z y x"),
        (r"\def\a{1}\def\a{2}\a", "2"),
        (
            r"\def\a{1}\newcommand{\b}[1]{#1}\def\c#1{d} \b{\a} \c",
            r"\newcommand{\b}[1]{#1}\def\c#1{d} \b{1} \c",
        ),
        (r"\def\a{\a b}\def\c{\d}\def\d{\c}\def\e{e}\a\c\d\e", r"\a\c\d" + "e"),
        (r"\def\a{\{x}\def\b{\1\g<0>}\a\b", r"\{x\1\g<0>"),
        (r"\def\a{open \a", r"\def\a{open \a"),
        (r"\def\a{" + "x" * 1025 + r"}\a", r"\def\a{" + "x" * 1025 + r"}\a"),
        (r"\def\sec{\section}\sec{S}", r"\section{S}"),
    ],
)
def test_macros(source, text):
    assert body(source) == text


def test_macros_of_one_file_in_another():
    assert (
        plain_latex("\\section{A} \\R\0\\def\\R{real}\0\\section{B}\\R").text
        == "\\section{A} real\n\\section{B}real"
    )


def test_encodings():
    assert (
        plain_latex("\\section{Ü} é".encode("latin-1") + b"\0" + "\\section{Ю}".encode()).text
        == "\\section{Ü} é\n\\section{Ю}"
    )


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        pytest.param("", "no-section", id="empty"),
        pytest.param(r"\begin{document} a letter", "no-section", id="no-header"),
        pytest.param(r"\section{a}\begin{document} b", "no-section", id="header-before-the-document"),
        pytest.param(
            r"\section{a}\def\a{" + "x" * 1000 + "}" + r"\a" * 5000, "too-large", id="much-of-a-macro"
        ),
    ],
)
def test_what_is_no_document(source, reason):
    assert outcome(source) == ("", reason)


def test_a_macro_bomb_is_left_as_it_is():
    names = [chr(97 + i // 26) + chr(97 + i % 26) for i in range(60)]
    bomb = "".join(rf"\def\{a}{{\{b}\{b}}}" for a, b in itertools.pairwise(names))
    text = body(bomb + rf"\def\{names[-1]}{{xx}}\{names[0]} \{names[-1]} \{names[-4]}")
    assert text == rf"\{names[0]} xx " + "xx" * 8


def test_a_paper_grows_by_its_macros_to_a_limit():
    source = r"\section{a}\def\a{" + "x" * 30 + "}" + r"\a" * 1000
    assert len(source) * latex.GROWTH + 2 * latex.LONGEST < 30_000
    assert outcome(source) == ("", "too-large")
    assert len(plain_latex(source + " " + "y" * 9000).text) > 39_000


@pytest.mark.parametrize(
    "unit",
    ["\\", "%", "\\%", "{", "}", " ", "\n", "\r", "\\def\\a{", "\\def\\a{}", "\\newcommand{\\a}", "\\begin{comment}",
     "\\section", "\\section{a}", "\0", "\0\\section{", "\\bibliography", "\\a", "é", "\\def\\a{\\a\\b}"],
)  # fmt: skip
def test_long_texts_do_not_stall(unit):
    assert outcome("\\section{a}" + unit * (500_000 // len(unit)))[1] in ("", "too-large")


PARTS = [
    "\\def\\a{",
    "\\newcommand{\\b}{",
    "}",
    "{",
    "\\a",
    "\\b",
    "%",
    "\n",
    "\\",
    "x",
    "\0",
    "\\section{",
    "\\appendix",
    "é",
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=30).map("".join))
def test_any_source(source):
    text, reason = outcome(source)
    assert (text, reason) == outcome(source.encode())
    assert bool(text) != bool(reason)
    assert text.startswith("\\section{" if text else "")
    assert not re.search(r"\\appendix(?![a-z])", text)


def test_papers_that_redpajama_cleaned_stay_as_they_are():
    """But for comments that its pattern leaves (a `%` before the line's end), and definitions in the text."""
    found = list((CORPORA / "tex").glob("arxiv-redpajama-*.jsonl.zst"))
    if not found:
        pytest.skip("needs the shared corpora beside the checkout")
    lines = b"".join(decompress.blocks(found[0].open("rb"), "zstd")).splitlines()
    same = 0
    for line in lines:
        text = json.loads(line)["text"]
        ours = plain_latex(text).text
        wanted = latex._without_comments(text).strip()
        same += ours == wanted
        assert len(ours) > 0.5 * len(wanted)
    assert len(lines) == 19
    assert same >= 15
