"""What may a recipe say?

The schema of a recipe: each field carries its meaning, unit and origin beneath it. A recipe is data;
nothing in it is executed. `load` reads one from a file or by the name of a recipe that ships with
Winnow, applies `--set` overrides, and reports every mistake with file, line and column.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import BeforeValidator, Field, PrivateAttr, field_validator
from winnow.filters.catalogue import segments
from winnow.filters.embedding_settings import DEFAULT, Embedding
from winnow.pipelines import packings
from winnow.pipelines.chat_mistakes import chat_mistakes
from winnow.pipelines.classifier_settings import (
    EXAMPLES,
    SCORED,
    Classifier,
    EmbeddingClassifier,
    Quality,
    quality_mistakes,
)
from winnow.pipelines.dedup_settings import Dedup, SourceDedup, Step, contradictions, filled, steps_of
from winnow.pipelines.located import Document, Problem, RecipeError, nearest, override, parse, shown, text_of
from winnow.pipelines.mixture_settings import Mixture, Printed, PrintedRun, Weight, mixture_mistakes
from winnow.pipelines.recipe_credentials import refuse_credentials
from winnow.pipelines.schema_errors import refusals
from winnow.pipelines.source_settings import (
    Bytes,
    Count,
    Filters,
    Fraction,
    Read,
    Settings,
    SourceName,
    Text,
    as_list,
    number,
)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
COMPRESSION = re.compile(r"zstd(:([1-9]|1[0-9]|2[0-2]))?")


class Tokenizer(Settings):
    name: Text
    """`mistral-7b-v0.1`, `gpt-neox-20b`, the path of a tokenizer.json or tokenizer.model, or a hub id."""
    append: Literal["eos", "bos", "both", "none"] = "eos"
    """Control tokens put around each document, by Winnow alone."""
    eos_token: Text | None = None
    bos_token: Text | None = None
    """The control tokens' names where the file's own are not the usual ones."""
    rename: dict[Text, Text] = Field(default={})
    """Control tokens that get another name, the old by the new: Pints' `</s>` is `<|im_end|>`."""
    add: list[Text] = Field(default=[])
    """Control tokens put behind the tokenizer's own, in order."""
    pad_token: Text | None = None
    """What fills samples up with `pack: pad` and `best-fit`; default: the file's padding token."""
    model_vocab: Annotated[Count, Field(ge=1)] | None = None
    """Rows of the model's embedding, padding among them (MPT-7B: 50,432); one more than the largest id, or more."""


Length = Annotated[Count, Field(ge=2, le=1 << 20)]


class Phase(Settings):
    """A part of the training run with samples of one length."""

    length: Length
    """Tokens per sample."""
    share: Annotated[Fraction, Field(gt=0, le=1)]
    """Of the run's tokens."""


class Sequence_(Settings):
    length: Length = 2048
    """Tokens per sample."""
    pack: Literal["concat", "pad", "best-fit"] = "concat"
    """`concat`: documents of a source one after the other, cut every `length` tokens (MPT-7B's way). `pad`: each
    document begins a sample, what is left of it is filled up. `best-fit`: documents whole in samples as far as they
    fit, the few longer ones cut (Ding et al. 2024, arXiv:2404.10830)."""
    also: list[Length] = Field(default=[])
    """Further lengths: the same tokens cut once more, as a corpus of their own in `streams.yaml`."""
    curriculum: list[Phase] = Field(default=[])
    """Phases of the run in order, each with a part of every source for itself; `length` is then that of none."""


class Heldout(Settings):
    fraction: Annotated[Fraction, Field(gt=0, lt=1)]
    """Share of the documents that go to the split `val`, chosen by hash of the text: equal documents of sources
    with equal fractions never lie on both sides."""


class Source(Settings):
    read: Read
    filters: Filters = Field(default=[])
    """Applied in order; every signal and verdict is stored."""
    dedup: SourceDedup = SourceDedup()
    quality: list[Quality] = Field(default=[])
    """Classifiers, in order, behind dedup."""
    heldout: Heldout | None = None
    sample: Annotated[Fraction, Field(gt=0, le=1)] | None = None
    """Share of the source's stored bytes to read: whole splits in hashed order."""
    tokens: Annotated[Count, Field(gt=0)] | None = None
    """Read whole splits in hashed order until so many tokens are there after filters and dedup; or all, with a
    warning, if there are not as many."""
    exclude: Annotated[list[Text], BeforeValidator(as_list)] = Field(default=[])
    """Files that list documents to take out of the shards, a line each: an id, a key or a URL."""
    weight: Weight | None = None
    """What it means is for `mixture.weights` to say. All sources of a group have one, or none."""
    printed: Printed | None = None
    """What was published about this source."""


