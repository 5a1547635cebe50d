"""Training that a user would trust: resumable bit-exactly on the CPU, watched while it runs, on one process or many.

Everything random in a step (which samples, times, noise, dropped conditions) follows from (seed, step) alone, so that
a run that was stopped goes on as if it had not been, and N processes draw what one would have drawn.
"""

from __future__ import annotations

import copy
import csv
import json
import math
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.record import write_atomic
from ornstein.model import Model, save

__all__ = ["Engine", "Settings", "Training", "fit"]

Batch = dict[str, Any]
PARALLEL = ("NO", "MULTI_CPU", "MULTI_GPU")  # what accelerate may do here: whole copies of the network


@dataclass(frozen=True)
class Training:
    """What a recipe hands over. `data(indices)` gives a batch on the CPU: 'x0' [B, ...], or 'images' [B, C, H, W] which the
    model's codec encodes; and 'cond' (a dict of tensors [B, ...]), or 'prompts' (B) where the encoder is to train too."""

    model: Model
    loss: Callable[..., dict[str, Tensor]]  # loss(denoiser, batch, generator, step) -> {'loss': scalar, ...}
    data: Callable[[Tensor], Batch]
    size: int  # how many samples there are
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
    clip: float = 1.0  # norm that all gradients together are clipped to
    ema: float = 0.999  # of the weights, reached gradually: min(ema, (1+step)/(10+step))
    dtype: str = "auto"  # float32, bfloat16 (autocast), or auto: bfloat16 where it pays
    seed: int = 0
    every: int = 200  # steps between checkpoints, validations and sample grids
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "every", "lr", "clip"):
            if not getattr(self, name) > 0:
                raise OrnsteinError(f"{name}={getattr(self, name)} is not positive", "Give more than 0.")
        for name, top in (("warmup", math.inf), ("final", 1), ("decay", math.inf), ("ema", 1)):
            if not 0 <= getattr(self, name) <= top:
                remedy = f"Its default is {_DEFAULT[name]}."
                raise OrnsteinError(f"{name}={getattr(self, name)} is outside 0 to {top}", remedy)
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise unknown("dtype of training", self.dtype, ("auto", "float32", "bfloat16"))


_DEFAULT = {f.name: f.default for f in fields(Settings)}


