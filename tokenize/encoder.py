"""How does a column of texts become token ids, fast, and the same ids as everybody's?

Three libraries can answer. The *reference* says what the ids are: sentencepiece for a SentencePiece model,
Hugging Face tokenizers for a JSON. fastokens is some ten to twenty times faster per CPU second and young, so
the driver lets it prove itself once per run on `PROBES` (`choose_backend`) and falls back to the reference.

Terms: a *control* id (BOS, EOS, padding, ...) belongs to a special added token. Document text never produces
one: text that spells ``</s>`` is encoded as these four characters. BOS and EOS are inserted here alone.
A *backend* is the library that encodes. Letters: n documents, t tokens.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from winnow.tokenize import added_tokens
from winnow.tokenize.probes import PROBES
from winnow.tokenize.sentencepiece_json import tokenizer_json
from winnow.tokenize.source import TokenizerError, TokenizerSource

BackendName = Literal["fastokens", "tokenizers", "sentencepiece"]
Append = Literal["eos", "bos", "both", "none"]

EOS_NAMES = ("<|endoftext|>", "</s>", "<eos>", "<|end_of_text|>", "<｜end▁of▁sentence｜>")
BOS_NAMES = ("<s>", "<bos>", "<|begin_of_text|>", "<｜begin▁of▁sentence｜>")
PAD_NAMES = ("<pad>", "<|padding|>", "<|pad|>", "[PAD]")
"""Names that mark the borders of documents in published tokenizers; the first that is a special added token
is taken. ``<|im_end|>`` and its like end a turn of a chat, not a document: a recipe must name them."""

BATCH_BYTES = 1 << 20
"""UTF-8 bytes handed to a library at a time. A Python string takes at most four bytes per byte of UTF-8, so
strings hold 4 MiB (or four times one longer document), and the reference libraries' ids tens of MB."""
BATCH_DOCS = 1 << 14
"""Documents at a time: a string's header is up to 76 bytes, 1.2 MB in all, however short the texts."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer made ready: all that an encoder in any process needs. Picklable, a few MB."""

    tokenizer_json: bytes
    """UTF-8; truncation, padding and dropout switched off, BOS, EOS and padding marked special."""
    sentencepiece_model: bytes | None
    """The model that decides the ids, where the source is one; else the JSON decides."""
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    size: int
    """Number of entries, added tokens included."""
    max_id: int
    """Largest id; ids may have gaps, so it can exceed size - 1."""
    dtype: Literal["uint16", "uint32"]
    """The narrowest of the two that holds max_id."""
    sha256: str
    """Of ``tokenizer_json``."""
    controls: Mapping[str, int] = field(hash=False)
    """The ids of all control tokens by name, ascending."""

    @property
    def reference(self) -> BackendName:
        """The library whose ids are right by definition."""
        return "tokenizers" if self.sentencepiece_model is None else "sentencepiece"


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """Which library encodes, and why, for the run's record."""

    name: BackendName
    reason: str


def prepare(
    source: TokenizerSource,
    *,
    eos_token: str | None = None,
    bos_token: str | None = None,
    pad_token: str | None = None,
    rename: Mapping[str, str] | None = None,
    add: Sequence[str] = (),
) -> Vocabulary:
    """Read a tokenizer file into a Vocabulary.

    ``eos_token``, ``bos_token`` and ``pad_token`` name an added token each; by default well-known names are looked
    for among the special ones, and an id stays None where there is none (GPT-NeoX has no BOS, Mistral no padding).
    ``rename`` and ``add`` change the control tokens first (added_tokens.py); a role that a well-known name had keeps
    its id under the new one.

    Raises TokenizerError where the file is not a tokenizer or has no added token of the given name, and as
    `added_tokens.remap`.
    """
    content = tokenizer_json(source.content) if source.kind == "sentencepiece" else source.content
    rename = rename or {}
    try:
        document = json.loads(content)
        if rename or add:
            added_tokens.remap(document, rename, add, source.origin)
        entries = added_tokens.entries(document["model"]["vocab"])
        added = {token["content"]: token for token in document["added_tokens"]}
        ids = {*map(int, entries.values()), *(int(token["id"]) for token in added.values())}
        max_id = max(ids)
    except TokenizerError:
        raise
    except (ValueError, KeyError, TypeError):
        raise TokenizerError(f"{source.origin} is not a tokenizer.json") from None
    roles = (
        _pick(added, bos_token, added_tokens.under(rename, BOS_NAMES), source.origin),
        _pick(added, eos_token, added_tokens.under(rename, EOS_NAMES), source.origin),
        _pick(added, pad_token, added_tokens.under(rename, PAD_NAMES), source.origin),
    )
    if _neutralise(document, [added[name] for name in roles if name is not None]) or rename or add:
        content = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    bos_id, eos_id, pad_id = (None if name is None else int(added[name]["id"]) for name in roles)
    vocabulary = Vocabulary(
        tokenizer_json=content,
        sentencepiece_model=source.content if source.kind == "sentencepiece" else None,
        bos_id=bos_id,
        eos_id=eos_id,
        pad_id=pad_id,
        size=len(ids),
        max_id=max_id,
        dtype="uint16" if max_id <= np.iinfo(np.uint16).max else "uint32",
        sha256=hashlib.sha256(content).hexdigest(),
        controls=added_tokens.controls(document),
    )
    if rename or add:
        _check_ids(vocabulary, source.origin)
    return vocabulary


