"""Where in the stages of a finished run are a document's rows?

The files of a split are read as far as they must be: of Parquet the ids, then the row groups that hold a document
that is looked for; of Arrow files, whose rows are aligned with `rows-*.parquet`, the batches up to the last such row.

Rows of a source are in the order of its files, and in a file in the order of positions, however the source was cut.
So the split of an id is found by halving: about log2(splits) ids are read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from winnow.pipelines.documents import name
from winnow.pipelines.finished import FinishedRun, NotFinishedError
from winnow.shards import storage, tables

Found = dict[bytes, tuple[int, pa.Table]]
"""Id -> number of its row in the file, and the row."""


@contextmanager
def readable(place: str) -> Iterator[None]:
    """Turn what a lost or damaged file of a stage raises into a NotFinishedError that says what to do."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFinishedError(f"{place} is not there; `winnow run` makes it again") from error
    except (OSError, ValueError, pa.ArrowException) as error:
        message = f"{place} is damaged ({str(error).partition(chr(10))[0]}); delete it, and `winnow run` makes it again"
        raise NotFinishedError(message) from error


def find_rows(place: str, ids: Collection[bytes], columns: Sequence[str] | None = None) -> Found:
    """The rows of some documents in a Parquet file with a column `id`; who is not in it is not in the answer.

    columns : those wanted beside `id`, of which the file may lack some; None is all of them.

    Raises NotFinishedError.
    """
    found: Found = {}
    wanted = pa.array(sorted(ids), tables.ID)
    with readable(place), storage.open_input(place) as handle:
        file = pq.ParquetFile(handle)
        there = file.schema_arrow.names
        names = ["id", *(c for c in there if c != "id" and (columns is None or c in columns))]
        first = 0
        for group in range(file.num_row_groups):
            column = file.read_row_group(group, columns=["id"], use_threads=False).column("id")
            at = np.flatnonzero(pc.is_in(column, value_set=wanted).to_numpy())
            if len(at):
                rows = file.read_row_group(group, columns=names, use_threads=False).take(pa.array(at))
                for k, id_ in enumerate(rows.column("id").to_pylist()):
                    found[id_] = (first + int(at[k]), rows.slice(k, 1))
            if len(found) == len(ids):
                break
            first += len(column)
    return found


def aligned_rows(place: str, rows: Collection[int]) -> dict[int, pa.RecordBatch]:
    """Some rows of an Arrow file, by their numbers. Raises NotFinishedError, also where the file has fewer rows."""
    found: dict[int, pa.RecordBatch] = {}
    left = sorted(rows)
    first = 0
    with readable(place):
        for batch in tables.arrow_batches(place):
            while left and left[0] < first + batch.num_rows:
                row = left.pop(0)
                found[row] = batch.slice(row - first, 1)
            if not left:
                return found
            first += batch.num_rows
        if left:
            raise ValueError(f"it has {first:,} rows, not {left[-1] + 1:,}")
    return found


def texts_of_rows(documents: str, split: int, rows: Collection[int]) -> dict[int, str]:
    """The texts of some rows of a split that reached the last segment. Raises NotFinishedError."""
    found = aligned_rows(storage.join(documents, name("text", split, "arrow")), rows) if rows else {}
    return {row: batch.column("text")[0].as_py() for row, batch in found.items()}


def splits_of(run: FinishedRun, source: str) -> Sequence[int]:
    """The numbers of the splits of a source that were read, ascending. Raises NotFinishedError."""
    facts = next(s for s in run.mixture["sources"] if s["name"] == source)
    settings = run.recipe.sources[source]
    if settings.sample is None and settings.tokens is None:
        return range(facts["splits"])
    place = storage.join(run.stage(source, "filters"), "stage.json")
    with readable(place):
        identity = orjson.loads(storage.read_bytes(place))["settings"]
    return identity.get("splits") or range(facts["splits"])


def splits_to_search(
    documents: str, splits: Sequence[int], ranks: Mapping[int, int], id_: bytes
) -> list[int]:
    """The splits that may hold a row, at most two, the likelier one first.

    documents : location of the documents stage.
    splits : numbers of those that were read, ascending.
    ranks : first half of an id -> the file's place in the listing.

    Raises NotFinishedError.
    """

    def order(of: bytes) -> tuple[int, int]:
        return ranks[int.from_bytes(of[:8], "big")], int.from_bytes(of[8:], "big")

    some: dict[int, bytes | None] = {}

    def some_id(at: int) -> bytes | None:
        if at not in some:
            some[at] = _some_id(documents, splits[at])
        return some[at]

    # Any id of a split tells on which side of it to go on: all of one split come before all of the next.
    low, high = 0, len(splits)
    while low < high:
        probe = middle = (low + high) // 2
        while probe < high and some_id(probe) is None:
            probe += 1
        found = some_id(probe) if probe < high else None
        if found is None or order(found) > order(id_):
            high = middle
        else:
            low = probe + 1
    before = next((k for k in range(low - 1, -1, -1) if some_id(k) is not None), None)
    after = next((k for k in range(low, len(splits)) if some_id(k) is not None), None)
    return [splits[k] for k in (before, after) if k is not None]


def _some_id(documents: str, split: int) -> bytes | None:
    """The first id among the rows of a split that reached the last segment, or else among its other rows."""
    for kind in ("rows", "lost"):
        place = storage.join(documents, name(kind, split, "parquet"))
        with readable(place), storage.open_input(place) as handle:
            file = pq.ParquetFile(handle)
            if file.metadata.num_rows:
                return file.read_row_group(0, columns=["id"], use_threads=False).column("id")[0].as_py()
    return None
