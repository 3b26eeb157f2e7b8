"""Line dedup, and the keys of exact dedup: MB/s per core, ours and those of others.

    python benchmarks/lines.py CORPORA [--mb 200] [--peer-mb 10] [--rounds 3]

CORPORA is a folder of folders of `*.jsonl.zst` files (corpus.py names those that are used). Every measurement is a
process of its own; figures are user CPU after imports and a first document.

line keys         text in memory -> the key of every line (filters/line_keys.py)
whole step        stored documents -> verdicts with cuts: text is read twice, and lines go through the exchange
normalised keys   text in memory -> 128-bit keys of its words in lower case (filters/text_keys.py)
URL keys          URLs in memory -> 128-bit keys; in URLs a second

Peers, on the first `--peer-mb` of the same text, texts in memory:

CCNet's rule      in Python, as cc_net has it (`normalize_for_dedup`, SHA-1, a set), written anew: cc_net is no package.
                  It leaves blank lines alone as we do, so that both have to cut the same number of lines.
datatrove         0.9.0's three sentence-dedup blocks on lines (`split_sentences=False`, `n_sentences=1`, no minimum
                  lengths), its own normalisation: an index on disk, the text in memory.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from corpus import OTHER, PROSE, machine, texts_of
from four_filters import batches, report, user_seconds

BATCH_BYTES = 8 << 20
RECIPE = """
name: lines
tokenizer: {{name: mistral-7b-v0.1}}
sequence: {{length: 2048}}
sources:
  text:
    read: {{format: jsonl, path: "{path}"}}
"""
WAYS = [(by, keep) for by in ("line", "paragraph") for keep in ("first", "none")]


def write_texts(corpora: Path, folder: Path, megabytes: float) -> int:
    """Write about so many megabytes of text as `text.arrow` and `text.jsonl`; bytes written."""
    folder.mkdir()
    schema = pa.schema([("text", pa.large_string())])
    size, held, held_bytes = 0, [], 0
    with (
        pa.OSFile(str(folder / "text.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
        open(folder / "text.jsonl", "w", encoding="utf-8") as rows,
    ):
        # Prose and the rest in turns, so that a part of it is like the whole.
        pairs = itertools.zip_longest(texts_of(corpora, PROSE), texts_of(corpora, OTHER))
        turns = (text for pair in pairs for text in pair if text is not None)
        for text in turns:
            rows.write(json.dumps({"text": text}) + "\n")
            held.append(text)
            held_bytes += len(text.encode())
            if held_bytes >= BATCH_BYTES or size + held_bytes >= megabytes * 1e6:
                writer.write_batch(pa.record_batch([pa.array(held, pa.large_string())], schema=schema))
                size, held, held_bytes = size + held_bytes, [], 0
            if size >= megabytes * 1e6:
                break
    return size


def our_line_keys(folder: str) -> None:
    from winnow.filters.line_keys import SeenKeys, line_keys

    line_keys(next(batches(f"{folder}/text.arrow")).slice(0, 1), "line")
    started = user_seconds()
    keys = [line_keys(texts, "line").keys for texts in batches(f"{folder}/text.arrow")]
    seconds = user_seconds() - started
    n = sum(map(len, keys))
    seen = SeenKeys(n)
    cut = sum(int((~seen.add(some)).sum()) for some in keys)
    report(state="line keys", user_s=seconds, lines=n, cut=cut)


def our_step(folder: str) -> None:
    from winnow.filters.line_keys import line_keys
    from winnow.filters.lines_settings import Lines
    from winnow.pipelines import lines, run
    from winnow.pipelines.cluster import Inline
    from winnow.pipelines.engine import Engine
    from winnow.pipelines.progress import Progress
    from winnow.pipelines.recipe import Limits, read
    from winnow.pipelines.records import total
    from winnow.pipelines.standing import standings

    silent = Progress(stream=None)
    recipe = read(RECIPE.format(path=f"{folder}/text.jsonl"), "lines.yaml")
    source = run(recipe, f"{folder}/run", until="filters", inline=True, progress=silent).sources["text"]
    inputs = standings(source)
    line_keys(pa.array(["warm"], pa.large_string()), "line")
    for by, keep in WAYS:
        with tempfile.TemporaryDirectory(prefix="winnow-bench-") as out:
            engine = Engine(out, Inline(), silent)
            settings = Lines(by=by, keep=keep)
            started = user_seconds()
            work = lines.deduplicate(engine, ["text"], inputs, [source.filters.stage], settings, Limits())
            (done,) = engine.together(work)
            seconds = user_seconds() - started
            runs = sum(f.stat().st_size for f in Path(out).rglob("run-*.bin"))
            gone = {k: sum((total(done.records, k) or {}).values()) for k in ("cut_bytes", "dropped_bytes")}
            report(state=f"whole step, {by}, keep {keep}", user_s=seconds, exchanged=runs, **gone)


def our_exact_keys(folder: str) -> None:
    from winnow.filters.text_keys import normalised_keys, url_keys

    normalised_keys(next(batches(f"{folder}/text.arrow")).slice(0, 1))
    started = user_seconds()
    for texts in batches(f"{folder}/text.arrow"):
        normalised_keys(texts)
    report(state="normalised keys", user_s=user_seconds() - started)
    urls = [f"https://www.example-{i % 997}.co.uk/a/{i}/page.html?id={i}&ref=b" for i in range(100_000)]
    url_keys(urls[:1])
    started = user_seconds()
    url_keys(urls)
    report(state="URL keys", user_s=user_seconds() - started, urls=len(urls))


def ccnet_rule(folder: str) -> None:
    """Keep the first of equal lines, as cc_net's `deduplicate` does."""
    from winnow.filters.line_keys import PUNCTUATION

    controls = "".join(map(chr, [*range(32), *range(127, 160)]))
    left_out = re.compile(f"[{PUNCTUATION}{re.escape(controls)}]")
    digit = re.compile(r"\d")
    texts = [text for batch in batches(f"{folder}/text.arrow") for text in batch.to_pylist()]
    started = user_seconds()
    seen: set[bytes] = set()
    cut = lines = 0
    kept = []
    for text in texts:
        some = []
        for line in text.split("\n"):
            if bare := line.strip():
                form = left_out.sub("", digit.sub("0", bare.lower()))
                key = hashlib.sha1(form.encode()).digest()[:8]
                lines += 1
                if key in seen:
                    cut += 1
                    continue
                seen.add(key)
            some.append(line)
        kept.append("\n".join(some))
    report(state="CCNet's rule", user_s=user_seconds() - started, lines=lines, cut=cut)


