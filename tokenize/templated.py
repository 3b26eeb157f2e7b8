"""How does a conversation that a template has written become token ids, and which of them are trained on?

The template writes control tokens by name (``<|im_start|>``, ``</s>``); `Marks` says where, since what people wrote
may spell the same. The text between two of them is encoded for itself, and the control tokens stand there by id:
what Hugging Face tokenizers gives for the whole text with special tokens recognised and ``add_special_tokens=False``,
the space before every piece that SentencePiece tokenizers put among it. So nobody's words become a control token.

A token is trained on where any of its bytes is: the first word of an answer is one token with the space before it
(as transformers' ``return_assistant_tokens_mask``, which goes by the tokens that hold an answer's first and last
character). Byte counts are those of normalised text (piece_bytes.py), and so the marks are brought there.

Letters: n documents, t tokens. Memory: beside text and result some 60 bytes a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from winnow.tokenize.encoder import (
    Append,
    BackendName,
    Encoder,
    Vocabulary,
    check_append,
    reference_tokenizer,
)
from winnow.tokenize.piece_bytes import SPACE
from winnow.tokenize.source import TokenizerError

Spans = Sequence[tuple[int, int]]
"""Byte ranges of a text's UTF-8, ascending, none overlapping another."""


class Marks(NamedTuple):
    """What a template knows of the text it wrote."""

    control: Spans
    """Where it wrote a control token."""
    trained: Spans
    """What is trained on."""
    turns: Sequence[int]
    """Where the text may end, ascending."""


class Encoded(NamedTuple):
    """Conversations as tokens."""

    ids: np.ndarray
    """The vocabulary's dtype [t]."""
    trained: np.ndarray | None
    """bool[t]; None where nobody asked."""
    ends: np.ndarray
    """int64[n], cumulative; a document that was too long has no token."""
    sizes: np.ndarray
    """int64[n]: bytes of each text that became tokens, its first ones."""


class Segments(NamedTuple):
    """Pieces of documents, in order: control tokens, and texts between them."""

    document: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    """int64[s] each; bytes of the column's data."""
    control: np.ndarray
    """int64[s]: the control token's id, -1 for text."""


@dataclass(frozen=True, slots=True)
class Spelling:
    """What masks need to know of a tokenizer (piece_bytes.py)."""

    piece_bytes: np.ndarray
    prefix_bytes: int


