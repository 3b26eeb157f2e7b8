"""How do the stored tokens of a finished run get into another trainer's files?

`export` reads the stream stage of each source (documents in training order, behind the run's mixture) and writes

    megatron    OUT/<source>-<split>.bin and .idx
    datatrove   OUT/<source>/<split>/NNNNN.ds, .ds.index and .ds.metadata: a folder is one dataset of nanotron
    parquet     OUT/<source>/<split>/NNNNN.parquet

Nothing is tokenized again. Which tokens are trained on (`shards: {columns: [loss_mask]}`) is not exported: ids are
written without it. Documents without tokens and excluded ones are left out. A file appears whole or not at all, and
`OUT/export.json` lists a stream only when all its files are there, so the same command continues an export that was
interrupted, and adds sources to one that was finished. A file that is no export's, or an export of other tokens, is an
error.

Memory: the rows of a partition (`limits.partition_bytes`), and `BLOCK` tokens or one longer document.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import orjson
from winnow.pipelines import stream
from winnow.pipelines.documents import name
from winnow.pipelines.exclude import Ids, ids_place
from winnow.pipelines.finished import FinishedRun, UnknownError
from winnow.pipelines.lease import Lease
from winnow.pipelines.ledger import completed
from winnow.pipelines.pack import SPLITS
from winnow.shards import loss_mask, megatron, storage, tables, token_files, token_stream
from winnow.shards.token_files import Documents
from winnow.shards.token_stream import Partition, TokenStream
from winnow.tokenize.source import MISTRAL, NEOX, NEOX_REPOSITORY

Format = Literal["megatron", "datatrove", "parquet"]
FORMATS: tuple[str, ...] = get_args(Format)
SCHEMA = 1
MANIFEST, LEASE = "export.json", "lease.json"
BLOCK = 1 << 22
"""Tokens read at a time."""
HUB_IDS = {MISTRAL: "mistralai/Mistral-7B-v0.1", NEOX: NEOX_REPOSITORY}
"""Under which names transformers finds the tokenizers that Winnow knows by name."""


class ExportError(ValueError):
    """The directory cannot take this export."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Files that are written together, and what goes into them."""

    tokens: TokenStream
    """Of the partitions that the files hold."""
    excluded: Ids | None
    files: tuple[str, ...]
    """Relative to the directory of the export; the last one appears last."""


@dataclass(frozen=True, slots=True)
class Target:
    format_: Format
    out: str
    tokenizer: str
    """The name that trainers load it by."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What lies in the directory of one source's split."""

    source: str
    split: str
    documents: int
    tokens: int
    files: tuple[str, ...]
    written: int
    """Files written now; the others were there."""


def export(
    run: FinishedRun,
    format_: Format,
    out: str,
    *,
    sources: Sequence[str] | None = None,
    splits: Sequence[str] = SPLITS,
    excluded: Mapping[str, Ids] | None = None,
) -> list[Exported]:
    """Write the tokens of a run's sources in another trainer's format.

    out : directory or URL; a URL's files are finished in scratch (scratch.py) and then sent.
    sources : names; None for all.
    splits : of `train` and `val`; a split without documents gives nothing.
    excluded : by source, ids of documents to leave out; None for those that the run's `exclude` lists name.

    Raises ExportError where `out` holds something else, UnknownError for a source or split that the run lacks,
    LeaseError where another export writes to `out`.
    """
    out, excluded = storage.absolute(out), excluded_of(run) if excluded is None else excluded
    for split in splits:
        if split not in SPLITS:
            raise UnknownError(f"there is no split {split!r}; there are {', '.join(SPLITS)}")
    wanted = list(run.places) if sources is None else list(dict.fromkeys(sources))
    for source in wanted:
        run.stage(source, "stream")
    units = {
        (source, split): _units(format_, source, split, stream_of(run, source, split), excluded.get(source))
        for source in run.places
        for split in SPLITS
    }
    facts = _facts(run, format_, excluded)
    ours = {file for part in units.values() for unit in part for file in unit.files}
    _check_directory(out, facts, ours)
    recipe_name = run.recipe.tokenizer.name
    target = Target(format_, out, HUB_IDS.get(recipe_name, recipe_name))
    with Lease(out):
        finished = _begin(out, facts, ours)
        done = [
            _export_stream(target, source, split, units[source, split])
            for source in wanted
            for split in dict.fromkeys(splits)
        ]
        for part in done:
            content = {"documents": part.documents, "tokens": part.tokens, "files": part.files}
            finished[f"{part.source}/{part.split}"] = content
        _put_manifest(out, facts, finished)
    return done


