"""Are the published shards what the run says they are?

Every stream that the manifest names is read once: index, sizes and hashes of the files, headers and offsets, token ids,
counts of samples, and whether the provenance accounts for every token.

Memory: one shard (twice when compressed).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from winnow.pipelines.finished import FinishedRun
from winnow.pipelines.pack import provenance_name
from winnow.pipelines.takedown import number_of
from winnow.shards import mds, storage, tables


def verify(run: FinishedRun) -> Iterator[str]:
    """Yield what is wrong with a run's published shards, a sentence each; nothing is raised."""
    main = run.manifest["streams"][0]["packing"] if run.manifest["streams"] else None
    for facts in run.manifest["streams"]:
        way = "" if facts["packing"] == main else f" in {facts['packing']}"
        yield from _stream_problems(run, facts, f"{facts['name']}/{facts['split']}{way}")


def _stream_problems(run: FinishedRun, facts: dict[str, Any], label: str) -> Iterator[str]:
    stage = storage.join(run.location, "stages", facts["directory"])
    place = storage.join(stage, facts["split"])
    try:
        entries = mds.read_index(storage.read_bytes(storage.join(place, mds.INDEX_NAME)))
    except (ValueError, OSError) as error:
        yield f"{label}: index.json: {error}"
        return
    if len(entries) != facts["shards"]:
        yield f"{label}: the index lists {len(entries)} shards, the manifest {facts['shards']}"
    rows = sum(e["samples"] for e in entries)
    if rows != facts["rows"]:
        yield f"{label}: the index lists {rows:,} samples, the manifest {facts['rows']:,}"
    n_tokens, unread = 0, False
    for entry in entries:
        if mds.layout_of(entry).length != facts["length"]:
            length = mds.layout_of(entry).length
            yield f"{label}: a shard has samples of {length:,} tokens, the manifest says {facts['length']:,}"
        file = (entry["zip_data"] or entry["raw_data"])["basename"]
        try:
            stored = storage.read_bytes(storage.join(place, file))
        except OSError as error:
            yield f"{label}/{file}: cannot be read ({error.strerror or error})"
        else:
            for problem in mds.check_shard(stored, entry, run.mixture["tokenizer"]["max_id"]):
                yield f"{label}/{file}: {problem}"
            del stored
        number = number_of(entry)
        try:
            tokens = _provenance_tokens(storage.join(stage, provenance_name(facts["split"], number)))
        except (OSError, ValueError) as error:
            yield f"{label}: provenance of shard {number} cannot be read ({error})"
            unread = True
            continue
        room = entry["samples"] * facts["length"]
        if not 0 < tokens <= room or (tokens < room and run.mixture["pack"] == "concat"):
            yield f"{label}: provenance of shard {number} covers {tokens:,} tokens, the shard has {room:,}"
        n_tokens += tokens
    if n_tokens != facts["tokens"] and not unread:
        yield f"{label}: provenance covers {n_tokens:,} tokens, the manifest says {facts['tokens']:,}"


def _provenance_tokens(place: str) -> int:
    """Tokens of documents that a shard's provenance tells of."""
    return sum(
        int(batch.column("tokens").to_numpy().sum(dtype=np.int64))
        for batch in tables.parquet_batches(place, ["tokens"])
    )
