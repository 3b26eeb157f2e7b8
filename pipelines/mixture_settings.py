"""What may a recipe say about the mixture?

A source has a weight, `mixture.weights` says what weights mean, and groups nest: a group has a weight of its own
among its neighbours, and a rule for what is in it. What comes of it is arithmetic (shards/mixture.py). `printed` holds
numbers that somebody published; they are compared with the recomputed ones and never used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from winnow.pipelines.located import nearest, shown
from winnow.pipelines.numbers import COUNTS, NUMBER, parse_count, parse_fraction
from winnow.shards.mixture import AMOUNTS, Over, Rule, off_one
from winnow.shards.printed import Figure

WEIGHTED = ("proportions", "relative", "tokens", "epochs")
"""Rules for which every member has a weight; `repeats` takes 1 where there is none, the others go by sizes."""
DEEPEST = 16
"""Levels of groups."""
MOST_PLACES = 12
"""That print a quantity; every choice of places is tried."""
Path = tuple[str | int, ...]
Text = Annotated[str, Field(min_length=1)]


def weight(value: Any) -> Any:
    """A weight: 0.3, "30%", or a count such as "330B"."""
    if isinstance(value, bool):
        raise ValueError(f"a number is wanted, not {shown(value)}")
    if not isinstance(value, str):
        return value
    for parse in (parse_count, parse_fraction):
        try:
            return float(parse(value))
        except ValueError:
            continue
    raise ValueError(f"a number is wanted, not {shown(value)}")


Weight = Annotated[float, BeforeValidator(weight), Field(gt=0, le=1e18)]
Count = Annotated[int, BeforeValidator(parse_count)]
Number = Annotated[float, BeforeValidator(weight)]


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Group(Settings):
    """Sources (and groups) that share one part of the mixture."""

    of: Annotated[tuple[Text, ...], Field(min_length=1)]
    """Names of sources and of other groups; each belongs to one group at most."""
    weight: Weight | None = None
    """Among its neighbours, as a source's."""
    weights: Rule | None = None
    """How the group's part is split; default: `proportions` where its members have weights, else `natural`."""
    temperature: Annotated[Number, Field(ge=1)] | None = None
    """Of the rule `temperature`."""


class Mixture(Settings):
    weights: Rule | None = None
    """What the sources' weights mean: `proportions` of the tokens drawn (they sum to 1), `relative` ones (they are
    normalised), `tokens` drawn, `epochs` of each source, `repeats` of each source in a pass over the whole (Cosmo's
    x2); or, without weights, `natural` (by size), `temperature` (by size to the power of 1/T), `unimax` (as even as
    `max_epochs` allows). Default: `proportions` where the sources have weights, else `natural`."""
    temperature: Annotated[Number, Field(ge=1)] | None = None
    """T of the rule `temperature`: 1 is natural, larger is more even."""
    tokens: Annotated[Count, Field(gt=0)] | None = None
    """The training run's tokens; default: what the weights and `epochs` come to, else as many as there are."""
    epochs: Annotated[Number, Field(gt=0, le=1e9)] | None = None
    """Passes over the whole, in place of `tokens`: Cosmo-1B's six."""
    max_epochs: Annotated[Number, Field(gt=0, le=1e9)] | None = None
    """The most epochs of any source."""
    over_max_epochs: Over = "fail"
    """When a source would be repeated more often: stop the run, or hold it at `max_epochs` and spread what is left
    over the others in the ratio of their shares."""
    groups: dict[Text, Group] = {}
    """Groups by name. What is in no group shares the whole under `weights`."""
    output: Literal["streams", "mixed"] = "streams"
    """`streams`: a stream of shards per source, mixed by the trainer's loader in the shares of `streams.yaml`.
    `mixed`: one stream, in an order that is the mixture."""
    group_by: Annotated[tuple[Text, ...], BeforeValidator(_as_tuple)] = ()
    """Fields of `meta` that the statistics are also counted by."""


def figure(written: int | float | str) -> Figure:
    """A printed number with the precision it is written in: `417.99B` is good to 5 M, `30%` to 0.5 %.

    Raises ValueError.
    """
    # From 1e16 on a float is written with an exponent, which would stand for one digit.
    text = str(int(written) if isinstance(written, float) and 1e16 <= written < 1e99 else written).strip()
    percent = text.endswith("%")
    match = NUMBER.fullmatch(text.removesuffix("%"))
    unit = match[2].upper() if match else ""
    if isinstance(written, bool) or match is None or unit not in COUNTS or (percent and unit):
        raise ValueError(f"a number such as 0.14, 30% or 417.99B is wanted, not {shown(written)}")
    number = Decimal(match[1].replace("_", ""))
    if not number:
        raise ValueError(f"must be above 0, not {shown(written)}")
    scale = Decimal(COUNTS[unit]) / (100 if percent else 1)
    digit = Decimal((0, (1,), int(number.as_tuple().exponent)))
    return Figure(float(number * scale), float(digit * scale / 2))


