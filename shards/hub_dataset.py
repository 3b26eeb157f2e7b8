"""How are the rows of a data set read that is named by its id, through the `datasets` library?

The library finds the files of a configuration and a split, and reads them as a stream; it runs no code of the
repository's (versions 4 and later cannot). A shard of the stream, which is a file in most formats, is what others call
a file: it is listed as `CONFIG/SPLIT/00003-of-00012`, and a row's position is its number in its shard. Columns come as
Arrow tables, so images and audio are never decoded; a data set that has any is refused.

A directory laid out like the repository is read in the same way, and gives the same ids.

Memory: the library's own batch of a shard, and READ_ROWS rows of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

import pyarrow as pa
from winnow.shards import hub, hub_requests, parquet_rows, storage
from winnow.shards.inputs import SHARDS, InputError, InputFile, Piece
from winnow.shards.rows import Row

if TYPE_CHECKING:
    from winnow.shards.readers import ReadSettings

READ_ROWS = 1024
DEFAULT_CONFIG, DEFAULT_SPLIT = "default", "train"
DECODED = ("Image", "Audio", "Video", "Pdf", "Nifti", "Mesh")
"""Types of columns that hold no text, as the library calls them."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard of a stream, as a location has it."""

    where: str
    """A local directory, or the repository at a commit."""
    config: str | None
    split: str
    number: int
    of: int

    @property
    def location(self) -> str:
        of = {"split": self.split, "shard": self.number, "of": self.of}
        of |= {"config": self.config} if self.config else {}
        return f"{SHARDS}{quote(self.where, safe='')}?{urlencode(of)}"


def shard_at(location: str) -> Shard:
    """The shard that a location names."""
    where, _, of = location.removeprefix(SHARDS).partition("?")
    said = dict(parse_qsl(of))
    return Shard(unquote(where), said.get("config"), said["split"], int(said["shard"]), int(said["of"]))


def list_shards(source: str, where: str, config: str | None, split: str | None) -> list[InputFile]:
    """The shards of a data set, in their order.

    where : a local directory, or `hf://datasets/ORG/NAME@COMMIT`.

    Raises InputError for a configuration or split that is not there and for columns that are not text,
    HubSilentError, and ImportError without `datasets`.
    """
    split = split or DEFAULT_SPLIT
    if storage.is_local(where) and not os.path.isdir(storage.local_path(where)):
        raise InputError(f"source {source!r}: there is no directory {where}")
    try:
        stream = _stream(where, config, split)
    except InputError as error:
        raise InputError(f"source {source!r}: {error}") from error
    of = stream.num_shards
    found = _files(where, config, split)
    known = found if len(found) == of else [None] * of
    return [
        InputFile(
            f"{config or DEFAULT_CONFIG}/{split}/{number:05d}-of-{of:05d}",
            Shard(where, config, split, number, of).location,
            facts[0] if facts else 0,
            _fingerprint(where, facts[1] if facts else ""),
        )
        for number, facts in enumerate(known)
    ]


def _fingerprint(where: str, of_file: str) -> str:
    commit = "" if storage.is_local(where) else f"commit:{hub_requests.place(where).revision}"
    return " ".join(filter(None, [commit, of_file])) or "size"


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            "the format `dataset` needs the package datasets, which is not here: pip install 'winnow[hub]'"
        ) from error
    datasets.disable_progress_bars()
    return datasets


def _named(where: str) -> dict[str, Any]:
    """What the library calls a place."""
    if storage.is_local(where):
        return {"path": storage.local_path(where)}
    place = hub_requests.place(where)
    return {"path": place.repository, "revision": place.revision}


def _stream(where: str, config: str | None, split: str) -> Any:
    # A repository at a commit stays as it is; of a directory nobody knows.
    return (_load_stream if storage.is_local(where) else _kept_stream)(where, config, split)


def _load_stream(where: str, config: str | None, split: str) -> Any:
    library = _library()
    try:
        stream = library.load_dataset(**_named(where), name=config, split=split, streaming=True)
    except Exception as error:
        raise _explained(where, error) from error
    refused = [name for name, kind in (stream.features or {}).items() if _is_decoded(kind)]
    if refused:
        raise InputError(f"{where}: columns {', '.join(map(repr, refused))} are images or sound, not text")
    return stream


