"""How are the documents shown that are nearest to the cut of a step that compares vectors?

Group by group of sources, one below the other, from the highest score down. With a neighbour: two columns, as
duplicates beside their survivors are shown (audit_pairs_report.py). Without: the cluster's words and the beginning of
the text.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text
from winnow.pipelines.audit import Place
from winnow.pipelines.audit_pairs_report import add_blocks, two_columns
from winnow.pipelines.audit_report import shown_place
from winnow.pipelines.audit_semantic import Near
from winnow.pipelines.dedup_report import named
from winnow.pipelines.terminal import printable


def print_near(found: Sequence[Near], console: Console | None = None) -> None:
    """Documents on both sides of the cut."""
    console = console or two_columns()
    if not found:
        console.print("no document was compared with another")
        return
    number = 0
    for group in dict.fromkeys(near.group for near in found):
        of_group = [near for near in found if near.group == group]
        console.print(_heading(of_group), highlight=False, markup=False, soft_wrap=True)
        for near in of_group:
            number += 1
            console.print(near_table(number, near))


def _heading(found: Sequence[Near]) -> str:
    """What the cut is, of documents that were compared with each other."""
    near = found[0]
    # A share is exact: of documents with the cosine of the last one that stays, some go.
    tied = any(other.dropped and other.score <= other.cut for other in found)
    more = ", and of those with just that some, by a hash" if tied else ""
    cosine = "cosine" if near.step == "semantic" else "cosine to their centroid"
    return f"{named(near.step, near.group)}: documents with a {cosine} above {near.cut:.4f} are dropped{more}"


def near_table(number: int, near: Near) -> Table:
    """A document near the cut, and what is known of it."""
    fate = "dropped" if near.dropped else "kept"
    title = f"{number}. {fate}, cosine {near.score:.4f}, cluster {near.cluster:,}"
    if near.neighbour is not None:
        title += f" (cosine to its centroid {near.similarity:.4f})"
    table = Table(title=Text(title), title_justify="left", expand=True)
    table.add_column(Text(f"{fate}: {_shown(near.document, near.key)}"), ratio=1)
    if near.neighbour is None:
        if near.words:
            table.add_row(Text(printable(f"its cluster's words: {', '.join(near.words)}"), style="dim"))
        table.add_row(Text(printable(near.excerpt)))
        return table
    table.add_column(Text(f"like: {_shown(near.neighbour, near.neighbour_key)}"), ratio=1)
    add_blocks(table, near.blocks)
    return table


def _shown(place: Place, key: str | None) -> str:
    return shown_place(place) + (f", key {printable(key)}" if key is not None else "")
