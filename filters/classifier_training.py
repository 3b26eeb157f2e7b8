"""How is a quality classifier trained, and how well does it tell good documents from others?

The model is fastText's supervised one, with DCLM's options as defaults (Li et al. 2024, arXiv:2406.11794,
appendix J: word bigrams, all else fastText's own defaults). Examples are files of one labelled line each, made
by the same function that makes the line that is scored later. fastText learns from them in the order of the file,
its rate falling to 0 at the end, so `train` first brings them into a random order, which depends on the seed
alone.

With one thread the same examples, options and fastText give the same bytes; with more, threads write into one
matrix without a lock, and no two models are equal. Memory while training: 4 bytes x dim x (buckets + different
words), 0.8 GB for the defaults and no word at all; the model's file is as large. Examples are not held in
memory, only 18 bytes for each while they are put in order.
"""

from __future__ import annotations

import errno
import math
import os
import re
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field
from winnow.filters.model_files import ModelFile

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Texts: TypeAlias = pa.LargeStringArray | Iterable[str] | Iterable[pa.LargeStringArray]
    Newlines: TypeAlias = Literal["space", "remove"]

POSITIVE, NEGATIVE = "hq", "cc"
"""DCLM's labels; fastText puts "__label__" in front."""

# What fastText would take for a label: a word that begins so, after its kinds of whitespace.
_LABELS_IN_TEXT = re.compile(rb"(?:^|(?<=[\0\t\r\v\f ]))__label__[^\0\t\r\v\f ]*")
_END_OF_LINE = "</s>"
"""fastText's word for it."""
_CURVE_STEPS = 50
_SHARES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_BATCH = 1000
"""Strings that are looked at together."""


class TrainingError(ValueError):
    """The examples or the options give no model; the text says what to change."""


class TrainingOptions(BaseModel):
    """fastText's options, with DCLM's values."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    word_ngrams: int = Field(2, ge=1)
    """Words in a row that are a feature, up to so many."""
    learning_rate: float = Field(0.1, gt=0)
    """At the first example; it falls to 0 in a straight line."""
    dim: int = Field(100, ge=1)
    """Numbers in a word's vector."""
    epochs: int = Field(5, ge=1)
    """How often each example is seen."""
    buckets: int = Field(2_000_000, ge=1)
    """Vectors that word n-grams share, by hash. Not used where `word_ngrams` is 1."""
    min_count: int = Field(1, ge=1)
    """How often a word must occur to get a vector."""
    threads: int = Field(1, ge=1)
    """More than one is faster, and the model is then another one each time."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Of the first values of the vectors, and of the order of the examples."""
    newlines: Literal["space", "remove"] = "space"
    """How a text becomes one line; a model is to be applied with what it was trained with."""


def write_examples(path: str | Path, texts: Texts, label: str, newlines: Newlines = "space") -> int:
    """Write a line for each text that is not blank, labelled; returns how many there are.

    Words of a text that fastText would take for a label are left out: it does not read them in scoring either.
    A word "</s>" ends the line for fastText, here as in scoring.
    """
    from winnow.filters.fasttext_model import LABEL, lines, one_line

    head = f"{LABEL}{label} ".encode()
    written = 0
    with open(path, "wb") as file:
        for batch in _batches(texts):
            for line in lines(batch, lambda text: one_line(text, newlines)):
                words = _LABELS_IN_TEXT.sub(b"", line) if LABEL.encode() in line else line
                if words.strip(b"\0\t\r\v\f "):
                    file.write(head + words + b"\n")
                    written += 1
    return written


