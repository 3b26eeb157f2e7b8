"""The filters that rewrite: MB/s per core, ours and datatrove's where it has the same.

    python benchmarks/rewriting.py CORPORA [--mb 100] [--peer-mb 6] [--rounds 3]

CORPORA is a folder of folders of `*.jsonl.zst` files (corpus.py names those that are used). Every case is a process
of its own that reads the same Arrow file: text in, rewritten text and counts out, user CPU after imports and
one document for warming up. The peer gets the first `--peer-mb` of the text.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from corpus import machine
from four_filters import batches, user_seconds, write_texts

CASES = {
    "c4, words: paper": ("c4", {}),
    "c4, words: datatrove": ("c4", {"words": "datatrove"}),
    "ftfy": ("ftfy", {}),
    "whitespace": ("whitespace", {}),
    "pii": ("pii", {}),
    "pii, ipv6 and phones": ("pii", {"ipv6": True, "phones": True}),
    "nfc": ("nfc", {}),
}
PEERS = ("c4, words: datatrove", "ftfy", "pii")


def ours(case: str) -> Callable[[pa.Array], object]:
    from winnow.filters.c4 import C4
    from winnow.filters.pii import PII
    from winnow.filters.repair import FTFY, Whitespace
    from winnow.filters.unicode_form import NFC

    name, settings = CASES[case]
    rules = next(kind for kind in (C4, FTFY, Whitespace, PII, NFC) if kind.name == name)(**settings)
    return lambda texts: rules.rewrite(pa.record_batch([texts], names=["text"]))


def theirs(case: str) -> Callable[[pa.Array], object]:
    from datatrove.data import Document
    from datatrove.pipeline.filters import C4QualityFilter
    from datatrove.pipeline.formatters import FTFYFormatter, PIIFormatter

    if case.startswith("c4"):
        judge = C4QualityFilter().filter
        return lambda texts: [judge(Document(text=text, id="")) for text in texts.to_pylist()]
    rewrite = (FTFYFormatter if case == "ftfy" else PIIFormatter)().format
    return lambda texts: [rewrite(text) for text in texts.to_pylist()]


def child(who: str, case: str, place: str) -> float:
    """User seconds for the whole file, in a fresh process."""
    command = [sys.executable, __file__, "--child", who, case, place]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{who}, {case}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        who, case, place = sys.argv[2:]
        work = (ours if who == "ours" else theirs)(case)
        work(next(batches(place)).slice(0, 1))
        started = user_seconds()
        for texts in batches(place):
            work(texts)
        print(json.dumps(user_seconds() - started))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--mb", type=float, default=100)
    parser.add_argument("--peer-mb", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        whole, small = f"{folder}/whole.arrow", f"{folder}/small.arrow"
        size = write_texts(args.corpora, Path(whole), args.mb)
        small_size = write_texts(args.corpora, Path(small), args.peer_mb)
        print(machine())
        print(f"{size / 1e6:.1f} MB of text, the peer on the first {small_size / 1e6:.1f}; "
              f"medians of {args.rounds} (range); MB/s of user CPU")  # fmt: skip
        for case in CASES:
            print(f"{case:22} {speed('ours', case, whole, size, args.rounds)}")
            if case in PEERS:
                print(f"{'  datatrove':22} {speed('theirs', case, small, small_size, args.rounds)}")


def speed(who: str, case: str, place: str, size: int, rounds: int) -> str:
    rates = sorted(size / 1e6 / child(who, case, place) for _ in range(rounds))
    return f"{statistics.median(rates):8.1f} ({rates[0]:.1f}-{rates[-1]:.1f})"


if __name__ == "__main__":
    main()
