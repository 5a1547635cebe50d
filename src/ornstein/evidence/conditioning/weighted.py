"""Evidence: a weighted colour word turns the sentence vector and what the emoji model sees in pure noise towards the colour."""

from __future__ import annotations

import torch
from torch import Tensor

from ornstein.conditioning.minilm import MiniLM
from ornstein.conditioning.weighted import Weighted
from ornstein.core.clock import NoiseSource
from ornstein.evidence import Evidence, Row, verdict
from ornstein.model import Model, load

COLOURS = {"red": 0, "green": 1, "blue": 2}
THINGS = "apple book heart car".split()
WAYS = {"weight 2": ("method", "({c}:2) {n}", "mean"), "weight 1": ("natural", "{c} {n}", "mean"),
        "said twice": ("equal-cost", "{c} {c} {n}", "mean"), "weight 2, about the null state": ("reference", "({c}:2) {n}", "null"),
        "weight 0": ("floor", "({c}:0) {n}", "mean")}  # fmt: skip
TURN = "cosine of the sentence vector with the colour's (higher)"
SEEN = "share of the colour's channel above the others, x0 predicted from pure noise (higher)"
DRAWN = "share of the colour's channel above the others, pictures of 8 steps (higher)"
CLAIM = (
    "Weighted 2, a colour word turns the sentence vector of 'colour thing' towards the colour's own in over 90 % of twelve "
    "phrases, and what the emoji model predicts from pure noise becomes more of that colour than at weight 1 and than with the "
    "colour said twice."
)


def run(quick: bool = True) -> Evidence:
    """Twelve phrases; three seeds of noise (five when not quick, and pictures). Needs the weights of MiniLM."""
    phrases = [(c, n) for c in COLOURS for n in THINGS]
    model, seeds, rows = load("emoji"), range(3 if quick else 5), []
    alone = MiniLM()([c for c, _ in phrases])["pooled"]
    turned, seen = {}, {}
    for name, (kind, form, about) in WAYS.items():
        cond = Weighted(model.encoder, about)([form.format(c=c, n=n) for c, n in phrases])
        turned[name] = (cond["pooled"] * alone).sum(1)
        seen[name] = [_colour(_predicted(model, cond, s), phrases) for s in seeds]
        rows += [Row(name, kind, TURN, turned[name].tolist()), Row(name, kind, SEEN, seen[name], "1 call")]
        if not quick:
            rows.append(Row(name, kind, DRAWN, [_colour(_drawn(model, cond, s), phrases) for s in seeds], "8 steps, CFG 3"))
    share = (turned["weight 2"] > turned["weight 1"]).double().mean().item()
    above = all(a > b for a, b in zip(seen["weight 2"], seen["weight 1"]))
    more = all(a > b for a, b in zip(seen["weight 2"], seen["said twice"]))
    note = f"The vector turns in {share:.0%} of the phrases. 'partly': it turns, and the colour grows beside weight 1 alone."
    return Evidence(CLAIM, rows, verdict(share > 0.9 and above and more, share > 0.9 and above), note)


def _noise(model: Model, count: int, seed: int) -> Tensor:
    """The same start for every phrase and way."""
    one = NoiseSource.of(seed, [0]).draw(-1, torch.empty(1, *model.shape))
    return one.expand(count, *model.shape)


@torch.no_grad()
def _predicted(model: Model, cond: dict[str, Tensor], seed: int) -> Tensor:
    x = _noise(model, len(cond["mask"]), seed)
    return model.denoiser(x, 1.0, cond).x0


def _drawn(model: Model, cond: dict[str, Tensor], seed: int) -> Tensor:
    from ornstein.core.denoiser import guide
    from ornstein.core.loop import sample
    from ornstein.guidance.cfg import CFG
    from ornstein.solvers.dpmpp2m import DPMpp2M

    x = _noise(model, len(cond["mask"]), seed)
    return sample(guide(model.denoiser, CFG(3.0)), x, DPMpp2M(), 8, cond=cond, rule="beta")


def _colour(x: Tensor, phrases: list[tuple[str, str]]) -> float:
    """Of premultiplied RGBA [N, 4, H, W]: mean over pictures of (asked channel - mean of the others) / alpha."""
    light = ((x.clamp(-1, 1) + 1) / 2).flatten(2).mean(2)
    own = torch.tensor([COLOURS[c] for c, _ in phrases])
    mine = light[:, :3].gather(1, own[:, None])[:, 0]
    others = (light[:, :3].sum(1) - mine) / 2
    return ((mine - others) / light[:, 3].clamp_min(0.05)).mean().item()
