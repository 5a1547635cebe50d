"""Rewards and guides by name, so that steering and guidance which need a function can be asked for in a text.

A reward is a function (x [M, ...], condition of M rows) -> [M], higher is better, of samples as the model has them, finished or
as predicted half-way. They are decoded by the model's codec and laid over white first.

    class       log-chance of the asked label, by the classifier of digits
    agreement   cosine of the picture with its caption, by the emoji head (-1 to 1)
    ink         share of the picture that is drawn on: mean alpha, or distance from the mean of the border (0 to 1)
    brightness  mean of the picture over white (0 to 1)

What rewards choose by says little of quality once it was chosen by: judge the pictures by something else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ornstein.core.errors import OrnsteinError, unknown
from ornstein.model import Model

__all__ = ["GUIDES", "REWARDS", "Reward", "guide_of", "reward", "usual_reward"]

Reward = Callable[[Tensor, Any], Tensor]


def usual_reward(model: Model) -> str:
    """The name of the reward that fits a model: how well the pictures show what was asked for."""
    if _digits(model):
        return "class"
    if _captioned(model):
        return "agreement"
    raise OrnsteinError(f"no reward fits the model '{model.name}' by itself",
                        "Name one, such as reward='brightness', or give a function (x, cond) -> [B] from Python.")  # fmt: skip


def reward(name: str, model: Model) -> Reward:
    """The reward of that name for a model. What it needs is looked for at once: what is missing or does not fit is an
    OrnsteinError, before anything is drawn."""
    if name not in REWARDS:
        raise unknown("reward", name, REWARDS)
    return REWARDS[name](model)


def _decoded(model: Model, x: Tensor) -> Tensor:
    """Pictures [N, C, H, W] in about [-1, 1], by a way that has a gradient."""
    return x if model.codec is None else model.codec.decode(x)


def _white(pixels: Tensor) -> Tensor:
    """Premultiplied RGBA over white, [N, 1 or 3, H, W] in [-1, 1]; what is not a number stays so."""
    from ornstein.evaluate import _flat

    return _flat(pixels.float())


def _digits(model: Model) -> bool:
    """Whether the classifier of digits can see the model's pictures, and its label is what they are asked by."""
    return tuple(model.shape) == (1, 8, 8) and getattr(model.encoder, "classes", 0) == 10


def _captioned(model: Model) -> bool:
    """Whether prompts are texts as the head of agreement reads them: MiniLM's, of pictures in colour or grey."""
    return type(model.encoder).__name__ == "MiniLM" and model.shape[0] in (1, 3, 4)


def logits(model: Model) -> Callable[[Tensor], Tensor]:
    """The digits classifier of samples [N, ...] -> [N, 10], with a gradient."""
    from ornstein.metrics.layers.digits import classifier

    if not _digits(model):
        raise OrnsteinError(f"the classifier of digits cannot judge what '{model.name}' draws",
                            "It is for models of digits of 8x8 pixels. Give a function of your own from Python.")  # fmt: skip

    def seen(x: Tensor) -> Tensor:
        return classifier(str(x.device))(_decoded(model, x).float())

    return seen


def _class(model: Model) -> Reward:
    said = logits(model)

    def chance(x: Tensor, cond: Any) -> Tensor:
        label = cond["label"].to(x.device)
        logs = said(x).log_softmax(1)
        known = (label >= 0) & (label < logs.shape[1])  # the label past the last is 'none asked'
        picked = logs.gather(1, label.clamp(0, logs.shape[1] - 1)[:, None])[:, 0]
        return torch.where(known, picked, torch.nan)

    return chance


def _agreement(model: Model) -> Reward:
    from ornstein.metrics.agreement import EXTRACTOR, scores, shipped
    from ornstein.metrics.layers.features import extractor

    if not _captioned(model):
        raise OrnsteinError(f"'agreement' reads captions as MiniLM encodes them, and '{model.name}' has none",
                            "Name another reward: class, ink, brightness.")  # fmt: skip
    eye, head = extractor(EXTRACTOR), shipped().arrays
    eye.pooled(torch.zeros(1, 3, 8, 8))  # what is not installed is told now

    def cosine(x: Tensor, cond: Any) -> Tensor:
        pixels = _white(_decoded(model, x))
        whole = pixels.flatten(1).isfinite().all(1)
        seen = eye.pooled(torch.where(whole[:, None, None, None], pixels, 0.0))
        return torch.where(whole.to(seen.device), scores(head, seen, cond["pooled"], paired=True), torch.nan)

    return cosine


def _ink(model: Model) -> Reward:
    def covered(x: Tensor, cond: Any = None) -> Tensor:
        pixels = _decoded(model, x).float()
        if pixels.shape[1] == 4:
            return ((pixels[:, 3] + 1) / 2).clamp(0, 1).flatten(1).mean(1)
        edge = torch.cat([pixels[..., 0, :], pixels[..., -1, :], pixels[..., 1:-1, 0], pixels[..., 1:-1, -1]], -1).mean(-1)
        return ((pixels.clamp(-1, 1) - edge[..., None, None]).abs() / 2).flatten(1).mean(1)

    return covered


def _brightness(model: Model) -> Reward:
    def bright(x: Tensor, cond: Any = None) -> Tensor:
        return ((_white(_decoded(model, x)) + 1) / 2).flatten(1).mean(1)

    return bright


REWARDS: dict[str, Callable[[Model], Reward]] = {"class": _class, "agreement": _agreement, "ink": _ink,
                                                 "brightness": _brightness}  # fmt: skip


# ---- the functions that guidances ask for


def _similarity(model: Model) -> Reward:
    """In (0, 100]: the chance of the label in percent, or agreement from -1..1 to 0..100."""
    if _digits(model):
        chance = _class(model)
        return lambda x, cond: 100 * chance(x, cond).exp().nan_to_num(0.0)
    cosine = _agreement(model)
    return lambda x, cond: 50 * (1 + cosine(x, cond).nan_to_num(-1.0))


def _loss(model: Model) -> Reward:
    chance = _class(model)
    return lambda x, cond: -chance(x, cond)


# guidance -> (its setting, the function of the house for a model, what it is)
GUIDES: dict[str, tuple[str, Callable[[Model], Any], str]] = {
    "classifier": ("classifier", logits, "a function of clean samples [B, ...] to logits [B, K]"),
    "experts": ("experts", lambda model: (logits(model),), "functions of noisy samples to logits, as experts.transfer makes them"),
    "loss": ("loss", _loss, "a differentiable function (x0 [B, ...], cond) -> [B], lower is better"),
    "blackscholes": ("similarity", _similarity, "a function (x0 [B, ...], cond) -> [B] above 0, of at most 100"),
}


def guide_of(name: str, model: Model) -> Any:
    """What the guidance `name` of GUIDES is given for a model; another model: OrnsteinError that says what to give."""
    setting, made, what = GUIDES[name]
    try:
        return made(model)
    except OrnsteinError as error:
        raise OrnsteinError(f"the house has no {setting} for '{name}' with the model '{model.name}'",
                            f"From Python give {setting}=, {what}.") from error  # fmt: skip
