"""Are a run's metrics what its records say, and can they do it no harm?

Most of it with Ray replaced by what it would take; last a run on a real head, whose Prometheus endpoint is scraped.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from winnow.pipelines import metrics, open_run
from winnow.pipelines.dropped import TOO_LONG
from winnow.pipelines.interrupt import descendants
from winnow.pipelines.jobs import Job, Retried, Task
from winnow.pipelines.metrics import METRICS, TASK_SECONDS, Drop, Metrics, drops
from winnow.pipelines.progress import Part, Progress
from winnow.pipelines.records import Record

ROOT = Path(__file__).resolve().parents[1]
RAY = Path(sys.executable).with_name("ray")
Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""Values by name and labels."""


class FakeRay:
    """Takes metrics as Ray does, and is as strict; `shown` is what Prometheus would see."""

    def __init__(self) -> None:
        self.shown: Series = {}
        self.calls = 0
        self.fails = ""
        """The part of it that fails."""
        self.connected = True
        fake = self

        class Metric:
            def __init__(self, name: str, description: str, *more) -> None:
                assert description
                fake.fail("make")
                self.name, self.labels = name, more[-1]

            def take(self, value: float, tags: dict[str, str], *, add: bool) -> None:
                fake.calls += 1
                assert set(tags) == set(self.labels)
                assert all(type(v) is str for v in tags.values())
                assert type(value) in (int, float)
                key = self.name, tuple(sorted(tags.items()))
                fake.shown[key] = fake.shown.get(key, 0) + value if add else value

            def inc(self, value: float, tags: dict[str, str]) -> None:
                fake.fail("inc")
                assert value > 0, "Ray refuses others"
                self.take(value, tags, add=True)

            def set(self, value: float, tags: dict[str, str]) -> None:
                fake.fail("set")
                self.take(value, tags, add=False)

            def observe(self, value: float, tags: dict[str, str]) -> None:
                end = next((e for e in TASK_SECONDS if value <= e), float("inf"))
                self.take(1, tags, add=True)
                key = f"{self.name}_bucket", (*sorted(tags.items()), ("le", str(end)))
                fake.shown[key] = fake.shown.get(key, 0) + 1

        self.util = SimpleNamespace(metrics=SimpleNamespace(Counter=Metric, Gauge=Metric, Histogram=Metric))

    def fail(self, where: str) -> None:
        if self.fails == where:
            raise RuntimeError("the agent is gone")

    def is_initialized(self) -> bool:
        self.fail("ask")
        return self.connected

    def of(self, name: str, **labels: str) -> float:
        """The sum of the series of a metric with these labels."""
        return sum(
            v for (n, got), v in self.shown.items() if n == name and labels.items() <= dict(got).items()
        )


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRay]:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setitem(sys.modules, "ray.util", fake.util)
    return fake


def named() -> Progress:
    made = Progress(None)
    made.describe("corpus", ["web", "code"])
    return made


def record(seconds: float = 1.0, outputs: tuple[int, ...] = (), **counts: object) -> Record:
    return Record(0, counts, {f"o{i}": (n, "") for i, n in enumerate(outputs)}, seconds, seconds / 2)


def failed(request: int, reason: str = "node lost") -> Retried:
    return Retried(Job(request, "/run/stages/x", Task(0, print, None)), reason, "it is gone")


def test_names_and_labels_are_as_prometheus_wants_them() -> None:
    for name, metric in METRICS.items():
        assert re.fullmatch(r"winnow_[a-z_]+", name)
        assert name.endswith("_total") == (metric.kind == "counter"), name
        assert set(metric.labels) <= {"run", "stage", "source", "reason"}
        assert metric.labels[0] == "run"
        if "seconds" in metric.help.lower() or "bytes" in metric.help.lower():
            assert "seconds" in name or "bytes" in name


def test_every_metric_is_in_the_documentation() -> None:
    said = (ROOT / "docs" / "metrics.md").read_text()
    for name, metric in METRICS.items():
        labels = ", ".join(metric.labels)
        assert re.search(rf"^\| `ray_{name}` \| {metric.kind} \| {labels} \|", said, re.M), name
    queried = set(re.findall(r"ray_(winnow_\w+?)(?:_bucket|_sum|_count)?\b", said))
    assert queried <= METRICS.keys(), "a query for what is not there"


