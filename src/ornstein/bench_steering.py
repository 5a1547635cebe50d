"""Every steering that chooses by a reward, beside one trajectory of more steps and the best of N, at equal network calls.

On a mixture of Gaussians in the plane (reward: a direction; judge: the model's own log density, which steering must not leave)
and on the digits drawn without their labels (reward: the shipped classifier's log chance of a label; judge: the label of the
nearest of 1797 real digits, which no steering asks). `python -m ornstein.bench_steering [--quick] [--out docs/benchmarks]` writes
steering.json and steering.md. `--imagenet` instead guides the emoji by a classifier of ImageNet: imagenet_classifier.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.clock import Clock
from ornstein.core.denoiser import guide
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, sample
from ornstein.core.prediction import Prediction
from ornstein.core.record import write_atomic
from ornstein.core.seam import Run, gather
from ornstein.metrics.layers.measure import proportion
from ornstein.testbeds import Mixture

__all__ = ["CONTENDERS", "Ground", "Line", "Metered", "Settings", "contenders", "ground", "imagenet", "measure", "page"]

WALK, STEPS, WIDTH = "ddim:eta=1", 8, 8  # the solver of all, steps of a trajectory, trajectories a sample
NFE = STEPS * WIDTH
GROUNDS = "mixture", "digits"
WAY = (0.8, 0.6)  # the direction that is rewarded in the plane
FORMAT = 1


@dataclass(frozen=True)
class Contender:
    """name, the part of steering/ as text ('' for one trajectory), its steps, and why it is left out where it is."""

    name: str
    part: str = ""
    steps: int = STEPS
    solver: str = WALK
    why_not: str = ""


CONTENDERS = (
    Contender("one trajectory"),
    Contender("one trajectory, more steps", steps=NFE),
    Contender("best_of_n", "best_of_n:budget=8"),
    Contender("best_of_n by a solver of second order", "best_of_n:budget=8", solver="dpmpp2m"),
    Contender("fk", "fk:budget=8,scale=3.0"),
    Contender("svdd", "svdd:budget=8"),
    Contender("rbf", "rbf:quota=8"),
    Contender("path_search", "path_search:budget=3,keep=1"),  # 8 steps, and 12 again
    Contender("zero_order", "zero_order:budget=2,rounds=4"),
    Contender("noise_policy", "noise_policy", solver="dpmpp2m"),
    Contender("boundary", why_not="it chooses one start by reference pictures, not by a reward"),
    Contender("hallucination", why_not="it chooses by the variance of its own predictions, not by a reward"),
    Contender("teleport", why_not="it saves steps, and chooses nothing"),
    Contender("w2sd", why_not="it reflects between two models, and asks no reward"),
)


@dataclass(frozen=True)
class Settings:
    """count: samples of each method, over all seeds."""

    grounds: tuple[str, ...] = GROUNDS
    count: int = 120
    seeds: int = 3
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.grounds:
            if name not in GROUNDS:
                raise OrnsteinError(f"steering is not compared on '{name}'", f"Compare it on {' or '.join(GROUNDS)}.")
        if self.seeds < 1 or self.count < 10 * self.seeds or self.count % (10 * self.seeds):
            raise OrnsteinError(f"{self.count} samples in {self.seeds} seeds", "Ask for a multiple of ten for each seed.")


class Metered:
    """A denoiser that counts the samples it is asked about; null: it is asked without the condition, which rewards see."""

    def __init__(self, base: Any, null: bool = False) -> None:
        self.base, self.process, self.null, self.rows = base, base.process, null, 0

    def __call__(self, x: Tensor, t: Any, cond: Any = None, clock: Clock | None = None) -> Prediction:
        self.rows += len(x)
        return self.base(x, t, self.base.unconditional(cond, len(x)) if self.null else None, clock)


@dataclass(frozen=True)
class Ground:
    """What is steered: the denoiser, how it is asked, the reward, and the judge that no steering asks."""

    base: Any
    shape: tuple[int, ...]
    null: bool
    reward: Callable[[Tensor, Any], Tensor]  # (x [M, ...], cond) -> [M]
    judge: Callable[[Tensor, Tensor], Tensor]  # (x [N, ...], labels [N]) -> [N], higher is better
    told: str  # what the judge says
    kinds: int  # labels that are asked in turn
    real: tuple[float, float]  # of data: what the judge says, mean distance of two samples of one label


@dataclass(frozen=True)
class Line:
    """One method on one ground; (value, low, high) are means with intervals of 95 %. Calls are those of a sample."""

    ground: str
    name: str
    part: str
    steps: int
    nfe: float
    reward_calls: float
    reward: tuple[float, float, float]
    held: tuple[float, float, float]
    diversity: float  # mean distance of two samples of one label over that of data
    seconds: float  # of the processor, a sample


@dataclass
class Bench:
    settings: Settings
    lines: list[Line] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


# ---- the grounds


def linear(x: Tensor, cond: Any = None) -> Tensor:
    return x.double() @ torch.tensor(WAY, dtype=torch.float64)


def apart(x: Tensor, labels: Tensor) -> float:
    """Mean distance of two samples of one label, over labels that have two."""
    far = [torch.pdist(x[labels == k].flatten(1).double()).mean() for k in labels.unique() if int((labels == k).sum()) > 1]
    return float(torch.stack(far).mean())


@cache
def ground(name: str) -> Ground:
    """The grounds by name."""
    flow = catalog.build("processes", "flow")
    if name == "mixture":
        bed = Mixture.random(flow, 2, 8, 0.3, 1)
        data = bed.sample(2000, 1)
        real = bed.log_density(data).mean().item(), apart(data, torch.zeros(len(data)))
        return Ground(bed, (2,), False, linear, lambda x, labels: bed.log_density(x.double()), "log density, nats", 1, real)
    from ornstein.bench_guidance import floor, read
    from ornstein.model import load
    from ornstein.rewards import reward

    model, data = load("digits"), catalog.build("data", "digits:split=all")
    real = floor(), apart(data.images(), data.labels)
    return Ground(model.denoiser, model.shape, True, reward("class", model), lambda x, labels: (read(x) == labels).double(),
                  "share read as asked", 10, real)  # fmt: skip


# ---- how


def contenders(settings: Settings = Settings()) -> tuple[list[Contender], dict[str, str]]:
    """Those that run, and why others do not. A file of steering/ that nobody names is left out by that."""
    known = {catalog.parse(c.part)[0] if c.part else c.name for c in CONTENDERS}
    left = {c.name: c.why_not for c in CONTENDERS if c.why_not}
    left |= {e.name: "no settings were chosen for it here" for e in catalog.entries("steering") if e.name not in known}
    for name in settings.only:
        if not any(name in (c.name, c.part.partition(":")[0]) for c in CONTENDERS):
            catalog.find(name, "steering")
    wanted = [c for c in CONTENDERS if not settings.only or {c.name, c.part.partition(":")[0]} & {*settings.only}]
    return [c for c in wanted if not c.why_not], left


def interval(values: Tensor) -> tuple[float, float, float]:
    """Values [N] -> mean with an interval of 95 %: exact of a share (all are 0 or 1), else 1.96 standard errors."""
    if bool(((values == 0) | (values == 1)).all()):
        return tuple(round(v, 4) for v in (values.mean().item(), *proportion(int(values.sum()), len(values))))
    mean, wide = values.mean().item(), 1.96 * values.std(correction=1).item() / len(values) ** 0.5
    return tuple(round(v, 4) for v in (mean, mean - wide, mean + wide))


def _part(contender: Contender, here: Ground, meter: Metered, judge: Callable, count: int, labels: Tensor,
          seed: int) -> list[Controller]:  # fmt: skip
    if not contender.part:
        return []
    if contender.part != "noise_policy":
        return [catalog.build("steering", contender.part, reward=judge)]
    from ornstein.steering.noise_policy import NoisePolicy, fit
    from ornstein.steering.noise_policy import Settings as Learning

    runs = count * (WIDTH - 1) // here.kinds  # for a label: what the calls of all samples allow
    redraws = max(1, runs // 10)
    learning = Learning(iterations=redraws, batch=runs // redraws, seed=seed)
    cond = {"label": torch.arange(here.kinds)} if here.kinds > 1 else None
    solver = catalog.build("solvers", contender.solver)
    return [NoisePolicy(fit(meter, here.shape, solver, contender.steps, judge, cond, settings=learning))]


def _measured(name: str, contender: Contender, settings: Settings) -> Line:
    here, asked, out, each = ground(name), [0], [], settings.count // settings.seeds
    labels = torch.arange(each) % here.kinds
    meter = Metered(here.base, here.null)

    def judge(x: Tensor, cond: Any) -> Tensor:
        asked[0] += len(x)
        return here.reward(x, cond)

    sample(meter, (2, *here.shape), catalog.build("solvers", contender.solver), 1)  # so that the clock counts no beginnings
    meter.rows, began = 0, time.process_time()
    for seed in range(settings.seeds):
        parts = _part(contender, here, meter, judge, each, labels, seed)
        out.append(sample(meter, (each, *here.shape), catalog.build("solvers", contender.solver), contender.steps, seed=seed,
                          cond={"label": labels}, controllers=parts, run=Run()))  # fmt: skip
    seconds = (time.process_time() - began) / settings.count
    x, every = torch.cat(out), labels.repeat(settings.seeds)
    with torch.no_grad():
        reward = here.reward(x, {"label": every}).double()
    return Line(name, contender.name, contender.part, contender.steps, round(meter.rows / settings.count, 2),
                round(asked[0] / settings.count, 2), interval(reward), interval(here.judge(x, every).double()),
                round(apart(x, every) / here.real[1], 3), round(seconds, 5))  # fmt: skip


def measure(settings: Settings = Settings(), progress: Callable[[int, int, str], None] | None = None) -> Bench:
    """All lines; progress(done, total, what) after each."""
    wanted, left = contenders(settings)
    plan, bench = [(g, c) for g in settings.grounds for c in wanted], Bench(settings, left_out=left)
    for done, (name, contender) in enumerate(plan, 1):
        bench.lines.append(_measured(name, contender, settings))
        if progress is not None:
            progress(done, len(plan), f"{name}: {contender.name}")
    return bench


# ---- what is told


def verdict(lines: Sequence[Line]) -> str:
    """Who gains surely more reward than the best of N at no lower judgement: by intervals that do not touch."""
    best = next((x for x in lines if x.name == "best_of_n"), None)
    others = [x for x in lines if x.name not in ("best_of_n", "one trajectory", "one trajectory, more steps")]
    if best is None or not others:
        return ""
    more = [x.name for x in others if x.reward[1] > best.reward[2]]
    kept = [x.name for x in others if x.name in more and x.held[2] >= best.held[1]]
    worse = [x.name for x in others if x.held[2] < best.held[1]]
    return (f"Surely more reward than the best of {WIDTH}: {', '.join(more) or 'none'}; of these not surely judged worse: "
            f"{', '.join(kept) or 'none'}. Surely judged worse than it: {', '.join(worse) or 'none'}.")  # fmt: skip


def page(bench: Bench) -> str:
    """steering.md."""
    s = bench.settings
    out = ["# Steering at equal network calls", "",
           f"`python -m ornstein.bench_steering`: {s.count} samples of each method from {s.seeds} seeds, by `{WALK}` of {STEPS} "
           f"steps where nothing else is said; {NFE} network calls a sample or as many fewer as a method must. *Gained*: reward "
           "less that of one trajectory. *Judge*: what no steering asks. *Diversity*: mean distance of two samples of one "
           "label, as a share of that of data. Means with 95 % intervals; one CPU core.", ""]  # fmt: skip
    for name in s.grounds:
        lines, here = [x for x in bench.lines if x.ground == name], ground(name)
        zero = next((x.reward[0] for x in lines if x.name == "one trajectory"), float("nan"))
        out += [f"## {name}", "", f"Of data the judge says {here.real[0]:.3f}.", "",
                "| method | steering | steps | network calls | reward calls | reward | gained | "
                f"judge: {here.told} | diversity | ms |", "|---|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
        for x in lines:
            figures = " | ".join(f"{v:.2f} [{low:.2f}, {high:.2f}]" for v, low, high in (x.reward, x.held))
            reward, held = figures.split(" | ")
            out.append(f"| {x.name} | {f'`{x.part}`' if x.part else '-'} | {x.steps} | {x.nfe:g} | {x.reward_calls:g} | {reward} | "
                       f"{x.reward[0] - zero:+.2f} | {held} | {x.diversity:.2f} | {1000 * x.seconds:.1f} |")  # fmt: skip
        out += ["", verdict(lines), ""]
    if any(x.part == "noise_policy" for x in bench.lines):
        out += ["Of noise_policy the calls of its training are counted, spread over the samples that were drawn: the more are "
                "drawn, the less it costs.", ""]  # fmt: skip
    left = [f"- {name}: {why}" for name, why in bench.left_out.items()]
    return "\n".join([*out, "Left out:", "", *left]) + "\n"


def write(bench: Bench, folder: Path) -> list[Path]:
    """steering.json and steering.md."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {"format": FORMAT, "settings": asdict(bench.settings), "lines": [asdict(x) for x in bench.lines]}
    files = [folder / "steering.json", folder / "steering.md"]
    write_atomic(files[0], (json.dumps(told, indent=1) + "\n").encode())
    write_atomic(files[1], page(bench).encode())
    return files


