"""Where do tasks run?

Ray core tasks, a bounded number in flight, nothing of a document in the object store: a task gets a
small specification and returns its record. `Inline` runs the same tasks in this process, for tests
and for looking at one with a debugger.

A crash of a worker and an OSError (a full disk, a lost mount) are retried, an error in the data is
not: it would be the same again.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
import platform
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from winnow.pipelines.records import Record, TaskFunction, perform
from winnow.shards import storage

RETRIES = 3
IN_FLIGHT_PER_WORKER = 3
"""Tasks queued for each worker, so that none waits for the driver."""
WIDTH_SECONDS = 5.0
"""How often a cluster that grows and shrinks is asked how large it is."""
NODE_SECONDS = 240.0
"""What a node may take to show that it is fit for work; compiling every kernel there is takes it half of that."""
OBJECT_STORE_BYTES = 100 << 20
"""Only specifications and records pass through it."""


class ClusterError(RuntimeError):
    """Ray could not start, or what it runs on is gone."""


@dataclass(frozen=True, slots=True)
class Task:
    """One unit of work of a stage."""

    index: int
    function: TaskFunction
    spec: Any
    memory: int = 0
    """Bytes it asks of Ray where that is more than `limits.task_memory`."""


@dataclass(frozen=True, slots=True)
class Job:
    """A task that is to run now."""

    request: int
    """Which of the stages that run side by side it belongs to."""
    location: str
    """Of its stage."""
    task: Task


class TaskError(RuntimeError):
    """A task failed for good; `cause` is what it raised."""

    def __init__(self, job: Job, cause: BaseException):
        super().__init__(f"task {job.task.index}: {cause}")
        self.job = job
        self.cause = cause


class Inline:
    """Runs tasks here, one after another."""

    def map(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Record] | None]:
        """Yield (request, record) as each job is finished. Raises TaskError."""
        for job in jobs:
            try:
                yield job.request, perform(job.location, job.task.index, job.task.function, job.task.spec)
            except Exception as error:
                raise TaskError(job, error) from error

    def close(self) -> None:
        """Nothing to stop."""


def quiet_worker() -> None:
    """One thread for every pool inside a worker: Ray runs as many workers as there are cores."""
    import pyarrow as pa

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)


def _remote(location: str, index: int, function: TaskFunction, spec: Any) -> Record:
    quiet_worker()
    return perform(location, index, function, spec)


def _show_node(probe: str, rehearse: Callable[[], None]) -> tuple[str, bool]:
    """(code version, whether this node sees RUN), after a rehearsal that compiles the kernels."""
    quiet_worker()
    rehearse()
    return code_version(), storage.exists(probe)


def code_version() -> str:
    """What must be the same on every node: Python, and Winnow's own sources."""
    digest = hashlib.sha256()
    for room in ("pipelines", "filters", "tokenize", "shards"):
        spec = importlib.util.find_spec(f"winnow.{room}")
        for folder in (spec and spec.submodule_search_locations) or ():
            for path in sorted(Path(folder).glob("*.py")):
                digest.update(path.read_bytes())
            break
    return f"Python {platform.python_version()}, Winnow sources {digest.hexdigest()[:12]}"


POOLS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "FASTOKENS_BPE_THREADS",
)
ONE_THREAD = dict.fromkeys(POOLS, "1") | {"TOKENIZERS_PARALLELISM": "false"}


