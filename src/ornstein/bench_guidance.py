"""Every guidance of the house beside plain classifier-free guidance and guidance in an interval, at equal network calls.

On the digits: the share that a reader without weights, whom no guidance asks, reads as asked (the label of the nearest of 1797 real
digits), two distances to real digits with intervals, calls and seconds. On emoji: one row of pictures for each method, same prompts
and seeds. `python -m ornstein.bench_guidance --out docs` writes benchmarks/guidance.json, pictures/guidance.png and, between
its marks, the tables of guidance.md.
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

import numpy as np
import torch
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.core.record import write_atomic
from ornstein.evaluate import flatten
from ornstein.model import Model, load
from ornstein.resolve import guidance

__all__ = ["Bench", "Contender", "Line", "Settings", "contenders", "measure"]

PROMPTS = "red apple", "birthday cake", "fox", "snowman", "rocket", "sunflower", "ghost", "blue heart"
BEGIN, END = "<!-- measured -->", "<!-- end -->"
FORMAT = 1


@dataclass(frozen=True)
class Contender:
    """What is asked of generate: texts of guidance for each model, or why not."""

    name: str
    digits: tuple[str, ...] | None = None
    emoji: tuple[str, ...] | None = None
    why_not: str = ""  # where it is left out of either


UNET = "the digits have a second model, the emoji none"
LABELS = "it asks a classifier of labels, which the emoji have not"
BLENDS = "it blends prompts, so that what was asked for is not one digit"
CONTENDERS = (
    Contender("no guidance", (), ()),
    Contender("cfg, weaker", ("cfg:scale=1.4",), ("cfg:scale=1.7",)),
    Contender("cfg", ("cfg:scale=2",), ("cfg:scale=3",)),
    Contender("cfg, stronger", ("cfg:scale=3",), ("cfg:scale=6",)),
    Contender("cfg, in an interval", ("cfg:scale=2,interval=(0.2,0.8)",), ("cfg:scale=3,interval=(0.2,0.8)",)),
    Contender("apg", ("apg:scale=2",), ("apg:scale=3",)),
    Contender("cached", ("cached:scale=2",), ("cached:scale=3",)),
    Contender("cfgpp", ("cfgpp:strength=0.6",), ("cfgpp:strength=0.6",)),
    Contender("cfgzero", ("cfgzero:scale=2",), ("cfgzero:scale=3",)),
    Contender("rescaled", ("rescaled:scale=2",), ("rescaled:scale=3",)),
    Contender("thresholding of cfg", ("cfg:scale=3", "thresholding:bound=1"), ("cfg:scale=6", "thresholding:bound=1")),
    Contender("thresholding of cfg, static", ("cfg:scale=3", "thresholding:bound=1,percentile=None"),
              ("cfg:scale=6", "thresholding:bound=1,percentile=None")),
    Contender("perturbed", ("perturbed:strength=1",), ("perturbed:strength=1",)),
    Contender("autoguidance", ("autoguidance:scale=1.5,bad='digits-unet'",), None, UNET),
    Contender("ensemble", ("ensemble:others=('digits-unet',),weights=(0.5,)",), None, UNET),
    Contender("stitch", ("stitch:others=('digits-unet',),shares=(0.5,)",), None, UNET),
    Contender("classifier", ("classifier:strength=2",), None, LABELS),
    Contender("experts", ("experts:strength=2",), None, LABELS),
    Contender("loss", ("loss:strength=2",), None, LABELS),
    Contender("compose with 'snow'", None, ("compose:scale=3,others=('snow',),weights=(2,)",), BLENDS),
    Contender("superdiff with 'snow'", None, ("cfg:scale=3", "superdiff:others=('snow',),mode='and'"), BLENDS),
    Contender("blackscholes with 'snow'", None, ("cfg:scale=3", "blackscholes:others=('snow',),policy='alternate'"), BLENDS),
    Contender("invariant", why_not="it is a network that is trained for the model, and none ships"),
    Contender("aggregation", why_not="it is trained gates between networks of one architecture, and none ships"),
    Contender("minority", why_not="it asks a predictor of rarity that is trained for the model, and none ships"),
)


@dataclass(frozen=True)
class Settings:
    """What is measured. count: digits of each method; nfe: network calls a picture, from which the steps follow."""

    models: tuple[str, ...] = ("digits", "emoji")
    count: int = 200
    nfe: int = 16
    seed: int = 0
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.count < 20 or self.nfe < 4:
            raise OrnsteinError(f"count={self.count}, nfe={self.nfe} measure nothing", "Ask for 20 pictures and 4 calls or more.")
        for name in self.models:
            if name not in ("digits", "emoji"):
                raise OrnsteinError(f"guidances are not compared on '{name}'", "Compare them on digits or emoji.")


@dataclass(frozen=True)
class Line:
    """One method on one model. Figures are (value, low, high) of a 95 % interval; None where there is none."""

    model: str
    name: str
    guidance: tuple[str, ...]
    steps: int
    nfe: float
    seconds: float  # of the processor, a picture
    read: tuple[float, float, float] | None = None  # share read as asked
    frechet: tuple[float, float, float] | None = None
    kid: tuple[float, float, float] | None = None
    agreement: tuple[float, float, float] | None = None


@dataclass
class Bench:
    """What was measured, what was left out and why, and the pictures of the emoji by method."""

    settings: Settings
    lines: list[Line] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)


def everyone() -> list[Contender]:
    """CONTENDERS, and of the house's other guidances that they are left out."""
    named = {catalog.parse(g)[0] for c in CONTENDERS for g in (*(c.digits or ()), *(c.emoji or ()))} | {c.name for c in CONTENDERS}
    missing = [e.name for e in catalog.entries("guidance") if e.name not in named]
    return [*CONTENDERS, *(Contender(name, why_not="no settings were chosen for it here") for name in missing)]


