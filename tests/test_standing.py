"""What stands before a step of dedup, with which text, and how verdicts get home."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.pipelines import documents, homing, verdicts
from winnow.pipelines.records import Outputs
from winnow.pipelines.standing import (
    VERDICT_SCHEMA,
    Standing,
    cut_texts,
    rows_of,
    step_of,
    texts_of,
    verdict_name,
    write_verdicts,
)
from winnow.shards import tables

WORDS = ["naïve", "a", "", "日本語のテキスト", "🙂🙃", "the quick brown fox", "x" * 50]
texts_lists = st.lists(st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join), max_size=8)


def large(values: list[str]) -> pa.LargeStringArray:
    return pa.array(values, pa.large_string())


@st.composite
def cut_documents(draw):
    """Texts with cuts on borders of characters, or none."""
    texts = draw(texts_lists)
    cuts = []
    for text in texts:
        edges = [len(text[:i].encode()) for i in range(len(text) + 1)]
        places = sorted(draw(st.sets(st.sampled_from(edges), max_size=6)))
        places = places[: len(places) // 2 * 2]
        cuts.append(draw(st.sampled_from([places, None])) if places else draw(st.sampled_from([[], None])))
    return texts, cuts


def cut_slowly(text: str, cuts: list[int] | None) -> str:
    data = bytearray(text.encode())
    for start, end in reversed(list(zip((cuts or [])[0::2], (cuts or [])[1::2], strict=True))):
        del data[start:end]
    return data.decode()


@settings(deadline=None)
@given(cut_documents(), st.integers(0, 3))
def test_cut_texts(documents_and_cuts, skip):
    texts, cuts = documents_and_cuts
    skip = min(skip, len(texts))  # slices, whose buffers begin elsewhere
    column = pa.array(cuts, pa.list_(pa.uint32()))
    got = cut_texts(large(texts).slice(skip), column.slice(skip))
    got.validate(full=True)
    assert got.to_pylist() == [cut_slowly(t, c) for t, c in zip(texts[skip:], cuts[skip:], strict=True)]


def verdict_batch(rows: list[dict]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([dict.fromkeys(VERDICT_SCHEMA.names) | r for r in rows], VERDICT_SCHEMA)


@pytest.fixture
def split(tmp_path):
    """Six documents in batches of uneven sizes: filters drop "b", the first step "c"; it and the second cut "d"."""
    texts = ["aaa", "bbb", "ccc", "d1234567", "éé", "fff"]
    outputs = Outputs(str(tmp_path / "documents.s-0"))
    with (
        outputs.file(documents.name("text", 0, "arrow")) as path,
        tables.arrow_writer(path, documents.TEXT_SCHEMA) as writer,
    ):
        for a, b in ((0, 1), (1, 4), (4, 4), (4, 6)):
            writer.write_batch(pa.record_batch([large(texts[a:b])], schema=documents.TEXT_SCHEMA))
    ids = tables.ids_of(np.full(6, 7, np.uint64), np.arange(6, dtype=np.uint64))
    sizes = pa.array([len(t.encode()) for t in texts], pa.uint32())
    rows = pa.record_batch([ids, sizes], names=["id", "text_bytes"])
    with (
        outputs.file(documents.name("rows", 0, "parquet")) as path,
        tables.RowWriter(path, rows.schema) as out,
    ):
        out.write(rows)
    filters = Outputs(str(tmp_path / "filters.s-0"))
    first = pa.array([-1, 0, -1, -1, -1, -1], pa.int16())
    zeros = [pa.array([0] * 6, pa.uint64()), pa.array([0.0] * 6), pa.array([0.0] * 6)]
    with (
        filters.file(documents.name("verdict", 0, "arrow")) as path,
        tables.arrow_writer(path, verdicts.VERDICT_SCHEMA) as writer,
    ):
        writer.write_batch(pa.record_batch([first, *zeros], schema=verdicts.VERDICT_SCHEMA))
    one, two = (Outputs(str(tmp_path / f"{step}.s-0")) for step in ("lines", "bloom"))
    stays = {"dropped": False}
    survivor = bytes(15) + b"\1"
    gone = {"dropped": True, "survivor": survivor, "score": 0.5, "detail": "why"}
    write_verdicts(one, "s", 0, [
        verdict_batch([stays, stays, gone, {"dropped": False, "cuts": [0, 1, 4, 6]}]),
        verdict_batch([stays, stays]),
    ])  # fmt: skip
    write_verdicts(two, "s", 0, [
        verdict_batch([stays, stays, stays, {"dropped": False, "cuts": [1, 2]}, {"dropped": False, "cuts": [0, 2]},
                       {"dropped": True, "cuts": [0, 3]}]),
    ])  # fmt: skip
    return Standing("s", 0, 0, 6, outputs.location, filters.location, (one.location, two.location))


def test_the_chain_decides_who_stands_and_with_which_text(split):
    batches = list(texts_of(split))
    assert [t for b in batches for t in b.texts.to_pylist()] == ["aaa", "1367", "é"]
    assert [w for b in batches for w in b.where.tolist()] == [0, 3, 4]
    found = [int.from_bytes(i, "big") & 0xFF for b in batches for i in b.rows.column("id").to_pylist()]
    assert found == [0, 3, 4]
    assert [b.is_cut for b in batches] == [False, True, True]
    assert rows_of(split).take(6).column("keep").to_pylist() == [True, False, False, True, True, False]


def test_a_step_sees_only_what_comes_before_it(split):
    before = Standing(
        *(getattr(split, f) for f in ("source", "rank", "split", "rows", "documents", "filters"))
    )
    assert [t for b in texts_of(before) for t in b.texts.to_pylist()] == [
        "aaa",
        "ccc",
        "d1234567",
        "éé",
        "fff",
    ]
    assert not any(b.is_cut for b in texts_of(before))


def test_a_verdict_file_with_other_rows_is_noticed(split, tmp_path):
    short = Outputs(str(tmp_path / "lines.t-0"))
    write_verdicts(short, "s", 0, [verdict_batch([{"dropped": False}] * 5)])
    with pytest.raises(ValueError, match="row-aligned"):
        list(texts_of(Standing("s", 0, 0, 6, split.documents, split.filters, (short.location,))))


@pytest.mark.parametrize(
    ("location", "step"),
    [("/r/stages/exact.a+b-0123", "exact"), ("s3://b/stages/minhash.x.y-ff/", "minhash")],
)
def test_the_step_of_a_location(location, step):
    assert step_of(location) == step


@settings(deadline=None)
@given(st.data(), st.integers(0, 40))
def test_verdicts_are_aligned(data, n):
    rows = sorted(data.draw(st.sets(st.integers(0, max(n - 1, 0)), max_size=n))) if n else []
    mine = homing.verdict_rows(len(rows))
    cuts: list[int] = []
    expected = [dict.fromkeys(VERDICT_SCHEMA.names) | {"dropped": False} for _ in range(n)]
    for verdict, row in zip(mine, rows, strict=True):
        own = data.draw(st.sampled_from([[], [0, 3], [1, 2, 5, 9]]))
        survivor, score = data.draw(st.booleans()), data.draw(st.sampled_from([np.nan, 0.0, 0.75]))
        verdict["row"], verdict["dropped"], verdict["items"] = row, not own, len(own)
        if survivor:
            verdict["source"], verdict["high"], verdict["low"] = 1, 5, row
        verdict["score"] = score
        cuts += own
        expected[row] = {
            "dropped": not own, "detail": None, "cuts": own or None,
            "survivor": (5).to_bytes(8, "big") + row.to_bytes(8, "big") if survivor else None,
            "score": None if np.isnan(score) else float(score),
        }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(homing, "BATCH_ROWS", 7)
        batches = list(homing.aligned(mine, np.array(cuts, np.uint32), n))
    assert [r for b in batches for r in b.to_pylist()] == expected
    assert all(b.num_rows <= 7 for b in batches)
    assert verdict_name("a", 3) == "verdict.a-00000003.arrow"
