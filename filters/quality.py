"""How good is a document by a classifier: a fastText model's score, kept by a bound or by a share.

DCLM (Li et al. 2024, arXiv:2406.11794) trains fastText on text that people wrote to be useful against random web
pages, and keeps the tenth of documents that scores highest: ``keep_fraction: 0.1``. Any supervised fastText model
will do, also one that the recipe trains (classifier_training.py). The score is the probability of one label.
DCLM takes ``1 - p`` of the other label where that one is likelier: with two labels the same to about 2e-5,
because fastText's probabilities add up to 1.00002.

`fasttext-paragraphs` judges each paragraph for itself and takes out those below the bound: what datatrove 0.9.0
calls the PARAGRAPH mode of its FastTextClassifierFilter. `scores` keeps documents by a weighted sum of signals,
so of several classifiers. Letters: n documents.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator
from winnow.filters.model_files import ModelError, ModelFile
from winnow.filters.rewriting import Rewritten
from winnow.filters.rules import Rule, Score, Signal

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_CHOSEN = "chosen in the recipe"
_SETTINGS = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)
SIGNAL_NAME = re.compile(r"[A-Za-z0-9_-]+")
"""What `as` may be: the name of a signal after the filter's own."""


def bounds(prefix: str, score: Score, limits: Bounds) -> tuple[Rule, ...]:
    """The rules `<prefix>.min_score`, `.max_score` and `.keep_fraction`, of those that are not None."""
    found = []
    if limits.min_score is not None:
        name = f"{prefix}.min_score"
        found.append(Rule(name=name, score=score, minimum=limits.min_score, source=_CHOSEN))
    if limits.max_score is not None:
        name = f"{prefix}.max_score"
        found.append(Rule(name=name, score=score, maximum=limits.max_score, source=_CHOSEN))
    if limits.keep_fraction is not None:
        name = f"{prefix}.keep_fraction"
        found.append(Rule(name=name, score=score, fraction=limits.keep_fraction, source=_CHOSEN))
    return tuple(found)


class Bounds(BaseModel):
    """Bounds on a score. A bound itself passes; None is no bound, and a fraction goes alone."""

    model_config = _SETTINGS

    min_score: float | None = None
    """Lowest score that passes."""
    max_score: float | None = None
    """Highest score that passes."""
    keep_fraction: float | None = Field(None, gt=0, le=1)
    """Share of the source's documents that pass, those with the highest scores. DCLM: 0.1."""

    @model_validator(mode="after")
    def _bounds_leave_room(self) -> Self:
        low, high = self.min_score, self.max_score
        if self.keep_fraction is not None and (low is not None or high is not None):
            raise ValueError("keep_fraction goes without min_score and max_score")
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_score ({low}) is above max_score ({high}): nothing would pass")
        return self


class Quality(Bounds):
    """Keeps documents by the probability that a fastText model gives to one label.

    The signal is ``fasttext.<as>``, and the rules are ``fasttext.<as>.min_score`` and so on. Without a bound it
    drops nothing: the score is stored, and the filter `scores` can use it. A text of which the model knows no
    word is scored by what the model says of an empty line.
    """

    name: ClassVar[str] = "fasttext"

    model: str
    """A path of a fastText model (.bin or .ftz), or the name of a classifier that the recipe trains."""
    label: str = "hq"
    """The label whose probability is the score, with or without `__label__`. DCLM's is `hq`."""
    as_: str | None = Field(None, alias="as")
    """The signal's name after `fasttext.`; None: the model's, without `.bin` or `.ftz`."""
    newlines: Literal["space", "remove"] = "space"
    """How a text becomes the one line that fastText reads: `space` as in DCLM, `remove` as in datatrove."""

    _file: ModelFile | None = PrivateAttr(None)

    @field_validator("as_")
    @classmethod
    def _signal_can_be_named_so(cls, name: str | None) -> str | None:
        return checked_name(name)

    @property
    def signal(self) -> str:
        """The name of its signal."""
        return f"{self.name}.{self.as_ or stem(self.model)}"

    @property
    def file(self) -> ModelFile | None:
        """What `with_file` gave; None before."""
        return self._file

    def with_file(self, location: str, sha256: str) -> Self:
        """The same settings, knowing where the model's file is and what it holds."""
        copy = self.model_copy()
        copy._file = ModelFile(location, sha256)
        return copy

    def measures(self) -> tuple[QualityScores, ...]:
        """The one measure; without a file it can say its columns, and no more."""
        label = self.label.removeprefix("__label__")
        return (QualityScores(self.model, self._file, label, self.signal, self.newlines),)

    def rules(self) -> tuple[Rule, ...]:
        """One for each bound; none is possible."""
        return bounds(self.signal, Signal(self.signal), self)


