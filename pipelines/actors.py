"""Who works on the GPUs?

Tasks that ask for GPUs run on actors: processes that stay, so that a model is loaded once for many tasks. There are as
many as the cluster's GPUs allow, and on a cluster that can grow one more is asked for while work waits. Each runs two
tasks at a time, so that one reads and writes while the other computes. They end with the work, or when idle.

A task whose attempt failed is tried again (retries.py) with an actor for itself, so that a task which kills its actor
is not taken for the one beside it. Nothing is left to Ray's own restarts: with them it would not be seen which of the
two had how many attempts.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from winnow.pipelines.agreement import Disagreement, Pact
from winnow.pipelines.capacity import (
    WIDTH_SECONDS,
    ClusterError,
    Patience,
    actors_on,
    alive,
    largest,
    may_start,
    node_types,
    nodes_to_come,
)
from winnow.pipelines.jobs import Job, Retried
from winnow.pipelines.records import Record
from winnow.pipelines.retries import NODE_LOSSES, PAUSES, RETRIES, Attempts, said
from winnow.pipelines.worker import Worker

AT_A_TIME = 2
"""Tasks of an actor."""
IDLE_SECONDS = 60.0
"""After which an actor without work gives its GPU back."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Actors that tasks which ask for the same share of a GPU have in common."""

    gpus: float
    memory: int
    """Bytes that an actor asks for."""
    at_a_time: int
    """Tasks."""

    def __str__(self) -> str:
        return f"{self.gpus:g} GPU and {self.memory:,} bytes of memory"


def kinds(jobs: Iterable[Job], task_memory: int) -> dict[float, Kind]:
    """The kinds of actors for jobs, by the GPUs that their tasks ask for.

    A task that needs more memory than `task_memory` has its actor for itself.
    """
    found: dict[float, Kind] = {}
    for gpus in sorted({job.task.gpus for job in jobs if job.task.gpus}):
        most = max(job.task.memory for job in jobs if job.task.gpus == gpus)
        at_a_time = 1 if most > task_memory else AT_A_TIME
        found[gpus] = Kind(gpus, max(most, task_memory) * at_a_time, at_a_time)
    return found


@dataclass(eq=False, slots=True)
class Actor:
    """An actor as its driver sees it."""

    handle: Any
    starting: Any
    """Ray's promise that it comes up; None: it has."""
    begun: float
    """When it was asked for."""
    dead: frozenset[str]
    """Nodes that were gone then."""
    jobs: dict[Any, Job] = field(default_factory=dict)
    """What it works on, by Ray's promise of the record."""
    used: float = field(default_factory=time.monotonic)
    """When it last had, or was waited for by, work."""
    node: str = ""
    """The id of the node that it is on, once it is up."""
    lost: bool = False
    proven: bool = False
    """It was up once: that it is gone says nothing against starting another."""