# ---- the classifier of ImageNet

CLASSES = {"strawberry": 949, "pizza": 963, "lemon": 951}  # of ImageNet, and names of emoji
GUIDED = """# Emoji guided by a classifier of ImageNet

`python -m ornstein.bench_steering --imagenet`: the emoji model asked for nothing, 8 pictures of strawberry, pizza and lemon
each from 2 seeds, 12 steps of dpmpp2m on the beta grid. Guidance is `classifier` with efficientnet-lite0 at 96 pixels, at the
predicted x0 but where it says 'through the network'; the number is its strength. *First of 1000* and *log chance*: what that
very classifier says, which guidance follows. *Agreement* reads other features of the same network against the name, so that it
is no independent judge either. *By eye of the model*: the share whose own name, of the three, denoises the picture best; chance
is 0.33. Means with 95 % intervals; one CPU core.

"""


def imagenet(pictures: int = 8, steps: int = 12, seeds: int = 2, classes: dict[str, int] = CLASSES) -> list[str]:
    """The emoji, drawn without a prompt and guided by efficientnet-lite0 towards classes of ImageNet: a table, row by row.

    The classifier's own chance is what guidance follows. 'agreement' reads other features of the same network against the name;
    'by eye of the model' is the share that the emoji model itself, asked which name denoises a picture best, gives to the class.
    """
    from ornstein.guidance.classifier import Classifier
    from ornstein.metrics.agreement import Agreement
    from ornstein.metrics.layers.features import _lite0, _lite0_input
    from ornstein.model import load
    from ornstein.rewards import _decoded, _white
    from ornstein.steering.best_of_n import BestOfN

    model, eye = load("emoji"), _lite0("cpu")
    blank, names = model.encode([""]), [n for n in classes for _ in range(pictures)]
    said, label = model.encode(names), torch.tensor([classes[n] for n in names])

    def logits(x: Tensor) -> Tensor:
        return eye(_lite0_input(_white(_decoded(model, x)).float()))

    def chance(x: Tensor, cond: Any) -> Tensor:
        return logits(x).log_softmax(1).gather(1, cond["label"][:, None])[:, 0]

    class Blind:
        process = model.denoiser.process

        def __call__(self, x: Tensor, t: Any, cond: Any = None, clock: Clock | None = None) -> Prediction:
            return model.denoiser(x, t, model.denoiser.unconditional(gather(blank, torch.zeros(len(x)).long(), 1), len(x)), clock)

    ways = {"nothing": (), "best of 2": (), "x0, 1": (Classifier(logits, 1.0),), "x0, 3": (Classifier(logits, 3.0),),
            "x0, 10": (Classifier(logits, 10.0),),
            "x0 with half the marginal and the sine, 3": (Classifier(logits, 3.0, marginal=0.5, sine=0.3),),
            "through the network, 3": (Classifier(logits, 3.0, "xt"),), "the name as prompt, cfg 3": None}  # fmt: skip
    out = ["| guided by | first of 1000 | log chance, nats | agreement | by eye of the model | s a picture |",
           "|---|---|---|---|---|---|"]  # fmt: skip
    solver, asked = catalog.build("solvers", "dpmpp2m"), guide(model.denoiser, catalog.build("guidance", "cfg:scale=3"))
    for way, rules in ways.items():
        denoiser, cond = (asked, said) if rules is None else (guide(Blind(), *rules), {"label": label})
        controllers = [BestOfN(chance, 2)] if way == "best of 2" else []
        began = time.process_time()
        drawn = [sample(denoiser, (len(names), *model.shape), solver, steps, cond=cond, seed=seed, rule="beta",
                        controllers=controllers) for seed in range(seeds)]  # fmt: skip
        seconds, x, wanted = (time.process_time() - began) / len(names) / seeds, torch.cat(drawn), label.repeat(seeds)
        with torch.no_grad():
            first, sure = (logits(x).argmax(1) == wanted).double(), chance(x, {"label": wanted}).double()
        match = Agreement()(_white(_decoded(model, x)), said["pooled"].repeat(seeds, 1))
        right = _named(model, x, list(classes), names * seeds)
        cells = [f"{v:.2f} [{low:.2f}, {high:.2f}]" for v, low, high in
                 (interval(first), interval(sure), (match.value, match.low, match.high), interval(right))]  # fmt: skip
        out.append(f"| {way} | {' | '.join(cells)} | {seconds:.2f} |")
    return out


