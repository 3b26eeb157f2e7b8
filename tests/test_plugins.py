"""Do blocks of datatrove, and functions of a team's own, do in a recipe what they do alone?"""

import io
import json
import pickle
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from winnow.filters import datatrove_block
from winnow.filters.catalogue import Rewriting, Ruling, segments
from winnow.filters.datatrove_block import DatatroveBlock
from winnow.filters.plugin import Function, PluginError, score
from winnow.filters.rules import decide

CORPORA = Path(__file__).resolve().parents[1].parent / "shared" / "corpora"


def documents(texts, keys=None, metas=None):
    n = len(texts)
    metas = [None if m is None else orjson.dumps(m).decode() for m in metas or [None] * n]
    return pa.record_batch(
        {
            "id": pa.array([i.to_bytes(16) for i in range(n)], pa.binary(16)),
            "text": pa.array(texts, pa.large_string()),
            "key": pa.array(keys or [None] * n, pa.string()),
            "meta": pa.array(metas, pa.string()),
        }
    )


# Functions.


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of filters as a team would write one, where Python finds it."""
    (tmp_path / "our_filters").mkdir()
    (tmp_path / "our_filters" / "__init__.py").write_text("")
    (tmp_path / "our_filters" / "scores.py").write_text(
        textwrap.dedent(
            """
            import numpy as np
            import pyarrow as pa
            import pyarrow.compute as pc
            from winnow.filters.plugin import score

            @score(version=3)
            def share_of(documents: pa.RecordBatch, *, letter: str = "a") -> pa.Array:
                '''Share of a letter.'''
                texts = documents.column("text")
                counted = pc.count_substring(texts, letter).cast(pa.float64())
                return pc.divide(counted, pc.utf8_length(texts).cast(pa.float64()))

            @score(version="2026-01")
            def is_short(documents):
                return pc.less(pc.utf8_length(documents.column("text")), 4)

            @score(version=1)
            def lengths(documents):
                return np.array([len(text.as_py()) for text in documents.column("text")])

            @score(version=1)
            def gives(documents, *, what):
                n = documents.num_rows
                return {"too few": np.zeros(n + 1), "table": np.zeros((n, 2)), "text": np.array(["a"] * n),
                        "list": [1.0] * n, "none": None, "strings": pa.array(["a"] * n),
                        "nulls": pa.array([None, 2][:n]), "chunks": pa.chunked_array([pa.array(range(n))]),
                        "mask": np.ones(n, bool), "unknown": pa.array([True, None][:n])}[what]

            @score(version=1)
            def fails(documents):
                return 1 / 0

            def plain(documents):
                return [1]
            """
        )
    )
    (tmp_path / "our_filters" / "broken.py").write_text("import not_to_be_found_anywhere")
    monkeypatch.syspath_prepend(tmp_path)
    yield "our_filters.scores"
    for name in [name for name in sys.modules if name.startswith("our_filters")]:
        del sys.modules[name]


def measured(filter_, texts):
    (measure,) = filter_.measures()
    found = measure.measure(documents(texts))
    assert list(found) == list(measure.columns)
    return found[filter_.signal]


def kept(filter_, texts):
    verdicts = decide(filter_.rules(), {filter_.signal: measured(filter_, texts)}, len(texts))
    return (verdicts.first < 0).tolist()


def test_a_function_scores_documents(package):
    filter_ = Function(call=f"{package}:share_of", max=0.5)
    assert measured(filter_, ["ab", "aaab", "b"]).tolist() == [0.5, 0.75, 0]
    assert kept(filter_, ["ab", "aaab", "b"]) == [True, False, True]
    other = Function(call=f"{package}:share_of", args={"letter": "b"}, min=0.5, **{"as": "bs"})
    assert kept(other, ["ab", "aaab", "b"]) == [True, False, True]
    assert [rule.name for rule in other.rules()] == ["function.bs.min"]
    assert measured(Function(call=f"{package}:lengths", min=0), ["ab", ""]).dtype == np.float64
    (rule,) = Function(call=f"{package}:lengths", keep_fraction=0.3).rules()
    assert (rule.name, rule.fraction) == ("function.lengths.keep_fraction", 0.3)


def test_a_function_may_decide_itself(package):
    filter_ = Function(call=f"{package}:is_short")
    assert kept(filter_, ["abc", "abcd"]) == [True, False]
    assert filter_.rules()[0].name == "function.is_short.keep"
    with pytest.raises(
        PluginError, match=r"our_filters\.scores:lengths gives numbers: set min, max or keep_frac"
    ):
        measured(Function(call=f"{package}:lengths"), ["abc"])
    assert kept(Function(call=f"{package}:is_short", max=0), ["abc", "abcd"]) == [False, True]
    assert kept(Function(call=f"{package}:gives", args={"what": "mask"}), ["a"]) == [True]


def test_what_is_no_number_is_nan(package):
    gives = f"{package}:gives"
    found = measured(Function(call=gives, args={"what": "nulls"}, min=3), ["a", "b"])
    np.testing.assert_array_equal(found, [np.nan, 2])
    assert kept(Function(call=gives, args={"what": "nulls"}, min=3), ["a", "b"]) == [True, False]
    assert kept(Function(call=gives, args={"what": "unknown"}), ["a", "b"]) == [True, True]
    assert measured(Function(call=gives, args={"what": "chunks"}, min=0), ["a", "b"]).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("too few", r"gave an array of shape \(3,\) for 2 documents"),
        ("table", r"gave an array of shape \(2, 2\) for 2 documents"),
        ("text", "gave <U1; wanted: an array of one number per document"),
        ("list", "gave list; wanted"),
        ("none", "gave NoneType; wanted"),
        ("strings", "gave string; wanted"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(package, what, said):
    with pytest.raises(PluginError, match=f"^our_filters.scores:gives {said}"):
        measured(Function(call=f"{package}:gives", args={"what": what}, min=0), ["a", "b"])


def test_functions_that_are_not_there_or_fail_say_so(package):
    def refused(call, said, **args):
        (measure,) = Function(call=call, args=args, min=0).measures()
        with pytest.raises(PluginError, match=said):
            measure.identity()
        with pytest.raises(PluginError, match=said):
            measure.measure(documents(["a"]))

    refused("no_such_package.scores:f", "there is no module 'no_such_package'; install the package it is in")
    refused("our_filters.nothing:f", "there is no module 'our_filters.nothing'")
    refused(
        "our_filters.broken:f",
        "importing our_filters.broken failed: No module named 'not_to_be_found_anywhere'",
    )
    refused(f"{package}:nothing", "the module our_filters.scores has no 'nothing'")
    refused(f"{package}:plain", r"is not declared as a filter: put @score\(version=1\) above it")
    refused(
        f"{package}:share_of", "does not take the args of the recipe: got an unexpected keyword", leter="b"
    )
    refused(f"{package}:gives", "does not take the args of the recipe: missing a required")
    with pytest.raises(
        PluginError, match=r"our_filters\.scores:fails failed: ZeroDivisionError: division by zero"
    ):
        measured(Function(call=f"{package}:fails", min=0), ["a"])


def test_a_functions_identity_is_its_name_arguments_and_version(package):
    def identity(call="share_of", **args):
        (measure,) = Function(call=f"{package}:{call}", args=args, min=0).measures()
        return json.dumps(measure.identity())

    assert json.loads(identity(letter="b")) == ["our_filters.scores:share_of", '{"letter": "b"}', 3]
    assert len({identity(), identity(letter="b"), identity("is_short")}) == 3


def test_nothing_is_imported_before_it_is_needed(package):
    filter_ = Function(call=f"{package}:share_of", max=1)
    assert filter_.rules()
    assert [measure.columns for measure in filter_.measures()] == [{"function.share_of": "float64"}]
    assert "our_filters" not in sys.modules
    assert pickle.loads(pickle.dumps(filter_)) == filter_
    assert pickle.loads(pickle.dumps(filter_.measures())) == filter_.measures()
    assert isinstance(filter_, Ruling)
    assert not isinstance(filter_, Rewriting)


def test_a_decorated_function_can_still_be_called():
    @score(version=1)
    def doubled(documents, *, by=2):
        """Twice the length."""
        return pc.multiply(pc.utf8_length(documents.column("text")), by)

    assert doubled(documents(["ab"]), by=3).to_pylist() == [6]
    assert (doubled.__name__, doubled.__doc__, doubled.version) == ("doubled", "Twice the length.", 1)


def test_two_uses_of_a_function_need_names(package):
    first = Function(call=f"{package}:share_of", max=1)
    second = Function(call=f"{package}:share_of", args={"letter": "b"}, max=1)
    with pytest.raises(ValueError, match="give one of them another `as`"):
        segments([first, second])
    named = Function(call=second.call, args=second.args, max=1, as_="b")
    assert len(segments([first, named])[0].measures) == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"call": "module.function"}, "call is package.module:function"),
        ({"call": "a b:f"}, "call is package.module:function"),
        ({"call": "a:f", "min": 2, "max": 1}, "nothing would pass"),
        ({"call": "a:f", "min": 2, "keep_fraction": 0.5}, "goes without"),
        ({"call": "a:f", "args": {"x": {1, 2}}}, "valid JSON"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(ValidationError, match=said):
        Function(**settings)


# Blocks of datatrove.

needs_datatrove = pytest.mark.skipif(find_spec("datatrove") is None, reason="datatrove is not installed")

OWN_BLOCKS = """
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.formatters.base import BaseFormatter
from datatrove.pipeline.base import PipelineStep


