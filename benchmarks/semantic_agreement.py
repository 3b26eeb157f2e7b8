"""What do MinHash and SemDeDup each find that the other does not, and what does clustering miss?

    python benchmarks/semantic_agreement.py CORPORA --model DIR [--documents 6000] [--dtypes float32]

CORPORA is a folder of folders of `*.jsonl.zst` files; DIR holds an encoder, all-MiniLM-L6-v2 for instance. The same
documents go through `minhash` (FineWeb's preset) and through `semantic`, each alone. Printed are: documents that either
drops, by eps and by folder; a few examples of each kind with their exact Jaccard similarity (5-grams of words) and
cosine; of the documents that have an earlier neighbour above a similarity in the whole corpus (brute force over all
pairs of stored vectors), the share whose cluster shows one; and for each further dtype, the share of survivors that
are the same at equal shares.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
from corpus import documents_of, machine

FOLDERS = ("wiki", "web_prose", "docs_en", "licences", "low_quality", "textbooks", "instruct")
EPS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
SHARES = (0.95, 0.9, 0.8, 0.5)
LONGEST = 20_000
"""Characters of a document that are used."""
HEAD = """name: {name}
tokenizer: {{name: mistral-7b-v0.1}}
embeddings: {{default: {{model: '{model}', dtype: {dtype}, device: cpu}}}}
"""
SOURCE = "sources:\n  all: {{read: {{format: jsonl, path: '{path}', key: id}}, dedup: {{{step}}}}}\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--documents", type=int, default=6000)
    parser.add_argument("--folders", default=",".join(FOLDERS))
    parser.add_argument("--dtypes", default="", help="further dtypes to embed in, with commas")
    parser.add_argument("--examples", type=int, default=3)
    given = parser.parse_args()
    print(machine())
    folders = given.folders.split(",")
    with tempfile.TemporaryDirectory(prefix="winnow-agreement-") as scratch:
        out = Path(scratch)
        texts, of = write(given.corpora, folders, given.documents, out)
        counts = ", ".join(f"{folder} {n:,}" for folder, n in Counter(of).items())
        print(f"{len(texts):,} documents, {sum(map(len, texts)) / 1e6:.1f} M characters: {counts}")
        by_minhash = dropped_by_minhash(out, given.model)
        scores, neighbours, clusters, vectors = semantic(out, given.model, "auto")
        compare(by_minhash, scores, neighbours, of)
        if given.examples:
            show(by_minhash, scores, neighbours, texts, given.examples)
        recall(clusters, vectors)
        for dtype in filter(None, given.dtypes.split(",")):
            other, *_ = semantic(out, given.model, dtype)
            for share in SHARES:
                a, b = kept(scores, share), kept(other, share)
                print(
                    f"{dtype}, keep {share:.0%}: {len(a):,} and {len(b):,} kept, {len(a & b) / len(a):.2%} the same"
                )


def write(corpora: Path, folders: list[str], wanted: int, out: Path) -> tuple[list[str], list[str]]:
    """Write all.jsonl, as many documents of each folder as there are, up to its part; texts, and folders by row."""
    texts: list[str] = []
    of: list[str] = []
    for i, folder in enumerate(folders):
        room = (wanted - len(texts)) // (len(folders) - i)
        for text, _ in documents_of(corpora, [folder]):
            if not room:
                break
            if text.strip():
                texts.append(text[:LONGEST])
                of.append(folder)
                room -= 1
    with open(out / "all.jsonl", "w", encoding="utf-8") as file:
        for i, text in enumerate(texts):
            file.write(json.dumps({"id": str(i), "text": text}, ensure_ascii=False) + "\n")
    return texts, of


def made(out: Path, name: str, model: str, dtype: str, step: str):
    """A run up to dedup; its only source."""
    from winnow.pipelines import run
    from winnow.pipelines.progress import Progress
    from winnow.pipelines.recipe import read

    text = HEAD.format(name=name, model=model, dtype=dtype) + SOURCE.format(path=out / "all.jsonl", step=step)
    begun = time.perf_counter()
    corpus = run(read(text, f"{name}.yaml"), str(out / name), until="dedup", progress=Progress(stream=None))
    print(f"{name}: {time.perf_counter() - begun:.0f} s")
    return corpus, corpus.sources["all"]


def keys(source) -> list[list[int]]:
    """The numbers of the documents of each split, in order of their rows."""
    from winnow.pipelines.documents import name
    from winnow.shards import storage, tables

    place = source.documents.location
    found = []
    for split in source.plan.splits:
        rows = storage.join(place, name("rows", split.index, "parquet"))
        found.append(
            [int(k) for b in tables.parquet_batches(rows, ["key"]) for k in b.column("key").to_pylist()]
        )
    return found


def dropped_by_minhash(out: Path, model: str) -> dict[int, int]:
    """Document -> the one it goes for."""
    from winnow.pipelines.standing import verdict_name
    from winnow.shards import storage, tables

    _, source = made(out, "minhash", model, "auto", "minhash: fineweb")
    ids = ids_of(source)
    found = {}
    for split, numbers in enumerate(keys(source)):
        place = storage.join(source.steps[-1].location, verdict_name("all", split))
        table = pa.Table.from_batches(list(tables.arrow_batches(place)))
        for number, goes, survivor in zip(
            numbers, table["dropped"].to_pylist(), table["survivor"].to_pylist(), strict=True
        ):
            if goes:
                found[number] = ids[survivor]
    return found


def ids_of(source) -> dict[bytes, int]:
    """Document's number by its id."""
    from winnow.pipelines.documents import name
    from winnow.shards import storage, tables

    found = {}
    for split in source.plan.splits:
        rows = storage.join(source.documents.location, name("rows", split.index, "parquet"))
        for batch in tables.parquet_batches(rows, ["id", "key"]):
            pairs = zip(batch.column("id").to_pylist(), batch.column("key").to_pylist(), strict=True)
            found.update((id_, int(key)) for id_, key in pairs)
    return found


