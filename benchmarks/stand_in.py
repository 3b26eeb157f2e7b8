"""How does a small copy of a hub's data sets come from a folder of text?

A *stand-in* has the directories, file names, columns and codecs of the data sets that a recipe reads, and text of
`CORPORA`, a folder of folders of `*.jsonl.zst` files with a column `text`. A module `stand_in_<system>.py` has

    CASES: list[Case]                       the recipes that run on it
    make(folder: Path, corpora: Path)       writes folder/datasets/<org>/<name>/…

Rows that a step of the recipe must drop are *planted*: `plant(row, step)` names the step in a column of its own;
where a row has a URL alone, `planted_url(step, n)` has it in there. `planted(key, meta)` reads it back.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

PLANTED = "planted"
IN_URL = re.compile(r"[?&]planted=([a-z0-9._-]+)")


@dataclass(frozen=True)
class Case:
    """A recipe, and what is set so that it runs on the stand-in."""

    recipe: str
    overrides: tuple[str, ...] = ()
    """As for `--set`, beside the mirrors that the runner sets; `{folder}` stands for the stand-in's folder,
    `{shared}` for the one that CORPORA lies in, `{minilm}` for the directory of all-MiniLM-L6-v2."""
    planted: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By source, how many documents are planted for each step that must drop them: so many have to be found."""
    lost: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By source, rows planted that reading must lose, by its reason: they become no documents, so nothing else marks
    them."""


def rows_of(corpora: Path, folder: str, prefix: str = "") -> Iterator[dict[str, Any]]:
    """The rows of a folder's `*.jsonl.zst` files whose names begin so, in order."""
    for path in sorted((corpora / folder).glob(f"{prefix}*.jsonl.zst")):
        with zstandard.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)


def texts_of(
    corpora: Path, *folders: str, megabytes: float = float("inf"), longest: int = 20_000
) -> list[str]:
    """Texts of folders in order, each cut to `longest` characters, until they are so many megabytes."""
    texts, size = [], 0
    for folder in folders:
        for row in rows_of(corpora, folder):
            if text := row.get("text") or row.get("content"):
                texts.append(text[:longest])
                size += len(texts[-1])
            if size >= megabytes * 1e6:
                return texts
    return texts


def members_of(corpora: Path, folder: str, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of the files in a folder's `*.tar.zst`, in order."""
    for path in sorted((corpora / folder).glob(f"{prefix}*.tar.zst")):
        with zstandard.open(path, "rb") as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                if member.isfile() and (file := archive.extractfile(member)) is not None:
                    yield member.name, file.read()


def bytes_of(path: Path) -> bytes:
    """A file's bytes; of a `.zst` what is in it."""
    data = path.read_bytes()
    return (
        zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read() if path.suffix == ".zst" else data
    )


def data_set(folder: Path, name: str) -> Path:
    """Where the data set `org/name` lies in a stand-in."""
    return folder / "datasets" / name


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema | None = None) -> None:
    """Rows as Parquet or JSON lines, plain, gz or zst, as the file's name says; directories are made.

    schema : of Parquet; default: what the rows come to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows), schema), path, row_group_size=1000)
        return
    data = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
    if path.suffix == ".gz":
        # No time and no name in the header: two stand-ins are equal files.
        data = gzip.compress(data, 6, mtime=0)
    elif path.suffix == ".zst":
        data = zstandard.ZstdCompressor(3).compress(data)
    path.write_bytes(data)


def write_parts(folder: Path, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows dealt out to files in turn."""
    for i, name in enumerate(names):
        write_rows(folder / name, rows[i :: len(names)])


def plant(row: Mapping[str, Any], step: str) -> dict[str, Any]:
    """The row, marked as one that `step` must drop: a filter, a rule of one with a dot in it, or a step of dedup."""
    return {**row, PLANTED: step}


def planted_url(step: str, n: int) -> str:
    """A URL that marks its page so."""
    return f"https://site-{n}.example.org/page?planted={step}"


def planted(key: str | None, meta: str | None) -> str | None:
    """The step that must drop a document; None of one that is not planted."""
    if meta and f'"{PLANTED}"' in meta:
        found = json.loads(meta).get(PLANTED)
        if found is not None:
            return str(found)
    match = IN_URL.search(key or "")
    return match.group(1) if match else None


def digest(text: str) -> str:
    """40 hexadecimal digits of a text, in place of a publisher's id."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def chosen(texts: Sequence[str], words: tuple[int, int] = (0, 1 << 30)) -> list[str]:
    """The texts with so many words, at least and at most."""
    return [text for text in texts if words[0] <= len(text.split()) <= words[1]]
