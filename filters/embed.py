"""How do texts become vectors: tokens, batches, one forward after the other?

Needs no Ray and no files but the model's: `embed` takes any stream of record batches. Documents are taken in windows,
which depend on the texts alone and not on how the stream is cut. A window's documents are sorted by number of tokens
and cut into batches of a budget of tokens; so the vectors of a stream depend on its documents, their order, the
budget and the device, and on nothing else. While one window is in the encoder, the next ones are tokenized in a thread.

Memory: the text of two windows, the tokens of `AHEAD` + 2, the vectors of one, and what the encoder takes for a
batch. A window's text is at most `WINDOW_BYTES`, or one document.

Letters: n documents, d dimensions.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from winnow.filters import embedding_tokens, encoder_files
from winnow.filters.encoder_files import EncoderError

if TYPE_CHECKING:
    import pyarrow as pa
    from winnow.filters.embedding_settings import Embedding
    from winnow.filters.embedding_tokens import TextTokens

WINDOW_DOCUMENTS = 1 << 14
WINDOW_BYTES = 32 << 20
AHEAD = 2
"""Windows that are tokenized and wait for the encoder."""
GPU_TOKENS = 1 << 17
CPU_TOKENS = 1 << 13
"""Tokens that an encoder takes at once, where a recipe does not say."""
MOST_PADDING = 2
"""A batch padded to its longest document holds at most so many times the budget."""
_POLL_S = 0.1

T = TypeVar("T")


class Vectors(Protocol):
    """An encoder: what `winnow.filters.encoder.load` gives."""

    @property
    def dimensions(self) -> int:
        """d."""

    def vectors(self, ids: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """From ids int32[total] of documents that end at int64[n] to float32[n, d], each row of length 1."""


def budget_of(settings: Embedding, device: str) -> int:
    """Tokens of a batch on a device of torch's ("cpu", "cuda", "cuda:1")."""
    if settings.batch_tokens is not None:
        return settings.batch_tokens
    return GPU_TOKENS if device.startswith("cuda") else CPU_TOKENS


def batches(lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Documents that go through an encoder together: rows int64[...], every row in one batch.

    From the longest document to the shortest, of equal ones the first row first. The documents of a batch have at most
    `budget` tokens together, and `MOST_PADDING` times as many if each were as long as the longest; one document
    makes a batch however long it is.

    Parameters
    ----------
    lengths : int64[n]
        Tokens of each document.
    """
    order = np.argsort(-lengths, kind="stable")
    sizes = lengths[order]
    ends = np.cumsum(sizes)
    found, start = [], 0
    while start < len(order):
        taken = ends[start] - sizes[start]
        in_budget = int(np.searchsorted(ends, taken + budget, side="right"))
        in_padding = start + MOST_PADDING * budget // max(1, int(sizes[start]))
        stop = max(min(in_budget, in_padding), start + 1)
        found.append(order[start:stop])
        start = stop
    return found


def embed_tokens(encoder: Vectors, ids: np.ndarray, ends: np.ndarray, budget: int) -> np.ndarray:
    """The vectors of documents, float16[n, d] in their order, from ids int32[total] and ends int64[n].

    A batch for which the device has no room is halved until it has.

    Raises
    ------
    EncoderError
        There is no room for one document.
    """
    lengths = np.diff(ends, prepend=0)
    starts = ends - lengths
    found = np.zeros((len(ends), encoder.dimensions), np.float16)
    for rows in batches(lengths, budget):
        _fill(found, encoder, ids, starts, lengths, rows)
    return found


def _fill(
    found: np.ndarray,
    encoder: Vectors,
    ids: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
    rows: np.ndarray,
) -> None:
    from winnow.filters.encoder import OutOfMemory

    ends = np.cumsum(lengths[rows])
    from_row = np.repeat(starts[rows] - (ends - lengths[rows]), lengths[rows])
    try:
        found[rows] = encoder.vectors(ids[from_row + np.arange(len(from_row))], ends)
        return
    except OutOfMemory:
        pass  # halved below, outside: the error's frames hold the tensors that were in the way
    if len(rows) == 1:
        raise EncoderError(
            f"the device has no room for one document of {int(lengths[rows[0]]):,} tokens; set max_tokens lower"
        )
    half = len(rows) // 2
    _fill(found, encoder, ids, starts, lengths, rows[:half])
    _fill(found, encoder, ids, starts, lengths, rows[half:])


def windows(texts: Iterable[pa.LargeStringArray]) -> Iterator[pa.LargeStringArray]:
    """The same documents in the same order, at most `WINDOW_DOCUMENTS` and `WINDOW_BYTES` (or one document) at a time.

    Where one window ends and the next begins depends on the documents alone, not on how `texts` is cut.
    """
    import pyarrow as pa

    parts: list[pa.LargeStringArray] = []
    documents = size = 0
    for array in texts:
        sizes = np.diff(embedding_tokens.offsets_of(array))
        first = 0
        while first < len(array):
            room = np.cumsum(sizes[first : first + WINDOW_DOCUMENTS - documents])
            fit = int(np.searchsorted(room, WINDOW_BYTES - size, side="right"))
            if not fit and not documents:
                fit = 1
            if fit:
                parts.append(array.slice(first, fit))
                documents, size, first = documents + fit, size + int(room[fit - 1]), first + fit
            if documents == WINDOW_DOCUMENTS or first < len(array):
                yield pa.concat_arrays(parts)
                parts, documents, size = [], 0, 0
    if documents:
        yield pa.concat_arrays(parts)


def vectors_of(
    texts: Iterable[pa.LargeStringArray], tokenizer: TextTokens, encoder: Vectors, budget: int
) -> Iterator[np.ndarray]:
    """float16[n, d] of all documents in order, one array for each window."""
    for ids, ends in ahead(map(tokenizer.tokens, windows(texts)), AHEAD):
        yield embed_tokens(encoder, ids, ends, budget)


def embed(batches: Iterable[pa.RecordBatch], settings: Embedding, device: str) -> Iterator[np.ndarray]:
    """The vectors of all documents of a stream, float16[n, d] array by array, in order.

    Parameters
    ----------
    batches
        With a column `text` of large_string without nulls. They are read in a thread of their own.
    device
        torch's name: "cpu", "cuda", "cuda:1".

    Raises
    ------
    EncoderError
        The model or its tokenizer cannot be had, or the device has no room for one document.
    """
    from winnow.filters import encoder

    files = encoder_files.find(settings.model, settings.revision)
    tokenizer = embedding_tokens.load(files.folder, min(settings.max_tokens, files.max_tokens))
    model = encoder.load(files.folder, settings.pooling or files.pooling or "mean", device, settings.dtype)
    texts = (batch.column("text") for batch in batches)
    yield from vectors_of(texts, tokenizer, model, budget_of(settings, device))


def ahead(items: Iterator[T], size: int) -> Iterator[T]:
    """The same items, made in a thread, up to `size` of them before they are asked for.

    What the thread raises is raised here, after the items that came before. A generator that is closed early ends the
    thread as soon as the item at hand is made, and waits for it.
    """
    made: queue.Queue[tuple[str, Any]] = queue.Queue(size)
    unwanted = threading.Event()

    def put(kind: str, value: Any) -> bool:
        while not unwanted.is_set():
            try:
                made.put((kind, value), timeout=_POLL_S)
                return True
            except queue.Full:
                continue
        return False

    def make() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    thread = threading.Thread(target=make, name="winnow-ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = made.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        unwanted.set()
        thread.join()
