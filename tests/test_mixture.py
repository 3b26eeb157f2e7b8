"""Do the shares add up, do caps hold, and does a budget that is promised to fit fit?

Every rule is compared with a slow plain definition; groups and caps with what must hold of any mixture.
"""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from winnow.shards.mixture import (
    Group,
    Leaf,
    MixtureError,
    Share,
    leaves_of,
    plan_mixture,
    rows_to_draw,
    size,
    split,
    unimax,
    warnings,
    water_fill,
)

numbers = st.integers(1, 10**13)
sizes = st.lists(numbers, min_size=1, max_size=8)
weights = st.floats(1e-4, 1e4)
RULES = ("proportions", "relative", "tokens", "epochs", "repeats", "natural", "temperature", "unimax")


def flat(rule, tokens, given_=None, **more) -> Group:
    given_ = given_ or [None] * len(tokens)
    leaves = (Leaf(f"s{i}", n, w) for i, (n, w) in enumerate(zip(tokens, given_, strict=True)))
    return Group("", rule, tuple(leaves), **more)


@st.composite
def trees(draw, rules=("relative", "natural", "temperature", "unimax", "repeats"), depth=3, name="g"):
    """Groups in groups, down to `depth` levels; the members of a group have weights where its rule wants them."""
    rule = draw(st.sampled_from(rules))
    members = []
    for i in range(draw(st.integers(1, 4))):
        weight = draw(st.floats(0.1, 10)) if rule in ("relative", "repeats") else None
        if depth > 1 and draw(st.booleans()):
            inner = draw(trees(rules=rules, depth=depth - 1, name=f"{name}.{i}"))
            members.append(Group(inner.name, inner.rule, inner.members, weight, inner.temperature))
        else:
            members.append(Leaf(f"{name}.{i}", draw(st.integers(1, 10**9)), weight))
    temperature = draw(st.floats(1, 5)) if rule == "temperature" else None
    return Group(name, rule, tuple(members), temperature=temperature)


def shares_below(member, shares) -> float:
    return math.fsum(shares[leaf.name].proportion for leaf in leaves_of(member))


# ---- rules ---------------------------------------------------------------------------------------------------


def exact_shares(rule, tokens, given_, temperature):
    """The rules as fractions, where they are."""
    parts = {
        "proportions": lambda n, w: Fraction(w),
        "relative": lambda n, w: Fraction(w),
        "tokens": lambda n, w: Fraction(w),
        "epochs": lambda n, w: Fraction(w) * n,
        "repeats": lambda n, w: Fraction(w) * n,
        "natural": lambda n, w: Fraction(n),
        "temperature": lambda n, w: Fraction(n ** (1 / temperature)),
    }[rule]
    drawn = [parts(n, w) for n, w in zip(tokens, given_, strict=True)]
    return [float(d / sum(drawn)) for d in drawn]


@settings(deadline=None)
@given(st.sampled_from(RULES[:-1]), sizes, st.floats(1, 10), st.integers(1, 10**14), st.data())
def test_each_rule_against_its_definition(rule, tokens, temperature, budget, more):
    given_ = [more.draw(weights) for _ in tokens]
    if rule == "proportions":
        given_ = [w / math.fsum(given_) for w in given_]
    with_weights = rule in RULES[:5]
    more_ = {"temperature": temperature} if rule == "temperature" else {}
    root = flat(rule, tokens, given_ if with_weights else None, **more_)
    shares = plan_mixture(root, None if rule in ("tokens", "epochs") else budget)
    assert [s.source for s in shares] == [f"s{i}" for i in range(len(tokens))]
    wanted = exact_shares(rule, tokens, given_, temperature)
    assert [s.proportion for s in shares] == pytest.approx(wanted, rel=1e-9)
    assert [s.wanted for s in shares] == [s.proportion for s in shares]
    drawn = {
        "tokens": math.fsum(given_),
        "epochs": math.fsum(w * n for w, n in zip(given_, tokens, strict=True)),
    }.get(rule, budget)
    assert math.fsum(s.effective_tokens for s in shares) == pytest.approx(drawn, rel=1e-12)
    for share, n in zip(shares, tokens, strict=True):
        assert share.tokens == n
        assert share.epochs == pytest.approx(share.effective_tokens / n, rel=1e-12)


