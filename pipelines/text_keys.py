"""By what does exact dedup compare the documents of a source, where not by their very text?

The stage `keys.<source>` leaves, for each split, a file row-aligned with its documents: the 128-bit key of each
document that stands, of its normalised text or of its URL (filters/text_keys.py). It belongs to the source alone: when
another source joins the group, this one is not read again. Null: the document does not stand, or has no URL; it is
compared with none.

Memory: an Arrow batch of text and one and a half times that, or a row group with `meta`; 17 bytes a document.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from winnow.filters.exact_settings import Exact
from winnow.pipelines.cluster import Task
from winnow.pipelines.documents import name
from winnow.pipelines.engine import Done, Request, Work
from winnow.pipelines.records import Outputs, Stage
from winnow.pipelines.standing import Standing, rows_of, texts_of
from winnow.shards import storage, tables

VERSION = 1
BATCH_ROWS = 1 << 16
KEYS_SCHEMA = pa.schema([("key", tables.ID)])


@dataclass(frozen=True, slots=True)
class KeysSpec:
    item: Standing
    settings: Exact


def keys_task(spec: KeysSpec, outputs: Outputs) -> dict[str, Any]:
    """Write the keys of one split; returns how many documents have one, and how many that stand have none."""
    item = spec.item
    keys, valid = np.zeros((item.rows, 16), np.uint8), np.zeros(item.rows, bool)
    stand = 0
    for where, found in (_url_keys if spec.settings.by == "url" else _text_keys)(item, spec.settings):
        keys[where] = np.frombuffer(found.buffers()[1], np.uint8).reshape(-1, 16)
        valid[where] = found.is_valid().to_numpy(zero_copy_only=False)
        stand += len(where)
    with (
        outputs.file(name("keys", item.split, "arrow")) as path,
        tables.arrow_writer(path, KEYS_SCHEMA) as writer,
    ):
        for first in range(0, item.rows, BATCH_ROWS):
            stop = min(first + BATCH_ROWS, item.rows)
            here = pa.array(valid[first:stop])
            buffers = [here.buffers()[1], pa.py_buffer(keys[first:stop].tobytes())]
            column = pa.Array.from_buffers(tables.ID, stop - first, buffers)
            writer.write_batch(pa.record_batch([column], schema=KEYS_SCHEMA))
    return {"keyed": int(valid.sum()), "unkeyed": stand - int(valid.sum())}


def _text_keys(item: Standing, settings: Exact) -> Iterator[tuple[np.ndarray, pa.Array]]:
    """(int64[n], rows that stand; their keys), batch by batch."""
    from winnow.filters.text_keys import normalised_keys

    for batch in texts_of(item):
        yield batch.where, normalised_keys(batch.texts)


def _url_keys(item: Standing, settings: Exact) -> Iterator[tuple[np.ndarray, pa.Array]]:
    """The same, by URL; the key is null where there is none."""
    from winnow.filters.field import values
    from winnow.filters.text_keys import url_keys

    of_meta = settings.url != "key"
    first = 0
    for batch in rows_of(item, ("id", "meta") if of_meta else ("key",)).batches:
        keep = batch.column("keep")
        standing = batch.filter(keep)
        urls = values(standing, settings.url) if of_meta else standing.column("key").to_pylist()
        where = first + np.flatnonzero(keep.to_numpy(zero_copy_only=False))
        yield where, url_keys(url if isinstance(url, str) else None for url in urls)
        first += batch.num_rows


def keys_stage(source: str, first: Standing, settings: Exact) -> Stage:
    """The stage of a source's keys; `first` is any of its splits. Raises ValueError where texts are compared."""
    if settings.by == "text":
        raise ValueError("the hash of a text is stored with its document")
    upstream = tuple(place.rstrip("/").rsplit("/", 1)[-1] for place in (first.filters, *first.steps))
    return Stage(f"keys.{source}", VERSION, keys_identity(settings), upstream)


def compute_keys(source: str, inputs: Sequence[Standing], settings: Exact) -> Work[Done]:
    """Bring the keys of a source's splits about."""
    tasks = [Task(i, keys_task, KeysSpec(s, settings)) for i, s in enumerate(inputs)]
    return (yield Request(keys_stage(source, inputs[0], settings), tasks))


def keys_identity(settings: Exact) -> dict[str, str]:
    """The settings that keys depend on."""
    return settings.model_dump(include={"by", "url"} if settings.by == "url" else {"by"})


def keys_of(location: str, item: Standing) -> tables.Aligned:
    """The rows of a split's keys: a column `key`, null for a document that is compared with none."""
    return tables.Aligned(tables.arrow_batches(storage.join(location, name("keys", item.split, "arrow"))))
