"""Decontamination: MB/s per core, ours, datatrove's and plain Python's.

    python benchmarks/decontaminate.py CORPORA BENCHMARKS [--mb 120] [--peer-mb 3] [--rounds 3]

CORPORA is a folder of folders of `*.jsonl.zst` files of English text with a column `text` (the folders that are used
are named in corpus.py), BENCHMARKS a folder of `*.jsonl.zst` files: all texts of a row, joined, are an item. Every
case is a process of its own that reads the same Arrow file, user CPU after imports and the making of the index:

scan        which documents share a 13-gram (short items whole, from 8 words on) with one benchmark, or with all
ngram       the same, and what is to be cut of which document by GPT-3's rule; common n-grams are not left out
cosmopedia  10-grams, and the comparison of candidates with items

The peers get every 20th document, and 12-grams, datatrove's default; the ratio compares what both do on just those.
datatrove (NGramsDecontFilter) reads the hashes that it would make of the same items as labels without queries, on
spaCy's words; plain Python looks up tuples of our words in a set. Both stop at the first n-gram of a document.
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

import numpy as np
import pyarrow as pa
import zstandard
from corpus import machine
from four_filters import batches, report, speed, user_seconds, write_texts

N, PEER_N = 13, 12


def items_of(folder: str, only: str) -> list[str]:
    """The items of the benchmarks whose files' names begin so."""
    found = []
    for path in sorted(Path(folder).glob(f"{only}*.jsonl.zst")):
        with zstandard.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                values = json.loads(line).values()
                parts = [v for value in values for v in (value if isinstance(value, list) else [value])]
                found.append("\n".join(part for part in parts if isinstance(part, str)))
    return found


def ours(place: str, folder: str, only: str, method: str, n: str) -> None:
    """Texts in, what contaminates them out."""
    from winnow.filters.benchmark_index import build, find, words
    from winnow.filters.contamination import contamination, cuts, shared
    from winnow.filters.decontaminate_settings import Decontaminate

    items = items_of(folder, only)
    normal = [" ".join(words(item)) for item in items]
    size = sum(len(item.encode()) for item in items)
    started = time.process_time()
    index = build(pa.array(normal, pa.large_string()), int(n), 8)
    tables = [*index.lookup, index.edges, index.members, index.words]
    made, held = time.process_time() - started, sum(table.nbytes for table in tables)
    given = {"benchmarks": {"b": {"path": "b", "text": "t"}}, "n": int(n)}
    chosen = Decontaminate.model_validate(given | ({"method": method} if method != "scan" else {}))

    def work(texts: pa.LargeStringArray) -> tuple[int, int]:
        hits = find(texts, index)
        noted = np.unique(hits.documents)
        gone = 0
        edges = np.searchsorted(hits.documents, np.append(noted, len(texts)))
        for k, i in enumerate(noted.tolist() if method != "scan" else ()):
            of = slice(edges[k], edges[k + 1])
            text = texts[i].as_buffer().to_pybytes()
            mine = shared(hits.starts[of], hits.stops[of], hits.grams[of], index)
            found = contamination(text, mine, index, normal, chosen)
            gone += found is not None
            if found is not None and chosen.action == "cut":
                cuts(text, mine, found, chosen.margin)
        return len(noted), gone

    work(next(batches(place)).slice(0, 1))
    started = user_seconds()
    counts = [work(texts) for texts in batches(place)]
    seconds = user_seconds() - started
    noted, gone = (sum(c[k] for c in counts) for k in (0, 1))
    facts = {"items": len(items), "item_mb": size / 1e6, "ngrams": len(index.hashes), "index_s": made}
    report(state="once", user_s=seconds, noted=noted, gone=gone, index_mb=held / 1e6, **facts)


def theirs(place: str, folder: str, only: str, who: str) -> None:
    """The same texts as Python strings, through datatrove's filter or a set of tuples."""
    texts = [text for batch in batches(place) for text in batch.to_pylist()]
    items = items_of(folder, only)
    if who == "python":
        from winnow.filters.benchmark_index import words

        def grams(text: str) -> set[tuple[str, ...]]:
            w = words(text)
            return set(zip(*(w[k:] for k in range(PEER_N)), strict=False))

        known = {gram for item in items for gram in grams(item)}

        def dirty(text: str) -> bool:
            return not known.isdisjoint(grams(text))
    else:
        from datatrove.data import Document
        from datatrove.pipeline.decont.n_grams import NGramsDecontConfig, NGramsDecontFilter
        from datatrove.utils.text import ngrams, simplify_text

        config = NGramsDecontConfig()
        made = tempfile.mkdtemp()
        block = NGramsDecontFilter(made, config)
        hashes: set[int] = set()
        for item in items:
            found = ngrams(
                block.tokenizer.word_tokenize(simplify_text(item, config.norm_config)), config.n_grams
            )
            hashes.update(map(block.hash_func, map(" ".join, found)))
        np.array(list(hashes), config.hash_config.np_descr).tofile(f"{made}/all.index.hashes")

        def dirty(text: str) -> bool:
            return block.filter(Document(text, "0")) is not True

    dirty(texts[0])
    started = user_seconds()
    noted = sum(map(dirty, texts))
    report(state="once", user_s=user_seconds() - started, noted=noted)


def child(*arguments: str) -> dict[str, dict]:
    command = [sys.executable, __file__, "--child", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{arguments}: {done.stderr[-3000:]}")
    return {"once": json.loads(done.stdout.splitlines()[-1])}


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        _, _, who, *rest = sys.argv
        ours(*rest) if who == "ours" else theirs(*rest)
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path)
    parser.add_argument("benchmarks", type=Path)
    parser.add_argument("--mb", type=float, default=120)
    parser.add_argument("--peer-mb", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    folder = str(args.benchmarks)
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as made:
        whole, small = f"{made}/whole.arrow", f"{made}/small.arrow"
        size = write_texts(args.corpora, Path(whole), args.mb)
        small_size = write_texts(args.corpora, Path(small), args.peer_mb, every=20)
        print(machine())
        print(f"{size / 1e6:.1f} MB of English text; medians of {args.rounds} (range); MB/s of user CPU")
        for only, method, n in (
            ("gsm8k", "scan", N),
            ("", "scan", N),
            ("", "ngram", N),
            ("", "cosmopedia", 10),
        ):
            runs = [child("ours", whole, folder, only, method, str(n)) for _ in range(args.rounds)]
            one = runs[0]["once"]
            print(
                f"{method:10} {one['items']:6,} items, {one['ngrams']:9,} n-grams: {speed(runs, 'once', size)}; "
                f"{one['noted']} documents noted, {one['gone']} contaminated; index {one['index_mb']:.0f} MB for "
                f"{one['item_mb']:.1f} MB of items, made in {one['index_s']:.1f} s"
            )
        mine = [child("ours", small, folder, "", "scan", str(PEER_N)) for _ in range(args.rounds)]
        print(f"{'scan':10} the peers' {small_size / 1e6:.1f} MB: {speed(mine, 'once', small_size)}; "
              f"{mine[0]['once']['noted']} documents noted")  # fmt: skip
        for who in ("datatrove", "python"):
            peer = [child("theirs", small, folder, "", who) for _ in range(args.rounds)]
            ratio = statistics.median(r["once"]["user_s"] for r in peer) / statistics.median(
                r["once"]["user_s"] for r in mine
            )
            print(f"{who:10} {speed(peer, 'once', small_size)}; {peer[0]['once']['noted']} documents noted; "
                  f"ours on the same text: {ratio:.0f}x")  # fmt: skip


if __name__ == "__main__":
    main()
