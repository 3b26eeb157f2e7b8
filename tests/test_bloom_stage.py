"""Are a group's documents judged in the order that is promised, however the work is divided, and in bounded memory?"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from winnow.filters import bloom as kernel
from winnow.filters.bloom_settings import Bloom, blocks_for, filter_bytes
from winnow.pipelines import bloom, run
from winnow.pipelines.cluster import Inline, TaskError
from winnow.pipelines.engine import Engine, RunError
from winnow.pipelines.exchanges import read_parts
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import Limits, read
from winnow.pipelines.records import Stage, perform
from winnow.pipelines.standing import Standing, rows_of, standings, texts_of, verdict_name
from winnow.shards import storage, tables

SILENT = Progress(stream=None)
SEED = 17
FEW = Bloom(ngram=4, threshold=0.5)
LIMITS = Limits()


def sentences(rng: random.Random, n: int) -> list[str]:
    """Paragraphs of random words, and some of few words that all documents share."""
    words = [f"word{k}" for k in range(400)]
    found = [" ".join(rng.choices(words, k=rng.randint(5, 30))) for _ in range(n)]
    return [*found, "short", "", "the same foot stands below every page of this site"]


def write_sources(root: Path) -> None:
    """Two sources of three files, whose documents are put together from the same paragraphs."""
    rng = random.Random(5)
    pool = sentences(rng, 300)
    for source, n in (("first", 240), ("second", 300)):
        (root / source).mkdir(parents=True)
        for file in range(3):
            with open(root / source / f"part{file}.jsonl", "w") as out:
                for _ in range(n // 3):
                    text = "\n".join(rng.choices(pool, k=rng.randint(1, 8))) or "x"
                    out.write(json.dumps({"text": text}) + "\n")


def prepared(root: Path, out: Path, split_bytes: str = "1MB", paths: Sequence[str] = ("*.jsonl",)) -> Group:
    """The sources behind their filters, which leave out what is shorter than 10 characters."""
    sources = {
        source: {
            "read": {
                "format": "jsonl",
                "root": f"{root}/{source}",
                "path": [f"{root}/{source}/{p}" for p in paths],
            },
            "filters": [{"length": {"min_chars": 10}}],
        }
        for source in ("first", "second")
    }
    recipe = json.dumps(
        {
            "name": "bloom",
            "tokenizer": {"name": "mistral-7b-v0.1"},
            "sources": sources,
            "limits": {"split_bytes": split_bytes},
        }
    )
    corpus = run(read(recipe, "test.yaml"), str(out), until="filters", inline=True, progress=SILENT)
    found = list(corpus.sources.values())
    inputs = [s for rank, source in enumerate(found) for s in standings(source, rank)]
    return Group(str(out), inputs, [source.filters.stage for source in found])


@dataclass(frozen=True)
class Group:
    """What the step is given."""

    run: str
    inputs: list[Standing]
    upstream: list[Stage]

    def deduplicate(self, settings: Bloom = FEW, limits: Limits = LIMITS, executor=None, seed: int = SEED):
        """The finished stage, and the engine that made it."""
        engine = Engine(self.run, executor or Inline(), SILENT)
        names = ["first", "second"]
        work = bloom.deduplicate(engine, names, self.inputs, self.upstream, settings, limits, seed)
        (done,) = engine.together(work)
        return done, engine

    def documents(self) -> list[tuple[int, bytes, str]]:
        """(rank of the source, id, text) of every document that stands, in document order."""
        return [
            (item.rank, id_, text)
            for item in self.inputs
            for texts in texts_of(item)
            for id_, text in zip(texts.rows.column("id").to_pylist(), texts.texts.to_pylist(), strict=True)
        ]

    def behind(self, done) -> Group:
        """The same after a step."""
        inputs = [replace(i, steps=(*i.steps, done.location)) for i in self.inputs]
        return Group(self.run, inputs, [*self.upstream, done.stage])

    def verdicts(self, done) -> dict[bytes, tuple]:
        """Id -> (dropped, survivor, score, detail, cuts), of the documents whose verdict says something."""
        found = {}
        for item in self.inputs:
            ids = rows_of(item).take(item.rows).column("id").to_pylist()
            place = storage.join(done.location, verdict_name(item.source, item.split))
            rows = pa.Table.from_batches(tables.arrow_batches(place)).to_pylist()
            assert len(rows) == item.rows
            found |= {
                i: tuple(r.values()) for i, r in zip(ids, rows, strict=True) if any(v for v in r.values())
            }
        return found


@pytest.fixture(scope="module")
def group(tmp_path_factory) -> Group:
    root = tmp_path_factory.mktemp("sources")
    write_sources(root)
    return prepared(root, tmp_path_factory.mktemp("run"))


def mixed(seed: int, *words: int) -> int:
    """tables.mix of one document, in Python's numbers."""
    whole = (1 << 64) - 1
    out = seed
    for word in words:
        out = ((out ^ word) + 0x9E3779B97F4A7C15) & whole
        out = ((out ^ (out >> 30)) * 0xBF58476D1CE4E5B9) & whole
        out = ((out ^ (out >> 27)) * 0x94D049BB133111EB) & whole
        out ^= out >> 31
    return out


