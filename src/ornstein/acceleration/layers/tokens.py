"""Some tokens of each sample: taking them out and putting them back, with their positions; keys that stay; filling the rest.

An index is int64 [B, n]: which tokens, for every sample its own, of the same number n, so that batches stay dense.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Call, Streams
from ornstein.core.sites import Site

__all__ = ["all_keys", "as_answer", "as_tokens", "best", "blocks_of", "grid_of", "lift", "narrowed", "pick", "put"]

_TABLES = ("rotary", "image_rotary_emb", "rotary_emb", "freqs_cis")


def pick(x: Tensor, index: Tensor, axis: int = 1) -> Tensor:
    """The tokens `index` [B, n] of x, whose axis `axis` is the tokens: [B, N, D] -> [B, n, D]; axis 2: [B, H, N, d]."""
    return x.gather(axis, _wide(index, x, axis))


def put(x: Tensor, index: Tensor, part: Tensor, axis: int = 1) -> Tensor:
    """A copy of x with `part` at the tokens `index`."""
    return x.scatter(axis, _wide(index, x, axis), part.to(x.dtype))


def _wide(index: Tensor, x: Tensor, axis: int) -> Tensor:
    shape = [len(x), *[1] * (x.ndim - 1)]
    shape[axis] = index.shape[1]
    return index.view(shape).expand(*(index.shape[1] if a == axis else n for a, n in enumerate(x.shape)))


def best(score: Tensor, count: int) -> Tensor:
    """The `count` tokens of the highest score [B, N], in the order of their places [B, count]."""
    return score.topk(count, 1).indices.sort(1).values


def narrowed(run: Call, index: Tensor, tokens: int) -> Call:
    """The computation of a site for the tokens `index` [B, n] of `tokens`: rotary tables and modulations by token follow,
    and the record counts n / tokens of a computation."""
    bound = dict(run.bound)
    for name in _TABLES:
        if bound.get(name) is not None:
            bound[name] = _tables(bound[name], index, run.site)
    if isinstance(c := bound.get("c"), Tensor) and c.ndim == 3 and c.shape[1] == tokens > 1:
        bound["c"] = pick(c, index)
    clock = replace(run.clock, share=run.clock.share * index.shape[1] / tokens)
    return Call(run.site, clock, run.run, run.plugins, bound, run.inner, run.network, run.depth)


def _tables(tables: Any, index: Tensor, site: Site) -> tuple[Tensor, Tensor]:
    """(cos, sin) [N, d] -> [B, 1, n, d], as q and k [B, H, n, d] need them."""
    if not (isinstance(tables, tuple) and len(tables) == 2) or "transformer_blocks" in site.name:
        raise OrnsteinError(f"the rotary tables at '{site.name}' are the same for all samples of a batch",
                            "Token methods need a network that takes tables of each sample, such as ornstein's DiT.")  # fmt: skip
    return tuple(t[index][:, None] if t.ndim == 2 else pick(t, index, t.ndim - 2) for t in tables)


def all_keys(streams: Streams, store: dict[str, Tensor], site: Site, index: Tensor | None) -> Streams:
    """At the grain of attention: write the keys and values [B, H, n, d] of the tokens `index` (None: all) into the store,
    and let the queries see those of all tokens, each as it was when it was last computed."""
    names = {k: f"{site.name}/{k}" for k in ("k", "v")}
    if index is None:
        store.update({name: streams[k] for k, name in names.items()})
        return streams
    store.update({name: put(store[name], index, streams[k], 2) for k, name in names.items()})
    mask = streams.get("mask")
    if isinstance(mask, Tensor) and mask.shape[-2] > 1:
        mask = pick(mask.expand(len(index), *mask.shape[-3:]), index, 2)
    return {**streams, **{k: store[name] for k, name in names.items()}, "mask": mask}


def blocks_of(sites: Sequence[Site], who: str) -> list[Site]:
    """The blocks of a transformer that hands on one stream, the tokens of the image; else an error that says why not."""
    if any(s.grain == "stage" for s in sites):
        raise OrnsteinError(f"{who} does not fit a U-Net: its convolutions need every pixel", "Use deepcache or tome.")
    blocks = [s for s in sites if s.grain == "block"]
    if any(len(group) > 1 for s in blocks for group in s.streams) or len({s.stage for s in blocks}) > 1:
        raise OrnsteinError(f"{who} does not fit a network whose blocks carry text beside the image, or change on the way",
                            "Use taylorseer or firstblock.")  # fmt: skip
    return blocks


def grid_of(tokens: int, shape: Sequence[int]) -> tuple[int, int, int]:
    """(rows, columns, patch) of `tokens` in an answer of shape [B, C, H, W] or, where the patches are the channels and the
    image is square, [B, N, C]."""
    if len(shape) == 4 and (shape[2] * shape[3]) % tokens == 0:
        patch = math.isqrt(shape[2] * shape[3] // tokens)
        if patch * patch * tokens == shape[2] * shape[3] and shape[2] % patch == shape[3] % patch == 0:
            return shape[2] // patch, shape[3] // patch, patch
    side = math.isqrt(tokens)
    if len(shape) == 3 and shape[1] == tokens == side * side:
        return side, side, 1
    raise OrnsteinError(f"an answer of shape {list(shape)} does not lie on {tokens} tokens in rows and columns",
                        "Token methods need images of square patches.")  # fmt: skip


def as_tokens(answer: Tensor, tokens: int) -> Tensor:
    """[B, C, H, W] -> [B, N, p p C]; an answer that is tokens already stays."""
    if answer.ndim == 3:
        return answer
    rows, columns, p = grid_of(tokens, answer.shape)
    return answer.reshape(len(answer), -1, rows, p, columns, p).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def as_answer(tokens: Tensor, shape: Sequence[int]) -> Tensor:
    """The inverse of as_tokens, for an answer of that shape."""
    if len(shape) == 3:
        return tokens
    rows, columns, p = grid_of(tokens.shape[1], shape)
    parts = tokens.reshape(len(tokens), rows, columns, p, p, shape[1])
    return parts.permute(0, 5, 1, 3, 2, 4).reshape(shape)


def lift(values: Tensor, index: Tensor, rows: int, columns: int) -> Tensor:
    """Values [B, n, D] at the tokens `index` -> [B, N, D]: elsewhere the nearest one's, then blurred by a Gaussian of
    clip(0.4 / sqrt(n / N), 1, 10) tokens; at the tokens themselves untouched."""
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).to(values.device, torch.float32)
    apart = torch.cdist(places[None].expand(len(index), -1, -1), places[index])  # [B, N, n]
    filled = pick(values, apart.argmin(2)).mT.unflatten(2, (rows, columns))
    width = min(max(0.4 / math.sqrt(index.shape[1] / len(places)), 1.0), 10.0)
    reach = torch.arange(-math.ceil(3 * width), math.ceil(3 * width) + 1, device=values.device)
    kernel = (-(reach**2) / (2 * width**2)).exp().to(values.dtype)
    channels, far = filled.shape[1], len(reach) // 2
    kernel = (kernel / kernel.sum()).expand(channels, 1, -1)
    soft = F.conv2d(F.pad(filled, (far, far, 0, 0), "replicate"), kernel[:, :, None], groups=channels)
    soft = F.conv2d(F.pad(soft, (0, 0, far, far), "replicate"), kernel[..., None], groups=channels)
    return put(soft.flatten(2).mT, index, values)