@settings(deadline=None)
@given(sizes, st.data())
def test_weights_that_are_amounts_are_what_is_drawn(tokens, more):
    given_ = [more.draw(weights) for _ in tokens]
    drawn = plan_mixture(flat("tokens", tokens, given_))
    assert [s.effective_tokens for s in drawn] == pytest.approx(given_, rel=1e-12)
    read = plan_mixture(flat("epochs", tokens, given_))
    assert [s.epochs for s in read] == pytest.approx(given_, rel=1e-12)


def test_a_run_is_as_long_as_is_said_or_one_pass():
    tokens = [100, 300]
    for rule, given_, kwargs, drawn in [
        ("natural", None, {}, 400),
        ("relative", [1, 1], {}, 400),
        ("natural", None, {"epochs": 1.5}, 600),
        ("relative", [1, 1], {"epochs": 2}, 800),
        ("relative", [1, 1], {"budget": 50}, 50),
        ("repeats", [2, 1], {}, 500),
        ("repeats", [None, 1.5], {"epochs": 2}, 1100),
        ("repeats", [2, 1], {"budget": 50}, 50),
        ("tokens", [70, 5], {}, 75),
        ("epochs", [0.5, 2], {}, 650),
    ]:
        shares = plan_mixture(flat(rule, tokens, given_), **kwargs)
        assert math.fsum(s.effective_tokens for s in shares) == pytest.approx(drawn), rule


@pytest.mark.parametrize(
    ("rule", "kwargs"),
    [("relative", {"budget": 5, "epochs": 1}), ("tokens", {"budget": 5}), ("epochs", {"epochs": 5})],
)
def test_the_length_of_a_run_is_said_once(rule, kwargs):
    with pytest.raises(MixtureError, match="the run's length is given twice"):
        plan_mixture(flat(rule, [9], [1.0]), **kwargs)


def test_cosmos_repeats():
    """Cosmo-1B: stories, auto_math_text and khanacademy twice in a pass, six passes (tokens in M)."""
    tokens = {"web_v1": 9270, "web_v2": 7510, "stories": 2620, "math": 1260, "stanford": 910, "khan": 20}
    twice = ("stories", "math", "khan")
    leaves = tuple(Leaf(k, n, 2.0 if k in twice else None) for k, n in tokens.items())
    shares = plan_mixture(Group("", "repeats", leaves), epochs=6)
    assert {s.source: s.epochs for s in shares} == pytest.approx(
        {name: 12 if name in twice else 6 for name in tokens}
    )
    assert sum(s.effective_tokens for s in shares) == pytest.approx(6 * (sum(tokens.values()) + 3900))


@settings(deadline=None)
@given(sizes)
def test_everything_once_is_one_epoch(tokens):
    # Shares sum to 1 only nearly; that is no second epoch, and no row is lost.
    shares = plan_mixture(flat("natural", [n * 64 for n in tokens]), max_epochs=1)
    assert all(s.epochs == pytest.approx(1, rel=1e-9) for s in shares)
    rows = rows_to_draw(shares, dict.fromkeys([s.source for s in shares], 64.0))
    assert list(rows.values()) == tokens


def test_a_source_without_tokens_gets_nothing_where_sizes_count():
    for rule in ("natural", "temperature", "unimax", "repeats"):
        shares = plan_mixture(flat(rule, [10, 0], temperature=2.0), 10, max_epochs=1)
        assert [(s.proportion, s.epochs, s.unique_factor) for s in shares] == [(1, 1, 1), (0, 0, 1)], rule
        assert rows_to_draw(shares, {"s0": 2.0, "s1": 0.0}) == {"s0": 5, "s1": 0}


def test_temperature_of_the_reference():
    """1 T, 100 B and 1 B tokens at T = 3.33: 77 epochs of the smallest in a run of 1 T."""
    shares = plan_mixture(flat("temperature", [10**12, 10**11, 10**9], temperature=3.33), 10**12)
    assert shares[2].epochs == pytest.approx(77, abs=0.6)


# ---- UniMax --------------------------------------------------------------------------------------------------


def unimax_by_bisection(tokens, budget, cap):
    """min(level, cap n) for the level at which they sum to the budget."""
    low, high = 0.0, max(float(budget), cap * max(tokens))
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(min(middle, cap * n) for n in tokens) < budget else (low, middle)
    return [min(high, cap * n) for n in tokens]