def expected(group: Group, settings: Bloom, seed: int = SEED) -> dict[bytes, tuple]:
    """The verdicts, from one shard after the other, judged at once, in a filter that is never wrong."""
    found: dict[bytes, tuple] = {}
    draws = {
        id_: mixed(seed ^ bloom.SHARD_SEED, int.from_bytes(id_[:8], "big"), int.from_bytes(id_[8:], "big"))
        for _, id_, _ in group.documents()
    }
    for shard in range(settings.shards):
        mine = [d for d in group.documents() if draws[d[1]] * settings.shards >> 64 == shard]
        mine.sort(key=lambda d: (d[0], draws[d[1]]))
        texts = pa.array([text for _, _, text in mine], pa.large_string())
        judged = kernel.judge(texts, settings, kernel.new_filter(1 << 16))
        first = 0
        for i, (_, id_, _) in enumerate(mine):
            cuts = judged.cuts[first : first + judged.items[i]].tolist()
            first += len(cuts)
            if judged.dropped[i] or cuts:
                score = judged.seen[i] / judged.ngrams[i]
                found[id_] = (bool(judged.dropped[i]), None, score, None, cuts or None)
    return found


SURE = {"false_positive_rate": 1e-6}
"""So few n-grams are never mistaken, and the filter's size does not matter."""


@pytest.mark.parametrize(
    "settings",
    [Bloom(ngram=4, threshold=0.5, **SURE),
     Bloom(ngram=4, threshold=0.5, shards=3, **SURE),
     Bloom(ngram=6, remove="paragraph", shards=7, **SURE),
     Bloom(ngram=3, threshold=0.3, remove="document", **SURE)],
    ids=lambda s: f"{s.remove}-{s.shards}",
)  # fmt: skip
def test_a_shard_is_judged_in_the_order_of_sources_and_hashes(group, settings):
    done, _ = group.deduplicate(settings)
    found = group.verdicts(done)
    assert found == expected(group, settings)
    assert any(v[0] for v in found.values()) == (settings.remove != "paragraph") or settings.shards == 7
    assert any(v[4] for v in found.values()) == (settings.remove != "document")


def test_the_first_named_source_wins(group):
    settings = Bloom(ngram=4, threshold=0.5, remove="document", **SURE)
    done, _ = group.deduplicate(settings)
    found = group.verdicts(done)
    second = [id_ for rank, id_, _ in group.documents() if rank == 1]
    alone = Group(group.run, [i for i in group.inputs if i.rank == 0], group.upstream[:1])
    first_alone, _ = alone.deduplicate(settings)
    of_first = {id_: v for id_, v in found.items() if id_ not in second}
    assert of_first == alone.verdicts(first_alone), "nothing of the second changes the first"
    assert len(found) > len(of_first)


