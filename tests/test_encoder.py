"""Does our packed forward say what the models' own code says, for every architecture, dtype and batch?"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.filters import bert, encoder
from winnow.filters.bert import Bert, NotPackedError
from winnow.filters.encoder import Encoder, OutOfMemory, load
from winnow.filters.encoder_files import EncoderError
from winnow.filters.padded_encoder import PaddedEncoder

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("one_torch_thread")

SMALL = {
    "vocab_size": 90,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 56,
    "max_position_embeddings": 82,
}
LENGTHS = np.array([7, 0, 1, 30, 7, 80, 2, 30, 0, 64])


def made(folder: Path, kind: str, **changes):
    """A model of random weights, saved to `folder`: what transformers calls it, ready to run."""
    torch.manual_seed(5)
    config = transformers.AutoConfig.for_model(kind, **SMALL | changes)
    model = transformers.AutoModel.from_config(config).eval()
    with torch.no_grad():  # random weights are small; these make attention and activations matter
        for name, weight in model.named_parameters():
            weight *= 8 if weight.ndim > 1 and "embed" not in name else 1
            weight += 0.1 * torch.randn_like(weight)
    model.save_pretrained(folder)
    return model


def documents(lengths=LENGTHS, vocabulary=SMALL["vocab_size"], seed=2):
    """(ids, ends) of documents of random tokens, none of them a control token."""
    rng = np.random.default_rng(seed)
    return rng.integers(3, vocabulary, lengths.sum()).astype(np.int32), np.cumsum(lengths)


def split(ids, ends):
    return np.split(ids, ends[:-1])


def expected(model, ids, ends, pooling):
    """The slow definition: each document alone through the model's own code."""
    found = []
    for own in split(ids, ends):
        if not len(own):
            found.append(np.zeros(model.config.hidden_size))
            continue
        with torch.no_grad():
            hidden = model(torch.from_numpy(own[None].astype(np.int64))).last_hidden_state[0].double().numpy()
        vector = {"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}[pooling]
        found.append(vector / np.linalg.norm(vector))
    return np.array(found)


def rewritten(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize(
    ("kind", "changes", "packed"),
    [
        ("bert", {}, True),
        ("bert", {"hidden_act": "gelu_new"}, True),
        ("roberta", {}, True),
        ("xlm-roberta", {"layer_norm_eps": 1e-3}, True),
        ("bert", {"hidden_act": "relu"}, False),
        ("distilbert", {"dim": 32, "hidden_dim": 56, "n_layers": 2, "n_heads": 4}, False),
        ("opt", {"ffn_dim": 56, "word_embed_proj_dim": 32}, False),
    ],
)
def test_a_batch_is_what_the_models_own_code_says_of_each_document(tmp_path, kind, changes, packed, pooling):
    model = made(tmp_path, kind, **changes)
    ids, ends = documents()
    ours = Encoder(str(tmp_path), pooling, "cpu", "float32")
    assert isinstance(ours._model, Bert) == packed
    found = ours.vectors(ids, ends)
    assert found.dtype == np.float32
    assert found.shape == (len(ends), ours.dimensions) == (10, 32)
    np.testing.assert_allclose(found, expected(model, ids, ends, pooling), atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), LENGTHS > 0, atol=1e-6)


def test_minilm_is_what_sentence_transformers_encodes(minilm):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from tokenizers import Tokenizer

    words = json.__doc__.split()
    texts = [
        "",
        "A cat sat on the mat.",
        " ".join(words),
        " ".join(words * 3),
        " ".join(words[:60]),
        "ประเทศไทยเป็นประเทศที่ตั้งอยู่ในเอเชีย",
        "快速的棕色狐狸跳过了懒狗。😀 café",
        "def f(x):\n    return x + 1\n" * 5,
    ]
    reference = sentence_transformers.SentenceTransformer(minilm, device="cpu").encode(texts)
    tokenizer = Tokenizer.from_file(f"{minilm}/tokenizer.json")
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    tokens = [found.ids for found in tokenizer.encode_batch(texts)]
    assert max(map(len, tokens)) == 256
    ids, ends = np.concatenate(tokens).astype(np.int32), np.cumsum([len(own) for own in tokens])
    exact = load(minilm, "mean", "cpu", "float32").vectors(ids, ends)
    np.testing.assert_allclose(exact, reference, atol=1e-5)
    for dtype in ("bfloat16", "float16"):
        half = Encoder(minilm, "mean", "cpu", dtype).vectors(ids, ends)
        assert (half * reference).sum(1).min() > 0.999


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_text_may_spell_the_padding_token(tmp_path, kind):
    model = made(tmp_path, kind)
    ids, ends = documents()
    ids[[0, 9, 10, 35, 100, len(ids) - 1]] = model.config.pad_token_id
    found = Encoder(str(tmp_path), "mean", "cpu", "float32").vectors(ids, ends)
    np.testing.assert_allclose(found, expected(model, ids, ends, "mean"), atol=2e-6)


@pytest.mark.parametrize("kind", ["bert", "opt"])
def test_a_document_has_the_same_vector_alone_and_in_any_batch(tmp_path, monkeypatch, kind):
    made(tmp_path, kind, ffn_dim=56, word_embed_proj_dim=32)
    ours = Encoder(str(tmp_path), "mean", "cpu", "float32")
    ids, ends = documents()
    together = ours.vectors(ids, ends)
    alone = np.concatenate([ours.vectors(own, np.array([len(own)])) for own in split(ids, ends)])
    np.testing.assert_allclose(alone, together, atol=2e-6)
    monkeypatch.setattr(encoder, "CPU_TOKENS", 60)
    np.testing.assert_allclose(ours.vectors(ids, ends), together, atol=2e-6)
    backwards = np.concatenate(split(ids, ends)[::-1]), np.cumsum(LENGTHS[::-1])
    np.testing.assert_allclose(ours.vectors(*backwards)[::-1], together, atol=2e-6)


@pytest.mark.parametrize(("scores", "longest"), [(1 << 20, 1024), (1, 1024), (4 * 30 * 30, 40)])
def test_bfloat16_attention_in_any_pieces_is_near_float32(tmp_path, monkeypatch, scores, longest):
    made(tmp_path, "bert")
    monkeypatch.setattr(bert, "SCORES", scores)
    monkeypatch.setattr(bert, "LONGEST_SCORED", longest)
    ids, ends = documents()
    exact = Encoder(str(tmp_path), "mean", "cpu", "float32").vectors(ids, ends)
    found = Encoder(str(tmp_path), "mean", "cpu", "bfloat16").vectors(ids, ends)
    assert (exact * found).sum(1)[LENGTHS > 0].min() > 0.999


def test_weights_that_are_not_packed_give_the_same(tmp_path, monkeypatch):
    model = made(tmp_path, "bert", hidden_act="gelu_new")
    monkeypatch.setattr(bert, "_prepacks", lambda dtype: False)
    ids, ends = documents()
    found = Encoder(str(tmp_path), "mean", "cpu", "float32").vectors(ids, ends)
    np.testing.assert_allclose(found, expected(model, ids, ends, "mean"), atol=2e-6)


def test_attention_over_all_documents_at_once_gets_their_edges(tmp_path, monkeypatch):
    """On a GPU; here one that is slow and plain stands for it."""
    model = made(tmp_path, "bert")

    def attend(q, k, v, edges, other_edges, longest, other_longest):
        assert edges is other_edges
        assert edges.dtype == torch.int32
        assert longest == other_longest == LENGTHS.max()
        found = torch.zeros_like(q)
        for i, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            scores = torch.einsum("ihd,jhd->hij", q[i:end], k[i:end]) / math.sqrt(q.shape[2])
            found[i:end] = torch.einsum("hij,jhd->ihd", scores.softmax(-1), v[i:end])
        return found

    monkeypatch.setattr(bert, "ROWS", 1)
    monkeypatch.setattr(encoder, "PROBE", int(LENGTHS.max()))
    monkeypatch.setattr(
        bert, "_attention", lambda device, *_: lambda lengths, shape: bert._attend_at_once(attend, lengths, device)
    )  # fmt: skip
    ids, ends = documents()
    found = Encoder(str(tmp_path), "mean", "cpu", "float32").vectors(ids, ends)
    np.testing.assert_allclose(found, expected(model, ids, ends, "mean"), atol=2e-6)


def test_old_checkpoints_are_read(tmp_path):
    """Weights by torch.save, the model's name before each, gamma and beta, and a head that nobody asks for."""
    model = made(tmp_path, "bert")
    (tmp_path / "model.safetensors").unlink()
    old = {
        "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): w
        for name, w in model.state_dict().items()
    }  # fmt: skip
    torch.save(old | {"cls.predictions.bias": torch.zeros(90)}, tmp_path / "pytorch_model.bin")
    ids, ends = documents()
    found = Bert(tmp_path, "cpu", torch.float32)
    assert found.dimensions == 32
    ours = Encoder(str(tmp_path), "cls", "cpu", "float32")
    np.testing.assert_allclose(ours.vectors(ids, ends), expected(model, ids, ends, "cls"), atol=2e-6)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "modernbert"}, "model_type is modernbert"),
        ({"hidden_act": "silu"}, "hidden_act is silu"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is relative_key"),
        ({"is_decoder": True}, "decoder"),
        ({"model_type": "roberta", "pad_token_id": 0}, "pad_token_id is 0"),
        ({"num_hidden_layers": 3}, "no 'encoder.layer.2"),
        ({"max_position_embeddings": 100}, "other shapes"),
        ({"hidden_size": 64}, "other shapes"),
    ],
)
def test_what_the_packed_forward_does_not_know_it_leaves_to_others(tmp_path, changes, reason):
    made(tmp_path, "bert")
    rewritten(tmp_path, **changes)
    with pytest.raises(NotPackedError, match=reason):
        Bert(tmp_path, "cpu", torch.float32)


