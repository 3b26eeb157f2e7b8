"""Do the stages of MinHash dedup leave what the rule read aloud leaves, however the work is cut, and within memory?"""

from __future__ import annotations

import shutil
import tracemalloc
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from winnow.filters import minhash as kernels
from winnow.filters.minhash_settings import MinHash
from winnow.filters.shingles import shingle_sets
from winnow.pipelines import minhash, minhash_signatures, minhash_verify
from winnow.pipelines.cluster import Inline
from winnow.pipelines.documents import ROWS_SCHEMA, TEXT_SCHEMA, name, text_hashes
from winnow.pipelines.earlier import Earlier
from winnow.pipelines.engine import Engine, RunError
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import Limits
from winnow.pipelines.records import Stage
from winnow.pipelines.standing import VERDICT_SCHEMA, Standing, verdict_name
from winnow.pipelines.verdicts import VERDICT_SCHEMA as FILTER_SCHEMA
from winnow.shards import tables
from winnow.shards.inputs import InputError

SEED = 5
TINY = Limits(partition_bytes=1 << 14)


@dataclass(frozen=True)
class Document:
    text: str
    score: float | None = None
    keep: bool = True


# ---- sources as the stages before leave them ---------------------------------------------------------------------


def write_source(root: Path, source: str, documents: list[Document], sizes: list[int], rank=0, start=0):
    """Stages `documents` and `filters` of a source that is cut into splits of these sizes."""
    tag = "-".join(map(str, sizes))
    places = [root / "stages" / f"{kind}.{source}-{tag}" for kind in ("documents", "filters")]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    out, first = [], start
    for split, size in enumerate(sizes):
        mine = documents[first - start : first - start + size]
        texts = pa.array([d.text for d in mine], pa.large_string())
        ids = tables.ids_of(
            np.full(len(mine), sum(source.encode()), np.uint64),
            np.arange(first, first + size, dtype=np.uint64),
        )
        lengths = [len(d.text.encode()) for d in mine]
        columns = [ids, pa.nulls(size, pa.string()), pa.nulls(size, pa.string()), text_hashes(texts)]
        columns += [pa.array(lengths, pa.uint32()), pa.array([d.score for d in mine], pa.float64())]
        schema = ROWS_SCHEMA.append(pa.field("quality.score", pa.float64()))
        with tables.RowWriter(str(places[0] / name("rows", split, "parquet")), schema) as writer:
            writer.write(pa.record_batch(columns, schema=schema))
        with tables.arrow_writer(str(places[0] / name("text", split, "arrow")), TEXT_SCHEMA) as writer:
            for at in range(0, size, 100):  # batches of text end elsewhere than those of rows
                writer.write_batch(pa.record_batch([texts.slice(at, 100)], schema=TEXT_SCHEMA))
        verdict = [pa.array([-1 if d.keep else 0 for d in mine], pa.int16()), pa.nulls(size, pa.uint64())]
        verdict += [pa.nulls(size, pa.float64())] * 2
        with tables.arrow_writer(str(places[1] / name("verdict", split, "arrow")), FILTER_SCHEMA) as writer:
            writer.write_batch(pa.record_batch(verdict, schema=FILTER_SCHEMA))
        left = [n for n, d in zip(lengths, mine, strict=True) if d.keep]
        out.append(
            Standing(
                source, rank, split, size, *map(str, places), documents_left=len(left), bytes_left=sum(left)
            )
        )
        first += size
    return out


