"""What is an attempt that failed: one to make again, the end of a task, or the end of the run?

Nothing is left to Ray's own retries: they are not seen, they count an attempt that was lost with its node like one
that a task brought about, and they do not wait. A worker that died, a kill for want of memory and an OSError (a full
disk, a lost mount, an object store that does not answer) are tried again `RETRIES` times; an error in the data is
not: it would be the same again. What was lost with its node is no fault of the task.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from winnow.pipelines.agreement import Disagreement
from winnow.pipelines.capacity import ClusterError
from winnow.pipelines.jobs import Job, Retried, TaskError

RETRIES = 3
NODE_LOSSES = 20
"""Attempts of a task that may be lost with their nodes: on preemptible ones many are, but not all of them."""
PAUSES = (1.0, 4.0, 16.0)
"""Seconds before the next attempt after the first, second, third (`RETRIES`) OSError: what is full or away needs
time."""

DIED, LOST, MEMORY, FILES = "worker died", "node lost", "out of memory", "OSError"
"""The reasons of `Retried`."""

_ADDRESS = re.compile(r"(?:\bip=|\b[iI][pP]: )([0-9a-fA-F.:]*[0-9a-fA-F])")
HERE = "127.0.0.1"
"""A node of this address is this machine, which need not be named."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One that failed and is made again."""

    retried: Retried
    pause: float = 0.0
    """Seconds to wait before."""


@dataclass(slots=True)
class Attempts:
    """How often the tasks of one set of stages have failed."""

    exceptions: Any
    """`ray.exceptions`."""
    failed: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Attempts that count, by job."""
    lost: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Those that were lost with their nodes."""

    def after(self, job: Job, error: Exception, node_lost: bool = False, memory: int = 0) -> Attempt:
        """What follows from a job's error that Ray raised: another attempt.

        node_lost : the worker's node is known to be gone.
        memory : bytes that the attempt asked for, for the message.

        Raises TaskError where it failed for good, ClusterError where the cluster did.
        """
        cause: BaseException = error
        if isinstance(error, self.exceptions.RayTaskError):
            cause = getattr(error, "cause", None) or error
        reason = self._reason(error, cause, node_lost)
        if reason is None:
            raise _failed(job, cause, error) from error
        counter, most = (self.lost, NODE_LOSSES) if reason == LOST else (self.failed, RETRIES)
        counter[job.key] += 1
        if counter[job.key] > most:
            raise _failed(job, _summary(reason, counter[job.key], cause, memory), error) from error
        pause = PAUSES[counter[job.key] - 1] if reason == FILES else 0.0
        return Attempt(Retried(job, reason, said(cause)), pause)

    def _reason(self, error: Exception, cause: BaseException, node_lost: bool) -> str | None:
        """Why it is made again; None: it is not. Raises ClusterError."""
        known = self.exceptions
        if isinstance(error, known.RayTaskError):
            if isinstance(cause, Disagreement):
                raise ClusterError(str(cause)) from error
            if isinstance(cause, OSError):
                return None if getattr(cause, "permanent", False) else FILES
            return MEMORY if isinstance(cause, MemoryError) else None
        if isinstance(error, known.OutOfMemoryError):
            return MEMORY
        # A record that lay with the node that made it is gone with it.
        if isinstance(error, (known.NodeDiedError, known.ObjectLostError)):
            return LOST
        # An environment of variables alone fails where a node, or its agent, is about to go.
        if isinstance(error, (known.WorkerCrashedError, known.RayActorError, known.RuntimeEnvSetupError)):
            return LOST if node_lost else DIED
        raise ray_failed(error) from error


def ray_failed(error: Exception) -> ClusterError:
    """For an error that is neither a task's nor a worker's."""
    return ClusterError(f"Ray failed: {said(error)}. What is recorded stays; the same command continues")


def node_of(error: BaseException) -> str:
    """The address of the node that an error of Ray's names; empty where it names none."""
    named = _ADDRESS.search(str(error))
    return named[1] if named and named[1] != HERE else ""


def _failed(job: Job, cause: BaseException, error: Exception) -> TaskError:
    """For good, with the node."""
    return TaskError(job, cause, node_of(error))


def _summary(reason: str, times: int, cause: BaseException, memory: int) -> BaseException:
    """The cause of a task's end: the last OSError itself, or what became of the attempts."""
    if reason == FILES:
        return cause
    if reason == MEMORY:
        asked = f" though it asked for {memory:,} bytes" if memory else ""
        return RuntimeError(
            f"it was out of memory {times} times{asked} (limits.task_memory); raise that, or lower "
            f"limits.split_bytes or limits.partition_bytes ({said(cause)})"
        )
    if reason == LOST:
        return RuntimeError(f"its node was lost {times} times ({said(cause)})")
    return RuntimeError(
        f"its worker died {times} times ({said(cause)}); where the system kills processes for want of memory, raise "
        "limits.task_memory"
    )


def said(error: BaseException) -> str:
    """What an error says, in a sentence where it is Ray's own, with the node where it names one further on."""
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    if isinstance(error, OSError):
        return line
    sentence = line.split(". ", 1)[0].removesuffix(".")
    node = node_of(error)
    return f"{sentence} (node {node})" if node and node not in sentence else sentence
