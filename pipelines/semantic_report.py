"""What are the clusters of a step that compares vectors, and what would another cut keep?

The stage `<step>-report.<label>` is made of the stored scores (vector_scores.py):

    curve ─▶ cluster-sizes ─▶ shown ─▶ shown-texts ─▶ report
    retention.py

`cluster-sizes` counts, for every cluster, its documents, those of them that the step's cut takes, and their cosines to
the centroid; `shown` adds that up, and chooses the clusters to show: the largest, and those that lose the most
documents; `shown-texts` takes of those the documents with the smallest draws, a hash of the seed and the id, the
same of all documents, and those nearest to the centroids; `report` finds the words that tell each cluster from
all (semantic_words.py). Neither the number of tasks nor the size of splits has a say.

The only record of the report counts `documents`, the clusters that were asked for (`most_clusters`), those of them
that no document is in (`empty_clusters`), `clusters` by size (each power of two up to the next), the `largest_cluster`,
the `eps` of the cut, `retention` (what other cuts would keep; {} where greedy), and `shown_clusters`: of each its
number, `documents`, how many of them go, their mean cosine to the centroid, words, and the documents nearest to the
centroid.

Memory: `cluster-sizes` and `shown` hold 40 and 100 bytes for each cluster (4,194,304 of them: 170 and 420 MB),
`shown-texts` an Arrow batch of text, `report` the first `CHARS` characters of about 2 · `SHOWN` · `SAMPLE` +
`BACKGROUND` documents.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from winnow.filters.semantic_settings import Prototypes, Semantic
from winnow.pipelines.cluster import Task
from winnow.pipelines.components import PROCESS_BYTES
from winnow.pipelines.documents import name
from winnow.pipelines.engine import Done, Engine, Request, Work
from winnow.pipelines.examples import draw_limit
from winnow.pipelines.records import Outputs, Stage
from winnow.pipelines.retention import curve_work
from winnow.pipelines.semantic_words import CHARS, characteristic, document_counts
from winnow.pipelines.standing import Standing, rows_of, texts_of, verdict_name
from winnow.pipelines.vector_cut import score_batches
from winnow.shards import exchange, storage, tables

VERSION = 1
TASK_ROWS = 1 << 22
TASKS = 256
"""At most, of one stage: each leaves a file as large as the number of clusters."""
SHOWN = 8
"""Clusters of either kind."""
SAMPLE = 48
"""Documents of a cluster whose words are counted."""
BACKGROUND = 512
"""And of all."""
WORDS = 10
TYPICAL = 3
"""Documents that are named of a cluster."""
SAMPLE_SEED = 0x73686F77
_STEPS_OF_ONE = 1 << 20
"""Cosines are added up as whole numbers of such parts: in any order the sum is the same."""
SIZES = ("documents", "goes", "similarity")
"""What `sizes` leaves, an int64 for each cluster, one after the other."""
BACKGROUND_WORDS = "words.json"
"""In the report: in how many documents of the background each word is."""
SAMPLE_SCHEMA = pa.schema(
    [
        ("draw", pa.uint64()),
        ("id", tables.ID),
        ("cluster", pa.uint32()),
        ("background", pa.bool_()),
        ("text", pa.large_string()),
    ]
)


@dataclass(frozen=True, slots=True)
class SizesSpec:
    index: int
    inputs: tuple[Standing, ...]
    scores: str
    verdicts: str
    """Locations of the stages."""
    clusters: int


def sizes_task(spec: SizesSpec, outputs: Outputs) -> dict[str, Any]:
    """Count, by cluster, the documents of some splits; returns how many there are."""
    counts = np.zeros((len(SIZES), spec.clusters), np.int64)
    for item in spec.inputs:
        # Not by the score: of those that have the score of the last that stays, some go.
        place = storage.join(spec.verdicts, verdict_name(item.source, item.split))
        verdicts = tables.Aligned(tables.arrow_batches(place))
        for batch in score_batches(spec.scores, item):
            if not batch.num_rows:
                continue
            valid = batch.column("score").is_valid()
            there = batch.filter(valid)
            cluster = there.column("cluster").to_numpy()
            dropped = verdicts.take(batch.num_rows).column("dropped").filter(valid)
            goes = dropped.to_numpy(zero_copy_only=False)
            counts[0] += np.bincount(cluster, minlength=spec.clusters)
            counts[1] += np.bincount(cluster[goes], minlength=spec.clusters)
            cosine = np.rint(there.column("similarity").to_numpy().astype(np.float64) * _STEPS_OF_ONE)
            np.add.at(counts[2], cluster, cosine.astype(np.int64))
    outputs.put(name("sizes", spec.index, "bin"), np.ascontiguousarray(counts, "<i8").data)
    return {"documents": int(counts[0].sum())}


@dataclass(frozen=True, slots=True)
class ShownSpec:
    sizes: str
    """Location of the stage."""
    files: int
    clusters: int


def shown_task(spec: ShownSpec, outputs: Outputs) -> dict[str, Any]:
    """Add up the sizes, and choose the clusters to show."""
    counts = np.zeros((len(SIZES), spec.clusters), np.int64)
    for file in range(spec.files):
        data = storage.read_bytes(storage.join(spec.sizes, name("sizes", file, "bin")))
        counts += np.frombuffer(data, "<i8").reshape(counts.shape)
    documents, goes, similarity = counts
    numbers = np.arange(spec.clusters)
    largest = np.lexsort((numbers, -documents))[:SHOWN]
    losing = np.lexsort((numbers, -documents, -goes))[:SHOWN]
    chosen = dict.fromkeys([*largest.tolist(), *losing[goes[losing] > 0].tolist()])
    return {
        "documents": int(documents.sum()),
        "most_clusters": spec.clusters,
        "empty_clusters": int((documents == 0).sum()),
        "clusters": _by_size(documents),
        "largest_cluster": int(documents.max(initial=0)),
        "shown_clusters": [
            {
                "cluster": c,
                "documents": int(documents[c]),
                "goes": int(goes[c]),
                "similarity": round(int(similarity[c]) / _STEPS_OF_ONE / int(documents[c]), 6),
            }
            for c in chosen
            if documents[c]
        ],
    }


def _by_size(documents: np.ndarray) -> dict[str, int]:
    """How many clusters have 1, 2 to 3, 4 to 7, … documents, by the least of each."""
    powers = np.frexp(documents[documents > 0].astype(np.float64))[1] - 1
    return {str(1 << power): int(n) for power, n in enumerate(np.bincount(powers)) if n}


@dataclass(frozen=True, slots=True)
class SampleSpec:
    index: int
    inputs: tuple[Standing, ...]
    scores: str
    limits: tuple[tuple[int, int], ...]
    """Of each cluster that is shown its number, and the draw up to which its documents are taken."""
    background: int
    """And of all documents."""
    seed: int


def sample_task(spec: SampleSpec, outputs: Outputs) -> dict[str, Any]:
    """Take documents of some splits; returns the typical ones of each cluster, the nearest to its centroid first."""
    typical: dict[int, list[tuple[float, str, str]]] = {cluster: [] for cluster, _ in spec.limits}
    with (
        outputs.file(name("sample", spec.index, "arrow")) as path,
        tables.arrow_writer(path, SAMPLE_SCHEMA) as writer,
    ):
        for item in spec.inputs:
            chosen = pa.Table.from_batches(_chosen(spec, item, typical), _CHOSEN_SCHEMA)
            if chosen.num_rows:
                for batch in _with_text(item, chosen):
                    writer.write_batch(batch)
    return {"typical": {str(cluster): found for cluster, found in typical.items()}}


_CHOSEN_SCHEMA = pa.schema(
    [("row", pa.int64()), *(SAMPLE_SCHEMA.field(c) for c in SAMPLE_SCHEMA.names if c != "text")]
)


def _chosen(
    spec: SampleSpec, item: Standing, typical: dict[int, list[tuple[float, str, str]]]
) -> Iterator[pa.RecordBatch]:
    """The documents of a split that are taken; `typical` is brought up to date."""
    numbers = np.array([c for c, _ in spec.limits], np.int64)
    limits = np.array([limit for _, limit in spec.limits], np.uint64)
    rows = rows_of(item, ["id"])
    first = 0
    for batch in score_batches(spec.scores, item):
        if batch.num_rows == 0:
            continue
        there = batch.column("score").is_valid()
        where = first + np.flatnonzero(there.to_numpy(zero_copy_only=False))
        ids = rows.take(batch.num_rows).column("id").filter(there)
        first += batch.num_rows
        mine = batch.filter(there)
        cluster = mine.column("cluster").to_numpy()
        similarity = mine.column("similarity").to_numpy()
        draws = tables.mix(spec.seed ^ SAMPLE_SEED, *tables.id_halves(ids))
        background = draws <= np.uint64(spec.background)
        wanted = background.copy()
        for number, limit in zip(numbers, limits, strict=True):
            members = np.flatnonzero(cluster == number)
            wanted[members[draws[members] <= limit]] = True
            nearest = members[np.argsort(-similarity[members], kind="stable")[:TYPICAL]]
            # Of equally near ones those of the smallest ids are named, so all of them have to be seen.
            if len(members) > TYPICAL:
                nearest = members[similarity[members] >= similarity[nearest[-1]]]
            held = typical[int(number)]
            held += [(float(similarity[i]), ids[i].as_py().hex(), item.source) for i in nearest.tolist()]
            held.sort(key=lambda found: (-found[0], found[1]))
            del held[TYPICAL:]
        take = pa.array(np.flatnonzero(wanted))
        columns = [where[wanted], draws[wanted], ids.take(take), cluster[wanted], background[wanted]]
        yield pa.record_batch(columns, schema=_CHOSEN_SCHEMA)
    rows.end()


def _with_text(item: Standing, chosen: pa.Table) -> Iterator[pa.RecordBatch]:
    """The documents of one split that were taken, with the beginning of their texts."""
    wanted = chosen.column("row").to_numpy()
    for found in texts_of(item):
        a, b = np.searchsorted(wanted, [found.where[0], found.where[-1] + 1])
        if a < b:
            at = pa.array(np.searchsorted(found.where, wanted[a:b]))
            texts = pc.utf8_slice_codeunits(found.texts.take(at), 0, CHARS + 1)
            (batch,) = chosen.slice(a, b - a).drop_columns(["row"]).combine_chunks().to_batches()
            yield pa.record_batch([*batch.columns, texts], schema=SAMPLE_SCHEMA)


@dataclass(frozen=True, slots=True)
class ReportSpec:
    sample: str
    """Location of the stage."""
    files: int
    typical: Mapping[int, Sequence[Sequence[str]]]
    """Id and source, by cluster."""
    facts: Mapping[str, Any]


def report_task(spec: ReportSpec, outputs: Outputs) -> dict[str, Any]:
    """Add the words of the clusters, and their typical documents, to the facts."""
    files = [storage.join(spec.sample, name("sample", f, "arrow")) for f in range(spec.files)]
    table = pa.Table.from_batches([b for file in files for b in tables.arrow_batches(file)], SAMPLE_SCHEMA)
    table = table.sort_by([("draw", "ascending"), ("id", "ascending")])
    background = table.filter(table.column("background")).slice(0, BACKGROUND)
    everything = document_counts(background.column("text").to_pylist())
    outputs.put(BACKGROUND_WORDS, encoded_words(everything))
    shown = []
    for facts in spec.facts["shown_clusters"]:
        mine = table.filter(pc.equal(table.column("cluster"), facts["cluster"])).slice(0, SAMPLE)
        counts = document_counts(mine.column("text").to_pylist())
        typical = [{"id": id_, "source": source} for id_, source in spec.typical[facts["cluster"]]]
        words = characteristic(counts, everything, WORDS)
        shown.append({**facts, "words": words, "typical": typical})
    return {**spec.facts, "shown_clusters": shown}


def encoded_words(counts: Mapping[str, int]) -> bytes:
    """What `words_of` reads."""
    return orjson.dumps(counts, option=orjson.OPT_SORT_KEYS)


def words_of(location: str) -> Counter[str]:
    """In how many documents of the background each word is, as the report at a location has it."""
    return Counter(orjson.loads(storage.read_bytes(storage.join(location, BACKGROUND_WORDS))))


def report_stage(step: str, group: Sequence[str], verdicts: Stage, seed: int) -> Stage:
    """The identity of a step's report, from that of its verdicts."""
    return Stage(f"{step}-report.{'+'.join(group)[:80]}", VERSION, {"seed": seed}, (verdicts.directory,))


