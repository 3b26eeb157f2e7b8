"""Killed and continued: the same shards, byte for byte, and nothing recorded is redone.

These tests run `winnow` as a user does, with Ray, and kill a process of it at a random point (seeded):
the driver, a worker, the raylet.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import small_run
from ray_nodes import descendants
from small_run import published, records

KILLS = int(os.environ.get("WINNOW_KILLS", "2"))
"""More for a soak: WINNOW_KILLS=100 pytest tests/test_faults.py; benchmarks/faults.py knows more faults."""
LIMIT = 120


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources that go through every step of dedup, into one mixed stream without some documents."""
    root = tmp_path_factory.mktemp("faults")
    small_run.write_inputs(root)
    return small_run.write_recipe(root / "faults.yaml", root)


def command(recipe: Path, out: Path, workers: int = 2) -> list[str]:
    return small_run.command(recipe, out, "--workers", str(workers))


def start(recipe: Path, out: Path, workers: int = 2) -> subprocess.Popen:
    return subprocess.Popen(
        command(recipe, out, workers), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(recipe: Path, out: Path, workers: int = 2) -> None:
    done = subprocess.run(command(recipe, out, workers), capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def undisturbed(recipe: Path) -> dict[str, str]:
    out = recipe.parent / "undisturbed"
    finish(recipe, out)
    facts = json.loads((out / "mixture.json").read_text())
    took = small_run.took(facts)
    assert len(took) == 6
    assert all(took.values()), f"a step that takes nothing shows nothing: {took}"
    assert facts["mixed"][0]["dropped_rows"]["rows_dropped"], "nothing was excluded"
    return published(out)


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
