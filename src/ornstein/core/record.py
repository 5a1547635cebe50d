"""What a run leaves behind: steps, calls, sites computed and skipped, seconds, memory, seeds, versions."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

__all__ = ["Record", "write_atomic"]


@dataclass
class Record:
    """Filled in by the loop and the seam. Counts are Python integers: nothing here waits for a device."""

    steps: int = 0
    calls: Counter = field(default_factory=Counter)  # branch -> network calls
    asked_at: Counter = field(default_factory=Counter)  # site -> times a plugin was asked
    computed_at: Counter = field(default_factory=Counter)  # site -> times it was computed, by the share of rows
    asked_of: Counter = field(default_factory=Counter)  # plugin -> times it was asked, over all its sites
    left_by: Counter = field(default_factory=Counter)  # plugin -> of these, what it answered without computing
    facts: dict[str, Any] = field(default_factory=dict)  # what parts say of themselves
    seconds: float = 0.0
    began: float = field(default_factory=time.perf_counter)

    def asked(self, site: Any, clock: Any) -> None:
        self.asked_at[f"{site.name}/{site.grain}"] += clock.share

    def computed(self, site: Any, clock: Any) -> None:
        self.computed_at[f"{site.name}/{site.grain}"] += clock.share

    def answered(self, plugin: Any, clock: Any, done: float) -> None:
        """A plugin has answered at a site, having had the share `done` of the rows computed."""
        name = type(plugin).__name__
        self.asked_of[name] += clock.share
        self.left_by[name] += clock.share * max(0.0, 1 - done)

    def finish(self) -> Record:
        self.seconds = time.perf_counter() - self.began
        return self

    def skipped(self) -> float:
        """Share of the asked sites that were not computed, 0 to 1."""
        asked = sum(self.asked_at.values())
        return 1 - sum(self.computed_at.values()) / asked if asked else 0.0

    def as_dict(self) -> dict[str, Any]:
        memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
        return {
            "steps": self.steps, "calls": dict(self.calls), "asked": dict(self.asked_at),
            "computed": dict(self.computed_at), "parts": self._parts(), "skipped": round(self.skipped(), 4), "seconds": round(self.seconds, 4),
            "peak_bytes": memory, "facts": self.facts, "torch": torch.__version__,
            "python": sys.version.split()[0], "machine": platform.machine(), "threads": torch.get_num_threads(),
        }  # fmt: skip

    def _parts(self) -> dict[str, dict[str, float]]:
        return {name: {"asked": n, "left": self.left_by[name]} for name, n in self.asked_of.items()}

    def write(self, path: str | Path) -> Path:
        return write_atomic(path, json.dumps(self.as_dict(), indent=1, default=str).encode())


def write_atomic(path: str | Path, data: bytes) -> Path:
    """The whole file or none: written beside its place and moved there."""
    path = Path(path)
    part = path.with_name(path.name + f".{os.getpid()}.tmp")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path
