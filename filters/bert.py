"""What does a BERT-family model say of tokens, when documents are laid end to end and nothing is padding?

The checkpoint's own weights go through a forward of our own (BERT: Devlin et al. 2019, arXiv:1810.04805; RoBERTa:
Liu et al. 2019, arXiv:1907.11692, counts positions from 2). All that is done token by token runs over the real tokens
of all documents at once; attention stays within a document and costs what its real length costs:

- on CUDA, in half precision, torch's varlen_attn (FlashAttention 2) over all documents;
- on a CPU, documents of one length at a time: in float32 torch's scaled_dot_product_attention; in bfloat16 two batched
  products and a softmax, which take half the time (torch 2.13, AMD EPYC with avx512_bf16). Linear layers use oneDNN
  with weights packed once, when they are loaded: there in float32 twice as fast as what torch takes otherwise.

Letters: n documents, t tokens of all of them, d width.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FIRST_POSITION = {"bert": 0, "roberta": 2, "xlm-roberta": 2}
"""Model type -> position of a document's first token. RoBERTa gives its padding token, id 1, position 1 and counts the
others from 2, also where a text spells "<pad>"."""
ACTIVATIONS = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
"""`hidden_act` -> torch's name for how GELU is approximated."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
ROWS = 64
"""On a CPU the rows of a product are a multiple of this: oneDNN compiles anew for every shape it meets."""
SCORES = 1 << 20
"""Attention scores that are held at once on a CPU: 2 MiB, which stay in its caches."""
LARGEST_HEAD = 256
"""Of FlashAttention 2, which also wants a multiple of 8 (rubert-tiny2 has 26)."""
LONGEST_SCORED = 1024
"""Tokens of a document whose scores are held; a longer one's never are (scaled_dot_product_attention)."""


class NotPackedError(ValueError):
    """A checkpoint that this forward does not know; transformers may."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a model's config.json the forward needs."""

    layers: int
    heads: int
    width: int
    inner: int
    epsilon: float
    approximate: str
    positions: int
    first_position: int

    @classmethod
    def of(cls, config: dict[str, Any]) -> Shape:
        """Raises NotPackedError, with the reason, for a model that differs from those named above."""
        kind = config.get("model_type")
        if kind not in FIRST_POSITION:
            raise NotPackedError(f"model_type is {kind}")
        if config.get("position_embedding_type", "absolute") != "absolute":
            raise NotPackedError(f"position_embedding_type is {config['position_embedding_type']}")
        if config.get("hidden_act") not in ACTIVATIONS:
            raise NotPackedError(f"hidden_act is {config.get('hidden_act')}")
        if config.get("is_decoder") or config.get("add_cross_attention"):
            raise NotPackedError("it is a decoder")
        if kind != "bert" and config.get("pad_token_id", 1) != FIRST_POSITION[kind] - 1:
            raise NotPackedError(f"pad_token_id is {config['pad_token_id']}")
        first = FIRST_POSITION[kind]
        try:
            return cls(
                layers=config["num_hidden_layers"],
                heads=config["num_attention_heads"],
                width=config["hidden_size"],
                inner=config["intermediate_size"],
                epsilon=config["layer_norm_eps"],
                approximate=ACTIVATIONS[config["hidden_act"]],
                positions=config["max_position_embeddings"] - first,
                first_position=first,
            )
        except KeyError as missing:
            raise NotPackedError(f"its config.json has no {missing}") from None