@settings(deadline=None)
@given(sizes, st.floats(0.1, 20), st.floats(0.01, 1.2))
def test_unimax_is_as_even_as_the_cap_lets_it(tokens, cap, fullness):
    budget = fullness * cap * sum(tokens)
    assume(budget >= 1)
    amounts = unimax(tokens, budget, cap)
    assert amounts == pytest.approx(unimax_by_bisection(tokens, budget, cap), rel=1e-6)
    assert sum(amounts) == pytest.approx(min(budget, cap * sum(tokens)), rel=1e-9)


def test_unimax_by_hand():
    # 10 and 20 at two epochs are 20 and 40; what is left of 200 is halved.
    assert unimax([300, 10, 20, 100], 200, 2) == [70, 20, 40, 70]


# ---- caps ----------------------------------------------------------------------------------------------------


def water_by_bisection(wanted, caps, total):
    low, high = 0.0, 1.0
    while sum(min(c, high * w) for c, w in zip(caps, wanted, strict=True)) < total * (1 - 1e-12):
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        poured = sum(min(c, middle * w) for c, w in zip(caps, wanted, strict=True))
        low, high = (middle, high) if poured < total else (low, middle)
    return [min(c, high * w) for c, w in zip(caps, wanted, strict=True)]


@settings(deadline=None)
@given(st.lists(st.tuples(weights, st.floats(1e-3, 1e6)), min_size=1, max_size=9), st.floats(0.001, 0.999))
def test_water_filling_against_bisection(parts, fullness):
    wanted, caps = zip(*parts, strict=True)
    total = fullness * math.fsum(caps)
    got = water_fill(wanted, caps, total)
    assert got == pytest.approx(water_by_bisection(wanted, caps, total), rel=1e-6)
    assert math.fsum(got) == pytest.approx(total, rel=1e-9)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(0.1, 1)), min_size=2, max_size=5), st.data())
def test_water_filling_is_nearest_to_what_was_wanted(parts, more):
    """No other mixture under the caps has a smaller KL divergence: moving a little between any two makes it larger."""
    wanted = [w / math.fsum(w for w, _ in parts) for w, _ in parts]
    caps = [c for _, c in parts]
    assume(math.fsum(caps) > 1.001)
    got = water_fill(wanted, caps, 1.0)

    def divergence(p):
        return math.fsum(a * math.log(a / q) for a, q in zip(p, wanted, strict=True))

    for i in range(len(parts)):
        for j in range(len(parts)):
            step = min(1e-4, got[i] / 2, caps[j] - got[j])
            if i != j and step > 1e-9:
                moved = list(got)
                moved[i] -= step
                moved[j] += step
                assert divergence(moved) >= divergence(got) - 1e-12


def test_water_filling_gives_nothing_to_what_is_not_wanted():
    assert water_fill([0, 1, 1], [0, 3, 9], 10) == [0, 3, 7]
    assert water_fill([1, 1], [2, 2], 9) == [2, 2]


@settings(deadline=None)
@given(trees(), st.floats(0.5, 6), st.floats(0.01, 1))
def test_spread_in_nested_groups(root, max_epochs, fullness):
    budget = int(fullness * max_epochs * size(root))
    assume(budget)
    shares = {s.source: s for s in plan_mixture(root, budget, None, max_epochs, "spread")}
    assert list(shares) == [leaf.name for leaf in leaves_of(root)]
    assert math.fsum(s.proportion for s in shares.values()) == pytest.approx(1, rel=1e-9)
    assert math.fsum(s.wanted for s in shares.values()) == pytest.approx(1, rel=1e-9)
    assert all(s.epochs <= max_epochs * (1 + 1e-9) for s in shares.values())

    def look(group):
        drawn = shares_below(group, shares)
        parts = split(group, drawn * budget, max_epochs)
        full = [shares_below(m, shares) * budget >= max_epochs * size(m) * (1 - 1e-9) for m in group.members]
        # Members that are not full share in the ratio they were to share in, and get at least their part.
        levels = [
            shares_below(m, shares) / part
            for m, part, is_full in zip(group.members, parts, full, strict=True)
            if not is_full
        ]
        assert levels == pytest.approx(levels[:1] * len(levels), rel=1e-6)
        assert all(level >= drawn * (1 - 1e-6) for level in levels)
        for member in group.members:
            if isinstance(member, Group):
                look(member)

    look(root)


