r"""Weighted prompts: '(red apple:1.3) on snow' makes the states of some tokens larger or smaller, about their mean.

The syntax is common usage among people who draw from text, and has no publication; layers/weights.py reads it. With h_i the
token states of the prompt as any text encoder gives them, w_i the weight of the piece in which token i stands, 1 at marks,

    h_i' = c + w_i (h_i - c),      c = mean_i h_i   (about='mean')   or the state of the null condition   (about='null'),

and the pooled vector, which for both encoders of the house is a mean of states, is the mean of h', of its former length:
it turns towards what weighs more. Which token belongs to which piece is counted on the prompt's beginnings, so that any
encoder that marks its tokens will do. Costs a second encoding, of those beginnings, for prompts that have weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError, unknown

from .layers.weights import pieces

__all__ = ["Weighted"]

CENTRES = ("mean", "null")


@dataclass(frozen=True)
class Weighted:
    """Prompts with weights -> what the encoder gives, its states weighted. A prompt without weights, or with weights of 1,
    is encoded bit for bit as by the encoder itself."""

    encoder: Any = "minilm"  # a text encoder, or its name and settings in conditioning/
    about: str = "mean"  # the state that weights pull towards (below 1) or push from: 'mean' of the prompt's, or 'null'

    def __post_init__(self) -> None:
        if self.about not in CENTRES:
            raise unknown("centre of weights", self.about, CENTRES)
        if not getattr(self.inner, "dim", 0):
            raise OrnsteinError(f"{type(self.inner).__name__} has no states of tokens that could be weighted",
                                "Leave the weights out, or take a model with a text encoder.")  # fmt: skip

    @cached_property
    def inner(self) -> Any:
        """The encoder that is wrapped."""
        return catalog.build("conditioning", self.encoder)

    @property
    def dim(self) -> int:
        """Width of tokens and of pooled."""
        return self.inner.dim

    @property
    def length(self) -> int:
        """Tokens kept and padded to."""
        return self.inner.length

    def null(self, batch: int) -> dict[str, Tensor]:
        """The encoder's own unconditional condition."""
        return self.inner.null(batch)

    def __call__(self, inputs: Sequence[str]) -> dict[str, Tensor]:
        """{'tokens' [B, length, dim], 'mask' [B, length] bool, 'pooled' [B, dim]}; brackets without a partner are refused."""
        read = [pieces(text) if isinstance(text, str) else [(text, 1.0)] for text in inputs]
        plain = ["".join(p for p, _ in some) if isinstance(some[0][0], str) else some[0][0] for some in read]
        given = self.inner(plain)
        rows = [i for i, some in enumerate(read) if any(w != 1 for _, w in some)]
        if not rows:
            return given
        weights = torch.ones(given["mask"].shape).to(given["tokens"])
        for i, found in zip(rows, self._weights([read[i] for i in rows])):
            weights[i] = found.to(weights)
        return given | self._weighed(given, weights)

    def _weights(self, read: list[list[tuple[str, float]]]) -> Tensor:
        """The weight [R, length] of each token, by how many tokens the beginnings of the prompt have."""
        starts = [list(accumulate(p for p, _ in some)) for some in read]
        for some in starts:
            for here, longer in zip(some, some[1:]):
                if here[-1:].isalnum() and longer[len(here) : len(here) + 1].isalnum() and here[-1].isascii():
                    raise OrnsteinError(f"a bracket cuts the word '{longer.split()[-1]}' after '{here.split()[-1]}'",
                                        "Weigh whole words.")  # fmt: skip
        sizes = self.inner(["", *(text for some in starts for text in some)])["mask"].sum(1).tolist()
        marks, sizes = sizes[0], iter(sizes[1:])
        first = marks // 2  # two marks are one at each end, a single one is the end
        out = torch.ones(len(read), self.length)
        for row, some in enumerate(read):
            at = 0
            for _, weight in some:
                to = max(at, next(sizes) - marks)
                out[row, first + at : first + to] = weight
                at = to
        return out

    def _weighed(self, given: dict[str, Tensor], weights: Tensor) -> dict[str, Tensor]:
        tokens, mask = given["tokens"], given["mask"][..., None]
        count = mask.sum(1).clamp(min=1)
        mean = tokens.sum(1) / count
        centre = mean[:, None] if self.about == "mean" else self.null(1)["tokens"][:, :1].to(tokens)
        wide = weights[..., None]
        made = torch.where(wide == 1, tokens, centre + wide * (tokens - centre))
        turned = made.sum(1) / count
        old = given["pooled"]
        length = old.norm(dim=1, keepdim=True) / turned.norm(dim=1, keepdim=True).clamp_min(1e-12)
        return {"tokens": made, "pooled": torch.where((weights != 1).any(1, keepdim=True), length * turned, old)}
