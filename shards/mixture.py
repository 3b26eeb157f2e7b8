"""From the tokens of each source to the mixture a trainer sees: how much of what is drawn?

Pure arithmetic on a tree: leaves are sources, groups split the part they get among their members by a rule.
*Effective tokens* are the tokens drawn from a source over the training run, *epochs* how often that passes over what
the source has (MosaicML's table of MPT-7B, huggingface.co/mosaicml/mpt-7b). A *pass* over the whole is every token
once, or, under `repeats`, as often as the weights say (Cosmo-1B reads three of its sources twice).

A rule says in which ratio the members of a group are drawn (w: a member's weight, n: its tokens; a group's tokens are
those of all its members):

    proportions, relative, tokens    w
    epochs, repeats                  w n
    natural                          n
    temperature                      n^(1/T)   (mBERT's a is 1/T: github.com/google-research/bert, multilingual.md)
    unimax                           as even as `max_epochs` lets it be (Chung et al. 2023, arXiv:2304.09151)

Caps. A source gives at most `max_epochs` times its tokens. What it was to give beyond that is spread over the other
members of its group in the ratio of their shares, until all are at their caps; then over the group's neighbours in
the same way, and so outwards. In one group that is the mixture next to the wanted one: it minimises KL(p||q) under
p <= c, which min(c, lambda q) solves. A group whose members can take its share together keeps it exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Rule = Literal["proportions", "relative", "tokens", "epochs", "repeats", "natural", "temperature", "unimax"]
Over = Literal["fail", "spread"]
AMOUNTS = ("tokens", "epochs")
"""Rules whose weights say how much is drawn, and so how long the run is."""
ROUNDING = 1e-9
"""Relative error of a share that is forgiven: floats sum to 1 only nearly."""
SUM_ERROR = 1e-6
"""How far the weights of the rule `proportions` may be from 1."""
SEARCH_ERROR = 1e-6
"""Relative to the budget asked for: how far below the largest one a message's offer may lie."""
FLOAT_ERROR = 1e-14
"""Relative error of a number of rows that is a whole number but for the last bits."""
REPETITION_DECAY = 15.3878
"""R*_D of Muennighoff et al. 2023, arXiv:2305.16264: the worth of a token falls to 1/e over so many repetitions."""
FEW_EPOCHS, MANY_EPOCHS = 4, 16
"""To four epochs repeated text is almost as good as new (the same paper); at 16 a third of it counts for nothing."""
MOST_NAMED = 20
"""Sources that one message or list of warnings names."""


class MixtureError(ValueError):
    """A mixture that the sources cannot give; `member` is the source or group it is about, where it is one."""

    def __init__(self, message: str, member: str | None = None):
        super().__init__(message)
        self.member = member


@dataclass(frozen=True, slots=True)
class Leaf:
    """A source."""

    name: str
    tokens: int
    """In its training rows."""
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Members that share one part of the mixture."""

    name: str
    rule: Rule
    members: tuple[Leaf | Group, ...]
    weight: float | None = None
    temperature: float | None = None
    """T of the rule `temperature`."""


@dataclass(frozen=True, slots=True)
class Share:
    """One source's part of a mixture."""

    source: str
    tokens: int
    """In its training rows, padding not counted."""
    wanted: float
    """Share of the tokens drawn before `max_epochs` is looked at."""
    proportion: float
    """Share of the tokens drawn."""
    effective_tokens: float

    @property
    def epochs(self) -> float:
        return self.effective_tokens / self.tokens if self.tokens else 0.0

    @property
    def effective_unique_tokens(self) -> float:
        """D' of Muennighoff et al. 2023 (arXiv:2305.16264): new tokens that would be worth as much."""
        again = self.epochs - 1
        if again <= 0:
            return self.effective_tokens
        return self.tokens * (1 - REPETITION_DECAY * math.expm1(-again / REPETITION_DECAY))

    @property
    def unique_factor(self) -> float:
        """D'/D: what a token drawn is worth; 1 where none is drawn twice."""
        return self.effective_unique_tokens / self.effective_tokens if self.effective_tokens else 1.0