def test_weights_are_neither_made_up_nor_broken(tmp_path):
    made(tmp_path, "bert")
    rewritten(tmp_path, num_hidden_layers=3)
    with pytest.raises(EncoderError, match=r"no weights for .*encoder\.layer\.2\.attention"):
        Encoder(str(tmp_path), "mean", "cpu", "float32")
    rewritten(tmp_path, num_hidden_layers=2, model_type="unheard-of")
    with pytest.raises(EncoderError, match="transformers cannot load"):
        Encoder(str(tmp_path), "mean", "cpu", "float32")
    from safetensors.torch import load_file, save_file

    rewritten(tmp_path, model_type="bert")
    weights = load_file(tmp_path / "model.safetensors")
    weights["encoder.layer.1.output.dense.bias"][3] = math.nan
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(EncoderError, match="gives no numbers in float32"):
        Encoder(str(tmp_path), "mean", "cpu", "float32")


@pytest.mark.parametrize("lengths", [[], [0], [0, 0]])
def test_batches_without_tokens(tmp_path, lengths):
    made(tmp_path, "bert")
    ours = Encoder(str(tmp_path), "last", "cpu", "float32")
    found = ours.vectors(np.empty(0, np.int32), np.array(lengths, np.int64))
    assert found.shape == (len(lengths), 32)
    assert not found.any()


