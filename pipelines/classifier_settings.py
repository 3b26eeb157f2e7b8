"""What may a recipe say of the classifiers that it trains?"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from winnow.filters.classifier_training import TrainingOptions
from winnow.filters.embedding_settings import DEFAULT
from winnow.filters.head_settings import HeadOptions
from winnow.filters.quality import Bounds
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
    """`logistic`: the score is the probability of the good class. `linear`: ridge regression, as FineWeb-Edu's head.
    `forest`: a random forest, as phi-1's classifier."""
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


class Quality(Bounds):
    """Keeps documents by the score of a classifier on embeddings; without a bound all, and their scores are stored."""

    classifier: SourceName
    """One of the recipe's `embedding_classifiers`."""
