"""The reference trainer: the model, what is counted, and a training that is interrupted in every way."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

if importlib.util.find_spec("streaming") is None:
    pytest.skip("mosaicml-streaming is the reader: pip install 'winnow[train]'", allow_module_level=True)

import torch
from winnow.pipelines import compare, run, train_loop
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import read
from winnow.pipelines.tracing import Tracer
from winnow.pipelines.train_corpus import Tokens, TrainingRun, evenly, shard_problems, spelled_bytes
from winnow.pipelines.train_loop import Training, bits_per_byte
from winnow.pipelines.train_model import Decoder, position_columns, slopes, token_nats
from winnow.pipelines.train_report import put_plot, repeats, thinned
from winnow.pipelines.train_settings import (
    Shape,
    TrainError,
    TrainInputError,
    TrainSettings,
    embedding_rows,
    learning_rate,
    steps_of,
)
from winnow.shards import mds

LENGTH = 32
TINY = Shape(2, 16, 2, 1e-3)
NEOX_LIKE = Tokens("", 9, None, None, 0, "eos", None)


# ---- settings ---------------------------------------------------------------------------------------------------


@given(st.integers(1, 300), st.integers(1, 60), st.integers(1, 20))
def test_steps_are_the_batches_of_whole_epochs_and_of_the_rest(rows: int, epoch: int, batch: int) -> None:
    left, steps = rows, 0
    while left:
        of_epoch = min(left, epoch)
        left -= of_epoch
        while of_epoch > 0:
            of_epoch -= batch
            steps += 1
    assert steps_of(rows, epoch, batch) == steps


def test_the_learning_rate_rises_and_falls_to_a_tenth() -> None:
    rates = [learning_rate(step, 1000, 1.0) for step in range(1000)]
    assert rates[0] == pytest.approx(0.02)
    assert max(rates) == rates[49] == 1.0
    assert rates[49:] == sorted(rates[49:], reverse=True)
    assert rates[-1] == pytest.approx(0.1)
    assert learning_rate(0, 1, 1.0) == 1.0


def test_the_embedding_is_rounded_up_or_as_the_recipe_says() -> None:
    assert embedding_rows(50_276, None) == 50_304
    assert embedding_rows(127, None) == 128
    assert embedding_rows(128, None) == 256
    assert embedding_rows(50_276, 50_432) == 50_432
    with pytest.raises(TrainInputError, match="model_vocab is 100, but the tokenizer's largest id is 100"):
        embedding_rows(100, 100)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "large"}, "there is no model 'large'; there are nano, micro, mini, small"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"tokens": 0}, "tokens must be at least 1"),
        ({"learning_rate": 2.0}, "between 0 and 1"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_settings_that_make_no_sense(settings: dict, message: str) -> None:
    with pytest.raises(TrainInputError, match=message):
        TrainSettings(**settings)


# ---- what is counted --------------------------------------------------------------------------------------------


def test_documents_end_with_their_eos_or_begin_with_their_bos() -> None:
    rows = np.array([[5, 0, 6, 0, 0, 7], [0, 5, 5, 5, 5, 0]], np.uint16)
    assert NEOX_LIKE.documents(rows).tolist() == [[0, 0, 1, 1, 2, 3], [0, 1, 1, 1, 1, 1]]
    bos = Tokens("", 9, None, 1, 0, "bos", None)
    assert bos.documents(np.array([[5, 1, 6, 6, 1, 7]])).tolist() == [[0, 1, 1, 1, 2, 2]]
    with pytest.raises(TrainInputError, match="append is none"):
        Tokens("", 9, None, 1, 0, "none", None).documents(rows)


def test_padding_is_neither_predicted_nor_counted() -> None:
    padded = Tokens("", 9, None, None, 0, "eos", 3)
    rows = np.array([[5, 6, 0, 3], [5, 3, 3, 3]], np.uint16)
    assert padded.predicted(rows).tolist() == [[True, True, False], [False, False, False]]
    assert padded.count(rows) == 4
    assert NEOX_LIKE.count(rows) == 8
    assert NEOX_LIKE.predicted(rows).all()


def test_an_id_that_no_tokenizer_made() -> None:
    NEOX_LIKE.check(np.array([[9, 0]], np.uint16))
    with pytest.raises(TrainError, match="token id 10 came, the tokenizer's largest is 9"):
        NEOX_LIKE.check(np.array([[10, 0]], np.uint16))


def test_the_bytes_of_predicted_tokens() -> None:
    sizes = np.array([0, 0, 4, 5, 3], np.uint8)  # 0 ends a document, 1 begins one
    rows = np.array([[2, 3, 0, 4, 0, 0, 2]], np.uint16)
    tokens = Tokens("", 4, None, 1, 0, "eos", None)
    # All but the first; a text that begins behind an EOS has the prefix's byte too many.
    assert spelled_bytes(rows, tokens, sizes, 0) == 5 + 3 + 4
    assert spelled_bytes(rows, tokens, sizes, 1) == 5 + 2 + 3
    both = Tokens("", 4, None, 1, 0, "both", None)
    assert spelled_bytes(np.array([[2, 0, 1, 4, 3]]), both, sizes, 1) == 2 + 5
    padded = Tokens("", 4, None, None, 0, "eos", 4)
    assert spelled_bytes(np.array([[2, 3, 0, 4, 4]]), padded, sizes, 1) == 5


@given(st.integers(0, 500), st.integers(1, 60))
def test_rows_are_picked_evenly(n: int, wanted: int) -> None:
    picked = evenly(n, wanted)
    assert len(picked) == len(set(picked)) == min(n, wanted)
    assert all(0 <= i < n for i in picked)
    gaps = np.diff(picked)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


# ---- the model --------------------------------------------------------------------------------------------------


def plain_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """ALiBi as its paper defines it, token by token."""
    heads, length, width = q.shape
    out = torch.zeros_like(v)
    for h in range(heads):
        for i in range(length):
            scores = torch.stack(
                [q[h, i] @ k[h, j] / math.sqrt(width) - slopes(heads)[h] * (i - j) for j in range(i + 1)]
            )
            out[h, i] = torch.softmax(scores, 0) @ v[h, : i + 1]
    return out


def test_attention_is_causal_and_falls_with_distance() -> None:
    torch.manual_seed(1)
    block = Decoder(TINY, 64).blocks[0]
    x = torch.randn(1, 9, TINY.width)
    found = block._attend(x, position_columns(9, x.device), None)
    q, k, v = (p[0].view(9, TINY.heads, -1).transpose(0, 1) for p in block.qkv(x).split(TINY.width, -1))
    wanted = plain_attention(q, k, v).transpose(0, 1).reshape(9, -1)
    assert torch.allclose(found[0], wanted, atol=1e-5)


def test_positions_are_exact_in_bfloat16_far_back() -> None:
    columns = position_columns(60_000, torch.device("cpu")).to(torch.bfloat16).double()
    assert torch.equal(columns[:, 0] * 256 + columns[:, 1], torch.arange(60_000).double())
    with pytest.raises(ValueError, match="65,536"):
        position_columns(70_000, torch.device("cpu"))


def test_masked_documents_know_nothing_of_each_other() -> None:
    torch.manual_seed(2)
    model = Decoder(TINY, 64)
    rows = np.array([[5, 6, 7, 0, 8, 9, 4, 3]], np.uint16)
    documents = torch.from_numpy(NEOX_LIKE.documents(rows))
    tokens = torch.from_numpy(rows.astype(np.int64))
    whole = model(tokens, documents)
    alone = model(tokens[:, 4:])
    assert torch.allclose(whole[:, 4:], alone, atol=1e-5), "positions are a document's own"
    assert torch.allclose(whole[:, :4], model(tokens[:, :4]), atol=1e-5)
    assert not torch.allclose(model(tokens)[:, 4:], alone, atol=1e-3)


def test_the_small_model_is_mpt_125m() -> None:
    with torch.device("meta"):
        model = Decoder(TrainSettings(model="small").shape, 50_432)
    assert sum(p.numel() for p in model.parameters()) == 50_432 * 768 + 12 * (12 * 768**2 + 2 * 768) + 768


# ---- a run ------------------------------------------------------------------------------------------------------


def write_tokenizer(place: Path, texts: list[str]) -> None:
    """A byte-level tokenizer of 384 pieces: small models then consist of more than their embedding."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=["<|endoftext|>", "<|padding|>"], initial_alphabet=alphabet,
        show_progress=False,
    )  # fmt: skip
    made.train_from_iterator(texts, trainer)
    made.save(str(place))


