"""Is `winnow run` a good Ray job: told apart when it fails, stopped and continued, and shown who it is to the cluster?

One real cluster with a token of its own: a head without CPUs, as ray_cluster.yaml has it, and one worker node. The
tests share it and are in an order; the last ones are one run that is stopped, killed and brought to its end.
"""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from winnow.pipelines import load, plan, ray_job, run
from winnow.pipelines.located import RecipeError
from winnow.pipelines.planning import Plan
from winnow.pipelines.progress import Progress
from winnow.shards.inputs import InputError

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import small_run
from ray_nodes import Node

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

LIMIT = 120.0
RAY = (sys.executable, "-c", "from ray.scripts.scripts import main; main()")
pytestmark = pytest.mark.slow

RECIPE = """
name: jobs
tokenizer: {{name: mistral-7b-v0.1, pad_token: <unk>}}
sequence: {{length: 256}}
sources:
  python:
    read: {{format: jsonl, path: "{inputs}", key: key}}
    filters: [gopher-quality]
    exclude: gone.txt
    dedup: {{exact: true}}
limits: {{split_bytes: 25KB, task_memory: 300MB}}
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@dataclass
class Jobs:
    """A running cluster, and what `ray job` says about it."""

    url: str
    address: str
    environment: dict[str, str]
    worker: Node
    folder: Path

    def ray(
        self, *arguments: str, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = [*RAY, "job", arguments[0], "--address", self.url, *arguments[1:]]
        return subprocess.run(
            command, env=environment or self.environment, capture_output=True, text=True, timeout=LIMIT
        )

    def submit(self, name: str, *command: str, wait: bool = True) -> subprocess.CompletedProcess[str]:
        """What a user types; it follows the logs unless told not to."""
        options = [
            "--submission-id",
            name,
            "--working-dir",
            str(self.folder),
            *([] if wait else ["--no-wait"]),
        ]
        return self.ray("submit", *options, "--", "winnow", *command)

    @cached_property
    def client(self) -> JobSubmissionClient:
        from ray.job_submission import JobSubmissionClient

        headers = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        return JobSubmissionClient(self.url, headers=headers)

    def ended(self, name: str) -> tuple[str, int | None]:
        """(status, exit code of the driver) of a job, once it has ended."""
        wait(f"{name} to end", lambda: self.client.get_job_status(name).is_terminal())
        found = self.client.get_job_info(name)
        return found.status.value, found.driver_exit_code


def wait(what: str, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    folder = Path(tempfile.mkdtemp(prefix="winnow-jobs-"))  # short: Ray's sockets lie in it
    bin_folder = os.path.dirname(sys.executable)
    assert shutil.which("winnow", path=bin_folder), "the entry point is looked up on the head's PATH"
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
    }
    environment.pop("RAY_ADDRESS", None)
    port, dashboard = free_port(), free_port()
    nodes: list[Node] = []

    def start(address: str, *options: str) -> Node:
        log = folder / f"{address}.log"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                [*RAY, "start", "--block", f"--node-ip-address={address}", f"--object-store-memory={80 << 20}",
                 "--include-log-monitor=false", *options],
                env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        nodes.append(Node(process, address, log))
        wait(
            f"node {address}",
            lambda: process.poll() is not None or b"Ray runtime started" in log.read_bytes(),
        )
        assert process.poll() is None, log.read_text()[-2000:]
        return nodes[-1]

    try:
        start(
            "127.0.0.1", "--head", f"--port={port}", "--num-cpus=0", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={free_port()}",
            f"--ray-client-server-port={free_port()}", f"--temp-dir={folder}/ray",
        )  # fmt: skip
        worker = start("127.0.0.2", f"--address=127.0.0.1:{port}", "--num-cpus=2", f"--memory={2 << 30}")
        inside = tmp_path_factory.mktemp("submitted")
        yield Jobs(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{port}", environment, worker, inside)
    finally:
        for node in reversed(nodes):
            node.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def recipe(jobs: Jobs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe and its list lie in the job's working directory, the data does not."""
    inputs = tmp_path_factory.mktemp("data") / "python.jsonl"
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("[a-z]*.py"))[:60]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in sources]
    inputs.write_text(
        "".join(json.dumps({"text": text, "key": str(i)}) + "\n" for i, text in enumerate(texts))
    )
    (jobs.folder / "gone.txt").write_text("7\n")
    path = jobs.folder / "recipe.yaml"
    path.write_text(RECIPE.format(inputs=inputs))
    return path