class Engine:
    """The state of a training: weights, their average, optimiser, step. `step()` trains once and says the losses."""

    def __init__(self, training: Training) -> None:
        self.training, self.index = training, 0
        model = training.model
        network = self.network = model.backbone.train()
        self.encoder = model.encoder.train() if isinstance(model.encoder, nn.Module) else None
        if any(m._forward_hooks for m in network.modules()):
            what = f"{type(network).__name__} carries hooks, an adapter perhaps, which this training would not train"
            raise OrnsteinError(what, "Merge or detach it first, or train its own parameters in a loop of your own.")
        if not any(p.requires_grad for m in self._modules() for p in m.parameters()):
            for module in self._modules():
                module.requires_grad_(True)
        self.settings = _settled(training.settings, network)
        self.accelerator = _accelerator(self.settings)
        for module in (*self._modules(), *_modules(training.loss)):
            module.to(self.device)
        trained = self.accelerator.prepare(network) if self.accelerator else network
        self.denoiser = replace(model.denoiser, backbone=trained)
        self.weights = [p for m in self._modules() for p in m.parameters() if p.requires_grad]
        self.extra = [p for p in _parameters(training.loss) if p.requires_grad]  # of auxiliary losses
        inside = {id(p) for p in network.parameters()}
        self.loose = [p for p in self.weights + self.extra if id(p) not in inside]  # not synchronised by accelerate
        if self.accelerator:
            for p in self.loose:
                torch.distributed.broadcast(p.data, 0)
        for p in self.weights + self.extra:
            p.grad = None
        self.live = [p.detach() for p in self.weights]
        self.average = [p.clone() for p in self.live]
        both = self.weights + self.extra
        groups = [{"params": [p for p in both if (p.ndim > 1) is big], "weight_decay": self.settings.decay * big}
                  for big in (True, False)]  # fmt: skip
        groups = [g for g in groups if g["params"]]
        self.optimiser = torch.optim.AdamW(groups, self.settings.lr, betas=(0.9, 0.99), fused=True)
        self.sums: dict[str, Tensor] = {}  # of the losses since they were last told, and over how many steps
        self.counts: Counter = Counter()

    def _modules(self) -> list[nn.Module]:
        return [m for m in (self.network, self.encoder) if m is not None]

    @property
    def device(self) -> torch.device:
        return self.accelerator.device if self.accelerator else torch.device(self.settings.device)

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes."""
        return not self.accelerator or self.accelerator.is_main_process

    def rate(self, step: int) -> float:
        """Learning rate at a step: linear warm-up, then a cosine down to `final` of it."""
        c = self.settings
        up = min(1.0, (step + 1) / max(1, c.warmup))
        over = min(1.0, max(0, step - c.warmup) / max(1, c.steps - c.warmup))
        return c.lr * up * (c.final + (1 - c.final) * 0.5 * (1 + math.cos(math.pi * over)))

    def batch(self) -> tuple[Batch, torch.Generator]:
        """This step's samples with what is random about them, this process's share; a function of (seed, step).

        'u' [B] in (0, 1), spread evenly: for the times; 'noise' like x0; 'drop' [B] in (0, 1): for dropping conditions.
        A loss that wants more per sample asks for it by the same rule: N processes must draw what one would.
        """
        c = self.settings
        generator = torch.Generator().manual_seed(c.seed * 1_000_003 + self.index)
        indices = torch.randint(self.training.size, (c.batch,), generator=generator)
        batch = self._latent(self.training.data(indices))
        u = (torch.randperm(c.batch, generator=generator) + torch.rand(c.batch, generator=generator)) / c.batch
        batch["u"] = u.clamp_(max=1 - 2**-24)
        batch["noise"] = torch.randn(batch["x0"].shape, generator=generator)
        batch["drop"] = torch.rand(c.batch, generator=generator)
        if self.accelerator:
            batch = _share(batch, self.accelerator.process_index, self.accelerator.num_processes, c.batch)
        return _to(batch, self.device), generator

    def step(self) -> dict[str, Tensor]:
        """One optimiser step. The losses come back as tensors: reading them is what waits for the device."""
        batch, generator = self.batch()
        rate = self.rate(self.index)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        _seed_global(self.settings.seed, self.index, self.accelerator, self.device)
        half = self.settings.dtype == "bfloat16"
        # torch's fused attention is slow backwards in bfloat16 on a CPU: the plain one takes two thirds of the step
        kernel = sdpa_kernel(SDPBackend.MATH) if half and self.device.type == "cpu" else nullcontext()
        with kernel, torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            losses = self.training.loss(self.denoiser, self._encoded(batch), generator, self.index)
        if self.accelerator:
            self.accelerator.backward(losses["loss"])
            _average_gradients(self.loose)
        else:
            losses["loss"].backward()
        losses = {k: v.detach() for k, v in losses.items()}
        losses["norm"] = nn.utils.clip_grad_norm_(self.weights + self.extra, self.settings.clip)
        if self.device.type == "cpu":  # elsewhere looking would wait for the device: `told` looks
            self._refuse_nonfinite(losses, f"at step {self.index + 1}")
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        keep = min(self.settings.ema, (1 + self.index) / (10 + self.index))
        torch._foreach_lerp_(self.average, self.live, 1 - keep)
        self.index += 1
        for k, v in losses.items():
            self.sums[k] = self.sums[k] + v if k in self.sums else v.clone()
        self.counts.update(losses.keys())
        return losses

    @torch.no_grad()
    def _latent(self, batch: Batch) -> Batch:
        """Pictures through the codec, which does not train here."""
        if "images" not in batch:
            return batch
        codec = self.training.model.codec
        if codec is None:
            raise OrnsteinError("the batch has 'images' but the model has no codec", "Give 'x0', or a model with a codec.")
        pictures = batch["images"].to(next(codec.parameters()).device if isinstance(codec, nn.Module) else "cpu")
        return {k: v for k, v in batch.items() if k != "images"} | {"x0": codec.encode(pictures).cpu()}

    def _encoded(self, batch: Batch) -> Batch:
        if "prompts" not in batch:
            return batch
        return batch | {"cond": self.training.model.encoder(batch["prompts"])}

    def _refuse_nonfinite(self, losses: dict[str, Any], where: str) -> None:
        bad = [f"{k} is {float(v)}" for k, v in losses.items() if not math.isfinite(v)]
        if bad:
            remedy = "A checkpoint on disk is from before. Lower lr, raise warmup, or look at the data."
            raise OrnsteinError(f"the training broke {where}: {', '.join(bad)}", remedy)

    def told(self) -> dict[str, float]:
        """Means of losses and gradient norm since this was last asked, over all processes. Waits for the device."""
        names = sorted(self.sums)
        if not names:
            return {}
        means = torch.stack([self.sums[k].float() / self.counts[k] for k in names])
        if self.accelerator:
            means = self.accelerator.reduce(means, "mean")
        found = dict(zip(names, means.tolist()))
        steps = max(self.counts.values())
        self._refuse_nonfinite(found, f"between steps {self.index - steps + 1} and {self.index}")
        self.sums, self.counts = {}, Counter()
        return found

    @torch.no_grad()
    def averaged(self) -> Model:
        """A copy of the model with the averaged weights, ready to sample."""
        copies = [copy.deepcopy(m) for m in self._modules()]
        pairs = [(q, p) for c, m in zip(copies, self._modules()) for q, p in zip(c.parameters(), m.parameters())]
        for q, value in zip((q for q, p in pairs if p.requires_grad), self.average):
            q.copy_(value)
        for c in copies:
            c.eval().requires_grad_(False)
        model = self.training.model
        denoiser = replace(model.denoiser, backbone=copies[0])
        if getattr(model.denoiser.null, "__self__", None) is self.network:
            denoiser = replace(denoiser, null=copies[0].null_condition)
        return replace(model, denoiser=denoiser, encoder=model.encoder if self.encoder is None else copies[1])

    @torch.no_grad()
    def validate(self, model: Model, levels: int = 8) -> dict[str, float]:
        """The loss on held-out samples with fixed noise at `levels` quantiles of its law of time, and their mean."""
        batch, loss = _to(self._latent(self.training.held_out), self.device), self.training.loss
        cond = model.encode(batch["prompts"]) if "prompts" in batch else batch.get("cond")
        x0, process = batch["x0"], model.denoiser.process
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1)).to(x0)
        found = {}
        for k in range(levels):
            u = torch.full((len(x0),), (k + 0.5) / levels, device=x0.device)
            if hasattr(loss, "per_sample"):
                t = loss.times(u, process)
                said = model.denoiser(process.corrupt(x0, noise, t), t, cond)
                found[f"t{k}"] = float(loss.per_sample(said, x0, process.kernel(noise)).mean())
            else:
                given = batch | {"cond": cond, "u": u, "noise": noise, "drop": torch.ones_like(u)}
                generator = torch.Generator().manual_seed(1)
                found[f"t{k}"] = float(loss(model.denoiser, given, generator, self.index)["loss"])
        return {"validation": sum(found.values()) / levels, **found}

    def state(self) -> bytes:
        """The whole state as one safetensors file in memory."""
        tensors = {f"weights.{i}": p for i, p in enumerate(self.weights)}
        tensors |= {f"average.{i}": p for i, p in enumerate(self.average)}
        tensors |= {f"extra.{i}": p for i, p in enumerate(self.extra)}
        tensors |= {f"sum.{k}": v for k, v in self.sums.items()}
        for i, p in enumerate(self._parameters()):
            moments = self.optimiser.state.get(p, {})  # none where it has had no gradient yet
            tensors |= {f"moment.{i}.{k}": v for k, v in moments.items()}
        tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        meta = {"step": str(self.index), "settings": json.dumps(vars(self.training.settings)),
                "dtype": self.settings.dtype, "counts": json.dumps(self.counts), **self._mark()}  # fmt: skip
        return to_bytes(tensors, meta)

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimiser.param_groups for p in group["params"]]

    def _mark(self) -> dict[str, str]:
        """What else must be the same in a training that goes on from this state."""
        parts = {k: v for k, v in self.training.model.config.items() if k not in ("about", "defaults")}
        return {"the model's description": json.dumps(parts, sort_keys=True),
                "the number of samples": str(self.training.size)}  # fmt: skip

    @torch.no_grad()
    def restore(self, path: Path) -> None:
        """Go on from a checkpoint; a damaged one, or one of another training, is refused."""
        try:
            with safe_open(path, "pt") as file:
                meta, stored = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}
            then, index = json.loads(meta["settings"]), int(meta["step"])
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise OrnsteinError(f"the checkpoint {path} is damaged ({error})", "Delete it to start again.") from error
        self._refuse_other(path, meta, stored, then)
        if index > self.settings.steps:
            what = f"the checkpoint {path} is of step {index}, past steps={self.settings.steps}"
            raise OrnsteinError(what, "Ask for more steps, or give another --out.")
        for name, values in (("weights", self.weights), ("average", self.average), ("extra", self.extra)):
            for i, p in enumerate(values):
                p.copy_(stored[f"{name}.{i}"])
        self.optimiser.state.clear()
        for i, p in enumerate(self._parameters()):
            mine = {k.split(".", 2)[2]: v for k, v in stored.items() if k.startswith(f"moment.{i}.")}
            if mine:  # a parameter that has had no gradient yet has no moments
                self.optimiser.state[p] = {k: v.to(p.device) for k, v in mine.items()}
        self.sums = {k[4:]: v.to(self.device) for k, v in stored.items() if k.startswith("sum.")}
        self.counts = Counter(json.loads(meta.get("counts", "{}")))
        self.settings = replace(self.settings, dtype=meta.get("dtype", self.settings.dtype))
        self.index = index

    def _refuse_other(self, path: Path, meta: dict[str, str], stored: dict[str, Tensor], then: dict[str, Any]) -> None:
        now = vars(self.training.settings)
        other = sorted(k for k in now if k not in ("steps", "every", "device") and now[k] != then.get(k, _DEFAULT[k]))
        other += [name for name, value in self._mark().items() if meta.get(name, value) != value]
        kinds = (("weights", self.weights), ("average", self.average), ("extra", self.extra))
        wanted = {f"{name}.{i}": p.shape for name, values in kinds for i, p in enumerate(values)}
        found = {k: v.shape for k, v in stored.items() if k.startswith(("weights.", "average.", "extra."))}
        other += ["the shapes of the weights"] if wanted != found else []
        if other:
            raise OrnsteinError(f"the checkpoint {path} is of another training: {', '.join(other)} differ",
                                "Use the same settings, or another --out.")  # fmt: skip


def fit(training: Training, out: str | Path, progress: Callable[[int, int, dict], None] | None = None,
        resume: bool = True, stop_after: int | None = None) -> Model:  # fmt: skip
    """Train to the end and hand back the model with averaged weights; `out` gets model.safetensors, log.csv, samples.

    Goes on from out/checkpoint.safetensors where there is one. progress(step, steps, facts): about once a second.
    stop_after: end early after that many steps of this call. Then, and on Ctrl-C or SIGTERM (of a single process), the
    step in hand is finished and a checkpoint is written.
    """
    out = _writable(out)
    engine = Engine(training)
    checkpoint = out / "checkpoint.safetensors"
    if resume and checkpoint.exists():
        engine.restore(checkpoint)
    _refuse_disagreement(engine)
    log = _Log(out, engine.index) if engine.main else None
    end = engine.settings.steps if stop_after is None else min(engine.settings.steps, engine.index + stop_after)
    before = torch.get_rng_state()
    try:
        with _Signals(enabled=not engine.accelerator) as signals:
            _loop(engine, out, log, end, progress, signals)
    finally:
        torch.set_rng_state(before)
        if log:
            log.close()
    if engine.accelerator:
        engine.accelerator.wait_for_everyone()
    return engine.averaged()


def _loop(engine: Engine, out: Path, log: _Log | None, end: int, progress: Callable | None, signals: _Signals) -> None:
    steps, every = engine.settings.steps, engine.settings.every
    window = max(1, every // 10)  # steps that one row of the log stands for
    began, first, spoken = time.monotonic(), engine.index, 0.0
    while engine.index < end:
        losses = engine.step()
        now, last = time.monotonic(), engine.index == steps
        speed = (engine.index - first) * engine.settings.batch / max(1e-9, now - began)
        if engine.index % window == 0 or last:
            told = engine.told()
            if log:
                log.row("train", engine.index, told | {"lr": engine.rate(engine.index - 1), "img/s": speed})
        if progress and engine.main and (now - spoken > 1 or engine.index == end):
            spoken = now
            left = (steps - engine.index) * engine.settings.batch / max(1e-9, speed)
            progress(engine.index, steps, {k: float(v) for k, v in losses.items()}
                     | {"lr": engine.rate(engine.index - 1), "img/s": speed, "left": left})  # fmt: skip
        if engine.main and (engine.index % every == 0 or last):
            _pause(engine, out, log)
        elif engine.main and (engine.index == end or signals.caught):
            _checkpoint(engine, out)
        signals.act()


def _pause(engine: Engine, out: Path, log: _Log) -> None:
    """Validation curve, checkpoint, model file and sample grid."""
    model = engine.averaged()
    if engine.training.held_out is not None:
        log.row("validation", engine.index, engine.validate(model))
    _checkpoint(engine, out)  # after the log: what the log says beyond the checkpoint is forgotten on resuming
    with _disk(out):
        save(out / "model.safetensors", model, about={"steps": engine.index})
    if engine.training.prompts:
        from ornstein.present import contact_sheet

        made = model.generate(engine.training.prompts)
        contact_sheet(made.images, [str(p) for p in made.prompts], out / f"samples-{engine.index:07d}.png")


def _checkpoint(engine: Engine, out: Path) -> None:
    if not all(bool(v.isfinite()) for v in engine.sums.values()):
        engine.told()  # says where it broke, and leaves the last good checkpoint
    with _disk(out):
        write_atomic(out / "checkpoint.safetensors", engine.state())


@contextmanager
def _disk(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"cannot write to {out} any more ({error.strerror})"
        raise OrnsteinError(what, "The last checkpoint is whole: make room, and go on with --resume.") from error


class _Signals:
    """Ctrl-C and SIGTERM wait for the end of a step, once; a second Ctrl-C does not wait."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled and threading.current_thread() is threading.main_thread()
        self.caught, self.before = 0, {}

    def __enter__(self) -> _Signals:
        for number in (signal.SIGINT, signal.SIGTERM) if self.enabled else ():
            self.before[number] = signal.signal(number, self._catch)
        return self

    def _catch(self, number: int, frame: Any) -> None:
        self.caught = number
        self.__exit__()

    def __exit__(self, *exc: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def act(self) -> None:
        if self.caught:
            raise KeyboardInterrupt if self.caught == signal.SIGINT else SystemExit(128 + self.caught)


class _Log:
    """log.csv (long form: kind, step, name, value), and TensorBoard's events where that package is installed."""

    def __init__(self, out: Path, step: int) -> None:
        path = out / "log.csv"
        rows = []
        if path.exists() and step:  # forget what came after the checkpoint that the run goes on from
            with path.open(newline="") as file:
                rows = [r for r in csv.reader(file) if len(r) == 4 and r[1].isdigit() and int(r[1]) <= step]
        write_atomic(path, "".join(",".join(r) + "\n" for r in [["kind", "step", "name", "value"], *rows]).encode())
        self.file = path.open("a", newline="")
        self.writer, self.board = csv.writer(self.file, lineterminator="\n"), _board(out, step)

    def row(self, kind: str, step: int, facts: dict[str, float]) -> None:
        for name, value in facts.items():
            self.writer.writerow([kind, step, name, f"{value:.6g}"])
            if self.board:
                self.board.add_scalar(f"{kind}/{name}", value, step)
        self.file.flush()

    def close(self) -> None:
        self.file.close()
        if self.board:
            self.board.close()


def _board(out: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out / "events"), purge_step=step + 1)


