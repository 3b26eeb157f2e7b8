"""Does the driver stay small with many splits, and is a seal never believed where the records are another matter?"""

from __future__ import annotations

import gc
import shutil
import sys
import tracemalloc
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.pipelines import lease, ledger
from winnow.pipelines.cluster import Inline
from winnow.pipelines.engine import Engine
from winnow.pipelines.filtering import _bad_rows_check
from winnow.pipelines.jobs import Job, Later, Task
from winnow.pipelines.ledger import BLOCK, SEAL_FROM, SEALED, Ledger, completed, recorded
from winnow.pipelines.plan_scratch import _largest_text
from winnow.pipelines.planning import SourcePlan
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import Source
from winnow.pipelines.records import Outputs, Record, Stage, identity_of, record_name
from winnow.pipelines.sampling import expected
from winnow.shards.inputs import InputError, InputFile
from winnow.shards.on_demand import OnDemand
from winnow.shards.readers import ReadSettings
from winnow.shards.splits import FILES_PER_SPLIT, begins, costs, cut

TB = 10**12
READ = ReadSettings("jsonl")
STAGE = Stage("many.web", 1, {})


def record(index: int, more: int = 0) -> Record:
    name = f"text-{index:08d}.bin"
    counts = {
        "documents": index * 7919 % 10_007 + more,
        "lost": {"empty": index % 3, "bad": 1},
        "share": 0.25,
    }
    return Record(index, counts, {name: (index % 5, f"{index:032x}")}, 0.5, 0.25, 1 << 20)


# ---- sequences that are made on demand -----------------------------------------------------------------------------


class Squares(OnDemand[int]):
    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def made(self, at):
        assert 0 <= at < self.n
        return at * at


@given(st.integers(0, 12), st.slices(12), st.slices(12), st.data())
def test_a_sequence_on_demand_is_like_a_list(n, some, less, more):
    mine, plain = Squares(n), [i * i for i in range(n)]
    assert mine == plain
    assert mine[some] == plain[some]
    assert list(mine[some][less]) == plain[some][less]
    assert (mine == [*plain, 1]) is False
    assert list(reversed(mine)) == plain[::-1]
    places = more.draw(st.lists(st.integers(0, n - 1))) if n else []
    assert mine.taken(np.array(places, np.int64)) == [plain[i] for i in places]
    at = more.draw(st.integers(-15, 15))
    if -n <= at < n:
        assert mine[at] == plain[at]
    else:
        with pytest.raises(IndexError):
            mine[at]


# ---- ledgers -------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3 * BLOCK), st.integers(0, 9)), max_size=40), st.booleans())
def test_a_ledger_is_like_a_dictionary(adds, full):
    mine, plain = Ledger(), {}
    for index, more in [*((i, 0) for i in range(BLOCK + 3) if full), *adds]:
        mine.add(record(index, more))
        plain[index] = record(index, more)
    assert dict(mine) == plain
    assert list(mine) == sorted(plain)
    assert len(mine) == len(plain)
    assert [i in mine for i in range(-2, 4 * BLOCK)] == [i in plain for i in range(-2, 4 * BLOCK)]
    order = list(plain)[::-1]
    assert mine.in_order(order) == [plain[i] for i in order]
    with pytest.raises(KeyError):
        mine.in_order([*order, 5 * BLOCK])


