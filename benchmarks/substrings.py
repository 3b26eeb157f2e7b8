"""Exact substring dedup: MB/s per core, bytes of memory and of disk per byte of text, and whether it is right.

    python benchmarks/substrings.py CORPORA [--mb 200] [--rounds 3] [--min-bytes 500] [--check-mb 10]

CORPORA is a folder of folders of `*.jsonl.zst` files of text (those used are named in corpus.py). Documents are read
once; then the step runs over them, inline in a process of its own: stored text in, verdicts out, everything that is
written and read between included, user CPU. `kernels` is the first round's kernel alone on the same text.

No peer can be installed here (deduplicate-text-datasets, whose suffix array is the usual way, is built by cargo). What
stands beside it is the plain way, NumPy sorting the hashes of all windows in memory, on the first `--check-mb` of the
text: its answers have to be equal.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from corpus import machine, write_sources

GROUP = ("prose", "other")


def recipe(folder: str, partition_mb: float):
    from winnow.pipelines.recipe import read

    sources = "\n".join(
        f"  {name}: {{read: {{format: jsonl, path: '{folder}/{name}.jsonl', key: id}}}}" for name in GROUP
    )
    limits = f"limits: {{partition_bytes: {int(partition_mb * 2**20)}}}"
    return read(
        f"name: bench\ntokenizer: {{name: mistral-7b-v0.1}}\n{limits}\nsources:\n{sources}", "bench.yaml"
    )


def opened(folder: str, partition_mb: float):
    """(splits, the stages they come from, limits); reads the sources where that has not been done."""
    from winnow.pipelines import run
    from winnow.pipelines.progress import Progress
    from winnow.pipelines.standing import standings

    made = recipe(folder, partition_mb)
    corpus = run(made, f"{folder}/run", inline=True, until="filters", progress=Progress(stream=None))
    members = [corpus.sources[name] for name in GROUP]
    inputs = [s for rank, member in enumerate(members) for s in standings(member, rank)]
    return inputs, [member.filters.stage for member in members], made.limits


def user_seconds() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def step(folder: str, out: str, min_bytes: str, partition_mb: str) -> dict:
    """The whole step into a run directory of its own."""
    from winnow.filters import substrings as _kernels  # noqa: F401 - compiled, or loaded, before the clock starts
    from winnow.filters.substring_settings import Substrings
    from winnow.pipelines import substrings
    from winnow.pipelines.cluster import Inline
    from winnow.pipelines.engine import Engine
    from winnow.pipelines.progress import Progress
    from winnow.pipelines.records import total

    inputs, upstream, limits = opened(folder, float(partition_mb))
    engine = Engine(out, Inline(), Progress(stream=None))
    before, base = user_seconds(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    settings = Substrings(min_bytes=int(min_bytes))
    (done,) = engine.together(substrings.deduplicate(engine, GROUP, inputs, upstream, settings, limits))
    spent = user_seconds() - before
    counts = {
        what: sum((total(done.records, what) or {}).values())
        for what in ("dropped", "dropped_bytes", "cut_documents", "cut_bytes")
    }
    by_stage = {name.partition(".")[0]: d.cpu_seconds for name, d in engine.done.items()}
    disk = sum(f.stat().st_size for f in Path(out).rglob("*.bin"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return counts | {
        "user_s": spent,
        "disk": disk,
        "base": base << 10,
        "peak": peak << 10,
        "by_stage": by_stage,
    }


def last_texts(folder: str, megabytes: float):
    """The last splits' documents, until there are so many MB: one column."""
    from winnow.pipelines.standing import texts_of

    inputs, _, _ = opened(folder, 128)
    held, size = [], 0
    for item in reversed(inputs):
        for found in texts_of(item):
            held.append(found.texts)
            size += found.texts.nbytes
            if size >= megabytes * 1e6:
                return pa.concat_arrays(held)
    return pa.concat_arrays(held)


def kernels(folder: str, megabytes: str, min_bytes: str) -> dict:
    """The first round's kernel alone."""
    from winnow.filters.jit import text_buffers
    from winnow.filters.substrings import anchor_cells, scratch_for

    offsets, utf8 = text_buffers(last_texts(folder, float(megabytes)))
    scratch = scratch_for(int(min_bytes))
    keys, cells = np.empty((1 << 14, 2), np.uint64), np.empty((1 << 14, 4), np.uint32)
    before, document, window, made = user_seconds(), 0, 0, 0
    while document < len(offsets) - 1:
        document, window, n = anchor_cells(offsets, utf8, document, window, scratch, keys, cells)
        made += n
    return {"user_s": user_seconds() - before, "bytes": int(offsets[-1] - offsets[0]), "cells": made}


def plain(folder: str, megabytes: str, min_bytes: str) -> dict:
    """All windows' hashes sorted, and the same by the cells: equal duplicates?"""
    from winnow.filters.jit import text_buffers

    length = int(min_bytes)
    offsets, utf8 = text_buffers(last_texts(folder, float(megabytes)))
    text = utf8[offsets[0] : offsets[-1]]
    edges = offsets - offsets[0]
    before = user_seconds()
    known = np.zeros(len(text) + 1, np.int64)
    starts = _window_starts(edges, length)
    again = starts[_seen_before(_window_hashes(text, length)[starts])]
    np.add.at(known, again, 1)
    np.add.at(known, again + length, -1)
    spent = user_seconds() - before
    covered = np.cumsum(known[:-1]) > 0
    ours = _covered_by_cells(offsets, utf8, length)
    return {
        "user_s": spent,
        "bytes": len(text),
        "covered": int(covered.sum()),
        "equal": bool((covered == ours).all()),
    }