class Shards(Settings):
    size_limit: Annotated[Bytes, Field(ge=1 << 12, lt=1 << 32)] = 1 << 26
    """Bytes of a shard file, as MDSWriter counts them."""
    hashes: list[Literal["sha1", "xxh64"]] = Field(default=["xxh64"])
    """Checked by StreamingDataset when it downloads."""

    @field_validator("hashes")
    @classmethod
    def _sorted(cls, hashes: list[str]) -> list[str]:
        return sorted(set(hashes))

    columns: list[Literal["loss_mask"]] = Field(default=[])
    """Beside `tokens`. `loss_mask` (uint8): 1 for a token that is trained on, 0 for a chat's prompt and for padding."""
    compression: Text | None = None
    """`zstd`, or `zstd:1` to `zstd:22` for a level; default: none."""

    @field_validator("compression")
    @classmethod
    def _compression(cls, compression: str | None) -> str | None:
        if compression is not None and not COMPRESSION.fullmatch(compression):
            raise ValueError(f"zstd, or zstd:1 to zstd:22, is wanted, not {shown(compression)}")
        return compression


class Limits(Settings):
    """What bounds memory and the size of a piece of work. Of these only `max_document_bytes` decides which
    documents stay, and `split_bytes` which are read of a source with `sample` or `tokens`; shards are the same for
    any of the others."""

    split_bytes: Annotated[Bytes, Field(ge=1 << 10)] = 64 * 10**6
    """Stored bytes of input that one task reads; large plain JSONL and Parquet files are cut to it."""
    partition_bytes: Annotated[Bytes, Field(ge=1 << 12)] = 128 << 20
    """Bytes of a partition of the exchange: a reduce task holds about three times that."""
    max_document_bytes: Annotated[Bytes, Field(ge=1 << 10, le=1 << 30)] = 64 << 20
    """A longer document is quarantined."""
    task_memory: Annotated[Bytes, Field(ge=1 << 26)] = 1 << 30
    """What a task asks of Ray."""


def _embedding(value: Any) -> Any:
    return filled(Embedding, value) if isinstance(value, Mapping) else value


class Recipe(Settings):
    name: Text
    seed: Annotated[int, BeforeValidator(number), Field(ge=0, lt=1 << 63)] = 17
    tokenizer: Tokenizer
    sequence: Sequence_ = Sequence_()
    classifiers: dict[SourceName, Classifier] = Field(default={})
    """Trained before the sources are read; filters name them as their `model`."""
    embeddings: dict[SourceName, Annotated[Embedding, BeforeValidator(_embedding)]] = Field(default={})
    """Encoders by name. `default` is meant where none is named, and needs no entry."""
    embedding_classifiers: dict[SourceName, EmbeddingClassifier] = Field(default={})
    """Trained on an encoder's vectors; a source's `quality` names them."""
    mirrors: dict[Text, Text] | Text = Field(default={})
    """Where a copy of a place is: `hf://datasets/org/name` by a local directory or URL that is laid out like it; or the
    path of a YAML file with such a table."""
    sources: Annotated[dict[SourceName, Source], Field(min_length=1)]
    dedup: Dedup = Dedup()
    mixture: Mixture = Mixture()
    printed: PrintedRun | None = None
    """What was published about the training run."""
    shards: Shards = Shards()
    limits: Limits = Limits()
    max_bad_rows: Fraction = 0.01
    """Share of a split's rows that may be malformed (at least one may) before the run stops."""
    dropped_text: Literal["sample", "all", "none"] = "sample"
    """Whose text RUN/dropped holds: a seeded sample per source and filter, every dropped document's, or nobody's."""
    signals: Literal["all", "until-drop"] = "all"
    """Of which documents a segment's signals are measured and stored: of all that enter it, so that every failing
    rule is known and a threshold of the last segment can change without reading any text; or of each only until a
    filter drops it, which spares work and the disk for its text."""

    _document: Document | None = PrivateAttr(None)

    def located(self, path: tuple[str | int, ...], message: str) -> RecipeError:
        """An error about something the recipe says, at its place in the file."""
        if self._document is None:
            return RecipeError([Problem(self.name, 1, 1, message)])
        return RecipeError([self._document.problem(path, message)])

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            allowed = "letters, digits, '.', '_' and '-', beginning with a letter or digit"
            raise ValueError(f"{shown(name)} is no name for a run: {allowed}")
        return name

    def dedup_steps(self) -> list[Step]:
        """The steps of dedup that the recipe asks for, in their order."""
        return steps_of(self.dedup, {name: source.dedup for name, source in self.sources.items()})

    def embedding(self, name: str) -> Embedding:
        """The settings of an embedding by its name."""
        return self.embeddings[name] if name in self.embeddings else Embedding.model_validate({})