class Picky(BaseFilter):
    name = "picky"

    def __init__(self, word="bad", reason=None):
        super().__init__()
        self.word, self.reason = word, reason

    def filter(self, doc):
        doc.text = doc.text.replace("x", "")
        if doc.metadata.get("raise"):
            raise KeyError(doc.metadata["raise"])
        seen = [doc.text, doc.id, doc.metadata.get("url", "")]
        keep = not any(self.word in part for part in seen)
        return keep if self.reason is None else (keep, self.reason)


class Shout(BaseFormatter):
    name = "shout"

    def format(self, text):
        return text.upper()


class Broken(BaseFormatter):
    name = "broken"

    def format(self, text):
        return chr(0xD800) if text == "half" else None


class Neither(PipelineStep):
    name = "neither"
    type = "x"

    def run(self, data, rank=0, world_size=1):
        yield from data
"""


@pytest.fixture
def own_blocks(tmp_path, monkeypatch):
    (tmp_path / "own_blocks.py").write_text(OWN_BLOCKS)
    monkeypatch.syspath_prepend(tmp_path)
    datatrove_block._block.cache_clear()
    yield
    datatrove_block._block.cache_clear()
    sys.modules.pop("own_blocks", None)


def rewritten(filter_, *batch):
    found = filter_.rewrite(documents(*batch))
    assert list(found.signals) == list(filter_.columns)
    assert found.texts.type == pa.large_string()
    return found


@needs_datatrove
def test_a_filter_drops_with_its_reason_and_changes_text(own_blocks):
    filter_ = DatatroveBlock(block="own_blocks.Picky", args={"word": "bad", "reason": "said_bad"})
    texts = ["good x", "bad", "good", "good", "good"]
    keys = [None, None, "bad", "http://bad.com", "http://good.com"]
    found = rewritten(filter_, texts, keys, [None, None, None, None, {"url": "http://bad.org"}])
    assert found.texts.to_pylist() == ["good ", "bad", "good", "good", "good"]
    assert found.removed_chars.tolist() == [1, 0, 0, 0, 0]
    dropped, reasons = (found.signals[name] for name in filter_.columns)
    assert dropped.tolist() == [0, 1, 1, 1, 1]
    assert reasons.to_pylist() == [None] + ["said_bad"] * 4
    (rule,) = filter_.rules()
    assert (rule.name, rule.detail) == ("datatrove.Picky.dropped", "datatrove.Picky.reason")
    assert decide([rule], {"datatrove.Picky.dropped": dropped}, 5).first.tolist() == [-1, 0, 0, 0, 0]


@needs_datatrove
def test_a_filter_may_drop_without_a_reason(own_blocks):
    found = rewritten(DatatroveBlock(block="own_blocks.Picky"), ["good", "bad"])
    assert found.signals["datatrove.Picky.dropped"].tolist() == [0, 1]
    assert found.signals["datatrove.Picky.reason"].to_pylist() == [None, None]


@needs_datatrove
def test_where_nothing_changes_the_same_array_comes_back(own_blocks):
    batch = documents(["good", "bad"])
    assert DatatroveBlock(block="own_blocks.Picky").rewrite(batch).texts is not None
    found = DatatroveBlock(block="own_blocks.Picky").rewrite(batch)
    assert found.texts.buffers()[2].address == batch.column("text").buffers()[2].address


@needs_datatrove
def test_a_formatter_rewrites(own_blocks):
    found = rewritten(DatatroveBlock(block="own_blocks.Shout", as_="loud"), ["aß", ""])
    assert found.texts.to_pylist() == ["ASS", ""]
    assert found.removed_chars.tolist() == [-1, 0]
    assert found.signals["datatrove.loud.dropped"].tolist() == [0, 0]


@needs_datatrove
def test_blocks_that_fail_name_the_document(own_blocks):
    second = "0" * 31 + "1"
    with pytest.raises(PluginError, match=f"own_blocks.Picky failed at document {second}: KeyError: 'oops'"):
        rewritten(DatatroveBlock(block="own_blocks.Picky"), ["a", "b"], None, [None, {"raise": "oops"}])
    with pytest.raises(PluginError, match=r"own_blocks\.Broken failed at document 0+: UnicodeEncodeError"):
        rewritten(DatatroveBlock(block="own_blocks.Broken"), ["half"])
    with pytest.raises(PluginError, match=r"own_blocks\.Broken failed at document 0+: AttributeError"):
        rewritten(DatatroveBlock(block="own_blocks.Broken"), ["a"])


@needs_datatrove
def test_blocks_that_are_not_there_say_so(own_blocks):
    for block, args, said in (
        (
            "GopherFilter",
            {},
            "datatrove has no filter or formatter 'GopherFilter'; name one of yours with its",
        ),
        ("no_such.Block", {}, "there is no module 'no_such'"),
        ("own_blocks.Nothing", {}, "the module own_blocks has no 'Nothing'"),
        ("own_blocks.Neither", {}, "own_blocks.Neither is neither a filter nor a formatter"),
        ("own_blocks.Picky", {"words": 1}, "own_blocks.Picky cannot be made: TypeError: .*'words'"),
    ):
        with pytest.raises(PluginError, match=said):
            rewritten(DatatroveBlock(block=block, args=args), ["a"])


@needs_datatrove
def test_a_blocks_identity_is_its_class_arguments_and_version():
    from importlib.metadata import version

    filter_ = DatatroveBlock(block="RegexFilter", args={"regex_exp": "x"})
    assert filter_.identity() == ["RegexFilter", '{"regex_exp": "x"}', version("datatrove")]
    there = pickle.loads(pickle.dumps(filter_))
    assert there == filter_
    assert there.signal == "datatrove.RegexFilter"
    assert isinstance(filter_, Rewriting)


def test_without_datatrove_the_error_says_how_to_get_it(monkeypatch):
    from importlib import metadata

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    datatrove_block._block.cache_clear()
    with pytest.raises(PluginError, match=r"needs datatrove: pip install 'winnow\[datatrove\]'"):
        rewritten(DatatroveBlock(block="RegexFilter", args={"regex_exp": "x"}), ["a"])


def test_two_blocks_in_a_recipe_have_columns_of_their_own():
    first = DatatroveBlock(block="RegexFilter", args={"regex_exp": "x"})
    named = DatatroveBlock.model_validate({"block": "RegexFilter", "args": {"regex_exp": "y"}, "as": "y"})
    assert set(first.columns).isdisjoint(named.columns)
    assert len(segments([first, named])) == 2
    with pytest.raises(ValidationError, match="block is a class like"):
        DatatroveBlock(block="a b")


@needs_datatrove
@pytest.mark.parametrize(
    ("block", "args"),
    [
        ("datatrove.pipeline.filters.RegexFilter", {"regex_exp": "[aß]"}),
        ("datatrove.pipeline.filters.c4_filters.C4ParagraphFilter", {}),
        ("SymbolLinesFormatter", {"replace_char": "·"}),
    ],
)
@given(texts=st.lists(st.text(alphabet="aß\n·•x. ", max_size=30), max_size=6))
def test_agrees_with_a_pipeline_of_datatrove(block, args, texts):
    """The block's own `run` is the oracle."""
    from datatrove.data import Document

    alone = datatrove_block._class(block)(**args)
    expected = {
        doc.id: doc.text for doc in alone.run(Document(text=t, id=str(i)) for i, t in enumerate(texts))
    }
    filter_ = DatatroveBlock(block=block, args=args)
    found = filter_.rewrite(documents(texts))
    (dropped, _) = found.signals.values()
    kept_texts = {str(i): t for i, t in enumerate(found.texts.to_pylist()) if not dropped[i]}
    assert kept_texts == expected
    assert found.removed_chars.tolist() == [
        len(before) - len(after) for before, after in zip(texts, found.texts.to_pylist(), strict=True)
    ]


