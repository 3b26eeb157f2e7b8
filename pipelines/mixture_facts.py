"""What are the statistics of a run's mixture?

`mixture.json`, which `winnow stats` shows: per source what was read, dropped and kept, what the recipe wanted, what the
mixture draws of it, and what the shards really give. Everything is counted from the stages' records.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import orjson
from winnow.pipelines import dedup_statistics, grouping, models, pack, quality_step, sampling, takedown
from winnow.pipelines.planned_mixture import printed_findings, printed_values
from winnow.pipelines.records import SCHEMA_VERSION, Record, total
from winnow.shards import feed, mixture, storage

if TYPE_CHECKING:
    from winnow.pipelines.corpus import Corpus, SourceRun
    from winnow.pipelines.engine import Done
    from winnow.pipelines.mixing import Mixing, SourceShards

MULTIPLE = 128
"""Rows of an embedding that matrix units like: NVIDIA's guides, and MPT-7B's 50,432."""


def mixture_facts(corpus: Corpus) -> dict[str, Any]:
    """What mixture.json holds."""
    recipe, main = corpus.recipe, corpus.mixings[0]
    sources = [
        _source_facts(corpus, source) | _share_facts(corpus, source, share)
        for source, share in zip(corpus.sources.values(), corpus.shares, strict=True)
    ]
    _add_realised(corpus, sources)
    vocabulary = corpus.vocabulary
    return {
        "schema": SCHEMA_VERSION,
        "name": recipe.name,
        "output": recipe.mixture.output,
        "pack": recipe.sequence.pack,
        "sequence_length": main.packing.length,
        "tokenizer": {
            "name": recipe.tokenizer.name,
            "size": vocabulary.size,
            "max_id": vocabulary.max_id,
            "dtype": vocabulary.dtype,
            "eos_id": vocabulary.eos_id,
            "pad_id": vocabulary.pad_id if recipe.sequence.pack != "concat" else None,
            "model_vocab": recipe.tokenizer.model_vocab,
            "padded_vocab": -(-(vocabulary.max_id + 1) // MULTIPLE) * MULTIPLE,
        },
        "budget_tokens": round(sum(share.effective_tokens for share in corpus.shares)),
        "epoch_rows": main.epoch_rows,
        "packings": [
            {
                "name": m.packing.name,
                "length": m.packing.length,
                "share": m.packing.share if recipe.sequence.curriculum else None,
                "epoch_rows": m.epoch_rows,
            }
            for m in corpus.mixings
        ],
        "mixed": [_mixed_facts(m) for m in corpus.mixings if m.published],
        "mixture_groups": [{"name": n, "of": list(g.of)} for n, g in recipe.mixture.groups.items()],
        "sources": sources,
        "warnings": [*_warnings(corpus), *_not_drawn(sources)],
        "printed": [asdict(finding) for finding in printed_findings(recipe)],
        "classifiers": {name: _classifier_facts(done) for name, done in corpus.classifiers.items()},
        "embedding_classifiers": {
            name: _classifier_facts(done) for name, done in corpus.embedding_classifiers.items()
        },
        "dedup": dedup_statistics.of_groups(recipe, corpus.sources, corpus.lasting),
    }


def stream_specs(corpus: Corpus, number: int, split: str) -> list[feed.StreamSpec]:
    """The streams that a trainer reads in one packing: of each source with samples, or the mixed one."""
    mixing = corpus.mixings[number]
    if split == "train" and mixing.published:
        done, rows = mixing.published.done, mixing.epoch_rows
        return [
            feed.StreamSpec(name="mixed", location=done.location, split=split, samples=rows, proportion=1.0)
        ]
    specs = []
    for source in corpus.sources.values():
        shards, proportion = source.shards[number], mixing.proportions[source.name]
        rows = shards.published.rows(split)
        if rows and proportion:
            specs.append(
                feed.StreamSpec(
                    name=source.name,
                    location=shards.published.done.location,
                    split=split,
                    samples=rows,
                    proportion=proportion,
                )
            )
    return specs


def _realised(corpus: Corpus, number: int) -> dict[str, tuple[int, int]]:
    """(samples, tokens) by source that an epoch of the trainer really gives in one packing.

    The tokens of a mixed stream are counted, those that a loader draws are the mean of the source's samples.
    """
    mixing, names = corpus.mixings[number], list(corpus.sources)
    if mixing.mixed:
        rows, tokens = mixing.mixed.realised, mixing.mixed.realised_tokens
        gone = {
            n: mixing.left.dropped_of(n) if mixing.left else dict.fromkeys(takedown.GONE, 0) for n in names
        }
        return {
            n: (
                rows.get(n, 0) - gone[n]["rows_dropped"],
                tokens.get(n, 0) - gone[n]["excluded_tokens"] - gone[n]["other_tokens"],
            )
            for n in names
        }
    drawn = feed.rows_drawn(stream_specs(corpus, number, "train"), mixing.epoch_rows, corpus.recipe.seed)
    return {n: (drawn.get(n, 0), round(drawn.get(n, 0) * mixing.tokens_per_row[n])) for n in names}


def _add_realised(corpus: Corpus, sources: Sequence[dict[str, Any]]) -> None:
    """What the shards and the loader really give, beside what was planned."""
    numbers = range(len(corpus.mixings)) if corpus.recipe.sequence.curriculum else range(1)
    realised = [_realised(corpus, i) for i in numbers]
    whole = sum(tokens for found in realised for _, tokens in found.values())
    for facts in sources:
        name, there = facts["name"], facts["train"]["sample_tokens"]
        facts["rows_drawn"] = sum(corpus.mixings[i].draws[name] for i in numbers)
        tokens = sum(found[name][1] for found in realised)
        facts["realised"] = {
            "rows": sum(found[name][0] for found in realised),
            "tokens": tokens,
            "proportion": tokens / whole if whole else 0.0,
            "epochs": tokens / there if there else 0.0,
        }


def _share_facts(corpus: Corpus, source: SourceRun, share: mixture.Share) -> dict[str, Any]:
    settings = corpus.recipe.sources[source.name]
    return {
        "weight": settings.weight,
        "wanted": share.wanted,
        "proportion": share.proportion,
        "effective_tokens": share.effective_tokens,
        "epochs": share.epochs,
        "unique_factor": share.unique_factor,
        "effective_unique_tokens": share.effective_unique_tokens,
        "printed": printed_values(settings.printed),
    }


def _source_facts(corpus: Corpus, source: SourceRun) -> dict[str, Any]:
    assert source.tokens is not None
    read, kept = source.documents.records, source.filters.records
    return {
        "name": source.name,
        "files": len(source.plan.files),
        "splits": len(source.plan.splits),
        "sampled": sampling.sampled_facts(source),
        "stored_bytes": total(read, "stored_bytes"),
        "rows": total(read, "rows"),
        "text_bytes": total(read, "text_bytes"),
        "truncated_files": sorted({f for r in read for f in r.counts["truncated"]}),
        "lost": total(read, "lost") or {},
        "lost_bytes": total(read, "lost_bytes") or {},
        "rewritten_chars": total(read, "rewritten_chars") or {},
        "dropped": total(kept, "dropped") or {},
        "dropped_bytes": total(kept, "dropped_bytes") or {},
        "failing": _added(total(read, "failing") or {}, total(kept, "failing") or {}),
        "only": _added(total(read, "only") or {}, total(kept, "only") or {}),
        "details": _details((*read, *kept)),
        "duplicates": sum(
            total(done.records, "dropped", source.name) for done in dedup_statistics.dedup_steps(source)
        ),
        "dedup": dedup_statistics.of_source(source),
        "quality": dedup_statistics.of_quality(source),
        "quality_scores": _quality_scores(corpus, source),
        "kept_documents": total(source.tokens.records, "documents")
        - total(source.tokens.records, "too_long_chats"),
        "kept_bytes": total(source.tokens.records, "text_bytes"),
        "tokens": total(source.tokens.records, "tokens"),
        **_only_some_count(source.tokens.records),
        "excluded": _excluded_facts(corpus, source),
        "groups": grouping.groups_of(source.groups) if source.groups else {},
    } | {split: _split_facts(corpus, source, split) for split in pack.SPLITS}


def _only_some_count(records: Sequence[Record]) -> dict[str, int]:
    """Tokens that are trained on, where shards say which; conversations that lost turns, or all of them."""
    counts = ("trained_tokens", "shortened_chats", "too_long_chats")
    return {what: total(records, what) for what in counts if any(what in r.counts for r in records)}


def _added(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    return {key: a.get(key, 0) + b.get(key, 0) for key in sorted(a | b)}


def _details(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    """By first failing rule, where it has a detail: documents by that."""
    rules = sorted({rule for record in records for rule in record.counts.get("details", {})})
    return {rule: total(records, "details", rule) for rule in rules}


def _classifier_facts(done: Done) -> dict[str, Any]:
    """What a classifier of the recipe was trained on, and how it does on the examples held out."""
    report = orjson.loads(storage.read_bytes(storage.join(done.location, "report.json")))
    return {"model": f"stages/{done.stage.directory}/{models.FILE}", **report}


def _quality_scores(corpus: Corpus, source: SourceRun) -> dict[str, dict[str, Any]]:
    """By classifier of `quality`: how many documents of the source it scored, and the deciles of their scores."""
    scored = {done.stage.name: done.records for done in corpus.lasting}
    found = {}
    for use in corpus.recipe.sources[source.name].quality:
        records = scored[quality_step.scores_stage(use.scorer, source.name)]
        found[use.scorer] = {
            "documents": total(records, "documents"),
            "deciles": quality_step.deciles(records),
        }
    return found


def _parts(corpus: Corpus, source: SourceRun, split: str) -> Sequence[SourceShards]:
    """What a split's samples are in: all phases of a curriculum, which share the stream, or the main packing."""
    return source.shards if corpus.recipe.sequence.curriculum and split == "train" else source.shards[:1]


