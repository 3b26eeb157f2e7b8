"""Scratch: who made a folder, who removes what was left, and how much room a run really needs."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from winnow.pipelines import models, plan_scratch, run, run_command
from winnow.pipelines.planning import plan
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import Recipe, read
from winnow.shards import feed, scratch, storage
from winnow.shards.inputs import InputError

SILENT = Progress(stream=None)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scratch directory that nobody has looked into."""
    made = tmp_path / "scratch"
    made.mkdir()
    monkeypatch.setenv(scratch.VARIABLE, str(made))
    return made


def left_by_a_killed_process(place: Path) -> Path:
    """A folder with a file in it, of a process that was killed while it had it."""
    text = (
        "import sys, time\n"
        "from winnow.shards import scratch\n"
        "with scratch.folder() as folder:\n"
        "    (folder / 'half').write_bytes(b'x' * 1000)\n"
        "    print(folder, flush=True)\n"
        "    time.sleep(600)\n"
    )
    variables = os.environ | {scratch.VARIABLE: str(place)}
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, env=variables) as child:
        assert child.stdout is not None
        made = Path(child.stdout.readline().decode().strip())
        child.send_signal(signal.SIGKILL)
    assert (made / "half").exists()
    return made


def renamed(folder: Path, **parts: str) -> Path:
    """The folder under a name of which some parts are others'."""
    named = scratch.FOLDER.fullmatch(folder.name)
    assert named is not None
    part = named.groupdict() | parts
    return folder.rename(
        folder.with_name(f"winnow-{part['node']}-{part['pid']}-{part['start']}-{parts.get('random', 'x')}")
    )


# ---- folders ------------------------------------------------------------------------------------------------


def test_a_folder_is_ours_alone_and_gone_afterwards(place: Path) -> None:
    with scratch.folder() as folder, scratch.folder() as other:
        assert folder.parent == other.parent == place
        assert folder != other
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "a").write_bytes(b"x")
    assert not list(place.iterdir())
    with pytest.raises(RuntimeError), scratch.folder() as folder:
        raise RuntimeError
    assert not list(place.iterdir())


def test_a_nameless_file_has_no_name(place: Path) -> None:
    with scratch.nameless() as file:
        file.write(b"x")
        file.flush()
        assert not list(place.iterdir())


