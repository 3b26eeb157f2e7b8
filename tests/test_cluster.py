"""How wide is a cluster, what does it refuse before work starts, and in which order are tasks begun?

Ray is replaced by what it would answer.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from winnow.pipelines import cluster
from winnow.pipelines.cluster import IN_FLIGHT_PER_WORKER, Cluster, ClusterError, Inline
from winnow.pipelines.engine import Engine, Request
from winnow.pipelines.jobs import Job, Queue, Task, check_order
from winnow.pipelines.progress import Progress
from winnow.pipelines.records import Stage

GIB = 1 << 30


def answering(cpus: float, nodes: list[dict] | None = None, *, here: bool = False, limit: int | None = None):
    """A Cluster whose Ray has so many cores and these nodes' resources."""
    made = Cluster.__new__(Cluster)
    alive = [{"Alive": True, "Resources": n} for n in nodes or []]
    made.ray = SimpleNamespace(cluster_resources=lambda: {"CPU": cpus}, nodes=lambda: alive)
    made.here, made.limit = here, limit
    return made


def test_width_follows_a_cluster_that_grows() -> None:
    made = answering(0)
    assert made.in_flight == IN_FLIGHT_PER_WORKER, (
        "a head without cores still queues, or no worker would start"
    )
    made.ray.cluster_resources = lambda: {"CPU": 64.0}
    assert made.in_flight == 64 * IN_FLIGHT_PER_WORKER


def test_workers_bounds_what_runs_on_somebody_elses_cluster() -> None:
    assert answering(64, limit=5).in_flight == 5


def test_on_a_ray_of_our_own_its_cores_are_the_bound() -> None:
    assert answering(2, here=True, limit=2).in_flight == 2 * IN_FLIGHT_PER_WORKER


def test_memory_that_no_node_has_is_refused() -> None:
    made = answering(4, [{"CPU": 2, "memory": 4 * GIB}, {"CPU": 2, "memory": GIB}, {"memory": 99 * GIB}])
    made._check_memory(4 * GIB)
    with pytest.raises(ClusterError) as caught:
        made._check_memory(5 * GIB)
    assert str(caught.value) == (
        f"a task asks for {5 * GIB:,} bytes of memory (limits.task_memory), the largest node has {4 * GIB:,}; "
        "lower it, or start larger nodes"
    )


def test_an_empty_cluster_may_still_grow() -> None:
    answering(0, [{"memory": GIB}])._check_memory(5 * GIB)


def test_code_version_tells_changed_sources(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = cluster.code_version()
    assert before == cluster.code_version()
    (tmp_path / "other.py").write_text("changed = True")
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: spec)
    assert cluster.code_version() != before


def noted(spec, outputs):
    """A task that notes when it ran."""
    name, begun = spec
    begun.append(name)
    return {}


def request(stage: str, begun: list, *tasks: tuple[int, tuple[str, int] | None], gpus: float = 0) -> Request:
    made = [Task(i, noted, (f"{stage}{i}", begun), gpus=gpus, after=after) for i, after in tasks]
    return Request(Stage(stage, 1, {}), made)


def perform(run, *requests: Request) -> None:
    Engine(str(run), Inline(), Progress(stream=None)).perform_all(requests)


def test_a_task_is_begun_when_what_it_comes_after_is_recorded(tmp_path):
    begun: list[str] = []
    after = request("b", begun, *((i, ("a", i)) for i in range(3)))
    last = request("c", begun, (0, ("b", 2)), gpus=1)
    perform(tmp_path, last, after, request("a", begun, *((i, None) for i in range(3))))
    assert begun == ["a0", "b0", "a1", "b1", "a2", "b2", "c0"]
    begun.clear()
    perform(tmp_path, request("d", begun, (0, ("a", 1))), request("a", begun, *((i, None) for i in range(3))))
    assert begun == ["d0"], "what is recorded is waited for by nobody"


def test_what_tasks_come_after_has_to_be_there(tmp_path):
    for missing in (("a", 1), ("x", 0)):
        with pytest.raises(ValueError, match="no such task runs side by side with it"):
            perform(tmp_path, request("a", [], (0, None)), request("b", [], (0, missing)))
    with pytest.raises(ValueError, match="two stages that run side by side are called 'a'"):
        perform(tmp_path, *[request("a", [], (0, None))] * 2, request("b", [], (0, ("a", 0))))
    with pytest.raises(ValueError, match="in a circle"):
        perform(tmp_path, request("a", [], (0, ("b", 0))), request("b", [], (0, ("a", 0))))
    with pytest.raises(ValueError, match="in a circle"):
        perform(tmp_path, request("a", [], (0, ("a", 0))))


@given(st.data())
def test_every_job_runs_once_and_after_what_it_waits_for(data):
    n = data.draw(st.integers(0, 30))
    order = data.draw(st.permutations(range(n)))
    jobs = []
    for at, i in enumerate(order):
        before = data.draw(st.none() | st.sampled_from(order[:at])) if at else None
        gpus = data.draw(st.sampled_from([0.0, 0.5]))
        after = None if before is None else (0, before)
        jobs.append(Job(0, "", Task(i, noted, None, gpus=gpus), after))
    jobs = data.draw(st.permutations(jobs))
    check_order(jobs)
    queue, ran = Queue(jobs), set()
    while (job := queue.take()) is not None:
        assert job.after is None or job.after in ran
        assert job.key not in ran
        ran.add(job.key)
        queue.recorded(job)
    assert len(ran) == n


@given(st.integers(1, 20), st.integers(0, 20))
def test_circles_are_found_wherever_they_are_entered(length, tail):
    circle = [Job(0, "", Task(i, noted, None), (0, (i + 1) % length)) for i in range(length)]
    leading = [Job(1, "", Task(i, noted, None), (1, i - 1) if i else (0, 0)) for i in range(tail)]
    with pytest.raises(ValueError, match="in a circle"):
        check_order(leading + circle)
    check_order([Job(0, "", Task(0, noted, None)), *leading])
