"""Agreement of emoji with their captions: the cosine of a picture's place in the space of sentences with its caption's vector.

Of the form of: Jack Hessel, Ari Holtzman, Maxwell Forbes, Ronan Le Bras, Yejin Choi, "CLIPScore: a reference-free evaluation
metric for image captioning", 2021, arXiv:2104.08718, with a head of 0.2 MB in place of CLIP:

    agreement = mean_i cos( U^T D^T (f(x_i) - f_0), t_i - t_0 )

f: features of efficientnet-lite0; t: MiniLM's sentence vector of the caption (`conditioning/minilm`, 'pooled'); f_0, t_0: their
means over the 153 shipped emoji on which D and U were fitted (recipes/train_emoji_agreement). The floor is the mean over 51
held-out real emoji with their own captions. A weak judge: see the card for how often it ranks the right caption first.
Cost: one pass through the extractor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ornstein.core.artefact import Artefact
from ornstein.core.catalog import ROOT
from ornstein.core.errors import OrnsteinError

from .layers.features import features
from .layers.measure import Measure, bootstrap, check_values

__all__ = ["Agreement", "scores"]

KIND, EXTRACTOR, DIMS = "emoji-agreement", "efficientnet-lite0", 384
WEIGHTS = ROOT / "models" / "emoji" / "agreement.safetensors"


@dataclass(frozen=True)
class Agreement:
    """Cosine agreement of pictures [N, 1 or 3, H, W] in [-1, 1], over white, with sentence vectors [N, 384]; -1 to 1."""

    rounds: int = 1000  # bootstrap resamples behind the interval
    seed: int = 0  # of the bootstrap

    def __call__(self, generated: Tensor, reference: Tensor) -> Measure:
        """Measure without unit, higher is better; n: pictures. reference: MiniLM's 'pooled' of each caption, [N, 384]."""
        seen, head = features(generated, EXTRACTOR, "generated", least=2), shipped()
        check_values(reference, "sentence vectors", 2)
        if reference.shape != (len(generated), DIMS):
            raise OrnsteinError(f"sentence vectors {list(reference.shape)} do not fit {len(generated)} pictures",
                                f"Give MiniLM's 'pooled' of each caption, [N, {DIMS}].")  # fmt: skip
        each = scores(head.arrays, seen, reference, paired=True)
        low, high = bootstrap(each, self.rounds, self.seed)
        return Measure(each.mean().item(), low, high, len(each), "agreement", "", "higher", f"{EXTRACTOR}+minilm",
                       head.settings["real"])  # fmt: skip


@cache
def shipped() -> Artefact:
    """The head, with what it reached on held-out emoji: settings 'real', 'first', 'over_wrong', and their codes 'held_out'."""
    return Artefact.load(WEIGHTS, KIND)


def scores(head: Mapping[str, Tensor], seen: Tensor, text: Tensor, paired: bool = False) -> Tensor:
    """Cosines of features [N, D] with sentence vectors [M, 384]: of all with all [N, M], or of pairs [N]; float64."""
    down, up, picture, mean = (head[k].to(seen.device).double() for k in ("down", "up", "picture", "text"))
    x, t = (seen.double() - picture) @ down @ up, text.detach().to(seen.device).double() - mean
    x, t = (v / torch.linalg.vector_norm(v, dim=1, keepdim=True).clamp_min(1e-12) for v in (x, t))
    return (x * t).sum(1) if paired else x @ t.T
