"""Tokenizers: are the ids those of sentencepiece and of Hugging Face tokenizers, on any text?

The oracle is the library that defines the ids, called directly. Three vocabularies: Mistral-7B-v0.1's
(packaged with mistral-common), a small one of GPT-NeoX's shape trained here on the standard library's own
source, and GPT-NeoX's real one where the shared folder has it.
"""

import functools
import io
import json
import os
import unicodedata
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import sentencepiece
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from winnow.tokenize import encoder as encoder_module
from winnow.tokenize.encoder import Encoder, Vocabulary, prepare, surround
from winnow.tokenize.piece_bytes import piece_bytes, prefix_bytes
from winnow.tokenize.probes import PROBES
from winnow.tokenize.source import TokenizerError, TokenizerSource, resolve

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
REAL_NEOX = SHARED / "tokenizers" / "gpt-neox-20b" / "tokenizer.json"
CORPORA = SHARED / "corpora"

CONTROL = ("</s>", "<s>", "<|endoftext|>", "<unk>", "<0x41>", "\u2581")
SPACES = (" ", "  ", "\t", "\n", "\r\n", "\u3000")
MARKS = ("é", "e\u0301", "\u0344", "\ufb2c", "\u1112\u1161\u11ab", "中", "\x00", "\ufffd", "\U0001f469\u200d")
fragments = st.sampled_from((*CONTROL, *SPACES, *MARKS, "'s", "the", "==", "0"))
awkward = st.lists(st.one_of(fragments, st.text(max_size=4)), max_size=20).map("".join)
many = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def column(texts: list[str]) -> pa.LargeStringArray:
    return pa.array(texts, pa.large_string())


def apart(ids: np.ndarray, ends: np.ndarray) -> list[list[int]]:
    """Flat ids as a list for each document, the slow way."""
    cuts = [0, *ends.tolist()]
    return [ids[a:b].tolist() for a, b in pairwise(cuts)]


def json_source(content: bytes, name: str = "test") -> TokenizerSource:
    return TokenizerSource(name, "json", content, "", "test.json")