def report_work(
    engine: Engine,
    step: str,
    group: Sequence[str],
    inputs: Sequence[Standing],
    scores: Done,
    verdicts: Done,
    settings: Semantic | Prototypes,
    seed: int,
) -> Work[Done]:
    """Look at what a step that compares vectors found; returns the finished stage `<step>-report.<label>`.

    inputs : the splits as the step found them. scores, verdicts : its finished stages of those names.
    """
    final = report_stage(step, group, verdicts.stage, seed)
    if done := engine.finished(final, 1):
        return done
    curve = (yield from curve_work(step, group, inputs, scores)).records[0].counts
    documents = curve["documents"]
    clusters = min(settings.clusters or max(1, round(math.sqrt(documents))), documents)
    eps = next((r.counts["eps"] for r in verdicts.records), None)
    parts = _parts(inputs)

    upstream = (verdicts.stage.directory, scores.stage.directory)
    sizes = Stage(_named(final, f"{step}-cluster-sizes"), VERSION, {"clusters": clusters}, upstream)
    specs = [SizesSpec(i, part, scores.location, verdicts.location, clusters) for i, part in enumerate(parts)]
    memory = PROCESS_BYTES + 40 * clusters
    counted = yield Request(sizes, [Task(s.index, sizes_task, s, memory) for s in specs])

    shown = Stage(_named(final, f"{step}-shown"), VERSION, {}, (sizes.directory,))
    spec = ShownSpec(counted.location, len(parts), clusters)
    memory = PROCESS_BYTES + 100 * clusters
    facts = (yield Request(shown, [Task(0, shown_task, spec, memory)])).records[0].counts
    found = facts["shown_clusters"]

    sample = Stage(_named(final, f"{step}-shown-texts"), VERSION, {"seed": seed}, (shown.directory,))
    limits = tuple((f["cluster"], draw_limit(SAMPLE, f["documents"])) for f in found)
    background = draw_limit(BACKGROUND, documents) if documents else 0
    tasks = []
    for i, part in enumerate(parts):
        tasks.append(Task(i, sample_task, SampleSpec(i, part, scores.location, limits, background, seed)))
    taken = yield Request(sample, tasks)

    typical = {}
    for one in found:
        ranked = [t for r in taken.records for t in r.counts["typical"][str(one["cluster"])]]
        ranked.sort(key=lambda t: (-t[0], t[1]))
        typical[one["cluster"]] = [t[1:] for t in ranked[:TYPICAL]]
    retention = {"kept_at_eps": curve["kept_at_eps"], "eps_at_share": curve["eps_at_share"]}
    if isinstance(settings, Semantic) and settings.greedy:
        retention = {}  # the scores hold at this eps alone
    facts = {**facts, "eps": eps, "retention": retention}
    report = ReportSpec(taken.location, len(parts), typical, facts)
    return (yield Request(final, [Task(0, report_task, report)]))


def _parts(inputs: Sequence[Standing]) -> list[tuple[Standing, ...]]:
    """The splits of each task."""
    rows = [i.rows for i in inputs]
    limit = max(TASK_ROWS, -(-2 * sum(rows) // TASKS))
    return [tuple(inputs[a:b]) for a, b in exchange.group_by_bytes(rows, limit, most=len(rows))]


def _named(stage: Stage, kind: str) -> str:
    """The name of a stage of that kind for the same group."""
    return f"{kind}.{stage.name.partition('.')[2]}"