def test_records_count_what_goes(group):
    done, engine = group.deduplicate(FEW)
    found = group.verdicts(done)
    sizes = {id_: (rank, len(text.encode())) for rank, id_, text in group.documents()}
    counts = [r.counts for r in done.records]
    for rank, name in enumerate(("first", "second")):
        gone = [id_ for id_, v in found.items() if v[0] and sizes[id_][0] == rank]
        cut = {id_: v[4] for id_, v in found.items() if not v[0] and sizes[id_][0] == rank}
        assert sum(c["dropped"].get(name, 0) for c in counts) == len(gone) > 0
        assert sum(c["dropped_bytes"].get(name, 0) for c in counts) == sum(sizes[i][1] for i in gone)
        assert sum(c["cut_documents"].get(name, 0) for c in counts) == len(cut) > 0
        removed = sum(b - a for cuts in cut.values() for a, b in zip(cuts[0::2], cuts[1::2], strict=True))
        assert sum(c["cut_bytes"].get(name, 0) for c in counts) == removed
    assert all(not c["pairs"] for c in counts)
    (shard,) = engine.done["bloom-judge.first+second"].records
    texts = pa.array([text for _, _, text in group.documents()], pa.large_string())
    ngrams = int(kernel.count_ngrams(texts, FEW).sum())
    assert shard.counts["documents"] == len(texts)
    assert shard.counts["filter_bytes"] == filter_bytes(ngrams, 0.01)
    assert 0 < shard.counts["false_positive_rate"] < 0.01


def test_later_steps_read_what_earlier_ones_left(group):
    settings = Bloom(ngram=4, threshold=0.5, remove="paragraph", **SURE)
    done, _ = group.deduplicate(settings)
    after = group.behind(done)
    assert sum(len(t) for _, _, t in after.documents()) < sum(len(t) for _, _, t in group.documents())
    again = Bloom(ngram=2, threshold=0.2, **SURE)
    second, _ = after.deduplicate(again)
    assert after.verdicts(second) == expected(after, again)
    assert second.location != group.deduplicate(again)[0].location


@pytest.mark.parametrize("shards", [1, 3])
def test_how_the_work_is_divided_changes_nothing(group, tmp_path, shards):
    settings = Bloom(ngram=4, threshold=0.5, shards=shards)  # at 1 %: the filters, too, have to be the same
    first, _ = group.deduplicate(settings)
    wanted = group.verdicts(first)
    assert wanted
    texts = pa.array([text for _, _, text in group.documents()], pa.large_string())
    ngrams = int(kernel.count_ngrams(texts, settings).sum())
    for name, limits in {"small": 8_000, "smallest": 4_096}.items():
        made = Group(str(tmp_path / name), group.inputs, group.upstream)
        done, engine = made.deduplicate(settings, Limits(partition_bytes=limits))
        assert group.verdicts(done) == wanted
        assert done.stage == first.stage
        sizes = [r.counts["filter_bytes"] for r in engine.done["bloom-judge.first+second"].records]
        assert len(sizes) == shards
        assert 0 <= sum(sizes) - filter_bytes(ngrams, 0.01) <= 64 * shards, "each has the size of its shard"
        assert any(stage.startswith("bloom-scatter-round2") for stage in engine.done)


def test_documents_whose_keys_are_equal_go_by_the_whole_hash(group, tmp_path, monkeypatch):
    def coarse(shards, rank, places):
        return shards << np.uint64(48) | np.uint64(rank << 36) | places >> np.uint64(62) << np.uint64(34)

    monkeypatch.setattr(bloom, "_keys", coarse)
    settings = Bloom(ngram=4, threshold=0.5, shards=2, **SURE)
    made = Group(str(tmp_path), group.inputs, group.upstream)
    assert made.verdicts(made.deduplicate(settings)[0]) == expected(group, settings)


@pytest.mark.parametrize("split_bytes", ["2KiB", "9KB"])
def test_splits_and_the_listing_change_nothing(tmp_path_factory, split_bytes):
    root = tmp_path_factory.mktemp("sources")
    write_sources(root)
    settings = Bloom(ngram=4, threshold=0.5, shards=2)
    whole = prepared(root, tmp_path_factory.mktemp("run"))
    wanted = whole.verdicts(whole.deduplicate(settings)[0])
    listed = prepared(root, tmp_path_factory.mktemp("run"), split_bytes, ["part2*", "part0*", "part1*"])
    assert len(listed.inputs) > len(whole.inputs)
    limits = Limits(partition_bytes=16_000)
    assert listed.verdicts(listed.deduplicate(settings, limits)[0]) == wanted


def test_seed_and_shards_decide(group):
    base = group.verdicts(group.deduplicate(FEW)[0])
    assert group.verdicts(group.deduplicate(FEW, seed=SEED + 1)[0]) != base
    assert group.verdicts(group.deduplicate(Bloom(ngram=4, threshold=0.5, shards=2))[0]) != base


