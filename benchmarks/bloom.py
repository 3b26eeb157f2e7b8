"""Bloom-filter dedup: MB/s per core with a filter of a GiB or more, the rate it is wrong at, and datatrove's.

    python benchmarks/bloom.py CORPORA [--mb 100] [--peer-mb 3] [--rounds 3] [--gib 1]

CORPORA is a folder of folders of `*.jsonl.zst` files of English text (those used are named in corpus.py). Every case
is a process of its own; speeds are of user CPU, after imports and one document for warming up.

kernel   the text is judged in a filter that is sized for 0.01, and that hashes have filled but for what the text needs:
         text in, verdicts out; and counted, which is what gives the filter its size. The rate is measured on generated
         text whose n-grams nobody has put in.
stage    the step in a run, from stored documents to row-aligned verdicts: counting, exchange, judging and the way home.
datatrove  SingleBloomFilter, which goes by whole documents: 13-grams of spaCy's words in small letters, without
         punctuation. Its filter is less than 256 MiB; it gets 128 MiB, 7 bits an n-gram, and the first `--peer-mb` of
         every 20th document. Its rate is measured in the same way: generated text after generated text; at 2**27 bytes,
         and at one less, for a bit's number is `hash & bytes` there, which has two values for a power of two.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from corpus import PROSE, machine, texts_of, write_generated
from four_filters import batches, report, user_seconds

BATCH_BYTES = 16 << 20
FILL = 1 << 22
PEER_EVERY = 20


def write_texts(texts, place: str, megabytes: float) -> int:
    """Write texts as an Arrow file of batches until there is enough; returns bytes of text."""
    size, held, held_bytes = 0, [], 0
    schema = pa.schema([("text", pa.large_string())])
    with pa.ipc.new_file(place, schema) as writer:

        def flush() -> None:
            writer.write_batch(pa.record_batch([pa.array(held, pa.large_string())], schema=schema))

        for text in texts:
            held.append(text)
            held_bytes += len(text.encode())
            if size + held_bytes >= megabytes * 1e6:
                break
            if held_bytes >= BATCH_BYTES:
                flush()
                size, held, held_bytes = size + held_bytes, [], 0
        flush()
    return size + held_bytes


def kernel(place: str, unseen: str, remove: str, gib: float, rounds: int) -> None:
    """Judge the text in a filter that it fills up; every round in the filter as it was before."""
    from winnow.filters import bloom
    from winnow.filters.bloom_settings import Bloom, bits_for, blocks_for

    asked = Bloom(remove=remove)
    rate = asked.false_positive_rate
    bloom.judge(next(batches(place)).slice(0, 1), asked, bloom.new_filter(16))
    counted = sum(int(bloom.count_ngrams(texts, asked).sum()) for texts in batches(place))
    ngrams = max(counted, int(gib * 8 * (1 << 30) / bits_for(rate)))
    filled, filter_ = (bloom.new_filter(blocks_for(ngrams, rate)) for _ in range(2))
    rng = np.random.default_rng(17)
    for first in range(0, ngrams - counted, FILL):
        bloom.insert(filled, rng.integers(0, 1 << 64, min(FILL, ngrams - counted - first), np.uint64))
    count_s, judge_s = [], []
    for _ in range(rounds):
        filter_[:] = filled
        started = user_seconds()
        for texts in batches(place):
            bloom.count_ngrams(texts, asked)
        count_s.append(user_seconds() - started)
        started = user_seconds()
        found = [bloom.judge(texts, asked, filter_) for texts in batches(place)]
        judge_s.append(user_seconds() - started)
    # Whoever has an n-gram that is seen is dropped, so that hardly anything more is put in.
    probe = Bloom(remove="document", threshold=0.0)
    fresh = [bloom.judge(texts, probe, filter_) for texts in batches(unseen)]
    report(
        count_s=count_s,
        judge_s=judge_s,
        ngrams=counted,
        filter_gib=filter_.nbytes / (1 << 30),
        rate=float(sum(f.seen.sum() for f in fresh) / sum(f.ngrams.sum() for f in fresh)),
        tried=int(sum(f.ngrams.sum() for f in fresh)),
        dropped=int(sum(f.dropped.sum() for f in found)),
        cut=int(sum((f.items > 0).sum() for f in found)),
    )


def stage(place: str) -> None:
    """The step in a run; CPU, user and system, by its stages."""
    from winnow.filters import bloom as warmed
    from winnow.filters.bloom_settings import Bloom
    from winnow.pipelines import bloom, run
    from winnow.pipelines.cluster import Inline
    from winnow.pipelines.engine import Engine
    from winnow.pipelines.progress import Progress
    from winnow.pipelines.recipe import read
    from winnow.pipelines.standing import standings

    warmed.judge(next(batches(place)).slice(0, 1), Bloom(), warmed.new_filter(16))
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        with open(f"{folder}/texts.jsonl", "w", encoding="utf-8") as out:
            for texts in batches(place):
                out.writelines(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts.to_pylist())
        sources = {"all": {"read": {"format": "jsonl", "path": f"{folder}/texts.jsonl"}}}
        recipe = read(
            json.dumps({"name": "bloom", "tokenizer": {"name": "mistral-7b-v0.1"}, "sources": sources}), ""
        )
        silent = Progress(stream=None)
        corpus = run(recipe, f"{folder}/run", until="filters", inline=True, progress=silent)
        source = corpus.sources["all"]
        engine = Engine(f"{folder}/run", Inline(), silent)
        upstream = [source.filters.stage]
        asked = Bloom(memory=8 << 30)
        work = bloom.deduplicate(
            engine, ["all"], standings(source), upstream, asked, recipe.limits, recipe.seed
        )
        (done,) = engine.together(work)
        seconds = {name: d.cpu_seconds for name, d in engine.done.items() if name.startswith("bloom")}
        report(stages=seconds, cpu_s=sum(seconds.values()), counts=[r.counts for r in done.records])


def datatrove(place: str, unseen: str) -> None:
    """The peer's filter: documents in, verdicts out."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup.bloom_filter import BloomFilterConfig, SingleBloomFilter

    def made(m_bytes: int) -> SingleBloomFilter:
        with tempfile.TemporaryDirectory() as folder:
            return SingleBloomFilter(folder, BloomFilterConfig(m_bytes=m_bytes, k=7))

    peer = made((1 << 27) - 1)
    texts = [text for batch in batches(place) for text in batch.to_pylist()]
    peer.get_shingles(texts[0])
    started = user_seconds()
    kept = sum(peer.step(Document(text=text, id=str(i))) for i, text in enumerate(texts))
    spent = user_seconds() - started
    fresh = list(itertools.islice((t for batch in batches(unseen) for t in batch.to_pylist()), 200))
    rates = []
    for m_bytes in (1 << 27, (1 << 27) - 1):
        peer = made(m_bytes)
        for text in fresh[:100]:
            peer.step(Document(text=text, id=""))
        asked = [i for text in fresh[100:] for i in peer.get_indexes(peer.get_shingles(text))]
        rates.append(sum(map(peer.query, asked)) / len(asked))
    report(user_s=spent, kept=kept, documents=len(texts), rates=rates, tried=len(asked))


