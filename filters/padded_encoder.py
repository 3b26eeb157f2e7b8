"""What does any other Hugging Face model say of tokens?

The model is whatever transformers' AutoModel makes of a folder, code from the folder never runs, and nothing is
fetched. The documents of a batch are padded at their ends to the longest of them; callers bring documents of near
lengths.

Letters: n documents, t tokens of all of them, d width.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from winnow.filters.encoder_files import EncoderError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_POOLER = re.compile(r"\bpooler\b")
"""A layer that some models put on the first token's vector; it is not used."""


class PaddedEncoder:
    """A model on a device."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype) -> None:
        """Load it. Raises EncoderError where transformers cannot, or where weights are missing."""
        from torch import nn
        from transformers import AutoModel

        try:
            model, report = AutoModel.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False, output_loading_info=True
            )
        except (OSError, ValueError, ImportError) as error:
            raise EncoderError(f"transformers cannot load the encoder in {folder}: {error}") from error
        # transformers makes up what a checkpoint lacks; the pooler is not used.
        if missing := sorted(name for name in report["missing_keys"] if not _POOLER.search(name)):
            raise EncoderError(f"the encoder in {folder} has no weights for {', '.join(missing)}")
        config = model.config
        # A decoder would keep every layer's keys and values until the batch is done, and ModernBERT compile itself.
        config.use_cache = False
        if hasattr(config, "reference_compile"):
            config.reference_compile = False
        self._model = model.to(device=device, dtype=dtype).eval()
        self._padding = config.pad_token_id or 0
        self.device = device
        self.dtype = dtype
        looked_up = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        multiplied = [
            weight.numel()
            for name, weight in model.named_parameters()
            if weight.ndim > 1 and id(weight) not in looked_up and not _POOLER.search(name)
        ]
        self.token_flops = 2.0 * sum(multiplied)
        """Of one token, but for attention."""
        self.pair_flops = 4.0 * config.num_hidden_layers * config.hidden_size
        """Of one pair of tokens in attention."""

    def hidden(self, ids: np.ndarray, lengths: np.ndarray) -> Tensor:
        """The last layer's vector of every token, in the model's dtype: [t, d], of documents of at least one token.

        `ids` are int32[t], `lengths` int64[n].
        """
        import torch

        real = np.arange(lengths.max()) < lengths[:, None]
        padded = np.full(real.shape, self._padding, np.int64)
        padded[real] = ids
        mask = torch.from_numpy(real).to(self.device)
        found = self._model(
            input_ids=torch.from_numpy(padded).to(self.device), attention_mask=mask.to(torch.int64)
        )
        return found.last_hidden_state[mask]
