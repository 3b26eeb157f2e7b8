"""Does memory depend on the input? The heap of driver and workers at one size and at ten times it.

    python benchmarks/memory.py [--mb 200] [--times 10]

Generated text (random words, hardly a phrase twice), two workers, partitions and splits small enough that both
sizes fill them. The heap is what is not file cache (PSS less mapped files), the largest process of each kind,
sampled four times a second.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from corpus import machine, write_generated
from process_tree import measure

RECIPE = """
name: memory
tokenizer: {{name: mistral-7b-v0.1}}
sequence: {{length: 2048}}
sources:
  generated:
    read: {{format: jsonl, path: "{root}/generated.jsonl"}}
    filters:
    - length: {{min_words: 5}}
    - gopher-quality: {{min_stop_words: null}}
    - gopher-repetition
    - c4: {{terminal_punctuation: false, min_sentences: null}}
    - fineweb-quality: {{min_terminal_line_frac: null}}
    dedup: {{exact: true}}
    heldout: {{fraction: 0.01}}
limits: {{split_bytes: 8MB, partition_bytes: 16MB}}
shards: {{size_limit: 16MB}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mb", type=float, default=200)
    parser.add_argument("--times", type=float, default=10)
    args = parser.parse_args()
    print(machine())
    heaps = []
    for megabytes in (args.mb, args.mb * args.times):
        with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
            root = Path(folder)
            size = write_generated(root, megabytes)
            (root / "recipe.yaml").write_text(RECIPE.format(root=root))
            command = [sys.executable, "-m", "winnow.pipelines.command", "run", str(root / "recipe.yaml")]
            cost = measure([*command, "--out", str(root / "run"), "--workers", "2", "--json"], memory=True)
        heaps.append(cost.heap_bytes)
        shown = ", ".join(f"{role} {heap / 1e6:.0f} MB" for role, heap in sorted(cost.heap_bytes.items()))
        print(
            f"{size / 1e6:7.0f} MB of text: {shown}; {cost.wall_s:.0f} s, {cost.cpu_s:.0f} s of CPU",
            flush=True,
        )
    for role in sorted(heaps[0]):
        print(
            f"{role}: {heaps[1][role] / heaps[0][role]:.2f} times the heap for {args.times:g} times the text"
        )


if __name__ == "__main__":
    main()
