"""Samples per second of StreamingDataset over our shards and over MDSWriter's of the same rows.

    python benchmarks/streaming_read.py [--rows 30000] [--rounds 3]

Random ids; rows of 2048 uint16, 64 MiB a shard, local, xxh64. Every round is a process of its own for each writer and
way to read, the two writers in turn: in order, shuffled (py1e), and shuffled through StreamingDataLoader into int64
batches. Samples per second of wall time, construction of the dataset left out; medians, with the range. The index
and the shards of the two are byte for byte the same, which is checked first: what differs is noise.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from corpus import machine

LENGTH = 2048
BATCH = 32
WAYS = ("in order", "shuffled", "loader")


def write(out: Path, rows: np.ndarray) -> None:
    """The rows as Winnow's and as MDSWriter's shards."""
    from mds_writing import mdswriter
    from winnow.shards import mds

    layout = mds.Layout(dtype="uint16", length=LENGTH)
    per_shard, entries = mds.rows_per_shard(layout), []
    (out / "winnow").mkdir()
    for index, first in enumerate(range(0, len(rows), per_shard)):
        shard = mds.write_shard(rows[first : first + per_shard], layout, index)
        for name, data in shard.files:
            (out / "winnow" / name).write_bytes(data)
        entries.append(shard.entry)
    (out / "winnow" / mds.INDEX_NAME).write_bytes(mds.index_json(entries))
    mdswriter(rows, out / "MDSWriter", None, as_bytes=True)
    for path in (out / "winnow").iterdir():
        if path.read_bytes() != (out / "MDSWriter" / path.name).read_bytes():
            raise SystemExit(f"{path.name} differs")


def read(folder: str, way: str) -> float:
    """Samples per second of one epoch."""
    from winnow.shards.feed import import_streaming

    streaming = import_streaming()
    dataset = streaming.StreamingDataset(
        local=folder, batch_size=BATCH, shuffle=way != "in order", shuffle_algo="py1e", num_canonical_nodes=1
    )
    if way == "loader":
        import torch

        def collate(samples: list[dict[str, np.ndarray]]) -> torch.Tensor:
            return torch.from_numpy(np.stack([s["tokens"] for s in samples]).astype(np.int64))

        loader = streaming.StreamingDataLoader(dataset, batch_size=BATCH, collate_fn=collate)
        started = time.perf_counter()
        n = sum(len(batch) for batch in loader)
    else:
        started = time.perf_counter()
        n = sum(1 for _ in dataset)
    return n / (time.perf_counter() - started)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        print(read(sys.argv[2], sys.argv[3]))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        rows = np.random.default_rng(17).integers(0, 50_000, (args.rows, LENGTH), np.uint16)
        write(Path(folder), rows)
        print(machine())
        print(f"{args.rows:,} rows of {LENGTH} uint16; the files are equal; medians of {args.rounds} (range)")
        for way in WAYS:
            rates: dict[str, list[float]] = {"winnow": [], "MDSWriter": []}
            for _ in range(args.rounds):
                for writer, found in rates.items():
                    command = [sys.executable, __file__, "--child", f"{folder}/{writer}", way]
                    done = subprocess.run(command, capture_output=True, text=True, check=False)
                    if done.returncode:
                        raise SystemExit(f"{writer}, {way}: {done.stderr[-3000:]}")
                    found.append(float(done.stdout.splitlines()[-1]))
            shown = [
                f"{w} {statistics.median(r):,.0f} ({min(r):,.0f}-{max(r):,.0f})" for w, r in rates.items()
            ]
            ratio = statistics.median(rates["winnow"]) / statistics.median(rates["MDSWriter"])
            print(f"{way:10} samples/s: {', '.join(shown)}; ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
