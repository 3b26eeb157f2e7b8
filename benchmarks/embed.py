"""From text to vectors on a CPU: Winnow's embedder against sentence-transformers' `encode` of the same documents.

    python benchmarks/embed.py CORPORA MODEL [--docs 600] [--rounds 3] [--threads 1] [--tokens 128 256]

CORPORA is a folder of folders of `*.jsonl.zst` files with a column `text`, MODEL a directory with an encoder of
sentence-transformers' kind. Documents come in turn from folders of prose, code, pages of many languages and web text,
the first 4,000 characters of each: `encode` tokenizes all of a book to read 256 tokens of it, which is not what is
compared here.
`encode` has its defaults (32 documents a batch, float32), and once more in the dtype that Winnow's `auto` takes here;
it sorts its documents by length as Winnow does. Winnow runs with its defaults, and once more in float32. Each runs in a
process of its own, the sides in turn, all with the same number of threads, and does the first 32 documents before the
clock starts. CPU is user + system of the process and all its threads, tokenizing among it; tokens are those of the
documents, cut to the model's length, padding not counted. The distance is the largest 1 - cosine of a document's vector
to `encode`'s in float32.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from corpus import machine, texts_of

FOLDERS = ("web_prose", "code", "web_docs_multi", "wiki", "low_quality", "books_en", "instruct", "textbooks")
SIDES = ("encode", "encode, dtype of ours", "winnow, float32", "winnow")
LONGEST = 4000
"""Characters of a document."""
WARM = 32


def winnow_side(model: str, tokens: int, dtype: str) -> Callable[[list[str]], np.ndarray]:
    """The embedder of filters/embed.py, with text in and vectors out."""
    import pyarrow as pa
    from winnow.filters.embed import embed
    from winnow.filters.embedding_settings import Embedding

    settings = Embedding(model=model, max_tokens=tokens, dtype=dtype)

    def vectors(texts: list[str]) -> np.ndarray:
        batch = pa.record_batch({"text": pa.array(texts, pa.large_string())})
        return np.concatenate(list(embed([batch], settings, "cpu")))

    return vectors


def encode_side(model: str, tokens: int, dtype: str) -> Callable[[list[str]], np.ndarray]:
    """sentence-transformers' `encode`."""
    import torch
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(model, device="cpu", local_files_only=True)
    encoder.max_seq_length = tokens
    encoder.to(getattr(torch, dtype))
    return lambda texts: encoder.encode(texts, show_progress_bar=False)


def run_side(side: str, model: str, tokens: int, threads: int, path: Path, out: Path) -> dict[str, float]:
    """One pass of one side over all documents; its vectors go to `out`."""
    import torch
    from winnow.filters.encoder import fastest_dtype

    torch.set_num_threads(threads)
    texts = json.loads(path.read_text(encoding="utf-8"))
    dtype = "float32" if side in ("encode", "winnow, float32") else fastest_dtype("cpu")
    vectors = (winnow_side if side.startswith("winnow") else encode_side)(model, tokens, dtype)
    vectors(texts[:WARM])
    wall, cpu = time.perf_counter(), time.process_time()
    found = vectors(texts)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    np.save(out, found.astype(np.float32))
    return {"wall": wall, "cpu": cpu, "peak_mb": peak_mb()}


def peak_mb() -> float:
    """The largest memory of this process. (Its maxrss would count what its parent had before it was started.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def write_documents(corpora: Path, path: Path, wanted: int) -> list[str]:
    """The beginnings of documents of the folders in turn, as one JSON list."""
    in_turn = itertools.zip_longest(*(texts_of(corpora, [folder]) for folder in FOLDERS))
    found = (text[:LONGEST] for texts in in_turn for text in texts if text is not None)
    texts = list(itertools.islice(found, wanted))
    if not texts:
        sys.exit(f"no documents in {corpora}")
    path.write_text(json.dumps(texts), encoding="utf-8")
    return texts


def token_counts(model: str, tokens: int, texts: list[str]) -> np.ndarray:
    import pyarrow as pa
    from winnow.filters import embedding_tokens

    _, ends = embedding_tokens.load(model, tokens).tokens(pa.array(texts, pa.large_string()))
    return np.diff(ends, prepend=0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path)
    parser.add_argument("model")
    parser.add_argument("--docs", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 256])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as name:
        folder = Path(name)
        documents = folder / "documents.json"
        texts = write_documents(args.corpora, documents, args.docs)
        print(f"{machine()}\n{len(texts)} documents, {args.threads} threads, {args.rounds} rounds; medians\n")
        for tokens in args.tokens:
            counts = token_counts(args.model, tokens, texts)
            print(
                f"T = {tokens}: {counts.sum():,} tokens, {(counts == tokens).mean():.0%} of documents are cut"
            )
            measured = measure_sides(args, tokens, documents, folder)
            print_sides(measured, int(counts.sum()), len(texts), folder)


def measure_sides(
    args: argparse.Namespace, tokens: int, documents: Path, folder: Path
) -> dict[str, list[dict[str, float]]]:
    """Every side's passes, the sides in turn."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(args.threads),
        "MKL_NUM_THREADS": str(args.threads),
        "RAYON_NUM_THREADS": str(args.threads),
        "HF_HUB_OFFLINE": "1",
    }
    measured: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(args.rounds):
        for i, side in enumerate(SIDES):
            command = [sys.executable, __file__, "--side", side, args.model, str(tokens), str(args.threads)]
            command += [str(documents), str(folder / f"{i}.npy")]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            measured[side].append(json.loads(done.stdout.splitlines()[-1]))
    return measured


def print_sides(
    measured: dict[str, list[dict[str, float]]], tokens: int, documents: int, folder: Path
) -> None:
    def median(side: str, key: str) -> float:
        return statistics.median(one[key] for one in measured[side])

    print(
        "| side | docs/s | docs per CPU second | tokens per CPU second | x encode, CPU | peak MB | distance |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    exact = np.load(folder / "0.npy")
    for i, side in enumerate(SIDES):
        cpu = median(side, "cpu")
        ratio = statistics.median(
            a["cpu"] / b["cpu"] for a, b in zip(measured["encode"], measured[side], strict=True)
        )
        found = np.load(folder / f"{i}.npy")
        cosine = (exact * found).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(found, axis=1)
        print(
            f"| {side} | {documents / median(side, 'wall'):.1f} | {documents / cpu:.1f} | {tokens / cpu:,.0f} "
            f"| {ratio:.2f} | {median(side, 'peak_mb'):.0f} | {max(0.0, 1 - cosine.min()):.1e} |"
        )
    print()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        side, model, tokens, threads, path, out = sys.argv[2:8]
        print(json.dumps(run_side(side, model, int(tokens), int(threads), Path(path), Path(out))))
    else:
        main()
