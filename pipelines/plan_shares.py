"""What would be drawn of each source, as far as that is known before a run?

By estimate, of what is listed. Of a source that could not be listed, the tokens that the recipe prints (or asks for
with `tokens`) stand in; where it has none, only what follows from weights alone is said, and the rest is None. Printed
tokens are those that a publisher drew from, behind its filters and dedup: they say something of the mixture, nothing of
how much is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from winnow.pipelines.located import RecipeError
from winnow.pipelines.planned_mixture import plan_shares, stated_shares, tree
from winnow.pipelines.planning import OFFLINE_HINT, Plan, SourcePlan
from winnow.shards import mixture

PLENTY = 10**18
"""Tokens taken for a source of which nothing is known, where no share depends on it."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A source's part of the mixture by estimate; None for what is not known."""

    source: str
    tokens: int | None
    """In its training rows."""
    wanted: float | None
    proportion: float | None
    effective_tokens: float | None
    epochs: float | None
    unique_factor: float | None
    effective_unique_tokens: float | None


def drawn(plan: Plan) -> tuple[list[Drawn], list[str]]:
    """A part for each source, and what there is to say of the mixture. Raises RecipeError for one that cannot be.

    Estimates may be off, so a source that would be repeated too often is no error yet, and it is said.
    """
    tokens = {s.name: _train_estimate(s) for s in plan.sources}
    if None not in tokens.values():
        shares, warnings = _shares(plan, {name: n or 0 for name, n in tokens.items()})
        return [_known(share) for share in shares], warnings
    stated = stated_shares(plan.recipe)
    if stated.keys() < tokens.keys():
        return [Drawn(n, t, stated.get(n), stated.get(n), *[None] * 4) for n, t in tokens.items()], []
    filled = {name: PLENTY if n is None else n for name, n in tokens.items()}
    shares, warnings = _shares(plan, filled)
    settings = plan.recipe.mixture
    budget_known = settings.tokens is not None or tree(plan.recipe, filled).rule == "tokens"
    return [
        Drawn(
            share.source,
            tokens[share.source],
            share.wanted,
            share.proportion,
            share.effective_tokens if budget_known else None,
            *(
                (share.epochs, share.unique_factor, share.effective_unique_tokens)
                if budget_known and tokens[share.source] is not None
                else (None, None, None)
            ),
        )
        for share in shares
    ], [] if not budget_known else warnings


def _train_estimate(source: SourcePlan) -> int | None:
    """Tokens of the source that are not held out; a source with a file has one at least, until it is read."""
    if source.unknown is not None and source.said_tokens is None:
        return None
    heldout = source.source.heldout
    return math.ceil(source.token_estimate * (1 - (heldout.fraction if heldout else 0.0)))


def _shares(plan: Plan, tokens: Mapping[str, int]) -> tuple[list[mixture.Share], list[str]]:
    try:
        shares = plan_shares(plan.recipe, tokens)
    except RecipeError as error:
        if plan.recipe.mixture.max_epochs is None:
            raise
        uncapped = plan.recipe.mixture.model_copy(update={"max_epochs": None})
        shares = plan_shares(plan.recipe.model_copy(update={"mixture": uncapped}), tokens)
        return shares, [f"by estimate, {error}", *mixture.warnings(shares)]
    return shares, mixture.warnings(shares)


def _known(share: mixture.Share) -> Drawn:
    return Drawn(
        share.source,
        share.tokens,
        share.wanted,
        share.proportion,
        share.effective_tokens,
        share.epochs,
        share.unique_factor,
        share.effective_unique_tokens,
    )


# ---- what is not known ---------------------------------------------------------------------------------------


def unknown_facts(plan: Plan) -> list[dict[str, Any]]:
    """Each source, examples or benchmark out of reach: why, and the tokens that stand in for a count."""
    return [
        {"name": s.name, "reason": s.unknown, "tokens_said": s.said_tokens, "from": s.said_where}
        for s in plan.everything
        if s.unknown is not None
    ] + [
        {"name": f"benchmark {name}", "reason": why, "tokens_said": None, "from": None}
        for name, why in plan.unreached.items()
    ]


def unknown_lines(facts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A sentence for each reason, what can be done, and whose tokens are not measured."""
    for reason in dict.fromkeys(one["reason"] for one in facts):
        names = [one["name"] for one in facts if one["reason"] == reason]
        yield f"{reason}; so files, bytes and splits are not known of: {', '.join(names)}"
    if facts:
        yield OFFLINE_HINT
    published = (
        "published, not measured: after the publisher's filters and dedup; what is read has another size"
    )
    for where, said in (("printed", published), ("tokens", "what the recipe asks for, not measured")):
        if names := [one["name"] for one in facts if one["from"] == where]:
            yield f"tokens of {', '.join(names)}: {said}"
