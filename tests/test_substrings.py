"""Do cells find exactly the windows of bytes that occurred before, and does it stay linear on any text?"""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from winnow.filters.jit import text_buffers
from winnow.filters.substring_settings import Substrings
from winnow.filters.substrings import (
    RESOLVED,
    Judge,
    anchor_cells,
    divided,
    divided_most,
    gram_of,
    hash_span,
    scratch_for,
    spans_of,
    steps_of,
)


def column(texts):
    return pa.array(texts, pa.large_string())


def cells_of(texts, length, room=1 << 12):
    """Every cell of some documents at the first step, `room` at a time: (keys, cells)."""
    offsets, utf8 = text_buffers(column(texts))
    scratch = scratch_for(length)
    keys, cells = np.empty((room, 2), np.uint64), np.empty((room, 4), np.uint32)
    found = [(keys[:0], cells[:0])]
    document = window = 0
    while document < len(texts):
        document, window, n = anchor_cells(offsets, utf8, document, window, scratch, keys, cells)
        found.append((keys[:n].copy(), cells[:n].copy()))
    return tuple(map(np.concatenate, zip(*found, strict=True)))


def judged(keys, cells):
    """(cells that are duplicates, cells that have to be divided), by the module's words."""
    duplicates, extents = [], {}
    for (key, extent), cell in zip(keys.tolist(), cells.tolist(), strict=True):
        if cell[3] == RESOLVED or extent in extents.setdefault(key, {}):
            duplicates.append(cell)
        else:
            extents[key][extent] = cell
    open_ = [cell for found in extents.values() if len(found) > 1 for cell in found.values()]
    return duplicates, np.array(sorted(open_), np.uint32).reshape(-1, 4)


def duplicate_windows(texts, length, room=1 << 12):
    """(document, begin) of every duplicate window, by way of the cells."""
    offsets, utf8 = text_buffers(column(texts))
    keys, cells = cells_of(texts, length, room)
    found, open_ = judged(keys, cells)
    for step in steps_of(length):
        more, open_ = judged(*divided(offsets, utf8, open_, length, step))
        found += more
    windows = [(document, at) for document, start, n, _ in found for at in range(start, start + n)]
    assert len(set(windows)) == len(windows), "a window is in two cells"
    return set(windows)


def slow_duplicate_windows(texts, length):
    """The definition read aloud."""
    seen, found = set(), set()
    for document, text in enumerate(t.encode() for t in texts):
        for at in range(len(text) - length + 1):
            window = text[at : at + length]
            if window in seen:
                found.add((document, at))
            seen.add(window)
    return found


tiny = st.text("ab", max_size=120)
pieces = st.sampled_from(
    ["a", "ab", "abc", "the cat ", "中文", "é", "😀x", "\n", "aab" * 8, "0123456789" * 3]
)
planted = st.lists(pieces, max_size=40).map("".join)
periodic = st.tuples(
    st.text("abc", min_size=1, max_size=7), st.integers(0, 40), st.text("abc", max_size=9)
).map(lambda t: t[0] * t[1] + t[2])
mixed = st.lists(tiny | planted | periodic | st.text(max_size=30), min_size=1, max_size=6)


@settings(deadline=None, max_examples=600)
@given(mixed, st.integers(8, 40), st.integers(2, 9))
def test_agrees_with_the_definition_read_aloud(texts, length, room):
    assert duplicate_windows(texts, length, room) == slow_duplicate_windows(texts, length)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(20, 120), st.integers(2, 4))
def test_planted_repeats_in_random_text(seed, length, letters):
    """Stretches about as long as a window, at places that overlap themselves and each other."""
    rng = np.random.default_rng(seed)
    alphabet = np.frombuffer("abcd"[:letters].encode(), np.uint8)
    source = alphabet[rng.integers(0, letters, 600)].tobytes().decode()
    texts = []
    for _ in range(6):
        text = alphabet[rng.integers(0, letters, 300)].tobytes().decode()
        for _ in range(3):
            a, n, at = rng.integers(0, 500), rng.integers(length - 3, 2 * length), rng.integers(0, 300)
            text = text[:at] + source[a : a + n] + text[at:]
        texts.append(text)
    assert duplicate_windows(texts, length) == slow_duplicate_windows(texts, length)


@settings(deadline=None)
@given(mixed, st.integers(8, 40), st.integers(2, 9))
def test_cells_cover_every_window_once_however_little_room_there_is(texts, length, room):
    keys, cells = cells_of(texts, length, room)
    found = sorted((d, at) for d, start, n, _ in cells.tolist() for at in range(start, start + n))
    sizes = [len(t.encode()) for t in texts]
    assert found == [(d, at) for d, size in enumerate(sizes) for at in range(size - length + 1)]
    whole = cells_of(texts, length)
    unresolved, unresolved_whole = cells[:, 3] != RESOLVED, whole[1][:, 3] != RESOLVED
    np.testing.assert_array_equal(cells[unresolved], whole[1][unresolved_whole])
    np.testing.assert_array_equal(keys[unresolved], whole[0][unresolved_whole])


@settings(deadline=None)
@given(mixed, st.integers(8, 40), st.just(1) | st.integers(2, 30))
def test_divided_cells_cover_the_windows_of_the_whole(texts, length, step):
    offsets, utf8 = text_buffers(column(texts))
    _, cells = cells_of(texts, length)
    given_ = cells[cells[:, 3] != RESOLVED]
    keys, parts = divided(offsets, utf8, given_, length, step)
    windows = [[(d, at, a) for d, s, n, a in c.tolist() for at in range(s, s + n)] for c in (given_, parts)]
    assert windows[0] == windows[1]
    assert len(keys) == len(parts) <= divided_most(given_[:, 2], step).sum()
    assert (parts[:, 2] <= step).all()
    # Equal windows are in cells of equal keys.
    by_window = {}
    for (key, _), (d, start, n, _) in zip(keys.tolist(), parts.tolist(), strict=True):
        for at in range(start, start + n):
            by_window.setdefault(texts[d].encode()[at : at + length], set()).add(key)
    assert all(len(found) == 1 for found in by_window.values())
    if step == 1:  # the key is a hash of the whole window, as the extent is
        assert len(set().union(*by_window.values())) == len(by_window)


