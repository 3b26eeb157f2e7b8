"""How does a document become a vector?

An encoder is a transformer of the Hugging Face or sentence-transformers kind; its vectors have length 1. All that a
recipe wants with vectors (semantic dedup, classifiers on embeddings) names one of its `embeddings`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

DEFAULT = "default"
"""The embedding that is meant where none is named; with the settings below, unless a recipe says others for it."""


class Embedding(BaseModel):
    """An encoder, and how much of a document it reads."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: ClassVar[str] = "embedding"

    model: str = Field("sentence-transformers/all-MiniLM-L6-v2", min_length=1)
    """A hub id, or the path of a directory with config.json, weights and tokenizer."""
    revision: str | None = Field(None, min_length=1)
    """Of a hub id: the commit that is wanted; default: what `main` is in this machine's cache of the hub."""
    pooling: Literal["mean", "cls", "last"] | None = None
    """Mean of the tokens' vectors, the first token's, or the last one's (SemDeDup: OPT-125M's last). Default: what the
    model's own sentence-transformers files say; without any, mean."""
    max_tokens: int = Field(256, ge=8, le=32768)
    """Tokens of a document that are read, the model's own control tokens among them; a model that reads fewer
    reads fewer."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of weights and activations. `auto`: bfloat16 where the device multiplies it faster, float32 elsewhere. Pooling
    is done in float32, vectors are stored as float16."""
    device: Literal["auto", "gpu", "cpu"] = "auto"
    """Where vectors are made, clustered and compared. `auto`: on GPUs if the cluster has, or can grow, any."""
    gpus: float = Field(1.0, gt=0, le=1)
    """GPUs that one actor asks of Ray: 0.5 puts two actors on each."""
    batch_tokens: int | None = Field(None, ge=64)
    """Tokens that the encoder takes at once; default: 131,072 on a GPU, 8,192 on a CPU."""
