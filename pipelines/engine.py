"""How is a stage brought from its plan to its records?

The engine trusts what is recorded, runs what is missing, and holds records, never documents.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from winnow.pipelines import lease
from winnow.pipelines.capacity import Capacity
from winnow.pipelines.jobs import Answer, Job, Retried, Task, TaskError, check_order
from winnow.pipelines.ledger import SEAL_FROM, SEALED, Ledger, completed
from winnow.pipelines.progress import Part, Progress
from winnow.pipelines.records import Record, Stage, describe
from winnow.shards import storage
from winnow.shards.inputs import InputError


class RunError(RuntimeError):
    """The run stopped; what is recorded stays, and the same command continues it."""


T = TypeVar("T")
Check = Callable[[Record], None]


@dataclass(frozen=True, slots=True)
class Request:
    """A stage that is wanted."""

    stage: Stage
    tasks: Sequence[Task]
    check: Check | None = None
    """Sees every record of the stage, and may raise to stop the run."""


class Executor(Protocol):
    @property
    def busy(self) -> int:
        """Tasks that it has now: that run, or wait for a core."""

    def map(self, jobs: Sequence[Job]) -> Iterator[Answer]: ...

    def capacity(self) -> Capacity: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Done:
    """A finished stage."""

    stage: Stage
    location: str
    records: Sequence[Record]
    """In task order."""
    redone: int
    """Tasks that ran now; the others were recorded before."""
    cpu_seconds: float
    """User and system time of those."""
    seconds: float
    """Of the stages that ran side by side with it, too."""


Work = Generator[Request, Done, T]
"""A chain of stages, each depending on what the one before left."""


@dataclass
class Engine:
    """Runs stages one after another in one run directory."""

    run: str
    executor: Executor
    progress: Progress
    done: dict[str, Done] = field(default_factory=dict)
    """The stages by name; of a name that came up more than once the last."""
    performed: list[Done] = field(default_factory=list)
    """All that were brought to completion or found complete, in order."""

    def perform(self, stage: Stage, tasks: Sequence[Task], check: Check | None = None) -> Done:
        """Bring one stage to completion; see `perform_all`."""
        return self.perform_all([Request(stage, tasks, check)])[0]

    def together(self, *works: Work[T]) -> list[T]:
        """Carry out several chains of stages side by side, so that one's few last tasks do not leave cores idle.

        A work yields the `Request` it needs next and is given its `Done`; what it returns is collected.
        """
        results: dict[int, T] = {}
        answers: dict[int, Done | None] = dict.fromkeys(range(len(works)))
        while answers:
            requests: dict[int, Request] = {}
            for i, answer in answers.items():
                try:
                    requests[i] = works[i].send(answer) if answer else next(works[i])
                except StopIteration as stop:
                    results[i] = stop.value
            answers = dict(zip(requests, self.perform_all(list(requests.values())), strict=True))
        return [results[i] for i in range(len(works))]

    def perform_all(self, requests: Sequence[Request]) -> list[Done]:
        """Bring stages to completion, their tasks side by side; checks see every record and may stop the run.

        A task that comes `after` one of another stage is begun when that one is recorded.

        Raises InputError for input that cannot be used, RunError for a task that failed for good, ValueError for a
        task that comes after one that is not there, or after itself by way of others.
        """
        if not requests:
            return []
        started = time.perf_counter()
        known = [completed(r.stage.location(self.run)) for r in requests]
        awaited = _awaited(requests)
        jobs: list[Job] = []
        redone: list[int] = []
        for i, (request, records) in enumerate(zip(requests, known, strict=True)):
            missing = [t for t in request.tasks if t.index not in records]
            if missing or not request.tasks:
                describe(request.stage, self.run)
            if missing and records.seal_there:
                lease.check()
                storage.remove(storage.join(request.stage.location(self.run), SEALED))
            if request.check:
                for record in records.values():
                    request.check(record)
            location = request.stage.location(self.run)
            for task in missing:
                after = awaited[task.after] if task.after else None
                if after is not None and after[1] in known[after[0]]:
                    after = None
                jobs.append(Job(i, location, task, after))
            redone.append(len(missing))
        check_order(jobs)
        names = [r.stage.name for r in requests]
        sizes = [(len(r.tasks), len(r.tasks) - n) for r, n in zip(requests, redone, strict=True)]
        self.progress.begin(
            _label(names), [Part(name, *size) for name, size in zip(names, sizes, strict=True)]
        )
        fresh = [0.0] * len(requests)
        for answer in self._records(requests, jobs):
            lease.check()
            self.progress.in_flight = self.executor.busy
            if answer is None:
                self.progress.tick()
                continue
            if isinstance(answer, Retried):
                self.progress.retried(answer)
                continue
            i, record = answer
            known[i].add(record)
            fresh[i] += record.cpu_seconds
            self.progress.advance(record, i)
            if check := requests[i].check:
                check(record)
        seconds = time.perf_counter() - started
        answers = []
        for i, request in enumerate(requests):
            in_order = known[i].in_order([t.index for t in request.tasks])
            location = request.stage.location(self.run)
            self._seal(request.stage, known[i])
            done = Done(request.stage, location, in_order, redone[i], fresh[i], seconds)
            self._note(done)
            answers.append(done)
        return answers

    def finished(self, stage: Stage, n_tasks: int) -> Done | None:
        """The stage, if all its tasks are recorded already: what led to it need not be there any more."""
        location = stage.location(self.run)
        records = completed(location)
        if len(records) < n_tasks or any(i not in records for i in range(n_tasks)):
            return None
        self._seal(stage, records)
        self.progress.begin(stage.name, [Part(stage.name, n_tasks, n_tasks)])
        done = Done(stage, location, records.in_order(range(n_tasks)), 0, 0.0, 0.0)
        self._note(done)
        return done

    def _seal(self, stage: Stage, records: Ledger) -> None:
        """Keep the records of a finished stage as one file, where they are many."""
        if len(records) < SEAL_FROM or records.sealed:
            return
        lease.check()
        try:
            records.seal(stage.location(self.run))
        except OSError as error:
            # The stage is complete without it: its records lie there one by one.
            self.progress.say(f"{stage.name}: its records could not be put into one file: {error}")

    def _note(self, done: Done) -> None:
        self.done[done.stage.name] = done
        self.performed.append(done)

    def _records(self, requests: Sequence[Request], jobs: Sequence[Job]) -> Iterator[Answer]:
        try:
            yield from self.executor.map(jobs)
        except TaskError as error:
            name, cause = requests[error.job.request].stage.name, error.cause
            if isinstance(cause, InputError):
                raise InputError(f"{name}: {cause}") from error
            which = f"task {error.job.task.index}" + (f" on {error.node}" if error.node else "")
            raise RunError(f"{name}, {which}: {type(cause).__name__}: {cause}") from error


def _awaited(requests: Sequence[Request]) -> dict[tuple[str, int], tuple[int, int]]:
    """(request, index of the task) of all that tasks come after. Raises ValueError for what is not there."""
    wanted = {task.after for request in requests for task in request.tasks if task.after}
    if not wanted:
        return {}
    found: dict[tuple[str, int], tuple[int, int]] = {}
    for i, request in enumerate(requests):
        for task in request.tasks:
            name = (request.stage.name, task.index)
            if name not in wanted:
                continue
            if name in found:
                raise ValueError(f"two stages that run side by side are called {name[0]!r}")
            found[name] = (i, task.index)
    if missing := sorted(wanted - found.keys()):
        raise ValueError(f"a task comes after {missing[0]}, and no such task runs side by side with it")
    return found


def _label(names: Sequence[str]) -> str:
    """One name for stages that run side by side: `tokens of 5 sources`."""
    if len(names) == 1:
        return names[0]
    kinds = sorted({n.split(".", 1)[0] for n in names})
    owners = {n.rsplit(".", 1)[-1] for n in names}
    return f"{', '.join(kinds)} of {len(owners)} sources" if len(owners) > 1 else names[0]
