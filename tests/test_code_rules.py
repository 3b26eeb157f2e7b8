"""Do the rules on source code drop data, minified and generated files, and keep what people wrote?"""

import inspect
import io
import json
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import ValidationError
from winnow.filters.code import Code
from winnow.filters.code_signals import MARKERS
from winnow.filters.rules import decide
from winnow.filters.signals import scan

CORPORA = Path(__file__).resolve().parents[1].parent / "shared" / "corpora"


def reasons(filter_settings, texts):
    """Name of the setting whose rule fails first for each text, None where kept."""
    rules = filter_settings.rules()
    names = {signal for rule in rules for signal in rule.score.signals}
    verdicts = decide(rules, scan(pa.array(texts, pa.large_string()), names), len(texts))
    return [rules[i].name.removeprefix("code.") if i >= 0 else None for i in verdicts.first]


BODY = "def area(width, height):\n    return width * height\n"


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        pytest.param(BODY, None, id="code"),
        pytest.param("", None, id="nothing"),
        pytest.param(BODY * 20 + "x" * 1000, None, id="a-line-of-1000"),
        pytest.param(BODY * 20 + "é" * 1000, None, id="characters-not-bytes"),
        pytest.param(BODY * 20 + "x" * 1001, "max_longest_line_chars", id="a-line-of-1001"),
        pytest.param(("x" * 100 + "\n") * 3, None, id="lines-of-100"),
        pytest.param(("x" * 100 + "\n") * 3 + "x" * 101, "max_mean_line_chars", id="more-on-average"),
        pytest.param("x" * 150 + "\n\n", None, id="blank-lines-are-lines"),
        pytest.param("ab+-*/()", None, id="a-quarter-of-letters"),
        pytest.param("ab+-*/()=", "min_alnum_char_frac", id="less-than-a-quarter"),
        pytest.param("[1, 22, 333, 4444]", "min_alpha_char_frac", id="numbers"),
        pytest.param("<?xml version='1.0'?>\n<a>some text</a>", "max_xml_prologues", id="xml"),
    ],
)
def test_by_hand(text, setting):
    assert reasons(Code(), [text]) == [setting]


@pytest.mark.parametrize("marker", MARKERS)
def test_generated_code(marker):
    heads = [
        f"/* {marker} */\n",
        f"// {marker.upper()}\n",
        "\n" * 4 + marker,
        "\n" * 5 + marker,
        marker[:-1] + " ",
    ]
    found = reasons(Code(), [head + BODY for head in heads])
    assert found == ["max_generated_marks"] * 3 + [None, None]
    assert reasons(Code(max_generated_marks=1), [heads[0]]) == [None]


def test_this_file_and_pythons_own_are_kept():
    assert reasons(Code(), [Path(__file__).read_text(encoding="utf-8"), inspect.getsource(inspect)]) == [
        None,
        None,
    ]


def test_settings_are_rules_in_order():
    rules = Code().rules()
    bounds = Code().model_dump()
    assert list(bounds.values()) == [1000, 100, 0.25, 0.25, 0, 0]
    assert [rule.name for rule in rules] == [f"code.{name}" for name in bounds]
    for rule, (name, bound) in zip(rules, bounds.items(), strict=True):
        assert (rule.minimum, rule.maximum) == ((bound, None) if name.startswith("min_") else (None, bound))
    assert Code(**dict.fromkeys(bounds)).rules() == ()
    assert reasons(Code(**dict.fromkeys(bounds) | {"max_xml_prologues": 0}), ["x" * 2000]) == [None]


def test_bigcodes_basic_filter_agrees_on_real_code():
    """Their statistics, from the definitions in BigCode's preprocessing; files without other line breaks."""
    zstandard = pytest.importorskip("zstandard")
    shards = sorted((CORPORA / "code").glob("*.jsonl.zst"))
    if not shards:
        pytest.skip("needs the shared corpora beside the checkout")
    with open(shards[0], "rb") as file:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
        texts = [json.loads(line)["content"] for line, _ in zip(lines, range(500), strict=False)]
    texts = [
        text for text in texts if text and len(text.splitlines()) == text.count("\n") + (text[-1] != "\n")
    ]
    assert len(texts) > 100
    ours = reasons(Code(min_alpha_char_frac=None, max_generated_marks=None, max_xml_prologues=None), texts)
    for text, reason in zip(texts, ours, strict=True):
        lengths = [len(line) for line in text.splitlines()]
        theirs = (
            max(lengths) <= 1000
            and sum(lengths) / len(lengths) <= 100
            and sum(map(str.isalnum, text)) / len(text) >= 0.25
        )
        assert (reason is None) == theirs


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_longest_line_chars": -1}, "greater than or equal to 0"),
        ({"min_alpha_char_frac": 25}, "less than or equal to 1"),
        ({"max_lines": 25}, "Extra inputs are not permitted"),
    ],
)
def test_refuses(wrong, message):
    with pytest.raises(ValidationError, match=message):
        Code(**wrong)
