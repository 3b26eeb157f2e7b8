"""Per split: the tokens of what stays.

The stage `tokens` reads a split's text through the verdicts of filters and dedup and writes it as one flat
array of ids, `tokens-*.bin` (uint16, or uint32 where the largest id needs it), and `index-*.arrow`: per
document its id, where its tokens end (uint64), the bytes of its text and the first half of its text's hash (of the
text as it was read for a conversation without tokens).
One tokenization serves every sequence length, shuffle and export. With a loss mask ids are uint32, and
`loss_mask.NOT_TRAINED` is set on those that are not trained on (shards/loss_mask.py).

Memory: an Arrow batch of text and what the encoder makes of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from winnow.pipelines.chat_tokens import marks_of
from winnow.pipelines.cluster import Task
from winnow.pipelines.documents import name, offsets, text_hashes
from winnow.pipelines.engine import Done, Request
from winnow.pipelines.records import Outputs, Stage
from winnow.pipelines.standing import Standing, Texts, texts_of
from winnow.shards import arrays, loss_mask, storage, tables
from winnow.tokenize import added_tokens
from winnow.tokenize.encoder import Encoder, Vocabulary, prepare
from winnow.tokenize.piece_bytes import piece_bytes, prefix_bytes
from winnow.tokenize.source import TokenizerError, TokenizerSource
from winnow.tokenize.templated import Spelling, TemplatedEncoder

VERSION = 2
CHATS_VERSION = 2
INDEX_SCHEMA = pa.schema(
    [("id", tables.ID), ("end", pa.uint64()), ("text_bytes", pa.uint32()), ("text_hash", pa.uint64())]
)


@dataclass(frozen=True, slots=True)
class TokenizerSpec:
    """What the stage `tokenizer` keeps, so that a run never depends on a hub again."""

    source: TokenizerSource
    eos_token: str | None
    bos_token: str | None
    pad_token: str | None = None
    rename: tuple[tuple[str, str], ...] = ()
    """(old, new) of control tokens, sorted."""
    add: tuple[str, ...] = ()


def tokenizer_task(spec: TokenizerSpec, outputs: Outputs) -> dict[str, Any]:
    """Keep the tokenizer's file as it was found, and all that workers need of it."""
    vocabulary = vocabulary_of(spec)
    outputs.put("source", spec.source.content)
    outputs.put("tokenizer.json", vocabulary.tokenizer_json)
    prefix = 0
    try:
        sizes, prefix = piece_bytes(vocabulary), prefix_bytes(vocabulary)
    except TokenizerError:  # a kind whose pieces do not spell bytes one after the other (unigram, WordPiece)
        pass
    else:
        outputs.put("piece-bytes", sizes.astype("<u4").tobytes())
    facts = _facts(spec, vocabulary) | {"prefix_bytes": prefix}
    outputs.put("vocabulary.json", orjson.dumps(facts, option=orjson.OPT_INDENT_2))
    return {"size": vocabulary.size, "max_id": vocabulary.max_id}


def _facts(spec: TokenizerSpec, vocabulary: Vocabulary) -> dict[str, Any]:
    names = ("bos_id", "eos_id", "pad_id", "size", "max_id", "dtype", "sha256", "controls")
    return {
        "name": spec.source.name,
        "kind": spec.source.kind,
        "origin": spec.source.origin,
        "source_sha256": spec.source.sha256,
    } | {name: getattr(vocabulary, name) for name in names}


def vocabulary_of(spec: TokenizerSpec) -> Vocabulary:
    """The vocabulary of a tokenizer with the recipe's choice of control tokens."""
    return prepare(
        spec.source,
        eos_token=spec.eos_token,
        bos_token=spec.bos_token,
        pad_token=spec.pad_token,
        rename=dict(spec.rename),
        add=spec.add,
    )


@lru_cache(maxsize=4)
def load_vocabulary(location: str) -> Vocabulary:
    """The vocabulary that a tokenizer stage keeps."""
    facts = orjson.loads(storage.read_bytes(storage.join(location, "vocabulary.json")))
    content = storage.read_bytes(storage.join(location, "tokenizer.json"))
    return Vocabulary(
        tokenizer_json=content,
        sentencepiece_model=(
            storage.read_bytes(storage.join(location, "source")) if facts["kind"] == "sentencepiece" else None
        ),
        bos_id=facts["bos_id"],
        eos_id=facts["eos_id"],
        pad_id=facts["pad_id"],
        size=facts["size"],
        max_id=facts["max_id"],
        dtype=facts["dtype"],
        sha256=facts["sha256"],
        # Older runs do not keep them.
        controls=facts["controls"] if "controls" in facts else added_tokens.controls(orjson.loads(content)),
    )