def _explained(where: str, error: Exception) -> Exception:
    """What the library says, as an error of ours."""
    if isinstance(error, InputError):
        return error
    if isinstance(error, ConnectionError | TimeoutError):
        return hub_requests.HubSilentError(f"{where}: cannot be reached ({error})")
    said = next(iter(str(error).splitlines()), "") or type(error).__name__
    return InputError(f"{where}: the datasets library cannot read it ({said})")


def _is_decoded(kind: Any) -> bool:
    """Whether a column's type is, or has in it, what is no text."""
    if isinstance(kind, dict):
        return any(map(_is_decoded, kind.values()))
    if isinstance(kind, list | tuple):
        return any(map(_is_decoded, kind))
    inner = getattr(kind, "feature", None)
    return type(kind).__name__ in DECODED or (inner is not None and _is_decoded(inner))


def _names(where: str, config: str | None, split: str) -> tuple[str, ...]:
    """The files of a split, in the library's order."""
    return (_load_names if storage.is_local(where) else _kept_names)(where, config, split)


def _load_names(where: str, config: str | None, split: str) -> tuple[str, ...]:
    try:
        builder = _library().load_dataset_builder(**_named(where), name=config)
    except Exception as error:
        raise _explained(where, error) from error
    return tuple(map(str, (builder.config.data_files or {}).get(split, ())))


# Each takes several requests, and a worker reads many shards of one data set.
_kept_stream = lru_cache(maxsize=8)(_load_stream)
_kept_names = lru_cache(maxsize=8)(_load_names)


def _files(where: str, config: str | None, split: str) -> list[tuple[int, str] | None]:
    """(bytes, fingerprint) of a split's files, in the library's order; None for one that nothing is known of."""
    names = _names(where, config, split)
    if storage.is_local(where):
        return [_of_local(name) for name in names]
    listed: dict[str, tuple[int, str]] = {}
    inside = [hub_requests.place(n).path for n in names if hub_requests.LOCATION.fullmatch(n)]
    for directory in sorted({path.rpartition("/")[0] for path in inside}):
        depth = directory.count("/") + 2 if directory else 1
        for path, _, size, mark in hub.walk(where, directory, depth):
            listed[f"{where}/{path}"] = size, mark
    return [listed.get(name) for name in names]


def _of_local(path: str) -> tuple[int, str] | None:
    if not os.path.isfile(path):
        return None
    stat = os.stat(path)
    return stat.st_size, f"mtime:{stat.st_mtime_ns}"


def rows(piece: Piece, settings: ReadSettings) -> Iterator[Row]:
    """The rows of a shard. Raises InputError."""
    shard = shard_at(piece.location)
    _check_unchanged(piece, shard)
    stream = _stream(shard.where, shard.config, shard.split)
    if stream.num_shards != shard.of:
        raise InputError(f"{piece.path}: changed since the run was planned; run again")
    position = 0
    tables = stream.shard(shard.of, shard.number).with_format("arrow").iter(READ_ROWS)
    while True:
        try:
            table = next(tables, None)
        except Exception as error:
            raise _explained(f"{shard.where}: {piece.path}", error) from error
        if table is None:
            break
        for batch in pa.table(table).combine_chunks().to_batches():
            for part in parquet_rows.slices(batch):
                yield from _rows_of(part, position, piece, settings)
                position += part.num_rows
    _check_unchanged(piece, shard)


def _rows_of(batch: pa.RecordBatch, first: int, piece: Piece, settings: ReadSettings) -> Iterator[Row]:
    names = batch.schema.names
    if settings.compose is None and not {settings.text, settings.text.split(".")[0]} & set(names):
        raise InputError(f"{piece.path}: no column {settings.text!r}; it has {', '.join(map(repr, names))}")
    yield from parquet_rows.rows_of(first, batch, settings)


def _check_unchanged(piece: Piece, shard: Shard) -> None:
    """A repository at a commit does not change; a directory may."""
    if not piece.fingerprint or not storage.is_local(shard.where):
        return
    found = _files(shard.where, shard.config, shard.split)
    facts = found[shard.number] if len(found) == shard.of else None
    known = (facts[0], _fingerprint(shard.where, facts[1])) if facts else (0, "size")
    if known != (piece.file_size, piece.fingerprint):
        raise InputError(f"{piece.path}: changed since the run was planned; run again")