def _window_starts(edges: np.ndarray, length: int) -> np.ndarray:
    """Where a window of a document begins."""
    spans = [
        np.arange(a, b - length + 1) for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    ]
    return np.concatenate(spans)


def _window_hashes(text: np.ndarray, length: int) -> np.ndarray:
    """uint64: polynomial hashes (random values of bytes) of all windows, by differences of prefix sums."""
    multiplier = 0x9E3779B97F4A7C15
    inverse = np.uint64(pow(multiplier, -1, 1 << 64))
    values = np.random.default_rng(5).integers(0, 1 << 64, 256, np.uint64)
    with np.errstate(over="ignore"):
        powers = np.full(len(text), np.uint64(multiplier))
        powers[0] = 1
        np.multiply.accumulate(powers, out=powers)
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values[text] * powers, dtype=np.uint64)])
        undo = np.full(len(text), inverse)
        undo[0] = 1
        np.multiply.accumulate(undo, out=undo)
        return (sums[length:] - sums[:-length]) * undo[: len(text) - length + 1]


def _seen_before(hashes: np.ndarray) -> np.ndarray:
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    found = np.zeros(len(hashes), bool)
    found[order[1:][ordered[1:] == ordered[:-1]]] = True
    return found


def _covered_by_cells(offsets: np.ndarray, utf8: np.ndarray, length: int) -> np.ndarray:
    """bool[b]: whether a byte lies in a duplicate window, by way of cells, in memory."""
    from winnow.filters.substrings import RESOLVED, Judge, anchor_cells, divided, scratch_for, steps_of

    scratch, room = scratch_for(length), 1 << 16
    keys, cells = np.empty((room, 2), np.uint64), np.empty((room, 4), np.uint32)
    document = window = 0
    all_keys, all_cells = [], []
    while document < len(offsets) - 1:
        document, window, n = anchor_cells(offsets, utf8, document, window, scratch, keys, cells)
        all_keys.append(keys[:n].copy())
        all_cells.append(cells[:n].copy())
    keys, cells = np.concatenate(all_keys), np.concatenate(all_cells)
    found = [cells[cells[:, 3] == RESOLVED]]
    keys, cells = keys[cells[:, 3] != RESOLVED], cells[cells[:, 3] != RESOLVED]
    for step_ in (*steps_of(length), 0):
        order = np.lexsort([cells[:, 1], cells[:, 0], keys[:, 1], keys[:, 0]])
        if not len(order):
            break
        duplicates, open_, _ = Judge().block(keys[order, 0], keys[order, 1])
        found.append(cells[order[duplicates]])
        if step_:
            keys, cells = divided(offsets, utf8, cells[order[open_]], length, step_)
    change = np.zeros(offsets[-1] - offsets[0] + 1, np.int64)
    for rows in found:
        begins = offsets[rows[:, 0]] - offsets[0] + rows[:, 1]
        np.add.at(change, begins, 1)
        np.add.at(change, begins + rows[:, 2] + (length - 1), -1)
    return np.cumsum(change[:-1]) > 0


def child(what: str, *arguments: object) -> dict:
    command = [sys.executable, __file__, "--child", what, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode:
        raise SystemExit(f"{what}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        print(
            json.dumps(
                {"step": step, "kernels": kernels, "plain": plain, "read": read_only}[sys.argv[2]](
                    *sys.argv[3:]
                )
            )
        )
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--mb", type=float, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--min-bytes", type=int, default=500)
    parser.add_argument("--check-mb", type=float, default=10)
    parser.add_argument("--partition-mb", type=float, default=128)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        sizes = write_sources(args.corpora, Path(folder), args.mb)
        size = sum(sizes.values())
        child("read", folder)
        print(machine())
        print(
            f"{size / 1e6:.1f} MB of text, min_bytes {args.min_bytes}; medians of {args.rounds} (range), user CPU"
        )
        runs = [
            child("step", folder, f"{folder}/out-{i}", args.min_bytes, args.partition_mb)
            for i in range(args.rounds)
        ]
        rates = sorted(size / 1e6 / run["user_s"] for run in runs)
        last = runs[-1]
        gone = last["dropped_bytes"] + last["cut_bytes"]
        print(f"whole step     {statistics.median(rates):7.1f} MB/s ({rates[0]:.1f}-{rates[-1]:.1f})")
        print(f"               {last['disk'] / size:.2f} bytes of exchange on disk for a byte of text")
        print(
            f"               peak {max(run['peak'] for run in runs) >> 20} MiB, {last['base'] >> 20} before the step"
        )
        print(f"               {gone / size:.2%} of the text goes: {last['dropped']} documents and parts of "
              f"{last['cut_documents']}")  # fmt: skip
        for name, seconds in last["by_stage"].items():
            print(f"               {name:28} {seconds:7.2f} s of CPU")
        runs = [child("kernels", folder, args.mb, args.min_bytes) for _ in range(args.rounds)]
        rates = sorted(run["bytes"] / 1e6 / run["user_s"] for run in runs)
        print(f"kernels        {statistics.median(rates):7.1f} MB/s ({rates[0]:.1f}-{rates[-1]:.1f}), "
              f"a cell for {runs[0]['bytes'] / runs[0]['cells']:.0f} bytes")  # fmt: skip
        if args.check_mb:
            run = child("plain", folder, args.check_mb, args.min_bytes)
            answer = "equal" if run["equal"] else "DIFFERENT"
            speed = run["bytes"] / 1e6 / run["user_s"]
            print(f"plain way      {speed:7.1f} MB/s on the last {run['bytes'] / 1e6:.0f} MB, where "
                  f"{run['covered'] / run['bytes']:.2%} are duplicates: {answer} answers")  # fmt: skip


def read_only(folder: str) -> dict:
    opened(folder, 128)
    return {}


if __name__ == "__main__":
    main()
