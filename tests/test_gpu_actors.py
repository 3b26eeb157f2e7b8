"""Tasks that ask for GPUs: actors that stay, die and end. The GPU is one that Ray only counts; no device is touched."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import deque
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from winnow.pipelines import actors
from winnow.pipelines import cluster as cluster_module
from winnow.pipelines.actors import Actors, ClusterError, Kind, kinds
from winnow.pipelines.capacity import UNBOUNDED, NodeType, capacity_of, node_types
from winnow.pipelines.cluster import Cluster, Inline
from winnow.pipelines.engine import Engine, Request
from winnow.pipelines.jobs import Job, Task, TaskError
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


def refuses(spec: None, outputs: Outputs) -> dict[str, Any]:
    raise ValueError("a vector of another length")


class WithGpus(Cluster):
    """A Ray of our own, on a machine that says it has a GPU."""

    def _start(self, address: str | None, workers: int | None) -> None:
        real = self.ray
        self.ray = SimpleNamespace(init=partial(real.init, num_gpus=1))
        try:
            super()._start(address, workers)
        finally:
            self.ray = real


def nothing() -> None:
    """A rehearsal without kernels."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    from ray import cloudpickle

    # Workers cannot import a test's module.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    made = WithGpus(str(tmp_path_factory.mktemp("run")), None, 2, GIB, nothing)
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
    monkeypatch.setattr(actors, "PATIENCE_SECONDS", 0.0)
    jobs = [Job(0, str(tmp_path), Task(0, refuses, None, gpus=3))]
    with pytest.raises(ClusterError, match="ask for an actor with 3 GPU; no node has that"):
        list(cluster.map(jobs))


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause):
        super().__init__(str(cause))
        self.cause = cause


class RayActorError(RayError):
    pass


class OtherError(RayError):
    pass


class Handle:
    def __init__(self, ray: FakeRay, asks: dict[str, Any]):
        self.asks, self.ended, self.calls = asks, False, []
        self.ready = SimpleNamespace(remote=lambda: ("up", self))
        self.perform = SimpleNamespace(remote=self._perform)
        ray.handles.append(self)

    def _perform(self, location, index, function, spec):
        self.calls.append(index)
        return ("record", self, index, len(self.calls))


class FakeRay:
    """What Ray answers, said by the test."""

    exceptions = SimpleNamespace(
        RayError=RayError,
        RayTaskError=RayTaskError,
        RayActorError=RayActorError,
        WorkerCrashedError=OtherError,
        OutOfMemoryError=OtherError,
        NodeDiedError=OtherError,
    )

    def __init__(self, *nodes: dict[str, float]):
        self.handles: list[Handle] = []
        self.answers: dict[Any, Any] = {}
        self.here = [{"Alive": True, "Resources": n} for n in nodes]

    def nodes(self):
        return self.here

    def remote(self, worker):
        return SimpleNamespace(options=lambda **asks: SimpleNamespace(remote=lambda: Handle(self, asks)))

    def get(self, promise):
        answer = self.answers.get(promise, "record")
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, handle):
        handle.ended = True

    @property
    def alive(self):
        return [h for h in self.handles if not h.ended]


def job(index: int, gpus: float = 1, memory: int = 0) -> Job:
    return Job(0, "", Task(index, refuses, None, memory, gpus))


def crew(ray: FakeRay, jobs: list[Job], grows: bool = False, asks: bool = False) -> Actors:
    made = Actors(ray, kinds(jobs, GIB, asks), {"memory": GIB, "runtime_env": {}} if asks else {}, grows)
    made.advance(deque(jobs))
    return made


def settle_starts(made: Actors, ready: list[Job] | None = None) -> None:
    for promise in made.promises():
        if promise[0] == "up":
            assert made.settle(promise) is None
    made.advance(deque(ready or []))


