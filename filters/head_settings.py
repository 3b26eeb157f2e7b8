"""What is trained on vectors to tell good documents from others?"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

USED = {"logistic": ("l2",), "linear": ("l2",), "forest": ("trees", "depth", "min_leaf", "seed")}
"""The options that each head has."""


class HeadOptions(BaseModel):
    """Of the head that is trained; the encoder stays as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    l2: float = Field(1.0, gt=0)
    """Strength of the penalty on a logistic or linear head's weights."""
    trees: int = Field(100, ge=1, le=10_000)
    """Of a forest."""
    depth: int | None = Field(None, ge=1)
    """Of a forest's trees; default: until leaves are pure."""
    min_leaf: int = Field(1, ge=1)
    """Examples in a leaf of a forest's tree, at least."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Of a forest."""

    def of(self, head: str) -> dict[str, Any]:
        """Those that a head has, as JSON can say them."""
        return self.model_dump(mode="json", include=set(USED[head]))
