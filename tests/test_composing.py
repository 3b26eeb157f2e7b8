"""Do rows that are parsed or put together give the documents, keys and batches that plain rows give?"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from winnow.shards import json_rows, readers
from winnow.shards.inputs import Piece
from winnow.shards.readers import ReadSettings

HUGE = 2**127 + 1
"""More digits than a float keeps."""


def batches(path: Path, **more) -> list[readers.Batch]:
    piece = Piece(0, str(path), path.name, 1, path.stat().st_size)
    return list(readers.read([piece], ReadSettings("jsonl", **more), readers.Seen()))


def documents(tmp_path: Path, *rows: object, **more) -> tuple[list[dict], list[str]]:
    """Documents without their ids, and the reasons of the other rows."""
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = batches(path, **more)
    kept = [row for batch in read for row in batch.table.select(["text", "key", "meta"]).to_pylist()]
    return kept, [row.reason for batch in read for row in batch.lost]


@pytest.mark.parametrize("number", [math.nan, math.inf, HUGE, 1.5, 7])
def test_numbers_of_a_parsed_column_are_those_of_a_line(tmp_path, number):
    row = {"text": "a", "more": {"score": number, "i": 1}}
    plain, lost = documents(tmp_path, row)
    assert not lost
    assert documents(tmp_path, row | {"more": json.dumps(row["more"])}, parse=("more",)) == (plain, [])


@pytest.mark.parametrize(
    "value", ["{", "", "[1,]", "[" * 5000 + "]" * 5000, "[NaN," + "[" * 300 + "]" * 300 + "]"]
)
def test_what_is_not_json_in_a_parsed_column(tmp_path, value):
    kept, (reason,) = documents(tmp_path, {"text": "a", "more": value}, parse=("more",))
    assert kept == []
    assert reason in ("wrong-type", "json")


@pytest.mark.parametrize("key", [HUGE, -HUGE, 1e300, 2**64, 2**63, "a"])
def test_a_key_is_the_same_whichever_way_a_row_goes(tmp_path, key):
    row = {"text": "a", "id": key, "x": 1, "more": {"id": key}}
    ((plain,), _) = documents(tmp_path, row, key="id")
    assert plain["key"] == str(key)
    assert documents(tmp_path, row, key="id", parse=("none",)) == ([plain], [])
    ((within,), _) = documents(tmp_path, row, key="more.id")
    assert within["key"] == str(key)
    ((parsed,), _) = documents(
        tmp_path, row | {"more": json.dumps(row["more"])}, key="more.id", parse=("more",)
    )
    assert parsed == within


def test_a_key_that_is_no_number_stays(tmp_path):
    for more in ({"id": "no object"}, None, [1.5], {"id": {"id": 1.5}}):
        row = {"text": "a", "more": more, "x": 2.5}
        kept, lost = documents(tmp_path, row, key="more.id", parse=("none",))
        assert (len(kept), lost) == (1, [])
    row = {"a.b": 1.5}
    json_rows.restore_key(row, "a.b", b'{"a.b": 9}')
    assert row == {"a.b": 9}


@pytest.mark.parametrize("more", [{}, {"parse": ("none",)}, {"key": "other"}])
def test_a_batch_is_bounded_by_all_its_columns(tmp_path, monkeypatch, more):
    monkeypatch.setattr(readers, "BATCH_BYTES", 1000)
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"{i}", "other": "y" * 400}) + "\n" for i in range(40)))
    read = batches(path, **more)
    assert [text for batch in read for text in batch.table["text"].to_pylist()] == list(map(str, range(40)))
    assert {batch.table.num_rows for batch in read} <= {1, 2, 3}