def write_step(root: Path, step: str, standings: list[Standing], drop=(), cuts=None):
    """A step that drops some rows and cuts others, {(split, row): [start, end, …]}; the standings behind it."""
    cuts = cuts or {}
    place = root / "stages" / f"{step}.{standings[0].source}-{len(drop)}-{len(cuts)}"
    place.mkdir(parents=True)
    for s in standings:
        keys = [(s.split, row) for row in range(s.rows)]
        columns = [
            pa.array([k in drop for k in keys]),
            pa.nulls(s.rows, tables.ID),
            pa.nulls(s.rows, pa.float64()),
            pa.nulls(s.rows, pa.string()),
            pa.array([cuts.get(k) for k in keys], pa.list_(pa.uint32())),
        ]
        file = str(place / verdict_name(s.source, s.split))
        with tables.arrow_writer(file, VERDICT_SCHEMA) as writer:
            writer.write_batch(pa.record_batch(columns, schema=VERDICT_SCHEMA))
    return [replace(s, steps=(*s.steps, str(place))) for s in standings]


def perform(run: Path, inputs, settings, limits=None, earlier=(), upstream="filters"):
    """(engine, finished stage, {(source, position): (survivor (id), score)} of what goes)."""
    engine = Engine(str(run), Inline(), Progress(stream=None))
    group = list(dict.fromkeys(s.source for s in inputs))
    stages = [Stage(f"{upstream}.{n}", 1, {}) for n in group]
    work = minhash.deduplicate(engine, group, inputs, stages, settings, limits or Limits(), SEED, earlier)
    (done,) = engine.together(work)
    return engine, done, verdicts_of(done, inputs)


def verdicts_of(done, inputs):
    found, first = {}, {}
    for s in inputs:
        rows = []
        for batch in tables.arrow_batches(f"{done.location}/{verdict_name(s.source, s.split)}"):
            assert batch.schema == VERDICT_SCHEMA
            rows += batch.to_pylist()
        assert len(rows) == s.rows
        at = first.setdefault(s.source, 0)
        first[s.source] += s.rows
        for position, row in enumerate(rows, at):
            if row["dropped"]:
                found[s.source, position] = (ident(row["survivor"]), row["score"])
            else:
                assert not any(row.values())
    return found


def ident(id_: bytes):
    return int.from_bytes(id_[:8], "big"), int.from_bytes(id_[8:], "big")


def id_of(source: str, position: int):
    return sum(source.encode()), position


# ---- the rule read aloud -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    key: tuple[str, int]
    rank: tuple
    signature: tuple[int, ...]
    shingles: frozenset[int]
    fixed: bool = False


def facts_of(source, documents, settings, rank=0, fixed=False):
    texts = pa.array([d.text for d in documents], pa.large_string())
    signatures = kernels.signatures(texts, settings, SEED).tolist()
    sets, ends = shingle_sets(texts, settings)
    sets = [frozenset(s.tolist()) for s in np.split(sets, ends[:-1].astype(np.int64))]
    scored = settings.survivor_score is not None
    return [
        Facts(
            (source, i),
            (rank, _falling(d.score) if scored else 0, -len(d.text.encode()), i),
            tuple(signatures[i]),
            sets[i],
            fixed,
        )
        for i, d in enumerate(documents)
        if d.keep
    ]


def _falling(score):
    return np.inf if score is None or np.isnan(score) else -float(np.float32(score))


def reference(facts, settings):
    """What goes: {(source, position): (survivor's id, score)}, from buckets of all documents at once."""
    r = settings.resolved
    order = sorted(facts, key=lambda f: f.rank)
    keys = [[(b, f.signature[b * r.rows : (b + 1) * r.rows]) for b in range(r.bands)] for f in order]
    if r.cluster == "component":
        return _components(order, keys, r)
    buckets, out = {}, {}
    for i, f in enumerate(order):
        stands_for = i
        for other in sorted({s for k in keys[i] for s in buckets.get(k, [])}):
            if f.fixed:
                break
            score = _similarity(f, order[other], r.verify)
            if score is None or score >= r.threshold:
                stands_for = other
                out[f.key] = (id_of(*order[other].key), score)
                break
        for key in keys[i]:
            mine = buckets.setdefault(key, [])
            if stands_for not in mine and len(mine) < settings.anchors:
                mine.append(stands_for)
    return out


