"""What does a worker process do, before its first task and with each?"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from typing import Any

from winnow.pipelines import agreement
from winnow.pipelines.agreement import Pact
from winnow.pipelines.records import Record, TaskFunction, perform

BROKEN_DEVICE = "AcceleratorError"
"""torch's error for a device that failed: memory it could not correct, an illegal address, a lost bus."""


def quiet_worker() -> None:
    """One thread for every pool of Arrow's inside a worker: Ray runs as many workers as there are cores."""
    import pyarrow as pa

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)


_entered: set[str] = set()


def enter(pact: Pact) -> None:
    """Before a worker process's first task of a run: agree with the driver, and wait until its kernels are compiled.

    Raises Disagreement, OSError.
    """
    if pact.place in _entered:
        return
    from ray.util import get_node_ip_address

    quiet_worker()
    agreement.agree(pact, get_node_ip_address())
    agreement.rehearse(pact)
    _entered.add(pact.place)


def task_function(pact: Pact) -> Callable[[str, int, TaskFunction, Any], Record]:
    """What a worker does with a task. Ray hands a function to each process once: the pact is no part of a task."""

    def _remote(location: str, index: int, function: TaskFunction, spec: Any) -> Record:
        enter(pact)
        return perform(location, index, function, spec)

    _remote.__qualname__ = "_remote"
    return _remote


class Worker:
    """What an actor does."""

    def __init__(self, pact: Pact) -> None:
        self.pact = pact

    def ready(self) -> str:
        """The id of its node. When that is known the actor is up, and of one mind with the driver."""
        import ray

        enter(self.pact)
        return ray.get_runtime_context().get_node_id()

    def perform(self, location: str, index: int, function: TaskFunction, spec: Any) -> Record:
        """Run a task. One that finds its device broken ends the actor: nothing in this process can use it any more."""
        try:
            return perform(location, index, function, spec, resource.RUSAGE_THREAD)
        except Exception as error:
            if type(error).__name__ == BROKEN_DEVICE:
                os._exit(1)
            raise