@settings(deadline=None, max_examples=500)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=25), st.data())
def test_cells_that_come_in_blocks_are_judged_like_all_at_once(cells, data):
    cells = sorted(cells)
    inner = data.draw(st.sets(st.integers(0, len(cells)), max_size=6))
    judge, duplicates, open_ = Judge(), [], []
    for a, b in itertools.pairwise(sorted(inner | {0, len(cells)})):
        key, extent = np.array(cells[a:b], np.uint64).T
        again, mine, before = judge.block(key, extent)
        if before:
            open_.append(next(i for i in range(a) if cells[i][0] == cells[a - 1][0]))
        duplicates += (a + np.flatnonzero(again)).tolist()
        open_ += (a + np.flatnonzero(mine)).tolist()
    firsts = [i for i in range(len(cells)) if cells[i] not in cells[:i]]
    assert duplicates == [i for i in range(len(cells)) if i not in firsts]
    several = {key for key, extent in cells if any(k == key and e != extent for k, e in cells)}
    assert sorted(open_) == [i for i in firsts if cells[i][0] in several]


@pytest.mark.parametrize(
    ("cells", "spans"),
    [
        pytest.param([(0, 4, 1)], [(0, 4, 12)], id="one-window"),
        pytest.param([(0, 4, 2), (0, 6, 1)], [(0, 4, 14)], id="windows-that-overlap"),
        pytest.param([(0, 0, 1), (0, 8, 1)], [(0, 0, 16)], id="windows-that-touch"),
        pytest.param([(0, 0, 1), (0, 9, 1)], [(0, 0, 8), (0, 9, 17)], id="a-byte-between"),
        pytest.param([(0, 12, 1), (1, 0, 1)], [(0, 12, 20), (1, 0, 8)], id="another-document"),
        pytest.param([(1, 1, 1), (2, 1, 2)], [(1, 2, 9), (2, 4, 8)], id="drawn-in-to-characters"),
        pytest.param([(2, 3, 5)], [(2, 4, 15)], id="to-the-end"),
        pytest.param([(3, 0, 1)], [(3, 0, 7)], id="a-byte-before-the-end"),
    ],
)
def test_spans_by_hand(cells, spans):
    offsets, utf8 = text_buffers(
        column(["x", "a" * 20, "éé" + "aaaaa" + "中" + "aa", "😀" * 3 + "中", "aaaaaaaé"]).slice(1)
    )
    found = spans_of(offsets, utf8, *np.array(cells, np.uint32).T, 8)
    assert list(zip(*map(np.ndarray.tolist, found), strict=True)) == spans


@pytest.mark.parametrize("length", [8, 9, 50, 500, 1 << 12])
def test_steps_end_at_single_windows(length):
    first, last = steps_of(length)
    assert last == 1
    assert 2 <= first <= length - gram_of(length) + 1


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a" * 1_000_000, id="one-letter"),
        pytest.param("\n" * 1_000_000, id="a-million-newlines"),
        pytest.param("ab" * 500_000, id="period-2"),
        pytest.param("the same line\n" * 70_000, id="one-line"),
        pytest.param("".join(map(chr, range(97, 123))) * 40_000, id="the-alphabet"),
        pytest.param("😀" * 250_000, id="emoji"),
        pytest.param("ข้อความ" * 50_000, id="thai"),
    ],
)
def test_periodic_text_is_a_few_cells(text):
    keys, cells = cells_of([text], 500)
    period = next(p for p in range(1, 100) if text.encode()[p:].startswith(text.encode()[:1000]))
    assert len(cells) <= 2 * period + 2
    assert len(judged(keys, cells)[1]) <= 3, "all but the ends are like what was before"
    windows = len(text.encode()) - 499
    assert duplicate_windows([text], 500) == {(0, at) for at in range(period, windows)}


def test_random_text_has_an_anchor_in_every_half_window():
    text = np.random.default_rng(3).integers(32, 127, 1_000_000, np.uint8).tobytes().decode()
    _, cells = cells_of([text], 500, 1 << 16)
    assert len(cells) == pytest.approx(1_000_000 * 2 / 252, rel=0.03)
    assert cells[:, 2].max() <= 251


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=100), st.binary(max_size=100), st.integers(0, 2**64 - 1))
def test_a_hash_depends_on_the_bytes_and_the_seed_alone(one, other, seed):
    def hashed(raw, before=b"", after=b"", seed=seed):
        whole = np.frombuffer(before + raw + after, np.uint8)
        return hash_span(whole, len(before), len(before + raw), np.uint64(seed))

    assert hashed(one) == hashed(one, b"??", b"!") == hashed(one, b"x", b"y" * 9)
    assert (hashed(one) == hashed(other)) == (one == other)
    assert hashed(one) != hashed(one, seed=seed ^ 1)
    assert hashed(one) != hashed(one + b"\0")


@pytest.mark.parametrize("min_bytes", [7, (1 << 12) + 1, 500.5, None])
def test_settings_that_make_no_sense_are_refused(min_bytes):
    with pytest.raises(ValidationError):
        Substrings(min_bytes=min_bytes)


def test_settings_by_default():
    assert Substrings().min_bytes == 500