def test_counts_of_two_stages_side_by_side(ray: FakeRay) -> None:
    shown = named()
    shown.begin("documents of 2 sources", [Part("documents.web", 4, 1), Part("documents.code", 1, 0)])
    shown.advance(record(10, (100, 20), documents=7, text_bytes=900, stored_bytes=400, lost={"json": 2}), 0)
    shown.advance(record(5, documents=1, text_bytes=50, stored_bytes=60), 1)
    shown.retried(failed(0))
    shown.retried(failed(0, "OSError"))
    shown.in_flight = 2
    shown.metrics.flush(time.monotonic() - 10)
    shown.tick()
    here = {"run": "corpus", "stage": "documents", "source": "web"}
    for name, expected in {
        "winnow_tasks_finished_total": 1, "winnow_tasks_resumed_total": 1, "winnow_tasks_retried_total": 2,
        "winnow_documents_total": 7, "winnow_text_bytes_total": 900, "winnow_read_bytes_total": 400,
        "winnow_written_bytes_total": 120, "winnow_documents_dropped_total": 2, "winnow_tasks_left": 2,
        "winnow_stage_active": 1, "winnow_task_wall_seconds_total": 10, "winnow_task_cpu_seconds_total": 5,
        "winnow_tokens_total": 0, "winnow_stages_finished_total": 0,
    }.items():  # fmt: skip
        assert ray.of(name, **here) == expected, name
    assert ray.of("winnow_tasks_retried_total", reason="OSError", **here) == 1
    assert ray.of("winnow_documents_dropped_total", reason="json", **here) == 2
    assert ray.of("winnow_stages_finished_total", source="code") == 1
    assert ray.of("winnow_stage_active", source="code") == 0
    assert ray.of("winnow_tasks_in_flight", run="corpus") == 2
    assert ray.of("winnow_task_seconds_bucket", le="10.0", **here) == 1


def test_stages_that_share_their_labels_are_added_up(ray: FakeRay) -> None:
    shown = named()
    stages = ["quality-scores.a.web", "quality-scores.b.web"]
    shown.begin("two", [Part(stage, 3, 1) for stage in stages])
    shown.advance(record(), 1)
    shown.advance(record(), 1)
    shown.metrics.flush(0.0)
    assert ray.of("winnow_tasks_left", stage="quality-scores", source="web") == 2
    assert ray.of("winnow_stage_active", stage="quality-scores") == 1
    assert ray.of("winnow_stages_finished_total") == 1
    shown.begin("packs.web", [Part("packs.web", 4, 4)])
    shown.metrics.flush(0.0)
    assert ray.of("winnow_stages_finished_total", stage="packs") == 1, "found complete"
    assert ray.of("winnow_tasks_resumed_total", stage="packs") == 4


def test_another_run_of_the_same_process_has_sources_of_its_own(ray: FakeRay) -> None:
    shown = named()
    for run, sources in (("corpus", ["web"]), ("other", ["code"])):
        shown.describe(run, sources)
        shown.begin("tokens.web", [Part("tokens.web", 1, 0)])
        shown.advance(record(), 0)
        shown.finish()
    assert ray.of("winnow_tasks_finished_total", run="corpus", source="web") == 1
    assert ray.of("winnow_tasks_finished_total", run="other", source="") == 1


def test_drops_are_by_rule_in_filters_and_by_source_in_steps(ray: FakeRay) -> None:
    shown = named()
    shown.begin("filters.web", [Part("filters.web", 1, 0)])
    shown.advance(record(kept=5, dropped={"c4.words": 3}, dropped_bytes={"c4.words": 30}), 0)
    shown.begin("exact.code+web", [Part("exact.code+web", 1, 0)])
    shown.advance(record(dropped={"web": 4, "code": 0}, dropped_bytes={"web": 44, "code": 0}), 0)
    shown.begin("tokens.code", [Part("tokens.code", 1, 0)])
    shown.advance(record(documents=9, tokens=99, too_long_chats=2), 0)
    shown.finish()
    gone = {
        tuple(dict(labels)[k] for k in ("stage", "source", "reason")): n
        for (name, labels), n in ray.shown.items()
        if name == "winnow_documents_dropped_total"
    }
    assert gone == {
        ("filters", "web", "c4.words"): 3,
        ("exact", "web", "exact"): 4,
        ("tokens", "code", TOO_LONG): 2,
    }
    assert ray.of("winnow_dropped_bytes_total", stage="filters", reason="c4.words") == 30
    assert ray.of("winnow_dropped_bytes_total", stage="exact") == 44
    assert ray.of("winnow_documents_total", stage="filters") == 8, "kept and dropped"


def test_records_without_drops_have_none() -> None:
    assert list(drops("packs", {"documents": 3})) == []
    assert list(drops("shards", {"dropped": 3, "lost": None})) == [], "no mapping: something else"
    assert list(drops("documents", {"lost": {"a.b": 2}, "lost_bytes": {"a.b": 9}})) == [
        Drop(None, "a.b", 2, 9)
    ]


