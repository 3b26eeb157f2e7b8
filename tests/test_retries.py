"""Which attempts are made again, how often, and what is said in the end? Ray is replaced by what it would answer."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.pipelines import capacity, dispatch, retries
from winnow.pipelines.agreement import Disagreement, Pact
from winnow.pipelines.capacity import ClusterError, NodeType, Patience
from winnow.pipelines.cluster import Cluster
from winnow.pipelines.jobs import Job, Later, Retried, Task, TaskError
from winnow.pipelines.retries import DIED, FILES, LOST, MEMORY, NODE_LOSSES, RETRIES, Attempts, node_of

GIB = 1 << 30


class RayError(Exception):
    pass


class RayTaskError(RayError):
    """As Ray's: it says where, and holds what the task raised."""

    def __init__(self, cause: Exception):
        super().__init__(f"\x1b[36mray::_remote()\x1b[39m (pid=23025, ip=10.0.0.7)\n{cause}")
        self.cause = cause


class NodeDiedError(RayError):
    pass


class WorkerCrashedError(RayError):
    pass


class OutOfMemoryError(RayError):
    pass


class ObjectLostError(RayError):
    pass


class RayActorError(RayError):
    pass


class RuntimeEnvSetupError(RayError):
    pass


EXCEPTIONS = SimpleNamespace(**{
    kind.__name__: kind
    for kind in (RayError, RayTaskError, NodeDiedError, WorkerCrashedError, OutOfMemoryError, ObjectLostError,
                 RayActorError, RuntimeEnvSetupError)
})  # fmt: skip
NODE_DIED = NodeDiedError(
    "Task failed because the node it was running on is dead or unavailable. Node IP: 10.0.0.3, node ID: af84. This can"
)
CRASHED = WorkerCrashedError("The worker died unexpectedly while executing this task. Check the logs.")
KILLED = OutOfMemoryError(
    "1 worker(s) were killed. Memory on the node (IP: fe80::1, ID: ea8a) was 5.77GB / 6GB"
)


def job(index: int = 0, **task: Any) -> Job:
    return Job(0, "", Task(index, lambda spec, outputs: {}, None, **task))


@pytest.mark.parametrize(
    ("error", "reason", "most", "pauses", "end", "node"),
    [
        (CRASHED, DIED, RETRIES, [0.0] * 3, "its worker died 4 times (The worker died unexpectedly", ""),
        (NODE_DIED, LOST, NODE_LOSSES, [0.0] * 20, "its node was lost 21 times", "10.0.0.3"),
        (ObjectLostError("gone"), LOST, NODE_LOSSES, [0.0] * 20, "its node was lost 21 times (gone)", ""),
        (KILLED, MEMORY, RETRIES, [0.0] * 3, f"it asked for {GIB:,} bytes (limits.task_memory)", "fe80::1"),
        (RayTaskError(MemoryError("malloc")), MEMORY, RETRIES, [0.0] * 3, "of memory 4 times", "10.0.0.7"),
        (RayTaskError(OSError(28, "full")), FILES, RETRIES, [1.0, 4.0, 16.0], "[Errno 28] full", "10.0.0.7"),
        (RuntimeEnvSetupError("Failed to set up."), DIED, RETRIES, [0.0] * 3, "(Failed to set up)", ""),
        (RayActorError("it died\nhow"), DIED, RETRIES, [0.0] * 3, "its worker died 4 times (it died)", ""),
    ],
)
def test_how_often_and_what_is_said(error, reason, most, pauses, end, node) -> None:
    attempts = Attempts(EXCEPTIONS)
    found = [attempts.after(job(), error, memory=GIB) for _ in range(most)]
    assert [attempt.pause for attempt in found] == pauses
    assert {attempt.retried.reason for attempt in found} == {reason}
    assert "\n" not in found[0].retried.message
    with pytest.raises(TaskError) as caught:
        attempts.after(job(), error, memory=GIB)
    assert end in str(caught.value)
    assert caught.value.node == node
    attempts.after(job(1), error)  # another task's attempts are its own