def _split_facts(corpus: Corpus, source: SourceRun, split: str) -> dict[str, int]:
    """Of a split's stream, and of the samples it makes.

    documents, tokens, text_bytes : of the stream, excluded documents among them
    rows, sample_tokens, padding_tokens : samples that can be drawn, and what is in them; after takedowns where they are
        in shards of the source's own. What takedowns take out of a mixed stream, `excluded` and `realised` say
    packed_documents, cut_documents : documents that have a token in a sample, and that lie in more than one, as if
        nothing were excluded; of a curriculum the sums over its phases, and a document may lie in two
    remainder_tokens : at the stream's end, in no sample
    """
    assert source.shuffled is not None
    records: Sequence[Record] = source.shuffled.split(split)
    facts = {what: total(records, what) for what in ("documents", "tokens", "text_bytes")}
    parts = _parts(corpus, source, split)
    facts |= {"rows": sum(p.rows(split) for p in parts), "sample_tokens": sum(p.tokens(split) for p in parts)}
    room = sum(p.rows(split) * p.packed.arranged.packing.length for p in parts)
    facts |= {"padding_tokens": room - facts["sample_tokens"]}
    facts["shards"] = sum(len(p.published.entries[split]) for p in parts)
    packed = [p.packed.facts(split) for p in parts]
    for what in ("remainder_tokens", "cut_documents"):
        facts[what] = sum(part[what] for part in packed)
    facts["packed_documents"] = sum(part["documents"] for part in packed)
    return facts


