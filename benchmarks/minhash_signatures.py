"""From text to MinHash signatures of 112 slots: MB/s per core, ours and four peers', and what each then finds.

    python benchmarks/minhash_signatures.py CORPORA TRUTH [--mb 60] [--peer-mb 4] [--rounds 3]

CORPORA is a folder of folders of `*.jsonl.zst` files of English text (corpus.py names those that are used). TRUTH holds
`docs.jsonl.zst` (id, text) and `pairs.jsonl` (a, b, jaccard: of lower-cased ``\\w+`` word 5-gram sets). Every case is a
process of its own: user CPU from Arrow text to signatures, after imports and one document for warming up. The peers get
the first `--peer-mb` of every 20th document; the ratio compares what both do on just those. Speed without recall
says nothing (a sample of a document's shingles is faster still), so beside each speed stands the share of the pairs of
TRUTH that agree in all 8 rows of one of 14 bands.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import zstandard
from corpus import machine
from four_filters import PEER_EVERY, batches, report, user_seconds, write_texts

BANDS, ROWS = 14, 8
SLOTS = BANDS * ROWS
SHOWN = {"0.70-0.75": (0.7, 0.75), "0.80-0.85": (0.8, 0.85), "0.90-0.95": (0.9, 0.95)}

RULES = {
    "winnow": r"runs of \w, lower-cased; polynomial of 64-bit word hashes, affine maps of its upper half",
    "winnow, hash: datatrove": "as datatrove",
    "rensa, RMinHash.update": r"\w+ of the lower-cased text, joined in Python; its own hash, one permutation",
    "datasketch, sha1": r"\w+ of the lower-cased text, joined in Python; sha1, 32 bits, affine32 maps",
    "datasketch, xxh3": r"\w+ of the lower-cased text, joined in Python; xxh3, 32 bits, affine32 maps",
    "datatrove": "spaCy's tokens of simplified text, joined in Python; xxh64, maps modulo 2^61 - 1",
    "text-dedup": r"split at \W of the lower-cased text, empty pieces kept, joined; xxh3, 32 bits",
}
"""Engine -> how it makes words, shingles and hashes."""

Sign = Callable[[pa.LargeStringArray], np.ndarray]


def winnow(**settings: str) -> Sign:
    from winnow.filters.minhash import signatures
    from winnow.filters.minhash_settings import MinHash

    made = MinHash(**settings)
    return lambda texts: signatures(texts, made, 1)


def winnow_datatrove() -> Sign:
    from winnow.filters.datatrove_minhash import signatures

    return lambda texts: signatures(texts, ngram=5, slots=SLOTS, seed=1)[0]


WORD = re.compile(r"\w+")


def word_shingles(text: str) -> list[str]:
    words = WORD.findall(text.lower())
    return [" ".join(words[k : k + 5]) for k in range(max(1, len(words) - 4))]


def rensa() -> Sign:
    from rensa import RMinHash

    def one(text: str) -> list[int]:
        sketch = RMinHash(num_perm=SLOTS, seed=1)
        sketch.update(word_shingles(text))
        return sketch.digest()

    return lambda texts: np.array([one(text) for text in texts.to_pylist()])


def datasketch(hash_: str) -> Sign:
    import xxhash
    from datasketch import MinHash

    chosen = {"hashfunc": lambda data: xxhash.xxh3_64_intdigest(data) & 0xFFFFFFFF} if hash_ == "xxh3" else {}

    def one(text: str) -> np.ndarray:
        sketch = MinHash(num_perm=SLOTS, seed=1, **chosen)
        sketch.update_batch([shingle.encode() for shingle in set(word_shingles(text))])
        return sketch.hashvalues

    return lambda texts: np.array([one(text) for text in texts.to_pylist()])


def datatrove() -> Sign:
    """Its stage 1, less reading and writing. A document of fewer than five words has no signature: a row of its own."""
    from datatrove.pipeline.dedup.minhash import MinhashDedupSignature

    with tempfile.TemporaryDirectory() as folder:
        step = MinhashDedupSignature(folder)

    def one(text: str, alone: int) -> list[int]:
        shingles = step.get_shingles(text)
        if not shingles.size:
            return [alone] * SLOTS
        return [slot for bucket in step.get_signature(shingles) for slot in bucket]

    return lambda texts: np.array([one(text, i) for i, text in enumerate(texts.to_pylist())], np.uint64)


def text_dedup() -> Sign:
    from text_dedup.minhash import SIGNATURE_COLUMN, embed_func
    from text_dedup.utils import xxh3_32hash

    rng, prime = np.random.RandomState(1), np.uint32((1 << 32) - 5)
    maps = rng.randint(1, prime, SLOTS, np.uint32), rng.randint(0, prime, SLOTS, np.uint32)
    ranges = [(k, k + ROWS) for k in range(0, SLOTS, ROWS)]

    def one(text: str) -> np.ndarray:
        found = embed_func(
            text, 0, num_perm=SLOTS, ngram_size=5, min_length=0, hashranges=ranges, permutations=maps,
            hash_func=xxh3_32hash, dtype=np.uint32, max_hash=np.uint32(0xFFFFFFFF), modulo_prime=prime,
        )  # fmt: skip
        return np.frombuffer(b"".join(found[SIGNATURE_COLUMN]), np.uint32)

    return lambda texts: np.array([one(text) for text in texts.to_pylist()])


ENGINES: dict[str, Callable[[], Sign]] = {
    "winnow": winnow,
    "winnow, hash: datatrove": winnow_datatrove,
    "rensa, RMinHash.update": rensa,
    "datasketch, sha1": lambda: datasketch("sha1"),
    "datasketch, xxh3": lambda: datasketch("xxh3"),
    "datatrove": datatrove,
    "text-dedup": text_dedup,
}


def run(engine: str, place: str, truth: str) -> None:
    """One case: what signing takes; recall, too, where there is a truth file."""
    try:
        sign = ENGINES[engine]()
    except ImportError as missing:
        report(missing=str(missing))
        return
    sign(next(batches(place)).slice(0, 1))
    started = user_seconds()
    for texts in batches(place):
        sign(texts)
    facts: dict[str, object] = {"user_s": user_seconds() - started}
    if truth:
        bands = np.concatenate([sign(texts) for texts in batches(truth)]).reshape(-1, 2, BANDS, ROWS)
        facts["met"] = (bands[:, 0] == bands[:, 1]).all(axis=2).any(axis=1).tolist()
    report(**facts)


def write_pairs(truth: Path, place: Path) -> np.ndarray:
    """Write the texts of the pairs that `SHOWN` is about, one after the other; returns their similarities."""
    with open(truth / "pairs.jsonl", encoding="utf-8") as lines:
        pairs = [json.loads(line) for line in lines]
    pairs = [p for p in pairs if any(low <= p["jaccard"] < high for low, high in SHOWN.values())]
    with zstandard.open(truth / "docs.jsonl.zst", "rt", encoding="utf-8") as lines:
        texts = {row["id"]: row["text"] for row in map(json.loads, lines)}
    column = pa.array([texts[p[side]] for p in pairs for side in "ab"], pa.large_string())
    batch = pa.record_batch([column], names=["text"])
    with pa.ipc.new_file(str(place), batch.schema) as writer:
        writer.write_batch(batch)
    return np.array([p["jaccard"] for p in pairs])


def child(engine: str, place: str, truth: str = "") -> dict:
    done = subprocess.run(
        [sys.executable, __file__, "--child", engine, place, truth],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{engine}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def recall(met: np.ndarray, similarity: np.ndarray) -> Iterator[str]:
    """Of each range of `SHOWN` the mean of `met`."""
    for low, high in SHOWN.values():
        yield f"{met[(low <= similarity) & (similarity < high)].mean():10.3f}"


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        run(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("--mb", type=float, default=60)
    parser.add_argument("--peer-mb", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        whole, small, pairs = (f"{folder}/{name}.arrow" for name in ("whole", "small", "pairs"))
        size = write_texts(args.corpora, Path(whole), args.mb)
        small_size = write_texts(args.corpora, Path(small), args.peer_mb, every=PEER_EVERY)
        similarity = write_pairs(args.truth, Path(pairs))
        print(machine())
        print(f"{size / 1e6:.1f} MB of English text for ours, peers on {small_size / 1e6:.1f} MB of it; medians of "
              f"{args.rounds} (range); MB/s of user CPU; recall on {len(similarity)} pairs")  # fmt: skip
        print(f"{'engine':26}{'MB/s':>8} {'range':15} {'ours on the same':>17} {'peak MB':>8}  "
              + "".join(f"{name:>11}" for name in SHOWN))  # fmt: skip
        expected = " ".join(recall(1 - (1 - similarity**ROWS) ** BANDS, similarity))
        print(f"{'1 - (1 - s^8)^14':78} {expected}")
        mine = statistics.median(child("winnow", small)["user_s"] for _ in range(args.rounds))
        for engine in ENGINES:
            place, of = (whole, size) if engine == "winnow" else (small, small_size)
            runs = [child(engine, place, "" if k else pairs) for k in range(args.rounds)]
            if "missing" in runs[0]:
                print(f"{engine:26} not measured: {runs[0]['missing']}")
                continue
            rates = sorted(of / 1e6 / r["user_s"] for r in runs)
            ratio = (
                "" if engine == "winnow" else f"{statistics.median(r['user_s'] for r in runs) / mine:.0f} x"
            )
            met = " ".join(recall(np.array(runs[0]["met"]), similarity))
            print(f"{engine:26}{statistics.median(rates):8.2f} ({rates[0]:.2f}-{rates[-1]:.2f})".ljust(51)
                  + f"{ratio:>17} {max(r['peak_mb'] for r in runs[1:] or runs):8.0f}   {met}")  # fmt: skip
        print()
        for engine, rule in RULES.items():
            print(f"{engine:26}{rule}")


if __name__ == "__main__":
    main()