class Shuffled(Inline):
    """Workers that finish in any order, do some tasks twice, and die before one."""

    def __init__(self, seed: int, dies: float = 0.0):
        super().__init__()
        self.random, self.dies = random.Random(seed), dies

    def map(self, jobs):
        jobs = list(jobs)
        self.random.shuffle(jobs)
        for job in jobs:
            if self.random.random() < self.dies:
                raise TaskError(job, OSError("killed"))
            for _ in range(self.random.choice([1, 1, 2])):
                record = perform(job.location, job.task.index, job.task.function, job.spec)
            yield job.request, record


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_tasks_and_a_killed_run_give_the_same(group, tmp_path, seed):
    settings = Bloom(ngram=4, threshold=0.5, shards=4)
    limits = Limits(partition_bytes=8_000)
    wanted, _ = group.deduplicate(settings, limits)
    made = Group(str(tmp_path), group.inputs, group.upstream)
    killed = 0
    while True:
        try:
            done, _ = made.deduplicate(settings, limits, Shuffled(seed * 1000 + killed, 0.15 / (1 + killed)))
            break
        except RunError:
            killed += 1
    assert killed
    assert made.verdicts(done) == group.verdicts(wanted)
    files = {name: digest for r in done.records for name, (_, digest) in r.outputs.items()}
    assert files == {name: digest for r in wanted.records for name, (_, digest) in r.outputs.items()}
    again, _ = made.deduplicate(settings, limits, Shuffled(0, 1.0))
    assert (again.location, again.redone) == (done.location, 0)


def test_partitions_stay_within_their_bound(group, tmp_path, monkeypatch):
    """Input is more than ten times what a partition may have: no shard reads more of it at once."""
    read_at_once = []

    def spied(parts, wire):
        rows, payload, ends = read_parts(parts, wire)
        read_at_once.append(rows.nbytes + payload.nbytes)
        return rows, payload, ends

    monkeypatch.setattr(bloom, "read_parts", spied)
    limits = Limits(partition_bytes=16_384)
    made = Group(str(tmp_path), group.inputs, group.upstream)
    made.deduplicate(Bloom(ngram=4, shards=2), limits)
    sizes = [len(text.encode()) for _, _, text in group.documents()]
    total = sum(sizes) + len(sizes) * bloom.DOCUMENTS.dtype.itemsize
    assert sum(read_at_once) == total > 10 * limits.partition_bytes
    assert max(read_at_once) < limits.partition_bytes + max(sizes)
    assert len(read_at_once) < 2 * total / limits.partition_bytes + 4, (
        "partitions of two sources in two shards"
    )


