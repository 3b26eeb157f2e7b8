"""Is the cut of a step that compares vectors at the right place?

`nearest_cut` shows the documents whose scores are nearest to it, half of them dropped and half kept. For `semantic`
each stands beside the document before it that it is most like, common stretches of words apart from the others; for
`prototypes` with the words that tell its cluster from all documents (semantic_words.py). Scores and verdicts of all
the splits are read, ids of the splits that can hold one of the nearest, and the texts that are shown; texts
are as filters left them, with what a step of dedup before cut from them.

Memory: the scores and ids of one split, about 100 bytes for each of its documents, and a batch of text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from winnow.pipelines.audit import EXCERPT_CHARS, Place, check_source, place_of
from winnow.pipelines.audit_pairs import compared
from winnow.pipelines.dedup_settings import WITH_VECTORS
from winnow.pipelines.documents import name
from winnow.pipelines.finished import FinishedRun, NotFinishedError, UnknownError
from winnow.pipelines.ledger import recorded
from winnow.pipelines.located import nearest
from winnow.pipelines.semantic_report import BACKGROUND_WORDS, WORDS, words_of
from winnow.pipelines.semantic_words import characteristic, document_counts
from winnow.pipelines.split_rows import find_rows, readable, splits_of, splits_to_search, texts_of_rows
from winnow.pipelines.standing import step_of, verdict_name
from winnow.pipelines.vector_cut import bound_of
from winnow.pipelines.vector_scores import SCORE_SCHEMA, score_name
from winnow.shards import storage, tables

TIES_SEED = 0x6E656172
COMMON_WORDS = 5
"""Fewer that two texts have in common beside each other say nothing: texts of one language share `of the`."""
SAMPLE = 16
"""Documents of a cluster whose words are counted."""
HELD = np.dtype(
    [("far", "<f8"), ("draw", "<u8"), ("high", "<u8"), ("low", "<u8"), ("source", "<u4"), ("split", "<u4"),
     ("row", "<u8"), ("dropped", "?"), ("score", "<f4"), ("similarity", "<f4"), ("cluster", "<u4"), ("paired", "?"),
     ("other_high", "<u8"), ("other_low", "<u8")]
)  # fmt: skip
"""A document near the cut: how far from it, the hash that tells equally far ones apart, its id and where it is
(`source` by number), what is known of it, and, where it is `paired`, the id of the document it is most like."""


@dataclass(frozen=True, slots=True)
class Near:
    """A document near the cut."""

    step: str
    group: tuple[str, ...]
    """The sources that were compared."""
    dropped: bool
    score: float
    cut: float
    """The highest score that stays; of equal ones a hash decides where the cut is a share."""
    cluster: int
    similarity: float
    """Cosine to the cluster's centroid."""
    document: Place
    key: str | None
    neighbour: Place | None
    """The document before it in its cluster that it is most like; None for `prototypes`."""
    neighbour_key: str | None
    words: tuple[str, ...]
    """Of its cluster, for `prototypes`."""
    excerpt: str
    """The beginning of the text, where there is no neighbour."""
    blocks: tuple[tuple[bool, str, str], ...]
    """(whether the same, words of the document, words of the neighbour), in order."""


@dataclass(frozen=True, slots=True)
class _Source:
    """A source that the step went over."""

    name: str
    number: int
    group: tuple[str, ...]
    """The sources that the step compared with it, and itself."""
    verdicts: str
    scores: str
    """Locations of the stages."""
    cut: float
    splits: Sequence[int]