def test_a_task_that_kills_its_actor_is_tried_alone_and_the_one_beside_it_is_not_blamed():
    ray = FakeRay({"GPU": 1})
    made = crew(ray, [job(0), job(1)])
    settle_starts(made)
    for attempt in range(actors.RETRIES + 1):
        (handle,) = ray.alive
        promises = made.promises()
        assert len(promises) == (2 if attempt == 0 else 1), "suspects run alone"
        ray.answers |= dict.fromkeys(promises, RayActorError("it died\nhow"))
        if attempt == 0:
            assert [made.settle(p) for p in promises] == [None, None]
            made.advance(deque())
            settle_starts(made)
            # The innocent comes back first, with an actor for itself.
            (promise,) = made.promises()
            done = made.settle(promise)
            assert done is not None
            assert done[0].task.index == 1
            made.advance(deque())
        elif attempt < actors.RETRIES:
            assert made.settle(promises[0]) is None
            made.advance(deque())
            settle_starts(made)
        else:
            with pytest.raises(TaskError, match=r"task 0: its worker died 4 times \(it died\)"):
                made.settle(promises[0])
        assert handle.ended or attempt in (0, actors.RETRIES)


def test_a_disk_that_stays_full_is_an_error_after_as_many_attempts():
    ray = FakeRay({"GPU": 1})
    made = crew(ray, [job(0)])
    settle_starts(made)
    for _ in range(actors.RETRIES):
        (promise,) = made.promises()
        ray.answers[promise] = RayTaskError(OSError("full"))
        assert made.settle(promise) is None
        made.advance(deque())
    (promise,) = made.promises()
    ray.answers[promise] = RayTaskError(OSError("full"))
    with pytest.raises(TaskError, match="full"):
        made.settle(promise)
    assert len(ray.handles) == 1, "the actor is not to blame"


def test_what_failed_once_waits_until_an_actor_has_nothing_else():
    ray = FakeRay({"GPU": 1})
    made = crew(ray, [job(0), job(1)])
    settle_starts(made)
    failed, running = made.promises()
    ray.answers[failed] = RayTaskError(OSError("full"))
    made.settle(failed)
    made.advance(deque([job(2)]))
    assert made.promises() == [running]
    made.settle(running)
    made.advance(deque())
    (again,) = made.promises()
    assert again[2] == 0
    made.settle(again)
    made.advance(deque())
    assert [promise[2] for promise in made.promises()] == [2]


def test_as_many_actors_as_there_is_room_and_work_for():
    ray = FakeRay({"GPU": 4}, {"CPU": 8}, {"GPU": 2})
    assert len(crew(ray, [job(i) for i in range(20)]).promises()) == 6
    assert len(crew(FakeRay({"GPU": 4}), [job(i) for i in range(3)]).promises()) == 3
    assert len(crew(FakeRay({"GPU": 3}), [job(i, 0.4) for i in range(20)]).promises()) == 6
    asked = FakeRay({"GPU": 4, "memory": 5 * GIB})
    crew(asked, [job(i) for i in range(20)], asks=True)
    assert [h.asks["memory"] for h in asked.handles] == [2 * GIB, 2 * GIB]
    assert all("runtime_env" in h.asks and h.asks["max_restarts"] == 0 for h in asked.handles)


def test_a_cluster_that_grows_has_one_asked_for_beyond(monkeypatch):
    types = [SimpleNamespace(resources={"CPU": 8, "GPU": 1}, most=4)]
    monkeypatch.setattr(actors, "node_types", lambda: types)
    ray = FakeRay({"CPU": 2})
    made = crew(ray, [job(i) for i in range(20)], grows=True)
    assert len(ray.handles) == 1, "none is there, one is asked for"
    settle_starts(made)
    ray.here = [{"Alive": True, "Resources": {"GPU": 1}}] * 2
    monkeypatch.setattr(actors, "WIDTH_SECONDS", -1.0)
    made.advance(deque())
    assert len(ray.handles) == 3
    assert len(made.promises()) == 4, "two tasks on the first, two to come up"
    too_small = FakeRay({"CPU": 2})
    monkeypatch.setattr(actors, "PATIENCE_SECONDS", -1.0)
    with pytest.raises(ClusterError, match="3 GPU"):
        crew(too_small, [job(0, gpus=3)], grows=True)


