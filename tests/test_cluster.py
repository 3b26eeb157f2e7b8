"""How wide is a cluster, what does it refuse before work starts, and in which order are tasks begun?

Ray is replaced by what it would answer.
"""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from winnow.pipelines import capacity, nodes
from winnow.pipelines.capacity import Patience, largest, machine_memory
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
    made.ray = SimpleNamespace(
        cluster_resources=lambda: {"CPU": cpus, "memory": sum(n.get("memory", 0) for n in nodes or [])},
        nodes=lambda: alive,
    )
    made.here, made.limit, made.task_memory = here, limit, GIB
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


def test_memory_that_this_machine_has_not_is_refused() -> None:
    made = answering(2, [{"CPU": 2, "memory": 4 * GIB}], here=True)
    made.check_request(4 * GIB)
    with pytest.raises(ClusterError) as caught:
        made.check_request(5 * GIB)
    assert str(caught.value) == (
        f"tasks ask for 1 CPU and {5 * GIB:,} bytes of memory (limits.task_memory, or more where a step needs it); "
        f"the largest node has 2 CPU and {4 * GIB:,} bytes of memory: ask for less, or use a larger machine"
    )
    answering(0, [{"memory": GIB}]).check_request(5 * GIB)  # a cluster may still grow


def test_little_memory_makes_fewer_tasks_at_a_time_and_says_so() -> None:
    said: list[str] = []
    answering(8, [{"CPU": 8, "memory": 8 * GIB}], here=True)._say_width(said.append)
    assert not said
    answering(8, [{"CPU": 8, "memory": 8 * GIB - 1}], here=True)._say_width(said.append)
    assert said == [
        f"7 tasks at a time, not 8: each asks for {GIB:,} bytes of memory (limits.task_memory), "
        f"and there are {8 * GIB - 1:,}"
    ]


def test_the_memory_of_a_container_is_its_limit(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(capacity, "LIMITS", (str(tmp_path / "absent"), str(limit)))
    assert machine_memory() == whole
    for written, found in (("max\n", whole), ("1000000\n", 1_000_000), (f"{whole * 2}\n", whole)):
        limit.write_text(written)
        assert machine_memory() == found


def test_what_will_never_be_there_ends_the_run_and_what_may_come_is_said_every_minute() -> None:
    said: list[str] = []
    patience = Patience(said.append)
    has = largest(
        [{"CPU": 2, "memory": GIB}, {"CPU": 1, "memory": 2 * GIB}, {"GPU": 1, "memory": 9 * GIB}], "CPU"
    )
    assert has == f"the largest node has 1 CPU and {2 * GIB:,} bytes of memory"
    assert largest([{"CPU": 1}], "GPU") == "no node has a GPU"
    patience.lacks("tasks ask", has, False, 0.0)
    patience.lacks("tasks ask", has, False, 30.0)
    patience.met("tasks ask")
    patience.lacks("tasks ask", has, False, 50.0)
    patience.lacks("tasks ask", has, True, 90.0)
    patience.lacks("tasks ask", has, False, 100.0)
    patience.lacks("tasks ask", has, False, 130.0)
    with pytest.raises(
        ClusterError, match=r"tasks ask; the largest node has 1 CPU .* can start none that has more"
    ):
        patience.lacks("tasks ask", has, False, 130.5)
    assert capacity.PATIENCE_SECONDS <= 60
    patience = Patience(said.append)
    for second in range(0, 200, 5):
        patience.lacks("tasks ask", "no node has a CPU", True, float(second))
    assert [text.rsplit("for ", 1)[1] for text in said] == ["65 s now", "130 s now", "195 s now"]
    assert said[0].startswith("tasks ask; no node has a CPU: waiting for a larger one to start")


def test_tasks_of_a_node_at_a_time_and_the_scratch_they_need() -> None:
    assert nodes.tasks_on({"CPU": 8, "memory": 4.5 * GIB}, GIB) == 4
    assert nodes.tasks_on({"CPU": 8, "memory": 99 * GIB}, GIB) == 8
    resources, shown = {"CPU": 8, "memory": 99 * GIB}, nodes.Shown("", 8 * GIB, "/scratch")
    nodes._check_scratch("10.0.0.3", resources, shown, GIB, GIB, None)
    with pytest.raises(ClusterError) as caught:
        nodes._check_scratch("10.0.0.3", resources, shown, GIB + 1, GIB, None)
    assert "node 10.0.0.3: the scratch directory /scratch has 8.6 GB free, 8 tasks at a time need" in str(
        caught.value
    )
    nodes._check_scratch("10.0.0.3", resources, shown, 2 * GIB, GIB, 4)
    with pytest.raises(ClusterError, match=r"4 tasks at a time need up to 12\.9 GB"):
        nodes._check_scratch("10.0.0.3", resources, shown, 3 * GIB, GIB, 4)


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
