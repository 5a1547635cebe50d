"""Evidence for Elastic DiT, with the shipped routers: learned by 250 updates on the frozen digits DiT."""

from __future__ import annotations

import torch

from ornstein.acceleration.elastic import Elastic, learn_elastic
from ornstein.acceleration.layers.router import Fit
from ornstein.acceleration.skip import Skip
from ornstein.core import catalog
from ornstein.core.artefact import Artefact
from ornstein.core.loop import sample
from ornstein.core.seam import Run, attach
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence.acceleration import _dynamic, _ground

TRIAL = ("share=1.0", "share=0.5", ("dit",))  # never skips, skips, the backbones that it fits
FOREIGN = ("DiTTransformer2DModel", "SD3Transformer2DModel", "FluxTransformer2DModel", "WanTransformer3DModel")
CLAIM = ("Routers learned on the frozen digits DiT stay nearer to the full run than fewer steps of the same solver and of "
         "DPM-Solver++(2M), than the best blocks left out always, than half of every mlp always, and than routing at random, "
         "at equal FLOPs.")  # fmt: skip
OFF = 2  # blocks left out by the static baseline and the random one: 1/3, about what the routers save


def run(quick: bool = True) -> Evidence:
    found = _dynamic.routers("elastic") if quick else learn_elastic(_ground.model("dit")[0], _dynamic.digits, Fit(0.65, 250))
    _, depth, width, rank = found.arrays["order"], *found.arrays["gate.in"].shape
    router = 40 * 2 * rank / (12 * width + 2 * 16)  # evaluations' worth of routers in a run: N D r, twice a block
    mine, spent = _dynamic.row("elastic, routers, no offsets", "method", Elastic(found, band=-1.0), router)
    rows = [*mine, *_dynamic.steps(spent), *_baselines(found, depth)]
    for name, plugin in (("elastic, routers, offsets", Elastic(found)), ("elastic, no routers, offsets", Elastic())):
        rows += _dynamic.row(name, "reference", plugin, router if plugin.arrays else 0.0)[0]
    beaten = [_dynamic.wins(rows, name) for name in ("ddim", "dpmpp2m", "blocks", "half", "random")]
    spread = _spread(found)
    note = (f"{_ground.model('dit')[1]} The routers' own FLOPs ({router:.2f} evaluations) are counted. Each sample's share of "
            f"computed blocks has a standard deviation of {spread:.4f} over samples.")  # fmt: skip
    larger = _dynamic.clocked({"elastic, half of the blocks from offsets": Elastic(share=0.5)})
    return Evidence(CLAIM, [*rows, *larger], verdict(all(beaten), all(beaten[2:])), note)


def _baselines(found: Artefact, depth: int) -> list[Row]:
    gone, source = _dynamic.leave_out(depth, OFF), torch.Generator().manual_seed(0)
    chance = tuple(tuple(sorted(torch.randperm(depth, generator=source)[:OFF].tolist())) for _ in range(_ground.STEPS))
    narrow = min((_widths(found, depth, k) for k in range(depth)), key=_dynamic.error)
    tried = ((f"blocks {gone} left out always", Skip((gone,) * _ground.STEPS)), ("half of every mlp always, 3/4 of one", narrow),
             (f"random {OFF} blocks left out at every step", Skip(chance)))  # fmt: skip
    return [r for name, plugin in tried for r in _dynamic.row(name, "equal-cost", plugin)[0]]


def _widths(found: Artefact, depth: int, wider: int) -> Elastic:
    """Half of each mlp, and 3/4 of one: about what the routers spend."""
    bias = torch.tensor([0.0, 9.0, 0.0, 0.0]).repeat(depth, 1)
    bias[wider] = bias[wider].roll(1)
    w = found.arrays
    return Elastic(_dynamic.with_arrays(found, gate_out=torch.zeros_like(w["gate.out"]), gate_bias=torch.full((depth,), 9.0),
                                        width_out=torch.zeros_like(w["width.out"]), width_bias=bias), band=-1.0)  # fmt: skip


def _spread(found: Artefact) -> float:
    """Of the samples' costs, each run alone."""
    denoiser, costs = _ground.model("dit")[0], []
    detach = attach(denoiser.backbone, Elastic(found, band=-1.0))
    try:
        for k in range(4):
            seen, cond = Run(), {"label": torch.tensor([k])}
            sample(denoiser, (1, 1, 8, 8), catalog.build("solvers", "ddim"), 10, run=seen, seed=k, cond=cond)
            costs.append(_ground.evaluations("dit", seen.record) / 10)
    finally:
        detach()
    return float(torch.tensor(costs).std())