@pytest.mark.parametrize(
    ("stage", "labels"),
    [
        ("documents.web", ("documents", "web")),
        ("quality-scores.a-classifier.code", ("quality-scores", "code")),
        ("exact.code+web", ("exact", "")),
        ("benchmark-index.187ebdaf55190e9f", ("benchmark-index", "")),
        ("documents.judge.positive.s3://bucket/key", ("documents", "")),
        ("tokenizer", ("tokenizer", "")),
        ("web", ("web", "")),
    ],
)
def test_only_names_of_sources_are_labels_of_sources(ray: FakeRay, stage: str, labels: tuple) -> None:
    shown = named()
    shown.begin(stage, [Part(stage, 1, 0)])
    shown.advance(record(), 0)
    shown.finish()
    kind, source = labels
    assert ray.of("winnow_tasks_finished_total", run="corpus", stage=kind, source=source) == 1


STAGES = ("documents.web", "filters.code", "exact.code+web", "filters.web")
events = st.lists(
    st.one_of(
        st.tuples(
            st.just("advance"),
            st.integers(0, 3),
            st.floats(0, 7200),
            st.dictionaries(st.sampled_from(["web", "code", "c4.a"]), st.integers(0, 5)),
        ),
        st.tuples(st.just("retried"), st.integers(0, 3), st.sampled_from(["OSError", "node lost"])),
        st.just(("flush",)),
        st.just(("connect",)),
    ),
    max_size=30,
)


