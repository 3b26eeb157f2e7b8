"""How are the statistics of dedup shown?

Per step and group a line, then whose duplicates the documents of each source are, clusters by size, for
decontamination what was found of each benchmark, and for steps that compare vectors what other cuts would keep and
which clusters there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from winnow.pipelines.audit_report import printable
from winnow.pipelines.report import new_table

SHOWN_SHARES = (0.95, 0.9, 0.8, 0.7, 0.5)
"""Of a retention curve; mixture.json has all of it."""
SHOWN_CLUSTERS = 5
"""Of those that mixture.json describes: the largest, then those that lose most."""


def print_dedup(facts: dict[str, Any], console: Console) -> None:
    """Everything that mixture.json holds of dedup."""
    if not facts["dedup"]:
        return
    console.print(steps_table(facts["dedup"]))
    for step in facts["dedup"]:
        if step["pairs"] and len({*map(_survivors_source, step["pairs"]), *step["group"]}) > 1:
            console.print(matrix(step))
        for line in step_lines(step):
            console.print(line, highlight=False, markup=False)


def steps_table(steps: list[dict[str, Any]]) -> Table:
    """What each step compared and dropped."""
    table = new_table("Dedup")
    for column in ("step", "sources"):
        table.add_column(column)
    for column in ("compared", "dropped", "share"):
        table.add_column(column, justify="right", no_wrap=True)
    for step in steps:
        compared, dropped = step["compared"], step["dropped"]
        share = f"{dropped / max(compared, 1):.1%}"
        table.add_row(step["step"], ", ".join(step["group"]), f"{compared:,}", f"{dropped:,}", share)
    return table


def matrix(step: dict[str, Any]) -> Table:
    """Documents dropped of each source (rows) for one of each source (columns)."""
    kept_of = list(dict.fromkeys([*step["group"], *map(_survivors_source, step["pairs"])]))
    table = new_table(f"{step['step']}: dropped of a source, for a document of")
    table.add_column("source", no_wrap=True)
    for name in kept_of:
        table.add_column(name, justify="right")
    for source in step["group"]:
        counts = [step["pairs"].get(f"{source} of {name}", 0) for name in kept_of]
        table.add_row(source, *(f"{n:,}" for n in counts))
    return table


def _survivors_source(pair: str) -> str:
    return pair.split(" of ", 1)[1]


def step_lines(step: dict[str, Any]) -> Iterator[str]:
    """What else a step reports, a line each."""
    for what in ("buckets", "clusters"):
        if step.get(what):
            shown = ", ".join(
                f"{_sizes(size)}: {n:,}" for size, n in sorted(step[what].items(), key=lambda i: int(i[0]))
            )
            largest = step[f"largest_{what[:-1]}"]
            yield f"{step['step']} {what} by number of documents: {shown}; the largest has {largest:,}"
    if step.get("unverified"):
        yield (
            f"{step['step']}: {step['unverified']:,} documents of very large clusters stay that were compared "
            "with some of their survivors only"
        )
    yield from _vector_lines(step)
    for name, found in step.get("benchmarks", {}).items():
        short = f" ({found['too_short']:,} too short to look for)" if found["too_short"] else ""
        yield (
            f"{name}: {found['items_found']:,} of {found['items']:,} items{short} found, in "
            f"{found['documents']:,} documents"
        )


def _vector_lines(step: dict[str, Any]) -> Iterator[str]:
    """What a step that compares vectors reports beside its clusters' sizes: shares by eps, and clusters."""
    name = step["step"]
    if "empty_clusters" in step:
        filled = step["most_clusters"] - step["empty_clusters"]
        cut = "" if step["eps"] is None else f"; the cut is at eps {step['eps']:.4g}"
        yield f"{name}: {filled:,} of {step['most_clusters']:,} clusters have documents{cut}"
    if retention := step.get("retention"):
        eps_at = sorted(
            ((float(share), eps) for share, eps in retention["eps_at_share"].items()), reverse=True
        )
        shown = [f"{share:.0%} at eps {eps:.3g}" for share, eps in eps_at if share in SHOWN_SHARES]
        if shown:
            yield f"{name} would keep, at least, {', '.join(shown)}"
    for found in step.get("shown_clusters", ())[:SHOWN_CLUSTERS]:
        words = printable(", ".join(found["words"])) or "(no word tells it from others)"
        yield (
            f"{name} cluster {found['cluster']:,}: {found['documents']:,} documents, {found['goes']:,} go, "
            f"mean cosine to the centroid {found['similarity']:.3f}: {words}"
        )


def _sizes(least: str) -> str:
    """The sizes from a power of two to the next."""
    first = int(least)
    last = 2 * first - 1
    return str(first) if first == last else f"{first:,}-{last:,}"