def make(root: Path, name: str, pack: str, output: str) -> Path:
    sources = "".join(
        f"  {source}: {{read: {{format: jsonl, path: '{root}/{source}.jsonl'}}, heldout: {{fraction: 0.3}}}}\n"
        for source in ("plain", "rare")
    )
    recipe = read(
        f"name: small\ntokenizer: {{name: '{root}/tokenizer.json'}}\n"
        f"sequence: {{length: {LENGTH}, pack: {pack}}}\nsources:\n{sources}"
        f"mixture: {{tokens: {200 * LENGTH}, output: {output}}}\nshards: {{size_limit: 4KiB}}\n",
        "small.yaml",
    )
    run(recipe, str(root / name), inline=True, progress=Progress(stream=None))
    return root / name


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two small sources, each with held-out rows; an epoch is 200 rows."""
    root = tmp_path_factory.mktemp("train")
    rng = np.random.default_rng(5)
    words = ["".join(map(chr, rng.integers(97, 110, rng.integers(2, 7)))) for _ in range(60)] + ["é", "雪"]
    texts = {
        name: [" ".join(rng.choice(part, rng.integers(10, 80))) for _ in range(n)]
        for name, n, part in (("plain", 120, words), ("rare", 60, words[30:]))
    }
    for name, documents in texts.items():
        lines = "".join(json.dumps({"text": t}) + "\n" for t in documents)
        (root / f"{name}.jsonl").write_text(lines)
    write_tokenizer(root / "tokenizer.json", texts["plain"])
    make(root, "run", "concat", "streams")
    return root / "run"


def test_a_missing_or_shortened_shard_is_named(corpus: Path, tmp_path: Path) -> None:
    opened = TrainingRun(str(corpus))
    opened.check_shards("train")
    place = Path(opened.places("train")["plain"])
    copied = tmp_path / "train"
    copied.mkdir()
    for file in place.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    assert list(shard_problems(str(copied), "plain")) == []
    shards = sorted(copied.glob("*.mds"))
    assert len(shards) > 2
    shards[0].unlink()
    shards[1].write_bytes(shards[1].read_bytes()[:-1])
    found = list(shard_problems(str(copied), "plain"))
    assert len(found) == 2
    assert f"shard {shards[0].name} is missing" in found[0]
    assert f"{shards[1].name} has " in found[1]
    assert "No such file" in next(shard_problems(str(tmp_path / "nowhere"), "plain"))


def test_how_often_sources_are_read(corpus: Path) -> None:
    opened = TrainingRun(str(corpus))
    assert opened.tokens_per_row == LENGTH
    facts = opened.facts["sources"]
    tokens = {s["name"]: s["train"]["rows"] * LENGTH for s in facts}
    passes = opened.passes(sum(tokens.values()) * 2)
    assert passes == pytest.approx(dict.fromkeys(tokens, 2.0), rel=0.02), "by size: all alike"
    assert repeats({"a": 1.0, "b": 2.25, "c": 3}) == "read more than once: c 3.0 times, b 2.2 times"
    assert repeats({"a": 0.5}) == ""


def test_padding_of_a_run_is_counted(corpus: Path) -> None:
    opened = TrainingRun(str(make(corpus.parent, "padded", "pad", "mixed")))
    (place,) = opened.places("train").values()
    rows = np.concatenate(
        [
            mds.read_rows(
                (Path(place) / entry["raw_data"]["basename"]).read_bytes(), entry, 0, entry["samples"]
            )
            for entry in mds.read_index((Path(place) / mds.INDEX_NAME).read_bytes())
        ]
    )
    assert len(rows) == opened.epoch_rows
    mean = opened.tokens.count(rows) / len(rows)
    assert mean < 0.95 * LENGTH
    assert opened.tokens_per_row == pytest.approx(mean, rel=0.05), (
        "over an epoch, which draws from both sources"
    )


def test_held_out_bits_by_brute_force(corpus: Path) -> None:
    """The sum over predicted tokens one by one, and the bytes of the text they are decoded to."""
    opened = TrainingRun(str(corpus))
    assert math.isclose(bits_per_byte(math.log(2) * 12, 4), 3)
    sizes, prefix = np.frombuffer((Path(opened.run.tokenizer) / "piece-bytes").read_bytes(), "<u4"), 0
    torch.manual_seed(3)
    model = Decoder(TINY, embedding_rows(opened.tokens.max_id, None)).eval()
    rows = Tracer(opened.run).tokens("plain", "val", 0)[None]
    model_nats, text = 0.0, 0
    for i in range(1, LENGTH):
        with torch.no_grad():
            hidden = model(torch.from_numpy(rows[:, :i].astype(np.int64)))
            logits = model.logits(hidden[0, -1])
        model_nats -= float(torch.log_softmax(logits, -1)[int(rows[0, i])])
    spelled = opened.run.decode(rows[0]).replace("<|endoftext|>", "").encode("utf-8", "surrogateescape")
    first = opened.run.decode(rows[0, :1]).replace("<|endoftext|>", "").encode()
    text = len(spelled) - len(first)
    with torch.no_grad():
        tokens = torch.from_numpy(rows.astype(np.int64))
        found = token_nats(model, model(tokens[:, :-1])[0], tokens[0, 1:])
    assert float(found.sum()) == pytest.approx(model_nats, rel=1e-5)
    assert spelled_bytes(rows, opened.tokens, sizes, prefix) == text


def reader_of(batches: Iterable[torch.Tensor], due: int) -> Any:
    """A training that has nothing but a reader."""
    training = Training.__new__(Training)
    training.loader, training.epoch_rows = batches, due
    training.source = SimpleNamespace(check_shards=lambda split: None)
    return training


def test_rows_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [torch.zeros((4, 2)), torch.zeros((3, 2))]
    training = reader_of(batches, 7)
    assert [len(batch) for batch in training._epoch()] == [4, 3]
    assert [len(batch) for batch in training._epoch()] == [4, 3], "the next epoch is counted anew"
    with pytest.raises(TrainError, match="7 of the epoch's 8 rows came: the reader ended without an error"):
        list(reader_of(batches, 8)._epoch())

    def failing() -> Iterator[torch.Tensor]:
        yield batches[0]
        raise OSError("gone")

    with pytest.raises(TrainError, match="4 of the epoch's 7 rows came: OSError: gone"):
        list(reader_of(failing(), 7)._epoch())

    arrived = threading.Event()

    def stuck() -> Iterator[torch.Tensor]:
        arrived.wait(60)
        yield batches[0]

    monkeypatch.setattr(train_loop, "WAIT_SECONDS", 0.01)
    with pytest.raises(TrainError, match="0 of the epoch's 7 rows came: none for 0 seconds"):
        list(reader_of(stuck(), 7)._epoch())
    arrived.set()


# In a process of its own: StreamingDataset leaves shared memory and threads behind.
TRAIN = """
import json, os, shutil, signal, sys
from pathlib import Path
from winnow.pipelines import train_loop, train_report
from winnow.pipelines.train_loop import train
from winnow.pipelines.train_settings import TrainError, TrainInputError, TrainSettings
from winnow.pipelines.train_stop import Stopped

