"""Does an exchange give what one big sort gives, over any number of rounds, and is no damaged run believed?"""

import errno
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.pipelines import exchanges
from winnow.pipelines.cluster import Inline, Task
from winnow.pipelines.engine import Engine
from winnow.pipelines.exchanges import Wire
from winnow.pipelines.progress import Progress
from winnow.pipelines.records import Stage
from winnow.shards import exchange

MIB, TB = 1 << 20, 10**12
ROW = np.dtype([("key", "<u8"), ("id", "<u8"), ("items", "<u4")])
FIELDS = ("key", "id")

# ---- the plan -------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=500)
@given(st.integers(0, 10**15), st.integers(1, 1 << 30), st.integers(1, 1 << 24))
def test_plan(total, partition, range_):
    rounds = exchange.plan_rounds(total, partition, range_)
    wanted, widest = max(1, math.ceil(total / partition)), max(2, partition // range_)
    fanouts = rounds.fanouts
    assert rounds.partitions == math.prod(fanouts) >= wanted
    assert max(fanouts) <= widest
    if partition >= 2 * range_:
        assert partition // max(fanouts) >= range_, "the mean range is smaller than asked"
    assert len(fanouts) == 1 or widest ** (len(fanouts) - 1) < wanted, "fewer rounds would do"
    # As equal as they come: one less in the widest round, in all of them, would not be enough.
    assert max(fanouts) == 1 or (max(fanouts) - 1) ** len(fanouts) < wanted
    # Not far more than wanted, so that partitions stay about as large as asked.
    assert (
        rounds.partitions <= max(wanted, 1) * (1 + 1 / min(fanouts)) ** len(fanouts)
        or rounds.partitions <= 4 * wanted
    )


@pytest.mark.parametrize(
    ("total", "rounds", "files"),
    [
        (0, 1, 1),
        (1, 1, 1),
        (256 * MIB, 1, 1),
        (256 * MIB + 1, 1, 2),
        (TB, 2, 62),
        (10 * TB, 2, 194),
        (100 * TB, 3, 72),
    ],
)
def test_plan_of_large_corpora(total, rounds, files):
    plan = exchange.plan_rounds(total, 256 * MIB)
    assert (len(plan.fanouts), max(plan.fanouts)) == (rounds, files)
    assert 256 * MIB / max(plan.fanouts) >= MIB
    assert total / plan.partitions <= 256 * MIB
    assert plan.partitions <= 1.1 * total / (256 * MIB) + 1


@given(st.integers(1, 50), st.integers(0, 2**32), st.integers(1, 2**33))
def test_uniform_bounds_are_even(partitions, low, width):
    bounds = exchange.uniform_bounds(partitions, low, low + width)
    assert bounds.dtype == np.uint64
    assert len(bounds) == partitions - 1
    edges = [low, *map(int, bounds), low + width]
    sizes = [b - a for a, b in itertools.pairwise(edges)]
    assert max(sizes) - min(sizes) <= 1


def test_uniform_bounds_of_all_keys():
    assert [int(b) for b in exchange.uniform_bounds(4)] == [2**62, 2**63, 3 * 2**62]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_coarse_bounds_are_the_firsts_of_each_group(fanouts):
    partitions = math.prod(fanouts)
    bounds = np.arange(1, partitions, dtype=np.uint64)  # partition p begins at key p
    for round_ in range(len(fanouts)):
        group = math.prod(fanouts[round_ + 1 :])
        coarse = exchange.coarse_bounds(bounds, fanouts, round_)
        assert coarse.tolist() == [p for p in range(1, partitions) if p % group == 0]


@given(st.lists(st.integers(0, 20), max_size=40), st.integers(1, 50), st.integers(1, 10))
def test_groups_are_consecutive_and_bounded(sizes, limit, most):
    groups = exchange.group_by_bytes(sizes, limit, most)
    assert [i for a, b in groups for i in range(a, b)] == list(range(len(sizes)))
    for a, b in groups:
        assert b - a <= most
        assert sum(sizes[a:b]) <= limit or b - a == 1
    for (a, b), (_, d) in itertools.pairwise(groups):
        assert b - a == most or sum(sizes[a : b + 1]) > limit, "a group was closed too early"
        assert d > b


# ---- payload ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@given(more=st.data())
def test_payload_take(dtype, more):
    slices = more.draw(st.lists(st.lists(st.integers(0, 255), max_size=4), max_size=8))
    order = more.draw(st.permutations(range(len(slices))))
    payload = np.array([x for s in slices for x in s], dtype)
    ends = np.cumsum([len(s) for s in slices], dtype=np.int64)
    starts = ends - np.array([len(s) for s in slices], np.int64)
    taken = exchange.payload_take(payload, starts, ends, np.array(order, np.int64))
    assert taken.dtype == dtype
    assert taken.tolist() == [x for i in order for x in slices[i]]


# ---- rounds against one big sort --------------------------------------------------------------------------------


def rows_of(triples):
    return np.array(triples, ROW) if triples else np.empty(0, ROW)


def payload_of(rows, dtype):
    """Each row's items tell whose they are and where they stand."""
    items = [(int(r["id"]) * 7 + i) % 65521 for r in rows for i in range(r["items"])]
    return np.array(items, dtype)


def scatter(spec, outputs):
    """The first round: each task has rows of its own, in no order."""
    index, runs, wire, bounds = spec
    written = []
    for n, rows in enumerate(runs):
        payload = payload_of(rows, wire.payload) if wire.payload else None
        written.append(exchanges.write_run(outputs, f"run-{index:08d}-{n}.bin", wire, rows, bounds, payload))
    return {"runs": written}


def carry_out(run, tasks, wire, rounds, bounds, partition_bytes):
    """What each final partition reads."""
    engine = Engine(str(run), Inline(), Progress(stream=None))
    first = Stage("scatter.test", 1, {})
    coarse = exchange.coarse_bounds(bounds, rounds.fanouts, 0)
    done = engine.perform(first, [Task(i, scatter, (i, runs, wire, coarse)) for i, runs in enumerate(tasks)])
    stages = exchanges.round_stages(first, rounds, partition_bytes)
    assert len(stages) == len(rounds.fanouts) - 1
    (parts,) = engine.together(exchanges.further_rounds(done, stages, wire, rounds, bounds, partition_bytes))
    assert len(parts) == rounds.partitions
    return parts


def assert_one_big_sort(parts, wire, bounds, everything):
    expected = sorted(everything)  # by key, id, items: ids differ
    edges = [0, *map(int, bounds), 1 << 64]
    found = 0
    for p, mine in enumerate(parts):
        rows, payload, ends = exchanges.read_parts(mine, wire)
        part = [t for t in expected if edges[p] <= t[0] < edges[p + 1]]
        assert rows.tolist() == part
        if wire.payload is None:
            assert payload is None
            assert ends is None
        else:
            assert payload.dtype == wire.payload
            assert payload.tolist() == payload_of(rows_of(part), wire.payload).tolist()
            assert ends.tolist() == [sum(t[2] for t in part[: i + 1]) for i in range(len(part))]
        found += len(part)
    assert found == len(expected)


# Keys: all over, a few (skewed), and the very bounds of the partitions with their neighbours.
KEYS = {
    "uniform": st.integers(0, 2**64 - 1),
    "skewed": st.sampled_from([0, 1, 2**63, 2**64 - 1]),
    "bounds": st.tuples(st.integers(0, 63), st.integers(-1, 1)).map(lambda t: (t[0] * 2**58 + t[1]) % 2**64),
}


@pytest.mark.parametrize("payload", [None, "uint16", "uint32"])
@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("fanouts", [(1,), (4,), (2, 4), (3, 3), (2, 2, 3)], ids=str)
@settings(deadline=None, max_examples=8)
@given(more=st.data())
def test_rounds_are_one_big_sort(tmp_path_factory, payload, kind, fanouts, more):
    rounds = exchange.Rounds(math.prod(fanouts), fanouts)
    bounds = exchange.uniform_bounds(rounds.partitions)
    wire = Wire(ROW, FIELDS, np.dtype(payload) if payload else None)
    keys = more.draw(st.lists(KEYS[kind], max_size=60))
    ids = more.draw(st.permutations(range(len(keys))))
    sizes = more.draw(st.lists(st.integers(0, 3), min_size=len(keys), max_size=len(keys)))
    everything = list(zip(keys, ids, sizes, strict=True))
    cuts = sorted(more.draw(st.lists(st.integers(0, len(keys)), min_size=3, max_size=3)))
    runs = [rows_of(everything[a:b]) for a, b in zip([0, *cuts], [*cuts, len(keys)], strict=True)]
    tasks = [runs[:2], [], runs[2:]]  # empty runs where cuts meet, and a task that wrote none
    parts = carry_out(
        tmp_path_factory.mktemp("run"), tasks, wire, rounds, bounds, more.draw(st.sampled_from([50, 400]))
    )
    assert_one_big_sort(parts, wire, bounds, everything)


def test_three_rounds_of_many_rows_open_few_files(tmp_path):
    rng = np.random.default_rng(3)
    n, partition_bytes = 20_000, 8000
    everything = list(
        zip(
            rng.integers(0, 2**64, n, np.uint64).tolist(),
            range(n),
            rng.integers(0, 9, n).tolist(),
            strict=True,
        )
    )
    total = n * (ROW.itemsize + 8)
    rounds = exchange.plan_rounds(total, partition_bytes, range_bytes=1600)
    assert len(rounds.fanouts) == 3
    wire = Wire(ROW, FIELDS, np.dtype("uint16"))
    bounds = exchange.uniform_bounds(rounds.partitions)
    step = partition_bytes // (ROW.itemsize + 8)
    tasks = [[rows_of(everything[a : a + step])] for a in range(0, n, step)]
    parts = carry_out(tmp_path, tasks, wire, rounds, bounds, partition_bytes)
    assert max(map(len, parts)) <= 2 * max(rounds.fanouts) + 1
    data = [exchanges.read_parts(p, wire) for p in parts]
    assert np.concatenate([rows for rows, _, _ in data]).tolist() == sorted(everything)
    found = np.concatenate([p for _, p, _ in data]).tolist()
    assert found == payload_of(rows_of(sorted(everything)), "uint16").tolist()


def test_more_rounds_are_another_stage():
    first = Stage("scatter.web", 1, {})
    two, three = (exchanges.round_stages(first, exchange.Rounds(0, f), 10) for f in ((2, 6), (2, 2, 3)))
    assert [s.name for s in two] == ["scatter-round2.web"]
    assert [s.name for s in three] == ["scatter-round2.web", "scatter-round3.web"]
    assert two[0].directory != three[0].directory


# ---- run files --------------------------------------------------------------------------------------------------

BOUNDS = np.array([10, 20], np.uint64)
SAMPLE = [(3, 0, 2), (10, 1, 0), (12, 2, 3), (25, 3, 1)]


def write_sample(path, payload="uint16"):
    rows = rows_of(SAMPLE)
    ends = np.cumsum(rows["items"]).astype(np.uint64)
    exchange.write_run(str(path), rows, "key", BOUNDS, payload_of(rows, payload) if payload else None, ends)
    return path.stat().st_size


def test_partitions_of_a_run_by_hand(tmp_path):
    size = write_sample(tmp_path / "run")
    run = exchange.open_run(str(tmp_path / "run"), size, 3)
    assert run.partitions == 3
    assert run.partition_bytes().tolist() == [20 + 4, 40 + 6, 20 + 2]
    items = payload_of(rows_of(SAMPLE), "uint16").tolist()
    for p, (rows, payload) in enumerate(
        [(SAMPLE[:1], items[:2]), (SAMPLE[1:3], items[2:5]), (SAMPLE[3:], items[5:])]
    ):
        found, data = run.read(p, ROW, np.dtype("uint16"))
        assert (found.tolist(), data.tolist()) == (rows, payload)
    rows_alone, nothing = run.read(2, ROW, None)
    assert (rows_alone.tolist(), nothing) == (SAMPLE[3:], None)


def test_empty_run(tmp_path):
    path = tmp_path / "run"
    exchange.write_run(
        str(path), np.empty(0, ROW), "key", BOUNDS, np.empty(0, np.uint16), np.empty(0, np.uint64)
    )
    run = exchange.open_run(str(path), path.stat().st_size, 3)
    assert run.partition_bytes().tolist() == [0, 0, 0]
    rows, payload, ends = exchange.gather([(run, 1)] * 2, ROW, FIELDS, np.dtype("uint16"))
    assert (len(rows), len(payload), len(ends)) == (0, 0, 0)


def test_gather_of_no_run():
    rows, payload, ends = exchange.gather([], ROW, FIELDS, np.dtype("uint16"))
    assert (rows.dtype, payload.dtype, ends.dtype) == (ROW, np.uint16, np.uint64)
    assert len(rows) == len(payload) == len(ends) == 0
    assert exchange.gather([], ROW, FIELDS)[1:] == (None, None)


@pytest.mark.parametrize("payload", [None, "uint16"])
def test_cut_run_is_refused(tmp_path, payload):
    path = tmp_path / "run"
    size = write_sample(path, payload)
    content = path.read_bytes()
    for keep in range(size):
        path.write_bytes(content[:keep])
        with pytest.raises(ValueError, match=r"run: (\d+ bytes are too few|not a run of 3 partitions)"):
            exchange.open_run(str(path), keep, 3)
    # Cut after it was recorded.
    path.write_bytes(content[:-1])
    with pytest.raises(OSError, match="bytes wanted") as caught:
        exchange.open_run(str(path), size, 3)
    assert caught.value.errno != errno.ENOENT


def test_foreign_run_is_refused(tmp_path):
    path = tmp_path / "run"
    size = write_sample(path)
    for partitions in (1, 2, 4):
        with pytest.raises(ValueError, match=f"not a run of {partitions} partitions|too few"):
            exchange.open_run(str(path), size, partitions)
    path.write_bytes(bytes(range(256)) * 4)
    with pytest.raises(ValueError, match=r"run: not a run of 3 partitions$"):
        exchange.open_run(str(path), 1024, 3)


@pytest.mark.parametrize("shift", [-8, 8])
def test_run_with_a_middle_of_another_length_is_refused(tmp_path, shift):
    path = tmp_path / "run"
    size = write_sample(path)
    content = path.read_bytes()
    path.write_bytes(content[:20] + content[20 - shift :])
    with pytest.raises(ValueError, match=rf"run: {size + shift} bytes are not what its index tells$"):
        exchange.open_run(str(path), size + shift, 3)


def test_run_of_other_types_is_refused(tmp_path):
    path = tmp_path / "run"
    run = exchange.open_run(str(path), write_sample(path), 3)
    with pytest.raises(ValueError, match=r"run: rows of 20 bytes, not 8$"):
        run.read(0, np.dtype("<u8"), np.dtype("uint16"))
    with pytest.raises(ValueError, match=r"run: items of 2 bytes, not 4$"):
        run.read(0, ROW, np.dtype("uint32"))
