"""What do embedding, clustering and comparing cost on one device, and how much of what it can do is that?

    python benchmarks/gpu_embed.py MODEL [TEXTS.jsonl ...] [--device cuda] [--documents 200000] [--vectors 10000000]

MODEL is an encoder's folder. TEXTS are JSON lines with a column `text`; without any, the topics of Python's own help
are cut into pieces of about 1,700 characters. No Ray, no network, no installed Winnow: torch, safetensors,
NumPy, pyarrow and tokenizers are enough. On an H200 all of it takes about 7 minutes, by estimate: `--vectors 0` leaves
clusters out, `--documents 0` the encoder.

For each `--max-tokens`: documents and tokens a second of the tokenizer alone (in `--tokenizers` processes), of the
encoder alone (tokens are there already; budgets of tokens from `--budgets` in turn), and of both together, the
processes tokenizing while the encoder runs. Model FLOPs are those that real tokens need; the share of the peak is of
`--peak` TFLOP/s (an H200's data sheet: 989 in bfloat16), or else of what a large product of matrices reaches here in
the encoder's dtype. Then k-means (fit,
assign) and the comparison inside clusters, on made-up vectors around k centres, k the square root of their number.
Figures are medians of `--rounds`; they come as one JSON object on standard output, and line by line on standard error.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_PER_CLUSTER = 256
ITERATIONS = 20
NOISE = 0.5
"""Length of what is added to a centre, of length 1, to make a vector."""
MEGABYTES = 64
"""Of the copies that are timed."""
JOB_DOCUMENTS = 1 << 14
"""Documents that a process tokenizes, and the encoder takes, at a time."""
Tokens = tuple[np.ndarray, np.ndarray]
Figures = dict[str, Any]

if importlib.util.find_spec("winnow") is None:
    package = types.ModuleType("winnow")
    package.__path__ = [str(ROOT)]
    sys.modules["winnow"] = package


def texts_of(paths: list[Path]) -> Iterator[str]:
    """Documents of files, or pieces of Python's help, without end."""
    while paths:
        for path in paths:
            with open(path, encoding="utf-8") as lines:
                for line in lines:
                    if text := json.loads(line).get("text"):
                        yield text
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[key] for key in sorted(topics))
    rng = np.random.default_rng(1)
    while True:
        start = int(rng.integers(len(text)))
        yield text[start : start + int(rng.lognormal(np.log(1_700), 0.6))]


def write_jobs(paths: list[Path], documents: int, place: Path) -> int:
    """Write that many documents as an Arrow file, those of a job to a record batch; bytes of text."""
    texts, size = texts_of(paths), 0
    schema = pa.schema([("text", pa.large_string())])
    with pa.OSFile(str(place), "wb") as file, pa.ipc.new_file(file, schema) as out:
        for first in range(0, documents, JOB_DOCUMENTS):
            part = [next(texts) for _ in range(min(JOB_DOCUMENTS, documents - first))]
            out.write_batch(pa.record_batch([pa.array(part, pa.large_string())], schema=schema))
            size += sum(len(text.encode()) for text in part)
    return size


def tokenize(job: tuple[str, int, str, int]) -> Tokens:
    """A job's tokens: (file, number of the job, the model's folder, max_tokens)."""
    from winnow.filters import embedding_tokens

    path, number, folder, max_tokens = job
    with pa.memory_map(path) as file:
        texts = pa.ipc.open_file(file).get_batch(number).column(0)
        return embedding_tokens.load(folder, max_tokens).tokens(texts)


def median_s(rounds: int, call: Callable[[], object]) -> float:
    """Seconds of wall time."""
    took = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        took.append(time.perf_counter() - started)
    return statistics.median(took)


