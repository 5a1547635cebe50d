"""Training that a user would trust: resumable bit-exactly on the CPU, watched while it runs, on one process or many.

Everything random in a step (which samples, times, noise, dropped conditions) follows from (seed, step) alone, so that a run
that was stopped goes on as if it had not been, and N processes draw what one would have drawn.
"""

from __future__ import annotations

import csv
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from ornstein.core.errors import OrnsteinError
from ornstein.core.record import write_atomic
from ornstein.model import Model, save

__all__ = ["Engine", "Training", "fit"]

Batch = dict[str, Any]


@dataclass(frozen=True)
class Training:
    """What a recipe hands over. `data(indices)` gives a batch on the CPU; `size`: how many samples it has."""

    model: Model
    loss: Callable[..., dict[str, Tensor]]  # loss(denoiser, batch, generator, step) -> {'loss': scalar, ...}
    data: Callable[[Tensor], Batch]
    size: int
    held_out: Batch | None = None  # one batch that is never trained on: the validation curve
    prompts: Sequence[Any] = ()  # drawn on the way
    settings: Settings = field(default_factory=lambda: Settings())


@dataclass(frozen=True)
class Settings:
    """How long, how fast, how often. Every field can be set from the command line."""

    steps: int = 1000
    batch: int = 128  # over all processes
    lr: float = 1e-3
    warmup: int = 100  # steps of linear rise
    final: float = 0.1  # the learning rate's last value as a share of lr, reached on a cosine
    decay: float = 0.01  # AdamW's weight decay, on matrices only
    clip: float = 1.0  # norm that gradients are clipped to
    ema: float = 0.999  # of the weights, reached gradually: min(ema, (1+step)/(10+step))
    dtype: str = "auto"  # float32, bfloat16 (autocast), or auto: bfloat16 where it pays
    seed: int = 0
    every: int = 200  # steps between checkpoints, validations and sample grids
    device: str = "auto"