def child(*arguments: str) -> dict:
    done = subprocess.run(
        [sys.executable, __file__, "--child", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{arguments}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def speed(size: int, seconds: list[float]) -> str:
    rates = sorted(size / 1e6 / s for s in seconds)
    return f"{statistics.median(rates):8.2f} MB/s ({rates[0]:.2f}-{rates[-1]:.2f})"


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        who, place, *rest = sys.argv[2:]
        if who == "kernel":
            kernel(place, rest[0], rest[1], float(rest[2]), int(rest[3]))
        elif who == "stage":
            stage(place)
        else:
            datatrove(place, rest[0])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--mb", type=float, default=100)
    parser.add_argument("--peer-mb", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gib", type=float, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        whole, small, unseen = (f"{folder}/{name}.arrow" for name in ("whole", "small", "unseen"))
        write_generated(Path(folder), 20)
        with open(f"{folder}/generated.jsonl") as lines:
            write_texts((json.loads(line)["text"] for line in lines), unseen, 20)
        size = write_texts(texts_of(args.corpora, PROSE), whole, args.mb)
        every = itertools.islice(texts_of(args.corpora, PROSE), 0, None, PEER_EVERY)
        small_size = write_texts(every, small, args.peer_mb)
        print(machine())
        print(f"{size / 1e6:.1f} MB of English text, the peer on {small_size / 1e6:.1f} MB of it; "
              f"medians of {args.rounds} (range) of user CPU")  # fmt: skip
        for remove in ("both", "document"):
            one = child("kernel", whole, unseen, remove, str(args.gib), str(args.rounds))
            both = [a + b for a, b in zip(one["judge_s"], one["count_s"], strict=True)]
            print(
                f"remove: {remove}, a filter of {one['filter_gib']:.2f} GiB, {one['ngrams']:,} n-grams of text"
            )
            print(f"  judge            {speed(size, one['judge_s'])}")
            print(f"  count and judge  {speed(size, both)}")
            print(f"  taken for seen: {one['rate']:.5f} of {one['tried']:,} new n-grams; dropped {one['dropped']:,}, "
                  f"cut {one['cut']:,}; peak {one['peak_mb']:.0f} MB, two filters")  # fmt: skip
        runs = [child("stage", whole) for _ in range(args.rounds)]
        parts = {
            name: statistics.median(r["stages"][name] for r in runs) for name in sorted(runs[0]["stages"])
        }
        print(f"stage, user and system {speed(size, [r['cpu_s'] for r in runs])}; seconds: "
              + ", ".join(f"{name} {s:.2f}" for name, s in parts.items()))  # fmt: skip
        if args.peer_mb:
            peers = [child("datatrove", small, unseen) for _ in range(args.rounds)]
            mine = child("kernel", small, unseen, "document", str(args.gib), str(args.rounds))
            ratio = statistics.median(p["user_s"] for p in peers) / statistics.median(
                a + b for a, b in zip(mine["judge_s"], mine["count_s"], strict=True)
            )
            one = peers[0]
            print(f"datatrove        {speed(small_size, [p['user_s'] for p in peers])}; ours, counting too, on the "
                  f"same text: {ratio:.0f}x")  # fmt: skip
            at_power, below = one["rates"]
            print(f"  taken for seen: {at_power:.5f} and {below:.5f} of {one['tried']:,} new n-grams; kept "
                  f"{one['kept']} of {one['documents']} documents; peak {one['peak_mb']:.0f} MB")  # fmt: skip


if __name__ == "__main__":
    main()