def contenders(settings: Settings = Settings()) -> list[tuple[str, Contender]]:
    """(model, contender) of all that run. A name in `only` that is nobody's: OrnsteinError."""
    for name in settings.only:
        if not any(name in (c.name, c.name.partition(",")[0].partition(" ")[0]) for c in CONTENDERS):
            catalog.find(name, "guidance")
    wanted = [c for c in CONTENDERS if not settings.only or {c.name, c.name.partition(",")[0].partition(" ")[0]} & {*settings.only}]
    return [(m, c) for m in settings.models for c in wanted if getattr(c, m) is not None]


# ---- how


@cache
def _model(name: str) -> Model:
    return load(name)


def _calls(model: Model, specs: tuple[str, ...], steps: int, prompt: Any) -> float:
    """Network calls a picture over so many steps."""
    return model.generate([prompt], guidance=specs, steps=steps).record.facts["nfe"]


def fitting(model: Model, specs: tuple[str, ...], nfe: int, prompt: Any) -> int:
    """The most steps that ask the network no more than `nfe` times: a rule may save calls at some noise levels."""
    steps = nfe
    while steps > 1 and (calls := _calls(model, specs, steps, prompt)) > nfe:
        steps = max(1, min(steps - 1, int(steps * nfe / calls)))
    return steps


@cache
def _real() -> tuple[Tensor, Tensor]:
    """All real digits [N, 1, 8, 8] and their labels."""
    data = catalog.build("data", "digits:split=all")
    return data.images(), data.labels


def read(x: Tensor, itself: bool = False) -> Tensor:
    """The label of the nearest real digit, [N]; itself: x are the real ones, and each leaves itself out."""
    pictures, labels = _real()
    far = torch.cdist(x.flatten(1).float(), pictures.flatten(1))
    return labels[(far.fill_diagonal_(torch.inf) if itself else far).argmin(1)]


@cache
def floor() -> float:
    """The share of real digits that the reader reads rightly."""
    pictures, labels = _real()
    return (read(pictures, itself=True) == labels).double().mean().item()


def _digits(model: Model, contender: Contender, settings: Settings) -> Line:
    from ornstein.metrics.layers.measure import proportion

    asked = [str(k % 10) for k in range(settings.count)]
    steps = fitting(model, contender.digits, settings.nfe, "3")
    model.generate(asked[:100], guidance=contender.digits, steps=1)  # so that the clock counts no beginnings
    began = time.process_time()
    done = model.generate(asked, guidance=contender.digits, steps=steps, seed=settings.seed, batch=100)
    seconds = (time.process_time() - began) / settings.count
    hits = int((read(flatten(model, done.x)) == torch.arange(settings.count) % 10).sum())
    drawn = flatten(model, done.x)
    measures = [catalog.build("metrics", n)(drawn, _real()[0]) for n in ("frechet:extractor='pixels'", "kid:rounds=50")]
    rounded = [tuple(round(v, 5) for v in (m.value, m.low, m.high)) for m in measures]
    share = tuple(round(v, 4) for v in (hits / settings.count, *proportion(hits, settings.count)))
    return Line("digits", contender.name, contender.digits, steps, done.record.facts["nfe"], round(seconds, 5), share, *rounded)


