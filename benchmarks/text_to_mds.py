"""Text to MDS shards: tokens per CPU second of our stages, llm-foundry's loop, datatrove's, and the bare tokenizer.

    python benchmarks/text_to_mds.py CORPORA [--mb 100] [--peer-mb 4] [--rounds 3] [--neox PATH]

CORPORA is a folder of folders of `*.jsonl.zst` files with a column `text`. Both tokenizers (GPT-NeoX's where its
tokenizer.json is found). Every case is a process of its own; CPU is user + system after imports and loading the
tokenizer, *cold* the first pass over the text, *warm* the second in the same process:

    fastokens     encode_batch_flat alone, on Python strings that are there already
    winnow        a run without Ray from the text behind the filters (Arrow, LZ4) to shards and their provenance:
                  the stages tokens, stream-scatter, stream and shards; `all` adds what the driver does once
                  a run, such as reading the recipe and comparing tokenizers on probes
    llm-foundry   ConcatTokensDataset's loop, written from its description: transformers' fast tokenizer a document at
                  a time, a list as buffer, int32 rows through MDSWriter
    datatrove     DocumentTokenizer with its defaults: tokenize, write, read and write in another order

The last two get every 20th document, up to `--peer-mb`, as strings. Medians, with the range.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from corpus import OTHER, PROSE, machine, texts_of
from mds_writing import peak_mb

LENGTH = 2048
PEER_EVERY = 20
PASSES = ("cold", "warm")
STAGES = ("tokens", "stream-scatter", "stream", "shards")
RECIPE = """
name: text-to-mds
tokenizer: {{name: "{tokenizer}"}}
sequence: {{length: 2048}}
sources:
  text: {{read: {{format: jsonl, path: "{root}/text.jsonl"}}}}
"""


def write_text(corpora: Path, root: Path, megabytes: float, peer_megabytes: float) -> dict[str, int]:
    """Write `text.jsonl` and, for the slow, `peer.jsonl`; bytes of text in each."""
    sizes = {"text": 0, "peer": 0}
    wanted = {"text": megabytes * 1e6, "peer": peer_megabytes * 1e6}
    with open(root / "text.jsonl", "w") as text_file, open(root / "peer.jsonl", "w") as peer_file:
        for i, text in enumerate(texts_of(corpora, (*PROSE, *OTHER))):
            for name, file in (("text", text_file), ("peer", peer_file)):
                if sizes[name] < wanted[name] and (name == "text" or i % PEER_EVERY == 0):
                    file.write(json.dumps({"text": text}) + "\n")
                    sizes[name] += len(text.encode())
    return sizes


def strings(root: Path, name: str) -> list[str]:
    with open(root / f"{name}.jsonl") as lines:
        return [json.loads(line)["text"] for line in lines]


def batches(texts: list[str]) -> Iterator[list[str]]:
    """As many texts as the encoder hands on at a time."""
    from winnow.tokenize.encoder import BATCH_BYTES

    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    yield batch


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def vocabulary(tokenizer: str):
    from winnow.tokenize.encoder import prepare
    from winnow.tokenize.source import resolve

    return prepare(resolve(tokenizer))


Pass = Callable[[], dict]
"""One pass over the text: its number of tokens, and seconds of parts of it.

