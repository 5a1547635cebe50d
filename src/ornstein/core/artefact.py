"""What was learned about one model in use (statistics, schedules, gates): arrays in one file, refused anywhere else."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from .errors import OrnsteinError
from .plan import fingerprint
from .record import write_atomic

__all__ = ["Artefact", "describe"]


def describe(denoiser: Any, grid: str = "", shape: Sequence[int] = ()) -> dict[str, str]:
    """What is calibrated for. denoiser: also guided, or a Model; '' is the model of one without a network."""
    rules, inner = [], denoiser
    while hasattr(inner, "denoiser"):
        rules += [re.sub(r" at 0x\w+", "", repr(inner.rule))] if hasattr(inner, "rule") else []
        inner = inner.denoiser
    net = getattr(inner, "backbone", None)
    return {"model": fingerprint(net) if isinstance(net, nn.Module) else "", "process": repr(inner.process),
            "guidance": ", ".join(reversed(rules)), "grid": grid, "shape": "x".join(map(str, shape))}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Artefact:
    """kind: the part that reads it; arrays: named tensors; settings: JSON values; made_for: what `describe` said."""

    kind: str
    arrays: Mapping[str, Tensor]
    settings: Mapping[str, Any] = field(default_factory=dict)
    made_for: Mapping[str, str] = field(default_factory=dict)

    def save(self, path: str | Path) -> Path:
        head = json.dumps({"kind": self.kind, "settings": self.settings, "made_for": self.made_for})
        arrays = {k: v.detach().cpu().contiguous().clone() for k, v in self.arrays.items()}
        return write_atomic(path, to_bytes(arrays, metadata={"artefact": head}))

    @classmethod
    def load(cls, path: str | Path, kind: str) -> Artefact:
        """Read a file of that kind. A missing, truncated or foreign one, or one of another kind: OrnsteinError."""
        if not Path(path).is_file():
            raise OrnsteinError(f"there is no file of '{kind}' at {path}", "Calibrate it on the model and save it there.")
        try:
            with safe_open(path, framework="pt") as file:
                head = json.loads((file.metadata() or {})["artefact"])
                found = cls(head["kind"], {k: file.get_tensor(k) for k in file.keys()}, head["settings"], head["made_for"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise OrnsteinError(f"{path} is not an artefact", "It must be a file that Artefact.save wrote.") from error
        if found.kind != kind:
            raise OrnsteinError(f"{path} holds '{found.kind}', not '{kind}'", "Give the file calibrated for this part.")
        return found

    def check(self, denoiser: Any = None, process: Any = None, grid: Any = None, shape: Any = None) -> Artefact:
        """This artefact, if it was made for what is given (None: not asked); else OrnsteinError."""
        now = ({} if denoiser is None else describe(denoiser)) | ({} if process is None else {"process": repr(process)})
        now |= {"grid": grid, "shape": None if shape is None else "x".join(map(str, shape))}
        for what, mine in now.items():
            if mine is not None and mine != (made := self.made_for.get(what, "")):
                what_for = f"this '{self.kind}' was calibrated for {what} '{made}', not for '{mine}'"
                raise OrnsteinError(what_for, f"Calibrate it again for this {what}, or use the {what} that it names.")
        return self
