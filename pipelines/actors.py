"""Who works on the GPUs?

Tasks that ask for GPUs run on actors: processes that stay, so that a model is loaded once for many tasks. There are as
many as the cluster's GPUs allow, and on a cluster that can grow one more is asked for while work waits. Each runs two
tasks at a time, so that one reads and writes while the other computes. They end with the work, or when idle.

An actor that dies, and an OSError, are no failure of the task yet: it is tried again, `RETRIES` times, and then with
an actor for itself, so that a task which kills its actor is not taken for the one beside it. Nothing is left to
Ray's own restarts: with them it would not be seen which of the two had how many attempts.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from winnow.pipelines.capacity import actors_on, alive, may_start, node_types
from winnow.pipelines.jobs import Job, TaskError
from winnow.pipelines.records import Record, TaskFunction, perform

RETRIES = 3
AT_A_TIME = 2
"""Tasks of an actor."""
IDLE_SECONDS = 60.0
"""After which an actor without work gives its GPU back."""
WIDTH_SECONDS = 5.0
"""How often a cluster that grows and shrinks is asked how large it is."""
PATIENCE_SECONDS = 30.0
"""How long no node may be able to hold an actor, on a cluster that cannot grow one, before the run stops."""

BROKEN_DEVICE = "AcceleratorError"
"""torch's error for a device that failed: memory it could not correct, an illegal address, a lost bus."""


class ClusterError(RuntimeError):
    """Ray could not start, or what it runs on is gone."""


def quiet_worker() -> None:
    """One thread for every pool inside a worker: Ray runs as many workers as there are cores."""
    import pyarrow as pa

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)


class Worker:
    """What an actor does."""

    def __init__(self) -> None:
        quiet_worker()

    def ready(self) -> None:
        """Return: then the actor is up."""

    def perform(self, location: str, index: int, function: TaskFunction, spec: Any) -> Record:
        """Run a task. One that finds its device broken ends the actor: nothing in this process can use it any more."""
        try:
            return perform(location, index, function, spec, resource.RUSAGE_THREAD)
        except Exception as error:
            if type(error).__name__ == BROKEN_DEVICE:
                os._exit(1)
            raise


@dataclass(frozen=True, slots=True)
class Kind:
    """Actors that tasks which ask for the same share of a GPU have in common."""

    gpus: float
    memory: int
    """Bytes that an actor asks for; 0: it need not ask."""
    at_a_time: int
    """Tasks."""

    def __str__(self) -> str:
        return f"{self.gpus:g} GPU" + (f" and {self.memory:,} bytes of memory" if self.memory else "")


def kinds(jobs: Iterable[Job], task_memory: int, asks: bool) -> dict[float, Kind]:
    """The kinds of actors for jobs, by the GPUs that their tasks ask for.

    A task that needs more memory than `task_memory` has its actor for itself. `asks`: whether memory is asked for.
    """
    found: dict[float, Kind] = {}
    for gpus in sorted({job.task.gpus for job in jobs if job.task.gpus}):
        most = max(job.task.memory for job in jobs if job.task.gpus == gpus)
        at_a_time = 1 if most > task_memory else AT_A_TIME
        found[gpus] = Kind(gpus, max(most, task_memory) * at_a_time if asks else 0, at_a_time)
    return found


@dataclass(eq=False, slots=True)
class Actor:
    """An actor as its driver sees it."""

    handle: Any
    starting: Any
    """Ray's promise that it comes up; None: it has."""
    jobs: dict[Any, Job] = field(default_factory=dict)
    """What it works on, by Ray's promise of the record."""
    used: float = field(default_factory=time.monotonic)
    """When it last had, or was waited for by, work."""
    lost: bool = False
    proven: bool = False
    """It was up once: that it is gone says nothing against starting another."""


