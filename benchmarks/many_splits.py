"""What do many small splits cost the driver: to plan, to run, to continue, and to hold while later stages run?

    python benchmarks/many_splits.py [--splits 100000] [--run-splits 10000] [--scratch DIR] [--only plan inline ray run]

Every measurement is a process of its own. Figures are of the driver: its CPU time and the time that passes for each
split, over what it takes to import Winnow and to start Ray, and the memory that it adds to what it had by then (the
peak of its resident size; Ray's own processes are others).

plan        that many files of one row each, a split for each: listing, cutting, what `winnow plan` shows
stage       that many tasks which do nothing but count, through the engine: in this process (`inline`) and on Ray
            (`ray`, two workers). Their records are written; with the time of that, which is the body of the task
continue    the same stage again, all of it recorded: from its seal, and from single records without it
held        what the driver keeps of each finished stage, by tracemalloc: bytes for each record
run         `winnow run` of `--run-splits` splits in this process, with exact and MinHash dedup, and the same run again:
            memory, CPU time outside of tasks, and records and bytes of them that RUN holds
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from corpus import machine

RECIPE = """
name: many
tokenizer: {{name: mistral-7b-v0.1}}
sequence: {{length: 128}}
sources:
  many:
    read: {{format: jsonl, path: "{files}/*/*.jsonl"}}
    dedup: {{exact: true, minhash: true}}
limits: {{split_bytes: 4KiB, partition_bytes: 1MiB}}
"""


def meter() -> Callable[[int], dict[str, float]]:
    """Begin to measure; the answer is what was used since, for each of n splits."""
    seconds, cpu = time.perf_counter(), time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def stop(n: int) -> dict[str, float]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {
            "seconds": round(time.perf_counter() - seconds, 2),
            "driver_cpu_ms_per_split": round(1000 * (time.process_time() - cpu) / n, 3),
            "ms_per_split": round(1000 * (time.perf_counter() - seconds) / n, 3),
            "memory_added_MB": round((peak - before) / 1e3, 1),
            "peak_MB": round(peak / 1e3, 1),
        }

    return stop


def make_files(root: Path, n: int) -> None:
    """Files of one row each, a thousand in a folder. Texts are of 320 words, one in ten is another's copy."""
    for first in range(0, n, 1000):
        folder = root / f"{first // 1000:04d}"
        folder.mkdir(parents=True)
        for i in range(first, min(first + 1000, n)):
            words = " ".join(f"{(i - i % 10 // 9) * 7919 + k * k:08x}" for k in range(320))
            (folder / f"{i % 1000:03d}.jsonl").write_text(json.dumps({"text": words}) + "\n")


def planned(files: Path, n: int) -> dict[str, float]:
    """Plan the files, as `winnow plan` does."""
    from winnow.pipelines.plan_report import plan_facts
    from winnow.pipelines.planning import plan
    from winnow.pipelines.recipe import read

    recipe = read(RECIPE.format(files=files), "r.yaml")
    stop = meter()
    made = plan(recipe)
    plan_facts(made)
    assert len(made.sources[0].splits) == n
    return stop(n)


def staged(run: Path, n: int, on_ray: bool) -> dict[str, float]:
    """A stage of n tasks; what is recorded in `run` already is not done again."""
    from winnow.pipelines.cluster import Cluster, Inline
    from winnow.pipelines.engine import Engine
    from winnow.pipelines.jobs import Task
    from winnow.pipelines.progress import Progress
    from winnow.pipelines.records import Stage

    def count_task(spec: int, outputs: Any) -> dict[str, Any]:
        draw = spec * 0x9E3779B97F4A7C15 % (1 << 64)
        rows, kept = 20_000 + draw % 4096, 10_000 + draw // 4096 % 4096
        lost, dropped = {"empty": draw >> 60}, {"length": rows - kept - 50, "gopher-quality": 50}
        sizes = {"text_bytes": 3000 * rows + draw % 997, "kept_bytes": 3000 * kept + draw % 991}
        return {"rows": rows, "documents": rows, "kept": kept, "lost": lost, "dropped": dropped} | sizes

    os.makedirs(run, exist_ok=True)
    executor = Cluster(str(run), None, 2, 256 << 20, partial(int)) if on_ray else Inline()
    try:
        engine = Engine(str(run), executor, Progress(stream=None))
        stop = meter()
        done = engine.perform(Stage("count.many", 1, {}), [Task(i, count_task, i) for i in range(n)])
        found = stop(n)
        assert len(done.records) == n
        body = sum(r.seconds for r in done.records)
        return found | {"redone": done.redone, "body_ms_per_split": round(1000 * body / n, 3)}
    finally:
        executor.close()


