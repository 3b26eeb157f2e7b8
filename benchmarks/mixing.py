"""How fast are stored tokens mixed into one stream, next to a plain copy of as many bytes?

    python benchmarks/mixing.py [--tokens 200e6] [--length 2048] [--rounds 3]

Ten sources with the shares and, where above one, the epochs of MPT-7B (huggingface.co/mosaicml/mpt-7b), random tokens
in documents of a thousand on average, partitions of 64 M tokens, shards of 64 MiB with xxh64 and their provenance.
The copy reads the same files through `np.memmap`, first byte to last and again until as much is written. Each measured
in a process of its own: bytes of rows written per second of user and system time, wall time (files are synced to disk
in both), the largest resident memory beyond what the process had with everything imported.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from corpus import machine
from winnow.pipelines import mixed
from winnow.pipelines.cluster import Inline
from winnow.pipelines.engine import Done, Engine
from winnow.pipelines.progress import Progress
from winnow.pipelines.records import Stage
from winnow.pipelines.stream import ROWS
from winnow.shards import mds, packed_rows, storage, token_stream

SHARES = {"mc4": (0.33, 1.0), "c4": (0.299, 2.98), "redpajama-cc": (0.10, 1.0), "stack": (0.10, 1.0),
          "wikipedia": (0.04, 8.21), "markdown": (0.035, 1.0), "s2orc": (0.033, 1.0), "books": (0.03, 1.15),
          "arxiv": (0.019, 1.0), "stackexchange": (0.014, 1.0)}  # fmt: skip
"""Of the tokens drawn, and epochs."""
IDS = 50_277
PARTITION = 64 * 10**6


def write_source(folder: Path, n_tokens: int, seed: int) -> list[tuple[str, str, int, int]]:
    """Write a stream as the stage `stream` leaves it; its partitions."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    parts = []
    for number, first in enumerate(range(0, n_tokens, PARTITION)):
        n = min(PARTITION, n_tokens - first)
        ends = np.unique([*rng.integers(1, n, max(1, n // 1000)), n])
        rows = np.zeros(len(ends), ROWS)
        rows["end"], rows["high"], rows["low"] = ends, seed, np.arange(len(ends)) + first
        rng.integers(0, IDS, n, np.uint16).tofile(folder / f"{number}.bin")
        rows.tofile(folder / f"{number}.rows")
        parts.append((f"{folder}/{number}.bin", f"{folder}/{number}.rows", n, len(ends)))
    return parts


def write_inputs(root: Path, tokens: int, length: int) -> dict[str, tuple[list, int]]:
    """(partitions, rows to draw) by source; beside them what is needed of a tokenizer."""
    sources = {}
    for seed, (name, (share, epochs)) in enumerate(SHARES.items()):
        drawn = int(tokens * share) // length
        sources[name] = (write_source(root / name, (int(drawn / epochs) + 1) * length, seed), drawn)
    sizes = np.random.default_rng(0).integers(1, 12, IDS).astype("<u4")
    storage.put_bytes(str(root / "tokenizer" / "piece-bytes"), sizes.tobytes())
    storage.put_bytes(str(root / "tokenizer" / "vocabulary.json"), json.dumps({"prefix_bytes": 0}).encode())
    return sources


def mix(root: Path, out: Path, length: int, sources: dict[str, tuple[list, int]]) -> int:
    """Make the mixed stream, one task after another; bytes of its rows."""
    layout = mds.Layout(dtype="uint16", length=length)
    inputs = [
        (name, packed_rows.concat(token_stream.build([tuple(p) for p in parts], "uint16", ROWS), length), n)
        for name, (parts, n) in sources.items()
    ]
    tokenizer = Done(Stage("tokenizer", 1, {}), str(root / "tokenizer"), [], 0, 0.0, 0.0)
    engine = Engine(str(out), Inline(), Progress(stream=None))
    (done,) = engine.together(mixed.mixed_stream(engine, inputs, 17, layout, tokenizer, []))
    return done.rows("train") * length * 2


def copy(out: Path, length: int, sources: dict[str, tuple[list, int]]) -> int:
    """Copy the sources' tokens one after the other until all are there as often as they are drawn; bytes copied."""
    written = 0
    with storage.commit(str(out / "copy.bin")) as path, open(path, "wb") as file:
        for parts, n in sources.values():
            left = n * length
            while left:
                for place, _, n_tokens, _ in parts:
                    tokens = np.memmap(place, np.uint16, "r", shape=(min(left, n_tokens),))
                    for first in range(0, len(tokens), 1 << 22):
                        file.write(tokens[first : first + (1 << 22)].data)
                    left -= len(tokens)
                    written += tokens.nbytes
                    if not left:
                        break
    return written


def peak_bytes() -> int:
    """The largest resident memory of this process so far; getrusage also counts what its parent had."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def measured(kind: str, root: Path, length: int) -> None:
    """Do one thing, and print what it took."""
    sources = json.loads((root / "sources.json").read_text())
    pa.array(np.zeros(1))  # imports pandas where there is one
    with tempfile.TemporaryDirectory(dir=root) as out:
        if kind == "rows alone":
            mixed._provenance = lambda *_: iter(())
        held = peak_bytes()
        before, wall = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        n_bytes = (
            copy(Path(out), length, sources) if kind == "copy" else mix(root, Path(out), length, sources)
        )
        after, wall = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - wall
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    grown = peak_bytes() - held
    print(json.dumps({"bytes": n_bytes, "user": user, "system": system, "wall": wall, "grown": grown}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=float, default=200e6)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measured(args.measure[0], Path(args.measure[1]), args.length)
        return
    print(machine())
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        root = Path(folder)
        (root / "sources.json").write_text(json.dumps(write_inputs(root, int(args.tokens), args.length)))
        found: dict[str, list[dict[str, float]]] = {"copy": [], "mixed": [], "rows alone": []}
        for _ in range(args.rounds):
            for kind, results in found.items():
                command = [sys.executable, __file__, "--length", str(args.length), "--measure", kind, folder]
                done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
                results.append(json.loads(done.stdout))
    for kind, results in found.items():
        size = results[0]["bytes"] / 1e6
        rate = statistics.median(size / (r["user"] + r["system"]) for r in results)
        wall = statistics.median(size / r["wall"] for r in results)
        parts = (statistics.median(r[part] / size * 1e3 for r in results) for part in ("user", "system"))
        print(
            f"{kind:10}: {size:,.0f} MB of rows, {rate:,.0f} MB a CPU second ({' + '.join(f'{p:.2f}' for p in parts)} "
            f"s a GB, user + system), {wall:,.0f} MB/s of wall time, "
            f"memory +{max(r['grown'] for r in results) / 1e6:.0f} MB"
        )


if __name__ == "__main__":
    main()
