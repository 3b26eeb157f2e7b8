"""Do nodes that differ from the driver, or do not see its run, show it before they work?"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from winnow.filters.datatrove_block import DatatroveBlock
from winnow.pipelines import agreement, lease, nodes, plan_agreement, worker
from winnow.pipelines.agreement import ABSENT, Disagreement, Pact, Terms, agree, difference, facts, offer
from winnow.pipelines.capacity import ClusterError
from winnow.pipelines.cluster import Cluster
from winnow.shards import storage
from winnow.shards.convert_settings import Html

GIB = 1 << 30


def nothing() -> None:
    """A rehearsal without kernels."""


def test_facts_name_code_libraries_and_files(tmp_path) -> None:
    vocabulary = tmp_path / "tokenizer-12ab" / "tokenizer.json"
    vocabulary.parent.mkdir()
    vocabulary.write_bytes(b"{}")
    found = facts(["no-such-package"], [str(vocabulary)])
    assert found["numba"] == importlib.metadata.version("numba")
    assert found["no-such-package"] == ABSENT
    assert found["sha256 of tokenizer-12ab/tokenizer.json"].startswith("44136fa3")
    assert {"Winnow", "Winnow's sources", "Python", "machine", "pyarrow", "tokenizers"} <= found.keys()
    assert ABSENT not in {found["jinja2"], found["idna"]}, "what templates and addresses come out as"
    assert all(isinstance(value, str) for value in found.values())
    vocabulary.write_bytes(b"{ }")
    assert difference(found, facts(["no-such-package"], [str(vocabulary)])).startswith(
        "sha256 of tokenizer-12ab"
    )


def test_a_recipes_libraries_and_what_they_leave_work_to_are_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = SimpleNamespace(convert=Html(extractor="trafilatura"), format="warc")
    settings = [DatatroveBlock(block="GopherQualityFilter")]
    monkeypatch.setattr(plan_agreement.filtering, "filter_settings", lambda source: settings)
    monkeypatch.setattr(plan_agreement.encoders, "wanted", lambda recipe: [])
    recipe = SimpleNamespace(embedding_classifiers={"math": None})
    plan: Any = SimpleNamespace(everything=[SimpleNamespace(read=read)], recipe=recipe)
    made: Any = SimpleNamespace(location="", records=[])
    found = plan_agreement.terms(plan, made)
    assert found.packages == (
        *("datatrove", "fastwarc", "justext", "lxml", "resiliparse", "scikit-learn", "scipy", "trafilatura"),
    )


def test_the_device_that_torch_was_built_for_is_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "version", lambda name: {"torch": "2.6.0+cu124"}.get(name, "1"))
    assert facts(["torch"])["torch"] == "2.6.0"


def test_sources_are_told_by_their_content(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = agreement.sources()
    assert before == agreement.sources()
    (tmp_path / "other.py").write_text("changed = True")
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(agreement.importlib.util, "find_spec", lambda name: spec)
    changed = agreement.sources()
    assert changed != before
    (tmp_path / "other.py").write_text("changed = None")
    assert agreement.sources() != changed


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["1", "2", ABSENT])),
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["1", "2", ABSENT])),
)
def test_every_difference_is_named_with_both_values(mine, theirs) -> None:
    found = difference(mine, theirs)
    expected = {
        f"{name}: {theirs.get(name, ABSENT)} there, {mine.get(name, ABSENT)} here"
        for name in {*mine, *theirs}
        if mine.get(name, ABSENT) != theirs.get(name, ABSENT)
    }
    assert set(found.split("; ") if found else ()) == expected
    assert (found is None) == (not expected)


def test_a_node_without_gpus_need_not_have_torch() -> None:
    assert difference({"torch": "2.6.0"}, {"torch": ABSENT}) is None
    assert difference({"torch": "2.6.0"}, {}) is None
    assert difference({"torch": "2.6.0"}, {"torch": "2.5.0"}) == "torch: 2.5.0 there, 2.6.0 here"
    assert difference({"torch": ABSENT}, {"torch": "2.5.0"}) is not None


def test_nodes_that_are_alike_agree_and_leave_nothing(tmp_path) -> None:
    run = str(tmp_path)
    stale = tmp_path / agreement.FOLDER / "of-a-run-that-was-killed"
    stale.parent.mkdir()
    stale.touch()
    pact = offer(run, Terms(("ftfy",)), nothing)
    assert not stale.exists()
    assert json.loads(storage.read_bytes(pact.facts)) == facts(["ftfy"])
    agree(pact, "10.0.0.3")
    assert storage.list_files(run) == {}, "what is there for a while is no file of the run"
    agreement.end(pact)
    agreement.end(pact)
    assert list(tmp_path.iterdir()) == []


def closed(pact: Pact) -> None:
    """End a driver's Cluster that had made a pact."""
    made = Cluster.__new__(Cluster)
    made.here, made.started, made.pact = False, False, pact
    made.close()


