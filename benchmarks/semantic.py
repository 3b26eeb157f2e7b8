"""How long do k-means and the comparison inside clusters take, and what do clusters miss?

    python benchmarks/semantic.py [--documents 100000] [--dimensions 384] [--clusters 316] [--device cpu] [--threads 2]
                                  [--vectors FILE] [--recall-of 30000] [--rounds 3] [--no-peers]

Needs the extra `embed`; faiss is measured where it is installed. Without `--vectors` (row-major little-endian float16,
as a run's `vectors-*.f16`) the vectors are made: topics of very different sizes, and a quarter of the documents are
made near to another one, at cosines from about 0.85 to 1. Every case is a process of its own; seconds are of the wall
clock and, in brackets, of CPU, medians over the rounds; the vectors lie in memory, imports and a first run on
few vectors are not counted.

ours     fit on 256 x clusters vectors, 20 iterations; assign all; order each cluster, far from the centroid first;
         M and neighbour of each document; on a CPU in as many parts as there are threads, as a run's tasks are. Then
         the comparison alone with clusters of ten documents.
sklearn  KMeans (Lloyd) from the same first centroids on the same sample, and predict; then what SemDeDup's published
         code does in each cluster: the whole matrix of cosines in float32, its upper triangle, the largest of each
         column.
faiss    Kmeans (spherical) on the same sample, search, and the same comparison as for sklearn.
recall   of the documents among the first `--recall-of` with one before them (in the order of the file) at a cosine
         above a bound, the share that has one in its cluster.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from corpus import machine

SAMPLE_PER_CLUSTER = 256
ITERATIONS = 20
BOUNDS = (0.95, 0.9, 0.8)
BLOCK = 1 << 14


def write_vectors(place: str, documents: int, dimensions: int, seed: int = 17) -> None:
    """Vectors of length 1 of made-up documents."""
    rng = np.random.default_rng(seed)
    topics = rng.standard_normal((max(1, documents // 40), dimensions), np.float32)
    topics += rng.standard_normal((max(1, documents // 4000), dimensions), np.float32)[
        rng.integers(0, max(1, documents // 4000), len(topics))
    ]
    share = 1 / np.arange(1, len(topics) + 1) ** 0.7
    with open(place, "wb") as file:
        for first in range(0, documents, BLOCK):
            n = min(BLOCK, documents - first)
            rows = topics[rng.choice(len(topics), n, p=share / share.sum())]
            rows = scaled(rows + 1.2 * rng.standard_normal((n, dimensions), np.float32))
            near = rng.random(n) < 0.25
            noise = scaled(rng.standard_normal((n, dimensions), np.float32)) * rng.uniform(0, 0.6, (n, 1))
            rows[near] = scaled(rows[rng.integers(0, n, n)] + noise)[near]
            file.write(rows.astype("<f2").tobytes())


def scaled(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def in_order(cluster: np.ndarray, similarity: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows by cluster, far from the centroid first, and where each cluster begins."""
    rows = np.lexsort((similarity, cluster))
    return rows, np.searchsorted(cluster[rows], np.arange(k + 1))


def side_by_side(work: Callable, parts: Sequence) -> list:
    with ThreadPoolExecutor(len(parts)) as pool:
        return list(pool.map(work, parts))


class Watch:
    """Seconds of the parts of each round."""

    def __init__(self, device: str):
        self.seconds: dict[str, list[tuple[float, float]]] = {}
        self.device = device

    def time(self, part: str, work: Callable):
        import torch

        started = time.perf_counter(), time.process_time()
        found = work()
        if self.device != "cpu":
            torch.cuda.synchronize()
        spent = time.perf_counter() - started[0], time.process_time() - started[1]
        self.seconds.setdefault(part, []).append(spent)
        return found


