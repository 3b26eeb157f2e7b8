"""What may a recipe say about duplicates?

A step is asked for in a source (`true`, its settings, or, for MinHash, a preset's name), or under the recipe's
`dedup` with the sources to compare. What each step's settings mean is said where they are defined, in filters/.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model
from winnow.filters.bloom_settings import Bloom
from winnow.filters.decontaminate_settings import Decontaminate
from winnow.filters.exact_settings import Exact
from winnow.filters.lines_settings import Lines
from winnow.filters.minhash_settings import MinHash
from winnow.filters.semantic_settings import Prototypes, Semantic
from winnow.filters.substring_settings import Substrings
from winnow.pipelines.located import nearest, shown
from winnow.pipelines.numbers import parse_bytes, parse_count, parse_fraction

STEPS: dict[str, type[BaseModel]] = {
    "exact": Exact,
    "lines": Lines,
    "minhash": MinHash,
    "bloom": Bloom,
    "substrings": Substrings,
    "decontaminate": Decontaminate,
    "semantic": Semantic,
    "prototypes": Prototypes,
}
"""The steps, in the order they are done in, and their settings."""
WITH_EARLIER = ("exact", "minhash")
"""Steps that can compare with what an earlier run kept."""
WITH_VECTORS = ("semantic", "prototypes")
"""Steps that compare vectors of documents."""
Text = Annotated[str, Field(min_length=1)]


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


SIZES = ("memory", "min_bytes")
"""Settings that are sizes in bytes, and may be written with a unit."""


def filled(model: type[BaseModel], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with numbers as recipes may write them: `300M`, `1.5B`, `64MiB`, `80%`."""
    fields = model.model_fields
    return {k: _number(k, fields[k].annotation, v) if k in fields else v for k, v in given.items()}


def _number(name: str, annotation: Any, value: Any) -> Any:
    kinds = {getattr(kind, "__origin__", kind) for kind in get_args(annotation) or (annotation,)}
    if isinstance(value, bool) and bool not in kinds and kinds & {int, float}:
        return shown(value)  # pydantic would take true for 1
    if isinstance(value, str) and int in kinds:
        try:
            return parse_bytes(value) if name in SIZES else parse_count(value)
        except ValueError:
            return value  # pydantic says what is wrong, at the setting
    if isinstance(value, str) and float in kinds and value.rstrip().endswith("%"):
        with suppress(ValueError):
            return parse_fraction(value)
    return value


class Against(BaseModel):
    """What a step may be asked beside its settings where it is asked for."""

    against: Annotated[tuple[Text, ...], BeforeValidator(_as_tuple)] = ()
    """Earlier runs: their RUN directories. Documents like one that they kept go; theirs stay, and are not read."""


def _asked_for(name: str) -> Any:
    """The settings of a step in a source: `true` takes them as they are, `false` leaves the step out."""
    model = _model(name)

    def read(value: Any) -> Any:
        if value is True:
            return {}
        if value is None or value is False:
            return None
        if isinstance(value, str) and "preset" in model.model_fields:
            return {"preset": value}
        if isinstance(value, Mapping):
            return filled(model, value)
        preset = ", a preset's name" if "preset" in model.model_fields else ""
        raise ValueError(f"true, false{preset} or the step's settings are wanted, not {shown(value)}")

    return Annotated[model | None, BeforeValidator(read)]


def _across(name: str) -> Any:
    """The settings of a step with the sources that it compares."""
    sources: Any = (Annotated[list[str], Field(min_length=2)], ...)
    across = create_model(f"{name}_across", __base__=_model(name), across=sources)

    def read(value: Any) -> Any:
        return filled(across, value) if isinstance(value, Mapping) else value

    return Annotated[across | None, BeforeValidator(read)]


