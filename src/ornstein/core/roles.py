"""Roles of layers by name, so that quantisers, pruners and adapters can say which layers they mean in any network."""

from __future__ import annotations

import re

from torch import nn

from .errors import unknown

__all__ = ["ROLES", "layers_by_role", "role_of"]

ROLES = ("temporal", "qkv", "attention_out", "ffn", "embedding", "head", "conv", "other")
_TOP = r"^(?!.*blocks?\.)(.*\.)?"  # outside of the blocks
_RULES = (
    ("embedding", r"(^|\.)(text_embedder|class_embedder|label_embedder|image_embedder)(\.|$)"),
    ("temporal", r"(^|\.)(time|temporal|t_embed|time_\w+|timestep_embedder|guidance_embedder|adaln\w*|\w*modulation\w*|"
                 r"(img|txt)_mod|\w*norm\d?\w*\.linear|scale_shift\w*)(\.|$)|^proj_out_1$"),
    ("head", _TOP + r"(head|final\w*|proj_out\w*|conv_out|norm_out)(\.|$)"),
    ("attention_out", r"(^|\.)(to_out(\.0)?|to_add_out|attn\w*\.(out|proj)|cross\.out|single\w*blocks\.\d+\.proj_out)$"),
    ("qkv", r"(^|\.)(to_[qkv](_\w+)?|to_qkv\w*|add_[qkv]_proj|qkv|cross\.(q|kv))$"),
    ("ffn", r"(^|\.)(\w+_)?(ff|ffn|mlp|feed_forward)(_\w+)?(\.|$)"),
    ("embedding", _TOP + r"(embed\w*|patch\w*|pos_embed|x_embedder|context_embedder|conv_in|img_in|txt_in|proj_in|"
                  r"caption_projection|\w*condition\w*|text\w*|label\w*|class\w*)(\.|$)"),
)  # fmt: skip


def role_of(name: str, axes: int = 2) -> str:
    """The role of a layer by its path, and by the number of axes of its weight where the path says nothing."""
    role = next((r for r, rule in _RULES if re.search(rule, name.lower())), None)
    return role or ("conv" if axes > 2 else "other")


def layers_by_role(model: nn.Module, roles: tuple[str, ...] = ROLES) -> dict[str, str]:
    """Path -> role of every layer with a weight of two or more axes (linear, convolution, embedding), in order. Layers
    without a `weight` count where they say in_features and out_features: quantised ones."""
    for role in roles:
        if role not in ROLES:
            raise unknown("layer role", role, ROLES)
    found = {}
    for name, module in model.named_modules():
        if next(module.children(), None) is not None:
            continue
        linear = hasattr(module, "in_features") and hasattr(module, "out_features")
        axes = 2 if linear else getattr(getattr(module, "weight", None), "ndim", 0)
        if axes >= 2 and (role := role_of(name, axes)) in roles:
            found[name] = role
    return found
