"""The whole of MinHash dedup, Parquet in and verdicts out: MB/s per core, memory, and what it finds.

    python benchmarks/minhash_dedup.py CORPORA [--mb 100] [--peer-mb 6] [--rounds 3] [--scale 100 500 2000]

CORPORA is a folder of folders of `*.jsonl.zst` files of English text (corpus.py names those that are used). The input
is Parquet: real documents of at most `LONGEST` characters, and behind every tenth one a near copy of it with every 50th
word replaced. Ours: one worker's work in one process, from reading Parquet to verdicts written (documents, filters
without a rule, signatures, bands, buckets, components, shingles, exact Jaccard), with `preset: fineweb`; making the
tokenizer ready, which no dedup needs, is left out. The peer: datatrove's four stages on the first documents of the same
kind, with one task, 14 bands of 8, which compares nothing. User CPU after imports and after a run over a few documents
that compiles, or loads, what there is to compile.

`--scale` takes text of random words instead, which has any length one likes, and shows how time and memory grow.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from corpus import PROSE, machine, texts_of
from four_filters import report, user_seconds

LONGEST = 20_000
ROW_GROUP_BYTES = 4 << 20
RECIPE = """\
name: bench
tokenizer: {{name: mistral-7b-v0.1}}
sources:
  web: {{read: {{format: parquet, path: "{place}"}}, dedup: {{minhash: fineweb}}}}