def train(examples: Sequence[str | Path], model: str | Path, options: TrainingOptions) -> dict[str, Any]:
    """Train on files of `write_examples`, put the model's file at `model`, and say what it is made of.

    Beside it, room for all examples once more is needed for a while. Returns, as JSON can say it: `options`,
    `fasttext` (package and version), `examples` (label -> number), `words` (different ones), `bytes` (the file's).

    Raises
    ------
    TrainingError
        There are not two labels at least, no word, or not enough memory; or the numbers overflow.
    """
    from importlib.metadata import version

    import fasttext
    from winnow.filters.fasttext_model import LABEL

    with tempfile.TemporaryDirectory(prefix=".training-", dir=Path(model).parent) as folder:
        shuffled = Path(folder) / "examples.txt"
        counts = shuffle_examples(examples, shuffled, options.seed)
        if len(counts) < 2:
            found = ", ".join(f"{n} of {label!r}" for label, n in counts.items()) or "none"
            raise TrainingError(f"a classifier needs examples of two labels at least; there are {found}")
        try:
            trained = fasttext.train_supervised(
                input=str(shuffled),
                wordNgrams=options.word_ngrams,
                lr=options.learning_rate,
                dim=options.dim,
                epoch=options.epochs,
                bucket=options.buckets,
                minCount=options.min_count,
                thread=options.threads,
                seed=options.seed,
                label=LABEL,
                loss="softmax",
                verbose=0,
            )
        except (RuntimeError, ValueError, MemoryError) as error:
            raise TrainingError(_why(error, options)) from error
    # Asked of the matrix: a list of all words could be larger than the model.
    words = len(memoryview(trained.f.getInputMatrix())) - trained.f.getArgs().bucket
    words -= trained.f.getWordId(_END_OF_LINE) >= 0
    if not words:
        raise TrainingError(
            f"no word occurs min_count ({options.min_count}) times in the examples; lower min_count"
        )
    trained.save_model(str(model))
    _check_written(memoryview(trained.f.getOutputMatrix()).tobytes(), model)
    return {
        "options": options.model_dump(mode="json"),
        "fasttext": f"fasttext-community {version('fasttext-community')}",
        "examples": counts,
        "words": int(words),
        "bytes": os.path.getsize(model),
    }


def _check_written(matrix: bytes, model: str | Path) -> None:
    """See that a model's file has the matrix it ends with: fastText does not look whether it could be written.

    Raises OSError.
    """
    end = matrix[-4096:]
    with open(model, "rb") as file:
        file.seek(max(0, os.path.getsize(model) - len(end)))
        if file.read() != end:
            raise OSError(errno.ENOSPC, f"{model}: fastText could not write the whole model")


def _why(error: Exception, options: TrainingOptions) -> str:
    if isinstance(error, MemoryError):
        least = 4e-9 * options.dim * options.buckets
        return f"not enough memory: dim x buckets alone take {least:.1f} GB; lower one of them"
    if "NaN" in str(error):
        return (
            f"training diverged: numbers overflowed at learning_rate {options.learning_rate}; "
            f"lower it, or give more examples"
        )
    return f"fastText cannot train: {error}"


def shuffle_examples(examples: Sequence[str | Path], out: str | Path, seed: int) -> dict[str, int]:
    """Copy all lines of all files to `out` in a random order; label -> number of lines, sorted by label.

    The order depends on the number of lines, the order of the files, and the seed. Memory: 18 bytes per line.
    """
    import numpy as np
    from winnow.filters.fasttext_model import LABEL

    files, starts, counts = array("H"), array("q"), dict[bytes, int]()
    for at, path in enumerate(examples):
        offset = 0
        with open(path, "rb") as file:
            for line in file:
                files.append(at)
                starts.append(offset)
                offset += len(line)
                label = line.split(b" ", 1)[0]
                counts[label] = counts.get(label, 0) + 1
    order = np.random.default_rng(seed).permutation(len(starts))
    with ExitStack() as opened:
        sources = [opened.enter_context(open(path, "rb")) for path in examples]
        shuffled = opened.enter_context(open(out, "wb"))
        for at in order:
            source = sources[files[at]]
            source.seek(starts[at])
            shuffled.write(source.readline())
    return {label.decode().removeprefix(LABEL): n for label, n in sorted(counts.items())}


def evaluate(
    model: ModelFile,
    positives: Texts,
    negatives: Texts,
    label: str = POSITIVE,
    newlines: Newlines = "space",
) -> dict[str, Any]:
    """Score texts that training has not seen, and report how well `label` is told from the rest.

    Returns what `report` does. Memory: the model, and 4 bytes per text. Raises ModelError.
    """
    from winnow.filters.fasttext_model import FastTextModel

    loaded = FastTextModel(model)  # not `load`, which would keep it for the life of the process
    return report(_scores(loaded, positives, label, newlines), _scores(loaded, negatives, label, newlines))


