"""How is a stage brought from its plan to its records?

The engine trusts what is recorded, runs what is missing, and holds records, never documents.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from winnow.pipelines.cluster import Task, TaskError
from winnow.pipelines.progress import Progress
from winnow.pipelines.records import Record, Stage, completed, describe
from winnow.shards.inputs import InputError


class RunError(RuntimeError):
    """The run stopped; what is recorded stays, and the same command continues it."""


class Executor(Protocol):
    workers: int

    def map(self, location: str, tasks: Sequence[Task]): ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Done:
    """A finished stage."""

    stage: Stage
    location: str
    records: list[Record]
    """In task order."""
    redone: int
    """Tasks that ran now; the others were recorded before."""
    seconds: float


@dataclass
class Engine:
    """Runs stages one after another in one run directory."""

    run: str
    executor: Executor
    progress: Progress
    done: dict[str, Done] = field(default_factory=dict)

    def perform(
        self, stage: Stage, tasks: Sequence[Task], check: Callable[[Record], None] | None = None
    ) -> Done:
        """Bring a stage to completion; `check` sees every record and may raise to stop the run.

        Raises InputError for input that cannot be used, RunError for a task that failed for good.
        """
        location = stage.location(self.run)
        started = time.perf_counter()
        records = completed(location)
        missing = [t for t in tasks if t.index not in records]
        for task in tasks:
            if check and task.index in records:
                check(records[task.index])
        if missing or not tasks:
            describe(stage, self.run)
        self.progress.begin(stage.name, len(tasks), len(tasks) - len(missing))
        for record in self._records(stage, location, missing):
            if record is None:
                self.progress.tick()
                continue
            records[record.index] = record
            self.progress.advance(record)
            if check:
                check(record)
        result = Done(
            stage,
            location,
            [records[t.index] for t in tasks],
            len(missing),
            time.perf_counter() - started,
        )
        self.done[stage.name] = result
        return result

    def finished(self, stage: Stage, n_tasks: int) -> Done | None:
        """The stage, if all its tasks are recorded already: what led to it need not be there any more."""
        location = stage.location(self.run)
        records = completed(location)
        if len(records) < n_tasks or any(i not in records for i in range(n_tasks)):
            return None
        self.progress.begin(stage.name, n_tasks, n_tasks)
        done = self.done[stage.name] = Done(stage, location, [records[i] for i in range(n_tasks)], 0, 0.0)
        return done

    def _records(self, stage: Stage, location: str, tasks: Sequence[Task]):
        try:
            yield from self.executor.map(location, tasks)
        except TaskError as error:
            cause = error.cause
            if isinstance(cause, InputError):
                raise InputError(f"{stage.name}: {cause}") from error
            raise RunError(f"{stage.name}, task {error.index}: {type(cause).__name__}: {cause}") from error
