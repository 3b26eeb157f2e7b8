"""Gopher quality, Gopher repetition, C4 and FineWeb quality: MB/s per core, ours and datatrove's.

    python benchmarks/four_filters.py CORPORA [--mb 120] [--peer-mb 6] [--rounds 3] [--words paper datatrove]

CORPORA is a folder of folders of `*.jsonl.zst` files of English text with a column `text` (the folders that are
used are named in corpus.py). Every case is a process of its own that reads the same Arrow file: text in, verdicts (and
rewritten text) out, user CPU after imports and one document for warming up. `words: datatrove` is measured cold
(every chunk is new to the table of tokens) and warm (the same text once more). datatrove gets the first
`--peer-mb` of the text; the ratio compares what both do on just those documents.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
from corpus import PROSE, machine, texts_of

FILTERS = ("gopher-quality", "gopher-repetition", "c4", "fineweb-quality")
BATCH_BYTES = 4 << 20
PEER_EVERY = 20
"""The peer gets every 20th document, so that it has some of each kind."""


def write_texts(corpora: Path, place: Path, megabytes: float, every: int = 1) -> int:
    """Write every so many-th document as an Arrow file of batches of a few MB; returns bytes of text."""
    size, held, held_bytes = 0, [], 0
    schema = pa.schema([("text", pa.large_string())])
    with pa.ipc.new_file(str(place), schema) as writer:
        for text in itertools.islice(texts_of(corpora, PROSE), 0, None, every):
            held.append(text)
            held_bytes += len(text.encode())
            if held_bytes >= BATCH_BYTES or size + held_bytes >= megabytes * 1e6:
                writer.write_batch(pa.record_batch([pa.array(held, pa.large_string())], schema=schema))
                size, held, held_bytes = size + held_bytes, [], 0
            if size >= megabytes * 1e6:
                break
    return size


def batches(place: str):
    with pa.memory_map(place) as source:
        reader = pa.ipc.open_file(source)
        for i in range(reader.num_record_batches):
            yield reader.get_batch(i).column(0)


def user_seconds() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def report(**facts: object) -> None:
    print(json.dumps(facts | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def ours(place: str, names: list[str], words: str) -> None:
    """What the documents stage does with a source that has these filters, less reading and writing."""
    import numpy as np
    from winnow.filters.catalogue import FILTERS as CATALOGUE
    from winnow.filters.catalogue import segments
    from winnow.filters.rules import decide
    from winnow.filters.scans import scan

    parts = segments([CATALOGUE[name](words=words) for name in names])

    def work(texts: pa.Array) -> int:
        n = len(texts)
        table = pa.record_batch(
            [
                pa.array([bytes(16)] * n, pa.binary(16)),
                texts,
                pa.nulls(n, pa.string()),
                pa.nulls(n, pa.string()),
            ],
            names=["id", "text", "key", "meta"],
        )
        for part in parts:
            signals = {}
            if part.rewriter is not None:
                done = part.rewriter.rewrite(table)
                table = table.set_column(1, table.schema.field(1), done.texts)
                signals = {f"{part.rewriter.name}.text_bytes": np.ones(table.num_rows), **done.signals}
            if part.scanned:
                signals |= scan(table.column("text"), part.scanned)
            keep = decide(part.rules, signals, table.num_rows).first < 0
            table = table.filter(pa.array(keep))
        return table.num_rows

    work(next(batches(place)).slice(0, 1))
    for state in ("cold", "warm"):
        started = user_seconds()
        kept = sum(work(texts) for texts in batches(place))
        report(state=state, user_s=user_seconds() - started, kept=kept)


def theirs(place: str, names: list[str]) -> None:
    """datatrove's filters one after another, as a pipeline of hers would run them, less reading and writing."""
    from datatrove.data import Document
    from datatrove.pipeline import filters

    classes = {
        "gopher-quality": filters.GopherQualityFilter,
        "gopher-repetition": filters.GopherRepetitionFilter,
        "c4": filters.C4QualityFilter,
        "fineweb-quality": filters.FineWebQualityFilter,
    }
    chain = [classes[name]() for name in names]

    def keep(document: Document) -> bool:
        return all((answer := f.filter(document)) is True or (answer and answer[0]) for f in chain)

    texts = [text for batch in batches(place) for text in batch.to_pylist()]
    keep(Document(text=texts[0], id="warm"))
    started = user_seconds()
    kept = sum(keep(Document(text=text, id=str(i))) for i, text in enumerate(texts))
    report(state="once", user_s=user_seconds() - started, kept=kept)


def child(*arguments: str) -> dict[str, dict]:
    done = subprocess.run(
        [sys.executable, __file__, "--child", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{arguments}: {done.stderr[-3000:]}")
    return {
        (row := json.loads(line))["state"]: row for line in done.stdout.splitlines() if line.startswith("{")
    }


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        who, place, names, *words = sys.argv[2:]
        ours(place, names.split(","), *words) if who == "ours" else theirs(place, names.split(","))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--mb", type=float, default=120)
    parser.add_argument("--peer-mb", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--words", nargs="+", default=["paper", "datatrove"], choices=["paper", "datatrove"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        whole, small = f"{folder}/whole.arrow", f"{folder}/small.arrow"
        size, small_size = (
            write_texts(args.corpora, Path(whole), args.mb),
            write_texts(args.corpora, Path(small), args.peer_mb, every=PEER_EVERY),
        )
        print(machine())
        print(f"{size / 1e6:.1f} MB of English text, the peer on {small_size / 1e6:.1f} MB of it; "
              f"medians of {args.rounds} (range); MB/s of user CPU")  # fmt: skip
        cases = [(name,) for name in FILTERS] + [FILTERS]
        for words, names in itertools.product(args.words, cases):
            label = "all four" if len(names) > 1 else names[0]
            runs = [child("ours", whole, ",".join(names), words) for _ in range(args.rounds)]
            for state in ("cold", "warm") if words == "datatrove" else ("cold",):
                print(f"{label:18} words: {words:9} {state:5} {speed(runs, state, size)}")
            if words == "datatrove" and args.peer_mb:
                mine = [child("ours", small, ",".join(names), words) for _ in range(args.rounds)]
                peer = [child("theirs", small, ",".join(names)) for _ in range(args.rounds)]
                ratios = {
                    state: statistics.median(r["once"]["user_s"] for r in peer)
                    / statistics.median(r[state]["user_s"] for r in mine)
                    for state in ("cold", "warm")
                }
                kept = f"kept {mine[0]['cold']['kept']} and {peer[0]['once']['kept']}"
                print(f"{'':18} datatrove               {speed(peer, 'once', small_size)}")
                print(
                    f"{'':18} ours on the same text: {ratios['cold']:.0f}x cold, {ratios['warm']:.0f}x warm; {kept}"
                )


def speed(runs: list[dict], state: str, size: int) -> str:
    rates = sorted(size / 1e6 / run[state]["user_s"] for run in runs)
    peak = max(run[state]["peak_mb"] for run in runs)
    return f"{statistics.median(rates):8.2f} ({rates[0]:.2f}-{rates[-1]:.2f}), peak {peak:.0f} MB"


if __name__ == "__main__":
    main()