def _similarity(f, other, verify):
    if verify == "none":
        return None
    if verify == "exact" and not other.fixed:
        return len(f.shingles & other.shingles) / len(f.shingles | other.shingles)
    return sum(a == b for a, b in zip(f.signature, other.signature, strict=True)) / len(f.signature)


def _components(order, keys, r):
    first, out = {}, {}
    parent = list(range(len(order)))

    def root(i):
        while parent[i] != i:
            i = parent[i]
        return i

    for i, mine in enumerate(keys):
        for key in mine:
            a, b = sorted((root(i), root(first.setdefault(key, i))))
            parent[b] = a
    for i, f in enumerate(order):
        if (top := root(i)) != i:
            out[f.key] = (id_of(*order[top].key), _similarity(f, order[top], r.verify))
    return out


# ---- documents ---------------------------------------------------------------------------------------------------


def chains(rng, n, short=0.1):
    """Documents that drift away from each other step by step, equal ones, short ones, and some that share nothing."""
    words = np.array([f"word{i}" for i in range(3000)])
    documents: list[Document] = []
    while len(documents) < n:
        text = list(
            rng.choice(words, int(rng.integers(1, 5) if rng.random() < short else rng.integers(20, 60)))
        )
        for _ in range(int(rng.geometric(0.4))):
            documents.append(Document(" ".join(text), _score(rng), bool(rng.random() > 0.1)))
            for _ in range(int(rng.integers(0, 3))):
                text[int(rng.integers(0, len(text)))] = str(rng.choice(words))
            if rng.random() < 0.2:
                text = text[: max(1, len(text) - 3)]
    order = rng.permutation(n)
    return [documents[i] for i in order]


def _score(rng):
    return None if rng.random() < 0.2 else float(rng.choice([0.5, 0.25, -1.0, float("nan"), 1e-3]))


def two_sources(seed=3, n=(260, 170)):
    documents = chains(np.random.default_rng(seed), sum(n))
    return {"web": documents[: n[0]], "books": documents[n[0] :]}


SPLITS = {"web": [100, 1, 159], "books": [0, 170]}


def write_group(root, sources, splits=None):
    splits = splits or SPLITS
    return [
        s
        for rank, (n, docs) in enumerate(sources.items())
        for s in write_source(root, n, docs, splits[n], rank)
    ]


def facts_of_group(sources, settings):
    return [f for rank, (n, docs) in enumerate(sources.items()) for f in facts_of(n, docs, settings, rank)]


WIDE = {"bands": 8, "rows": 2, "ngram": 2}
"""Finds nearly everything above Jaccard 0.3: chains and false candidates."""


# ---- the verdicts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [Limits(), TINY], ids=["one-partition", "tiny"])
@pytest.mark.parametrize(
    "settings",
    [
        MinHash(**WIDE, threshold=0.6),
        MinHash(**WIDE, threshold=0.6, anchors=1, survivor_score="quality.score"),
        MinHash(**WIDE, threshold=0.5, verify="estimate", anchors=2),
        MinHash(**WIDE, verify="none"),
        MinHash(**WIDE, threshold=0.6, cluster="component"),
        MinHash(
            **WIDE, threshold=0.6, cluster="component", verify="estimate", survivor_score="quality.score"
        ),
        MinHash(**WIDE, cluster="component", verify="none"),
        MinHash(bands=9, rows=3, ngram=4, unit="chars", threshold=0.7),
    ],
    ids=lambda s: f"{s.resolved.cluster}-{s.resolved.verify}-{s.anchors}-{s.unit}",
)
def test_verdicts_are_those_of_the_rule_read_aloud(tmp_path, settings, limits):
    sources = two_sources()
    _, done, found = perform(tmp_path, write_group(tmp_path, sources), settings, limits)
    wanted = reference(facts_of_group(sources, settings), settings)
    assert found == wanted
    assert len(wanted) > 60, "few duplicates: the test shows little"
    dropped = {n: sum(k[0] == n for k in wanted) for n in sources}
    assert {n: sum(r.counts["dropped"].get(n, 0) for r in done.records) for n in sources} == dropped