def semantic(out: Path, model: str, dtype: str) -> tuple[np.ndarray, ...]:
    """Of each document the score, the nearest one before it (-1: none), its cluster, and its vector, float32[n, d]."""
    from winnow.pipelines.standing import standings
    from winnow.pipelines.vector_scores import score_name
    from winnow.pipelines.vectors import embedded, vector_batches
    from winnow.shards import storage, tables

    name = f"semantic-{dtype}"
    corpus, source = made(out, name, model, dtype, "semantic: {keep_fraction: 0.8}")
    ids, numbers = ids_of(source), keys(source)
    n = sum(map(len, numbers))
    score, neighbour, cluster = np.full(n, np.nan), np.full(n, -1), np.full(n, -1)
    (stage,) = (d for d in corpus.lasting if d.stage.kind == "semantic-scores")
    for split, mine in enumerate(numbers):
        table = pa.Table.from_batches(
            list(tables.arrow_batches(storage.join(stage.location, score_name("all", split))))
        )
        score[mine], cluster[mine] = table["score"].to_numpy(), table["cluster"].to_numpy()
        neighbour[mine] = [ids[i] if i is not None else -1 for i in table["neighbour"].to_pylist()]
    steps, source.steps = source.steps, []
    splits = embedded(standings(source), {"all": source.embedded["default"]})
    source.steps = steps
    vectors = np.empty((n, splits[0].dimensions), np.float32)
    for mine, split in zip(numbers, splits, strict=True):
        for members, batch in vector_batches(split):
            vectors[np.array(mine)[members["row"].astype(np.int64)]] = batch
    return score, neighbour, cluster, vectors


def kept(scores: np.ndarray, share: float) -> set[int]:
    """The documents with the smallest scores."""
    return set(np.argsort(scores, kind="stable")[: int(np.ceil(share * len(scores)))].tolist())