class TemplatedEncoder:
    """Conversations to ids in one process and one thread. Build it where it works; it does not pickle."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        backend: BackendName,
        *,
        append: Append,
        max_tokens: int | None = None,
        spelling: Spelling | None = None,
    ) -> None:
        """``append`` is put around a document that does not begin, or end, with that token already.

        max_tokens : a longer document ends at the last of its `turns` that fits, and has no token where none does.
        spelling : to say which tokens are trained on.
        """
        check_append(vocabulary, append)
        self.vocabulary = vocabulary
        self.max_tokens = max_tokens
        self.spelling = spelling
        self._encoder = Encoder(vocabulary, backend, append="none")
        self._bos = vocabulary.bos_id if append in ("bos", "both") else None
        self._eos = vocabulary.eos_id if append in ("eos", "both") else None
        self._normalizer = reference_tokenizer(vocabulary).normalizer if spelling else None
        # What stands for a space in SentencePiece's pieces is itself in byte-level ones.
        self._writes_spaces = self._normalizer is not None and SPACE in self._normalizer.normalize_str(" ")

    def encode(self, texts: pa.LargeStringArray, marks: Sequence[Marks]) -> Encoded:
        """Encode every document.

        texts : large_string[n], no nulls; may be a slice.
        marks : of each.

        Raises TokenizerError where marks do not fit their text, or where a control token is not the vocabulary's.
        """
        offsets = np.frombuffer(texts.buffers()[1] or b"", np.int64)
        offsets = offsets[texts.offset : texts.offset + len(texts) + 1]
        data = memoryview(texts.buffers()[2] or b"")
        begins, ends = offsets[:-1].copy(), offsets[1:].copy()
        for mark, size in zip(marks, (ends - begins).tolist(), strict=True):
            _check(mark, size)
        found = self._encode(data, begins, ends, marks)
        lengths = np.diff(found.ends, prepend=0)
        if self.max_tokens is None or (lengths <= self.max_tokens).all():
            return found
        over = np.flatnonzero(lengths > self.max_tokens)
        ends[over] = self._shortened(data, begins[over], [marks[i] for i in over])
        again = self._encode(data, begins[over], ends[over], [marks[i] for i in over])
        return _replaced(found, over, again)._replace(sizes=ends - begins)

    def byte_ends(self, text: str, marks: Marks) -> np.ndarray:
        """int64[t]: the bytes of a text up to the end of each of its tokens; it begins where the one before ends.

        What was put around the text has no bytes, and a control token those of its name. Between two control tokens
        bytes are those of normalised text, as `piece_bytes` counts them. Needs `spelling`.
        """
        assert self.spelling is not None
        found = self.encode(_column([memoryview(text.encode())]), [marks])
        size = int(found.sizes[0])
        if not size:
            return np.empty(0, np.int64)
        data = memoryview(text.encode())
        segments, ids, lengths, from_text = self._pieces(data, [0], [size], [marks])
        sizes = np.where(from_text, np.take(self.spelling.piece_bytes, ids), 0).astype(np.int64)
        upto = np.cumsum(sizes)
        stops = np.cumsum(lengths)
        before = np.concatenate([[0], upto])[stops - lengths]
        start, stop = np.repeat(segments.start, lengths), np.repeat(segments.stop, lengths)
        inside = start + upto - np.repeat(before, lengths) - self.spelling.prefix_bytes
        ends = np.clip(inside, start, stop)
        ends[stops[lengths > 0] - 1] = segments.stop[lengths > 0]
        has_bos = self._bos is not None and ids[0] != self._bos
        return np.pad(
            ends, (int(has_bos), len(found.ids) - len(ids) - int(has_bos)), constant_values=(0, size)
        )

    def _shortened(self, data: memoryview, begins: np.ndarray, marks: Sequence[Marks]) -> np.ndarray:
        """int64[n]: where documents end that are too long, by bisection over their turns; -1 turns are no bytes."""
        assert self.max_tokens is not None
        low = np.full(len(marks), -1)
        high = np.array([len(mark.turns) - 1 for mark in marks])
        while len(open_ := np.flatnonzero(low < high)):
            middle = (low[open_] + high[open_] + 1) // 2
            turns = [marks[i].turns[turn] for i, turn in zip(open_, middle, strict=True)]
            ends = begins[open_] + np.array(turns, np.int64)
            tried = self._encode(data, begins[open_], ends, [marks[i] for i in open_], trained=False)
            fits = np.diff(tried.ends, prepend=0) <= self.max_tokens
            low[open_[fits]] = middle[fits]
            high[open_[~fits]] = middle[~fits] - 1
        sizes = [mark.turns[turn] if turn >= 0 else 0 for mark, turn in zip(marks, low.tolist(), strict=True)]
        return begins + np.array(sizes, np.int64)

    def _encode(
        self,
        data: memoryview,
        begins: np.ndarray,
        ends: np.ndarray,
        marks: Sequence[Marks],
        *,
        trained: bool = True,
    ) -> Encoded:
        """The texts [begins, ends) of some data."""
        segments, ids, lengths, from_text = self._pieces(data, begins.tolist(), ends.tolist(), marks)
        learned = None
        if trained and self.spelling is not None:
            sizes = np.where(from_text, np.take(self.spelling.piece_bytes, ids), 1).astype(np.int64)
            learned = self._trained(data, begins.tolist(), segments, np.cumsum(lengths), sizes, marks)
        counts = np.bincount(segments.document, lengths, len(begins)).astype(np.int64)
        return self._surrounded(ids, learned, counts)._replace(sizes=ends - begins)

    def _pieces(
        self, data: memoryview, begins: Sequence[int], ends: Sequence[int], marks: Sequence[Marks]
    ) -> tuple[Segments, np.ndarray, np.ndarray, np.ndarray]:
        """(segments, ids, tokens of each segment, whether a token is of text) of the texts [begins, ends)."""
        segments = self._segments(data, begins, ends, marks)
        is_text = segments.control < 0
        bounds = zip(segments.start[is_text].tolist(), segments.stop[is_text].tolist(), strict=True)
        text_ids, text_ends = self._encoder.encode(_column([data[a:b] for a, b in bounds]))
        lengths = np.ones(len(is_text), np.int64)
        lengths[is_text] = np.diff(text_ends, prepend=0)
        stops = np.cumsum(lengths)
        ids = np.empty(int(lengths.sum()), self.vocabulary.dtype)
        from_text = np.ones(len(ids), bool)
        from_text[stops[~is_text] - 1] = False
        ids[from_text] = text_ids
        ids[~from_text] = segments.control[~is_text]
        return segments, ids, lengths, from_text

    def _segments(
        self, data: memoryview, begins: Sequence[int], ends: Sequence[int], marks: Sequence[Marks]
    ) -> Segments:
        found: list[tuple[int, int, int, int]] = []
        for i, (begin, end, mark) in enumerate(zip(begins, ends, marks, strict=True)):
            at = begin
            for start, stop in mark.control:
                if begin + start >= end:
                    break
                if begin + start > at:
                    found.append((i, at, begin + start, -1))
                at = begin + stop
                name = bytes(data[begin + start : at]).decode("utf-8", "replace")
                if name not in self.vocabulary.controls:
                    raise TokenizerError(f"{name!r} is no control token of this tokenizer")
                found.append((i, begin + start, at, self.vocabulary.controls[name]))
            if at < end:
                found.append((i, at, end, -1))
        return Segments(*np.array(found, np.int64).reshape(-1, 4).T)

    def _surrounded(self, ids: np.ndarray, trained: np.ndarray | None, counts: np.ndarray) -> Encoded:
        """Documents of `counts` tokens with BOS and EOS around those that have tokens, and not these."""
        some = counts > 0
        last = np.cumsum(counts) - 1
        first = last - counts + 1
        bos, eos = np.zeros(len(counts), bool), np.zeros(len(counts), bool)
        if self._bos is not None:
            bos[some] = ids[first[some]] != self._bos
        if self._eos is not None:
            eos[some] = ids[last[some]] != self._eos
        ends = np.cumsum(counts + bos + eos)
        out = np.empty(int(ends[-1]) if len(ends) else 0, ids.dtype)
        inner = np.ones(len(out), bool)
        starts = np.concatenate([[0], ends[:-1]])[: len(ends)]
        inner[starts[bos]] = inner[ends[eos] - 1] = False
        out[inner] = ids
        out[starts[bos]] = self._bos if self._bos is not None else 0
        out[ends[eos] - 1] = self._eos if self._eos is not None else 0
        if trained is not None:
            learned = np.zeros(len(out), bool)
            learned[inner] = trained
            # What ends a document belongs to what it ends.
            learned[ends[eos] - 1] = learned[ends[eos] - 2]
            trained = learned
        return Encoded(out, trained, ends, np.empty(0, np.int64))

    def _trained(
        self,
        data: memoryview,
        begins: Sequence[int],
        segments: Segments,
        stops: np.ndarray,
        sizes: np.ndarray,
        marks: Sequence[Marks],
    ) -> np.ndarray:
        """bool[t]: whether a token has a byte that is trained on; a control token counts as one byte."""
        upto = np.cumsum(sizes)
        spelled = np.concatenate([[0], upto])[np.concatenate([[0], stops])[:-1]]
        ranges = list(self._ranges(data, begins, segments, spelled.tolist(), marks))
        if not ranges:
            return np.zeros(len(sizes), bool)
        a, b = np.array(ranges, np.int64).T
        before = np.searchsorted(a, upto, side="left") - 1
        return (before >= 0) & (b[before] > upto - sizes)

    def _ranges(
        self,
        data: memoryview,
        begins: Sequence[int],
        segments: Segments,
        spelled: Sequence[int],
        marks: Sequence[Marks],
    ) -> Iterator[tuple[int, int]]:
        """What is trained on, as ranges of the bytes that all tokens spell one after the other."""
        document, at = -1, 0
        for i, start, stop, control, base in zip(*(s.tolist() for s in segments), spelled, strict=True):
            if i != document:
                document, at = i, 0
            begin, trained = begins[i], marks[i].trained
            while at < len(trained) and begin + trained[at][1] <= start:
                at += 1
            if at == len(trained) or begin + trained[at][0] >= stop:
                continue
            if control >= 0:
                yield base, base + 1
                continue
            edges = []
            last = at
            while last < len(trained) and begin + trained[last][0] < stop:
                edges += [
                    max(begin + trained[last][0], start) - start,
                    min(begin + trained[last][1], stop) - start,
                ]
                last += 1
            places = self._spelled(bytes(data[start:stop]), edges)
            yield from ((base + a, base + b) for a, b in zip(places[::2], places[1::2], strict=True))

    def _spelled(self, text: bytes, edges: Sequence[int]) -> list[int]:
        """Where in what the tokens of a text spell ascending places of the text are; the prefix is the first byte's."""
        assert self.spelling is not None
        prefix = self.spelling.prefix_bytes
        if text.isascii():
            return [edge + prefix if edge else 0 for edge in edges]
        places, at, spelled = [], 0, 0
        for edge in edges:
            spelled += self._normalised_bytes(text[at:edge])
            at = edge
            places.append(spelled + prefix if edge else 0)
        return places

    def _normalised_bytes(self, part: bytes) -> int:
        assert self.spelling is not None
        if not part or self._normalizer is None:
            return len(part)
        normal = self._normalizer.normalize_str(part.decode())
        if self._writes_spaces:
            normal = normal.replace(SPACE, " ")
        return len(normal.encode()) - self.spelling.prefix_bytes