def _writable(out: str | Path) -> Path:
    """The folder, made and tried out; parts of files that a killed run left are cleared away."""
    out = Path(out)
    mark = out / f".writable-{os.getpid()}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(mark, b"").unlink()
        for name in ("checkpoint.safetensors", "model.safetensors", "log.csv"):
            for part in out.glob(f"{name}.*.tmp"):
                if time.time() - part.stat().st_mtime > 60:  # not those of a process that writes just now
                    part.unlink(missing_ok=True)
    except OSError as error:
        raise OrnsteinError(f"cannot write to {out} ({error.strerror})", "Give another --out.") from error
    return out


def _settled(c: Settings, network: nn.Module) -> Settings:
    """Settings with 'auto' decided for this machine and network."""
    device = ("cuda" if torch.cuda.is_available() else "cpu") if c.device == "auto" else c.device
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise OrnsteinError(f"device={device}, but torch sees no GPU", "Use device=cpu, or install a GPU's torch.")
    return replace(c, device=device, dtype=_fastest(network, device) if c.dtype == "auto" else c.dtype)


def _fastest(network: nn.Module, device: str) -> str:
    """bfloat16 where the machine multiplies it in hardware and the matrices are wide enough to repay the casts.

    Forward and backward of a DiT without and with autocast on one core of an AMD EPYC with AVX512-BF16, gain in speed:
    width 48 0.8, 96 0.7 (16 tokens) to 1.0 (64), 128 0.9, 192 1.3 to 1.7, 256 2.1, 384 2.5.
    """
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    hardware = device == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    width = max((min(len(p), p[0].numel()) for p in network.parameters() if p.ndim > 1), default=0)
    return "bfloat16" if hardware and width >= 192 else "float32"