class Engine:
    """The state of a training: weights, their average, optimiser, step. `step()` trains once and says the losses."""

    def __init__(self, training: Training) -> None:
        self.training, self.settings, self.index = training, _settled(training.settings), 0
        self.accelerator = _accelerator(self.settings)
        network = training.model.backbone.train().requires_grad_(True).to(self.device)
        self.weights = [p for p in network.parameters() if p.requires_grad]
        extra = [p for a in getattr(training.loss, "auxiliaries", ()) for p in a.parameters()]
        self.network = network
        self.average = [p.detach().clone() for p in self.weights]
        groups = [{"params": [p for p in self.weights + extra if (p.ndim > 1) is big], "weight_decay": self.settings.decay * big}
                  for big in (True, False)]  # fmt: skip
        self.optimiser = torch.optim.AdamW([g for g in groups if g["params"]], self.settings.lr, betas=(0.9, 0.99), fused=True)
        trained = self.accelerator.prepare(network) if self.accelerator else network
        self.denoiser = replace(training.model.denoiser, backbone=trained)

    @property
    def device(self) -> torch.device:
        return self.accelerator.device if self.accelerator else torch.device(self.settings.device)

    def rate(self, step: int) -> float:
        """Learning rate at a step: linear warm-up, then a cosine down to `final` of it."""
        c = self.settings
        up = min(1.0, (step + 1) / max(1, c.warmup))
        over = min(1.0, max(0, step - c.warmup) / max(1, c.steps - c.warmup))
        return c.lr * up * (c.final + (1 - c.final) * 0.5 * (1 + math.cos(math.pi * over)))

    def batch(self) -> tuple[Batch, torch.Generator]:
        """This step's samples and noise, this process's share of them; a function of (seed, step)."""
        c = self.settings
        generator = torch.Generator().manual_seed(c.seed * 1_000_003 + self.index)
        indices = torch.randint(self.training.size, (c.batch,), generator=generator)
        batch = self.training.data(indices)
        batch["u"] = (torch.randperm(c.batch, generator=generator) + torch.rand(c.batch, generator=generator)) / c.batch
        batch["noise"] = torch.randn(batch["x0"].shape, generator=generator)
        if self.accelerator:
            batch = _share(batch, self.accelerator.process_index, self.accelerator.num_processes, c.batch)
        return _to(batch, self.device), generator

    def step(self) -> dict[str, Tensor]:
        """One optimiser step. The losses come back as tensors: reading them is what waits for the device."""
        batch, generator = self.batch()
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(self.index)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.dtype == "bfloat16"):
            losses = self.training.loss(self.denoiser, batch, generator, self.index)
        if self.accelerator:
            self.accelerator.backward(losses["loss"])
        else:
            losses["loss"].backward()
        norm = nn.utils.clip_grad_norm_(self.weights, self.settings.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        keep = min(self.settings.ema, (1 + self.index) / (10 + self.index))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.weights], 1 - keep)
        self.index += 1
        return {k: v.detach() for k, v in losses.items()} | {"norm": norm}

    def averaged(self) -> Model:
        """A copy of the model with the averaged weights, ready to sample."""
        import copy

        network = copy.deepcopy(self.network).eval().requires_grad_(False)
        trained = [q for q, p in zip(network.parameters(), self.network.parameters()) if p.requires_grad]
        for q, value in zip(trained, self.average):
            q.copy_(value)
        return replace(self.training.model, denoiser=replace(self.training.model.denoiser, backbone=network))

    @torch.no_grad()
    def validate(self, model: Model, levels: int = 8) -> dict[str, float]:
        """The loss on held-out samples with fixed noise at `levels` evenly spread times, and their mean."""
        batch = _to(self.training.held_out, self.device)
        x0, process = batch["x0"], model.denoiser.process
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1)).to(x0)
        found = {}
        for k in range(levels):
            t = process.t_min + (k + 0.5) / levels * (process.t_max - process.t_min)
            said = model.denoiser(process.corrupt(x0, noise, t), t, batch.get("cond"))
            found[f"t{k}"] = float(self.training.loss.per_sample(said, x0, noise).mean())
        return {"validation": sum(found.values()) / levels, **found}

    def state(self) -> bytes:
        """The whole state as one safetensors file in memory."""
        tensors = {f"weights.{i}": p for i, p in enumerate(self.weights)}
        tensors |= {f"average.{i}": p for i, p in enumerate(self.average)}
        for i, (_, moments) in enumerate(self._moments()):
            tensors |= {f"moment.{i}.{k}": v for k, v in moments.items()}
        tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        return to_bytes(tensors, {"step": str(self.index), "settings": json.dumps(vars(self.training.settings))})

    def _moments(self) -> list[tuple[nn.Parameter, dict[str, Tensor]]]:
        params = [p for group in self.optimiser.param_groups for p in group["params"]]
        return [(p, {k: v for k, v in self.optimiser.state.get(p, {}).items()}) for p in params]

    @torch.no_grad()
    def restore(self, path: Path) -> None:
        """Go on from a checkpoint; a damaged one, or one of another training, is refused."""
        try:
            with safe_open(path, "pt") as file:
                meta, stored = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise OrnsteinError(f"the checkpoint {path} is damaged ({error})", "Delete it to start again.") from error
        now, then = vars(self.training.settings), json.loads(meta["settings"])
        differing = sorted(k for k in now if k not in ("steps", "every", "device") and now[k] != then.get(k))
        shapes = [tuple(stored.get(f"weights.{i}", torch.empty(0)).shape) == tuple(p.shape) for i, p in enumerate(self.weights)]
        if differing or not all(shapes):
            raise OrnsteinError(f"the checkpoint {path} is of another training ({', '.join(differing) or 'other weights'})",
                                "Use the same settings, or another --out.")  # fmt: skip
        for i, (p, q) in enumerate(zip(self.weights, self.average)):
            p.copy_(stored[f"weights.{i}"])
            q.copy_(stored[f"average.{i}"])
        for i, (p, _) in enumerate(self._moments()):
            self.optimiser.state[p] = {k.split(".", 2)[2]: v.to(p.device) if "step" not in k else v
                                       for k, v in stored.items() if k.startswith(f"moment.{i}.")}  # fmt: skip
        self.index = int(meta["step"])