def plan_mixture(
    root: Group,
    budget: int | None = None,
    epochs: float | None = None,
    max_epochs: float | None = None,
    over: Over = "fail",
) -> list[Share]:
    """The mixture of a run, a share per source in the order of the leaves.

    budget : tokens of the run; or `epochs`, passes over the whole. Default: what weights of `tokens` or `epochs` come
        to, else one pass.
    over : what to do with a source that would be read more than `max_epochs` times: `fail`, or `spread` its surplus.

    Raises MixtureError when weights do not sum to 1 where they must, a weighted source has no tokens, or the sources
    cannot give so much.
    """
    leaves = list(leaves_of(root))
    if not any(leaf.tokens for leaf in leaves):
        raise MixtureError("no source has a full sample of tokens")
    drawn = run_tokens(root, budget, epochs)
    wanted = _drawn(root, drawn, max_epochs)
    got = wanted
    most = math.inf if max_epochs is None else max_epochs * size(root)
    if max_epochs is not None and over == "spread":
        if drawn > most * (1 + ROUNDING):
            raise MixtureError(
                f"{max_epochs:g} epochs of every source are {int(most):,} tokens, {math.ceil(drawn - most):,} "
                f"fewer than the {round(drawn):,} wanted: {_way_out(root, budget, epochs)}, raise max_epochs, "
                "or add text"
            )
        got = _drawn(root, drawn, max_epochs, capped=True)
    shares = [
        Share(leaf.name, leaf.tokens, wanted_ / drawn, got_ / drawn, got_)
        for leaf, wanted_, got_ in zip(leaves, wanted, got, strict=True)
    ]
    if max_epochs is not None and (beyond := [s for s in shares if _beyond(s, max_epochs)]):
        fits = _largest_run(root, shares, drawn, max_epochs)
        spread = ", let over_max_epochs: spread the rest" if drawn <= most * (1 + ROUNDING) else ""
        raise MixtureError(
            f"{round(drawn):,} tokens need more than {max_epochs:g} epochs: {_named(beyond)}; with these weights at "
            f"most {fits:,} tokens are to be had: {_way_out(root, budget, epochs)}, raise max_epochs{spread}, "
            "or add text"
        )
    return shares


def leaves_of(member: Leaf | Group) -> Iterator[Leaf]:
    """The sources of a tree, in order."""
    if isinstance(member, Leaf):
        yield member
    else:
        for inner in member.members:
            yield from leaves_of(inner)


def size(member: Leaf | Group) -> int:
    """The tokens that a source has, or all sources of a group together."""
    return sum(leaf.tokens for leaf in leaves_of(member))


def run_tokens(root: Group, budget: int | None = None, epochs: float | None = None) -> float:
    """The tokens of the run: the budget, the passes, or what the weights come to."""
    if (budget is not None) + (epochs is not None) + (root.rule in AMOUNTS) > 1:
        raise MixtureError("the run's length is given twice: by tokens, epochs or weights that are amounts")
    if budget is not None:
        return float(budget)
    return (1.0 if epochs is None else epochs) * _pass(root)


def _pass(member: Leaf | Group) -> float:
    """The tokens that are drawn when a member is drawn once."""
    if isinstance(member, Leaf):
        return float(member.tokens)
    if member.rule in (*AMOUNTS, "repeats"):
        return math.fsum(_amounts(member))
    return float(size(member))


def _amounts(group: Group) -> list[float]:
    """By member, the tokens that the weights of a group say. A group without a weight is what its own weights say."""
    amounts = []
    for member in group.members:
        if member.weight is None:
            amounts.append(_pass(member))
        elif group.rule == "tokens":
            amounts.append(member.weight)
        else:
            amounts.append(member.weight * (_pass(member) if group.rule == "repeats" else size(member)))
    return amounts


def _drawn(
    member: Leaf | Group, tokens: float, max_epochs: float | None, *, capped: bool = False
) -> list[float]:
    """The tokens drawn from each leaf below a member from which `tokens` are drawn."""
    if isinstance(member, Leaf):
        return [tokens]
    parts = split(member, tokens, max_epochs)
    if capped and max_epochs is not None:
        masses = water_fill(parts, [max_epochs * size(m) for m in member.members], tokens)
    else:
        masses = [tokens * part for part in parts]
    return [
        drawn
        for inner, mass in zip(member.members, masses, strict=True)
        for drawn in _drawn(inner, mass, max_epochs, capped=capped)
    ]


