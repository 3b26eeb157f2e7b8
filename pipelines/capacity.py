"""What does a cluster have, and what can it grow to?

An autoscaling cluster shows no GPU before one is asked for: what it may start is read from the configuration that its
autoscaler leaves with Ray (`ray up`, KubeRay). Where there is none, the nodes there are count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UNBOUNDED = math.inf


@dataclass(frozen=True, slots=True)
class Capacity:
    """Cores and GPUs, those there are now and the most there can ever be."""

    cpus: float
    gpus: float
    most_cpus: float
    most_gpus: float


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


def capacity_of(ray: Any) -> Capacity:
    """Of the cluster that Ray is connected to."""
    now = ray.cluster_resources()
    cpus, gpus = now.get("CPU", 0.0), now.get("GPU", 0.0)
    types = node_types()
    grown = {
        key: sum(t.most * t.resources[key] for t in types if t.resources.get(key)) for key in ("CPU", "GPU")
    }
    return Capacity(cpus, gpus, max(cpus, grown["CPU"]), max(gpus, grown["GPU"]))


def actors_on(resources: Mapping[str, float], gpus: float, memory: float) -> int:
    """How many actors that ask for so much fit on a node. One that asks for a part of a GPU has it on a single one."""
    most = resources.get("memory", 0.0) // memory if memory else math.inf
    whole = int(resources.get("GPU", 0.0))
    return int(min(whole * math.floor(1 / gpus) if gpus < 1 else whole // gpus, most))


def may_start(types: list[NodeType], gpus: float, memory: float) -> bool:
    """Whether an autoscaler can start a node for an actor that asks for so much."""
    return any(
        t.resources.get("GPU", 0.0) >= gpus and t.resources.get("memory", math.inf) >= memory for t in types
    )