def put_singles(location: Path, records) -> None:
    """Records and their outputs, as tasks leave them."""
    from winnow.pipelines.records import _encode

    (location / "records").mkdir(parents=True, exist_ok=True)
    for one in records:
        (location / record_name(one.index)).write_bytes(_encode(one))
        for name, (size, _) in one.outputs.items():
            (location / name).write_bytes(bytes(size))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A sealed stage of two and a half blocks."""
    root = tmp_path_factory.mktemp("sealed")
    records = [record(i) for i in range(2 * BLOCK + 77)]
    put_singles(root, records)
    Ledger(records).seal(str(root))
    return root, records


@pytest.fixture
def sealed(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "stage")
    return tmp_path / "stage", made[1]


def test_a_seal_has_what_the_records_have(sealed, monkeypatch):
    location, records = sealed
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "decode", None)  # no single record is read
        found = completed(str(location))
    assert found.sealed
    assert dict(found) == {r.index: r for r in records}
    (location / SEALED).unlink()
    single = completed(str(location))
    assert not single.sealed
    assert dict(single) == dict(found)
    assert identity_of(list(single.values())) == identity_of(found.in_order(range(len(records))))


@pytest.mark.parametrize("where", [0, 5, 40, 200, 0.3, 0.6, 0.99, "cut", "empty", "longer", "text", "list"])
def test_a_damaged_seal_is_as_none(sealed, where):
    location, records = sealed
    data = bytearray((location / SEALED).read_bytes())
    match where:
        case "cut":
            data = data[: len(data) // 2]
        case "empty" | "text" | "list":
            data = {"empty": b"", "text": b"no seal\n", "list": b"[1]\n"}[where]
        case "longer":
            data += b"more"
        case _:
            data[int(where * len(data)) if isinstance(where, float) else where] ^= 0x11
    (location / SEALED).write_bytes(data)
    found = completed(str(location))
    assert not found.sealed
    assert found.seal_there
    assert dict(found) == {r.index: r for r in records}


@pytest.mark.parametrize("bit", range(8))
def test_no_flipped_bit_before_the_blocks_is_believed(tmp_path, bit):
    """A header that says other blocks would leave records out, or take those of one task for another's."""
    records = [record(i) for i in range(3)]
    put_singles(tmp_path, records)
    Ledger(records).seal(str(tmp_path))
    data = (tmp_path / SEALED).read_bytes()
    blocks = data.index(b"\n", data.index(b"\n") + 1) + 1
    for at in range(blocks):
        damaged = bytearray(data)
        damaged[at] ^= 1 << bit
        (tmp_path / SEALED).write_bytes(damaged)
        found = completed(str(tmp_path))
        assert not found.sealed
        assert dict(found) == {r.index: r for r in records}


def test_a_seal_of_another_schema_is_not_read(sealed, monkeypatch):
    location, records = sealed
    monkeypatch.setattr(ledger, "SCHEMA_VERSION", 99)
    found = completed(str(location))
    assert not found.sealed
    assert len(found) == len(records)


def test_what_is_gone_is_not_recorded_whatever_the_seal_says(sealed):
    location, records = sealed
    (location / record_name(3)).unlink()
    (location / "text-00000009.bin").unlink()
    (location / "text-00000299.bin").write_bytes(b"x")
    found = completed(str(location))
    assert {r.index for r in records} - set(found) == {3, 9, 299}
    assert not found.sealed
    assert {r.index for r in records} - set(recorded(str(location))) == {3}


def test_records_beside_a_seal_are_read(sealed):
    location, records = sealed
    late = [record(i) for i in (len(records), len(records) + 500)]
    put_singles(location, late)
    (location / record_name(10**6)).write_bytes((location / record_name(5)).read_bytes())  # of another name
    found = completed(str(location))
    assert not found.sealed
    assert dict(found) == {r.index: r for r in [*records, *late]}


# ---- the engine ----------------------------------------------------------------------------------------------------


class Told(Inline):
    """Says of each job what `answer` makes of it, in an order of its own; nothing is carried out."""

    def __init__(self, answer):
        self.answer = answer

    def map(self, jobs):
        for job in sorted(jobs, key=lambda job: job.task.index * 7919 % 1000):
            yield job.request, self.answer(job)


def engine_at(run, answer):
    return Engine(str(run), Told(answer), Progress(stream=None))


def tasks(n):
    return [Task(i, print, i) for i in range(n)]


