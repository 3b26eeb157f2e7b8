"""What does a fastText model say of each document of a batch?

fastText (Joulin et al. 2016, arXiv:1607.01759) reads one line: it splits it at ASCII whitespace and NUL, adds up
the vectors of its words (and of their n-grams), and gives each of its labels a probability. So a document becomes
one line first, and there are two ways to do that, `one_line`; training (classifier_training.py) does the same.

Everything here is fastText's own arithmetic, so its habits are kept: a probability may be 1.00001, a word
"</s>" ends the line, words that begin with "__label__" are not read, and a text without any known word gets what
the model says of an empty line. Letters: n documents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Literal

import numpy as np
import pyarrow as pa
from winnow.filters.model_files import ModelError, ModelFile, sha256_of

Newlines = Literal["space", "remove"]
LABEL = "__label__"
"""What a label's name begins with."""

# str.splitlines cuts at these; of those beyond ASCII, their UTF-8.
_BREAKS = bytes.maketrans(b"\n\r\v\f\x1c\x1d\x1e", b" " * 7)
_WIDE_BREAKS = ("\x85".encode(), "\u2028".encode(), "\u2029".encode())

Prediction = list[tuple[float, str]]
"""(probability, label as the model has it), the likeliest first."""


class FastTextModel:
    """A supervised model in memory; `load` gives each process one copy of it."""

    def __init__(self, file: ModelFile) -> None:
        """Load it. Raises ModelError for a file that is no such model, or whose bytes have changed."""
        # A damaged file makes fastText's loader abort the process or load nonsense: look at the bytes first.
        if (found := sha256_of(file.path)) != file.sha256:
            raise ModelError(
                f"the model file {file.path} has changed: sha256 {found}, expected {file.sha256}"
            )
        import fasttext
        from fasttext.FastText import model_name

        try:
            model = fasttext.load_model(file.path)
        except (ValueError, MemoryError) as error:
            raise ModelError(f"fastText cannot load {file.path}: {error}") from error
        if model.f.getArgs().model != model_name.supervised:
            raise ModelError(f"{file.path} holds word vectors, not a classifier (fastText's `supervised`)")
        self.file = file
        self.labels: tuple[str, ...] = tuple(model.get_labels(on_unicode_error="replace"))
        """Its labels, each with what fastText puts in front, in the model's order."""
        self._predict = model.f.predict

    def label(self, name: str) -> str:
        """The model's label of this name, which may leave out "__label__". Raises ModelError if it has none."""
        for label in (name, LABEL + name):
            if label in self.labels:
                return label
        shown = ", ".join(sorted(label.removeprefix(LABEL) for label in self.labels))
        raise ModelError(f"the model {self.file.path} has no label {name!r}; its labels: {shown}")

    def predict(self, line: bytes, most: int = -1, floor: float = 0.0) -> Prediction:
        """The labels of one line (UTF-8 without a newline): at most `most` (-1: all) of at least probability `floor`.

        Raises ModelError where the model computes no number.
        """
        try:
            return self._predict(line + b"\n", most, floor, "replace")
        except RuntimeError as error:  # "Encountered NaN.": training it had gone wrong
            raise ModelError(f"the model {self.file.path} gives no probability: {error}") from error

    def scores(self, lines: Iterator[bytes], n: int, label: str) -> np.ndarray:
        """The probability of one label for each of n lines, float32[n]; 0 where the model leaves it out.

        Raises ModelError for a label that the model does not have.
        """
        wanted = self.label(label)
        found = (next((p for p, name in self.predict(line) if name == wanted), 0.0) for line in lines)
        return np.fromiter(found, np.float32, n)


@cache
def load(file: ModelFile) -> FastTextModel:
    """The model of a file, loaded at the first call in a process and kept: it takes about the file's size in memory."""
    return FastTextModel(file)


def one_line(text: bytes, newlines: Newlines) -> bytes:
    """A text (UTF-8) without newlines, and without whitespace around it.

    space  : ``" ".join(text.strip().splitlines())``, as DCLM scores (but two spaces stand for "\\r\\n", which is
        the same to fastText).
    remove : ``text.strip().replace("\\n", "")``, datatrove's default, which joins the words around a newline.
    """
    line = _strip(text)
    if newlines == "remove":
        return line.replace(b"\n", b"")
    line = line.translate(_BREAKS)
    for wide in _WIDE_BREAKS:
        if wide in line:
            line = line.replace(wide, b" ")
    return line


def _strip(text: bytes) -> bytes:
    """As ``str.strip`` does; bytes.strip knows fewer kinds of whitespace."""
    line = text.strip()
    if line and (_beyond(line[0]) or _beyond(line[-1])):
        return line.decode().strip().encode()
    return line


def _beyond(byte: int) -> bool:
    return byte >= 0x80 or 0x1C <= byte < 0x20


def lines(texts: pa.LargeStringArray, to_line: Callable[[bytes], bytes]) -> Iterator[bytes]:
    """Each text as a line, one at a time: a document's bytes are copied once, and never decoded.

    Raises
    ------
    ValueError
        A text is null.
    """
    if texts.null_count:
        raise ValueError(f"texts must have no nulls; {texts.null_count} of {len(texts)} are null")
    for text in texts.cast(pa.large_binary()):
        yield to_line(text.as_py())