def choose_backend(vocabulary: Vocabulary) -> BackendChoice:
    """fastokens where it loads and gives the reference's ids on every probe, else the reference.

    Run once, by the driver; the workers are told. Never raises for a fault of fastokens.
    """
    reference = vocabulary.reference
    # A recipe's own names are no control tokens in text either.
    own = (f"a{name}b" for name in vocabulary.controls if not any(name in probe for probe in PROBES))
    probes = (*PROBES, *own)
    expected = [ids.tolist() for ids in _each(_backend(vocabulary, reference), probes)]
    reference_name = f"{reference} {version(reference)}"
    try:
        fast_name = f"fastokens {version('fastokens')}"
        found = [ids.tolist() for ids in _each(_backend(vocabulary, "fastokens"), probes)]
    except (KeyboardInterrupt, SystemExit):
        raise
    except ImportError:
        return BackendChoice(reference, f"{reference_name}: fastokens is not installed")
    except BaseException as error:  # a panic in Rust arrives as a BaseException that is no Exception
        return BackendChoice(reference, f"{reference_name}: fastokens failed ({type(error).__name__})")
    for probe, right, got in zip(probes, expected, found, strict=True):
        if right != got:
            reason = f"{reference_name}: {fast_name} gives other ids for {probe[:40]!a}"
            return BackendChoice(reference, reason)
    return BackendChoice("fastokens", f"{fast_name}: same ids as {reference_name} on {len(probes)} probes")


def check_append(vocabulary: Vocabulary, append: Append) -> None:
    """Raises TokenizerError where the vocabulary lacks a control token that ``append`` asks for."""
    if append not in ("eos", "bos", "both", "none"):
        raise TokenizerError(f"append is {append!r}; it must be eos, bos, both or none")
    for role, wanted, token_id in (
        ("bos", append in ("bos", "both"), vocabulary.bos_id),
        ("eos", append in ("eos", "both"), vocabulary.eos_id),
    ):
        if wanted and token_id is None:
            raise TokenizerError(
                f"append is {append!r}, but this tokenizer has no {role.upper()}; set {role}_token"
            )


