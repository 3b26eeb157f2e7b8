"""Is everything accounted for?

Before anything is published: for every source, rows read = lost + dropped by reason + duplicates + dropped by `quality`
+ tokenized, and tokens produced = tokens in samples + the tail that fills none; samples in shards = samples that were
meant for them, less those that takedowns dropped. Tokenized are the documents that are kept, and conversations that are
too long: these go into the streams without tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from winnow.pipelines import pack
from winnow.pipelines.engine import RunError
from winnow.pipelines.records import total

if TYPE_CHECKING:
    from winnow.pipelines.corpus import Corpus, SourceRun


def check(corpus: Corpus) -> None:
    """Raises RunError unless every document and token of every source is accounted for."""
    for source in corpus.sources.values():
        assert source.tokens is not None
        assert source.shuffled is not None
        read, kept, tokenized = source.documents.records, source.filters.records, source.tokens.records
        streamed = source.shuffled.done.records
        lost, dropped_by_rule = total(read, "lost") or {}, total(kept, "dropped") or {}
        gone_later = sum(total(done.records, "dropped", source.name) for done in source.steps)
        passed_on = total(read, "documents")
        _equal(source, "rows read, and lost + passed on", total(read, "rows"), sum(lost.values()) + passed_on)
        decided = sum(dropped_by_rule.values()) + total(kept, "kept")
        _equal(source, "documents into the filters, and dropped + kept", passed_on, decided)
        accounted = gone_later + total(tokenized, "documents")
        _equal(
            source, "documents kept, and dropped by later steps + tokenized", total(kept, "kept"), accounted
        )
        for what in ("documents", "tokens", "text_bytes"):
            _equal(source, f"{what} tokenized, and in streams", total(tokenized, what), total(streamed, what))
        for split in pack.SPLITS:
            available = total(source.shuffled.split(split), "tokens")
            _check_packings(
                source, split, available, whole=split == "val" or not corpus.recipe.sequence.curriculum
            )
    for drawn in corpus.mixings:
        if drawn.mixed is not None:
            for source in corpus.sources.values():
                given = drawn.mixed.realised.get(source.name, 0)
                _equal(source, "samples to draw, and in the mixed stream", drawn.draws[source.name], given)


def _check_packings(source: SourceRun, split: str, available: int, whole: bool) -> None:
    """Whether every token of a split's stream is in a sample, or counted as the tail that fills none.

    whole : every packing is given the whole stream; else each has a part of it, and the parts are the whole.
    """
    parts = []
    for shards in source.shards:
        packed = shards.packed
        what = f"{split}, samples of {packed.arranged.packing.name}"
        facts, length = packed.facts(split), packed.arranged.packing.length
        room = facts["rows"] * length
        _equal(
            source,
            f"{what}: room, and tokens + padding",
            room,
            facts["packed_tokens"] + facts["padding_tokens"],
        )
        if packed.entries[split]:
            in_shards = sum(r.counts["tokens"] for r in packed.done.records if r.counts["split"] == split)
            _equal(source, f"{what}: tokens, and in shards", facts["packed_tokens"], in_shards)
            _equal(source, f"{what}: samples, and in shards", facts["rows"], packed.rows(split))
            if shards.left:
                counts = shards.left.counts(split)
                gone = counts["excluded_tokens"] + counts["other_tokens"]
                _equal(source, f"{what}: tokens, and left + taken down", in_shards, counts["tokens"] + gone)
        parts.append(facts["packed_tokens"] + facts["remainder_tokens"])
        if not 0 <= facts["remainder_tokens"] < length:
            raise RunError(
                f"source {source.name!r}: {what}: {facts['remainder_tokens']:,} tokens are in no sample"
            )
    for given in parts if whole else [sum(parts)]:
        _equal(source, f"tokens of {split}, and in samples + remainder", available, given)


def _equal(source: SourceRun, what: str, left: int, right: int) -> None:
    if left != right:
        raise RunError(
            f"source {source.name!r}: {what}: {left:,} against {right:,}; nothing was published. This is a fault "
            "of Winnow or of the storage; please report it with RUN/stages"
        )
