"""Do rules drop the documents they should, say why, and agree with datatrove where the definitions do?"""

import dataclasses
import math
import pickle
import subprocess
import sys
import unicodedata
import warnings

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from winnow.filters.catalogue import FILTERS, Rewriting, Ruling, Segment, segments
from winnow.filters.gopher import GopherQuality
from winnow.filters.length import Length
from winnow.filters.rules import MAX_RULES, Cut, Ratio, Rule, Signal, decide, score_of
from winnow.filters.signals import scan
from winnow.filters.unicode_form import NFC

GOPHER_BOUNDS = [field for field in GopherQuality.model_fields if field != "words"]


def column(texts):
    return pa.array(texts, pa.large_string())


def batch(texts):
    """Documents as a rewriting filter gets them."""
    return pa.record_batch({"text": texts if isinstance(texts, pa.Array) else column(texts)})


def rule(name, score, minimum=None, maximum=None):
    return Rule(name=name, score=score, minimum=minimum, maximum=maximum, source="a test")


def first_reasons(filter_settings, texts):
    """Name of the first failing rule of each text, None where kept."""
    rules = filter_settings.rules()
    verdicts = decide(rules, scan(column(texts)), len(texts))
    return [rules[i].name if i >= 0 else None for i in verdicts.first]


# decide


def slow_verdict(rules, scores):
    """(first, failing, score, threshold) of one document, by plain comparison."""
    failing = []
    for i, (rule_, score) in enumerate(zip(rules, scores, strict=True)):
        if rule_.minimum is not None and not math.isnan(score) and score < rule_.minimum:
            failing.append((i, score, rule_.minimum))
        elif rule_.maximum is not None and not math.isnan(score) and score > rule_.maximum:
            failing.append((i, score, rule_.maximum))
    mask = sum(2**i for i, _, _ in failing)
    first, score, threshold = failing[0] if failing else (-1, math.nan, math.nan)
    return first, mask, score, threshold


values = st.sampled_from([-1.0, 0.0, -0.0, 0.1, 0.5, 1.0, 3.0, math.inf, -math.inf, math.nan])
limits = st.sampled_from([-1.0, 0.0, 0.1, 1.0, 3.0, math.inf])
bounds = st.one_of(
    st.tuples(limits, st.none()), st.tuples(st.none(), limits), st.tuples(limits, limits).map(sorted)
)


@settings(deadline=None)
@given(st.data(), st.integers(0, 6), st.integers(0, 5))
def test_decide_agrees_with_plain_comparison(data, n_rules, n_docs):
    rules = [rule(str(i), Signal(f"s{i}"), *data.draw(bounds)) for i in range(n_rules)]
    scores = [data.draw(st.lists(values, min_size=n_docs, max_size=n_docs)) for _ in rules]
    found = decide(rules, {f"s{i}": np.array(row) for i, row in enumerate(scores)}, n_docs)
    for doc in range(n_docs):
        ours = (found.first[doc], found.failing[doc], found.score[doc], found.threshold[doc])
        np.testing.assert_equal(ours, slow_verdict(rules, [row[doc] for row in scores]))
    dtypes = found.first.dtype, found.failing.dtype, found.score.dtype, found.threshold.dtype
    assert dtypes == (np.int16, np.uint64, np.float64, np.float64)


def test_all_64_rules_can_fail_and_the_65th_is_refused():
    rules = [rule(str(i), Signal("words"), minimum=1) for i in range(MAX_RULES + 1)]
    found = decide(rules[:MAX_RULES], {"words": np.array([0, 1], np.uint64)}, 2)
    assert list(found.failing) == [2**64 - 1, 0]
    with pytest.raises(ValueError, match=r"^at most 64 rules can be decided together, not 65$"):
        decide(rules, {"words": np.array([0, 1], np.uint64)}, 2)


def test_a_ratio_without_a_denominator_is_nan_and_fails_nothing():
    signals = {"a": np.array([1, 0, 6], np.uint64), "b": np.array([0, 0, 4], np.uint64)}
    picky = rule("picky", Ratio("a", "b"), minimum=5, maximum=5)
    np.testing.assert_array_equal(score_of(picky, signals, 3), [np.nan, np.nan, 1.5])
    assert list(decide([picky], signals, 3).first) == [-1, -1, 0]


def test_a_bound_of_zero_is_the_number_zero():
    signals = {"words": np.array([0, 1], np.uint64)}
    assert list(decide([rule("none", Signal("words"), maximum=0)], signals, 2).first) == [-1, 0]


