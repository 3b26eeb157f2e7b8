"""What did the filters of a run drop, and what do the dropped documents look like?

`audit_facts` is the table source × rule, from mixture.json alone. `sample_dropped` shows documents that a rule, all
rules of a filter, or a step of dedup dropped. Every such document is as likely as any other: n of their numbers are
drawn, the counts in the records of the stages tell in which splits they lie, and of each of these splits the
documents with the smallest hash(seed, id) are taken. Read are the records of a stage or two, and of at most n splits
the report of what was dropped, the rows, and the text where the report does not hold it. With the run's own seed it
mostly does: its texts were chosen by the same hash.

Memory: a row group of a report, and one batch of text.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from winnow.filters.catalogue import Segment
from winnow.filters.evidence import evidence
from winnow.filters.quality import bounds
from winnow.filters.rules import Rule, Signal
from winnow.pipelines import quality_step
from winnow.pipelines.documents import name
from winnow.pipelines.dropped import SAMPLE_SEED, TOO_LONG
from winnow.pipelines.earlier import shown_name
from winnow.pipelines.filtering import parts_of
from winnow.pipelines.finished import FinishedRun, NotFinishedError, UnknownError, open_run
from winnow.pipelines.ledger import completed
from winnow.pipelines.located import nearest
from winnow.pipelines.records import Record, SchemaError
from winnow.pipelines.split_rows import find_rows, readable, splits_of, texts_of_rows
from winnow.shards import storage, tables

EXCERPT_CHARS = 600
"""Characters shown of a document."""
DRAW_SEED = 0x6175646974


@dataclass(frozen=True, slots=True)
class Place:
    """A document and where it was read."""

    document: str
    """Id, 32 hexadecimal digits."""
    source: str
    path: str
    position: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """A document that did not stay."""

    place: Place
    key: str | None
    stage: str
    """`read`, `filters`, `dedup`, `quality` or `tokens`."""
    filter: str
    """Why the row is no document, the first rule that failed, or the step of dedup."""
    score: float | None
    threshold: float | None
    detail: str | None
    failing: tuple[str, ...]
    """Every rule of the segment that failed."""
    signals: dict[str, Any]
    """What the score is made of, and what else was measured for it."""
    survivor: Place | None
    """Of a duplicate: the document that is kept instead; of `semantic`: what it is most like, which may be dropped."""
    characters: int | None
    """Of the text; None for a row that is no document."""
    excerpt: str
    """The beginning of the text, or of the bytes of a malformed row."""
    evidence: tuple[str, ...]


# ---- the table -----------------------------------------------------------------------------------------------


def audit_facts(mixture: dict[str, Any]) -> dict[str, Any]:
    """Per source what was lost in reading, by rule what was dropped, and what rewriting removed, as plain values.

    A rule's `dropped` are the documents it dropped, being the first that they fail; `failing` are all that fail it,
    of those that came to its segment; `only` are those that fail no other rule of the segment, and would pass it but
    for this one. Sorted by `dropped`.
    """
    return {"name": mixture["name"], "sources": [_source_facts(s) for s in mixture["sources"]]}


def _source_facts(source: dict[str, Any]) -> dict[str, Any]:
    rows = max(source["rows"], 1)
    # An early segment's drops are counted with the stage that reads, as `lost`; only rules have a dot in their names.
    dropped, size = dict(source["dropped"]), dict(source["dropped_bytes"])
    for rule, n in source["lost"].items():
        if "." in rule:
            dropped[rule] = dropped.get(rule, 0) + n
            size[rule] = size.get(rule, 0) + source["lost_bytes"].get(rule, 0)
    # The bounds of classifiers on embeddings, which a run made before there were any does not have.
    judged = source.get("quality") or {key: {} for key in ("dropped", "dropped_bytes", "failing", "only")}
    dropped, size = dropped | judged["dropped"], size | judged["dropped_bytes"]
    failing, only = source["failing"] | judged["failing"], source["only"] | judged["only"]
    rules = [
        {
            "rule": rule,
            "dropped": dropped.get(rule, 0),
            "share": dropped.get(rule, 0) / rows,
            "bytes": size.get(rule, 0),
            "failing": failing.get(rule, 0),
            "failing_share": failing.get(rule, 0) / rows,
            "only": only.get(rule, 0),
            "details": dict(sorted(source["details"].get(rule, {}).items(), key=lambda item: -item[1])),
        }
        for rule in dropped | failing
    ]
    return {
        "name": source["name"],
        "rows": source["rows"],
        "no_documents": {reason: n for reason, n in source["lost"].items() if "." not in reason},
        "rules": sorted(rules, key=lambda rule: (-rule["dropped"], -rule["failing"], rule["rule"])),
        "duplicates": source["duplicates"],
        "dedup": source["dedup"],
        "too_long_chats": source.get("too_long_chats", 0),
        "rewritten_chars": source["rewritten_chars"],
        "kept": source["kept_documents"],
    }


# ---- names ---------------------------------------------------------------------------------------------------


def check_source(run: FinishedRun, source: str) -> None:
    """Raises UnknownError for a source that the run does not have."""
    if source not in run.places:
        hint = nearest(source, run.places, "the run has")
        raise UnknownError(f"there is no source {source!r}{hint}")


def segments_of(run: FinishedRun, source: str) -> tuple[Segment, ...]:
    """The segments of a source's filters, as the run's recipe has them."""
    return parts_of(run.recipe, tuple(f.settings for f in run.recipe.sources[source].filters))  # type: ignore[attr-defined]


def reasons_named(run: FinishedRun, wanted: str) -> set[str]:
    """The reasons in the report that a rule's name, a filter's name, a step of dedup, or `quality` means.

    Raises UnknownError for a name that this run does not have.
    """
    reasons = {r.name for source in run.places for part in segments_of(run, source) for r in part.rules}
    for facts in run.mixture["sources"]:
        reasons |= set(facts["lost"]) | ({TOO_LONG} if facts.get("too_long_chats") else set())
    uses = [use for source in run.recipe.sources.values() for use in source.quality]
    judged = {r.name for use in uses for r in bounds(use.scorer, Signal(use.scorer), use)}
    reasons |= judged
    reasons |= {step.name for step in run.recipe.dedup_steps()}
    if wanted in reasons:
        return {wanted}
    named = {reason for reason in reasons if reason.startswith(wanted + ".")}
    if wanted == quality_step.KIND:
        named |= judged
    if named:
        return named
    filters = {reason.rpartition(".")[0] for reason in reasons if "." in reason}
    filters |= {quality_step.KIND} if judged else set()
    hint = nearest(wanted, sorted(filters | reasons), "this run's are")
    raise UnknownError(f"no filter {wanted!r} drops documents in this run{hint}")


# ---- the sample ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Split:
    """What a split has of the documents that are asked for."""

    source: str
    split: int
    dropped: int


def sample_dropped(
    run: FinishedRun, wanted: str, n: int, source: str | None = None, seed: int | None = None
) -> list[Dropped]:
    """Up to n dropped documents, in an order of the seed's; more of them begin with the same ones.

    wanted : a rule, a filter (all its rules), `quality` (all bounds on embedding classifiers), a step of dedup,
        `max_tokens` of conversations, or a reason why a row is no document.
    source : only of this source.
    seed : default: the run's own.

    Raises UnknownError for a filter or source that is not in the run, NotFinishedError when a stage is not there.
    """
    return sample_of(run, reasons_named(run, wanted), n, source, seed)


def sample_of(
    run: FinishedRun, reasons: set[str], n: int, source: str | None = None, seed: int | None = None
) -> list[Dropped]:
    """Up to n documents that were dropped for one of the reasons; see `sample_dropped`."""
    if source is not None:
        check_source(run, source)
    seed = run.recipe.seed if seed is None else seed
    sources = [source] if source is not None else list(run.places)
    splits = [split for one in sources for split in _splits(run, one, reasons)]
    ends = list(itertools.accumulate(split.dropped for split in splits))
    drawn = [bisect.bisect_right(ends, k) for k in draws(ends[-1] if ends else 0, n, seed)]
    shown = {k: _of_split(run, splits[k], reasons, times, seed) for k, times in Counter(drawn).items()}
    return [next(shown[k]) for k in drawn]


def draws(total: int, n: int, seed: int) -> Iterator[int]:
    """n different numbers below total, or all of them, in an order of the seed's (Fisher and Yates')."""
    n = min(n, total)
    moved: dict[int, int] = {}
    for i, draw in enumerate(tables.mix(seed ^ DRAW_SEED, np.arange(n, dtype=np.uint64)).tolist()):
        j = i + draw % (total - i)
        yield moved.get(j, j)
        moved[j] = moved.get(i, i)


def _splits(run: FinishedRun, source: str, reasons: set[str]) -> list[_Split]:
    """The splits of a source with documents dropped for one of the reasons, counted from the stages' records."""
    facts = next(s for s in run.mixture["sources"] if s["name"] == source)
    counts = dict.fromkeys(splits_of(run, source), 0)

    def add(kind: str, what: str) -> None:
        if not reasons.isdisjoint(facts[what]):
            for record in _records(run, source, kind, list(counts)):
                counts[record.index] += sum(record.counts[what].get(reason, 0) for reason in reasons)

    add("documents", "lost")
    add("filters", "dropped")
    later = {step["step"] for step in facts["dedup"] if step["dropped"]}
    later |= set(facts.get("quality", {}).get("dropped", {}))
    if not later.isdisjoint(reasons):
        for record in _records(run, source, "dropped", list(counts)):
            counts[record.index] += sum(record.counts["steps"].get(step, 0) for step in reasons)
    if TOO_LONG in reasons and facts.get("too_long_chats"):
        for record in _records(run, source, "tokens", list(counts)):
            counts[record.index] += record.counts.get("too_long_chats", 0)
    return [_Split(source, split, dropped) for split, dropped in counts.items() if dropped]