def test_a_worker_that_went_with_its_node_counts_against_nobody() -> None:
    attempts = Attempts(EXCEPTIONS)
    for error in (CRASHED, RayActorError("it died")):
        assert attempts.after(job(), error, node_lost=True).retried.reason == LOST
    assert not attempts.failed[job().key]
    assert attempts.lost[job().key] == 2


def test_messages_name_the_node() -> None:
    attempts = Attempts(EXCEPTIONS)
    said = attempts.after(job(), NODE_DIED).retried.message
    assert said == "Task failed because the node it was running on is dead or unavailable (node 10.0.0.3)"
    assert node_of(RayActorError("The actor died.\n\tpid: 3\n\tip: 10.0.0.9\nhow")) == "10.0.0.9"
    assert node_of(ValueError("tip=1, zip=x")) == node_of(ValueError("(pid=1, ip=127.0.0.1)")) == ""


def test_what_would_be_the_same_again_is_not_tried_again() -> None:
    class Refused(OSError):
        permanent = True

    for cause in (ValueError("a vector of another length"), Refused("the key has expired")):
        with pytest.raises(TaskError) as caught:
            Attempts(EXCEPTIONS).after(job(), RayTaskError(cause))
        assert caught.value.cause is cause
    with pytest.raises(ClusterError, match=r"^node 10\.0\.0\.7 is not like the driver: numba$"):
        Attempts(EXCEPTIONS).after(
            job(), RayTaskError(Disagreement("node 10.0.0.7 is not like the driver: numba"))
        )
    with pytest.raises(ClusterError, match=r"Ray failed: the raylet is gone\. What is recorded stays"):
        Attempts(EXCEPTIONS).after(job(), RayError("the raylet is gone. Check raylet.out"))


class FakeRay:
    """Keeps promises in an order, and with results, that the test says."""

    exceptions = EXCEPTIONS

    def __init__(self, fate: Any, *resources: dict[str, float]):
        self.fate = fate
        """Of (index, attempt): an exception, or None for a record."""
        self.there = [{"NodeID": str(i), "Alive": True, "Resources": r} for i, r in enumerate(resources)]
        self.promised: dict[tuple[int, int], int] = {}
        self.attempts: Counter[int] = Counter()
        self.most = 0
        self.asked = 0
        self.open: set[tuple[int, int]] = set()

    def nodes(self) -> list[dict[str, Any]]:
        return self.there

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": sum(node["Resources"].get("CPU", 0) for node in self.there)}

    def begin(self, memory: int) -> Any:
        def remote(location: str, index: int, function: Any, spec: Any) -> tuple[int, int]:
            self.attempts[index] += 1
            promise = (index, self.attempts[index])
            self.promised[promise] = memory
            self.open.add(promise)
            self.most = max(self.most, len(self.open))
            return promise

        return SimpleNamespace(remote=remote)

    def wait(self, promises, num_returns, timeout, fetch_local):
        self.asked += 1
        assert set(promises) == self.open
        # All but the last that was begun are finished whenever somebody asks.
        ready = promises[:-1] or promises
        return (ready[:1], promises) if num_returns == 1 else (ready, promises)

    def get(self, promise):
        if isinstance(promise, list):
            return [self.get(each) for each in promise]
        if (error := self.fate(*promise)) is not None:
            self.open.discard(promise)
            raise error
        self.open.discard(promise)
        return SimpleNamespace(index=promise[0], attempt=promise[1])


