"""Which documents of a cluster go, and for whose sake?

Documents that share a band of their MinHash signatures, or are joined by a chain of such documents, form a component.
Inside it documents are taken in survivors' order, the one to be preferred first, and each is decided for good:

star        A document is compared with the survivors that its buckets stand for: of each bucket at most the first
            `anchors` of them, a member that stayed or the one for whose sake a member went. They are tried in
            survivors' order. With the first that is near enough it goes, otherwise it stays and is a survivor of its
            buckets. So no document goes for the sake of one that went, nor of one that it was not compared with.
component   All but the first go for its sake, however far from it they are: transitive closure, as datatrove 0.9.0 does
            it (pipeline/dedup/minhash.py).

Near enough is a Jaccard similarity of the documents' sets of shingles, or an estimate of it (the share of equal slots
of two signatures), of at least the threshold. `verify: none` compares nothing: the first candidate is taken.

Documents of an earlier run are *fixed*: they never go, and have a signature but no set, so that others are compared
with them by the estimate.

Letters: n documents of a block, w uint32 words of one document: its band keys, two words each, the lower half first;
then its signature, where one is sent; then its set of shingles, sorted, where one is sent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from winnow.filters.jit import njit, types
from winnow.filters.minhash_settings import table_factor

NONE, ESTIMATE, EXACT = 0, 1, 2
"""How documents are compared."""
OPEN = 1 << 40
"""In place of the length of a component that may go on behind the block."""

_AT, _F64 = types.int64, types.float64
_U32S, _U64S = types.Array(types.uint32, 1, "C"), types.Array(types.uint64, 1, "C")
_I64S, _F64S = types.Array(types.int64, 1, "C"), types.Array(types.float64, 1, "C")
_FLAGS = types.Array(types.boolean, 1, "C")
_HELD, _NODES = types.Array(types.int64, 2, "C"), types.Array(types.int32, 2, "C")
_MEMORY = types.Tuple((_U32S, _HELD, _U64S, _U32S, _NODES, _NODES, _I64S))
# Fields of the state.
_GENERATION, _N_HELD, _WORDS, _KEYS, _N_NODES, _MASK, _ORDINAL, _FULL, _FIELDS = range(9)
# Columns of what is held: its number, where its words begin and end, whether it is fixed, who asked for it last.
_NUMBER, _BEGIN, _END, _FIXED, _ASKED = range(5)
_SPREAD = 0x9E3779B97F4A7C15


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the documents of a component are compared."""

    bands: int
    """Keys at the beginning of a document's words; 0 where components are not looked into."""
    signature: int = 0
    """Words of the signature after them."""
    slot_words: int = 1
    """Words of one of its slots."""
    anchors: int = 8
    verify: int = EXACT
    threshold: float = 0.8
    component: bool = False
    """All but the first go."""


