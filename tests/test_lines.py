"""Do the lines go that an earlier document has, however the source is split and the exchange is cut?"""

from __future__ import annotations

import json
import random
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from winnow.filters.line_keys import PUNCTUATION
from winnow.filters.lines_settings import Lines
from winnow.pipelines import documents, lines, verdicts
from winnow.pipelines.cluster import Inline
from winnow.pipelines.engine import Engine
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import Limits
from winnow.pipelines.records import Outputs, Stage, total
from winnow.pipelines.standing import VERDICT_SCHEMA, Standing, texts_of, verdict_name, write_verdicts
from winnow.shards import storage, tables

CORPORA = Path(__file__).resolve().parents[1].parent / "shared" / "corpora"
SETTINGS = [Lines(by=by, keep=keep) for by in ("line", "paragraph") for keep in ("first", "none")]
each_setting = pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: f"{s.by}-{s.keep}")
SMALL = Limits(partition_bytes=1 << 12)
CUT = " cut by a step before"


# ---- a source, with filters and a step before --------------------------------------------------------------------


def made_up(seed, n=120):
    """Documents of lines that come again in other cases, with other digits, between blank lines."""
    rng = random.Random(seed)
    hot = ["Home", "© 2024 Acme", "Read more…", "naïve 中文 line"]
    some = [f"{rng.choice(['about', 'on', 'the'])} {chr(97 + k % 26)} {k // 26 * 'x'}" for k in range(150)]
    found = []
    for _ in range(n):
        parts = []
        for _ in range(rng.randrange(9)):
            line = rng.choice(hot) if rng.random() < 0.4 else rng.choice(some)
            parts.append(
                rng.choice([str, str.upper, str.title])(line).replace("2024", str(rng.randrange(1000, 9999)))
            )
            parts.append(rng.choice(["\n", "\n", "\r\n", "\n\n", "\n \n"]))
        found.append("".join(parts[: rng.choice([-1, None])]) or "\n ")
    return found


def fates(n):
    """What became of the documents before: every 11th dropped by a filter, every 7th by a step."""
    return ["filter" if i % 11 == 3 else "step" if i % 7 == 5 else "stands" for i in range(n)]


def write_source(root, texts, edges, source="s"):
    """The stages of a source whose splits begin at `edges`; a step has cut `CUT` behind every fifth document."""
    stages = [Outputs(str(root / f"{kind}.{source}-0")) for kind in ("documents", "filters", "exact")]
    all_fates, found = fates(len(texts)), []
    stops = [*edges[1:], len(texts)]
    for split, (a, b) in enumerate(zip(edges, stops, strict=True)):
        stored = [text + CUT if (a + i) % 5 == 0 else text for i, text in enumerate(texts[a:b])]
        sizes = [len(text.encode()) for text in stored]
        with (
            stages[0].file(documents.name("text", split, "arrow")) as path,
            tables.arrow_writer(path, documents.TEXT_SCHEMA) as writer,
        ):
            for k in range(0, b - a, 7):
                column = pa.array(stored[k : k + 7], pa.large_string())
                writer.write_batch(pa.record_batch([column], schema=documents.TEXT_SCHEMA))
        ids = tables.ids_of(np.full(b - a, 7, np.uint64), np.arange(a, b, dtype=np.uint64))
        rows = pa.record_batch([ids, pa.array(sizes, pa.uint32())], names=["id", "text_bytes"])
        with (
            stages[0].file(documents.name("rows", split, "parquet")) as path,
            tables.RowWriter(path, rows.schema) as out,
        ):
            out.write(rows)
        first = pa.array([0 if fate == "filter" else -1 for fate in all_fates[a:b]], pa.int16())
        nothing = [pa.array([0] * (b - a), pa.uint64()), *[pa.array([0.0] * (b - a))] * 2]
        with (
            stages[1].file(documents.name("verdict", split, "arrow")) as path,
            tables.arrow_writer(path, verdicts.VERDICT_SCHEMA) as writer,
        ):
            writer.write_batch(pa.record_batch([first, *nothing], schema=verdicts.VERDICT_SCHEMA))
        cuts = [[size - len(CUT), size] if (a + i) % 5 == 0 else None for i, size in enumerate(sizes)]
        before = [
            dict.fromkeys(VERDICT_SCHEMA.names) | {"dropped": fate == "step", "cuts": cut}
            for fate, cut in zip(all_fates[a:b], cuts, strict=True)
        ]
        write_verdicts(stages[2], source, split, [pa.RecordBatch.from_pylist(before, VERDICT_SCHEMA)])
        left = [size for fate, size in zip(all_fates[a:b], sizes, strict=True) if fate != "filter"]
        found.append(
            Standing(source, 0, split, b - a, stages[0].location, stages[1].location, (stages[2].location,),
                     ((7, 0),), len(left), sum(left))
        )  # fmt: skip
    return found


