"""Packing: how much of a sample is padding, how many documents are cut, and how many documents a second are packed.

    python benchmarks/packing.py CORPORA [--mb 100] [--documents 1000000] [--plain 20000] [--rounds 3]

CORPORA is a folder of folders of `*.jsonl.zst` files (corpus.py names those that are used). Its documents are tokenized
with Mistral-7B's tokenizer, an EOS after each, and shuffled; each way of packing is given the same stream, window by
window as the stage `packs` does it.

padding     share of the tokens in samples that are none
cut         share of the documents that lie in more than one sample; `needless`: that are no longer than one
speed       documents a second of user CPU, one core, medians, from the documents' places to a plan in its final order:
            lengths drawn from the corpus's (`real`), and as many that are short as web pages are (lognormal, mean 500)

Peer, on the first `--plain` of them: first-fit decreasing as a loop in Python over the bins there are, which is how
llm-foundry's packing.py (llmfoundry/data/packing.py) packs a batch for finetuning; written anew, with as many bins as
it takes.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from corpus import OTHER, PROSE, machine, texts_of
from four_filters import user_seconds
from winnow.pipelines.pack import window_tokens
from winnow.tokenize import packing
from winnow.tokenize.encoder import Encoder, choose_backend, prepare
from winnow.tokenize.source import MISTRAL, resolve

BATCH = 4096
SHARES = (512, 2048, 8192)
LENGTHS = (512, 2048, 8192, 65_536, 1 << 20)
SEED = 17


def sizes_of(corpora: Path, megabytes: float) -> np.ndarray:
    """Tokens of each document, EOS included, of about so many megabytes; shuffled."""
    vocabulary = prepare(resolve(MISTRAL))
    encoder = Encoder(vocabulary, choose_backend(vocabulary).name)
    pairs = itertools.zip_longest(texts_of(corpora, PROSE), texts_of(corpora, OTHER))
    turns = (text for pair in pairs for text in pair if text is not None)
    found, read = [], 0
    while read < megabytes * 1e6 and (batch := list(itertools.islice(turns, BATCH))):
        _, ends = encoder.encode(pa.array(batch, pa.large_string()))
        found.append(np.diff(ends, prepend=0))
        read += sum(len(text.encode()) for text in batch)
    return np.random.default_rng(SEED).permutation(np.concatenate(found))


def windows(sizes: np.ndarray, length: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(begins, ends) of the documents of each window of a stream."""
    ends = np.cumsum(sizes)
    begins = ends - sizes
    edges = np.searchsorted(begins, np.arange(0, int(ends[-1]), window_tokens(length)))
    for a, b in itertools.pairwise([*edges.tolist(), len(sizes)]):
        yield begins[a:b], ends[a:b]


def best_fit(begins: np.ndarray, ends: np.ndarray, length: int) -> packing.Plan:
    rows = packing.best_fit(begins, ends, length)
    keys = np.random.default_rng(SEED).integers(0, 1 << 63, rows.n_rows).astype(np.uint64)
    return packing.lay(packing.reordered(rows, keys))


def padded(begins: np.ndarray, ends: np.ndarray, length: int) -> packing.Plan:
    return packing.lay(packing.padded(begins, ends, length))


def first_fit(sizes: list[int], length: int) -> int:
    """Samples that first-fit decreasing takes."""
    rooms: list[int] = []
    for size in sorted(sizes, reverse=True):
        for i, room in enumerate(rooms):
            if room >= size:
                rooms[i] = room - size
                break
        else:
            rooms.append(length - size)
    return len(rooms)


def shares(sizes: np.ndarray) -> None:
    """Print what padding and cuts each way comes to."""
    total, n = int(sizes.sum()), len(sizes)
    ends = np.cumsum(sizes)
    begins = ends - sizes
    print(f"{n:,} documents, {total:,} tokens, median {int(np.median(sizes)):,}")
    print(
        f"{'length':>8} {'packing':<9} {'samples':>9} {'padding':>9} {'cut':>8} {'needless':>9} {'tail':>6}"
    )
    for length in SHARES:
        rows = total // length
        last = np.minimum(ends, rows * length) - 1
        cut = last // length > begins // length
        lines = [("concat", rows, total - rows * length, cut)]
        longer = sizes > length
        for name, pack in (("pad", padded), ("best-fit", best_fit)):
            rows = sum(pack(a, b, length).n_rows for a, b in windows(sizes, length))
            lines.append((name, rows, 0, longer))
        for name, rows, tail, cut in lines:
            padding = 1 - (total - tail) / (rows * length)
            needless = (cut & ~longer).sum() / n
            print(
                f"{length:>8,} {name:<9} {rows:>9,} {padding:>9.3%} {cut.sum() / n:>8.2%} {needless:>9.2%} {tail:>6,}"
            )


def speed(sizes: np.ndarray, documents: int, plain: int, rounds: int) -> None:
    """Print documents a second."""
    rng = np.random.default_rng(SEED)
    short = np.maximum(1, rng.lognormal(np.log(500) - 0.72, 1.2, documents)).astype(np.int64)
    real = rng.choice(sizes, documents)
    print("\nM documents a second; samples that the loop takes, against ours")
    print(f"{'length':>9} {'pad, real':>10} {'best-fit, real':>15} {'short':>7} {'first-fit loop, real':>21}")
    for length in LENGTHS:
        figures = [
            documents / median(partial(in_windows, pack, drawn, length), rounds) / 1e6
            for pack, drawn in ((padded, real), (best_fit, real), (best_fit, short))
        ]
        few = real[:plain] % length
        few = few[few > 0]
        started = user_seconds()
        loop = first_fit(few.tolist(), length)
        figures.append(plain / max(user_seconds() - started, 1e-3) / 1e6)
        more = loop / packing.best_fit_bins(few, length)[1] - 1
        print(
            f"{length:>9,} {figures[0]:>10.2f} {figures[1]:>15.2f} {figures[2]:>7.2f} {figures[3]:>21.4f} {more:+.2%}"
        )


def in_windows(
    pack: Callable[[np.ndarray, np.ndarray, int], packing.Plan], sizes: np.ndarray, length: int
) -> None:
    for begins, ends in windows(sizes, length):
        pack(begins, ends, length)


def median(work: Callable[[], object], rounds: int) -> float:
    """Seconds of user CPU."""
    found = []
    for _ in range(rounds):
        started = user_seconds()
        work()
        found.append(max(user_seconds() - started, 1e-3))
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--mb", type=float, default=100)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--plain", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(machine())
    sizes = sizes_of(given.corpora, given.mb)
    shares(sizes)
    speed(sizes, given.documents, given.plain, given.rounds)


if __name__ == "__main__":
    main()