def held(run: Path, n: int) -> dict[str, float]:
    """What stays of a finished stage."""
    from winnow.pipelines.cluster import Inline
    from winnow.pipelines.engine import Engine
    from winnow.pipelines.progress import Progress
    from winnow.pipelines.records import Stage

    engine = Engine(str(run), Inline(), Progress(stream=None))
    engine.finished(Stage("count.many", 1, {}), n)
    engine.done.clear(), engine.performed.clear()
    tracemalloc.start()
    engine.finished(Stage("count.many", 1, {}), n)
    now, peak = tracemalloc.get_traced_memory()
    return {"bytes_per_record": round(now / n, 1), "bytes_per_record_while_read": round(peak / n, 1)}


def ran(files: Path, run: Path, n: int) -> dict[str, float]:
    """A whole run in this process."""
    from winnow.pipelines.corpus import run as run_recipe
    from winnow.pipelines.progress import Progress
    from winnow.pipelines.recipe import read

    recipe = read(RECIPE.format(files=files), "r.yaml")
    stop = meter()
    corpus = run_recipe(recipe, str(run), inline=True, progress=Progress(stream=None))
    found = stop(n)
    tasks = sum(corpus.redone.values())
    outside = found["driver_cpu_ms_per_split"] - 1000 * sum(corpus.cpu_seconds.values()) / n
    return found | {"tasks": tasks, "cpu_ms_per_split_outside_of_tasks": round(outside, 3)}


def measured(function: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """What a function returns in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def show(name: str, figures: dict[str, float]) -> None:
    """A line of figures."""
    print(f"{name:28}", ", ".join(f"{key} {value:,}" for key, value in figures.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--splits", type=int, default=100_000)
    parser.add_argument("--run-splits", type=int, default=10_000)
    parser.add_argument("--scratch")
    parser.add_argument("--only", nargs="+", default=["plan", "inline", "ray", "run"])
    given = parser.parse_args()
    print(machine())
    root = Path(tempfile.mkdtemp(prefix="winnow-many-", dir=given.scratch))
    try:
        n = given.splits
        if "plan" in given.only:
            make_files(root / "files", n)
            show(f"plan of {n:,}", measured(planned, root / "files", n))
        for name in given.only:
            if name not in ("inline", "ray"):
                continue
            run = root / name
            show(f"stage, {name}", measured(staged, run, n, name == "ray"))
            show("continue, sealed", measured(staged, run, n, False))
            show("held", measured(held, run, n))
            (seal,) = run.glob("stages/*/records/sealed")
            print(f"the seal has {seal.stat().st_size / n:.1f} bytes a record")
            seal.unlink()
            show("continue, single records", measured(staged, run, n, False))
            shutil.rmtree(run)
        if "run" in given.only:
            n = given.run_splits
            make_files(root / "few", n)
            show(f"run of {n:,}", measured(ran, root / "few", root / "run", n))
            show("run again", measured(ran, root / "few", root / "run", n))
            sizes = [p.stat().st_size for p in (root / "run").rglob("*") if p.is_file()]
            print(f"RUN has {len(sizes):,} files, {len(sizes) / n:.1f} a split, {sum(sizes) / 1e6:.1f} MB")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