def _accelerator(c: Settings) -> Any:
    """Hugging Face accelerate, where several processes were launched; else None."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise OrnsteinError("several processes need the package accelerate", 'pip install "ornstein[train]"') from error
    accelerator = Accelerator(cpu=c.device == "cpu", mixed_precision="no")
    if accelerator.distributed_type.value not in PARALLEL:
        raise OrnsteinError(f"training under accelerate's {accelerator.distributed_type.value} is not supported",
                            "Launch plain data parallelism: torchrun, or accelerate launch --multi_gpu.")  # fmt: skip
    if c.batch % accelerator.num_processes:
        raise OrnsteinError(f"a batch of {c.batch} does not divide among {accelerator.num_processes} processes",
                            "Choose a multiple.")  # fmt: skip
    return accelerator


def _refuse_disagreement(engine: Engine) -> None:
    """All processes stand at one step; they do not where some cannot see the checkpoint."""
    if engine.accelerator:
        steps = engine.accelerator.gather(torch.tensor([engine.index], device=engine.device)).tolist()
        if len(set(steps)) > 1:
            what = f"the processes stand at different steps ({steps})"
            raise OrnsteinError(what, "Give an --out that all machines share.")


def _average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Mean over processes of the gradients of parameters outside the network; None stays None where all agree on it."""
    if not parameters:
        return
    parts = []
    for p in parameters:  # each gradient, and after it whether there is one
        gradient = torch.zeros_like(p) if p.grad is None else p.grad
        parts += [gradient.flatten(), p.new_tensor([p.grad is not None])]
    flat = torch.cat(parts)
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for p, mine in zip(parameters, flat.split([p.numel() + 1 for p in parameters])):
        p.grad = mine[:-1].view_as(p).clone() if bool(mine[-1] > 0) else None


