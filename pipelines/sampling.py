"""How much of a source is read, and which part?

A source with `sample:` or `tokens:` is read in part: whole splits, the first ones in the order of hash(seed, place of
the split's first row). That order does not go by the split's number, so a file more or less moves no other split
in it. `sample: f` takes the shortest prefix of it that holds the share f of the stored bytes. `tokens: n` goes in
rounds. The first is a pilot; it is filtered and tokenized, and from what it gave follows how many splits make
`MARGIN` · n training tokens, before dedup. These are read and filtered, more are added while the filters' counts say
so, and of what was read the shortest prefix that is enough goes through dedup and the tokenizer. If what is left is
short of n, the part grows by what is missing, and dedup and all after it are done over. A split that has been read is
not read again.

All decisions follow from counts that are stored in records, so a run that is killed and resumed, or made by more
workers, makes the same ones.

Memory: 8 bytes a split beside the plan.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from winnow.pipelines.numbers import show_bytes, show_count
from winnow.pipelines.records import total
from winnow.shards import tables
from winnow.shards.inputs import Split
from winnow.shards.on_demand import OnDemand
from winnow.shards.splits import begins, costs

if TYPE_CHECKING:
    from winnow.pipelines.corpus import SourceRun
    from winnow.pipelines.planning import Plan, SourcePlan
    from winnow.pipelines.recipe import Source

SPLIT_SEED = 0x73706C697473
"""Parts the order of splits from other choices by the same seed (the letters `splits`)."""
MARGIN = 1.1
"""Tokens that are aimed for, of one that is wanted: filters and texts differ from split to split."""
ENOUGH = 1.05
"""The same, by what filters left, with which a part goes on to dedup: no further round for a little."""
PILOT = 0.01
"""Share of the stored bytes that the first round reads at most."""
PILOT_PART = 0.25
"""The same, of what the rule of thumb says is needed."""
GROWTH = 4
"""Times the bytes of one round that the next reads at most: few splits are a poor guide to a hundred times as many."""
MEASURED = ("tokens", "stream")
"""Stages after which it is known how many tokens a part gave: about, and exactly."""
FEW_EPOCHS = 0.5
"""A source of which the mixture draws less is worth reading in part."""


@dataclass(frozen=True, eq=False)
class Choice:
    """The splits of a source that are read: the first `n` of its order."""

    splits: Sequence[Split]
    """All, in hashed order."""
    ends: np.ndarray
    """int64[splits]: stored bytes up to and with each."""
    n: int
    wanted: int | None = None
    """Training tokens; None: a share of the bytes."""
    train_share: float = 1.0
    """Of the tokens, those that are not held out, as expected."""
    rounds: int = 1
    counted: bool = False
    """Whether it goes by what dedup left of an earlier round; if not, by what filters leave."""

    @property
    def bytes(self) -> int:
        return int(self.ends[self.n - 1])

    @property
    def of_bytes(self) -> int:
        return int(self.ends[-1])

    @property
    def whole(self) -> bool:
        return self.n == len(self.splits)

    @property
    def chosen(self) -> list[Split]:
        """The splits that are read, in the source's order."""
        return sorted(self.splits[: self.n], key=lambda split: split.index)

    def upto(self, need: float) -> Choice:
        """The shortest prefix that holds so many stored bytes; at least one split, and all if they are fewer."""
        n = int(np.searchsorted(self.ends, need, "left")) + 1
        return replace(self, n=min(n, len(self.splits)))

    def grown(self, tokens: float, *, counted: bool) -> Choice:
        """The next round's, after this one gave so many training tokens; at least a split more."""
        assert self.wanted is not None
        need = self.bytes * (MARGIN * self.wanted / tokens) if tokens else math.inf
        n = max(self.n + 1, self.upto(min(need, GROWTH * self.bytes)).n)
        return replace(self, n=min(n, len(self.splits)), rounds=self.rounds + 1, counted=counted)

    def no_longer_than(self, left: Mapping[int, int], need: float) -> Choice:
        """The shortest prefix with so many of the bytes that filters left; `left` has them by split."""
        ends = np.cumsum([left[split.index] for split in self.splits[: self.n]])
        return replace(self, n=min(int(np.searchsorted(ends, need, "left")) + 1, self.n))


def hashed_order(splits: Sequence[Split], seed: int) -> Sequence[Split]:
    """The splits by hash(seed, first half of the first row's id, where the split begins in that file)."""
    return _taken(splits, _order(splits, seed))


def _order(splits: Sequence[Split], seed: int) -> np.ndarray:
    half, start = begins(splits)
    return np.lexsort((start, half, tables.mix(seed ^ SPLIT_SEED, half, start)))


def _taken(splits: Sequence[Split], order: np.ndarray) -> Sequence[Split]:
    return splits.taken(order) if isinstance(splits, OnDemand) else tuple(splits[i] for i in order)


def expected(source: Source, splits: Sequence[Split], seed: int, token_estimate: float) -> Choice | None:
    """What a source's `sample` or `tokens` will come to; None for one that is read whole.

    token_estimate : tokens of the whole source by rule of thumb; for `tokens` the answer is no better than that.
    """
    if source.sample is None and source.tokens is None:
        return None
    order = _order(splits, seed)
    everything = Choice(_taken(splits, order), np.cumsum(costs(splits)[order]), len(order))
    if source.sample is not None:
        # As the recipe has it: 0.07 of 100 bytes is 7, though the product of floats is more.
        return everything.upto(math.ceil(Fraction(repr(source.sample)) * everything.of_bytes))
    share = 1.0 - (source.heldout.fraction if source.heldout else 0.0)
    everything = replace(everything, wanted=source.tokens, train_share=share)
    train = token_estimate * share
    return everything.upto(everything.of_bytes * MARGIN * source.tokens / train) if train else everything  # type: ignore[operator]