def excluded_of(run: FinishedRun) -> dict[str, Ids]:
    """By source, the documents that the run's `exclude` lists took out of its shards."""
    stages = {stage["name"]: stage["directory"] for stage in run.manifest["stages"]}
    return {
        source: Ids.read(ids_place(storage.join(run.location, "stages", stages[f"exclude.{source}"])))
        for source in run.places
        if f"exclude.{source}" in stages
    }


def stream_of(run: FinishedRun, source: str, split: str) -> TokenStream:
    """The stored tokens of one split of a source."""
    location = run.stage(source, "stream")
    records = completed(location)
    train = run.places[source]["train_partitions"]
    parts = [
        (
            storage.join(location, name("stream", i, "bin")),
            storage.join(location, name("stream", i, "rows")),
            records[i].counts["tokens"],
            records[i].counts["documents"],
        )
        for i in sorted(records)
        if (i < train) == (split == "train")
    ]
    masked = loss_mask.COLUMN in run.recipe.shards.columns
    return token_stream.build(parts, run.mixture["tokenizer"]["dtype"], stream.ROWS, masked=masked)


def documents(unit: Unit) -> Iterator[Documents]:
    """Yield documents in order, in blocks of about `BLOCK` tokens; a longer document comes alone."""
    for partition in unit.tokens.partitions:
        tokens = replace(unit.tokens, partitions=(partition,))
        rows, begins, ends, keep = _rows(unit, partition)
        first = 0
        while first < len(rows):
            full = int(np.searchsorted(ends, begins[first] + BLOCK, side="right"))
            last = max(full, first + 1)
            inside = keep[first:last]
            if inside.any():
                lengths = (ends - begins)[first:last]
                ids = tokens.tokens(int(begins[first]), int(ends[last - 1]))
                if tokens.masked:
                    ids = loss_mask.ids_of(ids).astype(tokens.dtype)
                if not inside.all():
                    ids = ids[np.repeat(inside, lengths)]
                high, low = (rows[field][first:last][inside] for field in ("high", "low"))
                yield Documents(high, low, lengths[inside], ids)
            first = last


def _rows(unit: Unit, partition: Partition) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(rows, first token, token after the last, whether it is exported) of a partition's documents."""
    rows, begins, ends = unit.tokens.documents(partition)
    keep = ends > begins
    if unit.excluded is not None:
        keep &= unit.excluded.find(tables.ids_of(rows["high"], rows["low"])) < 0
    return rows, begins, ends, keep


def _units(format_: Format, source: str, split: str, tokens: TokenStream, excluded: Ids | None) -> list[Unit]:
    if format_ == "megatron":
        return [Unit(tokens, excluded, (f"{source}-{split}.bin", f"{source}-{split}.idx"))]
    ends = ("ds", "ds.index", "ds.metadata") if format_ == "datatrove" else ("parquet",)
    return [
        Unit(
            replace(tokens, partitions=(partition,)),
            excluded,
            tuple(f"{source}/{split}/{i:05d}.{end}" for end in ends),
        )
        for i, partition in enumerate(tokens.partitions)
    ]


def _export_stream(target: Target, source: str, split: str, units: Sequence[Unit]) -> Exported:
    there = storage.list_files(target.out)
    n_documents = n_tokens = written = 0
    files: list[str] = []
    for unit in units:
        in_unit, of_tokens = _count(unit)
        if not in_unit:
            continue
        sizes = _sizes(target.format_, unit, in_unit, of_tokens)
        if any(file not in there or there[file] != sizes.get(file, there[file]) for file in unit.files):
            _write(target, unit)
            written += len(unit.files)
        n_documents, n_tokens = n_documents + in_unit, n_tokens + of_tokens
        files += unit.files
    return Exported(source, split, n_documents, n_tokens, tuple(files), written)