@lru_cache(maxsize=2)
def spelling(location: str) -> tuple[np.ndarray | None, int]:
    """(bytes of text of every id, bytes a text begins with of the tokenizer's own accord) of a tokenizer stage.

    None where the tokenizer's pieces do not spell bytes one after the other.
    """
    place = storage.join(location, "piece-bytes")
    if not storage.exists(place):
        return None, 0
    facts = orjson.loads(storage.read_bytes(storage.join(location, "vocabulary.json")))
    sizes = np.frombuffer(storage.read_bytes(place), "<u4")
    return sizes.astype(np.min_scalar_type(int(sizes.max()))), facts["prefix_bytes"]


@lru_cache(maxsize=2)
def _encoder(location: str, backend: str, append: str) -> Encoder:
    return Encoder(load_vocabulary(location), backend, append=append)  # type: ignore[arg-type]


@lru_cache(maxsize=2)
def _templated(
    location: str, backend: str, append: str, max_tokens: int | None, masked: bool
) -> TemplatedEncoder:
    sizes, prefix = spelling(location) if masked else (None, 0)
    return TemplatedEncoder(
        load_vocabulary(location),
        backend,  # type: ignore[arg-type]
        append=append,  # type: ignore[arg-type]
        max_tokens=max_tokens,
        spelling=None if sizes is None else Spelling(sizes, prefix),
    )


@dataclass(frozen=True, slots=True)
class RunCounter:
    """Counts the tokens of texts with the run's tokenizer, for filters that bound them."""

    location: str
    """Of the tokenizer's stage."""
    backend: str

    def identity(self) -> str:
        """The tokenizer's stage; the libraries that may encode give equal ids."""
        return self.location.rsplit("/", 1)[-1]

    def count(self, texts: pa.LargeStringArray) -> np.ndarray:
        """Tokens of each text, without control tokens: uint32[n]."""
        _, ends = _encoder(self.location, self.backend, "none").encode(texts)
        return np.diff(ends, prepend=0).astype(np.uint32)


@dataclass(frozen=True, slots=True)
class Chats:
    """How conversations become tokens."""

    max_tokens: int | None


@dataclass(frozen=True, slots=True)
class TokensSpec:
    standing: Standing
    """With all steps of dedup."""
    tokenizer: str
    backend: str
    append: str
    chats: Chats | None = None
    """Of a source of conversations."""
    masked: bool = False
    """Whether ids say what is not trained on."""


