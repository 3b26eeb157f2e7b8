"""Is every window of a mixed stream the mixture, every row drawn as often as planned, and no copy near another?"""

import itertools
import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from winnow.shards import interleave, tables
from winnow.shards.interleave import BLOCK_ROWS, MOST_ROWS, DrawOrder, mixed_order

MPT_7B = {"mc4": 0.33, "c4": 0.299, "redpajama-cc": 0.10, "stack": 0.10, "wikipedia": 0.04, "markdown": 0.035,
          "s2orc": 0.033, "books": 0.03, "arxiv": 0.019, "stackexchange": 0.014}  # fmt: skip
"""Shares of the model card, huggingface.co/mosaicml/mpt-7b."""
FIBONACCI = [1, 1]
while len(FIBONACCI) < 18:
    FIBONACCI.append(FIBONACCI[-1] + FIBONACCI[-2])


def rounding_errors(rows, owners):
    """int64[sources, R + 1]: by how much a source's count before each position is off, times R: exact."""
    total = sum(rows)
    errors = np.zeros((len(rows), total + 1), np.int64)
    for source, n in enumerate(rows):
        errors[source, 1:] = np.cumsum(owners == source) * total
        errors[source] -= np.arange(total + 1) * n
    return errors


def sizes_of(shape, n, rng):
    """Rows by source: alike, of a heavy tail, of powers of two, or all equal but one."""
    if shape == "even":
        return rng.integers(1, 200, n).tolist()
    if shape == "tail":
        return np.clip(rng.pareto(0.4, n) * 5 + 1, 1, 9000).astype(int).tolist()
    if shape == "powers":
        return (2 ** rng.integers(0, 11, n)).tolist()
    return [1, *[int(rng.integers(2, 150))] * (n - 1)]


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(["even", "tail", "powers", "dust"]), st.integers(2, 64), st.integers(0, 2**32))
def test_every_window_of_any_length_is_within_three_rows(shape, n, seed):
    rows = sizes_of(shape, n, np.random.default_rng(seed))
    mixing = interleave.interleave(rows)
    errors = rounding_errors(rows, mixing.owners(0, sum(rows)))
    assert not errors[:, -1].any(), "a source's rows are not all there"
    # The error of a window is the difference of two of these.
    assert (errors.max(axis=1) - errors.min(axis=1)).max() < 3 * sum(rows)


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([1, *[64] * 17], id="one-of-17-with-dust"),
        pytest.param([1, *[200] * 65], id="one-of-65-with-dust"),
        pytest.param([1, *(20 * f for f in FIBONACCI[:14])], id="fibonacci-with-dust"),
        pytest.param(FIBONACCI, id="fibonacci"),
        pytest.param([3**i for i in range(10)], id="powers-of-three"),
        pytest.param([1] * 1500, id="as-many-sources-as-rows"),
        pytest.param([20_000, 1], id="nearly-alone"),
    ],
)
def test_windows_of_mixtures_that_are_hard_on_trees(rows):
    errors = rounding_errors(rows, interleave.interleave(rows).owners(0, sum(rows)))
    assert (errors.max(axis=1) - errors.min(axis=1)).max() < 3 * sum(rows)


def test_windows_of_mpt_7b():
    """A trillion tokens in rows of 2048, looked at here and there."""
    rows = [round(share * 488_281_250) for share in MPT_7B.values()]
    mixing = interleave.interleave(rows)
    assert mixing.counts_before(mixing.n_rows).tolist() == rows
    rng = random.Random(7)
    share = np.array(rows) / sum(rows)
    for _ in range(200):
        first = rng.randrange(mixing.n_rows - 3000)
        owners = mixing.owners(first, first + 3000)
        before = np.zeros((len(rows), 3001))
        before[:, 1:] = np.cumsum(owners == np.arange(len(rows))[:, None], axis=1)
        windows = before[:, 1000:] - before[:, :-1000]
        assert np.abs(windows - 1000 * share[:, None]).max() < 3