def test_a_document_longer_than_the_model_reads_is_an_error(tmp_path):
    made(tmp_path, "roberta")
    ours = Encoder(str(tmp_path), "mean", "cpu", "float32")
    ours.vectors(*documents(np.array([80])))
    with pytest.raises(ValueError, match="81 tokens; the model reads 80"):
        ours.vectors(*documents(np.array([81])))


def test_no_vector_is_nan(tmp_path, monkeypatch):
    made(tmp_path, "bert")
    ours = Encoder(str(tmp_path), "mean", "cpu", "float32")
    ids, ends = documents()
    before, plain = ours.vectors(ids, ends), ours._model.hidden

    def hidden(ids, lengths):
        found = plain(ids, lengths)
        found[lengths[:5].sum() :] = math.inf
        found[0] = math.nan
        return found

    monkeypatch.setattr(ours._model, "hidden", hidden)
    after = ours.vectors(ids, ends)
    lost = ~after.any(1) & (LENGTHS > 0)
    assert lost.sum() == 4
    np.testing.assert_array_equal(after[~lost], before[~lost])


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), OutOfMemory),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried"), OutOfMemory),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), OutOfMemory),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), RuntimeError),
    ],
)
def test_a_full_device_is_told_from_other_errors(tmp_path, monkeypatch, error, raised):
    made(tmp_path, "bert")
    ours = Encoder(str(tmp_path), "mean", "cpu", "float32")

    def fail(ids, lengths):
        raise error

    monkeypatch.setattr(ours._model, "hidden", fail)
    with pytest.raises(RuntimeError) as caught:
        ours.vectors(*documents())
    assert type(caught.value) is raised


