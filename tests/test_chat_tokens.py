"""Conversations as tokens: the library's ids for a templated text, no doubled BOS or EOS, cut at the ends of turns.

The oracle is Hugging Face tokenizers on the whole text, with special tokens recognised and ``add_special_tokens``
off; for what is trained on, the characters that it says each token covers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from winnow.pipelines.chat_tokens import marks_of
from winnow.tokenize.encoder import Append, Encoder, Vocabulary, prepare
from winnow.tokenize.piece_bytes import piece_bytes, prefix_bytes
from winnow.tokenize.source import TokenizerError, resolve
from winnow.tokenize.templated import Marks, Spelling, TemplatedEncoder

NEOX = Path(__file__).parents[2] / "shared" / "tokenizers" / "gpt-neox-20b" / "tokenizer.json"
PINTS = ["<|end_of_turn|>", "<|pad|>", "<|im_start|>", "</s>"]
Part = tuple[str, str]
"""What a part of a conversation is (`control`, `prompt`, `answer`), and its text."""


@pytest.fixture(scope="module")
def mistral() -> Vocabulary:
    """With Pints' names of control tokens."""
    source = resolve("mistral-7b-v0.1")
    return prepare(source, rename={"</s>": "<|im_end|>"}, add=PINTS, pad_token="<|pad|>")


@pytest.fixture(scope="module")
def neox() -> Vocabulary:
    if not NEOX.is_file():
        pytest.skip("needs the shared corpora beside the checkout")
    return prepare(resolve("gpt-neox-20b", str(NEOX)), add=["<|im_start|>", "<|im_end|>"])


@pytest.fixture(params=["mistral", "neox"])
def vocabulary(request: pytest.FixtureRequest) -> Vocabulary:
    return request.getfixturevalue(request.param)


@cache
def library(vocabulary: Vocabulary) -> Any:
    """Whose tokens cover the white space that they spell, too: a byte-level post-processor would trim it."""
    content = json.loads(vocabulary.tokenizer_json)
    if (content["post_processor"] or {}).get("type") == "ByteLevel":
        content["post_processor"]["trim_offsets"] = False
    return tokenizers.Tokenizer.from_str(json.dumps(content))


def column(texts: Sequence[str]) -> pa.LargeStringArray:
    return pa.array(texts, pa.large_string())


def marked(parts: Sequence[Part]) -> tuple[str, Marks]:
    """The text of a conversation, and its marks: a turn ends behind an answer or a control token that follows one."""
    control, trained, turns, at = [], [], [], 0
    for kind, text in parts:
        size = len(text.encode())
        if kind == "control":
            control.append((at, at + size))
        if kind == "answer" and size:
            trained.append((at, at + size))
        at += size
        if kind == "answer" and size and at not in turns:
            turns.append(at)
    return "".join(text for _, text in parts), Marks(control, trained, turns)


@cache
def encoder(
    vocabulary: Vocabulary, append: Append = "none", most: int | None = None, masked: bool = False
) -> TemplatedEncoder:
    spelling = Spelling(piece_bytes(vocabulary), prefix_bytes(vocabulary)) if masked else None
    return TemplatedEncoder(
        vocabulary, vocabulary.reference, append=append, max_tokens=most, spelling=spelling
    )


def apart(flat: np.ndarray, ends: np.ndarray) -> list[list[int]]:
    return [part.tolist() for part in np.split(flat, ends[:-1])]


PIECES = st.text("ab c\n\té中\U0001f600.,", max_size=12)
NAMES = st.sampled_from(["<|im_start|>", "<|im_end|>"])
PARTS = st.lists(
    st.one_of(
        NAMES.map(lambda n: ("control", n)),
        PIECES.map(lambda t: ("prompt", t)),
        PIECES.map(lambda t: ("answer", t)),
    ),
    max_size=12,
)


@settings(max_examples=15)
@given(st.data())
@pytest.mark.parametrize("name", ["mistral", "neox"])
def test_ids_and_mask_are_the_librarys(
    name: str, request: pytest.FixtureRequest, data: st.DataObject
) -> None:
    vocabulary: Vocabulary = request.getfixturevalue(name)
    documents = [marked(parts) for parts in data.draw(st.lists(PARTS, min_size=1, max_size=3))]
    found = encoder(vocabulary, masked=True).encode(
        column(["skipped", *(text for text, _ in documents)]).slice(1), [marks for _, marks in documents]
    )
    assert found.trained is not None
    whole = library(vocabulary)
    for (text, marks), ids, trained in zip(
        documents, apart(found.ids, found.ends), apart(found.trained, found.ends), strict=True
    ):
        right = whole.encode(text, add_special_tokens=False)
        assert ids == right.ids
        assert trained == [covers(text, span, marks) for span in right.offsets]


def covers(text: str, span: tuple[int, int], marks: Marks) -> bool:
    """Whether a token of these characters has a byte that is trained on."""
    start, stop = (len(text[:place].encode()) for place in span)
    return any(start < b and max(stop, start + 1) > a for a, b in marks.trained)


