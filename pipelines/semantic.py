"""Which documents say the same as an earlier one?

SemDeDup (Abbas et al. 2023, arXiv:2303.09540) of a group of sources, by the vectors of their documents (vectors.py):

    count ─▶ sample ─▶ centroids ─▶ runs ─▶ pairs ─▶ scores ─▶ semantic ─▶ report
    clustering.py                   semantic_compare.py   │    vector_cut.py   semantic_report.py
                                                 semantic_scores.py

Each document that stands is assigned to the nearest centroid. The documents of a cluster are put in order, those of the
first named source first, then as `order` says, then by id, and each gets a score: the largest cosine to a document
before it, of all of these (`greedy`: of those of them that stay). The stage `semantic-scores` has it, and depends on
neither `keep_fraction` nor, unless greedy, `eps`: the cut is made of stored scores alone.

Which workers there are, how sources are divided into splits and how large partitions are has no say in what is found.

Memory: what the modules of the stages say: the centroids, and `partition_bytes` about four times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from winnow.filters.semantic_settings import Semantic
from winnow.pipelines.clustering import VERSION as CLUSTERING_VERSION
from winnow.pipelines.clustering import clusters, directories
from winnow.pipelines.device import CPU, TORCH_BYTES, Device
from winnow.pipelines.engine import Done, Engine, Request, Work
from winnow.pipelines.exchanges import Parts, further_rounds, round_stages
from winnow.pipelines.homing import Home, plan_home
from winnow.pipelines.jobs import Later, Task
from winnow.pipelines.recipe import Limits
from winnow.pipelines.records import Stage
from winnow.pipelines.semantic_compare import CLUSTERED, PairsSpec, RunsSpec, pairs_task, runs_task
from winnow.pipelines.semantic_report import report_stage, report_work
from winnow.pipelines.semantic_scores import FOUND, ScoresSpec, scores_task
from winnow.pipelines.vector_cut import cut, final_stage, task_count
from winnow.pipelines.vectors import VECTORS, Embedded
from winnow.shards import exchange

VERSION = 1


def deduplicate(
    engine: Engine,
    group: Sequence[str],
    inputs: Sequence[Embedded],
    upstream: Sequence[Stage],
    settings: Semantic,
    limits: Limits,
    seed: int,
    device: Device = CPU,
) -> Work[Done]:
    """Run semantic dedup over the splits of a group of sources.

    Returns the stage of the verdicts; vector_cut.py says what its records count.
    """
    label = "+".join(group)[:80]
    standings = [i.standing for i in inputs]
    home = plan_home(standings)
    identity = {
        "group": list(group),
        "clusters": settings.clusters,
        "iterations": settings.iterations,
        "sample_per_cluster": settings.sample_per_cluster,
        "order": settings.order,
        "greedy": settings.eps if settings.greedy else None,
        "seed": seed,
        "clustering": CLUSTERING_VERSION,
    }
    scores = Stage(f"semantic-scores.{label}", VERSION, identity, directories(inputs, upstream))
    final = final_stage("semantic", group, scores, settings.keep_fraction, settings.eps, seed)
    report = report_stage("semantic", group, final, seed)
    # All three are the run's own, and stay when it is cleaned.
    done = engine.finished(final, task_count(standings))
    reported, scored = engine.finished(report, 1), engine.finished(scores, len(home.blocks))
    if done and reported:
        return done
    if scored is None:
        found = yield from _compare(engine, label, inputs, upstream, settings, limits, seed, device, home)
        tasks = []
        for i, (a, b) in enumerate(home.blocks):
            numbered = tuple((n, standings[n]) for n in range(a, b))
            tasks.append(Task(i, scores_task, ScoresSpec(tuple(found[i]), numbered)))
        scored = yield Request(scores, tasks)
    done = yield from cut("semantic", group, standings, scored, settings.keep_fraction, settings.eps, seed)
    yield from report_work(engine, "semantic", group, standings, scored, done, settings, seed)
    return done


def _compare(
    engine: Engine,
    label: str,
    inputs: Sequence[Embedded],
    upstream: Sequence[Stage],
    settings: Semantic,
    limits: Limits,
    seed: int,
    device: Device,
    home: Home,
) -> Work[Parts]:
    """Cluster the documents and compare them; returns what each task of the scores reads."""
    fitted = yield from clusters(engine, "semantic", label, inputs, upstream, settings, seed, device)
    facts = fitted.records[0].counts
    k, dimensions, partition_bytes = facts["clusters"], facts["dimensions"], limits.partition_bytes
    row_bytes = CLUSTERED.dtype.itemsize + dimensions * VECTORS.itemsize
    in_bytes = min(facts["documents"] * row_bytes, k * partition_bytes)  # no more partitions than clusters
    rounds = exchange.plan_rounds(in_bytes, partition_bytes)
    bounds = exchange.uniform_bounds(rounds.partitions, high=k)

    cut_by = {"order": settings.order, "seed": seed, "partition_bytes": partition_bytes}
    inside = (fitted.stage.directory, *directories(inputs, upstream))
    scatter = Stage(f"semantic-runs.{label}", VERSION, cut_by, inside)
    scattered = [scatter, *round_stages(scatter, rounds, partition_bytes)]
    coarse = exchange.coarse_bounds(bounds, rounds.fanouts, 0)
    memory = TORCH_BYTES + 8 * k * dimensions + 4 * partition_bytes
    tasks = []
    sizes = [i.documents * row_bytes for i in inputs]
    for i, (a, b) in enumerate(exchange.group_by_bytes(sizes, partition_bytes)):
        numbered = tuple((n, inputs[n]) for n in range(a, b))
        run_rows = max(1, partition_bytes // row_bytes)
        runs_spec = RunsSpec(
            i, numbered, dimensions, fitted.location, settings.order, seed, coarse, run_rows, device.torch
        )
        tasks.append(device.task(i, runs_task, runs_spec, memory))
    first = yield Request(scatter, tasks)
    parts = yield from further_rounds(first, scattered[1:], CLUSTERED, rounds, bounds, partition_bytes)

    greedy = settings.eps if settings.greedy else None
    compared_by: dict[str, Any] = {**home.identity, "greedy": greedy}
    pairs = Stage(f"semantic-pairs.{label}", VERSION, compared_by, (scattered[-1].directory,))

    def pairs_spec(p: int) -> PairsSpec:
        mine = tuple(parts[p])
        return PairsSpec(p, mine, dimensions, greedy, home.bounds_first, partition_bytes, device.torch)

    tasks = []
    for p in range(rounds.partitions):
        documents = int(parts.sizes(p).sum(dtype="int64")) // row_bytes
        memory = TORCH_BYTES + 4 * partition_bytes + 24 * documents
        tasks.append(device.task(p, pairs_task, Later(pairs_spec, p), memory))
    first = yield Request(pairs, tasks)
    stages = round_stages(pairs, home.rounds, partition_bytes)
    return (yield from further_rounds(first, stages, FOUND, home.rounds, home.bounds, partition_bytes))
