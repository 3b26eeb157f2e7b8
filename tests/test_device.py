"""Where are vectors made, what does it cost, and what may a cluster grow to?"""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import pytest
from winnow.filters.embedding_settings import Embedding
from winnow.pipelines import capacity
from winnow.pipelines.capacity import UNBOUNDED, Capacity, NodeType, actors_on, capacity_of, may_start
from winnow.pipelines.cluster import Inline
from winnow.pipelines.device import CPU, MOST_CPU_HOURS, Device, DeviceError, choose
from winnow.pipelines.embedding_cost import (
    CORE_FLOAT32,
    GPU_ENCODE,
    MINILM,
    clustering_cost,
    embedding_cost,
    mean_tokens,
    show_hours,
)
from winnow.shards.inputs import InputError

FEW, MANY = 10_000, 10**9


def chosen(capacity_: Capacity, documents: int, **settings) -> tuple[Device, str]:
    """The device for an embedding, and what was said of it."""
    encoder = SimpleNamespace(settings=Embedding.model_validate(settings), files=MINILM, max_tokens=256)
    said: list[str] = []
    executor = SimpleNamespace(capacity=lambda: capacity_)
    device = choose("default", encoder, executor, documents, said.append)
    assert len(said) == 1
    return device, said[0]


NO_GPU = Capacity(16, 0, 16, 0)
GROWS = Capacity(0, 0, 64, 4)
UNTOLD = Capacity(16, 0, 16, 0, untold=True)
TWO = Capacity(16, 2, 16, 2)


def test_auto_goes_by_what_there_is_and_what_there_can_be():
    assert chosen(TWO, MANY) == (
        Device(1.0),
        "embedding default: on 2 GPUs; ~ 1.00B documents, ~ 6.1 h of an H200 and ~ 124 h of a core for its tokens",
    )
    device, said = chosen(GROWS, MANY, gpus=0.5)
    assert device == Device(0.5)
    assert "on GPUs that the cluster is to start" in said
    assert chosen(NO_GPU, FEW) == (
        CPU,
        "embedding default: on CPUs, there is no GPU; ~ 10.00K documents, ~ 7 min of a core",
    )


def test_weeks_on_cpus_are_begun_only_when_asked_for():
    with pytest.raises(DeviceError) as caught:
        chosen(NO_GPU, MANY)
    message = str(caught.value)
    assert "there is no GPU" in message
    assert "on 16 cores" in message
    assert message.endswith("--set embeddings.default.device=cpu")
    device, said = chosen(NO_GPU, MANY, device="cpu")
    assert device == CPU
    assert "as the recipe says" in said
    with pytest.raises(DeviceError, match="on 16 cores"):
        chosen(Capacity(16, 0, UNBOUNDED, 0), MANY)
    with pytest.raises(DeviceError, match="on 64 cores"):
        chosen(Capacity(16, 0, 64, 0), MANY)
    per_document = embedding_cost(1, MINILM, 256).core_seconds
    most = int(MOST_CPU_HOURS * 3600 * 16 / per_document)
    assert chosen(NO_GPU, int(most * 0.999))[0] == CPU
    with pytest.raises(DeviceError):
        chosen(NO_GPU, int(most * 1.001))


def test_a_gpu_that_is_asked_for_and_never_to_be_had_is_an_error_of_the_user():
    with pytest.raises(InputError, match=r"on a GPU; there is none.*--set embeddings\.default\.device=cpu"):
        chosen(NO_GPU, FEW, device="gpu")
    assert chosen(GROWS, FEW, device="gpu")[0] == Device(1.0)
    assert chosen(TWO, FEW, device="cpu")[0] == CPU


def test_gpus_of_an_autoscaler_that_does_not_tell_are_waited_for_when_asked_for():
    device, said = chosen(UNTOLD, FEW, device="gpu")
    assert device == Device(1.0)
    assert "on GPUs that the cluster is to start" in said
    assert chosen(UNTOLD, FEW)[0] == CPU
    with pytest.raises(DeviceError, match=r"device=cpu; to wait .*--set embeddings\.default\.device=gpu$"):
        chosen(UNTOLD, MANY)


def test_a_task_carries_its_device_and_what_it_comes_after():
    task = Device(0.5).task(3, print, None, 7, ("tokens", 3))
    assert (task.index, task.gpus, task.memory, task.after) == (3, 0.5, 7, ("tokens", 3))
    assert (Device(0.5).torch, CPU.torch, CPU.task(0, print, None).gpus) == ("cuda", "cpu", 0)


def test_in_this_process_gpus_are_those_of_torch(monkeypatch):
    cuda = SimpleNamespace(is_available=lambda: True, device_count=lambda: 2)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert (Inline().capacity().gpus, Inline().capacity().most_gpus) == (2, 2)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert Inline().capacity().gpus == 0, "torch is not there"


def test_a_cluster_is_as_large_as_its_autoscaler_allows(monkeypatch):
    ray = SimpleNamespace(cluster_resources=lambda: {"CPU": 8.0})
    monkeypatch.setattr(capacity, "node_types", list)
    assert capacity_of(ray) == Capacity(8, 0, 8, 0, untold=True)
    types = [NodeType({"CPU": 32}, 16), NodeType({"CPU": 16, "GPU": 4}, 2)]
    monkeypatch.setattr(capacity, "node_types", lambda: types)
    assert capacity_of(ray) == Capacity(8, 0, 544, 8)
    monkeypatch.setattr(capacity, "node_types", lambda: [NodeType({"GPU": 1}, UNBOUNDED)])
    assert capacity_of(ray) == Capacity(8, 0, 8, math.inf)


