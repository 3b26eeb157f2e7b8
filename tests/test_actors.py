"""How many actors are there, who gets which task, and what becomes of those that die? Ray is replaced by what it would
answer; tests/test_gpu_actors.py has a real one."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from winnow.pipelines import actors, capacity, retries, worker
from winnow.pipelines.actors import Actors, ClusterError, Kind, kinds
from winnow.pipelines.agreement import Disagreement, Pact
from winnow.pipelines.capacity import Patience
from winnow.pipelines.jobs import Job, Retried, Task, TaskError
from winnow.pipelines.records import Outputs

GIB = 1 << 30


def refuses(spec: None, outputs: Outputs) -> dict[str, Any]:
    raise ValueError("a vector of another length")


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
        ActorUnschedulableError=OtherError,
        ObjectLostError=OtherError,
        RuntimeEnvSetupError=OtherError,
    )

    def __init__(self, *nodes: dict[str, float]):
        self.handles: list[Handle] = []
        self.said: list[str] = []
        self.answers: dict[Any, Any] = {}
        self.here = [
            {"NodeID": str(i), "Alive": True, "Resources": {"memory": 99.0 * GIB, **n}}
            for i, n in enumerate(nodes)
        ]

    def nodes(self):
        return self.here

    def remote(self, worker):
        return SimpleNamespace(options=lambda **asks: SimpleNamespace(remote=lambda pact: Handle(self, asks)))

    def get(self, promise):
        answer = self.answers.get(promise, "record" if promise[0] == "record" else "0")
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


def actors_of(ray: FakeRay, jobs: list[Job], grows: bool = False) -> Actors:
    options = {"memory": GIB, "runtime_env": {}}
    attempts, patience = retries.Attempts(ray.exceptions), Patience(ray.said.append)
    return Actors(ray, kinds(jobs, GIB), options, attempts, Pact("", ""), patience, grows)


def crew(ray: FakeRay, jobs: list[Job], grows: bool = False) -> Actors:
    made = actors_of(ray, jobs, grows)
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
    for attempt in range(retries.RETRIES + 1):
        (handle,) = ray.alive
        promises = made.promises()
        assert len(promises) == (2 if attempt == 0 else 1), "suspects run alone"
        ray.answers |= dict.fromkeys(promises, RayActorError("it died\nhow"))
        if attempt == 0:
            assert [type(made.settle(p)) for p in promises] == [Retried, Retried]
            made.advance(deque())
            settle_starts(made)
            # The innocent comes back first, with an actor for itself.
            (promise,) = made.promises()
            done = made.settle(promise)
            assert done is not None
            assert done[0].task.index == 1
            made.advance(deque())
        elif attempt < retries.RETRIES:
            assert made.settle(promises[0]).reason == retries.DIED
            made.advance(deque())
            settle_starts(made)
        else:
            with pytest.raises(
                TaskError, match=r"task 0: its worker died 4 times \(it died\); where the system"
            ):
                made.settle(promises[0])
        assert handle.ended or attempt in (0, retries.RETRIES)


def test_a_disk_that_stays_full_is_an_error_after_as_many_attempts(monkeypatch):
    monkeypatch.setattr(retries, "PAUSES", (0.0,) * retries.RETRIES)
    ray = FakeRay({"GPU": 1})
    made = crew(ray, [job(0)])
    settle_starts(made)
    for _ in range(retries.RETRIES):
        (promise,) = made.promises()
        ray.answers[promise] = RayTaskError(OSError("full"))
        assert made.settle(promise).reason == retries.FILES
        made.advance(deque())
    (promise,) = made.promises()
    ray.answers[promise] = RayTaskError(OSError("full"))
    with pytest.raises(TaskError, match="full"):
        made.settle(promise)
    assert len(ray.handles) == 1, "the actor is not to blame"


def test_what_failed_once_waits_until_an_actor_has_nothing_else(monkeypatch):
    monkeypatch.setattr(retries, "PAUSES", (0.0,) * retries.RETRIES)
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
    made = crew(ray, [job(i) for i in range(20)])
    assert len(made.promises()) == 6
    assert all("runtime_env" in h.asks and h.asks["max_restarts"] == 0 for h in ray.handles)
    assert len(crew(FakeRay({"GPU": 4}), [job(i) for i in range(3)]).promises()) == 3
    assert len(crew(FakeRay({"GPU": 3}), [job(i, 0.4) for i in range(20)]).promises()) == 6
    asked = FakeRay({"GPU": 4, "memory": 5 * GIB})
    crew(asked, [job(i) for i in range(20)])
    assert [h.asks["memory"] for h in asked.handles] == [2 * GIB, 2 * GIB]


def test_a_cluster_that_grows_has_one_asked_for_beyond(monkeypatch):
    types = [SimpleNamespace(resources={"CPU": 8, "GPU": 1}, most=4)]
    monkeypatch.setattr(actors, "node_types", lambda: types)
    ray = FakeRay({"CPU": 2})
    made = crew(ray, [job(i) for i in range(20)], grows=True)
    assert len(ray.handles) == 1, "none is there, one is asked for"
    settle_starts(made)
    ray.here = [{"NodeID": "0", "Alive": True, "Resources": {"GPU": 1, "memory": 9.0 * GIB}}] * 2
    monkeypatch.setattr(actors, "WIDTH_SECONDS", -1.0)
    made.advance(deque())
    assert len(ray.handles) == 3
    assert len(made.promises()) == 4, "two tasks on the first, two to come up"
    too_small = FakeRay({"CPU": 2})
    monkeypatch.setattr(capacity, "PATIENCE_SECONDS", -1.0)
    with pytest.raises(ClusterError, match="3 GPU"):
        crew(too_small, [job(0, gpus=3)], grows=True)


def test_patience_with_a_cluster_that_lost_its_gpus(monkeypatch):
    made = crew(FakeRay({"CPU": 2}), [job(0)])
    assert made.busy
    assert not made.promises()
    monkeypatch.setattr(capacity, "PATIENCE_SECONDS", -1.0)
    with pytest.raises(
        ClusterError, match=r"1 GPU and .*; no node has a GPU, and the cluster can start none that has more"
    ):
        made.advance(deque())


def test_an_actor_without_work_ends_when_others_wait_or_time_has_passed(monkeypatch):
    ray = FakeRay({"GPU": 1})
    made = actors_of(ray, [job(0), job(1, 0.5)])
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
    for _ in range(retries.RETRIES):
        (promise,) = made.promises()
        ray.answers[promise] = RayActorError("no such module\nhow")
        assert made.settle(promise) is None
        made.advance(deque())
    (promise,) = made.promises()
    ray.answers[promise] = RayActorError("no such module\nhow")
    with pytest.raises(ClusterError, match="did not start 4 times: no such module"):
        made.settle(promise)


def test_an_actor_that_is_not_like_the_driver_ends_the_run():
    ray = FakeRay({"GPU": 1})
    made = crew(ray, [job(0)])
    (promise,) = made.promises()
    ray.answers[promise] = RayTaskError(Disagreement("node 10.0.0.3 is not like the driver: torch"))
    with pytest.raises(ClusterError, match=r"^node 10\.0\.0\.3 is not like the driver: torch$"):
        made.settle(promise)


def test_a_cluster_that_is_to_grow_and_does_not_says_so(monkeypatch):
    types = [SimpleNamespace(resources={"CPU": 8, "GPU": 1}, most=4)]
    monkeypatch.setattr(actors, "node_types", lambda: types)
    monkeypatch.setattr(capacity, "SAY_SECONDS", -1.0)
    ray = FakeRay({"CPU": 2})
    crew(ray, [job(0)], grows=True)
    (said,) = ray.said
    assert said.startswith("tasks ask for an actor with 1 GPU")
    assert "no node has a GPU: waiting for a larger one to start" in said


def test_an_autoscaler_of_which_nothing_is_known_has_one_asked_for(monkeypatch):
    monkeypatch.setattr(actors, "nodes_to_come", lambda: True)
    monkeypatch.setattr(capacity, "PATIENCE_SECONDS", -1.0)
    ray = FakeRay({"CPU": 2})
    made = crew(ray, [job(i) for i in range(9)], grows=True)
    assert len(ray.handles) == 1
    monkeypatch.setattr(actors, "nodes_to_come", lambda: False)
    with pytest.raises(ClusterError, match="can start none that has more"):
        made.advance(deque())


def test_a_task_with_much_memory_has_its_actor_for_itself():
    assert kinds([job(0), job(1, 0.5, 3 * GIB), job(2, 0)], GIB) == {
        0.5: Kind(0.5, 3 * GIB, 1),
        1: Kind(1, 2 * GIB, 2),
    }


def test_a_task_that_finds_its_device_broken_ends_the_actor(tmp_path, monkeypatch):
    ended: list[int] = []
    monkeypatch.setattr(worker.os, "_exit", ended.append)

    class AcceleratorError(RuntimeError):
        """As torch's is named."""

    def broken(kind: type[Exception], outputs: Outputs) -> dict[str, Any]:
        raise kind("an illegal memory access was encountered")

    made = worker.Worker(Pact("", ""))
    with pytest.raises(AcceleratorError):
        made.perform(str(tmp_path), 0, broken, AcceleratorError)
    assert ended == [1]
    with pytest.raises(ValueError, match="illegal"):
        made.perform(str(tmp_path), 0, broken, ValueError)
    assert ended == [1]


def test_actors_are_asked_for_before_their_first_task_is_ready():
    ray = FakeRay({"GPU": 4})
    jobs = [job(i) for i in range(3)]
    made = actors_of(ray, jobs)
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
    (died,) = ray.here
    ray.here = [died | {"Alive": False}, died | {"NodeID": "1"}]
    assert made.settle(promise).reason == retries.LOST
    assert not made.attempts.failed
    settle_starts(made)
    assert all(handle.ended for handle in ray.handles[:6])
    settle_starts(made)
    (again,) = [p for p in made.promises() if p[0] == "record"]
    assert made.settle(again)[0] == jobs[busy.calls[0]]
