"""Which documents are near-duplicates of one that stays?

MinHash dedup (Broder 1997, doi 10.1109/SEQUEN.1997.666900; bands as in Leskovec, Rajaraman, Ullman, Mining of Massive
Datasets, 3.4) of a group of sources, in stages:

    signatures ─▶ bands ─▶ buckets ─▶ components ─▶ members ─▶ verify ─▶ minhash
    of a source   minhash_bands.py    components.py  minhash_verify.py   homing.py

`signatures.<source>` depends on the source alone. Documents that share a bucket are joined into components, the
documents of a component meet in survivors' order, and each that goes is compared with the one for whose sake it does
(filters/minhash_clusters.py says how). The survivor is the one of the first named source, then of the highest
`survivor_score`, then the longest, then the first in the order of files and positions: neither the number of workers
nor the size of splits or partitions has a say.

`minhash-report` counts buckets and components by size (from each power of two to the next), the largest of each,
documents compared by source, and documents `unverified` (minhash_verify.py).

Memory: what the modules of the stages say: `partition_bytes` about four times, and `HELD_BYTES` for one component.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from winnow.filters.minhash_settings import MinHash, StopAbove, memory_for
from winnow.pipelines.components import PROCESS_BYTES, components
from winnow.pipelines.earlier import Earlier, with_stage
from winnow.pipelines.engine import Check, Done, Engine, Request, RunError, Work
from winnow.pipelines.exchanges import further_rounds, round_stages
from winnow.pipelines.homing import bring_home, plan_home
from winnow.pipelines.jobs import Later, Task
from winnow.pipelines.minhash_bands import (
    BANDS,
    BucketSpec,
    Member,
    ScatterSpec,
    bucket_task,
    scatter_task,
    total_sizes,
)
from winnow.pipelines.minhash_signatures import VERSION as SIGNATURES_VERSION
from winnow.pipelines.minhash_signatures import Signed, Signing, sign, signing_stage
from winnow.pipelines.minhash_verify import (
    HELD_BYTES,
    MEMBERS,
    MembersSpec,
    Payload,
    VerifySpec,
    members_task,
    verify_task,
)
from winnow.pipelines.recipe import Limits
from winnow.pipelines.records import Outputs, Record, Stage, total
from winnow.pipelines.standing import Standing
from winnow.shards import exchange

VERSION = 1
SHINGLE_BYTES = 0.75
"""Of a set of shingles per byte of text, for estimates (ours: 4 for a word, and its space, of 5.3)."""


@dataclass(frozen=True, slots=True)
class Group:
    """What is compared, and how."""

    sources: tuple[str, ...]
    inputs: tuple[Standing, ...]
    earlier: tuple[Earlier, ...]
    earlier_signatures: tuple[str, ...]
    """Locations, of each of them."""
    settings: MinHash
    signing: Signing
    limits: Limits
    upstream: tuple[str, ...]
    """Directories of the stages the inputs come from, and of the signatures."""

    @property
    def label(self) -> str:
        return "+".join(self.sources)[:80]

    @property
    def identity(self) -> dict[str, Any]:
        """What the verdicts depend on, beside the inputs."""
        s, r = self.settings, self.settings.resolved
        return {
            **self.signing.identity,
            "group": list(self.sources),
            "bands": r.bands,
            "rows": r.rows,
            "threshold": r.threshold,
            "verify": r.verify,
            "cluster": r.cluster,
            "anchors": s.anchors,
            "survivor_score": s.survivor_score,
            "held_bytes": HELD_BYTES,
            "earlier": self.earlier_identity,
        }

    @property
    def earlier_identity(self) -> list[list[str]]:
        return [e.identity for e in self.earlier]

    @property
    def payload(self) -> Payload:
        return Payload.of(self.settings, bool(self.earlier))

    @property
    def earlier_splits(self) -> int:
        return sum(len(e.standings) for e in self.earlier)

    @property
    def partition_bytes(self) -> int:
        return self.limits.partition_bytes

    def stage(self, kind: str, settings: Mapping[str, Any], *inputs: Stage) -> Stage:
        """A stage of the group; without inputs, one that reads what the whole step reads."""
        upstream = tuple(s.directory for s in inputs) or self.upstream
        return Stage(f"{kind}.{self.label}", VERSION, settings, upstream)


def deduplicate(
    engine: Engine,
    group: Sequence[str],
    inputs: Sequence[Standing],
    upstream: Sequence[Stage],
    settings: MinHash,
    limits: Limits,
    seed: int,
    earlier: Sequence[Earlier] = (),
) -> Work[Done]:
    """Run MinHash dedup over the splits of a group of sources (`inputs` in survivors' order).

    seed : the recipe's, which is taken where the settings name none.
    earlier : sources of earlier runs, whose documents go before all others, and stay.

    Returns the stage of the verdicts; homing.py says what its records count. Raises RunError where a bucket, a
    component or the loss of a source is above `settings.stop_above`, InputError for an earlier run without such
    signatures.
    """
    signing = Signing.of(settings, seed)
    known = with_stage(earlier, "signatures", SIGNATURES_VERSION, signing.identity, "MinHash signatures")
    earlier, places = tuple(e for e, _ in known), tuple(place for _, place in known)
    by_source = {name: [i for i in inputs if i.source == name] for name in group}
    stages = {name: signing_stage(name, splits, signing) for name, splits in by_source.items() if splits}
    own = [s.directory for s in stages.values()]
    directories = tuple(dict.fromkeys([*own, *(s.directory for s in upstream)]))
    work = Group(tuple(group), tuple(inputs), earlier, places, settings, signing, limits, directories)

    home = plan_home(inputs)
    final = work.stage("minhash", work.identity)
    report = work.stage("minhash-report", work.identity)
    done, reported = engine.finished(final, len(home.blocks)), engine.finished(report, 1)
    if done is None or reported is None:
        signatures: dict[str, Done] = {}
        for name in stages:
            signatures[name] = yield from sign(name, by_source[name], signing)
        done, reported = yield from _compare(engine, work, signatures, final, report)
    else:
        # What a run lists as its own; a later run compares with them.
        for name, stage in stages.items():
            engine.finished(stage, len(by_source[name]))
    _check_loss(done, reported.records[0], settings.stop_above)
    return done


def rehearse(settings: MinHash) -> None:
    """Do on one small document what the tasks do: kernels are compiled, or loaded, before the work."""
    from winnow.filters.minhash_clusters import Clusters, Comparison
    from winnow.filters.shingles import shingle_sets
    from winnow.filters.union_find import label_components

    text = pa.array(["A few words that make a shingle."], pa.large_string())
    signing = Signing.of(settings, 0)
    signatures, _ = signing.sign(text)
    signing.band_keys(signatures)
    words, ends = shingle_sets(text, settings)
    one = np.ones(1, np.int64)
    Clusters(Comparison(bands=0), 1 << 11).decide(one, np.zeros(1, bool), words, ends.astype(np.int64))
    label_components(np.array([[0, 1]], np.uint64))


def _compare(
    engine: Engine, work: Group, signatures: Mapping[str, Done], final: Stage, report: Stage
) -> Work[tuple[Done, Done]]:
    """Carry out the stages behind the signatures; returns `final` and `report`, finished."""
    members = _members(work, signatures)
    buckets, standing = yield from _buckets(work, members)
    # Splits whose text one task reads again.
    pieces = exchange.group_by_bytes([_text_bytes(work, m) for m in members], work.partition_bytes)
    bounds = np.array([a for a, _ in pieces[1:]], np.uint64) << np.uint64(32)
    labelled = yield from components(engine, f"minhash-components.{work.label}", buckets, bounds, work.limits)

    nodes = total(labelled.done.records, "nodes")
    rounds = exchange.plan_rounds(_members_bytes(work, members, nodes), work.partition_bytes)
    out_bounds = exchange.uniform_bounds(rounds.partitions)
    coarse = exchange.coarse_bounds(out_bounds, rounds.fanouts, 0)
    payload, sources = work.payload, len(work.earlier)
    cut = {
        "partition_bytes": work.partition_bytes,
        "fanouts": list(rounds.fanouts),
        "payload": [payload.keys, payload.signature, payload.shingles],
        "survivor_score": work.settings.survivor_score,
        "bands": work.settings.resolved.bands,
        "rows": work.settings.resolved.rows,
    }
    scatter = Stage(
        f"minhash-members.{work.label}", VERSION, cut, (labelled.done.stage.directory, *work.upstream)
    )
    labels = labelled.parts
    tasks = []
    for i, (a, b) in enumerate(pieces):
        spec = MembersSpec(
            index=i,
            members=tuple(members[a:b]),
            labels=tuple(labels[i]),
            payload=payload,
            earlier=sources,
            bounds=coarse,
            run_bytes=work.partition_bytes,
            survivor_score=work.settings.survivor_score,
        )
        tasks.append(Task(i, members_task, spec))
    first = yield Request(scatter, tasks)
    further = round_stages(scatter, rounds, work.partition_bytes)
    parts = yield from further_rounds(first, further, MEMBERS, rounds, out_bounds, work.partition_bytes)

    home = plan_home(work.inputs)
    verify = work.stage("minhash-verify", work.identity | home.identity, *(further[-1:] or [scatter]))
    held = work.identity["held_bytes"]

    def verify_spec(p: int) -> VerifySpec:
        return VerifySpec(
            index=p,
            parts=tuple(parts[p]),
            signing=work.signing,
            payload=payload,
            earlier=(work.earlier_splits, sources),
            group=len(work.sources),
            held_bytes=held,
            bounds=home.bounds_first,
            limit=work.partition_bytes,
        )

    memory = PROCESS_BYTES + 4 * work.partition_bytes + memory_for(work.settings.resolved.bands, held)
    tasks = [Task(p, verify_task, Later(verify_spec, p), memory) for p in range(rounds.partitions)]
    stop = work.settings.stop_above
    verified = yield Request(verify, tasks, _size_check(work.label, "cluster", stop.cluster))
    shown = [*work.sources, *(e.name for e in work.earlier)]
    done = yield from bring_home(verified, final, home, work.inputs, shown, work.partition_bytes)

    facts = {
        "compared": standing,
        "buckets": total_sizes(r.counts["buckets"] for r in buckets.records),
        "largest_bucket": max(r.counts["largest_bucket"] for r in buckets.records),
        "clusters": total_sizes(r.counts["clusters"] for r in verified.records),
        "largest_cluster": max(r.counts["largest_cluster"] for r in verified.records),
        "unverified": total(verified.records, "unverified"),
    }
    return done, (yield Request(report, [Task(0, report_task, facts)]))


def report_task(spec: dict[str, Any], outputs: Outputs) -> dict[str, Any]:
    """Record what the driver has added up."""
    return spec


def _members(work: Group, signatures: Mapping[str, Done]) -> list[Member]:
    """Every split that is compared, those of earlier runs first."""
    members: list[Member] = []
    for source, (of, place) in enumerate(zip(work.earlier, work.earlier_signatures, strict=True)):
        for standing in of.standings:
            signed = Signed(place, standing.split, work.signing)
            members.append(Member(len(members), source, standing, signed))
    for standing in work.inputs:
        signed = Signed(signatures[standing.source].location, standing.split, work.signing)
        members.append(Member(len(members), len(work.earlier) + standing.rank, standing, signed))
    return members


def _buckets(work: Group, members: Sequence[Member]) -> Work[tuple[Done, dict[str, int]]]:
    """The edges between documents that share a bucket, and how many documents of each source were looked at."""
    bands, partition_bytes = work.settings.resolved.bands, work.partition_bytes
    row_bytes = BANDS.dtype.itemsize
    sizes = [m.standing.documents_left * bands * row_bytes for m in members]
    rounds = exchange.plan_rounds(sum(sizes), partition_bytes)
    bounds = exchange.uniform_bounds(rounds.partitions)
    settings = {
        "group": list(work.sources),
        "bands": bands,
        "rows": work.settings.resolved.rows,
        "survivor_score": work.settings.survivor_score,
        "partition_bytes": partition_bytes,
        "earlier": work.earlier_identity,
    }
    scatter = work.stage("minhash-bands", settings)
    coarse = exchange.coarse_bounds(bounds, rounds.fanouts, 0)
    run_rows = max(1, partition_bytes // row_bytes)
    tasks = []
    for i, (a, b) in enumerate(exchange.group_by_bytes(sizes, partition_bytes)):
        spec = ScatterSpec(
            i, tuple(members[a:b]), coarse, run_rows, work.settings.survivor_score, len(work.earlier)
        )
        tasks.append(Task(i, scatter_task, spec))
    first = yield Request(scatter, tasks)
    further = round_stages(scatter, rounds, partition_bytes)
    parts = yield from further_rounds(first, further, BANDS, rounds, bounds, partition_bytes)

    settings = {"anchors": work.settings.anchors}
    stage = work.stage("minhash-buckets", settings, *(further[-1:] or [scatter]))

    def bucket_spec(p: int) -> BucketSpec:
        return BucketSpec(p, tuple(parts[p]), len(work.earlier), work.settings.anchors, partition_bytes)

    tasks = [Task(p, bucket_task, Later(bucket_spec, p)) for p in range(rounds.partitions)]
    check = _size_check(work.label, "bucket", work.settings.stop_above.bucket)
    done = yield Request(stage, tasks, check)
    return done, total(first.records, "standing") or {}


def _text_bytes(work: Group, member: Member) -> int:
    """About what a task reads for the members of a split."""
    standing = member.standing
    if work.payload.shingles and member.source >= len(work.earlier):
        return standing.bytes_left
    return standing.documents_left * work.signing.document_bytes


def _members_bytes(work: Group, members: Sequence[Member], nodes: int) -> int:
    """About what the documents of components weigh on their way."""
    payload, resolved = work.payload, work.settings.resolved
    each = float(MEMBERS.dtype.itemsize + 8 * resolved.bands * payload.keys)
    each += work.signing.document_bytes * payload.signature
    if payload.shingles:
        text = sum(m.standing.bytes_left for m in members)
        each += SHINGLE_BYTES * text / max(1, sum(m.standing.documents_left for m in members))
    return int(nodes * each)


def _size_check(label: str, kind: str, limit: int | None) -> Check | None:
    """A check that stops the run at a bucket or cluster of more documents than the limit."""
    if limit is None:
        return None

    def check(record: Record) -> None:
        n = record.counts[f"largest_{kind}"]
        if n > limit:
            raise RunError(
                f"minhash of {label}: a {kind} has {n:,} documents, more than stop_above.{kind} allows ({limit:,}); "
                f"raise that, or drop before what so many documents have in common (a template, a notice)"
            )

    return check


def _check_loss(done: Done, report: Record, stop: StopAbove) -> None:
    """Raises RunError for what is above a limit in a step that is finished."""
    for kind, limit in (("bucket", stop.bucket), ("cluster", stop.cluster)):
        if check := _size_check(done.stage.name.split(".", 1)[1], kind, limit):
            check(report)
    if stop.loss is None:
        return
    for source, n in (total(done.records, "dropped") or {}).items():
        documents = report.counts["compared"][source]
        if n > stop.loss * documents:
            raise RunError(
                f"minhash drops {n:,} of {documents:,} documents of source {source!r} ({n / documents:.1%}), more than "
                f"stop_above.loss allows ({stop.loss:.1%}); raise that, or see whether its duplicates are such"
            )
