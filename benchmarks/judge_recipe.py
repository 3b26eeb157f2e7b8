"""Is curated text worth more to a small model than the text it was made from?

    python benchmarks/judge_recipe.py CORPORA [--mb 60] [--tokens 1M] [--seeds 3] [--model nano] [--out DIR]

CORPORA is a folder of folders of `*.jsonl.zst` files. A pool of web pages as they lie there (HTML with its mark-up,
documentation in many languages, spam, tables, government prose) becomes two runs: `raw` takes all of it, `curated` what
a language filter, Gopher's rules, FineWeb's rules, and exact and MinHash dedup leave. `winnow compare` trains the same
model on both, for the same tokens, and measures bits per byte of textbooks, Wikipedia and novels, of which neither run
holds a document. The tokenizer, a byte-level BPE of 4,096 pieces, comes from the pool: a small model is then more than
its embedding. The default takes about a quarter of an hour on two cores; with `--out` it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from corpus import documents_of, machine

POOL = {
    "web_html_mdn": 0.3,
    "web_docs_multi": 0.2,
    "web_prose": 0.35,
    "low_quality": 0.13,
    "web_crawl_text": 0.02,
}
"""Folder -> share of the pool's bytes."""
JUDGES = ("textbooks", "wiki", "books_en")
JUDGE_MB = 2.0
LONGEST = 50_000
"""Characters of a document that are used: a few novels should not be all that the judges know."""
PIECES = 4096
LENGTH = 512
HEAD = (
    "name: {name}\ntokenizer: {{name: '{root}/tokenizer.json'}}\nsequence: {{length: {length}}}\nsources:\n"
)
SOURCE = "  {source}: {{read: {{format: jsonl, path: '{root}/{source}.jsonl', key: id}}{more}}}\n"
CURATED = """, filters: [{{language: {{keep: [en], min_score: 0.65, model: '{model}'}}}}, gopher-repetition, \
gopher-quality, fineweb-quality], dedup: {{exact: true, minhash: fineweb}}"""
HELDOUT = ", heldout: {fraction: 0.95}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--mb", type=float, default=60, help="of the pool's text")
    parser.add_argument("--tokens", default="1M", help="of each training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--language-model", help="a fastText model of languages; default: lid.176.ftz near CORPORA"
    )
    parser.add_argument("--out", type=Path, help="keep everything there")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        out = args.out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="winnow-bench-")))
        out = out.resolve()
        out.mkdir(parents=True, exist_ok=True)
        runs = {name: made(out, name) for name in recipes(args, out)}
        print(machine())
        winnow(
            "compare", runs["raw"], runs["curated"], "--heldout", runs["judges"], "--out", out / "compare",
            "--seeds", args.seeds, "--model", args.model, "--tokens", args.tokens, "--batch", args.batch,
            "--heldout-tokens", "32K", "--device", args.device,
        )  # fmt: skip


def recipes(args: argparse.Namespace, out: Path) -> list[str]:
    """Write the text, the tokenizer and the three recipes; returns the recipes' names."""
    if not (out / "tokenizer.json").exists():
        with (out / "pool.jsonl").open("w", encoding="utf-8") as file:
            for folder, share in POOL.items():
                write(file, args.corpora, folder, args.mb * 1e6 * share)
        for folder in JUDGES:
            with (out / f"{folder}.jsonl").open("w", encoding="utf-8") as file:
                write(file, args.corpora, folder, JUDGE_MB * 1e6)
        write_tokenizer(out)
    near = args.corpora.resolve().parent / "models" / "lid.176.ftz"
    language_model = args.language_model or (near if near.exists() else "lid.176.ftz")
    parts = {
        "raw": SOURCE.format(source="pool", root=out, more=""),
        "curated": SOURCE.format(source="pool", root=out, more=CURATED.format(model=language_model)),
        "judges": "".join(SOURCE.format(source=folder, root=out, more=HELDOUT) for folder in JUDGES),
    }
    for name, sources in parts.items():
        text = HEAD.format(name=name, root=out, length=LENGTH) + sources
        (out / f"{name}.yaml").write_text(text)
    return list(parts)


def write(file, corpora: Path, folder: str, size: float) -> None:
    """Append documents of a folder, every n-th, so that they come from all over it, up to about `size` bytes."""
    documents = [(text[:LONGEST], id_) for text, id_ in documents_of(corpora, [folder])]
    total = sum(len(text.encode()) for text, _ in documents)
    stride = max(1, int(total // size))
    for text, id_ in documents[::stride]:
        if size <= 0:
            return
        size -= len(text.encode())
        file.write(json.dumps({"text": text, "id": id_}, ensure_ascii=False) + "\n")


def write_tokenizer(out: Path) -> None:
    """A byte-level tokenizer from a part of the pool."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator(some_texts(out / "pool.jsonl"), trainer)
    made.save(str(out / "tokenizer.json"))


def some_texts(place: Path) -> Iterator[str]:
    """The first 10,000 characters of every fifth document."""
    with place.open(encoding="utf-8") as lines:
        for line in islice(lines, 0, None, 5):
            yield json.loads(line)["text"][:10_000]


def made(out: Path, name: str) -> Path:
    """Run a recipe; where its run lies."""
    started = time.perf_counter()
    winnow("run", out / f"{name}.yaml", "--out", out / name, "--json", quiet=True)
    facts = json.loads((out / name / "mixture.json").read_text())
    for source in facts["sources"]:
        print(
            f"{name}/{source['name']}: {source['kept_documents']:,} of {source['rows']:,} documents, "
            f"{source['kept_bytes'] / 1e6:.1f} of {source['text_bytes'] / 1e6:.1f} MB, {source['tokens'] / 1e6:.2f} M "
            f"tokens"
        )
    print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    return out / name


def winnow(*arguments: object, quiet: bool = False) -> None:
    """Run a command of Winnow to its end."""
    command = [sys.executable, "-m", "winnow.pipelines.command", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL if quiet else None)


if __name__ == "__main__":
    main()
