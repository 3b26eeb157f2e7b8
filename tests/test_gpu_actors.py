"""Tasks that ask for GPUs: actors that stay, die and end. The GPU is one that Ray only counts; no device is touched."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from winnow.pipelines import capacity, retries
from winnow.pipelines import cluster as cluster_module
from winnow.pipelines.actors import ClusterError
from winnow.pipelines.capacity import UNBOUNDED, NodeType, capacity_of, node_types, nodes_to_come
from winnow.pipelines.cluster import Cluster, Inline
from winnow.pipelines.connecting import connect
from winnow.pipelines.engine import Engine, Request
from winnow.pipelines.jobs import Job, Retried, Task, TaskError
from winnow.pipelines.progress import Progress
from winnow.pipelines.records import Outputs, Stage

WAIT = 60
GIB = 1 << 30


def appears(path: str) -> None:
    """Wait for a file; other tasks put it there."""
    end = time.monotonic() + WAIT
    while not os.path.exists(path):
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.02)


def square(spec: tuple[int, str | None], outputs: Outputs) -> dict[str, Any]:
    number, awaited = spec
    if awaited:
        appears(awaited)
    outputs.put(f"{number}.txt", str(number**2).encode())
    return {"square": number**2}


def on_device(spec: tuple[str, int, str], outputs: Outputs) -> dict[str, Any]:
    """Reads what an earlier task left, with a model that is loaded once for a process."""
    place, number, mark = spec
    if not hasattr(sys, "model_of_a_test"):
        time.sleep(0.1)
        sys.model_of_a_test = []  # type: ignore[attr-defined]
    sys.model_of_a_test.append(number)  # type: ignore[attr-defined]
    with open(f"{place}/{number}.txt") as file:
        value = int(file.read()) + 1
    outputs.put(f"{number}.txt", str(value).encode())
    with open(f"{mark}.{os.getpid()}.{number}", "w") as file:
        file.write(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    return {"value": value}


def together(spec: tuple[str, int], outputs: Outputs) -> dict[str, Any]:
    """Ends when another process has begun such a task."""
    folder, number = spec
    with open(f"{folder}/{os.getpid()}.{number}", "w") as file:
        file.write(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    end = time.monotonic() + WAIT
    while len({name.split(".")[0] for name in os.listdir(folder)}) < 2:
        assert time.monotonic() < end
        time.sleep(0.02)
    return {}


def fails_once(spec: tuple[str, int], outputs: Outputs) -> dict[str, Any]:
    """0 kills its actor, 1 has a full disk, both once."""
    folder, number = spec
    if number < 2 and not os.path.exists(f"{folder}/{number}"):
        with open(f"{folder}/{number}", "w"):
            pass
        if number == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError("no space left")
    outputs.put(f"{number}.txt", b"x" * number)
    return {"number": number}


def pools(spec: None, outputs: Outputs) -> dict[str, Any]:
    """How many threads each library's pool has in a worker."""
    import numba
    import numpy as np
    import pyarrow as pa
    from tokenizers import Tokenizer, models, pre_tokenizers

    threadpoolctl = pytest.importorskip("threadpoolctl")
    np.ones((64, 64)) @ np.ones((64, 64))
    found = {"arrow": pa.cpu_count(), "arrow's input": pa.io_thread_count(), "numba": numba.get_num_threads()}
    found |= {pool["filepath"]: pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "?": 1}, "?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    before = len(os.listdir("/proc/self/task"))
    tokenizer.encode_batch(["a b c " * 1000] * 64)
    found["tokenizers"] = 1 + len(os.listdir("/proc/self/task")) - before
    return found


def refuses(spec: None, outputs: Outputs) -> dict[str, Any]:
    raise ValueError("a vector of another length")


def with_a_gpu(ray: Any, address: str | None, workers: int | None) -> None:
    """Start a Ray on a machine that says it has a GPU."""
    connect(SimpleNamespace(init=partial(ray.init, num_gpus=1), _private=ray._private), address, workers)


