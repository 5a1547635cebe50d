"""Evidence for DyDiT, with the shipped routers: learned by 250 updates on the frozen digits DiT."""

from __future__ import annotations

import torch
from torch import Tensor

from ornstein.acceleration.dydit import DyDiT, learn_dydit
from ornstein.acceleration.layers.router import Fit, features
from ornstein.core.artefact import Artefact
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence.acceleration import _dynamic, _ground

TRIAL = ("width=1.0", "width=0.5", ("dit",))  # never skips, skips, the backbones that it fits
CLAIM = ("Widths learned on the frozen digits DiT stay nearer to the full run than fewer steps of the same solver and of "
         "DPM-Solver++(2M), than the same share of width off at all times, and than the same routers at other blocks, at "
         "equal FLOPs.")  # fmt: skip
TIMES = torch.linspace(0.025, 1.0, 40)


def run(quick: bool = True) -> Evidence:
    found = _dynamic.routers("dydit") if quick else learn_dydit(_ground.model("dit")[0], _dynamic.digits, Fit(0.65, 250))
    _, width, rank = found.arrays["tokens.in"].shape
    selector = 40 * rank / (12 * width + 2 * 16)  # evaluations' worth of token selectors in a run: N D r
    mine, spent = _dynamic.row("dydit, routers", "method", DyDiT(found), selector)
    rows = [*mine, *_dynamic.steps(spent), *_baselines(found, selector)]
    rows += _dynamic.row("dydit, no routers, 3/4 of the width below t = 1/2", "reference", DyDiT())[0]
    beaten = [_dynamic.wins(rows, name) for name in ("ddim", "dpmpp2m", "static", "random")]
    late, early = (_share(found, t) for t in (TIMES[:10], TIMES[-10:]))
    note = (f"{_ground.model('dit')[1]} The token selectors' own FLOPs ({selector:.2f} evaluations) are counted. Learned share of "
            f"mlp groups: {early:.2f} in the noisiest quarter of the times, {late:.2f} in the cleanest.")  # fmt: skip
    larger = _dynamic.clocked({"dydit, half of the width": DyDiT(width=0.5, high=1.0)})
    return Evidence(CLAIM, [*rows, *larger], verdict(all(beaten), all(beaten[2:])), note)


def _on(found: Artefact, role: str, t: Tensor) -> Tensor:
    """Share of the times at which each head or group is on, [L, H - 1]."""
    w = found.arrays
    return ((torch.einsum("tf,lfh->tlh", features(t), w[f"{role}.time"]) + w[f"{role}.bias"]) > 0).float().mean(0)


def _share(found: Artefact, t: Tensor) -> float:
    return _on(found, "mlp", t).mean().item()


def _baselines(found: Artefact, selector: float) -> list[Row]:
    """The groups that the routers use most, always; and the routers with their logits dealt out to other groups."""
    source, static, chance = torch.Generator().manual_seed(0), {}, {}
    for role in ("attention", "mlp"):
        used, time, bias = _on(found, role, TIMES), found.arrays[f"{role}.time"], found.arrays[f"{role}.bias"]
        keep = torch.zeros(used.numel()).index_fill(0, used.flatten().topk(round(used.sum().item())).indices, 1.0)
        static |= {f"{role}_time": torch.zeros_like(time), f"{role}_bias": keep.view(used.shape) * 2 - 1}
        deal = torch.randperm(used.numel(), generator=source)
        chance |= {f"{role}_time": time.transpose(1, 2).flatten(0, 1)[deal].unflatten(0, used.shape).transpose(1, 2),
                   f"{role}_bias": bias.flatten()[deal].view(used.shape)}  # fmt: skip
    tried = (("static: the most used groups, always", static), ("random: the routers dealt out to other groups", chance))
    return [r for name, arrays in tried
            for r in _dynamic.row(name, "equal-cost", DyDiT(_dynamic.with_arrays(found, **arrays)), selector)[0]]  # fmt: skip
