"""A model that can be loaded, used and saved: denoiser, codec, encoder and what it is, in one safetensors file.

The file's metadata holds one JSON text, `ornstein`, from which the parts are built by name; there is no pickled code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from ornstein import __version__
from ornstein.conditioning.layers.weights import marked
from ornstein.core import catalog
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoiser, guide
from ornstein.core.effects import order
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.loop import Controller, State, sample
from ornstein.core.plan import Plan, fingerprint
from ornstein.core.record import Record, write_atomic
from ornstein.core.seam import Run, attach, running
from ornstein.usual import usual

__all__ = ["Generated", "Model", "Subject", "autocast", "create", "known", "listed", "load", "parts_of", "save"]

SHIPPED = Path(__file__).parent / "models"
KEPT = 2  # compressed or compiled copies of a network that a model keeps
PARTS = ("encoder", "codec")  # what a model may have with weights of its own, stored as 'encoder/...'
ALIASES = {"digits": "digits/dit", "digits-unet": "digits/unet", "digits-tokens": "digits/tokens", "emoji": "emoji/dit"}


@dataclass(frozen=True)
class Generated:
    """images: uint8 [N, H, W, channels] (1 grey, 3 RGB, 4 RGBA, not premultiplied); x: [N, C, H, W] before decoding."""

    images: np.ndarray
    x: Tensor
    prompts: Sequence[str]
    record: Record
    plan: Plan


class Subject:
    """What a plan is run on: it has a name, a `backbone`, a `process`, the `shape` of one latent, and a `codec` or None."""

    name: str
    shape: tuple[int, ...]
    codec: Any
    backbone: nn.Module
    process: Any
    seats: Mapping[str, Any] = {}  # of foreign networks, for `attach`
    foreign: bool = False  # a pipeline, whose plans may leave it its own parts and whose calls take arguments
    _ready: dict  # the networks that plans have transformed

    def shipped(self) -> Plan:
        """The plan that changes nothing."""
        return self.plan()

    def _asked(self, prompts: str | Sequence[str], batch: int) -> list[str]:
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not prompts:
            raise OrnsteinError("no prompt was given", "Give at least one text.")
        if batch < 1:
            raise OrnsteinError(f"batch={batch} is not a positive whole number", "Give at least 1.")
        return prompts

    def _planned(self, plan: Plan | None, changes: dict[str, Any], size: tuple[int, int] | None,
                 force: bool) -> tuple[Plan, list[str]]:  # fmt: skip
        """The plan with the changes, and why it had to be forced; without figures then."""
        if plan is None:
            return self.plan(**changes), []
        forced = self._fits(plan, changes, size, force)
        return replace(plan, **changes, **({"figures": {}} if forced else {})), forced

    def use(self, plan: Plan, size: tuple[int, int] | None = None) -> dict[str, str]:
        """What the figures of a plan hold for, in words: Plan.made_for."""
        shape = "x".join(map(str, (self.shape[0], *(size or self.shape[1:]))))
        libraries = f"ornstein {__version__}, torch {'.'.join(torch.__version__.split('.')[:2])}"
        return {"process": repr(self.process), "shape": shape, "guidance": ", ".join(plan.guidance),
                "parts": ", ".join((plan.solver, plan.grid, *plan.accelerate, *plan.compress)), "steps": str(plan.steps),
                "libraries": libraries}  # fmt: skip

    def _fits(self, plan: Plan, changes: dict[str, Any], size: tuple[int, int] | None, force: bool) -> list[str]:
        """Raises where the plan was made for something else; forced, it hands the reasons back."""
        now = self.use(replace(plan, **changes), size)
        return plan.misfits(self.name, self.backbone, now) if force else plan.for_model(self.name, self.backbone, now) and []

    def _transformed(self, plan: Plan, plugins: Sequence[Any] = ()) -> nn.Module:
        """The network, or a copy of it with the plan's transforms applied, which is kept for the next call."""
        if not (plan.compress or plan.compile):
            return self.backbone
        from ornstein.compiled import compiled, grain_of

        grain = grain_of(self.backbone, plugins) if plan.compile else ""
        key = (fingerprint(self.backbone), plan.compress, grain)
        network = self._ready.get(key)  # another thread may be about another plan
        if network is None:
            network = self.backbone
            for part in plan.compress:
                network = catalog.build("compression", part)(network)
            network = compiled(network, grain) if grain else network
            while len(self._ready) >= KEPT:
                self._ready.pop(next(iter(self._ready)), None)
            self._ready[key] = network
        return network

    def pictures(self, x: Tensor) -> np.ndarray:
        """Latents [N, C, H, W] -> uint8 [N, H, W, channels]; premultiplied RGBA is divided by its alpha."""
        pixels = x if self.codec is None else self.codec.decode(x)
        pixels = ((pixels.float() + 1) / 2).clamp(0, 1)
        if pixels.shape[1] == 4:
            alpha = pixels[:, 3:]
            pixels = torch.cat([(pixels[:, :3] / alpha.clamp_min(1 / 255)).clamp(0, 1), alpha], 1)
        return (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


@dataclass(frozen=True)
class Model(Subject):
    """denoiser: in latent space; shape: of one latent (C, H, W); config: what `create` was given."""

    name: str
    denoiser: Denoiser
    shape: tuple[int, ...]
    config: dict[str, Any] = field(default_factory=dict)
    codec: Any = None
    encoder: Any = None
    _ready: dict = field(default_factory=dict, init=False, repr=False, compare=False)  # the compressed copy of a plan

    @property
    def backbone(self) -> nn.Module:
        return self.denoiser.backbone

    @property
    def process(self) -> Any:
        return self.denoiser.process

    def encode(self, prompts: Sequence[Any]) -> dict[str, Tensor] | None:
        """Prompts -> condition rows; None for an unconditional model. Prompts may have weights, '(red apple:1.3) on snow'."""
        if self.encoder is None:
            return None
        device, encoder = next(self.backbone.parameters()).device, self.encoder
        if any(marked(p) for p in prompts) and not hasattr(encoder, "inner"):  # else it reads them itself
            encoder = catalog.build("conditioning", {"name": "weighted", "encoder": encoder})
        with torch.no_grad():
            return {k: v.to(device) for k, v in encoder(list(prompts)).items()}

    def plan(self, **changes: Any) -> Plan:
        """The model's own defaults as a plan, with changes. Where neither says a solver, the usual one and its grid."""
        base = {k: tuple(v) if isinstance(v, list) else v for k, v in self.config.get("defaults", {}).items()}
        told = base | {k: v for k, v in changes.items() if v is not None}
        if "solver" not in told:
            solver, grid = usual(self.denoiser.process, told.get("steps", Plan.steps), bool(told.get("guidance")))
            told = {"grid": grid} | told | {"solver": solver}
        return Plan(**({"model": self.name, "fingerprint": fingerprint(self.backbone)} | told))

    def generate(self, prompts: str | Sequence[str], plan: Plan | None = None, *, steps: int | None = None,
                 solver: str | None = None, guidance: str | Sequence[str] | None = None,
                 accelerate: str | Sequence[str] | None = None, grid: str | None = None, seed: int = 0,
                 size: tuple[int, int] | None = None, progress: Callable[[int, int], None] | None = None,
                 batch: int = 64, steer: str | Controller | Sequence[str | Controller] = (),
                 reward: str | Callable[[Tensor, Any], Tensor] | None = None, negative: str | None = None,
                 force: bool = False) -> Generated:  # fmt: skip
        """Pictures for prompts. Picture i depends on (seed, i) alone, not on `batch` or on the other prompts.

        steps, solver, guidance, accelerate, grid change the plan; parts are texts such as 'cfg:scale=3',
        'firstblock:threshold=0.1' and 'karras:rho=5'. size: (H, W) of the latent. progress(done, total): called after each step.
        steer: parts of steering/, texts such as 'fk:budget=4' or controllers; trajectories beside one another make the batch as
        much smaller. reward: what steers by text, a name of ornstein.rewards or (x, cond) -> [B]; None: the usual one of the
        model. negative: what guidance moves away from. force: run a plan of another model or use; the record says so.
        """
        from ornstein.resolve import Counted, built, negated, steering

        prompts = self._asked(prompts, batch)
        changes = {"steps": steps, "solver": solver, "guidance": guidance, "accelerate": accelerate, "grid": grid}
        changes = listed(changes)
        if negative is not None:
            changes["guidance"] = negated((replace(plan, **changes) if plan else self.plan(**changes)).guidance, negative)
        plan, forced = self._planned(plan, changes, size, force)
        plugins = order([catalog.build("acceleration", a) for a in plan.accelerate])
        solver_part, denoiser = catalog.build("solvers", plan.solver), self.transformed(plan, plugins).denoiser
        meter = [Counted.of(denoiser)]
        rules = built(plan.guidance, self, plan.grid, meter)
        steered = steering(steer, self, reward, rules)
        batch = max(1, batch // steered.width)
        device, run = next(self.backbone.parameters()).device, Run(scope=object())
        shape, total, out = (self.shape[0], *(size or self.shape[1:])), plan.steps * -(-len(prompts) // batch), []
        forced += self._calibrated(plugins, guide(self.denoiser, *rules), plan.grid, shape, force)
        watch = Watch()
        pictures: list[np.ndarray] = []
        with ExitStack() as stack:
            stack.enter_context(autocast(device, plan.dtype))
            if plugins:
                stack.callback(attach(denoiser.backbone, plugins, scope=run.scope))
            for first in range(0, len(prompts), batch):
                some, done = prompts[first : first + batch], plan.steps * (first // batch)
                tell = progress and (lambda state, n, done=done: progress(done + state.step, total))
                cond = self.encode(some)
                out.append(sample(guide(meter[0], *rules), (len(some), *shape), solver_part, plan.steps, cond=cond,
                                  seed=seed, ids=range(first, first + len(some)), rule=plan.grid, run=run,
                                  device=device, progress=tell, controllers=[*steered.parts, watch]))  # fmt: skip
                steered.settle(run.record.facts, out[-1], cond)
                pictures.append(self.pictures(out[-1]))
                run.clear()
        x = torch.cat(out).cpu()
        run.record.facts |= {"ornstein": __version__, "model": self.name, "seed": seed, "samples": len(prompts),
                             **parts_of(plan), "local_error": watch.told()}  # fmt: skip
        run.record.facts |= steered.told(len(prompts), meter) | ({"forced": forced} if forced else {})
        return Generated(np.concatenate(pictures), x, prompts, run.record, plan)

    def _calibrated(self, parts: Sequence[Any], denoiser: Any, grid: str, shape: Sequence[int], force: bool) -> list[str]:
        """Raises where what a part has learned was learned for something else; forced, it hands the reasons back."""
        from ornstein.calibrated import misfits

        found = misfits(parts, denoiser, grid, shape)
        if found and not force:
            raise OrnsteinError("; ".join(found), "Calibrate it again for this use, or force it.")
        return found

    def transformed(self, plan: Plan, plugins: Sequence[Any] = ()) -> Model:
        """This model with the network as the plan runs it: compressed, compiled."""
        return replace(self, denoiser=replace(self.denoiser, backbone=self._transformed(plan, plugins)))

    def rehearse(self, plugin: Any, prompts: Sequence[Any], calls: int, within: Callable[[], Any] = nullcontext) -> None:
        """Ask the network so often, halfway, for all prompts at once, under a plugin that measures. within: around each call."""
        device, cond = next(self.backbone.parameters()).device, self.encode(prompts)
        x = torch.randn(len(prompts), *self.shape, generator=torch.Generator().manual_seed(0)).to(device)
        detach = attach(self.backbone, plugin)
        try:
            with running(Run()), torch.no_grad():
                for _ in range(calls):
                    with within():
                        self.denoiser(x, 0.5, cond, Clock(t=0.5, ids=tuple(range(len(prompts)))))
        finally:
            detach()


class Watch(Controller):
    """Estimates the error of each step: how far the predicted x0 is from the line through the two before it, relative.
    That is what a multistep solver of the second order has to guess. One value a step, mean over samples; no sync."""

    def __init__(self) -> None:
        self.errors: list[Tensor] = []
        self.before: list[Tensor] = []

    def after(self, before: State, now: State) -> State:
        if now.said is None or now.said.kind == "logits":
            return now
        if now.step <= before.step or before.step == 0 or (self.before and self.before[-1].shape != now.x.shape):
            self.before.clear()
        x0 = now.said.x0
        if len(self.before) == 2:
            gap = x0 - 2 * self.before[1] + self.before[0]
            self.errors.append(gap.norm() / x0.norm().clamp_min(1e-12))
        self.before = [*self.before[-1:], x0]
        return now

    def told(self) -> list[float]:
        """The estimates, from the third step of each batch on."""
        return [round(float(e), 6) for e in self.errors]


def listed(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes that were given; of what a plan has several, one alone as a tuple."""
    return {k: ((v,) if isinstance(v, str) else tuple(v)) if k in ("guidance", "accelerate") else v
            for k, v in changes.items() if v is not None}  # fmt: skip


def parts_of(plan: Plan) -> dict[str, Any]:
    """What a plan is made of, for the record: parts that were given as objects by their text."""
    return {"solver": plan.solver, "grid": plan.grid, "guidance": [str(g) for g in plan.guidance],
            "accelerate": list(plan.accelerate), "compress": list(plan.compress), "compile": plan.compile,
            "dtype": plan.dtype}  # fmt: skip


def autocast(device: torch.device, dtype: str) -> Any:
    """The context in which a network is run in this type."""
    return nullcontext() if dtype == "float32" else torch.autocast(device.type, getattr(torch, dtype))


def create(config: dict[str, Any], name: str = "model") -> Model:
    """A fresh model from its description: backbone, process, predicts, time, sigma_data, codec, encoder, shape."""
    backbone = catalog.build("backbones", config["backbone"])
    process = catalog.build("processes", config["process"])
    null = backbone.null_condition if config.get("encoder") else None
    denoiser = Denoiser(backbone, process, config.get("predicts", "velocity"), config.get("time", "flow"),
                        config.get("sigma_data", 0.5), null)  # fmt: skip
    codec = catalog.build("codecs", config["codec"]) if config.get("codec") else None
    encoder = catalog.build("conditioning", config["encoder"]) if config.get("encoder") else None
    return Model(name, denoiser, tuple(config["shape"]), config, codec, encoder)


def save(path: str | Path, model: Model, dtype: torch.dtype | None = None, about: dict[str, Any] | None = None) -> Path:
    """Weights and description to one .safetensors file, atomically. dtype: float16 or bfloat16 halves the file."""
    config = model.config | {"about": {**model.config.get("about", {}), **(about or {})}}
    state = model.backbone.state_dict()
    for name, module in _modules(model).items():
        state |= {f"{name}/{k}": v for k, v in module.state_dict().items()}
    tensors = {k: v.detach().cpu().to(dtype if dtype and v.is_floating_point() else v.dtype).contiguous()
               for k, v in state.items()}  # fmt: skip
    return write_atomic(path, to_bytes(tensors, {"ornstein": json.dumps(config), "name": model.name}))


def _modules(model: Model) -> dict[str, nn.Module]:
    """The parts beside the backbone that have weights: a trained encoder, a learned codec. No module path has a slash."""
    return {name: part for name in PARTS if isinstance(part := getattr(model, name), nn.Module)}


def known() -> list[str]:
    """Names of the models that ship with the library."""
    return sorted(name for name, path in ALIASES.items() if (SHIPPED / f"{path}.safetensors").is_file())


def load(source: Any, device: str | torch.device = "cpu") -> Any:
    """A shipped model by name, a model file, or a diffusers pipeline, or the folder of one: ornstein.bridges.diffusers.load."""
    if not isinstance(source, (str, Path)) or (Path(source) / "model_index.json").is_file():
        from ornstein.bridges import diffusers

        return diffusers.load(source, device)
    if isinstance(source, str) and source in ALIASES:
        return _read(SHIPPED / f"{ALIASES[source]}.safetensors", source, device)
    if isinstance(source, Path) or str(source).endswith(".safetensors"):
        return _read(Path(source), "", device)
    raise unknown("model", str(source), ALIASES)


def _read(path: Path, name: str, device: str | torch.device) -> Model:
    if not path.is_file():
        raise OrnsteinError(f"there is no model file {path}", f"Shipped models: {', '.join(known()) or 'none'}.")
    try:
        with safe_open(path, "pt") as file:
            meta = file.metadata() or {}
            config, weights = json.loads(meta.get("ornstein", "null")), {k: file.get_tensor(k) for k in file.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        what = f"{path} is damaged or no safetensors file ({error})"
        raise OrnsteinError(what, "Fetch or train it again.") from error
    if not isinstance(config, dict):
        remedy = "Only files written by ornstein carry their description."
        raise OrnsteinError(f"{path} holds weights of another program", remedy)
    try:
        model = create(config, name or meta.get("name", path.stem))
    except (KeyError, TypeError, AttributeError) as error:
        what = f"the description in {path} cannot be read ({type(error).__name__}: {error})"
        raise OrnsteinError(what, "It may be of another version of ornstein.") from error
    parts = _modules(model)
    own = dict(weights)
    try:  # what was stored in half precision becomes float32, the type of a fresh network
        for part, module in parts.items():
            named = [k for k in own if k.startswith(f"{part}/")]
            module.load_state_dict({k.partition("/")[2]: own.pop(k) for k in named})
        model.backbone.load_state_dict(own)
    except RuntimeError as error:
        reason = " ".join(str(error).split("\n")[1:2]).strip()
        raise OrnsteinError(f"the weights in {path} do not fit its description", reason) from error
    for module in (model.backbone, *parts.values()):
        module.eval().requires_grad_(False).to(device)
    return model
