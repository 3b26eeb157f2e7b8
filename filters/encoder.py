"""What vector does an encoder give each document of a batch of tokens?

A checkpoint of the BERT family runs without padding (bert.py), any other model that transformers knows padded
(padded_encoder.py). Either gives a vector for each token; pooling them to one of length 1 is done here, in float32.

On a CPU a batch goes through in order of length, some 2,048 tokens at a time, so that what one layer leaves is still in
the processor's caches when the next one reads it. A batch's vectors depend on the batch, the device, the dtype and the
number of torch's threads, in the last digits.

Memory: the weights, twice while they are loaded; on a GPU some 20 bytes for each token of a batch and each dimension,
in half precision (the batch is the caller's to bound); on a CPU tens of MB.

Letters: n documents, t tokens of all of them, d dimensions.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from winnow.filters.bert import Bert, NotPackedError
from winnow.filters.encoder_files import EncoderError
from winnow.filters.padded_encoder import PaddedEncoder

if TYPE_CHECKING:
    import torch
    from torch import Tensor

POOLINGS = ("mean", "cls", "last")
CPU_TOKENS = 2048
"""Tokens that go through a model at once on a CPU, or one document."""
PROBE = 8
"""Tokens of the document that a model is tried on when it is loaded."""
_loading = Lock()
"""A cache alone would let two threads load one model at once."""
_FULL = ("ALLOC_FAILED", "not enough memory", "can't allocate memory", "out of memory")


class OutOfMemory(RuntimeError):
    """The device has no room for a batch."""


class Encoder:
    """A model on a device; `load` gives each process one copy of it."""

    def __init__(self, folder: str, pooling: str, device: str, dtype: str) -> None:
        """Load it, and try it on a few tokens.

        Raises ValueError for a pooling or dtype that there is not, and EncoderError where transformers cannot load the
        model, its weights are not all there, or it gives no numbers.
        """
        if pooling not in POOLINGS:
            raise ValueError(f"pooling is one of {', '.join(POOLINGS)}, not {pooling!r}")
        self.device = device
        self.dtype = fastest_dtype(device) if dtype == "auto" else dtype
        self._pooling = pooling
        self._model = _model(Path(folder), device, _torch_dtype(self.dtype))
        probe = self._hidden(np.arange(PROBE, dtype=np.int32), np.array([PROBE]))
        if not probe.isfinite().all():
            raise EncoderError(f"the encoder in {folder} gives no numbers in {self.dtype}")
        self.dimensions: int = probe.shape[1]

    def flops(self, lengths: np.ndarray) -> float:
        """Floating-point operations that the model needs for documents of these lengths, int64[n].

        Two for each weight that a token is multiplied with, and attention's; padding is not counted.
        """
        tokens = lengths.astype(np.float64)
        return float(self._model.token_flops * tokens.sum() + self._model.pair_flops * (tokens**2).sum())

    def vectors(self, ids: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Each document's vector, float32[n, d] of length 1, all zeros for a document without tokens.

        `ids`, int32[t], are the documents' tokens on end, the model's control tokens among them; document i ends
        before ``ids[ends[i]]``, ends int64[n]. A document that the model gives no numbers for in its dtype gets zeros.

        Raises
        ------
        OutOfMemory
            The device has no room for the batch; it may have for a smaller one.
        ValueError
            A document has more tokens than the model reads.
        """
        lengths = np.diff(ends, prepend=0)
        found = np.zeros((len(ends), self.dimensions), np.float32)
        try:
            for chosen in self._forwards(lengths):
                own = lengths[chosen]
                hidden = self._hidden(_taken(ids, ends[chosen] - own, own), own)
                found[chosen] = _unit(_pooled(hidden, own, self._pooling)).cpu().numpy()
        except RuntimeError as error:
            if not _is_full(error):
                raise
            self._forget()
            raise OutOfMemory(f"{len(ids)} tokens do not fit on {self.device}: {error}") from error
        return found

    def _forwards(self, lengths: np.ndarray) -> list[np.ndarray]:
        """Which documents go through together; those without tokens are left out."""
        if self.device == "cpu":
            return _forwards(lengths, CPU_TOKENS)
        there = np.flatnonzero(lengths)
        return [there] if len(there) else []

    def _hidden(self, ids: np.ndarray, lengths: np.ndarray) -> Tensor:
        import torch

        with torch.inference_mode():
            return self._model.hidden(ids, lengths)

    def _forget(self) -> None:
        """Give back what torch keeps of the device's memory, so that a smaller batch finds it in one piece."""
        if self.device != "cpu":
            import torch

            with suppress(RuntimeError):
                torch.cuda.empty_cache()


