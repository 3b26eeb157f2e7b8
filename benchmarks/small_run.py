"""What is a corpus that is made in seconds, and in which every step of dedup finds something?

Python's own library as two sources, with equal copies, copies with some words changed, items of a benchmark and
documents to leave out: for tests and soaks that make the same corpus again and again while they disturb the run.
What two runs published is compared by the hash of each file (`published`).
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import sys
import sysconfig
from pathlib import Path
from typing import Any

from winnow.pipelines import open_run
from winnow.shards import storage

NAMES = ("left", "right")
GARBAGE = '{"text": "a row that ends in the mid\n'
"""A line of an input that is no JSON: reading sets it aside and counts it."""

STAGE = re.compile(r"[0-9a-f]{16}-(?=\d{8}\.parquet$)")
"""The hash of a stage, with which names in RUN/dropped begin."""

RECIPE = """
name: small
tokenizer: {{name: mistral-7b-v0.1, pad_token: <unk>}}
sequence: {{length: 256, pack: best-fit}}
max_bad_rows: 1
sources:
  left:
    read: {{format: jsonl, path: "{inputs}/left.jsonl"}}
    filters: [gopher-quality]
    heldout: {{fraction: 0.05}}
    dedup: {{lines: true}}
  right:
    read: {{format: jsonl, path: "{inputs}/right.jsonl", key: key}}
    exclude: "{side}/gone.txt"
dedup:
  exact: {{across: [left, right], by: normalised}}
  minhash: {{across: [left, right], threshold: 0.7, min_recall: 0.9}}
  bloom: {{across: [left, right], shards: 3}}
  substrings: {{across: [left, right]}}
  decontaminate: {{benchmarks: {{items: {{path: "{side}/items.jsonl", text: q}}}}}}
mixture: {{epochs: 1.5, output: mixed}}
limits: {{split_bytes: {split_bytes}, partition_bytes: 1500KB, task_memory: 500MB}}
shards: {{size_limit: 50KB}}
"""


def write_inputs(folder: Path, files: int = 60) -> None:
    """Write left.jsonl, right.jsonl, gone.txt and items.jsonl into a folder."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    texts = [p.read_text(encoding="utf-8", errors="replace") for p in sorted(stdlib.glob("[a-z]*.py"))]
    near = [text.replace("return", "give back", 3) for text in texts[20:40]]
    for part, name in enumerate(NAMES):
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
            for i, text in enumerate(texts[part:files:2] + texts[:10] + near[part::2]):
                file.write(json.dumps({"text": text, "key": f"{name}-{i}"}) + "\n")
    (folder / "gone.txt").write_text("".join(f"right-{i}\n" for i in range(11, 27, 3)))
    items = [" ".join(text.split()[100:140]) for text in texts[5:files:29]]
    (folder / "items.jsonl").write_text("".join(json.dumps({"q": item}) + "\n" for item in items))


def write_recipe(path: Path, side: Path, inputs: str | None = None, split_bytes: str = "300KB") -> Path:
    """Write the recipe; the sources lie in `inputs` (default: beside the lists, in `side`)."""
    path.write_text(RECIPE.format(side=side, inputs=inputs or side, split_bytes=split_bytes))
    return path


def command(recipe: Path, out: str | Path, *options: str) -> list[str]:
    """The command that makes it, as a user gives it."""
    return [
        sys.executable,
        "-m",
        "winnow.pipelines.command",
        "run",
        str(recipe),
        "--out",
        str(out),
        *options,
        "--json",
    ]


def took(facts: dict[str, Any]) -> dict[str, int]:
    """How many documents each step of dedup dropped or cut, from mixture.json."""
    found = {step["step"]: 0 for step in facts["dedup"]}
    for source in facts["sources"]:
        for step in source["dedup"]:
            found[step["step"]] += step["dropped"] + step["cut_documents"]
    return found


def published(out: str | Path) -> dict[str, str]:
    """Hashes of all that a run publishes and a trainer or auditor reads, by names that no location is part of."""
    run = open_run(str(out))
    roots = {"dropped": storage.join(str(out), "dropped")}
    for stream in run.manifest["streams"]:
        roots[f"{stream['name']}/{stream['split']}"] = storage.join(str(out), "stages", stream["directory"])
    found = {"mixture.json": [_hash(storage.join(str(out), "mixture.json"))]}
    for label, root in roots.items():
        for name in storage.list_files(root):
            if "records" not in Path(name).parts and name != "stage.json":
                found.setdefault(f"{label}/{STAGE.sub('', name)}", []).append(_hash(storage.join(root, name)))
    # Several stages drop documents of one split: without their hashes, their files have one name.
    return {name: " ".join(sorted(hashes)) for name, hashes in found.items()}


def _hash(place: str) -> str:
    return hashlib.sha256(storage.read_bytes(place)).hexdigest()


def records(out: Path) -> dict[Path, int]:
    """Record files of a local run, and when each was written (nanoseconds)."""
    found = {}
    for path in out.glob("stages/*/records/*.json"):
        try:
            found[path] = path.stat().st_mtime_ns
        except FileNotFoundError:
            continue
    return found


def add_garbage(folder: Path, seed: int, lines: int) -> None:
    """Append rows that cannot be read to one of the inputs: the ids of all others stay what they are."""
    rng = random.Random(seed)
    with open(folder / f"{rng.choice(NAMES)}.jsonl", "a", encoding="utf-8") as file:
        file.write(GARBAGE * lines)


def lost(out: str | Path) -> int:
    """Rows that reading set aside, of all sources."""
    facts = json.loads(storage.read_bytes(storage.join(str(out), "mixture.json")))
    return sum(sum(source["lost"].values()) for source in facts["sources"])