def test_a_group_keeps_its_share_while_its_members_can_take_it():
    code = Group("code", "relative", (Leaf("python", 10, 3.0), Leaf("rust", 90, 1.0)), weight=0.4)
    root = Group("", "proportions", (Leaf("web", 1000, 0.6), code))
    inside = plan_mixture(root, 100, max_epochs=1, over="spread")
    assert [s.effective_tokens for s in inside] == pytest.approx([60, 10, 30])
    assert [s.wanted for s in inside] == pytest.approx([0.6, 0.3, 0.1])
    beyond = plan_mixture(root, 500, max_epochs=1, over="spread")
    assert [s.effective_tokens for s in beyond] == pytest.approx([400, 10, 90])


def test_spread_changes_nothing_where_no_cap_is_reached():
    root = flat("relative", [100, 200], [1.0, 3.0])
    assert plan_mixture(root, 50, None, 1, "spread") == plan_mixture(root, 50)


def test_spread_of_more_than_there_is_message_whole():
    with pytest.raises(MixtureError) as caught:
        plan_mixture(flat("relative", [100, 200], [1.0, 3.0]), 1_250, None, 4, "spread")
    assert str(caught.value) == (
        "4 epochs of every source are 1,200 tokens, 50 fewer than the 1,250 wanted: lower mixture.tokens, raise "
        "max_epochs, or add text"
    )


def offer(root, budget, max_epochs) -> tuple[int, bool] | None:
    """What the message offers when a budget is too large, and whether it speaks of spreading; None when it fits."""
    try:
        shares = plan_mixture(root, budget, max_epochs=max_epochs)
    except MixtureError as error:
        message = str(error)
        offered = int(message.split(" at most ")[1].split(" tokens")[0].replace(",", ""))
        return offered, "over_max_epochs" in message
    assert all(s.epochs <= max_epochs * (1 + 1e-9) for s in shares)
    return None


@settings(deadline=None)
@given(trees(), st.floats(0.25, 8), st.floats(0.5, 3))
def test_the_budget_that_the_message_offers_fits(root, max_epochs, fullness):
    budget = int(fullness * max_epochs * size(root)) + 1
    if (answer := offer(root, budget, max_epochs)) is None:
        return
    offered, spread = answer
    assert offered < budget
    assert spread == (budget <= max_epochs * size(root) * (1 + 1e-9))
    assert not offered or offer(root, offered, max_epochs) is None
    more = offered + max(2, math.ceil(3e-6 * budget))
    assert more >= budget or offer(root, more, max_epochs)


TOO_MANY = (
    "1,000,000 tokens need more than 4 epochs: s1 25.00 epochs of 10,000 tokens, s2 5.00 epochs of 50,000 tokens; "
    "with these weights at most 160,000 tokens are to be had: {}, raise max_epochs, let over_max_epochs: spread the "
    "rest, or add text"
)


@pytest.mark.parametrize(
    ("rule", "given_", "kwargs", "way"),
    [
        ("proportions", [0.5, 0.25, 0.25], {"budget": 1_000_000}, "lower mixture.tokens"),
        ("relative", [2, 1, 1], {"epochs": 1_000_000 / 1_060_000}, "lower mixture.epochs"),
        ("tokens", [500_000, 250_000, 250_000], {}, "lower the weights"),
        ("epochs", [0.5, 25, 5], {}, "lower the weights"),
        ("repeats", [0.5, 25, 5], {}, "give mixture.tokens"),
    ],
)
def test_too_many_epochs_message_whole(rule, given_, kwargs, way):
    with pytest.raises(MixtureError) as caught:
        plan_mixture(flat(rule, [1_000_000, 10_000, 50_000], given_), max_epochs=4, **kwargs)
    assert str(caught.value) == TOO_MANY.format(way)


def test_a_message_names_twenty_sources_and_counts_the_rest():
    with pytest.raises(MixtureError) as caught:
        plan_mixture(flat("natural", [10] * 50), 1000, max_epochs=1)
    assert "s19 2.00 epochs of 10 tokens, and 30 more; with" in str(caught.value)