@dataclass(slots=True)
class Tokenized:
    """The documents of a batch as tokens."""

    ids: np.ndarray
    """As they are written [t]."""
    ends: np.ndarray
    """int64[n]"""
    texts: pa.LargeStringArray
    """What became tokens."""
    is_cut: bool
    """Whether that is less than was read of any document."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """What only some sources count."""


def tokens_task(spec: TokensSpec, outputs: Outputs) -> dict[str, Any]:
    """Tokenize what stays of one split; returns its counts."""
    counts = {"documents": 0, "text_bytes": 0, "tokens": 0, "longest": 0}
    columns = ["id", "text_hash", "text_bytes"]
    split = spec.standing.split
    with (
        outputs.file(name("tokens", split, "bin")) as tokens_path,
        outputs.file(name("index", split, "arrow")) as index_path,
        open(tokens_path, "wb") as tokens,
        tables.arrow_writer(index_path, INDEX_SCHEMA) as index,
    ):
        for batch in texts_of(spec.standing, columns if spec.chats is None else [*columns, "meta"]):
            rows, found = batch.rows, _tokenized(spec, batch)
            arrays.write(tokens, found.ids)
            hashes, sizes = rows.column("text_hash"), rows.column("text_bytes")
            if found.is_cut:
                sizes = pa.array(np.diff(offsets(found.texts)).astype(np.uint32))
                # Conversations that nothing is left of would be held out together, or not, by the text they have.
                fits = pc.greater(sizes, 0) if spec.chats else pa.scalar(True)
                hashes = pc.if_else(fits, text_hashes(found.texts), hashes)
            high, _ = tables.id_halves(hashes)
            lengths = np.diff(found.ends, prepend=found.ends.dtype.type(0))
            counts["longest"] = max(counts["longest"], int(lengths.max(initial=0)))
            ends = found.ends.astype(np.uint64) + np.uint64(counts["tokens"])
            written = [rows.column("id"), pa.array(ends), sizes, pa.array(high)]
            index.write_batch(pa.record_batch(written, schema=INDEX_SCHEMA))
            counts["documents"] += len(found.texts)
            counts["text_bytes"] += int(pc.sum(sizes).as_py() or 0)
            counts["tokens"] += len(found.ids)
            for what, n in found.counts.items():
                counts[what] = counts.get(what, 0) + n
    return counts


def _tokenized(spec: TokensSpec, batch: Texts) -> Tokenized:
    if spec.chats is not None:
        return _conversations(spec, spec.chats, batch)
    ids, ends = _encoder(spec.tokenizer, spec.backend, spec.append).encode(batch.texts)
    if not spec.masked:
        return Tokenized(ids, ends, batch.texts, batch.is_cut)
    flagged = loss_mask.flagged(ids, np.ones(len(ids), bool))
    return Tokenized(flagged, ends, batch.texts, batch.is_cut, {"trained_tokens": len(ids)})


def _conversations(spec: TokensSpec, chats: Chats, batch: Texts) -> Tokenized:
    if batch.is_cut:
        raise TokenizerError(
            f"a step of dedup cut conversations of {spec.standing.source!r}: their marks are lost"
        )
    encoder = _templated(spec.tokenizer, spec.backend, spec.append, chats.max_tokens, spec.masked)
    found = encoder.encode(batch.texts, marks_of(batch.rows.column("meta")))
    read = np.diff(offsets(batch.texts))
    texts, is_cut = batch.texts, bool((found.sizes < read).any())
    if is_cut:
        texts = first_bytes(texts, found.sizes)
    counts = {
        "shortened_chats": int(((found.sizes < read) & (found.sizes > 0)).sum()),
        "too_long_chats": int((found.sizes == 0).sum()),
    }
    if found.trained is None:
        return Tokenized(found.ids, found.ends, texts, is_cut, counts)
    counts["trained_tokens"] = int(found.trained.sum())
    flagged = loss_mask.flagged(found.ids, found.trained)
    return Tokenized(flagged, found.ends, texts, is_cut, counts)


def first_bytes(texts: pa.LargeStringArray, sizes: np.ndarray) -> pa.LargeStringArray:
    """The first bytes of every text, so many."""
    begins = offsets(texts)[:-1]
    data = memoryview(texts.buffers()[2] or b"")
    bounds = zip(begins.tolist(), (begins + sizes).tolist(), strict=True)
    ends = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(sizes, out=ends[1:])
    kept = b"".join([data[a:b] for a, b in bounds])
    return pa.LargeStringArray.from_buffers(len(texts), pa.py_buffer(ends), pa.py_buffer(kept))


@dataclass(frozen=True, slots=True)
class Tokenizing:
    """How a run's documents become tokens."""

    tokenizer: Done
    backend: str
    append: str
    chats: Mapping[str, Chats] = field(default_factory=dict)
    """By source, of those with conversations."""
    masked: bool = False


def request(
    source: str, standings: Sequence[Standing], upstream: Sequence[str], tokenizing: Tokenizing
) -> Request:
    """The stage of a source's tokens; `upstream` are directories of its filters and steps of dedup."""
    first, *steps = upstream
    inputs = (first, tokenizing.tokenizer.stage.directory, *steps)
    chats, masked = tokenizing.chats.get(source), tokenizing.masked
    settings: dict[str, Any] = {"append": tokenizing.append}
    # What a recipe does not ask for is not in the identity of its stages.
    settings |= {} if chats is None else {"chats": {"version": CHATS_VERSION, "max_tokens": chats.max_tokens}}
    settings |= {"loss_mask": True} if masked else {}
    stage = Stage(f"tokens.{source}", VERSION, settings, inputs)
    location = tokenizing.tokenizer.location
    specs = [TokensSpec(s, location, tokenizing.backend, tokenizing.append, chats, masked) for s in standings]
    return Request(stage, [Task(s.standing.split, tokens_task, s) for s in specs])
