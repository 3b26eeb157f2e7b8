"""How many bytes of a document does a token stand for?

Provenance needs byte ranges: a training sample begins at token 5,017 of a document, so where in its text? The
length of every piece in bytes, once per vocabulary, turns that into a cumulative sum over ids.

Two families of tokenizers can answer. *Byte-level* ones (GPT-2, GPT-NeoX) write every byte as one character
of a piece. *Metaspace* ones (SentencePiece: Mistral, Llama 2) write a space as ``▁`` and a character
without a piece as byte pieces ``<0x00>`` to ``<0xFF>``; they put a space before every text.

The bytes are those of the *normalised* text: after NFC in GPT-NeoX; in SentencePiece a literal U+2581 is a
space, one byte instead of three. Nothing else differs, for these two.
"""

import json
import re
from typing import Any

import numpy as np
from winnow.tokenize.encoder import Vocabulary
from winnow.tokenize.source import TokenizerError

SPACE = "▁"
BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")
SPACES_TO_PIECE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
PREFIX = {"type": "Prepend", "prepend": SPACE}


def piece_bytes(vocabulary: Vocabulary) -> np.ndarray:
    """UTF-8 bytes of normalised text for each id: uint32[max_id + 1]; 0 for control tokens and for gaps.

    The sum over a document's tokens is the length of its normalised text plus `prefix_bytes`. A piece may
    hold part of a character, so a cumulative sum need not stand at the beginning of one.

    Raises TokenizerError for a tokenizer of neither family (unigram, WordPiece, or pieces that swallow the
    white space beside them).
    """
    document = json.loads(vocabulary.tokenizer_json)
    byte_level = _is_byte_level(document)
    lengths = np.zeros(vocabulary.max_id + 1, np.uint32)
    for piece, token_id in document["model"]["vocab"].items():
        if byte_level:
            lengths[token_id] = len(piece)
        elif BYTE_PIECE.fullmatch(piece):
            lengths[token_id] = 1
        else:
            lengths[token_id] = len(piece.replace(SPACE, " ").encode())
    for token in document["added_tokens"]:  # after the vocabulary, where control tokens are listed as well
        if token["special"]:
            lengths[token["id"]] = 0
        elif token["lstrip"] or token["rstrip"]:
            raise TokenizerError("byte ranges need tokens that keep the white space beside them")
        else:
            content = token["content"] if byte_level else token["content"].replace(SPACE, " ")
            lengths[token["id"]] = len(content.encode())
    return lengths


def prefix_bytes(vocabulary: Vocabulary) -> int:
    """Bytes put before every text that is not empty: 1 for a dummy prefix, else 0.

    Raises TokenizerError as `piece_bytes` does.
    """
    document = json.loads(vocabulary.tokenizer_json)
    return 0 if _is_byte_level(document) else int(PREFIX in _steps(document["normalizer"], "normalizers"))


def _is_byte_level(document: dict[str, Any]) -> bool:
    """True for byte-level, False for Metaspace with byte fallback, TokenizerError for anything else."""
    model = document["model"]
    normalizers = _steps(document["normalizer"], "normalizers")
    pre_tokenizers = _steps(document["pre_tokenizer"], "pretokenizers")
    byte_levels = [step for step in pre_tokenizers if step["type"] == "ByteLevel"]
    if model.get("type") == "BPE":
        if byte_levels and not any(step.get("add_prefix_space", True) for step in byte_levels):
            return True
        plain = all(step in (PREFIX, SPACES_TO_PIECE) for step in normalizers)
        if plain and SPACES_TO_PIECE in normalizers and not pre_tokenizers and model.get("byte_fallback"):
            return False
    raise TokenizerError(
        "byte ranges are known only for byte-level tokenizers without a prefix space and for SentencePiece "
        "byte-pair models with byte fallback"
    )


def _steps(component: dict[str, Any] | None, parts: str) -> list[dict[str, Any]]:
    """A normaliser or pre-tokenizer as a flat list of steps; null is none."""
    if component is None:
        return []
    if component["type"] == "Sequence":
        return [step for part in component[parts] for step in _steps(part, parts)]
    return [component]
