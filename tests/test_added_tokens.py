"""Control tokens that a recipe renames and adds: ids in order, text as before, and every library agrees."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
from winnow.pipelines import tokens
from winnow.pipelines.corpus import run
from winnow.pipelines.located import RecipeError
from winnow.pipelines.progress import Progress
from winnow.pipelines.recipe import read
from winnow.tokenize.encoder import Encoder, Vocabulary, choose_backend, prepare
from winnow.tokenize.piece_bytes import piece_bytes
from winnow.tokenize.probes import PROBES
from winnow.tokenize.source import TokenizerError, TokenizerSource, resolve

PINTS = [
    "<|end_of_turn|>", "<|pad|>", "<|im_start|>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<|user|>",
    "<|system|>", "<|assistant|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    *(f"<|reserved_{i}|>" for i in range(49)),
]  # fmt: skip
"""The names of 1.5-Pints' 32,064 entries behind Mistral's, with `</s>` anew (Pints-AI/1.5-Pints at 2a0cb62)."""


@pytest.fixture(scope="module")
def mistral() -> TokenizerSource:
    return resolve("mistral-7b-v0.1")


@pytest.fixture(scope="module")
def pints(mistral: TokenizerSource) -> Vocabulary:
    return prepare(mistral, rename={"</s>": "<|im_end|>"}, add=PINTS, pad_token="<|pad|>")


def test_pints_entries(mistral: TokenizerSource, pints: Vocabulary) -> None:
    assert (pints.size, pints.max_id, pints.dtype) == (32064, 32063, "uint16")
    assert (pints.bos_id, pints.eos_id, pints.pad_id) == (1, 2, 32001)
    names = {"<unk>": 0, "<s>": 1, "<|im_end|>": 2} | {name: 32000 + i for i, name in enumerate(PINTS)}
    assert dict(pints.controls) == names
    assert names["</s>"] == 32003
    assert pints.tokenizer_json != prepare(mistral).tokenizer_json


def test_the_kept_file_has_the_same_ids_and_names(pints: Vocabulary) -> None:
    loaded = tokenizers.Tokenizer.from_str(pints.tokenizer_json.decode())
    assert {name: loaded.token_to_id(name) for name in pints.controls} == dict(pints.controls)
    assert loaded.decode([2, 32003, 32063], skip_special_tokens=False) == "<|im_end|></s><|reserved_48|>"
    text = "<s>a<|im_end|><|im_start|>"
    assert loaded.encode(text, add_special_tokens=False).ids == [1, 264, 2, 32002]


@pytest.mark.parametrize("backend", ["sentencepiece", "tokenizers", "fastokens"])
def test_text_stays_as_it_was(mistral: TokenizerSource, pints: Vocabulary, backend: str) -> None:
    texts = pa.array([*PROBES, *(f"a {name} b{name}" for name in pints.controls)], pa.large_string())
    right, ends = Encoder(prepare(mistral), "sentencepiece", append="none").encode(texts)
    ids, found = Encoder(pints, backend, append="none").encode(texts)  # type: ignore[arg-type]
    np.testing.assert_array_equal(ids, right)
    np.testing.assert_array_equal(found, ends)
    assert not np.isin(ids, list(pints.controls.values())).any()


def test_a_backend_is_tried_on_the_recipes_own_names(pints: Vocabulary) -> None:
    spelled = sum(any(name in probe for probe in PROBES) for name in pints.controls)
    choice = choose_backend(pints)
    assert choice.name == "fastokens"
    assert choice.reason.endswith(f"on {len(PROBES) + len(pints.controls) - spelled} probes")


def test_control_tokens_spell_no_bytes(pints: Vocabulary) -> None:
    sizes = piece_bytes(pints)
    assert len(sizes) == 32064
    assert not sizes[list(pints.controls.values())].any()


def test_two_names_change_places(mistral: TokenizerSource) -> None:
    swapped = prepare(mistral, rename={"<s>": "</s>", "</s>": "<s>"}, eos_token="<s>", bos_token="</s>")
    assert (swapped.controls["<s>"], swapped.controls["</s>"]) == (2, 1)
    assert (swapped.bos_id, swapped.eos_id) == (1, 2)


def test_a_template_of_the_file_follows() -> None:
    content = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "decoder": None,
        "added_tokens": [
            {"id": 1, "content": "<eos>", "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True},
        ],
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<eos>", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<eos>": {"id": "<eos>", "ids": [1], "tokens": ["<eos>"]}},
        },
        "model": {"type": "WordPiece", "unk_token": "<eos>", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": {"a": 0, "<eos>": 1}},
    }  # fmt: skip
    source = TokenizerSource("t", "json", json.dumps(content).encode(), "", "t.json")
    vocabulary = prepare(source, rename={"<eos>": "<end>"}, add=["<pad>"], eos_token="<end>")
    loaded = tokenizers.Tokenizer.from_str(vocabulary.tokenizer_json.decode())
    assert loaded.encode("a").tokens == ["a", "<end>"]
    assert loaded.encode("b", add_special_tokens=False).tokens == ["<end>"]
    assert (vocabulary.eos_id, vocabulary.pad_id, loaded.token_to_id("<pad>")) == (1, 2, 2)


@pytest.mark.parametrize(
    ("rename", "add", "message"),
    [
        ({"<eos>": "<end>"}, [], "rename: '<eos>' is not a control token of .*; those are: <s>, </s>, <unk>"),
        ({"the": "<end>"}, [], "rename: 'the' is not a control token"),
        ({"</s>": "<s>"}, [], "rename: '<s>' is there already"),
        ({"</s>": "the"}, [], "rename: 'the' is there already"),
        ({"</s>": "<x>", "<s>": "<x>"}, [], "rename: '<x>' is there already"),
        ({}, ["</s>"], "add: '</s>' is there already"),
        ({}, ["\u2581the"], "add: '\u2581the' is there already"),
        ({}, ["<x>", "<x>"], "add: '<x>' is there already"),
        ({"</s>": "<x>"}, ["<x>"], "add: '<x>' is there already"),
    ],
)
def test_mistakes(mistral: TokenizerSource, rename: dict[str, str], add: list[str], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        prepare(mistral, rename=rename, add=add)


RECIPE = """
name: mapped
tokenizer: {{name: mistral-7b-v0.1{more}}}
sequence: {{length: 16}}
sources:
  web: {{read: {{format: jsonl, path: "{root}/a.jsonl"}}}}