def report(watch: Watch, **facts: object) -> None:
    import torch

    facts["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    facts["gpu_mb"] = 0 if watch.device == "cpu" else torch.cuda.max_memory_allocated() / (1 << 20)
    print(json.dumps({"seconds": watch.seconds, **facts}))


def ours(place: str, dimensions: int, k: int, device: str, threads: int, rounds: int) -> None:
    import torch
    from winnow.filters import kmeans, semantic_pairs

    torch.set_num_threads(1)
    vectors = np.fromfile(place, "<f2").reshape(-1, dimensions)
    kmeans.fit(vectors[:1000], 4, 2, device)
    watch = Watch(device)
    tens = np.append(np.arange(0, len(vectors), 10), len(vectors))

    def assigned(fitted: kmeans.Fitted) -> tuple[np.ndarray, np.ndarray]:
        found = side_by_side(
            lambda part: kmeans.assign(part, fitted.centroids, device), np.array_split(vectors, threads)
        )
        return np.concatenate([c for c, _ in found]), np.concatenate([s for _, s in found])

    def compared(ordered: np.ndarray, offsets: np.ndarray) -> None:
        edges = [offsets[np.searchsorted(offsets, len(ordered) * i / threads)] for i in range(threads + 1)]
        parts = [
            (ordered[a:b], offsets[(offsets >= a) & (offsets <= b)] - a) for a, b in itertools.pairwise(edges)
        ]
        side_by_side(lambda part: semantic_pairs.nearest_before_many(*part, device), parts)

    for _ in range(rounds):
        sample = vectors[: SAMPLE_PER_CLUSTER * k]
        fitted = watch.time("fit", lambda s=sample: kmeans.fit(s, k, ITERATIONS, device, threads))
        found = watch.time("assign", lambda f=fitted: assigned(f))
        rows, offsets = watch.time("order", lambda f=found: in_order(*f, k))
        ordered = vectors[rows]
        watch.time("pairs", lambda o=ordered, at=offsets: compared(o, at))
        watch.time("pairs of tens", lambda o=ordered: compared(o, tens))
    largest = int(np.diff(offsets).max())
    report(watch, inertia=fitted.inertia, reseeded=sum(fitted.reseeded), largest=largest)


def recall(place: str, dimensions: int, k: int, device: str, threads: int, some: int) -> None:
    import torch
    from winnow.filters import kmeans, semantic_pairs

    torch.set_num_threads(threads)
    vectors = np.fromfile(place, "<f2").reshape(-1, dimensions)
    fitted = kmeans.fit(vectors[: SAMPLE_PER_CLUSTER * k], k, ITERATIONS, device, threads)
    watch = Watch(device)
    cluster, _ = kmeans.assign(vectors[:some], fitted.centroids, device)
    everywhere, _ = watch.time("pairs", lambda: semantic_pairs.nearest_before(vectors[:some], device))
    rows, offsets = in_order(cluster, np.zeros(len(cluster), np.float32), k)
    inside = np.empty(len(cluster), np.float32)
    inside[rows], _ = semantic_pairs.nearest_before_many(vectors[rows], offsets, device)
    shares = {b: [int((everywhere > b).sum()), float((inside > b)[everywhere > b].mean())] for b in BOUNDS}
    report(watch, shares=shares)


def peer(name: str, place: str, dimensions: int, k: int, threads: int, rounds: int) -> None:
    import torch

    torch.set_num_threads(threads)
    vectors = np.fromfile(place, "<f2").reshape(-1, dimensions)
    watch = Watch("cpu")
    for _ in range(rounds):
        wide = vectors.astype(np.float32)
        sample = wide[: SAMPLE_PER_CLUSTER * k]
        if name == "sklearn":
            cluster, similarity = by_sklearn(wide, sample, k, watch)
        else:
            cluster, similarity = by_faiss(wide, sample, k, watch)
        rows, offsets = watch.time("order", lambda c=cluster, s=similarity: in_order(c, s, k))
        watch.time("pairs", lambda w=wide[rows], at=offsets: whole_matrices(w, at))
    report(watch, spread=float(1 - similarity.mean()))


def by_sklearn(wide: np.ndarray, sample: np.ndarray, k: int, watch: Watch) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.cluster import KMeans

    asked = KMeans(k, init=sample[:k], n_init=1, max_iter=ITERATIONS, tol=0)
    fitted = watch.time("fit", lambda: asked.fit(sample))
    cluster = watch.time("assign", lambda: fitted.predict(wide))
    return cluster, (wide * scaled(fitted.cluster_centers_)[cluster]).sum(1)


def by_faiss(wide: np.ndarray, sample: np.ndarray, k: int, watch: Watch) -> tuple[np.ndarray, np.ndarray]:
    import faiss

    fitted = faiss.Kmeans(wide.shape[1], k, niter=ITERATIONS, spherical=True, seed=17)
    watch.time("fit", lambda: fitted.train(sample))
    similarity, cluster = watch.time("assign", lambda: fitted.index.search(wide, 1))
    return cluster[:, 0], similarity[:, 0]


def whole_matrices(wide: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """M by the rule of SemDeDup's published code: a whole matrix for each cluster, and 0 where nothing is before."""
    import torch

    found = np.zeros(len(wide), np.float32)
    for first, stop in itertools.pairwise(offsets):
        rows = torch.from_numpy(wide[first:stop])
        if len(rows) > 1:
            found[first:stop] = torch.triu(rows @ rows.T, diagonal=1).max(dim=0).values.numpy()
    return found


def child(*arguments: object) -> dict:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, "--child", *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{arguments}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def medians(run: dict) -> dict[str, tuple[float, float]]:
    """(wall, CPU) of each part, and of those that make a run together."""
    found = {
        part: (statistics.median(w for w, _ in times), statistics.median(c for _, c in times))
        for part, times in run["seconds"].items()
    }
    parts = ("fit", "assign", "order", "pairs")
    found["together"] = tuple(sum(found[part][i] for part in parts) for i in range(2))
    return found


def show(name: str, run: dict) -> float:
    """Print a run; returns seconds of CPU of all together."""
    found = medians(run)
    times = ", ".join(f"{part} {wall:.2f} ({cpu:.2f})" for part, (wall, cpu) in found.items())
    memory = f"peak {run['peak_mb']:.0f} MB" + (f", GPU {run['gpu_mb']:.0f} MB" if run["gpu_mb"] else "")
    print(f"{name:8} {times}; {memory}")
    return found["together"][1]


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        who, place, dimensions, k, device, threads, number = sys.argv[2:]
        if who == "ours":
            ours(place, int(dimensions), int(k), device, int(threads), int(number))
        elif who == "recall":
            recall(place, int(dimensions), int(k), device, int(threads), int(number))
        else:
            peer(who, place, int(dimensions), int(k), int(threads), int(number))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--clusters", type=int, default=316)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--vectors")
    parser.add_argument("--recall-of", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-peers", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        place = args.vectors or f"{folder}/vectors.f16"
        if not args.vectors:
            write_vectors(place, args.documents, args.dimensions)
        asked = (place, args.dimensions, args.clusters, args.device, args.threads)
        print(machine())
        print(f"{args.vectors or f'{args.documents:,} made vectors'}, {args.dimensions} dimensions, {args.clusters} "
              f"clusters, {args.device}, {args.threads} threads; seconds of wall clock (CPU), medians of "
              f"{args.rounds}")  # fmt: skip
        mine = child("ours", *asked, args.rounds)
        spent = show("ours", mine)
        inertia = mine["inertia"]
        print(f"  {len(inertia)} iterations, 1 - cosine {inertia[0]:.4f} to {inertia[-1]:.4f}, {mine['reseeded']} "
              f"reseeded, largest cluster {mine['largest']:,}")  # fmt: skip
        for name in () if args.no_peers else ("sklearn", "faiss"):
            if importlib.util.find_spec(name) is None:
                print(f"{name:8} is not installed")
                continue
            other = child(name, *asked, args.rounds)
            theirs = show(name, other)
            print(
                f"  {theirs / spent:.2f} x our seconds of CPU; 1 - cosine {other['spread']:.4f} over all vectors"
            )
        if args.recall_of:
            missed = child("recall", *asked, args.recall_of)
            wall = missed["seconds"]["pairs"][0][0]
            shares = ", ".join(
                f"{100 * s:.2f} % of {n:,} above {b}" for b, (n, s) in missed["shares"].items()
            )
            print(f"recall   {shares}; all pairs of {args.recall_of:,} in {wall:.1f} s")


if __name__ == "__main__":
    main()