@pytest.fixture
def submitted(monkeypatch, tmp_path: Path) -> Path:
    """A working directory that Ray has unpacked for a job, and that this process is in."""
    (tmp_path / "unpacked").mkdir()
    monkeypatch.chdir(tmp_path / "unpacked")
    monkeypatch.setenv(ray_job.CONFIG, json.dumps({"runtime_env": {"working_dir": "gcs://_ray_pkg_1.zip"}}))
    return tmp_path / "unpacked"


def planned(inputs: Path) -> Plan:
    inputs.write_text('{"text": "a", "key": "b"}\n')
    Path("recipe.yaml").write_text(RECIPE.format(inputs=inputs))
    return plan(load("recipe.yaml"))


def test_what_a_job_ships_is_no_place_for_data(submitted: Path, tmp_path: Path) -> None:
    outside = planned(tmp_path / "python.jsonl")
    ray_job.check(outside, str(tmp_path / "run"))
    ray_job.check(outside, "s3://bucket/run")
    for out in (submitted, submitted / "run"):
        with pytest.raises(InputError, match=f"--out {out} lies in the Ray job's working directory"):
            ray_job.check(outside, str(out))
    inside = planned(submitted / "python.jsonl")
    with pytest.raises(
        RecipeError, match=r"^recipe\.yaml:7:\d+: source 'python' lies in the Ray job's working"
    ):
        ray_job.check(inside, "s3://bucket/run")


@pytest.mark.parametrize(
    "config", [None, "", "{", "[]", '{"metadata": {}}', '{"runtime_env": {}}', '{"runtime_env": null}']
)
def test_without_a_working_directory_every_path_is_the_clusters(
    submitted: Path, monkeypatch, config: str | None
) -> None:
    if config is None:
        monkeypatch.delenv(ray_job.CONFIG)
    else:
        monkeypatch.setenv(ray_job.CONFIG, config)
    assert ray_job.working_directory() is None
    ray_job.check(planned(submitted / "python.jsonl"), str(submitted / "run"))


def test_a_missing_file_is_said_to_be_missing_there(submitted: Path, monkeypatch) -> None:
    message = "r.yaml:7:33: source 'left': '/data/left.jsonl' matches no file; there is no directory /data"
    first, second = ray_job.explained(message).splitlines()
    assert first == message
    assert f"looked for on {platform.node()}, not where the job was submitted" in second
    assert ray_job.explained("r.yaml:1:1: 'name' is missing") == "r.yaml:1:1: 'name' is missing"
    monkeypatch.delenv(ray_job.CONFIG)
    assert ray_job.explained(message) == message


def test_a_mistake_in_the_recipe_is_exit_code_2(jobs: Jobs, recipe: Path) -> None:
    (jobs.folder / "python.jsonl").write_text('{"text": "a", "key": "b"}\n')
    done = jobs.submit("mistake", "run", "recipe.yaml", "--out", str(recipe.parent / "no"),
                       "--set", "sources.python.read.path=python.jsonl")  # fmt: skip
    assert done.returncode == 1, "Ray's own command knows only success"
    said = r"--set sources\.python\.read\.path:1:1: source 'python' lies in the Ray job's working directory"
    assert re.search(said, done.stdout), done.stdout
    assert jobs.ended("mistake") == ("FAILED", 2)


