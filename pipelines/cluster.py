"""Where do tasks run?

Ray core tasks, a bounded number in flight, nothing of a document in the object store: a task gets a
small specification and returns its record. Those that ask for GPUs run on actors (actors.py).
`Inline` runs the same tasks in this process, for tests and for looking at one with a debugger.

What failed is tried again by the driver (retries.py), which sees and says so.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from winnow.pipelines import agreement, lease, nodes
from winnow.pipelines.agreement import Pact, Terms
from winnow.pipelines.capacity import (
    Capacity,
    ClusterError,
    Patience,
    alive,
    capacity_of,
    fits,
    largest,
    usable_gpus,
)
from winnow.pipelines.connecting import before_import, connect, worker_environment
from winnow.pipelines.dispatch import Dispatch, request
from winnow.pipelines.jobs import Answer, Job, Queue, Task, TaskError
from winnow.pipelines.records import perform
from winnow.pipelines.worker import task_function

__all__ = ["Cluster", "ClusterError", "Inline", "Task", "TaskError"]

IN_FLIGHT_PER_WORKER = 3
"""Tasks queued for each worker, so that none waits for the driver."""
NO_TERMS = Terms()


class Inline:
    """Runs tasks here, one after another."""

    busy = 0
    """Tasks under way, seen from between two of them."""

    def map(self, jobs: Iterable[Job]) -> Iterator[Answer]:
        """Yield (request, record) as each job is finished. Raises TaskError."""
        queue = Queue(jobs)
        while (job := queue.take()) is not None:
            task = job.task
            try:
                record = perform(job.location, task.index, task.function, job.spec)
            except Exception as error:
                raise TaskError(job, error) from error
            queue.recorded(job)
            yield job.request, record

    def capacity(self) -> Capacity:
        """This machine's cores, and the GPUs that torch can use."""
        cpus, gpus = float(os.cpu_count() or 1), float(usable_gpus())
        return Capacity(cpus, gpus, cpus, gpus)

    def close(self) -> None:
        """Nothing to stop."""


class Cluster:
    """Tasks on Ray: a cluster that is there (`address`, or RAY_ADDRESS as in a Ray job), or one started here."""

    def __init__(
        self,
        run: str,
        address: str | None,
        workers: int | None,
        task_memory: int,
        rehearse: Callable[[], None],
        scratch_bytes: int = 0,
        terms: Terms = NO_TERMS,
        say: Callable[[str], None] = lambda text: None,
    ):
        """
        rehearse : is called once on every node before its tasks, so that they find kernels compiled.
        scratch_bytes : of free scratch that each task needs while it runs.
        terms : what nodes have to have in common with this process, beside Winnow.
        say : is told, in a line, what those who watch the run ought to know.

        Raises ClusterError.
        """
        address = address or os.environ.get("RAY_ADDRESS") or None
        before_import(address)
        import ray

        self.ray = ray
        self.limit, self.task_memory = workers, task_memory
        self.patience = Patience(say)
        self.pact = Pact(run, "")
        self.forms: dict[int, Any] = {}
        self.busy = 0
        """Tasks that Ray has now: they run, or wait for a core."""
        self.started = not ray.is_initialized()
        if self.started:
            connect(ray, address, workers)
        self.here = self.started and address is None
        # Workers started here have the settings from us; an environment of its own would cost every
        # worker a second start.
        self.options: dict[str, Any] = {"memory": task_memory}
        if not self.here:
            self.options["runtime_env"] = {"env_vars": worker_environment()}
        try:
            self.check_request(task_memory)
            if self.here:
                self._say_width(say)
            # A Ray of our own has one node, this one, whose kernels are compiled before it gets its first task.
            if not self.here:
                self.pact = agreement.offer(run, terms, rehearse)
            show = agreement.with_rehearsal(self.pact, rehearse)
            self.function = ray.remote(task_function(self.pact))
            nodes.check(ray, show, self.options, scratch_bytes, workers)
        except BaseException:
            self.close()
            raise

    @property
    def in_flight(self) -> int:
        """Tasks that are Ray's at a time: some for every core there is now, or as many as `--workers` says."""
        if self.limit and not self.here:
            return self.limit
        cpus = max(int(self.ray.cluster_resources().get("CPU", 1)), 1)
        return cpus * IN_FLIGHT_PER_WORKER

    def asking(self, memory: int) -> Any:
        """Ray's form of a task that asks for so much memory."""
        if memory not in self.forms:
            asks = {**self.options, "num_cpus": 1, "max_retries": 0, "memory": memory}
            self.forms[memory] = self.function.options(**asks)
        return self.forms[memory]

    def check_request(self, memory: int) -> None:
        """Raises ClusterError where a Ray of our own has too little memory; a cluster may grow (dispatch.py)."""
        there = alive(self.ray)
        if self.here and not any(fits(node, 1, memory) for node in there):
            raise ClusterError(
                f"{request(memory)}; {largest(there, 'CPU')}: ask for less, or use a larger machine"
            )

    def _say_width(self, say: Callable[[str], None]) -> None:
        there = self.ray.cluster_resources()
        cpus, memory = int(there.get("CPU", 1)), there.get("memory", 0)
        if (fitting := int(memory // self.task_memory)) < cpus:
            say(
                f"{fitting} tasks at a time, not {cpus}: each asks for {self.task_memory:,} bytes of memory "
                f"(limits.task_memory), and there are {int(memory):,}"
            )

    def map(self, jobs: Iterable[Job]) -> Iterator[Answer]:
        """Yield (request, record) as jobs finish, in no order, and `Retried` for each that is begun again; None at
        least once a second.

        Raises TaskError, ClusterError.
        """
        jobs = list(jobs)
        work = Dispatch(self, jobs)
        try:
            work.actors.begin(jobs)
            while work.hand_out():
                ready = work.wait()
                if not ready:
                    yield None
                yield from work.settle(ready)
        finally:
            self.busy = 0
            work.actors.close()

    def capacity(self) -> Capacity:
        """Of the cluster; on a Ray of our own only GPUs that torch can use count."""
        found = capacity_of(self.ray)
        if self.here:
            gpus = min(found.gpus, usable_gpus()) if found.gpus else 0.0
            found = replace(found, gpus=gpus, most_gpus=gpus, untold=False)
        return found

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        # In a RUN that another run has taken over nothing is ours to remove.
        with contextlib.suppress(OSError, lease.LeaseError):
            lease.check()
            agreement.end(self.pact)
        if self.started:
            with contextlib.suppress(Exception):
                self.ray.shutdown()