A string keeps its UTF-8 once that was asked for, so a pass gets strings that no other pass had.
"""


def fastokens(root: Path, tokenizer: str) -> Pass:
    import fastokens

    encode = fastokens.Tokenizer.from_json_str(
        vocabulary(tokenizer).tokenizer_json.decode()
    ).encode_batch_flat
    parts = list(batches(strings(root, "text")))

    def work() -> dict:
        return {"tokens": sum(len(encode(p, False, split_special_tokens=True)[0]) // 4 for p in parts)}

    return work


def winnow(root: Path, tokenizer: str) -> Pass:
    from winnow.pipelines import tokens
    from winnow.pipelines.corpus import run
    from winnow.pipelines.progress import Progress
    from winnow.pipelines.recipe import read

    recipe, out = read(RECIPE.format(root=root, tokenizer=tokenizer), "text-to-mds.yaml"), root / "run"
    silent = Progress(stream=None)
    before = run(recipe, str(out), until="dedup", inline=True, progress=silent)
    assert before.backend is not None
    tokens._encoder(before.tokenizer.location, before.backend.name, recipe.tokenizer.append)

    def work() -> dict:
        for stage in (out / "stages").iterdir():
            if stage.name.split(".")[0] in STAGES:
                shutil.rmtree(stage)
        made = run(recipe, str(out), until="shards", inline=True, progress=silent)
        tokenized = made.sources["text"].tokens
        assert tokenized is not None
        return {
            "tokens": sum(r.counts["tokens"] for r in tokenized.records),
            "parts": {stage: made.cpu_seconds[stage] for stage in STAGES},
        }

    return work


def llm_foundry(root: Path, tokenizer: str) -> Pass:
    import numpy as np
    from transformers import PreTrainedTokenizerFast
    from winnow.shards.feed import import_streaming

    writer_class = import_streaming().MDSWriter
    vocab, out = vocabulary(tokenizer), root / "foundry"
    place = root / "tokenizer.json"
    place.write_bytes(vocab.tokenizer_json)
    encode = PreTrainedTokenizerFast(tokenizer_file=str(place), model_max_length=int(1e30))
    passes = [strings(root, "peer") for _ in PASSES]

    def work() -> dict:
        shutil.rmtree(out, ignore_errors=True)
        texts = passes.pop()
        buffer: list[int] = []
        n = 0
        with writer_class(out=str(out), columns={"tokens": "ndarray:int32"}, compression=None) as writer:
            for text in texts:
                ids = encode(text, truncation=False, padding=False)["input_ids"]
                n += len(ids) + 1
                buffer = buffer + ids + [vocab.eos_id]
                while len(buffer) >= LENGTH:
                    row, buffer = buffer[:LENGTH], buffer[LENGTH:]
                    writer.write({"tokens": np.asarray(row, np.int32)})
        return {"tokens": n}

    return work


def datatrove(root: Path, tokenizer: str) -> Pass:
    import numpy as np
    from datatrove.data import Document
    from datatrove.pipeline.tokens import DocumentTokenizer
    from datatrove.utils.logging import logger

    logger.remove()
    vocab, out = vocabulary(tokenizer), root / "datatrove"
    place = root / "tokenizer.json"
    place.write_bytes(vocab.tokenizer_json)
    eos = next(t for t in json.loads(vocab.tokenizer_json)["added_tokens"] if t["id"] == vocab.eos_id)
    passes = [strings(root, "peer") for _ in PASSES]
    step = DocumentTokenizer(str(out), str(place), eos_token=eos["content"], seed=17)
    step.tokenizer  # noqa: B018  (loads it)

    def work() -> dict:
        shutil.rmtree(out, ignore_errors=True)
        step.run(Document(text=text, id=str(i)) for i, text in enumerate(passes.pop()))
        return {"tokens": sum(p.stat().st_size for p in out.glob("*.ds")) // np.dtype(vocab.dtype).itemsize}

    return work


CASES: dict[str, Callable[[Path, str], Pass]] = {
    "fastokens": fastokens,
    "winnow": winnow,
    "llm-foundry": llm_foundry,
    "datatrove": datatrove,
}


def child(case: str, root: Path, tokenizer: str) -> None:
    work = CASES[case](root, tokenizer)
    found = {}
    for state in PASSES:
        wall, before = time.perf_counter(), cpu_seconds()
        facts = work()
        found[state] = facts | {"cpu_s": cpu_seconds() - before, "wall_s": time.perf_counter() - wall}
    print(json.dumps(found | {"peak_mb": peak_mb()}))


def measured(case: str, root: Path, tokenizer: str) -> dict:
    command = [sys.executable, __file__, "--child", case, str(root), tokenizer]
    environment = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "FASTOKENS_BPE_THREADS": "1"}
    done = subprocess.run(
        ["env", *itertools.starmap("{}={}".format, environment.items()), *command],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{case}: {done.stderr[-3000:]}")
    for folder in ("run", "foundry", "datatrove"):
        shutil.rmtree(root / folder, ignore_errors=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), sys.argv[4])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--mb", type=float, default=100)
    parser.add_argument("--peer-mb", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--neox", type=Path, help="GPT-NeoX's tokenizer.json; default: in tokenizers/ beside CORPORA"
    )
    args = parser.parse_args()
    neox = args.neox or args.corpora.resolve().parent / "tokenizers" / "gpt-neox-20b" / "tokenizer.json"
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
        root = Path(folder)
        sizes = write_text(args.corpora, root, args.mb, args.peer_mb)
        print(machine())
        print(f"{sizes['text'] / 1e6:.1f} MB of text, {sizes['peer'] / 1e6:.1f} MB of it for the peers; "
              f"medians of {args.rounds} (range)")  # fmt: skip
        for tokenizer in ("mistral-7b-v0.1", *([str(neox)] if neox.exists() else [])):
            runs = {case: [measured(case, root, tokenizer) for _ in range(args.rounds)] for case in CASES}
            report("gpt-neox-20b" if tokenizer == str(neox) else tokenizer, runs)


def report(tokenizer: str, runs: dict[str, list[dict]]) -> None:
    print(f"\n{tokenizer}: M tokens per CPU second")
    print(f"{'':26} {'cold':>24} {'of bare':>8} {'warm':>24} {'of bare':>8} {'wall s':>7} {'peak MB':>8}")

    def line(name: str, case: str, seconds: Callable[[dict], float]) -> None:
        cells = []
        for state in PASSES:
            rates = [r[state]["tokens"] / 1e6 / max(seconds(r[state]), 1e-3) for r in runs[case]]
            bare = [r[state]["tokens"] / 1e6 / r[state]["cpu_s"] for r in runs["fastokens"]]
            share = statistics.median(rates) / statistics.median(bare)
            cells.append(
                f"{f'{statistics.median(rates):.2f} ({min(rates):.2f}-{max(rates):.2f})':>24} {share:8.0%}"
            )
        wall = statistics.median(r["cold"]["wall_s"] for r in runs[case])
        peak = max(r["peak_mb"] for r in runs[case])
        print(f"{name:26} {' '.join(cells)} {wall:7.2f} {peak:8.0f}")

    for case in CASES:
        line(case if case != "winnow" else "winnow, all", case, lambda r: r["cpu_s"])
        if case == "winnow":
            line("winnow, its tasks", case, lambda r: sum(r["parts"].values()))
            for stage in STAGES:
                line(f"  {stage} alone", case, lambda r, stage=stage: r["parts"][stage])


if __name__ == "__main__":
    main()
