"""Which tokens is a model trained on, and where is that kept between the tokenizer and the shards?

The column `loss_mask` of a shard says 1 for a token that is trained on, and 0 for a chat's prompt and for padding. On
the way there it is the highest bit of the ids, which are uint32 then: no vocabulary is so large, and whatever moves
tokens moves it along.
"""

from __future__ import annotations

import numpy as np

COLUMN = "loss_mask"
NOT_TRAINED = np.uint32(1 << 31)
"""Set on tokens that are not trained on."""


def flagged(ids: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """uint32[…]: ids of any unsigned type, with `NOT_TRAINED` where `trained` (of the same shape) is false."""
    return ids.astype(np.uint32) | np.where(trained, np.uint32(0), NOT_TRAINED)


def ids_of(tokens: np.ndarray) -> np.ndarray:
    """The ids of tokens with or without the mask's bit, in their type."""
    return tokens & ~NOT_TRAINED if tokens.dtype == np.uint32 else tokens


def mask_of(tokens: np.ndarray) -> np.ndarray:
    """uint8[…]: the column of flagged tokens."""
    return (tokens < NOT_TRAINED).astype(np.uint8)