class Encoder:
    """Texts to ids in one process and one thread. Build it where it works (0.2 s); it does not pickle."""

    def __init__(self, vocabulary: Vocabulary, backend: BackendName, *, append: Append = "eos") -> None:
        """``append`` is what to put around every document; TokenizerError where the vocabulary lacks it."""
        check_append(vocabulary, append)
        self.vocabulary = vocabulary
        self._bos = vocabulary.bos_id if append in ("bos", "both") else None
        self._eos = vocabulary.eos_id if append in ("eos", "both") else None
        self._encode = _backend(vocabulary, backend)
        self._decoder: Any = None

    def encode(self, texts: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray]:
        """Encode every document, BOS and EOS included.

        Parameters
        ----------
        texts : large_string[n]
            No nulls, valid UTF-8; may be a slice.

        Returns
        -------
        ids : uint16[t] or uint32[t], the vocabulary's dtype
            Document i is ``ids[ends[i - 1]:ends[i]]``, the first from 0.
        ends : int64[n]
            Cumulative token counts; an empty document has its BOS and EOS only.

        Memory beside the input: the result twice, at its joining, and one batch (`BATCH_BYTES`,
        `BATCH_DOCS`) of strings and ids.

        Raises TypeError for another column type, TokenizerError for a null, for bytes that are no UTF-8, and
        for an id above max_id (a library that does not fit its vocabulary), before anything is narrowed.
        """
        if not pa.types.is_large_string(texts.type):
            raise TypeError(f"texts must be large_string, not {texts.type}")
        if texts.null_count:
            raise TokenizerError(f"{texts.null_count} of {len(texts)} texts are null")
        ids = [np.empty(0, self.vocabulary.dtype)]
        ends = [np.empty(0, np.int64)]
        n_tokens = 0
        for start, stop in _batches(texts):
            batch_ids, batch_ends = self._encode_batch(texts.slice(start, stop - start))
            ids.append(batch_ids)
            ends.append(batch_ends + n_tokens)
            n_tokens += len(batch_ids)
        return np.concatenate(ids), np.concatenate(ends)

    def decode(self, ids: np.ndarray) -> str:
        """The text that ``ids`` (any integer dtype, one axis) stand for; control tokens show as their names.

        Inverts `encode` up to the tokenizer's own normalisation. Where a window of ids begins or ends inside
        a character its bytes show as U+FFFD, and where the tokenizer puts a space before every text, one
        leading space is taken off the window. Raises TokenizerError for an id that is none.
        """
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) <= self.vocabulary.max_id:
            raise TokenizerError(
                f"ids reach from {ids.min()} to {ids.max()}; the largest is {self.vocabulary.max_id}"
            )
        if self._decoder is None:
            self._decoder = reference_tokenizer(self.vocabulary)
        return self._decoder.decode(ids.tolist(), skip_special_tokens=False)

    def _encode_batch(self, texts: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray]:
        ids, ends = self._encode(_strings(texts))
        if len(ids) and int(ids.max()) > self.vocabulary.max_id:
            raise TokenizerError(
                f"the tokenizer gave id {ids.max()}; the largest is {self.vocabulary.max_id}"
            )
        return surround(ids, ends, bos_id=self._bos, eos_id=self._eos, dtype=self.vocabulary.dtype)


def surround(
    ids: np.ndarray, ends: np.ndarray, *, bos_id: int | None, eos_id: int | None, dtype: str
) -> tuple[np.ndarray, np.ndarray]:
    """Put BOS before and EOS after every document of flat ``ids[t]`` with ``ends[n]``; None puts nothing.

    Returns ids as ``dtype`` and ends as int64. The ids must fit; nothing is checked here.
    """
    extra = (bos_id is not None) + (eos_id is not None)
    new_ends = ends.astype(np.int64) + extra * np.arange(1, len(ends) + 1, dtype=np.int64)
    if not extra:
        return ids.astype(dtype), new_ends
    out = np.empty(len(ids) + extra * len(ends), dtype)
    from_text = np.ones(len(out), bool)
    if bos_id is not None:
        starts = new_ends - np.diff(new_ends, prepend=0)
        out[starts] = bos_id
        from_text[starts] = False
    if eos_id is not None:
        out[new_ends - 1] = eos_id
        from_text[new_ends - 1] = False
    out[from_text] = ids
    return out, new_ends


def _pick(added: dict[str, Any], given: str | None, names: tuple[str, ...], origin: str) -> str | None:
    """The added token for a role. Ordinary pieces are refused: text could spell them."""
    if given is None:
        return next((name for name in names if name in added and added[name].get("special")), None)
    if given not in added:
        some = ", ".join(sorted((name for name in added if name.strip()), key=len)[:8])
        raise TokenizerError(f"{given!r} is not an added token of {origin}; those are: {some or 'none'}")
    return given


def _check_ids(vocabulary: Vocabulary, origin: str) -> None:
    """Raises TokenizerError unless tokenizers gives every control token the id that the file says."""
    loaded = reference_tokenizer(vocabulary)
    for name, token_id in vocabulary.controls.items():
        if (given := loaded.token_to_id(name)) != token_id:
            raise TokenizerError(
                f"add: tokenizers gives {name!r} the id {given}, not {token_id}: {origin} has gaps"
            )