def test_rules_travel_between_processes():
    rules = GopherQuality().rules() + Length(min_words=1).rules()
    assert pickle.loads(pickle.dumps(rules)) == rules


def test_a_rule_that_cannot_decide_is_refused():
    with pytest.raises(ValueError, match=r"^rule 'idle' has neither a minimum nor a maximum$"):
        rule("idle", Signal("words"))
    with pytest.raises(ValueError, match=r"^rule 'odd' has a bound that is not a number$"):
        rule("odd", Signal("words"), maximum=math.nan)
    with pytest.raises(ValueError, match=r"^rule 'full' has a minimum above its maximum: 3 > 2$"):
        rule("full", Signal("words"), minimum=3, maximum=2)
    with pytest.raises(ValueError, match=r"^rule 'flat' scores an array of shape \(\) for 2 documents$"):
        decide([rule("flat", lambda signals: 1.0, minimum=2)], {}, 2)


# gopher-quality

PROSE = "the quick brown fox and the lazy dog have to rest with that cat in the warm sun " * 4


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        pytest.param(PROSE, None, id="prose"),
        pytest.param("", "min_words", id="empty"),
        pytest.param("the and word " * 16 + "end", "min_words", id="49-words"),
        pytest.param("the and word " * 16 + "the end", None, id="50-words"),
        pytest.param("the and word " * 33_333 + "end the", "max_words", id="100001-words"),
        pytest.param("the and word " * 33_333 + "end", None, id="100000-words"),
        pytest.param("to be " * 30, "min_mean_word_chars", id="words-of-two-letters"),
        pytest.param("the and straightforwardness " * 30, None, id="mean-of-8-and-more"),
        pytest.param("straightforwardness the " * 30, "max_mean_word_chars", id="mean-of-11"),
        pytest.param("the and word are here # " * 10, "max_hashes_per_word", id="a-sixth-are-hashes"),
        pytest.param("the and word are here ago you see him # " * 10, None, id="a-tenth-are-hashes"),
        pytest.param("the and then… " * 30, "max_ellipses_per_word", id="a-third-are-ellipses"),
        pytest.param("- these are words\n" * 40, "max_bullet_line_frac", id="all-bullets"),
        pytest.param(
            ("- these and the words\n" * 9 + "these and the words\n") * 3, None, id="nine-tenths-are-bullets"
        ),
        pytest.param(
            "the and a word or two more of that kind as here is...\n" * 9, "max_ellipsis_line_frac", id="cut"
        ),
        pytest.param("the and 2000 1000 " * 30, "min_alpha_word_frac", id="half-are-numbers"),
        pytest.param("the and dog 2000 cat " * 30, None, id="a-fifth-are-numbers"),
        pytest.param("the quick brown fox saw " * 30, "min_stop_words", id="one-stop-word"),
        pytest.param("The And quick brown fox " * 30, "min_stop_words", id="stop-words-in-capitals"),
    ],
)
def test_gopher_by_hand(text, setting):
    assert first_reasons(GopherQuality(), [text]) == [setting and f"gopher-quality.{setting}"]


def test_gopher_settings_are_its_rules_in_order():
    rules = GopherQuality().rules()
    assert [r.name for r in rules] == [f"gopher-quality.{field}" for field in GOPHER_BOUNDS]
    for r, bound in zip(rules, GopherQuality().model_dump(include=set(GOPHER_BOUNDS)).values(), strict=True):
        assert (r.minimum, r.maximum) == ((bound, None) if ".min_" in r.name else (None, bound))


def test_gopher_none_is_off_and_zero_is_zero():
    off = GopherQuality(**dict.fromkeys(GOPHER_BOUNDS))
    assert off.rules() == ()
    hashes = "the and word are here # " * 10
    assert first_reasons(GopherQuality(max_hashes_per_word=None), [hashes]) == [None]
    assert first_reasons(GopherQuality(max_hashes_per_word=0), [PROSE + "#"]) == [
        "gopher-quality.max_hashes_per_word"
    ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"min_word": 3}, "Extra inputs are not permitted"),
        ({"min_words": -1}, "greater than or equal to 0"),
        ({"min_stop_words": 9}, "less than or equal to 8"),
        ({"max_bullet_line_frac": 90}, "less than or equal to 1"),
        ({"max_hashes_per_word": math.nan}, "finite number"),
        (
            {"min_words": 60, "max_words": 50},
            r"min_words \(60\) is above max_words \(50\): nothing would pass",
        ),
    ],
)
def test_gopher_refuses(wrong, message):
    with pytest.raises(ValidationError, match=message):
        GopherQuality(**wrong)


