"""Does a run on several nodes make the bytes of one process, whatever joins, leaves, dies or does not belong?

A real Ray cluster, each node a process tree of its own on this machine (benchmarks/ray_nodes.py); drivers are
`winnow` as a user starts it. The tests share the cluster and are in an order: those that lose nodes come last.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import winnow.pipelines
from winnow.pipelines import load, run
from winnow.pipelines.progress import Progress

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import small_run  # noqa: E402
from ray_nodes import Node, Nodes  # noqa: E402

LIMIT = 120.0
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nodes")
    small_run.write_inputs(folder)
    return small_run.write_recipe(folder / "small.yaml", folder)


@pytest.fixture(scope="module")
def inline(recipe: Path) -> dict[str, str]:
    """What one process without Ray publishes."""
    out = recipe.parent / "inline"
    made = run(load(str(recipe)), str(out), inline=True, progress=Progress(stream=None))
    assert made.mixture is not None
    took = small_run.took(made.mixture)
    assert len(took) == 6
    assert all(took.values()), f"a step that takes nothing shows nothing: {took}"
    return small_run.published(out)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with Nodes() as cluster:
        yield cluster


def start(nodes: Nodes, recipe: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    command = small_run.command(recipe, out, "--address", nodes.address, *options)
    return subprocess.Popen(
        command, env=nodes.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module", autouse=True)
def impossible(nodes: Nodes, recipe: Path) -> Iterator[subprocess.Popen[str]]:
    """A run that asks for more than any node has. Started first: it waits half a minute for a node that may come."""
    driver = start(nodes, recipe, recipe.parent / "impossible", "--set", "limits.task_memory=1TB")
    yield driver
    driver.kill()
    driver.communicate()


def ended(driver: subprocess.Popen[str]) -> tuple[int, str]:
    """(exit code, standard error) of a driver that ends by itself."""
    try:
        _, errors = driver.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        driver.kill()
        pytest.fail(f"the run hangs: {driver.communicate()[1][-2000:]}")
    return driver.returncode, errors


def wait(driver: subprocess.Popen[str], what: str, condition: Callable[[], object]) -> None:
    """Wait for something that happens while the driver works."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        if driver.poll() is not None or time.monotonic() > deadline:
            driver.kill()
            pytest.fail(f"{what} did not come to be: {driver.communicate()[1][-2000:]}")
        time.sleep(0.01)


def frozen_worker(driver: subprocess.Popen[str], node: Node) -> int:
    """A worker of the node that is in the middle of a task, and stays there."""
    while True:
        wait(driver, f"a task on {node.address}", node.workers)
        for pid in node.workers():
            os.kill(pid, signal.SIGSTOP)
            if pid in node.workers():
                return pid
            os.kill(pid, signal.SIGCONT)


def makers(out: Path) -> set[int]:
    """The processes that wrote the records of a run."""
    return {json.loads(path.read_bytes())["measurement"]["pid"] for path in small_run.records(out)}


def test_a_second_driver_is_refused_and_a_killed_one_is_continued(
    nodes: Nodes, recipe: Path, inline: dict[str, str], tmp_path: Path
) -> None:
    """On one node; what is recorded when the driver is killed is not made again."""
    out = tmp_path / "run"
    first = start(nodes, recipe, out)
    wait(first, "the lease", (out / "lease.json").exists)
    second = start(nodes, recipe, out)
    wait(first, "half of the work", lambda: len(small_run.records(out)) > 60)
    frozen_worker(first, nodes.head)
    code, errors = ended(second)
    assert code == 2, errors
    assert "is held by process" in errors
    first.kill()
    first.communicate()
    before = small_run.records(out)
    code, errors = ended(start(nodes, recipe, out))
    assert code == 0, errors[-2000:]
    assert {p: t for p, t in small_run.records(out).items() if p in before} == before, (
        "a recorded task was redone"
    )
    assert small_run.published(out) == inline


def test_a_request_that_no_node_meets_is_an_error(impossible: subprocess.Popen[str]) -> None:
    code, errors = ended(impossible)
    assert code == 1, errors
    assert "limits.task_memory" in errors
    assert "Traceback" not in errors


def test_a_node_that_sees_another_run_directory_is_refused(
    nodes: Nodes, recipe: Path, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    elsewhere = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs none "{shared}" && exec "$@"', "sh")
    if (
        shutil.which("unshare") is None
        or subprocess.run([*elsewhere, "true"], capture_output=True).returncode
    ):
        pytest.skip("needs the right to make a mount namespace")
    node = nodes.add(inside=elsewhere)
    code, errors = ended(start(nodes, recipe, shared / "run"))
    nodes.stop(node)
    assert code == 1, errors
    assert "is not shared by the nodes" in errors
    assert node.address in errors
    assert "Traceback" not in errors


def test_a_node_with_other_sources_is_refused(nodes: Nodes, recipe: Path, tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(winnow.pipelines.__path__[0], tmp_path / "winnow" / "pipelines", ignore=ignored)
    with open(tmp_path / "winnow" / "pipelines" / "numbers.py", "a") as file:
        file.write("\n# as another version has it\n")
    # Found before the other one; kernels stay those that are compiled.
    search = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    node = nodes.add(environment={"PYTHONPATH": search})
    code, errors = ended(start(nodes, recipe, tmp_path / "run"))
    nodes.stop(node)
    assert code == 1, errors
    assert node.address in errors
    assert "sources" in errors
    assert "Traceback" not in errors


def test_a_node_that_joins_gets_work(
    nodes: Nodes, recipe: Path, inline: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    driver = start(nodes, recipe, out)
    wait(driver, "the first records", lambda: len(small_run.records(out)) > 1)
    # The node that was there does not finish its task before one that joins has begun another.
    worker = frozen_worker(driver, nodes.head)
    joined = [nodes.begin(), nodes.begin()]
    for node in joined:
        nodes.wait_for(node)
    wait(
        driver, "a record of a node that joined", lambda: makers(out) & {p for n in joined for p in n.pids()}
    )
    os.kill(worker, signal.SIGCONT)
    code, errors = ended(driver)
    assert code == 0, errors[-2000:]
    assert small_run.published(out) == inline


def test_a_node_that_dies_costs_its_tasks_only(
    nodes: Nodes, recipe: Path, inline: dict[str, str], tmp_path: Path
) -> None:
    """Three nodes at first, two at the end."""
    while len(nodes.nodes) < 2:
        nodes.add()
    out = tmp_path / "run"
    driver = start(nodes, recipe, out)
    wait(driver, "the first records", lambda: len(small_run.records(out)) > 1)
    # While the head works on one task of the first stage, the dying node gets another.
    worker = frozen_worker(driver, nodes.head)
    dying = nodes.nodes[-1]
    frozen_worker(driver, dying)
    before = small_run.records(out)
    nodes.kill(dying)
    os.kill(worker, signal.SIGCONT)
    code, errors = ended(driver)
    assert code == 0, errors[-2000:]
    assert {p: t for p, t in small_run.records(out).items() if p in before} == before, (
        "a recorded task was redone"
    )
    assert small_run.published(out) == inline
