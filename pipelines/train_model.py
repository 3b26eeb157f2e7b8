"""What does the reference model compute?

A decoder in MPT's manner: x + attention(norm(x)), x + feed-forward(norm(x)), a last norm, and logits against the
embedding. No bias, no dropout. Imports torch, so it is imported inside functions only.

**Positions are ALiBi's** (Press et al., arXiv:2108.12409; MPT's choice): the score of a key falls by `slope` for every
token that it lies back. It needs no parameters, learns from few tokens, and knows distances only, so that positions
start anew in every document of a row by themselves. A query's scores may be shifted by a constant, so
-slope · (i - j) is as good as slope · j, which belongs to the key alone: eight more columns of queries and keys carry
it into the fused causal kernel, where a matrix of biases takes half as long again (measured on a CPU, 2,048 tokens).
j is split into two parts below 256, which bfloat16 holds exactly, up to 65,536 tokens.

Letters: B rows, L tokens a row, V ids, H heads, D width of a head.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from winnow.pipelines.train_settings import Shape

EXTRA = 8
"""Columns added to a head for positions, of which two are used: kernels want a multiple of eight."""
STANDARD_DEVIATION = 0.02
"""Of initial weights; those that write to the residual stream are divided by sqrt(2 · layers) (GPT-2)."""
MOST_TOKENS = 1 << 16
"""Per row: positions are exact up to here."""


class Decoder(nn.Module):
    """tokens int64[B, L] -> float[B, L, width], and `logits` of that."""

    def __init__(self, shape: Shape, vocabulary: int):
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(vocabulary, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width, bias=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                down = name.endswith(("out.weight", "down.weight"))
                scale = (2 * shape.layers) ** -0.5 if down else 1.0
                nn.init.normal_(weight, std=STANDARD_DEVIATION * scale)

    def forward(self, tokens: torch.Tensor, documents: torch.Tensor | None = None) -> torch.Tensor:
        """With `documents` int64[B, L], a token attends to those of its own document."""
        length = tokens.shape[1]
        keys = position_columns(length, tokens.device)
        mask = None if documents is None else within_documents(documents)
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, keys, mask)
        return self.norm(x)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """float[..., width] -> float[..., V]"""
        return F.linear(hidden, self.embedding.weight)


class Block(nn.Module):
    """One layer of the decoder."""

    def __init__(self, shape: Shape):
        super().__init__()
        width = shape.width
        self.heads = shape.heads
        self.first_norm = nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.second_norm = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)
        self.register_buffer("slopes", slopes(shape.heads), persistent=False)

    def forward(self, x: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        x = x + self.out(self._attend(self.first_norm(x), keys, mask))
        return x + self.down(F.gelu(self.up(self.second_norm(x))))

    def _attend(self, x: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        rows, length, width = x.shape
        head = width // self.heads
        q, k, v = (
            part.view(rows, length, self.heads, head).transpose(1, 2)
            for part in self.qkv(x).split(width, dim=-1)
        )
        # The score is scaled here, so that the kernel does not scale the positions.
        q = torch.cat([q * head**-0.5, self._query_columns(q)], -1)
        k = torch.cat([k, keys.to(k.dtype).expand(rows, self.heads, length, EXTRA)], -1)
        v = F.pad(v, (0, EXTRA))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=1.0)
        return mixed[..., :head].transpose(1, 2).reshape(rows, length, width)

    def _query_columns(self, q: torch.Tensor) -> torch.Tensor:
        assert isinstance(self.slopes, torch.Tensor)
        slope = self.slopes.to(q.dtype)[:, None]
        columns = F.pad(torch.cat([slope * 256, slope], -1), (0, EXTRA - 2))
        return columns[None, :, None].expand(*q.shape[:3], EXTRA)


def slopes(heads: int) -> torch.Tensor:
    """float32[H]: 2^(-8/H), 2^(-16/H), …, 2^-8."""
    return torch.tensor([2.0 ** (-8 * (h + 1) / heads) for h in range(heads)])


def position_columns(length: int, device: torch.device) -> torch.Tensor:
    """What keys carry: float32[L, EXTRA] with j // 256 and j % 256 in the first two columns."""
    if length > MOST_TOKENS:
        raise ValueError(f"positions are exact up to {MOST_TOKENS:,} tokens a row, not {length:,}")
    j = torch.arange(length, device=device)
    return F.pad(torch.stack([j // 256, j % 256], -1).float(), (0, EXTRA - 2))


def within_documents(documents: torch.Tensor) -> torch.Tensor:
    """bool[B, 1, L, L]: may token i attend to token j?"""
    same = documents[:, :, None] == documents[:, None, :]
    return same.tril()[:, None]


def token_nats(model: Decoder, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """-ln of the probability of each target, float32[n], for hidden [n, width]; targets int64[n]."""
    return F.cross_entropy(model.logits(hidden).float(), targets, reduction="none")
