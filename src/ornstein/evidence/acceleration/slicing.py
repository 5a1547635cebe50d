"""Evidence for slicing: bytes at the peak, seconds and rounding, of larger random networks."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ornstein.acceleration.slicing import Slicing
from ornstein.core import catalog
from ornstein.core.clock import Clock
from ornstein.core.seam import Run, attach, calling, running
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence.acceleration._memory import peak

TRIAL = ("rows=0,tokens=0,queries=0", "rows=3,tokens=5,queries=3", ("dit", "unet"))  # never cuts, cuts, fits
FOREIGN = ("DiTTransformer2DModel", "SD3Transformer2DModel", "FluxTransformer2DModel", "UNet2DConditionModel")
EXACT = True  # it computes the same in another way
NETS = {"dit": ("dit:channels=4,patch=2,width=96,depth=2,heads=4", Slicing(1, 48, 48), 24),
        "unet": ("unet:channels=4,width=32,multipliers=(1,2,4),blocks=1", Slicing(1, 0, 64), 16)}  # fmt: skip
ROWS = 4
CLAIM = ("Of a random DiT (4 samples of 144 tokens) and a random U-Net (4 of 16 px), slicing halves the peak of live bytes at "
         "least, with all answers within 1e-5 of the plain ones, relative L2, and in at most 1.3 of the seconds, fused attention "
         "or not.")  # fmt: skip


def network(spec: str, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    net = catalog.build("backbones", spec).eval().requires_grad_(False)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return net


def call(net: torch.nn.Module, inputs: tuple, fused: bool) -> torch.Tensor:
    kernels = [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH] if fused else [SDPBackend.MATH]
    with running(Run()), calling(Clock(ids=tuple(range(ROWS)))), sdpa_kernel(kernels), torch.no_grad():
        return net(*inputs)


def measure(name: str, fused: bool, ways: dict[str, Any], seeds: int, tries: int) -> list[Row]:
    """For each way of slicing rows of bytes, error and seconds; one value per seed, seconds the least of the tries."""
    spec, _, size = NETS[name]
    found: dict[str, list[list[float]]] = {way: [[], [], []] for way in ways}
    for seed in range(seeds):
        net, plain = network(spec, seed), None
        x = torch.randn(ROWS, 4, size, size, generator=torch.Generator().manual_seed(seed)), torch.linspace(0.1, 1, ROWS)
        for way, plugin in ways.items():
            detach = attach(net, plugin) if plugin else (lambda: None)
            said: list[torch.Tensor] = []
            found[way][0].append(peak(lambda net=net, x=x, said=said: said.append(call(net, x, fused))) / 1e6)
            out = said[0]
            plain = out if plain is None else plain
            found[way][1].append(float((out - plain).norm() / plain.norm()))
            detach()
        for _ in range(tries if seed == 0 else 0):
            for way, plugin in ways.items():
                detach, began = attach(net, plugin) if plugin else (lambda: None), time.perf_counter()
                call(net, x, fused)
                found[way][2].append(time.perf_counter() - began)
                detach()
    metrics = ("MB at the peak (lower)", "relative distance to the plain answer (lower)", "seconds of a call (lower)")
    where = f"{name}, {'fused' if fused else 'unfused'} attention"
    return [Row(f"{where}, {way}", "method" if way == "all axes" else "reference" if ways[way] else "natural", metric,
                [min(v)] if "seconds" in metric else v)
            for way, values in found.items() for metric, v in zip(metrics, values)]  # fmt: skip


def run(quick: bool = True) -> Evidence:
    rows, good = [], []
    for name, (_, whole, _) in NETS.items():
        for fused in (False, True):
            ways = {"whole": None, "samples alone": Slicing(whole.rows, 0, 0), "all axes": whole}
            if not quick:
                ways |= {"mlp alone": Slicing(0, whole.tokens, 0), "queries alone": Slicing(0, 0, whole.queries)}
            made = measure(name, fused, ways, 3, 2 if quick else 7)
            plain, mine = made[:3], next(made[k : k + 3] for k in range(0, len(made), 3) if made[k].kind == "method")
            good.append((all(m <= 0.5 * p for m, p in zip(mine[0].values, plain[0].values)), max(mine[1].values) < 1e-5,
                         mine[2].mean <= 1.3 * plain[2].mean))  # fmt: skip
            rows += made
    same, transformer = all(g[1] for g in good), all(g[0] for g in good[:2])
    return Evidence(CLAIM, rows, verdict(same and all(g[0] and g[2] for g in good), same and transformer),
                    "Bytes are of the tensors made during one call, without weights and without what kernels use inside.")
