"""What a finished run shows the world.

`streams.yaml`, `mixture.json`, `recipe.yaml` and, last of all, `manifest.json` are one put each and point
into stage directories, so the shards under a running trainer never change. `RUN/dropped/` holds copies of the
report of the stages that the manifest names.
"""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

import orjson
import yaml
from winnow.pipelines import lease, pack
from winnow.pipelines.document_ends import written_inside
from winnow.pipelines.listings import listing_digest
from winnow.pipelines.mixing import layout_of
from winnow.pipelines.mixture_facts import mixture_facts, stream_specs
from winnow.pipelines.numbers import show_count
from winnow.pipelines.places import expand
from winnow.pipelines.planning import Plan, SourcePlan
from winnow.pipelines.recipe import Recipe, dump
from winnow.pipelines.records import SCHEMA_VERSION, Record, SchemaError, Stage, identity_of, total
from winnow.pipelines.source_settings import Read
from winnow.shards import feed, mds, plain_yaml, storage
from winnow.shards.inputs import InputError, relative_pattern

if TYPE_CHECKING:
    from winnow.pipelines.corpus import Corpus, SourceRun
    from winnow.pipelines.engine import Done

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
    "resiliparse",
    "fastwarc",
    "trafilatura",
    "lxml",
    "mwparserfromhell",
    "datasets",
    "jinja2",
)

REVISIONS = "revisions.json"
"""Keeps the commits of the hub's repositories that a run reads."""
PINNED = re.compile(r"((?:hf://datasets/)?[\w.-]+/[\w.-]+)@(?:refs/(?:convert|pr)/)?[^/]+")


def frozen(plan: Plan) -> str:
    """The recipe as YAML with every default filled in, roots, mirrors and the hub's commits among them."""
    recipe = plan.recipe
    sources = {
        s.name: s.source.model_copy(
            update={
                "read": _rooted(s),
                "dedup": _absolute(s.source.dedup),
                "exclude": list(map(storage.absolute, s.source.exclude)),
            }
        )
        for s in plan.sources
    }
    update = {
        "sources": sources,
        "dedup": _absolute(recipe.dedup),
        "mirrors": dict(plan.mirrors.table),
    }
    return dump(recipe.model_copy(update=update))


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
    if source.commit is not None:  # which is in `revision` from now on
        named = [p for p in paths if read.format == "dataset" or p.startswith(storage.HUB)]
        paths = [PINNED.sub(r"\1", p, count=1) if p in named else p for p in paths]
    revision = source.commit or read.revision
    if read.format == "dataset":
        return read.model_copy(update={"path": paths, "revision": revision})
    if read.root is None:
        paths = [
            relative_pattern(source.named, storage.absolute(p))
            if expand(p) == p and storage.is_local(p)
            else p
            for p in paths
        ]
    return read.model_copy(update={"root": source.named, "path": paths, "revision": revision})


def check_out(recipe: Recipe, out: str) -> None:
    """Raises InputError for a place that no trainer reads, and RecipeError for one that is another recipe's."""
    scheme = out.partition("://")[0]
    if not storage.is_local(out) and scheme not in feed.REMOTE_SCHEMES:
        raise InputError(
            f"--out {out}: mosaicml-streaming cannot read {scheme}://; it reads {', '.join(feed.REMOTE_SCHEMES)}"
        )
    name = name_of(out)
    if name is not None and name != recipe.name:
        message = f"{out} holds the run {name!r}, not {recipe.name!r}; choose another --out"
        raise recipe.located(("name",), message)


def begin(run: str, plan: Plan) -> None:
    """Make the directory this recipe's, if it is nobody's yet, and keep the hub's commits."""
    place = storage.join(run, "recipe.yaml")
    if not storage.exists(place):
        storage.put_bytes(place, frozen(plan).encode())
    if plan.commits != commits_of(run):
        kept = {"schema": SCHEMA_VERSION, "commits": dict(sorted(plan.commits.items()))}
        data = orjson.dumps(kept, option=orjson.OPT_INDENT_2)
        storage.put_bytes(storage.join(run, REVISIONS), data)


def name_of(run: str) -> str | None:
    """The name of the recipe a directory belongs to; None for a new one. Raises SchemaError for a damaged one."""
    return _stored_recipe(run).get("name")