def test_star_leaves_what_component_wipes_out(tmp_path):
    sources = two_sources()
    counts = []
    for cluster in ("star", "component"):
        settings = MinHash(**WIDE, threshold=0.6, cluster=cluster)
        counts.append(len(reference(facts_of_group(sources, settings), settings)))
    assert counts[0] < counts[1]


@pytest.mark.parametrize(
    "splits", [{"web": [260], "books": [170]}, {"web": [1] * 5 + [255], "books": [80, 90]}]
)
def test_verdicts_do_not_depend_on_splits_and_partitions(tmp_path, splits):
    sources, settings = two_sources(seed=9), MinHash(**WIDE, threshold=0.6, survivor_score="quality.score")
    _, _, usual = perform(tmp_path, write_group(tmp_path, sources), settings)
    engine, _, other = perform(tmp_path, write_group(tmp_path, sources, splits), settings, TINY)
    assert usual == other
    assert len(usual) > 60
    assert len(engine.done["minhash-verify.web+books"].records) > 3, "there was one partition only"


def test_every_named_survivor_stays_and_is_near_enough(tmp_path):
    sources, settings = two_sources(seed=21), MinHash(**WIDE, threshold=0.7)
    _, _, found = perform(tmp_path, write_group(tmp_path, sources), settings, TINY)
    facts = {id_of(*f.key): f for f in facts_of_group(sources, settings)}
    gone = {id_of(*k) for k in found}
    assert found
    for key, (survivor, score) in found.items():
        assert survivor not in gone
        assert score == _similarity(facts[id_of(*key)], facts[survivor], "exact") >= 0.7
        assert facts[survivor].rank < facts[id_of(*key)].rank


def test_short_documents_are_duplicates_only_when_equal(tmp_path):
    texts = ["one", "One!", "two", "one two", "two one", "...", "!!!", "...", "one two three four", "one"]
    documents = [Document(t) for t in texts]
    _, _, found = perform(tmp_path, write_source(tmp_path, "web", documents, [10]), MinHash())
    # The longest of equal words is kept, then the first.
    assert {k[1]: v[0][1] for k, v in found.items()} == {0: 1, 7: 5, 9: 1}


def test_documents_without_a_signature_stay(tmp_path):
    pytest.importorskip("spacy", reason="needs the extra `datatrove`")
    texts = [
        "too short",
        "seven words are enough for a shingle",
        "too short",
        "Seven words are enough for a shingle.",
    ]
    inputs = write_source(tmp_path, "web", [Document(t) for t in texts], [3, 1])
    settings = MinHash(preset="datatrove")
    minhash.rehearse(settings)
    _, _, found = perform(tmp_path, inputs, settings)
    assert found == {("web", 1): (id_of("web", 3), None)}


# ---- earlier steps -----------------------------------------------------------------------------------------------


def test_what_an_earlier_step_dropped_is_no_candidate_and_signs_nothing_again(tmp_path):
    documents = [Document("the same words here " * 5)] * 6 + [
        Document("others " + "x " * i) for i in range(9)
    ]
    inputs = write_source(tmp_path, "web", documents, [8, 7])
    settings = MinHash()
    first, _, found = perform(tmp_path, inputs, settings)
    assert {k[1] for k in found if k[1] < 6} == {1, 2, 3, 4, 5}
    behind = write_step(tmp_path, "exact", inputs, drop={(0, 0), (0, 2)})
    second, _, found = perform(tmp_path, behind, settings, upstream="exact")
    assert {k[1]: v[0][1] for k, v in found.items() if k[1] < 6} == {3: 1, 4: 1, 5: 1}
    assert second.done["signatures.web"].redone == 0
    assert first.done["signatures.web"].location == second.done["signatures.web"].location
    assert second.done["minhash-report.web"].records[0].counts["compared"] == {"web": 13}


