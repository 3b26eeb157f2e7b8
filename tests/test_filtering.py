"""Are signals and verdicts stored for kept and dropped, segment by segment, and decided again without reading?"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from winnow.filters import scans
from winnow.filters.catalogue import segments
from winnow.filters.unicode_form import NFC
from winnow.pipelines import open_run, run
from winnow.pipelines.documents import name, rehearse
from winnow.pipelines.located import RecipeError
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import read
from winnow.shards import storage, tables

SILENT = Progress(stream=None)
FILTERS = "[{length: {min_words: 3}}, nfc, {length: {min_chars: 20}}, {length: {max_chars: 60}}]"
TEXTS = [
    "one two",  # too few words, before the rewriting
    "a b c",  # too few characters, after it
    "a document that is neither short nor long",
    "cafe\u0301 and te\u0301le\u0301vision, in two code points a letter",
    "a document that goes on and on, and on and on, and on and on, until it is too long",
]


def recipe(root: Path, **changes: object):
    text = f"""
name: filtering
tokenizer: {{name: mistral-7b-v0.1}}
sequence: {{length: 8}}
sources:
  rows:
    read: {{format: jsonl, path: "{root}/*.jsonl", key: n}}
    filters: {FILTERS}
"""
    return read(text, "test.yaml", [f"{key.replace('__', '.')}={value}" for key, value in changes.items()])


@pytest.fixture
def rows(tmp_path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    lines = [json.dumps({"text": text, "n": i}) for i, text in enumerate(TEXTS * 4)]
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def make(rows: Path, out: Path, until: str | None = None, **changes: object):
    return run(recipe(rows, **changes), str(out), inline=True, progress=SILENT, until=until)


def stored(corpus, stage: str, kind: str, extension: str = "parquet") -> pa.Table:
    location = getattr(corpus.sources["rows"], stage).location
    place = storage.join(location, name(kind, 0, extension))
    batches = tables.arrow_batches(place) if extension == "arrow" else tables.parquet_batches(place)
    return pa.Table.from_batches(list(batches))


def test_every_document_that_enters_a_segment_has_its_signals_stored(rows, tmp_path):
    corpus = make(rows, tmp_path / "run", until="filters")
    early = stored(corpus, "documents", "signals0")
    assert early.column("words").to_pylist() == [len(t.split()) for t in TEXTS] * 4
    assert early.column("first").to_pylist() == [0, -1, -1, -1, -1] * 4
    assert early.column("failing").to_pylist() == [1, 0, 0, 0, 0] * 4
    last = stored(corpus, "documents", "rows")
    assert last.column("chars").to_pylist() == [len(t) - 3 * ("\u0301" in t) for t in TEXTS[1:]] * 4
    assert {"nfc.removed_chars", "nfc.text_bytes", "chars"} <= set(last.schema.names)
    removed = dict(
        zip(last.column("key").to_pylist(), last.column("nfc.removed_chars").to_pylist(), strict=True)
    )
    assert removed["3"] == TEXTS[3].count("\u0301")
    assert corpus.sources["rows"].documents.records[0].counts["rewritten_chars"] == {"nfc": 4 * removed["3"]}


def test_all_failing_rules_are_counted_beside_the_first(rows, tmp_path):
    filters = "[{length: {min_words: 4}}, {length: {min_chars: 20}}]"
    corpus = make(rows, tmp_path / "run", sources__rows__filters=filters)
    facts = corpus.mixture["sources"][0]
    assert facts["dropped"] == {"length.min_words": 8}
    assert facts["failing"] == {"length.min_words": 8, "length.min_chars": 8}
    assert facts["only"] == {}
    assert facts["lost"] == {}
    looser = filters.replace("min_words: 4", "min_words: 3")
    facts = make(rows, tmp_path / "run", sources__rows__filters=looser).mixture["sources"][0]
    assert facts["dropped"] == {"length.min_words": 4, "length.min_chars": 4}
    assert facts["only"] == {"length.min_chars": 4}


def test_the_funnel_counts_early_segments_with_their_bytes(rows, tmp_path):
    corpus = make(rows, tmp_path / "run")
    facts = corpus.mixture["sources"][0]
    assert facts["lost"] == {"length.min_words": 4}
    assert facts["lost_bytes"] == {"length.min_words": 4 * len(TEXTS[0])}
    assert facts["dropped"] == {"length.min_chars": 4, "length.max_chars": 4}
    assert facts["kept_documents"] == 8


def shards(out: Path) -> dict[str, bytes]:
    opened = open_run(str(out))
    folder = Path(opened.stage("rows", "shards")) / "train"
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.mds"))}


def test_until_drop_makes_the_same_shards_and_stores_no_text_of_what_is_dropped(rows, tmp_path):
    make(rows, tmp_path / "all")
    corpus = make(rows, tmp_path / "until", signals="until-drop")
    assert shards(tmp_path / "all") == shards(tmp_path / "until") != {}
    texts = stored(corpus, "documents", "text", "arrow").column("text").to_pylist()
    assert len(texts) == corpus.mixture["sources"][0]["kept_documents"] == 8
    assert stored(corpus, "documents", "signals1").column("first").to_pylist() == [1, -1, -1, 2] * 4
    facts = corpus.mixture["sources"][0]
    assert facts["lost"] == {"length.min_words": 4, "length.min_chars": 4, "length.max_chars": 4}


def test_a_threshold_of_the_last_segment_reads_nothing_again(rows, tmp_path):
    make(rows, tmp_path / "run")
    other = FILTERS.replace("max_chars: 60", "max_chars: 600")
    corpus = make(rows, tmp_path / "run", sources__rows__filters=other)
    assert corpus.redone["documents.rows"] == 0
    assert corpus.mixture["sources"][0]["kept_documents"] == 12
    early = FILTERS.replace("min_words: 3", "min_words: 2")
    corpus = make(rows, tmp_path / "run", sources__rows__filters=early)
    assert corpus.redone["documents.rows"] == 1


def test_the_report_of_dropped_documents_names_rule_score_and_threshold(rows, tmp_path):
    make(rows, tmp_path / "run", dropped_text="all")
    table = pa.concat_tables(
        pq.read_table(p) for p in (tmp_path / "run" / "dropped" / "rows").glob("*.parquet")
    )
    found = {(r["filter"], r["score"], r["threshold"], r["text"]) for r in table.to_pylist()}
    assert found == {
        ("length.min_words", 2.0, 3.0, TEXTS[0]),
        ("length.min_chars", 5.0, 20.0, TEXTS[1]),
        ("length.max_chars", float(len(TEXTS[4])), 60.0, TEXTS[4]),
    }


def test_tokens_are_counted_by_the_runs_tokenizer(rows, tmp_path):
    corpus = make(
        rows, tmp_path / "run", sources__rows__filters="[{length: {min_tokens: 5, max_tokens: 20}}]"
    )
    counted = stored(corpus, "documents", "rows").column("tokens").to_pylist()
    stayed = [n + 1 for n in counted if 5 <= n <= 20]  # and the EOS that Winnow adds
    assert corpus.mixture["sources"][0]["tokens"] == sum(stayed) > 0
    assert set(corpus.mixture["sources"][0]["dropped"]) == {"length.min_tokens", "length.max_tokens"}


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        pytest.param(
            "[{fasttext: {model: q, keep_fraction: 0.1}}, nfc]",
            "r.yaml:7:5: a filter that keeps a fraction comes before 'nfc', which rewrites: put it after",
            id="fraction-before-a-rewriting",
        ),
        pytest.param(
            "[{fasttext: {model: a/q}}, {fasttext: {model: b/q}}]",
            "r.yaml:7:5: two filters give the signal 'fasttext.q'; give one of them another `as`",
            id="two-signals-of-one-name",
        ),
    ],
)
def test_filters_that_do_not_go_together_are_located(filters, message):
    text = f"""name: x
