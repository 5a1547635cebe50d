"""Evidence for Faster Diffusion."""

from __future__ import annotations

import time

import torch

from ornstein.acceleration.fasterdiffusion import PriorNoise
from ornstein.core import catalog
from ornstein.core.denoiser import Denoiser
from ornstein.core.loop import sample
from ornstein.core.seam import Run, attach
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence.acceleration import _ground

TRIAL = ("interval=1", "interval=3", ("unet",))  # never skips, skips, the backbones that it fits
FOREIGN = ("UNet2DModel", "UNet2DConditionModel")
CLAIM = ("On the digits U-Net the encoder's features change less from step to step than the decoder's, and keeping them stays "
         "nearer to the full run than fewer steps of the same solver at equal FLOPs.")  # fmt: skip
CHANGE = "relative change of features from one of 40 steps to the next (lower)"


def injected(plugin: str) -> list[float]:
    """Distances of a run with the paper's noise injection."""
    denoiser, n = _ground.model("unet")[0], _ground.SEEDS * _ground.EACH
    detach = attach(denoiser.backbone, catalog.build("acceleration", plugin))
    try:
        x = sample(denoiser, (n, 1, 8, 8), catalog.build("solvers", "ddim"), _ground.STEPS, controllers=[PriorNoise()],
                   cond={"label": torch.arange(n) % 10}, seed=[k // _ground.EACH for k in range(n)])  # fmt: skip
    finally:
        detach()
    return _ground.distances("unet", x)


def changes() -> dict[str, list[float]]:
    """'down', 'mid', 'up' -> mean relative change of what the stages hand on, one value per seed, in a full run."""
    net, seen, out = _ground.model("unet")[0].backbone, {}, {}

    def watch(role: str, name: str):
        def hook(module, inputs, answer):
            now = (answer[0] if isinstance(answer, tuple) else answer).reshape(_ground.SEEDS, -1)
            if name in seen:
                out.setdefault(role, []).append((now - seen[name]).norm(dim=1) / seen[name].norm(dim=1))
            seen[name] = now

        return hook

    stages = [("mid", "mid", net.mid)] + [(r, f"{r}.{i}", m) for r in ("down", "up") for i, m in enumerate(getattr(net, r))]
    hooks = [stage.register_forward_hook(watch(role, name)) for role, name, stage in stages]
    _ground.draw("unet")
    for hook in hooks:
        hook.remove()
    return {role: torch.stack(v).mean(0).tolist() for role, v in out.items()}


def seconds(tries: int = 4) -> list[Row]:
    """Wall-clock of one sample of a larger random U-Net: full, and with spans of four evaluations whose decoders run in turn
    or in one batch; the least of the tries, which take turns."""
    net = catalog.build("backbones", "unet:channels=4,width=32,multipliers=(1,2,4),blocks=1").eval().requires_grad_(False)
    ways = {"full": "", "in turn": "fasterdiffusion:interval=5", "in one batch": "fasterdiffusion:interval=5,parallel=True"}
    denoiser, spent, held = Denoiser(net, catalog.build("processes", "flow")), {name: [] for name in ways}, {}
    for _ in range(tries):
        for name, text in ways.items():
            detach, run = attach(net, catalog.build("acceleration", text)) if text else (lambda: None), Run()
            began = time.perf_counter()
            sample(denoiser, (1, 4, 16, 16), catalog.build("solvers", "ddim"), 10, run=run)
            spent[name].append(time.perf_counter() - began)
            detach()
            facts = run.record.facts.get("fasterdiffusion", {"cond": {"cache_bytes": 0}})["cond"]
            held[name] = (facts["cache_bytes"] + facts.get("batch_bytes", 0)) / 1e6
    return [Row(f"one sample of a larger random unet, {ways[name] or name}", "method" if ways[name] else "reference",
                "seconds for 10 steps (lower)", [min(s)], f"{held[name]:.2f} MB kept") for name, s in spent.items()]  # fmt: skip


def run(quick: bool = True) -> Evidence:
    settings = ["fasterdiffusion:interval=2", "fasterdiffusion"]
    settings += [] if quick else [f"fasterdiffusion:interval={n}" for n in (3, 4, 5)]
    found, moved = _ground.compare("unet", settings), changes()
    encoder = Row("stages of the encoder and the middle", "method", CHANGE,
                  [max(a, b) for a, b in zip(moved["down"], moved["mid"])])  # fmt: skip
    decoder = Row("stages of the decoder", "natural", CHANGE, moved["up"])
    noisy = Row("fasterdiffusion, PriorNoise(0.003)", "reference", _ground.FULL, injected("fasterdiffusion"))
    calm = encoder.mean < decoder.mean
    same = all(_ground.better(rows, "ddim") for rows in found.values())
    return Evidence(CLAIM, [*sum(found.values(), []), noisy, encoder, decoder, *seconds()],
                    verdict(calm and same, calm or same), _ground.model("unet")[1])  # fmt: skip
