"""Which documents fail which rules: a rule is a score per document, and the bounds it has to keep.

A filter (gopher.py, length.py) is settings that turn into rules; a rule is named for the setting that is its
bound. All rules are decided for all documents, in order: the first that fails is the reason a document is
dropped for, and the mask of all that fail shows what every other rule would have done.

Letters: n documents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# NumPy is imported inside the functions that compute: settings modules import this one, and must stay light.

MAX_RULES = 64
"""Rules decided together: one bit each in a uint64."""

Score = Callable[[Mapping[str, "np.ndarray"]], "np.ndarray"]
"""From signals ``{name: array[n]}`` to one number per document, ``array[n]``; NaN where there is none.
`Signal` and `Ratio` are the usual ones: they can be compared and pickled."""


@dataclass(frozen=True, slots=True)
class Signal:
    """The score that is one signal as it is."""

    name: str

    def __call__(self, signals: Mapping[str, np.ndarray]) -> np.ndarray:
        return signals[self.name]


@dataclass(frozen=True, slots=True)
class Ratio:
    """The score that is one signal divided by another; NaN where the divisor is 0."""

    dividend: str
    divisor: str

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
    source: str
    """Where the bound comes from."""

    def __post_init__(self) -> None:
        bounds = [bound for bound in (self.minimum, self.maximum) if bound is not None]
        if not bounds:
            raise ValueError(f"rule {self.name!r} has neither a minimum nor a maximum")
        if any(math.isnan(bound) for bound in bounds):
            raise ValueError(f"rule {self.name!r} has a bound that is not a number")
        if bounds != sorted(bounds):
            raise ValueError(f"rule {self.name!r} has a minimum above its maximum: {bounds[0]} > {bounds[1]}")


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


def decide(rules: Sequence[Rule], signals: Mapping[str, np.ndarray], n: int) -> Verdicts:
    """Hold n documents against every rule, in order.

    Scores are compared as float64. Memory: 26 bytes per document for the result, and about as much while one
    rule is decided.

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
        # A comparison with NaN is false, so that a score without a value fails nothing.
        too_low = score < (-np.inf if rule.minimum is None else rule.minimum)
        too_high = score > (np.inf if rule.maximum is None else rule.maximum)
        fails = too_low | too_high
        failing[fails] |= np.uint64(1 << i)
        decided_here = fails & (first < 0)
        first[decided_here] = i
        first_score[decided_here] = score[decided_here]
        threshold[decided_here & too_low] = rule.minimum
        threshold[decided_here & too_high] = rule.maximum
    return Verdicts(first, failing, first_score, threshold)
