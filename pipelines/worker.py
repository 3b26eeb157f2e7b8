"""What does a worker process do, before its first task and with each?"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable, Iterator
from typing import Any

from winnow.pipelines import agreement
from winnow.pipelines.agreement import Pact
from winnow.pipelines.records import Record, TaskFunction, perform
from winnow.shards.storage_errors import scrub

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


@contextlib.contextmanager
def portable_errors() -> Iterator[None]:
    """Let nothing out that the driver could not be told of: an exception that cannot be pickled and rebuilt becomes
    an OSError, a MemoryError or a RuntimeError that says the same, by which the driver knows whether to try again.
    """
    try:
        yield
    except Exception as error:
        if _portable(error):
            raise
        kind = next((k for k in (OSError, MemoryError) if isinstance(error, k)), RuntimeError)
        plain: Any = kind(scrub(f"{type(error).__name__}: {error}"))
        if getattr(error, "permanent", False):
            plain.permanent = True
        raise plain.with_traceback(error.__traceback__) from None


def _portable(error: Exception) -> bool:
    from ray import cloudpickle

    try:
        return isinstance(cloudpickle.loads(cloudpickle.dumps(error)), type(error))
    except Exception:  # an exception's own code
        return False


def task_function(pact: Pact) -> Callable[[str, int, TaskFunction, Any], Record]:
    """What a worker does with a task. Ray hands a function to each process once: the pact is no part of a task."""

    def _remote(location: str, index: int, function: TaskFunction, spec: Any) -> Record:
        with portable_errors():
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

        with portable_errors():
            enter(self.pact)
        return ray.get_runtime_context().get_node_id()

    def perform(self, location: str, index: int, function: TaskFunction, spec: Any) -> Record:
        """Run a task. One that finds its device broken ends the actor: nothing in this process can use it any more."""
        with portable_errors():
            try:
                return perform(location, index, function, spec, resource.RUSAGE_THREAD)
            except Exception as error:
                if type(error).__name__ == BROKEN_DEVICE:
                    os._exit(1)
                raise
