"""`ray job submit` against a running head: logs, status, exit code, shards; and the cluster file loads."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from winnow.pipelines import open_run
from winnow.pipelines.verifying import verify

pytestmark = pytest.mark.alone
ROOT = Path(__file__).resolve().parents[1]
RAY = Path(sys.executable).with_name("ray")


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory):
    """A head of our own with token authentication; yields (environment, dashboard address)."""
    # Sockets lie below it, and their paths must be short.
    temporary = Path("/tmp") / f"wj{os.getpid()}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    port, dashboard = free_port(), free_port()
    log = tmp_path_factory.mktemp("head") / "head.log"
    output = log.open("w")
    process = subprocess.Popen(
        [RAY, "start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}",
         "--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1", "--num-cpus=2", f"--temp-dir={temporary}"],
        env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{dashboard}"
    try:
        deadline = time.monotonic() + 90
        while not answers(f"{address}/api/version", environment["RAY_AUTH_TOKEN"]):
            assert process.poll() is None, f"ray start ended: {log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"no dashboard: {log.read_text()[-2000:]}"
            time.sleep(0.5)
        yield environment, address
    finally:
        # Not `ray stop`, which ends every Ray on the machine.
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        output.close()


def answers(url: str, token: str) -> bool:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=2) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


def submit(
    head, directory: Path, name: str, out: Path
) -> tuple[subprocess.CompletedProcess, int | None, str]:
    """Submit a recipe as a user does; (finished command, exit code of the driver, status of the job)."""
    environment, address = head
    job = f"winnow-{name}-{secrets.token_hex(4)}"
    entry = [sys.executable, "-m", "winnow.pipelines.command", "run", f"{name}.yaml", "--out", str(out)]
    done = subprocess.run(
        [RAY, "job", "submit", "--address", address, "--submission-id", job, "--working-dir", str(directory), "--",
         *entry],
        env=environment, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    asked = subprocess.run(
        [sys.executable, "-c",
         "import sys; from ray.job_submission import JobSubmissionClient as C\n"
         "i = C(sys.argv[1]).get_job_info(sys.argv[2]); print(i.driver_exit_code, i.status.value)", address, job],
        env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    code, status = asked.stdout.split()[-2:]
    return done, None if code == "None" else int(code), status


@pytest.mark.slow
def test_a_submitted_recipe_makes_shards(head, tmp_path: Path) -> None:
    rows = [{"text": f"document {i}: " + "some words of text. " * 40} for i in range(200)]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    (jobs / "good.yaml").write_text(
        "name: job\ntokenizer: {name: mistral-7b-v0.1}\nsequence: {length: 128}\nsources:\n"
        f"  s: {{read: {{format: jsonl, path: '{tmp_path}/in/*.jsonl'}}}}\n"
    )
    (jobs / "bad.yaml").write_text("name: job\ntokeniser: {name: mistral-7b-v0.1}\n")
    out = tmp_path / "run"

    done, code, status = submit(head, jobs, "good", out)
    assert (done.returncode, code, status) == (0, 0, "SUCCEEDED"), done.stdout + done.stderr
    assert "tokens.s: 1 of 1 tasks" in done.stdout, "progress is in the job's log"
    assert "Mixture of job" in done.stdout
    opened = open_run(str(out))
    assert list(verify(opened)) == []
    assert opened.mixture["sources"][0]["kept_documents"] == 200

    done, code, status = submit(head, jobs, "bad", out)
    assert done.returncode != 0
    assert (code, status) == (2, "FAILED")
    assert "bad.yaml:2:1: unknown key 'tokeniser'; did you mean 'tokenizer'?" in done.stdout


def test_the_cluster_file_loads() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
    prepared = prepare_config(config)
    validate_config(prepared)
    types = prepared["available_node_types"]
    assert prepared["head_node_type"] in types
    assert {"cpu_worker", "gpu_worker"} <= types.keys()