def load(folder: str, pooling: str, device: str, dtype: str) -> Encoder:
    """The encoder of a folder, loaded at the first call in a process and kept. `device`: "cpu" or "cuda".

    Any thread may call it. Raises what `Encoder` raises.
    """
    with _loading:
        return _loaded(folder, pooling, device, dtype)


@cache
def _loaded(folder: str, pooling: str, device: str, dtype: str) -> Encoder:
    return Encoder(folder, pooling, device, dtype)


def fastest_dtype(device: str) -> str:
    """What a device multiplies fastest at no loss that matters: `dtype: auto`.

    A CPU without instructions for bfloat16 takes many times longer with it than with float32.
    """
    if device == "cpu":
        return "bfloat16" if _cpu_flags() & {"avx512_bf16", "amx_bf16"} else "float32"
    import torch

    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def _cpu_flags() -> set[str]:
    """Names of the instruction sets that this machine's processor has, as Linux lists them."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("flags"):
                return set(line.split())
    return set()


def _torch_dtype(name: str) -> torch.dtype:
    import torch

    found = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in found:
        raise ValueError(f"dtype is auto or one of {', '.join(found)}, not {name!r}")
    return found[name]


def _model(folder: Path, device: str, dtype: torch.dtype) -> Bert | PaddedEncoder:
    try:
        return Bert(folder, device, dtype)
    except NotPackedError:
        return PaddedEncoder(folder, device, dtype)


def _forwards(lengths: np.ndarray, most: int | None) -> list[np.ndarray]:
    """Which documents go through together, shortest first: of at most `most` tokens, or one document.

    Those without tokens are left out.
    """
    order = np.argsort(lengths, kind="stable")
    order = order[np.searchsorted(lengths[order], 1) :]
    if most is None:
        return [order] if len(order) else []
    found, first, tokens = [], 0, 0
    for i, length in enumerate(lengths[order].tolist()):
        if i > first and tokens + length > most:
            found.append(order[first:i])
            first, tokens = i, 0
        tokens += length
    return [*found, order[first:]] if len(order) else []


def _pooled(hidden: Tensor, lengths: np.ndarray, pooling: str) -> Tensor:
    """One vector for each document, float32 [n, d], from its tokens' [t, d]."""
    import torch
    from torch.nn.functional import embedding_bag

    ends = torch.from_numpy(np.cumsum(lengths)).to(hidden.device)
    if pooling == "last":
        return hidden[ends - 1].float()
    starts = ends - torch.from_numpy(lengths).to(hidden.device)
    if pooling == "cls":
        return hidden[starts].float()
    rows = torch.arange(len(hidden), device=hidden.device)
    return embedding_bag(rows, hidden.float(), starts, mode="mean")


def _unit(vectors: Tensor) -> Tensor:
    """At length 1; zeros where there is no number."""
    from torch.nn.functional import normalize

    return normalize(vectors, dim=1).nan_to_num(0.0, 0.0, 0.0)


def _is_full(error: RuntimeError) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _FULL)


def _taken(ids: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The tokens of documents that begin at `starts`, on end."""
    ends = np.cumsum(lengths)
    if len(starts) and ends[-1] == len(ids) and (starts == ends - lengths).all():
        return ids
    return ids[np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)]