"""


def made(root: Path, more: str) -> str:
    (root / "a.jsonl").write_text(
        '{"text": "some words of a text </s> that is long enough to fill a sample of it"}\n'
    )
    recipe = read(RECIPE.format(root=root, more=more), "r.yaml")
    corpus = run(recipe, str(root / "run"), inline=True, progress=Progress(stream=None))
    return corpus.tokenizer.location


def test_a_run_keeps_the_map(tmp_path: Path) -> None:
    plain = made(tmp_path, "")
    mapped = made(tmp_path, ', rename: {"</s>": "<|im_end|>"}, add: ["<x>", "</s>"]')
    assert plain != mapped
    vocabulary = tokens.load_vocabulary(mapped)
    assert vocabulary.controls["</s>"] == 32001
    facts = json.loads(Path(mapped, "vocabulary.json").read_text())
    assert facts["controls"] == dict(vocabulary.controls)
    # The name of the directory that version 0.1.0 gave Mistral's file, before it could be mapped.
    assert plain.rsplit("/", 1)[-1] == "tokenizer-cc345c27875db2fd"


@pytest.mark.parametrize(
    ("more", "key"),
    [
        (', rename: {"<x>": "<y>"}', "rename"),
        (', add: ["<s>"]', "add"),
        (', rename: {"</s>": "<end>"}, eos_token: "</s>"', "eos_token"),
    ],
)
def test_mistakes_are_located(tmp_path: Path, more: str, key: str) -> None:
    with pytest.raises(RecipeError) as caught:
        made(tmp_path, more)
    line = RECIPE.format(root="", more=more).splitlines()[2]
    at = line.index(f"{key}: ") + len(f"{key}: ") + 1
    assert str(caught.value).startswith(f"r.yaml:3:{at}: ")