def test_the_temporary_directory_is_taken_where_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(scratch.VARIABLE, raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert scratch.directory() == str(tmp_path)
    monkeypatch.setenv(scratch.VARIABLE, "")
    assert scratch.directory() == str(tmp_path)


# ---- what is left -------------------------------------------------------------------------------------------


def test_what_a_killed_process_left_is_removed_and_nothing_else(place: Path) -> None:
    left = left_by_a_killed_process(place)
    node = scratch.FOLDER.fullmatch(left.name)["node"]  # type: ignore[index]
    user, rest = node.split("-", 1)
    host, namespace = rest.rsplit("-", 1)
    kept = [
        # Of a process that lives, of one with the same number, of another user, host and container.
        renamed(_copy(left), pid=str(os.getpid()), start=scratch._start(os.getpid()), random="lives"),
        renamed(_copy(left), node=f"{int(user) + 1}-{host}-{namespace}", random="user"),
        renamed(_copy(left), node=f"{user}-{host}x-{namespace}", random="host"),
        renamed(_copy(left), node=f"{user}-{host}-{int(namespace) + 1}", random="container"),
    ]
    gone = renamed(_copy(left), pid=str(os.getpid()), start="1", random="reused")
    (place / "winnow-notes").mkdir()
    (place / "link").symlink_to(kept[0])
    elsewhere = place.parent / "elsewhere"
    elsewhere.mkdir()
    link = left.with_name(f"{left.name}z")
    link.symlink_to(elsewhere)
    scratch.sweep.cache_clear()
    with scratch.folder():
        pass
    assert not left.exists()
    assert not gone.exists()
    assert all((folder / "half").exists() for folder in kept)
    assert elsewhere.exists()
    assert {path.name for path in place.iterdir()} == {
        "winnow-notes",
        "link",
        link.name,
        *(k.name for k in kept),
    }


def _copy(folder: Path) -> Path:
    """The same folder again, under a name of the same kind."""
    name = folder.name[: -len("12345678")] + "".join(random.choices("abcdefgh", k=8))
    (folder.parent / name).mkdir()
    (folder.parent / name / "half").write_bytes(b"x")
    return folder.parent / name


def test_a_process_that_ended_and_was_not_asked_how_is_gone(place: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        start = scratch._start(child.pid)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert os.path.exists(f"/proc/{child.pid}")
        assert not scratch._lives(child.pid, start)
    assert scratch._lives(os.getpid(), scratch._start(os.getpid()))
    assert not scratch._lives(os.getpid(), "1")


def test_a_directory_is_looked_through_once(place: Path) -> None:
    with scratch.folder():
        pass
    left = left_by_a_killed_process(place)
    with scratch.folder():
        assert left.exists()


# ---- copies of models ---------------------------------------------------------------------------------------


def test_copies_are_kept_in_a_folder_of_this_user_alone(place: Path) -> None:
    folder = scratch.kept()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert scratch.kept() == folder
    folder.chmod(0o777)
    with pytest.raises(OSError, match="not this user's own directory"):
        scratch.kept()
    folder.rmdir()
    folder.symlink_to(place.parent)
    with pytest.raises(OSError, match="not this user's own directory"):
        scratch.kept()


def test_a_copy_is_made_once_and_whole(place: Path, tmp_path: Path) -> None:
    location = f"memory://{tmp_path.name}/model"
    storage.put_bytes(location, b"a model")
    copy = scratch.kept() / "sha256" / "model"
    models.keep_copy(location, copy)
    assert copy.read_bytes() == b"a model"
    storage.remove(location)
    models.keep_copy(location, copy)
    with pytest.raises(FileNotFoundError):
        models.keep_copy(location, copy.with_name("other"))
    assert [path for path in place.rglob("*") if path.is_file()] == [copy]


# ---- is it there, and is it enough? -------------------------------------------------------------------------


def test_free_bytes_of_a_directory(place: Path) -> None:
    assert scratch.free_bytes() > 0
    assert not list(place.iterdir())


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_directory_that_is_none(place: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    wrong = place / kind
    if kind == "file":
        wrong.write_bytes(b"")
    monkeypatch.setenv(scratch.VARIABLE, str(wrong))
    with pytest.raises(OSError, match="scratch directory") as caught:
        scratch.free_bytes()
    why = {"missing": "No such file or directory", "file": "Not a directory"}[kind]
    assert str(caught.value) == (
        f"nothing can be written into the scratch directory {wrong} ({why}): it has to be a directory of every node "
        "that Winnow may write into; `--scratch DIR` or TMPDIR names another"
    )


def test_the_option_is_for_this_process_and_those_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(scratch.VARIABLE, "before")
    monkeypatch.chdir(tmp_path)
    run_command.use_scratch(None)
    assert os.environ[scratch.VARIABLE] == "before"
    run_command.use_scratch("file://" + str(tmp_path / "x"))
    assert scratch.directory() == str(tmp_path / "x")
    run_command.use_scratch("y/../here")
    assert os.environ[scratch.VARIABLE] == str(tmp_path / "here"), "workers are started elsewhere"
    with pytest.raises(typer.BadParameter, match="s3://bucket/x is no directory of this machine"):
        run_command.use_scratch("s3://bucket/x")


def small_recipe(root: Path, documents: int = 400) -> Recipe:
    draw = random.Random(5)
    words = [f"{draw.randrange(1 << 30):x}" for _ in range(5000)]
    with open(root / "a.jsonl", "w") as file:
        for i in range(documents):
            text = " ".join(draw.choices(words, k=draw.randrange(20, 200)))
            file.write(json.dumps({"text": text, "url": f"https://a.example/{i}"}) + "\n")
    return read(
        f"""\
name: small
tokenizer: {{name: mistral-7b-v0.1}}
sequence: {{length: 64}}
sources:
  s:
    read: {{format: jsonl, path: "{root}/a.jsonl", key: url}}
    filters: [nfc]
    dedup: {{exact: true}}
limits: {{split_bytes: 100KiB, partition_bytes: 64KiB}}
shards: {{size_limit: 64KiB, compression: "zstd:1"}}
""",
        "small.yaml",
    )


@pytest.fixture
def used(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes in scratch whenever a folder is given back: what is in it is finished then, and the most there is."""
    found: list[int] = []
    folder = scratch.folder

    @contextlib.contextmanager
    def watched() -> Iterator[Path]:
        with folder() as made:
            yield made
            found.append(sum(storage.list_files(str(place)).values()))

    monkeypatch.setattr(scratch, "folder", watched)
    return found


def test_the_forecast_is_enough_and_not_far_off(
    place: Path, used: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "REMOTE_SCHEMES", (*feed.REMOTE_SCHEMES, "memory"))
    monkeypatch.setattr(plan_scratch, "TOKENIZER_BYTES", 0)
    out = f"memory://{tmp_path.name}"
    # The tokenizer's files are larger than all that is made of so little text.
    run(small_recipe(tmp_path, documents=1), out, until="documents", inline=True, progress=SILENT)
    recipe = small_recipe(tmp_path)
    facts = plan_scratch.scratch_facts(plan(recipe))
    used.clear()
    run(recipe, out, inline=True, progress=SILENT)
    assert facts["object_store"] is not None
    assert max(used) <= facts["object_store"] <= 3 * max(used)
    assert not list(place.iterdir())
    used.clear()
    run(recipe, str(tmp_path / "run"), inline=True, progress=SILENT)
    assert not used
    assert facts["local"] == 0
    storage.remove(out)


def test_too_little_room_is_said_before_work(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "REMOTE_SCHEMES", (*feed.REMOTE_SCHEMES, "memory"))
    monkeypatch.setattr(scratch, "free_bytes", lambda: 1000)
    recipe = small_recipe(tmp_path)
    with pytest.raises(InputError, match=r"scratch directory .* has 1.0 kB free, a task needs up to 67.1 MB"):
        run(recipe, f"memory://{tmp_path.name}", inline=True, progress=SILENT)
    assert not storage.list_files(f"memory://{tmp_path.name}")
    run(recipe, str(tmp_path / "run"), until="documents", inline=True, progress=SILENT)
