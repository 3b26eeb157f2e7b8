"""Does the kernel decide components as the rule read aloud does, however they are cut into blocks?"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.filters import minhash_clusters
from winnow.filters.minhash_clusters import ESTIMATE, EXACT, NONE, OPEN, Clusters, Comparison

MANY = 1 << 22


def slow_star(documents, c: Comparison):
    """(survivor or -1, score or None) of each document of one component: (fixed, keys, signature, set)."""
    buckets: dict[int, list[int]] = {}
    out = []
    for i, (fixed, keys, signature, shingles) in enumerate(documents):
        survivor, score = -1, None
        for other in sorted({s for k in keys for s in buckets.get(k, [])}):
            if fixed:
                break
            of_fixed, _, their_signature, their_shingles = documents[other]
            if c.verify == NONE:
                survivor = other
                break
            if c.verify == EXACT and not of_fixed:
                score = len(shingles & their_shingles) / len(shingles | their_shingles)
            else:
                score = sum(a == b for a, b in zip(signature, their_signature, strict=True)) / len(signature)
            if score >= c.threshold:
                survivor = other
                break
        out.append((survivor, score if survivor >= 0 else None))
        stands_for = survivor if survivor >= 0 else i
        for key in keys:
            mine = buckets.setdefault(key, [])
            if stands_for not in mine and len(mine) < c.anchors:
                mine.append(stands_for)
    return out


def words_of(document, c: Comparison):
    fixed, keys, signature, shingles = document
    halves = [w for k in keys for w in (k & 0xFFFFFFFF, k >> 32)]
    slots = [w for s in signature for w in ([s] if c.slot_words == 1 else [s & 0xFFFFFFFF, s >> 32])]
    if not c.signature:
        slots = []
    return halves + slots + ([] if c.verify != EXACT or fixed else sorted(shingles))


def decide(components, c: Comparison, cuts, held_bytes=MANY):
    """[(survivor's number, score)] of all documents, fed in blocks that end at `cuts`."""
    clusters = Clusters(c, held_bytes)
    documents = [d for component in components for d in component]
    begins = {sum(map(len, components[:i])): len(mine) for i, mine in enumerate(components)}
    edges = sorted({0, len(documents), *(x for x in cuts if x < len(documents))})
    found, unverified, held = [], 0, []
    for a, b in itertools.pairwise(edges):
        opens = np.zeros(b - a, np.int64)
        for at, size in begins.items():
            if a <= at < b:
                opens[at - a] = size if at + size < b else OPEN
        words = [words_of(d, c) for d in documents[a:b]]
        flat = np.array([w for mine in words for w in mine], np.uint32)
        ends = np.cumsum([len(mine) for mine in words]).astype(np.int64)
        fixed = np.array([d[0] for d in documents[a:b]], bool)
        survivor, score, missed = clusters.decide(opens, fixed, flat, ends)
        found += list(zip(survivor.tolist(), score.tolist(), strict=True))
        unverified += missed
        held.append(clusters.held().tolist())
    return found, unverified, held


def expected(components, c: Comparison):
    out, first = [], 0
    for component in components:
        for survivor, score in slow_star(component, c):
            out.append((-1 if survivor < 0 else survivor + first, math.nan if score is None else score))
        first += len(component)
    return out


def same(found, wanted):
    return [(s, repr(x)) for s, x in found] == [(s, repr(x)) for s, x in wanted]


# Few keys and slots, so that buckets are shared; keys that differ in one half only.
KEY = st.sampled_from([1, 2, 3, 1 << 32, 2 << 32, (1 << 32) + 1, 2**64 - 1])
SETS = st.sets(st.integers(0, 12), min_size=1, max_size=10)


def documents_of(bands, slots, fixed):
    return st.lists(
        st.tuples(
            fixed,
            st.lists(KEY, min_size=bands, max_size=bands),
            st.lists(st.integers(0, 2), min_size=slots, max_size=slots),
            SETS,
        ),
        min_size=1,
        max_size=12,
    )


@pytest.mark.parametrize("verify", [NONE, ESTIMATE, EXACT])
@pytest.mark.parametrize("anchors", [1, 2, 8])
@settings(max_examples=60)
@given(data=st.data())
def test_star_is_the_rule_read_aloud(verify, anchors, data):
    slot_words = data.draw(st.sampled_from([1, 2]))
    threshold = data.draw(st.sampled_from([0.1, 0.5, 2 / 3, 0.75, 1.0]))
    c = Comparison(3, 4 * slot_words, slot_words, anchors, verify, threshold)
    fixed_first = data.draw(st.booleans())
    components = data.draw(st.lists(documents_of(3, 4, st.just(False)), min_size=1, max_size=4))
    if fixed_first:
        components = [data.draw(documents_of(3, 4, st.just(True))) + own for own in components]
    cuts = data.draw(st.lists(st.integers(1, 60), max_size=6))
    found, unverified, held = decide(components, c, cuts)
    assert same(found, expected(components, c))
    assert unverified == 0
    last = sum(map(len, components[:-1]))
    assert held[-1] == [i for i, (s, _) in enumerate(found) if s < 0 and i >= last]


@pytest.mark.parametrize("verify", [NONE, ESTIMATE, EXACT])
@settings(max_examples=40)
@given(data=st.data())
def test_component_leaves_the_first_alone(verify, data):
    c = Comparison(0, 4, 1, 8, verify, 0.9, component=True)
    components = data.draw(st.lists(documents_of(0, 4, st.just(False)), min_size=1, max_size=4))
    found, _, _ = decide(components, c, data.draw(st.lists(st.integers(1, 60), max_size=6)))
    at = 0
    for component in components:
        first = component[0]
        assert found[at] == (-1, pytest.approx(math.nan, nan_ok=True))
        for i, document in enumerate(component[1:], 1):
            survivor, score = found[at + i]
            assert survivor == at
            if verify == EXACT:
                assert score == len(first[3] & document[3]) / len(first[3] | document[3])
            elif verify == ESTIMATE:
                assert score == sum(a == b for a, b in zip(first[2], document[2], strict=True)) / 4
            else:
                assert math.isnan(score)
        at += len(component)


def test_of_fixed_documents_all_stay_in_a_component():
    fixed, own = (True, [], [1], {1}), (False, [], [1], {1})
    c = Comparison(0, 1, 1, 8, EXACT, 0.9, component=True)
    assert [s for s, _ in decide([[fixed, fixed, own, own]], c, [])[0]] == [-1, -1, 0, 0]


@given(st.sets(st.integers(0, 60), max_size=40), st.sets(st.integers(0, 60), max_size=40), st.floats(0, 1))
def test_a_comparison_that_is_given_up_is_below_the_threshold(one, other, threshold):
    a, b = (np.array([*sorted(s), 99], np.uint32) for s in (one, other))
    found = minhash_clusters._jaccard(a, 0, len(one), b, 0, len(other), threshold)
    true = len(one & other) / len(one | other) if one | other else 1.0
    assert found == true or (found == -1.0 and true < threshold)


def test_what_finds_no_room_is_counted_and_never_dropped_wrongly():
    c = Comparison(bands=2, verify=EXACT, threshold=0.5)
    rng = np.random.default_rng(4)
    shapes = [set(rng.integers(0, 2**32, 40).tolist()) for _ in range(60)]
    # Each shape twice, the copies last; all are in bucket 0, which stands for the first 8 of them alone.
    component = [(False, [0, k + 1], [], shapes[k]) for k in [*range(60), *range(60)]]
    all_found, unverified, _ = decide([component], c, [])
    assert (unverified, sum(s >= 0 for s, _ in all_found)) == (0, 60)
    found, unverified, held = decide([component, component[:2]], c, [30, 77], held_bytes=4096)
    stay = [i for i, (s, _) in enumerate(found[:120]) if s < 0]
    assert len(held[0]) < 30
    assert (
        unverified == len(stay) - len(held[0]) - 1
    )  # the one that found no room was compared with all before
    assert all(s in (-1, i - 60) for i, (s, _) in enumerate(found[:120]))
    assert [s for s, _ in found[60:64]] == [0, 1, 2, 3], "with what is held later ones are compared"
    assert [s for s, _ in found[120:]] == [-1, -1], "the next component begins with free memory"
