"""Does substring dedup of a group of sources cut exactly what occurred before, however the work is divided?"""

from __future__ import annotations

import json
import random
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from winnow.filters.substring_settings import Substrings
from winnow.filters.substrings import RESOLVED, scratch_for
from winnow.pipelines import run, substrings
from winnow.pipelines.cluster import Inline
from winnow.pipelines.engine import Engine
from winnow.pipelines.exchanges import RunFile, read_parts, write_run
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import Limits, read
from winnow.pipelines.records import Outputs, total
from winnow.pipelines.standing import standings, texts_of, verdict_name
from winnow.shards import storage, tables

SILENT = Progress(stream=None)
GROUP = ("first", "second")
LENGTH = 40
LONGEST = 650


def write_sources(root: Path, seed: int = 3) -> dict[str, list[str]]:
    """Two sources of three files each; texts share stretches, within themselves, within a source, and across."""
    rng = random.Random(seed)
    alphabet = "abcdefgh é中😀\n"
    pool = ["".join(rng.choices(alphabet, k=rng.randint(20, 150))) for _ in range(60)]
    written: dict[str, list[str]] = {}
    for source in GROUP:
        (root / source).mkdir(parents=True)
        texts = []
        for _ in range(150):
            own = ["".join(rng.choices(alphabet, k=rng.randint(0, 90))) for _ in range(rng.randint(1, 3))]
            parts = own + rng.choices(pool, k=rng.choice([0, 0, 1, 2]))
            rng.shuffle(parts)
            texts.append("".join(parts) or "x")
        texts += [
            pool[0] * 4,
            " \n" + pool[1] + pool[2] + " ",
            "x" * 700,
            "x" * 300 + "y" * 300,
            "é" * 200,
            "short",
        ]
        texts += ["x" * n + str(n) for n in range(30, 90, 7)]
        for file in range(3):
            lines = (json.dumps({"text": t}, ensure_ascii=False) for t in texts[file::3])
            (root / source / f"{file}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        written[source] = [t for file in range(3) for t in texts[file::3]]
    return written


def recipe(root: Path, split_bytes: str):
    """Both sources; the filter drops a document that others repeat, so that not every row stands."""
    lines = [
        "name: test",
        "tokenizer: {name: mistral-7b-v0.1}",
        f"limits: {{split_bytes: {split_bytes}}}",
        "sources:",
    ]
    for name in GROUP:
        lines += [f"  {name}:", f"    read: {{format: jsonl, path: '{root}/{name}/*.jsonl'}}"]
        lines += [f"    filters: [length: {{max_chars: {LONGEST}}}]"]
    return read("\n".join(lines), "test.yaml")


def inputs_of(root: Path, out: Path, split_bytes: str = "8KB"):
    """The splits of both sources behind their filters, and the stages they come from."""
    corpus = run(recipe(root, split_bytes), str(out), inline=True, progress=SILENT, until="filters")
    members = [corpus.sources[name] for name in GROUP]
    inputs = [s for rank, member in enumerate(members) for s in standings(member, rank)]
    return inputs, [member.filters.stage for member in members]


def deduplicate(
    out: Path, inputs, upstream, *, executor=None, length: int = LENGTH, partition_bytes: int = 128 << 20
):
    engine = Engine(str(out), executor or Inline(), SILENT)
    limits = Limits(partition_bytes=partition_bytes)
    work = substrings.deduplicate(engine, GROUP, inputs, upstream, Substrings(min_bytes=length), limits)
    (done,) = engine.together(work)
    return done, engine


def verdicts_of(done, inputs) -> dict[str, list[tuple]]:
    """(dropped, score, cuts) of every row, by source."""
    found: dict[str, list[tuple]] = {name: [] for name in GROUP}
    for item in inputs:
        rows = 0
        place = storage.join(done.location, verdict_name(item.source, item.split))
        for batch in tables.arrow_batches(place):
            rows += batch.num_rows
            assert batch.column("survivor").null_count == batch.column("detail").null_count == batch.num_rows
            columns = (batch.column(c).to_pylist() for c in ("dropped", "score", "cuts"))
            found[item.source] += zip(*columns, strict=True)
        assert rows == item.rows
    return found


def slow_verdicts(texts: dict[str, list[str]], length: int = LENGTH) -> dict[str, list[tuple]]:
    """The definition read aloud."""
    seen: set[bytes] = set()
    found: dict[str, list[tuple]] = {}
    for source in GROUP:
        found[source] = []
        for text in texts[source]:
            if len(text) > LONGEST:
                found[source].append((False, None, None))
                continue
            raw, gone = text.encode(), set()
            for at in range(len(raw) - length + 1):
                window = raw[at : at + length]
                if window in seen:
                    gone.update(range(at, at + length))
                seen.add(window)
            edges = [at for at in range(len(raw) + 1) if (at in gone) != (at - 1 in gone)]
            borders = {len(text[:n].encode()) for n in range(len(text) + 1)}
            cuts = []
            for start, stop in zip(edges[0::2], edges[1::2], strict=True):
                cuts.append(next(at for at in range(start, stop) if at in borders))
                cuts.append(next(at for at in range(stop, start, -1) if at in borders))
            if not cuts:
                found[source].append((False, None, None))
                continue
            kept = [0, *cuts, len(raw)]
            left = b"".join(raw[a:b] for a, b in zip(kept[0::2], kept[1::2], strict=True))
            removed = len(raw) - len(left)
            found[source].append((not left.decode().strip(), removed / len(raw), cuts))
    return found


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """(folder of the input, run with documents and filters, its splits, their stages, the verdicts wanted)."""
    root = tmp_path_factory.mktemp("substrings")
    texts = write_sources(root / "in")
    inputs, upstream = inputs_of(root / "in", root / "run")
    return root / "in", root / "run", inputs, upstream, slow_verdicts(texts)


def test_the_test_has_what_it_is_about(sources):
    *_, expected = sources
    rows = expected["first"] + expected["second"]
    assert sum(dropped for dropped, _, _ in rows) > 5
    assert sum(not dropped and cuts is not None for dropped, _, cuts in rows) > 50
    assert sum(cuts is not None and len(cuts) > 2 for _, _, cuts in rows) > 5
    assert sum(cuts is None for _, _, cuts in rows) > 50


def test_cuts_are_those_of_the_definition(sources, tmp_path):
    _, _, inputs, upstream, expected = sources
    assert len(inputs) > 10
    done, engine = deduplicate(tmp_path, inputs, upstream)
    assert verdicts_of(done, inputs) == expected
    for source in GROUP:
        rows = expected[source]
        assert total(done.records, "dropped", source) == sum(dropped for dropped, _, _ in rows)
        trimmed = [cuts for dropped, _, cuts in rows if cuts and not dropped]
        assert total(done.records, "cut_documents", source) == len(trimmed)
        removed = sum(b - a for cuts in trimmed for a, b in zip(cuts[0::2], cuts[1::2], strict=True))
        assert total(done.records, "cut_bytes", source) == removed
        assert total(done.records, "dropped_bytes", source) > 0
    assert not total(done.records, "pairs")
    again, _ = deduplicate(tmp_path, inputs, upstream)
    assert again.redone == 0
    assert set(engine.done) == {
        f"substrings{kind}.first+second"
        for kind in (
            "",
            "-anchors",
            "-anchors-judged",
            "-cells",
            "-cells-judged",
            "-windows",
            "-windows-judged",
        )
    }


class Backwards(Inline):
    """Runs the last task first."""

    def map(self, jobs):
        return super().map(list(jobs)[::-1])


@pytest.mark.parametrize(("partition_bytes", "block_bytes"), [(1 << 14, 1 << 13), (1 << 20, 1)])
def test_verdicts_do_not_depend_on_how_the_work_is_divided(
    sources, tmp_path, monkeypatch, partition_bytes, block_bytes
):
    """Partitions that are much smaller than what is looked for, and blocks of one split."""
    _, _, inputs, upstream, expected = sources
    monkeypatch.setattr(substrings, "BLOCK_BYTES", block_bytes)
    done, engine = deduplicate(
        tmp_path, inputs, upstream, executor=Backwards(), partition_bytes=partition_bytes
    )
    assert verdicts_of(done, inputs) == expected
    if partition_bytes == 1 << 14:
        assert any("round2" in name for name in engine.done)
        assert len(done.records) > 10


def test_verdicts_do_not_depend_on_how_the_sources_are_split(sources, tmp_path):
    root, *_, expected = sources
    inputs, upstream = inputs_of(root, tmp_path, "100KB")
    assert len(inputs) < 10
    done, _ = deduplicate(tmp_path, inputs, upstream)
    assert verdicts_of(done, inputs) == expected


class Stopped(Inline):
    """Runs so many tasks, and stops."""

    def __init__(self, tasks: int):
        self.left = tasks

    def map(self, jobs):
        for answer in super().map(jobs):
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            yield answer


def test_a_run_that_was_stopped_goes_on(sources, tmp_path):
    _, _, inputs, upstream, expected = sources
    stops = 0
    for tasks in (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144):
        try:
            done, _ = deduplicate(
                tmp_path, inputs, upstream, executor=Stopped(tasks), partition_bytes=1 << 14
            )
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops > 3
    assert verdicts_of(done, inputs) == expected


def test_one_key_larger_than_a_partition(tmp_path):
    """The same stretch in every document, each time between other text: all its cells have one key."""
    rng = random.Random(5)
    middle = "".join(rng.choices("abcdefgh", k=LENGTH + 20))
    texts: dict[str, list[str]] = {}
    for source in GROUP:
        (tmp_path / source).mkdir()
        ends = ["".join(rng.choices("abcdefgh", k=15)) for _ in range(200)]
        texts[source] = [
            before + middle + behind for before, behind in zip(ends[0::2], ends[1::2], strict=True)
        ]
        lines = (json.dumps({"text": t}) for t in texts[source])
        (tmp_path / source / "0.jsonl").write_text("\n".join(lines) + "\n")
    inputs, upstream = inputs_of(tmp_path, tmp_path / "run")
    done, engine = deduplicate(tmp_path / "run", inputs, upstream, partition_bytes=1 << 12)
    records = engine.done["substrings-anchors-judged.first+second"].records
    assert max(len(record.counts["runs"]) for record in records) > 2, "no partition was read in blocks"
    assert verdicts_of(done, inputs) == slow_verdicts(texts)


@pytest.mark.parametrize("limit", [1, 200, 1 << 20])
def test_a_partition_is_judged_alike_in_blocks_of_any_size(tmp_path, limit):
    """Keys that go over several blocks, and whose second extent only comes in a later one."""
    cells = [(5, 1, at) for at in range(20)] + [(5, 2, 30), (5, 3, 31), (5, 3, 32)]
    cells += (
        [(6, 1, at) for at in range(40, 60)]
        + [(7, at, 100 - at) for at in range(20)]
        + [(8, 1, 1), (9, 1, 2)]
    )
    rows = np.zeros(len(cells), substrings.CELLS.dtype)
    rows["key"], rows["extent"], rows["place"] = np.array(cells, np.uint64).T
    rows["windows"] = 1 + rows["place"]
    outputs, bounds = Outputs(str(tmp_path)), np.empty(0, np.uint64)
    parts = []
    for i in range(2):
        run_ = write_run(outputs, f"run-{i}.bin", substrings.CELLS, rows[i::2], bounds)
        size, _ = outputs.files[run_["name"]]
        parts.append((RunFile(str(tmp_path / run_["name"]), size, len(run_["partition_bytes"])), 0))
    counts = substrings.judge_task(substrings.JudgeSpec(7, tuple(parts), bounds, limit), outputs)
    assert (len(counts["runs"]) > 1) == (limit < 1 << 20)
    found = []
    for run_ in counts["runs"]:
        file = RunFile(
            str(tmp_path / run_["name"]), outputs.files[run_["name"]][0], len(run_["partition_bytes"])
        )
        found.append(read_parts([(file, 0)], substrings.ANSWERS)[0])
    answers = np.concatenate(found)
    open_ = answers[answers["anchor"] != RESOLVED]
    assert sorted(open_["place"].tolist()) == sorted([0, 30, 31, *range(81, 101)])
    assert (counts["open"], counts["windows"]) == (len(open_), open_["windows"].sum())
    duplicates = answers[answers["anchor"] == RESOLVED]
    assert sorted(duplicates["place"].tolist()) == [*range(1, 20), 32, *range(41, 60)]
    assert (answers["windows"] == 1 + answers["place"]).all()


def test_memory_is_that_of_a_partition_however_much_text_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr(substrings, "BATCH_CELLS", 1 << 10)
    letters = np.frombuffer(b"abcdefghijklmnop", np.uint8)
    rng = np.random.default_rng(11)
    for source in GROUP:
        (tmp_path / source).mkdir()
        with open(tmp_path / source / "0.jsonl", "w") as file:
            for _ in range(1600):
                file.write(json.dumps({"text": letters[rng.integers(0, 16, 600)].tobytes().decode()}) + "\n")
    inputs, upstream = inputs_of(tmp_path, tmp_path / "run", "100KB")
    partition_bytes = 1 << 18
    scratch_for(LENGTH)  # what importing takes is not the question
    tracemalloc.start()
    _, engine = deduplicate(tmp_path / "run", inputs, upstream, partition_bytes=partition_bytes)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    exchanged = sum(
        size for r in engine.done["substrings-anchors.first+second"].records for size, _ in r.outputs.values()
    )
    assert exchanged > 16 * partition_bytes
    beside = 5 << 19  # a MiB of scratch, and a file is hashed a MiB at a time
    assert peak < 4 * partition_bytes + beside < exchanged


def test_earlier_steps_are_seen_and_a_second_run_finds_what_cutting_joined(sources, tmp_path):
    """The second run reads text without what the first cut; what it finds lies across a cut of the first."""
    _, _, inputs, upstream, expected = sources
    first, _ = deduplicate(tmp_path, inputs, upstream)
    after = [replace(item, steps=(first.location,)) for item in inputs]
    texts: dict[str, list[str]] = {name: [] for name in GROUP}
    rows: dict[str, list[int]] = {name: [] for name in GROUP}
    starts = dict.fromkeys(GROUP, 0)
    for item in after:
        for found in texts_of(item):
            texts[item.source] += found.texts.to_pylist()
            rows[item.source] += (starts[item.source] + found.where).tolist()
        starts[item.source] += item.rows
    done, _ = deduplicate(tmp_path, after, [*upstream, first.stage])
    second, wanted = verdicts_of(done, after), slow_verdicts(texts)
    found_again = 0
    for source in GROUP:
        assert [second[source][row] for row in rows[source]] == wanted[source]
        gone = set(range(starts[source])) - set(rows[source])
        assert gone
        assert all(second[source][row] == (False, None, None) for row in gone)
        for row, (_, _, cuts) in zip(rows[source], wanted[source], strict=True):
            before = expected[source][row][2] or []
            edges = (
                np.array(before[0::2])
                - np.concatenate([[0], np.cumsum(np.subtract(before[1::2], before[0::2]))])[
                    : len(before) // 2
                ]
            )
            for a, b in zip((cuts or [])[0::2], (cuts or [])[1::2], strict=True):
                found_again += 1
                assert ((a <= edges) & (edges <= b)).any(), (
                    "what no cut had touched was not found the first time"
                )
    assert found_again < 20


def test_documents_shorter_than_the_length_are_left_alone(sources, tmp_path):
    _, _, inputs, upstream, _ = sources
    done, engine = deduplicate(tmp_path, inputs, upstream, length=4000)
    assert all(row == (False, None, None) for rows in verdicts_of(done, inputs).values() for row in rows)
    assert "substrings-cells.first+second" not in engine.done
    assert total(done.records, "dropped") in (0, {})
