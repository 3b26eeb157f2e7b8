"""Is every node of a cluster fit for the run?

One task on each, before the others: it agrees with the driver (agreement.py), sees RUN and can write there, has room
in scratch, and compiles the run's kernels. Nodes that come later are looked at by their workers' first tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from winnow.pipelines import agreement
from winnow.pipelines.agreement import Disagreement, Pact
from winnow.pipelines.capacity import ClusterError, fits
from winnow.pipelines.numbers import show_bytes
from winnow.pipelines.worker import quiet_worker
from winnow.shards import scratch, storage

NODE_SECONDS = 240.0
"""What a node may take to show that it is fit for work; compiling every kernel there is takes it half of that."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a node says of itself."""

    fault: str = ""
    """Why it is not fit."""
    free: int = 0
    """Bytes in its scratch."""
    directory: str = ""
    """Of its scratch."""


def _show_node(pact: Pact, node: str, where: str) -> Shown:
    quiet_worker()
    try:
        agreement.agree(pact, where)
        if pact.place:
            storage.put_bytes(pact.of_node(node), b"")
        free = scratch.free_bytes()
    except Disagreement as error:
        return Shown(str(error))
    except Exception as error:  # of libraries that object stores bring, too, which the driver may not know
        return Shown(f"node {where} cannot work on {pact.run}: {type(error).__name__}: {error}")
    agreement.rehearse(pact, always=True)
    return Shown("", free, scratch.directory())


def check(
    ray: Any, pact: Pact, options: Mapping[str, Any], scratch_bytes: int, at_a_time: int | None
) -> None:
    """Let every node that a task fits on show that it is fit, and compile the kernels once.

    options : of tasks. scratch_bytes : that a task needs. at_a_time : the most tasks of the run; None: as many as fit.

    Raises ClusterError naming the node and what is wrong, or when one does not answer within `NODE_SECONDS`.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    show = ray.remote(_show_node)
    shown = {}
    for node in ray.nodes():
        if not node["Alive"] or not fits(node["Resources"], 1, options.get("memory", 0)):
            continue
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        # It asks for nothing: behind the tasks of others it would wait for as long as they take.
        asks = {**options, "num_cpus": 0, "memory": None, "max_retries": 1, "scheduling_strategy": strategy}
        promise = show.options(**asks).remote(pact, node["NodeID"], node["NodeManagerAddress"])
        shown[promise] = node
    if not shown:
        return
    _, late = ray.wait([*shown], num_returns=len(shown), timeout=NODE_SECONDS)
    if late:
        names = ", ".join(sorted(shown[promise]["NodeManagerAddress"] for promise in late)[:8])
        raise ClusterError(
            f"{len(late)} of {len(shown)} nodes did not answer in {NODE_SECONDS:.0f} s: {names}"
        )
    for promise, node in shown.items():
        where = node["NodeManagerAddress"]
        try:
            found = ray.get(promise)
        except (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError):
            continue  # it went away meanwhile, as preemptible nodes do
        except ray.exceptions.RayError as error:
            raise ClusterError(f"node {where} is not fit for work: {_last_line(error)}") from error
        if found.fault:
            raise ClusterError(found.fault)
        if pact.place and not storage.exists(pact.of_node(node["NodeID"])):
            raise ClusterError(
                f"{pact.run} is not shared by the nodes: the driver does not see what {where} wrote there"
            )
        _check_scratch(where, node["Resources"], found, scratch_bytes, options.get("memory", 0), at_a_time)


def _check_scratch(
    where: str, resources: Mapping[str, float], found: Shown, each: int, memory: int, at_a_time: int | None
) -> None:
    """Raises ClusterError where a node has too little scratch for the tasks that it runs at a time."""
    tasks = tasks_on(resources, memory)
    tasks = max(min(tasks, at_a_time or tasks), 1)
    if found.free < each * tasks:
        raise ClusterError(
            f"node {where}: the scratch directory {found.directory} has {show_bytes(found.free)} free, {tasks} tasks "
            f"at a time need up to {show_bytes(each * tasks)}; free some, name another with --scratch, or lower "
            "`limits`"
        )


def tasks_on(resources: Mapping[str, float], memory: int) -> int:
    """How many plain tasks a node runs at a time."""
    cpus = resources.get("CPU", 0.0)
    return int(min(cpus, resources.get("memory", 0.0) // memory) if memory else cpus)


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
