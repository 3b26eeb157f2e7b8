"""Are the numbers of real cards that do not fit found, and no others?

The tables are those of the cards and repositories that each test names.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.pipelines.mixture_settings import figure
from winnow.pipelines.planned_mixture import printed_findings, printed_values
from winnow.pipelines.recipe import dump, read
from winnow.shards.printed import Figure, Finding, PrintedSource, agree, findings, shown

# huggingface.co/mosaicml/mpt-7b: source, tokens in source, proportion, effective tokens, epochs.
MPT_7B = """\
mc4 417.99B 0.33 330B 0.14
c4-semdedup 100.42B 0.299 299B 2.98
redpajama-cc 878.45B 0.1 100B 0.11
stack 463.78B 0.1 100B 0.22
wikipedia 4.87B 0.04 40B 8.21
stack-markdown 107.07B 0.035 35B 0.33
s2orc 48.85B 0.033 33B 0.68
books 26.02B 0.03 30B 1.15
arxiv 28.10B 0.019 19B 0.68
stackexchange 20.54B 0.014 14B 0.68
"""
START = "name: x\ntokenizer: {name: t}\nsources:\n"


def source(name: str, extra: str = "") -> str:
    return f'  {name}: {{read: {{format: text, path: "*.txt"}}{extra}}}\n'


def mpt_recipe(table: str = MPT_7B, top: str = "printed: {tokens: 1T}\n"):
    lines = []
    for row in table.splitlines():
        name, tokens, proportion, effective, epochs = row.split()
        printed = (
            f"{{tokens: {tokens}, proportion: {proportion}, effective_tokens: {effective}, epochs: {epochs}}}"
        )
        lines.append(source(name, f", weight: {proportion}, printed: {printed}"))
    return read(START + "".join(lines) + top, "mpt.yaml")


def run_findings(printed: str) -> list[Finding]:
    return printed_findings(read(f"{START}{source('a')}printed: {printed}\n", "r.yaml"))


def said(printed: str) -> list[tuple[str, str]]:
    return [(f.what, f.where) for f in run_findings(printed)]


# ---- MPT-7B --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top", ["printed: {tokens: 1T}\n", ""], ids=["budget", "budget-from-the-table"])
def test_mpt_7bs_mc4_does_not_fit_and_the_other_nine_do(top):
    (found,) = printed_findings(mpt_recipe(top=top))
    assert (found.what, found.source, found.printed) == ("epochs of mc4", "mc4", 0.14)
    assert found.recomputed == pytest.approx(0.7895, abs=1e-4)
    assert found.where == "sources.mc4.printed.epochs"
    assert found.message == (
        "mc4: 0.14 epochs are printed, but 330B of 417.99B tokens are 0.789; it would fit with 2.2759T to 2.4444T "
        "tokens in the source (about 2.3571T)"
    )


def test_mpt_30bs_size_of_mc4_fits():
    """huggingface.co/mosaicml/mpt-30b prints 2417.99 B for the same source."""
    assert printed_findings(mpt_recipe(MPT_7B.replace(" 417.99B", " 2417.99B"))) == []


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("100.42B 0.299 299B 2.98", "100.42B 0.299 299B 3.20", ["epochs of c4-semdedup"]),
        ("878.45B 0.1 100B 0.11", "778.45B 0.1 100B 0.11", ["epochs of redpajama-cc"]),
        ("0.033 33B 0.68", "0.033 36B 0.74", ["effective_tokens of s2orc"]),
    ],
)
def test_other_rows_are_found_when_they_are_wrong(old, new, what):
    assert MPT_7B.count(old) == 1
    found = printed_findings(mpt_recipe(MPT_7B.replace(old, new)))
    assert [f.what for f in found] == ["epochs of mc4", *what]


def test_a_weight_that_is_not_the_printed_share():
    text = (
        dump(mpt_recipe()).replace("weight: 0.035", "weight: 0.036").replace("weight: 0.299", "weight: 0.298")
    )
    found = printed_findings(read(text, "r.yaml"))
    by_what = {f.what: f for f in found}
    assert set(by_what) == {"epochs of mc4", "proportion of stack-markdown", "proportion of c4-semdedup"}
    assert by_what["proportion of stack-markdown"].message == (
        "stack-markdown: the proportion printed is 0.035, the recipe's is 0.036"
    )


def test_a_share_is_compared_where_weights_alone_make_it():
    body = (
        source("a", ", weight: 3, printed: {proportion: 0.6}")
        + source("b", ", weight: 1, printed: {proportion: 0.15}")
        + source("c", ", printed: {proportion: 0.25}")
        + source("d", ", printed: {proportion: 25%}")
    )
    groups = "{g: {of: [a, b], weights: relative, weight: 0.75}, h: {of: [c, d], weight: 0.25}}"
    found = printed_findings(read(f"{START}{body}mixture: {{groups: {groups}}}\n", "r.yaml"))
    # 3/4 and 1/4 of 0.75 are 0.5625 (0.6 to a digit) and 0.1875; what is in `h` goes by size.
    assert [(f.what, f.recomputed) for f in found] == [("proportions", 1), ("proportion of b", 0.1875)]
    assert found[0].printed == pytest.approx(1.25)
    assert found[0].message == "the printed proportions sum to 1.25, 0.25 from 1"


@pytest.mark.parametrize(
    ("shares", "fits"),
    [
        (("50%", "49.9%"), True),
        (("0.5", "0.4"), True),
        (("0.50", "0.48"), False),
        (("0.333", "0.333", "0.333"), True),
        (("0.333", "0.333", "0.331"), False),
    ],
)
def test_the_sum_of_shares_may_be_off_by_their_rounding(shares, fits):
    found = findings([PrintedSource(str(i), proportion=figure(s)) for i, s in enumerate(shares)], {})
    assert (found == []) == fits


def test_nothing_is_said_of_what_is_not_printed():
    assert findings([PrintedSource("a", tokens=figure("1B")), PrintedSource("b", epochs=figure(3))], {}) == []
    assert findings([], {}) == []


# ---- the runs of other cards ---------------------------------------------------------------------------------


def test_pints():
    """The card of 1.5-Pints-2K against github.com/Pints-AI/1.5-Pints at 2a0cb62."""
    found = run_findings(
        "{tokens: {card: 0.115T, repository: 100.85B}, batch_tokens: {card: 2_097_152, repository: 1_048_576}, "
        "steps: {repository: 96_180}, batch_samples: 512, sequence_length: 2048, epochs: 2, source_tokens: 57B}"
    )
    assert [(f.what, f.where) for f in found] == [
        ("tokens", "card"),
        ("batch_tokens", "card"),
        ("tokens", "repository"),
    ]
    assert found[0].message == (
        "tokens 115B (card) does not fit steps 96,180 (repository) and batch_tokens 1,048,576 (repository), from "
        "which 100.85B follows (tokens = steps x batch_tokens); printed elsewhere: 100.85B (repository)"
    )
    assert "printed elsewhere: 1,048,576 (repository)" in found[1].message
    assert "does not fit epochs 2 and source_tokens 57B, from which 114B follows" in found[2].message


def test_cosmo():
    """The card of Cosmo-1B: 140k steps in its text, 120k in its list of settings."""
    (found,) = run_findings(
        "{tokens: 180B, steps: {text: 140k, settings: 120k}, batch_tokens: 1.3M, epochs: 6, source_tokens: 30B}"
    )
    assert (found.what, found.printed, found.where) == ("steps", 120_000, "settings")
    assert found.recomputed == pytest.approx(180e9 / 1.3e6)


def test_cosmo_as_either_place_prints_it():
    assert said("{tokens: 180B, steps: 140k, batch_tokens: 1.3M}") == []
    (found,) = run_findings("{tokens: 180B, steps: 120k, batch_tokens: 1.3M}")
    assert (found.what, found.where, found.recomputed) == ("tokens", "printed.tokens", 156e9)
    assert found.message == (
        "tokens 180B does not fit steps 120,000 and batch_tokens 1,300,000, from which 156B follows (tokens = steps x "
        "batch_tokens); it would fit with tokens 156B, or steps 138,462, or batch_tokens 1,500,000"
    )


def test_dclm():
    """The card of DCLM-1B-IT and its table against arXiv:2406.11794, appendix Q.3."""
    (found,) = run_findings("{tokens: {card: 2.6T, table: 2.608T, paper: 4_319_385_600_000}}")
    assert found == Finding(
        "tokens", 2.6e12, 4_319_385_600_000, "card", "tokens: 2.6T (card), but 4.3194T (paper)"
    )


def test_phi():
    """arXiv:2309.05463: 30 B tokens, of 7 B of phi-1's data and 20 B of new."""
    (found,) = run_findings("{tokens: 150B, source_tokens: {abstract: 30B, parts: [7B, 20B]}}")
    assert (found.what, found.printed, found.recomputed) == ("source_tokens", 30e9, 27e9)
    assert said("{source_tokens: {abstract: 27B, parts: [7B, 20B]}}") == []