@dataclass(frozen=True, slots=True)
class QualityScores:
    """Measures the probability of one label: one signal, float32."""

    model: str
    file: ModelFile | None
    label: str
    signal: str
    newlines: Literal["space", "remove"]

    @property
    def columns(self) -> Mapping[str, str]:
        return {self.signal: "float32"}

    def identity(self) -> Any:
        return [_found(self.file, self.signal).sha256, self.label, self.newlines]

    def measure(self, documents: pa.RecordBatch) -> Mapping[str, np.ndarray]:
        """Raises ModelError where the model cannot be loaded, or does not have the label."""
        from winnow.filters.fasttext_model import lines, load, one_line

        texts = documents.column("text")
        model = load(_found(self.file, self.signal))
        one_per_text = lines(texts, lambda text: one_line(text, self.newlines))
        return {self.signal: model.scores(one_per_text, len(texts), self.label)}


class QualityParagraphs(BaseModel):
    """Takes out of each document the paragraphs that score below a bound.

    A paragraph is a line that is not blank, with the blank lines after it (datatrove's; blank lines at the very
    beginning belong to the first); lines end where ``str.splitlines`` says. What is left keeps its line endings,
    where datatrove turns all of them into "\\n" and loses the last. Signals: ``fasttext-paragraphs.kept``, how many
    are left, ``fasttext-paragraphs.removed``, and ``fasttext-paragraphs.score``, the mean score of all, weighted by
    characters (NaN without any). A document of which too few are left is dropped, by ``….min_paragraphs``.
    """

    model_config = _SETTINGS
    name: ClassVar[str] = "fasttext-paragraphs"
    columns: ClassVar[dict[str, str]] = {
        "fasttext-paragraphs.kept": "uint32",
        "fasttext-paragraphs.removed": "uint32",
        "fasttext-paragraphs.score": "float32",
    }

    model: str
    """A path of a fastText model (.bin or .ftz), or the name of a classifier that the recipe trains."""
    label: str = "hq"
    """The label whose probability is the score, with or without `__label__`."""
    min_score: float
    """Lowest score of a paragraph that stays."""
    min_paragraphs: int | None = Field(1, ge=0)
    """How many a document must keep; None drops none, also not those that are left empty."""
    newlines: Literal["space", "remove"] = "space"
    """How a paragraph becomes one line, as for the filter `fasttext`."""

    _file: ModelFile | None = PrivateAttr(None)

    @property
    def file(self) -> ModelFile | None:
        """What `with_file` gave; None before."""
        return self._file

    def with_file(self, location: str, sha256: str) -> Self:
        """The same settings, knowing where the model's file is and what it holds."""
        copy = self.model_copy()
        copy._file = ModelFile(location, sha256)
        return copy

    def identity(self) -> Any:
        """What the texts depend on: the model's bytes and the settings, but for the rule."""
        sha256 = _found(self._file, self.name).sha256
        return [sha256, self.label.removeprefix("__label__"), self.min_score, self.newlines]

    def rules(self) -> tuple[Rule, ...]:
        """One, or none where `min_paragraphs` is None."""
        if self.min_paragraphs is None:
            return ()
        score, name = Signal(f"{self.name}.kept"), f"{self.name}.min_paragraphs"
        return (Rule(name=name, score=score, minimum=self.min_paragraphs, source="datatrove 0.9.0 for 1"),)

    def rewrite(self, documents: pa.RecordBatch) -> Rewritten:
        """The texts without their bad paragraphs.

        Memory: the batch once more as Python strings, if anything is taken out. Raises ModelError where the model
        cannot be loaded, or does not have the label.
        """
        import numpy as np
        import pyarrow as pa
        from winnow.filters.fasttext_model import load, one_line

        texts = documents.column("text")
        model = load(_found(self._file, self.name))
        shorter_by = np.zeros(len(texts), np.int64)
        kept, removed = np.zeros(len(texts), np.uint32), np.zeros(len(texts), np.uint32)
        means = np.full(len(texts), np.nan, np.float32)
        new: list[str] = []
        for i, text in enumerate(texts):
            parts = paragraphs(text.as_py())
            one_per_part = (one_line(part.encode(), self.newlines) for part in parts)
            scores = model.scores(one_per_part, len(parts), self.label)
            sizes = np.fromiter(map(len, parts), np.int64, len(parts))
            stays = scores.astype(np.float64) >= self.min_score
            kept[i], removed[i] = stays.sum(), (~stays).sum()
            shorter_by[i] = sizes[~stays].sum()
            if len(parts):
                means[i] = (scores * sizes).sum() / sizes.sum()
            new.append("".join(part for part, stay in zip(parts, stays, strict=True) if stay))
        signals = dict(zip(self.columns, (kept, removed, means), strict=True))
        if not removed.any():
            return Rewritten(texts, shorter_by, signals)
        return Rewritten(pa.array(new, pa.large_string()), shorter_by, signals)