def deduplicated(run, inputs, settings, limits=SMALL):
    engine = Engine(str(run), Inline(), Progress(stream=None))
    group = list(dict.fromkeys(i.source for i in inputs))
    upstream = [Stage(f"exact.{name}", 1, {}) for name in group]
    (done,) = engine.together(lines.deduplicate(engine, group, inputs, upstream, settings, limits))
    return done


def verdicts_of(done, inputs):
    """The rows of all splits, in order."""
    found = []
    for item in inputs:
        place = storage.join(done.location, verdict_name(item.source, item.split))
        rows = [row for batch in tables.arrow_batches(place) for row in batch.to_pylist()]
        assert len(rows) == item.rows
        found += rows
    return found


# ---- the definition, slowly --------------------------------------------------------------------------------------


def normal(line):
    line = re.sub(r"\d", "0", "".join(c.lower() for c in line.strip()).replace("ς", "σ"))
    return "".join(c for c in line if c not in PUNCTUATION and not (c < " " or "\x7f" <= c <= "\x9f"))


def units_of(text, by):
    """(byte where it begins, byte behind its last line, normal form) of each line or paragraph."""
    found, at, is_open = [], 0, False
    for line in re.findall(r"[^\n]*\n|[^\n]+", text):
        end = at + len(line.encode())
        if not line.strip():
            is_open = False
        elif is_open and by == "paragraph":
            found[-1] = (found[-1][0], end, f"{found[-1][2]} {normal(line)}")
        else:
            found.append((at, end, normal(line)))
            is_open = True
        at = end
    return found


def slow_verdicts(texts, settings):
    """(dropped, score, bytes that are left) of each document; None for one that does not stand, or stays whole."""
    standing = [fate == "stands" for fate in fates(len(texts))]
    counts: dict[str, int] = {}
    for text, stands in zip(texts, standing, strict=True):
        for *_, form in units_of(text, settings.by) if stands else ():
            counts[form] = counts.get(form, 0) + 1
    found, seen = [], set()
    for text, stands in zip(texts, standing, strict=True):
        units = units_of(text, settings.by) if stands else []
        gone = []
        for *_, form in units:
            gone.append(form in seen if settings.keep == "first" else counts[form] > 1)
            seen.add(form)
        if not any(gone):
            found.append(None)
        elif all(gone):
            found.append((True, 1.0, b""))
        else:
            left = cut_slowly(text.encode(), units, gone, settings.by)
            found.append((False, 1 - len(left) / len(text.encode()), left))
    return found


def cut_slowly(data, units, gone, by):
    last = max(u for u in range(len(units)) if not gone[u])
    away = set()
    for u, (begin, end, _) in enumerate(units[:last]):
        if gone[u]:
            away.update(range(begin, units[u + 1][0] if by == "paragraph" else end))
    left = bytes(byte for at, byte in enumerate(data) if at not in away)
    if last + 1 == len(units):
        return left
    left = left[: len(left) - (len(data) - units[last][1])]
    return left if data.endswith(b"\n") else left.removesuffix(b"\n")


def assert_as_defined(found, texts, settings):
    changed = 0
    for row, text, expected in zip(found, texts, slow_verdicts(texts, settings), strict=True):
        assert row["survivor"] is None
        assert row["detail"] is None
        if expected is None:
            assert (row["dropped"], row["score"], row["cuts"]) == (False, None, None)
            continue
        changed += 1
        data = text.encode()
        edges = [0, *row["cuts"], len(data)]
        left = b"".join(data[a:b] for a, b in zip(edges[0::2], edges[1::2], strict=True))
        assert (row["dropped"], left) == (expected[0], expected[2])
        assert row["score"] == pytest.approx(expected[1])
    return changed


# ---- the step ----------------------------------------------------------------------------------------------------