def train_neox_shape() -> bytes:
    """NFC, byte-level BPE, control tokens 0 and 1, runs of 24 to 2 spaces as ordinary added tokens."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=["<|endoftext|>", "<|padding|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    files = [Path(os.__file__).with_name(f"{name}.py") for name in ("argparse", "typing", "inspect", "ast")]
    tokenizer.train_from_iterator([f.read_text("utf-8") for f in files], trainer)
    tokenizer.add_tokens([tokenizers.AddedToken(" " * n, normalized=True) for n in range(24, 1, -1)])
    return tokenizer.to_str().encode()


@pytest.fixture(scope="module")
def neox_shape() -> bytes:
    return train_neox_shape()


@pytest.fixture(scope="module")
def vocabularies(neox_shape: bytes) -> dict[str, Vocabulary]:
    found = {"mistral": prepare(resolve("mistral-7b-v0.1")), "neox-shape": prepare(json_source(neox_shape))}
    if REAL_NEOX.exists():
        found["neox"] = prepare(resolve("gpt-neox-20b", str(REAL_NEOX)))
    return found


@pytest.fixture(scope="module", params=["mistral", "neox-shape", "neox"])
def vocabulary(request: pytest.FixtureRequest, vocabularies: dict[str, Vocabulary]) -> Vocabulary:
    if request.param not in vocabularies:
        pytest.skip("the shared corpora are not beside the checkout")
    return vocabularies[request.param]


@pytest.fixture(scope="module", params=["fastokens", "reference"])
def plain(request: pytest.FixtureRequest, vocabulary: Vocabulary) -> Encoder:
    """An encoder that puts nothing around a document."""
    backend = vocabulary.reference if request.param == "reference" else request.param
    return Encoder(vocabulary, backend, append="none")


@functools.cache
def defining_library(vocabulary: Vocabulary) -> Callable[[str], list[int]]:
    if vocabulary.sentencepiece_model is not None:
        return sentencepiece.SentencePieceProcessor(model_proto=vocabulary.sentencepiece_model).encode
    tokenizer = tokenizers.Tokenizer.from_str(vocabulary.tokenizer_json.decode())
    tokenizer.encode_special_tokens = True
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def oracle(vocabulary: Vocabulary, texts: list[str]) -> list[list[int]]:
    """The ids by definition, one text at a time."""
    return [defining_library(vocabulary)(text) for text in texts]


# ---- ids -------------------------------------------------------------------------------------------------


def test_probes_agree(plain: Encoder) -> None:
    found = apart(*plain.encode(column(list(PROBES))))
    assert found == oracle(plain.vocabulary, list(PROBES))


def test_random_text_agrees(plain: Encoder) -> None:
    seen = []

    @many
    @given(st.lists(awkward, min_size=1, max_size=6), st.data())
    def check(texts: list[str], more: st.DataObject) -> None:
        start = more.draw(st.integers(0, len(texts) - 1))
        stop = more.draw(st.integers(start, len(texts)))
        ids, ends = plain.encode(column(texts).slice(start, stop - start))
        assert ids.dtype == plain.vocabulary.dtype
        assert ends.dtype == np.int64
        assert apart(ids, ends) == oracle(plain.vocabulary, texts[start:stop])
        seen.append(start > 0 and stop < len(texts))

    check()
    assert any(seen), "no slice was drawn"


def shared_documents(folder: Path) -> Iterator[str]:
    """Every 60th document: the strings of a JSON row, or 20,000 characters of an XML dump."""
    import zstandard

    for path in sorted(folder.glob("*.zst")):
        with path.open("rb") as file:
            stream = io.TextIOWrapper(
                zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8", errors="replace"
            )
            if path.name.endswith(".jsonl.zst"):
                for i, line in enumerate(stream):
                    if i % 120 == 0:
                        yield "\n".join(v for v in json.loads(line).values() if isinstance(v, str))
            elif path.name.endswith(".xml.zst"):
                text = stream.read()
                yield from (text[start : start + 20_000] for start in range(0, len(text), 2_400_000))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mistral", "neox"])
def test_shared_corpora_agree(vocabularies: dict[str, Vocabulary], name: str) -> None:
    if not CORPORA.exists() or name not in vocabularies:
        pytest.skip("the shared corpora are not beside the checkout")
    vocabulary = vocabularies[name]
    encoder = Encoder(vocabulary, "fastokens", append="none")
    n_docs = 0
    for folder in sorted(path for path in CORPORA.iterdir() if path.is_dir()):
        texts = list(shared_documents(folder))
        for start in range(0, len(texts), 200):
            part = texts[start : start + 200]
            same = apart(*encoder.encode(column(part))) == oracle(vocabulary, part)
            assert same, f"other ids among documents {start} to {start + len(part)} of {folder.name}"
        n_docs += len(texts)
    assert n_docs > 500, "the corpora hold too little"


def test_text_never_gives_a_control_id(plain: Encoder) -> None:
    document = json.loads(plain.vocabulary.tokenizer_json)
    controls = {token["id"]: token["content"] for token in document["added_tokens"] if token["special"]}
    assert controls
    ids, _ = plain.encode(column([f"a{name}{name} b" for name in controls.values()]))
    assert not set(ids.tolist()) & set(controls)


def greedy(texts: list[str], max_bytes: int, max_docs: int) -> list[list[str]]:
    """Batches as the docstring has them: full ones, and a document that is too long alone."""
    batches: list[list[str]] = []
    for text in texts:
        last = batches[-1] if batches else None
        if last and len(last) < max_docs and len("".join([*last, text]).encode()) <= max_bytes:
            last.append(text)
        else:
            batches.append([text])
    return batches


def test_batches_are_bounded_and_do_not_show(plain: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["", "abc", "", "é" * 30, "x", "", "the end", "abcdefg", "", "", "", "", "", "aaaa", "bbbbb", "c"]
    whole = plain.encode(column(texts))
    seen = []
    inner = plain._encode
    monkeypatch.setattr(plain, "_encode", lambda batch: (seen.append(batch), inner(batch))[1])
    monkeypatch.setattr(encoder_module, "BATCH_BYTES", 9)
    monkeypatch.setattr(encoder_module, "BATCH_DOCS", 3)
    cut = plain.encode(column(["zzzzz", *texts, "y"]).slice(1, len(texts)))
    np.testing.assert_array_equal(whole[0], cut[0])
    np.testing.assert_array_equal(whole[1], cut[1])
    assert seen == greedy(texts, 9, 3)
    assert {1, 3} <= {len(batch) for batch in seen}, "no bound was reached"


@pytest.mark.parametrize("offset", [0, 2], ids=["plain", "sliced"])
def test_no_document(plain: Encoder, offset: int) -> None:
    ids, ends = plain.encode(column(["a", "b"][:offset]).slice(offset))
    assert (len(ids), len(ends)) == (0, 0)
    assert (ids.dtype, ends.dtype) == (plain.vocabulary.dtype, np.int64)


def test_one_long_document(vocabularies: dict[str, Vocabulary]) -> None:
    line = "A line of the 5 MB document, with some 1,234 things  in it; é, 中.\n"
    text = line * (5_000_000 // len(line.encode()))
    vocabulary = vocabularies["mistral"]
    ids, ends = Encoder(vocabulary, "fastokens", append="none").encode(column([text]))
    assert apart(ids, ends) == oracle(vocabulary, [text])


def test_long_documents_without_words(vocabulary: Vocabulary) -> None:
    rng = np.random.default_rng(17)
    drawn = [
        "".join(map(chr, rng.integers(low, high, 10_000))) for low, high in ((0x4E00, 0x9FFF), (0xE01, 0xE2F))
    ]
    texts = [
        *drawn,
        rng.bytes(30_000).hex(),
        "a" * 30_000,
        "\n" * 30_000,
        "\U0001f469\u200d\U0001f680" * 5_000,
    ]
    found = apart(*Encoder(vocabulary, "fastokens", append="none").encode(column(texts)))
    assert found == oracle(vocabulary, texts)


# ---- BOS and EOS -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("append", "expected", "ends"),
    [
        ("none", [22557, 1526, 264], [2, 2, 3]),
        ("eos", [22557, 1526, 2, 2, 264, 2], [3, 4, 6]),
        ("bos", [1, 22557, 1526, 1, 1, 264], [3, 4, 6]),
        ("both", [1, 22557, 1526, 2, 1, 2, 1, 264, 2], [4, 6, 9]),
    ],
)
def test_borders_by_hand(vocabularies, append, expected, ends) -> None:
    encoder = Encoder(vocabularies["mistral"], "fastokens", append=append)
    assert [part.tolist() for part in encoder.encode(column(["Hello world", "", "a"]))] == [expected, ends]


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=8),
    st.one_of(st.none(), st.just(70_000)),
    st.one_of(st.none(), st.just(70_001)),
)
def test_surround_is_list_concatenation(docs, bos, eos) -> None:
    flat = np.array([i for doc in docs for i in doc], np.uint32)
    ends = np.cumsum([len(doc) for doc in docs], dtype=np.int64)
    framed = [[bos] * (bos is not None) + doc + [eos] * (eos is not None) for doc in docs]
    ids, new_ends = surround(flat, ends, bos_id=bos, eos_id=eos, dtype="uint32")
    assert apart(ids, new_ends) == framed


@pytest.mark.parametrize(
    ("append", "message"),
    [
        ("both", "append is 'both', but this tokenizer has no BOS; set bos_token"),
        ("EOS", "append is 'EOS'; it must be eos, bos, both or none"),
    ],
)
def test_append_that_cannot_be(vocabularies, append, message) -> None:
    with pytest.raises(TokenizerError) as caught:
        Encoder(vocabularies["neox-shape"], "fastokens", append=append)
    assert str(caught.value) == message


def test_bad_columns_are_refused(vocabularies) -> None:
    encoder = Encoder(vocabularies["neox-shape"], "fastokens")
    with pytest.raises(TypeError, match="texts must be large_string, not string"):
        encoder.encode(pa.array(["a"]))
    with pytest.raises(TokenizerError, match="1 of 2 texts are null"):
        encoder.encode(pa.array(["a", None], pa.large_string()))
    broken = pa.Array.from_buffers(
        pa.large_string(), 1, [None, pa.py_buffer(np.array([0, 7], np.int64)), pa.py_buffer(b"secret\xff")]
    )
    with pytest.raises(TokenizerError, match=r"^a text is not valid UTF-8; its reader must check$") as caught:
        encoder.encode(broken)
    assert caught.value.__context__ is None, "Arrow's own error quotes the text"


def test_an_id_above_the_vocabulary_is_not_narrowed(vocabularies, monkeypatch) -> None:
    encoder = Encoder(vocabularies["neox-shape"], "fastokens")
    monkeypatch.setattr(encoder, "_encode", lambda texts: (np.array([65_536 + 3], np.uint32), np.array([1])))
    with pytest.raises(TokenizerError, match="the tokenizer gave id 65539; the largest is 1522"):
        encoder.encode(column(["a"]))


# ---- the vocabulary --------------------------------------------------------------------------------------


def word_level(vocab: dict[str, int], added: list[dict[str, object]], **more: object) -> bytes:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [flags | token for token in added],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"},
    }
    return json.dumps(document | more).encode()


def test_named_vocabularies(vocabularies) -> None:
    mistral, neox = vocabularies["mistral"], vocabularies["neox-shape"]
    assert (mistral.bos_id, mistral.eos_id, mistral.pad_id) == (1, 2, None)
    assert (mistral.size, mistral.max_id) == (32000, 31999)
    assert (mistral.dtype, mistral.reference) == ("uint16", "sentencepiece")
    added = json.loads(mistral.tokenizer_json)["added_tokens"]
    assert [(token["id"], token["special"]) for token in added] == [(0, True), (1, True), (2, True)]
    assert (neox.bos_id, neox.eos_id, neox.pad_id) == (None, 0, 1)
    assert (neox.size, neox.max_id) == (1523, 1522)
    assert (neox.dtype, neox.reference) == ("uint16", "tokenizers")


@pytest.mark.parametrize(("largest", "dtype"), [(65_535, "uint16"), (65_536, "uint32"), (70_000, "uint32")])
def test_ids_need_sixteen_or_thirty_two_bits(largest: int, dtype: str) -> None:
    vocab = {"[UNK]": 0, "a": 1, "top": largest}
    vocabulary = prepare(json_source(word_level(vocab, [{"id": 2, "content": "</s>", "special": True}])))
    assert (vocabulary.dtype, vocabulary.max_id, vocabulary.size) == (dtype, largest, 4)
    ids, ends = Encoder(vocabulary, "tokenizers").encode(column(["top a", "zz"]))
    assert (ids.dtype, ids.tolist(), ends.tolist()) == (dtype, [largest, 1, 2, 0, 2], [3, 5])


def test_named_borders_become_special() -> None:
    added = [{"id": 2, "content": "[END]", "special": False}, {"id": 3, "content": "</s>", "special": True}]
    source = json_source(word_level({"[UNK]": 0, "END": 1}, added))
    assert prepare(source).eos_id == 3
    assert prepare(source).tokenizer_json == source.content, "nothing to switch off, so nothing rewritten"
    vocabulary = prepare(source, eos_token="[END]", bos_token="</s>")
    assert (vocabulary.bos_id, vocabulary.eos_id) == (3, 2)
    ids, _ = Encoder(vocabulary, "tokenizers", append="none").encode(column(["[END]"]))
    assert ids.tolist() == [0, 1, 0]
    with pytest.raises(TokenizerError) as caught:
        prepare(source, eos_token="END")
    assert str(caught.value) == "'END' is not an added token of test.json; those are: </s>, [END]"


def test_a_published_truncation_is_switched_off() -> None:
    cut = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    vocabulary = prepare(json_source(word_level({"[UNK]": 0, "a": 1}, [], truncation=cut)))
    ids, _ = Encoder(vocabulary, "tokenizers", append="none").encode(column(["a a a a"]))
    assert ids.tolist() == [1, 1, 1, 1]


# ---- bytes and back --------------------------------------------------------------------------------------


def normalised(vocabulary: Vocabulary, text: str) -> str:
    if vocabulary.reference == "sentencepiece":
        return text.replace("\u2581", " ")
    return unicodedata.normalize("NFC", text)


def test_pieces_add_up_to_the_text(vocabulary: Vocabulary) -> None:
    encoder = Encoder(vocabulary, "fastokens", append="both" if vocabulary.bos_id else "eos")
    lengths, prefix = piece_bytes(vocabulary), prefix_bytes(vocabulary)
    assert (lengths.dtype, len(lengths)) == (np.uint32, vocabulary.max_id + 1)
    assert lengths[vocabulary.eos_id] == 0
    assert prefix == (1 if vocabulary.reference == "sentencepiece" else 0)

    @many
    @given(awkward)
    def check(text: str) -> None:
        ids, _ = encoder.encode(column([text]))
        assert lengths[ids].sum() == len(normalised(vocabulary, text).encode()) + (prefix if text else 0)

    check()


def test_decode_inverts_encode(vocabulary: Vocabulary) -> None:
    encoder = Encoder(vocabulary, "fastokens", append="none")

    @many
    @given(awkward)
    def check(text: str) -> None:
        assert encoder.decode(encoder.encode(column([text]))[0]) == normalised(vocabulary, text)

    check()


def test_decode_shows_control_tokens_and_refuses_strangers(vocabularies) -> None:
    encoder = Encoder(vocabularies["mistral"], "fastokens", append="both")
    assert encoder.decode(encoder.encode(column(["Hello world"]))[0]) == "<s> Hello world</s>"
    assert encoder.decode(np.empty(0, np.uint16)) == ""
    with pytest.raises(TokenizerError, match="ids reach from 5 to 32000; the largest is 31999"):
        encoder.decode(np.array([5, 32000], np.uint32))


def test_piece_bytes_refuses_other_families() -> None:
    vocabulary = prepare(json_source(word_level({"[UNK]": 0}, [])))
    with pytest.raises(TokenizerError, match="byte ranges are known only for"):
        piece_bytes(vocabulary)
