"""How are tables shown: on a terminal, in Markdown, as CSV and JSON?

On a terminal a table has as many of its columns as have room, and every cell of them whole. Names and values may be
anybody's: none of them reaches a terminal as a command, a spreadsheet as a formula, or GitHub as markup.
`print_report` says all about a run: the mixture (mixture_report.py), the funnel of what became of the documents,
dedup (dedup_report.py), classifiers.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text
from winnow.pipelines.numbers import show_bytes
from winnow.pipelines.terminal import one_line

FORMATS = ("table", "json", "csv", "markdown")
SHORTEST = 8
"""Characters of a name that stay, at least, where it is cut to make room for numbers."""
FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "'")
"""What a spreadsheet takes for the beginning of a formula (OWASP, "CSV Injection"), and what prevents it."""
PIPE_COLUMNS = 1000
"""Width where nobody has one: a file or a pipe takes every table whole (rich would break it at 80)."""


class Output(Console):
    """Standard output, where a pipe that nobody reads any more is for the command line to explain."""

    def on_broken_pipe(self) -> None:
        """Called while a BrokenPipeError is handled; rich's own sends the rest to /dev/null and exits with 1."""
        raise


def output() -> Console:
    """Standard output: a terminal at its width, anything else without one."""
    console = Output()
    return console if console.is_terminal else Output(width=PIPE_COLUMNS)


def new_table(title: str) -> Table:
    """A table whose cells are never broken over lines."""
    return Table(
        title=title, box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left", pad_edge=False
    )


@dataclass(frozen=True, slots=True)
class Column:
    heading: str
    rank: int = 0
    """Where a terminal is too narrow, columns go by rank, the highest first; those of rank 0 stay."""
    is_text: bool = False


@dataclass(frozen=True, slots=True)
class Grid:
    """A table before it is known where it is shown. Cells may hold anything: names and values are somebody else's."""

    title: str
    columns: Sequence[Column]
    sections: Sequence[Sequence[Sequence[str]]]
    """Rows of cells; a cell per column."""
    notes: Sequence[str] = ()
    """What is said below it, a line each."""

    def without_blanks(self) -> Grid:
        """The same without columns in which every cell is empty, and without empty sections."""
        rows = [row for section in self.sections for row in section]
        return replace(
            self.only([i for i in range(len(self.columns)) if any(row[i] for row in rows)]),
            title=self.title,
        )

    def only(self, kept: Sequence[int]) -> Grid:
        """The same with some columns, by number."""
        sections = [[[row[i] for i in kept] for row in section] for section in self.sections if section]
        return replace(self, columns=[self.columns[i] for i in kept], sections=sections)


def print_grid(grid: Grid, console: Console) -> None:
    """The table with as many of its columns as have room, then the notes."""
    table, left_out = fitted(grid, console.width)
    console.print(table)
    notes = [*grid.notes, *([f"no room for: {', '.join(left_out)}"] if left_out else [])]
    for note in notes:
        console.print(Text(one_line(note)))


def fitted(grid: Grid, width: int) -> tuple[Table, list[str]]:
    """(table whose cells are whole at this width, headings of the columns left out for it).

    Where even the columns of rank 0 have no room, names are cut, down to SHORTEST characters; then numbers are, too.
    """
    shown = replace(
        grid, sections=[[[one_line(cell) for cell in row] for row in section] for section in grid.sections]
    )
    kept = list(range(len(grid.columns)))
    while _width(_cell_widths(shown, kept)) > width and any(grid.columns[i].rank for i in kept):
        kept.remove(max(kept, key=lambda i: (grid.columns[i].rank, i)))
    table = new_table("")
    table.title = Text(one_line(grid.title))
    widths = _cell_widths(shown, kept)
    one_line_headings = [max(w, cell_len(grid.columns[i].heading)) for w, i in zip(widths, kept, strict=True)]
    if _width(one_line_headings) <= width:
        widths = one_line_headings
    for at, i in enumerate(kept):
        if grid.columns[i].is_text and _width(widths) > width:
            widths[at] = max(SHORTEST, widths[at] - (_width(widths) - width))
    fits = _width(widths) <= width
    for i, own in zip(kept, widths, strict=True):
        column = grid.columns[i]
        justify: JustifyMethod = "left" if column.is_text else "right"
        cut = column.is_text or not fits
        table.add_column(Text(column.heading), justify=justify, width=own if fits else None, no_wrap=cut)
    for section in shown.sections:
        for row in section:
            table.add_row(*(Text(row[i]) for i in kept))
        table.add_section()
    return table, [column.heading for i, column in enumerate(grid.columns) if i not in kept]