def nearest_cut(
    run: FinishedRun, n: int, source: str | None = None, seed: int | None = None, step: str | None = None
) -> list[Near]:
    """Up to n documents, those whose scores are nearest to the cut on either side, from the highest score down.

    source : only documents of this source. seed : of the hash that tells equally near ones apart; default: the run's.
    step : `semantic` or `prototypes`; default: the first that the run has.

    Raises UnknownError for a source or step that is not in the run, NotFinishedError when a stage is not there.
    """
    step = _step(run, step)
    if source is not None:
        check_source(run, source)
    seed = run.recipe.seed if seed is None else seed
    sources = list(_sources(run, step, [source] if source is not None else list(run.places)))
    if not sources:
        raise UnknownError(f"{step} did not go over source {source!r}")
    sides = {True: np.empty(0, HELD), False: np.empty(0, HELD)}
    for one in sources:
        for split in one.splits:
            _of_split(run, one, split, n, seed, sides)
    chosen = _halves(sides[True], sides[False], n)
    words = _words(run, step, sources, chosen, seed) if step == "prototypes" else {}
    by_number = {one.number: one for one in sources}
    return [_near(run, step, by_number[int(row["source"])], row, words) for row in chosen]


def _step(run: FinishedRun, wanted: str | None) -> str:
    steps = [s.name for s in run.recipe.dedup_steps() if s.name in WITH_VECTORS]
    if not steps:
        names = " and ".join(WITH_VECTORS)
        raise UnknownError(f"no step of this run's dedup compares vectors; {names} do")
    if wanted is not None and wanted not in steps:
        raise UnknownError(f"{wanted!r} compares no vectors in this run{nearest(wanted, steps, 'these do')}")
    return wanted or steps[0]


def _sources(run: FinishedRun, step: str, names: Sequence[str]) -> Iterator[_Source]:
    for number, source in enumerate(names):
        for directory in run.places[source]["dedup"]:
            if step_of(directory) == step:
                verdicts = storage.join(run.location, "stages", directory)
                group = tuple(identity_of(verdicts)["settings"]["group"])
                cut = cut_of(verdicts)
                # Without any document that stands there is no cut, and nothing near it.
                bound = cut if cut is not None else 0.0
                yield _Source(
                    source, number, group, verdicts, scores_of_step(verdicts), bound, splits_of(run, source)
                )


def identity_of(stage: str) -> dict[str, Any]:
    """The `stage.json` of a stage at a location. Raises NotFinishedError."""
    place = storage.join(stage, "stage.json")
    with readable(place):
        return orjson.loads(storage.read_bytes(place))


def scores_of_step(verdicts: str) -> str:
    """Location of the scores that the verdicts of a step that compares vectors were made of."""
    stages, _, directory = verdicts.rpartition("/")
    wanted = f"{step_of(directory)}-scores"
    return storage.join(stages, next(i for i in identity_of(verdicts)["inputs"] if step_of(i) == wanted))


def cut_of(verdicts: str) -> float | None:
    """The highest score that stays by the verdicts of such a step; None where no document stood."""
    eps = next((r.counts["eps"] for r in recorded(verdicts).values()), None)
    return bound_of(eps) if eps is not None else None


# ---- the nearest ---------------------------------------------------------------------------------------------


def _of_split(
    run: FinishedRun, source: _Source, split: int, n: int, seed: int, sides: dict[bool, np.ndarray]
) -> None:
    """Bring the nearest on both sides up to date with the documents of a split."""
    scores, dropped = _scores_and_verdicts(source, split)
    score = scores.column("score").to_numpy().astype(np.float64)
    far = np.abs(score - source.cut)
    wanted = scores.column("score").is_valid().to_numpy()
    if step_of(source.scores) == "semantic-scores":
        wanted &= scores.column("neighbour").is_valid().to_numpy()
    for side, held in sides.items():
        mine = wanted & (dropped == side)
        if len(held) == n:
            mine &= far <= held["far"][-1]
        where = np.flatnonzero(mine)
        if len(where) > n:
            # Of equally far ones a hash decides, which is of the ids.
            where = where[far[where] <= np.partition(far[where], n - 1)[n - 1]]
        if len(where):
            sides[side] = nearest_of([held, _held(run, source, split, scores, where, far, side, seed)], n)