def crew(ray: FakeRay, task_memory: int = GIB) -> Cluster:
    made = Cluster.__new__(Cluster)
    made.ray, made.here, made.limit, made.task_memory = ray, False, None, task_memory
    made.options, made.pact, made.patience = {}, Pact("", ""), Patience(lambda text: None)
    made.busy = 0
    made.asking = ray.begin  # type: ignore[method-assign]
    return made


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_every_job_ends_once_whatever_becomes_of_its_attempts(data) -> None:
    n = data.draw(st.integers(0, 30))
    kinds = st.sampled_from([CRASHED, NODE_DIED, KILLED])
    fates = {i: data.draw(st.lists(kinds, max_size=RETRIES)) for i in range(n)}
    ray = FakeRay(lambda i, attempt: (fates[i] + [None])[attempt - 1], {"CPU": 2, "memory": 4 * GIB})
    made = crew(ray)
    answers = list(made.map([job(i) for i in range(n)]))
    records = [a[1] for a in answers if isinstance(a, tuple)]
    assert sorted(r.index for r in records) == list(range(n))
    assert {r.index: r.attempt for r in records} == {i: len(fates[i]) + 1 for i in range(n)}
    retried = [a for a in answers if isinstance(a, Retried)]
    assert Counter(a.job.task.index for a in retried) == Counter({i: len(f) for i, f in fates.items() if f})
    assert ray.most <= made.in_flight
    assert made.busy == 0


def test_all_that_is_finished_is_taken_at_once() -> None:
    ray = FakeRay(lambda i, attempt: None, {"CPU": 100, "memory": 100 * GIB})
    assert len(list(crew(ray).map([job(i) for i in range(3000)]))) == 3000
    assert ray.asked < 40, "Ray is asked for many at a time"
    assert not ray.open


def test_specifications_are_made_when_their_tasks_begin() -> None:
    made: list[int] = []
    ray = FakeRay(lambda i, attempt: None, {"CPU": 1, "memory": GIB})
    jobs = [
        Job(0, "", Task(i, lambda spec, outputs: {}, Later(lambda i: made.append(i), i))) for i in range(50)
    ]
    for _ in crew(ray).map(jobs):
        assert len(made) <= sum(ray.attempts.values())
        break
    assert len(made) < 10


def test_what_was_killed_for_want_of_memory_asks_for_twice_as_much() -> None:
    ray = FakeRay(
        lambda i, attempt: KILLED if attempt < 4 else None, {"CPU": 4, "memory": 3 * GIB}, {"memory": 9 * GIB}
    )
    list(crew(ray).map([job()]))
    assert [ray.promised[0, attempt] for attempt in (1, 2, 3, 4)] == [GIB, 2 * GIB, 3 * GIB, 3 * GIB]
    ray = FakeRay(lambda i, attempt: CRASHED if attempt < 3 else None, {"CPU": 4, "memory": 3 * GIB})
    list(crew(ray).map([job(memory=2 * GIB)]))
    assert set(ray.promised.values()) == {2 * GIB}


def test_a_pause_after_an_oserror_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "PAUSES", (0.05,) * 3)
    monkeypatch.setattr(dispatch, "WAIT_SECONDS", 0.01)
    full = RayTaskError(OSError(28, "full"))
    ray = FakeRay(lambda i, attempt: full if i == 0 and attempt == 1 else None, {"CPU": 1, "memory": GIB})
    answers = [a for a in crew(ray).map([job(i) for i in range(20)]) if a is not None]
    assert isinstance(answers[0], Retried)
    assert answers[-1][1].index == 0, "the others went on"
    assert len(answers) == 21


def test_a_worker_lost_with_a_node_is_told_by_the_nodes_that_are_gone() -> None:
    gone = [1, 1, 2, 2, 3]
    ray = FakeRay(lambda i, attempt: CRASHED if attempt < 6 else None, *[{"CPU": 1, "memory": GIB}] * 4)
    found = []
    for answer in crew(ray).map([job()]):
        found.append(answer)
        for node in ray.there[1 : gone[min(len(found), 4)] + 1]:
            node["Alive"] = False
    assert [a.reason for a in found[:-1]] == [DIED, LOST, LOST, DIED, LOST]


