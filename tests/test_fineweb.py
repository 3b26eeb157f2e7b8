"""Do FineWeb's quality rules drop what datatrove drops, for the same reasons?"""

import io
import json
import warnings
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from winnow.filters.fineweb import FineWebQuality
from winnow.filters.rules import decide
from winnow.filters.signals import scan

CORPORA = Path(__file__).resolve().parents[1].parent / "shared" / "corpora"


def reasons(filter_settings, texts):
    """Name of the setting whose rule fails first for each text, None where kept."""
    rules = filter_settings.rules()
    names = {signal for rule in rules for signal in rule.score.signals}
    verdicts = decide(rules, scan(pa.array(texts, pa.large_string()), names), len(texts))
    return [rules[i].name.removeprefix("fineweb-quality.") if i >= 0 else None for i in verdicts.first]


LONG = "A line that is long enough to be no short one, and ends."
BY_HAND = {
    "min_nonblank_lines": " \n\t\n",
    "min_terminal_line_frac": "\n".join([LONG] + [f"{LONG[:-1]} {n}" for n in range(9)]),
    "max_short_line_frac": "\n".join([LONG] + [f"Short {n}." for n in range(3)]),
    "max_dup_line_char_frac": f"{LONG}\n{LONG} Another, though.\n{LONG}",
    "max_newlines_per_word": "\n".join(f"{word * 40}." for word in "abcdef"),
    None: LONG,
}


def test_every_rule_by_hand():
    assert set(BY_HAND) - {None} == set(FineWebQuality.model_fields) - {"words"}
    assert reasons(FineWebQuality(), list(BY_HAND.values())) == list(BY_HAND)
    for setting, text in BY_HAND.items():
        without = FineWebQuality(**{setting: None}) if setting else FineWebQuality()
        assert reasons(without, [text]) == [None]


@pytest.mark.parametrize(
    ("lines", "setting"),
    [
        pytest.param([LONG] * 1, None, id="one-line"),
        pytest.param([*(f"{LONG} {n}" for n in range(22)), *(f"{n} {LONG}" for n in range(3))], None, id="3-of-25-end"),
        pytest.param(
            [*(f"{LONG} {n}" for n in range(23)), *(f"{n} {LONG}" for n in range(3))], "min_terminal_line_frac",
            id="3-of-26-end",
        ),
        pytest.param([f"{n} {LONG}" for n in range(33)] + [f"{n}." for n in range(67)], None, id="67-of-100-are-short"),
        pytest.param(
            [f"{n} {LONG}" for n in range(32)] + [f"{n}." for n in range(68)], "max_short_line_frac",
            id="68-of-100-are-short",
        ),
    ],
)  # fmt: skip
def test_a_bound_itself_passes(lines, setting):
    assert reasons(FineWebQuality(max_newlines_per_word=None), ["\n".join(lines)]) == [setting]


DATATROVE_REASONS = {
    "empty": "min_nonblank_lines",
    "line_punct_ratio": "min_terminal_line_frac",
    "short_line_ratio": "max_short_line_frac",
    "char_dup_ratio": "max_dup_line_char_frac",
    "list_ratio": "max_newlines_per_word",
}


@pytest.fixture(scope="module")
def datatrove_reasons():
    """datatrove's filter on whitespace words: texts -> our names of the settings that it gives as reasons."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip(
            "datatrove.pipeline.filters.fineweb_quality_filter",
            reason="the oracle is datatrove: pip install 'winnow[datatrove]'",
        )
        from datatrove.data import Document
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "split_into_words", lambda text, language: text.split())
        peer = module.FineWebQualityFilter()

        def found(texts):
            verdicts = [peer.filter(Document(text=text, id="")) for text in texts]
            return [None if verdict is True else DATATROVE_REASONS[verdict[1]] for verdict in verdicts]

        yield found


SHORT = ["Short.", "short", "…", 'end."', "  ", "終わり。", "x\r", "a\u2028b."]
PIECES = [
    LONG,
    LONG,
    f"Longer. {LONG}",
    "Noch ein Satz, der lang genug ist?",
    "é" * 30,
    "é" * 31 + "!",
    *SHORT,
]
layouts = st.lists(
    st.sampled_from(PIECES) | st.integers(0, 99).map(lambda n: f"{n} {LONG}"), min_size=1, max_size=20
)


@settings(deadline=None, max_examples=500)
@given(
    texts=st.lists(
        layouts.map("\n".join) | layouts.map("\n\n".join) | st.text(max_size=30), min_size=1, max_size=5
    )
)
def test_agrees_with_datatrove(datatrove_reasons, texts):
    assert reasons(FineWebQuality(), texts) == datatrove_reasons(texts)


@pytest.mark.parametrize("name", ["web_prose", "low_quality", "textbooks", "docs_en"])
def test_agrees_with_datatrove_on_real_text(datatrove_reasons, name):
    zstandard = pytest.importorskip("zstandard")
    shards = sorted((CORPORA / name).glob("*.jsonl.zst"))
    if not shards:
        pytest.skip("needs the shared corpora beside the checkout")
    with open(shards[0], "rb") as file:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
        texts = [json.loads(line)["text"] for line, _ in zip(lines, range(300), strict=False)]
    ours = reasons(FineWebQuality(), texts)
    assert ours == datatrove_reasons(texts)
    assert len(set(ours)) > 2, "hardly any rule was met"


def test_settings_are_rules_in_order():
    rules = FineWebQuality().rules()
    bounds = {name: value for name, value in FineWebQuality().model_dump().items() if name != "words"}
    assert bounds == {
        "min_nonblank_lines": 1,
        "min_terminal_line_frac": 0.12,
        "max_short_line_frac": 0.67,
        "max_dup_line_char_frac": 0.01,
        "max_newlines_per_word": 0.3,
    }
    assert [rule.name for rule in rules] == [f"fineweb-quality.{name}" for name in bounds]
    for rule, (name, bound) in zip(rules, bounds.items(), strict=True):
        assert (rule.minimum, rule.maximum) == ((bound, None) if name.startswith("min_") else (None, bound))
    assert FineWebQuality(**dict.fromkeys(bounds)).rules() == ()


def test_words_of_datatrove_change_the_last_rule_alone():
    paper, theirs = FineWebQuality().rules(), FineWebQuality(words="datatrove").rules()
    assert paper[:-1] == theirs[:-1]
    assert (paper[-1].score.signals, theirs[-1].score.signals) == (
        ("newlines", "words"),
        ("newlines", "dt_words"),
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_short_line_frac": 67}, "less than or equal to 1"),
        ({"words": "spacy"}, "'paper' or 'datatrove'"),
        ({"short_line_chars": 20}, "Extra inputs are not permitted"),
    ],
)
def test_refuses(wrong, message):
    with pytest.raises(ValidationError, match=message):
        FineWebQuality(**wrong)
