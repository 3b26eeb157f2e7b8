"""Does any text make a filter slower than its length? Nanoseconds per byte of every filter on awkward documents.

    python benchmarks/odd_text.py [--filters NAME …] [--sizes 250000 1000000 4000000]

One document of each kind and size goes through every filter that works on text alone (models, lists and other
people's code are left out). Linear time is a figure that does not grow with the size; the last column is the
largest size's figure over the smallest's, and lines above 2 are marked. CPU time, best of 3.
"""

from __future__ import annotations

import argparse
import base64
import functools
import random
import time

import pyarrow as pa
from corpus import machine
from winnow.filters.catalogue import FILTERS, Rewriting, segments
from winnow.filters.scans import scan

SETTINGS = {"length": {"min_words": 1, "min_bytes": 1}}
OUT = {
    "language",
    "fasttext",
    "fasttext-paragraphs",
    "scores",
    "field",
    "url",
    "function",
    "datatrove",
    "c4-bad-words",
}


@functools.cache
def kinds(size: int) -> dict[str, str]:
    """Documents of about `size` characters, by what is awkward about them."""
    rng = random.Random(size)
    noise = rng.randbytes(size)
    return {
        "one line of letters": "a" * size,
        "one word over and over": "buffalo " * (size // 8),
        "newlines": "\n" * size,
        "one character a line": "x\n" * (size // 2),
        "dots": "." * size,
        "at signs": "a@" * (size // 2),
        "an address without end": "1." * (size // 2),
        "brackets": "[" * size,
        "base64": base64.b64encode(noise).decode()[:size],
        "random words": " ".join(noise[i : i + 4].hex() for i in range(0, size // 2, 4)),
        "emoji": "😀👩‍👩‍👧‍👦🇫🇷" * (size // 12),
        "Thai": "ภาษาไทยไม่มีช่องว่างระหว่างคำ" * (size // 29),
        "Chinese": "自然语言处理是人工智能的一个分支。" * (size // 17),
        "combining marks": "a\u0301\u0327" * (size // 3),
        "wide spaces": "\u3000" * size,
        "control characters": "\x00\x01\x1b[" * (size // 4),
    }


def document(text: str) -> pa.RecordBatch:
    return pa.record_batch(
        [pa.array([bytes(16)], pa.binary(16)), pa.array([text], pa.large_string()), pa.nulls(1, pa.string()),
         pa.array(["{}"], pa.string())],
        names=["id", "text", "key", "meta"],
    )  # fmt: skip


def seconds(part, table: pa.RecordBatch) -> float:
    """CPU time of one segment on one document."""
    before = time.process_time()
    if isinstance(part.rewriter, Rewriting):
        table = table.set_column(1, table.schema.field(1), part.rewriter.rewrite(table).texts)
    if part.scanned:
        scan(table.column("text"), part.scanned)
    for measure in part.measures:
        measure.measure(table)
    return time.process_time() - before


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--filters", nargs="+", default=sorted(FILTERS.keys() - OUT), choices=sorted(FILTERS.keys() - OUT)
    )
    parser.add_argument("--sizes", nargs="+", type=int, default=[250_000, 1_000_000, 4_000_000])
    args = parser.parse_args()
    print(machine())
    print(
        f"{'filter':18} {'document':24} "
        + " ".join(f"{size / 1e6:>8g}M" for size in args.sizes)
        + "   growth"
    )
    slow = 0
    for name in args.filters:
        (part,) = segments([FILTERS[name](**SETTINGS.get(name, {}))])
        seconds(part, document("A document to warm up with."))
        for kind in kinds(1000):
            rates = []
            for size in args.sizes:
                table = document(kinds(size)[kind])
                best = min(seconds(part, table) for _ in range(3))
                rates.append(best * 1e9 / table.column("text").nbytes)
            growth = rates[-1] / max(rates[0], 0.5)
            slow += growth > 2
            shown = " ".join(f"{rate:9.1f}" for rate in rates)
            print(
                f"{name:18} {kind:24} {shown} {growth:8.2f}{'  <-- grows' if growth > 2 else ''}", flush=True
            )
    print(f"{slow} cases grow faster than their text")


if __name__ == "__main__":
    main()
