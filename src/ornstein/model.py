"""A model that can be loaded, used and saved: denoiser + codec + condition encoder + what it is, in one safetensors file.

The file's metadata holds one JSON text, `ornstein`, from which the parts are built by name; there is no pickled code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from ornstein.core import catalog
from ornstein.core.denoiser import Denoiser, guide
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.loop import sample
from ornstein.core.plan import Plan, fingerprint
from ornstein.core.record import Record, write_atomic
from ornstein.core.seam import Run, attach

__all__ = ["Generated", "Model", "create", "known", "load", "save"]

SHIPPED = Path(__file__).parent / "models"
ALIASES = {"digits": "digits/dit", "digits-unet": "digits/unet", "emoji": "emoji/dit"}


@dataclass(frozen=True)
class Generated:
    """images: uint8 [N, H, W, channels] (1 grey, 3 RGB, 4 RGBA, not premultiplied); x: the samples [N, C, H, W] before decoding."""

    images: np.ndarray
    x: Tensor
    prompts: Sequence[str]
    record: Record
    plan: Plan


@dataclass(frozen=True)
class Model:
    """denoiser: in latent space; shape: of one latent (C, H, W); config: what `create` was given."""

    name: str
    denoiser: Denoiser
    shape: tuple[int, ...]
    config: dict[str, Any] = field(default_factory=dict)
    codec: Any = None
    encoder: Any = None

    @property
    def backbone(self) -> nn.Module:
        return self.denoiser.backbone

    def encode(self, prompts: Sequence[Any]) -> dict[str, Tensor] | None:
        """Prompts -> condition rows; None for an unconditional model."""
        if self.encoder is None:
            return None
        device = next(self.backbone.parameters()).device
        with torch.no_grad():
            return {k: v.to(device) for k, v in self.encoder(list(prompts)).items()}

    def plan(self, **changes: Any) -> Plan:
        """The model's own defaults as a plan, with changes."""
        base = {k: tuple(v) if isinstance(v, list) else v for k, v in self.config.get("defaults", {}).items()}
        changes = {k: v for k, v in changes.items() if v is not None}
        return Plan(**({"model": self.name, "fingerprint": fingerprint(self.backbone)} | base | changes))

    def generate(self, prompts: str | Sequence[str], plan: Plan | None = None, *, steps: int | None = None,
                 solver: str | None = None, guidance: str | Sequence[str] | None = None,
                 accelerate: str | Sequence[str] | None = None, seed: int = 0, size: tuple[int, int] | None = None,
                 progress: Callable[[int, int], None] | None = None, batch: int = 64) -> Generated:  # fmt: skip
        """Pictures for prompts. Picture i depends on (seed, i) alone, not on `batch` or on the other prompts.

        steps, solver, guidance, accelerate change the plan; guidance and accelerate are texts such as 'cfg:scale=3' and
        'firstblock:threshold=0.1'. size: (H, W) of the latent. progress(done, total): called after each step.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not prompts:
            raise OrnsteinError("no prompt was given", "Give at least one text.")
        listed = {k: (v,) if isinstance(v, str) else tuple(v) if v is not None else None
                  for k, v in (("guidance", guidance), ("accelerate", accelerate))}  # fmt: skip
        plan = replace(plan.for_model(self.name, self.backbone), **{k: v for k, v in {"steps": steps, "solver": solver, **listed}.items()
                       if v is not None}) if plan else self.plan(steps=steps, solver=solver, **listed)  # fmt: skip
        solver_part = catalog.build("solvers", plan.solver)
        denoiser = guide(self.denoiser, *(catalog.build("guidance", g) for g in plan.guidance))
        plugins = [catalog.build("acceleration", a) for a in plan.accelerate]
        device = next(self.backbone.parameters()).device
        shape = (self.shape[0], *(size or self.shape[1:]))
        run, scope, out = Run(scope=object()), None, []
        scope = run.scope
        total = plan.steps * -(-len(prompts) // batch)
        with ExitStack() as stack:
            if plugins:
                stack.callback(attach(self.backbone, plugins, scope=scope))
            for first in range(0, len(prompts), batch):
                some, done = prompts[first : first + batch], plan.steps * (first // batch)
                out.append(sample(denoiser, (len(some), *shape), solver_part, plan.steps, cond=self.encode(some), seed=seed,
                                  ids=range(first, first + len(some)), rule=plan.grid, run=run, device=device,
                                  progress=progress and (lambda s, n, d=done: progress(d + s.step, total))))  # fmt: skip
        x = torch.cat(out).cpu()
        run.record.facts |= {"model": self.name, "seed": seed, "samples": len(prompts), "solver": plan.solver,
                             "guidance": list(plan.guidance), "accelerate": list(plan.accelerate)}  # fmt: skip
        return Generated(self.pictures(x), x, prompts, run.record, plan)

    def pictures(self, x: Tensor) -> np.ndarray:
        """Latents [N, C, H, W] -> uint8 [N, H, W, channels]; premultiplied RGBA is divided by its alpha."""
        pixels = x if self.codec is None else self.codec.decode(x)
        pixels = ((pixels.float() + 1) / 2).clamp(0, 1)
        if pixels.shape[1] == 4:
            alpha = pixels[:, 3:]
            pixels = torch.cat([(pixels[:, :3] / alpha.clamp_min(1 / 255)).clamp(0, 1), alpha], 1)
        return (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def create(config: dict[str, Any], name: str = "model") -> Model:
    """A fresh model from its description: backbone, process, predicts, time, sigma_data, codec, encoder, shape, defaults."""
    backbone = catalog.build("backbones", config["backbone"])
    process = catalog.build("processes", config["process"])
    null = backbone.null_condition if config.get("encoder") else None
    denoiser = Denoiser(backbone, process, config.get("predicts", "velocity"), config.get("time", "flow"),
                        config.get("sigma_data", 0.5), null)  # fmt: skip
    codec = catalog.build("codecs", config["codec"]) if config.get("codec") else None
    encoder = catalog.build("conditioning", config["encoder"]) if config.get("encoder") else None
    return Model(name, denoiser, tuple(config["shape"]), config, codec, encoder)


def save(path: str | Path, model: Model, dtype: torch.dtype | None = None, about: dict[str, Any] | None = None) -> Path:
    """Write weights and description to one .safetensors file, atomically. dtype: float16 or bfloat16 halves the file."""
    config = model.config | {"about": {**model.config.get("about", {}), **(about or {})}}
    tensors = {k: v.detach().cpu().to(dtype if dtype and v.is_floating_point() else v.dtype).contiguous()
               for k, v in model.backbone.state_dict().items()}  # fmt: skip
    return write_atomic(path, to_bytes(tensors, {"ornstein": json.dumps(config), "name": model.name}))


def known() -> list[str]:
    """Names of the models that ship with the library."""
    return sorted(name for name, path in ALIASES.items() if (SHIPPED / f"{path}.safetensors").is_file())


def load(source: Any, device: str | torch.device = "cpu") -> Any:
    """A shipped model by name, a model file, or a diffusers pipeline (then: ornstein.bridges.diffusers.load)."""
    if not isinstance(source, (str, Path)):
        from ornstein.bridges import diffusers

        return diffusers.load(source)
    if isinstance(source, str) and source in ALIASES and source in known():
        path = SHIPPED / f"{ALIASES[source]}.safetensors"
    elif isinstance(source, Path) or str(source).endswith(".safetensors"):
        path = Path(source)
    else:
        raise unknown("model", str(source), known())
    return _read(path, str(source), device)


def _read(path: Path, name: str, device: str | torch.device) -> Model:
    if not path.is_file():
        raise OrnsteinError(f"there is no model file {path}", f"Shipped models: {', '.join(known())}.")
    try:
        with safe_open(path, "pt") as file:
            config = json.loads((file.metadata() or {}).get("ornstein", "null"))
            weights = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - a file handle is no dict
    except (SafetensorError, OSError, ValueError) as error:
        raise OrnsteinError(f"{path} is damaged or no safetensors file ({error})", "Fetch or train it again.") from error
    if config is None:
        raise OrnsteinError(f"{path} holds weights of another program", "Only files written by ornstein carry their description.")
    model = create(config, name)
    try:
        model.backbone.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
    except RuntimeError as error:
        raise OrnsteinError(f"the weights in {path} do not fit its description", str(error).split("\n")[1].strip()) from error
    model.backbone.eval().requires_grad_(False).to(device)
    return model
