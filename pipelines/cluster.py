"""Where do tasks run?

Ray core tasks, a bounded number in flight, nothing of a document in the object store: a task gets a
small specification and returns its record. Those that ask for GPUs run on actors (actors.py).
`Inline` runs the same tasks in this process, for tests and for looking at one with a debugger.

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
from dataclasses import replace
from pathlib import Path
from typing import Any

from winnow.pipelines.actors import (
    RETRIES,
    WIDTH_SECONDS,
    Actors,
    ClusterError,
    kinds,
    quiet_worker,
    ray_failed,
)
from winnow.pipelines.capacity import Capacity, capacity_of, usable_gpus
from winnow.pipelines.jobs import Answer, Job, Queue, Task, TaskError
from winnow.pipelines.records import Record, TaskFunction, perform
from winnow.shards import storage

WAIT_SECONDS = 0.2
"""After which those who watch the run hear of it again."""
IN_FLIGHT_PER_WORKER = 3
"""Tasks queued for each worker, so that none waits for the driver."""
NODE_SECONDS = 240.0
"""What a node may take to show that it is fit for work; compiling every kernel there is takes it half of that."""
OBJECT_STORE_BYTES = 100 << 20
"""Only specifications and records pass through it."""


class Inline:
    """Runs tasks here, one after another."""

    def map(self, jobs: Iterable[Job]) -> Iterator[Answer]:
        """Yield (request, record) as each job is finished. Raises TaskError."""
        queue = Queue(jobs)
        while (job := queue.take()) is not None:
            task = job.task
            try:
                record = perform(job.location, task.index, task.function, task.spec)
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
        self.options = options
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

    def map(self, jobs: Iterable[Job]) -> Iterator[Answer]:
        """Yield (request, record) as jobs finish, in no order; None at least once a second.

        Raises TaskError, ClusterError.
        """
        waiting: dict[Any, Job] = {}
        jobs = list(jobs)
        queue = Queue(jobs)
        wanted = kinds(jobs, self.task_memory, asks=not self.here)
        actors = Actors(self.ray, wanted, self.options, grows=not self.here)
        width, asked = self.in_flight, time.monotonic()
        try:
            actors.begin(jobs)
            while True:
                while queue.plain and len(waiting) < width:
                    job = queue.plain.popleft()
                    task = job.task
                    ref = self._remote(task).remote(job.location, task.index, task.function, task.spec)
                    waiting[ref] = job
                actors.advance(queue.on_gpus)
                if not waiting and not actors.busy:
                    return
                if time.monotonic() - asked > WIDTH_SECONDS:
                    width, asked = self.in_flight, time.monotonic()
                if not (promises := [*actors.promises(), *waiting]):
                    time.sleep(WAIT_SECONDS)
                    yield None
                    continue
                ready, _ = self.ray.wait(promises, num_returns=1, timeout=WAIT_SECONDS)
                if not ready:
                    yield None
                    continue
                settled: tuple[Job, Record] | None
                if (promise := ready[0]) in waiting:
                    job = waiting.pop(promise)
                    settled = job, self._result(promise, job)
                else:
                    settled = actors.settle(promise)
                if settled is not None:
                    queue.recorded(settled[0])
                    yield settled[0].request, settled[1]
        finally:
            actors.close()

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
            raise ray_failed(error) from error

    def capacity(self) -> Capacity:
        """Of the cluster; on a Ray of our own only GPUs that torch can use count."""
        found = capacity_of(self.ray)
        if self.here and found.gpus:
            gpus = min(found.gpus, usable_gpus())
            found = replace(found, gpus=gpus, most_gpus=gpus)
        return found

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        if self.started:
            with contextlib.suppress(Exception):
                self.ray.shutdown()
