"""Raw text to MDS shards: MB/s and tokens/s per core, and how two workers compare with one.

    python benchmarks/end_to_end.py CORPORA [--mb 200] [--rounds 3] [--tokenizer NAME]

CORPORA is a folder of folders of `*.jsonl.zst` files with a column `text`. The chain is the thin one: JSONL, Gopher
quality on the prose, length on the rest, exact dedup across both, one tokenizer, shuffle, 2048, MDS. CPU is
user + system of every process of the run, Ray's daemons and start included; rounds alternate one worker, two
workers, and reading, filtering and tokenizing the same splits in one and in two bare processes without Ray.
Medians, with the range.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from corpus import machine, write_sources
from process_tree import Cost, measure

RECIPE = """
name: end-to-end
tokenizer: {{name: "{tokenizer}"}}
sequence: {{length: 2048}}
sources:
  prose:
    read: {{format: jsonl, path: "{root}/prose.jsonl", key: id}}
    filters: [gopher-quality]
  other:
    read: {{format: jsonl, path: "{root}/other.jsonl", key: id}}
    filters: [{{length: {{min_chars: 100}}}}]
dedup: {{exact: {{across: [prose, other]}}}}
limits: {{split_bytes: 8MB}}
"""

RUN = """
import sys, orjson
from winnow.pipelines import load, run
from winnow.pipelines.progress import Progress
workers = int(sys.argv[3])
if __name__ == "__main__":
    made = run(load(sys.argv[1]), sys.argv[2], workers=workers, progress=Progress(stream=None))
    print(orjson.dumps({"seconds": made.seconds, "cpu": made.cpu_seconds, "mixture": made.mixture}).decode())
"""

# The same work without Ray: the sources' splits dealt out to bare processes, tasks called as functions.
BARE = """
import sys, time, multiprocessing
from winnow.pipelines import load
from winnow.pipelines.planning import plan
from winnow.pipelines.records import Outputs
from winnow.pipelines import documents, filtering, tokens, corpus, verdicts
from winnow.shards import storage

def work(part):
    recipe, out, first, step, vocabulary = part
    planned = plan(load(recipe))
    for source in planned.sources:
        filters = filtering.filter_settings(source)
        rules = filtering.parts_of(planned.recipe, filters)[-1].rules
        for split in source.splits[first::step]:
            place = storage.join(out, source.name)
            outputs = Outputs(place)
            read = documents.documents_task(documents.DocumentsSpec(split, source.read, filters), outputs)
            verdicts.filters_task(verdicts.FiltersSpec(split.index, place, rules), outputs)
            spec = tokens.TokensSpec(source.name, split.index, read["documents"], place, place, None, vocabulary,
                                     "fastokens", "eos")
            tokens.tokens_task(spec, outputs)

if __name__ == "__main__":
    recipe, out, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
    spec = tokens.TokenizerSpec(corpus._tokenizer_source(load(recipe)), None, None)
    kept = storage.join(out, "tokenizer")
    tokens.tokenizer_task(spec, Outputs(kept))
    context = multiprocessing.get_context("spawn")
    with context.Pool(n) as pool:
        pool.map(len, [()] * n)
        started = time.perf_counter()
        pool.map(work, [(recipe, out, i, n, kept) for i in range(n)], chunksize=1)
        print(time.perf_counter() - started)
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
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        root = Path(folder)
        sizes = write_sources(args.corpora, root, args.mb)
        recipe = root / "recipe.yaml"
        recipe.write_text(RECIPE.format(root=root, tokenizer=args.tokenizer))
        (root / "bare.py").write_text(BARE)
        (root / "run.py").write_text(RUN)
        print(machine())
        inputs = ", ".join(f"{n} {s / 1e6:.1f} MB" for n, s in sizes.items())
        print(f"{args.tokenizer}; input: {inputs}; {args.rounds} rounds")
        costs: dict[int, list[tuple[Cost, dict]]] = {1: [], 2: []}
        bare: dict[int, list[float]] = {1: [], 2: []}
        for round_ in range(args.rounds):
            for n in (2, 1):
                out = root / f"run-{round_}-{n}"
                cost = measure([sys.executable, str(root / "run.py"), str(recipe), str(out), str(n)])
                costs[n].append((cost, json.loads(cost.output.splitlines()[-1])))
                shutil.rmtree(out)
                out = root / f"bare-{round_}-{n}"
                bare[n].append(
                    float(
                        measure([sys.executable, str(root / "bare.py"), str(recipe), str(out), str(n)]).output
                    )
                )
                shutil.rmtree(out)
        report(sum(sizes.values()) / 1e6, costs, bare)


def spread(values: list[float], digits: int = 1) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def report(mb: float, costs: dict[int, list[tuple[Cost, dict]]], bare: dict[int, list[float]]) -> None:
    facts = costs[1][0][1]["mixture"]["sources"]
    tokens = sum(s["tokens"] for s in facts)
    kept = sum(s["kept_bytes"] for s in facts) / 1e6
    print(f"{kept:.1f} of {mb:.1f} MB ({kept / mb:.0%}) and {tokens / 1e6:.1f} M tokens reach the shards")
    for n, runs in costs.items():
        print(f"\n{n} worker{'s' if n > 1 else ''}")
        print(f"  MB/s per core, all processes         {spread([mb / c.cpu_s for c, _ in runs])}")
        print(
            f"  M tokens/s per core, all processes   {spread([tokens / 1e6 / c.cpu_s for c, _ in runs], 2)}"
        )
        print(
            f"  MB/s per core, tasks alone           {spread([mb / sum(r['cpu'].values()) for _, r in runs])}"
        )
        print(f"  wall s, command                      {spread([c.wall_s for c, _ in runs])}")
        print(f"  wall s, stages                       {spread([r['seconds'] for _, r in runs])}")
        by_role = {
            role: statistics.median(c.cpu_by_role.get(role, 0) for c, _ in runs)
            for role in ("driver", "worker", "ray")
        }
        print(
            "  CPU s by role                        " + ", ".join(f"{r} {s:.1f}" for r, s in by_role.items())
        )
        steps: dict[str, list[float]] = {}
        for _, run in runs:
            for step, seconds in run["cpu"].items():
                steps.setdefault(step, []).append(seconds)
        medians = {step: statistics.median(s) for step, s in steps.items()}
        whole = sum(medians.values())
        shares = sorted(medians.items(), key=lambda item: -item[1])
        print(
            "  CPU of tasks by step                 " + ", ".join(f"{s} {v / whole:.0%}" for s, v in shares)
        )
    ours = [a["seconds"] / b["seconds"] for (_, a), (_, b) in zip(costs[1], costs[2], strict=True)]
    theirs = [a / b for a, b in zip(bare[1], bare[2], strict=True)]
    print(f"\n2 workers / 1 worker, stages             {spread(ours, 2)}")
    print(f"2 bare processes / 1, read+filter+tokenize {spread(theirs, 2)}")
    print(
        f"ratio of the two                         {statistics.median(ours) / statistics.median(theirs):.2f}"
    )


if __name__ == "__main__":
    main()