def _count(unit: Unit) -> tuple[int, int]:
    """(documents, tokens) that go into the files of a unit; reads rows alone."""
    n_documents = n_tokens = 0
    for partition in unit.tokens.partitions:
        _, begins, ends, keep = _rows(unit, partition)
        n_documents += int(keep.sum())
        n_tokens += int((ends - begins)[keep].sum())
    return n_documents, n_tokens


def _sizes(format_: Format, unit: Unit, n_documents: int, n_tokens: int) -> dict[str, int]:
    """The sizes of those files that counts tell."""
    of_tokens = n_tokens * np.dtype(unit.tokens.dtype).itemsize
    if format_ == "megatron":
        return dict(zip(unit.files, (of_tokens, megatron.index_bytes(n_documents)), strict=True))
    if format_ == "datatrove":
        return dict(zip(unit.files, (of_tokens, 8 * n_documents), strict=False))
    return {}


def _write(target: Target, unit: Unit) -> None:
    location, dtype = storage.join(target.out, unit.files[0]), unit.tokens.dtype
    if target.format_ == "megatron":
        megatron.write(location.removesuffix(".bin"), dtype, documents(unit))
    elif target.format_ == "datatrove":
        token_files.write_datatrove(location, target.tokenizer, dtype, documents(unit))
    else:
        token_files.write_table(location, dtype, documents(unit))


def _facts(run: FinishedRun, format_: Format, excluded: Mapping[str, Ids]) -> dict[str, Any]:
    """What tells one export from another."""
    streams = {}
    for source, place in run.places.items():
        ids = excluded.get(source)
        digest = hashlib.sha256(ids.stored().tobytes()).hexdigest() if ids is not None and len(ids) else None
        streams[source] = {"stage": place["stream"], "excluded": digest}
    tokenizer = {key: run.mixture["tokenizer"][key] for key in ("name", "max_id", "dtype", "eos_id")}
    return {
        "schema": SCHEMA,
        "format": format_,
        "run": run.recipe.name,
        "tokenizer": tokenizer,
        "streams": streams,
    }


def _check_directory(out: str, facts: Mapping[str, Any], ours: Set[str]) -> None:
    """Raises ExportError unless the directory is empty or holds this export, finished or not."""
    there = storage.list_files(out).keys() - {LEASE}
    if MANIFEST in there:
        found = _read_manifest(out)
        if other := [key for key, value in facts.items() if found.get(key) != value]:
            raise ExportError(f"{out} holds an export with other {other[0]}; use another directory")
    foreign = there - ours - {MANIFEST} if MANIFEST in there else there
    if foreign:
        raise ExportError(
            f"{out} holds files that are no part of this export ({min(foreign)}); use another directory"
        )


def _begin(out: str, facts: Mapping[str, Any], ours: Set[str]) -> dict[str, Any]:
    """Take the directory, and remove what a kill left of this export's files; returns what is finished of it."""
    finished = _read_manifest(out)["finished"] if storage.exists(storage.join(out, MANIFEST)) else {}
    for attempt in storage.list_files(out, unfinished=True):
        folder, slash, base = attempt.rpartition("/")
        file = base.removeprefix(".").removesuffix(storage.UNFINISHED).rpartition(".")[0]
        if f"{folder}{slash}{file}" in ours:
            storage.remove(storage.join(out, attempt))
    _put_manifest(out, facts, finished)
    return finished


def _read_manifest(out: str) -> dict[str, Any]:
    place = storage.join(out, MANIFEST)
    try:
        value = orjson.loads(storage.read_bytes(place))
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict) or not isinstance(value.get("finished"), dict):
        raise ExportError(f"{place} is damaged, or of something else; use another directory")
    return value


def _put_manifest(out: str, facts: Mapping[str, Any], finished: Mapping[str, Any]) -> None:
    value = {**facts, "finished": finished}
    storage.put_bytes(storage.join(out, MANIFEST), orjson.dumps(value, option=orjson.OPT_INDENT_2))