def _emoji(model: Model, contender: Contender, settings: Settings) -> tuple[Line, np.ndarray]:
    steps = fitting(model, contender.emoji, settings.nfe, PROMPTS[0])
    began = time.process_time()
    done = model.generate(PROMPTS, guidance=contender.emoji, steps=steps, seed=settings.seed)
    seconds = (time.process_time() - began) / len(PROMPTS)
    line = Line("emoji", contender.name, contender.emoji, steps, done.record.facts["nfe"], round(seconds, 4),
                agreement=_agreement(model, done.x))  # fmt: skip
    return line, done.images


def _agreement(model: Model, x: Tensor) -> tuple[float, float, float] | None:
    try:
        found = catalog.build("metrics", "agreement")(flatten(model, x), model.encode(PROMPTS)["pooled"])
    except OrnsteinError:  # its extractor is not installed
        return None
    return tuple(round(v, 4) for v in (found.value, found.low, found.high))


def measure(settings: Settings = Settings(), progress: Callable[[int, int, str], None] | None = None) -> Bench:
    """All lines; progress(done, total, what) after each."""
    plan, bench = contenders(settings), Bench(settings)
    bench.left_out = {c.name: c.why_not for c in everyone() if c.why_not and (c.digits is None or c.emoji is None)}
    for done, (name, contender) in enumerate(plan, 1):
        model = _model(name)
        for spec in getattr(contender, name):
            guidance(spec, model)
        if name == "digits":
            bench.lines.append(_digits(model, contender, settings))
        else:
            line, bench.pictures[contender.name] = _emoji(model, contender, settings)
            bench.lines.append(line)
        if progress is not None:
            progress(done, len(plan), f"{name}: {contender.name}")
    return bench


# ---- what is told


def _cell(figure: Sequence[float] | None, times: int = 1) -> str:
    """'value [low, high]', in percent where times is 100."""
    if figure is None:
        return ""
    value, low, high = (f"{times * v:.{3 if times == 1 else 1}f}" for v in figure)
    return f"{value}{' %' if times == 100 else ''} [{low}, {high}]"


def tables(bench: Bench) -> str:
    """The measured part of guidance.md."""
    out, settings = [], bench.settings
    mine = [line for line in bench.lines if line.model == "digits"]
    if mine:
        out += [f"{settings.count} digits, the classes in turn, seed {settings.seed}; the most steps that {settings.nfe} network "
                f"calls a picture allow. 95 % intervals. Of real digits the reader reads {100 * floor():.1f} %.", "",
                "| method | guidance | steps | calls | read as asked | Frechet, pixels | 1000 KID, random-conv | ms a picture |",
                "|---|---|---|---|---|---|---|---|"]  # fmt: skip
        out += [f"| {x.name} | {_told(x)} | {x.steps} | {x.nfe:g} | {_cell(x.read, 100)} | {_cell(x.frechet)} | "
                f"{_cell(x.kid, 1000)} | {1000 * x.seconds:.1f} |" for x in mine]  # fmt: skip
        out += ["", verdict(mine), ""]
    mine = [line for line in bench.lines if line.model == "emoji"]
    if mine:
        out += [f"Eight emoji, seed {settings.seed}, as many steps as {settings.nfe} calls allow. Agreement of eight pictures is a "
                "rough figure.", "",
                "| method | guidance | steps | calls | agreement | s a picture |", "|---|---|---|---|---|---|"]  # fmt: skip
        out += [f"| {x.name} | {_told(x)} | {x.steps} | {x.nfe:g} | {_cell(x.agreement)} | {x.seconds:.2f} |" for x in mine]
        out += ["", f"![One row of emoji for each guidance: {', '.join(PROMPTS)}](pictures/guidance.png)", ""]
    out += ["Left out of one table or both:", "", *(f"- {name}: {why}" for name, why in bench.left_out.items())]
    return "\n".join(out)


def _told(line: Line) -> str:
    return ", ".join(f"`{g}`" for g in line.guidance) or "-"


