"""How wide is a cluster, and what does it refuse before work starts? Ray is replaced by what it would answer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from winnow.pipelines import cluster
from winnow.pipelines.cluster import IN_FLIGHT_PER_WORKER, Cluster, ClusterError

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