def test_a_run_that_cannot_go_on_is_exit_code_1(jobs: Jobs, recipe: Path, tmp_path: Path) -> None:
    jobs.submit(
        "failed",
        "run",
        "recipe.yaml",
        "--out",
        str(tmp_path / "run"),
        "--set",
        "limits.task_memory=1TB",
        wait=False,
    )
    assert jobs.ended("failed") == ("FAILED", 1)
    said = jobs.ray("logs", "failed").stdout
    assert "limits.task_memory" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("given", [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "wrong" * 8}],
                         ids=["none", "another"])  # fmt: skip
def test_without_the_clusters_token_nobody_gets_in(
    jobs: Jobs, recipe: Path, tmp_path: Path, given: dict[str, str]
) -> None:
    environment = jobs.environment | given
    done = jobs.ray("submit", "--", "winnow", "run", "recipe.yaml", environment=environment)
    assert done.returncode == 1
    assert "authentication token" in done.stderr

    command = small_run.command(recipe, tmp_path / "run", "--address", jobs.address)
    driver = subprocess.run(
        command, env=environment, cwd=recipe.parent, capture_output=True, text=True, timeout=LIMIT
    )
    assert driver.returncode == 1
    last = driver.stderr.splitlines()[-1]
    assert all(word in last for word in (jobs.address, "token", "RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN")), (
        driver.stderr
    )
    assert "Traceback" not in driver.stderr
    assert environment["RAY_AUTH_TOKEN"] not in driver.stderr


def frozen(jobs: Jobs) -> int:
    """A worker in the middle of a task, that stays there: the run cannot end by itself."""
    found: list[int] = []

    def stopped() -> bool:
        for pid in jobs.worker.workers():
            os.kill(pid, signal.SIGSTOP)
            if pid in jobs.worker.workers():
                found.append(pid)
                return True
            os.kill(pid, signal.SIGCONT)
        return False

    wait("a task", stopped)
    return found[0]


def driver_of(out: Path) -> int:
    return json.loads((out / "lease.json").read_bytes())["pid"]


def test_stopped_killed_and_continued(jobs: Jobs, recipe: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(recipe.parent)
    run(load("recipe.yaml"), str(tmp_path / "inline"), inline=True, progress=Progress(stream=None))
    out = tmp_path / "run"
    command = ("run", "recipe.yaml", "--out", str(out))

    def begun(name: str, records: int) -> None:
        # Not by the command, which takes its time to say that the job runs: the run would be over.
        jobs.client.submit_job(
            entrypoint=shlex.join(["winnow", *command]), submission_id=name,
            runtime_env={"working_dir": str(jobs.folder)},
        )  # fmt: skip
        wait(
            f"{name} to record something",
            lambda: len(small_run.records(out)) >= records or jobs.client.get_job_status(name).is_terminal(),
        )
        assert not jobs.client.get_job_status(name).is_terminal(), jobs.client.get_job_logs(name)[-3000:]

    begun("stopped", 5)
    worker = frozen(jobs)
    assert jobs.ray("stop", "stopped", "--no-wait").returncode == 0
    assert jobs.ended("stopped") == ("STOPPED", None)
    assert not (out / "lease.json").exists()
    assert not (out / "manifest.json").exists()
    assert "interrupted; the same command continues" in jobs.ray("logs", "stopped").stdout
    wait("its tasks to end", lambda: worker not in jobs.worker.pids())
    stopped = small_run.records(out)

    begun("killed", len(stopped) + 5)
    frozen(jobs)
    os.kill(driver_of(out), signal.SIGKILL)
    status, code = jobs.ended("killed")
    assert status == "FAILED"
    assert code in (-signal.SIGKILL, 128 + signal.SIGKILL), "as the shell of the entry point says it"
    killed = small_run.records(out)
    assert {path: killed[path] for path in stopped} == stopped, "a recorded task was redone"

    done = jobs.submit("whole", *command)
    assert done.returncode == 0, done.stdout[-3000:]
    assert jobs.ended("whole") == ("SUCCEEDED", 0)
    assert "documents.python: " in done.stdout, "logs are followed"
    now = small_run.records(out)
    assert {path: now[path] for path in killed} == killed, "a recorded task was redone"
    assert small_run.published(out) == small_run.published(tmp_path / "inline")
