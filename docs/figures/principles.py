"""The pictures of docs/principles.md, from the parts of the library: `python docs/figures/principles.py [NAME...]`.

Everything is exact: a mixture of eight Gaussians on a circle, whose denoiser, score and density are formulas.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

from ornstein import NoiseSource, build, guide, sample
from ornstein.core.process import grid
from ornstein.testbeds import Mixture

HERE = Path(__file__).resolve().parent.parent / "pictures"
PROCESSES = {"vp": "variance preserving", "edm": "variance exploding", "flow": "linear flow"}
DOTS = {"s": 3, "linewidths": 0, "cmap": "tab10", "vmin": 0, "vmax": 10}
INK = "#26547c"


def ring(process: str = "flow") -> Mixture:
    return Mixture.ring(build("processes", process))


def nearest(x: torch.Tensor) -> torch.Tensor:
    """The blob that each point is nearest to."""
    return torch.cdist(x.double(), ring().means).argmin(1)


def bare(panel, reach: float = 1.6, title: str = "") -> None:
    panel.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
    panel.set_title(title, fontsize=9)


def noise_of(count: int, seed: int = 0) -> torch.Tensor:
    return NoiseSource.of(seed, range(count)).draw(-1, torch.empty(count, 2, dtype=torch.float64))


def page(rows: int, columns: int, size: float = 1.75, **more) -> tuple[Figure, list]:
    figure = Figure(figsize=(size * columns, size * rows + 0.25), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **more)


def forward() -> Figure:
    """Data becomes noise, three ways; at equal log-SNR they are one another's copies but for the scale."""
    levels = (6.0, 2.0, 0.0, -2.0, -6.0)
    figure, panels = page(3, len(levels))
    x0, noise = ring().sample(300), noise_of(300)
    for row, (name, words) in zip(panels, PROCESSES.items()):
        process = build("processes", name)
        for panel, level in zip(row, levels):
            t = float(process.time(torch.tensor(level, dtype=torch.float64)))
            x = process.corrupt(x0, noise, t)
            panel.scatter(*x.T, c=nearest(x0), **DOTS)
            bare(panel, 3.0 if name != "edm" else max(3.0, 2.6 * t), f"t = {t:.3g}")
        row[0].set_ylabel(words, fontsize=9)
    for panel, level in zip(panels[0], levels):
        panel.set_title(f"log-SNR {level:g}\n{panel.get_title()}", fontsize=9)
    return figure


def score() -> Figure:
    """Where the density rises, at three levels of noise; the arrows are the score, their length its root."""
    figure, panels = page(1, 3, 2.5)
    mixture, reach = ring(), 1.7
    fine, coarse = (torch.linspace(-reach, reach, n, dtype=torch.float64) for n in (120, 17))
    for panel, t in zip(panels[0], (0.7, 0.35, 0.15)):
        points = torch.cartesian_prod(fine, fine)
        density = mixture.log_density(points, t).exp().reshape(120, 120)
        panel.contourf(fine, fine, density.T, 12, cmap="Blues")
        at = torch.cartesian_prod(coarse, coarse)
        arrows = mixture(at, t).score
        arrows = arrows / arrows.norm(dim=1, keepdim=True).clamp_min(1e-9).sqrt()
        panel.quiver(*at.T, *arrows.T, color="#c1121f", width=0.004)
        bare(panel, reach, f"t = {t}")
    return figure


def paths() -> Figure:
    """Four starts (dots) and their ends (squares): along the ODE, and by two random walks of the same law at every time."""
    figure, panels = page(1, 3, 2.5)
    start = noise_of(400, seed=3)
    for panel, (name, solver) in zip(panels[0], (("ODE", "ddim"), ("random walk", "ddpm"), ("random walk, other noise", "ddpm"))):
        kept = [build("processes", "vp").prior(start)]
        end = sample(ring("vp"), kept[0], build("solvers", solver), 120, seed=len(name),
                     progress=lambda state, steps, kept=kept: kept.append(state.x))  # fmt: skip
        way = torch.stack(kept)
        panel.scatter(*end.T, color="0.75", s=4, linewidths=0)
        for i in range(4):
            panel.plot(*way[:, i].T, lw=0.9, color=f"C{i}", alpha=0.85)
            panel.scatter(*start[i], s=28, color=f"C{i}", edgecolors="k", zorder=3)
            panel.scatter(*end[i], s=34, color=f"C{i}", edgecolors="k", marker="s", zorder=3)
        bare(panel, 2.6, name)
    return figure