tokenizer: {{name: mistral-7b-v0.1}}
sources:
  rows:
    read: {{format: jsonl,
      path: "*.jsonl"}}
    filters: {filters}
"""
    with pytest.raises(RecipeError) as caught:
        read(text, "r.yaml")
    assert str(caught.value).splitlines() == [message]


def test_a_rehearsal_scans_and_rewrites_one_document_of_every_segment(rows, monkeypatch):
    rewritten, scanned = [], []
    monkeypatch.setattr(NFC, "rewrite", lambda self, table: rewritten.append(table.num_rows))
    monkeypatch.setattr(scans, "scan", lambda texts, names: scanned.append((len(texts), *names)))
    rehearse(segments([f.settings for f in recipe(rows).sources["rows"].filters]))
    assert rewritten == [1]
    assert scanned == [(1, "words"), (1, "chars")]


def test_a_filter_that_fails_does_so_with_its_document_and_not_in_the_rehearsal(rows, monkeypatch):
    def fail(self, table):
        raise RuntimeError("no")

    monkeypatch.setattr(NFC, "rewrite", fail)
    rehearse(segments([NFC()]))


def test_signals_come_by_name_from_whoever_counts_them():
    texts = pa.array(["one two", ""], pa.large_string())
    found = scans.scan(texts, ["words"])
    assert found["words"].tolist() == [2, 0]
    assert list(found) == scans.counted(["words"])
    assert scans.counted([]) == []
    with pytest.raises(KeyError, match="no scan counts nonsense"):
        scans.counted(["words", "nonsense"])
