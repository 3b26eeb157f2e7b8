"""What does a cluster have, and what can it grow to?

An autoscaling cluster shows no GPU before one is asked for: what it may start is read from the configuration that its
autoscaler leaves with Ray. Not every autoscaler does (Ray 2.60: those of `ray up` and KubeRay do not); of those it is
seen whether they are starting nodes. Elsewhere the nodes there are count.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

UNBOUNDED = math.inf
WIDTH_SECONDS = 5.0
"""How often a cluster that grows and shrinks is asked how large it is."""
PATIENCE_SECONDS = 30.0
"""How long no node may be able to meet a request, and none be on its way, before the run stops."""
SAY_SECONDS = 60.0
"""How often it is said that a node is waited for which the cluster may start."""
SHARE = 0.8
"""Of a machine's memory that tasks on a Ray of our own may ask for: Ray's own processes and the driver need some."""
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where a container says how much memory it has, in the second and the first version of control groups."""


class ClusterError(RuntimeError):
    """Ray could not start, what it runs on is gone, or it is not what the run needs."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """Cores and GPUs, those there are now and the most there can ever be."""

    cpus: float
    gpus: float
    most_cpus: float
    most_gpus: float
    untold: bool = False
    """Whether somebody may add nodes of which this cluster does not tell."""


@dataclass(frozen=True, slots=True)
class NodeType:
    """Nodes that an autoscaler may start."""

    resources: Mapping[str, float]
    most: float
    """Nodes of the type at a time."""


def usable_gpus() -> int:
    """GPUs of this machine that torch can use; none without torch."""
    try:
        import torch
    except ImportError:
        return 0
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def alive(ray: Any) -> list[dict[str, float]]:
    """The resources of each node that is up."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def node_types() -> list[NodeType]:
    """What the cluster's autoscaler may start; empty where there is none, or where this Ray cannot say."""
    try:
        from ray._private.state import state

        config = state.get_cluster_config()
        groups = config.node_group_configs if config is not None else ()
        return [
            NodeType(dict(g.resources), UNBOUNDED if g.max_count < 0 else g.max_count)
            for g in groups
            if g.max_count
        ]
    except Exception:  # a private interface, which other versions of Ray need not have
        return []


def nodes_to_come() -> bool:
    """Whether an autoscaler is starting nodes now; False where there is none, or where this Ray cannot say."""
    try:
        import ray
        from ray.autoscaler.v2.sdk import get_cluster_status
        from ray.autoscaler.v2.utils import is_autoscaler_v2
        from ray.experimental.internal_kv import _internal_kv_get

        if is_autoscaler_v2():
            status = get_cluster_status(ray.get_runtime_context().gcs_address)
            return bool(status.pending_launches or status.pending_nodes)
        report = json.loads(_internal_kv_get("__autoscaling_status") or b"{}").get("autoscaler_report", {})
        return bool(report.get("pending_launches") or report.get("pending_nodes"))
    except Exception:  # private interfaces, which other versions of Ray need not have
        return False


def capacity_of(ray: Any) -> Capacity:
    """Of the cluster that Ray is connected to, which others may have started."""
    now = ray.cluster_resources()
    cpus, gpus = now.get("CPU", 0.0), now.get("GPU", 0.0)
    types = node_types()
    grown = {
        key: sum(t.most * t.resources[key] for t in types if t.resources.get(key)) for key in ("CPU", "GPU")
    }
    return Capacity(cpus, gpus, max(cpus, grown["CPU"]), max(gpus, grown["GPU"]), untold=not types)


def actors_on(resources: Mapping[str, float], gpus: float, memory: float) -> int:
    """How many actors that ask for so much fit on a node. One that asks for a part of a GPU has it on a single one."""
    most = resources.get("memory", 0.0) // memory if memory else math.inf
    whole = int(resources.get("GPU", 0.0))
    return int(min(whole * math.floor(1 / gpus) if gpus < 1 else whole // gpus, most))


def fits(resources: Mapping[str, float], cpus: float, memory: float) -> bool:
    """Whether a node could run a plain task that asks for so much, if it did nothing else."""
    return resources.get("CPU", 0.0) >= cpus and resources.get("memory", 0.0) >= memory


def may_start(types: list[NodeType], gpus: float, memory: float, cpus: float = 0.0) -> bool:
    """Whether an autoscaler can start a node for an actor or a task that asks for so much."""
    return any(
        t.resources.get("GPU", 0.0) >= gpus
        and t.resources.get("CPU", 0.0) >= cpus
        and t.resources.get("memory", math.inf) >= memory
        for t in types
    )


def largest(nodes: Sequence[Mapping[str, float]], kind: str) -> str:
    """What the node with the most memory of those with a `CPU` or `GPU` has, in words."""
    able = [(node.get("memory", 0.0), node[kind]) for node in nodes if node.get(kind)]
    if not able:
        return f"no node has a {kind}"
    memory, number = max(able)
    return f"the largest node has {number:g} {kind} and {int(memory):,} bytes of memory"


def machine_memory() -> int:
    """Bytes of memory that this machine, or the container that this is, has."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for place in LIMITS:
        with contextlib.suppress(OSError, ValueError), open(place, encoding="ascii") as file:
            found.append(int(file.read()))  # "max" where there is no limit
    return min(found)


@dataclass(slots=True)
class Patience:
    """Requests that no node can meet now."""

    say: Callable[[str], None]
    since: dict[str, float] = field(default_factory=dict)
    """When each was first not met."""
    hopeless: dict[str, float] = field(default_factory=dict)
    """Since when no node that meets it is to come."""
    said: dict[str, float] = field(default_factory=dict)

    def forget(self) -> None:
        """Other work begins: what was not met before says nothing of it."""
        for times in (self.since, self.hopeless, self.said):
            times.clear()

    def met(self, request: str) -> None:
        """A node can meet it."""
        for times in (self.since, self.hopeless, self.said):
            times.pop(request, None)

    def lacks(self, request: str, has: str, can_grow: bool, now: float) -> None:
        """No node can meet it; `has`: what the largest has. Raises ClusterError when that lasts and none will come."""
        since = self.since.setdefault(request, now)
        if can_grow:
            self.hopeless.pop(request, None)
        elif now - self.hopeless.setdefault(request, now) > PATIENCE_SECONDS:
            raise ClusterError(
                f"{request}; {has}, and the cluster can start none that has more: ask for less, or start larger nodes"
            )
        if can_grow and now - self.said.setdefault(request, now) > SAY_SECONDS:
            self.said[request] = now
            self.say(f"{request}; {has}: waiting for a larger one to start, for {now - since:.0f} s now")