def test_a_redone_task_takes_the_seal_away_first_and_its_stage_is_sealed_again(tmp_path):
    n, location = SEAL_FROM + 10, Path(STAGE.location(str(tmp_path)))
    redone = []

    def answer(job: Job) -> Record:
        assert not (location / SEALED).exists()
        redone.append(job.task.index)
        one = record(job.task.index, more=len(redone) // (n + 1))
        put_singles(location, [one])
        return one

    engine_at(tmp_path, answer).perform(STAGE, tasks(n))
    assert sorted(redone) == list(range(n))
    assert completed(str(location)).sealed
    (location / "text-00000008.bin").unlink()
    with pytest.raises(KeyboardInterrupt):
        engine_at(tmp_path, lambda job: (_ for _ in ()).throw(KeyboardInterrupt)).perform(STAGE, tasks(n))
    assert not (location / SEALED).exists(), "a run that is killed must not leave a seal older than a record"
    done = engine_at(tmp_path, answer).perform(STAGE, tasks(n))
    assert redone[n:] == [8]
    assert done.records[8].counts["documents"] == record(8).counts["documents"] + 1
    assert completed(str(location)).sealed
    before = (location / SEALED).stat().st_mtime_ns
    again = engine_at(tmp_path, answer).finished(STAGE, n)
    assert again.records == done.records
    assert (location / SEALED).stat().st_mtime_ns == before
    # A source of which more is read later has more tasks.
    longer = engine_at(tmp_path, answer).perform(STAGE, tasks(n + 5))
    assert longer.redone == 5
    assert len(longer.records) == n + 5
    assert engine_at(tmp_path, answer).perform(STAGE, tasks(n)).records == done.records


class FullError(OSError):
    pass


def full(*_):
    raise FullError("no room")


def test_a_stage_whose_seal_cannot_be_written_is_complete(tmp_path, monkeypatch, capsys):
    engine = Engine(str(tmp_path), Told(lambda job: record(job.task.index)), Progress(stream=sys.stdout))
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "seal", full)
        done = engine.perform(STAGE, tasks(SEAL_FROM))
    assert len(done.records) == SEAL_FROM
    assert "many.web: its records could not be put into one file: no room" in capsys.readouterr().out
    assert not (Path(STAGE.location(str(tmp_path))) / SEALED).exists()


def test_a_run_that_was_replaced_leaves_seals_alone(tmp_path, monkeypatch):
    location = Path(STAGE.location(str(tmp_path)))
    records = [record(i) for i in range(SEAL_FROM)]
    put_singles(location, records)
    engine = engine_at(tmp_path, lambda job: records[job.task.index])
    with monkeypatch.context() as patch:
        patch.setattr(lease, "check", full)
        with pytest.raises(FullError):
            engine.finished(STAGE, SEAL_FROM)
        with pytest.raises(FullError):
            engine.perform(STAGE, tasks(SEAL_FROM))
    assert not (location / SEALED).exists()
    engine.perform(STAGE, tasks(SEAL_FROM))
    assert (location / SEALED).exists()
    monkeypatch.setattr(lease, "check", full)
    with pytest.raises(FullError):
        engine.perform(STAGE, tasks(SEAL_FROM + 1))
    assert (location / SEALED).exists()


def test_few_records_are_not_sealed(tmp_path):
    engine_at(tmp_path, lambda job: record(job.task.index)).perform(STAGE, tasks(SEAL_FROM - 1))
    assert not (Path(STAGE.location(str(tmp_path))) / SEALED).exists()


def traced(work):
    """(what work gives, bytes it leaves, bytes at its peak)."""
    gc.collect()
    tracemalloc.start()
    try:
        result = work()
        ledger._records_of.cache_clear()
        gc.collect()
        return result, *tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()


def test_the_driver_holds_little_of_many_tasks(tmp_path):
    n, location = 20_000, Path(STAGE.location(str(tmp_path)))
    engine = engine_at(tmp_path, lambda job: record(job.task.index))
    done, kept, peak = traced(lambda: engine.perform(STAGE, tasks(n)))
    assert len(done.records) == n
    assert kept < 120 * n, "of a finished stage"
    assert peak < 900 * n, "of a stage that is carried out: jobs, and what is not yet compressed"
    assert (location / SEALED).stat().st_size < 100 * n
    put_singles(location, [])
    for i in range(n):  # empty: whoever reads one finds no record
        (location / record_name(i)).touch()
    found, kept, peak = traced(lambda: recorded(str(location)))
    assert found.sealed
    assert kept < 120 * n
    assert peak < 1200 * n, "with what a listing takes"
    assert found.in_order(range(n)) == done.records