def _cell_widths(grid: Grid, kept: Sequence[int]) -> list[int]:
    """Columns of a terminal that each column needs, its heading on several lines."""
    rows = [row for section in grid.sections for row in section]
    return [
        max(map(cell_len, [*grid.columns[i].heading.split(), *(row[i] for row in rows)]), default=0)
        for i in kept
    ]


def _width(widths: Sequence[int]) -> int:
    """Of a table of `new_table`: three blanks between columns, one at either edge."""
    return sum(widths) + 3 * (len(widths) - 1) + 2


def markdown(grid: Grid) -> str:
    """The table as GitHub renders it. No cell becomes markup: what would be is escaped."""
    rows = [row for section in grid.sections for row in section]
    lines = [[c.heading for c in grid.columns], *rows]
    shown = ["| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines]
    marks = "| " + " | ".join("---" if c.is_text else "---:" for c in grid.columns) + " |"
    notes = [f"- {_escaped(note)}" for note in grid.notes]
    return "\n".join(
        [f"**{_escaped(grid.title)}**", "", shown[0], marks, *shown[1:], *([""] if notes else []), *notes]
    )


def _escaped(text: str) -> str:
    # An underscore inside a word is none of Markdown's marks, and most names have one.
    return re.sub(r"[\\`*\[\]<>|~&$]|(?<!\w)_|_(?!\w)", r"\\\g<0>", one_line(text))


def csv_text(header: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as RFC 4180 has them: CRLF, quotes where they are needed; None is empty, numbers are as Python writes them.

    Text that begins with one of FORMULA gets an apostrophe before it, and a spreadsheet takes it for text: whoever
    reads the file takes the first apostrophe away. Numbers are never touched.
    """
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(header)
    for row in rows:
        writer.writerow([_harmless(row.get(name)) for name in header])
    return file.getvalue()


def _harmless(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if text.startswith(FORMULA) else text


def funnel_table(facts: dict[str, Any]) -> Table:
    """What became of the documents of each source."""
    table = new_table("Documents: read, dropped by reason, kept")
    table.add_column("source", no_wrap=True)
    table.add_column("step", no_wrap=True)
    for column in ("documents", "share", "bytes"):
        table.add_column(column, justify="right")
    for source in facts["sources"]:
        rows = max(source["rows"], 1)

        def add(step: str, n: int, size: float | None, name: str = "", rows: int = rows) -> None:
            table.add_row(name, step, f"{n:,}", f"{n / rows:.1%}", "" if size is None else show_bytes(size))

        add("read", source["rows"], source["text_bytes"], source["name"])
        for reason, n in sorted(source["lost"].items(), key=lambda item: -item[1]):
            add(f"− {reason}", n, source["lost_bytes"].get(reason))
        for reason, n in sorted(source["dropped"].items(), key=lambda item: -item[1]):
            add(f"− {reason}", n, source["dropped_bytes"].get(reason))
        for step in source["dedup"]:
            if step["dropped"]:
                add(f"− {step['step']}", step["dropped"], step["dropped_bytes"])
            if step["cut_documents"]:
                add(f"cut by {step['step']}", step["cut_documents"], step["cut_bytes"])
        judged = source.get("quality", {})
        for reason, n in sorted(judged.get("dropped", {}).items(), key=lambda item: -item[1]):
            add(f"− {reason}", n, judged["dropped_bytes"].get(reason))
        if n := source.get("too_long_chats"):
            add("− max_tokens", n, None)
        add("kept", source["kept_documents"], source["kept_bytes"])
        table.add_section()
    return table


def classifier_lines(facts: dict[str, Any]) -> list[str]:
    """How each classifier of the recipe does on the examples held out, a line each."""
    lines = []
    for name, classifier in facts["classifiers"].items():
        held = classifier["heldout"]
        examples = ", ".join(f"{n:,} {label}" for label, n in classifier["examples"].items())
        line = f"classifier {name}: trained on {examples}; on {held['positives']:,} and {held['negatives']:,} held out"
        if held["roc_auc"] is not None:
            half = held["at_half"]
            shown = "none kept" if half["precision"] is None else f"precision {half['precision']:.3f}"
            line += f": {shown} and recall {half['recall']:.3f} at 0.5, ROC AUC {held['roc_auc']:.4f}"
        lines.append(line)
    found = facts.get("embedding_classifiers", {})
    return [*lines, *(_embedding_classifier_line(name, classifier) for name, classifier in found.items())]


def _embedding_classifier_line(name: str, classifier: dict[str, Any]) -> str:
    """How a classifier on embeddings does: embedding_head_report.py says what is reported of which head."""
    held = classifier["heldout"]
    trained = ", ".join(f"{n:,} {kind}" for kind, n in classifier["examples"].items())
    tested = held["examples"] if "examples" in held else held["positives"] + held["negatives"]
    line = f"classifier {name} ({classifier['head']} on embeddings): trained on {trained}; on {tested:,} held out"
    said = []
    # FineWeb-Edu rounds scores before it decides; a bound in a recipe is held against the score as it is.
    for way, words in (("at_threshold", "at {:g}"), ("rounded", "at scores that round to {:g} or more")):
        if (decision := held.get(way)) and decision["precision"] is not None:
            recall = "no" if decision["recall"] is None else f"{decision['recall']:.3f}"
            said.append(
                f"precision {decision['precision']:.3f} and recall {recall} {words.format(decision['threshold'])}"
            )
    for what, shown in (("roc_auc", "ROC AUC"), ("mse", "squared error"), ("spearman", "rank correlation")):
        if held.get(what) is not None:
            said.append(f"{shown} {held[what]:.4f}")
    return f"{line}: {', '.join(said)}" if said else line


def chat_lines(facts: dict[str, Any]) -> list[str]:
    """What became of conversations: tokens that are trained on, and those that were too long."""
    lines = []
    for source in facts["sources"]:
        said = []
        if "trained_tokens" in source and source["tokens"]:
            n, of = source["trained_tokens"], source["tokens"]
            said.append(f"{n:,} of {of:,} tokens ({n / of:.1%}) are trained on")
        if n := source.get("shortened_chats"):
            said.append(f"{n:,} conversations lost their last turns to max_tokens")
        if n := source.get("too_long_chats"):
            said.append(f"{n:,} have no exchange that fits")
        if said:
            lines.append(f"{source['name']}: {'; '.join(said)}")
    return lines


def print_report(facts: dict[str, Any], console: Console | None = None) -> None:
    """The tables, what dedup found, and how classifiers do, on standard output."""
    from winnow.pipelines.dedup_report import print_dedup
    from winnow.pipelines.mixture_report import mixture_grids

    console = console or output()
    for grid in mixture_grids(facts):
        print_grid(grid, console)
    console.print(funnel_table(facts))
    print_dedup(facts, console)
    for line in [*classifier_lines(facts), *chat_lines(facts)]:
        console.print(line, highlight=False, markup=False)