def _readable(written: Any) -> Any:
    figure(written)
    return written


Written = Annotated[int | float | str, BeforeValidator(_readable)]
"""A printed number as it is printed: its digits are kept."""


class Printed(Settings):
    """What a card or paper prints about a source. Checked, never used."""

    tokens: Written | None = None
    """In the source."""
    proportion: Written | None = None
    effective_tokens: Written | None = None
    epochs: Written | None = None


def _places(value: Any) -> Any:
    """A number, several that are summed, or either by the place that prints it."""
    if value is None:
        return {}
    by_place = value if isinstance(value, Mapping) else {"": value}
    if any(given in ([], ()) for given in by_place.values()):
        raise ValueError("must not be empty")
    if len(by_place) > MOST_PLACES:
        raise ValueError(f"at most {MOST_PLACES} places are compared, not {len(by_place)}")
    return {place: given if isinstance(given, list | tuple) else [given] for place, given in by_place.items()}


Places = Annotated[dict[str, tuple[Written, ...]], BeforeValidator(_places)]


class PrintedRun(Settings):
    """What is printed about a training run: a number, a list whose sum it is, or either by the place that prints it."""

    tokens: Places = {}
    source_tokens: Places = {}
    """In all sources."""
    epochs: Places = {}
    steps: Places = {}
    batch_tokens: Places = {}
    batch_samples: Places = {}
    sequence_length: Places = {}


def rule_of(given: Rule | None, weights: Iterator[float | None]) -> Rule:
    """The rule of a group: the one that is given, else `proportions` where a member has a weight, else `natural`."""
    if given is not None:
        return given
    return "proportions" if any(weight is not None for weight in weights) else "natural"


def mixture_mistakes(mixture: Mixture, sources: Mapping[str, float | None]) -> Iterator[tuple[Path, str]]:
    """(place, what is wrong) of what contradicts itself in the settings of a mixture and the sources' weights."""
    wrong_groups = list(_wrong_groups(mixture, sources))
    yield from wrong_groups
    if wrong_groups:
        return
    grouped = {name for group in mixture.groups.values() for name in group.of}
    whole = tuple(name for name in (*sources, *mixture.groups) if name not in grouped)
    weights = {**sources, **{name: group.weight for name, group in mixture.groups.items()}}
    rules = {
        "": rule_of(mixture.weights, (weights[n] for n in whole)),
        **{name: rule_of(g.weights, (weights[n] for n in g.of)) for name, g in mixture.groups.items()},
    }
    yield from _wrong_level(mixture, ("mixture",), "", whole, weights, rules)
    for name, group in mixture.groups.items():
        yield from _wrong_level(group, ("mixture", "groups", name), name, group.of, weights, rules)
    yield from _wrong_amounts(mixture, whole, rules)
    yield from _wrong_length(mixture, rules)