def nothing() -> None:
    """A rehearsal without kernels."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    from ray import cloudpickle

    # Workers cannot import a test's module.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster_module, "connect", with_a_gpu)
        made = Cluster(str(tmp_path_factory.mktemp("run")), None, 2, GIB, nothing)
    yield made
    made.close()
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def stages(run: str, executor: Any, tmp_path: Any, gpus: float) -> list[dict[str, Any]]:
    """Squares by plain tasks, and one more by those that come after; the last square waits for the first of these."""
    engine = Engine(run, executor, Progress(stream=None))
    mark = str(tmp_path / "mark")
    first, second = Stage("squares", 1, {}), Stage("vectors", 1, {})
    place = first.location(run)
    awaited = f"{second.location(run)}/0.txt" if gpus else None
    plain = [Task(i, square, (i, awaited if i == 5 else None)) for i in range(6)]
    after = [
        Task(i, on_device, (place, i, mark), gpus=gpus, after=("squares", i)) for i in reversed(range(6))
    ]
    _, done = engine.perform_all([Request(second, after), Request(first, plain)][::-1])
    return [r.counts for r in done.records]


def test_a_task_follows_the_one_it_comes_after_on_an_actor_that_stays(cluster, tmp_path):
    found = stages(str(tmp_path / "run"), cluster, tmp_path, 1)
    assert found == stages(str(tmp_path / "inline"), Inline(), tmp_path / "run", 0)
    marks = list(tmp_path.glob("mark.*"))
    assert len(marks) == 6
    assert len({m.name.split(".")[1] for m in marks}) == 1, "one actor, that loaded its model once"
    assert {m.read_text() for m in marks} == {"0"}
    assert stages(str(tmp_path / "run"), cluster, tmp_path, 1) == found, "all recorded, nothing to come after"


def test_gpus_that_torch_cannot_use_do_not_count_on_a_ray_of_our_own(cluster, monkeypatch):
    for usable in (0, 1):
        monkeypatch.setattr(cluster_module, "usable_gpus", lambda n=usable: n)
        found = cluster.capacity()
        assert (found.cpus, found.gpus, found.most_gpus) == (2, usable, usable)


def test_an_autoscalers_configuration_is_read_as_this_ray_stores_it(cluster):
    from ray._raylet import GCS_AUTOSCALER_CLUSTER_CONFIG_KEY, GCS_AUTOSCALER_STATE_NAMESPACE
    from ray.core.generated import autoscaler_pb2
    from ray.experimental import internal_kv

    assert node_types() == []
    config = autoscaler_pb2.ClusterConfig()
    for resources, most in (({"CPU": 8, "GPU": 1}, 4), ({"CPU": 2}, -1), ({"CPU": 3}, 0)):
        group = config.node_group_configs.add()
        group.max_count = most
        group.resources.update(resources)
    place = {"namespace": GCS_AUTOSCALER_STATE_NAMESPACE}
    internal_kv._internal_kv_put(
        GCS_AUTOSCALER_CLUSTER_CONFIG_KEY, config.SerializeToString(), overwrite=True, **place
    )
    try:
        assert node_types() == [NodeType({"CPU": 8, "GPU": 1}, 4), NodeType({"CPU": 2}, UNBOUNDED)]
        assert capacity_of(cluster.ray).most_gpus == 4
    finally:
        internal_kv._internal_kv_del(GCS_AUTOSCALER_CLUSTER_CONFIG_KEY, **place)


def test_an_autoscalers_status_tells_of_nodes_that_are_on_their_way(cluster):
    from ray.experimental import internal_kv

    assert not nodes_to_come()
    try:
        for report, found in (
            ({"pending_launches": {"cpu_worker": 1}, "pending_nodes": []}, True),
            ({"pending_launches": {}, "pending_nodes": [["10.0.0.3", "cpu_worker", "setting-up"]]}, True),
            ({"pending_launches": {}, "pending_nodes": [], "active_nodes": {"head": 1}}, False),
        ):
            status = json.dumps({"autoscaler_report": report}).encode()
            internal_kv._internal_kv_put("__autoscaling_status", status, overwrite=True)
            assert nodes_to_come() is found
    finally:
        internal_kv._internal_kv_del("__autoscaling_status")


def test_half_a_gpu_makes_two_actors_of_it(cluster, tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    engine = Engine(str(tmp_path), cluster, Progress(stream=None))
    # The actor that is up first may take two of them.
    engine.perform(Stage("halves", 1, {}), [Task(i, together, (str(marks), i), gpus=0.5) for i in range(3)])
    assert len({m.name.split(".")[0] for m in marks.iterdir()}) == 2
    assert {m.read_text() for m in marks.iterdir()} == {"0"}


def test_an_actor_that_is_killed_and_a_full_disk_are_tried_again(cluster, tmp_path):
    folder = tmp_path / "begun"
    folder.mkdir()
    engine = Engine(str(tmp_path), cluster, Progress(stream=None))
    tasks = [Task(i, fails_once, (str(folder), i), gpus=1) for i in range(4)]
    done = engine.perform(Stage("killed", 1, {}), tasks)
    assert [r.counts for r in done.records] == [{"number": i} for i in range(4)]
    assert sorted(p.name for p in folder.iterdir()) == ["0", "1"]


def test_plain_tasks_are_tried_again_by_the_driver_who_says_so(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(retries, "PAUSES", (0.0,) * retries.RETRIES)
    folder = tmp_path / "begun"
    folder.mkdir()
    jobs = [Job(0, str(tmp_path), Task(i, fails_once, (str(folder), i))) for i in range(3)]
    answers = [answer for answer in cluster.map(jobs) if answer is not None]
    retried = {a.job.task.index: a for a in answers if isinstance(a, Retried)}
    # The worker beside the one that is killed goes on; the message is Ray's.
    assert {i: a.reason for i, a in retried.items()} == {0: retries.DIED, 1: retries.FILES}
    assert "died unexpectedly" in retried[0].message
    assert retried[1].message == "no space left"
    assert sorted(a[1].index for a in answers if not isinstance(a, Retried)) == [0, 1, 2]


def test_every_pool_of_a_worker_has_one_thread(cluster, tmp_path):
    (answer,) = [a for a in cluster.map([Job(0, str(tmp_path), Task(0, pools, None))]) if a is not None]
    assert set(answer[1].counts.values()) == {1}


def test_an_error_of_the_data_is_not_tried_again_and_leaves_no_actor(cluster, tmp_path):
    jobs = [Job(0, str(tmp_path), Task(0, refuses, None, gpus=1))]
    with pytest.raises(TaskError, match="task 0: a vector of another length") as caught:
        list(cluster.map(jobs))
    assert type(caught.value.cause) is ValueError
    end = time.monotonic() + WAIT
    while cluster.ray.available_resources().get("GPU") != 1 and time.monotonic() < end:
        time.sleep(0.05)
    assert cluster.ray.available_resources()["GPU"] == 1


def test_what_no_node_can_have_is_an_error(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(capacity, "PATIENCE_SECONDS", 0.0)
    jobs = [Job(0, str(tmp_path), Task(0, refuses, None, gpus=3))]
    with pytest.raises(
        ClusterError, match=r"ask for an actor with 3 GPU and .*; the largest node has 1 GPU and"
    ):
        list(cluster.map(jobs))
