"""Accelerations on networks of full size with random weights, the caches of diffusers beside them: seconds, memory, distance.

python benchmarks/full_size.py [--shape dit-256 ...] [--only taylorseer:interval=3 ...] [--steps 20] [--tries 3] [--small]
                               [--json FILE] [--out docs/benchmarks/full_size.md]

Shapes: DiT-XL/2 at 256 and 512 pixels, a Flux of 12 B parameters at 1024, a Wan of 1.3 B for 81 frames of 480 x 832; bfloat16 on a
GPU. With --small tiny ones of the same kinds in float32, which is how the script is tried on a CPU. Weights are random, so the
distance to the full walk is no quality: networks that learned change more slowly with time. What is measured is what each part
costs and saves: seconds over those of the full walk (medians, in turn), FLOPs (fused attention not counted on a CPU), memory.
An existing --json is gone on with: a shape that is in it is not measured again.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from interleaved import written
from torch import Tensor, nn

from ornstein.bench_acceleration import _usual
from ornstein.bridges.layers import caches
from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import attach

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = torch.bfloat16 if torch.cuda.is_available() else torch.float32
CLASSES = {"dit": "DiTTransformer2DModel", "flux": "FluxTransformer2DModel", "wan": "WanTransformer3DModel"}


@dataclass
class Line:
    """One part. ratio and flops: over the seconds and FLOPs of the full walk; memory: GiB at the peak (a GPU's alone)."""

    part: str
    whose: str
    median_ms: float = 0.0
    ratio: float = 0.0
    flops: float = 0.0
    distance: float = 0.0
    memory: float = 0.0
    refused: str = ""  # why


def made(build: Callable[[], nn.Module]) -> nn.Module:
    """On the device, in its type, with calm random weights."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(DTYPE)
    try:
        with torch.device(DEVICE):
            net = build()
    finally:
        torch.set_default_dtype(before)
    for name, p in net.named_parameters():
        if p.ndim > 1:
            nn.init.normal_(p, std=(0.03 if "time" in name else 0.5) / p[0].numel() ** 0.5)
    return net.eval().requires_grad_(False)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE, DTYPE)


def dit(size: int, batch: int, steps: int, small: bool) -> caches.Task:
    from diffusers import DiTTransformer2DModel as Net

    size, layers, heads, dim = (8, 4, 2, 16) if small else (size // 8, 28, 16, 72)
    net = made(lambda: Net(num_attention_heads=heads, attention_head_dim=dim, in_channels=4, out_channels=8, num_layers=layers,
                           sample_size=size, patch_size=2, num_embeds_ada_norm=1000))  # fmt: skip
    return caches.Task(net, noise(batch, 4, size, size), torch.arange(batch, device=DEVICE), steps)


def flux(batch: int, steps: int, small: bool) -> caches.Task:
    from diffusers import FluxTransformer2DModel as Net

    side, text, double, single, heads, dim, joint, pooled = (4, 5, 2, 3, 2, 16, 12, 10) if small else (64, 512, 19, 38, 24, 128,
                                                                                                     4096, 768)  # fmt: skip
    axes = (4, 6, 6) if small else (16, 56, 56)
    net = made(lambda: Net(in_channels=64, num_layers=double, num_single_layers=single, attention_head_dim=dim,
                           num_attention_heads=heads, joint_attention_dim=joint, pooled_projection_dim=pooled,
                           guidance_embeds=True, axes_dims_rope=axes))  # fmt: skip
    places = torch.cartesian_prod(torch.zeros(1, dtype=torch.long), torch.arange(side), torch.arange(side))
    given = {"encoder_hidden_states": noise(batch, text, joint), "pooled_projections": noise(batch, pooled),
             "guidance": torch.full((batch,), 3.5, device=DEVICE, dtype=DTYPE), "img_ids": places.to(DEVICE, DTYPE),
             "txt_ids": torch.zeros(text, 3, device=DEVICE, dtype=DTYPE)}  # fmt: skip
    return caches.Task(net, noise(batch, side * side, 64), None, steps, given=given, unit=1.0)


def wan(batch: int, steps: int, small: bool) -> caches.Task:
    from diffusers import WanTransformer3DModel as Net

    frames, high, wide, layers, heads, dim, ffn, text, width = (2, 4, 4, 3, 2, 16, 64, 5, 12) if small else (
        21, 60, 104, 30, 12, 128, 8960, 512, 4096)  # fmt: skip
    net = made(lambda: Net(num_attention_heads=heads, attention_head_dim=dim, in_channels=16, out_channels=16, text_dim=width,
                           ffn_dim=ffn, num_layers=layers))  # fmt: skip
    return caches.Task(net, noise(batch, 16, frames, high, wide), None, steps,
                       given={"encoder_hidden_states": noise(batch, text, width)})  # fmt: skip


SHAPES: dict[str, Callable[[int, bool], caches.Task]] = {
    "dit-256": lambda steps, small: dit(256, 8, steps, small),
    "dit-512": lambda steps, small: dit(512, 4, steps, small),
    "flux": lambda steps, small: flux(1, steps, small),
    "wan": lambda steps, small: wan(1, steps, small),
}


def parts(job: caches.Task, only: list[str], ratios: tuple[float, ...]) -> dict[str, Any]:
    """Name -> part of every acceleration whose evidence fits this kind of network, as its evidence tries it."""
    kind, found = type(job.net).__name__, {}
    for text in only:
        found[text] = catalog.build("acceleration", text)
    for entry in catalog.entries("acceleration") if not only else ():
        evidence = importlib.import_module(f"ornstein.evidence.acceleration.{entry.name}")
        if kind in getattr(evidence, "FOREIGN", ()):
            told, spec = _usual(entry.name, evidence.TRIAL[1], job.steps)
            if entry.name == "magcache":
                told, spec = "magcache, measured ratios", {"name": "magcache", "ratios": ratios}
            found[told] = catalog.build("acceleration", spec)
    return found


def measured(line: Line, work: Callable[[], dict[str, caches.Peer]]) -> Line:
    """The line with what was measured, or why there is nothing."""
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        found = next(iter(work().values()))
    except (OrnsteinError, RuntimeError, ValueError, KeyError, AttributeError, TypeError) as error:  # of others' code too
        line.refused = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return line
    line.median_ms, line.ratio, line.flops, line.distance = 1e3 * found.seconds, 1 / found.gain, found.cost, found.distance
    line.memory = torch.cuda.max_memory_allocated() / 2**30 if DEVICE.type == "cuda" else 0.0
    return line


def shape(name: str, only: list[str], steps: int, tries: int, small: bool) -> dict[str, Any]:
    job, lines = SHAPES[name](steps, small), []
    ratios = caches.measured_ratios(job)
    for told, part in parts(job, only, ratios).items():
        try:
            attach(job.net, part)()
        except OrnsteinError as error:
            lines.append(Line(told, "ornstein", refused=str(error)[:200]))
            continue
        lines.append(measured(Line(told, "ornstein"), lambda t=told, p=part: caches.own(job, {t: p}, tries)))
        print(name, told, f"{lines[-1].ratio:.2f}", lines[-1].refused, flush=True)
    for peer in caches.PEERS if not only else ():
        if peer == "FasterCache":
            continue  # of guided pipelines alone
        lines.append(measured(Line(peer, "diffusers"), lambda p=peer: caches.peers(job, ratios, tries, only=(p,))))
        print(name, peer, f"{lines[-1].ratio:.2f}", lines[-1].refused, flush=True)
    plain = caches.own(job, {"none": _Nothing()}, tries)["none"]
    size = sum(p.numel() for p in job.net.parameters())
    return {"title": f"{name}{', small' if small else ''}", "parameters": size, "start": list(job.start.shape), "steps": steps,
            "device": torch.cuda.get_device_name() if DEVICE.type == "cuda" else platform.processor() or platform.machine(),
            "torch": torch.__version__, "dtype": str(DTYPE), "full_seconds": plain.seconds * plain.gain,
            "seam_alone": 1 / plain.gain, "refused": {f"{x.part} ({x.whose})": x.refused for x in lines if x.refused},
            "rows": {f"{x.part} ({x.whose})": asdict(x) for x in lines if not x.refused}}  # fmt: skip


class _Nothing:
    """A part that computes all: what the seam itself costs."""

    from ornstein.core.effects import Effects

    effects = Effects()

    def select(self, sites: Any) -> list[Any]:
        return [s for s in sites if s.grain in ("block", "network")]

    def start(self) -> None:
        return None

    def around(self, site: Any, clock: Any, streams: Any, run: Any, memory: Any) -> Any:
        return run(streams)


def page(found: list[dict[str, Any]]) -> str:
    text = ["# Accelerations at full size", "", "`python benchmarks/full_size.py --json ... --out docs/benchmarks/full_size.md`. "
            "Random weights: the distance to the full walk is no quality, and gates that look at the data find other data than "
            "in a network that learned. Seconds and FLOPs over those of the full walk, medians in turn.", ""]  # fmt: skip
    for one in found:
        text += [f"## {one['title']}", "", f"{one['parameters'] / 1e9:.3g} B parameters, start {one['start']}, {one['steps']} "
                 f"Euler steps, {one['dtype']}, {one['device']}, torch {one['torch']}. The full walk takes "
                 f"{one['full_seconds']:.3g} s; under a part that computes all, {one['seam_alone']:.3f} of it.", "",
                 "| part | of | seconds | FLOPs | distance | GiB |", "|---|---|---|---|---|---|"]  # fmt: skip
        text += [f"| {r['part']} | {r['whose']} | {r['ratio']:.2f} | {r['flops']:.2f} | {r['distance']:.3g} | {r['memory']:.1f} |"
                 for r in sorted(one["rows"].values(), key=lambda r: r["ratio"])]  # fmt: skip
        text += ["", *[f"- {name}: {why}" for name, why in one["refused"].items()], ""]
    return "\n".join(text)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--shape", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    ask.add_argument("--only", nargs="+", default=[])
    for name, default in (("steps", 20), ("tries", 3)):
        ask.add_argument(f"--{name}", type=int, default=default)
    ask.add_argument("--small", action="store_true")
    for name in ("json", "out"):
        ask.add_argument(f"--{name}", type=Path)
    a = ask.parse_args()
    if DEVICE.type == "cpu":
        torch.set_num_threads(1)
    found = json.loads(a.json.read_text()) if a.json and a.json.is_file() else []
    for name in a.shape:
        if f"{name}{', small' if a.small else ''}" not in {f["title"] for f in found}:
            found.append(shape(name, a.only, a.steps, a.tries, a.small))
            print(json.dumps(found[-1]), flush=True)
            written(a.json, found)
            if DEVICE.type == "cuda":
                torch.cuda.empty_cache()
    if a.out:
        a.out.write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
