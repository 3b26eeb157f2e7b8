"""Which documents fail which rules: a rule is a score per document, and the bounds it has to keep.

A filter (gopher.py, length.py) is settings that turn into rules; a rule is named for the setting that is its
bound. All rules are decided for all documents, in order: the first that fails is the reason a document is
dropped for, and the mask of all that fail shows what every other rule would have done.

A bound may also be a fraction: the documents with the highest scores stay, so many of them as the fraction
says. Where that cut lies is known when all documents have been scored; `decide` is told (`Cut`).

Letters: n documents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

# NumPy is imported inside the functions that compute: settings modules import this one, and must stay light.

MAX_RULES = 64
"""Rules decided together: one bit each in a uint64."""


class Score(Protocol):
    """From signals to one number per document. `Signal` and `Ratio` are the usual ones."""

    @property
    def signals(self) -> tuple[str, ...]:
        """The names of the signals it reads."""

    def __call__(self, signals: Mapping[str, np.ndarray]) -> np.ndarray:
        """From ``{name: array[n]}`` to ``array[n]``; NaN where there is no number."""


@dataclass(frozen=True, slots=True)
class Signal:
    """The score that is one signal as it is."""

    name: str

    @property
    def signals(self) -> tuple[str, ...]:
        return (self.name,)

    def __call__(self, signals: Mapping[str, np.ndarray]) -> np.ndarray:
        return signals[self.name]


@dataclass(frozen=True, slots=True)
class Ratio:
    """The score that is one signal divided by another; NaN where the divisor is 0."""

    dividend: str
    divisor: str

    @property
    def signals(self) -> tuple[str, ...]:
        return (self.dividend, self.divisor)

    def __call__(self, signals: Mapping[str, np.ndarray]) -> np.ndarray:
        import numpy as np

        divisor = signals[self.divisor]
        quotient = np.full(len(divisor), np.nan)
        return np.divide(signals[self.dividend], divisor, out=quotient, where=divisor != 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """A score and the bounds it has to keep; a document fails when its score is below or above them.

    A score that is NaN fails no rule: no value, no verdict. (So an empty document passes a rule on mean word
    length; a rule on the number of words is what drops it.)
    """

    name: str
    """``<filter>.<setting>``: what the report of dropped documents says, and where to change it."""
    score: Score
    minimum: float | None = None
    """Lowest score that passes; None for no lower bound."""
    maximum: float | None = None
    """Highest score that passes; None for no upper bound."""
    fraction: float | None = None
    """Share of a source's documents that pass, those with the highest scores; in place of the bounds."""
    detail: str | None = None
    """Name of a signal of strings that says more about a document that fails; None where the score says it all."""
    source: str
    """Where the bound comes from."""

    def __post_init__(self) -> None:
        bounds = [bound for bound in (self.minimum, self.maximum) if bound is not None]
        if self.fraction is not None:
            if bounds or not 0 < self.fraction <= 1:
                raise ValueError(f"rule {self.name!r}: a fraction is above 0, at most 1, and the only bound")
            return
        if not bounds:
            raise ValueError(f"rule {self.name!r} has neither a minimum nor a maximum")
        if any(math.isnan(bound) for bound in bounds):
            raise ValueError(f"rule {self.name!r} has a bound that is not a number")
        if bounds != sorted(bounds):
            raise ValueError(f"rule {self.name!r} has a minimum above its maximum: {bounds[0]} > {bounds[1]}")


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a fraction of a source's documents ends."""

    score: float
    """The lowest score that passes."""
    draw: int
    """Of documents with just that score, those whose draw is at most this pass (-1: none of them)."""


@dataclass(frozen=True, eq=False, slots=True)
class Verdicts:
    """What `decide` found for n documents."""

    first: np.ndarray
    """int16[n]: index of the first rule that fails, -1 where none does: the document is kept."""
    failing: np.ndarray
    """uint64[n]: bit i is set where rule i fails."""
    score: np.ndarray
    """float64[n]: the score under the first failing rule; NaN where kept."""
    threshold: np.ndarray
    """float64[n]: the bound of the first failing rule that was crossed; NaN where kept."""


def score_of(rule: Rule, signals: Mapping[str, np.ndarray], n: int) -> np.ndarray:
    """The rule's score of each of n documents, float64[n].

    Raises
    ------
    KeyError
        A signal that the rule needs is not among `signals`.
    ValueError
        The score is not one number per document.
    """
    import numpy as np

    score = np.asarray(rule.score(signals), np.float64)
    if score.shape != (n,):
        raise ValueError(f"rule {rule.name!r} scores an array of shape {score.shape} for {n} documents")
    return score


def decide(
    rules: Sequence[Rule],
    signals: Mapping[str, np.ndarray],
    n: int,
    cuts: Mapping[int, Cut] | None = None,
    draws: np.ndarray | None = None,
) -> Verdicts:
    """Hold n documents against every rule, in order.

    Scores are compared as float64. Memory: 26 bytes per document for the result, and about as much while one
    rule is decided.

    Parameters
    ----------
    cuts
        Where the rules with a fraction cut, by index of the rule. Such a rule without a cut fails nobody.
    draws : uint64[n]
        Each document's own random number, which decides between equal scores; needed with `cuts`.

    Raises
    ------
    KeyError
        A signal that a rule needs is not among `signals`.
    ValueError
        More than `MAX_RULES` rules, or a score that is not one number per document.
    """
    import numpy as np

    if len(rules) > MAX_RULES:
        raise ValueError(f"at most {MAX_RULES} rules can be decided together, not {len(rules)}")
    first = np.full(n, -1, np.int16)
    failing = np.zeros(n, np.uint64)
    first_score, threshold = np.full(n, np.nan), np.full(n, np.nan)
    for i, rule in enumerate(rules):
        score = score_of(rule, signals, n)
        minimum, maximum = rule.minimum, rule.maximum
        if rule.fraction is not None and cuts is not None and i in cuts:
            minimum = cuts[i].score
        # A comparison with NaN is false, so that a score without a value fails nothing.
        too_low = score < (-np.inf if minimum is None else minimum)
        too_high = score > (np.inf if maximum is None else maximum)
        if rule.fraction is not None and cuts is not None and i in cuts:
            too_low |= (score == minimum) & _above(draws, cuts[i].draw)
        fails = too_low | too_high
        failing[fails] |= np.uint64(1 << i)
        decided_here = fails & (first < 0)
        first[decided_here] = i
        first_score[decided_here] = score[decided_here]
        threshold[decided_here & too_low] = minimum
        threshold[decided_here & too_high] = maximum
    return Verdicts(first, failing, first_score, threshold)


def _above(draws: np.ndarray | None, last: int) -> np.ndarray:
    """Which draws come after the last one that passes."""
    import numpy as np

    if draws is None:
        raise ValueError("cuts need the documents' draws")
    return np.ones(len(draws), bool) if last < 0 else draws > np.uint64(last)