def _neutralise(document: dict[str, Any], controls: list[dict[str, Any]]) -> bool:
    """Switch off what a corpus must not inherit from a published file; True where that changed it.

    Truncation would cut documents silently, dropout would make ids random, and a border token that is not
    marked special would be matched in text.
    """
    before = json.dumps(document)
    document["truncation"] = document["padding"] = None
    if document["model"].get("dropout") is not None:
        document["model"]["dropout"] = None
    for token in controls:
        token["special"] = True
    return json.dumps(document) != before


def _batches(texts: pa.LargeStringArray) -> Iterator[tuple[int, int]]:
    """Row ranges of at most BATCH_DOCS documents and BATCH_BYTES bytes; a longer document goes alone."""
    offsets = np.frombuffer(texts.buffers()[1] or b"", np.int64)[texts.offset : texts.offset + len(texts) + 1]
    start = 0
    while start < len(texts):
        full = int(np.searchsorted(offsets, offsets[start] + BATCH_BYTES, side="right")) - 1
        stop = min(max(full, start + 1), start + BATCH_DOCS, len(texts))
        yield start, stop
        start = stop


def _strings(texts: pa.LargeStringArray) -> list[str]:
    """As Python strings, through an object array: ten times faster than to_pylist's scalar for each text."""
    try:
        return texts.to_numpy(zero_copy_only=False).tolist()
    except MemoryError:
        raise
    except (pa.ArrowException, UnicodeDecodeError):
        pass  # raised below, outside: these errors quote the text, and a cause would carry it along
    raise TokenizerError("a text is not valid UTF-8; its reader must check")


BatchEncode = Callable[[list[str]], tuple[np.ndarray, np.ndarray]]
"""Texts to (uint32[t] ids, int64[n] ends), without BOS and EOS."""


def _backend(vocabulary: Vocabulary, name: BackendName) -> BatchEncode:
    # Read by the libraries when they are loaded or first used; Ray gives an encoder one core.
    os.environ["FASTOKENS_BPE_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if name == "fastokens":
        return _fastokens(vocabulary)
    if name == "tokenizers":
        return _tokenizers(vocabulary)
    if name == "sentencepiece" and vocabulary.sentencepiece_model is not None:
        return _sentencepiece(vocabulary.sentencepiece_model)
    raise TokenizerError(f"no backend {name!r} for this tokenizer; its reference is {vocabulary.reference!r}")


def _fastokens(vocabulary: Vocabulary) -> BatchEncode:
    import fastokens

    tokenizer = fastokens.Tokenizer.from_json_str(vocabulary.tokenizer_json.decode())

    def encode(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        ids, offsets = tokenizer.encode_batch_flat(texts, False, split_special_tokens=True)
        return np.frombuffer(ids, "<u4"), np.frombuffer(offsets, "<u8")[1:].astype(np.int64)

    return encode


def _tokenizers(vocabulary: Vocabulary) -> BatchEncode:
    tokenizer = reference_tokenizer(vocabulary)

    def encode(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        return _flatten([e.ids for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)])

    return encode


def _sentencepiece(model: bytes) -> BatchEncode:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return lambda texts: _flatten(processor.encode(texts, num_threads=1))


def reference_tokenizer(vocabulary: Vocabulary) -> Any:
    """Hugging Face's tokenizer, for which text that spells a control token is text. Raises TokenizerError."""
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_str(vocabulary.tokenizer_json.decode())
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError(
            f"tokenizers {version('tokenizers')} cannot load this tokenizer: {error}"
        ) from None
    tokenizer.encode_special_tokens = True
    return tokenizer


def _flatten(lists: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    ends = np.cumsum([len(ids) for ids in lists], dtype=np.int64)
    n_tokens = int(ends[-1]) if len(ends) else 0
    return np.fromiter(itertools.chain.from_iterable(lists), np.uint32, count=n_tokens), ends


def _each(encode: BatchEncode, texts: tuple[str, ...]) -> list[np.ndarray]:
    """The ids of every text, apart."""
    ids, ends = encode(list(texts))
    return np.split(ids, ends[:-1])
