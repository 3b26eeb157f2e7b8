"""Tokens, batches and windows: does every document get its own vector, whatever it comes together with?"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import tracemalloc
import warnings
from itertools import islice, pairwise, zip_longest
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.filters import embed, embedding_tokens
from winnow.filters.embed import ahead, batches, budget_of, embed_tokens, vectors_of, windows
from winnow.filters.embedding_settings import Embedding
from winnow.filters.embedding_tokens import TextTokens
from winnow.filters.encoder import OutOfMemory
from winnow.filters.encoder_files import EncoderError

CORPORA = Path(__file__).resolve().parents[1].parent / "shared" / "corpora"
PROSE = Path(argparse.__file__).read_text(encoding="utf-8")

FRAGMENTS = [
    "word ", "word", "Words, of course. ", "\n", "  ", "\t", "\r\n", "\x0c", "\x1c", "\x85", "\u00a0", "\u3000", "\0",
    "[SEP]", " [CLS] ", "</s>", "中文", "ภาษาไทย", "e\u0301", "É", "İ", "ſ", "\u200b", "😀", "👩\u200d👩", "1234567",
    "QWxhZGRpbg",     "a" * 99, "b" * 101, "z" * 300, "don't", "'ll ", "==", "-" * 50, "中" * 150, " " * 60, "\n" * 60,
]  # fmt: skip
awkward = st.lists(
    st.tuples(st.sampled_from(FRAGMENTS), st.integers(1, 40)).map(lambda pair: pair[0] * pair[1]), max_size=12
).map("".join)
crowded = st.text(alphabet="aab.  \n\x0c\u00a0中", min_size=30, max_size=90)


def column(texts):
    return pa.array(texts, pa.large_string())


def lists(ids, ends):
    return [part.tolist() for part in np.split(ids, ends)[: len(ends)]]


# Tokens


def byte_level(folder: Path) -> None:
    """A byte-level tokenizer of GPT-2's kind as OPT's repository has it: vocab.json and merges.txt."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(
        [PROSE],
        tokenizers.trainers.BpeTrainer(
            vocab_size=700,
            special_tokens=["<s>", "</s>", "<pad>"],
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.model.save(str(folder))
    settings = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "model_max_length": 512}
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "</s>") | {"pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | names))
    (folder / "config.json").write_text(json.dumps({"model_type": "opt"}))


def unigram() -> tokenizers.Tokenizer:
    """A tokenizer of XLM-RoBERTa's kind."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram())
    tokenizer.normalizer = tokenizers.normalizers.NFKC()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.WhitespaceSplit(), tokenizers.pre_tokenizers.Metaspace()]
    )
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=600, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(PROSE.splitlines()[:800], trainer)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return tokenizer


def gpt2() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([PROSE], trainer)
    return tokenizer


@pytest.fixture(scope="module")
def kinds(minilm: str) -> dict[str, tokenizers.Tokenizer]:
    wordpiece = tokenizers.Tokenizer.from_file(f"{minilm}/tokenizer.json")
    wordpiece.no_padding()
    wordpiece.no_truncation()
    return {"wordpiece": wordpiece, "byte-level": gpt2(), "unigram": unigram()}


def plainly(tokenizer: tokenizers.Tokenizer, texts: list[str], most: int) -> list[list[int]]:
    """The ids of the whole text, cut by the library itself."""
    tokenizer.enable_truncation(most)
    found = [tokenizer.encode(text).ids for text in texts]
    tokenizer.no_truncation()
    return found


@pytest.mark.parametrize("kind", ["wordpiece", "byte-level", "unigram"])
@settings(max_examples=100)
@given(
    texts=st.lists(awkward | crowded, max_size=4),
    most=st.sampled_from([8, 9, 20, 64]),
    chars=st.sampled_from([2, 3, 5]),
)
def test_ids_are_those_of_the_whole_text(kinds, kind, texts, most, chars):
    # With few characters for each token the cut often falls on the last token that is used.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding_tokens, "CHARS_PER_TOKEN", chars)
        ids, ends = TextTokens(kinds[kind], most).tokens(column(texts))
    assert ids.dtype == np.int32
    assert ends.dtype == np.int64
    assert lists(ids, ends) == plainly(kinds[kind], texts, most)


@pytest.mark.parametrize("dropped", ["\x0c", "\x1c", "\x85", "\u200b"])
def test_a_text_is_not_cut_at_what_a_tokenizer_drops(kinds, dropped):
    """40 characters are read, and the cut falls into the sixth and last word: it is `inside`, not `in`."""
    texts = ["people " * 5 + f"in{dropped}side" + " and on" * 20]
    found = lists(*TextTokens(kinds["wordpiece"], 8).tokens(column(texts)))
    assert (
        found
        == plainly(kinds["wordpiece"], texts, 8)
        == plainly(kinds["wordpiece"], ["people " * 5 + "inside"], 8)
    )


def test_no_text_is_too_odd(kinds):
    texts = [
        "a" * 100_000, "\n" * 100_000, "中" * 20_000, "QWxhZGRpbjpvcGVu" * 5_000, "ภาษาไทย" * 5_000, "😀" * 10_000,
        " " * 5_000 + "late", "x\x0cy " * 3_000, "", "\0", "e\u0301" * 10_000, ("word " * 10 + "z" * 20) * 90,
    ]  # fmt: skip
    for most in (8, 64):
        assert lists(*TextTokens(kinds["wordpiece"], most).tokens(column(texts))) == plainly(
            kinds["wordpiece"], texts, most
        )


def test_control_tokens_stand_around_the_text_and_text_may_spell_them(minilm):
    tokens = embedding_tokens.load(minilm, 8)
    start, end = 101, 102
    assert lists(*tokens.tokens(column(["", "[SEP]"]))) == [[start, end], [start, end, end]]
    assert lists(*tokens.tokens(column([PROSE])))[0][-1] == end
    assert embedding_tokens.load(minilm, 8) is tokens


def test_a_slice_is_read_in_place(kinds):
    texts = ["one", "two words", "", "drei\x00", PROSE]
    tokens = TextTokens(kinds["wordpiece"], 16)
    whole = lists(*tokens.tokens(column(texts)))
    assert lists(*tokens.tokens(column(texts).slice(1, 3))) == whole[1:4]
    assert [len(part) for part in tokens.tokens(column([]))] == [0, 0]
    assert lists(*tokens.tokens(column(texts).slice(2, 1))) == whole[2:3]


def test_what_is_no_column_of_texts_is_refused(kinds):
    tokens = TextTokens(kinds["wordpiece"], 16)
    with pytest.raises(TypeError):
        tokens.tokens(pa.array(["a"], pa.string()))
    with pytest.raises(ValueError, match="nulls"):
        tokens.tokens(column(["a", None]))
    broken = pa.Array.from_buffers(
        pa.large_string(), 1, [None, pa.py_buffer(np.array([0, 2])), pa.py_buffer(b"\xff\xfe")]
    )
    with pytest.raises(ValueError, match="UTF-8") as caught:
        tokens.tokens(broken)
    assert caught.value.__cause__ is None


class Counting:
    """A tokenizer that counts the characters it is given."""

    def __init__(self, tokenizer):
        self.tokenizer, self.model, self.chars = tokenizer, tokenizer.model, 0
        self.encode = tokenizer.encode

    def encode_batch_fast(self, texts, **options):
        self.chars += sum(map(len, texts))
        return self.tokenizer.encode_batch_fast(texts, **options)


def test_little_of_a_long_text_is_read(kinds):
    counting = Counting(kinds["wordpiece"])
    tokens = TextTokens(counting, 64)
    tokens.tokens(column([PROSE * 20]))
    assert counting.chars <= 5 * 64 * (1 + 4 + 16)
    counting.chars = 0
    tokens.tokens(column(["a" * 300_000]))
    assert counting.chars <= 300_000 * 7 / 3


def test_ids_of_real_documents_are_the_references(kinds):
    if not CORPORA.is_dir():
        pytest.skip("needs the shared corpora beside the checkout")
    import zstandard

    texts = []
    for folder in sorted(p for p in CORPORA.iterdir() if p.is_dir()):
        for path in sorted(folder.glob("*.jsonl.zst"))[:1]:
            with zstandard.open(path, "rt", encoding="utf-8") as rows:
                found = (json.loads(row) for row in islice(rows, 16))
                texts += [str(row.get("text") or row.get("html") or "")[:3_000] for row in found]
    assert len(texts) > 200
    for kind, tokenizer in kinds.items():
        assert lists(*TextTokens(tokenizer, 64).tokens(column(texts))) == plainly(tokenizer, texts, 64), kind


def test_a_tokenizer_without_a_json_is_made_one(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers
    byte_level(tmp_path)
    texts = ["", "some words, and more", "don't\n\n  stop </s> here", PROSE[:3_000], "中文😀"]
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    expected = [reference(text, truncation=True, max_length=32).input_ids for text in texts]
    assert expected[0] == [1]
    assert lists(*embedding_tokens.load(str(tmp_path), 32).tokens(column(texts))) == expected


def test_berts_settings_go_before_what_its_json_says(tmp_path, minilm):
    saved = json.loads(Path(minilm, "tokenizer.json").read_text(encoding="utf-8"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(saved))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    unknown = saved["model"]["vocab"]["[UNK]"]
    assert unknown in embedding_tokens.load(str(tmp_path), 16).tokens(column(["Word"]))[0]
    assert unknown not in embedding_tokens.load(minilm, 16).tokens(column(["Word"]))[0]


def test_a_tokenizer_that_cannot_be_used_says_why(tmp_path, kinds):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(EncoderError, match="cannot read the tokenizer"):
        embedding_tokens.load(str(tmp_path), 16)
    with pytest.raises(EncoderError, match="no room for text"):
        TextTokens(kinds["wordpiece"], 2)


# Batches


@given(lengths=st.lists(st.integers(0, 60), max_size=80), budget=st.integers(1, 200))
def test_every_document_is_in_one_batch_within_the_budget(lengths, budget):
    found = batches(np.array(lengths, np.int64), budget)
    rows = [row for batch in found for row in batch.tolist()]
    assert rows == sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    sizes = [[lengths[row] for row in batch.tolist()] for batch in found]
    assert all(len(batch) == 1 or sum(batch) <= budget for batch in sizes)
    assert all(len(batch) == 1 or len(batch) * batch[0] <= 2 * budget for batch in sizes)
    for batch, following in pairwise(sizes):
        grown = [*batch, following[0]]
        assert sum(grown) > budget or len(grown) * max(1, grown[0]) > 2 * budget


def test_the_budget_is_the_recipes_or_the_devices():
    assert budget_of(Embedding(), "cuda:1") == 131_072
    assert budget_of(Embedding(), "cpu") == 8_192
    assert budget_of(Embedding(batch_tokens=100), "cuda") == 100


class FakeEncoder:
    """A document's vector says which tokens it has, in order, and nothing else."""

    dimensions = 3

    def __init__(self, most=None):
        self.most, self.sizes = most, []

    def vectors(self, ids, ends):
        assert ids.dtype == np.int32
        if self.most is not None and len(ids) > self.most:
            raise OutOfMemory
        self.sizes.append(len(ids))
        return np.array([self.vector(part) for part in np.split(ids, ends)[: len(ends)]], np.float32)

    def vector(self, ids):
        draws = np.random.default_rng([len(ids), *ids.tolist()]).normal(size=3)
        return draws / np.linalg.norm(draws) if len(ids) else np.zeros(3)


documents = st.lists(st.lists(st.integers(0, 500), max_size=20), max_size=30)


def flat(tokens):
    ends = np.cumsum([len(part) for part in tokens], dtype=np.int64)
    return np.array([i for part in tokens for i in part], np.int32), ends


@given(tokens=documents, budget=st.integers(1, 100), most=st.none() | st.integers(20, 60))
def test_vectors_are_in_the_documents_order_whatever_room_there_is(tokens, budget, most):
    encoder = FakeEncoder(most)
    found = embed_tokens(encoder, *flat(tokens), budget)
    assert found.dtype == np.float16
    assert found.shape == (len(tokens), 3)
    expected = [encoder.vector(np.array(part, np.int32)) for part in tokens]
    assert np.array_equal(found, np.array(expected, np.float32).astype(np.float16).reshape(-1, 3))


def test_a_batch_without_room_is_halved_and_a_document_without_is_said():
    encoder = FakeEncoder(most=12)
    embed_tokens(encoder, *flat([[1, 2, 3, 4]] * 10), 1_000)
    assert encoder.sizes == [8, 12, 8, 12]
    with pytest.raises(EncoderError, match="no room for one document of 13 tokens"):
        embed_tokens(encoder, *flat([[5] * 13]), 1_000)


# Windows


@given(
    sizes=st.lists(st.sampled_from([0, 1, 3, 7, 40]), max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=6),
)
def test_windows_do_not_depend_on_how_a_stream_is_cut(sizes, cuts):
    texts = [chr(97 + i % 26) * size for i, size in enumerate(sizes)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embed, "WINDOW_DOCUMENTS", 5)
        patch.setattr(embed, "WINDOW_BYTES", 12)
        edges = [0, *sorted(min(cut, len(texts)) for cut in cuts), len(texts)]
        parts = [column(texts[a:b]) for a, b in pairwise(edges)]
        found = [window.to_pylist() for window in windows(parts)]
        assert found == [window.to_pylist() for window in windows([column(texts)])]
    assert [text for window in found for text in window] == texts
    for window, following in zip_longest(found, found[1:]):
        size = sum(map(len, window))
        assert len(window) <= 5
        assert size <= 12 or len(window) == 1
        assert following is None or len(window) == 5 or size + len(following[0]) > 12


def test_a_stream_is_not_gathered(monkeypatch, kinds):
    monkeypatch.setattr(embed, "WINDOW_BYTES", 1 << 20)
    made = 0

    def stream():
        nonlocal made
        for i in range(60):
            made += 1
            yield column([f"{i} " + "word " * 200_000])

    tokens = TextTokens(kinds["wordpiece"], 8)
    tracemalloc.start()
    arrow = pa.total_allocated_bytes()
    most = rows = 0
    for vectors in vectors_of(stream(), tokens, FakeEncoder(), 1_000):
        rows += len(vectors)
        assert made <= rows + embed.AHEAD + 4
        most = max(most, tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes() - arrow)
    tracemalloc.stop()
    assert rows == 60
    assert most < 12 << 20


# The thread


def test_what_is_made_ahead_comes_in_order_and_is_bounded():
    made = []

    def items():
        for i in range(20):
            made.append(i)
            yield i

    for i in ahead(items(), 2):
        assert made[-1] <= i + 4
    assert made == list(range(20))


def test_an_error_in_the_thread_is_raised_after_what_came_before():
    def items():
        yield 1
        raise ZeroDivisionError

    found = ahead(items(), 2)
    assert next(found) == 1
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_a_stream_that_is_left_early_ends_its_thread():
    before = threading.active_count()
    found = ahead(iter(range(10**9)), 2)
    assert next(found) == 0
    assert threading.active_count() == before + 1
    found.close()
    assert threading.active_count() == before


# All of it


def test_text_in_vectors_out(monkeypatch, minilm):
    import torch

    torch.set_num_threads(1)
    texts = [
        "The cat sat on the mat.",
        "",
        PROSE,
        "A feline rested on the rug.",
        "Quarterly revenue rose by 4%.",
    ]
    batch = pa.record_batch({"text": column(texts)})
    settings = Embedding(model=minilm, dtype="float32", max_tokens=64)
    (found,) = embed.embed([batch.slice(0, 2), batch.slice(2)], settings, "cpu")
    assert found.dtype == np.float16
    assert found.shape == (5, 384)
    vectors = found.astype(np.float32)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=2e-3)
    assert vectors[0] @ vectors[3] == pytest.approx(0.558, abs=5e-3)
    assert abs(vectors[0] @ vectors[4]) < 0.05
    for row in range(5):
        (alone,) = embed.embed([batch.slice(row, 1)], settings, "cpu")
        assert alone[0].astype(np.float32) @ vectors[row] > 0.9999
    assert list(embed.embed([], settings, "cpu")) == []


def test_a_light_module_stays_light():
    code = (
        "import sys, winnow.filters.embed; "
        "print({'torch', 'tokenizers', 'transformers', 'huggingface_hub', 'pydantic', 'ray'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "set()"