def first_choice(source: SourcePlan) -> Choice | None:
    """What is read first: of a source with `tokens` the pilot; None for one that is read whole."""
    choice = source.expected
    if choice is None or choice.wanted is None:
        return choice
    return choice.upto(min(PILOT * choice.of_bytes, PILOT_PART * choice.bytes))


def narrowed(source: SourcePlan, choice: Choice | None) -> SourcePlan:
    """A source with the chosen splits alone. All of them are the source as if nothing had been chosen."""
    if choice is None or choice.whole:
        return source
    chosen = choice.chosen
    return replace(source, splits=chosen, part=tuple(split.index for split in chosen))


def train_tokens(source: SourceRun) -> float:
    """Training tokens that came of a source: exact once its stream is there, expected before."""
    assert source.tokens is not None
    if source.shuffled is not None:
        return float(total(source.shuffled.split("train"), "tokens"))
    share = source.choice.train_share if source.choice else 1.0
    return total(source.tokens.records, "tokens") * share


def too_short(sources: Iterable[SourceRun]) -> dict[str, Choice]:
    """The next round's choices of the sources that have fewer tokens than they want, and more to read."""
    found = {}
    for source in sources:
        choice = source.choice
        if choice is not None and choice.wanted is not None and not choice.whole:
            tokens = train_tokens(source)
            if tokens < choice.wanted:
                found[source.name] = choice.grown(tokens, counted=True)
    return found


def sampled_facts(source: SourceRun) -> dict[str, Any] | None:
    """What is used of a source whose stream is there; None for one that the recipe wants whole."""
    choice = source.choice
    if choice is None:
        return None
    return {
        "splits": choice.n,
        "of_splits": len(choice.splits),
        "bytes": choice.bytes,
        "of_bytes": choice.of_bytes,
        "rounds": choice.rounds,
        "wanted_tokens": choice.wanted,
        "met": choice.wanted is None or train_tokens(source) >= choice.wanted,
    }


def sampled_warnings(source: SourceRun) -> list[str]:
    """A sentence where a source was read to its end and has fewer tokens than the recipe wants."""
    facts = sampled_facts(source)
    if facts is None or facts["met"]:
        return []
    return [
        f"source {source.name!r} has {train_tokens(source):,.0f} training tokens after filters and dedup, "
        f"{facts['wanted_tokens']:,} are wanted; all of it was read"
    ]


def sampling_facts(plan: Plan) -> dict[str, dict[str, Any]]:
    """By name, what would be read of each source with `sample` or `tokens`; an estimate for `tokens`."""
    found = {}
    for source in plan.sources:
        choice = source.expected
        if choice is not None:
            found[source.name] = {
                "splits": choice.n,
                "of_splits": len(choice.splits),
                "bytes": choice.bytes,
                "of_bytes": choice.of_bytes,
                "wanted_tokens": choice.wanted,
            }
    return found


def proposals(plan: Plan, drawn: Mapping[str, float]) -> list[dict[str, Any]]:
    """Sources that are read whole and of which the mixture draws a small part, with the `tokens` that would do.

    drawn : tokens of each source that training draws, by estimate.
    """
    found = []
    for source in plan.sources:
        tokens, there = drawn.get(source.name, 0.0), source.token_estimate
        if source.expected is not None or not tokens or tokens >= FEW_EPOCHS * there:
            continue
        wanted = _rounded_up(tokens)
        asked = source.source.model_copy(update={"tokens": wanted})
        choice = expected(asked, source.splits, plan.recipe.seed, there)
        if choice is not None and not choice.whole:
            found.append(
                {
                    "source": source.name,
                    "epochs_estimate": tokens / there,
                    "tokens": wanted,
                    "bytes_estimate": choice.bytes,
                    "spared_bytes_estimate": choice.of_bytes - choice.bytes,
                }
            )
    return found


def _rounded_up(tokens: float) -> int:
    """To two digits."""
    unit = 10 ** max(0, len(str(math.ceil(tokens))) - 2)
    return math.ceil(tokens / unit) * unit


def sampling_lines(
    facts: Mapping[str, Mapping[str, Any]], proposed: Iterable[Mapping[str, Any]] = ()
) -> Iterator[str]:
    """What `sampling_facts` and `proposals` found, a sentence a source."""
    for name, part in facts.items():
        about, why = "", ""
        if part["wanted_tokens"] is not None:
            about, why = "~ ", f", until {show_count(part['wanted_tokens'])} tokens are there"
        yield (
            f"{name}: reads {about}{part['splits']:,} of {part['of_splits']:,} splits, "
            f"{show_bytes(part['bytes'])} of {show_bytes(part['of_bytes'])}{why}"
        )
    for one in proposed:
        yield (
            f"{one['source']}: ~ {one['epochs_estimate']:.2f} epochs are drawn; with `tokens: {_short(one['tokens'])}` "
            f"~ {show_bytes(one['bytes_estimate'])} would be read, ~ {show_bytes(one['spared_bytes_estimate'])} spared"
        )


def _short(tokens: int) -> str:
    """As a recipe would have it: 330B. Exact, for counts of two digits."""
    for unit, scale in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if tokens >= scale:
            return f"{tokens / scale:g}{unit}"
    return str(tokens)