def test_node_types_are_read_from_rays_own_configuration(monkeypatch):
    group = SimpleNamespace(resources={"CPU": 4, "GPU": 1}, max_count=3)
    none = SimpleNamespace(resources={"CPU": 4}, max_count=0)
    endless = SimpleNamespace(resources={"CPU": 2}, max_count=-1)
    config = SimpleNamespace(node_group_configs=[group, none, endless])
    from ray._private import state

    monkeypatch.setattr(state, "state", SimpleNamespace(get_cluster_config=lambda: config))
    assert capacity.node_types() == [
        NodeType({"CPU": 4, "GPU": 1}, 3),
        NodeType({"CPU": 2}, UNBOUNDED),
    ]
    monkeypatch.setattr(state, "state", SimpleNamespace(get_cluster_config=lambda: None))
    assert capacity.node_types() == [], "no autoscaler"
    monkeypatch.setattr(state, "state", SimpleNamespace())
    assert capacity.node_types() == [], "a Ray that does not have it"


def test_actors_that_fit_on_a_node():
    assert actors_on({"GPU": 4}, 1, 0) == 4
    assert actors_on({"GPU": 4}, 3, 0) == 1
    assert actors_on({"GPU": 2}, 0.5, 0) == 4
    assert actors_on({"GPU": 2}, 0.6, 0) == 2, "a part of a GPU lies on one"
    assert actors_on({"GPU": 4, "memory": 7.0}, 1, 3) == 2
    assert actors_on({"CPU": 8, "memory": 7.0}, 1, 3) == 0
    assert may_start([NodeType({"GPU": 1}, 1)], 1, 5)
    assert may_start([NodeType({"GPU": 1, "memory": 5}, 1)], 1, 5)
    assert not may_start([NodeType({"GPU": 1, "memory": 4}, 1), NodeType({"CPU": 9}, 1)], 1, 5)


@pytest.mark.parametrize(
    ("max_tokens", "tokens", "gflop", "thousand_documents_a_second"),
    [(128, 125, 2.8, 84), (256, 218, 5.1, 47), (512, 400, 10.0, 24)],
)
def test_work_of_a_document(max_tokens, tokens, gflop, thousand_documents_a_second):
    """Measured lengths of documents, and the work and the rates that follow from them."""
    assert mean_tokens(max_tokens) == pytest.approx(tokens, rel=0.05)
    assert MINILM.flops(tokens, tokens) / 1e9 == pytest.approx(gflop, rel=0.02)
    assert GPU_ENCODE / MINILM.flops(tokens, tokens) / 1e3 == pytest.approx(
        thousand_documents_a_second, rel=0.02
    )
    if max_tokens == 256:
        assert CORE_FLOAT32 / MINILM.flops(tokens, tokens) == pytest.approx(27.9, rel=0.06)


def test_vectors_and_their_tokens():
    cost = embedding_cost(10**7, MINILM, 256)
    assert cost.vector_bytes == 10**7 * (768 + 24)
    assert cost.tokenize_core_seconds == pytest.approx(1.2 * 3600, rel=0.05)
    assert cost.core_seconds == pytest.approx(cost.tokenize_core_seconds + cost.flops / CORE_FLOAT32)
    assert embedding_cost(10**7, MINILM, 256, "bfloat16").core_seconds < 0.65 * cost.core_seconds
    assert embedding_cost(0, MINILM, 256).core_seconds == 0


@pytest.mark.parametrize(
    ("documents", "k", "fit_seconds", "assign_seconds", "compare_seconds"),
    [
        (10**9, None, 8.3, 51, 31),
        (10**9, 100_000, 83, 162, 10),
        (10**11, None, 15 * 60, 14 * 3600, 8.6 * 3600),
        (10**11, 1_000_000, 2.5 * 3600, 45 * 3600, 2.7 * 3600),
    ],
)
def test_time_of_clusters_on_one_gpu(documents, k, fit_seconds, assign_seconds, compare_seconds):
    """20 iterations over 256 × k vectors of 384 numbers; all assigned; the triangle of each cluster.

    The seconds are of bfloat16's tensor cores; Winnow multiplies in float32 without them.
    """
    cost = clustering_cost(documents, 384, k, 20, 256, compared=True)
    assert cost.clusters == (k or round(math.sqrt(documents)))
    assert cost.fit_flops / (0.6 * 788e12) == pytest.approx(fit_seconds, rel=0.1)
    assert cost.assign_flops / (0.6 * 788e12) == pytest.approx(assign_seconds, rel=0.05)
    assert cost.compare_flops / (0.5 * 788e12) == pytest.approx(compare_seconds, rel=0.05)
    flops = cost.fit_flops + cost.assign_flops + cost.compare_flops
    assert cost.gpu_seconds == pytest.approx(flops / (0.75 * 67e12))


def test_clusters_of_few_and_of_no_documents():
    alone = clustering_cost(5, 384, 100, 20, 256, compared=False)
    assert alone.clusters == 5
    assert alone.fit_flops == 20 * 5 * 2 * 5 * 384
    assert (alone.compare_flops, alone.exchange_bytes) == (0, 0)
    nothing = clustering_cost(0, 384, None, 20, 256, compared=True)
    assert (nothing.clusters, nothing.gpu_seconds, nothing.core_seconds) == (1, 0, 0)
    assert clustering_cost(100, 384, None, 20, 256, compared=True).exchange_bytes == 100 * (768 + 100)


def test_times_as_they_are_said():
    said = [show_hours(s) for s in (0, 89.4, 90, 5399, 5400, 35_000, 36_000, 7.2e6)]
    assert said == ["1 s", "89 s", "2 min", "90 min", "1.5 h", "9.7 h", "10 h", "2,000 h"]