def _records(run: FinishedRun, source: str, kind: str, splits: Sequence[int]) -> list[Record]:
    place = run.stage_named(f"dropped.{source}") if kind == "dropped" else run.stage(source, kind)
    records = completed(place)
    missing = sum(k not in records for k in splits)
    if missing:
        raise NotFinishedError(
            f"{place} is not whole: {missing} of {len(splits)} splits are missing; `winnow run` makes them again"
        )
    return [records[k] for k in splits]


def _of_split(run: FinishedRun, split: _Split, reasons: set[str], n: int, seed: int) -> Iterator[Dropped]:
    """The n documents of a split with the smallest hash, in its order."""
    place = storage.join(run.stage_named(f"dropped.{split.source}"), name("dropped", split.split, "parquet"))
    with readable(place):
        ids = _smallest(place, reasons, n, seed)
        if len(ids) < n:
            raise ValueError(f"{split.dropped} documents were dropped, it has {len(ids)}")
    reported = find_rows(place, ids)
    rows = {id_: row.to_pylist()[0] for id_, (_, row) in reported.items()}
    measured, texts = _stored(run, split, rows)
    for id_ in ids:
        yield _dropped(run, rows[id_], measured.get(id_, {}), texts.get(id_))


def _smallest(place: str, reasons: set[str], n: int, seed: int) -> list[bytes]:
    """The ids of the n reported documents with the smallest hash(seed, id)."""
    value_set = pa.array(sorted(reasons), pa.string())
    best: list[tuple[int, bytes]] = []
    with storage.open_input(place) as handle:
        file = pq.ParquetFile(handle)
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["id", "filter"], use_threads=False)
            ids = (
                table.filter(pc.is_in(table.column("filter"), value_set=value_set))
                .column("id")
                .combine_chunks()
            )
            if len(ids):
                hashes = tables.mix(seed ^ SAMPLE_SEED, *tables.id_halves(ids)).tolist()
                best = sorted([*best, *zip(hashes, ids.to_pylist(), strict=True)])[:n]
    return [id_ for _, id_ in best]