def kinds() -> Figure:
    """What an error of one unit in each quantity does to x0: where each of them is the safe one to learn."""
    figure, panels = page(1, 2, 3.4)
    for panel, name in zip(panels[0], ("vp", "flow")):
        process = build("processes", name)
        level = torch.linspace(9, -9, 200, dtype=torch.float64)
        said = ring(name)(torch.zeros(200, 2, dtype=torch.float64), process.time(level))
        for kind in ("x0", "noise", "v", "velocity", "score"):
            unit = said.get(kind) + 1.0
            gain = (said.like(kind, unit).x0 - said.x0)[:, 0].abs()
            panel.plot(level, gain, label=kind, lw=1.6)
        panel.set(yscale="log", ylim=(1e-3, 1e3), xlabel="log-SNR", title=PROCESSES[name], xlim=(9, -9))
        panel.set_ylabel("error of x0 per unit" if name == "vp" else "")
        panel.grid(alpha=0.25)
    panels[0][0].legend(fontsize=8, frameon=False)
    return figure


def few() -> Figure:
    """Four solvers, the same starts, 5 to 40 calls; coloured by where the exact trajectory ends."""
    calls = (5, 10, 20, 40)
    figure, panels = page(4, len(calls))
    mixture = ring("vp")
    start = mixture.process.prior(noise_of(400))
    exact = mixture.exact(start, steps=200)
    solvers = {"ddpm": "DDPM", "ddim": "DDIM", "dpmpp2m": "2M", "deis": "DEIS"}
    for row, (solver, words) in zip(panels, solvers.items()):
        for panel, steps in zip(row, calls):
            x = sample(mixture, start, build("solvers", solver), steps, rule="beta")
            panel.scatter(*x.T, c=nearest(exact), **DOTS)
            gap = (x - exact).square().mean(1).sqrt().median()
            bare(panel, 1.6, f"{steps} calls" if solver == "ddpm" else f"{steps} calls, off by {gap:.2g}")
        row[0].set_ylabel(words, fontsize=9)
    return figure


def guidance() -> Figure:
    """One class of two blobs under classifier-free guidance; in the back, the law of the class."""
    scales = (0.0, 1.0, 2.0, 5.0)
    figure, panels = page(1, len(scales), 2.2)
    mixture = Mixture(ring().means, torch.tensor(0.25), build("processes", "flow"),
                      labels=torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]))  # fmt: skip
    line = torch.linspace(-1.9, 1.9, 100, dtype=torch.float64)
    label = {"label": torch.zeros(100 * 100, dtype=torch.long)}
    density = mixture.log_density(torch.cartesian_prod(line, line), 0.0, label).exp().reshape(100, 100)
    cond = {"label": torch.zeros(500, dtype=torch.long)}
    for panel, scale in zip(panels[0], scales):
        guided = guide(mixture, build("guidance", f"cfg:scale={scale}"))
        x = sample(guided, noise_of(500), build("solvers", "dpmpp2m"), 40, cond=cond)
        panel.contourf(line, line, density.T, 8, cmap="Blues")
        panel.scatter(*x.T, s=3, color="#c1121f", linewidths=0)
        bare(panel, 1.9, f"scale = {scale:g}")
    return figure


def levels() -> Figure:
    """Where the grids put twelve steps, in flow time."""
    figure = Figure(figsize=(6.4, 2.4), layout="constrained")
    panel = figure.subplots()
    process = build("processes", "edm")
    rules = ("uniform", "karras", "logsnr", "beta", "sway:s=0")
    for height, rule in enumerate(rules[::-1]):
        tau = process.at(grid(process, 12, rule)[:, None], torch.empty(13, 1, dtype=torch.float64)).flow_time[:, 0]
        panel.plot(tau, torch.full_like(tau, height), "o-", ms=4, lw=0.7, color=INK)
    panel.set(yticks=range(len(rules)), yticklabels=rules[::-1], xlim=(1.01, -0.01), xlabel="s/(a+s): noise to data, on EDM")
    return figure


FIGURES = {f.__name__: f for f in (forward, score, paths, kinds, few, guidance, levels)}


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    for name in names or FIGURES:
        HERE.mkdir(exist_ok=True)
        FIGURES[name]().savefig(HERE / f"principles-{name}.png", dpi=80)
        print(HERE / f"principles-{name}.png")


if __name__ == "__main__":
    main(sys.argv[1:])