class Bert:
    """A model's weights on a device."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype) -> None:
        """Read config.json and the weights of `folder`.

        Raises NotPackedError for another kind of model, or where weights are missing, named otherwise or of other
        shapes.
        """
        import torch

        self.shape = shape = Shape.of(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        self.dimensions = shape.width
        self.device = device
        self.dtype = dtype
        per_layer = 4 * shape.width * shape.width + 2 * shape.width * shape.inner
        self.token_flops = 2.0 * shape.layers * per_layer
        """Of one token, but for attention."""
        self.pair_flops = 4.0 * shape.layers * shape.width
        """Of one pair of tokens in attention."""
        weights = _Weights(_read(folder), device, dtype)
        try:
            self._words = weights.take("embeddings.word_embeddings.weight")
            # All of a document is of type 0: its vector is added to the positions' once and for all.
            self._positions = weights.take("embeddings.position_embeddings.weight", torch.float32)
            self._positions += weights.take("embeddings.token_type_embeddings.weight", torch.float32)[0]
            self._positions = self._positions.to(dtype)
            self._norm = weights.norm("embeddings.LayerNorm")
            self._layers = [_Layer(weights, f"encoder.layer.{i}", shape) for i in range(shape.layers)]
        except KeyError as missing:
            raise NotPackedError(f"its weights have no {missing}") from None
        if (
            self._words.shape[1] != shape.width
            or len(self._positions) != shape.positions + shape.first_position
        ):
            raise NotPackedError("its weights have other shapes than its config.json says")
        self._attend = _attention(device, dtype, shape.width // shape.heads)

    def hidden(self, ids: np.ndarray, lengths: np.ndarray) -> Tensor:
        """The last layer's vector of every token, in the model's dtype: [t, d], of documents of at least one token.

        `ids` are int32[t], `lengths` int64[n]. Raises ValueError for a document longer than the model has positions.
        """
        import torch
        from torch.nn.functional import embedding, layer_norm

        shape = self.shape
        if lengths.max() > shape.positions:
            raise ValueError(f"a document has {lengths.max()} tokens; the model reads {shape.positions}")
        positions = _positions(ids, lengths, shape.first_position)
        empty = -len(ids) % ROWS if self.device == "cpu" else 0
        if empty:
            ids, positions = np.pad(ids, (0, empty)), np.pad(positions, (0, empty))
        x = embedding(torch.from_numpy(ids).to(self.device), self._words)
        x += embedding(torch.from_numpy(positions).to(self.device), self._positions)
        x = layer_norm(x, (shape.width,), *self._norm, shape.epsilon)
        attend = self._attend(lengths, shape)
        for layer in self._layers:
            x = layer.forward(x, attend)
        return x[: len(ids) - empty]


def _positions(ids: np.ndarray, lengths: np.ndarray, first: int) -> np.ndarray:
    """Rows of the table of positions, int32[t]."""
    starts = np.cumsum(lengths, dtype=np.int32) - lengths.astype(np.int32)
    if not first:
        return np.arange(len(ids), dtype=np.int32) - np.repeat(starts, lengths)
    counted = ids != first - 1
    count = np.cumsum(counted, dtype=np.int32)
    before = (count - counted)[starts]
    return np.where(counted, count - np.repeat(before, lengths), 0).astype(np.int32) + np.int32(first - 1)


class _Layer:
    """Attention, then two linear layers, each followed by its LayerNorm."""

    def __init__(self, weights: _Weights, name: str, shape: Shape) -> None:
        self._shape = shape
        own = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
        self._qkv = weights.linear(own)
        self._out = weights.linear([f"{name}.attention.output.dense"])
        self._out_norm = weights.norm(f"{name}.attention.output.LayerNorm")
        self._up = weights.linear([f"{name}.intermediate.dense"], shape.approximate)
        self._down = weights.linear([f"{name}.output.dense"])
        self._down_norm = weights.norm(f"{name}.output.LayerNorm")

    def forward(self, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        from torch.nn.functional import layer_norm

        shape = self._shape
        qkv = self._qkv(x).view(len(x), 3, shape.heads, shape.width // shape.heads)
        x = self._out(attend(qkv).view(len(x), shape.width)).add_(x)
        x = layer_norm(x, (shape.width,), *self._out_norm, shape.epsilon)
        y = self._down(self._up(x)).add_(x)
        return layer_norm(y, (shape.width,), *self._down_norm, shape.epsilon)


Attention = Callable[[np.ndarray, Shape], Callable[["Tensor"], "Tensor"]]
"""From the documents' lengths to what takes queries, keys and values [t, 3, heads, d / heads] to [t, heads, ...]."""


def _attention(device: str, dtype: torch.dtype, size: int) -> Attention:
    """The attention for a device, and for heads of a size."""
    import torch

    if device == "cpu" or dtype == torch.float32 or size % 8 or size > LARGEST_HEAD:
        return _attend_by_length
    if torch.cuda.get_device_capability(device) >= (8, 0):
        try:
            from torch.nn.attention.varlen import varlen_attn
        except ImportError:  # before torch 2.10
            return _attend_by_length
        return lambda lengths, shape: _attend_at_once(varlen_attn, lengths, device)
    return _attend_by_length


def _attend_at_once(varlen_attn: Any, lengths: np.ndarray, device: str) -> Callable[[Tensor], Tensor]:
    import torch

    edges = torch.from_numpy(np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)).to(device)
    longest = int(lengths.max())

    def attend(qkv: Tensor) -> Tensor:
        return varlen_attn(*qkv.unbind(1), edges, edges, longest, longest)

    return attend


