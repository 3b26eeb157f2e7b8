"""How are duplicates shown beside the documents that are kept instead?

Two columns, the duplicate's words and the survivor's, one row for each stretch that both have (its middle left out when
it is long) and for each in which they differ.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text
from winnow.pipelines.audit_pairs import NAMING, Member, Pair
from winnow.pipelines.audit_report import shown_place
from winnow.pipelines.report import Output, output
from winnow.pipelines.terminal import printable

EDGE_WORDS = 12
"""Shown of a stretch that both have, at its beginning and its end."""
DIFFERENT_WORDS = 80
"""Shown of a stretch in which they differ."""
PIPE_COLUMNS = 160
"""Width of two texts side by side where nobody has one; `COLUMNS` says another."""


def two_columns() -> Console:
    """Standard output for two texts side by side: their words are broken over lines at any width, so not a wide one."""
    console = output()
    if console.is_terminal:
        return console
    columns = os.environ.get("COLUMNS", "")
    return Output(width=int(columns) if columns.isdecimal() and int(columns) else PIPE_COLUMNS)


def print_pairs(pairs: Sequence[Pair], console: Console | None = None) -> None:
    """The pairs one below the other."""
    console = console or two_columns()
    if not pairs:
        console.print("no duplicate was dropped")
    for number, pair in enumerate(pairs, 1):
        console.print(pair_table(number, pair))


def pair_table(number: int, pair: Pair) -> Table:
    """A pair side by side."""
    score = f", Jaccard {pair.score:.3f}" if pair.score is not None else ""
    table = Table(title=Text(f"{number}. {pair.step}{score}"), title_justify="left", expand=True)
    table.add_column(Text(f"dropped: {shown_place(pair.dropped)}"), ratio=1)
    table.add_column(Text(f"kept: {shown_place(pair.survivor)}"), ratio=1)
    add_blocks(table, pair.blocks)
    return table


def add_blocks(table: Table, blocks: Sequence[tuple[bool, str, str]]) -> None:
    """Add the words of two texts, blocks of `compared`, to a table of two columns."""
    for same, left, right in blocks:
        if same:
            table.add_row(
                *[Text(printable(_abridged(text, EDGE_WORDS)), style="dim") for text in (left, right)]
            )
        else:
            table.add_row(*[Text(printable(_abridged(text, DIFFERENT_WORDS // 2))) for text in (left, right)])
    if not blocks:
        table.add_row("", "(no text)")


def _abridged(text: str, edge: int) -> str:
    """A stretch of words without its middle, where it is long."""
    words = text.split(" ")
    left_out = len(words) - 2 * edge
    if left_out <= edge:
        return text
    return f"{' '.join(words[:edge])} … {left_out:,} words … {' '.join(words[-edge:])}"


def print_cluster(document: str, members: Sequence[Member]) -> None:
    """Who was dropped for a document, and who is most like it of those that a step dropped that compares vectors."""
    copies = [member for member in members if member.step in NAMING]
    like = [member for member in members if member.step not in NAMING]
    print(f"{len(copies):,} documents were dropped for {document}")
    _print_members(copies)
    if like:
        steps = ", ".join(dict.fromkeys(member.step for member in like))
        print(f"{len(like):,} that {steps} dropped are like it more than like any other it was compared with")
        _print_members(like)


def _print_members(members: Sequence[Member]) -> None:
    for member in members:
        score = f"{member.score:.3f}" if member.score is not None else "     "
        print(f"  {member.step} {score}  {shown_place(member.place)}")
