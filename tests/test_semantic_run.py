"""Semantic dedup, D4 and a classifier on embeddings, from text to shards, with a real encoder.

Paraphrases and pages of one template lie among other text; a driver killed on the way changes nothing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from winnow.pipelines import open_run
from winnow.pipelines.cluster import Inline
from winnow.pipelines.corpus import run
from winnow.pipelines.located import RecipeError
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import read

PARAPHRASES = [
    ("The cat slept all afternoon on the warm windowsill while rain fell outside.",
     "As it rained, our feline spent the whole afternoon dozing upon the heated window ledge."),
    ("Bread dough must rest for an hour before it is baked, so that the yeast can make it rise.",
     "Let the dough sit sixty minutes prior to baking; this gives yeast the time to raise the bread."),
    ("The company's quarterly profit fell by ten percent because fuel had become more expensive.",
     "Costlier fuel made the firm's earnings drop a tenth during the quarter."),
    ("Mount Everest is the highest mountain on Earth, and thousands have climbed to its summit.",
     "Thousands of climbers have reached the top of Everest, the tallest peak in the world."),
    ("Plants use sunlight to turn water and carbon dioxide into sugar and oxygen.",
     "In photosynthesis, plants convert carbon dioxide and water to oxygen and sugars with the light of the sun."),
    ("The football team lost its last match two to one after a late penalty.",
     "A penalty near the end made the soccer side lose its final game 2-1."),
]  # fmt: skip
NAMES = [
    "Anna Keller",
    "Tom Barnes",
    "Mei Tanaka",
    "Omar Haddad",
    "Lucy Webb",
    "Jan Novak",
    "Ines Costa",
    "Karl Lund",
]
TEMPLATE = (
    "Welcome to this profile page. The member has not written anything about themselves yet. You can send {0} a "
    "message or add them to your contacts, and look at the photos that were shared with others. To see the whole "
    "profile please sign in, or create an account if you have none. Accounts are free, and take a minute to make."
)
MODULES = ["argparse", "asyncio", "calendar", "csv", "datetime", "difflib", "email.message", "fractions", "ipaddress",
           "logging", "mailbox", "pathlib", "random", "shutil", "socket", "statistics", "tarfile", "textwrap",
           "threading", "turtle", "urllib.parse", "zipfile"]  # fmt: skip


def other_texts(n: int) -> list[str]:
    """Docstrings that every Python has, of functions with different names."""
    found: dict[str, None] = {}
    for name in MODULES:
        module = importlib.import_module(name)
        for _, member in sorted(inspect.getmembers(module)):
            text = inspect.getdoc(member) if callable(member) else None
            if text and 80 < len(text) < 600:
                found[text] = None
    assert len(found) >= n
    return list(found)[:n]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    planted = [text for pair in PARAPHRASES for text in pair] + [TEMPLATE.format(name) for name in NAMES]
    others = other_texts(120)
    return [text for i, other in enumerate(others) for text in (other, *planted[i : i + 1])]


def words_of(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[a-z0-9-]+", text.lower()))


def recipe(folder: Path, model: str, texts: list[str], dedup: str, more: str = "") -> str:
    """A recipe's text; its input is written below `folder`."""
    source = folder / "in"
    source.mkdir(exist_ok=True)
    for k in range(3):
        rows = [
            json.dumps({"key": str(i), "text": text}) + "\n" for i, text in enumerate(texts) if i % 3 == k
        ]
        (source / f"{k}.jsonl").write_text("".join(rows))
    return (
        "name: planted\ntokenizer: {name: mistral-7b-v0.1}\nsequence: {length: 64}\nlimits: {split_bytes: 8KB}\n"
        f"embeddings: {{default: {{model: '{model}', max_tokens: 64, device: cpu}}}}\n{more}"
        f"sources:\n  s:\n    read: {{format: jsonl, path: '{source}/*.jsonl', key: key}}\n    dedup: {{{dedup}}}\n"
    )


def dropped(out: Path) -> dict[str, set[int]]:
    """Numbers of the documents that each step dropped."""
    found: dict[str, set[int]] = {}
    for path in sorted((out / "dropped" / "s").iterdir()):
        for row in pq.ParquetFile(path).read(["filter", "key"], use_threads=False).to_pylist():
            found.setdefault(row["filter"], set()).add(int(row["key"]))
    return found


def made(folder: Path, text: str, out: str):
    return run(read(text, "r.yaml"), str(folder / out), inline=True, progress=Progress(stream=None))


def test_planted_paraphrases_and_template_pages_are_found(tmp_path, texts, minilm):
    made(tmp_path, recipe(tmp_path, minilm, texts, "semantic: {eps: 0.35, clusters: 4}"), "run")
    gone = dropped(tmp_path / "run")
    number = {text: i for i, text in enumerate(texts)}
    for pair in PARAPHRASES:
        first, second = ({words[i : i + 3] for i in range(len(words) - 2)} for words in map(words_of, pair))
        assert not first & second, "nothing that goes by words finds these"
        assert len({number[text] for text in pair} & gone["semantic"]) == 1, pair
    pages = {number[TEMPLATE.format(name)] for name in NAMES}
    assert len(pages & gone["semantic"]) == len(NAMES) - 1
    planted = pages | {number[text] for pair in PARAPHRASES for text in pair}
    assert len(gone["semantic"] - planted) < 0.4 * len(texts), "docstrings that begin alike, no more"


