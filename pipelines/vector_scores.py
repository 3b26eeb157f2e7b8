"""What does a step that compares vectors know of each document?

Such a step leaves, for each split, a file that is row-aligned with it. The cut (vector_cut.py) decides by `score`
alone which documents go: those with the highest. So another share or threshold reads these files, and no vectors.
"""

from __future__ import annotations

import pyarrow as pa
from winnow.pipelines.documents import name
from winnow.shards import tables

SCORE_SCHEMA = pa.schema(
    [
        ("score", pa.float32()),
        ("neighbour", tables.ID),
        ("source", pa.uint32()),
        ("cluster", pa.uint32()),
        ("similarity", pa.float32()),
    ]
)
"""A row per document of a split, all null for one that did not stand any more. `score`: for `semantic` the largest
cosine
to a document before it in its cluster (M; -1 for the first), for `prototypes` the cosine to its centroid.
`neighbour` and `source`: the id of that document before it and the rank of its source in the group; null where there is
none. `cluster`: number of its cluster; `similarity`: cosine to its centroid."""


def score_name(source: str, split: int) -> str:
    """The file of a split's scores."""
    return name(f"score.{source}", split, "arrow")