# ---- groups --------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(trees(), st.integers(1, 10**9))
def test_a_groups_share_is_split_inside_it(root, budget):
    shares = {s.source: s for s in plan_mixture(root, budget)}

    def look(group):
        drawn = shares_below(group, shares)
        parts = split(group, drawn * budget)
        for member, part in zip(group.members, parts, strict=True):
            assert shares_below(member, shares) == pytest.approx(drawn * part, rel=1e-9)
            if isinstance(member, Group):
                look(member)

    look(root)


def test_natural_groups_in_natural_groups_are_natural():
    inner = Group("b", "natural", (Leaf("s1", 20), Leaf("s2", 30)))
    nested = plan_mixture(Group("", "natural", (Leaf("s0", 50), inner)))
    assert nested == plan_mixture(flat("natural", [50, 20, 30]))


def test_a_group_of_amounts_in_amounts_is_what_its_members_say():
    code = Group("code", "epochs", (Leaf("python", 10, 3.0), Leaf("rust", 90, 1.0)))
    books = Group("books", "natural", (Leaf("old", 30), Leaf("new", 10)), weight=80.0)
    shares = plan_mixture(Group("", "tokens", (Leaf("web", 1000, 600.0), code, books)))
    assert [s.effective_tokens for s in shares] == pytest.approx([600, 30, 90, 60, 20])
    twice = Group("twice", "repeats", (Leaf("a", 10, 2.0), Leaf("b", 5)), weight=3.0)
    shares = plan_mixture(Group("", "repeats", (Leaf("c", 100), twice)), epochs=2)
    assert [s.epochs for s in shares] == pytest.approx([2, 12, 6])


# ---- errors --------------------------------------------------------------------------------------------------

EMPTY = "has a weight but not one full sample; take it out, shorten sequence.length, or loosen its filters"
SUM = "; correct one, or write `weights: relative` to have them divided by their sum"


@pytest.mark.parametrize(
    ("root", "message", "member"),
    [
        (flat("natural", []), "no source has a full sample of tokens", None),
        (flat("natural", [0, 0]), "no source has a full sample of tokens", None),
        *[(flat(rule, [5, 0], [0.5, 0.5]), f"source 's1' {EMPTY}", "s1") for rule in RULES[:5]],
        (
            Group("", "relative", (Leaf("a", 5, 1.0), Group("g", "natural", (Leaf("b", 0),), weight=1.0))),
            "group 'g' has a weight but none of its sources has one full sample",
            "g",
        ),
        *[
            (flat(rule, [5, 5], [1.0, None]), f"'s1' has no weight, and '{rule}' goes by weights", "s1")
            for rule in RULES[:4]
        ],
        (flat("proportions", [5, 5], [0.5, 0.4]), f"the weights sum to 0.9, 0.1 less than 1{SUM}", ""),
        (flat("proportions", [5, 5], [1.0, 3.0]), f"the weights sum to 4, 3 more than 1{SUM}", ""),
        (
            flat("proportions", [5, 5], [0.5, 0.500002]),
            f"the weights sum to 1.000002, 2e-06 more than 1{SUM}",
            "",
        ),
    ],
)
def test_impossible_mixtures_message_whole(root, message, member):
    with pytest.raises(MixtureError) as caught:
        plan_mixture(root, None if root.rule in ("tokens", "epochs") else 100)
    assert (str(caught.value), caught.value.member) == (message, member)


def test_proportions_may_be_off_by_a_millionth():
    shares = plan_mixture(flat("proportions", [5, 5], [0.5, 0.5000009]), 100)
    assert sum(s.effective_tokens for s in shares) == pytest.approx(100, rel=1e-12)