def synchronize(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def product_tflops(device: str, dtype: str, rounds: int) -> float:
    """TFLOP/s of a large product of matrices."""
    import torch

    n, times = (8_192, 20) if device.startswith("cuda") else (1_024, 4)
    a = torch.randn(n, n, device=device).to(getattr(torch, dtype))

    def multiply() -> None:
        for _ in range(times):
            a @ a
        synchronize(device)

    multiply()
    return 2.0 * n**3 * times / median_s(rounds, multiply) / 1e12


def copies(device: str, rounds: int) -> Figures:
    """GB/s between the host's memory and the device's."""
    import torch

    if not device.startswith("cuda"):
        return {}
    found = {}
    for name, host in (
        ("pageable", torch.ones(MEGABYTES << 18)),
        ("pinned", torch.ones(MEGABYTES << 18).pin_memory()),
    ):
        there = host.to(device)

        def to_device(host: Any = host, there: Any = there) -> None:
            there.copy_(host)
            synchronize(device)

        def to_host(host: Any = host, there: Any = there) -> None:
            host.copy_(there)
            synchronize(device)

        size = host.numel() * host.element_size()
        found[f"to_device_{name}_gb_s"] = size / median_s(rounds, to_device) / 1e9
        found[f"to_host_{name}_gb_s"] = size / median_s(rounds, to_host) / 1e9
    return found


def say(name: str, figures: Figures) -> Figures:
    shown = {key: round(value, 3) if isinstance(value, float) else value for key, value in figures.items()}
    print(name, json.dumps(shown), file=sys.stderr, flush=True)
    return shown


def embedding(asked: argparse.Namespace, file: str, max_tokens: int, pool: Pool) -> Iterator[Figures]:
    """The rates at one truncation length."""
    from winnow.filters import embed, encoder, encoder_files

    files = encoder_files.find(asked.model)
    most = min(max_tokens, files.max_tokens)
    model = encoder.load(files.folder, files.pooling or "mean", asked.device, asked.dtype)
    peak = asked.peak or product_tflops(asked.device, model.dtype, asked.rounds)
    with pa.memory_map(file) as opened:
        jobs = [(file, i, files.folder, most) for i in range(pa.ipc.open_file(opened).num_record_batches)]
    made: list[Tokens] = pool.map(tokenize, jobs, chunksize=1)
    documents = sum(len(ends) for _, ends in made)
    tokens = sum(len(ids) for ids, _ in made)
    tflop = sum(model.flops(np.diff(ends, prepend=0)) for _, ends in made) / 1e12

    def rates(name: str, seconds: float, **others: Any) -> Figures:
        return say(
            name,
            {"max_tokens": most, "what": name, "docs_s": documents / seconds, "tokens_s": tokens / seconds}
            | others,
        )

    yield rates(
        "tokenizer",
        median_s(asked.rounds, lambda: list(pool.imap(tokenize, jobs))),
        processes=asked.tokenizers,
        documents=documents,
        mean_tokens=tokens / documents,
    )
    best, least = 0, float("inf")
    for budget in asked.budgets:

        def encode(budget: int = budget) -> None:
            for ids, ends in made:
                embed.embed_tokens(model, ids, ends, budget)

        embed.embed_tokens(model, *made[0], budget)
        seconds = median_s(asked.rounds, encode)
        rate = tflop / seconds
        yield rates(
            "encoder",
            seconds,
            budget=budget,
            dtype=model.dtype,
            tflop_s=rate,
            peak_tflop_s=peak,
            of_peak=rate / peak,
        )
        if seconds < least:
            best, least = budget, seconds

    def both() -> None:
        for ids, ends in pool.imap(tokenize, jobs):
            embed.embed_tokens(model, ids, ends, best)

    seconds = median_s(asked.rounds, both)
    yield rates(
        "end to end", seconds, budget=best, processes=asked.tokenizers, of_peak=tflop / seconds / peak
    )


def vectors_around(centres: int, n: int, d: int, device: str) -> np.ndarray:
    """float16[n, d] of length 1, each near one of so many random directions."""
    import torch

    draws = torch.Generator(device).manual_seed(1)
    middle = torch.nn.functional.normalize(torch.randn(centres, d, device=device, generator=draws), dim=1)
    found = np.empty((n, d), np.float16)
    for first in range(0, n, 1 << 18):
        rows = min(1 << 18, n - first)
        mine = torch.randint(centres, (rows,), device=device, generator=draws)
        noise = torch.randn(rows, d, device=device, generator=draws) * (NOISE / d**0.5)
        unit = torch.nn.functional.normalize(middle[mine] + noise, dim=1)
        found[first : first + rows] = unit.half().cpu().numpy()
    return found


def clustering(asked: argparse.Namespace) -> Figures:
    """Seconds of k-means and of comparing within clusters."""
    from winnow.filters import kmeans, semantic_pairs

    n, d, device = asked.vectors, asked.dimensions, asked.device
    k = round(n**0.5)
    vectors = vectors_around(k, n, d, device)
    sample = vectors[: SAMPLE_PER_CLUSTER * k]
    took: dict[str, list[float]] = {name: [] for name in ("fit", "assign", "sort", "pairs", "whole")}
    reached = 0.0
    for _ in range(asked.rounds):
        times = [time.perf_counter()]

        def lap(times: list[float] = times) -> None:
            synchronize(device)
            times.append(time.perf_counter())

        fitted = kmeans.fit(sample, k, ITERATIONS, device)
        lap()
        cluster, similarity = kmeans.assign(vectors, fitted.centroids, device)
        lap()
        order = np.lexsort((similarity, cluster))
        by_cluster = vectors[order]
        offsets = np.searchsorted(cluster[order], np.arange(len(fitted.centroids) + 1))
        lap()
        score, _ = semantic_pairs.nearest_before_many(by_cluster, offsets, device)
        lap()
        for name, seconds in zip(took, [*np.diff(times).tolist(), times[-1] - times[0]], strict=True):
            took[name].append(seconds)
        reached = float(np.median(score))
    return say(
        "clusters",
        {
            "what": "clusters",
            "vectors": n,
            "dimensions": d,
            "k": k,
            "sample": len(sample),
            "median_score": reached,
        }
        | {f"{name}_s": statistics.median(values) for name, values in took.items()},
    )


def machine(device: str) -> Figures:
    import tokenizers
    import torch

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    versions = {
        "torch": torch.__version__,
        "tokenizers": tokenizers.__version__,
        "python": sys.version.split()[0],
    }
    return say(
        "machine", {"device": name, "cores": os.cpu_count(), "threads": torch.get_num_threads()} | versions
    )


def memory(device: str) -> Figures:
    """The largest this process and the device have had, GB."""
    import torch

    found = {"what": "memory", "process_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}
    if device.startswith("cuda"):
        found["device_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
        torch.cuda.reset_peak_memory_stats(device)
    return say("memory", found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("texts", nargs="*", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--max-tokens", type=int, nargs="+", default=[128, 256])
    parser.add_argument(
        "--budgets", type=int, nargs="+", default=[1 << 15, 1 << 16, 1 << 17, 1 << 18, 1 << 19]
    )
    parser.add_argument("--tokenizers", type=int, default=max(1, (os.cpu_count() or 1) - 1))
    parser.add_argument("--threads", type=int, default=1, help="torch's, of the encoder's process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device; default: measured")
    parser.add_argument("--vectors", type=int, default=10_000_000, help="to cluster; 0: none")
    parser.add_argument("--dimensions", type=int, default=384)
    asked = parser.parse_args()
    # One core for each process that tokenizes; they read it when they start.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch

    torch.set_num_threads(asked.threads)
    figures = [machine(asked.device), copies(asked.device, asked.rounds)]
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/jobs.arrow"
        if asked.documents:
            size = write_jobs(asked.texts, asked.documents, Path(file))
            figures.append(
                say("text", {"what": "text", "documents": asked.documents, "megabytes": size / 1e6})
            )
            with multiprocessing.get_context("spawn").Pool(asked.tokenizers) as pool:
                for max_tokens in asked.max_tokens:
                    figures += embedding(asked, file, max_tokens, pool)
            figures.append(memory(asked.device))
    if asked.vectors:
        figures += [clustering(asked), memory(asked.device)]
    print(json.dumps([one for one in figures if one], indent=1))


if __name__ == "__main__":
    main()
