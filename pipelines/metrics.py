"""What does a run tell those who watch its cluster?

The driver counts what records say as tasks finish, never a document at a time, and once a second hands the sums to
Ray, whose agents show them to Prometheus as `ray_winnow_…` (docs/metrics.md). Where there is no Ray nothing is shown,
and no fault of Ray's metrics is one of the run: at the first one they are given up.

Labels are names that the recipe or this program gives: the run, kinds of stages, sources, reasons. A path, a
document or a hash is never one, for each new value is a series that Prometheus keeps.
"""

from __future__ import annotations

import sys
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from winnow.pipelines.records import Record

FLUSH_SECONDS = 1.0
"""Ray exports every ten seconds, and at the end of the driver."""
TASK_SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
"""Upper ends of the histogram's buckets."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One of the metrics, as Ray is told of it."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ("run", "stage", "source")


METRICS = {
    "winnow_stages_finished_total": Metric(
        "counter", "Stages of which this driver saw the last task recorded"
    ),
    "winnow_tasks_finished_total": Metric("counter", "Tasks that this driver ran and that are recorded"),
    "winnow_tasks_resumed_total": Metric(
        "counter", "Tasks that were recorded before, and were not run again"
    ),
    "winnow_tasks_retried_total": Metric(
        "counter", "Attempts of tasks that failed and were made again", ("run", "stage", "source", "reason")
    ),
    "winnow_documents_total": Metric("counter", "Documents of finished tasks"),
    "winnow_documents_dropped_total": Metric(
        "counter", "Documents dropped, and rows that are none", ("run", "stage", "source", "reason")
    ),
    "winnow_dropped_bytes_total": Metric(
        "counter", "Bytes of the texts of documents dropped", ("run", "stage", "source", "reason")
    ),
    "winnow_tokens_total": Metric("counter", "Tokens of finished tasks"),
    "winnow_text_bytes_total": Metric("counter", "Bytes of text of finished tasks"),
    "winnow_read_bytes_total": Metric("counter", "Bytes of input as stored, of finished tasks"),
    "winnow_written_bytes_total": Metric("counter", "Bytes of the outputs of finished tasks"),
    "winnow_task_wall_seconds_total": Metric("counter", "Seconds that finished tasks took"),
    "winnow_task_cpu_seconds_total": Metric("counter", "User and system seconds of finished tasks"),
    "winnow_task_seconds": Metric("histogram", "Seconds that a finished task took"),
    "winnow_tasks_left": Metric("gauge", "Tasks that are not recorded yet"),
    "winnow_stage_active": Metric("gauge", "1 while tasks of the stage are left to do, else 0"),
    "winnow_tasks_in_flight": Metric(
        "gauge", "Tasks that Ray has now: they run, or wait for a core", ("run",)
    ),
}
"""By the name that Ray is told; it puts `ray_` before it."""

_SUMS = {
    "documents": "winnow_documents_total",
    "tokens": "winnow_tokens_total",
    "text_bytes": "winnow_text_bytes_total",
    "stored_bytes": "winnow_read_bytes_total",
}
"""Counts of records, and the metrics that add them up."""

Key = tuple[str, ...]
"""The name of a metric, and the values of its labels after `run`."""


class Drop(NamedTuple):
    """Documents that go for one reason."""

    source: str | None
    """None: that of the stage."""
    reason: str
    documents: int
    text_bytes: int
    """0 where they are not counted."""


def drops(kind: str, counts: Mapping[str, Any]) -> Iterator[Drop]:
    """What goes by the record of a task of a stage of this kind.

    `documents` counts by reason rows that are no documents, and by rule what goes before its last filters;
    `filters` by rule; steps of dedup and `quality` by source, and their reason is the step; `tokens` the
    conversations that are too long.
    """
    own = kind in ("documents", "filters")
    for what in ("lost", "dropped"):
        found, sizes = counts.get(what), counts.get(f"{what}_bytes")
        if not isinstance(found, Mapping):
            continue
        for name, n in found.items():
            size = sizes.get(name, 0) if isinstance(sizes, Mapping) else 0
            yield Drop(None, name, n, size) if own else Drop(name, kind, n, size)
    if n := counts.get("too_long_chats"):
        yield Drop(None, "max_tokens", n, 0)


@dataclass
class Metrics:
    """Sums of what happened since the last time that Ray was told."""

    run: str = ""
    """The recipe's name."""
    sources: frozenset[str] = frozenset()
    """Names that may be a source's label; of stages of anything else it is empty."""
    broken: bool = False
    """Ray's metrics failed: nothing is counted any more."""
    _sums: dict[Key, float] = field(default_factory=dict)
    _tasks: dict[Key, int] = field(default_factory=dict)
    """Tasks by (histogram, kind, source, number of the bucket)."""
    _left: dict[str, int] = field(default_factory=dict)
    """Tasks that are left, by stage; one of which none is left stays until Ray is told so."""
    _in_flight: int = 0
    _owners: dict[str, tuple[str, str]] = field(default_factory=dict)
    """(kind, source) by stage."""
    _series: dict[str, Any] = field(default_factory=dict)
    """Ray's objects by name, once there is a Ray."""
    _flushed: float = 0.0

    def describe(self, run: str, sources: Iterable[str]) -> None:
        """From now on count for the run of this name with sources of these names."""
        self.run, self.sources = run, frozenset(sources)
        self._owners.clear()

    def begin(self, stage: str, tasks: int, recorded: int) -> None:
        """A stage is begun, or found complete; `recorded` of its tasks were so before."""
        if self.broken:
            return
        kind, source = self._owner(stage)
        self._add(("winnow_tasks_resumed_total", kind, source), recorded)
        self._left[stage] = tasks - recorded
        if tasks == recorded:
            self._add(("winnow_stages_finished_total", kind, source), 1)

    def advance(self, stage: str, record: Record, gone: Sequence[Drop]) -> None:
        """A task of a stage that was begun is recorded; `gone` are the `drops` of its record."""
        if self.broken:
            return
        kind, source = self._owner(stage)
        counts = record.counts
        self._add(("winnow_tasks_finished_total", kind, source), 1)
        for what, name in _SUMS.items():
            self._add((name, kind, source), counts.get(what, 0))
        self._add(
            ("winnow_written_bytes_total", kind, source), sum(size for size, _ in record.outputs.values())
        )
        self._add(("winnow_task_wall_seconds_total", kind, source), record.seconds)
        self._add(("winnow_task_cpu_seconds_total", kind, source), record.cpu_seconds)
        for owner, reason, n, size in gone:
            labels = kind, source if owner is None else self._known(owner), reason
            self._add(("winnow_documents_dropped_total", *labels), n)
            self._add(("winnow_dropped_bytes_total", *labels), size)
        if kind == "filters":
            decided = counts.get("kept", 0) + sum(drop.documents for drop in gone)
            self._add(("winnow_documents_total", kind, source), decided)
        bucket = "winnow_task_seconds", kind, source, str(bisect_left(TASK_SECONDS, record.seconds))
        self._tasks[bucket] = self._tasks.get(bucket, 0) + 1
        self._left[stage] = left = self._left.get(stage, 1) - 1
        if not left:
            self._add(("winnow_stages_finished_total", kind, source), 1)

    def retried(self, stage: str, reason: str) -> None:
        """An attempt at a task of a stage failed, and is made again."""
        if not self.broken:
            self._add(("winnow_tasks_retried_total", *self._owner(stage), reason), 1)

    def tick(self, now: float, in_flight: int) -> None:
        """Hand over what was counted, if it is time; `now` is of `time.monotonic`."""
        if now - self._flushed >= FLUSH_SECONDS:
            self._in_flight = in_flight
            self.flush(now)

    def finish(self) -> None:
        """The run has come to its end, good or bad: no task of it is left or in flight."""
        self._left = dict.fromkeys(self._left, 0)
        self._in_flight = 0
        self.flush(time.monotonic())

    def flush(self, now: float) -> None:
        """Hand over what was counted to Ray, if this process is connected to one."""
        self._flushed = now
        ray = sys.modules.get("ray")
        if self.broken or ray is None:
            return
        try:
            if ray.is_initialized():
                self._hand_over()
        except Exception:  # whatever it is: a run is not worth less because nobody could watch it
            self.broken = True
            for counted in (self._sums, self._tasks, self._left, self._series):
                counted.clear()

    def _hand_over(self) -> None:
        series = self._series = self._series or _series()
        sums, self._sums = self._sums, {}
        tasks, self._tasks = self._tasks, {}
        for key, value in sums.items():
            series[key[0]].inc(value, tags=self._tags(key))
        for key, n in tasks.items():
            # Ray tells its agent how many fell into which bucket, and no more.
            middle, tags = _middle(int(key[-1])), self._tags(key)
            for _ in range(n):
                series[key[0]].observe(middle, tags=tags)
        # All of them each time: Ray's agent forgets a gauge that it has not heard of for twenty seconds.
        left: dict[tuple[str, str], int] = {}
        for stage, n in self._left.items():
            owner = self._owner(stage)
            left[owner] = left.get(owner, 0) + n
        for owner, n in left.items():
            tags = self._tags(("winnow_tasks_left", *owner))
            series["winnow_tasks_left"].set(n, tags=tags)
            series["winnow_stage_active"].set(int(n > 0), tags=tags)
        series["winnow_tasks_in_flight"].set(self._in_flight, tags={"run": self.run})
        self._left = {stage: n for stage, n in self._left.items() if n}

    def _tags(self, key: Key) -> dict[str, str]:
        return dict(zip(METRICS[key[0]].labels, (self.run, *key[1:]), strict=False))

    def _add(self, key: Key, value: float) -> None:
        if value:
            self._sums[key] = self._sums.get(key, 0) + value

    def _owner(self, stage: str) -> tuple[str, str]:
        """(kind, source) of a stage; the source is empty where it is of several, or of none."""
        found = self._owners.get(stage)
        if found is None:
            first, dot, last = stage.partition(".")[0], "." in stage, stage.rpartition(".")[2]
            found = self._owners[stage] = first, self._known(last) if dot else ""
        return found

    def _known(self, source: str) -> str:
        return source if source in self.sources else ""


def _series() -> dict[str, Any]:
    """Ray's objects for the metrics, by name."""
    from ray.util import metrics

    made: dict[str, Any] = {}
    for name, metric in METRICS.items():
        if metric.kind == "histogram":
            made[name] = metrics.Histogram(name, metric.help, list(TASK_SECONDS), metric.labels)
        else:
            form = metrics.Counter if metric.kind == "counter" else metrics.Gauge
            made[name] = form(name, metric.help, metric.labels)
    return made


def _middle(bucket: int) -> float:
    """A number of seconds that falls into a bucket."""
    ends = (0.0, *TASK_SECONDS, 2 * TASK_SECONDS[-1])
    return (ends[bucket] + ends[bucket + 1]) / 2
