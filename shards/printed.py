"""Do the numbers that a model card or paper prints about its data fit each other?

Cards round, and cards err: MPT-7B's prints 417.99 B tokens of mC4 of which 330 B are 0.14 epochs. Printed numbers are
compared with what follows from the others, and never changed. A *finding* names both numbers, where they are
printed, and what would make them fit.

When do two numbers agree? A printed number stands for every number that rounds to its digits: `417.99B` for
417.985 B to 417.995 B, `30B` for 29.5 B to 30.5 B. What is computed from printed numbers is an interval likewise.
Two numbers agree when their intervals meet, or they differ by at most 5 % (`CLOSE`): cards compute from more digits
than they print, and round what they compute with. Of a run's own numbers the digits count up to the same 5 %: `1T`
is no half of it more or less. A number that is merely copied (a share that the recipe has from
the card) has its digits alone to agree by.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

CLOSE = 0.05
"""Relative difference of numbers that agree."""
SUM_ERROR = 1e-3
"""How far printed shares may be from 1 in sum, where their digits do not explain more."""
IDENTITIES = (
    ("tokens", ("steps", "batch_tokens")),
    ("batch_tokens", ("batch_samples", "sequence_length")),
    ("tokens", ("epochs", "source_tokens")),
)
"""A quantity of a run, and those whose product it is."""
OF_SOURCES = "the sum of the sources"
"""The place of a number that nobody printed: what the sources' printed numbers come to."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A printed number."""

    value: float
    half_unit: float = 0.0
    """Half a unit of its last printed digit."""

    @property
    def low(self) -> float:
        return self.value - self.half_unit

    @property
    def high(self) -> float:
        return self.value + self.half_unit

    def __mul__(self, other: Figure) -> Figure:
        return _between(self.value * other.value, self.low * other.low, self.high * other.high)

    def __truediv__(self, other: Figure) -> Figure:
        low = other.low if other.low > 0 else other.value
        return _between(self.value / other.value, self.low / other.high, self.high / low)

    def __add__(self, other: Figure) -> Figure:
        return Figure(self.value + other.value, self.half_unit + other.half_unit)


def _between(value: float, low: float, high: float) -> Figure:
    return Figure(value, max(value - low, high - value))


@dataclass(frozen=True, slots=True)
class PrintedSource:
    """What is printed about a source, and the share of the tokens that the recipe gives it."""

    name: str
    tokens: Figure | None = None
    proportion: Figure | None = None
    effective_tokens: Figure | None = None
    epochs: Figure | None = None
    share: float | None = None
    """None where the recipe's weights name no share."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A printed number that does not fit."""

    what: str
    """The quantity, and of what: `epochs of mc4`, `steps`."""
    printed: float
    recomputed: float
    """From the other printed numbers; or what another place prints."""
    where: str
    """The place that prints the number; empty where none is named."""
    message: str
    """A sentence with both numbers and what would make them fit."""
    source: str | None = None


def agree(printed: Figure, other: Figure, close: float = CLOSE) -> bool:
    """Whether a printed number is another one up to rounding and `close` of the other."""
    rounding = 1e-9 * abs(other.value)
    if printed.low <= other.high + rounding and other.low <= printed.high + rounding:
        return True
    return abs(printed.value - other.value) <= close * abs(other.value)


def findings(sources: Sequence[PrintedSource], run: Mapping[str, Mapping[str, Figure]]) -> list[Finding]:
    """Everything printed that does not fit, sources first.

    run : quantity -> place -> number, for the quantities of IDENTITIES; the place is empty where none is named.
    """
    found = list(_of_shares(sources))
    quantities = {
        name: {place: Figure(f.value, min(f.half_unit, CLOSE * f.value)) for place, f in places.items()}
        for name, places in run.items()
    }
    budgets = list(quantities.get("tokens", {}).values())
    if not budgets and (total := _total([s.effective_tokens for s in sources])):
        budgets = [total]
    for source in sources:
        found += _of_source(source, budgets)
    flagged: set[tuple[str, str]] = set()
    for whole, factors in IDENTITIES:
        for place, finding in _of_identity(quantities, whole, factors):
            if (finding.what, place) not in flagged:
                found.append(finding)
            flagged.add((finding.what, place))
    sums = {
        "tokens": _total([s.effective_tokens for s in sources]),
        "source_tokens": _total([s.tokens for s in sources]),
    }
    for name, places in quantities.items():
        if places and (total := sums.get(name)):
            places[OF_SOURCES] = total
        found += _of_places(name, {p: n for p, n in places.items() if (name, p) not in flagged})
    return found


def _total(figures: Sequence[Figure | None]) -> Figure | None:
    known = [figure for figure in figures if figure is not None]
    return sum(known[1:], known[0]) if known and len(known) == len(figures) else None


def _of_shares(sources: Sequence[PrintedSource]) -> Iterator[Finding]:
    figures = [s.proportion for s in sources]
    total = _total(figures)
    if total is None:
        return
    # A table has one number of decimals: that of the row that needs most.
    rounding = len(figures) * min(f.half_unit for f in figures if f is not None)
    if abs(total.value - 1) > max(SUM_ERROR, rounding) * (1 + 1e-9):
        message = f"the printed proportions sum to {total.value:.6g}, {abs(total.value - 1):.4g} from 1"
        yield Finding("proportions", total.value, 1.0, "", message)


