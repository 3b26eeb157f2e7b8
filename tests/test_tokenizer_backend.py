"""The choice of a backend: is fastokens trusted exactly when it gives the reference's ids?"""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from winnow.tokenize.encoder import Encoder, Vocabulary, choose_backend, prepare
from winnow.tokenize.probes import PROBES
from winnow.tokenize.source import TokenizerError, TokenizerSource, resolve


def train_byte_level() -> TokenizerSource:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([Path(__file__).read_text("utf-8")], trainer)
    return TokenizerSource("test", "json", tokenizer.to_str().encode(), "", "test.json")


@pytest.fixture(scope="module")
def vocabularies() -> dict[str, Vocabulary]:
    return {"mistral": prepare(resolve("mistral-7b-v0.1")), "byte-level": prepare(train_byte_level())}


@pytest.fixture(scope="module", params=["mistral", "byte-level"])
def vocabulary(request: pytest.FixtureRequest, vocabularies: dict[str, Vocabulary]) -> Vocabulary:
    return vocabularies[request.param]


def fake_fastokens(monkeypatch: pytest.MonkeyPatch, spoil) -> None:
    import fastokens

    class Tokenizer:
        def __init__(self, text: str) -> None:
            self.inner = fastokens.Tokenizer.from_json_str(text)

        from_json_str = classmethod(lambda cls, text: cls(text))

        def encode_batch_flat(self, texts, add_special_tokens, *, split_special_tokens):
            return spoil(
                texts, *self.inner.encode_batch_flat(texts, add_special_tokens, split_special_tokens)
            )

    monkeypatch.setitem(sys.modules, "fastokens", types.SimpleNamespace(Tokenizer=Tokenizer))


def test_fastokens_is_chosen_when_it_agrees(vocabulary: Vocabulary) -> None:
    choice = choose_backend(vocabulary)
    assert choice.name == "fastokens"
    assert choice.reason.startswith("fastokens ")
    assert choice.reason.endswith(f"on {len(PROBES)} probes")


def test_one_wrong_id_costs_fastokens_the_run(vocabulary: Vocabulary, monkeypatch) -> None:
    def spoil(texts, ids, offsets):
        changed = np.frombuffer(ids, np.uint32).copy()
        changed[np.frombuffer(offsets, np.uint64)[texts.index("text </s> text")]] += 1
        return changed.tobytes(), offsets

    fake_fastokens(monkeypatch, spoil)
    choice = choose_backend(vocabulary)
    assert choice.name == vocabulary.reference
    assert choice.reason.endswith(" gives other ids for 'text </s> text'")


def test_a_panic_in_fastokens_is_survived(vocabularies, monkeypatch) -> None:
    class PanicException(BaseException):
        """What a Rust panic looks like from Python."""

    def panic(*_):
        raise PanicException

    fake_fastokens(monkeypatch, panic)
    choice = choose_backend(vocabularies["mistral"])
    assert choice.name == "sentencepiece"
    assert choice.reason.endswith(": fastokens failed (PanicException)")


def test_without_fastokens(vocabularies, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "fastokens", None)
    choice = choose_backend(vocabularies["mistral"])
    assert (choice.name, choice.reason.split(": ")[1]) == ("sentencepiece", "fastokens is not installed")


def test_a_backend_of_another_kind_is_refused(vocabularies) -> None:
    with pytest.raises(TokenizerError) as caught:
        Encoder(vocabularies["byte-level"], "sentencepiece")
    assert str(caught.value) == "no backend 'sentencepiece' for this tokenizer; its reference is 'tokenizers'"
