"""Does the driver stay small with many splits, and is a seal never believed where the records are another matter?"""

from __future__ import annotations

import gc
import shutil
import tracemalloc
import weakref
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.pipelines import ledger
from winnow.pipelines.cluster import Inline
from winnow.pipelines.engine import Engine
from winnow.pipelines.jobs import Job, Later, Task
from winnow.pipelines.ledger import BLOCK, SEAL_FROM, SEALED, Ledger, completed, recorded
from winnow.pipelines.progress import Progress
from winnow.pipelines.records import Outputs, Record, Stage, identity_of, record_name
from winnow.shards.inputs import InputFile
from winnow.shards.on_demand import OnDemand
from winnow.shards.splits import cut

TB = 10**12
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
