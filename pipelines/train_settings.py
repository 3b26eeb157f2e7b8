"""What is trained, for how long, and with which numbers?

The reference trainer exists so that a recipe can be judged: one small model, one schedule, few choices. The shapes
follow MPT's (mosaicml/llm-foundry, `scripts/train/yamls/pretrain/mpt-125m.yaml`): pre-LayerNorm, no bias anywhere, no
dropout, GELU and 4 times the width in the feed-forward part, tied embeddings, AdamW with betas 0.9 and 0.95,
gradients clipped to norm 1, a warm-up and then a cosine down to a tenth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.1
"""Of matrices; gains of LayerNorm have none (GPT-3, arXiv:2005.14165, appendix B: 0.1)."""
CLIP = 1.0
WARMUP = 0.05
"""Share of the steps in which the learning rate rises; at most 2,000 of them."""
MOST_WARMUP = 2000
FLOOR = 0.1
"""Of the peak: where the cosine ends."""
VOCABULARY_MULTIPLE = 128
"""The embedding's rows are rounded up to it, as MPT's are (50,277 to 50,304 and more): matrix kernels like it."""
EVALUATIONS = 5
"""Checkpoints and evaluations of a training, unless `every` says how often."""


class TrainError(RuntimeError):
    """The training cannot go on: shards are damaged, rows did not come, the loss is no number."""


class TrainInputError(ValueError):
    """What was asked for does not fit: settings, runs of different tokenizers, a directory of another training."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder's size. Parameters outside the embedding: 12 · layers · width²."""

    layers: int
    width: int
    heads: int
    learning_rate: float
    """At the peak."""


SHAPES = {
    "nano": Shape(2, 128, 4, 3e-3),
    "micro": Shape(6, 256, 8, 2e-3),
    "mini": Shape(10, 512, 8, 1e-3),
    "small": Shape(12, 768, 12, 6e-4),
}
"""0.4, 4.7, 31 and 85 million parameters outside the embedding; `small` is MPT-125M: 125 million with its vocabulary,
and has its learning rate. The smaller ones' rates are larger, as is the habit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """What makes two trainings comparable; a directory belongs to one of these."""

    model: str = "micro"
    tokens: int | None = None
    """To train on, padding not counted; None: one epoch of the run's mixture."""
    batch: int = 16
    """Rows a step."""
    seed: int = 0
    """Of the initial weights; added to the run's own seed of the order of rows."""
    learning_rate: float | None = None
    """At the peak; None: the model's."""
    mask_documents: bool = False
    """Attention stays within a document."""
    heldout_tokens: int = 1 << 17
    """About how many tokens of each held-out source are evaluated."""
    every: int | None = None
    """Steps between checkpoints with an evaluation; None: five of them in all."""

    def __post_init__(self) -> None:
        if self.model not in SHAPES:
            raise TrainInputError(f"there is no model {self.model!r}; there are {', '.join(SHAPES)}")
        for name in ("tokens", "batch", "heldout_tokens", "every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise TrainInputError(f"{name} must be at least 1, not {value}")
        if self.learning_rate is not None and not 0 < self.learning_rate < 1:
            raise TrainInputError(f"the learning rate must lie between 0 and 1, not {self.learning_rate}")
        if self.seed < 0:
            raise TrainInputError(f"seed must not be negative, not {self.seed}")

    @property
    def shape(self) -> Shape:
        return SHAPES[self.model]

    @property
    def peak(self) -> float:
        """The learning rate at the end of the warm-up."""
        return self.learning_rate or self.shape.learning_rate


def steps_of(rows: int, epoch_rows: int, batch: int) -> int:
    """Steps that `rows` rows take; the last of an epoch may have fewer rows than a batch."""
    whole, rest = divmod(rows, epoch_rows)
    return whole * math.ceil(epoch_rows / batch) + math.ceil(rest / batch)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """At step 0 <= step < steps: a straight line up to `peak`, then a cosine down to FLOOR · peak."""
    warmup = max(1, min(MOST_WARMUP, math.ceil(WARMUP * steps)))
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - 1 - warmup)
    return peak * (FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * min(1.0, done))) / 2)


def embedding_rows(max_id: int, model_vocab: int | None) -> int:
    """Rows of the embedding: what the recipe says, else the next multiple of 128. Raises TrainInputError."""
    if model_vocab is None:
        return -(-(max_id + 1) // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    if model_vocab <= max_id:
        raise TrainInputError(f"model_vocab is {model_vocab:,}, but the tokenizer's largest id is {max_id:,}")
    return model_vocab
