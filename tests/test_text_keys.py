"""Do texts, and URLs, share a key exactly when their normal forms are one, and does each row keep its key?"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from winnow.filters import text_keys as module
from winnow.filters.exact_settings import Exact
from winnow.filters.text_keys import lower_case, normalised_keys, spelled, url_keys
from winnow.pipelines import documents, verdicts
from winnow.pipelines import text_keys as stage
from winnow.pipelines.cluster import Inline
from winnow.pipelines.engine import Engine
from winnow.pipelines.progress import Progress
from winnow.pipelines.records import Outputs
from winnow.pipelines.standing import VERDICT_SCHEMA, Standing, write_verdicts
from winnow.pipelines.text_keys import compute_keys, keys_of
from winnow.shards import tables

CORPORA = Path(__file__).resolve().parents[1].parent / "shared" / "corpora"

PIECES = [
    *(
        "The",
        "the",
        "THE",
        "quick_brown",
        "x²",
        "½",
        "٣",
        "é",
        "e\u0301",
        "İ",
        "Σ",
        "ς",
        "ẞ",
        "Ⱥ" * 9,
        "中文",
        "𝔸",
        "ก็",
    ),
    *(" ", "\n", "\t", "—", "…", "-", "'", "’", ".", "\x00", "\u200b", "😀", "©", "_", "\U0010ffff"),
]
texts = st.lists(st.sampled_from(PIECES), max_size=14).map("".join) | st.text(
    alphabet=st.characters(codec="utf-8"), max_size=20
)


def column(values):
    return pa.array(values, pa.large_string())


def words_of(text):
    """The normal form, slowly: words in lower case, each character by itself."""
    words = re.findall(r"\w+", text)
    return " ".join("".join(c.lower() for c in word).replace("ς", "σ") for word in words)


def slow_key(text):
    return xxhash.xxh3_128_digest((words_of(text) or text).encode())


# ---- texts -------------------------------------------------------------------------------------------------------


def test_lower_case_is_pythons_of_each_character():
    spellings = lower_case()
    assert spellings.shape == (1 << 21,)
    every = [c for c in range(1, 0x110000) if not 0xD800 <= c < 0xE000]
    expected = [int.from_bytes(chr(c).lower().replace("ς", "σ").encode(), "little") for c in every]
    assert spellings[every].tolist() == expected
    assert spellings[0] == 0
    longest = np.array([len(chr(c).encode()) for c in every]) * 3
    lengths = sum((spellings[every] >> np.uint32(8 * k)) > 0 for k in range(4))
    assert (2 * lengths <= longest).all(), "the room for words does not suffice"


def test_spelled_is_utf8():
    points = np.array([0, 1, 0x7F, 0x80, 0x7FF, 0x800, 0xFFFF, 0x10000, 0x10FFFF], np.uint32)
    expected = [int.from_bytes(chr(c).encode(), "little") for c in points.tolist()]
    assert spelled(points).tolist() == expected


@given(st.lists(texts, max_size=6), st.integers(0, 2))
def test_a_text_has_the_key_of_its_words(values, skip):
    values = values[min(skip, len(values)) :]
    keys = normalised_keys(column(["skipped", *values]).slice(1))
    assert keys.type == module.KEY
    assert keys.to_pylist() == [slow_key(value) for value in values]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Hello, world!", "hello\n\nWORLD", True),
        ("hello world", "helloworld", False),
        ("a_b", "a b", False),
        ("ΟΔΟΣ", "οδος", True),
        ("İstanbul", "i̇stanbul", False),
        ("...", "…", False),
        ("...", "...", True),
        ("", " ", False),
        ("1,000", "1 000", True),
        ("don't", "don’t", True),
    ],
)
def test_same_texts_by_hand(one, other, same):
    a, b = normalised_keys(column([one, other])).to_pylist()
    assert (a == b) is same


@pytest.mark.parametrize(
    "text",
    ["\n" * 1_000_000, "x" * 1_000_000, "Ⱥ" * 300_000, "中" * 300_000, "😀" * 200_000, "QUJDREVG" * 100_000,
     "ก็" * 100_000, "a " * 400_000, "\x00" * 100_000],
    ids=lambda text: ascii(text[:4]),
)  # fmt: skip
def test_awkward_texts(text):
    assert normalised_keys(column(["a", text, "b"])).to_pylist() == [slow_key(t) for t in ("a", text, "b")]


def test_texts_are_checked():
    with pytest.raises(TypeError, match="LargeStringArray"):
        normalised_keys(pa.array(["a"]))
    with pytest.raises(ValueError, match="nulls"):
        normalised_keys(column(["a", None]))
    assert len(normalised_keys(column([]))) == 0


def test_real_texts():
    if not CORPORA.is_dir():
        pytest.skip("needs the shared corpora beside the checkout")
    import zstandard

    values = []
    for folder in ("web_crawl_text", "web_docs_multi", "code", "math", "wiki"):
        for path in sorted((CORPORA / folder).glob("*.jsonl.zst"))[:2]:
            with zstandard.open(path, "rt", encoding="utf-8") as rows:
                values += [json.loads(row).get("text", "") for row, _ in zip(rows, range(80), strict=False)]
    assert len(values) > 200
    assert normalised_keys(column(values)).to_pylist() == [slow_key(value) for value in values]


# ---- URLs --------------------------------------------------------------------------------------------------------

ONE_PAGE = [
    "http://example.com/a/b?q=1",
    "https://example.com/a/b?q=1",
    "HTTPS://WWW.Example.COM/a/b?q=1",
    "http://example.com:80/a/b?q=1",
    "https://example.com:443/a/b/?q=1#part",
    "http://user@example.com/a/./c/../b?q=1",
    "http://example.com/%61/b?q=1",
    "  http://example.com/a/b?q=1\n",
    "http://example.com./a/b?q=1",
]
OTHER_PAGES = [
    "http://example.com/A/b?q=1",
    "http://example.com/a/b?q=2",
    "http://example.com/a/b",
    "http://example.com:8080/a/b?q=1",
    "http://sub.example.com/a/b?q=1",
    "http://example.com/a%2Fb?q=1",
    "http://example.com/a/b?q=1/",
]


def test_urls_of_one_page_share_a_key():
    keys = url_keys(ONE_PAGE).to_pylist()
    assert set(keys) == {xxhash.xxh3_128_digest(b"example.com/a/b?q=1")}
    others = url_keys(OTHER_PAGES).to_pylist()
    assert None not in others
    assert len({*others, keys[0]}) == len(OTHER_PAGES) + 1


@pytest.mark.parametrize("end", ["", "/", "/#top", "/."])
def test_a_path_without_anything_is_no_path(end):
    assert url_keys([f"http://example.com{end}"]).to_pylist() == [xxhash.xxh3_128_digest(b"example.com")]


@pytest.mark.parametrize(
    "value",
    [None, "", "doc-17", "example.com/a", "report.txt", "//example.com/a", "urn:isbn:0451450523", "ftp://example.com/a",
     "s3://bucket.name/a", "http://", "http:///a", "http://exa mple.com/", "mailto:a@example.com", "http:example.com"],
)  # fmt: skip
def test_what_is_no_url_has_no_key(value):
    assert url_keys([value]).to_pylist() == [None]


@given(st.text(max_size=30))
def test_any_text_behind_a_scheme_gives_a_key_or_none(rest):
    (key,) = url_keys([f"http://{rest}"]).to_pylist()
    assert key is None or len(key) == 16


def test_settings():
    assert Exact().model_dump() == {"by": "text", "url": "key"}
    assert Exact(by="url", url="meta.url").url == "meta.url"
    with pytest.raises(ValueError, match="set by to url"):
        Exact(by="normalised", url="link")
    with pytest.raises(ValueError, match="by"):
        Exact(by="md5")


# ---- the stage ---------------------------------------------------------------------------------------------------

TEXTS = ["Hello, world", "dropped by a filter", "hello WORLD!", "dropped by a step", "a b c", "...", "last"]
KEYS = [None, "http://a.com", "https://A.com/", "http://a.com", "17", "http://b.com/x", None]
METAS = [{"link": "http://a.com"}, None, {"link": "http://a.com/#x"}, {"link": "http://a.com"}, {"link": 5}, {},
         {"link": "http://c.com/\ud800"}]  # fmt: skip
STANDS = [True, False, True, False, True, True, True]


@pytest.fixture
def split(tmp_path, monkeypatch):
    """Seven documents: filters drop the second, a step the fourth, and cuts the last to "la"."""
    monkeypatch.setattr(stage, "BATCH_ROWS", 3)
    outputs = Outputs(str(tmp_path / "documents.s-0"))
    with (
        outputs.file(documents.name("text", 3, "arrow")) as path,
        tables.arrow_writer(path, documents.TEXT_SCHEMA) as writer,
    ):
        for a, b in ((0, 4), (4, 4), (4, 7)):
            writer.write_batch(pa.record_batch([column(TEXTS[a:b])], schema=documents.TEXT_SCHEMA))
    ids = tables.ids_of(np.full(7, 7, np.uint64), np.arange(7, dtype=np.uint64))
    metas = pa.array([None if meta is None else json.dumps(meta) for meta in METAS], pa.string())
    rows = pa.record_batch([ids, pa.array(KEYS, pa.string()), metas], names=["id", "key", "meta"])
    with (
        outputs.file(documents.name("rows", 3, "parquet")) as path,
        tables.RowWriter(path, rows.schema) as out,
    ):
        out.write(rows)
    filters, step = (Outputs(str(tmp_path / f"{stage}.s-0")) for stage in ("filters", "lines"))
    first = pa.array([-1, 0, -1, -1, -1, -1, -1], pa.int16())
    zeros = [pa.array([0] * 7, pa.uint64()), pa.array([0.0] * 7), pa.array([0.0] * 7)]
    with (
        filters.file(documents.name("verdict", 3, "arrow")) as path,
        tables.arrow_writer(path, verdicts.VERDICT_SCHEMA) as writer,
    ):
        writer.write_batch(pa.record_batch([first, *zeros], schema=verdicts.VERDICT_SCHEMA))
    nothing = dict.fromkeys(VERDICT_SCHEMA.names) | {"dropped": False}
    rows = [nothing] * 3 + [nothing | {"dropped": True}] + [nothing] * 2 + [nothing | {"cuts": [2, 4]}]
    write_verdicts(step, "s", 3, [pa.RecordBatch.from_pylist(rows, VERDICT_SCHEMA)])
    return Standing("s", 0, 3, 7, outputs.location, filters.location, (step.location,))


def computed(tmp_path, split, settings):
    engine = Engine(str(tmp_path / "run"), Inline(), Progress(stream=None))
    (done,) = engine.together(compute_keys("s", [split], settings))
    rows = keys_of(done.location, split)
    keys = [k for n in (2, 5) for k in rows.take(n).column("key").to_pylist()]  # in portions of the reader's
    rows.end()
    return done, keys


def test_texts_as_steps_left_them_are_keyed(tmp_path, split):
    done, keys = computed(tmp_path, split, Exact(by="normalised"))
    left = [*TEXTS[:6], "la"]
    assert keys == [slow_key(text) if stands else None for text, stands in zip(left, STANDS, strict=True)]
    assert keys[0] == keys[2]
    assert done.records[0].counts == {"keyed": 5, "unkeyed": 0}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("key", [None, None, "a.com", None, None, "b.com/x", None]),
        ("link", ["a.com", None, "a.com", None, None, None, "c.com/%EF%BF%BD"]),
        ("nowhere", [None] * 7),
    ],
)
def test_urls_are_found_where_the_settings_say(tmp_path, split, url, expected):
    done, keys = computed(tmp_path, split, Exact(by="url", url=url))
    found = [None if address is None else xxhash.xxh3_128_digest(address.encode()) for address in expected]
    if url == "link":  # half a character: how it is escaped is url_parts.py's affair
        assert keys[-1] is not None
        found[-1] = keys[-1]
    assert keys == found
    keyed = sum(address is not None for address in expected)
    assert done.records[0].counts == {"keyed": keyed, "unkeyed": sum(STANDS) - keyed}


def test_stages_of_other_settings_are_others(tmp_path, split):
    names = {
        computed(tmp_path, split, settings)[0].stage.directory
        for settings in (Exact(by="normalised"), Exact(by="url"), Exact(by="url", url="link"))
    }
    assert len(names) == 3
    assert all(name.startswith("keys.s-") for name in names)
    again, _ = computed(tmp_path, split, Exact(by="normalised"))
    assert again.redone == 0


def test_text_itself_needs_no_keys(tmp_path, split):
    with pytest.raises(ValueError, match="stored with its document"):
        computed(tmp_path, split, Exact())