def _excluded_facts(corpus: Corpus, source: SourceRun) -> dict[str, Any] | None:
    """What the source's lists took out of the published samples (of further lengths, of the main one); None without."""
    if source.excluded is None:
        return None
    counts = source.excluded.counts
    facts = {key: counts[key] for key in ("documents", "entries", "not_found", "not_found_first")}
    parts = {split: _parts(corpus, source, split) for split in pack.SPLITS}
    found = [part.left.counts(split) for split in pack.SPLITS for part in parts[split] if part.left]
    mixings = corpus.mixings if corpus.recipe.sequence.curriculum else corpus.mixings[:1]
    found += [mixing.left.dropped_of(source.name) for mixing in mixings if mixing.left]
    for name, what in (
        ("rows", "rows_dropped"),
        ("tokens", "excluded_tokens"),
        ("other_tokens", "other_tokens"),
    ):
        facts[name] = sum(gone[what] for gone in found)
    return facts


def _mixed_facts(mixing: Mixing) -> dict[str, Any]:
    assert mixing.published is not None
    return {
        "packing": mixing.packing.name,
        "rows": mixing.published.rows("train"),
        "shards": len(mixing.published.entries["train"]),
        "dropped_rows": mixing.left.counts("train") if mixing.left else None,
    }


def _too_long(corpus: Corpus) -> Iterator[str]:
    """Lengths of samples that no document reaches."""
    longest = {
        s.name: max((r.counts["longest"] for r in s.tokens.records), default=0)
        for s in corpus.sources.values()
        if s.tokens
    }
    name = max(longest, key=lambda n: longest[n])
    for mixing in corpus.mixings:
        if mixing.packing.length > longest[name]:
            yield (
                f"no document reaches the {mixing.packing.length:,} tokens of a sample: the longest, of {name}, has "
                f"{longest[name]:,}"
            )


def _not_drawn(sources: Sequence[dict[str, Any]]) -> Iterator[str]:
    for facts in sources:
        if facts["rows_drawn"] and not facts["realised"]["rows"]:
            yield f"no sample of {facts['name']} is in an epoch of the trainer, {facts['rows_drawn']:,} were planned"


def _warnings(corpus: Corpus) -> list[str]:
    found = [*mixture.warnings(corpus.shares), *_too_long(corpus)]
    for mixing in corpus.mixings:
        way = mixing.packing
        found += [
            f"{share.source} is not in {way.name}: it has no sample of {way.length:,} tokens"
            for share in corpus.shares
            if share.effective_tokens and not mixing.proportions[share.source]
        ]
    for share, source in zip(corpus.shares, corpus.sources.values(), strict=True):
        if not share.effective_tokens:
            found.append(f"{source.name} has no sample, and nothing of it is drawn")
        found += sampling.sampled_warnings(source)
        for part in source.shards:
            found += pack.warnings(source.name, part.packed)
        if source.tokens and (n := total(source.tokens.records, "too_long_chats")):
            found.append(
                f"{source.name}: {n:,} conversations give no token: their first exchange is over max_tokens (see "
                "RUN/dropped)"
            )
        if source.excluded and source.excluded.counts["not_found"]:
            counts = source.excluded.counts
            shown = ", ".join(repr(entry) for entry in counts["not_found_first"][:3])
            found.append(
                f"{source.name}: {counts['not_found']:,} of {counts['entries']:,} entries of its exclude lists name no "
                f"document that stands: {shown}"
            )
    return found
