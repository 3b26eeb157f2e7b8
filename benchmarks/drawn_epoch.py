"""Of which sources are the samples that a trainer draws in one epoch?

    python benchmarks/drawn_epoch.py RUN

StreamingDataset reads RUN/streams.yaml as a trainer does. Each sample it gives is looked up in the provenance beside
the shards, each document there in the run's listing of files: the source is the one that the document's id tells, not
the one that the stream is named for. Prints one line of JSON: by source the rows drawn, and the different rows.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
from winnow.pipelines import open_run
from winnow.pipelines.finished import FinishedRun
from winnow.pipelines.tracing import Tracer
from winnow.shards.feed import open_dataset

BATCH = 8


def ids_drawn(run: FinishedRun) -> list[tuple[str, int]]:
    """(stream's directory, number of the row in it) of every sample of an epoch, in the order drawn."""
    dataset = open_dataset(f"{run.location}/streams.yaml", batch_size=BATCH)
    drawn: list[int] = []
    give = dataset.__getitem__

    def noting(sample: int):
        drawn.append(int(sample))
        return give(sample)

    dataset.__getitem__ = noting
    rows = sum(1 for _ in dataset)
    if rows != len(drawn):
        raise RuntimeError(f"{rows} samples came, {len(drawn)} were asked for")
    found = []
    for sample in drawn:
        shard, _ = dataset.spanner[sample]
        stream = int(dataset.stream_per_shard[shard])
        found.append((dataset.streams[stream].local, sample - int(dataset.sample_offset_per_stream[stream])))
    return found


def sources_of(run: FinishedRun, stream: str) -> dict[int, str]:
    """The source of every row of a stream, by the ids of its documents. Raises ValueError for a row of two."""
    tracer, owner = Tracer(run), {}
    halves = {half: source for source in run.places for half in run.file_ranks(source)}
    samples = tracer.samples(stream, "train")
    for shard in range(-(-samples.n_samples // samples.per_shard)):
        table = pq.read_table(samples.provenance(shard), columns=["sample", "id"])
        for sample, document in zip(
            *(table.column(name).to_pylist() for name in ("sample", "id")), strict=True
        ):
            source = halves[int.from_bytes(document[:8], "big")]
            if owner.setdefault(sample, source) != source:
                raise ValueError(f"row {sample} of {stream} is of {owner[sample]} and of {source}")
    return owner


def main() -> None:
    run = open_run(sys.argv[1])
    streams = {str(Path(run.stage(source, "shards")).resolve()): source for source in run.places}
    owners = {source: sources_of(run, source) for source in run.places}
    drawn: Counter[str] = Counter()
    different: dict[str, set[int]] = {}
    for place, row in ids_drawn(run):
        stream = streams[str(Path(place).resolve())]
        source = owners[stream][row]
        drawn[source] += 1
        different.setdefault(source, set()).add(row)
    print(json.dumps({"drawn": drawn, "different": {s: len(rows) for s, rows in different.items()}}))


if __name__ == "__main__":
    main()
