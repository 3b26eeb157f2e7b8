"""Is every contradiction in the settings of a mixture found at its key, and does a recipe mean the mixture it says?

A recipe is made of sources, each a line; messages are compared whole.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from winnow.pipelines import mixture_settings as settings
from winnow.pipelines.located import RecipeError
from winnow.pipelines.mixture_settings import DEEPEST, Mixture, Printed, PrintedRun
from winnow.pipelines.planned_mixture import plan_shares, stated_shares, tree
from winnow.pipelines.recipe import Recipe, dump, read
from winnow.shards.mixture import Group, Leaf, Rule

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "recipe.md").read_text()
SUM = "; correct one, or write `weights: relative` to have them divided by their sum"


def text(sources: str, mixture: str = "") -> str:
    """A recipe whose sources have the weights of `a=0.5 b`; the first is in line 4, its weight at column 11."""
    lines = ["name: x", "tokenizer: {name: t}", "sources:"]
    for given in sources.split():
        name, _, weight = given.partition("=")
        weight = f"weight: {weight}, " if weight else ""
        lines.append(f'  {name:5}: {{{weight}read: {{format: text, path: "*.txt"}}}}')
    return "\n".join([*lines, f"mixture: {mixture}" if mixture else ""]) + "\n"


def recipe(sources: str, mixture: str = "") -> Recipe:
    return read(text(sources, mixture), "r.yaml")


def errors(sources: str, mixture: str = "") -> list[str]:
    try:
        recipe(sources, mixture)
    except RecipeError as error:
        return [str(p).removeprefix("r.yaml:") for p in error.problems]
    return []


def drawn(sources: str, mixture: str, tokens: dict[str, int]) -> dict[str, float]:
    shares = plan_shares(recipe(sources, mixture), tokens)
    return {s.source: round(s.effective_tokens, 6) for s in shares}


# ---- contradictions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sources", "mixture"),
    [
        ("a b", ""),
        ("a=1", ""),
        ("a=0.3 b=70%", ""),
        ("a=3 b=1", "{weights: relative}"),
        ("a=330B b=1", "{weights: tokens}"),
        ("a=2 b=0.5", "{weights: epochs, max_epochs: 4}"),
        ("a=2 b", "{weights: repeats, epochs: 6}"),
        ("a b", "{weights: repeats}"),
        ("a b", "{weights: natural}"),
        ("a b", "{weights: temperature, temperature: 3.33}"),
        ("a b", "{weights: unimax, max_epochs: 4, tokens: 1T}"),
        ("a b", "{weights: unimax, max_epochs: 4, epochs: 2, over_max_epochs: spread}"),
        ("a=0.4 b c", "{groups: {g: {of: [b, c], weight: 0.6}}}"),
        ("a b c", "{groups: {g: {of: [b, h]}, h: {of: [c]}}}"),
        ("a=5B b=2 c=1", "{weights: tokens, groups: {g: {of: [b, c], weights: epochs}}}"),
        ("a=5B b=2 c=1", "{weights: tokens, groups: {g: {of: [b, c], weights: relative, weight: 3B}}}"),
    ],
)
def test_what_fits_is_no_mistake_and_survives_a_dump(sources, mixture):
    assert errors(sources, mixture) == []
    made = recipe(sources, mixture)
    assert read(dump(made), "again.yaml").mixture == made.mixture


@pytest.mark.parametrize(
    ("sources", "mixture", "message"),
    [
        # weights and rule
        ("a=1 b", "", "5:3: source 'b' has no weight, but 'a' has one"),
        ("a=0.5 b=0.4", "", f"5:11: the weights sum to 0.9, 0.1 less than 1{SUM}"),
        ("a=3 b=1", "{weights: proportions}", f"5:11: the weights sum to 4, 3 more than 1{SUM}"),
        ("a b", "{weights: relative}", "4:3: source 'a' has no weight, but `weights: relative` goes by weights\n"
         "5:3: source 'b' has no weight, but `weights: relative` goes by weights"),
        ("a=1 b", "{weights: natural}",
         "4:11: source 'a' has a weight, but its shares go by size (`weights: natural`)"),
        ("a=30% b=1B", "{weights: tokens}", "4:11: `weights: tokens` is given, and 0.3 is no number of tokens"),
        ("a b", "{weights: even}",
         "6:20: 'even' is not known here; valid here: epochs, natural, proportions, relative, repeats, "
         "temperature, tokens, unimax"),
        ("a b", "{temperature: 3}", "6:24: a temperature is given, but the rule is `weights: natural`"),
        ("a b", "{weights: temperature}", "6:20: `weights: temperature` needs a `temperature`"),
        ("a b", "{weights: temperature, temperature: 0.5}", "6:46: must be at least 1, not 0.5"),
        ("a=1e19", "", "4:19: must be at most 1e+18, not '1e19'"),
        # the run's length
        ("a b", "{tokens: 1B, epochs: 2}",
         "6:31: `tokens` and `epochs` both say how long the run is; one of them is enough"),
        ("a=5 b=5", "{weights: tokens, tokens: 10}", "6:36: `weights: tokens` says already how much is drawn"),
        ("a=5 b=5", "{weights: epochs, epochs: 10}", "6:36: `weights: epochs` says already how much is drawn"),
        ("a b", "{weights: unimax}", "6:20: `weights: unimax` needs `mixture.max_epochs`\n"
         "6:20: `weights: unimax` needs the run's length: `mixture.tokens` or `mixture.epochs`"),
        ("a b", "{over_max_epochs: spread}", "6:28: there is no `max_epochs` that a source could pass"),
        # groups
        ("a b", "{groups: {a: {of: [b]}}}", "6:23: 'a' is a source already; a group needs a name of its own"),
        ("a b", "{groups: {g: {of: [b, bb]}}}", "6:32: there is no source or group 'bb'; did you mean 'b'?"),
        ("a b", "{groups: {g: {of: [b, b]}}}", "6:32: 'b' is in it twice; a part belongs to one group"),
        ("a b", "{groups: {g: {of: [b]}, h: {of: [a, b]}}}",
         "6:46: 'b' is in group 'g' already; a part belongs to one group"),
        ("a b", "{groups: {g: {of: [g]}}}", "6:23: a group cannot hold itself: 'g' in 'g'"),
        ("a b", "{groups: {g: {of: [h]}, h: {of: [g]}}}", "6:23: a group cannot hold itself: 'g' in 'h' in 'g'\n"
         "6:37: a group cannot hold itself: 'h' in 'g' in 'h'"),
        ("a b", "{groups: {g: {of: []}}}", "6:28: must not be empty"),
        ("a=1 b", "{groups: {g: {of: [b]}}}", "6:23: group 'g' has no weight, but 'a' has one"),
        ("a b", "{groups: {g: {of: [b], weight: 1}}}", "4:3: source 'a' has no weight, but 'g' has one"),
        ("a b=1 c=2", "{groups: {g: {of: [b, c]}}}", f"6:11: in group 'g' the weights sum to 3, 2 more than 1{SUM}"),
        ("a b c=1", "{groups: {g: {of: [b, c], weights: unimax}}}",
         "6:11: source 'c' has a weight, but its shares go by size (`weights: unimax`)\n"
         "7:45: `weights: unimax` needs `mixture.max_epochs`\n"
         "7:45: `weights: unimax` needs the run's length: `mixture.tokens` or `mixture.epochs`"),
        ("a b=5 c=5", "{groups: {g: {of: [b, c], weights: tokens}}}",
         "7:45: `weights: tokens` says how much is drawn, but group 'g' gets a part by `weights: natural`; write "
         "`weights: relative`"),
        ("a=7 b=5 c=5", "{weights: epochs, groups: {g: {of: [b, c], weights: tokens, weight: 3}}}",
         "7:78: group 'g' draws what its members' weights say (`weights: tokens`), and has a weight too"),
    ],
)  # fmt: skip
def test_contradictions(sources, mixture, message):
    assert sorted(errors(sources, mixture)) == sorted(message.split("\n"))


def test_groups_are_not_nested_without_end():
    chain = ", ".join(f"g{i}: {{of: [g{i + 1}]}}" for i in range(2000))
    found = errors("a b", f"{{groups: {{{chain}, g2000: {{of: [a]}}}}}}")
    assert [line.split(": ", 1)[1] for line in found] == [f"groups are nested more than {DEEPEST} deep"]
    for levels in (DEEPEST, DEEPEST + 1):
        inner = ", ".join(f"g{i}: {{of: [g{i + 1}]}}" for i in range(levels - 1))
        found = errors("a b", f"{{groups: {{{inner}, g{levels - 1}: {{of: [a]}}}}}}")
        assert len(found) == (levels > DEEPEST)


def test_a_group_below_a_circle_is_not_what_is_wrong():
    found = errors("a b", "{groups: {g: {of: [g, h]}, h: {of: [a]}}}")
    assert found == ["6:23: a group cannot hold itself: 'g' in 'g'"]


@pytest.mark.parametrize(
    ("printed", "message"),
    [
        ("{tokens: many}", "7:19: a number such as 0.14, 30% or 417.99B is wanted, not 'many'"),
        ("{tokens: {card: 0}}", "7:26: must be above 0, not 0"),
        ("{tokens: [7B, x]}", "7:19: a number such as 0.14, 30% or 417.99B is wanted, not 'x'"),
        ("{tokens: []}", "7:19: must not be empty"),
        (
            "{steps: {a: 1, b: 1, c: 1, d: 1, e: 1, f: 1, g: 1, h: 1, i: 1, j: 1, k: 1, l: 1, m: 1}}",
            "7:18: at most 12 places are compared, not 13",
        ),
        ("{step: 5}", "7:11: unknown key 'step'; did you mean 'steps'?"),
    ],
)
def test_printed_numbers_are_numbers(printed, message):
    with pytest.raises(RecipeError) as caught:
        read(f"{text('a b')}printed: {printed}\n", "r.yaml")
    assert str(caught.value) == f"r.yaml:{message}"


def test_what_is_printed_of_a_source_is_a_number():
    with pytest.raises(
        RecipeError, match=r"r.yaml:6:\d+: a number such as 0.14, 30% or 417.99B is wanted, not 'x'"
    ):
        read(
            text("a b").replace("  b    : {", "  b    : {printed: {epochs: x}, ").replace("  b ", "\n  b "),
            "r.yaml",
        )


# ---- what a recipe means -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sources", "mixture", "wanted"),
    [
        ("a b", "", {"a": 100, "b": 300}),
        ("a b", "{tokens: 40}", {"a": 10, "b": 30}),
        ("a b", "{epochs: 2}", {"a": 200, "b": 600}),
        ("a=0.5 b=50%", "{tokens: 40}", {"a": 20, "b": 20}),
        ("a=3 b=1", "{weights: relative, tokens: 40}", {"a": 30, "b": 10}),
        ("a=1K b=2", "{weights: tokens}", {"a": 1000, "b": 2}),
        ("a=2 b=0.5", "{weights: epochs}", {"a": 200, "b": 150}),
        ("a=2 b", "{weights: repeats, epochs: 6}", {"a": 1200, "b": 1800}),
        ("a b", "{weights: temperature, temperature: 2, tokens: 1000}", {"a": 366.025404, "b": 633.974596}),
        ("a b", "{weights: unimax, max_epochs: 1, tokens: 300}", {"a": 100, "b": 200}),
        ("a=0.9 b=0.1", "{tokens: 300, max_epochs: 2, over_max_epochs: spread}", {"a": 200, "b": 100}),
        ("a b", "{groups: {g: {of: [b]}}, tokens: 40}", {"a": 10, "b": 30}),
    ],
)  # fmt: skip
def test_a_recipe_means_its_mixture(sources, mixture, wanted):
    assert drawn(sources, mixture, {"a": 100, "b": 300}) == wanted


def test_the_sources_keep_their_order_and_groups_their_place():
    made = recipe("a=3 b=0.8 c=1", "{groups: {g: {of: [c, a], weight: 0.2, weights: relative}}, tokens: 100}")
    inner = Group("g", "relative", (Leaf("c", 9, 1), Leaf("a", 7, 3)), 0.2)
    assert tree(made, {"a": 7, "b": 8, "c": 9}) == Group("", "proportions", (Leaf("b", 8, 0.8), inner))
    shares = plan_shares(made, {"a": 7, "b": 8, "c": 9})
    assert [(s.source, s.tokens) for s in shares] == [("a", 7), ("b", 8), ("c", 9)]
    assert [s.proportion for s in shares] == pytest.approx([0.15, 0.8, 0.05])


@pytest.mark.parametrize("model", [Mixture, settings.Group, Printed, PrintedRun])
def test_every_key_and_rule_is_described(model):
    words = {*model.model_fields, *get_args(Rule)}
    assert [word for word in words if f"`{word}`" not in PAGE] == []


def test_the_documentations_groups():
    (example,) = [block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "groups:" in block]
    made = read(f"name: x\ntokenizer: {{name: t}}\n{example}", "recipe.md")
    tokens = {"web": 900_000_000, "wiki": 4_000_000, "python": 30_000_000, "rust": 90_000_000}
    shares = plan_shares(made, tokens)
    by_name = {s.source: s for s in shares}
    assert by_name["wiki"].epochs == pytest.approx(4)
    assert by_name["web"].effective_tokens == pytest.approx(784e6)
    assert by_name["python"].epochs == pytest.approx(4)
    assert by_name["rust"].effective_tokens == pytest.approx(80e6)
    assert by_name["python"].wanted == pytest.approx(2 / 15)


@pytest.mark.parametrize(
    ("sources", "mixture", "message"),
    [
        ("a=0.5 b=0.5", "", "5:19: source 'b' has a weight but not one full sample"),
        ("a b", "{groups: {g: {of: [b], weight: 1}, h: {of: [a], weight: 3}}, weights: relative}",
         "6:23: group 'g' has a weight but none of its sources has one full sample"),
        ("a b", "{tokens: 900, max_epochs: 4}",
         "6:10: 900 tokens need more than 4 epochs: a 9.00 epochs of 100 tokens"),
        ("a b", "{tokens: 900, max_epochs: 4, over_max_epochs: spread}",
         "6:10: 4 epochs of every source are 400 tokens"),
    ],
)  # fmt: skip
def test_what_the_sources_cannot_give_is_said_at_its_place(sources, mixture, message):
    with pytest.raises(RecipeError) as caught:
        plan_shares(recipe(sources, mixture), {"a": 100, "b": 0})
    assert str(caught.value).startswith(f"r.yaml:{message}")


@pytest.mark.parametrize(
    ("sources", "mixture", "shares"),
    [
        ("a=0.3 b=0.7", "", {"a": 0.3, "b": 0.7}),
        ("a=30 b=70", "{weights: tokens}", {"a": 0.3, "b": 0.7}),
        ("a=3 b=7", "{weights: epochs}", {}),
        ("a b", "", {}),
        ("a=0.4 b c", "{groups: {g: {of: [b, c], weight: 0.6}}}", {"a": 0.4}),
        ("a=0.4 b=1 c=2", "{groups: {g: {of: [b, c], weight: 0.6, weights: relative}}}",
         {"a": 0.4, "b": 0.2, "c": 0.4}),
        ("a=4 b=1 c=2", "{weights: tokens, groups: {g: {of: [b, c], weights: tokens}}}", {}),
    ],
)  # fmt: skip
def test_shares_that_weights_alone_make(sources, mixture, shares):
    assert stated_shares(recipe(sources, mixture)) == pytest.approx(shares)