def _stored(
    run: FinishedRun, split: _Split, rows: dict[bytes, dict[str, Any]]
) -> tuple[dict[bytes, dict[str, Any]], dict[bytes, str]]:
    """The signals of reported documents behind their first failing rules, and the texts that the report lacks."""
    documents = run.stage(split.source, "documents")
    signals: dict[bytes, dict[str, Any]] = {}
    texts = {id_: row["text"] for id_, row in rows.items() if row["text"] is not None}
    left = {id_ for id_, row in rows.items() if row["stage"] != "read"}
    *early, last = segments_of(run, split.source)
    for number, part in enumerate(early):
        # A rule may stand in several segments: only the segment that drops a document is the last to have measured it.
        here = {id_ for id_ in left if rows[id_]["filter"] in {rule.name for rule in part.rules}}
        if not here:
            continue
        columns = ["first", *_signals_behind(part, {rows[id_]["filter"] for id_ in here})]
        place = storage.join(documents, name(f"signals{number}", split.split, "parquet"))
        for id_, (_, row) in find_rows(place, here, columns).items():
            measured = row.to_pylist()[0]
            if measured["first"] >= 0:
                left.discard(id_)
                signals[id_] = _chosen(measured, _signals_behind(part, {rows[id_]["filter"]}))
    gone_early = {id_ for id_, row in rows.items() if row["stage"] != "read"} - left
    if missing := gone_early - texts.keys():
        place = storage.join(documents, name("lost", split.split, "parquet"))
        found = find_rows(place, missing, ["text"])
        texts |= {id_: row.column("text")[0].as_py() for id_, (_, row) in found.items()}
    columns = _signals_behind(last, {rows[id_]["filter"] for id_ in left})
    if columns or left - texts.keys():
        place = storage.join(documents, name("rows", split.split, "parquet"))
        found = find_rows(place, left, columns)
        for id_, (_, row) in found.items():
            signals[id_] = _chosen(row.to_pylist()[0], _signals_behind(last, {rows[id_]["filter"]}))
        numbers = {found[id_][0]: id_ for id_ in left - texts.keys() if id_ in found}
        read = texts_of_rows(documents, split.split, numbers)
        texts |= {numbers[row]: text for row, text in read.items()}
    return signals, texts