def test_all_tasks_that_a_node_took_along_are_lost_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the first alone; those that die on nodes that live count."""
    ray = FakeRay(lambda i, attempt: CRASHED if attempt < 3 else None, *[{"CPU": 4, "memory": 4 * GIB}] * 2)
    wait = ray.wait

    def dies(promises, num_returns, timeout, fetch_local):
        ray.there[1]["Alive"] = False
        return (
            (promises[:1], promises)
            if num_returns == 1
            else wait(promises, num_returns, timeout, fetch_local)
        )

    monkeypatch.setattr(ray, "wait", dies)
    found: dict[int, list[str]] = {i: [] for i in range(4)}
    for answer in crew(ray).map([job(i) for i in range(4)]):
        if isinstance(answer, Retried):
            found[answer.job.task.index].append(answer.reason)
    assert list(found.values()) == [[LOST, DIED]] * 4


def test_a_node_that_was_gone_before_took_no_task_along() -> None:
    ray = FakeRay(lambda i, attempt: CRASHED if attempt == 1 else None, *[{"CPU": 1, "memory": GIB}] * 2)
    ray.there[1]["Alive"] = False
    assert [a.reason for a in crew(ray).map([job()]) if isinstance(a, Retried)] == [DIED]


def test_how_long_something_was_lacking_is_said_of_what_is_asked_for_now() -> None:
    made = crew(FakeRay(lambda i, attempt: None, {"CPU": 1, "memory": GIB}))
    made.patience.lacks(dispatch.request(8 * GIB), "", False, 0.0)
    work = dispatch.Dispatch(made, [job(memory=8 * GIB)])
    for memory, now in ((8, 100.0), (4, 120.0), (8, 140.0), (8, 160.0)):
        work._look(memory * GIB, now)
    with pytest.raises(ClusterError, match="can start none that has more"):
        work._look(8 * GIB, 171.0)


class Fitting(FakeRay):
    """Keeps what it promised where a node that is up has the memory for it."""

    def wait(self, promises, num_returns, timeout, fetch_local):
        most = max(node["Resources"]["memory"] for node in self.there if node["Alive"])
        return [p for p in promises if self.promised[p] <= most][:num_returns], []


def answers_until(made: Cluster, then: Any) -> list[Any]:
    found = []
    for answer in made.map([job(0, memory=8 * GIB), job(1), job(2)]):
        if answer is not None:
            found.append(answer)
            then(found)
    return found


@pytest.fixture
def looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for is looked at all the time."""
    monkeypatch.setattr(dispatch, "WIDTH_SECONDS", -1.0)
    monkeypatch.setattr(dispatch, "WAIT_SECONDS", 0.01)
    monkeypatch.setattr(dispatch, "node_types", list)
    monkeypatch.setattr(dispatch, "nodes_to_come", lambda: False)


def test_a_large_node_may_go_when_the_large_task_is_done(
    looking: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "PATIENCE_SECONDS", -1.0)
    ray = Fitting(lambda i, attempt: None, {"CPU": 1, "memory": 16 * GIB}, {"CPU": 1, "memory": GIB})
    monkeypatch.setattr(Cluster, "in_flight", 1)

    def gone(found: list[Any]) -> None:
        ray.there[0]["Alive"] = False

    assert [answer[1].index for answer in answers_until(crew(ray), gone)] == [0, 1, 2]


