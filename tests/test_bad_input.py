"""What bad input gets: a located error before anything starts, a quarantined row, or a clear stop."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import zstandard
from winnow.pipelines import run
from winnow.pipelines.engine import RunError
from winnow.pipelines.lease import LeaseError
from winnow.pipelines.located import RecipeError
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import read
from winnow.shards import storage
from winnow.shards.inputs import InputError

SILENT = Progress(stream=None)


def recipe(path: str, name: str = "bad", more: str = "", **top: object):
    lines = "\n".join(f"{k}: {v}" for k, v in top.items())
    return read(
        f"""\
name: {name}
tokenizer: {{name: mistral-7b-v0.1}}
sequence: {{length: 16}}
sources:
  s:
    read: {{format: jsonl, path: "{path}"{more}}}
{lines}
""",
        "bad.yaml",
    )


def good_rows(n: int) -> list[bytes]:
    return [json.dumps({"text": f"document {i} says something of its own"}).encode() for i in range(n)]


def write(path: Path, rows: list[bytes]) -> Path:
    path.write_bytes(b"\n".join(rows) + b"\n")
    return path


def make(checked, out: Path):
    return run(checked, str(out), inline=True, progress=SILENT)


def lost(out: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    for path in (out / "dropped" / "s").glob("*.parquet"):
        for row in pq.read_table(path).to_pylist():
            counts[row["filter"]] = counts.get(row["filter"], 0) + 1
    return counts


def test_no_match_is_located_and_starts_nothing(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl.gz", good_rows(1))
    with pytest.raises(RecipeError) as caught:
        make(recipe(f"{tmp_path}/*.jsonl.zst"), tmp_path / "run")
    assert str(caught.value) == (
        f"bad.yaml:6:33: source 's': '{tmp_path}/*.jsonl.zst' matches no file below {tmp_path}; "
        "1 file there ends in '.jsonl.gz'"
    )
    assert not (tmp_path / "run").exists()


BAD_ROWS = {
    "json": b'{"text": "cut',
    "utf8": b'{"text": "\xff\xfe"}',
    "surrogate": b'{"text": "half \\ud83d"}',
    "missing-column": b'{"body": "x"}',
    "wrong-type": b'{"text": 7}',
    "not-an-object": b"[1, 2]",
    "empty": b'{"text": ""}',
}


def test_malformed_rows_are_quarantined_and_the_run_goes_on(tmp_path: Path) -> None:
    rows = good_rows(400)
    for i, bad in enumerate(BAD_ROWS.values()):
        rows.insert(10 * i, bad)
    rows.append(b'{"text": "a NUL \\u0000 is a character"}')
    write(tmp_path / "a.jsonl", rows)
    made = make(recipe(f"{tmp_path}/a.jsonl", max_bad_rows="2%"), tmp_path / "run")
    source = made.mixture["sources"][0]
    assert source["lost"] == dict.fromkeys(BAD_ROWS, 1)
    assert source["kept_documents"] == 401
    assert lost(tmp_path / "run") == dict.fromkeys(BAD_ROWS, 1)


def test_too_many_malformed_rows_stop_the_run_and_a_looser_limit_continues_it(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", good_rows(95) + [b"{"] * 5)
    with pytest.raises(InputError) as caught:
        make(recipe(f"{tmp_path}/a.jsonl"), tmp_path / "run")
    assert str(caught.value) == (
        "source 's', split 0 (a.jsonl): 5 of 100 rows are malformed (5 json), max_bad_rows allows 1; "
        "they are kept in the stage's lost-00000000.parquet"
    )
    made = make(recipe(f"{tmp_path}/a.jsonl", max_bad_rows="5%"), tmp_path / "run")
    assert made.redone["documents.s"] == 0


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_truncated_archive(tmp_path: Path, suffix: str) -> None:
    rows = [json.dumps({"text": hashlib.sha256(b"%d" % i).hexdigest() * 4}).encode() for i in range(5000)]
    packed = {"gz": gzip.compress, "zst": zstandard.compress}[suffix](b"\n".join(rows) + b"\n")
    path = tmp_path / f"a.jsonl.{suffix}"
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(
        InputError, match=rf"documents.s: a.jsonl.{suffix}: the compressed stream ends too early"
    ):
        make(recipe(str(path)), tmp_path / "run")
    assert not (tmp_path / "run" / "manifest.json").exists()
    made = make(recipe(str(path), more=", on_truncated: keep", max_bad_rows="5%"), tmp_path / "run")
    source = made.mixture["sources"][0]
    assert source["truncated_files"] == [path.name]
    assert 0 < source["kept_documents"] < 5000


def test_an_overlong_line_is_quarantined_with_its_size(tmp_path: Path) -> None:
    rows = good_rows(50)
    rows.insert(20, b'{"text": "' + b"x" * 300_000 + b'"}')
    write(tmp_path / "a.jsonl", rows)
    checked = recipe(f"{tmp_path}/a.jsonl", limits="{max_document_bytes: 64KiB}", max_bad_rows="5%")
    made = make(checked, tmp_path / "run")
    assert made.mixture["sources"][0]["lost"] == {"too-large": 1}
    report = next((tmp_path / "run" / "dropped" / "s").glob("*.parquet"))
    assert pq.read_table(report).column("score").to_pylist() == [300_012.0]


def test_a_source_without_a_document_is_said(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [b'{"text": ""}'] * 3)
    with pytest.raises(RecipeError, match=r"no source has the .* tokens of one sample"):
        make(recipe(f"{tmp_path}/a.jsonl"), tmp_path / "run")


def test_an_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", good_rows(3))
    honest = storage.open_input

    def denied(location: str):
        if location == str(path):
            raise PermissionError(errno.EACCES, "Permission denied", location)
        return honest(location)

    monkeypatch.setattr(storage, "open_input", denied)
    with pytest.raises(InputError, match=r"documents.s: a\.jsonl: cannot be read \(Permission denied\)"):
        make(recipe(str(path)), tmp_path / "run")


def test_a_full_disk_stops_the_run_which_can_be_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.jsonl", good_rows(200))
    honest, calls = os.fsync, []

    def full(handle: int) -> None:
        # Directories are synced too; what fills a disk is files.
        if stat.S_ISREG(os.fstat(handle).st_mode):
            calls.append(handle)
            if len(calls) == 12:
                raise OSError(errno.ENOSPC, "No space left on device")
        honest(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left on device"):
        make(recipe(str(path)), tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.tmp")), "an unfinished attempt is removed"
    assert not (tmp_path / "run" / "manifest.json").exists()
    monkeypatch.setattr(os, "fsync", honest)
    make(recipe(str(path)), tmp_path / "run")
    make(recipe(str(path)), tmp_path / "undisturbed")
    for index in (tmp_path / "undisturbed").rglob("index.json"):
        other = tmp_path / "run" / index.relative_to(tmp_path / "undisturbed")
        assert other.read_bytes() == index.read_bytes()


def test_a_run_of_another_name_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", good_rows(50))
    make(recipe(str(path)), tmp_path / "run")
    with pytest.raises(RecipeError) as caught:
        make(recipe(str(path), name="other"), tmp_path / "run")
    assert str(caught.value) == (
        f"bad.yaml:1:7: {tmp_path}/run holds the run 'bad', not 'other'; choose another --out"
    )


def test_a_run_that_is_held_is_refused(tmp_path: Path) -> None:
    from winnow.pipelines.lease import Lease

    path = write(tmp_path / "a.jsonl", good_rows(50))
    (tmp_path / "run").mkdir()
    with (
        Lease(str(tmp_path / "run")),
        pytest.raises(LeaseError, match=rf"is held by process {os.getpid()} on"),
    ):
        make(recipe(str(path)), tmp_path / "run")
    make(recipe(str(path)), tmp_path / "run")


def test_a_changed_input_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", good_rows(50))
    first = make(recipe(str(path)), tmp_path / "run").mixture["sources"][0]["rows"]
    write(path, good_rows(60))
    again = make(recipe(str(path)), tmp_path / "run")
    assert (first, again.mixture["sources"][0]["rows"]) == (50, 60)


@pytest.mark.slow
def test_read_only_home_and_package(tmp_path: Path) -> None:
    """Nothing is written outside RUN and temporary directories: the home here is a file, and cannot hold any."""
    path = write(tmp_path / "a.jsonl", good_rows(50))
    recipe_file = tmp_path / "r.yaml"
    recipe_file.write_text(
        f"name: home\ntokenizer: {{name: mistral-7b-v0.1}}\nsequence: {{length: 16}}\n"
        f"sources: {{s: {{read: {{format: jsonl, path: '{path}'}}, filters: [{{length: {{min_words: 2}}}}]}}}}\n"
    )
    home = tmp_path / "home"
    home.write_text("not a directory")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "RAY_", "NUMBA_"))}
    environment |= {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "winnow.pipelines.command", "run", str(recipe_file), "--workers", "1"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "run")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert home.read_text() == "not a directory"