def datatrove(folder: str) -> None:
    from datatrove.data import Document
    from datatrove.pipeline.dedup import SentenceDedupFilter, SentenceDedupSignature, SentenceFindDedups
    from datatrove.pipeline.dedup.sentence_dedup import SentDedupConfig
    from loguru import logger

    logger.remove()
    config = SentDedupConfig(n_sentences=1, split_sentences=False, min_doc_words=0, min_num_sentences=0)

    def documents() -> Iterator[Document]:
        for i, text in enumerate(
            text for batch in batches(f"{folder}/text.arrow") for text in batch.to_pylist()
        ):
            yield Document(text=text, id=str(i))

    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as out:
        started = user_seconds()
        SentenceDedupSignature(f"{out}/hashes", config=config).run(documents())
        SentenceFindDedups(f"{out}/hashes", f"{out}/found", config=config).run()
        left = sum(
            len(d.text.encode()) for d in SentenceDedupFilter(f"{out}/found", config=config).run(documents())
        )
        report(state="datatrove", user_s=user_seconds() - started, left=left)


CASES = {f.__name__: f for f in (our_line_keys, our_step, our_exact_keys, ccnet_rule, datatrove)}


def child(case: str, folder: Path) -> list[dict]:
    command = [sys.executable, __file__, "--child", case, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{case}: {done.stderr[-3000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def show(case: str, folder: Path, size: int, rounds: int) -> None:
    runs = [child(case, folder) for _ in range(rounds)]
    for same in zip(*runs, strict=True):
        facts = same[0]
        unit, done = ("URLs/s", facts["urls"]) if "urls" in facts else ("MB/s", size / 1e6)
        rates = sorted(done / row["user_s"] for row in same)
        more = {k: v for k, v in facts.items() if k not in ("state", "user_s", "peak_mb", "urls")}
        peak = max(row["peak_mb"] for row in same)
        print(f"{facts['state']:34} {statistics.median(rates):10.1f} {unit} ({rates[0]:.1f}-{rates[-1]:.1f}), "
              f"peak {peak:.0f} MB {' '.join(f'{k}={v:,}' for k, v in more.items())}", flush=True)  # fmt: skip


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        CASES[sys.argv[2]](sys.argv[3])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--mb", type=float, default=200)
    parser.add_argument("--peer-mb", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as scratch:
        whole, small = Path(scratch, "whole"), Path(scratch, "small")
        sizes = [
            write_texts(args.corpora, place, mb) for place, mb in ((whole, args.mb), (small, args.peer_mb))
        ]
        print(machine())
        print(f"medians of {args.rounds} (range); user CPU of one core; on {sizes[0] / 1e6:.1f} MB of text:")
        child("our_step", whole)  # reads and filters the documents, and compiles
        for case in ("our_line_keys", "our_step", "our_exact_keys"):
            show(case, whole, sizes[0], args.rounds)
        print(f"on {sizes[1] / 1e6:.1f} MB of it:")
        for case in ("our_line_keys", "our_step", "ccnet_rule", "datatrove"):
            show(case, small, sizes[1], args.rounds)


if __name__ == "__main__":
    main()