class Clusters:
    """Decides components, block by block, in survivors' order within each."""

    def __init__(self, comparison: Comparison, held_bytes: int):
        """`held_bytes` is the memory for one component's survivors, at least 2 KiB; with buckets it is `memory_for`.
        It is taken from the system as far as components need it.

        What finds no room in it is not compared with later documents of the component, which then stay.
        """
        self.comparison = comparison
        survivors = 1 << max(4, (held_bytes // 128).bit_length() - 1)
        slots = survivors * table_factor(comparison.bands)
        self.memory = (
            np.empty(held_bytes // 8, np.uint32),
            np.empty((survivors // 8, 5), np.int64),
            np.empty(slots, np.uint64),
            np.zeros(slots, np.uint32),
            np.empty((slots, 2), np.int32),
            np.empty((slots, 2), np.int32),
            np.empty(comparison.bands * comparison.anchors, np.int64),
        )
        self.state = np.zeros(_FIELDS, np.int64)

    def decide(
        self, opens: np.ndarray, fixed: np.ndarray, words: np.ndarray, ends: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Decide the documents of the next block.

        opens : int64[n], 0 for a document of the component of the one before; where a component begins, how many
            documents of it the block has, or OPEN if it may go on in the next block.
        fixed : bool[n], documents that never go.
        words : uint32, the documents' words one after the other; ends : int64[n].

        Returns int64[n], the number of the survivor for whose sake each document goes, counted from the first
        document of the first block, or -1 where it stays; float64[n], its similarity to that, NaN where it was not
        compared; and how many documents stay for which there was no memory to compare them with all that came before.
        """
        c = self.comparison
        n = len(opens)
        survivor, score = np.empty(n, np.int64), np.empty(n)
        plan = np.array(
            [c.bands, c.signature, c.slot_words, c.anchors, c.verify, c.component, len(self.memory[2]) // 2],
            np.int64,
        )
        unverified = _decide(
            opens, fixed, words, ends, plan, c.threshold, self.memory, self.state, survivor, score
        )
        return survivor, score, unverified

    def held(self) -> np.ndarray:
        """Numbers of the survivors that are held of the last document's component, ascending: int64."""
        return self.memory[1][: self.state[_N_HELD], _NUMBER].copy()


@njit(_F64(_U32S, _AT, _AT, _U32S, _AT, _AT, _F64))
def _jaccard(one, a, a_end, other, b, b_end, threshold):
    """Jaccard similarity of two sorted sets; -1 as soon as it cannot be the threshold. Two empty sets are equal."""
    both = a_end - a + b_end - b
    if both == 0:
        return 1.0
    # j >= t means at most both * (1 - t) / (1 + t) items that only one has; one more, against rounding.
    allowed = _AT(both * (1.0 - threshold) / (1.0 + threshold)) + 1
    apart = _AT(0)
    shared = _AT(0)
    while a < a_end and b < b_end and apart <= allowed:
        x, y = one[a], other[b]
        same = _AT(x == y)
        shared += same
        apart += 1 - same
        a += _AT(x <= y)
        b += _AT(y <= x)
    apart += (a_end - a) + (b_end - b)
    if apart > allowed:
        return -1.0
    return shared / (both - shared)


@njit(_F64(_U32S, _AT, _U32S, _AT, _AT, _AT))
def _estimate(one, a, other, b, words, slot_words):
    """The share of equal slots of two signatures."""
    equal = _AT(0)
    for k in range(0, words, slot_words):
        same = True
        for w in range(slot_words):
            same &= one[a + k + w] == other[b + k + w]
        equal += same
    return equal * slot_words / words


@njit(_AT(_U64S, _U32S, _AT, _AT, types.uint64))
def _slot(keys, stamps, generation, mask, key):
    """The slot of a key, or the free one where it belongs."""
    slot = _AT((key * types.uint64(_SPREAD)) >> types.uint64(32)) & mask
    while stamps[slot] == generation and keys[slot] != key:
        slot = (slot + 1) & mask
    return slot


@njit(types.void(_I64S, _AT, _AT))
def _sink(heap, at, n):
    """Let an item of a heap of n sink to its place."""
    item = heap[at]
    while True:
        child = 2 * at + 1
        if child >= n:
            break
        if child + 1 < n and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= item:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = item


@njit(types.uint64(_U32S, _AT))
def _key(words, at):
    return types.uint64(words[at]) | (types.uint64(words[at + 1]) << types.uint64(32))


@njit(_AT(_U32S, _AT, _I64S, _MEMORY, _I64S))
def _candidates(words, begin, plan, memory, state):
    """Gather the survivors that a document's buckets stand for as a heap; returns how many."""
    _, held, keys, stamps, heads, nodes, heap = memory
    found = _AT(0)
    for band in range(plan[0]):
        key = _key(words, begin + 2 * band)
        slot = _slot(keys, stamps, state[_GENERATION], state[_MASK], key)
        node = _AT(heads[slot, 0]) if stamps[slot] == state[_GENERATION] else _AT(-1)
        while node >= 0:
            h = _AT(nodes[node, 0])
            if held[h, _ASKED] != state[_ORDINAL]:
                held[h, _ASKED] = state[_ORDINAL]
                heap[found] = h
                found += 1
            node = nodes[node, 1]
    for at in range(found // 2 - 1, -1, -1):
        _sink(heap, at, found)
    return found


@njit(types.boolean(_U32S, _AT, _I64S, _AT, _MEMORY, _I64S))
def _enter(words, begin, plan, survivor, memory, state):
    """Let a document's buckets stand for a survivor; False where there is no room."""
    _, _, keys, stamps, heads, nodes, _ = memory
    bands, anchors = plan[0], plan[3]
    if state[_KEYS] + bands > plan[6] or state[_N_NODES] + bands > nodes.shape[0]:
        return False
    generation = types.uint32(state[_GENERATION])
    for band in range(bands):
        key = _key(words, begin + 2 * band)
        slot = _slot(keys, stamps, state[_GENERATION], state[_MASK], key)
        if stamps[slot] != generation:
            stamps[slot], keys[slot] = generation, key
            heads[slot, 0], heads[slot, 1] = -1, 0
            state[_KEYS] += 1
        node = _AT(heads[slot, 0])
        while node >= 0 and nodes[node, 0] != survivor:
            node = nodes[node, 1]
        if node < 0 and heads[slot, 1] < anchors:
            nodes[state[_N_NODES], 0], nodes[state[_N_NODES], 1] = survivor, heads[slot, 0]
            heads[slot, 0] = state[_N_NODES]
            heads[slot, 1] += 1
            state[_N_NODES] += 1
    return True


@njit(_F64(_U32S, _AT, _AT, _AT, _I64S, _F64, _MEMORY))
def _compare(words, begin, end, h, plan, threshold, memory):
    """The similarity of a document and a held one; NaN where none is asked for, -1 where it is below the threshold."""
    arena, held = memory[0], memory[1]
    signature, verify = plan[1], plan[4]
    if verify == NONE:
        return np.nan
    data, other = begin + 2 * plan[0], held[h, _BEGIN]
    if verify == EXACT and held[h, _FIXED] == 0:
        return _jaccard(words, data + signature, end, arena, other + signature, held[h, _END], threshold)
    similarity = _estimate(words, data, arena, other, signature, plan[2])
    return similarity if similarity >= threshold else -1.0


@njit(_AT(_U32S, _AT, _AT, types.boolean, _MEMORY, _I64S))
def _hold(words, data, end, fixed, memory, state):
    """Keep a survivor's words; returns its place, -1 where there is no room."""
    arena, held = memory[0], memory[1]
    h, at = state[_N_HELD], state[_WORDS]
    if h == held.shape[0] or at + end - data > arena.shape[0]:
        return -1
    for k in range(end - data):
        arena[at + k] = words[data + k]
    held[h, _NUMBER], held[h, _FIXED], held[h, _ASKED] = state[_ORDINAL], fixed, -1
    held[h, _BEGIN], held[h, _END] = at, at + end - data
    state[_N_HELD] = h + 1
    state[_WORDS] = at + end - data
    return h


@njit(types.void(_AT, _I64S, _MEMORY, _I64S))
def _begin(documents, plan, memory, state):
    """Forget the component before; the table of the next is only as large as it needs to be."""
    state[_GENERATION] += 1
    state[_N_HELD] = state[_WORDS] = state[_KEYS] = state[_N_NODES] = state[_FULL] = 0
    slots = memory[2].shape[0]
    size = 16
    while size < slots and size < 2 * documents * plan[0]:
        size *= 2
    state[_MASK] = size - 1


@njit(_AT(_I64S, _FLAGS, _U32S, _I64S, _I64S, _F64, _MEMORY, _I64S, _I64S, _F64S))
def _decide(opens, fixed, words, ends, plan, threshold, memory, state, survivor, score):
    """Fill `survivor` and `score`; `Clusters.decide` says what they are, and returns what this returns."""
    held, heap = memory[1], memory[6]
    component = plan[5] != 0
    unverified = _AT(0)
    begin = _AT(0)
    for i in range(opens.shape[0]):
        end = ends[i]
        if opens[i] > 0:
            _begin(opens[i], plan, memory, state)
        survivor[i], score[i] = -1, np.nan
        match = _AT(-1)
        if component:
            if state[_N_HELD] > 0 and not fixed[i]:
                match = _AT(0)
                score[i] = _compare(words, begin, end, match, plan, 0.0, memory)
        elif not fixed[i]:
            left = _candidates(words, begin, plan, memory, state)
            while left > 0 and match < 0:
                similarity = _compare(words, begin, end, heap[0], plan, threshold, memory)
                if np.isnan(similarity) or similarity >= threshold:
                    match = _AT(heap[0])
                    score[i] = similarity
                left -= 1
                heap[0] = heap[left]
                _sink(heap, 0, left)
        if match >= 0:
            survivor[i] = held[match, _NUMBER]
        else:
            unverified += state[_FULL] * (not fixed[i])
            if not component or state[_N_HELD] == 0:
                match = _hold(words, begin + 2 * plan[0], end, fixed[i], memory, state)
                if match < 0:
                    state[_FULL] = 1
        if match >= 0 and not component and not _enter(words, begin, plan, match, memory, state):
            state[_FULL] = 1
        state[_ORDINAL] += 1
        begin = end
    return unverified