DATATROVE_REASONS = {
    "gopher_short_doc": "min_words",
    "gopher_long_doc": "max_words",
    "gopher_below_avg_threshold": "min_mean_word_chars",
    "gopher_above_avg_threshold": "max_mean_word_chars",
    "gopher_too_many_hashes": "max_hashes_per_word",
    "gopher_too_many_ellipsis": "max_ellipses_per_word",
    "gopher_too_many_bullets": "max_bullet_line_frac",
    "gopher_too_many_end_ellipsis": "max_ellipsis_line_frac",
    "gopher_below_alpha_threshold": "min_alpha_word_frac",
    "gopher_enough_stop_words": "min_stop_words",
}


@pytest.fixture(scope="module")
def datatrove_reasons():
    """datatrove's filter on whitespace words: text -> our name of the rule it gives as the reason."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip(
            "datatrove.pipeline.filters.gopher_quality_filter",
            reason="the oracle is datatrove: pip install 'winnow[datatrove]'",
        )
        from datatrove.data import Document
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "split_into_words", lambda text, language: text.split())

        def reasons(texts):
            peer = module.GopherQualityFilter(min_doc_words=5, max_doc_words=15)
            found = [peer.filter(Document(text=text, id="")) for text in texts]
            return [None if f is True else f"gopher-quality.{DATATROVE_REASONS[f[1]]}" for f in found]

        yield reasons


# Every word has a character that is no punctuation to datatrove ("•" and digits are none), and "\n" is the
# only line break: there both filters mean the same.
PLAIN_WORDS = ["the", "and", "of", "to", "The", "word", "incomprehensibilities", "é"]
MARKED_WORDS = ["中文字", "12", "#12", "#a#", "•", "-x", "then...", "so…", "…a...."]
shared_lines = st.lists(st.sampled_from(PLAIN_WORDS + MARKED_WORDS), max_size=6).map(" ".join)
shared_texts = st.lists(shared_lines, max_size=6).map("\n".join)
shared_prose = st.lists(st.sampled_from(PLAIN_WORDS * 4 + MARKED_WORDS), min_size=5, max_size=24).map(
    " ".join
)


@settings(deadline=None, max_examples=600)
@given(texts=st.lists(shared_texts | shared_prose, min_size=1, max_size=5))
def test_gopher_agrees_with_datatrove_on_shared_ground(datatrove_reasons, texts):
    ours = first_reasons(GopherQuality(min_words=5, max_words=15), texts)
    assert ours == datatrove_reasons(texts)


SEEN_BY_BOTH = {
    "min_words": "the and",
    "max_words": "the and word " * 6,
    "min_mean_word_chars": "to be of to be",
    "max_mean_word_chars": "the and incomprehensibilities incomprehensibilities incomprehensibilities",
    "max_hashes_per_word": "the and #12 word word",
    "max_ellipses_per_word": "the and then... word word",
    "max_bullet_line_frac": "-x these and words\n• these and words",
    "max_ellipsis_line_frac": "the and word word word word word word word word word then...",
    "min_alpha_word_frac": "the and word 1234 5678",
    "min_stop_words": "the word word word word",
    None: "the and word word word",
}


def test_gopher_and_datatrove_give_every_reason(datatrove_reasons):
    texts, names = list(SEEN_BY_BOTH.values()), [n and f"gopher-quality.{n}" for n in SEEN_BY_BOTH]
    assert set(SEEN_BY_BOTH) == {*GOPHER_BOUNDS, None}
    assert first_reasons(GopherQuality(min_words=5, max_words=15), texts) == names
    assert datatrove_reasons(texts) == names


@pytest.mark.parametrize(
    ("text", "ours", "theirs"),
    [
        pytest.param("these and the words ,", None, "min_words", id="they-count-no-word-of-punctuation"),
        pytest.param("the and oak elm fir ,", "min_mean_word_chars", None, id="nor-is-it-in-their-mean"),
        pytest.param("-x the and word\rword word", "max_bullet_line_frac", None, id="they-cut-lines-at-cr"),
        pytest.param("-x the and word\u2028word", "max_bullet_line_frac", None, id="they-cut-lines-at-u2028"),
    ],
)
def test_gopher_differs_from_datatrove_where_its_definitions_do(datatrove_reasons, text, ours, theirs):
    found = first_reasons(GopherQuality(min_words=5, max_words=15), [text])
    assert found == [ours and f"gopher-quality.{ours}"]
    assert datatrove_reasons([text]) == [theirs and f"gopher-quality.{theirs}"]


# length


def test_length_bounds_each_unit():
    texts = ["", "é", "é b", "é b c"]
    assert first_reasons(Length(min_words=1, max_words=2), texts) == [
        "length.min_words", None, None, "length.max_words",
    ]  # fmt: skip
    assert first_reasons(Length(min_chars=1, max_chars=3), texts) == [
        "length.min_chars", None, None, "length.max_chars",
    ]  # fmt: skip
    assert first_reasons(Length(min_bytes=2, max_bytes=4), texts) == [
        "length.min_bytes", None, None, "length.max_bytes",
    ]  # fmt: skip


def test_length_says_what_is_wrong():
    with pytest.raises(
        ValidationError, match="length needs at least one of min_words, max_words, min_chars, "
    ):
        Length()
    with pytest.raises(
        ValidationError, match=r"min_bytes \(9\) is above max_bytes \(8\): nothing would pass"
    ):
        Length(min_bytes=9, max_bytes=8)
    assert [r.name for r in Length(max_bytes=0).rules()] == ["length.max_bytes"]


# nfc

combining = st.text(
    alphabet="aeé\u0301\u0327\u0300o\u212b\u0958가ᄀ\u1161\u11a8\ud7a3 x…\n𝅗\U0001d15e", max_size=8
)


@settings(deadline=None)
@given(st.lists(combining | st.text(max_size=6), max_size=6), st.data())
def test_nfc_agrees_with_unicodedata(texts, data):
    start = data.draw(st.integers(0, len(texts)))
    before = column(texts).slice(start)
    done = NFC().rewrite(batch(before))
    after, shorter_by = done.texts, done.removed_chars
    expected = [unicodedata.normalize("NFC", text) for text in texts[start:]]
    after.validate(full=True)
    assert (after.type, after.to_pylist()) == (pa.large_string(), expected)
    assert shorter_by.dtype == np.int64
    lengths = [len(old) - len(new) for old, new in zip(texts[start:], expected, strict=True)]
    assert list(shorter_by) == lengths


def test_nfc_gives_the_same_array_back_where_nothing_changes():
    texts = column(["plain", "café “quoted”", ""])
    done = NFC().rewrite(batch(texts))
    assert done.texts.buffers()[2].address == texts.buffers()[2].address
    assert not done.removed_chars.any()
    done = NFC().rewrite(batch(["plain", "cafe\u0301", "\u0958"]))
    assert done.texts.to_pylist() == ["plain", "café", "\u0915\u093c"]
    assert list(done.removed_chars) == [0, 1, -1]


def test_nfc_refuses_nulls_and_settings():
    with pytest.raises(ValueError, match=r"^texts must have no nulls; 1 of 1 are null$"):
        NFC().rewrite(batch([None]))
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        NFC(form="NFKC")


# catalogue


def empty(rewriter):
    """The rule that every rewriting filter brings."""
    return next(r for r in segments([rewriter])[0].rules if r.name == f"{rewriter.name}.empty")


@dataclasses.dataclass(frozen=True)
class Scored:
    """A filter with a measure of its own, and a fraction to keep."""

    name: str = "scored"
    signal: str = "score"
    fraction: float | None = None

    def rules(self):
        return (
            Rule(
                name=f"{self.name}.bound", score=Signal(self.signal), source="a test", fraction=self.fraction,
                minimum=1 if self.fraction is None else None,
            ),
        )  # fmt: skip

    def measures(self):
        return (self,)

    @property
    def columns(self):
        return {self.signal: "float64"}


def test_segments_are_cut_at_rewriting_filters():
    gopher, length, nfc = GopherQuality(), Length(min_words=1), NFC()
    left = empty(nfc)
    assert segments([]) == (Segment(None, ()),)
    assert segments([nfc]) == (Segment(nfc, (left,)),)
    assert segments([gopher, length]) == (Segment(None, gopher.rules() + length.rules()),)
    assert segments([nfc, gopher]) == (Segment(nfc, (left, *gopher.rules())),)
    assert segments([length, nfc, nfc, gopher]) == (
        Segment(None, length.rules()),
        Segment(nfc, (left,)),
        Segment(nfc, (left, *gopher.rules())),
    )


def test_a_segment_knows_its_signals_and_who_gives_them():
    scored = Scored()
    (part,) = segments([Length(min_words=1), scored, scored])
    assert part.measures == (scored,)
    assert (part.scanned, part.needed) == (("words",), ("score", "words"))
    assert part.own_columns == {"score": "float64"}
    assert segments([NFC()])[0].own_columns == {"nfc.removed_chars": "int64", "nfc.text_bytes": "uint32"}
    assert segments([NFC()])[0].scanned == ()
    with pytest.raises(
        ValueError, match=r"^two filters give the signal 'score'; give one of them another `as`$"
    ):
        segments([scored, Scored(name="other")])


def test_until_drop_spares_measures_what_an_earlier_filter_drops():
    length, scored, nfc = Length(min_words=1), Scored(), NFC()
    rules, last = length.rules(), Segment(None, ())
    measured = Segment(None, scored.rules(), (scored,))
    assert segments([length, length], until_drop=True) == (Segment(None, rules * 2), last)
    assert segments([length, scored], until_drop=True) == (Segment(None, rules), measured, last)
    assert segments([scored, length], until_drop=True) == (
        Segment(None, scored.rules() + rules, (scored,)),
        last,
    )
    assert segments([nfc], until_drop=True) == (Segment(nfc, (empty(nfc),)), last)
    assert segments([], until_drop=True) == (last,)


def test_a_fraction_is_cut_in_the_last_segment():
    top, other = Scored(fraction=0.1), Scored(name="other", signal="other")
    assert len(segments([NFC(), top, other])) == 1
    assert [len(part.rules) for part in segments([Length(min_words=1), top, other], until_drop=True)] == [
        1,
        2,
    ]
    message = r"^a filter that keeps a fraction comes before 'nfc', which rewrites: put it after$"
    with pytest.raises(ValueError, match=message):
        segments([top, NFC()])


@settings(deadline=None)
@given(st.lists(st.tuples(values, st.integers(0, 3)), max_size=12), st.integers(-1, 3), values)
def test_a_cut_keeps_higher_scores_and_of_equal_ones_the_lower_draws(documents, last, bound):
    top = Rule(name="top", score=Signal("s"), fraction=0.5, source="a test")
    scores = np.array([score for score, _ in documents], float)
    draws = np.array([draw for _, draw in documents], np.uint64)
    n = len(documents)
    found = decide([top], {"s": scores}, n, {0: Cut(bound, last)}, draws)
    gone = [s < bound or (s == bound and draw > last) for s, draw in documents]
    assert list(found.first >= 0) == gone
    np.testing.assert_array_equal(found.threshold[found.first >= 0], bound)
    assert not (decide([top], {"s": scores}, n).first >= 0).any()


def test_a_fraction_is_the_only_bound_of_its_rule():
    for given_ in ({"fraction": 0.0}, {"fraction": 1.5}, {"fraction": 0.5, "minimum": 1.0}):
        with pytest.raises(
            ValueError, match=r"^rule 'r': a fraction is above 0, at most 1, and the only bound$"
        ):
            Rule(name="r", score=Signal("s"), source="a test", **given_)


def test_a_segment_of_too_many_rules_is_refused_before_any_work():
    with pytest.raises(ValueError, match=r"^70 rules before any rewriting filter; at most 64 can be "):
        segments([GopherQuality()] * 7)
    with pytest.raises(ValueError, match=r"^71 rules after 'nfc'; at most 64 can be decided together$"):
        segments([NFC(), *[GopherQuality()] * 7])
    assert len(segments([*[GopherQuality()] * 6, NFC(), GopherQuality()])) == 2


def test_the_catalogue_holds_every_filter_by_name():
    assert {"gopher-quality", "length", "nfc"} <= set(FILTERS)
    for name, filter_settings in FILTERS.items():
        assert filter_settings.name == name
        assert filter_settings.model_config["frozen"]
    assert isinstance(NFC(), Rewriting)
    assert isinstance(GopherQuality(), Ruling)
    assert not isinstance(GopherQuality(), Rewriting)


def test_every_rule_finds_its_signals():
    signals = scan(column([PROSE]))
    everything = Length(min_words=1, max_words=9, min_chars=1, max_chars=9, min_bytes=1, max_bytes=9)
    for r in GopherQuality().rules() + everything.rules():
        assert score_of(r, signals, 1).shape == (1,)


def test_the_catalogue_is_light():
    heavy = "import sys, winnow.filters.catalogue; print({'numpy', 'numba', 'pyarrow'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", heavy], check=True, capture_output=True, text=True)
    assert answer.stdout.strip() == "set()"
