"""What is a mixture made of, by a field of `meta`?

A row for each value of the field in each source, as the stage `groups` counted them (grouping.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from winnow.pipelines.mixture_report import in_units, percent, ratio
from winnow.pipelines.numbers import show_bytes, show_count
from winnow.pipelines.report import Column, Grid
from winnow.pipelines.terminal import one_line

BY_HEADER = (
    "field", "source", "value", "documents", "text_bytes", "tokens", "share", "expected_proportion",
    "expected_effective_tokens", "expected_epochs", "values",
)  # fmt: skip
BY_SUMMED = BY_HEADER[3:-2]
BY_COLUMNS = (
    Column("source", is_text=True), Column("value", is_text=True), Column("tokens"), Column("share"),
    Column("~ proportion", 1), Column("~ effective tokens", 2), Column("~ epochs", 3), Column("documents", 4),
    Column("text", 5), Column("tokens/byte", 6),
)  # fmt: skip
SHOWN_VALUES, SHOWN_CHARS = 40, 40
"""Rows of a source in a table by a field, and characters of a value there; CSV and JSON have all."""


def fields_of(facts: Mapping[str, Any]) -> list[str]:
    """The fields of `meta` that a run was counted by."""
    return list(dict.fromkeys(field for source in facts["sources"] for field in source.get("groups") or {}))


def by_rows(facts: Mapping[str, Any], field: str) -> Iterator[dict[str, Any]]:
    """By BY_HEADER, a row for each value of a source, in the order of mixture.json: most tokens first.

    Samples are drawn from all of a source alike, so of each value as much is expected as it has of the source's tokens.
    """
    for source in facts["sources"]:
        values = (source.get("groups") or {}).get(field, ())
        whole = sum(value["tokens"] for value in values)
        for value in values:
            share = ratio(value["tokens"], whole) or 0.0
            yield {
                "field": field,
                "source": source["name"],
                **value,
                "share": share,
                "expected_proportion": share * source["proportion"],
                "expected_effective_tokens": share * source["effective_tokens"],
                "expected_epochs": source["epochs"],
            }


def by_grid(facts: Mapping[str, Any], field: str) -> Grid:
    """A section for each source with a row for each of its first SHOWN_VALUES values, and one for all others."""
    sections: list[list[list[str]]] = []
    for source in facts["sources"]:
        rows = [row for row in by_rows(facts, field) if row["source"] == source["name"]]
        if rest := rows[SHOWN_VALUES:]:
            added = {key: sum(row[key] for row in rest) for key in BY_SUMMED}
            rows[SHOWN_VALUES:] = [
                rest[0] | added | {"values": None, "value": f"… {len(rest):,} more in --format csv"}
            ]
        shares, drawn = (in_units([row[key] for row in rows]) for key in ("share", "expected_proportion"))
        names = [source["name"], *[""] * len(rows)]
        cells = zip(names, rows, shares, drawn, strict=False)
        sections.append([_by_cells(name, row, share or 0, part or 0) for name, row, share, part in cells])
    notes = ["~ as samples are drawn from all of a source alike; held-out documents are counted, too"]
    return Grid(f"Mixture of {facts['name']} by {field}", BY_COLUMNS, sections, notes)


def _by_cells(source: str, row: Mapping[str, Any], share: int, proportion: int) -> list[str]:
    value, per_byte = one_line(row["value"]), ratio(row["tokens"], row["text_bytes"])
    value = value if len(value) <= SHOWN_CHARS else f"{value[:SHOWN_CHARS]}…"
    if row.get("values"):
        value += f": {row['values']:,} values"
    return [
        source, value, show_count(row["tokens"]), percent(share), percent(proportion),
        show_count(row["expected_effective_tokens"]), f"{row['expected_epochs']:.2f}", f"{row['documents']:,}",
        show_bytes(row["text_bytes"]), "" if per_byte is None else f"{per_byte:.3f}",
    ]  # fmt: skip
