"""Rows of tokens to MDS shards: rows per CPU second against MDSWriter and a bare file, and peak memory.

    python benchmarks/mds_writing.py CORPORA [--rows 40000] [--rounds 3]

CORPORA is a folder of folders of `*.jsonl.zst` files with a column `text`; its first text gives real token ids. Every
case is a process of its own that writes the same rows of 2048 uint16 and has them either in memory or in a flat file
in the page cache, as the stage before leaves them. CPU is user + system while it writes a second time, after imports.
MDSWriter gets rows as arrays, as its documentation and llm-foundry have it, and as bytes, which skips its encoder. Peak
memory is the process's, less what it had before it wrote. Medians, with the range. TMPDIR=/dev/shm leaves the disk,
and the kernel's work for it, out.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from corpus import PROSE, machine, texts_of

LENGTH = 2048
ROW_BYTES = LENGTH * 2
CASES = (
    "raw file",
    "raw file, zstd",
    "winnow, rows in memory",
    "winnow, rows in a file",
    "winnow, rows in a file, zstd",
    "MDSWriter, rows as arrays",
    "MDSWriter, rows as bytes",
    "MDSWriter, rows as arrays, zstd",
)


def write_tokens(corpora: Path, place: Path, n_rows: int) -> None:
    """A flat file of real ids; the text is used again where there is too little."""
    import pyarrow as pa
    from winnow.tokenize.encoder import Encoder, prepare
    from winnow.tokenize.source import resolve

    encoder = Encoder(prepare(resolve("mistral-7b-v0.1")), "fastokens")
    found, size = [], 0
    for text in texts_of(corpora, PROSE):
        ids, _ = encoder.encode(pa.array([text], pa.large_string()))
        found.append(ids)
        size += len(ids)
        if size >= n_rows * LENGTH:
            break
    np.resize(np.concatenate(found), n_rows * LENGTH).tofile(place)


def raw(tokens: Path, out: Path, compression: str | None) -> None:
    import zstandard

    rows = np.fromfile(tokens, "<u2")
    with open(out / "tokens.bin", "wb") as file:
        if compression:
            file.write(zstandard.ZstdCompressor(level=3).compress(rows.data))
        else:
            rows.tofile(file)


def winnow(tokens: Path, out: Path, compression: str | None, rows: np.ndarray | None) -> None:
    from winnow.shards import exchange, mds

    layout = mds.Layout(dtype="uint16", length=LENGTH, compression=compression)
    n, per_shard = tokens.stat().st_size // ROW_BYTES, mds.rows_per_shard(layout)
    entries = []
    for index, first in enumerate(range(0, n, per_shard)):
        last = min(first + per_shard, n)
        if rows is None:
            blank = mds.blank_shard(last - first, layout)
            exchange.read_array(str(tokens), first * ROW_BYTES, blank.rows.reshape(-1))
            shard = mds.finish_shard(blank, layout, index)
        else:
            shard = mds.write_shard(rows[first:last], layout, index)
        for name, data in shard.files:
            (out / name).write_bytes(data)
        entries.append(shard.entry)
    (out / mds.INDEX_NAME).write_bytes(mds.index_json(entries))


def mdswriter(rows: np.ndarray, out: Path, compression: str | None, *, as_bytes: bool) -> None:
    from winnow.shards.feed import import_streaming

    with import_streaming().MDSWriter(
        out=str(out),
        columns={"tokens": f"ndarray:uint16:{LENGTH}"},
        hashes=["xxh64"],
        compression=compression,
    ) as writer:
        for row in rows:
            writer.write({"tokens": row.tobytes() if as_bytes else row})


def work_of(case: str, tokens: Path, out: Path) -> Callable[[], None]:
    """What is measured; whatever it needs in memory or imported is there when this returns."""
    compression = "zstd" if case.endswith("zstd") else None
    if case.startswith("raw"):
        import zstandard  # noqa: F401

        return lambda: raw(tokens, out, compression)
    rows = None if "in a file" in case else np.fromfile(tokens, "<u2").reshape(-1, LENGTH)
    if case.startswith("winnow"):
        from winnow.shards import exchange, mds  # noqa: F401

        return lambda: winnow(tokens, out, compression, rows)
    from winnow.shards.feed import import_streaming

    import_streaming()
    assert rows is not None
    return lambda: mdswriter(rows, out, compression, as_bytes="as bytes" in case)


def child(case: str, tokens: Path, out: Path) -> None:
    # A virtual machine's host gives memory, the page cache's too, at first touch: the first pass pays for that.
    first = out / "first"
    first.mkdir()
    work = work_of(case, tokens, first)
    held = peak_mb()
    work()
    del work
    shutil.rmtree(first)
    work = work_of(case, tokens, out)
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"cpu_s": cpu, "peak_mb": peak_mb() - held}))


def peak_mb() -> float:
    """The largest resident memory since this program was started; ru_maxrss begins with its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def measured(case: str, tokens: Path, out: Path) -> dict[str, float]:
    out.mkdir()
    command = [sys.executable, __file__, "--child", case, str(tokens), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{case}: {done.stderr[-3000:]}")
    size = sum(p.stat().st_size for p in out.iterdir())
    shutil.rmtree(out)
    return json.loads(done.stdout.splitlines()[-1]) | {"bytes": size}


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        tokens = Path(folder) / "tokens.bin"
        write_tokens(args.corpora, tokens, args.rows)
        print(machine())
        print(f"{args.rows:,} rows of {LENGTH} uint16, {args.rows * ROW_BYTES / 1e6:.0f} MB, hash xxh64; "
              f"medians of {args.rounds} (range)")  # fmt: skip
        runs: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
        for _ in range(args.rounds):
            for case in CASES:
                runs[case].append(measured(case, tokens, Path(folder) / "out"))
        report(args.rows, runs)


def report(n_rows: int, runs: dict[str, list[dict[str, float]]]) -> None:
    rates = {case: [n_rows / max(r["cpu_s"], 1e-3) for r in found] for case, found in runs.items()}
    medians = {case: statistics.median(rate) for case, rate in rates.items()}
    print(f"{'':32} {'rows per CPU s':>36}  x MDSWriter  x raw file  bytes/token  peak MB")
    for case, found in runs.items():
        end = ", zstd" if case.endswith("zstd") else ""
        theirs = medians[f"MDSWriter, rows as arrays{end}"]
        shown = f"{medians[case]:,.0f} ({min(rates[case]):,.0f}-{max(rates[case]):,.0f})"
        per_token = found[0]["bytes"] / n_rows / LENGTH
        ratios = f"{medians[case] / theirs:11.2f}  {medians[case] / medians[f'raw file{end}']:10.2f}"
        print(f"{case:32} {shown:>36}  {ratios}  {per_token:11.3f}  {max(r['peak_mb'] for r in found):7.0f}")


if __name__ == "__main__":
    main()