@needs_datatrove
def test_agrees_with_datatrove_on_real_text():
    """C4 changes text and drops documents, with reasons."""
    zstandard = pytest.importorskip("zstandard")
    pytest.importorskip("spacy", reason="spaCy, which datatrove's C4 filter needs, is not installed")
    shards = sorted((CORPORA / "web_prose").glob("*.jsonl.zst"))
    if not shards:
        pytest.skip("needs the shared corpora beside the checkout")
    from datatrove.data import Document
    from datatrove.pipeline.filters import C4QualityFilter

    with open(shards[0], "rb") as file:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
        texts = [json.loads(line)["text"][:2000] for line, _ in zip(lines, range(60), strict=False)]
    alone = C4QualityFilter(filter_no_terminal_punct=False)
    block = DatatroveBlock(block="C4QualityFilter", args={"filter_no_terminal_punct": False})
    found = rewritten(block, texts)
    dropped, reasons = found.signals.values()
    for i, text in enumerate(texts):
        doc = Document(text=text, id=str(i))
        result = alone.filter(doc)
        keep, reason = result if isinstance(result, tuple) else (result, None)
        assert (bool(dropped[i]), reasons[i].as_py()) == (not keep, reason)
        assert found.texts[i].as_py() == doc.text
    assert dropped.any()
    assert found.removed_chars.any()
