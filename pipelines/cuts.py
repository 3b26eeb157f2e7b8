"""Where does a fraction of a source's documents end?

A rule with a fraction keeps the documents with the highest scores, of those that pass every rule before it in
the last segment: exactly ⌈fraction · n⌉ of the n that have a score. Equal scores are told apart by a hash of the
seed and the document's id. How the cut is found from stored signals, without gathering documents, is in
order_statistic.py.

Memory: that of order_statistic.py, and a row group of signals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from winnow.filters.rules import Cut, Rule, score_of
from winnow.pipelines.documents import numbers
from winnow.pipelines.engine import Done, Work
from winnow.pipelines.order_statistic import find_last, groups_of, places_of
from winnow.pipelines.verdicts import decided, draws_of, signal_batches


@dataclass(frozen=True, slots=True)
class Scored:
    """The documents of some splits that a rule's fraction is taken of."""

    documents: str
    """Location of the documents stage."""
    splits: tuple[int, ...]
    rules: tuple[Rule, ...]
    """The last segment's, up to the one that cuts, which is the last here."""
    cuts: Mapping[int, Cut]
    """Of those before it."""
    seed: int

    def places(self) -> Iterator[np.ndarray]:
        """Of the documents that pass the rules before and have a score, the highest first."""
        for split in self.splits:
            for batch in signal_batches(self.documents, split, self.rules):
                before = decided(self.rules[:-1], batch, self.cuts, self.seed)
                signals = numbers(dict(zip(batch.schema.names, batch.columns, strict=True)))
                score = score_of(self.rules[-1], signals, batch.num_rows)
                wanted = (before.first < 0) & ~np.isnan(score)
                yield places_of(score[wanted], draws_of(batch, self.seed)[wanted])


def find_cuts(
    source: str, documents: Done, rules: Sequence[Rule], seed: int, part: Sequence[int] | None = None
) -> Work[dict[int, Cut]]:
    """The cut of every rule of the last segment that has a fraction, by its index; {} where none has.

    part : numbers of the splits that are looked at, whose records `documents` has; None: all of the source.
    """
    cuts: dict[int, Cut] = {}
    splits = [r.index for r in documents.records]
    groups = groups_of([r.counts["documents"] for r in documents.records])
    for index, rule in enumerate(rules):
        if rule.fraction is None:
            continue
        upto = tuple(rules[: index + 1])
        settings: dict[str, Any] = {
            "rules": [rule_identity(r) for r in upto],
            "cuts": [[i, c.score, c.draw] for i, c in cuts.items()],
            "seed": seed,
        }
        if part is not None:
            settings["splits"] = list(part)
        parts = [Scored(documents.location, tuple(splits[a:b]), upto, dict(cuts), seed) for a, b in groups]
        last = yield from find_last(
            f"cut{index}", source, parts, rule.fraction, settings, (documents.stage.directory,)
        )
        if last is not None:
            cuts[index] = Cut(last.score, last.low)
    return cuts


def rule_identity(rule: Rule) -> list[Any]:
    """What a rule decides by, as JSON can say it."""
    return [rule.name, rule.minimum, rule.maximum, rule.fraction, repr(rule.score)]