def _modules(loss: Any) -> list[nn.Module]:
    """The modules of a loss: itself, or its auxiliary losses."""
    return [m for m in (loss, *getattr(loss, "auxiliaries", ())) if isinstance(m, nn.Module)]


def _parameters(loss: Any) -> list[nn.Parameter]:
    """What trains with the network: parameters of the loss and of its auxiliary losses, each once."""
    found = [p for m in (loss, *getattr(loss, "auxiliaries", ())) if hasattr(m, "parameters") for p in m.parameters()]
    return list(dict.fromkeys(found))


def _seed_global(seed: int, step: int, accelerator: Any, device: torch.device) -> None:
    """Dropout and the like draw from torch's own generator: that too follows from (seed, step)."""
    mark = (seed * 1_000_003 + step) * 4099 + (accelerator.process_index if accelerator else 0)
    torch.default_generator.manual_seed(mark)
    if device.type == "cuda":
        torch.cuda.manual_seed(mark)


def _share(batch: Batch, rank: int, world: int, size: int) -> Batch:
    """Every world-th row of what has a row per sample."""

    def part(v: Any) -> Any:
        if isinstance(v, dict):
            return _share(v, rank, world, size)
        rows = isinstance(v, (list, tuple)) or (isinstance(v, Tensor) and v.ndim > 0)
        return v[rank::world] if rows and len(v) == size else v

    return {k: part(v) for k, v in batch.items()}


def _to(batch: Batch, device: torch.device) -> Batch:
    def part(v: Any) -> Any:
        return _to(v, device) if isinstance(v, dict) else v.to(device) if isinstance(v, Tensor) else v

    return {k: part(v) for k, v in batch.items()}
