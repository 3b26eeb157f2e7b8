"""Which mixture does a recipe ask for, given how much each source has?

The recipe's sources and groups become the tree that shards/mixture.py plans, with estimates of tokens before a run
(`winnow plan`) and with counts after it; and the numbers it says are printed somewhere become those that
shards/printed.py compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

from winnow.pipelines.mixture_settings import Printed, figure, rule_of
from winnow.shards import mixture
from winnow.shards.printed import Figure, Finding, PrintedSource, findings

if TYPE_CHECKING:
    from winnow.pipelines.recipe import Recipe

PRINTED = ("tokens", "proportion", "effective_tokens", "epochs")
"""What may be printed about a source."""
STATED = ("proportions", "relative", "tokens")
"""Rules whose shares follow from the weights alone."""


def plan_shares(recipe: Recipe, tokens: Mapping[str, int]) -> list[mixture.Share]:
    """The mixture a recipe asks for, a share per source in the recipe's order.

    tokens : training tokens by source, padding not counted: estimates, or what was counted.
    Raises RecipeError, at the source's weight, the group or `mixture`, when the sources cannot give it.
    """
    settings = recipe.mixture
    try:
        shares = mixture.plan_mixture(
            tree(recipe, tokens),
            settings.tokens,
            settings.epochs,
            settings.max_epochs,
            settings.over_max_epochs,
        )
    except mixture.MixtureError as error:
        raise recipe.located(_place(recipe, error.member), str(error)) from error
    by_name = {share.source: share for share in shares}
    return [by_name[name] for name in recipe.sources]


def _place(recipe: Recipe, member: str | None) -> tuple[str | int, ...]:
    if member in recipe.sources:
        return ("sources", member, "weight")
    return ("mixture", "groups", member) if member in recipe.mixture.groups else ("mixture",)


def tree(recipe: Recipe, tokens: Mapping[str, int]) -> mixture.Group:
    """The sources in their groups. What is in no group is directly below the root, sources first."""
    groups = recipe.mixture.groups
    grouped = {name for group in groups.values() for name in group.of}

    def member(name: str) -> mixture.Leaf | mixture.Group:
        if name in recipe.sources:
            return mixture.Leaf(name, tokens[name], recipe.sources[name].weight)
        group = groups[name]
        members = tuple(member(n) for n in group.of)
        rule = rule_of(group.weights, (m.weight for m in members))
        return mixture.Group(name, rule, members, group.weight, group.temperature)

    members = tuple(member(name) for name in (*recipe.sources, *groups) if name not in grouped)
    settings = recipe.mixture
    return mixture.Group(
        "", rule_of(settings.weights, (m.weight for m in members)), members, None, settings.temperature
    )


def stated_shares(recipe: Recipe) -> dict[str, float]:
    """The share of the tokens by source, for the sources whose share follows from weights alone."""
    root = tree(recipe, dict.fromkeys(recipe.sources, 1))
    return _stated(root, 1.0)


def _stated(member: mixture.Leaf | mixture.Group, share: float) -> dict[str, float]:
    if isinstance(member, mixture.Leaf):
        return {member.name: share}
    if member.rule not in STATED or any(m.weight is None for m in member.members):
        return {}
    parts = mixture.split(member, 1.0)
    return {
        name: part
        for inner, inner_share in zip(member.members, parts, strict=True)
        for name, part in _stated(inner, share * inner_share).items()
    }


def printed_findings(recipe: Recipe) -> list[Finding]:
    """Every printed number of a recipe that does not fit the others."""
    shares = stated_shares(recipe)
    sources = [
        PrintedSource(name, **_figures(source.printed), share=shares.get(name))
        for name, source in recipe.sources.items()
    ]
    run: dict[str, dict[str, Figure]] = {}
    if recipe.printed is not None:
        run = {
            quantity: {place: reduce(add, map(figure, parts)) for place, parts in by_place.items()}
            for quantity, by_place in recipe.printed
        }
    return [f if f.where else replace(f, where=_key(f)) for f in findings(sources, run)]


def _key(finding: Finding) -> str:
    """The recipe's key of a printed number that has no place of its own."""
    quantity = finding.what.split(" of ", 1)[0]
    if finding.source is not None:
        return f"sources.{finding.source}.printed.{quantity}"
    return f"printed.{quantity}" if quantity != "proportions" else "sources"


def printed_values(printed: Printed | None) -> dict[str, float] | None:
    """What is printed about a source as plain numbers; None for nothing."""
    values = {key: number.value for key, number in _figures(printed).items()}
    return values or None


def _figures(printed: Printed | None) -> dict[str, Any]:
    written = {key: getattr(printed, key, None) for key in PRINTED}
    return {key: figure(number) for key, number in written.items() if number is not None}
