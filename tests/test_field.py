"""Do rules on a field of `meta` read the value that is there, and only that?"""

import json
import pickle

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from winnow.filters.catalogue import Ruling, segments
from winnow.filters.field import MetaField
from winnow.filters.rules import decide

AUTOMATHTEXT = '{"url": "https://a.b", "meta": {"lm_q1_score": 0.9, "lm_q1q2_score": 0.83}}'


def documents(metas):
    column = [m if m is None or isinstance(m, str) else orjson.dumps(m).decode() for m in metas]
    ids = pa.array([i.to_bytes(16) for i in range(len(metas))], pa.binary(16))
    return pa.record_batch({"id": ids, "meta": pa.array(column, pa.string())})


def measured(filter_, metas):
    (measure,) = filter_.measures()
    found = measure.measure(documents(metas))
    assert list(found) == list(measure.columns)
    return found


def numbers(path, metas):
    return measured(MetaField(path=path, min=0), metas)[f"field.{path}"].tolist()


def reasons(filter_, metas):
    """The setting of the first rule each document fails; None where it is kept."""
    signals = {name: np.asarray(v) for name, v in measured(filter_, metas).items()}
    rules = filter_.rules()
    first = decide(rules, signals, len(metas)).first
    return [None if i < 0 else rules[i].name.removeprefix(f"{filter_.signal}.") for i in first]


@pytest.mark.parametrize(
    ("path", "meta", "number"),
    [
        pytest.param("meta.lm_q1q2_score", AUTOMATHTEXT, 0.83, id="AutoMathText"),
        pytest.param("score", {"score": 3}, 3, id="an-integer-is-a-number"),
        pytest.param("a.b.c", {"a": {"b": {"c": -1.5}}}, -1.5, id="nested"),
        pytest.param("a.b", {"a.b": 1, "a": {"b": 2}}, 1, id="a-key-with-a-dot-comes-first"),
        pytest.param("a.b.c", {"a": {"b.c": 1}}, 1, id="a-key-with-a-dot-further-in"),
        pytest.param("a", '{"a": 1' + "0" * 400 + "}", np.inf, id="an-integer-beyond-a-float"),
        pytest.param("a", '{"a": 2, "b": NaN}', 2, id="what-orjson-does-not-read"),
    ],
)
def test_a_path_leads_to_a_number(path, meta, number):
    assert numbers(path, [meta]) == [number]


@pytest.mark.parametrize(
    "meta",
    [None, "{}", "[]", "3", {"b": 1}, {"a": None}, {"a": "0.9"}, {"a": True}, {"a": [1]}, {"a": {"b": 1}},
     '{"a": NaN}', {"A": 1}],
)  # fmt: skip
def test_what_is_no_number_is_missing(meta):
    found = measured(MetaField(path="a", min=0), [meta])
    assert np.isnan(found["field.a"][0])
    assert found["field.a.missing"].tolist() == [1]
    assert reasons(MetaField(path="a", min=0), [meta]) == ["missing"]
    assert reasons(MetaField(path="a", min=0, missing="keep"), [meta]) == [None]


def test_bounds_pass_themselves():
    metas = [{"s": s} for s in (0.1, 0.5, 0.7, 0.9)]
    assert reasons(MetaField(path="s", min=0.5, max=0.7), metas) == ["min", None, None, "max"]
    (missing, rule) = MetaField(path="s", keep_fraction=0.25).rules()
    assert (missing.name, rule.name, rule.fraction) == ("field.s.missing", "field.s.keep_fraction", 0.25)


def test_listed_values_are_kept_or_dropped():
    metas = [{"lang": v} for v in ("Python", "C", "python", None, 1, ["C"])]
    assert reasons(MetaField(path="lang", keep=["Python", "C"]), metas) == [
        None, None, "keep", "missing", "keep", "missing",
    ]  # fmt: skip
    assert reasons(MetaField(path="lang", drop="C", missing="keep"), metas) == [
        None, "drop", None, None, None, None,
    ]  # fmt: skip
    shown = measured(MetaField(path="lang", drop="C"), metas)["field.lang"].to_pylist()
    assert shown == ["Python", "C", "python", None, "1", None]
    assert MetaField(path="lang", keep=["C"]).rules()[1].detail == "field.lang"