def _attend_by_length(lengths: np.ndarray, shape: Shape) -> Callable[[Tensor], Tensor]:
    """Neighbours of one length go together: callers bring documents in order of length."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    changes = np.flatnonzero(np.diff(lengths)) + 1
    groups = list(pairwise([0, *changes.tolist(), len(lengths)]))
    size = shape.width // shape.heads
    scale = 1 / math.sqrt(size)

    def attend(qkv: Tensor) -> Tensor:
        found = torch.empty_like(qkv[:, 0], memory_format=torch.contiguous_format)
        scored = qkv.dtype == torch.bfloat16 and qkv.device.type == "cpu"
        row = 0
        for first, end in groups:
            length = int(lengths[first])
            many = max(1, SCORES // (shape.heads * length * length)) if scored else end - first
            for start in range(first, end, many):
                n = min(many, end - start)
                rows = slice(row, row + n * length)
                row += n * length
                q, k, v = qkv[rows].view(n, length, 3, shape.heads, size).permute(2, 0, 3, 1, 4)
                if scored and length <= LONGEST_SCORED:
                    y = _scored(q, k, v, scale)
                else:
                    y = scaled_dot_product_attention(q, k, v, scale=scale)
                found[rows].view(n, length, shape.heads, size).copy_(y.transpose(1, 2))
        return found

    return attend


def _scored(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(q kT) v with the scores in memory, for [n, heads, length, d / heads]."""
    import torch

    n, heads, length, size = q.shape
    q, k, v = (part.reshape(n * heads, length, size) for part in (q * scale, k, v))
    scores = torch.bmm(q, k.transpose(1, 2))
    return torch.bmm(torch.softmax(scores, -1), v).view(n, heads, length, size)


def _read(folder: Path) -> dict[str, Tensor]:
    """Name -> weight, without what stands before the model's own names (``bert.``, ``roberta.``)."""
    import torch

    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise NotPackedError(f"it has none of {', '.join(WEIGHTS)}")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        found = load_file(path)
    else:
        found = torch.load(path, map_location="cpu", weights_only=True)
    last = "embeddings.word_embeddings.weight"
    prefix = next((name.removesuffix(last) for name in found if name.endswith(last)), "")
    # The oldest checkpoints of BERT call a LayerNorm's two vectors gamma and beta.
    return {
        name.removeprefix(prefix)
        .replace("Norm.gamma", "Norm.weight")
        .replace("Norm.beta", "Norm.bias"): weight
        for name, weight in found.items()
        if name.startswith(prefix)
    }


class _Weights:
    """A checkpoint's weights, as they go to a device."""

    def __init__(self, found: dict[str, Tensor], device: str, dtype: torch.dtype) -> None:
        self._found = found
        self._device = device
        self._dtype = dtype

    def take(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        return self._found[name].to(self._device, dtype or self._dtype, copy=True)

    def norm(self, name: str) -> tuple[Tensor, Tensor]:
        return self.take(f"{name}.weight"), self.take(f"{name}.bias")

    def linear(self, names: list[str], gelu: str | None = None) -> Callable[[Tensor], Tensor]:
        """One product for the layers of these names, on end; with GELU after it where `gelu` says which."""
        import torch

        weight = torch.cat([self.take(f"{name}.weight") for name in names])
        bias = torch.cat([self.take(f"{name}.bias") for name in names])
        if self._device == "cpu" and _prepacks(self._dtype):
            return _prepacked(weight, bias, gelu)
        return _plain(weight, bias, gelu)


def _prepacks(dtype: torch.dtype) -> bool:
    """Whether this torch packs weights for oneDNN on this CPU.

    The operations are those that torch's own compiler emits; on Arm other kernels stand behind them.
    """
    import torch

    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or (
        dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def _prepacked(weight: Tensor, bias: Tensor, gelu: str | None) -> Callable[[Tensor], Tensor]:
    import torch

    packed = torch.ops.mkldnn._reorder_linear_weight(weight, 2048)
    linear = torch.ops.mkldnn._linear_pointwise
    attribute = "none" if gelu is None else "gelu"
    return lambda x: linear(x, packed, bias, attribute, [], gelu)


def _plain(weight: Tensor, bias: Tensor, gelu: str | None) -> Callable[[Tensor], Tensor]:
    from torch.nn.functional import gelu as activate
    from torch.nn.functional import linear

    if gelu is None:
        return lambda x: linear(x, weight, bias)
    return lambda x: activate(linear(x, weight, bias), approximate=gelu)
