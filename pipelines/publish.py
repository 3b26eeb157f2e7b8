"""What a finished run shows the world.

`streams.yaml`, `mixture.json`, `recipe.yaml` and, last of all, `manifest.json` are one put each and point
into stage directories, so the shards under a running trainer never change. `RUN/dropped/` holds copies of the
report of the stages that the manifest names.
"""

from __future__ import annotations

import hashlib
import io
import platform
from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from winnow.pipelines import dedup_statistics, models, pack
from winnow.pipelines.numbers import show_count
from winnow.pipelines.planning import Plan, SourcePlan, expand
from winnow.pipelines.recipe import Read, dump
from winnow.pipelines.records import SCHEMA_VERSION, Record, SchemaError, Stage, canonical, total
from winnow.shards import feed, mixture, storage
from winnow.shards.inputs import relative_pattern

if TYPE_CHECKING:
    from winnow.pipelines.corpus import Corpus, SourceRun
    from winnow.pipelines.engine import Done

MALFORMED = ("json", "not-an-object", "missing-column", "wrong-type", "utf8", "surrogate", "too-large")
"""Reasons that count against `max_bad_rows`."""
LISTING_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("location", pa.string()),
        ("size", pa.uint64()),
        ("fingerprint", pa.string()),
        ("id_half", pa.uint64()),
    ]
)
PACKAGES = (
    "winnow",
    "ray",
    "numpy",
    "pyarrow",
    "numba",
    "tokenizers",
    "fastokens",
    "sentencepiece",
    "xxhash",
    "zstandard",
)


def frozen(plan: Plan) -> str:
    """The recipe as YAML with every default, the roots among them, filled in."""
    recipe = plan.recipe
    sources = {
        s.name: s.source.model_copy(update={"read": _rooted(s), "dedup": _absolute(s.source.dedup)})
        for s in plan.sources
    }
    return dump(recipe.model_copy(update={"sources": sources, "dedup": _absolute(recipe.dedup)}))


def _absolute(dedup: Any) -> Any:
    """Settings of dedup with earlier runs and benchmarks' files where they are, seen from any directory."""
    changed = {}
    for step, settings in dedup:
        if against := getattr(settings, "against", ()):
            update: dict[str, Any] = {"against": tuple(map(storage.absolute, against))}
            changed[step] = settings.model_copy(update=update)
        elif benchmarks := getattr(settings, "benchmarks", {}):
            rooted = {
                name: b.model_copy(update={"path": tuple(map(storage.absolute, b.path))})
                for name, b in benchmarks.items()
            }
            changed[step] = settings.model_copy(update={"benchmarks": rooted})
    return dedup.model_copy(update=changed)


def _rooted(source: SourcePlan) -> Read:
    """How a source is read, with its root; paths that were relative to a working directory are below that."""
    read = source.source.read
    paths = read.path
    if read.root is None:
        paths = [
            relative_pattern(source.root, storage.absolute(p))
            if expand(p) == p and storage.is_local(p)
            else p
            for p in paths
        ]
    return read.model_copy(update={"root": source.root, "path": paths})


def begin(run: str, plan: Plan) -> None:
    """Make the directory this recipe's, if it is nobody's yet."""
    place = storage.join(run, "recipe.yaml")
    if not storage.exists(place):
        storage.put_bytes(place, frozen(plan).encode())


def name_of(run: str) -> str | None:
    """The name of the recipe a directory belongs to; None for a new one. Raises SchemaError for a damaged one."""
    return _stored_recipe(run).get("name")


def roots_of(run: str) -> dict[str, str]:
    """The roots that an earlier run of this directory resolved, by source."""
    sources = _stored_recipe(run).get("sources") or {}
    return {name: source["read"]["root"] for name, source in sources.items()}


def _stored_recipe(run: str) -> dict[str, Any]:
    place = storage.join(run, "recipe.yaml")
    if not storage.exists(place):
        return {}
    try:
        value = yaml.safe_load(storage.read_bytes(place))
    except yaml.YAMLError as error:
        raise SchemaError(f"{place} is damaged: {str(error).splitlines()[0]}") from error
    if not isinstance(value, dict):
        raise SchemaError(f"{place} is damaged: it is no mapping")
    return value


def listing_digest(source: SourcePlan) -> str:
    """What identifies a source's input: path, size and fingerprint of every file, in order."""
    digest = hashlib.sha256()
    for file in source.files:
        digest.update(canonical([file.path, file.size, file.fingerprint]))
    return digest.hexdigest()


