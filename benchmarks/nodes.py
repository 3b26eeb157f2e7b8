"""Is a corpus made as fast on several nodes as on one with as many cores?

    python benchmarks/nodes.py CORPORA [--mb 200] [--rounds 3]

CORPORA is a folder of folders of `*.jsonl.zst` files with a column `text`. Real Ray clusters on this machine
(benchmarks/ray_nodes.py), each cluster's cores in one node or dealt out to several: 2 cores as 1 × 2 and 2 × 1, 3 cores
as 1 × 3 and 3 × 1. Where the machine has fewer cores than that, they are shared, by both alike. Rounds alternate;
medians, with the range. Seconds of the command are those of a driver on a cluster that is up: connecting, the nodes'
probes and the start of every worker are part of them, and the ratios are theirs. In seconds of stages a node of several
cores has the start of all its workers but one, which the probe started: a short run on one node looks slow by that
alone. CPU is that of the tasks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from corpus import machine, write_sources
from end_to_end import RECIPE
from ray_nodes import Nodes

LAYOUTS = ((2,), (1, 1), (3,), (1, 1, 1))
"""Cores of each node, the head's first."""

DRIVER = """
import sys, orjson
from winnow.pipelines import load, run
from winnow.pipelines.progress import Progress
if __name__ == "__main__":
    made = run(load(sys.argv[1]), sys.argv[2], address=sys.argv[3], progress=Progress(stream=None))
    print(orjson.dumps({"seconds": made.seconds, "cpu": sum(made.cpu_seconds.values())}).decode())
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--mb", type=float, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokenizer", default="mistral-7b-v0.1", help="a name or path, as in a recipe")
    args = parser.parse_args()
    taken: dict[tuple[int, ...], list[dict[str, float]]] = {layout: [] for layout in LAYOUTS}
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        root = Path(folder)
        mb = sum(write_sources(args.corpora, root, args.mb).values()) / 1e6
        recipe = root / "recipe.yaml"
        # Splits small enough that the last ones do not decide.
        recipe.write_text(
            RECIPE.format(root=root, tokenizer=args.tokenizer).replace("split_bytes: 8MB", "split_bytes: 2MB")
        )
        (root / "driver.py").write_text(DRIVER)
        print(f"{machine()}\n{mb:.1f} MB of text, {args.rounds} rounds, {args.tokenizer}", flush=True)
        for round_ in range(args.rounds):
            for layout in LAYOUTS[:: -1 if round_ % 2 else 1]:
                taken[layout].append(once(layout, recipe, root / f"run-{round_}-{len(layout)}-{sum(layout)}"))
                print(
                    f"round {round_ + 1}, {shown(layout)}: {taken[layout][-1]['command']:.1f} s", flush=True
                )
    report(mb, taken)


def once(layout: tuple[int, ...], recipe: Path, out: Path) -> dict[str, float]:
    """Seconds of the command, of its stages, and of CPU, on a new cluster. Raises RuntimeError when the run fails."""
    head, *others = layout
    with Nodes(cpus=head, memory=6 << 30) as nodes:
        for node in [nodes.begin(cpus=cpus) for cpus in others]:
            nodes.wait_for(node)
        command = [sys.executable, str(recipe.with_name("driver.py")), str(recipe), str(out), nodes.address]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, env=nodes.environment, check=False)
        seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"the run on {shown(layout)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return {"command": seconds, **json.loads(done.stdout.splitlines()[-1])}


def shown(layout: tuple[int, ...]) -> str:
    return f"{len(layout)} × {layout[0]} core{'s' if layout[0] > 1 else ''}"


def report(mb: float, taken: dict[tuple[int, ...], list[dict[str, float]]]) -> None:
    print(f"\n{'nodes':14}{'s, command':>22}{'s, stages':>22}{'MB/s, stages':>22}{'CPU s of tasks':>22}")
    for layout, runs in taken.items():
        columns = [[r["command"] for r in runs], [r["seconds"] for r in runs],
                   [mb / r["seconds"] for r in runs], [r["cpu"] for r in runs]]  # fmt: skip
        print(f"{shown(layout):14}" + "".join(f"{spread(values):>22}" for values in columns))
    for one, several in zip(LAYOUTS[::2], LAYOUTS[1::2], strict=True):
        ratios = [a["command"] / b["command"] for a, b in zip(taken[one], taken[several], strict=True)]
        print(f"throughput of {shown(several)} against {shown(one)}: {spread(ratios, 2)}")


def spread(values: list[float], digits: int = 1) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


if __name__ == "__main__":
    main()