def test_memory_that_was_raised_and_that_no_node_has_any_more_is_an_error(
    looking: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "PATIENCE_SECONDS", 0.05)
    ray = Fitting(
        lambda i, attempt: KILLED if i == 0 and attempt == 1 else None,
        {"CPU": 4, "memory": 16 * GIB},
        {"CPU": 4, "memory": 9 * GIB},
    )

    def gone(found: list[Any]) -> None:
        ray.there[0]["Alive"] = False

    made = crew(ray)
    with pytest.raises(
        ClusterError, match=rf"ask for 1 CPU and {16 * GIB:,} .* {9 * GIB:,} bytes of memory, and"
    ):
        answers_until(made, gone)
    ray.fate = lambda i, attempt: None
    assert len(answers_until(made, lambda found: None)) == 3, (
        "what was lacking is not held against other work"
    )


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_what_is_looked_for_is_the_most_that_is_left_to_do(data) -> None:
    n = data.draw(st.integers(1, 12))
    memory = [data.draw(st.integers(0, 9)) * GIB for _ in range(n)]
    after = [data.draw(st.none() | st.integers(0, i - 1)) if i else None for i in range(n)]
    fates = {i: data.draw(st.lists(st.sampled_from([CRASHED, KILLED]), max_size=RETRIES)) for i in range(n)}
    ray = FakeRay(lambda i, attempt: (fates[i] + [None])[attempt - 1], {"CPU": 2, "memory": 20 * GIB})
    jobs = [
        Job(0, "", Task(i, lambda spec, outputs: {}, None, memory=memory[i]), None if a is None else (0, a))
        for i, a in enumerate(after)
    ]
    work = dispatch.Dispatch(crew(ray), jobs)
    left = set(range(n))
    while work.hand_out():
        asked = [max(memory[i], GIB, work.memory.get((0, i), 0)) for i in left]
        assert work._most() == max(asked)
        for answer in work.settle(work.wait()):
            if not isinstance(answer, Retried):
                left.remove(answer[1].index)
    assert not left
    assert work._most() == 0
    assert not work.memory


def test_what_comes_after_a_task_waits_for_the_attempt_that_ends_well() -> None:
    ray = FakeRay(lambda i, attempt: NODE_DIED if i == 0 and attempt < 3 else None, {"CPU": 1, "memory": GIB})
    first, second = job(), Job(0, "", Task(1, lambda spec, outputs: {}, None), after=(0, 0))
    begun = [(type(answer) is Retried, ray.attempts[1]) for answer in crew(ray).map([second, first])]
    assert begun == [(True, 0), (True, 0), (False, 0), (False, 1)]


def test_a_request_that_no_node_meets_is_an_error_where_none_is_to_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(capacity, "PATIENCE_SECONDS", -1.0)
    monkeypatch.setattr(capacity, "SAY_SECONDS", -1.0)
    with pytest.raises(ClusterError, match="no node has a CPU, and the cluster can start none that has more"):
        list(crew(FakeRay(lambda i, attempt: None, {"memory": GIB})).map([job()]))
    with pytest.raises(
        ClusterError, match=r"2,147,483,648 bytes of memory .*the largest node has 3 CPU and 1,073"
    ):
        list(crew(FakeRay(lambda i, attempt: None, {"CPU": 3, "memory": GIB})).map([job(memory=2 * GIB)]))
    for types, coming in (([NodeType({"CPU": 8, "memory": 2 * GIB}, 1)], False), ([], True)):
        monkeypatch.setattr(dispatch, "node_types", lambda types=types: types)
        monkeypatch.setattr(dispatch, "nodes_to_come", lambda coming=coming: coming)
        said: list[str] = []
        made = crew(FakeRay(lambda i, attempt: None, {"CPU": 1, "memory": GIB}))
        made.patience = Patience(said.append)
        assert len(list(made.map([job(memory=2 * GIB)]))) == 1
        assert "waiting for a larger one to start" in said[0]
    monkeypatch.setattr(dispatch, "node_types", lambda: [NodeType({"GPU": 8, "memory": 2 * GIB}, 1)])
    monkeypatch.setattr(dispatch, "nodes_to_come", lambda: False)
    with pytest.raises(ClusterError, match="can start none that has more"):
        list(crew(FakeRay(lambda i, attempt: None, {"CPU": 1, "memory": GIB})).map([job(memory=2 * GIB)]))
