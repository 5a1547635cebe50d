"""Evidence for learned timestep weights: in domain (a model's own samples) and out of it, at equal evaluations."""

from __future__ import annotations

from statistics import fmean

import torch
from torch import Tensor

from ornstein.core.denoiser import Denoises
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence._laws import bayes, classes
from ornstein.perception.weighted_classifier import WeightedClassifier, fit
from ornstein.processes.vp import VP
from ornstein.testbeds import Mixture

__all__ = ["run"]

CLAIM = ("At 16 pairs, timestep weights learned from 24 labelled samples of the domain raise the accuracy of a diffusion "
         "classifier over even weights and over times uniform in t at equal evaluations, on the model's own samples and on "
         "data whose classes have moved, and by more on the latter.")  # fmt: skip
LABELS, SHOTS, PAIRS, COUNT = 6, 24, 16, 120
OWN, MOVED = "accuracy on its own samples (higher)", "accuracy on data whose classes moved (higher)"
REAL, MINE, THEIRS = "accuracy on held-out digits", "accuracy on its own digits", "accuracy on the U-Net's digits"
Found = dict[tuple[str, str], list[float]]


def moved(model: Mixture, seed: int, by: float = 0.35) -> Mixture:
    """The data: each Gaussian of the model elsewhere, by a normal step of that deviation in every coordinate."""
    step = torch.randn(model.means.shape, generator=torch.Generator().manual_seed(900 + seed), dtype=model.means.dtype)
    return Mixture(model.means + by * step, model.stds, model.process, model.weights, model.labels)


def tried(found: Found, metric: str, model: Denoises, shots: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor],
          labels: int, pairs: int, logsnr: tuple[float, float], seed: int) -> None:  # fmt: skip
    """Accuracies of the ways on test data, written into `found`."""
    every = {"label": torch.arange(labels)}
    for times, name in (("logsnr", "even weights"), ("uniform", "times uniform in t")):
        even = WeightedClassifier("", pairs, times, logsnr, seed)
        learned = WeightedClassifier(fit(model, *shots, every, even))
        each = even.record(model, test[0], every)  # the same evaluations under both weights
        for called, way in ((name, even), ("learned" if times == "logsnr" else f"learned, {name}", learned)):
            right = torch.einsum("k,kbj->bj", way.weights(), each).argmin(1) == test[1]
            found.setdefault((called, metric), []).append(right.double().mean().item())


def mixtures(found: Found, seed: int) -> None:
    """One mixture: weights learned and tried on its own samples, and on those of the moved one."""
    model = classes(VP(), seed, labels=LABELS, parts=2, std=0.8)
    for metric, law in ((OWN, model), (MOVED, moved(model, seed))):
        label = torch.arange(SHOTS + COUNT) % LABELS
        x = law.sample(len(label), seed=seed, cond={"label": label})
        shots, test = (x[:SHOTS], label[:SHOTS]), (x[SHOTS:], label[SHOTS:])
        tried(found, metric, model, shots, test, LABELS, PAIRS, (-10.0, 10.0), seed)
        best = bayes(law, test[0], range(LABELS)).argmax(1)
        found.setdefault(("exact Bayes", metric), []).append((best == test[1]).double().mean().item())


def digits(found: Found, seed: int, count: int = 60, shots: int = 20, pairs: int = 4) -> None:
    """The shipped DiT on held-out digits, on its own ones, and on those of the shipped U-Net."""
    from ornstein.core.loop import sample
    from ornstein.data.digits import Digits
    from ornstein.model import load
    from ornstein.solvers.dpmpp2m import DPMpp2M

    model, label = load("digits"), torch.arange(count + shots) % 10
    for metric, source in ((REAL, None), (MINE, "digits"), (THEIRS, "digits-unet")):
        if source:
            x, y = sample(load(source).denoiser, (len(label), 1, 8, 8), DPMpp2M(), 10, cond={"label": label}, seed=seed), label
        else:
            held = Digits("test")
            index = torch.randperm(len(held), generator=torch.Generator().manual_seed(seed))[: len(label)]
            x, y = held.images(index), held.labels[index]
        split = (x[:shots], y[:shots]), (x[shots:], y[shots:])
        tried(found, metric + " (higher)", model.denoiser, *split, 10, pairs, (-6.0, 6.0), seed)


def run(quick: bool = True) -> Evidence:
    """Five mixtures of 6 labels of 2 Gaussians in 8 dimensions, the model exact for its own; in full also digits."""
    found: Found = {}
    for seed in range(5 if quick else 20):
        mixtures(found, seed)
    for seed in range(0 if quick else 3):
        digits(found, seed)
    kinds = {"learned": "method", "even weights": "natural", "times uniform in t": "equal-cost",
             "learned, times uniform in t": "method", "exact Bayes": "reference"}  # fmt: skip
    rows = [Row(name, kinds[name], metric, values, "" if name == "exact Bayes" else f"{PAIRS * LABELS} rows a sample"
                if metric in (OWN, MOVED) else "40 rows a sample") for (name, metric), values in found.items()]  # fmt: skip
    mean = {key: fmean(values) for key, values in found.items()}
    gain = {m: mean["learned", m] - mean["even weights", m] for m in (OWN, MOVED)}
    over = {m: mean["learned", m] - mean["times uniform in t", m] for m in (OWN, MOVED)}
    beats = all(v > 0 for v in (*gain.values(), *over.values()))
    note = (f"'partly' asks that weights help where classes moved, and more than in domain. Gain over even weights "
            f"{gain[OWN]:+.3f} in domain, {gain[MOVED]:+.3f} out of it; over times uniform in t {over[OWN]:+.3f} and "
            f"{over[MOVED]:+.3f}.")  # fmt: skip
    more = gain[MOVED] > max(0.0, gain[OWN])
    return Evidence(CLAIM, rows, verdict(beats and more, more), note)
