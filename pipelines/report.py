"""How is a mixture shown?

The table has the shape of MPT-7B's (huggingface.co/mosaicml/mpt-7b): source, tokens in source, proportion, effective
tokens, epochs; the funnel says what became of the documents of each source.
"""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from winnow.pipelines.numbers import show_bytes, show_count

MANY_EPOCHS = 4.0
"""Up to four passes over the same text are almost as good as new text (Muennighoff et al. 2023, arXiv:2305.16264)."""


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


def mixture_table(facts: dict[str, Any]) -> Table:
    """The mixture, a row per source."""
    table = new_table(f"Mixture of {facts['name']}")
    table.add_column("source", no_wrap=True)
    for column in (
        "tokens in source",
        "proportion",
        "effective tokens",
        "epochs",
        "samples",
        "held out",
        "shards",
    ):
        table.add_column(column, justify="right", min_width=max(map(len, column.split())))
    for source in facts["sources"]:
        table.add_row(
            source["name"],
            show_count(source["tokens"]),
            f"{source['proportion']:.2%}",
            show_count(source["effective_tokens"]),
            f"{source['epochs']:.2f}",
            f"{source['train']['rows']:,}",
            f"{source['val']['rows']:,}",
            str(source["train"]["shards"] + source["val"]["shards"]),
        )
    table.add_section()
    table.add_row(
        "total",
        show_count(sum(s["tokens"] for s in facts["sources"])),
        f"{sum(s['proportion'] for s in facts['sources']):.2%}",
        show_count(facts["budget_tokens"]),
        "",
        f"{sum(s['train']['rows'] for s in facts['sources']):,}",
        f"{sum(s['val']['rows'] for s in facts['sources']):,}",
        str(sum(s["train"]["shards"] + s["val"]["shards"] for s in facts["sources"])),
    )
    notes = [
        f"{facts['epoch_rows']:,} samples of {facts['sequence_length']:,} tokens in an epoch of the trainer"
    ]
    many = [s["name"] for s in facts["sources"] if s["epochs"] > MANY_EPOCHS]
    if many:
        notes.append(f"more than {MANY_EPOCHS:g} epochs: {', '.join(many)}")
    table.caption = "\n".join(notes)
    return table


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
    return lines


def print_report(facts: dict[str, Any], console: Console | None = None) -> None:
    """The tables, what dedup found, and how classifiers do, on standard output."""
    from winnow.pipelines.dedup_report import print_dedup

    console = console or output()
    console.print(mixture_table(facts))
    console.print(funnel_table(facts))
    print_dedup(facts, console)
    for line in classifier_lines(facts):
        console.print(line, highlight=False, markup=False)
