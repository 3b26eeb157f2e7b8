"""Do the shares add up, and does a budget that is promised to fit fit?"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.shards import mixture
from winnow.shards.mixture import MixtureError

sizes = st.lists(st.integers(1, 10**13), min_size=1, max_size=8)
weights = st.floats(1e-4, 1e4)


def named(values):
    return {f"s{i}": v for i, v in enumerate(values)}


@settings(deadline=None)
@given(sizes, st.data())
def test_weights_are_normalised(tokens, more):
    tokens = named(tokens)
    given_ = {n: more.draw(weights) for n in tokens}
    shares = mixture.proportions(list(tokens), given_, tokens)
    assert list(shares) == list(tokens)
    assert sum(shares.values()) == pytest.approx(1, rel=1e-12)
    first, *others = tokens
    for name in others:
        assert shares[name] * given_[first] == pytest.approx(shares[first] * given_[name], rel=1e-9)


@settings(deadline=None)
@given(sizes)
def test_without_weights_shares_follow_size(tokens):
    tokens = named([*tokens, 0])
    shares = mixture.proportions(list(tokens), dict.fromkeys(tokens), tokens)
    assert sum(shares.values()) == pytest.approx(1, rel=1e-12)
    for name, n in tokens.items():
        assert shares[name] == pytest.approx(n / sum(tokens.values()), rel=1e-12)


@settings(deadline=None)
@given(sizes, st.integers(1, 10**14), st.data())
def test_epochs_are_drawn_over_there(tokens, budget, more):
    tokens = named(tokens)
    given_ = {n: more.draw(weights) for n in tokens}
    shares = mixture.mix(list(tokens), given_, tokens, budget)
    assert [s.source for s in shares] == list(tokens)
    assert sum(s.effective_tokens for s in shares) == pytest.approx(budget, rel=1e-12)
    for s in shares:
        assert s.tokens == tokens[s.source]
        assert s.effective_tokens == pytest.approx(s.proportion * budget, rel=1e-12)
        assert s.epochs == pytest.approx(s.effective_tokens / s.tokens, rel=1e-12)


@settings(deadline=None)
@given(sizes)
def test_natural_mixture_of_everything_is_one_epoch(tokens):
    tokens = named(tokens)
    # Shares sum to 1 only nearly; that is no second epoch.
    shares = mixture.mix(list(tokens), dict.fromkeys(tokens), tokens, None, max_epochs=1)
    assert all(s.epochs == pytest.approx(1, rel=1e-9) for s in shares)


@settings(deadline=None)
@given(sizes, st.floats(0.25, 8), st.data())
def test_the_budget_that_the_message_offers_fits(tokens, max_epochs, more):
    tokens = named(tokens)
    given_ = {n: more.draw(weights) for n in tokens}
    budget = int(sum(tokens.values()) * max_epochs) + 1000
    try:
        shares = mixture.mix(list(tokens), given_, tokens, budget, max_epochs)
    except MixtureError as error:
        offered = int(str(error).split(" at most ")[1].split(" tokens")[0].replace(",", ""))
        assert offered < budget
        assert mixture.mix(list(tokens), given_, tokens, offered, max_epochs)
        if offered * 1.001 > offered + 1:
            with pytest.raises(MixtureError):
                mixture.mix(list(tokens), given_, tokens, int(offered * 1.001) + 1, max_epochs)
    else:
        assert all(s.epochs <= max_epochs * (1 + 1e-9) for s in shares)


@settings(deadline=None)
@given(st.integers(1, 10**9), st.sampled_from([128, 2048, 8192]), st.lists(weights, min_size=1, max_size=8))
def test_an_epoch_has_the_rows_of_the_budget(rows, length, given_):
    given_ = named(given_)
    shares = mixture.mix(list(given_), given_, dict.fromkeys(given_, 10**6), rows * length)
    assert mixture.epoch_rows(shares, length) == rows


def test_an_epoch_has_whole_rows():
    def rows(budget):
        return mixture.epoch_rows(mixture.mix(["a"], {"a": None}, {"a": 100}, budget), 10)

    assert [rows(n) for n in (9, 19, 20, 21, 100)] == [1, 1, 2, 2, 10]


def test_too_many_epochs_message_whole():
    with pytest.raises(MixtureError) as caught:
        mixture.mix(
            ["web", "wiki", "books"],
            {"web": 0.5, "wiki": 0.25, "books": 0.25},
            {"web": 1_000_000, "wiki": 10_000, "books": 50_000},
            1_000_000,
            4,
        )
    assert str(caught.value) == (
        "1,000,000 tokens need more than 4 epochs: wiki 25.00 epochs of 10,000 tokens, books 5.00 epochs of "
        "50,000 tokens; with these weights at most 160,000 tokens are to be had: lower mixture.tokens, raise "
        "max_epochs, or add text"
    )


@pytest.mark.parametrize(
    ("given_", "tokens", "message"),
    [
        pytest.param({}, {}, "no source has a full sample of tokens", id="no-source"),
        pytest.param(
            {"a": None, "b": None}, {"a": 0, "b": 0}, "no source has a full sample of tokens", id="all-empty"
        ),
        pytest.param(
            {"a": 1.0, "b": 1.0},
            {"a": 5, "b": 0},
            "source 'b' has a weight but not one full sample; take it out, shorten sequence.length, or loosen "
            "its filters",
            id="weighted-and-empty",
        ),
    ],
)
def test_impossible_mixtures_message_whole(given_, tokens, message):
    with pytest.raises(MixtureError) as caught:
        mixture.mix(list(given_), given_, tokens, 100)
    assert str(caught.value) == message


def test_source_without_tokens_has_no_epochs():
    shares = mixture.mix(["a", "b"], {"a": None, "b": None}, {"a": 10, "b": 0}, None, 1)
    assert [(s.proportion, s.epochs) for s in shares] == [(1.0, 1.0), (0.0, 0.0)]