def _check(mark: Marks, size: int) -> None:
    """Raises TokenizerError for marks that cannot be of a text of so many bytes."""
    for spans in (mark.control, mark.trained):
        edges = [edge for span in spans for edge in span]
        if edges != sorted(edges) or (edges and not 0 <= edges[0] <= edges[-1] <= size):
            raise TokenizerError(f"spans of a conversation do not fit its {size} bytes, or overlap")
    turns = list(mark.turns)
    if turns != sorted(turns) or (turns and not 0 < turns[0] <= turns[-1] <= size):
        raise TokenizerError(f"the turns of a conversation do not fit its {size} bytes")
    inside = np.searchsorted([start for start, _ in mark.control], turns) - 1
    if any(i >= 0 and turn < mark.control[i][1] for i, turn in zip(inside.tolist(), turns, strict=True)):
        raise TokenizerError("a turn of a conversation ends inside a control token")


def _column(texts: Sequence[memoryview]) -> pa.LargeStringArray:
    ends = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in texts], out=ends[1:])
    return pa.LargeStringArray.from_buffers(len(texts), pa.py_buffer(ends), pa.py_buffer(b"".join(texts)))


def _replaced(found: Encoded, which: np.ndarray, again: Encoded) -> Encoded:
    """The documents with some encoded anew."""
    ids, fresh = np.split(found.ids, found.ends[:-1]), np.split(again.ids, again.ends[:-1])
    learned = None if found.trained is None else np.split(found.trained, found.ends[:-1])
    for i, document in enumerate(which.tolist()):
        ids[document] = fresh[i]
    if learned is not None and again.trained is not None:
        for document, part in zip(which.tolist(), np.split(again.trained, again.ends[:-1]), strict=True):
            learned[document] = part
    ends = np.cumsum([len(part) for part in ids])
    return Encoded(
        np.concatenate(ids), None if learned is None else np.concatenate(learned), ends, found.sizes
    )