@each_setting
@pytest.mark.parametrize("seed", range(3))
def test_lines_go_as_defined(tmp_path, settings, seed):
    texts = made_up(seed)
    inputs = write_source(tmp_path, texts, [0, 30, 30, 71])  # one split is empty
    done = deduplicated(tmp_path / "run", inputs, settings)
    found = verdicts_of(done, inputs)
    assert assert_as_defined(found, texts, settings) > 20
    assert any(row["dropped"] for row in found)
    assert any(row["cuts"] and not row["dropped"] for row in found)


@each_setting
def test_the_same_lines_go_however_the_work_is_cut(tmp_path, settings, monkeypatch):
    texts = made_up(5)
    found, names = [], set()
    for k, (edges, window, block, partition) in enumerate(
        [
            ([0], 1 << 20, 1 << 28, 128 << 20),
            ([0, 40, 80], 3, 1 << 28, 4096),
            (list(range(0, 120, 6)), 20, 500, 4096),
            ([0, 1, 119], 1, 1, 5000),
        ]
    ):
        monkeypatch.setattr(lines, "WINDOW", window)
        monkeypatch.setattr(lines, "BLOCK_BYTES", block)
        inputs = write_source(tmp_path / f"{k}", texts, edges)
        done = deduplicated(tmp_path / f"{k}" / "run", inputs, settings, Limits(partition_bytes=partition))
        found.append(verdicts_of(done, inputs))
        names.add(done.stage.directory)
    assert all(rows == found[0] for rows in found)
    assert_as_defined(found[0], texts, settings)
    assert len(names) == 1, "how the exchange was cut names another stage"


@each_setting
def test_records_count_what_went(tmp_path, settings):
    texts = made_up(9)
    inputs = write_source(tmp_path, texts, [0, 50])
    done = deduplicated(tmp_path / "run", inputs, settings)
    found = verdicts_of(done, inputs)
    dropped = [i for i, row in enumerate(found) if row["dropped"]]
    cut = [row["cuts"] for row in found if row["cuts"] and not row["dropped"]]
    stored = {i: len(texts[i].encode()) + (len(CUT) if i % 5 == 0 else 0) for i in dropped}
    assert total(done.records, "dropped") == {"s": len(dropped)}
    assert total(done.records, "dropped_bytes") == {"s": sum(stored.values())}
    assert total(done.records, "cut_documents") == {"s": len(cut)}
    assert total(done.records, "cut_bytes") == {"s": sum(sum(c[1::2]) - sum(c[0::2]) for c in cut)}
    assert total(done.records, "pairs") == 0 or total(done.records, "pairs") == {}


def test_the_next_step_reads_what_is_left(tmp_path):
    settings = Lines()
    texts = made_up(2)
    inputs = write_source(tmp_path, texts, [0, 60])
    done = deduplicated(tmp_path / "run", inputs, settings)
    left = {}
    for item in inputs:
        behind = replace(item, steps=(*item.steps, done.location))
        for batch in texts_of(behind):
            left |= zip((item.split * 60 + batch.where).tolist(), batch.texts.to_pylist(), strict=True)
    expected = slow_verdicts(texts, settings)
    for i, fate in enumerate(fates(len(texts))):
        if fate != "stands" or (expected[i] and expected[i][0]):
            assert i not in left
        else:
            assert left[i] == (expected[i][2].decode() if expected[i] else texts[i])
    # Nothing is said twice any more.
    forms = [form for text in left.values() for *_, form in units_of(text, "line")]
    assert len(set(forms)) == len(forms)


def test_the_first_named_source_keeps_its_lines(tmp_path):
    texts = [f"Menu {chr(97 + i)}\nbody {chr(97 + i)}" for i in range(20)]
    one = write_source(tmp_path, texts, [0, 10], "one")
    two = [replace(i, rank=1) for i in write_source(tmp_path, texts[::-1], [0], "two")]
    done = deduplicated(tmp_path / "run", [*one, *two], Lines())
    standing = {texts[i] for i, fate in enumerate(fates(20)) if fate == "stands"}
    assert not any(row["dropped"] or row["cuts"] for row in verdicts_of(done, one))
    for text, fate, row in zip(texts[::-1], fates(20), verdicts_of(done, two), strict=True):
        assert row["dropped"] == (fate == "stands" and text in standing)


