"""Learn the head behind the agreement of emoji with captions: a ridge regression from picture features to sentence vectors.

Both sides are frozen: efficientnet-lite0 sees the picture (32 px over white), MiniLM reads the clean name. With x and t
centred over the training pictures the map has the closed form W = X^T (X X^T + ridge mean(diag X X^T) I)^-1 T, cut to its
`rank` largest singular values to be small. A quarter of the emoji, drawn by seed, is held out for the figures that the file
carries. About 6 s on one core.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ornstein.conditioning.minilm import MiniLM
from ornstein.core.artefact import Artefact
from ornstein.core.errors import OrnsteinError
from ornstein.data.emoji import Emoji, over
from ornstein.metrics.agreement import EXTRACTOR, KIND, WEIGHTS, scores
from ornstein.metrics.layers.features import features

__all__ = ["train_emoji_agreement", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """How the head is fitted. extractor: another one than the shipped head's is for comparisons only."""

    rank: int = 64  # of the map
    ridge: float = 1.0  # as a share of the mean squared length; the best of 0.03 to 3 in four folds of the same pictures
    held_out: float = 0.25  # share of the emoji that is not trained on
    extractor: str = EXTRACTOR
    shuffled: bool = False  # train on captions of other pictures: what chance alone gives
    seed: int = 0  # of the split


def pictures(indices: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(images [N, 3, 32, 32] over white, sentence vectors [N, 384]) of shipped emoji."""
    data = Emoji.subset()
    rows = range(len(data)) if indices is None else indices.tolist()
    return over(data.images(list(rows))).clamp(-1, 1), MiniLM()([data.prompt(i) for i in rows])["pooled"]


def split(recipe: Recipe = Recipe()) -> tuple[Tensor, Tensor]:
    """Indices of the emoji that are trained on, and of those held out."""
    order = torch.randperm(len(Emoji.subset()), generator=torch.Generator().manual_seed(recipe.seed))
    count = round(recipe.held_out * len(order))
    return order[count:], order[:count]


def fit(x: Tensor, t: Tensor, recipe: Recipe = Recipe()) -> dict[str, Tensor]:
    """The head's arrays from features [N, D] and sentence vectors [N, 384]; half precision."""
    if recipe.shuffled:
        t = t[torch.randperm(len(t), generator=torch.Generator().manual_seed(recipe.seed + 1))]
    x, t = x.double(), t.double()
    a, b = x - x.mean(0), t - t.mean(0)
    gram = a @ a.T
    dual = torch.linalg.solve(gram + recipe.ridge * gram.diagonal().mean() * torch.eye(len(a)).double(), b)
    basis, rest = torch.linalg.qr(a.T)  # W = A^T dual = basis (rest dual), whose singular values are those of the small factor
    u, s, v = torch.linalg.svd(rest @ dual, full_matrices=False)
    u = basis @ u
    keep, root = slice(0, recipe.rank), s[: recipe.rank].sqrt()
    arrays = {"down": u[:, keep] * root, "up": root[:, None] * v[keep], "picture": x.mean(0), "text": t.mean(0)}
    return {k: value.half() for k, value in arrays.items()}


def train_emoji_agreement(recipe: Recipe = Recipe(), path: str | Path | None = None) -> Artefact:
    """The artefact 'emoji-agreement', saved at `path` where one is given (the shipped head's: agreement.WEIGHTS)."""
    if not (0 < recipe.held_out < 1 and recipe.rank >= 1 and recipe.ridge > 0):
        raise OrnsteinError(f"{recipe}", "held_out lies between 0 and 1, rank is at least 1, ridge above 0.")
    images, text = pictures()
    seen = features(images, recipe.extractor, "emoji")
    trained, held = split(recipe)
    arrays = fit(seen[trained], text[trained], recipe)
    table = scores(arrays, seen[held], text[held])
    own = table.diagonal()
    better = (table > own[:, None]).sum(1)  # captions that beat the right one
    settings = {"extractor": recipe.extractor, "held_out": [Emoji.subset().codes[i] for i in held.tolist()],
                "real": own.mean().item(), "first": (better == 0).double().mean().item(),
                "over_wrong": (1 - better / (len(held) - 1)).mean().item()}  # fmt: skip
    found = Artefact(KIND, arrays, settings)
    if path is not None:
        found.save(path)
    return found


if __name__ == "__main__":
    print(train_emoji_agreement(path=WEIGHTS).settings)
