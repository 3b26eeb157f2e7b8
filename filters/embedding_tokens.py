"""Which tokens does an encoder see of a text?

Those that its own tokenizer (Hugging Face `tokenizers`) gives for the whole text, cut to `max_tokens` with the model's
control tokens around them: the ids that sentence-transformers 5.7 feeds the same model. Text that spells a control
token ("[SEP]") becomes that token, as there.

Most of a long text is never looked at: `CHARS_PER_TOKEN` characters for each token wanted are tokenized first, and
more only of texts that give too few tokens. What is cut off changes no id that is used. A text is cut before
whitespace, where every tokenizer that splits at words starts afresh; where there is none to cut at (Chinese, base64)
at any character, and then the last `_SPARE_TOKENS` tokens are not trusted.

Letters: n documents.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from winnow.filters.encoder_files import EncoderError

if TYPE_CHECKING:
    import pyarrow as pa
    from tokenizers import Tokenizer

CHARS_PER_TOKEN = 5
"""Characters of text that are read for each token wanted, at first."""
GROWTH = 4
"""So many times more are read of a text that gives too few tokens: in vain at most 4/3 of its length in all."""
_SPARE_TOKENS = 128
"""More than a word cut in two can give: WordPiece takes no word apart that is longer than 100 characters."""
_CHUNK_TOKENS = 1 << 18
_CHUNK_BYTES = 1 << 20
_SPACES = (" ", "\n", "\t", "\r")
"""Where words end for all tokenizers. Others are not asked: BERT's drops a form feed and joins what is beside it."""
# Settings of BERT's normalizer: the name in tokenizer_config.json, which goes first in transformers, and in
# tokenizer.json.
_BERT_SETTINGS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}


@dataclass(frozen=True, slots=True)
class _Clip:
    """A text, or as much of it as is read at first."""

    text: str
    spare: int | None
    """Tokens at its end that are not trusted; None: it is all of the text."""