def test_partitions_are_ranges_of_the_key():
    sizes = np.array([[100, 0, 250], [0, 0, 90]], np.uint64)
    divided = bloom._divide(sizes, sizes, 100)
    assert divided.shards == ((0, 0, 1), (2, 1, 7))
    starts = [0, *map(int, divided.bounds)]
    assert starts[:7] == [0, *((2 << 48) + (k << 36) // 5 for k in range(5)), (2 << 48) + (1 << 36)]
    assert set(starts[7:]) <= {(1 << 64) - 1}
    keys = [bloom._keys(np.uint64(s), r, np.uint64(p)) for s in (0, 2) for r in (0, 1) for p in (0, 1 << 63)]
    assert sorted(map(int, keys)) == [int(k) for k in keys]
    assert int(bloom._keys(np.uint64(65534), 4095, np.uint64((1 << 64) - 1))) < (1 << 64) - 1


def test_pieces_leave_room_for_the_spread():
    assert [bloom._pieces(n, 1, 1 << 27) for n in (0, 1, 1 << 27)] == [0, 1, 1]
    many = 100 << 30  # 100 GiB of documents of 8 KiB: hardly more than fit
    assert 800 < bloom._pieces(many, (many >> 13) * 64, 1 << 27) < 850
    rng = np.random.default_rng(2)
    sizes = rng.pareto(1.3, 200_000) * 3000 + 1000
    sizes = np.minimum(sizes, 1 << 20).astype(np.int64)
    pieces = bloom._pieces(int(sizes.sum()), int(((sizes // 1024 + 1) ** 2).sum()), 1 << 25)
    held = np.bincount(rng.integers(0, pieces, len(sizes)), sizes, minlength=pieces)
    assert held.max() < 1 << 25
    assert held.mean() > 0.6 * (1 << 25)
    assert bloom._pieces(10 << 20, 10 << 20, 1 << 20) == 20


@pytest.mark.parametrize("shards", [1, 3, 100, 65535])
def test_shards_are_even_and_ordered(shards):
    rng = np.random.default_rng(1)
    high, low = rng.integers(0, 1 << 64, (2, 20_000), np.uint64)
    found, places = bloom.shards_of(tables.ids_of(high, low), 7, shards)
    for i in range(0, 20_000, 997):
        draw = mixed(7 ^ bloom.SHARD_SEED, int(high[i]), int(low[i]))
        assert divmod(draw * shards, 1 << 64) == (int(found[i]), int(places[i]))
    if shards <= 100:
        counts = np.bincount(found.astype(np.int64), minlength=shards)
        mean = 20_000 / shards
        assert abs(counts - mean).max() < 5 * mean**0.5 + 1


def test_a_filter_that_does_not_fit_is_refused_before_text_is_sent(group, tmp_path):
    made = Group(str(tmp_path), group.inputs, group.upstream)
    limits = Limits(partition_bytes=4096)
    settings = Bloom(ngram=4, threshold=0.5, **SURE)
    texts = pa.array([text for _, _, text in group.documents()], pa.large_string())
    counts = kernel.count_ngrams(texts, settings)
    beside = bloom.task_bytes(0, int(counts.max()), settings, 4096) - 64
    small = settings.model_copy(update={"memory": beside + filter_bytes(int(counts.sum()), 1e-6) // 3})
    with pytest.raises(RunError, match=r"bloom of first\+second: 1 shard of .* `shards: (\d)`") as caught:
        made.deduplicate(small, limits)
    stages = {path.name.split(".")[0] for path in (tmp_path / "stages").iterdir()}
    assert stages == {"bloom-count"}
    n = int(str(caught.value).split("`shards: ")[1].split("`")[0])
    assert n == 4
    done, _ = made.deduplicate(small.model_copy(update={"shards": n}), limits)
    assert made.verdicts(done) == expected(made, settings.model_copy(update={"shards": n}))
    needed = int(str(caught.value).split("`memory: ")[1].split("`")[0])
    made.deduplicate(settings.model_copy(update={"memory": needed}), limits)
    none = Bloom(ngram=5, memory=1 << 20)
    with pytest.raises(RunError, match=r"`memory` has to be more than 26\d\.\d MB"):
        made.deduplicate(none, limits)


def test_memory_is_no_part_of_the_result(group):
    done, _ = group.deduplicate(FEW)
    again, _ = group.deduplicate(FEW.model_copy(update={"memory": 1 << 40}), executor=Shuffled(0, 1.0))
    assert (again.location, again.redone) == (done.location, 0)


def test_the_size_follows_from_the_rate():
    many = Bloom(memory=64 << 30)
    assert bloom.refusal(10**10, 10**10, 10**6, many, LIMITS) is None
    said = bloom.refusal(10**12, 10**12, 10**6, many, LIMITS)
    assert said is not None
    fit = int(said.split("`shards: ")[1].split("`")[0])
    share = 10**12 // fit
    assert bloom.refusal(10**12, share, 10**6, many, LIMITS) is None
    assert bloom.refusal(10**12, int(1.2 * share), 10**6, many, LIMITS) is not None
    default = bloom.refusal(10**10, 10**10, 0, Bloom(), LIMITS)
    assert default is not None
    assert "`limits.task_memory` is 1.1 GB" in default
    assert blocks_for(10**12, 0.01) * 64 == filter_bytes(10**12, 0.01)


def test_no_documents_at_all(tmp_path):
    (tmp_path / "in" / "first").mkdir(parents=True)
    (tmp_path / "in" / "second").mkdir()
    for source in ("first", "second"):
        (tmp_path / "in" / source / "part0.jsonl").write_text('{"text": "short"}\n')
    nobody = prepared(tmp_path / "in", tmp_path / "run")
    done, _ = nobody.deduplicate(FEW)
    assert nobody.verdicts(done) == {}
