"""Which language is a document in, and how sure is that?

fastText's lid.176 knows 176 languages by their ISO 639 codes (Joulin et al. 2016). A document is dropped when
the language asked for, or any language, scores below 0.65: the bound of datatrove 0.9.0's LanguageFilter, which
FineWeb uses, and of DCLM (``baselines_configs/dclm_baseline_refinedweb.yaml``). datatrove wants more than 0.65
where here the bound itself passes; text goes to the model as there, each "\\n" a space.

Without a file there is py3langid, whose model is inside its package; it reads text byte by byte in Python, so
`prefix_chars` matters for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator
from winnow.filters.model_files import ModelError, ModelFile
from winnow.filters.rules import Rule, Signal

if TYPE_CHECKING:
    import pyarrow as pa

PY3LANGID = "py3langid"
"""What `model` says for the package of this name in place of a file."""

FLOOR = 0.01
"""Languages less probable than this are not looked at: their scores are 0."""

UNKNOWN = "und"
"""The language where the model says nothing: ISO 639-2's code for "undetermined"."""

Ranking = list[tuple[float, str]]
"""(probability, language), the likeliest first."""


class Language(BaseModel):
    """Keeps documents in the languages of `keep`, or in any language that is certain enough.

    Signals: `language` and `language_score`, the likeliest one; with `keep` also `language_keep_score`, the
    highest score among those asked for, which is what decides; with `top_k` above 1 `language_top`, the first of
    them as JSON, code -> probability. The rule is ``language.min_score``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: ClassVar[str] = "language"

    keep: tuple[str, ...] | None = None
    """Languages to keep, as the model calls them: ISO 639 codes like `en`. None keeps every language."""
    min_score: float | None = Field(0.65, ge=0, le=1)
    """Lowest score that passes; None drops nothing, and stores the signals. Below 0.01 scores are 0."""
    model: str = "lid.176.bin"
    """`lid.176.bin` (126 MB), `lid.176.ftz` (0.9 MB, a little less accurate), the path of any fastText model whose
    labels are languages, or `py3langid`."""
    prefix_chars: int | None = Field(None, ge=1)
    """How many characters of a text are looked at; None: all."""
    top_k: int = Field(1, ge=1)
    """How many of the likeliest languages are stored."""

    _file: ModelFile | None = PrivateAttr(None)

    @field_validator("keep")
    @classmethod
    def _languages_are_named(cls, keep: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if keep is not None and (not keep or not all(keep) or len(set(keep)) < len(keep)):
            raise ValueError("keep names at least one language, each once; leave it out to keep all")
        return keep

    @model_validator(mode="after")
    def _keep_has_a_bound(self) -> Language:
        if self.keep is not None and self.min_score is None:
            raise ValueError("keep without min_score would keep every language")
        return self

    @property
    def wants_file(self) -> bool:
        """Whether it needs `with_file`."""
        return self.model != PY3LANGID

    @property
    def file(self) -> ModelFile | None:
        """What `with_file` gave; None before."""
        return self._file

    def with_file(self, location: str, sha256: str) -> Self:
        """The same settings, knowing where the model's file is and what it holds."""
        copy = self.model_copy()
        copy._file = ModelFile(location, sha256)
        return copy

    def measures(self) -> tuple[LanguageScores, ...]:
        """The one measure; without a file it can say its columns, and no more."""
        return (LanguageScores(self._file, self.wants_file, self.keep, self.prefix_chars, self.top_k),)

    def rules(self) -> tuple[Rule, ...]:
        """One rule, or none where `min_score` is None."""
        if self.min_score is None:
            return ()
        score = Signal("language_keep_score" if self.keep else "language_score")
        source = "datatrove 0.9.0 LanguageFilter, DCLM"
        rule = Rule(
            name=f"{self.name}.min_score",
            score=score,
            minimum=self.min_score,
            detail="language",
            source=source,
        )
        return (rule,)


