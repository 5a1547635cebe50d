"""Parts whose settings are more than numbers, built from texts for one model: prompts, models, rewards, files of what was learned.

    cfg:scale=3,negative='blurry'        a prompt becomes a condition of one row
    compose:others=('snow',),weights=(2,)
    autoguidance:scale=2,bad='digits-unet'  the name of a model, or its file, becomes its denoiser
    classifier:strength=2                what GUIDES has for the model
    fk:budget=4,reward=ink               a name of REWARDS
    boundary:noise='start.safetensors'   a file becomes the Artefact that a part's `fit` made
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.artefact import Artefact
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller
from ornstein.core.prediction import Prediction
from ornstein.model import Model, load
from ornstein.rewards import GUIDES, Reward, guide_of, reward, usual_reward

__all__ = ["Counted", "Steering", "built", "guidance", "negated", "steering"]

DENOISERS = {("autoguidance", "bad"), ("ensemble", "others"), ("stitch", "others"), ("superdiff", "models"), ("w2sd", "weak")}
CONDITIONS = {("cfg", "negative"), ("compose", "others"), ("superdiff", "others"), ("blackscholes", "others")}
LEARNED = {"boundary": "noise", "noise_policy": "policy", "teleport": "statistics"}  # steering -> its Artefact


@dataclass(frozen=True, eq=False)
class Counted(Denoiser):
    """A Denoiser that counts the samples it is asked about. A kind of its own rather than a wrapper, since some rules put
    another network into the denoiser that they are given: what they make of it counts in the same place."""

    asked: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, denoiser: Denoiser) -> Counted:
        """The same denoiser, counted from now on."""
        return cls(**{f.name: getattr(denoiser, f.name) for f in fields(Denoiser)})

    @property
    def rows(self) -> int:
        """Network calls, a sample at a time."""
        return sum(self.asked)

    def __call__(self, x: Tensor, t: Any, cond: Any = None, clock: Clock | None = None, taps: Sequence[str] = ()) -> Prediction:
        self.asked.append(len(x))
        return super().__call__(x, t, cond, clock, taps)


# ---- guidance


def guidance(spec: Any, model: Model, grid: str = "uniform", meter: list[Counted] | None = None) -> Any:
    """One part of guidance/ for a model, from its text; a part itself is handed through. grid: of the run, for what has to
    know where steps end; meter: gets the further denoisers that are asked, each counted."""
    if not isinstance(spec, str):
        return catalog.build("guidance", spec)
    name, told = catalog.parse(spec)
    name = catalog.find(name, "guidance").name
    settings = {k: _value(name, k, v, model, meter) for k, v in told.items()}
    if name in GUIDES and _active(told) and GUIDES[name][0] not in settings:
        settings[GUIDES[name][0]] = guide_of(name, model)
    if name == "autoguidance" and "bad" not in settings:
        raise OrnsteinError("autoguidance has no worse model to be led away from",
                            "Name one: autoguidance:scale=2,bad='digits-unet'.")  # fmt: skip
    if name == "minority" and _active(told) and "predictor" not in settings:
        raise OrnsteinError("minority guidance asks for a predictor of rarity that is trained for the model",
                            "From Python give Minority(predictor, strength); guidance.minority trains one.")  # fmt: skip
    if "rule" in {f.name for f in fields(catalog.load("guidance", name))}:
        settings.setdefault("rule", grid)
    return catalog.build("guidance", {"name": name, **settings})


def built(specs: Sequence[Any], model: Model, grid: str = "uniform", meter: list[Counted] | None = None) -> list[Any]:
    """All the guidances of a plan, in its order."""
    return [guidance(spec, model, grid, meter) for spec in specs]


def _active(told: dict[str, Any]) -> bool:
    return bool(told.get("strength") or told.get("others"))


def _value(name: str, key: str, value: Any, model: Model, meter: list[Counted] | None = None) -> Any:
    """A setting as the part wants it, where a text stands for it."""
    several = isinstance(value, (tuple, list))
    if not (isinstance(value, str) or several and value and all(isinstance(v, (str, int)) for v in value)):
        return value
    if (name, key) in CONDITIONS:
        found = [_condition(v, model) for v in (value if several else [value])]
    elif (name, key) in DENOISERS:
        found = [Counted.of(_denoiser(str(v), model)) for v in (value if several else [value])]
        (meter if meter is not None else []).extend(found)
    else:
        return value
    return tuple(found) if several or key in ("others", "models") else found[0]


def _condition(text: Any, model: Model) -> dict[str, Tensor]:
    if model.encoder is None:
        raise OrnsteinError(f"'{model.name}' draws without prompts, and has no condition for '{text}'", "Leave it out.")
    return model.encode([str(text)])


def _denoiser(name: str, model: Model) -> Any:
    other = load(name, next(model.backbone.parameters()).device)
    if tuple(other.shape) != tuple(model.shape) or other.denoiser.process != model.denoiser.process:
        raise OrnsteinError(f"'{name}' draws {tuple(other.shape)} over {other.denoiser.process}, '{model.name}' "
                            f"{tuple(model.shape)} over {model.denoiser.process}", "Name a model of the same data.")  # fmt: skip
    return other.denoiser


def negated(specs: Sequence[Any], text: str) -> tuple[Any, ...]:
    """The guidances with a negative prompt in the text of each that has one; where none has: OrnsteinError."""
    if not text.strip():
        raise OrnsteinError("an empty negative prompt", "Leave it out: guidance then moves away from no prompt at all.")
    out, taken = [], 0
    for spec in specs:
        name, told = catalog.parse(spec) if isinstance(spec, str) else ("", {})
        if not name or "negative" not in {f.name for f in fields(catalog.load("guidance", name))}:
            out.append(spec)
            continue
        if "negative" in told:
            raise OrnsteinError(f"'{spec}' has a negative prompt already", "Give one of the two.")
        out.append(f"{spec}{',' if told else ':'}negative={text!r}")
        taken += 1
    if not taken:
        what = f"the guidance {', '.join(map(str, specs))} has no negative prompt" if specs else "there is no guidance"
        raise OrnsteinError(f"{what}, and '{text}' would do nothing", "Guide by classifier-free guidance, such as cfg:scale=3.")
    return tuple(out)


# ---- steering


@dataclass
class Steering:
    """The controllers of a run; `width`: trajectories side by side for each sample; reward: what chooses, if anything
    does; `asked`: samples that it was asked about."""

    parts: list[Controller]
    width: int = 1
    name: str = ""
    reward: Reward | None = None
    asked: int = 0
    meter: list[Counted] = field(default_factory=list)  # denoisers that controllers ask beside the run's own

    texts: list[str] = field(default_factory=list)
    batches: list[dict[str, Any]] = field(default_factory=list)  # what the controllers say of each batch, by their names

    def judge(self, x: Tensor, cond: Any) -> Tensor:
        """The reward, counted."""
        self.asked += len(x)
        return self.reward(x, cond)

    def settle(self, facts: dict[str, Any], x: Tensor, cond: Any) -> None:
        """Take what the controllers said of a batch out of the run's facts, and judge what came of it."""
        names = [type(part).__module__.rpartition(".")[2] for part in self.parts]
        said = {n: facts.pop(n) for n in names if isinstance(facts.get(n), dict)}
        if self.reward is not None:
            said["steer"] = {"rewards": self.reward(x, cond).detach()}
        self.batches.append(said)

    def told(self, samples: int, meter: Sequence[Counted]) -> dict[str, Any]:
        """For the record: 'nfe', network calls for each picture; of a steered run 'steer', and the facts of each controller."""
        rows = sum(c.rows for c in (*meter, *self.meter))
        found: dict[str, Any] = {"nfe": round(rows / samples, 3)}
        if not self.parts:
            return found
        merged = {n: gathered([b[n] for b in self.batches]) for n in self.batches[0]}
        steer = {"parts": self.texts, "width": self.width, "reward": self.name, "reward_calls": round(self.asked / samples, 3)}
        return found | merged | {"steer": steer | merged.get("steer", {})}


