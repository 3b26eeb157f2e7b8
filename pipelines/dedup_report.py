"""How are the statistics of dedup shown?

Per step and group a line, then whose duplicates the documents of each source are, clusters by size, for
decontamination what was found of each benchmark, and for steps that compare vectors what other cuts would keep and
which clusters there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from winnow.pipelines.report import new_table
from winnow.pipelines.terminal import printable

SHOWN_SHARES = (0.95, 0.9, 0.8, 0.7, 0.5)
"""Of a retention curve; mixture.json has all of it."""
FINEST_EPS = 1e-4
"""A share that only an eps of 0 leaves is left by none from here on: the curve's bins are finer (retention.py)."""
LARGEST = 3
LOSING = 5
"""Clusters shown of those that mixture.json describes: the largest, then those that lose the highest share."""
NAMED_SOURCES = 4
"""Of a group; of more the number is said."""


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


def named(step: str, group: Sequence[str]) -> str:
    """A step and whose documents it compared: `semantic (wiki, web)`."""
    more = len(group) - NAMED_SOURCES
    shown = ", ".join(group[:NAMED_SOURCES])
    return f"{step} ({shown} and {more:,} more)" if more > 0 else f"{step} ({shown})"


def step_lines(step: dict[str, Any]) -> Iterator[str]:
    """What else a step reports, a line each."""
    name = named(step["step"], step["group"])
    for what in ("buckets", "clusters"):
        if step.get(what):
            shown = ", ".join(
                f"{_sizes(size)}: {n:,}" for size, n in sorted(step[what].items(), key=lambda i: int(i[0]))
            )
            largest = step[f"largest_{what[:-1]}"]
            yield f"{name} {what} by number of documents: {shown}; the largest has {largest:,}"
    if step.get("unverified"):
        yield (
            f"{name}: {step['unverified']:,} documents of very large clusters stay that were compared "
            "with some of their survivors only"
        )
    yield from _vector_lines(name, step)
    for benchmark, found in step.get("benchmarks", {}).items():
        short = f" ({found['too_short']:,} too short to look for)" if found["too_short"] else ""
        yield (
            f"{benchmark}: {found['items_found']:,} of {found['items']:,} items{short} found, in "
            f"{found['documents']:,} documents"
        )


def _vector_lines(name: str, step: dict[str, Any]) -> Iterator[str]:
    """What a step that compares vectors reports beside its clusters' sizes: the cut, other cuts, and clusters."""
    by_centroid = step["step"] == "prototypes"
    if "empty_clusters" in step:
        filled = step["most_clusters"] - step["empty_clusters"]
        cut = ""
        if step["eps"] is not None:
            cut = f"; the cut is at eps {step['eps']:.4g}"
            if by_centroid:
                cut = f"; documents with a cosine to their centroid above {1 - step['eps']:.4f} go"
        yield f"{name}: {filled:,} of {step['most_clusters']:,} clusters have documents{cut}"
    if (retention := step.get("retention")) and not by_centroid:
        yield from _other_cuts(name, retention["eps_at_share"])
    for found in shown_clusters(step.get("shown_clusters", ())):
        words = printable(", ".join(found["words"])) or "(no word tells it from others)"
        yield (
            f"{name} cluster {found['cluster']:,}: {found['documents']:,} documents, {found['goes']:,} go, "
            f"mean cosine to the centroid {found['similarity']:.3f}: {words}"
        )


def _other_cuts(name: str, eps_at_share: dict[str, float]) -> Iterator[str]:
    """Which eps would keep which share, and which shares no eps leaves because too many documents are alike."""
    eps_at = sorted(((float(share), eps) for share, eps in eps_at_share.items()), reverse=True)
    eps_at = [(share, eps) for share, eps in eps_at if share in SHOWN_SHARES]
    shown = [f"{share:.0%} at eps {eps:.3g}" for share, eps in eps_at if eps > 0]
    if shown:
        yield f"{name} would keep at least {', '.join(shown)}"
    if beyond := [share for share, eps in eps_at if eps <= 0]:
        yield f"{name} would keep less than {min(beyond):.0%} at any eps from {FINEST_EPS:.4f} on"


def shown_clusters(described: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The largest clusters, then those that lose the highest share of their documents; none twice."""
    largest = sorted(described, key=lambda c: (-c["documents"], c["cluster"]))[:LARGEST]
    losing = [c for c in described if c["goes"] and c not in largest]
    losing.sort(key=lambda c: (-c["goes"] / c["documents"], -c["documents"], c["cluster"]))
    return [*largest, *losing[:LOSING]]


def _sizes(least: str) -> str:
    """The sizes from a power of two to the next."""
    first = int(least)
    last = 2 * first - 1
    return str(first) if first == last else f"{first:,}-{last:,}"