def fit(training: Training, out: str | Path, progress: Callable[[int, int, dict], None] | None = None, resume: bool = True,
        stop_after: int | None = None) -> Model:  # fmt: skip
    """Train to the end and hand back the model with averaged weights; `out` gets model.safetensors, log.csv, samples.

    Goes on from out/checkpoint.safetensors where there is one. progress(step, steps, facts) is called about once a second.
    stop_after: end early after that many steps of this call (the checkpoint is written).
    """
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / ".writable", b"")
        (out / ".writable").unlink()
    except OSError as error:
        raise OrnsteinError(f"cannot write to {out} ({error.strerror})", "Give another --out.") from error
    engine = Engine(training)
    main = not engine.accelerator or engine.accelerator.is_main_process
    checkpoint = out / "checkpoint.safetensors"
    if resume and checkpoint.exists():
        engine.restore(checkpoint)
    log = _Log(out, engine.index) if main else None
    steps, every, began, first = training.settings.steps, training.settings.every, time.monotonic(), engine.index
    spoken = 0.0
    while engine.index < steps and (stop_after is None or engine.index - first < stop_after):
        losses = engine.step()
        now = time.monotonic()
        last = engine.index == steps or (stop_after is not None and engine.index - first == stop_after)
        if main and (now - spoken > 1 or last):
            speed = (engine.index - first) * engine.settings.batch / max(1e-9, now - began)
            left = (steps - engine.index) * engine.settings.batch / max(1e-9, speed)
            facts = {"loss": float(losses["loss"]), "norm": float(losses["norm"]), "lr": engine.rate(engine.index - 1),
                     "img/s": speed, "left": left}  # fmt: skip
            spoken = now
            log.row("train", engine.index, facts)
            if progress:
                progress(engine.index, steps, facts)
        if main and (engine.index % every == 0 or last):
            _pause(engine, out, checkpoint, log)
    model = engine.averaged()
    if main:
        save(out / "model.safetensors", model, about={"steps": engine.index})
        log.close()
    if engine.accelerator:
        engine.accelerator.wait_for_everyone()
    return model


def _pause(engine: Engine, out: Path, checkpoint: Path, log: _Log) -> None:
    """Checkpoint, validation curve and sample grid."""
    write_atomic(checkpoint, engine.state())
    model = engine.averaged()
    if engine.training.held_out is not None:
        log.row("validation", engine.index, engine.validate(model))
    if engine.training.prompts:
        from ornstein.present import contact_sheet

        made = model.generate(engine.training.prompts)
        contact_sheet(made.images, [str(p) for p in made.prompts], out / f"samples-{engine.index:07d}.png")


class _Log:
    """log.csv (long form: kind, step, name, value), and TensorBoard's events where that package is installed."""

    def __init__(self, out: Path, step: int) -> None:
        path = out / "log.csv"
        rows = []
        if path.exists() and step:  # forget what came after the checkpoint that the run goes on from
            rows = [r for r in csv.reader(path.open(newline="")) if len(r) == 4 and r[1].isdigit() and int(r[1]) <= step]
        write_atomic(path, "".join(",".join(r) + "\n" for r in [["kind", "step", "name", "value"], *rows]).encode())
        self.file = path.open("a", newline="")
        self.board = _board(out)

    def row(self, kind: str, step: int, facts: dict[str, float]) -> None:
        for name, value in facts.items():
            csv.writer(self.file).writerow([kind, step, name, f"{value:.6g}"])
            if self.board:
                self.board.add_scalar(f"{kind}/{name}", value, step)
        self.file.flush()

    def close(self) -> None:
        self.file.close()
        if self.board:
            self.board.close()


def _board(out: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out / "events"))


def _settled(c: Settings) -> Settings:
    """Settings with 'auto' decided for this machine."""
    device = ("cuda" if torch.cuda.is_available() else "cpu") if c.device == "auto" else c.device
    fast = torch.cuda.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported() and torch.cpu._is_avx512_bf16_supported()
    return replace(c, device=device, dtype=("bfloat16" if fast else "float32") if c.dtype == "auto" else c.dtype)


def _accelerator(c: Settings) -> Any:
    """Hugging Face accelerate, where several processes were launched; else None."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise OrnsteinError("several processes need the package accelerate", 'pip install "ornstein[train]"') from error
    return Accelerator(cpu=c.device == "cpu")


def _share(batch: Batch, rank: int, world: int, size: int) -> Batch:
    if size % world:
        raise OrnsteinError(f"a batch of {size} does not divide among {world} processes", "Choose a multiple.")
    return {k: _share(v, rank, world, size) if isinstance(v, dict) else v[rank::world] for k, v in batch.items()}


def _to(batch: Batch, device: torch.device) -> Batch:
    return {k: _to(v, device) if isinstance(v, dict) else v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
