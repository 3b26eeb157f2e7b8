"""What does a file hold at a place, before it is a document?

A format that is more than JSON lines, Parquet or one text a file gives rows: a place in the file and columns by
name, one of them the text, or what the text is to be converted from. shards/readers.py makes documents of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from winnow.shards.inputs import Piece
    from winnow.shards.readers import ReadSettings


@dataclass(slots=True)
class Row:
    """A row of a file, or what is left of one that is none."""

    position: int
    """Of the row in its file: a byte offset or a number; ascending, and the same however the file is cut."""
    columns: dict[str, Any] | None
    """Plain values, or bytes; None for a row that is no document."""
    size: int
    """Bytes of the row, where they can be counted: what a batch is bounded by."""
    reason: str = ""
    """Why it is none; see shards/readers.py."""
    raw: bytes = b""
    """The first bytes of a row that is none."""


RAW_KEPT = 1 << 16
"""Bytes of a malformed row that are kept for the report."""
DROPPED = (
    "empty", "mime", "http-status", "record-type", "no-turns", "no-answer", "deleted", "redirect", "nested-archive",
    "namespace", "content-model", "post-type", "no-question", "no-section",
)  # fmt: skip
"""Reasons that are no fault of the file's: such rows do not count against `max_bad_rows`."""


class Compose(Protocol):
    """Makes a text of a row's columns; it is pickled with a task."""

    def __call__(self, columns: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """The text, and the columns that `meta` is to have. Raises a ValueError with a `reason`,
        a word or two with hyphens, where the columns make no text."""


def document_id(half: int, position: int) -> bytes:
    """16 bytes, big-endian: byte order is document order within a file."""
    return half.to_bytes(8, "big") + position.to_bytes(8, "big")


def is_malformed(reason: str) -> bool:
    """Whether a document's reason to go is that its row is none; a filter's rule has a dot in its name."""
    return "." not in reason and reason not in DROPPED


RowsOf = Callable[["Piece", "ReadSettings"], Iterator[Row]]

FORMATS = {
    "warc": "warc",
    "wet": "warc",
    "mediawiki": "mediawiki",
    "stackexchange": "stackexchange",
    "arxiv": "arxiv",
    "dataset": "hub_dataset",
}
"""Formats by the module of this package whose `rows` reads them."""
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz", ".zip")
"""Files of files, for the formats `text` and `code`: each member is a document."""


def reader_of(format_: str, path: str) -> RowsOf | None:
    """What reads rows of a format from a file of that name; None where shards/readers.py does it itself."""
    if format_ in FORMATS:
        return import_module(f"winnow.shards.{FORMATS[format_]}").rows
    if format_ in ("text", "code") and path.endswith(ARCHIVES):
        return import_module("winnow.shards.archives").rows
    return None


def at_path(columns: Mapping[str, Any], path: str) -> Any:
    """The value at a path of keys with dots between; a column of just that name comes first. KeyError for none."""
    if path in columns:
        return columns[path]
    value: Any = columns
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise KeyError(path)
        value = value[key]
    return value