class Actors:
    """The actors of one set of stages."""

    def __init__(
        self,
        ray: Any,
        kinds: Mapping[float, Kind],
        options: Mapping[str, Any],
        attempts: Attempts,
        pact: Pact,
        patience: Patience,
        grows: bool,
    ):
        """`options` are those of plain tasks; `grows`: whether somebody may add nodes."""
        self.ray = ray
        self.kinds = kinds
        self.options = {name: value for name, value in options.items() if name != "memory"}
        self.attempts, self.pact, self.patience = attempts, pact, patience
        self.grows = grows
        self.waiting: dict[Kind, deque[Job]] = {}
        self.paused: list[tuple[float, tuple[int, int], Job]] = []
        """A heap of (when, key, job) that are to be begun again later."""
        self.actors: dict[Kind, list[Actor]] = {}
        self.failed_starts = self.lost_starts = 0
        """In a row: that failed, those at one time counted once, and that were lost with their nodes."""
        self.failed_last = self.starts_after = -math.inf
        """When a failed start was counted, and until when none is tried again."""
        self._room: dict[Kind, tuple[float, int, bool]] = {}

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
        return bool(self.paused) or any(self.waiting.values()) or any(actor.jobs for actor in self._all())

    @property
    def running(self) -> int:
        """Tasks that actors have."""
        return sum(len(actor.jobs) for actor in self._all())

    def advance(self, ready: deque[Job]) -> None:
        """Take all jobs that are ready, hand out what there is room for, start and end actors. Raises ClusterError."""
        while ready:
            job = ready.popleft()
            self.waiting.setdefault(self.kinds[job.task.gpus], deque()).append(job)
        now = time.monotonic()
        while self.paused and self.paused[0][0] <= now:
            job = heapq.heappop(self.paused)[2]
            self.waiting[self.kinds[job.task.gpus]].appendleft(job)
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

    def settle(self, promise: Any) -> tuple[Job, Record] | Retried | None:
        """What a promise that is kept brought; None where it was only an actor.

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
        except exceptions.RayError as error:
            gone = not isinstance(error, exceptions.RayTaskError)
            if gone:
                actor.lost = True
                self._ask_idle()
            attempt = self.attempts.after(job, error, gone and self._node_lost(actor), kind.memory)
            if gone and not actor.jobs:
                self._end(kind, actor)
        if attempt.pause:
            heapq.heappush(self.paused, (time.monotonic() + attempt.pause, job.key, job))
        else:
            self.waiting[kind].appendleft(job)
        return attempt.retried

    def close(self) -> None:
        """End them all: their GPUs are free."""
        for kind, actors in self.actors.items():
            for actor in [*actors]:
                self._end(kind, actor)

    def _all(self) -> list[Actor]:
        return [actor for actors in self.actors.values() for actor in actors]

    def _with_room(self, kind: Kind, job: Job) -> Actor | None:
        """The one with the least to do of those that can take a job."""
        failed = self.attempts.failed
        most = 1 if failed[job.key] else kind.at_a_time
        able = [
            actor
            for actor in self.actors.get(kind, ())
            if actor.starting is None
            and not actor.lost
            and len(actor.jobs) < most
            and not any(failed[beside.key] for beside in actor.jobs.values())
        ]
        return min(able, key=lambda actor: len(actor.jobs), default=None)

    def _submit(self, actor: Actor, job: Job) -> Any:
        task = job.task
        return actor.handle.perform.remote(job.location, task.index, task.function, job.spec)

    def _start(self, kind: Kind, waiting: int, now: float) -> None:
        """Ask for actors, as far as there is room, for the jobs that wait."""
        actors = self.actors.setdefault(kind, [])
        room, can_grow = self._asked(kind, now)
        request = f"tasks ask for an actor with {kind}"
        if room or any(actor.starting is None for actor in actors):
            self.patience.met(request)
        else:
            coming = can_grow or (self.grows and nodes_to_come())
            self.patience.lacks(request, largest(alive(self.ray), "GPU"), coming, now)
            # One that is asked for is what an autoscaler of which nothing is known goes by.
            can_grow = self.grows
        if now < self.starts_after:
            return
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
        asks: dict[str, Any] = {"num_gpus": kind.gpus, "num_cpus": 0, "memory": kind.memory}
        handle = (
            self.ray.remote(Worker)
            .options(max_restarts=0, max_concurrency=kind.at_a_time, **asks, **self.options)
            .remote(self.pact)
        )
        return Actor(handle, handle.ready.remote(), time.monotonic(), self._dead())

    def _is_up(self, kind: Kind, actor: Actor) -> None:
        try:
            actor.node = self.ray.get(actor.starting)
        except self.ray.exceptions.RayError as error:
            self._end(kind, actor)
            if not actor.proven:
                self._failed_start(kind, actor, error)
        else:
            actor.starting, actor.used = None, time.monotonic()
            self.failed_starts = self.lost_starts = 0

    def _failed_start(self, kind: Kind, actor: Actor, error: Exception) -> None:
        """See whether another may be tried, and when. Raises ClusterError."""
        exceptions = self.ray.exceptions
        in_task = isinstance(error, exceptions.RayTaskError)
        cause = getattr(error, "cause", None) or error
        if in_task and isinstance(cause, Disagreement):
            raise ClusterError(str(cause)) from error
        gone = isinstance(error, (exceptions.NodeDiedError, exceptions.ActorUnschedulableError))
        if gone or (not in_task and self._dead() - actor.dead):
            self.lost_starts += 1
        elif actor.begun > self.failed_last:
            self.failed_starts += 1
            self.failed_last = time.monotonic()
            if in_task and isinstance(cause, OSError) and self.failed_starts <= RETRIES:
                self.starts_after = self.failed_last + PAUSES[self.failed_starts - 1]
        for times, most in ((self.failed_starts, RETRIES), (self.lost_starts, NODE_LOSSES)):
            if times > most:
                raise ClusterError(
                    f"an actor with {kind} did not start {times} times: {said(cause)}"
                ) from error

    def _dead(self) -> frozenset[str]:
        return frozenset(node["NodeID"] for node in self.ray.nodes() if not node["Alive"])

    def _node_lost(self, actor: Actor) -> bool:
        """Whether the node of an actor that is gone is gone, too."""
        return not any(node["NodeID"] == actor.node for node in self.ray.nodes() if node["Alive"])

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