def test_values_are_compared_as_json_has_them():
    metas = [{"v": v} for v in (1, 1.0, True, "1", False, 0, "true")]
    for listed, kept in (
        ([1], [0, 1]),
        ([True], [2]),
        (["1"], [3]),
        ([0, "true"], [5, 6]),
        ([1.0, False], [0, 1, 4]),
    ):
        found = reasons(MetaField(path="v", keep=listed), metas)
        assert [i for i, reason in enumerate(found) if reason is None] == kept
    assert measured(MetaField(path="v", keep=[1]), metas)["field.v"].to_pylist()[2:4] == ["true", "1"]


def test_a_value_that_is_long_or_half_a_character_can_be_stored():
    shown = measured(MetaField(path="v", keep=["x"]), [{"v": "é" * 1000}, r'{"v": "\ud83d"}'])["field.v"]
    assert shown.to_pylist() == ["é" * 200, "?"]


def slow_lookup(row, path):
    """Every way to cut the path into keys, the longest first key first."""
    keys = path.split(".")
    for n in range(len(keys), 0, -1):
        head, rest = ".".join(keys[:n]), ".".join(keys[n:])
        if isinstance(row, dict) and head in row and n == len(keys):
            return row[head]
        if n == 1 and isinstance(row, dict) and rest:
            return slow_lookup(row.get(head), rest)
    return None


@given(
    st.recursive(
        st.none() | st.floats(allow_nan=False) | st.text(max_size=3),
        lambda inner: st.dictionaries(st.sampled_from(["a", "b", "a.b", ""]), inner, max_size=3),
        max_leaves=12,
    ),
    st.sampled_from(["a", "b", "a.b", "a.a", "a.b.a", "b.a.b", ".a"]),
)
def test_paths_lead_where_they_say(row, path):
    expected = slow_lookup(row, path)
    (number,) = numbers(path, [orjson.dumps(row).decode()])
    assert number == expected if isinstance(expected, float) else np.isnan(number)


def test_text_that_is_no_json_names_the_document():
    (measure,) = MetaField(path="a", min=0).measures()
    with pytest.raises(ValueError, match=r"^the meta of document 0{31}1 is no JSON: Expecting"):
        measure.measure(documents(["{}", "{oops"]))


def test_fields_go_together():
    two = [MetaField(path="a", min=0), MetaField(path="a", max=1), MetaField(path="b", keep=["x"])]
    (segment,) = segments(two)
    assert len(segment.measures) == 2
    assert list(segment.own_columns) == [
        "field.a", "field.a.missing", "field.b", "field.b.listed", "field.b.missing",
    ]  # fmt: skip
    clash = [MetaField(path="a", keep=["x"]), MetaField(path="a", drop=["y"])]
    with pytest.raises(ValueError, match="give one of them another `as`"):
        segments(clash)
    named = MetaField.model_validate({"path": "a", "drop": ["y"], "as": "other"})
    assert len(segments([clash[0], named])[0].measures) == 2


def test_identity_is_of_what_is_measured():
    def identity(**settings):
        (measure,) = MetaField(**settings).measures()
        return json.dumps(measure.identity())

    assert identity(path="a", min=0) == identity(path="a", max=3, missing="keep")
    assert identity(path="a", keep=["x", "y"]) == identity(path="a", drop=["y", "x"])
    different = [{"path": "a", "min": 0}, {"path": "b", "min": 0}, {"path": "a", "keep": ["x"]},
                 {"path": "a", "keep": ["1"]}, {"path": "a", "keep": [1]}]  # fmt: skip
    assert len({identity(**settings) for settings in different}) == 5


def test_settings_and_measures_travel():
    filter_ = MetaField(path="a", keep=["x", 1, True])
    assert pickle.loads(pickle.dumps(filter_)) == filter_
    assert pickle.loads(pickle.dumps(filter_.measures())) == filter_.measures()
    assert isinstance(filter_, Ruling)
    assert MetaField.model_validate(filter_.model_dump(mode="json", by_alias=True)) == filter_


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "needs one of"),
        ({"min": 1, "keep": ["x"]}, "needs one of"),
        ({"keep": ["x"], "drop": ["y"]}, "needs one of"),
        ({"min": 1, "keep_fraction": 0.5}, "needs one of"),
        ({"min": 2, "max": 1}, "nothing would pass"),
        ({"keep": []}, "at least 1 item"),
        ({"min": float("nan")}, "finite number"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(ValidationError, match=said):
        MetaField(path="a", **settings)
