"""Are the published shards what the run says they are?

Every stream that the manifest names is read once, and compared with the records of the tasks that wrote it: the index,
sizes and hashes of shards and provenance, headers and offsets, token ids, counts of samples and tokens, and after a
takedown how many samples each shard has left.

Memory: one shard (twice when compressed).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from winnow.pipelines.finished import FinishedRun
from winnow.pipelines.ledger import recorded
from winnow.pipelines.records import Record, identity_of
from winnow.pipelines.takedown import rows_name
from winnow.shards import mds, storage

DAMAGED = "delete what is damaged, and the same `winnow run` makes it again"


def verify(run: FinishedRun) -> Iterator[str]:
    """Yield what is wrong with a run's published shards, a sentence each; nothing is raised."""
    main = run.manifest["streams"][0]["packing"] if run.manifest["streams"] else None
    stages = {stage["directory"]: stage for stage in run.manifest["stages"]}
    for facts in run.manifest["streams"]:
        way = "" if facts["packing"] == main else f" in {facts['packing']}"
        label = f"{facts['name']}/{facts['split']}{way}"
        records = recorded(storage.join(run.location, "stages", facts["directory"]))
        stage, in_order = stages[facts["directory"]], [record for _, record in sorted(records.items())]
        if len(records) != stage["tasks"]:
            yield f"{label}: {len(records)} of the {stage['tasks']} records of its stage can be read"
        elif identity_of(in_order) != stage["identity"]:
            yield f"{label}: the records of its stage are not those that the manifest was written after"
        mine = [r for r in in_order if r.counts.get("split") == facts["split"]]
        yield from _stream_problems(run, facts, mine, label)


def _stream_problems(
    run: FinishedRun, facts: dict[str, Any], records: list[Record], label: str
) -> Iterator[str]:
    stage = storage.join(run.location, "stages", facts["directory"])
    written = [r for r in records if r.counts["entry"] is not None]
    entries = [r.counts["entry"] for r in written]
    yield from _index_problems(facts, entries, stage, label)
    try:
        mds.read_index(mds.index_json(entries))
    except ValueError as error:
        yield f"{label}: by the records of its stage: {error}"
        return
    if facts["directory"].startswith("takedown"):
        yield from _left_problems(stage, facts["split"], records, label)
    for record in written:
        entry = record.counts["entry"]
        if mds.layout_of(entry).length != facts["length"]:
            length = mds.layout_of(entry).length
            yield f"{label}: a shard has samples of {length:,} tokens, the manifest says {facts['length']:,}"
        for file in sorted(record.outputs):
            yield from (f"{label}: {file}: {problem}" for problem in _file_problems(run, stage, file, record))
    tokens = sum(r.counts["tokens"] for r in written)
    if tokens != facts["tokens"]:
        yield f"{label}: the records count {tokens:,} tokens, the manifest {facts['tokens']:,}"


def _file_problems(run: FinishedRun, stage: str, file: str, record: Record) -> Iterator[str]:
    """What is wrong with a shard, or with the provenance of one."""
    size, digest = record.outputs[file]
    try:
        stored = storage.read_bytes(storage.join(stage, file))
    except OSError as error:
        yield f"cannot be read ({error.strerror or error})"
        return
    is_shard = not file.startswith("provenance/")
    problems = (
        mds.check_shard(stored, record.counts["entry"], run.mixture["tokenizer"]["max_id"])
        if is_shard
        else []
    )
    if not problems and (len(stored) != size or xxhash.xxh3_128_hexdigest(stored) != digest):
        problems = ["not the file that was written"]
    yield from problems
    if not is_shard and not problems:
        # Without Arrow's threads: some may still be at work when the command ends, and abort it.
        table = pq.ParquetFile(pa.BufferReader(stored)).read(["tokens"], use_threads=False)
        tokens = int(table.column("tokens").to_numpy().sum(dtype=np.int64))
        if tokens != record.counts["tokens"]:
            yield f"covers {tokens:,} tokens, the shard has {record.counts['tokens']:,}"


def _left_problems(stage: str, split: str, records: list[Record], label: str) -> Iterator[str]:
    """Whether the list of the samples that a takedown left is that of its records."""
    wanted = np.array([r.counts["rows"] for r in records], "<u4").tobytes()
    try:
        if storage.read_bytes(storage.join(stage, rows_name(split))) == wanted:
            return
    except OSError:
        pass
    yield f"{label}: {rows_name(split)} is not there as it was written"


def _index_problems(
    facts: dict[str, Any], entries: list[dict[str, Any]], stage: str, label: str
) -> Iterator[str]:
    """What is wrong with a stream's index, and with the list of the samples that a takedown left."""
    place = storage.join(stage, facts["split"], mds.INDEX_NAME)
    try:
        index = storage.read_bytes(place)
        n_rows = sum(entry["samples"] for entry in mds.read_index(index))
    except (ValueError, OSError) as error:
        yield f"{label}: {mds.INDEX_NAME}: {error}"
        return
    if n_rows != facts["rows"]:
        yield f"{label}: the index lists {n_rows:,} samples, the manifest {facts['rows']:,}"
    elif index != mds.index_json(entries):
        yield f"{label}: the index is not that of the {facts['shards']:,} shards that were recorded"
