"""How much room does a task need in scratch, and is it there?

With a RUN on an object store every file that a task writes lies in scratch until it is put, several of them at a time;
with a local one none does. With any RUN scratch holds what memory does not: the posts of a Stack Exchange file while
they are sorted, a cluster of `semantic` that is larger than half a partition, the examples of a classifier and its
model. Not counted: copies of models and encoders that a node keeps on an object store's behalf, once for all tasks.

Upper bounds by rule of thumb, from what is listed and from the recipe's limits: a disk that has less is refused before
work starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from winnow.pipelines.embedding_cost import DOCUMENT_BYTES
from winnow.pipelines.numbers import show_bytes
from winnow.pipelines.plan_vectors import step_cost
from winnow.pipelines.planning import WORDS_ESTIMATE, Plan, SourcePlan, text_estimate
from winnow.shards import scratch, storage
from winnow.shards.inputs import InputError
from winnow.shards.splits import costs
from winnow.shards.stackexchange import SORT_BYTES

WRITTEN = 2.0
"""Bytes that a task writes of a byte of text: the text itself (that LZ4 makes it smaller is not counted on) with ids,
keys, `meta` and signals, or its tokens. Of these 2 bytes for each digit (Mistral's tokenizer), or 4 for two bytes of
Chinese, are about the most."""
PARTITIONS = 3
"""Partitions that a run of the exchange, or what is made of one partition, may be as large as: hashes are not quite
even, and no document is cut."""
TOKENIZER_BYTES = 64 << 20
"""The largest published tokenizers' files have about 35 MB (Gemma 3's tokenizer.json)."""
SHARD = 1.5
"""Of `size_limit`: a shard, its compressed copy and its provenance."""
DRAWN_BYTES = 2 * DOCUMENT_BYTES
"""Of text for each example that is drawn: those that are drawn may be longer than the mean."""
WORD_BYTES = 6
"""Of text for each different word, at the least."""
SKEW = 40
"""The largest cluster, in mean ones. SemDeDup (arXiv:2303.09540): mean 8,748 documents, the largest over 300,000."""


def scratch_bytes(plan: Plan, run: str) -> int:
    """The most bytes of scratch that one task of a run needs at a time; 0 where no task needs any."""
    room = max(_sorted(plan), _clustered(plan), _trained(plan, storage.is_local(run)))
    if not storage.is_local(run):
        limits = plan.recipe.limits
        text = max((_largest_text(source) for source in plan.everything), default=0.0)
        shard = SHARD * plan.recipe.shards.size_limit
        room += max(WRITTEN * text, PARTITIONS * limits.partition_bytes, shard, TOKENIZER_BYTES)
    return int(room)


def check(plan: Plan, run: str, inline: bool) -> None:
    """Raises InputError where this machine's scratch cannot be written, or has too little room for a task done here.

    What tasks on nodes need is asked of every node (cluster.py).
    """
    try:
        free = scratch.free_bytes()
    except OSError as error:
        raise InputError(str(error)) from error
    needed = scratch_bytes(plan, run) if inline else 0
    if free < needed:
        raise InputError(
            f"the scratch directory {scratch.directory()} has {show_bytes(free)} free, a task needs up to "
            f"{show_bytes(needed)}; free some, name another with --scratch, or lower `limits`"
        )


def scratch_facts(plan: Plan) -> dict[str, int | None]:
    """Bytes for a task with either kind of RUN; None where a source could not be listed."""
    if any(source.unknown is not None for source in plan.everything):
        return {"object_store": None, "local": None}
    return {"object_store": scratch_bytes(plan, "s3://run"), "local": scratch_bytes(plan, "/run")}


def scratch_line(facts: Mapping[str, Any]) -> str:
    """`scratch_facts` in a sentence."""
    remote, local = facts["object_store"], facts["local"]
    if remote is None or local is None:
        return "scratch of a task is not known"
    return (
        f"scratch of each node: for each task at a time up to ~ {show_bytes(remote)} with RUN on an object store, "
        f"~ {show_bytes(local)} with a local RUN"
    )


def _largest_text(source: SourcePlan) -> float:
    """Bytes of text in its largest split, before filters."""
    text_per_byte = text_estimate(source.files, source.read) / max(source.stored_bytes, 1)
    return text_per_byte * int(costs(source.splits).max(initial=0))


def _sorted(plan: Plan) -> float:
    """Posts of a file of Stack Exchange that is not sorted in memory."""
    texts = [_largest_text(s) for s in plan.everything if s.source.read.format == "stackexchange"]
    return max((text for text in texts if 2 * text > SORT_BYTES), default=0.0)


def _clustered(plan: Plan) -> float:
    """The largest cluster of `semantic`, with its vectors, where memory is not to hold it."""
    sizes = []
    for step in plan.recipe.dedup_steps():
        for group in step.groups if step.name == "semantic" else ():
            text = sum(s.text_estimate for s in plan.sources if s.name in group.sources)
            cost = step_cost(plan.recipe, step.name, group.settings, text)
            sizes.append(cost.exchange_bytes * min(1.0, SKEW / max(cost.clusters, 1)))
    return max((size for size in sizes if 2 * size > plan.recipe.limits.partition_bytes), default=0.0)


def _trained(plan: Plan, is_local: bool) -> float:
    """Examples twice (they are shuffled into a file of their own), and the model; once more until it is put."""
    return max(_trainings(plan, is_local), default=0.0)


def _trainings(plan: Plan, is_local: bool) -> Iterator[float]:
    for name, kinds in plan.examples.items():
        classifier = plan.recipe.classifiers[name]
        text = 0.0
        for kind, sources in kinds.items():
            for source, examples in zip(sources, getattr(classifier, kind).values(), strict=True):
                most = DRAWN_BYTES * examples.sample if examples.sample else source.text_estimate
                text += min(most, source.text_estimate)
        words = min(WORDS_ESTIMATE, text / WORD_BYTES)
        model = 4 * classifier.options.dim * (classifier.options.buckets + words)
        yield 2 * text + model * (1 if is_local else 2)
