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
from winnow.pipelines.plan_exchange import Shape, exchange_lines, shape_of
from winnow.pipelines.plan_report import plan_facts, print_plan
from winnow.pipelines.planning import BYTES_PER_TOKEN, STREAM_ROW_BYTES, plan
from winnow.pipelines.recipe import read
from winnow.pipelines.records import Record, Stage
from winnow.pipelines.stream import ROUTED
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


def simulated(total: int, partition_bytes: int) -> tuple[exchanges.Parts, list[int], list[Done]]:
    """The further rounds of an exchange of even keys: what final partitions read, files of tasks before them, stages.

    Sizes differ, as those of hashed keys do; nothing of them would be left of equal ones in compressed records.
    """
    rng = np.random.default_rng(1)
    rounds = exchange.plan_rounds(total, partition_bytes)
    bounds = exchange.uniform_bounds(rounds.partitions)
    first = Stage("x-scatter.web", 1, {})
    stages = exchanges.round_stages(first, rounds, partition_bytes)

    def done(stage: Stage, fanout: int, n: int) -> Done:
        records = Ledger()
        for i in range(n):
            name = f"run-{i:08d}-0.bin"
            mean = total // n // fanout
            sizes = rng.integers(mean - mean // 10, mean + mean // 10, fanout).tolist()
            counts = {"runs": [{"name": name, "partition_bytes": sizes}]}
            records.add(Record(i, counts, {name: (sum(sizes), rng.bytes(16).hex())}))
        return Done(stage, "/run/stages/x", records.in_order(range(n)), 0, 0.0, 0.0)

    dones = [done(first, rounds.fanouts[0], -(-total // partition_bytes))]
    wire = exchanges.Wire(np.dtype("<u8"), ("key",))
    work = exchanges.further_rounds(dones[0], stages, wire, rounds, bounds, partition_bytes)
    files, requests = [], [next(work)]
    try:
        for fanout in rounds.fanouts[1:]:
            request = requests.pop()
            for task in request.tasks[::97]:
                spec = task.spec.make(task.spec.index)
                assert len(spec.bounds) == fanout - 1
                files.append(len(spec.parts))
            stage, n = request.stage, len(request.tasks)
            del request, task, spec  # the engine has them no longer, either
            dones.append(done(stage, fanout, n))
            requests.append(work.send(dones[-1]))
    except StopIteration as stop:
        return stop.value, files, dones
    raise AssertionError("more rounds than were planned")


def test_a_large_exchange_goes_through_the_driver_as_planned():
    total, partition_bytes = TB // 5, 64 * MIB
    shape = shape_of(total, partition_bytes)
    (parts, files, dones), kept, peak = traced(lambda: simulated(total, partition_bytes))
    assert len(parts) == shape.rounds.partitions == 55 * 55
    assert max(files) <= shape.files
    reads = [len(parts[p]) for p in range(0, len(parts), 101)]
    assert max(reads) <= shape.files + 1
    assert min(reads) * shape.range_bytes > partition_bytes // 2
    assert [len(done.records) for done in dones] == pytest.approx(shape.runs, rel=0.2)
    assert kept < peak < shape.driver_bytes < 2 * peak
    assert kept < 3 * MIB
    assert {part for _, part in parts[-1]} == {54}
    assert parts.sizes(0).sum() * len(parts) == pytest.approx(parts.held, rel=0.05)
    assert parts.held == pytest.approx(total, rel=0.01)


@pytest.mark.parametrize(
    ("terabytes", "wanted"),
    [(1, (3540, (60, 59), 61)), (10, (35_937, (33, 33, 33), 34)), (100, (357_911, (71, 71, 71), 72))],
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
    assert all(one["driver_bytes_estimate"] < 2 * GIB for one in facts["exchanges"])
    print_plan(facts)
    shown = " ".join(capsys.readouterr().out.split())
    assert f"exchange: shuffle of web: ~ {shuffle['bytes_estimate'] / TB:.1f} TB" in shown or terabytes == 1
    assert f"{wanted[0]:,} partitions in {len(wanted[1])} rounds ({' × '.join(map(str, wanted[1]))})" in shown


def records_of(*sizes: list[int]) -> list[Record]:
    """A record for each run, with the bytes of its partitions."""
    runs = [{"name": f"run-{i}", "partition_bytes": part} for i, part in enumerate(sizes)]
    return [Record(i, {"runs": [run]}, {run["name"]: (i, "")}) for i, run in enumerate(runs)]


@pytest.mark.parametrize("large", [[], [0], [1], [2], [0, 2]])
def test_sizes_of_partitions_take_eight_bytes_only_where_one_needs_them(large):
    sizes = [[1 << 32 if i in large and p == 1 else 7 * i + p for p in range(3)] for i in range(3)]
    runs = exchanges.run_files("/run", records_of(*sizes))
    assert runs.partition_bytes.tolist() == sizes
    assert runs.partition_bytes.itemsize == (8 if large else 4)
    assert runs.sizes.tolist() == [0, 1, 2]


def test_a_round_without_runs_has_empty_partitions():
    parts = exchanges.Parts(exchanges.run_files("/run", []), np.array([0, 0, 0]), 3)
    assert [parts.sizes(p).tolist() for p in range(len(parts))] == [[]] * 6
    assert [parts.filled(p) for p in range(len(parts))] == [()] * 6
    assert parts.held == 0
    rounds = exchange.Rounds(6, (2, 3))
    first = Stage("x-scatter.web", 1, {})
    stages = exchanges.round_stages(first, rounds, MIB)
    nothing = Done(first, "/run/stages/x", [], 0, 0.0, 0.0)
    wire = exchanges.Wire(np.dtype("<u8"), ("key",))
    work = exchanges.further_rounds(nothing, stages, wire, rounds, exchange.uniform_bounds(6), MIB)
    assert next(work).tasks == []
    with pytest.raises(StopIteration) as stop:
        work.send(nothing)
    assert [stop.value.value[p] for p in range(6)] == [[]] * 6


class Asked(list):
    """Records; whoever reads them holds no runs yet."""

    def __iter__(self):
        gc.collect()
        assert not any(isinstance(one, exchanges.Runs) for one in gc.get_objects())
        return super().__iter__()


def test_runs_of_a_round_are_gone_when_the_next_ones_are_read():
    rounds, first = exchange.Rounds(4, (2, 2)), Stage("x-scatter.web", 1, {})
    stages = exchanges.round_stages(first, rounds, MIB)
    records = Asked(records_of([1, 2], [3, 4]))
    done = Done(first, "/run/stages/x", records, 0, 0.0, 0.0)
    wire = exchanges.Wire(np.dtype("<u8"), ("key",))
    work = exchanges.further_rounds(done, stages, wire, rounds, exchange.uniform_bounds(4), MIB)
    assert len(next(work).tasks) == 2
    with pytest.raises(StopIteration) as stop:
        work.send(done)
    assert stop.value.value.sizes(3).tolist() == [4]


def facts_of(text: str, folder) -> tuple[dict, str]:
    """What `plan` finds for a small source, and its line about the shuffle."""
    (folder / "a.jsonl").write_text('{"text": "word"}\n' * 1000)
    header = "name: small\ntokenizer: {name: mistral-7b-v0.1}\n"
    source = f"sources:\n  web: {{read: {{format: jsonl, path: '{folder}/*.jsonl'}}}}\n"
    facts = plan_facts(plan(read(header + text + source, "r.yaml")))["exchanges"]
    return facts[0], exchange_lines(facts)[0]


def test_a_shuffle_moves_tokens_and_a_row_for_each_document(tmp_path):
    assert ROUTED.itemsize == STREAM_ROW_BYTES
    text = 17 * 1000
    facts, line = facts_of("", tmp_path)
    assert facts["bytes_estimate"] == int(2 * text / BYTES_PER_TOKEN + 40 * text / 4000)
    assert "1 partition in 1 round; a task reads ~ 8.1 kB of 1 file; " in line
    masked, _ = facts_of("shards: {columns: [loss_mask]}\n", tmp_path)
    assert masked["bytes_estimate"] == int(4 * text / BYTES_PER_TOKEN + 40 * text / 4000)


def test_shape_of_little():
    assert shape_of(0, MIB) == Shape(0, exchange.Rounds(1, (1,)), (1,), 1, 0)
