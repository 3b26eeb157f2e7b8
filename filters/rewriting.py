"""What does a filter that changes text give back?

Letters: n documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


@dataclass(frozen=True, eq=False, slots=True)
class Rewritten:
    """The documents after a rewriting filter."""

    texts: pa.LargeStringArray
    """The new texts, none null; the very array that came in where nothing changed."""
    removed_chars: np.ndarray
    """int64[n]: by how many characters each text became shorter; negative where it grew."""
    signals: Mapping[str, Any] = field(default_factory=dict)
    """The filter's own signals, arrays of n, named and typed as its `columns` say."""