@pytest.mark.parametrize("where", ["local", "memory"])
def test_a_driver_that_was_replaced_leaves_the_other_ones_pact(tmp_path, where) -> None:
    run = str(tmp_path) if where == "local" else f"memory://{tmp_path.name}"
    old = offer(run, Terms(), nothing)
    new = offer(run, Terms(), nothing)
    storage.put_bytes(old.of_node("0a"), b"")
    storage.put_bytes(new.of_node("0a"), b"")
    closed(old)
    agree(new, "10.0.0.3")
    assert storage.exists(new.of_node("0a"))
    assert not storage.exists(old.of_node("0a"))
    closed(new)
    closed(Pact(run, ""))
    assert not storage.exists(new.facts)


def test_a_driver_that_lost_the_lease_removes_nothing(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 60.0)
    pact = offer(str(tmp_path), Terms(), nothing)
    with lease.Lease(str(tmp_path)) as held:
        held.lost = True
        closed(pact)
        assert storage.exists(pact.facts)
        held.lost = False
        closed(pact)
        assert not storage.exists(pact.facts)


def test_what_differs_is_said_with_the_node(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    pact = offer(str(tmp_path), Terms(), nothing)
    here = agreement.version("numba")
    monkeypatch.setattr(
        agreement, "version", lambda name: "0.1" if name == "numba" else importlib.metadata.version(name)
    )
    with pytest.raises(Disagreement) as caught:
        agree(pact, "10.0.0.3")
    assert str(caught.value) == f"node 10.0.0.3 is not like the driver: numba: 0.1 there, {here} here"


def test_a_run_that_is_not_seen_is_said(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    pact = offer(str(tmp_path / "run"), Terms(), nothing)
    agreement.end(pact)
    with pytest.raises(Disagreement, match=r"run is not shared by the nodes: 10\.0\.0\.3 does not see"):
        agree(pact, "10.0.0.3")

    class Refused(OSError):
        permanent = True

    for error, again in (
        (PermissionError("AccessDenied: s3://corpora"), False),
        (Refused("the key has expired"), False),
        (ImportError("Install s3fs to access S3"), False),
        (OSError("500"), True),
    ):

        def fail(location: str, error: Exception = error) -> bytes:
            raise error

        monkeypatch.setattr(storage, "read_bytes", fail)
        with pytest.raises(OSError if again else Disagreement, match=str(error)) as caught:
            agree(pact, "10.0.0.3")
        assert ("10.0.0.3" in str(caught.value)) != again


def test_a_process_agrees_once_and_again_when_it_failed(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def counted(pact: Pact, where: str) -> None:
        asked.append(where)
        if len(asked) == 1:
            raise OSError("500")

    monkeypatch.setattr(agreement, "agree", counted)
    monkeypatch.setattr(worker, "_entered", set())
    monkeypatch.setattr(worker, "quiet_worker", nothing)
    work = worker.task_function(Pact(str(tmp_path), "place"))
    with pytest.raises(OSError, match="500"):
        work(str(tmp_path), 0, lambda spec, outputs: {}, None)
    for index in range(3):
        assert work(str(tmp_path), index, lambda spec, outputs: {"n": spec}, index).counts == {"n": index}
    assert len(asked) == 2
    assert work.__qualname__ == "_remote", "what Ray calls the process by"


def test_kernels_are_compiled_by_one_process_of_a_node(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    from winnow.filters import jit

    monkeypatch.setattr(jit, "CACHE_DIR", tmp_path)
    compiled: list[str] = []
    inside = threading.Lock()

    def compile_all() -> None:
        assert inside.acquire(blocking=False), "two at a time"
        time.sleep(0.1)
        compiled.append("all")
        inside.release()

    pact = replace(Pact("", ""), rehearsal=compile_all, rehearsed="12ab")
    threads = [threading.Thread(target=agreement.rehearse, args=(pact,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert compiled == ["all"]
    agreement.rehearse(pact, always=True)
    assert len(compiled) == 2
    agreement.rehearse(replace(pact, rehearsed="34cd"))
    assert len(compiled) == 3
    assert (tmp_path / "rehearsed").read_text().split() == ["12ab", "34cd"]

    def locked() -> bool:
        with open(tmp_path / "rehearsed", "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    seen: list[bool] = []
    for known in ("12ab", "56ef"):
        agreement.rehearse(
            replace(pact, rehearsal=lambda: seen.append(locked()), rehearsed=known), always=True
        )
    assert seen == [False, True], "nobody waits for a process that loads what is compiled"
    agreement.rehearse(Pact("", ""))


def test_a_cache_without_locks_serves(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    from winnow.filters import jit

    def no_locks(file: Any, operation: int) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(jit, "CACHE_DIR", tmp_path)
    monkeypatch.setattr(agreement.fcntl, "flock", no_locks)
    compiled: list[int] = []
    agreement.rehearse(replace(Pact("", ""), rehearsal=lambda: compiled.append(1), rehearsed="12ab"))
    assert compiled == [1]


class RayError(Exception):
    pass


class NodeDiedError(RayError):
    pass


class Ray:
    """Runs what a node is to show in this process, at once or never."""

    exceptions = SimpleNamespace(
        RayError=RayError, NodeDiedError=NodeDiedError, TaskUnschedulableError=NodeDiedError
    )

    def __init__(
        self, *resources: dict[str, float], late: tuple[int, ...] = (), fails: Exception | None = None
    ):
        self.there = [
            {"NodeID": f"{i + 1:056x}", "Alive": True, "Resources": r, "NodeManagerAddress": f"10.0.0.{i}"}
            for i, r in enumerate(resources)
        ]
        self.late, self.fails = late, fails
        self.asked: list[str] = []
        self.options: list[dict[str, Any]] = []

    def nodes(self) -> list[dict[str, Any]]:
        return self.there

    def remote(self, function: Any) -> Any:
        def options(**asks: Any) -> Any:
            self.options.append(asks)
            return SimpleNamespace(remote=lambda pact, node, where: (function, pact, node, where))

        return SimpleNamespace(options=options)

    def wait(self, promises, num_returns, timeout):
        late = [p for p in promises if int(p[2], 16) - 1 in self.late]
        return [p for p in promises if p not in late], late

    def get(self, promise):
        function, pact, node, where = promise
        self.asked.append(where)
        if self.fails:
            raise self.fails
        return function(pact, node, where)


NODE = {"CPU": 4.0, "memory": 8.0 * GIB}


@pytest.fixture
def quiet(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    from winnow.filters import jit

    monkeypatch.setattr(nodes, "quiet_worker", nothing)
    monkeypatch.setattr(jit, "CACHE_DIR", tmp_path)


def test_every_node_that_a_task_fits_on_shows_itself(tmp_path, quiet) -> None:
    ray = Ray(NODE, {"memory": 8.0 * GIB}, NODE, {"CPU": 1.0, "memory": GIB - 1})
    ray.there.append({"NodeID": "9", "Alive": False, "Resources": NODE, "NodeManagerAddress": "10.0.0.9"})
    pact = offer(str(tmp_path / "run"), Terms(), nothing)
    nodes.check(ray, pact, {"memory": GIB, "runtime_env": {"env_vars": {}}}, 1000, None)
    assert ray.asked == ["10.0.0.0", "10.0.0.2"]
    assert all(asks["num_cpus"] == 0 and asks["memory"] is None for asks in ray.options), (
        "they wait behind no task"
    )
    assert all("runtime_env" in asks for asks in ray.options)
    agreement.end(pact)


def test_a_node_that_is_not_fit_ends_the_run_with_its_address(tmp_path, quiet, monkeypatch) -> None:
    run = str(tmp_path / "run")
    pact = offer(run, Terms(), nothing)

    def check(ray: Ray, pact: Pact = pact, scratch_bytes: int = 0) -> None:
        nodes.check(ray, pact, {"memory": GIB}, scratch_bytes, None)

    with pytest.raises(ClusterError, match=r"1 of 2 nodes did not answer in 240 s: 10\.0\.0\.1"):
        check(Ray(NODE, NODE, late=(1,)))
    with pytest.raises(ClusterError, match=r"node 10\.0\.0\.0 is not fit for work: No module named 'winnow'"):
        check(Ray(NODE, fails=RayError("a\ntrace\nNo module named 'winnow'")))
    check(Ray(NODE, fails=NodeDiedError("preempted")))
    with pytest.raises(
        ClusterError, match=r"node 10\.0\.0\.0: the scratch directory .* 4 tasks at a time need"
    ):
        check(Ray(NODE), scratch_bytes=1 << 60)
    with pytest.raises(ClusterError, match=r"run is not shared by the nodes: 10\.0\.0\.0 does not see"):
        check(Ray(NODE), replace(pact, place=pact.place + "x"))
    storage.remove(pact.of_node(Ray(NODE).there[0]["NodeID"]))
    written = storage.put_bytes
    monkeypatch.setattr(storage, "put_bytes", lambda location, data: None)
    with pytest.raises(ClusterError, match=r"the driver does not see what 10\.0\.0\.0 wrote there"):
        check(Ray(NODE))
    monkeypatch.setattr(storage, "put_bytes", written)

    def full() -> int:
        raise OSError("nothing can be written into the scratch directory /scratch")

    monkeypatch.setattr(nodes.scratch, "free_bytes", full)
    with pytest.raises(
        ClusterError, match=r"node 10\.0\.0\.0 cannot work on .*run: OSError: nothing can be written"
    ):
        check(Ray(NODE))


def test_a_ray_of_our_own_writes_nothing_into_the_run(tmp_path, quiet) -> None:
    rehearsed: list[int] = []
    pact = replace(Pact(str(tmp_path / "run"), ""), rehearsal=lambda: rehearsed.append(1), rehearsed="12ab")
    nodes.check(Ray(NODE), pact, {"memory": GIB}, 0, None)
    assert rehearsed == [1]
    assert not os.path.exists(tmp_path / "run")
