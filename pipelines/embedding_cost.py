"""How long do vectors take, and how large are they?

Arithmetic from the shapes of an encoder and of a clustering, and rates that were measured or published; nothing is
loaded. For the decision whether, and on what, to start: a factor of two off is to be expected.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from winnow.filters.encoder_files import EncoderFiles

DOCUMENT_BYTES = 4_000
"""Of text (ours: English web pages; of FineWeb's documents about 3,300)."""
DOCUMENT_TOKENS = DOCUMENT_BYTES / 4.3
"""Of an English document; a WordPiece vocabulary of 30,000 needs about as many as Mistral's."""
GPU_ENCODE = 0.30 * 790e12
"""FLOPs a second of an encoder's products on an H200: 30 % of bfloat16's peak, this project's goal."""
GPU_CLUSTER = 0.75 * 67e12
"""Of k-means and comparisons, which multiply in float32 without tensor cores (an H200's data sheet: 67 TFLOP/s)."""
CORE_FLOAT32, CORE_BFLOAT16 = 135e9, 235e9
"""Of an encoder on one core with AVX-512 (ours, benchmarks/embed.py: 27.9 documents of about 4.9 GFLOP a CPU second
with float32; 47.8 with bfloat16, where a core multiplies that)."""
CORE_CLUSTER = 40e9
"""Of k-means and comparisons on one core (ours, benchmarks/semantic.py)."""
CORE_TOKENS = 0.5e6
"""Tokens a second that one core makes of text (ours, Hugging Face tokenizers, text clipped first)."""
MEMBER_BYTES = 24
EXCHANGE_BYTES = 100
"""What goes with a vector to its cluster, and home from there."""


MINILM = EncoderFiles("", (), "", "mean", 256, dimensions=384, parameters=10_616_832, layers=6, width=384)
"""all-MiniLM-L6-v2's shape: taken where an encoder's own is not known."""


def documents_estimate(text_bytes: float) -> int:
    """Documents of so much text."""
    return math.ceil(text_bytes / DOCUMENT_BYTES)


def mean_tokens(max_tokens: int) -> float:
    """Tokens that are read of a document on average, if lengths are distributed exponentially."""
    return DOCUMENT_TOKENS * -math.expm1(-max_tokens / DOCUMENT_TOKENS)


@dataclass(frozen=True, slots=True)
class EmbeddingCost:
    """Of the vectors of so many documents."""

    documents: int
    tokens: float
    flops: float
    vector_bytes: int
    """As they are stored, with the documents they belong to."""
    tokenize_core_seconds: float
    gpu_seconds: float
    """Of one H200, without what its tokens take."""
    core_seconds: float
    """Of one core, with what its tokens take."""


def embedding_cost(
    documents: int, encoder: EncoderFiles, max_tokens: int, dtype: str = "auto"
) -> EmbeddingCost:
    """With `auto` a core is taken for one that is no faster with bfloat16."""
    length = mean_tokens(max_tokens)
    tokens = documents * length
    flops = encoder.flops(tokens, length)
    tokenizing = tokens / CORE_TOKENS
    rate = CORE_BFLOAT16 if dtype == "bfloat16" else CORE_FLOAT32
    return EmbeddingCost(
        documents=documents,
        tokens=tokens,
        flops=flops,
        vector_bytes=documents * (2 * encoder.dimensions + MEMBER_BYTES),
        tokenize_core_seconds=tokenizing,
        gpu_seconds=flops / GPU_ENCODE,
        core_seconds=tokenizing + flops / rate,
    )


@dataclass(frozen=True, slots=True)
class ClusteringCost:
    """Of clustering so many vectors, and of comparing those of each cluster."""

    documents: int
    clusters: int
    fit_flops: float
    assign_flops: float
    compare_flops: float
    exchange_bytes: int
    """Of vectors that go to their clusters; 0 where none are compared."""

    @property
    def gpu_seconds(self) -> float:
        """Of one H200."""
        return (self.fit_flops + self.assign_flops + self.compare_flops) / GPU_CLUSTER

    @property
    def core_seconds(self) -> float:
        """Of one core."""
        return (self.fit_flops + self.assign_flops + self.compare_flops) / CORE_CLUSTER


def clustering_cost(
    documents: int,
    dimensions: int,
    clusters: int | None,
    iterations: int,
    sample_per_cluster: int,
    *,
    compared: bool,
) -> ClusteringCost:
    """`clusters`: None for the square root of the documents. Clusters of equal size are compared by a triangle."""
    k = max(1, min(clusters or round(math.sqrt(documents)), documents))
    sample = min(documents, sample_per_cluster * k)
    distances = 2 * k * dimensions
    return ClusteringCost(
        documents=documents,
        clusters=k,
        fit_flops=float(iterations * sample * distances),
        assign_flops=float(documents * distances),
        compare_flops=documents**2 * dimensions / k if compared else 0.0,
        exchange_bytes=documents * (2 * dimensions + EXCHANGE_BYTES) if compared else 0,
    )


def show_hours(seconds: float) -> str:
    """A time that is only known roughly: `40 s`, `12 min`, `3.5 h`, `2,100 h`."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36_000 else f"{seconds / 3600:,.0f} h"
