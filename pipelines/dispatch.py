"""What does Ray have to do now, and what becomes of it?

As many tasks as keep its workers busy, the rest waits here. Whenever something is finished, all that is finished is
taken at once: asking Ray costs as much as it has promises, so it is asked once for many of them. No promise is kept
longer than it takes to read it.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from winnow.pipelines.actors import Actors, kinds
from winnow.pipelines.capacity import (
    WIDTH_SECONDS,
    alive,
    fits,
    largest,
    may_start,
    node_types,
    nodes_to_come,
)
from winnow.pipelines.jobs import Answer, Job, Queue, Retried
from winnow.pipelines.records import Record
from winnow.pipelines.retries import MEMORY, Attempts

if TYPE_CHECKING:
    from winnow.pipelines.cluster import Cluster

WAIT_SECONDS = 0.2
"""After which those who watch the run hear of it again."""


class Dispatch:
    """The jobs of one set of stages."""

    def __init__(self, cluster: Cluster, jobs: Sequence[Job]):
        self.cluster, self.ray = cluster, cluster.ray
        self.queue = Queue(jobs)
        self.attempts = Attempts(self.ray.exceptions)
        self.memory: dict[tuple[int, int], int] = {}
        """That a job which is not done asks for after it was killed for want of it."""
        self.waiting: dict[Any, tuple[Job, int]] = {}
        """(job, nodes that were known to be dead when it was begun) by Ray's promise of the record."""
        self.paused: list[tuple[float, tuple[int, int], Job]] = []
        """A heap of (when, key, job) that are to be begun again later."""
        if asked := self._most():
            cluster.check_request(asked)
        cluster.patience.forget()
        self.asked = ""
        """What was last seen to be met, or not, in words."""
        wanted = kinds(jobs, cluster.task_memory)
        self.actors = Actors(
            self.ray, wanted, cluster.options, self.attempts, cluster.pact, cluster.patience, not cluster.here
        )
        self.width, self.looked = cluster.in_flight, float("-inf")
        self.dead: set[str] = set()
        """Nodes that are known to be; there are never fewer."""

    def hand_out(self) -> bool:
        """Give Ray as much as it may have; False when all is done. Raises ClusterError."""
        now = time.monotonic()
        while self.paused and self.paused[0][0] <= now:
            self.queue.plain.appendleft(heapq.heappop(self.paused)[2])
        if now - self.looked > WIDTH_SECONDS:
            self.width, self.looked = self.cluster.in_flight, now
            self._bury()
            if asked := self._most():
                self._look(asked, now)
        while self.queue.plain and len(self.waiting) < self.width:
            job = self.queue.plain.popleft()
            task = job.task
            begin = self.cluster.asking(self._memory(job)).remote
            promise = begin(job.location, task.index, task.function, job.spec)
            self.waiting[promise] = (job, len(self.dead))
        self.actors.advance(self.queue.on_gpus)
        self.cluster.busy = len(self.waiting) + self.actors.running
        return bool(self.waiting or self.paused or self.actors.busy)

    def wait(self) -> list[Any]:
        """All promises that are kept, as soon as there is one; none after a while."""
        promises = [*self.actors.promises(), *self.waiting]
        if not promises:
            time.sleep(WAIT_SECONDS)
            return []
        ready, _ = self.ray.wait(promises, num_returns=1, timeout=WAIT_SECONDS, fetch_local=False)
        if ready:
            ready, _ = self.ray.wait(promises, num_returns=len(promises), timeout=0, fetch_local=False)
        return ready

    def settle(self, ready: Sequence[Any]) -> Iterator[Answer]:
        """What promises that are kept brought. Raises TaskError, ClusterError."""
        plain = [promise for promise in ready if promise in self.waiting]
        of_actors = [promise for promise in ready if promise not in self.waiting]
        records: list[Record] | None
        try:
            records = self.ray.get(plain) if plain else []
        except Exception:  # of which one, and what it was, is seen one by one
            records = None
        for i, promise in enumerate(plain):
            job, dead = self.waiting.pop(promise)
            answer = self._result(promise, job, dead) if records is None else (job.request, records[i])
            if not isinstance(answer, Retried):
                self.memory.pop(job.key, None)
                self.queue.recorded(job)
            yield answer
        for promise in of_actors:
            if (settled := self.actors.settle(promise)) is None:
                continue
            if isinstance(settled, Retried):
                yield settled
            else:
                self.queue.recorded(settled[0])
                yield settled[0].request, settled[1]

    def _memory(self, job: Job) -> int:
        """Bytes that a plain job asks for."""
        return self.memory.get(job.key) or max(job.task.memory, self.cluster.task_memory)

    def _most(self) -> int:
        """Bytes that the largest plain job asks for of those that are not done; 0 where there is none."""
        under_way = (job for job, _ in self.waiting.values())
        left = chain(self.queue.unfinished(), under_way, (job for _, _, job in self.paused))
        most = max((job.task.memory for job in left), default=None)
        return 0 if most is None else max(most, self.cluster.task_memory, *self.memory.values())

    def _result(self, promise: Any, job: Job, dead: int) -> tuple[int, Record] | Retried:
        try:
            return job.request, self.ray.get(promise)
        except self.ray.exceptions.RayError as error:
            asked = self._memory(job)
            attempt = self.attempts.after(job, error, self._node_lost(error, dead), asked)
        if attempt.retried.reason == MEMORY:
            self.memory[job.key] = self._more(asked)
        if attempt.pause:
            heapq.heappush(self.paused, (time.monotonic() + attempt.pause, job.key, job))
        else:
            self.queue.plain.appendleft(job)
        return attempt.retried

    def _more(self, asked: int) -> int:
        """Twice as much memory, if a node has that; else the most that one has, for the task to be alone there."""
        has = max((int(node.get("memory", 0)) for node in alive(self.ray) if node.get("CPU")), default=0)
        return max(min(2 * asked, has), asked)

    def _node_lost(self, error: Exception, before: int) -> bool:
        """Whether a worker that died may have gone with its node: Ray does not say where it was.

        before : nodes that were known to be dead when its task was begun.
        """
        if not isinstance(error, self.ray.exceptions.WorkerCrashedError):
            return False
        self._bury()
        return len(self.dead) > before

    def _bury(self) -> None:
        # Ray forgets the dead in time.
        self.dead |= {node["NodeID"] for node in self.ray.nodes() if not node["Alive"]}

    def _look(self, memory: int, now: float) -> None:
        """See that a node can run the largest of what is left. Raises ClusterError."""
        there = alive(self.ray)
        patience, asked = self.cluster.patience, request(memory)
        if asked != self.asked:
            patience.met(self.asked)
            self.asked = asked
        if any(fits(node, 1, memory) for node in there):
            patience.met(asked)
            return
        can_grow = not self.cluster.here and (may_start(node_types(), 0, memory, 1) or nodes_to_come())
        patience.lacks(asked, largest(there, "CPU"), can_grow, now)


def request(memory: int) -> str:
    """What a plain task asks for, in words."""
    return f"tasks ask for 1 CPU and {memory:,} bytes of memory (limits.task_memory, or more where a step needs it)"