def _of_source(source: PrintedSource, budgets: Sequence[Figure]) -> Iterator[Finding]:
    """At most a finding for each of: the share, the effective tokens, the epochs."""
    name, printed = source.name, source.proportion
    if printed is not None and source.share is not None and not agree(printed, Figure(source.share), 0):
        message = f"{name}: the proportion printed is {printed.value:.6g}, the recipe's is {source.share:.6g}"
        yield Finding(f"proportion of {name}", printed.value, source.share, "", message, name)
    effective = source.effective_tokens
    if printed is not None and budgets:
        products = [printed * budget for budget in budgets]
        if effective is None:
            effective = products[0] if len(products) == 1 else None
        elif not any(agree(effective, product) for product in products):
            yield _unfit_effective(source, effective, printed, budgets[0])
    if source.epochs is None or source.tokens is None or effective is None:
        return
    recomputed = effective / source.tokens
    if not agree(source.epochs, recomputed):
        fitting = effective / source.epochs
        message = (
            f"{name}: {source.epochs.value:g} epochs are printed, but {shown(effective.value)} of "
            f"{shown(source.tokens.value)} tokens are {recomputed.value:.3g}; it would fit with "
            f"{_range(effective, source.epochs)} tokens in the source (about {shown(fitting.value)})"
        )
        yield Finding(f"epochs of {name}", source.epochs.value, recomputed.value, "", message, name)


def _unfit_effective(source: PrintedSource, effective: Figure, proportion: Figure, budget: Figure) -> Finding:
    product = proportion * budget
    message = (
        f"{source.name}: {shown(effective.value)} effective tokens are printed, but {proportion.value:.4g} of "
        f"{shown(budget.value)} are {shown(product.value)}; it would fit with a proportion of "
        f"{(effective / budget).value:.4g}"
    )
    what = f"effective_tokens of {source.name}"
    return Finding(what, effective.value, product.value, "", message, source.name)


def _range(effective: Figure, epochs: Figure) -> str:
    """The sizes of a source of which so many tokens are so many epochs, by the digits of the epochs."""
    low = shown(effective.value / epochs.high)
    return f"{low} to {shown(effective.value / epochs.low)}" if epochs.low > 0 else f"at least {low}"


def _of_identity(
    run: Mapping[str, Mapping[str, Figure]], whole: str, factors: tuple[str, str]
) -> Iterator[tuple[str, Finding]]:
    """(place, finding) of the numbers that no choice of places makes fit; one for the identity where none fits."""
    names = (whole, *factors)
    if not all(run.get(name) for name in names):
        return
    choices = [
        dict(zip(names, places, strict=True)) for places in itertools.product(*(run[name] for name in names))
    ]
    fitting = [c for c in choices if _holds(run, c, whole, factors)]
    for name in names if fitting else (whole,):
        for place in run[name]:
            if not any(choice[name] == place for choice in fitting):
                here = [choice for choice in choices if choice[name] == place]
                yield place, _unfit(run, here, name, whole, factors, can_fit=bool(fitting))


def _holds(
    run: Mapping[str, Mapping[str, Figure]], at: Mapping[str, str], whole: str, factors: tuple[str, str]
) -> bool:
    a, b = (run[name][at[name]] for name in factors)
    return agree(run[whole][at[whole]], a * b)


def _unfit(
    run: Mapping[str, Mapping[str, Figure]],
    choices: Sequence[Mapping[str, str]],
    name: str,
    whole: str,
    factors: tuple[str, str],
    *,
    can_fit: bool,
) -> Finding:
    """A number against what the others come to, with the choice of their places that comes nearest.

    choices : those with the number's own place.
    can_fit : whether the same quantity is printed elsewhere and fits there.
    """
    place = choices[0][name]
    printed = run[name][place]

    def follows(at: Mapping[str, str], wanted: str) -> float:
        a, b = (run[factor][at[factor]].value for factor in factors)
        if wanted == whole:
            return a * b
        return run[whole][at[whole]].value / (b if wanted == factors[0] else a)

    nearest = min(choices, key=lambda at: abs(math.log(follows(at, name) / printed.value)))
    names = [name, *(other for other in (whole, *factors) if other != name)]
    others = " and ".join(f"{o} {shown(run[o][nearest[o]].value)}{_at(nearest[o])}" for o in names[1:])
    recomputed = follows(nearest, name)
    message = (
        f"{name} {shown(printed.value)}{_at(place)} does not fit {others}, from which {shown(recomputed)} "
        f"follows ({whole} = {' x '.join(factors)})"
    )
    if can_fit:
        elsewhere = [f"{shown(f.value)}{_at(at)}" for at, f in run[name].items() if at != place]
        message += f"; printed elsewhere: {', '.join(elsewhere)}"
    else:
        message += f"; it would fit with {', or '.join(f'{o} {shown(follows(nearest, o))}' for o in names)}"
    return Finding(name, printed.value, recomputed, place, message)


def _of_places(name: str, places: Mapping[str, Figure]) -> Iterator[Finding]:
    """A finding for each place that disagrees with the first that prints a quantity."""
    first = next(iter(places), "")
    for place, other in places.items():
        if not agree(places[first], other):
            message = (
                f"{name}: {shown(places[first].value)}{_at(first)}, but {shown(other.value)}{_at(place)}"
            )
            yield Finding(name, places[first].value, other.value, first, message)


def _at(place: str) -> str:
    return f" ({place})" if place else ""


def shown(number: float) -> str:
    """A number for a sentence, to five digits from a billion on: 417.99B, 2,097,152, 0.6755."""
    for unit, scale in (("T", 1e12), ("B", 1e9)):
        if number >= scale:
            return f"{number / scale:.5g}{unit}"
    return f"{number:,.0f}" if number >= 1000 else f"{number:.4g}"