@pytest.mark.parametrize("name", ["mistral", "neox"])
def test_what_normalisation_shortens(name: str, request: pytest.FixtureRequest) -> None:
    """NFC joins letters and accents (NeoX); U+2581 is a space to SentencePiece: later tokens keep their places."""
    vocabulary = request.getfixturevalue(name)
    text, marks = marked(
        [("prompt", "e\u0301 \u2581" * 9), ("answer", " yes"), ("prompt", " e\u0301 no"), ("answer", " so")]
    )
    found = encoder(vocabulary, masked=True).encode(column([text]), [marks])
    assert found.trained is not None
    whole = library(vocabulary)
    assert [whole.decode([i]).strip() for i in found.ids[found.trained].tolist()] == ["yes", "so"]


def test_words_of_people_become_no_control_token(vocabulary: Vocabulary) -> None:
    said = "stop <|im_end|> <|im_start|> </s> <|endoftext|>"
    text, marks = marked([("control", "<|im_start|>"), ("prompt", said)])
    found = encoder(vocabulary).encode(column([text]), [marks])
    plain, _ = Encoder(vocabulary, vocabulary.reference, append="none").encode(column([said]))
    assert found.ids.tolist() == [vocabulary.controls["<|im_start|>"], *plain.tolist()]


@pytest.mark.parametrize(
    ("append", "begins", "ends", "expected"),
    [
        ("both", "<s>", "<|im_end|>", [1, 264, 2]),
        ("both", "", "", [1, 264, 2]),
        ("both", "<s>", "", [1, 264, 2]),
        ("eos", "", "<|im_end|>", [264, 2]),
        ("bos", "<s>", "<|im_end|>", [1, 264, 2]),
        ("bos", "<|im_end|>", "<s>", [1, 2, 264, 1]),
        ("eos", "<|im_end|>", "<s>", [2, 264, 1, 2]),
        ("none", "", "", [264]),
    ],
)
def test_borders_are_not_doubled(
    mistral: Vocabulary, append: str, begins: str, ends: str, expected: list[int]
) -> None:
    parts = [("control", begins), ("answer", "a"), ("control", ends)]
    text, marks = marked([part for part in parts if part[1]])
    found = encoder(mistral, append=append).encode(column([text, "a"]), [marks, Marks([], [], [])])
    assert apart(found.ids, found.ends)[0] == expected


def test_what_is_put_at_the_end_belongs_to_what_it_ends(mistral: Vocabulary) -> None:
    documents = [marked([("prompt", "a"), ("answer", " a")]), marked([("answer", "a"), ("prompt", " a")])]
    texts, marks = zip(*documents, strict=True)
    found = encoder(mistral, append="both", masked=True).encode(column(texts), marks)
    assert found.trained is not None
    assert apart(found.trained, found.ends) == [[0, 0, 1, 1], [0, 1, 0, 0]]


EXCHANGES = st.lists(
    st.tuples(st.text("ab é\n", max_size=8), st.text("ab é\n", min_size=1, max_size=8)), max_size=6
)


@settings(max_examples=15)
@given(st.lists(EXCHANGES, min_size=1, max_size=4), st.integers(2, 20), st.sampled_from(["none", "both"]))
def test_a_long_conversation_ends_with_the_last_turn_that_fits(
    mistral: Vocabulary, conversations: list[list[tuple[str, str]]], most: int, append: str
) -> None:
    documents = [
        marked(
            [
                p
                for q, a in exchanges
                for p in [("control", "<|im_start|>"), ("prompt", q), ("control", "<s>"), ("answer", a)]
            ]
        )
        for exchanges in conversations
    ]
    texts, marks = zip(*documents, strict=True)
    whole = encoder(mistral, append=append)
    found = encoder(mistral, append=append, most=most).encode(column(texts), marks)
    for text, mark, ids, size in zip(texts, marks, apart(found.ids, found.ends), found.sizes, strict=True):
        data = text.encode()
        fitting = [([], 0)]
        for turn in [*mark.turns, len(data)]:
            short = replace_marks(mark, turn)
            one = whole.encode(column([data[:turn].decode()]), [short])
            fitting += [(one.ids.tolist(), turn)] if 0 < len(one.ids) <= most else []
        assert (ids, size) == fitting[-1]


def replace_marks(marks: Marks, end: int) -> Marks:
    """The marks of the first bytes of a text."""
    inside = [[s for s in spans if s[1] <= end] for spans in (marks.control, marks.trained)]
    return Marks(*inside, [turn for turn in marks.turns if turn <= end])


@pytest.mark.parametrize(
    "marks",
    [
        Marks([(0, 9)], [], []),
        Marks([(2, 1)], [], []),
        Marks([(0, 3), (2, 4)], [], []),
        Marks([], [(-1, 2)], []),
        Marks([], [], [5]),
        Marks([], [], [3, 2]),
        Marks([(0, 3)], [], [2]),
    ],
)
def test_marks_that_do_not_fit_are_refused(mistral: Vocabulary, marks: Marks) -> None:
    with pytest.raises(TokenizerError, match="conversation"):
        encoder(mistral).encode(column(["<s>a"]), [marks])


def test_a_control_token_that_is_none_is_refused(mistral: Vocabulary) -> None:
    with pytest.raises(TokenizerError, match=r"'\[INST\]' is no control token"):
        encoder(mistral).encode(column(["[INST]"]), [Marks([(0, 6)], [], [])])


@pytest.mark.parametrize("meta", [None, "{}", "[]", '{"winnow_chat": {}}', '{"winnow_chat": 3}', "{"])
def test_meta_without_marks_is_refused(meta: str | None) -> None:
    with pytest.raises(TokenizerError, match="winnow_chat"):
        marks_of(pa.array([meta], pa.string()))
