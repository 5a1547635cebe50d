"""ByteEmbedding: a learned embedding of a text's UTF-8 bytes, the text encoder without download or vocabulary.

Token-free text as in "ByT5: Towards a Token-Free Future with Pre-trained Byte-to-Byte Models", Linting Xue,
Aditya Barua, Noah Constant, Rami Al-Rfou, Sharan Narang, Mihir Kale, Adam Roberts, Colin Raffel, 2021,
arXiv:2105.13626, without its transformer:
    h_i = E[b_i] + P_i,  tokens_i = h_i + gelu(conv_5(h))_i,  and the backbone's attention does the rest.
The convolution is what tells 'tab' from 'bat' in the pooled vector: a mean of E and P alone forgets the order.
It trains with the backbone: give its parameters to the optimiser. Cost: (257 + length) dim + 5 dim^2 weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core.errors import OrnsteinError

__all__ = ["ByteEmbedding"]

END = 256  # a text's end; it makes the empty text one token long


class ByteEmbedding(nn.Module):
    """Texts -> {'tokens' [B, length, dim], 'mask' [B, length] bool, 'pooled' [B, dim]}; trainable.

    dim: width of the tokens. length: bytes kept, the end mark included; longer texts are cut (default: most captions).
    """

    def __init__(self, dim: int = 128, length: int = 48) -> None:
        super().__init__()
        if dim < 1 or length < 2:
            raise OrnsteinError(f"dim={dim}, length={length} leave no room", "Give dim >= 1 and length >= 2.")
        self.dim, self.length = dim, length
        self.embedding = nn.Embedding(END + 1, dim)
        self.positions = nn.Parameter(0.02 * torch.randn(length, dim))
        self.mixing = nn.Conv1d(dim, dim, 5, padding=2)

    def forward(self, inputs: Sequence[str]) -> dict[str, Tensor]:
        """Encode texts; tokens at padded places are zero and do not reach the others."""
        device = self.positions.device
        ids = torch.zeros(len(inputs), self.length, dtype=torch.long)
        mask = torch.zeros(len(inputs), self.length, dtype=torch.bool)
        for row, text in enumerate(inputs):
            if not isinstance(text, str):
                raise OrnsteinError(f"ByteEmbedding encodes text, not {type(text).__name__}", "Give a list of strings.")
            found = [*text.encode("utf-8", "replace")[: self.length - 1], END]
            ids[row, : len(found)] = torch.tensor(found)
            mask[row, : len(found)] = True
        ids, mask = ids.to(device), mask.to(device)
        h = (self.embedding(ids) + self.positions) * mask[..., None]
        tokens = (h + F.gelu(self.mixing(h.transpose(1, 2))).transpose(1, 2)) * mask[..., None]
        return {"tokens": tokens, "mask": mask, "pooled": tokens.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)}

    def null(self, batch: int) -> dict[str, Tensor]:
        """The unconditional condition: zeros with ONE valid (zero) token; it is not trained."""
        like = self.positions
        mask = torch.zeros(batch, self.length, dtype=torch.bool, device=like.device)
        mask[:, :1] = True
        tokens = torch.zeros(batch, self.length, self.dim, dtype=like.dtype, device=like.device)
        return {"tokens": tokens, "mask": mask, "pooled": tokens[:, 0].clone()}