class Cluster:
    """Tasks on Ray: a cluster that is there (`address`, or RAY_ADDRESS as in a Ray job), or one started here."""

    def __init__(
        self,
        run: str,
        address: str | None,
        workers: int | None,
        task_memory: int,
        rehearse: Callable[[], None],
    ):
        """`rehearse` is called once on every node before its tasks, so that they find kernels compiled."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        address = address or os.environ.get("RAY_ADDRESS") or None
        if address is None and "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
            # A cluster of our own gets a token of its own; nothing is written into the home directory. Ray reads
            # this when it is imported: with an import before ours it is too late.
            os.environ["RAY_AUTH_MODE"] = "token"
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        import ray

        self.ray = ray
        self.started = not ray.is_initialized()
        if self.started:
            self._start(address, workers)
        self.here = self.started and address is None
        self.limit = workers
        # Workers started here have the settings from us; an environment of its own would cost every
        # worker a second start.
        options: dict[str, Any] = {}
        if not self.here:
            options = {"runtime_env": {"env_vars": ONE_THREAD}, "memory": task_memory}
            self._check_memory(task_memory)
        self.task = ray.remote(_remote).options(
            num_cpus=1, max_retries=RETRIES, retry_exceptions=[OSError], **options
        )
        self.task_memory = task_memory
        self._prepare_nodes(run, rehearse, options)

    @property
    def in_flight(self) -> int:
        """Tasks that are Ray's at a time: some for every core there is now, or as many as `--workers` says."""
        if self.limit and not self.here:
            return self.limit
        cpus = max(int(self.ray.cluster_resources().get("CPU", 1)), 1)
        return cpus * IN_FLIGHT_PER_WORKER

    def _check_memory(self, wanted: int) -> None:
        """A request that no node meets would wait for ever; an empty cluster may still grow one that does."""
        nodes = [n["Resources"] for n in self.ray.nodes() if n["Alive"] and n["Resources"].get("CPU")]
        largest = max((n.get("memory", 0) for n in nodes), default=None)
        if largest is not None and largest < wanted:
            raise ClusterError(
                f"a task asks for {wanted:,} bytes of memory (limits.task_memory), the largest node has "
                f"{int(largest):,}; lower it, or start larger nodes"
            )

    def _start(self, address: str | None, workers: int | None) -> None:
        here: dict[str, Any] = {}
        if address is None:
            here = {
                "num_cpus": workers or os.cpu_count() or 1,
                "num_gpus": 0,
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES,
                "_node_ip_address": "127.0.0.1",
            }
        before = {name: os.environ.get(name) for name in ONE_THREAD}
        os.environ.update(ONE_THREAD)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            # "local" and not None, with which Ray joins whatever cluster this machine happens to run.
            self.ray.init(
                address=address or "local", logging_level=logging.ERROR, log_to_driver=False, **here
            )
        except Exception as error:
            where = f"to Ray at {address}" if address else "Ray here"
            verb = "connect" if address else "start"
            raise ClusterError(f"could not {verb} {where}: {str(error).strip().splitlines()[0]}") from error
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
            if threading.current_thread() is threading.main_thread():
                # Ray puts a SIGTERM handler of its own in place, which prints a native stack.
                for number, handler in handlers.items():
                    signal.signal(number, handler)

    def _prepare_nodes(self, run: str, rehearse: Callable[[], None], options: dict[str, Any]) -> None:
        """Let every node show that it runs the same code and sees RUN, and compile its kernels once.

        Raises ClusterError naming what differs, or when a node does not answer within `NODE_SECONDS`.
        """
        ray = self.ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        probe = storage.join(run, f".probe-{secrets.token_hex(8)}")
        storage.put_bytes(probe, b"")
        try:
            warm = ray.remote(_show_node)
            nodes = [n for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU")]
            shown = [
                warm.options(
                    num_cpus=1,
                    scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
                    **options,
                ).remote(probe, rehearse)
                for node in nodes
            ]
            if shown:
                _, late = ray.wait(shown, num_returns=len(shown), timeout=NODE_SECONDS)
                if late:
                    raise ClusterError(
                        f"{len(late)} of {len(nodes)} nodes did not answer in {NODE_SECONDS:.0f} s"
                    )
            mine = code_version()
            for node, (version, sees_run) in zip(nodes, ray.get(shown), strict=True):
                where = node["NodeManagerAddress"]
                if version != mine:
                    raise ClusterError(f"node {where} runs {version}, the driver {mine}")
                if not sees_run:
                    raise ClusterError(f"{run} is not shared by the nodes: {where} does not see it")
        except ray.exceptions.RayError as error:
            raise ClusterError(f"a node failed: {str(error).strip().splitlines()[-1]}") from error
        finally:
            storage.remove(probe)

    def map(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Record] | None]:
        """Yield (request, record) as jobs finish, in no order; None at least once a second.

        Raises TaskError, ClusterError.
        """
        waiting: dict[Any, Job] = {}
        source = iter(jobs)
        exhausted = False
        width, asked = self.in_flight, time.monotonic()
        while True:
            while not exhausted and len(waiting) < width:
                job = next(source, None)
                if job is None:
                    exhausted = True
                    break
                task = job.task
                waiting[self._remote(task).remote(job.location, task.index, task.function, task.spec)] = job
            if not waiting:
                return
            if time.monotonic() - asked > WIDTH_SECONDS:
                width, asked = self.in_flight, time.monotonic()
            ready, _ = self.ray.wait(list(waiting), num_returns=1, timeout=0.2)
            if not ready:
                yield None
                continue
            for ref in ready:
                job = waiting.pop(ref)
                yield job.request, self._result(ref, job)

    def _remote(self, task: Task) -> Any:
        """Ray's form of a task, with the memory it needs."""
        if self.here or task.memory <= self.task_memory:
            return self.task
        self._check_memory(task.memory)
        return self.task.options(memory=task.memory)

    def _result(self, ref: Any, job: Job) -> Record:
        exceptions = self.ray.exceptions
        try:
            return self.ray.get(ref)
        except exceptions.RayTaskError as error:
            raise TaskError(job, error.cause or error) from error
        except (
            exceptions.WorkerCrashedError,
            exceptions.OutOfMemoryError,
            exceptions.NodeDiedError,
        ) as error:
            message = str(error).strip().splitlines()[0]
            died = RuntimeError(f"its worker died {RETRIES + 1} times ({message})")
            raise TaskError(job, died) from error
        except exceptions.RayError as error:
            reason = str(error).strip().splitlines()[0]
            raise ClusterError(
                f"Ray failed: {reason} What is recorded stays; the same command continues"
            ) from error

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        if self.started:
            with contextlib.suppress(Exception):
                self.ray.shutdown()