def put_listing(run: str, stage: Stage, source: SourcePlan) -> None:
    """Keep the source's files beside its documents: it maps ids back to files, and gives their order."""
    place = storage.join(stage.location(run), "files.parquet")
    if storage.exists(place):
        return
    table = pa.table(
        {
            "path": [f.path for f in source.files],
            "location": [f.location for f in source.files],
            "size": [f.size for f in source.files],
            "fingerprint": [f.fingerprint for f in source.files],
            "id_half": [f.id_half(source.name) for f in source.files],
        },
        schema=LISTING_SCHEMA,
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    storage.put_bytes(place, buffer.getvalue())


def publish(corpus: Corpus) -> dict[str, Any]:
    """Publish a run whose stages are all there; returns what mixture.json holds.

    Raises RecipeError when the mixture cannot be had from what the sources gave.
    """
    facts = mixture_facts(corpus)
    files = {
        "streams.yaml": _streams_yaml(corpus, facts).encode(),
        "mixture.json": orjson.dumps(facts, option=orjson.OPT_INDENT_2),
        "recipe.yaml": frozen(corpus.plan).encode(),
    }
    manifest = _manifest(corpus) | {"published": {n: hashlib.sha256(d).hexdigest() for n, d in files.items()}}
    _put_dropped(corpus)
    for name, data in files.items():
        storage.put_bytes(storage.join(corpus.location, name), data)
    data = orjson.dumps(manifest, option=orjson.OPT_INDENT_2)
    storage.put_bytes(storage.join(corpus.location, "manifest.json"), data)
    return facts


def mixture_facts(corpus: Corpus) -> dict[str, Any]:
    """The mixture statistics: per source what was read, dropped, kept, and what the mixture draws."""
    recipe = corpus.recipe
    length = recipe.sequence.length
    sources = [_source_facts(s, length) for s in corpus.sources.values()]
    names = [s["name"] for s in sources]
    tokens = {s["name"]: s["train"]["rows"] * length for s in sources}
    weights = {n: recipe.sources[n].weight for n in names}
    try:
        shares = mixture.mix(names, weights, tokens, recipe.mixture.tokens, recipe.mixture.max_epochs)
    except mixture.MixtureError as error:
        raise recipe.located(("mixture",), str(error)) from error
    for facts, share in zip(sources, shares, strict=True):
        facts |= {
            "weight": weights[share.source],
            "proportion": share.proportion,
            "effective_tokens": share.effective_tokens,
            "epochs": share.epochs,
        }
    return {
        "schema": SCHEMA_VERSION,
        "name": recipe.name,
        "sequence_length": length,
        "tokenizer": {"name": recipe.tokenizer.name, "size": corpus.vocabulary.size, "max_id": corpus.vocabulary.max_id,
                      "dtype": corpus.vocabulary.dtype, "eos_id": corpus.vocabulary.eos_id},
        "budget_tokens": int(sum(s.effective_tokens for s in shares)),
        "epoch_rows": mixture.epoch_rows(shares, length),
        "sources": sources,
        "classifiers": {name: _classifier_facts(done) for name, done in corpus.classifiers.items()},
        "dedup": dedup_statistics.of_groups(recipe, corpus.sources, corpus.lasting),
    }  # fmt: skip


def _source_facts(source: SourceRun, length: int) -> dict[str, Any]:
    assert source.tokens is not None
    assert source.shuffled is not None
    assert source.packed is not None
    read, kept = source.documents.records, source.filters.records
    return {
        "name": source.name,
        "files": len(source.plan.files),
        "splits": len(source.plan.splits),
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
        "duplicates": sum(total(done.records, "dropped", source.name) for done in source.steps),
        "dedup": dedup_statistics.of_source(source),
        "kept_documents": total(source.tokens.records, "documents"),
        "kept_bytes": total(source.tokens.records, "text_bytes"),
        "tokens": total(source.tokens.records, "tokens"),
    } | {split: _split_facts(source, split, length) for split in pack.SPLITS}


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


def _split_facts(source: SourceRun, split: str, length: int) -> dict[str, int]:
    assert source.shuffled is not None
    assert source.packed is not None
    records: list[Record] = source.shuffled.split(split)
    tokens = total(records, "tokens")
    rows = source.packed.rows(split)
    return {
        "documents": total(records, "documents"),
        "tokens": tokens,
        "rows": rows,
        "shards": len(source.packed.entries[split]),
        "remainder_tokens": tokens - rows * length,
    }


def _streams_yaml(corpus: Corpus, facts: dict[str, Any]) -> str:
    recipe = corpus.recipe
    hashes = recipe.shards.hashes
    common: dict[str, Any] = {
        "eos_id": facts["tokenizer"]["eos_id"],
        "validate_hash": hashes[0] if hashes else None,
    }
    specs: dict[str, list[feed.StreamSpec]] = {split: [] for split in pack.SPLITS}
    for source in facts["sources"]:
        packed = corpus.sources[source["name"]].packed
        assert packed is not None
        for split in pack.SPLITS:
            if source[split]["rows"] and source["proportion"] > 0:
                specs[split].append(
                    feed.StreamSpec(
                        name=source["name"],
                        location=packed.done.location,
                        split=split,
                        samples=source[split]["rows"],
                        proportion=source["proportion"],
                    )
                )
    length = recipe.sequence.length
    blocks = {
        "train_loader": feed.train_loader(specs["train"], facts["epoch_rows"], length, recipe.seed, **common)
    }
    if specs["val"]:
        blocks["eval_loader"] = feed.eval_loader(specs["val"], length, **common)
    lines = [f"# {recipe.name}: {facts['epoch_rows']:,} samples of {length} tokens an epoch"]
    lines += [
        f"#   {s['name']}: {s['train']['rows']:,} samples, {s['proportion']:.4f} of the mixture, "
        f"{show_count(s['effective_tokens'])} tokens drawn, {s['epochs']:.2f} epochs"
        for s in facts["sources"]
    ]
    return "\n".join(lines) + "\n" + yaml.safe_dump(blocks, sort_keys=False, width=1000)


def _put_dropped(corpus: Corpus) -> None:
    """Bring RUN/dropped in line with the stages: copies of theirs, nothing else."""
    root = storage.join(corpus.location, "dropped")
    there = storage.list_files(root)
    wanted: set[str] = set()
    for source in corpus.sources.values():
        assert source.dropped is not None
        mark = source.dropped.stage.directory.rsplit("-", 1)[1]
        for record in source.dropped.records:
            for name, (size, _) in record.outputs.items():
                target = f"{source.name}/{mark}-{name.removeprefix('dropped-')}"
                wanted.add(target)
                if there.get(target) != size:
                    storage.copy(storage.join(source.dropped.location, name), storage.join(root, target))
    for name in there.keys() - wanted:
        storage.remove(storage.join(root, name))


def _manifest(corpus: Corpus) -> dict[str, Any]:
    stages: list[dict[str, Any]] = []
    for source in corpus.sources.values():
        shuffled, packed = source.shuffled, source.packed
        assert shuffled is not None
        assert packed is not None
        parts = (source.documents, source.filters, *source.steps, source.tokens, shuffled.done, packed.done)
        for done in (*parts, source.dropped):
            if done is not None and all(s["directory"] != done.stage.directory for s in stages):
                stages.append(_stage_facts(done.stage, done.records))
    assert corpus.backend is not None
    others = (corpus.tokenizer, *corpus.classifiers.values(), *corpus.fetched.values(), *corpus.lasting)
    stages += [_stage_facts(done.stage, done.records) for done in others]
    inputs = [
        {
            "source": s.name,
            "root": s.plan.root,
            "files": len(s.plan.files),
            "bytes": s.plan.stored_bytes,
            "digest": listing_digest(s.plan),
            "listing": f"stages/{s.documents.stage.directory}/files.parquet",
        }
        for s in corpus.sources.values()
    ]
    return {
        "schema": SCHEMA_VERSION,
        "name": corpus.recipe.name,
        "inputs": inputs,
        "stages": stages,
        "sources": [_places(s) for s in corpus.sources.values()],
        "backend": {"name": corpus.backend.name, "reason": corpus.backend.reason},
        "versions": versions(),
        "machine": platform.machine(),
    }


def _places(source: SourceRun) -> dict[str, Any]:
    """What reading a finished run needs to find a source's parts."""
    assert source.tokens is not None
    assert source.shuffled is not None
    assert source.packed is not None
    return {
        "name": source.name,
        "documents": source.documents.stage.directory,
        "filters": source.filters.stage.directory,
        "dedup": [done.stage.directory for done in source.steps],
        "tokens": source.tokens.stage.directory,
        "stream": source.shuffled.done.stage.directory,
        "shards": source.packed.done.stage.directory,
        "train_partitions": source.shuffled.train_partitions,
        "partition_bounds": [str(b) for b in source.shuffled.bounds.tolist()],
    }


def _stage_facts(stage: Stage, records: list[Record]) -> dict[str, Any]:
    """A stage with the digest of its records' identities."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(canonical([record.index, record.counts, record.outputs]))
    return {
        "name": stage.name,
        "directory": stage.directory,
        "tasks": len(records),
        "identity": digest.hexdigest(),
    }


def versions() -> dict[str, str]:
    """What made the run."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def torn(run: str, manifest: dict[str, Any]) -> list[str]:
    """The published files that are not those the manifest was written after."""
    return [
        name
        for name, digest in manifest["published"].items()
        if hashlib.sha256(storage.read_bytes(storage.join(run, name))).hexdigest() != digest
    ]


def read_json(run: str, name: str) -> dict[str, Any]:
    """A published JSON file. Raises FileNotFoundError, or SchemaError for another schema version."""
    value = orjson.loads(storage.read_bytes(storage.join(run, name)))
    if value.get("schema") != SCHEMA_VERSION:
        raise SchemaError(f"{run}/{name}: schema {value.get('schema')}, this Winnow reads {SCHEMA_VERSION}")
    return value
