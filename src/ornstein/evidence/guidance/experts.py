"""Evidence for expert guidance: a clean classifier made into experts without labels, against the exact law, and on digits."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ornstein.core.loop import sample
from ornstein.core.process import Process
from ornstein.evidence import Evidence, Row, verdict
from ornstein.guidance.classifier import Classifier
from ornstein.guidance.experts import Experts, transfer
from ornstein.processes.flow import Flow
from ornstein.solvers.dpmpp2m import DPMpp2M
from ornstein.steering.best_of_n import BestOfN

from ._gradient import HIT, LAW, bed, digits, digits_reader, drawn, law, mixture_reader, posterior

RANGES, RANK = 5, 2
CLAIM = (f"On the digits model without its labels, {RANGES} experts of rank {RANK}, taught for seconds on the model's own samples, "
         "bring guidance at strength 1 nearer to the asked digits, and get more of them read as asked, than the clean classifier "
         "that they come from, asked about x_t, than one network of that rank taught for as many steps as all of them, and than "
         "the best of 2 by the clean classifier.")  # fmt: skip
ONE = "1 call a step and the guide"


def made(clean: Callable, process: Process, samples: Tensor, std: float, steps: int, more: bool = False) -> dict:
    """(kind, name, cost) -> experts."""
    def taught(count: int, rank: int = RANK, temperature: float = 0.25) -> tuple:
        return transfer(clean, process, samples, count, rank, steps * RANGES // count, 64, temperature, 1e-2, std)

    ways = {("method", f"{RANGES} experts", ONE): taught(RANGES), ("natural", "the clean classifier, of x_t", ONE): (clean,),
            ("equal-cost", f"one network, {RANGES} times the steps", ONE): taught(1)}  # fmt: skip
    if more:
        ways |= {("reference", f"{RANGES} experts, every weight learns", ONE): taught(RANGES, 0),
                 ("reference", f"{RANGES} experts, teacher not sharpened", ONE): taught(RANGES, RANK, 1.0)}  # fmt: skip
    return ways


def best(clean: Callable) -> BestOfN:
    return BestOfN(lambda x, cond: clean(x).log_softmax(1).gather(1, cond["label"][:, None])[:, 0], 2)


def on_mixtures(seeds: int, steps: int, more: bool) -> dict[str, list[Row]]:
    found: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for seed in range(seeds):
        mixture = bed(seed)
        clean, own = mixture_reader(mixture, seed), sample(mixture, (500, 8), DPMpp2M(), 12, seed=seed + 9, rule="karras")
        for key, experts in made(clean, mixture.process, own, 1.2, steps, more).items():
            found.setdefault(key, []).append(law(mixture, (Experts(experts, 1.0, std=1.2),), 1.0, seed))
        key = ("equal-cost", "best of 2 by the clean classifier", "2 calls a step")
        found.setdefault(key, []).append(law(mixture, (), 1.0, seed, controllers=(best(clean),)))
        for name, rule in (("the clean classifier, of x0", Classifier(clean, 1.0, std=1.2)),
                           ("exact on noise", Classifier(posterior(mixture), 1.0, "noisy"))):  # fmt: skip
            found.setdefault(("reference", name, ONE), []).append(law(mixture, (rule,), 1.0, seed))
    return {name: [Row(f"mixtures: {name}", "reference", metric, v, cost) for metric, v in zip((HIT, LAW), zip(*pairs))]
            for (_, name, cost), pairs in found.items()}  # fmt: skip


def on_digits(quick: bool) -> dict[str, list[Row]]:
    clean, count, many = digits_reader(), 20 if quick else 200, 120 if quick else 600
    own = drawn((), many, 90)
    taught = made(clean, Flow(), own, 0.5, 100 if quick else 400, not quick)
    ways = {key: lambda seed, e=e: drawn((Experts(e, 1.0),), count, seed) for key, e in taught.items()}
    ways[("equal-cost", "best of 2 by the clean classifier", "2 calls a step")] = lambda seed: drawn(
        (), count, seed, controllers=(best(clean),))  # fmt: skip
    if not quick:
        for w in (1.0, 3.0):
            ways[("reference", f"the clean classifier, of x0, {w:g}", ONE)] = lambda seed, w=w: drawn(
                (Classifier(clean, w),), count, seed)  # fmt: skip
    return digits(ways, 3)


def run(quick: bool = True) -> Evidence:
    """The digits; in full also mixtures, against the exact law."""
    rows = on_digits(quick)
    mine, naive, one = list(rows.values())[:3]
    two = rows["best of 2 by the clean classifier"]
    ahead = [mine[0].mean > other[0].mean and mine[1].mean < other[1].mean for other in (naive, two, one)]
    more = {} if quick else on_mixtures(5, 300, True)
    flat = [row for group in (rows, more) for pair in group.values() for row in pair]
    return Evidence(CLAIM, flat, verdict(all(ahead), ahead[0]), "The guide has one hidden layer of 64; 8 steps.")