def _signals_behind(part: Segment, names: set[str]) -> list[str]:
    """The stored signals that rules are about: those of their scores, details, and what is measured with these."""
    wanted: list[str] = []
    for rule in part.rules:
        if rule.name in names:
            wanted += _behind(part, rule)
    return list(dict.fromkeys(wanted))


def _behind(part: Segment, rule: Rule) -> list[str]:
    own = [*rule.score.signals, *([rule.detail] if rule.detail else [])]
    beside = [m.columns for m in part.measures if not set(own).isdisjoint(m.columns)]
    return [*own, *itertools.chain.from_iterable(beside)]


def _chosen(row: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: row[name] for name in names if name in row}


def _dropped(run: FinishedRun, row: dict[str, Any], signals: dict[str, Any], text: str | None) -> Dropped:
    shown = text if text is not None else (row["raw"] or b"").decode("utf-8", "replace")
    return Dropped(
        place=place_of(run, row["id"].hex()),
        key=row["key"],
        stage=row["stage"],
        filter=row["filter"],
        score=row["score"],
        threshold=row["threshold"],
        detail=row["detail"],
        failing=tuple(row["failing"] or ()),
        signals=signals,
        survivor=survivor_place(run, row["survivor"], row["detail"]),
        characters=len(text) if text is not None else None,
        excerpt=shown[:EXCERPT_CHARS],
        evidence=tuple(evidence(row["filter"], text)) if text is not None else (),
    )


def place_of(run: FinishedRun, document: str) -> Place:
    """Where a document was read, as its id tells."""
    return Place(document, *run.place_of(document))


def survivor_place(run: FinishedRun, survivor: bytes | None, detail: str | None) -> Place | None:
    """Where the document was read that is kept instead of another one; `detail` names its source if not of this run.

    Of an earlier run that is not there any more the path is "?".
    """
    if survivor is None:
        return None
    if detail is None:
        return place_of(run, survivor.hex())
    for earlier, sources in earlier_runs(run):
        if detail in sources:
            with contextlib.suppress(UnknownError):
                _, path, position = earlier.place_of(survivor.hex())
                return Place(survivor.hex(), detail, path, position)
    return Place(survivor.hex(), detail, "?", int.from_bytes(survivor[8:], "big"))


def earlier_runs(run: FinishedRun) -> list[tuple[FinishedRun, dict[str, str]]]:
    """The earlier runs that the run was compared with and that are still there, and their sources by shown name."""
    found = []
    for location in {a: None for step in run.recipe.dedup_steps() for g in step.groups for a in g.against}:
        with contextlib.suppress(NotFinishedError, SchemaError, OSError, ValueError):
            earlier = open_run(location)
            found.append((earlier, {f"{shown_name(location)}/{name}": name for name in earlier.places}))
    return found
