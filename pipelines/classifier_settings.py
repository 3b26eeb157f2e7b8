"""What may a recipe say of the classifiers that it trains?"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_serializer, field_validator, model_validator
from winnow.filters.classifier_training import TrainingOptions
from winnow.filters.embedding_settings import DEFAULT
from winnow.filters.head_settings import USED, HeadOptions
from winnow.filters.quality import Bounds, stem
from winnow.filters.quality import Quality as FastText
from winnow.pipelines.source_settings import (
    Count,
    Filters,
    Fraction,
    Number,
    Read,
    Settings,
    SourceName,
    Text,
)

EXAMPLES = ("positive", "negative")
"""The two classes of a classifier."""
SCORED = "scored"
"""Examples with a score each, in place of the two classes."""
BOUNDS = ("min_score", "max_score", "keep_fraction")


class Examples(Settings):
    read: Read
    filters: Filters = Field(default=[])
    """As in a source; none that keeps a fraction or goes by a classifier of this recipe."""
    sample: Annotated[Count, Field(ge=1)] | None = None
    """Documents drawn, by hash; default: all."""


class Classifier(Settings):
    """A fastText classifier of two classes, trained before any source is read."""

    positive: Annotated[dict[SourceName, Examples], Field(min_length=1)]
    """Documents like those to keep: fastText's label `hq`."""
    negative: Annotated[dict[SourceName, Examples], Field(min_length=1)]
    """Documents like those to drop: fastText's label `cc`."""
    heldout: Annotated[Fraction, Field(gt=0, lt=1)] = 0.1
    """Share of the examples that the classifier is tested on, and not trained."""
    options: TrainingOptions = TrainingOptions.model_validate({})
    """fastText's, with DCLM's values."""


class ScoredExamples(Examples):
    score: Text
    """Where an example's score is: the path of a field of `meta`, with dots between its keys. A document without a
    number there is left out, and counted."""


class EmbeddingClassifier(Settings):
    """A head on an encoder's vectors, trained before any source is embedded. Examples are of two classes (`positive`
    and `negative`), or have scores (`scored`), as FineWeb-Edu's 0 to 5."""

    embedding: Text = DEFAULT
    """Which of the recipe's `embeddings`."""
    head: Literal["logistic", "linear", "forest"] = "logistic"
    """`logistic`: the score is the probability of the good class. `linear`: ridge regression on the scores of examples,
    as FineWeb-Edu's head; of two classes a good example is to get 1 and a bad one 0, and scores may lie outside.
    `forest`: a random forest, as phi-1's classifier; of two classes its score is a probability, too."""
    positive: dict[SourceName, Examples] = Field(default={})
    """Documents like those to keep."""
    negative: dict[SourceName, Examples] = Field(default={})
    """Documents like those to drop."""
    scored: dict[SourceName, ScoredExamples] = Field(default={})
    """Documents with a score each."""
    threshold: Number | None = None
    """Of `scored` examples: the score from which on a document is good. Needed by `logistic`; the report's precision,
    recall and F1 are at it. FineWeb-Edu: 3."""
    heldout: Annotated[Fraction, Field(gt=0, lt=1)] = 0.1
    """Share of the examples that the classifier is tested on, and not trained."""
    options: HeadOptions = HeadOptions.model_validate({})
    """Of the head."""

    @field_validator("options")
    @classmethod
    def _options_are_those_of_the_head(cls, options: HeadOptions, info: ValidationInfo) -> HeadOptions:
        if "head" not in info.data:  # which is a mistake of its own
            return options
        head = info.data["head"]
        if others := sorted(options.model_fields_set - set(USED[head])):
            raise ValueError(
                f"a {head} head has no {' and no '.join(others)}; it has {', '.join(USED[head])}"
            )
        return options

    @field_serializer("options")
    def _used_options(self, options: HeadOptions) -> dict[str, Any]:
        return options.of(self.head)

    @model_validator(mode="after")
    def _examples_are_of_one_kind(self) -> EmbeddingClassifier:
        classes = [kind for kind in EXAMPLES if getattr(self, kind)]
        if len(classes) != (0 if self.scored else 2):
            raise ValueError("positive and negative examples are wanted, or scored ones")
        if self.threshold is not None and not self.scored:
            raise ValueError("threshold goes with scored examples: it says which of them are good")
        if self.head == "logistic" and self.scored and self.threshold is None:
            raise ValueError("a logistic head has two classes: with scored examples it needs a threshold")
        return self

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of examples that it has."""
        return (SCORED,) if self.scored else EXAMPLES

    @property
    def probabilities(self) -> bool:
        """Whether its scores are probabilities, so from 0 to 1."""
        return self.head == "logistic" or (self.head == "forest" and not self.scored)


class Quality(Bounds):
    """Keeps documents by the score of a classifier, behind dedup; without a bound all, and their scores are stored."""

    classifier: SourceName | None = None
    """One of the recipe's `embedding_classifiers`, or of its `classifiers`."""
    model: Text | None = None
    """In its place, the path of a fastText model (.bin or .ftz)."""
    label: Text = "hq"
    """Of fastText: the label whose probability is the score, with or without `__label__`."""
    newlines: Literal["space", "remove"] = "space"
    """Of fastText: how a text becomes one line, as for the filter `fasttext`."""

    @model_validator(mode="after")
    def _one_classifier(self) -> Quality:
        if (self.classifier is None) == (self.model is None):
            raise ValueError("a `classifier` of the recipe or a `model` is wanted, one of them")
        return self

    @property
    def scorer(self) -> str:
        """What its scores and bounds are called: the classifier, or the model's name without `.bin` or `.ftz`."""
        return self.classifier or stem(str(self.model))

    @property
    def fasttext(self) -> FastText:
        """The filter that would give the same scores."""
        model = str(self.classifier or self.model)
        return FastText.model_validate({"model": model, "label": self.label, "newlines": self.newlines})


def quality_mistakes(
    uses: Sequence[Quality],
    classifiers: Mapping[str, EmbeddingClassifier],
    fasttext: Collection[str] = (),
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(place in it, what is wrong) of a source's `quality`: bounds that are there twice, or that nothing passes.

    fasttext : the recipe's fastText classifiers. A classifier that is none of all these may have any scores.
    """
    seen: set[tuple[str, str]] = set()
    meant: dict[str, tuple[str | None, ...]] = {}
    for i, use in enumerate(uses):
        name = use.scorer
        asked = (use.classifier, use.model, use.label, use.newlines)
        if meant.setdefault(name, asked) != asked:
            yield (
                (i,),
                f"{name!r} scores otherwise above; one model has one label and one way to make lines here",
            )
        for bound in BOUNDS:
            if getattr(use, bound) is not None:
                if (name, bound) in seen:
                    yield (i, bound), f"there is a {bound} of {name!r} above; one is enough"
                seen.add((name, bound))
        of_text = use.model is not None or use.classifier in fasttext
        if not (of_text or (name in classifiers and classifiers[name].probabilities)):
            continue
        outside = {"min_score": (use.min_score or 0) > 1, "max_score": (use.max_score or 0) < 0}
        for bound in (bound for bound, is_outside in outside.items() if is_outside):
            limit = getattr(use, bound)
            yield (
                (i, bound),
                f"nothing passes {limit:g}: the scores of {name!r} are probabilities, from 0 to 1",
            )
