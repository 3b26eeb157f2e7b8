"""DCLM-Baseline's heuristics, steps 6 to 20 without language: MB/s per core, ours and DCLM's own code.

    python benchmarks/dclm_heuristics.py CORPORA [--mb 120] [--dclm CHECKOUT] [--peer-mb 6] [--rounds 3]

CORPORA is a folder of folders of `*.jsonl.zst` files of English text with a column `text` (the folders that are used
are named in corpus.py). Every case is a process of its own that reads the same Arrow file: text in, verdicts and
rewritten text out, user CPU after imports and one document for warming up. A filter alone sees every document;
all four see what the ones before have kept, as in a run.

DCLM's code is no package. CHECKOUT is a checkout of github.com/mlfoundations/dclm; this Python then needs what its
mappers import (nltk, retrie, uniseg, fasttext, justext, beautifulsoup4, unidecode, transformers). Its steps, as its
dclm_baseline_refinedweb.yaml lists them, get the first `--peer-mb` of the text: at 0.12 MB/s, its speed on an AMD EPYC
(Zen 4) core, 6 MB are 50 seconds. The ratio compares what both do on just those documents.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
from corpus import machine
from four_filters import batches, report, speed, user_seconds, write_texts

FILTERS = ("dclm-urls", "dclm-page", "dclm-repetition", "dclm-lines")
RECIPE = "baselines/baselines_configs/dclm_baseline_refinedweb.yaml"
FIRST_STEP = "url_removal_modifier"
NOT_OURS = ("detect_lang_whole_page_enricher", "language_filter")


def ours(place: str, names: list[str]) -> None:
    """What the documents stage does with a source that has these filters, less reading and writing."""
    import pyarrow.compute as pc
    from winnow.filters.catalogue import FILTERS as CATALOGUE
    from winnow.filters.catalogue import segments
    from winnow.filters.rules import decide
    from winnow.filters.scans import scan

    parts = segments([CATALOGUE[name]() for name in names])

    def work(texts: pa.Array) -> int:
        for part in parts:
            signals = {}
            if part.rewriter is not None:
                done = part.rewriter.rewrite(pa.record_batch({"text": texts}))
                texts = done.texts
                size = pc.binary_length(texts).to_numpy()
                signals = {f"{part.rewriter.name}.text_bytes": size, **done.signals}
            if part.rules:
                signals |= scan(texts, part.scanned)
                texts = texts.filter(pa.array(decide(part.rules, signals, len(texts)).first < 0))
        return len(texts)

    work(next(batches(place)).slice(0, 1))
    started = user_seconds()
    kept = sum(work(texts) for texts in batches(place))
    report(state="once", user_s=user_seconds() - started, kept=kept)


def theirs(place: str, checkout: str) -> None:
    """DCLM's mappers one after another on each page, as its processor calls them, less reading and writing."""
    import yaml

    os.chdir(checkout)  # its paths to lists of words begin here
    sys.path[:0] = [checkout, f"{checkout}/baselines"]
    from baselines.core.factories import get_mapper

    steps = yaml.safe_load(Path(RECIPE).read_text(encoding="utf-8"))[0]["steps"]
    first = next(i for i, step in enumerate(steps) if step["func"] == FIRST_STEP)
    mappers = [get_mapper(**step) for step in steps[first:] if step["func"] not in NOT_OURS]

    def keep(text: str) -> bool:
        pages = [{"text": text}]
        for mapper in mappers:
            pages = [left for page in pages for left in mapper(page)]
        return bool(pages)

    texts = [text for batch in batches(place) for text in batch.to_pylist()]
    keep(texts[0])
    started = user_seconds()
    kept = sum(map(keep, texts))
    report(state="once", user_s=user_seconds() - started, kept=kept)


def child(*arguments: str) -> dict[str, dict]:
    command = [sys.executable, __file__, "--child", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{arguments}: {done.stderr[-3000:]}")
    return {"once": json.loads(done.stdout.splitlines()[-1])}


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        who, place, what = sys.argv[2:]
        ours(place, what.split(",")) if who == "ours" else theirs(place, what)
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--mb", type=float, default=120)
    parser.add_argument("--dclm", type=Path, help="a checkout of github.com/mlfoundations/dclm")
    parser.add_argument("--peer-mb", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        whole, small = f"{folder}/whole.arrow", f"{folder}/small.arrow"
        size = write_texts(args.corpora, Path(whole), args.mb)
        print(machine())
        print(f"{size / 1e6:.1f} MB of English text; medians of {args.rounds} (range); MB/s of user CPU")
        for names in [*((name,) for name in FILTERS), FILTERS]:
            runs = [child("ours", whole, ",".join(names)) for _ in range(args.rounds)]
            label = "all four" if len(names) > 1 else names[0]
            print(f"{label:18} {speed(runs, 'once', size)}, kept {runs[0]['once']['kept']}")
        if args.dclm is None:
            print("DCLM's own code was not run: --dclm says where a checkout of it is.")
            return
        small_size = write_texts(args.corpora, Path(small), args.peer_mb)
        mine = [child("ours", small, ",".join(FILTERS)) for _ in range(args.rounds)]
        peer = [child("theirs", small, str(args.dclm.resolve())) for _ in range(args.rounds)]
        ratio = statistics.median(r["once"]["user_s"] for r in peer) / statistics.median(
            r["once"]["user_s"] for r in mine
        )
        print(f"{'DCLM':18} {speed(peer, 'once', small_size)}, the first {small_size / 1e6:.1f} MB")
        print(
            f"ours on the same text: {ratio:.0f}x; kept {mine[0]['once']['kept']} and {peer[0]['once']['kept']}"
        )


if __name__ == "__main__":
    main()