corpus, out = sys.argv[1], Path(sys.argv[2])
settings = dict(model="nano", batch=16, tokens=500 * 32, heldout_tokens=600, every=13)
def go(name, say=lambda line: None, **changed):
    return train(corpus, str(out / name), TrainSettings(**(settings | changed)), device="cpu", say=say)

def signalled(step, number):
    train_loop.SAY_SECONDS = 0.0
    waiting = [number]
    def say(line):
        if line.startswith(f"step {step} of") and waiting:  # a second signal would end the process at once
            os.kill(os.getpid(), waiting.pop())
    return say

# Forked here, where no thread runs yet: importing all this once more takes seconds.
child = os.fork()
if child == 0:
    go("killed", signalled(30, signal.SIGKILL))
    os._exit(0)
found = {"killed": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}
found["whole"] = go("whole")
train_report.put_plot = lambda *arguments: None  # one has been drawn
try:
    go("stopped", signalled(17, signal.SIGTERM))
except Stopped as stopped:
    found["stopped"] = str(stopped)
try:
    go("stopped", seed=1)
except TrainInputError as error:
    found["other"] = str(error)
train_loop.SAY_SECONDS = 5.0
go("stopped")
go("killed")
# Stopped where an epoch of 200 rows ends: 13 batches.
try:
    go("end", signalled(13, signal.SIGINT))