class Spec:
    """Counts those that are alive."""

    alive: ClassVar = weakref.WeakSet()

    def __init__(self, index):
        self.index = index
        self.alive.add(self)


def spec_task(spec: Spec, outputs: Outputs) -> dict:
    return {"index": spec.index, "alive": len(Spec.alive)}


def test_a_specification_is_made_when_its_task_begins_and_not_kept(tmp_path):
    engine = Engine(str(tmp_path), Inline(), Progress(stream=None))
    done = engine.perform(STAGE, [Task(i, spec_task, Later(Spec, i)) for i in range(20)])
    assert [r.counts["index"] for r in done.records] == list(range(20))
    assert max(r.counts["alive"] for r in done.records) <= 2
    assert not Spec.alive


# ---- splits --------------------------------------------------------------------------------------------------------


def test_splits_of_a_very_large_source_take_little():
    files = [InputFile(f"{i}.jsonl", f"/{i}.jsonl", 2 * TB, "mtime:1") for i in range(5)]
    splits, kept, _ = traced(lambda: cut("web", files, "jsonl", 256 * 10**6))
    assert len(splits) == 5 * 7_813
    assert kept < 48 * len(splits)
    last = splits[-1]
    assert (last.index, last.pieces[0].stop, last.pieces[0].file) == (len(splits) - 1, -1, 4)
    assert last.pieces[0].start + last.pieces[0].size == 2 * TB
    assert splits[7_813].pieces[0].start == 0


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), max_size=30), st.integers(1, 25))
def test_columns_of_splits_are_those_of_the_splits(sizes, split_bytes):
    files = [InputFile(f"{i:02}.jsonl", f"/{i:02}.jsonl", size, "") for i, size in enumerate(sizes)]
    splits = cut("web", files, "jsonl", split_bytes)
    assert costs(splits).tolist() == costs(list(splits)).tolist() == [split.cost for split in splits]
    firsts = [split.pieces[0] for split in splits]
    for ours in (begins(splits), begins(list(splits))):
        assert [column.tolist() for column in ours] == [
            [p.id_half for p in firsts],
            [p.start for p in firsts],
        ]


def test_costs_make_no_splits(monkeypatch):
    files = [InputFile(f"{i:05}.jsonl", f"/{i}.jsonl", 3, "") for i in range(FILES_PER_SPLIT + 1)]
    splits = cut("web", files, "jsonl", 10**9)
    monkeypatch.setattr(type(splits), "made", None)
    assert costs(splits).tolist() == [3 * FILES_PER_SPLIT, 3]
    assert (
        _largest_text(SourcePlan("web", Source.model_construct(), "/", files, splits, READ))
        == 3 * FILES_PER_SPLIT
    )
    choice = expected(Source.model_construct(sample=0.001), splits, 1, 0.0)
    assert choice.of_bytes == 3 * len(files)


def test_the_check_of_bad_rows_knows_the_splits_that_are_read(monkeypatch):
    files = [InputFile(f"{i}.jsonl", f"/{i}.jsonl", 3, "") for i in range(6)]
    splits = cut("web", files, "jsonl", 3)
    recipe = SimpleNamespace(max_bad_rows=0.5)
    bad = {"rows": 4, "lost": {"json": 3}}
    whole = SourcePlan("web", Source.model_construct(), "/", files, splits, READ)
    part = replace(whole, splits=[splits[i] for i in (1, 3)], part=(1, 3))
    for source, read in ((whole, range(6)), (part, (1, 3))):
        check = _bad_rows_check(recipe, source)
        for index in range(8):
            if index in read:
                with pytest.raises(InputError, match=rf"split {index} \({index}.jsonl\)"):
                    check(Record(index, bad, {}))
            check(Record(index, bad | {"rows": 6}, {}))
            if index not in read:
                check(Record(index, bad, {}))