"""


def pieces(texts: Iterable[str]) -> Iterator[str]:
    """Documents of at most `LONGEST` characters, cut at line ends."""
    for text in texts:
        start = 0
        while len(text) - start > LONGEST:
            cut = text.rfind("\n", start + LONGEST // 2, start + LONGEST)
            stop = cut + 1 if cut > 0 else start + LONGEST
            yield text[start:stop]
            start = stop
        yield text[start:]


def with_copies(texts: Iterable[str]) -> Iterator[str]:
    """The documents, and behind every tenth a near copy of it."""
    for i, text in enumerate(texts):
        yield text
        if i % 10 == 0:
            words = text.split(" ")
            words[25::50] = [f"copy{i}"] * len(words[25::50])
            yield " ".join(words)


def random_texts(seed: int = 17) -> Iterator[str]:
    """Documents of 400 to 1,200 random words."""
    rng = np.random.default_rng(seed)
    letters = np.frombuffer(b"etaoinshrdlucmfwypvbgk", np.uint8)
    words = np.full((50_000, 8), ord(" "), np.uint8)
    words[:, :7] = letters[rng.integers(0, len(letters), (50_000, 7))]
    while True:
        yield words[rng.integers(0, len(words), int(rng.integers(400, 1200)))].tobytes().decode()


def write(place: Path, texts: Iterable[str], megabytes: float) -> int:
    """Write about so much text as Parquet; returns bytes of text."""
    size, held, held_bytes = 0, [], 0
    schema = pa.schema([("text", pa.large_string())])
    with pq.ParquetWriter(place, schema, compression="zstd", use_dictionary=False) as writer:
        for text in texts:
            held.append(text)
            held_bytes += len(text.encode())
            if held_bytes >= ROW_GROUP_BYTES or size + held_bytes >= megabytes * 1e6:
                writer.write_table(pa.table([pa.array(held, pa.large_string())], schema=schema))
                size, held, held_bytes = size + held_bytes, [], 0
            if size >= megabytes * 1e6:
                break
    return size


def ours(place: str, few: str) -> None:
    from winnow.pipelines.corpus import run
    from winnow.pipelines.recipe import read

    def work(parquet: str, out: str) -> tuple[float, dict[str, float], int]:
        started = user_seconds()
        made = run(read(RECIPE.format(place=parquet), "bench.yaml"), out, until="dedup", inline=True)
        (step,) = made.sources["web"].steps
        gone = sum(record.counts["dropped"].get("web", 0) for record in step.records)
        stages = dict(made.cpu_seconds)
        return user_seconds() - started - stages.pop("tokenizer"), stages, gone

    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        work(few, f"{folder}/few")
        seconds, stages, dropped = work(place, f"{folder}/run")
    report(user_s=seconds, stages=stages, dropped=dropped)


def theirs(place: str, few: str) -> None:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.readers import ParquetReader

    def work(parquet: str, out: str) -> tuple[float, int]:
        started = user_seconds()
        config = MinhashConfig()
        path = Path(parquet)

        def execute(name: str, steps: list, tasks: int = 1):
            log = f"{out}/log-{name}"
            return LocalPipelineExecutor(steps, tasks=tasks, workers=1, logging_dir=log).run()

        def reader() -> ParquetReader:
            return ParquetReader(str(path.parent), glob_pattern=path.name)

        execute("1", [reader(), MinhashDedupSignature(output_folder=f"{out}/sig", config=config)])
        buckets = MinhashDedupBuckets(
            input_folder=f"{out}/sig", output_folder=f"{out}/buckets", config=config
        )
        execute("2", [buckets], config.num_buckets)
        cluster = MinhashDedupCluster(
            input_folder=f"{out}/buckets", output_folder=f"{out}/remove", config=config
        )
        execute("3", [cluster])
        found = execute("4", [reader(), MinhashDedupFilter(input_folder=f"{out}/remove")])
        return user_seconds() - started, int(found.stats[-1].stats["dropped"].total)

    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        work(few, f"{folder}/few")
        seconds, dropped = work(place, f"{folder}/run")
    report(user_s=seconds, dropped=dropped)


def child(who: str, place: Path, few: Path) -> dict:
    done = subprocess.run(
        [sys.executable, __file__, "--child", who, str(place), str(few)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{who}: {done.stderr[-3000:]}")
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"')))


def shown(runs: list[dict], size: int) -> str:
    rates = sorted(size / 1e6 / run["user_s"] for run in runs)
    peak = max(run["peak_mb"] for run in runs)
    return (
        f"{statistics.median(rates):8.2f} MB/s ({rates[0]:.2f}-{rates[-1]:.2f}), peak {peak:.0f} MB, "
        f"{runs[0]['dropped']:,} dropped"
    )


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        who, place, few = sys.argv[2:]
        ours(place, few) if who == "ours" else theirs(place, few)
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--mb", type=float, default=100)
    parser.add_argument("--peer-mb", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, nargs="*", default=[])
    args = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        few = Path(folder, "few.parquet")
        write(few, random_texts(), 0.1)
        if args.mb:
            place = Path(folder, "real.parquet")
            size = write(place, with_copies(pieces(texts_of(args.corpora, PROSE))), args.mb)
            runs = [child("ours", place, few) for _ in range(args.rounds)]
            print(f"real text, {size / 1e6:.1f} MB: {shown(runs, size)}")
            total = sum(runs[0]["stages"].values())
            shares = sorted(runs[0]["stages"].items(), key=lambda item: -item[1])
            print("  " + ", ".join(f"{stage} {seconds / total:.0%}" for stage, seconds in shares))
        if args.peer_mb:
            place = Path(folder, "small.parquet")
            size = write(place, with_copies(pieces(texts_of(args.corpora, PROSE))), args.peer_mb)
            mine = [child("ours", place, few) for _ in range(args.rounds)]
            peer = [child("theirs", place, few) for _ in range(args.rounds)]
            print(f"real text, {size / 1e6:.1f} MB: {shown(mine, size)}")
            print(f"  datatrove:            {shown(peer, size)}")
            ratio = statistics.median(r["user_s"] for r in peer) / statistics.median(
                r["user_s"] for r in mine
            )
            print(f"  ratio {ratio:.0f}x")
        for megabytes in args.scale:
            place = Path(folder, "random.parquet")
            size = write(place, with_copies(random_texts()), megabytes)
            runs = [child("ours", place, few) for _ in range(args.rounds)]
            print(f"random words, {size / 1e6:,.0f} MB: {shown(runs, size)}")


if __name__ == "__main__":
    main()