@dataclass(frozen=True, slots=True)
class LanguageScores:
    """Measures languages; see `Language` for its signals."""

    file: ModelFile | None
    wants_file: bool
    keep: tuple[str, ...] | None
    prefix_chars: int | None
    top_k: int

    @property
    def columns(self) -> Mapping[str, str]:
        columns = {"language": "string", "language_score": "float32"}
        if self.keep is not None:
            columns["language_keep_score"] = "float32"
        if self.top_k > 1:
            columns["language_top"] = "string"
        return columns

    def identity(self) -> Any:
        keep = sorted(self.keep) if self.keep is not None else None
        model = {"sha256": self._found().sha256} if self.wants_file else {PY3LANGID: _py3langid_version()}
        return [model, keep, self.prefix_chars, self.top_k]

    def measure(self, documents: pa.RecordBatch) -> Mapping[str, Any]:
        """Raises ModelError where the model cannot be loaded, or does not know a language of `keep`."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        texts = documents.column("text")
        if self.prefix_chars is not None:
            texts = pc.utf8_slice_codeunits(texts, 0, self.prefix_chars)
        rankings = self._rankings(texts)
        best, tops = [], []
        scores = np.zeros(len(texts), np.float32)
        kept = np.zeros(len(texts), np.float32)
        asked = frozenset(self.keep or ())
        for i, ranking in enumerate(rankings):
            scores[i], language = ranking[0] if ranking else (0.0, UNKNOWN)
            best.append(language)
            kept[i] = next((score for score, name in ranking if name in asked), 0.0)
            if self.top_k > 1:
                tops.append(json.dumps({name: round(score, 4) for score, name in ranking[: self.top_k]}))
        found: dict[str, Any] = {"language": pa.array(best, pa.string()), "language_score": scores}
        if self.keep is not None:
            found["language_keep_score"] = kept
        if self.top_k > 1:
            found["language_top"] = pa.array(tops, pa.string())
        return found

    def _rankings(self, texts: pa.LargeStringArray) -> Iterator[Ranking]:
        if not self.wants_file:
            identifier = _py3langid()
            _check_languages(self.keep or (), identifier.labels, PY3LANGID)
            return _ranked_by_py3langid(identifier.rank, texts)
        from winnow.filters.fasttext_model import LABEL, lines, load

        model = load(self._found())
        known = {label: label.removeprefix(LABEL) for label in model.labels}
        _check_languages(self.keep or (), known.values(), model.file.path)
        most = 1 if self.keep is None and self.top_k == 1 else -1
        one_per_text = lines(texts, lambda text: text.replace(b"\n", b" "))
        ranked = (model.predict(line, most, FLOOR) for line in one_per_text)
        return ([(score, known[label]) for score, label in ranking] for ranking in ranked)

    def _found(self) -> ModelFile:
        if self.file is None:
            raise ModelError("no model file was given to the filter 'language'")
        return self.file


def _check_languages(asked: Iterable[str], known: Iterable[str], model: str) -> None:
    known = sorted(set(known))
    for code in asked:
        if code not in known:
            raise ModelError(f"language: the model {model} knows no {code!r}; it knows: {', '.join(known)}")


def _ranked_by_py3langid(
    rank: Callable[[str], list[tuple[str, float]]], texts: pa.LargeStringArray
) -> Iterator[Ranking]:
    for text in texts:
        yield [(score, name) for name, score in rank(text.as_py()) if score >= FLOOR]


@lru_cache(maxsize=1)
def _py3langid() -> Any:
    """py3langid's identifier, with probabilities. Raises ModelError where the package is not installed."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise ModelError(
            "`model: py3langid` needs the package py3langid: pip install 'winnow[text]'"
        ) from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _py3langid_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(PY3LANGID)
    except PackageNotFoundError as error:
        raise ModelError(
            "`model: py3langid` needs the package py3langid: pip install 'winnow[text]'"
        ) from error