# ---- resume ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["lines-scatter", "lines-reduce", "lines"])
def test_what_is_lost_is_done_again(tmp_path, lost, monkeypatch):
    monkeypatch.setattr(lines, "BLOCK_BYTES", 1000)
    settings, texts = Lines(), made_up(4)
    inputs = write_source(tmp_path, texts, [0, 30, 71])
    run = tmp_path / "run"
    whole = deduplicated(run, inputs, settings)
    expected = verdicts_of(whole, inputs)
    outputs = [record.outputs for record in whole.records]
    (stage,) = (run / "stages").glob(f"{lost}.s-*")
    records = sorted((stage / "records").iterdir())
    records[0].unlink()
    for final in (run / "stages").glob("lines.s-*"):  # what is asked for at the end
        sorted((final / "records").iterdir())[-1].unlink()
    again = deduplicated(run, inputs, settings)
    assert 0 < again.redone < 3
    assert verdicts_of(again, inputs) == expected
    assert [record.outputs for record in again.records] == outputs


def test_what_is_finished_needs_nothing_of_the_way_there(tmp_path):
    settings, texts = Lines(), made_up(4)
    inputs = write_source(tmp_path, texts, [0, 30, 71])
    run = tmp_path / "run"
    expected = verdicts_of(deduplicated(run, inputs, settings), inputs)
    for stage in (run / "stages").iterdir():
        if not stage.name.startswith("lines.s-"):
            shutil.rmtree(stage)
    again = deduplicated(run, inputs, settings, Limits())
    assert again.redone == 0
    assert verdicts_of(again, inputs) == expected
    assert [p.name for p in (run / "stages").iterdir()] == [again.stage.directory]


def test_other_settings_are_another_stage(tmp_path):
    inputs = write_source(tmp_path, made_up(1, 20), [0])
    names = {deduplicated(tmp_path / "run", inputs, settings).stage.directory for settings in SETTINGS}
    assert len(names) == len(SETTINGS)


# ---- memory ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", ["first", "none"])
def test_no_task_of_the_exchange_holds_more_than_it_may(tmp_path, keep, monkeypatch):
    """Input far larger than a partition, lines too short for the plan, and one line in every window."""
    limit, window = 4096, 8
    monkeypatch.setattr(lines, "WINDOW", window)
    held = []
    read, write = lines.read_blocks, lines.write_run

    def reading(parts, wire, most):
        for block, payload, ends in read(parts, wire, most):
            held.append(block.nbytes)
            yield block, payload, ends

    def writing(outputs, name, wire, rows, bounds, payload=None):
        held.append(rows.nbytes)
        return write(outputs, name, wire, rows, bounds, payload)

    monkeypatch.setattr(lines, "read_blocks", reading)
    monkeypatch.setattr(lines, "write_run", writing)
    rng = random.Random(0)
    texts = [
        "hot\n" + "\n".join(rng.choice("abcdefgh") + rng.choice("stuvwxyz") for _ in range(40))
        for _ in range(300)
    ]
    inputs = write_source(tmp_path, texts, [0, 100, 200])
    settings = Lines(keep=keep)
    done = deduplicated(tmp_path / "run", inputs, settings, Limits(partition_bytes=limit))
    windows = 24 * window
    assert sum(held) > 20 * limit
    assert max(held) <= limit + windows
    assert_as_defined(verdicts_of(done, inputs), texts, settings)


# ---- real text ---------------------------------------------------------------------------------------------------


@each_setting
def test_real_text(tmp_path, settings, monkeypatch):
    if not CORPORA.is_dir():
        pytest.skip("needs the shared corpora beside the checkout")
    import zstandard

    monkeypatch.setattr(lines, "WINDOW", 500)
    texts = []
    for folder in ("web_crawl_text", "web_docs_multi", "code", "licences"):
        for path in sorted((CORPORA / folder).glob("*.jsonl.zst"))[:1]:
            with zstandard.open(path, "rt", encoding="utf-8") as rows:
                texts += [
                    json.loads(row).get("text", "")[:20_000] for row, _ in zip(rows, range(40), strict=False)
                ]
    assert len(texts) > 100
    inputs = write_source(tmp_path, texts, [0, 50, 90])
    done = deduplicated(tmp_path / "run", inputs, settings)
    assert assert_as_defined(verdicts_of(done, inputs), texts, settings) > 10