def test_text_is_compared_behind_the_cuts_of_lines(tmp_path):
    body = " ".join(f"w{i}" for i in range(40))
    header = "header with words that are said on each page of it " * 4
    inputs = write_source(tmp_path, "web", [Document(header + body), Document(body), Document(header)], [3])
    settings = MinHash(threshold=0.9)
    assert perform(tmp_path, inputs, settings)[2] == {}
    cuts = {(0, 0): [0, len(header)]}
    behind = write_step(tmp_path, "lines", inputs, cuts=cuts)
    engine, _, found = perform(tmp_path, behind, settings, upstream="lines")
    assert found == {("web", 1): (id_of("web", 0), 1.0)}
    assert engine.done["signatures.web"].redone == 1


# ---- what is redone ----------------------------------------------------------------------------------------------


def test_a_finished_step_does_nothing_again_and_a_lost_stage_alone_is_redone(tmp_path):
    sources, settings = two_sources(), MinHash(**WIDE, threshold=0.6)
    inputs = write_group(tmp_path, sources)
    engine, _, found = perform(tmp_path, inputs, settings, TINY)
    again, _, same = perform(tmp_path, inputs, settings, TINY)
    assert same == found
    assert all(d.redone == 0 for d in again.done.values())
    # Another partition size is no other result.
    assert all(d.redone == 0 for d in perform(tmp_path, inputs, settings)[0].done.values())

    for kind in ("minhash", "minhash-verify"):
        shutil.rmtree(engine.done[f"{kind}.web+books"].location)
    again, _, same = perform(tmp_path, inputs, settings, TINY)
    assert same == found
    redone = {n.split(".")[0] for n, d in again.done.items() if d.redone}
    assert redone == {"minhash", "minhash-verify"}


def test_a_source_that_is_added_is_the_only_one_signed(tmp_path):
    sources, settings = two_sources(), MinHash(**WIDE, threshold=0.6)
    inputs = write_group(tmp_path, sources)
    perform(tmp_path, [i for i in inputs if i.source == "web"], settings)
    engine, _, _ = perform(tmp_path, inputs, settings)
    assert engine.done["signatures.web"].redone == 0
    assert engine.done["signatures.books"].redone == 2
    # Nor do other bands of as many slots, or another threshold, sign anything.
    other, _, _ = perform(tmp_path, inputs, MinHash(bands=4, rows=4, ngram=2, threshold=0.8))
    assert {n: other.done[f"signatures.{n}"].redone for n in sources} == {"web": 0, "books": 0}


def test_an_output_that_was_cut_is_made_again_and_one_that_is_cut_meanwhile_is_an_error(tmp_path):
    sources, settings = two_sources(), MinHash(**WIDE, threshold=0.6)
    inputs = write_group(tmp_path, sources)
    _, _, found = perform(tmp_path, inputs, settings)
    run = tmp_path / "other"
    engine = Engine(str(run), Inline(), Progress(stream=None))
    stages = [Stage(f"filters.{n}", 1, {}) for n in sources]
    work = minhash.deduplicate(engine, list(sources), inputs, stages, settings, Limits(), SEED)
    request = next(work)
    while request.stage.kind != "minhash-buckets":
        done = engine.perform_all([request])[0]
        request = work.send(done)
    (victim,) = Path(done.location).glob("run-*.bin")
    victim.write_bytes(victim.read_bytes()[:-100])
    with pytest.raises(RunError, match=r"minhash-buckets\.web\+books, task 0: OSError: .*bytes wanted at"):
        engine.perform_all([request])
    assert perform(run, inputs, settings)[2] == found


# ---- much of it --------------------------------------------------------------------------------------------------