def _wrong_groups(mixture: Mixture, sources: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    known = (*sources, *mixture.groups)
    owner: dict[str, str] = {}
    for name, group in mixture.groups.items():
        place: Path = ("mixture", "groups", name)
        if name in sources:
            yield place, f"{name!r} is a source already; a group needs a name of its own"
        for i, member in enumerate(group.of):
            if member not in known:
                yield (
                    (*place, "of", i),
                    f"there is no source or group {shown(member)}{nearest(member, known)}",
                )
            elif member in owner:
                where = (
                    "is in it twice" if owner[member] == name else f"is in group {owner[member]!r} already"
                )
                yield (*place, "of", i), f"{member!r} {where}; a part belongs to one group"
            owner.setdefault(member, name)
    yield from _wrong_nesting(mixture, owner)


def _wrong_nesting(mixture: Mixture, owner: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    """Groups that hold themselves; or, where none does, the first that lies too deep."""
    deep = None
    circular = False
    for name in mixture.groups:
        above = [name]
        at: str | None = owner.get(name)
        while at is not None and at != name and len(above) < DEEPEST:
            above.append(at)
            at = owner.get(at)
        if at == name:
            circular = True
            way = " in ".join(repr(n) for n in (*above, name))
            yield ("mixture", "groups", name), f"a group cannot hold itself: {way}"
        elif at is not None and deep is None:
            deep = name
    if deep is not None and not circular:
        yield ("mixture", "groups", deep), f"groups are nested more than {DEEPEST} deep"


def _wrong_level(
    settings: Mixture | Group,
    place: Path,
    name: str,
    members: tuple[str, ...],
    weights: Mapping[str, float | None],
    rules: Mapping[str, Rule],
) -> Iterator[tuple[Path, str]]:
    """Of a group, or of the whole: a rule and weights that do not go together."""
    rule = rules[name]
    with_weight = [n for n in members if weights[n] is not None]
    # A group whose own weights are amounts has them for its weight.
    without = [n for n in members if weights[n] is None and not (rule in AMOUNTS and rules.get(n) in AMOUNTS)]
    if rule in WEIGHTED:
        for n in without:
            why = f"{with_weight[0]!r} has one" if with_weight else f"`weights: {rule}` goes by weights"
            yield _place_of(n, rules), f"{_kind(n, rules)} {n!r} has no weight, but {why}"
    elif rule != "repeats":
        for n in with_weight:
            message = f"{_kind(n, rules)} {n!r} has a weight, but its shares go by size (`weights: {rule}`)"
            yield (*_place_of(n, rules), "weight"), message
    if rule == "tokens":
        for n in with_weight:
            if (weights[n] or 0) < 1:
                message = f"`weights: tokens` is given, and {weights[n]:g} is no number of tokens"
                yield (*_place_of(n, rules), "weight"), message
    if rule == "proportions" and not without and (wrong := off_one([weights[n] or 0 for n in members])):
        part = f"in group {name!r} " if name else ""
        yield (*_place_of(members[-1], rules), "weight"), part + wrong
    if settings.temperature is not None and rule != "temperature":
        yield (*place, "temperature"), f"a temperature is given, but the rule is `weights: {rule}`"
    if settings.temperature is None and rule == "temperature":
        yield (*place, "weights"), "`weights: temperature` needs a `temperature`"


def _kind(name: str, rules: Mapping[str, Rule]) -> str:
    return "group" if name in rules else "source"


def _place_of(name: str, rules: Mapping[str, Rule]) -> Path:
    return ("mixture", "groups", name) if name in rules else ("sources", name)


def _wrong_amounts(
    mixture: Mixture, whole: tuple[str, ...], rules: Mapping[str, Rule]
) -> Iterator[tuple[Path, str]]:
    """Groups whose weights are amounts: they say what the group gets, so nothing above may say it too."""
    above = {member: name for name, group in mixture.groups.items() for member in group.of}
    for name, group in mixture.groups.items():
        rule, outer = rules[name], rules[above.get(name, "")]
        if rule not in AMOUNTS:
            continue
        place: Path = ("mixture", "groups", name)
        if outer not in AMOUNTS:
            message = (
                f"`weights: {rule}` says how much is drawn, but group {name!r} gets a part by `weights: {outer}`; "
                "write `weights: relative`"
            )
            yield (*place, "weights"), message
        elif group.weight is not None:
            message = f"group {name!r} draws what its members' weights say (`weights: {rule}`), and has a weight too"
            yield (*place, "weight"), message


def _wrong_length(mixture: Mixture, rules: Mapping[str, Rule]) -> Iterator[tuple[Path, str]]:
    """Settings that say the run's length twice, or not where it is needed."""
    for key in ("tokens", "epochs"):
        if getattr(mixture, key) is not None and rules[""] in AMOUNTS:
            yield ("mixture", key), f"`weights: {rules['']}` says already how much is drawn"
    if mixture.tokens is not None and mixture.epochs is not None and rules[""] not in AMOUNTS:
        yield (
            ("mixture", "epochs"),
            "`tokens` and `epochs` both say how long the run is; one of them is enough",
        )
    bounded = mixture.tokens is not None or mixture.epochs is not None or rules[""] in AMOUNTS
    for name in (name for name, rule in rules.items() if rule == "unimax"):
        place: Path = ("mixture", "groups", name, "weights") if name else ("mixture", "weights")
        if mixture.max_epochs is None:
            yield place, "`weights: unimax` needs `mixture.max_epochs`"
        if not bounded:
            yield place, "`weights: unimax` needs the run's length: `mixture.tokens` or `mixture.epochs`"
    if mixture.over_max_epochs == "spread" and mixture.max_epochs is None:
        yield ("mixture", "over_max_epochs"), "there is no `max_epochs` that a source could pass"
