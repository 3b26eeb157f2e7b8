"""How do the streams of all sources become the shards that are published?

    stream ─▶ samples, in each packing ─▶ shards of each source ─▶ takedowns
                                       └▶ (output: mixed) shards of one mixed stream ─▶ takedowns

The mixture is planned when it is known how many tokens of each source lie in samples: with `mixed` before the shards of
training are made, since their order is the mixture, otherwise the trainer's loader mixes. Held-out samples stay with
their source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from winnow.pipelines import pack, takedown
from winnow.pipelines.engine import Engine, Work
from winnow.pipelines.exclude import Excluded, Lists, exclude
from winnow.pipelines.mixed import Mixed, mixed_stream
from winnow.pipelines.packings import Packing, packings
from winnow.pipelines.planned_mixture import plan_shares
from winnow.pipelines.recipe import Recipe
from winnow.pipelines.records import total
from winnow.pipelines.standing import standings
from winnow.shards import loss_mask, mds, mixture
from winnow.tokenize.encoder import Vocabulary

if TYPE_CHECKING:
    from winnow.pipelines.corpus import Corpus, SourceRun


@dataclass(frozen=True, slots=True)
class SourceShards:
    """A source in one packing."""

    packed: pack.Packed
    """As if nothing were excluded."""
    left: takedown.TakenDown | None
    """Its shards without excluded documents; None where none is excluded."""

    @property
    def published(self) -> pack.Packed | takedown.TakenDown:
        return self.left or self.packed

    def rows(self, split: str) -> int:
        """Samples to draw from, whether they are in shards of the source's own or not."""
        if self.left and self.packed.entries[split]:
            return self.left.rows(split)
        return self.packed.samples[split].n_rows

    def tokens(self, split: str) -> int:
        """Tokens of documents in them."""
        if self.left and self.packed.entries[split]:
            return self.left.counts(split)["tokens"]
        return self.packed.samples[split].tokens


@dataclass(frozen=True, slots=True)
class Mixing:
    """The training samples of all sources in one packing."""

    packing: Packing
    draws: Mapping[str, int]
    """Samples by source in an epoch of the trainer."""
    proportions: Mapping[str, float]
    """Share of the samples by source, before whole samples are counted."""
    tokens_per_row: Mapping[str, float]
    mixed: Mixed | None = None
    """With `output: mixed` the stream of them all, as if nothing were excluded."""
    left: takedown.TakenDown | None = None
    """The same without excluded documents; None where none is excluded."""

    @property
    def epoch_rows(self) -> int:
        """Samples of an epoch of the trainer."""
        return self.left.rows("train") if self.left else sum(self.draws.values())

    @property
    def published(self) -> Mixed | takedown.TakenDown | None:
        return self.left or self.mixed


def layout_of(recipe: Recipe, vocabulary: Vocabulary, packing: Packing) -> mds.Layout:
    """The shards' settings in one packing. Raises RecipeError when a sample fits no shard."""
    try:
        return mds.Layout(
            dtype=vocabulary.dtype,
            length=packing.length,
            hashes=tuple(recipe.shards.hashes),
            compression=recipe.shards.compression,
            size_limit=recipe.shards.size_limit,
            loss_mask=loss_mask.COLUMN in recipe.shards.columns,
        )
    except ValueError as error:
        raise recipe.located(("shards", "size_limit"), str(error)) from error


def make_shards(engine: Engine, corpus: Corpus) -> None:
    """Bring every packing to its shards; fills each source's `shards` and `excluded`, and the corpus's `mixings`.

    Raises RecipeError when the mixture cannot be had from what the sources gave.
    """
    recipe, sources, lists = corpus.recipe, list(corpus.sources.values()), corpus.lists
    ways = packings(recipe.sequence)
    for source, found in zip(
        [s for s in sources if s.name in lists],
        engine.together(*(_excluded(s, lists[s.name]) for s in sources if s.name in lists)),
        strict=True,
    ):
        source.excluded = found
    works = [_of_source(corpus, source, way, way is ways[0]) for source in sources for way in ways]
    done = iter(engine.together(*works))
    for source in sources:
        source.shards = [next(done) for _ in ways]
    _check_filled(corpus)
    corpus.shares = plan_shares(recipe, {s.name: training_tokens(corpus, s) for s in sources})
    works_of_all = [_of_all(engine, corpus, i, way) for i, way in enumerate(ways)]
    corpus.mixings = engine.together(*works_of_all)