def shipped() -> dict[str, Path]:
    """The recipes that come with Winnow, by name."""
    return {p.stem: p for p in sorted(Path(__file__).parent.glob("*.yaml"))}


def load(recipe: str, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe from a path, or by the name of one that ships with Winnow.

    Raises RecipeError with every mistake found, each as file:line:column: message.
    """
    path = Path(recipe)
    if not path.is_file():
        known = shipped()
        if recipe not in known:
            hint = nearest(recipe, known, "Winnow ships") if os.sep not in recipe else ""
            message = f"there is no such file, nor a recipe of that name{hint}"
            raise RecipeError([Problem(recipe, 1, 1, message)])
        path, file = known[recipe], f"{recipe}.yaml"
    else:
        file = recipe
    return read(text_of(path, file), file, overrides)


def read(text: str, file: str, overrides: Sequence[str] = ()) -> Recipe:
    """Check a recipe's text; `file` is the name errors carry. Raises RecipeError."""
    document = parse(text, file)
    for assignment in overrides:
        override(document, assignment)
    refuse_credentials(document)
    try:
        recipe = Recipe.model_validate(document.value)
    except pydantic.ValidationError as error:
        raise RecipeError(refusals(Recipe, document, error)) from None
    recipe._document = document
    problems = [
        document.problem(path, message, at_key=path[0] == "sources")
        for path, message in _contradictions(recipe)
    ]
    if problems:
        raise RecipeError(sorted(problems, key=document.order))
    return recipe


def _contradictions(recipe: Recipe) -> list[tuple[tuple[str | int, ...], str]]:
    """Mistakes that no single field shows."""
    found: list[tuple[tuple[str | int, ...], str]] = []
    found += contradictions(recipe.dedup, {name: source.dedup for name, source in recipe.sources.items()})
    found += [
        (
            ("sources", name, "tokens"),
            f"source {name!r} has a `sample` and `tokens`; one of them says how much is read",
        )
        for name, source in recipe.sources.items()
        if source.sample is not None and source.tokens is not None
    ]
    for owner, used in lists_of_filters(recipe):
        try:
            segments([f.settings for f in used], until_drop=recipe.signals == "until-drop")
        except ValueError as error:
            found.append(((*owner, "filters"), str(error)))
        found += [((*owner, "filters", i), m) for i, m in _unfit_for_examples(recipe, owner, used)]
    found += _unknown_embeddings(recipe)
    found += [
        (("embedding_classifiers", name), f"there are two classifiers {name!r}; `quality` could mean either")
        for name in sorted({*recipe.embedding_classifiers} & {*recipe.classifiers})
    ]
    found += [
        (("sources", name, "quality", *place), message)
        for name, source in recipe.sources.items()
        for place, message in quality_mistakes(
            source.quality, recipe.embedding_classifiers, recipe.classifiers
        )
    ]
    if not found:
        found += _unknown_scores(recipe)
    found += packings.contradictions(recipe)
    found += chat_mistakes(recipe)
    if recipe.mixture.output == "mixed" and "mixed" in recipe.sources:
        found.append((("sources", "mixed"), "`mixed` is the stream of all sources; name this one otherwise"))
    found += mixture_mistakes(recipe.mixture, {name: s.weight for name, s in recipe.sources.items()})
    if recipe.tokenizer.append in ("none", "bos") and recipe.tokenizer.eos_token:
        found.append(
            (("tokenizer", "eos_token"), f"eos_token is given, but append is {recipe.tokenizer.append!r}")
        )
    return found


def _unknown_scores(recipe: Recipe) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Scores that are to choose survivors, and that a source does not measure."""
    for step in recipe.dedup_steps():
        for group in step.groups:
            score = getattr(group.settings, "survivor_score", None)
            for name in group.sources if score is not None else ():
                filters = [f.settings for f in recipe.sources[name].filters]  # type: ignore[attr-defined]
                last = segments(filters, until_drop=recipe.signals == "until-drop")[-1]
                own = [signal for signal, kind in last.own_columns.items() if kind != "string"]
                there = sorted({*last.scanned, *own})
                if score not in there:
                    alone = len(group.sources) == 1
                    place = ("sources", name, "dedup") if alone else ("dedup",)
                    hint = nearest(str(score), there) or "; no filter of it measures anything"
                    message = f"source {name!r} has no signal {score!r} in its last segment of filters{hint}"
                    yield (*place, step.name, "survivor_score"), message


def lists_of_filters(recipe: Recipe) -> Iterator[tuple[tuple[str, ...], Sequence[Any]]]:
    """Every list of filters with the place it belongs to."""
    for name, source in recipe.sources.items():
        yield ("sources", name), source.filters
    for name, classifier in recipe.classifiers.items():
        for kind in EXAMPLES:
            for part, examples in getattr(classifier, kind).items():
                yield ("classifiers", name, kind, part), examples.filters
    for name, on_vectors in recipe.embedding_classifiers.items():
        for kind in on_vectors.kinds:
            for part, examples in getattr(on_vectors, kind).items():
                yield ("embedding_classifiers", name, kind, part), examples.filters


def _unknown_embeddings(recipe: Recipe) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Embeddings, and classifiers on them, that something names and the recipe does not have."""
    named: list[tuple[tuple[str | int, ...], str]] = [
        (("embedding_classifiers", name, "embedding"), classifier.embedding)
        for name, classifier in recipe.embedding_classifiers.items()
    ]
    for step in recipe.dedup_steps():
        for group in step.groups:
            if (embedding := getattr(group.settings, "embedding", None)) is not None:
                alone = len(group.sources) == 1
                owner = ("sources", group.sources[0]) if alone else ()
                named.append(((*owner, "dedup", step.name, "embedding"), embedding))
    known = {DEFAULT, *recipe.embeddings}
    for place, embedding in named:
        if embedding not in known:
            yield place, f"there is no embedding {embedding!r}{nearest(embedding, known)}"
    for name, source in recipe.sources.items():
        for i, use in enumerate(source.quality):
            known = {*recipe.embedding_classifiers, *recipe.classifiers}
            if use.classifier is not None and use.classifier not in known:
                message = f"there is no classifier {use.classifier!r}{nearest(use.classifier, known)}"
                yield ("sources", name, "quality", i, "classifier"), message


def _unfit_for_examples(
    recipe: Recipe, place: Sequence[str], used: Sequence[Any]
) -> Iterator[tuple[int, str]]:
    """Filters that need what is there only after a classifier has been trained."""
    if place[0] == "sources":
        return
    for i, use in enumerate(used):
        if any(rule.fraction is not None for rule in use.settings.rules()):
            yield i, "a filter of a classifier's examples cannot keep a fraction"
        if getattr(use.settings, "model", None) in recipe.classifiers:
            yield i, f"{use.settings.model!r} is a classifier of this recipe; its examples come before it"


def values(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values with every default filled in: what JSON and YAML can say."""
    out = recipe.model_dump(mode="json", by_alias=True)
    classifiers = [*out["classifiers"].values(), *out["embedding_classifiers"].values()]
    examples = [e for c in classifiers for kind in (*EXAMPLES, SCORED) for e in c.get(kind, {}).values()]
    for source in [*out["sources"].values(), *examples]:
        source["filters"] = [{k: v for k, v in f.items() if v is not None} for f in source["filters"]]
        if source["read"]["convert"] is not None:
            source["read"]["convert"] = {k: v for k, v in source["read"]["convert"].items() if v is not None}
    return out


def dump(recipe: Recipe) -> str:
    """The recipe as YAML with every default filled in; `read` gives the same recipe back."""
    return yaml.safe_dump(values(recipe), sort_keys=False, allow_unicode=True, width=100)
