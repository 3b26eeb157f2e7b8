"""The stages that make vectors: rows aligned with what stands, the same in one task and in two, resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from winnow.filters.embed import embed
from winnow.filters.embedding_settings import Embedding
from winnow.filters.encoder_files import find
from winnow.pipelines import embeddings, encoders
from winnow.pipelines.cluster import Inline
from winnow.pipelines.corpus import run
from winnow.pipelines.device import CPU, Device
from winnow.pipelines.embeddings import EmbeddingSpec, requests_of
from winnow.pipelines.encoders import EncoderPlace
from winnow.pipelines.engine import Engine
from winnow.pipelines.located import RecipeError
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import read
from winnow.pipelines.records import Outputs
from winnow.pipelines.standing import standings, texts_of
from winnow.pipelines.vectors import embedded, vector_batches
from winnow.shards import tables

TEXTS = [f"Sentence number {i} is about {('tea', 'ships', 'snow')[i % 3]}. " * (1 + i % 5) for i in range(24)]
TEXTS[7] = TEXTS[2]
TEXTS[20] = TEXTS[9]


@pytest.fixture(scope="module")
def place(minilm: str) -> EncoderPlace:
    files = find(minilm)
    return EncoderPlace(files.folder, files, Embedding(model=minilm, max_tokens=32, dtype="float32"))


@pytest.fixture(scope="module")
def deduplicated(tmp_path_factory):
    """The source of a run that was filtered and rid of equal documents, in several splits."""
    tmp_path = tmp_path_factory.mktemp("embeddings")
    (tmp_path / "in").mkdir()
    for k in range(2):
        rows = [json.dumps({"text": text}) + "\n" for text in TEXTS[12 * k : 12 * k + 12]]
        (tmp_path / "in" / f"{k}.jsonl").write_text("".join(rows))
    recipe = read(
        "name: r\ntokenizer: {name: mistral-7b-v0.1}\nlimits: {split_bytes: 1KiB}\nsources:\n"
        f"  s: {{read: {{format: jsonl, path: '{tmp_path}/in/*.jsonl'}}, dedup: {{exact: true}}}}\n",
        "r.yaml",
    )
    made = run(recipe, str(tmp_path / "run"), inline=True, until="dedup", progress=Progress(stream=None))
    return made.sources["s"]


@pytest.fixture
def opened(deduplicated, tmp_path):
    """(engine that writes elsewhere, the source) of that run."""
    return Engine(str(tmp_path / "run"), Inline(), Progress(stream=None)), replace(deduplicated, embedded={})


def stored(split) -> tuple[np.ndarray, np.ndarray]:
    found = list(vector_batches(split, rows=5))
    return np.concatenate([m for m, _ in found]), np.concatenate([v for _, v in found])


def test_a_split_has_the_vectors_of_what_stands(opened, place):
    engine, source = opened
    (request,) = requests_of(engine.run, "default", source, place, CPU)
    done = engine.perform_all([request])[0]
    items = standings(source)
    assert len(items) > 2
    seen = 0
    for split in embedded(items, {"s": done}):
        members, vectors = stored(split)
        batches = list(texts_of(split.standing))
        rows = np.concatenate([b.where for b in batches])
        assert members["row"].tolist() == rows.tolist()
        high, low = tables.id_halves(pa.concat_arrays([b.rows.column("id") for b in batches]))
        assert (members["high"].tolist(), members["low"].tolist()) == (high.tolist(), low.tolist())
        texts = [pa.record_batch([b.texts], names=["text"]) for b in batches]
        expected = np.concatenate(list(embed(texts, place.settings, "cpu")))
        assert np.allclose(vectors.astype(np.float32), expected.astype(np.float32), atol=1e-3)
        assert np.allclose(np.linalg.norm(vectors.astype(np.float32), axis=1), 1, atol=1e-3)
        seen += len(members)
    assert seen == len(set(TEXTS))
    assert sum(r.counts["made_on"]["cpu float32"] for r in done.records) == seen


def test_a_later_step_reads_the_vectors_of_what_stands_then(opened, place):
    engine, source = opened
    steps, source.steps = source.steps, []
    (request,) = requests_of(engine.run, "default", source, place, CPU)
    done = engine.perform_all([request])[0]
    everything = [len(stored(s)[0]) for s in embedded(standings(source), {"s": done})]
    source.steps = steps
    left = [len(stored(s)[0]) for s in embedded(standings(source), {"s": done})]
    assert sum(everything) == len(TEXTS)
    assert sum(left) == len(set(TEXTS))


def test_two_tasks_give_what_one_does(opened, place, tmp_path, monkeypatch):
    _, source = opened
    monkeypatch.setattr("winnow.filters.embed.WINDOW_DOCUMENTS", 3)
    for item in standings(source):
        one, two, tokens = (Outputs(str(tmp_path / name)) for name in ("one", "two", "tokens"))
        counts = embeddings.vectors_task(EmbeddingSpec(item, place, "cpu"), one)
        there = embeddings.tokens_task(EmbeddingSpec(item, place, "cpu"), tokens)
        assert there["documents"] == counts["documents"]
        spec = EmbeddingSpec(item, place, "cpu", tokens.location)
        assert embeddings.vectors_task(spec, two) == counts
        assert one.files == two.files


class GpuOfATest(Device):
    """Asks for a GPU, and computes on the CPU."""

    torch = "cpu"


def test_for_a_gpu_tokens_go_before_and_only_for_what_is_missing(opened, place, tmp_path):
    engine, source = opened
    (alone,) = requests_of(str(tmp_path / "alone"), "default", source, place, CPU)
    expected = Engine(str(tmp_path / "alone"), Inline(), Progress(stream=None)).perform_all([alone])[0]
    tokens, vectors = requests_of(engine.run, "default", source, place, GpuOfATest(1.0))
    assert vectors.stage == alone.stage
    assert [task.gpus for task in tokens.tasks] == [0] * len(vectors.tasks)
    assert {task.after for task in vectors.tasks} == {(tokens.stage.name, t.index) for t in tokens.tasks}
    *_, done = engine.perform_all([tokens, vectors])
    assert [r.outputs for r in done.records] == [r.outputs for r in expected.records]
    (Path(done.location) / "records" / "00000001.json").unlink()
    tokens, vectors = requests_of(engine.run, "default", source, place, GpuOfATest(1.0))
    assert [task.index for task in tokens.tasks] == [1]
    assert [d.redone for d in engine.perform_all([tokens, vectors])] == [0, 1]
    (again,) = requests_of(engine.run, "default", source, place, GpuOfATest(1.0))
    assert engine.perform_all([again])[0].redone == 0


def test_what_is_recorded_is_not_made_again(opened, place, monkeypatch):
    engine, source = opened
    (request,) = requests_of(engine.run, "default", source, place, CPU)
    first = engine.perform_all([request])[0]
    record = Path(first.location) / "records" / "00000001.json"
    before = record.read_bytes()
    record.unlink()
    again = engine.perform_all([request])[0]
    assert (first.redone, again.redone) == (len(request.tasks), 1)
    assert json.loads(record.read_bytes())["identity"] == json.loads(before)["identity"]


def test_an_embedding_goes_by_what_it_reads(opened, place):
    engine, source = opened

    def directory(**changed) -> str:
        settings = place.settings.model_copy(update=changed)
        other = EncoderPlace("/elsewhere", place.files, settings)
        return requests_of(engine.run, "default", source, other, CPU)[-1].stage.directory

    same = directory()
    assert same == directory(device="gpu") == directory(gpus=0.5) == directory(model="another/name")
    assert len({same, directory(max_tokens=33), directory(pooling="cls"), directory(dtype="auto")}) == 4


def test_an_encoder_that_cannot_be_had_is_said_at_its_place(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "a.txt").write_text("text")
    text = (
        "name: r\ntokenizer: {name: mistral-7b-v0.1}\nembeddings: {x: {model: nobody/nothing}}\nsources:\n"
        f"  s: {{read: {{format: text, path: '{tmp_path}/*.txt'}}, dedup: {{semantic: {{eps: 0.1, embedding: x}}}}}}\n"
    )
    engine = Engine(str(tmp_path / "run"), Inline(), Progress(stream=None))
    with pytest.raises(RecipeError, match=r"r.yaml:3:25: .*nobody/nothing") as raised:
        encoders.fetch(engine, read(text, "r.yaml"))
    assert "hf download nobody/nothing" in str(raised.value)


def test_an_encoders_files_are_kept_in_the_run(tmp_path, minilm):
    (tmp_path / "a.txt").write_text("text")
    text = (
        f"name: r\ntokenizer: {{name: mistral-7b-v0.1}}\nembeddings: {{x: {{model: '{minilm}'}}}}\nsources:\n"
        f"  s: {{read: {{format: text, path: '{tmp_path}/*.txt'}}, dedup: {{semantic: {{eps: 0.1, embedding: x}}}}}}\n"
    )
    engine = Engine(str(tmp_path / "run"), Inline(), Progress(stream=None))
    places, (stage,) = encoders.fetch(engine, read(text, "r.yaml"))
    kept = find(places["x"].folder())
    assert Path(kept.folder).is_relative_to(tmp_path / "run")
    assert kept.sha256 == places["x"].files.sha256 == stage.records[0].counts["sha256"]
    assert engine.perform_all([]) == []
    _, (again,) = encoders.fetch(engine, read(text, "r.yaml"))
    assert again.redone == 0