def _check_filled(corpus: Corpus) -> None:
    """Raises RecipeError where samples are so long that no source fills one, or a source that has a weight does not."""
    recipe = corpus.recipe
    place = ("sequence", "curriculum" if recipe.sequence.curriculum else "length")
    lengths = [way.length for way in packings(recipe.sequence)]
    shown = f"{min(lengths if recipe.sequence.curriculum else lengths[:1]):,}"
    streams = {s.name: s.shards[0].packed.arranged.part["train"] for s in corpus.sources.values()}
    if recipe.sequence.curriculum:
        streams = {
            s.name: total(s.shuffled.split("train"), "tokens") for s in corpus.sources.values() if s.shuffled
        }
    empty = [s for s in corpus.sources.values() if not training_tokens(corpus, s)]
    if len(empty) == len(streams):
        name = max(streams, key=lambda n: streams[n])
        message = (
            f"no source has the {shown} tokens of one sample; the largest, {name!r}, has {streams[name]:,}"
        )
        raise recipe.located(place, message)
    for source in empty:
        if recipe.sources[source.name].weight is None:
            continue
        read = total(source.documents.records, "rows")
        why = f"has {streams[source.name]:,} training tokens, a sample takes {shown}"
        mend = "shorten the samples, or loosen its filters"
        if not streams[source.name]:
            why = f"has no training token: nothing is left of {read:,} rows"
            if source.tokens and (n := total(source.tokens.records, "too_long_chats")):
                why = f"has no training token: of {n:,} conversations not one exchange fits read.chat.max_tokens"
                mend = "or raise that"
        elif any(part.packed.samples["train"].n_rows for part in source.shards):
            why = "has no sample without an excluded document"
        message = f"source {source.name!r} {why}; take it out, {mend}"
        raise recipe.located(("sources", source.name, "weight"), message)


def training_tokens(corpus: Corpus, source: SourceRun) -> int:
    """Tokens in a source's training samples: in all phases of a curriculum, else in the main packing."""
    parts = source.shards if corpus.recipe.sequence.curriculum else source.shards[:1]
    return sum(part.tokens("train") for part in parts)


def _excluded(source: SourceRun, lists: Lists) -> Work[Excluded]:
    decided = [done.stage for done in (source.filters, *source.steps)]
    return (yield from exclude(source.name, lists, standings(source), decided))


def _of_source(corpus: Corpus, source: SourceRun, way: Packing, main: bool) -> Work[SourceShards]:
    """The shards of one source in one packing."""
    assert source.shuffled is not None
    recipe, vocabulary = corpus.recipe, corpus.vocabulary
    arranged = yield from pack.arrange(
        source.name,
        source.shuffled,
        way,
        pack=recipe.sequence.pack,
        dtype=vocabulary.dtype,
        pad_id=vocabulary.pad_id,
        seed=recipe.seed,
        main=main,
        masked=corpus.masked,
        templated=recipe.sources[source.name].read.chat is not None,
    )
    layout = layout_of(recipe, vocabulary, way)
    splits = ("val",) if recipe.mixture.output == "mixed" else pack.SPLITS
    packed = yield from pack.pack(source.name, arranged, layout, corpus.tokenizer, splits=splits, main=main)
    if source.excluded is None or not any(packed.entries.values()):
        return SourceShards(packed, None)
    return SourceShards(packed, (yield from takedown.takedown(packed, [source.excluded])))


def _of_all(engine: Engine, corpus: Corpus, number: int, way: Packing) -> Work[Mixing]:
    """What is drawn in one packing and, where the recipe wants it, the stream of that."""
    recipe, sources = corpus.recipe, list(corpus.sources.values())
    rows = {s.name: s.shards[number].rows("train") for s in sources}
    tokens = {s.name: s.shards[number].tokens("train") for s in sources}
    tokens_per_row = {n: tokens[n] / rows[n] if rows[n] else float(way.length) for n in rows}
    part = way.share if recipe.sequence.curriculum else 1.0
    shares = [
        replace(s, effective_tokens=s.effective_tokens * part if rows[s.source] else 0.0)
        for s in corpus.shares
    ]
    parts = {s.source: s.effective_tokens / tokens_per_row[s.source] for s in shares}
    if not any(parts.values()):
        message = (
            f"{way.name}: no source has a full sample of {way.length:,} tokens in its part of the stream"
        )
        raise recipe.located(("sequence",), message)
    proportions = {name: samples / sum(parts.values()) for name, samples in parts.items()}
    mixing = Mixing(way, mixture.rows_to_draw(shares, tokens_per_row), proportions, tokens_per_row)
    if recipe.mixture.output != "mixed":
        return mixing
    upstream = [directory for s in sources for directory in s.shards[number].packed.arranged.upstream]
    made = yield from mixed_stream(
        engine,
        [(s.name, s.shards[number].packed.samples["train"], mixing.draws[s.name]) for s in sources],
        recipe.seed,
        layout_of(recipe, corpus.vocabulary, way),
        corpus.tokenizer,
        upstream,
        way.name if number else "",
    )
    excluded = [s.excluded for s in sources if s.excluded is not None and mixing.draws[s.name]]
    left = (yield from takedown.takedown(made, excluded)) if excluded else None
    if left and not left.rows("train"):
        name = excluded[0].source
        raise recipe.located(
            ("sources", name, "exclude"), f"every sample of {way.name} holds an excluded document"
        )
    return replace(mixing, mixed=made, left=left)
