"""Evidence for GHVB: intervals of stability, guided samples that diverge at few steps, and accuracy without guidance.

`python -m ornstein.evidence.solvers.ghvb [FILE]` draws the regions of stability.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.clock import NoiseSource
from ornstein.core.denoiser import guide
from ornstein.core.loop import sample
from ornstein.evidence import Evidence, Row, verdict
from ornstein.solvers.layers.adams import constant
from ornstein.testbeds import Mixture

from ._ground import SEEDS, below, rows

CLAIM = (
    "Momentum widens the interval of stability of four-term Adams-Bashforth, and under guidance 15 on the linear VP "
    "schedule GHVB with beta = 0.5 sends fewer samples out of range than PLMS at 8, 10 and 12 calls, with a smaller median "
    "error at 10 to 15, which at 15 and 20 is below DDIM's and that of the heavy ball too."
)
SCALE, CALLS, PROCESS = 15.0, (8, 10, 12, 15, 20), "vp:schedule=linear"
LOST = "share of samples beyond 1.5 times the exact one's range (lower)"
ERROR = "median distance to the exact guided end (lower)"
REACH = "stable interval on the real axis, |z| (higher)"


def radius(z: np.ndarray, terms: int, beta: float, momentum: str = "ghvb") -> np.ndarray:
    """The largest root of a method's recurrence for d xbar/d sigma = lambda xbar, z = lambda (sigma_s - sigma_t), by z."""
    ahead, behind = np.array(constant(terms)), np.array(constant(terms, ago=1))
    c = ahead - (1 - beta) * behind if momentum == "ghvb" else beta * ahead
    found = np.empty(z.shape)
    for place, value in np.ndenumerate(z):
        # x_{n+1} - x_n - (1 - beta) (x_n - x_{n-1}) = z sum_j c_j x_{n-j}
        row = np.zeros(max(terms, 2) + 1, dtype=complex)
        row[:3] = 1, -(2 - beta), 1 - beta
        row[1 : terms + 1] -= value * c
        found[place] = np.abs(np.roots(row)).max()
    return found


def reach(terms: int, beta: float, momentum: str = "ghvb") -> float:
    """How far the method is stable on the negative real axis, to 0.01."""
    z = -np.arange(0.01, 3.0, 0.01)
    unstable = radius(z, terms, beta, momentum) > 1 + 1e-9
    return float(-z[unstable.argmax()] - 0.01)


@cache
def guided() -> tuple:
    """The mixture under guidance, starts [SEEDS * 64, 16], labels and the ends after 500 steps."""
    mixture = Mixture.random(catalog.build("processes", PROCESS))
    denoiser = guide(mixture, catalog.build("guidance", f"cfg:scale={SCALE}"))
    like = torch.empty(SEEDS * 64, 16, dtype=torch.float64)
    start = mixture.process.prior(NoiseSource.of(0, range(len(like))).draw(-1, like))
    cond = {"label": torch.arange(len(like)) % 10}
    return denoiser, start, cond, sample(denoiser, start, catalog.build("solvers", "dpmpp2m"), 500, cond=cond)


def artifacts(kind: str, spec: str) -> tuple[list[Row], list[Row]]:
    """Share of samples lost, and median error, per number of calls; seeds of 64."""
    denoiser, start, cond, exact = guided()
    lost, error = [], []

    def per_seed(values: Tensor) -> Tensor:
        return values.reshape(SEEDS, -1)

    for calls in CALLS:
        end = sample(denoiser, start, catalog.build("solvers", spec), calls, cond=cond)
        out = end.abs().amax(1) > 1.5 * exact.abs().amax(1)
        gap = (end - exact).square().mean(1).sqrt()
        lost.append(Row(f"{spec}, guided", kind, LOST, per_seed(out.double()).mean(1).tolist(), f"{calls} NFE"))
        error.append(Row(f"{spec}, guided", kind, ERROR, per_seed(gap).median(1)[0].tolist(), f"{calls} NFE"))
    return lost, error


def run(quick: bool = True) -> Evidence:
    """Regions by formula; five seeds of 64 guided samples, and of 32 trajectories without guidance."""
    settings = (("method", 4, 0.8, "ghvb"), ("method", 4, 0.5, "ghvb"), ("method", 4, 0.2, "ghvb"),
                ("natural", 4, 1.0, "ghvb"), ("equal-cost", 4, 0.5, "hb"))  # fmt: skip
    names = ("ghvb:beta=0.8", "ghvb:beta=0.5", "ghvb:beta=0.2", "pndm", "ghvb:beta=0.5,momentum=hb")
    regions = [Row(n, k, REACH, [reach(*rest)]) for n, (k, *rest) in zip(names, settings)]
    wider = all(a.mean < b.mean for a, b in zip([regions[3], *regions[:2]], regions[:3]))
    tried = {s: artifacts(k, s) for k, s in (("method", "ghvb:beta=0.5"), ("method", "ghvb"), ("natural", "pndm"),
             ("natural", "ddim"), ("equal-cost", "ghvb:beta=0.5,momentum=hb"), ("equal-cost", "dpmpp2m"),
             ("equal-cost", "ghvb:terms=2,beta=0.5"))}  # fmt: skip
    (lost, error), (lost_plms, error_plms) = tried["ghvb:beta=0.5"], tried["pndm"]
    calmer = all(below(lost[:3], lost_plms[:3])) and all(below(error[1:4], error_plms[1:4]))
    others = tried["ddim"][1][3:], tried["ghvb:beta=0.5,momentum=hb"][1][3:]
    nearer = all(all(below(error[3:], other)) for other in others)
    plain = [r for k, s in (("method", "ghvb"), ("method", "ghvb:beta=0.5"), ("natural", "pndm"),
             ("equal-cost", "ghvb:beta=0.5,momentum=hb")) for r in rows(k, s, (PROCESS, "flow"), (11, 21))]  # fmt: skip
    table = [*regions, *(r for pair in tried.values() for half in pair for r in half), *plain]
    return Evidence(CLAIM, table, verdict(wider and calmer and nearer, wider and calmer))


def picture(file: Path, fineness: int = 100) -> Path:
    """Regions of stability in the plane of z, one panel for GHVB and one for the heavy ball."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    real, imaginary = np.meshgrid(np.linspace(-2.2, 0.4, fineness), np.linspace(-1.1, 1.1, fineness))
    figure, panels = plt.subplots(1, 2, figsize=(9, 4), sharey=True, constrained_layout=True)
    for panel, momentum, title in zip(panels, ("ghvb", "hb"), ("GHVB", "heavy ball on PLMS")):
        for beta, colour in ((1.0, "black"), (0.8, "tab:blue"), (0.5, "tab:green"), (0.2, "tab:orange")):
            size = radius(real + 1j * imaginary, 4, beta, momentum)
            panel.contour(real, imaginary, size, levels=[1 + 1e-6], colors=[colour])
            panel.plot([], [], color=colour, label="PLMS (beta = 1)" if beta == 1 else f"beta = {beta}")
        panel.set(title=f"{title}, 4 terms", xlabel="Re z", ylabel="Im z", aspect="equal")
        panel.legend(loc="upper left", fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)
    return file


if __name__ == "__main__":
    print(picture(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/pictures/ghvb_stability.png")))
