"""The portable plan: how to run one particular model, with what it was measured to cost, as a small JSON file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import nn

from .errors import OrnsteinError, unknown
from .record import write_atomic

__all__ = ["Plan", "fingerprint"]


def fingerprint(model: nn.Module) -> str:
    """16 hex digits of names, shapes and sampled values of the weights. A retrained model has another one."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        flat = value.detach().flatten()
        some = flat[:: max(1, flat.numel() // 64)][:64].float().cpu() if flat.numel() else flat.float().cpu()
        digest.update(f"{name}{tuple(value.shape)}".encode() + some.numpy().round(6).tobytes())
    return digest.hexdigest()[:16]


DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Plan:
    """Parts are texts as the catalog reads them ('dpmpp2m', 'cfg:scale=3', 'firstblock:threshold=0.1')."""

    model: str = ""
    fingerprint: str = ""
    solver: str = "ddim"
    steps: int = 20
    grid: str = "uniform"
    guidance: tuple[str, ...] = ()
    accelerate: tuple[str, ...] = ()
    compress: tuple[str, ...] = ()
    dtype: str = "float32"
    compile: bool = False  # blocks by torch.compile
    figures: Mapping[str, Any] = field(default_factory=dict)  # measured, with intervals
    made_for: Mapping[str, str] = field(default_factory=dict)  # what the figures hold for: process, shape, guidance, libraries

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or isinstance(self.steps, bool) or self.steps < 1:
            raise OrnsteinError(f"steps={self.steps!r} is not a positive whole number", "Ask for at least 1 step.")
        for name in ("guidance", "accelerate", "compress"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or any(isinstance(part, (int, float, dict, list)) for part in value):
                raise OrnsteinError(f"{name}={value!r} is not a list of parts", "Give a tuple of texts.")
        if not isinstance(self.solver, str):
            raise OrnsteinError(f"solver={self.solver!r} is not a text", "Write it as the catalog reads it: 'ddim'.")
        if self.dtype not in DTYPES:
            raise unknown("dtype", str(self.dtype), DTYPES)

    def save(self, path: str | Path) -> Path:
        return write_atomic(path, (json.dumps(asdict(self), indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan. A missing, damaged or foreign file: OrnsteinError."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise OrnsteinError(f"there is no plan at {path}", "Make one with `ornstein generate --save-plan FILE`.") from error
        except (OSError, ValueError) as error:
            raise OrnsteinError(f"{path} is not a plan", "It must be the JSON file that ornstein wrote.") from error
        if not isinstance(data, dict):
            raise OrnsteinError(f"{path} is not a plan", "It must be the JSON file that ornstein wrote.")
        known = [f.name for f in fields(cls)]
        for key in data:
            if key not in known:
                raise unknown(f"field of the plan {path}", key, known)
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items()})

    def for_model(self, name: str, model: nn.Module, now: Mapping[str, str] | None = None) -> Plan:
        """This plan, if it was made for these weights, and, where something was promised of it, for what it meets `now`
        (by the words of `made_for`); else OrnsteinError."""
        if reasons := self.misfits(name, model, now):
            remedy = "Make a plan for this model, load the model that the plan names, or force it: then it promises nothing."
            raise OrnsteinError("; ".join(reasons), remedy)
        return self

    def misfits(self, name: str, model: nn.Module, now: Mapping[str, str] | None = None) -> list[str]:
        """Why this plan is not one for these weights and this use; empty where it is."""
        found, mark = [], fingerprint(model)
        if self.fingerprint and self.fingerprint != mark:
            found.append(f"the plan was made for '{self.model}' ({self.fingerprint}), not for '{name}' ({mark})")
        for what, mine in (now or {}).items():
            if self.figures and what in self.made_for and self.made_for[what] != mine:
                found.append(f"the plan's figures are for {what} '{self.made_for[what]}', not for '{mine}'")
        return found