def _scores_and_verdicts(source: _Source, split: int) -> tuple[pa.Table, np.ndarray]:
    """SCORE_SCHEMA's columns, and bool[rows]: which documents the step drops."""
    place = storage.join(source.scores, score_name(source.name, split))
    if not storage.exists(place):
        raise NotFinishedError(
            f"the scores of {step_of(source.verdicts)} are not there any more ({place}); `winnow run` makes them again"
        )
    with readable(place):
        scores = pa.Table.from_batches(list(tables.arrow_batches(place)), SCORE_SCHEMA)
    place = storage.join(source.verdicts, verdict_name(source.name, split))
    with readable(place):
        parts = [b.column("dropped").to_numpy(zero_copy_only=False) for b in tables.arrow_batches(place)]
    return scores, np.concatenate([np.empty(0, bool), *parts])


def _held(
    run: FinishedRun,
    source: _Source,
    split: int,
    scores: pa.Table,
    where: np.ndarray,
    far: np.ndarray,
    dropped: bool,
    seed: int,
) -> np.ndarray:
    mine = scores.take(pa.array(where))
    rows = np.zeros(len(where), HELD)
    rows["high"], rows["low"] = (half[where] for half in _ids(run, source, split))
    rows["draw"] = tables.mix(seed ^ TIES_SEED, rows["high"], rows["low"])
    rows["far"], rows["row"], rows["dropped"] = far[where], where, dropped
    rows["source"], rows["split"] = source.number, split
    for column in ("score", "similarity", "cluster"):
        rows[column] = mine.column(column).to_numpy()
    neighbour = mine.column("neighbour").combine_chunks()
    rows["paired"] = neighbour.is_valid().to_numpy(zero_copy_only=False)
    rows["other_high"], rows["other_low"] = tables.id_halves(neighbour.fill_null(bytes(16)))
    return rows


def _ids(run: FinishedRun, source: _Source, split: int) -> tuple[np.ndarray, np.ndarray]:
    """The halves of the ids of a split's documents."""
    place = storage.join(run.stage(source.name, "documents"), name("rows", split, "parquet"))
    with readable(place):
        halves = [tables.id_halves(b.column("id")) for b in tables.parquet_batches(place, ["id"])]
    return np.concatenate([h for h, _ in halves]), np.concatenate([low for _, low in halves])


def nearest_of(parts: Iterable[np.ndarray], n: int) -> np.ndarray:
    """The n of HELD that are nearest to the cut, the nearest first; of equally near ones those of smaller hashes."""
    rows = np.concatenate(list(parts))
    return rows[np.lexsort((rows["low"], rows["high"], rows["draw"], rows["far"]))[:n]]