@torch.no_grad()
def _named(model: Any, x: Tensor, classes: list[str], names: list[str], places: Sequence[float] = (0.5, 0.7)) -> Tensor:
    """1.0 where, of the classes' names, a picture's own denoises it best, [N] float64."""
    lost, process = torch.zeros(len(x), len(classes), dtype=torch.float64), model.denoiser.process
    for k, place in enumerate(places):
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(k)).to(x)
        t = process.time(2 * torch.tensor((1 - place) / place, dtype=torch.float64).log())
        noisy = process.corrupt(x, noise, t)
        for c, name in enumerate(classes):
            lost[:, c] += (model.denoiser(noisy, t, model.encode([name] * len(x))).x0 - x).double().square().flatten(1).mean(1)
    return (lost.argmin(1) == torch.tensor([classes.index(n) for n in names])).double()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m ornstein.bench_steering", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a quarter of the samples")
    parser.add_argument("--imagenet", action="store_true", help="the emoji guided by a classifier of ImageNet, instead")
    parser.add_argument("--out", type=Path, help="folder for the tables; without it they are printed")
    parser.add_argument("--only", nargs="*", default=(), help="methods")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if given.imagenet:
        text = GUIDED + "\n".join(imagenet()) + "\n"
        print(write_atomic(given.out / "imagenet_classifier.md", text.encode()) if given.out else text)
        return
    bench = measure(Settings(count=30 if given.quick else 120, only=tuple(given.only)))
    print("\n".join(map(str, write(bench, given.out))) if given.out else page(bench))


if __name__ == "__main__":
    main()