class Actors:
    """The actors of one set of stages."""

    def __init__(self, ray: Any, kinds: Mapping[float, Kind], options: Mapping[str, Any], grows: bool):
        """`options` are those of plain tasks; `grows`: whether somebody may add nodes."""
        self.ray = ray
        self.kinds = kinds
        self.options = {name: value for name, value in options.items() if name != "memory"}
        self.grows = grows
        self.waiting: dict[Kind, deque[Job]] = {}
        self.actors: dict[Kind, list[Actor]] = {}
        self.attempts: Counter[tuple[int, int]] = Counter()
        self.failed_starts = 0
        self._room: dict[Kind, tuple[float, int, bool]] = {}
        self._short_since: dict[Kind, float] = {}

    def begin(self, jobs: Iterable[Job]) -> None:
        """Ask for actors for all jobs, those that wait for others among them, before any plain task asks for memory."""
        now = time.monotonic()
        for gpus, n in Counter(job.task.gpus for job in jobs if job.task.gpus).items():
            self.waiting.setdefault(self.kinds[gpus], deque())
            self._start(self.kinds[gpus], n, now)

    def promises(self) -> list[Any]:
        """What Ray has promised and not kept yet."""
        found = []
        for actor in self._all():
            found += [actor.starting] if actor.starting is not None else list(actor.jobs)
        return found

    @property
    def busy(self) -> bool:
        """Whether there is work that waits, or is done."""
        return any(self.waiting.values()) or any(actor.jobs for actor in self._all())

    def advance(self, ready: deque[Job]) -> None:
        """Take all jobs that are ready, hand out what there is room for, start and end actors. Raises ClusterError."""
        while ready:
            job = ready.popleft()
            self.waiting.setdefault(self.kinds[job.task.gpus], deque()).append(job)
        now = time.monotonic()
        for kind, waiting in self.waiting.items():
            while waiting and (actor := self._with_room(kind, waiting[0])) is not None:
                job = waiting.popleft()
                actor.jobs[self._submit(actor, job)] = job
            if waiting:
                self._start(kind, len(waiting), now)
        for kind, actors in self.actors.items():
            for actor in [*actors]:
                if actor.jobs or (self.waiting.get(kind) and actor.starting is not None):
                    actor.used = now
                elif actor.lost or now - actor.used > IDLE_SECONDS or self._starved(kind):
                    self._end(kind, actor)

    def settle(self, promise: Any) -> tuple[Job, Record] | None:
        """What a promise that is kept brought; None where it was only an actor, or an attempt that failed.

        Raises TaskError, ClusterError.
        """
        kind, actor = next(
            (k, a)
            for k, actors in self.actors.items()
            for a in actors
            if promise == a.starting or promise in a.jobs
        )
        if promise == actor.starting:
            self._is_up(kind, actor)
            return None
        job = actor.jobs.pop(promise)
        exceptions = self.ray.exceptions
        try:
            return job, self.ray.get(promise)
        except exceptions.RayTaskError as error:
            if not isinstance(error.cause, OSError) or self.attempts[job.key] >= RETRIES:
                raise TaskError(job, error.cause or error) from error
        except (
            exceptions.RayActorError,
            exceptions.WorkerCrashedError,
            exceptions.OutOfMemoryError,
            exceptions.NodeDiedError,
        ) as error:
            actor.lost = True
            self._ask_idle()
            if self.attempts[job.key] >= RETRIES:
                message = str(error).strip().splitlines()[0]
                died = RuntimeError(f"its worker died {RETRIES + 1} times ({message})")
                raise TaskError(job, died) from error
            if not actor.jobs:
                self._end(kind, actor)
        except exceptions.RayError as error:
            raise ray_failed(error) from error
        self.attempts[job.key] += 1
        self.waiting[kind].appendleft(job)
        return None

    def close(self) -> None:
        """End them all: their GPUs are free."""
        for kind, actors in self.actors.items():
            for actor in [*actors]:
                self._end(kind, actor)

    def _all(self) -> list[Actor]:
        return [actor for actors in self.actors.values() for actor in actors]

    def _with_room(self, kind: Kind, job: Job) -> Actor | None:
        """The one with the least to do of those that can take a job."""
        most = 1 if self.attempts[job.key] else kind.at_a_time
        able = [
            actor
            for actor in self.actors.get(kind, ())
            if actor.starting is None
            and not actor.lost
            and len(actor.jobs) < most
            and not any(self.attempts[beside.key] for beside in actor.jobs.values())
        ]
        return min(able, key=lambda actor: len(actor.jobs), default=None)

    def _submit(self, actor: Actor, job: Job) -> Any:
        task = job.task
        return actor.handle.perform.remote(job.location, task.index, task.function, task.spec)

    def _start(self, kind: Kind, waiting: int, now: float) -> None:
        """Ask for actors, as far as there is room, for the jobs that wait."""
        actors = self.actors.setdefault(kind, [])
        room, can_grow = self._asked(kind, now)
        if room or can_grow:
            self._short_since.pop(kind, None)
        elif not any(actor.starting is None for actor in actors):
            since = self._short_since.setdefault(kind, now)
            if now - since > PATIENCE_SECONDS:
                raise ClusterError(
                    f"tasks ask for an actor with {kind}; no node has that, and the cluster can start none that does"
                )
        busy = sum(bool(actor.jobs) or actor.lost for actor in actors)
        while len(actors) < min(room + can_grow, busy + waiting):
            actors.append(self._actor(kind))

    def _asked(self, kind: Kind, now: float) -> tuple[int, bool]:
        """(actors that the nodes there are have room for, whether a node for another can be started)."""
        asked, room, can_grow = self._room.get(kind, (-math.inf, 0, False))
        if now - asked > WIDTH_SECONDS:
            room = sum(actors_on(resources, kind.gpus, kind.memory) for resources in alive(self.ray))
            can_grow = self.grows and may_start(node_types(), kind.gpus, kind.memory)
            self._room[kind] = (now, room, can_grow)
        return room, can_grow

    def _actor(self, kind: Kind) -> Actor:
        """A new one. It asks for no core: behind a queue of plain tasks it would wait for one, and its GPU with it."""
        asks: dict[str, Any] = {"num_gpus": kind.gpus, "num_cpus": 0}
        if kind.memory:
            asks["memory"] = kind.memory
        handle = (
            self.ray.remote(Worker)
            .options(max_restarts=0, max_concurrency=kind.at_a_time, **asks, **self.options)
            .remote()
        )
        return Actor(handle, handle.ready.remote())

    def _is_up(self, kind: Kind, actor: Actor) -> None:
        try:
            self.ray.get(actor.starting)
        except self.ray.exceptions.RayError as error:
            self._end(kind, actor)
            self.failed_starts += not actor.proven
            if self.failed_starts > RETRIES:
                reason = str(error).strip().splitlines()[0]
                raise ClusterError(
                    f"an actor with {kind} did not start {RETRIES + 1} times: {reason}"
                ) from error
        else:
            actor.starting, actor.used, self.failed_starts = None, time.monotonic(), 0

    def _ask_idle(self) -> None:
        """Let actors without work show that they are alive: a node takes all that it holds along when it dies."""
        for actor in self._all():
            if actor.starting is None and not actor.jobs and not actor.lost:
                actor.starting, actor.proven = actor.handle.ready.remote(), True

    def _starved(self, kind: Kind) -> bool:
        """Whether tasks of another kind wait, and have no actor that is up."""
        return any(
            jobs and not any(actor.starting is None for actor in self.actors.get(other, ()))
            for other, jobs in self.waiting.items()
            if other != kind
        )

    def _end(self, kind: Kind, actor: Actor) -> None:
        self.actors[kind].remove(actor)
        with contextlib.suppress(Exception):
            self.ray.kill(actor.handle)


def ray_failed(error: Exception) -> ClusterError:
    """For an error that is neither a task's nor a worker's."""
    reason = str(error).strip().splitlines()[0]
    return ClusterError(f"Ray failed: {reason} What is recorded stays; the same command continues")