def split(group: Group, tokens: float, max_epochs: float | None = None) -> list[float]:
    """The shares of a group's members, which sum to 1, when `tokens` are drawn from it; all 0 where it has none.

    Only `unimax` looks at `tokens` and `max_epochs`.
    """
    sizes = [size(member) for member in group.members]
    for member, tokens_there in zip(group.members, sizes, strict=True):
        if member.weight is not None and not tokens_there:
            raise MixtureError(_empty(member), member.name)
        if member.weight is None and _needs_weight(group, member):
            raise MixtureError(
                f"{member.name!r} has no weight, and {group.rule!r} goes by weights", member.name
            )
    if group.rule in ("proportions", "relative"):
        parts = [float(member.weight) for member in group.members if member.weight is not None]
        if group.rule == "proportions" and (message := off_one(parts)):
            raise MixtureError(message, group.name)
    elif group.rule in (*AMOUNTS, "repeats"):
        parts = _amounts(group)
    elif group.rule == "natural":
        parts = [float(n) for n in sizes]
    elif group.rule == "temperature":
        parts = [n ** (1 / (group.temperature or 1)) for n in sizes]
    else:
        parts = unimax(sizes, tokens, math.inf if max_epochs is None else max_epochs)
    whole = math.fsum(parts)
    return [part / whole for part in parts] if whole else parts


def _needs_weight(group: Group, member: Leaf | Group) -> bool:
    """All members do where shares go by weights, but a group whose own weights are amounts."""
    if group.rule in AMOUNTS:
        return isinstance(member, Leaf) or member.rule not in AMOUNTS
    return group.rule in ("proportions", "relative")


def off_one(weights: Sequence[float]) -> str | None:
    """What is wrong with proportions that do not sum to 1; None when they do."""
    total = math.fsum(weights)
    if abs(total - 1) <= SUM_ERROR:
        return None
    way = "more" if total > 1 else "less"
    return (
        f"the weights sum to {total:.9g}, {abs(total - 1):.6g} {way} than 1; correct one, or write "
        "`weights: relative` to have them divided by their sum"
    )


def _empty(member: Leaf | Group) -> str:
    if isinstance(member, Group):
        return f"group {member.name!r} has a weight but none of its sources has one full sample"
    return (
        f"source {member.name!r} has a weight but not one full sample; take it out, shorten sequence.length, "
        "or loosen its filters"
    )


def unimax(sizes: Sequence[int], budget: float, max_epochs: float) -> list[float]:
    """Tokens by source that are as equal as `max_epochs` allows (Chung et al. 2023, arXiv:2304.09151, algorithm 1).

    They sum to less than `budget` when that is more than `max_epochs` times all there is.
    """
    amounts = [0.0] * len(sizes)
    left = float(budget)
    smallest_first = sorted(range(len(sizes)), key=sizes.__getitem__)
    for done, i in enumerate(smallest_first):
        cap = max_epochs * sizes[i] if sizes[i] else 0.0
        amounts[i] = max(0.0, min(left / (len(sizes) - done), cap))
        left -= amounts[i]
    return amounts


def water_fill(wanted: Sequence[float], caps: Sequence[float], total: float) -> list[float]:
    """min(cap, level * wanted) for the level at which they sum to `total`; all at their caps where that is less.

    This is argmin KL(p||wanted) under sum p = total, p <= caps.
    """
    amounts = list(caps)
    full_first = sorted((i for i, share in enumerate(wanted) if share > 0), key=lambda i: caps[i] / wanted[i])
    # From the end, so that small shares are not lost in a difference of large sums.
    shares_left = [0.0] * (len(full_first) + 1)
    for at in range(len(full_first) - 1, -1, -1):
        shares_left[at] = shares_left[at + 1] + wanted[full_first[at]]
    left = total
    for at, i in enumerate(full_first):
        level = max(left, 0.0) / shares_left[at]
        if caps[i] >= level * wanted[i]:
            for j in full_first[at:]:
                amounts[j] = min(caps[j], level * wanted[j])
            break
        left -= caps[i]
    return [amount if share > 0 else 0.0 for amount, share in zip(amounts, wanted, strict=True)]


