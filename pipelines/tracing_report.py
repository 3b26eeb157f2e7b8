"""What does `winnow trace` say?"""

from __future__ import annotations

from collections.abc import Sequence

from winnow.pipelines.terminal import one_line
from winnow.pipelines.tracing import DocumentTrace, Piece


def said_of_piece(piece: Piece) -> str:
    """A line about a piece of a sample."""
    span = "" if piece.byte_start is None else f", bytes {piece.byte_start}-{piece.byte_end}"
    key = "" if piece.key is None else f", {one_line(piece.key)}"
    trained = "" if piece.trained in (None, piece.tokens) else f", {piece.trained} trained on"
    where = f"{one_line(piece.path)} at {piece.position}"
    return (
        f"{piece.offset:6d} +{piece.tokens:<6d} {piece.document}  {piece.source}, {where}{span}{trained}{key}"
    )


def said_of_document(traces: Sequence[DocumentTrace]) -> list[str]:
    """Lines about a document in each of some packings."""
    trace = traces[0]
    key = "" if trace.key is None else f", {one_line(trace.key)}"
    lines = [f"{trace.document}: {trace.source}, {one_line(trace.path)} at {trace.position}{key}"]
    if trace.excluded:
        lines.append("taken out: a list of `exclude` names it")
    if trace.split is None:
        return [*lines, "not in the shards: dropped (see RUN/dropped), or no document begins there"]
    for found in traces:
        parts = [f"samples {', '.join(map(str, found.samples)) or 'none'} of {found.stream}"]
        if found.samples_dropped:
            parts.append(f"{found.samples_dropped} dropped by takedowns")
        if found.unused_tokens:
            parts.append(f"{found.unused_tokens} tokens in none of this packing")
        of = f"{found.packing}: " if len(traces) > 1 else ""
        lines.append(f"{of}{found.tokens} tokens in {found.split}, {'; '.join(parts)}")
    return lines
