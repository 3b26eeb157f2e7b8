"""Do tables come back as they were written, row by row, and do hashes stay what they were?"""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.shards import storage, tables

WORDS = st.lists(st.integers(0, 2**64 - 1), max_size=20)


@given(WORDS, st.data())
def test_ids_are_two_big_endian_halves(high, more):
    low = more.draw(st.lists(st.integers(0, 2**64 - 1), min_size=len(high), max_size=len(high)))
    column = tables.ids_of(np.array(high, np.uint64), np.array(low, np.uint64))
    assert column.type == pa.binary(16)
    assert column.to_pylist() == [
        a.to_bytes(8, "big") + b.to_bytes(8, "big") for a, b in zip(high, low, strict=True)
    ]
    start = more.draw(st.integers(0, len(high)))
    stop = more.draw(st.integers(start, len(high)))
    a, b = tables.id_halves(column.slice(start, stop - start))
    assert a.dtype == b.dtype == np.uint64
    assert (a.tolist(), b.tolist()) == (high[start:stop], low[start:stop])


def test_halves_of_an_empty_column():
    for column in (pa.array([], pa.binary(16)), pa.nulls(0, pa.binary(16))):
        a, b = tables.id_halves(column)
        assert (len(a), len(b)) == (0, 0)


# ---- hashes -----------------------------------------------------------------------------------------------------


def slow_mix(seed, *words):
    """SplitMix64 on Python's integers: add the golden gamma, then the finaliser, for each word."""
    mask, out = 2**64 - 1, seed % 2**64
    for word in words:
        z = ((out ^ word) + 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        out = z ^ (z >> 31)
    return out


@given(
    st.integers(-(2**70), 2**70),
    st.lists(st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=2), min_size=1, max_size=3),
)
def test_mix_agrees_with_splitmix_on_python_integers(seed, words):
    found = tables.mix(seed, *(np.array(w, np.uint64) for w in words))
    assert found.dtype == np.uint64
    assert found.tolist() == [slow_mix(seed, *(w[i] for w in words)) for i in range(2)]


@pytest.mark.parametrize(
    ("seed", "words", "value"),
    [
        # The first number of SplitMix64 seeded with 0, as Java's SplittableRandom and others give it.
        (0, (0,), 0xE220A8397B1DCDAF),
        (17, (1, 2), 0xA5C1ABECA22FE831),
        (2**64 - 1, (2**64 - 1, 0, 2**63), 0x0B19AA26271F7EE5),
    ],
)
def test_mix_never_changes(seed, words, value):
    """Every order of documents and every held-out set follows from it."""
    assert [hex(v) for v in tables.mix(seed, *(np.array([w], np.uint64) for w in words))] == [hex(value)]


def test_mix_spreads_neighbours():
    found = tables.mix(1, np.arange(100_000, dtype=np.uint64))
    assert len(set(found.tolist())) == 100_000
    counts = np.bincount((found >> np.uint64(60)).astype(np.int64), minlength=16)
    assert abs(counts - 6250).max() < 400  # 5 standard deviations of 77


# ---- row-aligned batches ----------------------------------------------------------------------------------------


def batches_of(sizes):
    rows = iter(range(sum(sizes)))
    schema = pa.schema([("n", pa.int64()), ("s", pa.large_string())])
    for size in sizes:
        numbers = [next(rows) for _ in range(size)]
        yield pa.record_batch(
            [pa.array(numbers, pa.int64()), pa.array([str(n) for n in numbers], pa.large_string())],
            schema=schema,
        )


@settings(deadline=None)
@given(st.lists(st.integers(0, 7), max_size=10), st.data())
def test_aligned_hands_out_every_row_once(sizes, more):
    aligned, taken, total = tables.Aligned(batches_of(sizes)), [], sum(sizes)
    while len(taken) < total:
        n = more.draw(st.integers(1, total - len(taken)))
        batch = aligned.take(n)
        assert isinstance(batch, pa.RecordBatch)
        assert batch.num_rows == n
        taken += zip(batch["n"].to_pylist(), batch["s"].to_pylist(), strict=True)
    assert taken == [(i, str(i)) for i in range(total)]
    aligned.end()