def roots_of(run: str) -> dict[str, str]:
    """The roots that an earlier run of this directory resolved, by source."""
    sources = _stored_recipe(run).get("sources") or {}
    return {name: source["read"]["root"] for name, source in sources.items()}


def commits_of(run: str) -> dict[str, str]:
    """The commits that an earlier run of this directory found, by repository and revision. Raises SchemaError."""
    place = storage.join(run, REVISIONS)
    if not storage.exists(place):
        return {}
    try:
        kept = orjson.loads(storage.read_bytes(place))
        if kept["schema"] != SCHEMA_VERSION:
            raise SchemaError(f"{place}: is of schema {kept['schema']}, not {SCHEMA_VERSION}")
        return dict(kept["commits"])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, SchemaError):
            raise
        raise SchemaError(f"{place} is damaged: it is no table of commits") from error


def _stored_recipe(run: str) -> dict[str, Any]:
    place = storage.join(run, "recipe.yaml")
    if not storage.exists(place):
        return {}
    try:
        value = plain_yaml.load(storage.read_bytes(place))
    except yaml.YAMLError as error:
        raise SchemaError(f"{place} is damaged: {str(error).splitlines()[0]}") from error
    if not isinstance(value, dict):
        raise SchemaError(f"{place} is damaged: it is no mapping")
    return value


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
    lease.check()
    _put_dropped(corpus)
    for name, data in files.items():
        storage.put_bytes(storage.join(corpus.location, name), data)
    data = orjson.dumps(manifest, option=orjson.OPT_INDENT_2)
    storage.put_bytes(storage.join(corpus.location, "manifest.json"), data)
    return facts


def _streams_yaml(corpus: Corpus, facts: dict[str, Any]) -> str:
    """The blocks that a trainer reads: of the main packing, of further lengths, of a curriculum's later phases."""
    blocks: dict[str, Any] = _blocks(corpus, 0)
    if corpus.recipe.sequence.curriculum:
        phases = [_blocks(corpus, i)["train_loader"] for i in range(len(corpus.mixings))]
        if len(phases) > 1:
            blocks["curriculum"] = feed.curriculum(phases)
    elif len(corpus.mixings) > 1:
        blocks["lengths"] = {m.packing.length: _blocks(corpus, i) for i, m in enumerate(corpus.mixings) if i}
    lines = [
        f"# {facts['name']}: {facts['epoch_rows']:,} samples of {facts['sequence_length']} tokens an epoch"
    ]
    lines += [
        f"#   {s['name']}: {s['train']['rows']:,} samples, {s['proportion']:.4f} of the mixture, "
        f"{show_count(s['effective_tokens'])} tokens drawn, {s['epochs']:.2f} epochs"
        for s in facts["sources"]
    ]
    return "\n".join(lines) + "\n" + yaml.safe_dump(blocks, sort_keys=False, width=1000)


def _blocks(corpus: Corpus, number: int) -> dict[str, Any]:
    """`train_loader` and, where rows are held out, `eval_loader` of one packing."""
    recipe, drawn = corpus.recipe, corpus.mixings[number]
    length, hashes = drawn.packing.length, recipe.shards.hashes
    eos_id = corpus.vocabulary.eos_id
    common: dict[str, Any] = {
        # From it a trainer makes documents of a row: rather none than each exchange of a conversation one.
        "eos_id": None if written_inside(recipe, corpus.vocabulary, eos_id) else eos_id,
        "validate_hash": hashes[0] if hashes else None,
    }
    train, val = (stream_specs(corpus, number, split) for split in pack.SPLITS)
    if drawn.published:
        blocks = {"train_loader": feed.mixed_loader(train[0], length, **common)}
    else:
        layout = layout_of(recipe, corpus.vocabulary, drawn.packing)
        blocks = {
            "train_loader": feed.train_loader(
                train,
                drawn.epoch_rows,
                length,
                recipe.seed,
                rows_per_shard=mds.rows_per_shard(layout),
                **common,
            )
        }
    if val:
        blocks["eval_loader"] = feed.eval_loader(val, length, **common)
    return blocks