ROWS = st.lists(st.integers(1, 9) | st.integers(1, 400), min_size=1, max_size=20)


@settings(deadline=None, max_examples=100)
@given(ROWS, st.data())
def test_any_part_is_the_same_as_in_the_whole(rows, more):
    mixing = interleave.interleave(rows)
    owners = mixing.owners(0, sum(rows))
    assert np.bincount(owners, minlength=len(rows)).tolist() == rows
    first = more.draw(st.integers(0, sum(rows)))
    last = more.draw(st.integers(first, sum(rows)))
    assert mixing.owners(first, last).tolist() == owners[first:last].tolist()
    assert mixing.counts_before(first).tolist() == np.bincount(owners[:first], minlength=len(rows)).tolist()
    for source, n in enumerate(rows):
        positions = mixing.positions(source, np.arange(n))
        assert positions.tolist() == np.flatnonzero(owners == source).tolist()


@pytest.mark.parametrize("rows", [[1, MOST_ROWS - 1], [MOST_ROWS // 3] * 3, [MOST_ROWS]])
def test_the_largest_stream_overflows_nowhere(rows):
    mixing = interleave.interleave(rows)
    last = mixing.n_rows
    assert mixing.counts_before(last).tolist() == rows
    owners = mixing.owners(last - 1000, last)
    assert owners.min() >= 0
    counts = np.bincount(owners, minlength=len(rows))
    assert (mixing.counts_before(last - 1000) + counts).tolist() == rows
    for source in set(owners.tolist()):
        (place,) = mixing.positions(source, np.array([rows[source] - 1]))
        assert place == last - 1000 + np.flatnonzero(owners == source)[-1]


@pytest.mark.parametrize("rows", [[], [3, 0], [3, -1], [MOST_ROWS, 1]])
def test_rows_that_are_refused(rows):
    with pytest.raises(
        ValueError, match=r"^sources of 1 row or more, of 3,000,000,000 in all, can be mixed, not \["
    ):
        interleave.interleave(rows)


def slow_pass(n_rows, seed, again):
    """A later pass as it is told: halves in order, their blocks and the rows of each block by hash."""

    def draw(key, numbers):
        return int(tables.mix(key, np.array([numbers], np.uint64))[0])

    own = draw(seed, again)
    half = -(-n_rows // 2)
    out = []
    for first, last in ((0, half), (half, n_rows)):
        blocks = [range(b, min(b + BLOCK_ROWS, last)) for b in range(first, last, BLOCK_ROWS)]
        for block in sorted(blocks, key=lambda b: draw(~own, b[0])):
            out += sorted(block, key=lambda row: draw(own, row))
    return out


SIZES = st.integers(1, 40) | st.integers(1000, 2600)


@settings(deadline=None, max_examples=40)
@given(SIZES, st.integers(0, 2**64 - 1), st.integers(1, 9))
@example(2 * BLOCK_ROWS + 1, 5, 1)
def test_a_later_pass_is_what_its_definition_says(n_rows, seed, again):
    order = DrawOrder(n_rows, seed)
    found = order.rows(again * n_rows, (again + 1) * n_rows).tolist()
    assert found == slow_pass(n_rows, seed, again)
    assert sorted(found) == list(range(n_rows))


@settings(deadline=None, max_examples=60)
@given(SIZES, st.integers(0, 2**64 - 1), st.floats(0.1, 4.5), st.data())
def test_any_range_of_draws(n_rows, seed, passes, more):
    order = DrawOrder(n_rows, seed)
    n_draws = int(passes * n_rows) + 1
    whole = order.rows(0, n_draws)
    assert whole[:n_rows].tolist() == list(range(min(n_rows, n_draws))), "the first pass reads forward"
    first = more.draw(st.integers(0, n_draws))
    last = more.draw(st.integers(first, n_draws))
    assert order.rows(first, last).tolist() == whole[first:last].tolist()

    spans = order.spans(first, last)
    assert all(0 <= a < b <= n_rows for a, b in spans)
    assert all(b < following for (_, b), (following, _) in itertools.pairwise(spans))
    held = np.zeros(n_rows, bool)
    for a, b in spans:
        held[a:b] = True
    assert held[whole[first:last]].all()
    assert held.sum() <= last - first + 4 * BLOCK_ROWS, "far more rows than are drawn"

    row = more.draw(st.integers(0, n_rows - 1))
    assert order.draws_of(row, n_draws).tolist() == np.flatnonzero(whole == row).tolist()
    by_row = np.argsort(whole, kind="stable")
    same = whole[by_row][1:] == whole[by_row][:-1]
    distances = np.diff(by_row)[same]
    assert (distances > n_rows // 2).all(), "copies of a row too near"


def test_passes_differ():
    order = DrawOrder(4000, 3)
    passes = [order.rows(p * 4000, (p + 1) * 4000) for p in range(4)]
    for a, b in itertools.combinations(passes, 2):
        assert np.mean(a == b) < 0.01
        neighbours = set(itertools.pairwise(a.tolist()))
        assert len(neighbours & set(itertools.pairwise(b.tolist()))) < 40


SOURCES = [("web", 900, 700), ("wiki", 50, 410), ("code", 200, 200), ("unused", 10, 0), ("one", 1, 3)]


def test_positions_and_rows_are_each_others_inverse():
    order = mixed_order(SOURCES, 17)
    assert order.sources == ("code", "one", "web", "wiki")
    at = {}
    for position in range(700 + 410 + 200 + 3):
        at.setdefault(order.locate(position), []).append(position)
    for name, n_rows, drawn in SOURCES:
        copies = [order.positions_of(name, row) for row in range(n_rows)]
        assert copies == [at.get((name, row), []) for row in range(n_rows)]
        assert sum(map(len, copies)) == drawn
        assert {len(c) for c in copies} <= {drawn // n_rows, -(-drawn // n_rows)}
    assert order.positions_of("elsewhere", 0) == []
    for position in (-1, 1313):
        with pytest.raises(IndexError, match=f"^position {position} of a stream of 1313 rows$"):
            order.locate(position)


def test_the_order_of_sources_in_a_recipe_does_not_matter():
    orders = [mixed_order(some, 17) for some in itertools.permutations(SOURCES)]
    assert all(order == orders[0] for order in orders)
    other = mixed_order(SOURCES, 18)
    assert [other.draws[3].rows(50, 100).tolist()] != [orders[0].draws[3].rows(50, 100).tolist()]


def test_sources_are_drawn_in_orders_of_their_own():
    order = mixed_order([("a", 100, 300), ("b", 100, 300)], 17)
    a, b = (d.rows(100, 200).tolist() for d in order.draws)
    assert a != b


def test_no_copy_is_next_to_another():
    order = mixed_order([("twice", 2, 90), ("alone", 3, 5)], 1)
    located = [order.locate(position) for position in range(95)]
    assert all(a != b for a, b in itertools.pairwise(located))


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([("a", 1, 1), ("a", 2, 2)], "two sources have one name: a, a"),
        ([("a", 0, 1)], "source 'a' has no rows, and 1 are to be drawn"),
        ([("a", 5, 0)], r"sources of 1 row or more, of 3,000,000,000 in all, can be mixed, not \[\]"),
    ],
)
def test_mixtures_that_are_refused(sources, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        mixed_order(sources, 0)


def test_far_positions_need_no_table():
    """Six trillion tokens in rows of 2048, with a source that is passed over eight times."""
    order = mixed_order([("web", 4 * 10**9, 2_900_000_000), ("wiki", 2_400_000, 19_700_000)], 17)
    for position in (0, 10**9, 2_919_699_999):
        name, row = order.locate(position)
        assert position in order.positions_of(name, row)
    copies = order.positions_of("wiki", 1_234_567)
    assert len(copies) in (8, 9)
    assert min(np.diff(copies)) > 1_200_000 * 147