def steering(specs: Any, model: Model, wanted: str | Reward | None = None, guided: Any = None) -> Steering:
    """Controllers from texts such as 'fk:budget=4' (or parts themselves, handed through) for a model. wanted: the reward,
    a name or a function; guided: the run's rules of guidance, against which w2sd reflects on the plain model."""
    several = list(specs) if isinstance(specs, (list, tuple)) else [specs]
    found = Steering([], texts=[s if isinstance(s, str) else type(s).__name__ for s in several])
    if wanted is not None and not any(isinstance(s, str) for s in several):
        raise OrnsteinError("a reward was given, and nothing that is steered by it", "Add steer, such as 'best_of_n:budget=4'.")
    for spec in several:
        found.parts.append(_steered(spec, model, wanted, guided, found) if isinstance(spec, str) else spec)
    found.width = prod(getattr(p, "budget", 1) for p in found.parts)
    if wanted is not None and found.reward is None:
        names = ", ".join(map(str, several))
        raise OrnsteinError(f"{names} chooses by no reward", "Leave the reward out, or steer by one: best_of_n, fk, svdd.")
    return found


def _steered(spec: str, model: Model, wanted: Any, guided: Any, found: Steering) -> Controller:
    name, told = catalog.parse(spec)
    name = catalog.find(name, "steering").name
    part = catalog.load("steering", name)
    known = {f.name for f in fields(part)} if is_dataclass(part) else set()
    settings = {k: _value(name, k, v, model, found.meter) for k, v in told.items()}
    if name in LEARNED:
        settings |= _learned(name, settings)
    if "reward" in known:
        _choose(settings.pop("reward", None) or wanted, model, found)
        settings["reward"] = found.judge
    if "process" in known:
        settings.setdefault("process", model.denoiser.process)
    if name == "w2sd" and "weak" not in settings:
        if not guided:
            raise OrnsteinError("w2sd has no weak model: without guidance the plain one is the run's own",
                                "Add guidance, or name a weaker model: w2sd:weak='digits-unet'.")  # fmt: skip
        settings["weak"] = Counted.of(model.denoiser)
        found.meter.append(settings["weak"])
    return catalog.build("steering", {"name": name, **settings})