def test_a_bucket_many_times_the_budget(tmp_path):
    n = 50_000
    texts = ["these words are on every page of the web"] * n
    texts[n // 2] += " and a few that are not"
    inputs = write_source(tmp_path, "web", [Document(t) for t in texts], [20_000, 30_000])
    settings = MinHash(bands=3, rows=2, threshold=0.9)
    limits = Limits(partition_bytes=1 << 18)
    engine, _, found = perform(tmp_path, inputs, settings, limits)
    assert {v[0] for v in found.values()} == {id_of("web", 0)}
    assert len(found) == n - 2
    report = engine.done["minhash-report.web"].records[0].counts
    assert report["largest_bucket"] >= n - 1
    assert report["buckets"] == {"32768": 3}
    assert report["clusters"] == {"32768": 1}
    assert report["largest_cluster"] in (n - 1, n)
    assert n * minhash.BANDS.dtype.itemsize > 5 * limits.partition_bytes


def test_memory_on_input_several_times_the_budget(tmp_path, monkeypatch):
    monkeypatch.setattr(minhash, "HELD_BYTES", 1 << 18)
    monkeypatch.setattr(minhash_signatures, "PORTION_BYTES", 1 << 18)
    rng = np.random.default_rng(8)
    documents = []
    for _ in range(6000):
        text = " ".join(f"w{i}" for i in rng.integers(0, 500, 120))
        documents += [Document(text), Document(text + " end")]
    inputs = write_source(tmp_path, "web", documents, [1000] * 12)
    limits, settings = Limits(partition_bytes=1 << 20), MinHash(threshold=0.8)
    size = sum(i.bytes_left for i in inputs)
    perform(tmp_path / "warm", inputs[:1], settings)  # kernels are loaded
    engine = Engine(str(tmp_path), Inline(), Progress(stream=None))
    work = minhash.deduplicate(engine, ["web"], inputs, [Stage("filters.web", 1, {})], settings, limits, SEED)
    peaks = {}
    request = next(work)
    while request is not None:
        tracemalloc.start()
        done = engine.perform_all([request])[0]
        peaks[request.stage.kind] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        request = _next(work, done)
    assert sum(r.counts["dropped"]["web"] for r in engine.done["minhash.web"].records) == 6000
    assert size > 5 * limits.partition_bytes
    own = {k: v for k, v in peaks.items() if "components" not in k}
    assert {k: v for k, v in own.items() if v > 4 * limits.partition_bytes} == {}


def _next(work, done):
    try:
        return work.send(done)
    except StopIteration:
        return None


def test_a_component_larger_than_its_memory_drops_nothing_wrongly(tmp_path, monkeypatch):
    monkeypatch.setattr(minhash, "HELD_BYTES", 1 << 12)
    sources = {"web": chains(np.random.default_rng(2), 300, short=0.0)}
    # One phrase in all of them makes one component.
    sources["web"] = [Document(d.text + " and this in all of them") for d in sources["web"]]
    settings = MinHash(bands=40, rows=1, ngram=2, threshold=0.6)
    inputs = write_group(tmp_path, sources, {"web": [300]})
    engine, _, found = perform(tmp_path, inputs, settings, TINY)
    report = engine.done["minhash-report.web"].records[0].counts
    assert report["unverified"] > 0
    assert report["largest_cluster"] > 250
    facts = {id_of(*f.key): f for f in facts_of_group(sources, settings)}
    assert all(s == _similarity(facts[id_of(*k)], facts[o], "exact") >= 0.6 for k, (o, s) in found.items())
    assert not {id_of(*k) for k in found} & {o for o, _ in found.values()}


# ---- when to stop ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop", "message"),
    [
        (
            {"bucket": 5},
            r"^minhash of web: a bucket has 6 documents, more than stop_above.bucket allows \(5\); ",
        ),
        (
            {"cluster": 5},
            r"^minhash of web: a cluster has 6 documents, more than stop_above.cluster allows \(5\); ",
        ),
        (
            {"loss": 0.4},
            r"^minhash drops 5 of 10 documents of source 'web' \(50.0%\), more than stop_above.loss allows \(40.0%\)",
        ),
    ],
    ids=["bucket", "cluster", "loss"],
)
def test_stop_above(tmp_path, stop, message):
    texts = ["the same words are said again"] * 6 + [f"{w} alone" for w in "abcd"]
    inputs = write_source(tmp_path, "web", [Document(t) for t in texts], [10])
    with pytest.raises(RunError, match=message):
        perform(tmp_path, inputs, MinHash(stop_above=stop))
    enough = {k: 6 if k != "loss" else 0.5 for k in stop}
    assert len(perform(tmp_path, inputs, MinHash(stop_above=enough))[2]) == 5
    with pytest.raises(RunError, match=message):  # a limit that is lowered counts for a finished step, too
        perform(tmp_path, inputs, MinHash(stop_above=stop))