def compare(by_minhash: dict[int, int], scores: np.ndarray, neighbours: np.ndarray, of: list[str]) -> None:
    """Print what each step finds alone, and what both do. A pair is found if either of its documents is dropped."""
    print(
        "\n| eps | semantic drops | MinHash drops | of these found by semantic | only semantic | by folder |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    mine = set(by_minhash)
    for eps in EPS:
        theirs = set(np.flatnonzero(scores > 1 - eps).tolist())
        both = sum(i in theirs or j in theirs for i, j in by_minhash.items())
        alone = alone_by_vectors(by_minhash, neighbours, theirs)
        shown = ", ".join(f"{folder} {n}" for folder, n in Counter(of[i] for i in alone).most_common(4))
        print(f"| {eps} | {len(theirs)} | {len(mine)} | {both} | {len(alone)} | {shown} |")


def alone_by_vectors(by_minhash: dict[int, int], neighbours: np.ndarray, theirs: set[int]) -> list[int]:
    """Documents that semantic drops for one, and of neither of which MinHash drops anything."""
    return [i for i in sorted(theirs) if i not in by_minhash and int(neighbours[i]) not in by_minhash]


def show(
    by_minhash: dict[int, int], scores: np.ndarray, neighbours: np.ndarray, texts: list[str], n: int
) -> None:
    """Print a few pairs that one step finds and the other does not."""
    at = 1 - 0.1
    theirs = set(np.flatnonzero(scores > at).tolist())
    alone = alone_by_vectors(by_minhash, neighbours, theirs)
    by_jaccard = sorted((jaccard(texts[i], texts[neighbours[i]]), i) for i in alone)
    print(f"\nfound by vectors alone (cosine above {at}): {len(alone)}, of which the least alike in words")
    for found, i in by_jaccard[:n]:
        pair(texts[i], texts[neighbours[i]], f"cosine {scores[i]:.3f}, Jaccard {found:.2f}")
    missed = [(i, j) for i, j in by_minhash.items() if i not in theirs and j not in theirs]
    print(f"\nfound by MinHash alone: {len(missed)}, for instance")
    for i, j in missed[:n]:
        pair(texts[i], texts[j], f"Jaccard {jaccard(texts[i], texts[j]):.2f}")


def jaccard(a: str, b: str) -> float:
    """Of the sets of 5-grams of words."""
    one, two = (
        {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}
        for words in (re.findall(r"\w+", text.lower()) for text in (a, b))
    )
    return len(one & two) / max(1, len(one | two))


def pair(a: str, b: str, what: str) -> None:
    print(f"  {what}\n    | {' '.join(a.split())[:150]}\n    | {' '.join(b.split())[:150]}")


def recall(clusters: np.ndarray, vectors: np.ndarray) -> None:
    """Print how many of the documents with a near neighbour anywhere have one in their own cluster."""
    n = len(vectors)
    anywhere, inside = np.empty(n, np.float32), np.empty(n, np.float32)
    for first in range(0, n, 2048):
        block = vectors[first : first + 2048] @ vectors.T
        own = np.arange(len(block))
        block[own, first + own] = -1
        anywhere[first : first + 2048] = block.max(axis=1)
        block[clusters[first : first + 2048, None] != clusters[None]] = -1
        inside[first : first + 2048] = block.max(axis=1)
    print(f"\n{int(clusters.max()) + 1} clusters\n")
    print("| similarity | documents with a neighbour, brute force | with one in their cluster | share |")
    print("| --- | --- | --- | --- |")
    for t in (0.95, 0.9, 0.8, 0.7):
        wanted, found = int((anywhere > t).sum()), int((inside > t).sum())
        print(f"| {t} | {wanted:,} | {found:,} | {found / max(1, wanted):.1%} |")


if __name__ == "__main__":
    sys.exit(main())
