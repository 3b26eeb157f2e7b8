"""What is a semantic duplicate, and how is it found?

SemDeDup (Abbas et al. 2023, arXiv:2303.09540): documents' vectors are clustered by spherical k-means; within its
cluster each document is compared with those before it, and goes if it is too like one of them. D4 (Tirumala et al.
2023, arXiv:2308.12284) clusters what is left once more and drops the documents nearest to their cluster's centre
(after Sorscher et al. 2022, arXiv:2206.14486: SSL prototypes).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from winnow.filters.embedding_settings import DEFAULT


class Clustering(BaseModel):
    """How vectors are clustered."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    embedding: str = Field(DEFAULT, min_length=1)
    """Which of the recipe's `embeddings`."""
    clusters: int | None = Field(None, ge=1, le=1 << 22)
    """k; default: the square root of the number of documents. SemDeDup: 11,000 for C4."""
    iterations: int = Field(20, ge=1)
    """Of k-means. SemDeDup: 20 for C4."""
    sample_per_cluster: int = Field(256, ge=1)
    """Documents, times k, that the centroids are fitted on; all others are only assigned to them (faiss's default)."""


class Semantic(Clustering):
    """Drops documents whose vectors are too like an earlier one's of their cluster. `keep_fraction` or `eps` is given.

    How like a document is to the most like one before it (M, the largest cosine) depends on neither, so another
    share or another eps costs one more cut of stored numbers.
    """

    name: ClassVar[str] = "semantic"

    keep_fraction: float | None = Field(None, gt=0, le=1)
    """Share of the documents that stay, exactly: those with the smallest M; of equal ones a hash decides. MPT-7B's
    C4: 0.8."""
    eps: float | None = Field(None, ge=0, le=2)
    """A document goes whose M is above 1 - eps."""
    order: Literal["hard", "easy", "random"] = "hard"
    """Which documents of a cluster come first, and so stay: those far from its centroid (SemDeDup's), those near to
    it, or any, by hash. Documents of the first named source come before all others."""
    greedy: bool = False
    """Compare a document only with those that stay, rather than with all before it; needs `eps`. Keeps more: in a chain
    of similar documents not every link goes."""

    @model_validator(mode="after")
    def _how_many_stay(self) -> Semantic:
        if (self.keep_fraction is None) == (self.eps is None):
            raise ValueError("semantic dedup needs one of keep_fraction (MPT-7B's C4: 0.8) and eps")
        if self.greedy and self.eps is None:
            raise ValueError("greedy needs eps: which documents stay decides what others are compared with")
        return self


class Prototypes(Clustering):
    """Drops the documents that are nearest to their cluster's centroid: the second half of D4, after `semantic`."""

    name: ClassVar[str] = "prototypes"

    keep_fraction: float = Field(gt=0, le=1)
    """Share of the documents that stay, exactly: those farthest from their centroid. D4's R_proto."""
