"""What is a task, and which of those that are left may run now?"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from winnow.pipelines.records import Record, TaskFunction


@dataclass(frozen=True, slots=True)
class Later:
    """A specification that is made when its task begins: held for every task of a stage it would be too much."""

    make: Callable[[int], Any]
    index: int


@dataclass(frozen=True, slots=True)
class Task:
    """One unit of work of a stage."""

    index: int
    function: TaskFunction
    spec: Any
    """What the function is given, or a `Later`; see `Job.spec`."""
    memory: int = 0
    """Bytes it asks of Ray where that is more than `limits.task_memory`."""
    gpus: float = 0.0
    """GPUs, of one actor that many such tasks run on one after another; 0: a plain task."""
    after: tuple[str, int] | None = None
    """(name of a stage that is made side by side with this one, index of the task there) that has to be recorded
    first."""


@dataclass(frozen=True, slots=True)
class Job:
    """A task that is to run now."""

    request: int
    """Which of the stages that run side by side it belongs to."""
    location: str
    """Of its stage."""
    task: Task
    after: tuple[int, int] | None = None
    """(request, index) of the job that has to be recorded first."""

    @property
    def key(self) -> tuple[int, int]:
        return self.request, self.task.index

    @property
    def spec(self) -> Any:
        """What the task's function is given, made now where it is a `Later`. Whoever asks does not keep it."""
        spec = self.task.spec
        return spec.make(spec.index) if isinstance(spec, Later) else spec


@dataclass(frozen=True, slots=True)
class Retried:
    """An attempt that failed, and is made again."""

    job: Job
    reason: str
    """What became of it, in a word or two: `worker died`, `node lost`, `out of memory`, `OSError`."""
    message: str
    """What it said, in a line."""


Answer = tuple[int, Record] | Retried | None
"""What an executor says of its jobs: (request, record) of one that is done, one that is tried again, or nothing new."""


class TaskError(RuntimeError):
    """A task failed for good; `cause` is what it raised, `node` the address of where, if that is known."""

    def __init__(self, job: Job, cause: BaseException, node: str = ""):
        super().__init__(f"task {job.task.index}: {cause}")
        self.job = job
        self.cause = cause
        self.node = node


class Queue:
    """Jobs in order; one that comes after another is held back until that one is recorded."""

    def __init__(self, jobs: Iterable[Job]):
        self.plain: deque[Job] = deque()
        self.on_gpus: deque[Job] = deque()
        self._held: dict[tuple[int, int], list[Job]] = {}
        for job in jobs:
            if job.after is None:
                self._of(job).append(job)
            else:
                self._held.setdefault(job.after, []).append(job)

    def _of(self, job: Job) -> deque[Job]:
        return self.on_gpus if job.task.gpus else self.plain

    def unfinished(self) -> Iterator[Job]:
        """The plain jobs that nobody took yet, also those that are held back."""
        yield from self.plain
        for held in self._held.values():
            yield from (job for job in held if not job.task.gpus)

    def recorded(self, job: Job) -> None:
        """Let go what waited for it. A plain job of these is the next one: what it reads was just written."""
        for freed in self._held.pop(job.key, ()):
            if freed.task.gpus:
                self.on_gpus.append(freed)
            else:
                self.plain.appendleft(freed)

    def take(self) -> Job | None:
        """The next job of either kind, if any may run."""
        ready = self.on_gpus or self.plain
        return ready.popleft() if ready else None


def check_order(jobs: Iterable[Job]) -> None:
    """Raises ValueError where jobs wait for each other in a circle."""
    before = {job.key: job.after for job in jobs if job.after is not None}
    settled: set[tuple[int, int]] = set()
    for key in before:
        chain: dict[tuple[int, int], None] = {}
        at: tuple[int, int] | None = key
        while at is not None and at not in settled:
            if at in chain:
                raise ValueError(f"tasks wait for each other in a circle: {list(chain)}")
            chain[at] = None
            at = before.get(at)
        settled.update(chain)
