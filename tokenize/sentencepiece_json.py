"""From ``tokenizer.model`` to ``tokenizer.json``: which merges give SentencePiece's ids?

The Rust tokenizers read Hugging Face's JSON; Mistral and Llama 2 publish SentencePiece models. A
SentencePiece byte-pair model has no merge list: it joins, again and again, the neighbouring pair whose
*joined piece* has the highest score, leftmost first. The JSON wants every pair with its rank. So each
piece is cut in every way into two pieces, and the pairs are ranked by the score of what they make. Scores,
not ids, decide: Mistral's runs of spaces have low ids and the lowest score of all.

Format: sentencepiece_model.proto of google/sentencepiece, read here field by field. The generated module
that ships with the package wants the newest protobuf and clashes with transformers' own copy of it in one
process. Terms: *byte fallback* spells a character without a piece as pieces ``<0x00>`` to ``<0xFF>``; the
*dummy prefix* is the space put before every text; ``▁`` (U+2581) is how a space is written in a piece.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from winnow.tokenize.source import TokenizerError

SPACE = "▁"
MODEL_TYPES = {1: "unigram", 2: "BPE", 3: "word", 4: "char"}
BPE = 2
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
BYTE_PIECES = tuple(f"<0x{byte:02X}>" for byte in range(256))


@dataclass(frozen=True, slots=True)
class Piece:
    """An entry of the vocabulary; its id is its position."""

    text: str
    score: float
    kind: int
    """NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED or BYTE."""


@dataclass(frozen=True, slots=True)
class Model:
    """What of a SentencePiece model bears on the ids."""

    pieces: tuple[Piece, ...]
    trainer: dict[int, Any]
    """trainer_spec: field number to value, the last one given."""
    normalizer: dict[int, Any]
    """normalizer_spec, likewise."""


def tokenizer_json(model: bytes) -> bytes:
    """The Hugging Face ``tokenizer.json`` (UTF-8) that gives the same ids as this SentencePiece model.

    Takes a byte-pair model with byte fallback, dummy prefix and no other normalisation: the shape of
    Mistral's v1 and v2 and of Llama 2's. Control and unknown pieces become special added tokens. Equal input
    gives equal bytes. No BOS or EOS is added by the result; that is the encoder's business.

    Raises TokenizerError, naming the setting, for any other model.
    """
    parsed = parse(model)
    _check(parsed)
    pieces = parsed.pieces
    added = [
        {
            "id": i,
            "content": piece.text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i, piece in enumerate(pieces)
        if piece.kind in (UNKNOWN, CONTROL)
    ]
    to_piece = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    to_space = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    first_space = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, to_piece]},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [to_space, {"type": "ByteFallback"}, {"type": "Fuse"}, first_space],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": next(piece.text for piece in pieces if piece.kind == UNKNOWN),
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {piece.text: i for i, piece in enumerate(pieces)},
            "merges": merges(pieces),
        },
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def merges(pieces: tuple[Piece, ...]) -> list[tuple[str, str]]:
    """Every pair of normal pieces whose join is one, best first.

    Ranked by the join's score, then by the longer left part. The second key matters where scores tie, as
    among Mistral's runs of spaces: leftmost first lets the left run grow before a new one is begun.
    """
    score = {piece.text: piece.score for piece in pieces if piece.kind == NORMAL}
    pairs = [
        (text[:cut], text[cut:])
        for text in score
        for cut in range(1, len(text))
        if text[:cut] in score and text[cut:] in score
    ]
    return sorted(pairs, key=lambda pair: (-score[pair[0] + pair[1]], -len(pair[0]), -len(pair[1])))


def parse(model: bytes) -> Model:
    """Read the fields that matter from a serialized ModelProto; TokenizerError where it is none."""
    pieces: list[Piece] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    try:
        for number, value in _fields(model):
            if number == 1:
                piece = dict(_fields(value))
                score = struct.unpack("<f", piece.get(2, bytes(4)))[0]
                pieces.append(Piece(piece[1].decode(), score, piece.get(3, NORMAL)))
            elif number == 2:
                trainer.update(_fields(value))
            elif number == 3:
                normalizer.update(_fields(value))
    except (IndexError, KeyError, TypeError, AttributeError, ValueError, struct.error):
        raise TokenizerError("not a SentencePiece model: its protocol buffer does not parse") from None
    if not pieces:
        raise TokenizerError("not a SentencePiece model: it holds no piece")
    return Model(tuple(pieces), trainer, normalizer)


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Field numbers and values of one protocol-buffer message: int for varints, bytes for the rest."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire = tag & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if wire == 2:
            size, at = _varint(message, at)
        else:
            size = {1: 8, 5: 4}[wire]
        if at + size > len(message):
            raise ValueError("truncated")
        yield tag >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """The base-128 integer at ``at`` and the position behind it."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("varint too long")


def _check(model: Model) -> None:
    """Refuse what the conversion would get wrong. Field numbers and defaults: sentencepiece_model.proto."""
    trainer, normalizer = model.trainer, model.normalizer
    kind = trainer.get(3, 1)
    if kind != BPE:
        raise TokenizerError(
            f"a SentencePiece {MODEL_TYPES.get(kind, f'type {kind}')} model cannot become a byte-pair "
            f"tokenizer.json; give the tokenizer.json that its publisher offers"
        )
    wrong = [
        setting
        for setting, bad in (
            ("byte_fallback is off", not trainer.get(35, 0)),
            ("treat_whitespace_as_suffix is on", trainer.get(24, 0)),
            ("add_dummy_prefix is off", not normalizer.get(3, 1)),
            ("remove_extra_whitespaces is on", normalizer.get(4, 1)),
            ("escape_whitespaces is off", not normalizer.get(5, 1)),
            ("the normaliser is not the identity", normalizer.get(2, b"") != b""),
        )
        if bad
    ]
    kinds = [piece.kind for piece in model.pieces]
    wrong += [
        f"it has {name} pieces"
        for code, name in ((USER_DEFINED, "user-defined"), (UNUSED, "unused"))
        if code in kinds
    ]
    if kinds.count(UNKNOWN) != 1:
        wrong.append("it has not exactly one unknown piece")
    if {piece.text for piece in model.pieces if piece.kind == BYTE} != set(BYTE_PIECES):
        wrong.append("it lacks some of the 256 byte pieces")
    if len({piece.text for piece in model.pieces}) != len(model.pieces):
        wrong.append("a piece occurs twice")
    if wrong:
        raise TokenizerError(
            f"this SentencePiece model is not of Mistral's shape ({'; '.join(wrong)}); "
            f"give the tokenizer.json that its publisher offers"
        )