# ---- rows ----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 10**9), st.sampled_from([128, 2048, 8192]), st.lists(weights, min_size=1, max_size=8))
def test_an_epoch_has_the_rows_of_the_budget(rows, length, given_):
    shares = plan_mixture(flat("relative", [10**6] * len(given_), given_), rows * length)
    assert sum(rows_to_draw(shares, dict.fromkeys([s.source for s in shares], length)).values()) == rows


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(1, 4096)), min_size=1, max_size=8))
def test_rows_are_the_whole_ones_and_the_largest_remainders(parts):
    shares = [Share(str(i), 10, 0.1, 0.1, drawn) for i, (drawn, _) in enumerate(parts)]
    per_row = {str(i): n for i, (_, n) in enumerate(parts)}
    rows = rows_to_draw(shares, per_row)
    exact = [drawn / n for drawn, n in parts]
    assert sum(rows.values()) == max(1, math.floor(math.fsum(exact) * (1 + 1e-14)))
    assert all(abs(n - e) <= 1 + 1e-9 for n, e in zip(rows.values(), exact, strict=True))
    extra = [e % 1 for n, e in zip(rows.values(), exact, strict=True) if n > e]
    cut = [e % 1 for n, e in zip(rows.values(), exact, strict=True) if n < e]
    assert not extra or not cut or min(extra) >= max(cut) - 1e-6


def test_an_epoch_has_whole_rows_and_at_least_one():
    def rows(budget):
        return rows_to_draw(plan_mixture(flat("natural", [100]), budget), {"s0": 10.0})["s0"]

    assert [rows(n) for n in (1, 9, 19, 20, 21, 100)] == [1, 1, 1, 2, 2, 10]


def test_padded_rows_hold_fewer_tokens():
    shares = plan_mixture(flat("relative", [1000, 1000], [1, 1]), 1000)
    assert rows_to_draw(shares, {"s0": 10.0, "s1": 5.0}) == {"s0": 50, "s1": 100}


# ---- repetition ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epochs", "factor"),
    [
        *[(0.14, 1), (1, 1), (2, 0.984), (3, 0.958), (4, 0.931), (6, 0.878), (8.21, 0.823), (10, 0.781)],
        *[(16, 0.661), (40, 0.379)],
    ],
)
def test_what_a_token_drawn_again_is_worth(epochs, factor):
    """Computed from the formula and constants of Muennighoff et al. 2023, arXiv:2305.16264."""
    share = Share("a", 1_000_000, 1, 1, epochs * 1_000_000)
    assert share.unique_factor == pytest.approx(factor, abs=5e-4)
    assert share.effective_unique_tokens == pytest.approx(share.unique_factor * share.effective_tokens)


def test_mpts_wikipedia_counts_as_33_billion_tokens():
    share = Share("wiki", 4_870_000_000, 0.04, 0.04, 40e9)
    assert share.effective_unique_tokens == pytest.approx(32.9e9, rel=1e-3)


@settings(deadline=None)
@given(st.floats(0.01, 1000), st.floats(1e-6, 1))
def test_more_is_worth_more_and_never_more_than_it_is(epochs, step):
    less, more = (Share("a", 10**9, 1, 1, e * 10**9) for e in (epochs, epochs + step))
    assert less.effective_unique_tokens <= more.effective_unique_tokens <= more.effective_tokens * (1 + 1e-12)


def test_warnings_whole():
    shares = [
        Share("web", 1000, 0.5, 0.6, 600),
        Share("four", 100, 0.4, 0.4, 400),
        Share("wiki", 100, 0.6, 0.5, 821),
        Share("books", 10, 0.4, 0.4, 400),
    ]
    assert warnings(shares) == [
        "wiki is read 8.21 times, more than 4: a token drawn counts as 0.823 of a new one",
        "books is read 40.00 times, far too often: a token drawn counts as 0.379 of a new one; more text or a "
        "smaller share",
        "web: 50% of the tokens were wanted, 60% are drawn, because of max_epochs",
        "wiki: 60% of the tokens were wanted, 50% are drawn, because of max_epochs",
    ]
    assert warnings(plan_mixture(flat("natural", [10, 20]), epochs=4)) == []


def test_warnings_of_many_sources_are_few():
    said = warnings(plan_mixture(flat("natural", [10] * 3000), epochs=5))
    assert len(said) == 21
    assert said[-1] == "and 2,980 more sources read more than 4 times"


def test_ten_thousand_sources():
    tokens = [1 + i * 7919 % 1_000_003 for i in range(10_000)]
    root = flat("relative", tokens, [1.0 + i % 7 for i in range(10_000)])
    shares = plan_mixture(root, int(1.9 * sum(tokens)), None, 2, "spread")
    assert math.fsum(s.proportion for s in shares) == pytest.approx(1, rel=1e-9)
    assert all(s.epochs <= 2 * (1 + 1e-9) for s in shares)