def _reports(source: SourceRun) -> list[Done]:
    """The stages whose files RUN/dropped shows."""
    assert source.dropped is not None
    return [source.dropped] + ([source.excluded.found] if source.excluded else [])


def _put_dropped(corpus: Corpus) -> None:
    """Bring RUN/dropped in line with the stages: copies of theirs, nothing else."""
    root = storage.join(corpus.location, "dropped")
    there = storage.list_files(root)
    wanted: set[str] = set()
    for source in corpus.sources.values():
        for done in _reports(source):
            mark = done.stage.directory.rsplit("-", 1)[1]
            for record in done.records:
                for name, (size, _) in record.outputs.items():
                    target = f"{source.name}/{mark}-{name.removeprefix('dropped-')}"
                    wanted.add(target)
                    if there.get(target) != size:
                        storage.copy(storage.join(done.location, name), storage.join(root, target))
    for name in there.keys() - wanted:
        storage.remove(storage.join(root, name))


def _manifest(corpus: Corpus) -> dict[str, Any]:
    stages: list[dict[str, Any]] = []
    parts: list[Done | None] = []
    for source in corpus.sources.values():
        assert source.shuffled is not None
        parts += [source.documents, source.filters, *source.steps, source.tokens, source.shuffled.done]
        for shards in source.shards:
            parts += [shards.packed.arranged.done, shards.packed.done, shards.published.done]
        if source.excluded:
            parts += [source.excluded.done, source.excluded.found]
        parts += [source.groups, source.dropped, *source.embedded.values()]
    for drawn in corpus.mixings:
        parts += [made.done for made in (drawn.mixed, drawn.left) if made]
    assert corpus.backend is not None
    parts += [corpus.tokenizer, *corpus.classifiers.values(), *corpus.fetched.values(), *corpus.lasting]
    if corpus.embeddings is not None:
        parts += [*corpus.embeddings.stages, *corpus.embedding_classifiers.values()]
    for done in parts:
        if done is not None and all(s["directory"] != done.stage.directory for s in stages):
            stages.append(_stage_facts(done.stage, done.records))
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
        "streams": list(_streams(corpus)),
        "backend": {"name": corpus.backend.name, "reason": corpus.backend.reason},
        "versions": versions(),
        "machine": platform.machine(),
    }


def _places(source: SourceRun) -> dict[str, Any]:
    """What reading a finished run needs to find a source's parts."""
    assert source.tokens is not None
    assert source.shuffled is not None
    return {
        "name": source.name,
        "documents": source.documents.stage.directory,
        "filters": source.filters.stage.directory,
        "dedup": [done.stage.directory for done in source.steps],
        "tokens": source.tokens.stage.directory,
        "stream": source.shuffled.done.stage.directory,
        "shards": source.shards[0].published.done.stage.directory,
        "exclude": source.excluded.done.stage.directory if source.excluded else None,
        "train_partitions": source.shuffled.train_partitions,
        "partition_bounds": [str(b) for b in source.shuffled.bounds.tolist()],
    }


def _streams(corpus: Corpus) -> Iterator[dict[str, Any]]:
    """Every published stream of every packing: where its shards are, and what must be in them."""
    for number, drawn in enumerate(corpus.mixings):
        way = {"packing": drawn.packing.name, "length": drawn.packing.length}
        for source in corpus.sources.values():
            shards = source.shards[number]
            for split in pack.SPLITS:
                if n := len(shards.published.entries[split]):
                    yield way | {
                        "name": source.name,
                        "split": split,
                        "directory": shards.published.done.stage.directory,
                        "shards": n,
                        "rows": shards.rows(split),
                        "tokens": shards.tokens(split),
                    }
        if drawn.published:
            yield way | {
                "name": "mixed",
                "split": "train",
                "directory": drawn.published.done.stage.directory,
                "shards": len(drawn.published.entries["train"]),
                "rows": drawn.published.rows("train"),
                "tokens": total(drawn.published.done.records, "tokens"),
            }


def _stage_facts(stage: Stage, records: Sequence[Record]) -> dict[str, Any]:
    """A stage with the digest of its records' identities."""
    return {
        "name": stage.name,
        "directory": stage.directory,
        "tasks": len(records),
        "identity": identity_of(records),
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