def _model(name: str) -> type[BaseModel]:
    return create_model(name, __base__=(STEPS[name], Against)) if name in WITH_EARLIER else STEPS[name]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceDedup(_Settings):
    """Steps within one source, for those that the recipe's `dedup` does not compare with others."""

    exact: _asked_for("exact") = None  # type: ignore[valid-type]
    """Drop documents that are the same as an earlier one."""
    lines: _asked_for("lines") = None  # type: ignore[valid-type]
    """Cut lines or paragraphs that an earlier document has."""
    minhash: _asked_for("minhash") = None  # type: ignore[valid-type]
    """Drop documents that are nearly the same as another one."""
    bloom: _asked_for("bloom") = None  # type: ignore[valid-type]
    """Cut paragraphs and drop documents whose n-grams were nearly all seen before, by a Bloom filter."""
    substrings: _asked_for("substrings") = None  # type: ignore[valid-type]
    """Cut long stretches of text that occurred before."""
    semantic: _asked_for("semantic") = None  # type: ignore[valid-type]
    """Drop documents whose vectors are too like another one's (SemDeDup)."""
    prototypes: _asked_for("prototypes") = None  # type: ignore[valid-type]
    """Drop documents nearest to their cluster's centroid (D4)."""


class DecontaminateSources(Decontaminate):
    sources: Annotated[list[str], Field(min_length=1)] | None = None
    """Those to look through; default: all."""


def _decontaminate(value: Any) -> Any:
    return filled(DecontaminateSources, value) if isinstance(value, Mapping) else value


class Dedup(_Settings):
    """Steps that compare sources with each other and with themselves; the first named wins."""

    exact: _across("exact") = None  # type: ignore[valid-type]
    minhash: _across("minhash") = None  # type: ignore[valid-type]
    bloom: _across("bloom") = None  # type: ignore[valid-type]
    substrings: _across("substrings") = None  # type: ignore[valid-type]
    decontaminate: Annotated[DecontaminateSources | None, BeforeValidator(_decontaminate)] = None
    """Look for benchmarks' items in every source."""
    semantic: _across("semantic") = None  # type: ignore[valid-type]
    prototypes: _across("prototypes") = None  # type: ignore[valid-type]


@dataclass(frozen=True, slots=True)
class Group:
    """Sources that a step compares."""

    sources: tuple[str, ...]
    """Survivors' order."""
    settings: Any
    """The step's."""
    against: tuple[str, ...] = ()
    """Earlier runs."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step that a recipe asks for."""

    name: str
    groups: tuple[Group, ...]
    """Disjoint."""


def steps_of(dedup: Dedup, sources: Mapping[str, SourceDedup]) -> list[Step]:
    """The steps of a recipe, in their order."""
    found = []
    for name, model in STEPS.items():
        groups: list[Group] = []
        if (common := getattr(dedup, name, None)) is not None:
            groups.append(_group(model, _compared(name, common, sources), common))
        seen = {s for group in groups for s in group.sources}
        for source, own in sources.items():
            if source not in seen and (settings := getattr(own, name, None)) is not None:
                groups.append(_group(model, (source,), settings))
        if groups:
            found.append(Step(name, tuple(groups)))
    return found


def _group(model: type[BaseModel], sources: tuple[str, ...], given: Any) -> Group:
    return Group(sources, plain(model, given), _against(given))


def _against(given: Any) -> tuple[str, ...]:
    return getattr(given, "against", ())


def _compared(step: str, common: Any, sources: Mapping[str, SourceDedup]) -> tuple[str, ...]:
    if step == "decontaminate":
        return tuple(common.sources or sources)
    return tuple(common.across)


def plain(model: type[BaseModel], settings: Any) -> Any:
    """The settings of a step without what they are compared with."""
    return model.model_construct(**{field: getattr(settings, field) for field in model.model_fields})


def contradictions(
    dedup: Dedup, sources: Mapping[str, SourceDedup]
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(place, what is wrong) of mistakes that no single setting shows."""
    for name, model in STEPS.items():
        if (common := getattr(dedup, name, None)) is None:
            continue
        listed: Sequence[str] = common.sources or () if name == "decontaminate" else common.across
        key = "sources" if name == "decontaminate" else "across"
        for i, source in enumerate(listed):
            place = ("dedup", name, key, i)
            if source not in sources:
                yield place, f"there is no source {source!r}{nearest(source, sources)}"
            elif source in listed[:i]:
                yield place, f"{source!r} is named twice"
            elif (own := getattr(sources[source], name, None)) is not None and (
                plain(model, own) != plain(model, common) or _against(own) != _against(common)
            ):
                where = ("sources", source, "dedup", name)
                yield (
                    where,
                    f"{source!r} is compared by the recipe's `dedup` with other settings than its own here",
                )
