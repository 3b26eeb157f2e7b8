"""How much of a source's text has each value of a field of `meta`?

    groups-split ─▶ groups-merge0 ─▶ … ─▶ groups

Counts what was tokenised: the documents that stand after filters and dedup, held-out ones among them. A path is that
of the filter `field`: keys with dots between. A value that is no string is shown as JSON; a document without the
field, or with null there, counts as `(none)`. A string that could be taken for one of these names, or for nothing,
is shown as JSON, too: in quotes.

Of a field at most `MOST` values are kept, in each split and again in each merge: those with the most tokens, of equal
ones the first by name. The others are added up as `(other)`, so that the counts of a field are those of its source,
always. A field with no more than `MOST` values is counted exactly; with more, a value lacks what it has in splits
where it was not among the first, and `values` of `(other)` counts a value once for each split that left it out.

Memory: a row group with `meta`, and the distinct values of one split, of at most `LONGEST` characters each; in a merge
`FAN_IN` tables of `MOST` values a field. What reaches the driver is one such table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from winnow.filters.field import values
from winnow.pipelines.cluster import Task
from winnow.pipelines.documents import name
from winnow.pipelines.engine import Done, Engine, Request, Work
from winnow.pipelines.records import Outputs, Stage
from winnow.pipelines.standing import Standing, rows_of, standings
from winnow.shards import storage, tables

if TYPE_CHECKING:
    from winnow.pipelines.corpus import SourceRun

VERSION = 1
MOST = 1_000
"""Values of a field that are told apart. Ours."""
LONGEST = 200
"""Characters of a value; a longer one is cut, and those that begin alike are one. Ours."""
FAN_IN = 256
"""Tables that a task merges."""
PENDING_ROWS = 1 << 16
NONE, OTHER = "(none)", "(other)"
COUNTS = ("documents", "text_bytes", "tokens", "values")
SCHEMA = pa.schema(
    [("field", pa.string()), ("value", pa.large_string()), *((count, pa.uint64()) for count in COUNTS)]
)
"""`values` is how many values a row stands for: 1, but of `(other)`."""
TABLE = "groups"


def label(value: Any) -> str:
    """The name under which a value of `meta` is counted; at most `LONGEST` characters and an ellipsis."""
    if value is None:
        return NONE
    if isinstance(value, str) and value not in ("", NONE, OTHER):
        text = value
    else:
        text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    if len(text) > LONGEST:
        text = text[:LONGEST] + "…"
    # JSON can carry half a character as an escape; UTF-8 cannot.
    return text.encode("utf-8", "replace").decode()


def summed(parts: Sequence[pa.Table]) -> pa.Table:
    """Tables of `SCHEMA` as one with a row per field and value, in no particular order."""
    by_value = pa.concat_tables(parts).group_by(["field", "value"], use_threads=False)
    sums = by_value.aggregate([(count, "sum") for count in COUNTS])
    columns = [sums.column(c) for c in ("field", "value", *(f"{count}_sum" for count in COUNTS))]
    return pa.table(columns, schema=SCHEMA)


def largest(table: pa.Table, field: str) -> pa.Table:
    """The values of a field to keep, by tokens, then `(none)`, then `(other)` for the rest; values are distinct."""
    mine = table.filter(pc.equal(table.column("field"), field))
    named = mine.filter(
        pc.invert(pc.is_in(mine.column("value"), value_set=pa.array([NONE, OTHER], pa.large_string())))
    )
    ranks = pc.sort_indices(named, sort_keys=[("tokens", "descending"), ("value", "ascending")])
    ones = pa.array(np.ones(len(named), np.uint64))
    named = named.set_column(SCHEMA.get_field_index("values"), SCHEMA.field("values"), ones).take(ranks)
    none = mine.filter(pc.equal(mine.column("value"), NONE))
    others = pa.concat_tables([named.slice(MOST), mine.filter(pc.equal(mine.column("value"), OTHER))])
    parts = [named.slice(0, MOST), none]
    if len(others):
        sums = [[pc.sum(others.column(count)).as_py()] for count in COUNTS]
        parts.append(pa.table([[field], [OTHER], *sums], schema=SCHEMA))
    return pa.concat_tables(parts)


@dataclass(slots=True)
class Tally:
    """Sums of tables, of which it holds as many rows as there are distinct values, twice, and `PENDING_ROWS`."""

    held: list[pa.Table]

    def add(self, part: pa.Table) -> None:
        self.held.append(part)
        if sum(map(len, self.held[1:])) > max(len(self.held[0]), PENDING_ROWS):
            self.held = [summed(self.held)]

    def write(self, fields: Sequence[str], path: str) -> None:
        """Write what is to be kept of each field as an Arrow file."""
        table = summed(self.held)
        with tables.arrow_writer(path, SCHEMA) as writer:
            for field in fields:
                writer.write_table(largest(table, field))


@dataclass(frozen=True, slots=True)
class SplitSpec:
    standing: Standing
    """With all steps of dedup."""
    tokens: str
    """Location of the tokens stage."""
    fields: tuple[str, ...]


def split_task(spec: SplitSpec, outputs: Outputs) -> dict[str, Any]:
    """Count the documents of one split that were tokenised, by the values of each field.

    Raises ValueError where tokens and documents are not row-aligned, or a document's `meta` is no JSON.
    """
    tally = Tally([SCHEMA.empty_table()])
    documents = 0
    for standing, sizes in _standing(spec):
        documents += standing.num_rows
        for field in spec.fields:
            labels = pa.array([label(value) for value in values(standing, field)], pa.large_string())
            names = pa.repeat(field, len(labels))
            tally.add(summed([pa.table([names, labels, *sizes], schema=SCHEMA)]))
    with outputs.file(name(TABLE, spec.standing.split, "arrow")) as path:
        tally.write(spec.fields, path)
    return {"documents": documents}


def _standing(spec: SplitSpec) -> Iterator[tuple[pa.RecordBatch, list[pa.Array]]]:
    """The documents of a split that stand with their `meta`, batch by batch, and what `COUNTS` names of each."""
    place = storage.join(spec.tokens, name("index", spec.standing.split, "arrow"))
    index = tables.Aligned(tables.arrow_batches(place))
    end = np.uint64(0)
    for batch in rows_of(spec.standing, ("id", "meta")).batches:
        standing = batch.filter(batch.column("keep"))
        n = standing.num_rows
        if n == 0:
            continue
        own = index.take(n)
        if not own.column("id").equals(standing.column("id")):
            raise ValueError(f"{place} has other documents than those that stand")
        ends = own.column("end").to_numpy()
        ones = pa.array(np.ones(n, np.uint64))
        tokens = pa.array(np.diff(ends, prepend=end))
        end = ends[-1]
        yield standing, [ones, own.column("text_bytes").cast(pa.uint64()), tokens, ones]
    index.end()


@dataclass(frozen=True, slots=True)
class MergeSpec:
    index: int
    places: tuple[str, ...]
    fields: tuple[str, ...]


def merge_task(spec: MergeSpec, outputs: Outputs) -> dict[str, Any]:
    """Add tables up."""
    tally = Tally([SCHEMA.empty_table()])
    for place in spec.places:
        for batch in tables.arrow_batches(place):
            tally.add(pa.Table.from_batches([batch]))
    with outputs.file(name(TABLE, spec.index, "arrow")) as path:
        tally.write(spec.fields, path)
    return {"tables": len(spec.places)}


def groups_work(engine: Engine, source: SourceRun, fields: Sequence[str]) -> Work[Done]:
    """Count one source, whose tokens are there, by fields of `meta`; `groups_of` reads the stage's table."""
    assert source.tokens is not None
    wanted = tuple(fields)
    settings = {"fields": list(wanted), "most": MOST, "longest": LONGEST}
    first = Stage(f"groups-split.{source.name}", VERSION, settings, (source.tokens.stage.directory,))
    final = Stage(f"groups.{source.name}", VERSION, settings | {"fan_in": FAN_IN}, (first.directory,))
    if done := engine.finished(final, 1):
        return done
    specs = [SplitSpec(standing, source.tokens.location, wanted) for standing in standings(source)]
    done = yield Request(first, [Task(s.standing.split, split_task, s) for s in specs])
    level = 0
    while len(done.records) > FAN_IN:
        stage = Stage(f"groups-merge{level}.{source.name}", VERSION, {}, (done.stage.directory,))
        done = yield Request(stage, _merges(done, wanted, FAN_IN))
        level += 1
    return (yield Request(final, _merges(done, wanted, len(done.records))))


def _merges(done: Done, fields: tuple[str, ...], fan_in: int) -> list[Task]:
    places = [storage.join(done.location, name(TABLE, r.index, "arrow")) for r in done.records]
    parts = [tuple(places[i : i + fan_in]) for i in range(0, len(places), fan_in or 1)] or [()]
    return [Task(i, merge_task, MergeSpec(i, part, fields)) for i, part in enumerate(parts)]


def groups_of(done: Done) -> dict[str, list[dict[str, Any]]]:
    """By field what `groups_work` counted: value, documents, text_bytes, tokens; of `(other)` values, too."""
    found: dict[str, list[dict[str, Any]]] = {field: [] for field in done.stage.settings["fields"]}
    for batch in tables.arrow_batches(storage.join(done.location, name(TABLE, 0, "arrow"))):
        for row in batch.to_pylist():
            kept = ("value", *COUNTS) if row["value"] == OTHER else ("value", *COUNTS[:3])
            found[row["field"]].append({key: row[key] for key in kept})
    return found