def test_flops_count_weights_that_are_used_and_pairs_of_tokens(tmp_path):
    made(tmp_path, "bert")
    ours = Encoder(str(tmp_path), "mean", "cpu", "float32")
    weights = 2 * (4 * 32 * 32 + 2 * 32 * 56)
    assert ours.flops(np.array([5, 0, 7])) == 2 * weights * 12 + 2 * 4 * 32 * (5 * 5 + 7 * 7)
    padded = PaddedEncoder(tmp_path, "cpu", torch.float32)
    assert padded.token_flops == ours._model.token_flops
    assert padded.pair_flops == ours._model.pair_flops


def test_a_process_keeps_one_copy(tmp_path):
    made(tmp_path, "bert")
    ours = load(str(tmp_path), "mean", "cpu", "float32")
    assert load(str(tmp_path), "mean", "cpu", "float32") is ours
    assert load(str(tmp_path), "cls", "cpu", "float32") is not ours


def test_dtype_by_device(tmp_path, monkeypatch):
    for flags, dtype in (({"avx512f"}, "float32"), ({"avx512_bf16"}, "bfloat16"), ({"amx_bf16"}, "bfloat16")):
        monkeypatch.setattr(encoder, "_cpu_flags", lambda flags=flags: flags)
        assert encoder.fastest_dtype("cpu") == dtype
    for bf16, dtype in ((True, "bfloat16"), (False, "float16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, bf16=bf16: bf16)
        assert encoder.fastest_dtype("cuda") == dtype
    made(tmp_path, "bert")
    monkeypatch.setattr(encoder, "_cpu_flags", set)
    assert Encoder(str(tmp_path), "mean", "cpu", "auto").dtype == "float32"
    with pytest.raises(ValueError, match="not 'int8'"):
        Encoder(str(tmp_path), "mean", "cpu", "int8")
    with pytest.raises(ValueError, match="not 'max'"):
        Encoder(str(tmp_path), "max", "cpu", "auto")


@settings(max_examples=60)
@given(st.lists(st.integers(0, 20), max_size=30), st.integers(1, 40))
def test_forwards_take_every_document_with_tokens_once(lengths, most):
    lengths = np.array(lengths, np.int64)
    found = encoder._forwards(lengths, most)
    rows = np.concatenate([np.empty(0, np.int64), *found])
    assert sorted(rows.tolist()) == np.flatnonzero(lengths).tolist()
    assert (np.diff(lengths[rows]) >= 0).all()
    sizes = [int(lengths[own].sum()) for own in found]
    assert all(size <= most or len(own) == 1 for size, own in zip(sizes, found, strict=True))
    for size, after in zip(sizes, found[1:], strict=False):
        assert size + lengths[after[0]] > most
    whole = encoder._forwards(lengths, None)
    assert [own.tolist() for own in whole] == ([rows.tolist()] if len(rows) else [])
