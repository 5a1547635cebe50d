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
    trace: dict[str, dict[int, list[float]]] = field(default_factory=dict)  # site -> step -> [asked, computed]
    asked_of: Counter = field(default_factory=Counter)  # plugin -> times it was asked, over all its sites
    left_by: Counter = field(default_factory=Counter)  # plugin -> of these, what it answered without computing
    facts: dict[str, Any] = field(default_factory=dict)  # what parts say of themselves
    seconds: float = 0.0
    began: float = field(default_factory=time.perf_counter)

    def asked(self, site: Any, clock: Any) -> None:
        self._count(self.asked_at, 0, site, clock)

    def computed(self, site: Any, clock: Any) -> None:
        self._count(self.computed_at, 1, site, clock)

    def _count(self, whole: Counter, column: int, site: Any, clock: Any) -> None:
        whole[key := f"{site.name}/{site.grain}"] += clock.share
        steps = self.trace.get(key) or self.trace.setdefault(key, {})
        (steps.get(clock.step) or steps.setdefault(clock.step, [0.0, 0.0]))[column] += clock.share

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
            "computed": dict(self.computed_at), "parts": self._parts(), "trace": self._drawn(),
            "skipped": round(self.skipped(), 4), "seconds": round(self.seconds, 4),
            "peak_bytes": memory, "facts": self.facts, "torch": torch.__version__,
            "python": sys.version.split()[0], "machine": platform.machine(), "threads": torch.get_num_threads(),
        }  # fmt: skip

    def _parts(self) -> dict[str, dict[str, float]]:
        return {name: {"asked": n, "left": self.left_by[name]} for name, n in self.asked_of.items()}

    def _drawn(self) -> dict[str, str]:
        """Site -> a sign for each step: # computed, . left out, 1 to 9 tenths of it, a blank where nobody asked."""

        def sign(asked: float, computed: float) -> str:
            tenths = round(10 * computed / asked) if asked else -1
            return " " if tenths < 0 else "#" if tenths >= 10 else str(tenths) if tenths else "."

        return {site: "".join(sign(*steps.get(k, (0.0, 0.0))) for k in range(max(steps) + 1))
                for site, steps in self.trace.items()}  # fmt: skip

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
