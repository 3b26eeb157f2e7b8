"""Which files does a source have, and what identifies them?

The listing of a source, in order, lies beside its documents: it maps the first halves of their ids back to files.
"""

from __future__ import annotations

import hashlib
import io

import pyarrow as pa
import pyarrow.parquet as pq
from winnow.pipelines.planning import SourcePlan
from winnow.pipelines.records import Stage, canonical
from winnow.shards import storage

LISTING_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("location", pa.string()),
        ("size", pa.uint64()),
        ("fingerprint", pa.string()),
        ("id_half", pa.uint64()),
    ]
)


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