def _choose(wanted: Any, model: Model, found: Steering) -> None:
    """Sets the run's reward; two different ones in a run have no common record."""
    name = wanted if isinstance(wanted, str) else "" if wanted is None else getattr(wanted, "__name__", "function")
    name = name or usual_reward(model)
    if found.reward is not None and found.name != name:
        raise OrnsteinError(f"two rewards in one run: {found.name} and {name}", "Steer by one.")
    found.name, found.reward = name, reward(name, model) if wanted is None or isinstance(wanted, str) else wanted


def _learned(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    key = LEARNED[name]
    file = settings.get(key)
    if file is None:
        raise OrnsteinError(f"{name} asks for what `ornstein.steering.{name}.fit` learns for this model",
                            f"Fit it from Python and save it, then steer by \"{name}:{key}='FILE.safetensors'\".")  # fmt: skip
    return {key: Artefact.load(Path(file), name)} if isinstance(file, str) else {}


# ---- what a run says of it


def gathered(batches: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The facts of one controller from each batch -> JSON values over all samples: tensors with samples first become lists,
    whole pictures are left out, numbers that differ between batches are listed."""
    out: dict[str, Any] = {}
    for key, first in batches[0].items():
        values = [b[key] for b in batches]
        if isinstance(first, Tensor) and first.ndim <= 2:
            out[key] = [row for v in values for row in _listed(v)]
        elif isinstance(first, tuple) and first and all(isinstance(v, Tensor) and 0 < v.ndim <= 2 for v in first):
            out[key] = [[row for v in values for row in _listed(v[k])] for k in range(len(first))]
        elif isinstance(first, (int, float, str)):
            out[key] = first if all(v == first for v in values) else values
    return out


def _listed(v: Tensor) -> list[Any]:
    """Rounded, and None for what JSON has no number for."""
    v = v.detach().cpu()
    v = (torch.round(v.double(), decimals=5) if v.is_floating_point() else v).reshape(v.shape or (1,))

    def clean(x: Any) -> Any:
        return [clean(y) for y in x] if isinstance(x, list) else x if abs(x) < float("inf") else None

    return clean(v.tolist())
