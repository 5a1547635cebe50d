"""A pipeline as something that plans are run on: what it is asked, what its steps end at, and its latents as pixels.

The pipeline draws by itself, whatever it is. A copy of it that shares its parts is given the plan's solver, the network as the
plan runs it, and the plugins; the pipeline itself is left as it was.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ornstein.bridges.layers.pipeline import networks
from ornstein.bridges.layers.scheduler import OrnsteinScheduler
from ornstein.core.catalog import OWN
from ornstein.core.errors import OrnsteinError, unknown

__all__ = ["Decoder", "Drawing", "asked", "default_steps", "opened"]

OURS = ("generator", "num_inference_steps", "output_type", "return_dict", "prompt", "class_labels", "batch_size")


def opened(folder: Path) -> Any:
    """The pipeline of a folder with a model_index.json, on the CPU in float32; nothing is fetched."""
    try:
        import diffusers
    except ImportError as error:
        raise OrnsteinError(f"{folder} holds a pipeline of diffusers, which is not installed",
                            'Run `pip install "ornstein[hub]"`.') from error  # fmt: skip
    try:
        pipe = diffusers.DiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, ImportError, AttributeError) as error:
        raise OrnsteinError(f"the pipeline in {folder} cannot be read ({error})", "Save it again with save_pretrained.") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _arguments(pipe: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(type(pipe).__call__).parameters)


def default_steps(pipe: Any) -> int:
    """Of the pipeline where nobody says."""
    said = _arguments(pipe).get("num_inference_steps")
    return said.default if said and isinstance(said.default, int) else 50


def asked(pipe: Any, prompts: Sequence[Any], call: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of one call for these prompts: texts, numbers of classes, or only how many pictures."""
    known, count = _arguments(pipe), len(prompts)
    for name in call:
        if name in OURS:
            raise OrnsteinError(f"{name} is what a plan or the prompts say", "Leave it out of the pipeline's arguments.")
        if name not in known:
            raise unknown(f"argument of {type(pipe).__name__}", name, known)
    told = {k: [v] * count if k.startswith("negative_prompt") and isinstance(v, str) else v for k, v in call.items()}
    if "prompt" in known:
        return told | {"prompt": [str(p) for p in prompts]}
    if "class_labels" in known:
        if wrong := next((p for p in prompts if not str(p).strip().isdigit()), None):
            raise OrnsteinError(f"'{wrong}' is no number of a class", f"{type(pipe).__name__} draws classes: ask for 0, 1, ...")
        return told | {"class_labels": [int(p) for p in prompts]}
    if "batch_size" in known:
        return told | {"batch_size": count}
    raise OrnsteinError(f"{type(pipe).__name__} is asked neither for a prompt, a class nor a number of pictures",
                        "Attach plugins to it by hand: ornstein.load(pipe).attach(...).")  # fmt: skip


@dataclass
class Drawing:
    """One plan on one pipeline. pipe: the copy that draws; ends: latents where each call's steps ended, [N, ...]."""

    pipe: Any
    call: Mapping[str, Any]
    ends: list[Tensor] = field(default_factory=list)
    pixels: list[np.ndarray] = field(default_factory=list)

    @classmethod
    def of(cls, pipe: Any, call: Mapping[str, Any], solver: str, grid: str, network: Any = None) -> Drawing:
        """solver 'own': the pipeline's scheduler; grid 'own': its timesteps; network: in the place of its own first one."""
        shared = copy.copy(pipe)
        if network is not None:
            setattr(shared, next(iter(networks(pipe))), network)
        if solver == OWN:
            shared.scheduler = copy.deepcopy(pipe.scheduler)
        else:
            shared.scheduler = OrnsteinScheduler.from_scheduler(pipe.scheduler, solver, None if grid == OWN else grid)
        return cls(shared, dict(call))

    def __call__(self, prompts: Sequence[Any], steps: int, seeds: Sequence[int], tell: Any = None) -> None:
        """Draw for these prompts. seeds: one of each picture; tell(step): after each step."""
        told = asked(self.pipe, prompts, self.call)
        scheduler, step, seen, done = self.pipe.scheduler, self.pipe.scheduler.step, [], [0]

        def watched(*args: Any, **kwargs: Any) -> Any:
            answer = step(*args, **kwargs)
            seen[:] = [answer[0] if isinstance(answer, tuple) else answer.prev_sample]
            done[0] += 1
            if tell is not None:
                tell(min(done[0], steps))
            return answer

        scheduler.step = watched
        try:
            made = self.pipe(**told, num_inference_steps=steps, output_type="np",
                             generator=[torch.Generator().manual_seed(s) for s in seeds])  # fmt: skip
        finally:
            del scheduler.step
        if not seen:
            raise OrnsteinError(f"{type(self.pipe).__name__} never asked its scheduler for a step", "Attach plugins by hand.")
        self.ends.append(seen[0][: len(prompts)].detach().float().cpu())  # guidance may carry both branches
        pixels = made.images if hasattr(made, "images") else made.frames
        self.pixels.append((np.asarray(pixels, np.float32).clip(0, 1) * 255).round().astype(np.uint8))


@dataclass(frozen=True)
class Decoder:
    """Latents of a pipeline as pixels in [-1, 1], by its own autoencoder."""

    pipe: Any
    call: Mapping[str, Any]

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        """[N, C, H, W], or packed [N, tokens, C], -> [N, channels, height, width]."""
        vae, pipe = getattr(self.pipe, "vae", None), self.pipe
        if vae is None:
            return x
        if x.ndim == 3 and hasattr(pipe, "_unpack_latents"):
            side = pipe.default_sample_size * pipe.vae_scale_factor
            x = pipe._unpack_latents(x, self.call.get("height", side), self.call.get("width", side), pipe.vae_scale_factor)
        if x.ndim != 4:
            raise OrnsteinError(f"latents {list(x.shape)} of {type(pipe).__name__} are no pictures", "Take the loss latent.")
        weight, config = next(vae.parameters()), vae.config
        x = x / (config.get("scaling_factor") or 1)
        if config.get("latents_mean") is not None and config.get("latents_std") is not None:
            mean, std = (torch.tensor(config[k]).view(1, -1, 1, 1) for k in ("latents_mean", "latents_std"))
            x = x * std + mean
        x = x + (config.get("shift_factor") or 0)
        return vae.decode(x.to(weight.device, weight.dtype), return_dict=False)[0].float().cpu()