except Stopped:
    go("end")
found["again"] = go("end") == go("end")
found["masked"] = go("masked", mask_documents=True, tokens=50 * 32)["loss"]
# A shard that disappears after it was looked for.
real = train_loop.TrainingRun.check_shards
moved = Path(train_loop.TrainingRun(corpus).places("train")["plain"]) / "shard.00001.mds"
away = out / "away"
def check_and_lose(self, split):
    real(self, split)
    if split == "train":
        shutil.move(moved, away)
train_loop.TrainingRun.check_shards = check_and_lose
try:
    go("lost")
    found["lost"] = "nothing was said"
except TrainError as error:
    found["lost"] = str(error)
finally:
    shutil.move(away, moved)
print(json.dumps(found))
"""


def losses(place: Path) -> list[float]:
    lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.slow
def test_trainings_go_on_as_if_nothing_had_happened(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TRAIN, str(corpus), str(tmp_path)],
        env=os.environ | {"TMPDIR": str(tmp_path / "tmp"), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["killed"] == -9

    whole = found["whole"]
    assert whole["rows"] == 500
    assert whole["tokens"] == 500 * LENGTH
    assert whole["steps"] == len(losses(tmp_path / "whole")) == 13 + 13 + 7
    assert whole["epochs"] == 2.5
    assert set(whole["heldout"]) == {"plain", "rare"}
    assert whole["heldout_rows"]["plain"] == math.ceil(600 / LENGTH)
    metrics = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    judged = [line for line in metrics if "heldout" in line]
    assert [line["step"] for line in judged] == [0, 13, 26, 33]
    for source, bits in judged[-1]["heldout"].items():
        assert bits < judged[0]["heldout"][source] - 0.5, "it learns"
    weighted = sum(whole["heldout"][s] * whole["heldout_bytes"][s] for s in whole["heldout"])
    assert whole["bits_per_byte"] == pytest.approx(weighted / sum(whole["heldout_bytes"].values()))
    assert (tmp_path / "whole" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "whole" / "lease.json").exists()

    assert found["stopped"].startswith("interrupted after step 17 of 33")
    assert "its seed is 0, not 1" in found["other"]
    assert found["again"] is True
    for name in ("stopped", "killed", "end"):
        assert losses(tmp_path / name) == losses(tmp_path / "whole"), name
        result = json.loads((tmp_path / name / "result.json").read_text())
        assert result["heldout"] == whole["heldout"]
    assert found["masked"] > 0
    assert "of the epoch's 200 rows came" in found["lost"]
    assert "shard.00001.mds is missing" in found["lost"]
    assert not (tmp_path / "lost" / "result.json").exists()


@pytest.mark.slow
def test_a_run_is_no_better_than_itself(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    out = tmp_path / "out"
    options = (
        "--seeds 1 --model nano --tokens 320 --batch 5 --every 2 --heldout-tokens 100 --device cpu --json"
    )
    arguments = ["compare", corpus, corpus, "--heldout", corpus, "--out", out, *options.split()]
    done = subprocess.run(
        [sys.executable, "-m", "winnow.pipelines.command", *map(str, arguments)],
        env=os.environ | {"TMPDIR": str(tmp_path / "tmp"), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads(done.stdout)
    assert facts == json.loads((out / "compare.json").read_text())
    assert [row["source"] for row in facts["sources"]] == ["plain", "rare", "all"]
    assert facts["sources"][0]["difference"]["values"] == [0.0]
    assert facts["sources"][0]["a"]["mean"] > 1
    assert facts["runs"]["a"]["tokens"] == 320
    assert {p.name for p in out.iterdir()} == {"a-0", "b-0", "compare.json"}

    def refuse(*arguments: object) -> None:
        raise AssertionError(f"trained again: {arguments}")

    monkeypatch.setattr(compare, "_train", refuse)
    settings = TrainSettings(model="nano", tokens=320, batch=5, heldout_tokens=100, every=2)
    again = compare.compare((str(corpus), str(corpus)), str(corpus), str(out), settings, 1, device="cpu")
    assert again == facts
    with pytest.raises(AssertionError, match="trained again"):
        compare.compare((str(corpus), str(corpus)), str(corpus), str(out), settings, 2, device="cpu")
    with pytest.raises(TrainInputError, match="seeds must be at least 1"):
        compare.compare((str(corpus), str(corpus)), str(corpus), str(out), settings, 0)


def test_a_plot_of_long_and_of_short_trainings(tmp_path: Path) -> None:
    assert thinned([1.0, 2.0]) == [1.0, 2.0]
    assert len(thinned(list(range(10_000)))) == 500
    assert thinned([float(i) for i in range(1000)])[0] == 0.5
    place = tmp_path / "loss.png"
    put_plot(str(place), "name", [{"tokens": 1, "loss": 2.0}])
    assert place.read_bytes().startswith(b"\x89PNG")


def test_shards_are_looked_at_before_anything_else(corpus: Path) -> None:
    opened = TrainingRun(str(corpus))
    shard = Path(opened.places("val")["rare"]) / "shard.00000.mds"
    content = shard.read_bytes()
    try:
        shard.write_bytes(content[:100])
        with pytest.raises(TrainError, match=r"shard.00000.mds has 100 bytes, its index says"):
            opened.check_shards("val")
    finally:
        shard.write_bytes(content)