def paragraphs(text: str) -> list[str]:
    """Cut a text into paragraphs, as `QualityParagraphs` says; joined they are the text. None in an empty one."""
    found: list[list[str]] = []
    opened = False
    for line in text.splitlines(keepends=True):
        blank = not line.strip()
        if not found or (not blank and opened):
            found.append([])
            opened = False
        found[-1].append(line)
        opened = opened or not blank
    return ["".join(part) for part in found]


class Scores(Bounds):
    """Keeps documents by a weighted sum of signals that earlier filters gave, for example of two classifiers.

    The signals have to be of the same text: a filter that rewrites must not come in between. A document without
    a value for one of them (NaN) has no sum, and passes. The rules are ``scores.min_score`` and so on.
    """

    name: ClassVar[str] = "scores"

    weights: dict[str, float] = Field(min_length=1)
    """Signal -> its weight."""

    @model_validator(mode="after")
    def _has_a_bound(self) -> Self:
        if self.min_score is None and self.max_score is None and self.keep_fraction is None:
            raise ValueError("scores needs min_score, max_score or keep_fraction")
        return self

    def rules(self) -> tuple[Rule, ...]:
        """One for each bound."""
        score = WeightedSum(tuple(self.weights.items()))
        return bounds(self.name, score, self)


@dataclass(frozen=True, slots=True)
class WeightedSum:
    """The score that is a sum of signals, each times its weight; NaN where one of them is."""

    weights: tuple[tuple[str, float], ...]

    @property
    def signals(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.weights)

    def __call__(self, signals: Mapping[str, np.ndarray]) -> np.ndarray:
        import numpy as np

        # In the order of the recipe: floating-point sums depend on it.
        total = np.zeros(len(signals[self.weights[0][0]]))
        for name, weight in self.weights:
            total += weight * np.asarray(signals[name], np.float64)
        return total


def checked_name(name: str | None) -> str | None:
    """A signal's name as `as` gives it. Raises ValueError where it has other characters than `SIGNAL_NAME`."""
    if name is not None and not SIGNAL_NAME.fullmatch(name):
        raise ValueError(f"`as` may have letters, digits, '_' and '-', not {name!r}")
    return name


def stem(model: str) -> str:
    """A model's name as signals have it."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", re.sub(r"\.(bin|ftz)$", "", PurePath(model).name))


def _found(file: ModelFile | None, name: str) -> ModelFile:
    if file is None:
        raise ModelError(f"no model file was given to the filter {name!r}")
    return file