def _beyond(share: Share, max_epochs: float) -> bool:
    return share.epochs > max_epochs * (1 + ROUNDING)


def _largest_run(root: Group, shares: Sequence[Share], drawn: float, max_epochs: float) -> int:
    """The most tokens of which no source is read too often. Where shares do not depend on the budget that is one
    division; UniMax grows evener with fewer tokens, so the answer is searched for."""
    at_these_shares = int(min(max_epochs * s.tokens / s.proportion for s in shares if s.proportion > 0))
    if not _has_unimax(root):
        return at_these_shares
    leaves = list(leaves_of(root))
    fits, too_many = 0, math.ceil(drawn)
    while too_many - fits > max(1.0, SEARCH_ERROR * drawn):
        middle = (fits + too_many) // 2
        amounts = _drawn(root, middle, max_epochs)
        most = max_epochs * (1 + ROUNDING)
        if all(n <= most * leaf.tokens for n, leaf in zip(amounts, leaves, strict=True)):
            fits = middle
        else:
            too_many = middle
    return fits


def _has_unimax(group: Group) -> bool:
    return group.rule == "unimax" or any(_has_unimax(m) for m in group.members if isinstance(m, Group))


def _way_out(root: Group, budget: int | None, epochs: float | None) -> str:
    if root.rule in AMOUNTS:
        return "lower the weights"
    if budget is not None:
        return "lower mixture.tokens"
    return "lower mixture.epochs" if epochs is not None else "give mixture.tokens"


def _named(shares: Sequence[Share]) -> str:
    named = [f"{s.source} {s.epochs:.2f} epochs of {s.tokens:,} tokens" for s in shares[:MOST_NAMED]]
    more = [f"and {len(shares) - MOST_NAMED:,} more"] if len(shares) > MOST_NAMED else []
    return ", ".join(named + more)


def rows_to_draw(shares: Sequence[Share], tokens_per_row: Mapping[str, float]) -> dict[str, int]:
    """Whole rows by source of one run over the mixture; their sum is the rows of the trainer's epoch.

    tokens_per_row : mean tokens of a source's rows: the sequence's length, or less where rows are padded.

    The run has as many whole rows as its tokens fill, at least one. Each source gets the whole rows of its part; those
    that remain go to the largest remainders, the first of equal ones.
    """
    exact = [(s.effective_tokens / tokens_per_row[s.source]) if s.effective_tokens else 0.0 for s in shares]
    whole = [math.floor(rows * (1 + FLOAT_ERROR)) for rows in exact]
    missing = max(1, math.floor(math.fsum(exact) * (1 + FLOAT_ERROR))) - sum(whole)
    by_remainder = sorted(range(len(shares)), key=lambda i: whole[i] - exact[i])
    for i in by_remainder[:missing] if missing > 0 else ():
        whole[i] += 1
    return {share.source: rows for share, rows in zip(shares, whole, strict=True)}


def warnings(shares: Sequence[Share]) -> list[str]:
    """What a reader of the mixture should know: sources read often, and shares that `max_epochs` changed."""
    often = [_repeated(s) for s in shares if s.epochs > FEW_EPOCHS * (1 + ROUNDING)]
    changed = [
        f"{s.source}: {100 * s.wanted:.6g}% of the tokens were wanted, {100 * s.proportion:.6g}% are drawn, because "
        "of max_epochs"
        for s in shares
        if not math.isclose(s.wanted, s.proportion, rel_tol=1e-5)
    ]
    return [
        *_first(often, "read more than 4 times"),
        *_first(changed, "with a share that max_epochs changed"),
    ]


def _repeated(share: Share) -> str:
    worth = f"a token drawn counts as {share.unique_factor:.3f} of a new one"
    if share.epochs > MANY_EPOCHS * (1 + ROUNDING):
        return f"{share.source} is read {share.epochs:.2f} times, far too often: {worth}; more text or a smaller share"
    return f"{share.source} is read {share.epochs:.2f} times, more than 4: {worth}"


def _first(sentences: list[str], what: str) -> list[str]:
    if len(sentences) <= MOST_NAMED:
        return sentences
    return [*sentences[:MOST_NAMED], f"and {len(sentences) - MOST_NAMED:,} more sources {what}"]