def _halves(dropped: np.ndarray, kept: np.ndarray, n: int) -> np.ndarray:
    """n of either side's, half of each where there are as many, by score from the highest down."""
    of_dropped = min(len(dropped), max((n + 1) // 2, n - len(kept)))
    rows = np.concatenate([dropped[:of_dropped], kept[: n - of_dropped]])
    return rows[np.lexsort((rows["draw"], ~rows["dropped"], -rows["score"]))]


# ---- what is shown of them -----------------------------------------------------------------------------------


def _near(
    run: FinishedRun, step: str, source: _Source, row: np.void, words: dict[tuple[str, int], tuple[str, ...]]
) -> Near:
    document = place_of(run, _hex(row["high"], row["low"]))
    key, text = _read(run, document)
    neighbour = place_of(run, _hex(row["other_high"], row["other_low"])) if row["paired"] else None
    other_key, other = _read(run, neighbour) if neighbour is not None else (None, "")
    return Near(
        step=step,
        group=source.group,
        dropped=bool(row["dropped"]),
        score=float(row["score"]),
        cut=source.cut,
        cluster=int(row["cluster"]),
        similarity=float(row["similarity"]),
        document=document,
        key=key,
        neighbour=neighbour,
        neighbour_key=other_key,
        words=words.get((source.verdicts, int(row["cluster"])), ()),
        excerpt=text[:EXCERPT_CHARS] if neighbour is None else "",
        blocks=tuple(joined(compared(text, other))) if neighbour is not None else (),
    )


def _hex(high: int, low: int) -> str:
    return f"{int(high):016x}{int(low):016x}"


def _read(run: FinishedRun, place: Place) -> tuple[str | None, str]:
    """The key and the text of a document. Raises NotFinishedError when it is not where its id says."""
    documents = run.stage(place.source, "documents")
    id_ = bytes.fromhex(place.document)
    splits = splits_of(run, place.source)
    for split in splits_to_search(documents, splits, run.file_ranks(place.source), id_):
        rows = find_rows(storage.join(documents, name("rows", split, "parquet")), [id_], ["key"])
        if rows:
            number, row = rows[id_]
            return row.column("key")[0].as_py(), texts_of_rows(documents, split, [number])[number]
    raise NotFinishedError(
        f"{documents} does not hold document {place.document}; `winnow run` makes it again"
    )


def joined(blocks: Iterable[tuple[bool, str, str]]) -> list[tuple[bool, str, str]]:
    """The blocks of `compared`, with the common ones of fewer than `COMMON_WORDS` words among what differs."""
    out: list[tuple[bool, str, str]] = []
    for same, left, right in blocks:
        same = same and left.count(" ") + 1 >= COMMON_WORDS
        if out and not same and not out[-1][0]:
            _, a, b = out.pop()
            left, right = " ".join(filter(None, (a, left))), " ".join(filter(None, (b, right)))
        out.append((same, left, right))
    return out


# ---- words of clusters ---------------------------------------------------------------------------------------


def _words(
    run: FinishedRun, step: str, sources: Sequence[_Source], chosen: np.ndarray, seed: int
) -> dict[tuple[str, int], tuple[str, ...]]:
    """The words of the clusters of these documents, by location of the verdicts and number of the cluster.

    They tell a sample of the cluster's documents in these sources from the sample of all that the statistics have.
    """
    wanted: dict[str, set[int]] = {}
    by_number = {one.number: one for one in sources}
    for row in chosen:
        wanted.setdefault(by_number[int(row["source"])].verdicts, set()).add(int(row["cluster"]))
    found = {}
    for verdicts, clusters in wanted.items():
        label = verdicts.rsplit("/", 1)[-1].removeprefix(f"{step}.").rpartition("-")[0]
        place = run.stage_named(f"{step}-report.{label}")
        with readable(storage.join(place, BACKGROUND_WORDS)):
            everything = words_of(place)
        mine = [one for one in sources if one.verdicts == verdicts]
        for cluster, texts in _samples(run, mine, clusters, seed).items():
            words = characteristic(document_counts(texts), everything, WORDS)
            found[verdicts, cluster] = tuple(words)
    return found


def _samples(
    run: FinishedRun, sources: Sequence[_Source], clusters: set[int], seed: int
) -> dict[int, list[str]]:
    """The texts of `SAMPLE` documents of each of the clusters, drawn by hash."""
    held = {cluster: np.empty(0, HELD) for cluster in sorted(clusters)}
    for source in sources:
        for split in source.splits:
            scores, dropped = _scores_and_verdicts(source, split)
            numbers = scores.column("cluster").to_numpy()
            where = np.flatnonzero(np.isin(numbers, list(held)))
            if len(where):
                far = np.zeros(len(dropped))
                rows = _held(run, source, split, scores, where, far, False, seed)
                for cluster, before in held.items():
                    held[cluster] = nearest_of([before, rows[rows["cluster"] == cluster]], SAMPLE)
    by_number = {one.number: one for one in sources}
    every = np.concatenate(list(held.values()))
    texts: dict[int, list[str]] = {cluster: [] for cluster in held}
    for number, split in sorted({(int(r["source"]), int(r["split"])) for r in every}):
        mine = every[(every["source"] == number) & (every["split"] == split)]
        documents = run.stage(by_number[number].name, "documents")
        read = texts_of_rows(documents, split, mine["row"].tolist())
        for row in mine:
            texts[int(row["cluster"])].append(read[int(row["row"])])
    return texts