def test_aligned_refuses_files_of_unequal_length():
    short = tables.Aligned(batches_of([3, 2]))
    short.take(2)
    with pytest.raises(
        ValueError, match=r"^4 rows wanted, 3 left: two files of one split are not row-aligned$"
    ):
        short.take(4)
    for taken in (4, 3):  # rows left in a batch begun, and a batch never begun
        long = tables.Aligned(batches_of([3, 2]))
        long.take(taken)
        with pytest.raises(
            ValueError, match=r"^rows are left over: two files of one split are not row-aligned$"
        ):
            long.end()


# ---- files ------------------------------------------------------------------------------------------------------


def write_arrow(location, sizes):
    with storage.commit(location) as path:
        batches = list(batches_of([*sizes]))
        with tables.arrow_writer(path, batches[0].schema) as writer:
            for batch in batches:
                writer.write_batch(batch)


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_arrow_files_give_their_batches(tmp_path, kind):
    location = str(tmp_path / "a.arrow") if kind == "local" else "memory://tables/a.arrow"
    write_arrow(location, [3, 1, 4])
    found = list(tables.arrow_batches(location))
    assert [b.num_rows for b in found] == [3, 1, 4]
    assert [n for b in found for n in b["n"].to_pylist()] == list(range(8))
    storage.remove(location)


@pytest.mark.parametrize("keep", [0, 7, 100, 0.5, -1])
def test_cut_arrow_file_is_an_error(tmp_path, keep):
    write_arrow(str(tmp_path / "a.arrow"), [300])
    content = (tmp_path / "a.arrow").read_bytes()
    (tmp_path / "a.arrow").write_bytes(
        content[: int(len(content) * keep) if isinstance(keep, float) else keep]
    )
    with pytest.raises((OSError, pa.ArrowInvalid)):
        list(tables.arrow_batches(str(tmp_path / "a.arrow")))


def write_rows(path, sizes):
    schema = next(batches_of([1])).schema
    with tables.RowWriter(str(path), schema) as writer:
        for batch in batches_of(sizes):
            writer.write(batch)


@pytest.mark.parametrize("sizes", [[], [0], [5, 0, 3], [2] * 50], ids=str)
def test_parquet_round_trip(tmp_path, sizes):
    write_rows(tmp_path / "a.parquet", sizes)
    expected = list(range(sum(sizes)))
    assert [
        n for b in tables.parquet_batches(str(tmp_path / "a.parquet")) for n in b["n"].to_pylist()
    ] == expected
    for batch in tables.parquet_batches(str(tmp_path / "a.parquet"), ["s"]):
        assert batch.schema.names == ["s"]
    assert pq.read_table(tmp_path / "a.parquet")["s"].to_pylist() == [str(n) for n in expected]


@pytest.mark.parametrize(("attribute", "bound"), [("GROUP_ROWS", 10), ("GROUP_BYTES", 150)])
def test_row_groups_are_bounded(tmp_path, monkeypatch, attribute, bound):
    monkeypatch.setattr(tables.RowWriter, attribute, bound)
    write_rows(tmp_path / "a.parquet", [3] * 20)
    meta = pq.ParquetFile(tmp_path / "a.parquet").metadata
    sizes = [meta.row_group(g).num_rows for g in range(meta.num_row_groups)]
    assert sum(sizes) == 60
    assert len(sizes) > 3
    assert max(sizes) <= 12


def test_equal_rows_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write_rows(tmp_path / f"{name}.parquet", [7] * 30)
        write_arrow(str(tmp_path / f"{name}.arrow"), [7] * 30)
    for kind in ("parquet", "arrow"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
