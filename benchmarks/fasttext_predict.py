"""Language identification and a quality classifier: Winnow's measures against a plain loop over fastText's `predict`.

    python benchmarks/fasttext_predict.py CORPORA MODEL [--mb 120] [--rounds 3]

CORPORA is a folder of folders of `*.jsonl.zst` files with a column `text`, MODEL fastText's lid.176.bin or
lid.176.ftz. The classifier has DCLM's options and is trained here, on 2,000 documents of `instruct` and
`textbooks` against 2,000 of `low_quality`. The loop gets Python strings and does what DCLM's and datatrove's do:
makes each a line and asks for it; Winnow gets Arrow batches. First both sides have to give the same labels and
scores. Then each runs over all documents, in a process of its own, the sides in turn. Counted is the user CPU of
predicting alone, not of reading, decoding to strings or loading models; and the largest memory of the process.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import fasttext
import numpy as np
import pyarrow as pa
from corpus import PROSE, machine, texts_of
from winnow.filters.classifier_training import TrainingOptions, train, write_examples
from winnow.filters.language import Language
from winnow.filters.model_files import find
from winnow.filters.quality import Quality

BATCH_BYTES = 4 << 20
TASKS = ("language", "classifier")
SIDES = ("winnow", "loop")
Answers = tuple[list[str], np.ndarray]
"""Labels (none of the classifier) and scores."""


def winnow_side(task: str, model: str) -> Callable[[pa.RecordBatch], Answers]:
    """Winnow's measure of a batch."""
    file = find(model)
    settings: Any = Language(model=model) if task == "language" else Quality(model=model, as_="quality")
    (measure,) = settings.with_file(file.path, file.sha256).measures()

    def answers(batch: pa.RecordBatch) -> Answers:
        found = measure.measure(batch)
        if task == "language":
            return found["language"].to_pylist(), found["language_score"]
        return [], found["fasttext.quality"]

    return answers


def loop_side(task: str, model: str) -> Callable[[list[str]], Answers]:
    """The loop over a list of strings."""
    loaded = fasttext.load_model(model)

    def languages(texts: list[str]) -> Answers:
        found = [loaded.predict(text.replace("\n", " ")) for text in texts]
        return [names[0].removeprefix("__label__") for names, _ in found], np.array([p[0] for _, p in found])

    def scores(texts: list[str]) -> Answers:
        found = []
        for text in texts:
            (label,), (p,) = loaded.predict(" ".join(text.strip().splitlines()))
            found.append(p if label == "__label__hq" else 1 - p)
        return [], np.array(found)

    return languages if task == "language" else scores


def batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
        yield from stream


def run_side(side: str, task: str, model: str, path: Path) -> dict[str, float]:
    """One pass of one side over all documents: user CPU seconds of predicting, and the process's peak memory."""
    ours = side == "winnow"
    answers: Callable[[Any], Answers] = (winnow_side if ours else loop_side)(task, model)
    answers(
        pa.record_batch({"text": pa.array(["once"], pa.large_string())}) if ours else ["once"]
    )  # loads it
    seconds = 0.0
    for batch in batches(path):
        texts: Any = batch if ours else batch.column("text").to_pylist()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        answers(texts)
        seconds += resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
    return {"seconds": seconds, "peak_mb": peak_mb()}


def check_that_sides_agree(task: str, model: str, path: Path) -> None:
    """Raises AssertionError where they do not, on the first batches."""
    ours, loop = winnow_side(task, model), loop_side(task, model)
    for batch, _ in zip(batches(path), range(4), strict=False):
        (labels, scores), (expected, wanted) = ours(batch), loop(batch.column("text").to_pylist())
        assert labels == expected
        # DCLM's 1 - p of the other label is not quite the label's own p.
        np.testing.assert_allclose(scores, wanted, atol=0 if task == "language" else 1e-4)


def write_documents(corpora: Path, path: Path, megabytes: float) -> int:
    """Write documents as Arrow batches of a few MB; returns the bytes of text."""
    schema = pa.schema([("text", pa.large_string())])
    size, held, held_bytes = 0, [], 0
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
        for text in texts_of(corpora, (*PROSE, "web_docs_multi", "books_multi")):
            held.append(text)
            held_bytes += len(text.encode())
            if held_bytes >= BATCH_BYTES:
                stream.write_batch(pa.record_batch([pa.array(held, pa.large_string())], schema=schema))
                size, held, held_bytes = size + held_bytes, [], 0
            if size >= megabytes * 1e6:
                break
    return size


def peak_mb() -> float:
    """The largest memory of this process. (Its maxrss would count what its parent had before it was started.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def train_classifier(corpora: Path, folder: Path) -> Path:
    """A classifier of few examples, as large as one of many."""
    files = []
    for label, folders in (("hq", ("instruct", "textbooks")), ("cc", ("low_quality",))):
        files.append(folder / f"{label}.txt")
        write_examples(files[-1], islice(texts_of(corpora, folders), 2000), label)
    train(files, folder / "quality.bin", TrainingOptions())
    return folder / "quality.bin"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpora", type=Path)
    parser.add_argument("model")
    parser.add_argument("--mb", type=float, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="winnow-bench-") as name:
        folder = Path(name)
        documents = folder / "documents.arrow"
        size = write_documents(args.corpora, documents, args.mb)
        models = {"language": args.model, "classifier": str(train_classifier(args.corpora, folder))}
        print(
            f"{machine()}\n{size / 1e6:.1f} MB of text, {args.rounds} rounds; medians (lowest to highest)\n"
        )
        print("| task | side | MB/s per core of user CPU | peak memory, MB |\n| --- | --- | ---: | ---: |")
        for task in TASKS:
            check_that_sides_agree(task, models[task], documents)
            measured: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
            for _ in range(args.rounds):
                for side in SIDES:
                    command = [sys.executable, __file__, "--side", side, task, models[task], str(documents)]
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                    measured[side].append(json.loads(done.stdout))
            for side in SIDES:
                speeds = sorted(size / 1e6 / one["seconds"] for one in measured[side])
                peak = max(one["peak_mb"] for one in measured[side])
                spread = f"{statistics.median(speeds):.1f} ({speeds[0]:.1f} to {speeds[-1]:.1f})"
                print(f"| {task} | {side} | {spread} | {peak:.0f} |")
            ratios = [b["seconds"] / a["seconds"] for a, b in zip(*measured.values(), strict=True)]
            print(f"| {task} | winnow / loop | {statistics.median(ratios):.3f} | |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        print(json.dumps(run_side(*sys.argv[2:5], Path(sys.argv[5]))))
    else:
        main()