def test_patience_with_a_cluster_that_lost_its_gpus(monkeypatch):
    made = crew(FakeRay({"CPU": 2}), [job(0)])
    assert made.busy
    assert not made.promises()
    monkeypatch.setattr(actors, "PATIENCE_SECONDS", -1.0)
    with pytest.raises(ClusterError, match="1 GPU; no node has that"):
        made.advance(deque())


def test_an_actor_without_work_ends_when_others_wait_or_time_has_passed(monkeypatch):
    ray = FakeRay({"GPU": 1})
    made = Actors(ray, kinds([job(0), job(1, 0.5)], GIB, False), {}, False)
    made.advance(deque([job(0)]))
    settle_starts(made)
    (promise,) = made.promises()
    made.settle(promise)
    made.advance(deque())
    assert len(ray.alive) == 1, "it stays for more"
    made.advance(deque([job(1, 0.5)]))
    assert [h.asks["num_gpus"] for h in ray.alive] == [0.5]
    settle_starts(made)
    (promise,) = made.promises()
    made.settle(promise)
    monkeypatch.setattr(actors, "IDLE_SECONDS", -1.0)
    made.advance(deque())
    assert not ray.alive
    assert not made.busy


def test_actors_that_do_not_come_up_end_the_run():
    ray = FakeRay({"GPU": 1})
    made = crew(ray, [job(0)])
    for _ in range(actors.RETRIES):
        (promise,) = made.promises()
        ray.answers[promise] = RayActorError("no such module\nhow")
        assert made.settle(promise) is None
        made.advance(deque())
    (promise,) = made.promises()
    ray.answers[promise] = RayActorError("no such module\nhow")
    with pytest.raises(ClusterError, match="did not start 4 times: no such module"):
        made.settle(promise)


def test_a_task_with_much_memory_has_its_actor_for_itself():
    assert kinds([job(0), job(1, 0.5, 3 * GIB), job(2, 0)], GIB, True) == {
        0.5: Kind(0.5, 3 * GIB, 1),
        1: Kind(1, 2 * GIB, 2),
    }
    assert kinds([job(0)], GIB, False) == {1: Kind(1, 0, 2)}


def test_a_task_that_finds_its_device_broken_ends_the_actor(tmp_path, monkeypatch):
    ended: list[int] = []
    monkeypatch.setattr(actors.os, "_exit", ended.append)

    class AcceleratorError(RuntimeError):
        """As torch's is named."""

    def broken(kind: type[Exception], outputs: Outputs) -> dict[str, Any]:
        raise kind("an illegal memory access was encountered")

    worker = actors.Worker()
    with pytest.raises(AcceleratorError):
        worker.perform(str(tmp_path), 0, broken, AcceleratorError)
    assert ended == [1]
    with pytest.raises(ValueError, match="illegal"):
        worker.perform(str(tmp_path), 0, broken, ValueError)
    assert ended == [1]


def test_actors_are_asked_for_before_their_first_task_is_ready():
    ray = FakeRay({"GPU": 4})
    jobs = [job(i) for i in range(3)]
    made = Actors(ray, kinds(jobs, GIB, False), {}, False)
    made.begin([*jobs, Job(0, "", Task(9, refuses, None))])
    assert len(ray.handles) == 3
    assert not made.busy
    settle_starts(made, jobs)
    assert len(ray.handles) == 3
    assert [h.calls for h in ray.handles] == [[0], [1], [2]]


def test_idle_actors_that_died_with_their_node_cost_no_attempt():
    ray = FakeRay({"GPU": 6})
    jobs = [job(i) for i in range(6)]
    made = crew(ray, jobs)
    settle_starts(made)
    *idle, busy = ray.handles
    for promise in made.promises():
        if promise[1] is not busy:
            made.settle(promise)
    made.advance(deque())
    for handle in idle:
        ray.answers["up", handle] = RayActorError("the node died")
    (promise,) = made.promises()
    ray.answers[promise] = RayActorError("the node died")
    assert made.settle(promise) is None
    settle_starts(made)
    assert all(handle.ended for handle in ray.handles[:6])
    settle_starts(made)
    (again,) = [p for p in made.promises() if p[0] == "record"]
    assert made.settle(again)[0] == jobs[busy.calls[0]]