def _scores(model: Any, texts: Texts, label: str, newlines: Newlines) -> np.ndarray:
    import numpy as np
    from winnow.filters.fasttext_model import lines, one_line

    def to_line(text: bytes) -> bytes:
        return one_line(text, newlines)

    found = [model.scores(lines(batch, to_line), len(batch), label) for batch in _batches(texts)]
    return np.concatenate([np.zeros(0, np.float32), *found])


def report(positives: np.ndarray, negatives: np.ndarray) -> dict[str, Any]:
    """What two arrays of scores say of a classifier, as JSON can say it.

    positives, negatives : how many there are. Precision depends on their proportion.
    at_half : `precision`, `recall`, `f1` where documents are kept that score 0.5 or more.
    roc_auc : probability that a positive scores above a negative, a tie counting half; exact, by ranks.
    curve : for up to 51 thresholds, each 2 % of all scores apart: `threshold`, `kept` (share of all documents),
        `precision`, `recall`.
    keeping : for each of several shares, the threshold that keeps it `of_positives` and `of_negatives`: the
        highest score that at least so large a share reaches.

    What has no value is None: precision where nothing is kept, and all but the counts where a side is empty.
    """
    import numpy as np

    found: dict[str, Any] = {"positives": len(positives), "negatives": len(negatives)}
    if not len(positives) or not len(negatives):
        return found | {"at_half": None, "roc_auc": None, "curve": None, "keeping": None}
    positives, negatives = (np.sort(side.astype(np.float64)) for side in (positives, negatives))
    every = np.sort(np.concatenate([positives, negatives]))
    places = np.linspace(0, len(every) - 1, _CURVE_STEPS + 1).round().astype(np.int64)
    curve = [_at(threshold, positives, negatives) for threshold in np.unique(every[places])]
    at_half = _at(0.5, positives, negatives)
    return found | {
        "at_half": {key: at_half[key] for key in ("precision", "recall", "f1")},
        "roc_auc": roc_auc(positives, negatives),
        "curve": [{key: row[key] for key in ("threshold", "kept", "precision", "recall")} for row in curve],
        "keeping": [
            {
                "share": share,
                "of_positives": _keeping(positives, share),
                "of_negatives": _keeping(negatives, share),
            }
            for share in _SHARES
        ],
    }


def roc_auc(positives: np.ndarray, negatives: np.ndarray) -> float:
    """The area under the ROC curve of two sides that are not empty: Mann and Whitney's U over their product."""
    import numpy as np

    _, where, counts = np.unique(
        np.concatenate([positives, negatives]), return_inverse=True, return_counts=True
    )
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[where[: len(positives)]]
    n, m = len(positives), len(negatives)
    return float((ranks.sum() - n * (n + 1) / 2) / (n * m))


def _at(threshold: float, positives: np.ndarray, negatives: np.ndarray) -> dict[str, Any]:
    """What keeping the documents that score `threshold` or more does; both sides sorted."""
    import numpy as np

    right = len(positives) - int(np.searchsorted(positives, threshold))
    wrong = len(negatives) - int(np.searchsorted(negatives, threshold))
    kept, recall = right + wrong, right / len(positives)
    precision = right / kept if kept else None
    return {
        "threshold": float(threshold),
        "kept": kept / (len(positives) + len(negatives)),
        "precision": precision,
        "recall": recall,
        "f1": 2 * right / (kept + len(positives)),
    }


def _keeping(side: np.ndarray, share: float) -> float:
    """The highest score of a sorted side that at least `share` of it reaches."""
    return float(side[-math.ceil(share * len(side))])


def _batches(texts: Texts) -> Iterator[pa.LargeStringArray]:
    """Texts as arrays, as they come: one array as it is, arrays one by one, strings by the thousand."""
    import pyarrow as pa

    if isinstance(texts, pa.LargeStringArray):
        yield texts
        return
    left: Iterator[Any] = iter(texts)
    for first in left:
        if isinstance(first, pa.LargeStringArray):
            yield first
        else:
            yield pa.array([first, *islice(left, _BATCH - 1)], pa.large_string())