def test_a_run_against_the_sum_of_its_sources():
    body = source("code", ", printed: {tokens: 7B}") + source("new", ", printed: {tokens: 20B}")
    (found,) = printed_findings(read(f"{START}{body}printed: {{source_tokens: 30B}}\n", "r.yaml"))
    assert found.message == "source_tokens: 30B, but 27B (the sum of the sources)"
    assert found.where == "printed.source_tokens"
    assert printed_findings(read(f"{START}{body}printed: {{source_tokens: 27B}}\n", "r.yaml")) == []


def test_where_no_place_fits_each_is_named():
    found = said("{tokens: {card: 1T, paper: 1.01T}, steps: {card: 100k, log: 101k}, batch_tokens: 4M}")
    assert found == [("tokens", "card"), ("tokens", "paper")]


def test_mpts_batches_fit():
    printed = (
        "{tokens: 1T, steps: 277_433, batch_tokens: 3_604_480, batch_samples: 1760, sequence_length: 2048}"
    )
    assert said(printed) == []
    assert (
        said(printed.replace("1T", "1.2T"))
        == said(printed.replace("1T", "2T"))
        == [("tokens", "printed.tokens")]
    )


# ---- when numbers agree --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "value", "half"),
    [
        ("417.99B", 417.99e9, 5e6),
        ("30B", 30e9, 0.5e9),
        ("0.115T", 115e9, 0.5e9),
        (0.14, 0.14, 0.005),
        (2.0, 2, 0.05),
        (6, 6, 0.5),
        ("30%", 0.3, 0.005),
        ("92.44%", 0.9244, 0.00005),
        ("1.0e12", 1e12, 0.05e12),
        (4_319_385_600_000, 4_319_385_600_000, 0.5),
        (1e16, 1e16, 0.5),
        ("36k", 36_000, 500),
    ],
)
def test_figures(written, value, half):
    assert (figure(written).value, figure(written).half_unit) == pytest.approx((value, half), rel=1e-12)


