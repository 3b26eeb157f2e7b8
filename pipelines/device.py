"""On what are vectors made, clustered and compared?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from winnow.pipelines.embedding_cost import embedding_cost, show_hours
from winnow.pipelines.jobs import Task
from winnow.pipelines.numbers import show_count
from winnow.pipelines.records import TaskFunction
from winnow.shards.inputs import InputError

if TYPE_CHECKING:
    from winnow.pipelines.encoders import EncoderPlace
    from winnow.pipelines.engine import Executor

MOST_CPU_HOURS = 24
"""Of all the cores a cluster has or can grow: work that takes longer is begun on them only when a recipe says `cpu`."""


class DeviceError(InputError):
    """A device that a recipe asks for, and that is not to be had."""


TORCH_BYTES = 512 << 20
"""Of a process that has torch in it (ours: 413 MiB after a first k-means)."""


@dataclass(frozen=True, slots=True)
class Device:
    """Where the tasks of a stage run. It is no part of any stage's identity: what is stored is used as it is."""

    gpus: float = 0.0
    """GPUs that each asks of Ray; 0: a CPU."""
    refusal: str | None = None
    """Why no vector may be made here; those that are stored can be used."""

    @property
    def torch(self) -> str:
        """torch's name for it, inside a task."""
        return "cuda" if self.gpus else "cpu"

    def check(self) -> None:
        """Raises DeviceError where vectors are not to be made here."""
        if self.refusal is not None:
            raise DeviceError(self.refusal)

    def task(
        self,
        index: int,
        function: TaskFunction,
        spec: Any,
        memory: int = 0,
        after: tuple[str, int] | None = None,
    ) -> Task:
        """A task that runs on it."""
        return Task(index, function, spec, memory, self.gpus, after)


CPU = Device()


def choose(
    name: str, encoder: EncoderPlace, executor: Executor, documents: float, say: Callable[[str], None]
) -> Device:
    """The device for an embedding of about so many documents; says which, and how long it will take.

    `auto` is a GPU where the cluster has any, or tells that it can grow any; `gpu` also waits for nodes of an
    autoscaler that does not tell (actors.py ends the run when none comes). Raises DeviceError where a GPU is asked for
    and never to be had, and where `auto` would mean more than `MOST_CPU_HOURS` on all the cores there can be.
    """
    settings = encoder.settings
    cost = embedding_cost(math.ceil(documents), encoder.files, encoder.max_tokens, settings.dtype)
    about = f"~ {show_count(documents)} documents, "
    if settings.device == "cpu":
        say(
            f"embedding {name}: on CPUs, as the recipe says; {about}~ {show_hours(cost.core_seconds)} of a core"
        )
        return CPU
    there = executor.capacity()
    if there.most_gpus or (settings.device == "gpu" and there.untold):
        what = f"{there.gpus:g} GPUs" if there.gpus > 1 else "a GPU"
        what = what if there.gpus else "GPUs that the cluster is to start"
        tokenizing = f"and ~ {show_hours(cost.tokenize_core_seconds)} of a core for its tokens"
        say(f"embedding {name}: on {what}; {about}~ {show_hours(cost.gpu_seconds)} of an H200 {tokenizing}")
        return Device(settings.gpus)
    if settings.device == "gpu":
        raise DeviceError(
            f"embedding {name!r} is to be made on a GPU; there is none that torch can use, and the cluster can start "
            f"none; --set embeddings.{name}.device=cpu takes ~ {show_hours(cost.core_seconds)} of a core"
        )
    # An autoscaler without a bound says nothing: then those count that there are.
    cores = max(there.most_cpus if math.isfinite(there.most_cpus) else there.cpus, 1)
    seconds = cost.core_seconds / cores
    if seconds > MOST_CPU_HOURS * 3600:
        start = f"; to wait for GPUs that the cluster starts: --set embeddings.{name}.device=gpu"
        raise DeviceError(
            f"embedding {name!r}: there is no GPU, and ~ {show_count(documents)} documents take ~ "
            f"{show_hours(seconds)} on {cores:g} cores; to do that all the same: --set embeddings.{name}.device=cpu"
            f"{start if there.untold else ''}"
        )
    say(f"embedding {name}: on CPUs, there is no GPU; {about}~ {show_hours(cost.core_seconds)} of a core")
    return CPU