class TextTokens:
    """A tokenizer made ready. Any thread may call it."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self._tokenizer = tokenizer
        self._before, self._after = _controls(tokenizer)
        self._room = max_tokens - len(self._before) - len(self._after)
        if self._room < 1:
            raise EncoderError(
                f"max_tokens is {max_tokens}: the model's control tokens leave no room for text"
            )
        longest_word = getattr(tokenizer.model, "max_input_chars_per_word", 0)
        self._spare = max(_SPARE_TOKENS, longest_word)

    def tokens(self, texts: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all documents one after the other, int32[total], and where each document's end, int64[n].

        `texts` may be a slice; it is read in place. Memory: 4 bytes per token and 8 per document for the result;
        tens of MB while it is made, and 4 times the longest text where that one has to be read whole.

        Raises
        ------
        TypeError
            `texts` is not a LargeStringArray.
        ValueError
            It has nulls, or a text that is not UTF-8.
        """
        offsets = offsets_of(texts)
        utf8 = memoryview(texts.buffers()[2] or b"")
        rows = max(1, _CHUNK_TOKENS // self.max_tokens)
        ids, lengths = [np.empty(0, np.int32)], [np.empty(0, np.int64)]
        for first in range(0, len(texts), rows):
            lists = self._contents(offsets[first : first + rows + 1].tolist(), utf8)
            counts = np.fromiter(map(len, lists), np.int64, len(lists))
            ids.append(np.fromiter(chain.from_iterable(lists), np.int32, int(counts.sum())))
            lengths.append(counts)
        return np.concatenate(ids), np.cumsum(np.concatenate(lengths))

    def _contents(self, offsets: list[int], utf8: memoryview) -> list[list[int]]:
        """The ids of the texts between `offsets`, with control tokens."""
        found: list[list[int]] = [[]] * (len(offsets) - 1)
        rest, chars = list(range(len(found))), CHARS_PER_TOKEN * self.max_tokens
        while rest:
            short = []
            for rows in _groups(rest, offsets, 4 * chars):
                clips = [self._clip(utf8[offsets[row] : offsets[row + 1]], chars) for row in rows]
                encodings = self._tokenizer.encode_batch_fast(
                    [clip.text for clip in clips], add_special_tokens=False
                )
                for row, clip, encoding in zip(rows, clips, encodings, strict=True):
                    if clip.spare is None or len(encoding) >= self._room + clip.spare:
                        found[row] = self._before + encoding.ids[: self._room] + self._after
                    else:
                        short.append(row)
            rest, chars = short, chars * GROWTH
        return found

    def _clip(self, utf8: memoryview, chars: int) -> _Clip:
        """The first `chars` characters of a text, less its last word where that is not most of it."""
        stop = min(len(utf8), 4 * chars)
        while stop < len(utf8) and utf8[stop] & 0xC0 == 0x80:
            stop -= 1
        text = _decoded(utf8[:stop])
        if stop == len(utf8) and len(text) <= chars:
            return _Clip(text, None)
        text = text[:chars]
        words = text[: max(map(text.rfind, _SPACES)) + 1].rstrip()
        return _Clip(words, 0) if 2 * len(words) >= chars else _Clip(text, self._spare)


@lru_cache(maxsize=8)
def load(folder: str, max_tokens: int) -> TextTokens:
    """The tokenizer of a model's folder, loaded once per process.

    The folder has a tokenizer.json, or files that `transformers` makes one of. Several cores work on one call unless
    the environment says TOKENIZERS_PARALLELISM=false.

    Raises
    ------
    EncoderError
        There is no tokenizer, it cannot be read, or it puts control tokens inside the text.
    """
    from tokenizers import Tokenizer

    path = Path(folder) / "tokenizer.json"
    try:
        content = path.read_text(encoding="utf-8") if path.is_file() else _converted(folder)
        tokenizer = Tokenizer.from_str(_as_the_model_wants(json.loads(content), _settings(Path(folder))))
    except MemoryError:
        raise
    except EncoderError:
        raise
    except Exception as error:  # tokenizers raises bare Exceptions
        raise EncoderError(f"cannot read the tokenizer in {folder}: {error}") from None
    return TextTokens(tokenizer, max_tokens)


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _as_the_model_wants(document: dict[str, Any], settings: dict[str, Any]) -> str:
    """The JSON without what depends on how the file was saved, and with the settings that transformers puts first."""
    document["truncation"] = document["padding"] = None
    if document["model"].get("dropout") is not None:
        document["model"]["dropout"] = None
    normalizer = document.get("normalizer") or {}
    if normalizer.get("type") == "BertNormalizer":
        normalizer |= {
            ours: settings[theirs] for theirs, ours in _BERT_SETTINGS.items() if theirs in settings
        }
    return json.dumps(document)


def _converted(folder: str) -> str:
    """The tokenizer.json that transformers makes of older files (vocab.json and merges.txt, say)."""
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise EncoderError(
            f"{folder} has no tokenizer.json, and making one takes transformers: pip install 'winnow[embed]'"
        ) from None
    tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, local_files_only=True)
    if not tokenizer.is_fast:
        raise EncoderError(
            f"{folder} has no tokenizer.json, and transformers cannot make one of its tokenizer"
        )
    return tokenizer.backend_tokenizer.to_str()


def _controls(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids that stand before and after a text."""
    inner = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a", add_special_tokens=True)
    before = next((i for i, special in enumerate(whole.special_tokens_mask) if not special), len(whole))
    found = whole.ids[:before], whole.ids[before + len(inner) :]
    if found[0] + inner + found[1] != whole.ids:
        raise EncoderError("the tokenizer puts control tokens elsewhere than before and after the text")
    return found


def offsets_of(texts: pa.LargeStringArray) -> np.ndarray:
    """Where each text begins and ends in the array's bytes: int64[n + 1]. Raises as `TextTokens.tokens` does."""
    import pyarrow as pa

    if not isinstance(texts, pa.LargeStringArray):
        raise TypeError(f"texts must be a LargeStringArray, not {type(texts).__name__}")
    if texts.null_count:
        raise ValueError("texts must not have nulls")
    if not len(texts):
        return np.zeros(1, np.int64)
    return np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]


def _decoded(utf8: memoryview) -> str:
    try:
        return str(utf8, "utf-8")
    except UnicodeDecodeError:
        pass  # raised below, outside: the error holds the text, and a cause would carry it along
    raise ValueError("a text is not valid UTF-8; its reader must check")


def _groups(rows: Sequence[int], offsets: list[int], most: int) -> Iterator[list[int]]:
    """Rows in order, so many that at most `_CHUNK_BYTES` of text are read of them, or one."""
    group: list[int] = []
    size = 0
    for row in rows:
        mine = min(offsets[row + 1] - offsets[row], most)
        if group and size + mine > _CHUNK_BYTES:
            yield group
            group, size = [], 0
        group.append(row)
        size += mine
    if group:
        yield group