@given(events)
def test_sums_do_not_depend_on_when_they_are_handed_over(happened: list[tuple]) -> None:
    fake = FakeRay()
    fake.connected = False
    expected: Counter[tuple] = Counter()
    counted = Metrics("corpus", frozenset({"web", "code"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "ray", fake)
        patch.setitem(sys.modules, "ray.util", fake.util)
        for stage in STAGES:
            counted.begin(stage, 100, 1)
        for what, *more in happened:
            if what == "advance":
                stage, seconds, gone = STAGES[more[0]], more[1], more[2]
                made = record(seconds, dropped=gone)
                counted.advance(stage, made, list(drops(stage.split(".")[0], made.counts)))
                expected["winnow_tasks_finished_total", stage] += 1
                expected["winnow_documents_dropped_total", stage] += sum(gone.values())
                end = next((e for e in TASK_SECONDS if seconds <= e), float("inf"))
                expected["winnow_task_seconds_bucket", stage, end] += 1
            elif what == "retried":
                counted.retried(STAGES[more[0]], more[1])
                expected["winnow_tasks_retried_total", STAGES[more[0]], more[1]] += 1
            elif what == "connect":
                fake.connected = True
            else:
                counted.flush(0.0)
        fake.connected = True
        counted.finish()
    assert not counted.broken
    for (name, stage, *more), n in expected.items():
        kind, owner = stage.split(".")
        labels = {"stage": kind}
        if owner in ("web", "code"):
            labels["source"] = owner
        if name == "winnow_tasks_retried_total":
            labels["reason"] = more[0]
        if name.endswith("_bucket"):
            labels["le"] = str(more[0])
        if kind == "exact" and name == "winnow_documents_dropped_total":
            labels.pop("source", None)
        assert fake.of(name, **labels) == n
    assert fake.of("winnow_tasks_resumed_total") == len(STAGES)
    assert fake.of("winnow_tasks_left") == 0, "the run is over"


def test_what_was_counted_before_there_was_a_ray_is_not_lost(ray: FakeRay) -> None:
    ray.connected = False
    shown = named()
    shown.begin("tokenizer", [Part("tokenizer", 1, 0)])
    shown.advance(record(), 0)
    shown.metrics.flush(0.0)
    assert not ray.shown
    ray.connected = True
    shown.metrics.flush(0.0)
    shown.metrics.flush(0.0)
    assert ray.of("winnow_tasks_finished_total", stage="tokenizer") == 1


def test_gauges_are_told_again_until_they_are_zero(ray: FakeRay) -> None:
    """Ray's agent forgets a gauge that it does not hear of."""
    shown = named()
    shown.begin("tokens.web", [Part("tokens.web", 2, 0)])
    for _ in range(3):
        ray.shown.clear()
        shown.metrics.flush(0.0)
        assert ray.of("winnow_tasks_left", stage="tokens", source="web") == 2
        assert ray.of("winnow_stage_active", stage="tokens", source="web") == 1
    shown.advance(record(), 0)
    shown.advance(record(), 0)
    shown.metrics.flush(0.0)
    assert ray.of("winnow_tasks_left") == ray.of("winnow_stage_active") == 0
    ray.shown.clear()
    shown.metrics.flush(0.0)
    assert {name for name, _ in ray.shown} == {"winnow_tasks_in_flight"}, "a stage that is done costs nothing"


def test_a_stopped_run_leaves_no_task_in_flight(ray: FakeRay) -> None:
    shown = named()
    shown.begin("tokens.web", [Part("tokens.web", 9, 0)])
    shown.in_flight = 6
    shown.metrics.tick(time.monotonic() + 2, 6)
    assert (ray.of("winnow_tasks_in_flight"), ray.of("winnow_tasks_left")) == (6, 9)
    shown.finish()
    assert (
        ray.of("winnow_tasks_in_flight") == ray.of("winnow_tasks_left") == ray.of("winnow_stage_active") == 0
    )
    assert ray.of("winnow_stages_finished_total") == 0


def test_ray_is_told_once_a_second_not_for_every_task(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("winnow.pipelines.progress.time", SimpleNamespace(monotonic=lambda: now[0]))
    shown = named()
    shown.begin("tokens.web", [Part("tokens.web", 100_000, 0)])
    counts = []
    for _ in range(10_000):
        now[0] += 0.001
        shown.advance(record(tokens=1), 0)
        counts.append(ray.of("winnow_tokens_total"))
    assert len(set(counts)) == pytest.approx(10, abs=1)


@pytest.mark.parametrize("where", ["ask", "make", "inc", "set"])
def test_a_ray_whose_metrics_fail_stops_nothing(ray: FakeRay, where: str) -> None:
    ray.fails = where
    shown = named()
    shown.begin("tokens.web", [Part("tokens.web", 3, 1)])
    shown.advance(record(), 0)
    shown.metrics.flush(0.0)
    assert shown.metrics.broken
    ray.fails = ""
    calls = ray.calls
    shown.retried(failed(0))
    shown.advance(record(), 0)
    shown.begin("packs.web", [Part("packs.web", 1, 1)])
    shown.finish()
    assert shown.finished == 1
    assert ray.calls == calls, "given up"
    assert [shown.metrics._sums, shown.metrics._left, shown.metrics._tasks] == [{}, {}, {}], (
        "nothing piles up"
    )


def test_without_ray_nothing_is_imported_and_nothing_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    shown = named()
    shown.begin("tokens.web", [Part("tokens.web", 5000, 0)])
    for _ in range(5000):
        shown.advance(record(tokens=1), 0)
    shown.finish()
    assert "ray" not in sys.modules
    held = shown.metrics
    assert len(held._sums) + len(held._tasks) + len(held._left) < 20


def test_middles_lie_in_their_buckets() -> None:
    ends = [0.0, *TASK_SECONDS, float("inf")]
    for bucket in range(len(TASK_SECONDS) + 1):
        assert ends[bucket] < metrics._middle(bucket) <= ends[bucket + 1]


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, str], str, str]]:
    """A head of our own with token authentication; yields (environment, address, metrics endpoint)."""
    # Sockets lie below it, and their paths must be short.
    temporary = Path("/tmp") / f"wm{os.getpid()}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    port, exported = free_port(), free_port()
    log = tmp_path_factory.mktemp("head") / "head.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [RAY, "start", "--head", "--block", f"--port={port}", f"--metrics-export-port={exported}",
             "--include-dashboard=false", "--node-ip-address=127.0.0.1", "--num-cpus=2", f"--temp-dir={temporary}"],
            env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        endpoint = f"http://127.0.0.1:{exported}/metrics"
        try:
            deadline = time.monotonic() + 120
            while not scraped(endpoint):
                assert process.poll() is None, f"ray start ended: {log.read_text()[-2000:]}"
                assert time.monotonic() < deadline, f"no metrics: {log.read_text()[-2000:]}"
                time.sleep(0.3)
            yield environment, f"127.0.0.1:{port}", endpoint
        finally:
            # Not `ray stop`, which ends every Ray on the machine; and nothing of this one is wanted any more.
            for pid in [process.pid, *descendants(process.pid)]:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
            shutil.rmtree(temporary, ignore_errors=True)


def scraped(endpoint: str) -> str:
    """What the endpoint shows; nothing while nobody answers."""
    try:
        with urllib.request.urlopen(endpoint, timeout=10) as response:
            return response.read().decode()
    except (urllib.error.URLError, OSError):
        return ""


RUN_TWICE = """
import sys
from winnow.pipelines import load, run
for _ in range(2):
    run(load(sys.argv[1]), sys.argv[2], address=sys.argv[3])
"""


