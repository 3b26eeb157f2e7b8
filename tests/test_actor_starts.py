"""How often, and when, is an actor that does not start tried again? Ray is replaced by what it would answer."""

from __future__ import annotations

import itertools
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from winnow.pipelines import actors
from winnow.pipelines.actors import Actors, kinds
from winnow.pipelines.agreement import Disagreement, Pact
from winnow.pipelines.capacity import ClusterError, Patience
from winnow.pipelines.jobs import Job, Task
from winnow.pipelines.retries import NODE_LOSSES, PAUSES, RETRIES, Attempts

GIB = 1 << 30


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception):
        super().__init__(f"ray::Worker.ready() (pid=3, ip=10.0.0.7)\n{cause}")
        self.cause = cause


class NodeDiedError(RayError):
    pass


class ActorUnschedulableError(RayError):
    pass


class ActorDiedError(RayError):
    pass


EXCEPTIONS = SimpleNamespace(**{
    kind.__name__: kind for kind in (RayError, RayTaskError, NodeDiedError, ActorUnschedulableError)
})  # fmt: skip
AWAY = RayTaskError(OSError("503"))
DIED = ActorDiedError("The actor died unexpectedly before finishing this task.")


class Ray:
    """Starts actors on one node, or does not; a clock that the test moves."""

    exceptions = EXCEPTIONS

    def __init__(self, monkeypatch: pytest.MonkeyPatch, gpus: int = 1):
        self.there = [{"NodeID": "a", "Alive": True, "Resources": {"GPU": gpus, "memory": 99 * GIB}}]
        self.names = itertools.count()
        self.now = 1000.0
        monkeypatch.setattr(actors, "time", SimpleNamespace(monotonic=self.tick))
        self.error: Exception | None = None

    def tick(self) -> float:
        self.now += 1e-6
        return self.now

    def nodes(self) -> list[dict[str, Any]]:
        return self.there

    def remote(self, worker: Any) -> Any:
        return self

    def options(self, **asks: Any) -> Any:
        return SimpleNamespace(remote=lambda pact: self.made())

    def made(self) -> Any:
        promise = next(self.names)
        return SimpleNamespace(ready=SimpleNamespace(remote=lambda: promise))

    def get(self, promise: int) -> str:
        if self.error is not None:
            raise self.error
        return "a"

    def kill(self, handle: Any) -> None:
        pass


def crew(ray: Ray, n: int = 1) -> Actors:
    """For n tasks that each want a GPU."""
    jobs = [Job(0, "", Task(i, lambda spec, outputs: {}, None, gpus=1.0)) for i in range(n)]
    wanted = kinds(jobs, GIB)
    made = Actors(ray, wanted, {}, Attempts(EXCEPTIONS), Pact("", ""), Patience(lambda text: None), False)
    made.begin(jobs)
    made.advance(deque(jobs))
    return made


def test_a_start_that_failed_for_want_of_storage_is_tried_again_after_a_pause(monkeypatch) -> None:
    ray = Ray(monkeypatch)
    made = crew(ray)
    ray.error = AWAY
    for pause in PAUSES:
        (promise,) = made.promises()
        assert made.settle(promise) is None
        for moved in (0.0, pause - 0.1):
            ray.now += moved
            made.advance(deque())
            assert made.promises() == []
            assert made.busy
        ray.now += 0.2
        made.advance(deque())
    with pytest.raises(ClusterError, match=r"1 GPU and .* did not start 4 times: 503$"):
        made.settle(made.promises()[0])


def test_actors_that_fail_at_one_time_are_one_failure(monkeypatch) -> None:
    ray = Ray(monkeypatch, 8)
    made = crew(ray, 8)
    for error, pause in ((AWAY, PAUSES[0]), (DIED, 0.0), (AWAY, PAUSES[2])):
        promises = made.promises()
        assert len(promises) == 8
        ray.error = error
        for promise in promises:
            made.settle(promise)
        ray.now += pause
        made.advance(deque())
    ray.error = DIED
    with pytest.raises(ClusterError, match=r"did not start 4 times: The actor died unexpectedly before"):
        made.settle(made.promises()[0])


def test_one_that_comes_up_ends_the_count(monkeypatch) -> None:
    ray = Ray(monkeypatch)
    made = crew(ray)
    for _ in range(3):
        for _ in range(RETRIES):
            ray.error = DIED
            made.settle(made.promises()[0])
            made.advance(deque())
        ray.error = None
        made.settle(made.promises()[0])
        (actor,) = made._all()
        made._end(made.kinds[1.0], actor)
        made.advance(deque())


@pytest.mark.parametrize("error", [NodeDiedError("gone"), ActorUnschedulableError("gone"), DIED])
def test_a_start_that_was_lost_with_its_node_does_not_count(monkeypatch, error) -> None:
    ray = Ray(monkeypatch)
    made = crew(ray)
    ray.error = error
    for i in range(NODE_LOSSES):
        if error is DIED:
            ray.there.append({"NodeID": str(i), "Alive": False, "Resources": {}})
        made.settle(made.promises()[0])
        made.advance(deque())
        assert made.failed_starts == 0
    ray.there.append({"NodeID": "last", "Alive": False, "Resources": {}})
    with pytest.raises(ClusterError, match=f"did not start {NODE_LOSSES + 1} times"):
        made.settle(made.promises()[0])


def test_a_node_that_differs_ends_the_run_at_once(monkeypatch) -> None:
    ray = Ray(monkeypatch)
    made = crew(ray)
    ray.error = RayTaskError(Disagreement("node 10.0.0.7 is not like the driver: numba"))
    with pytest.raises(ClusterError, match=r"^node 10\.0\.0\.7 is not like the driver: numba$"):
        made.settle(made.promises()[0])