def verdict(lines: Sequence[Line]) -> str:
    """Which methods no plain guidance (none, or cfg at any strength or interval) matches in reading and Frechet together,
    and which of them surely: by intervals that do not touch those of the plain ones that read as well."""
    plain = [x for x in lines if x.name == "no guidance" or x.name.startswith("cfg,") or x.name == "cfg"]
    if not plain or len(plain) == len(lines):
        return ""
    ahead, surely = [], []
    for x in lines:
        if x in plain:
            continue
        rivals = [p for p in plain if p.read[0] >= x.read[0]]
        if all(p.frechet[0] > x.frechet[0] for p in rivals):
            ahead.append(x.name)
            if all(p.frechet[1] > x.frechet[2] for p in rivals) and (rivals or x.read[1] > max(p.read[2] for p in plain)):
                surely.append(x.name)
    return (f"Not matched by plain guidance in reading and Frechet distance together: {', '.join(ahead) or 'none'}; by intervals "
            f"that do not touch: {', '.join(surely) or 'none'}.")  # fmt: skip


def sheet(pictures: dict[str, np.ndarray], scale: int = 2, left: int = 150, gap: int = 4) -> Any:
    """A PIL picture: a row for each method, its name at the left, the prompts above. pictures: uint8 [N, H, W, C]."""
    from PIL import Image, ImageDraw, ImageFont

    from ornstein.present import PAPER, over, picture

    side = next(iter(pictures.values())).shape[1] * scale
    page = Image.new("RGB", (left + len(PROMPTS) * (side + gap), 32 + len(pictures) * (side + gap)), PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=11)
    for j, prompt in enumerate(PROMPTS):
        where = left + j * (side + gap) + side // 2, 2
        draw.multiline_text(where, prompt.replace(" ", "\n"), (40, 40, 46), font, anchor="ma", align="center", spacing=1)
    for i, (name, images) in enumerate(pictures.items()):
        y = 32 + i * (side + gap)
        draw.text((4, y + side // 2), name, (40, 40, 46), font, anchor="lm")
        for j, image in enumerate(images):
            tile = over(picture(image)).resize((side, side), Image.Resampling.NEAREST)
            page.paste(tile, (left + j * (side + gap), y))
    return page.quantize(255, dither=Image.Dither.NONE)


def write(bench: Bench, out: Path) -> list[Path]:
    """guidance.md (between its marks), benchmarks/guidance.json and pictures/guidance.png under `out`."""
    from ornstein.present import png

    files = [out / "benchmarks" / "guidance.json", out / "guidance.md"]
    for folder in ("benchmarks", "pictures"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    told = {"format": FORMAT, "settings": asdict(bench.settings), "lines": [asdict(x) for x in bench.lines],
            "left_out": bench.left_out, "torch": torch.__version__, "threads": torch.get_num_threads()}  # fmt: skip
    write_atomic(files[0], (json.dumps(told, indent=1) + "\n").encode())
    page = files[1].read_text(encoding="utf-8") if files[1].is_file() else f"# Guidance\n\n{BEGIN}\n{END}\n"
    head, _, rest = page.partition(BEGIN)
    _, mark, tail = rest.partition(END)
    if not mark:
        raise OrnsteinError(f"{files[1]} has no place for the tables", f"It must have the lines {BEGIN} and {END}.")
    write_atomic(files[1], f"{head}{BEGIN}\n{tables(bench)}\n{END}{tail}".encode())
    if bench.pictures:
        files.append(out / "pictures" / "guidance.png")
        write_atomic(files[2], png(sheet(bench.pictures)))
    return files


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser("python -m ornstein.bench_guidance", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", action="append", choices=("digits", "emoji"), help="default: both")
    parser.add_argument("--count", type=int, default=Settings.count, help="digits of each method")
    parser.add_argument("--nfe", type=int, default=Settings.nfe, help="network calls a picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", default=[], help="a guidance; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("out/bench-guidance"), help="folder; `docs` renews the shipped page")
    given = parser.parse_args(words)
    settings = Settings(tuple(given.model or Settings.models), given.count, given.nfe, given.seed, tuple(given.only))
    found = measure(settings, lambda done, total, what: print(f"{done}/{total} {what}", flush=True))
    print(tables(found), *write(found, given.out), sep="\n")


if __name__ == "__main__":
    main()