def test_a_share_is_exact_and_another_one_is_only_cut_anew(tmp_path, texts, minilm):
    text = recipe(tmp_path, minilm, texts, "semantic: {keep_fraction: 0.8}, prototypes: {keep_fraction: 0.5}")
    first = made(tmp_path, text, "run")
    n = len(texts)
    left = -(-n * 8 // 10)
    assert len(dropped(tmp_path / "run")["semantic"]) == n - left
    assert len(dropped(tmp_path / "run")["prototypes"]) == left - -(-left // 2)
    assert first.redone["embeddings.default.s"] > 2
    assert not any(made(tmp_path, text, "run").redone.values())
    elsewhere = text.replace("device: cpu", "device: gpu")
    assert not any(made(tmp_path, elsewhere, "run").redone.values()), "vectors that are stored need no GPU"
    if not Inline().capacity().gpus:
        with pytest.raises(RecipeError, match=r"r.yaml:5:\d+: .*there is none that torch can use"):
            made(tmp_path, elsewhere, "fresh")

    other = made(tmp_path, text.replace("0.8", "0.7"), "run")
    redone = {name for name, tasks in other.redone.items() if tasks}
    assert not {n for n in redone if n.split(".")[0] in
                ("embeddings", "encoder", "semantic-centroids", "semantic-runs", "semantic-scores")}  # fmt: skip
    assert "semantic.s" in redone
    assert len(dropped(tmp_path / "run")["semantic"]) == n - -(-n * 7 // 10)

    facts = json.loads((tmp_path / "run" / "mixture.json").read_text())
    step = next(s for s in facts["dedup"] if s["step"] == "semantic")
    assert (step["compared"], step["dropped"]) == (n, n - -(-n * 7 // 10))
    assert sum(step["clusters"].values()) + step["empty_clusters"] == step["most_clusters"]
    assert abs(step["retention"]["eps_at_share"]["0.7"] - step["eps"]) < 1e-3


def test_a_classifier_keeps_what_is_like_its_examples(tmp_path, texts, minilm):
    (tmp_path / "good.jsonl").write_text(
        "".join(json.dumps({"text": t}) + "\n" for t in other_texts(90)[60:])
    )
    profiles = [
        TEMPLATE.format(name)
        for name in ("Ruth Stone", "Paul Meyer", "Lena Vogel", "Ali Demir", "Eva Horn", "Sam Reed")
    ]
    prose = [second for _, second in PARAPHRASES[:3]]
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in profiles + prose))
    examples = ", ".join(
        f"{kind}: {{x: {{read: {{format: jsonl, path: '{tmp_path}/{name}.jsonl'}}}}}}"
        for kind, name in (("positive", "good"), ("negative", "bad"))
    )
    more = f"embedding_classifiers: {{code: {{head: logistic, heldout: 0.3, {examples}}}}}\n"
    text = (
        recipe(tmp_path, minilm, texts, "exact: true", more)
        + "    quality: [{classifier: code, keep_fraction: 0.8}]\n"
    )
    made(tmp_path, text, "run")
    gone = dropped(tmp_path / "run")["code.keep_fraction"]
    assert len(gone) == len(texts) - -(-len(texts) * 8 // 10)
    pages = {i for i, t in enumerate(texts) if t.startswith("Welcome to the profile")}
    assert pages <= gone
    funnel = json.loads((tmp_path / "run" / "mixture.json").read_text())["sources"][0]
    assert funnel["kept_documents"] == len(texts) - len(gone)


def start(recipe: Path, out: Path, workers: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "winnow.pipelines.command", "run", str(recipe), "--out", str(out), "--workers",
               str(workers), "--json"]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def published(out: Path) -> dict[str, str]:
    """Hashes of the shards, of what was dropped, and of the statistics."""
    roots = [out / "stages" / s["directory"] for s in open_run(str(out)).manifest["streams"]]
    files = [p for root in [out / "dropped", *roots] for p in sorted(root.rglob("*")) if p.is_file()]
    kept = [p for p in [*files, out / "mixture.json"] if "records" not in p.parts]
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in kept}


@pytest.mark.slow
def test_killed_with_two_workers_and_continued_without_any_it_is_the_same(tmp_path, texts, minilm):
    text = recipe(tmp_path, minilm, texts, "semantic: {keep_fraction: 0.8}, prototypes: {keep_fraction: 0.7}")
    made(tmp_path, text, "inline")
    path = tmp_path / "r.yaml"
    path.write_text(text)
    out = tmp_path / "killed"
    driver = start(path, out, 2)
    until = time.monotonic() + 120
    while not list(out.glob("stages/embeddings.*/records/*.json")):
        assert driver.poll() is None, driver.stderr.read()
        assert time.monotonic() < until, "no vectors were made"
        time.sleep(0.02)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    driver.stderr.close()
    continued = made(tmp_path, text, "killed")
    assert continued.redone["embeddings.default.s"] < len(continued.sources["s"].plan.splits)
    assert published(out) == published(tmp_path / "inline")
