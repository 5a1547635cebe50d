"""Evidence for the KL codec: reconstruction of held-out pictures at equal latent numbers in the same places."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ornstein.codecs.kl import KL
from ornstein.core import catalog
from ornstein.evidence import Evidence, Row, verdict
from ornstein.recipes.train_kl import Recipe, train_kl

CLAIM = ("With as many latent numbers in as many places, a KL codec trained for a second reconstructs "
         "held-out digits better than average pooling + bilinear upsampling and than a linear code of blocks.")  # fmt: skip
ERROR = "RMS error on held-out pictures in [-1, 1] (lower)"


def run(quick: bool = True) -> Evidence:
    """Digits, 1 number per 2 x 2 block. Not quick: also emoji of 32 px, 4 numbers per 4 x 4 block of 4 channels."""
    sets = [("digits", "digits", 2, 1, Recipe(120 if quick else 1500, 32, 4e-3))]
    if not quick:
        sets.append(("emoji", "emoji:root=None,size=32", 4, 4, Recipe(1500, 16, 2e-3)))
    rows, wins, beats = [], [], []
    for name, spec, factor, latent, recipe in sets:
        train, test = (catalog.build("data", spec, split=s).images() for s in ("train", "test"))
        pooled, linear = _rms(_pooled(test, factor), test), _rms(_blocks(train, test, factor, latent), test)
        whole = latent * test.shape[2] * test.shape[3] // factor**2
        codecs = [_train(train, factor, latent, recipe, seed) for seed in range(3)]
        errors = [_rms(c.decode(c.encode(test)), test) for c in codecs]
        cost = f"{whole} numbers a picture"
        rows += [
            Row(f"{name}: KL", "method", ERROR, errors, f"{cost}, {recipe.steps} steps"),
            Row(f"{name}: average pooling + bilinear", "natural", ERROR, [pooled], cost),
            Row(f"{name}: best linear code per block", "equal-cost", ERROR, [linear], cost),
            Row(f"{name}: best linear code of the whole picture", "reference", ERROR,
                [_rms(_pca(train.flatten(1), test.flatten(1), whole).view_as(test), test)], f"{cost}, without places"),
            Row(f"{name}: KL", "method", "standard deviation of held-out latents (1)",
                [c.encode(test).std().item() for c in codecs]),
        ]  # fmt: skip
        wins.append(max(errors) < pooled)
        beats.append(max(errors) < linear)
    note = "The linear code of the whole picture has no places, so convolutions and patches cannot use it."
    return Evidence(CLAIM, rows, verdict(all(wins) and all(beats), all(wins) or all(beats)), note)


def _train(images: Tensor, factor: int, latent: int, recipe: Recipe, seed: int) -> KL:
    torch.manual_seed(seed)
    return train_kl(images, KL(images.shape[1], latent, factor, 16), replace(recipe, seed=seed))


def _rms(a: Tensor, b: Tensor) -> float:
    return (a - b).square().mean().sqrt().item()


def _pooled(x: Tensor, factor: int) -> Tensor:
    return F.interpolate(F.avg_pool2d(x, factor), scale_factor=factor, mode="bilinear")


def _blocks(train: Tensor, test: Tensor, factor: int, latent: int) -> Tensor:
    """Every block of factor x factor pixels through its best `latent` linear numbers."""
    a, b = (F.unfold(x, factor, stride=factor).transpose(1, 2) for x in (train, test))
    back = _pca(a.flatten(0, 1), b.flatten(0, 1), latent).view_as(b)
    return F.fold(back.transpose(1, 2), test.shape[2:], factor, stride=factor)


def _pca(train: Tensor, test: Tensor, count: int) -> Tensor:
    """test [N, D] through the `count` principal directions of train [M, D]."""
    mean = train.mean(0)
    _, vectors = torch.linalg.eigh((train - mean).T @ (train - mean))
    kept = vectors[:, -count:]
    return (test - mean) @ kept @ kept.T + mean