@pytest.mark.parametrize(
    "written", ["many", "", "30B%", "5 apples", True, float("inf"), float("nan"), 1e300, "1TB"]
)
def test_no_figures(written):
    with pytest.raises(ValueError, match=r"a number such as 0\.14, 30% or 417\.99B is wanted"):
        figure(written)
    with pytest.raises(ValueError, match="must be above 0, not 0"):
        figure(0)


def test_a_printed_number_is_kept_as_it_is_written():
    recipe = mpt_recipe()
    again = read(dump(recipe), "again.yaml")
    assert again.printed == recipe.printed
    assert again.sources == recipe.sources
    assert again.sources["mc4"].printed.tokens == "417.99B"
    assert printed_values(again.sources["mc4"].printed) == {
        "tokens": 417.99e9, "proportion": 0.33, "effective_tokens": 330e9, "epochs": 0.14,
    }  # fmt: skip
    assert printed_values(None) is None


figures = st.builds(
    lambda digits, scale: Figure(digits * 10.0**scale, 0.5 * 10.0**scale),
    st.integers(1, 10**6), st.integers(-6, 9),
)  # fmt: skip


@settings(deadline=None)
@given(st.floats(1e-3, 1e12), st.integers(0, 6), st.integers(0, 6))
def test_two_roundings_of_a_number_agree(number, a, b):
    def rounded(digits: int) -> Figure:
        text = f"{number:.{digits}e}"
        return Figure(float(text), 0.5 * 10.0 ** (int(text.split("e")[1]) - digits))

    assert agree(rounded(a), rounded(b))


@settings(deadline=None)
@given(figures, figures)
def test_products_and_quotients_hold_whatever_was_rounded(a, b):
    for x in (a.low, a.value, a.high):
        for y in (b.low, b.value, b.high):
            product = a * b
            assert product.low <= x * y * (1 + 1e-9) + 1e-9
            assert x * y <= product.high * (1 + 1e-9)
            if y > 0:
                quotient = a / b
                assert quotient.low * (1 - 1e-9) - 1e-9 <= x / y <= quotient.high * (1 + 1e-9)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(10**6, 10**12), st.integers(1, 1000)), min_size=1, max_size=6),
    st.integers(10**9, 10**13),
)
def test_a_table_computed_and_rounded_never_fails(rows, budget):
    """Whatever the digits, a table that was right before it was rounded has no finding."""
    whole = sum(w for _, w in rows)
    sources = []
    for i, (tokens, weight) in enumerate(rows):
        share = weight / whole
        sources.append(
            PrintedSource(
                str(i),
                figure(f"{tokens / 1e9:.2f}B") if tokens >= 1e8 else figure(tokens),
                figure(f"{share:.3f}") if share >= 0.001 else None,
                figure(f"{round(share * budget / 1e6)}M") if share * budget >= 1e6 else None,
                figure(f"{share * budget / tokens:.2f}") if share * budget / tokens >= 0.01 else None,
                share,
            )
        )
    assert findings(sources, {"tokens": {"": Figure(float(budget), 0.5)}}) == []


def test_numbers_in_sentences():
    assert [shown(n) for n in (0.67554, 12.0, 2_097_152, 417.99e9, 1e12, 999.96)] == [
        "0.6755", "12", "2,097,152", "417.99B", "1T", "1000",
    ]  # fmt: skip
