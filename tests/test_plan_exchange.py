"""Are exchanges what `plan` says they are, and does the driver stay small with a hundred terabytes?"""

from __future__ import annotations

import gc
import math
import os
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.pipelines import exchanges, ledger
from winnow.pipelines.engine import Done
from winnow.pipelines.ledger import Ledger
from winnow.pipelines.plan_exchange import Shape, shape_of
from winnow.pipelines.plan_report import plan_facts, print_plan
from winnow.pipelines.planning import plan
from winnow.pipelines.recipe import read
from winnow.pipelines.records import Record, Stage
from winnow.shards import exchange

MIB, GIB, TB = 1 << 20, 1 << 30, 10**12


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


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 10**15), st.integers(2 * MIB, GIB))
def test_the_shape_of_an_exchange_keeps_its_promises(total, partition_bytes):
    shape = shape_of(total, partition_bytes)
    fanouts = shape.rounds.fanouts
    assert math.prod(fanouts) == shape.rounds.partitions
    assert shape.rounds.partitions * partition_bytes >= total
    assert shape.files <= 2 * max(fanouts) + 1
    assert shape.files <= 1030 or partition_bytes > 512 * MIB
    assert len(shape.runs) == len(fanouts)
    if total >= partition_bytes:
        # Runs are not quite full where groups are few partitions; in all a range is a MiB or so.
        assert shape.range_bytes >= MIB // 2
        assert all(runs * partition_bytes < 2 * total + partition_bytes for runs in shape.runs)


def simulated(total: int, partition_bytes: int) -> tuple[exchanges.Parts, list[int]]:
    """The further rounds of an exchange of even keys: what final partitions read, and files of tasks before them."""
    rounds = exchange.plan_rounds(total, partition_bytes)
    bounds = exchange.uniform_bounds(rounds.partitions)
    first = Stage("x-scatter.web", 1, {})
    stages = exchanges.round_stages(first, rounds, partition_bytes)

    def done(stage: Stage, fanout: int, n: int) -> Done:
        records = Ledger()
        for i in range(n):
            name = f"run-{i:08d}-0.bin"
            counts = {"runs": [{"name": name, "partition_bytes": [total // n // fanout] * fanout}]}
            records.add(Record(i, counts, {name: (total // n, "")}))
        return Done(stage, "/run/stages/x", records.in_order(range(n)), 0, 0.0, 0.0)

    answer = done(first, rounds.fanouts[0], -(-total // partition_bytes))
    wire = exchanges.Wire(np.dtype("<u8"), ("key",))
    work = exchanges.further_rounds(answer, stages, wire, rounds, bounds, partition_bytes)
    files, request = [], next(work)
    try:
        for fanout in rounds.fanouts[1:]:
            for task in request.tasks[::97]:
                spec = task.spec.make(task.spec.index)
                assert len(spec.bounds) == fanout - 1
                files.append(len(spec.parts))
            request = work.send(done(request.stage, fanout, len(request.tasks)))
    except StopIteration as stop:
        return stop.value, files
    raise AssertionError("more rounds than were planned")


def test_a_large_exchange_goes_through_the_driver_as_planned():
    total, partition_bytes = TB // 5, 64 * MIB
    shape = shape_of(total, partition_bytes)
    (parts, files), kept, _ = traced(lambda: simulated(total, partition_bytes))
    assert len(parts) == shape.rounds.partitions == 55 * 55
    assert max(files) <= shape.files
    reads = [len(parts[p]) for p in range(0, len(parts), 101)]
    assert max(reads) <= shape.files + 1
    assert min(reads) * shape.range_bytes > partition_bytes // 2
    assert kept < shape.driver_bytes < 4 * MIB
    assert {part for _, part in parts[-1]} == {54}
    assert parts.sizes(0).sum() * len(parts) == pytest.approx(parts.held) == pytest.approx(total, rel=1e-3)


@pytest.mark.parametrize(
    ("terabytes", "wanted"),
    [(1, (3481, (59, 59), 60)), (10, (34_848, (33, 33, 32), 34)), (100, (347_900, (71, 70, 70), 72))],
)
def test_plan_shows_exchanges_of_sparse_terabytes(tmp_path, capsys, terabytes, wanted):
    n = max(1, terabytes // 10)
    try:
        for i in range(n):
            with open(tmp_path / f"{i}.jsonl", "wb") as file:
                os.truncate(file.fileno(), terabytes * TB // n)
    except OSError:
        pytest.skip("this file system has no files of 10 TB")
    text = (
        "name: large\ntokenizer: {name: mistral-7b-v0.1}\nlimits: {split_bytes: 4GB}\nsources:\n"
        f"  web:\n    read: {{format: jsonl, path: '{tmp_path}/*.jsonl'}}\n    dedup: {{minhash: true}}\n"
    )
    made, kept, _ = traced(lambda: plan(read(text, "r.yaml")))
    assert len(made.sources[0].splits) == terabytes * 250
    assert kept < 8 * MIB
    facts = plan_facts(made)
    shuffle, minhash = facts["exchanges"]
    assert (shuffle["partitions"], tuple(shuffle["fanouts"]), shuffle["files_per_task"]) == wanted
    assert minhash["partitions"] == facts["dedup"][0]["partitions"]
    assert all(one["range_bytes"] >= MIB for one in facts["exchanges"])
    assert all(one["driver_bytes_estimate"] < GIB for one in facts["exchanges"])
    print_plan(facts)
    shown = " ".join(capsys.readouterr().out.split())
    assert f"exchange: shuffle of web: ~ {shuffle['bytes_estimate'] / TB:.1f} TB" in shown or terabytes == 1
    assert f"{wanted[0]:,} partitions in {len(wanted[1])} rounds ({' × '.join(map(str, wanted[1]))})" in shown


def test_shape_of_little():
    assert shape_of(0, MIB) == Shape(0, exchange.Rounds(1, (1,)), (1,), 1, 0)