def test_a_score_that_nobody_measures_is_an_error(tmp_path):
    inputs = write_source(tmp_path, "web", [Document("a b c")], [1])
    with pytest.raises(
        InputError, match=r"source 'web' has no number 'nobody\.score'; survivor_score names one"
    ):
        perform(tmp_path, inputs, MinHash(survivor_score="nobody.score"))


# ---- earlier runs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [Limits(), TINY], ids=["one-partition", "tiny"])
@pytest.mark.parametrize(
    "settings",
    [
        MinHash(**WIDE, threshold=0.6),
        MinHash(**WIDE, threshold=0.5, anchors=1, verify="estimate"),
        MinHash(**WIDE, verify="none", anchors=2),
    ],
    ids=lambda s: f"{s.resolved.verify}-{s.anchors}",
)
def test_documents_of_an_earlier_run_come_first_and_stay(tmp_path, monkeypatch, settings, limits):
    documents = chains(np.random.default_rng(11), 500)
    old, new = documents[:300], {"web": documents[300:400], "books": documents[400:]}
    standings = write_source(tmp_path / "old", "past", old, [120, 180])
    engine, _, gone = perform(tmp_path / "old", standings, settings)
    behind = write_step(
        tmp_path / "old", "minhash", standings, drop={_split_of(p, [120, 180]) for _, p in gone}
    )
    for text in Path(standings[0].documents).glob("text-*"):
        text.unlink()  # not read again
    place = engine.done["signatures.past"].location
    monkeypatch.setattr(minhash, "with_stage", lambda earlier, *_: [(e, place) for e in earlier])
    earlier = Earlier(str(tmp_path / "old"), "old/past", "past", tuple(behind))
    inputs = write_group(tmp_path, new, {"web": [100], "books": [30, 70]})
    engine, done, found = perform(tmp_path, inputs, settings, limits, [earlier])

    facts = [replace(f, rank=(-1, *f.rank[1:])) for f in facts_of("past", old, settings, fixed=True)]
    facts = [f for f in facts if f.key not in gone]
    for rank, (source, mine) in enumerate(new.items()):
        facts += facts_of(source, mine, settings, rank)
    wanted = reference(facts, settings)
    assert found == wanted
    of_past = sum(o[0] == id_of("past", 0)[0] for o, _ in wanted.values())
    assert of_past > 20
    pairs = {k: n for r in done.records for k, n in r.counts["pairs"].items() if "old/past" in k}
    assert (
        sum(n for r in done.records for k, n in r.counts["pairs"].items() if k.endswith("old/past"))
        == of_past
    )
    assert set(pairs) <= {"web of old/past", "books of old/past"}


def _split_of(position, sizes):
    for split, size in enumerate(sizes):
        if position < size:
            return split, position
        position -= size
    raise AssertionError


def test_held_bytes_is_part_of_the_identity(tmp_path, monkeypatch):
    inputs = write_source(tmp_path, "web", [Document("a b c")], [1])
    _, one, _ = perform(tmp_path, inputs, MinHash())
    monkeypatch.setattr(minhash, "HELD_BYTES", 2 * minhash_verify.HELD_BYTES)
    _, other, _ = perform(tmp_path, inputs, MinHash())
    assert one.location != other.location
