"""Killed and continued: the same shards, byte for byte, and nothing recorded is redone.

These tests run `winnow` as a user does, with Ray, and kill a process of it at a random point (seeded):
the driver, a worker, the raylet.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
from winnow.pipelines import open_run

STDLIB = Path(sysconfig.get_path("stdlib"))
KILLS = int(os.environ.get("WINNOW_KILLS", "3"))
"""More for a soak: WINNOW_KILLS=100 pytest tests/test_faults.py."""
LIMIT = 120


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources that go through every step of dedup, into one mixed stream without some documents."""
    root = tmp_path_factory.mktemp("faults")
    texts = [p.read_text(encoding="utf-8", errors="replace") for p in sorted(STDLIB.glob("[a-z]*.py"))]
    # Copies that are equal, and copies with a word changed here and there: every step finds something.
    near = [text.replace("return", "give back", 3) for text in texts[20:40]]
    for part, name in enumerate(("left", "right")):
        with open(root / f"{name}.jsonl", "w") as file:
            for i, text in enumerate(texts[part:150:2] + texts[:10] + near[part::2]):
                file.write(json.dumps({"text": text, "key": f"{name}-{i}"}) + "\n")
    (root / "gone.txt").write_text("right-30\nright-41\n")
    items = [" ".join(text.split()[100:140]) for text in texts[5:150:29]]
    (root / "items.jsonl").write_text("".join(json.dumps({"q": item}) + "\n" for item in items))
    path = root / "faults.yaml"
    path.write_text(f"""
name: faults
tokenizer: {{name: mistral-7b-v0.1, pad_token: <unk>}}
sequence: {{length: 256, pack: best-fit}}
sources:
  left:
    read: {{format: jsonl, path: "{root}/left.jsonl"}}
    filters: [gopher-quality]
    heldout: {{fraction: 0.05}}
    dedup: {{lines: true}}
  right:
    read: {{format: jsonl, path: "{root}/right.jsonl", key: key}}
    exclude: "{root}/gone.txt"
dedup:
  exact: {{across: [left, right], by: normalised}}
  minhash: {{across: [left, right], threshold: 0.7, min_recall: 0.9}}
  bloom: {{across: [left, right], shards: 3}}
  substrings: {{across: [left, right]}}
  decontaminate: {{benchmarks: {{items: {{path: "{root}/items.jsonl", text: q}}}}}}
mixture: {{epochs: 1.5, output: mixed}}
limits: {{split_bytes: 600KB, partition_bytes: 1500KB}}
shards: {{size_limit: 50KB}}
""")
    return path


def command(recipe: Path, out: Path, workers: int = 2) -> list[str]:
    return [sys.executable, "-m", "winnow.pipelines.command", "run", str(recipe), "--out", str(out),
            "--workers", str(workers), "--json"]  # fmt: skip


def start(recipe: Path, out: Path, workers: int = 2) -> subprocess.Popen:
    return subprocess.Popen(
        command(recipe, out, workers), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(recipe: Path, out: Path, workers: int = 2) -> None:
    done = subprocess.run(command(recipe, out, workers), capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr[-2000:]


def published(out: Path) -> dict[str, str]:
    """Hashes of all that a run publishes and a trainer or auditor reads."""
    roots = {f"dropped/{path.name}": path for path in (out / "dropped").iterdir()}
    for stream in open_run(str(out)).manifest["streams"]:
        roots[f"{stream['name']}/{stream['split']}"] = out / "stages" / stream["directory"]
    found = {}
    for label, root in roots.items():
        for path in sorted(root.rglob("*")):
            if path.is_file() and "records" not in path.parts:
                found[f"{label}/{path.relative_to(root)}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    found["mixture.json"] = hashlib.sha256((out / "mixture.json").read_bytes()).hexdigest()
    return found


@pytest.fixture(scope="module")
def undisturbed(recipe: Path) -> dict[str, str]:
    out = recipe.parent / "undisturbed"
    finish(recipe, out)
    facts = json.loads((out / "mixture.json").read_text())
    took = {step["step"]: 0 for step in facts["dedup"]}
    for source in facts["sources"]:
        for step in source["dedup"]:
            took[step["step"]] += step["dropped"] + step["cut_documents"]
    assert len(took) == 6
    assert all(took.values()), f"a step that takes nothing shows nothing: {took}"
    assert facts["mixed"][0]["dropped_rows"]["rows_dropped"], "nothing was excluded"
    return published(out)


def descendants(pid: int) -> dict[int, str]:
    """Command lines of the processes below a process."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, pending = {}, [pid]
    while pending:
        for child in children.get(pending.pop(), []):
            pending.append(child)
            try:
                line = (
                    Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
            except OSError:
                continue
            found[child] = line.strip()
    return found


def records(out: Path) -> dict[Path, int]:
    """Record files of a run and when they were written."""
    return {p: p.stat().st_mtime_ns for p in out.glob("stages/*/records/*.json")}


def kill_one(process: subprocess.Popen, victim: str) -> bool:
    """kill -9 the driver, one of its busy workers or its raylet; False if there is none."""
    if victim == "driver":
        process.kill()
        return True
    # Not any "ray::": Ray's own agents are called so too, and the raylet goes down with them.
    wanted = {"worker": "ray::_remote", "raylet": "/raylet/raylet"}[victim]
    matching = [pid for pid, line in descendants(process.pid).items() if wanted in line]
    if not matching:
        return False
    os.kill(random.choice(matching), signal.SIGKILL)
    return True


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(KILLS))
def test_kill_and_continue(recipe: Path, undisturbed: dict[str, str], tmp_path: Path, round_: int) -> None:
    random.seed(f"winnow {round_}")
    victim = ("driver", "worker", "raylet")[round_ % 3]
    after = random.randint(0, len(records(recipe.parent / "undisturbed")) - 20)
    out = tmp_path / "run"
    process = start(recipe, out)
    killed = False
    deadline = time.monotonic() + LIMIT
    while process.poll() is None and time.monotonic() < deadline:
        if not killed and len(records(out)) >= after:
            time.sleep(random.random() * 0.05)
            killed = kill_one(process, victim)
        time.sleep(0.01)
    assert process.poll() is not None, f"the run hangs after its {victim} was killed"
    _, errors = process.communicate()
    if killed and victim == "worker":
        assert process.returncode == 0, f"a killed worker's task is to be tried again: {errors[-2000:]}"
    before = records(out)
    finish(recipe, out)
    now = records(out)
    assert {p: t for p, t in now.items() if p in before} == before, "a recorded task was redone"
    assert published(out) == undisturbed
    if not killed:
        pytest.fail(f"the run ended before its {victim} could be killed (after {after} records)")


@pytest.mark.slow
def test_one_worker_gives_the_same_bytes(recipe: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    finish(recipe, tmp_path / "one", workers=1)
    assert published(tmp_path / "one") == undisturbed