@pytest.mark.alone
@pytest.mark.slow
def test_a_scrape_shows_what_the_mixture_says(head: tuple, tmp_path: Path) -> None:
    """A run on a cluster, and once more with everything recorded: two drivers, each with series of its own."""
    environment, address, endpoint = head
    words = "some words of a text that says the same to everybody who reads what it has to say. "
    for part, name in enumerate(("web", "code")):
        rows = [json.dumps({"text": f"document {i} of {name}: " + words * (i % 9)}) for i in range(part, 60)]
        rows += ["{no json", *rows[10:15], json.dumps({"text": "short"})]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    recipe = tmp_path / "metrics.yaml"
    recipe.write_text(f"""
name: watched
tokenizer: {{name: mistral-7b-v0.1}}
sequence: {{length: 128}}
max_bad_rows: 0.5
sources:
  web:
    read: {{format: jsonl, path: "{tmp_path}/web.jsonl"}}
    filters: [gopher-quality]
  code: {{read: {{format: jsonl, path: "{tmp_path}/code.jsonl"}}}}
dedup: {{exact: {{across: [web, code]}}}}
limits: {{split_bytes: 8KB}}
""")
    out = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", RUN_TWICE, recipe, out, address],
        env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]

    families = list(text_string_to_metric_families(scraped(endpoint)))
    shown = {family.name: family for family in families if "winnow" in family.name}
    assert {f"{name.removesuffix('_total')}" for name in shown} >= {
        f"ray_{name}".removesuffix("_total") for name in METRICS if name != "winnow_tasks_retried_total"
    }
    for name, metric in METRICS.items():
        if family := shown.get(f"ray_{name}".removesuffix("_total")):
            assert family.type == metric.kind
    samples = [s for family in shown.values() for s in family.samples]
    drivers = sorted({s.labels["WorkerId"] for s in samples})
    assert len(drivers) == 2

    def value(name: str, driver: str = drivers[0], **labels: str) -> float:
        wanted = labels | {"run": "watched", "WorkerId": driver}
        return sum(s.value for s in samples if s.name == f"ray_{name}" and wanted.items() <= s.labels.items())

    opened = open_run(str(out))
    exact = 0
    for source in opened.mixture["sources"]:
        name, dropped = source["name"], "winnow_documents_dropped_total"
        lost = {reason: n for reason, n in source["lost"].items() if n}
        assert sum(lost.values()) == 1
        for reason, n in lost.items():
            assert value(dropped, source=name, stage="documents", reason=reason) == n
        rules = {rule: n for rule, n in source["dropped"].items() if n}
        assert bool(rules) == (name == "web")
        for rule, n in rules.items():
            assert value(dropped, source=name, stage="filters", reason=rule) == n
        (step,) = source["dedup"]
        assert value(dropped, source=name, stage="exact", reason="exact") == step["dropped"]
        exact += step["dropped"]
        everything = sum(lost.values()) + sum(rules.values()) + step["dropped"]
        assert value(dropped, source=name) == everything
        assert value("winnow_documents_total", source=name, stage="tokens") == source["kept_documents"]
    assert exact

    tasks: Counter[tuple[str, str]] = Counter()
    for stage in opened.manifest["stages"]:
        kind, _, owner = stage["name"].partition(".")
        tasks[kind, owner if owner in ("web", "code") else ""] += stage["tasks"]
    assert tasks["documents", "web"] > 1
    for (kind, owner), n in tasks.items():
        labels = {"stage": kind, "source": owner}
        assert value("winnow_tasks_finished_total", **labels) == n
        assert value("winnow_task_seconds_count", **labels) == n
        assert value("winnow_tasks_resumed_total", drivers[1], **labels) in (0, n), (
            "0: nobody asked for it again"
        )
    for name in ("winnow_documents_total", "winnow_tokens_total", "winnow_text_bytes_total"):
        assert value(name)
        assert not value(name, drivers[1]), "what was recorded before is not counted again"
    assert value("winnow_tasks_resumed_total", drivers[1], stage="documents") == sum(
        n for (kind, _), n in tasks.items() if kind == "documents"
    )
    assert not value("winnow_tasks_finished_total", drivers[1])
    assert not value("winnow_tasks_resumed_total")
    for gauge in ("winnow_tasks_left", "winnow_stage_active", "winnow_tasks_in_flight"):
        assert {s.value for s in samples if s.name == f"ray_{gauge}"} <= {0.0}, "the runs are over"
    sources = {s.labels["source"] for s in samples if "source" in s.labels}
    assert sources == {"web", "code", ""}
