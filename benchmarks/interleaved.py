"""Timing that a busy machine spoils least: the contestants take turns, and their ratio is taken within each turn."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table


def measure(
    contestants: Mapping[str, Callable[[], Any]],
    repeats: int = 15,
    warm: int = 2,
    clock: Callable[[], float] | None = None,
) -> dict[str, list[float]]:
    """Seconds of each call, by name: every turn runs all contestants, in an order that turns with the turns.

    On one thread of a CPU the clock is this process's own time, which a busy machine does not stretch.
    """
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    clock = clock or (time.process_time if alone else time.perf_counter)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for turn in range(-warm, repeats):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            began = clock()
            contestants[name]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= 0:
                seconds[name].append(clock() - began)
    return seconds


def ratio(seconds: Mapping[str, list[float]], name: str, to: str) -> float:
    """The median over the turns of how much longer `name` took than `to`."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[to]))


def report(
    title: str, seconds: Mapping[str, list[float]], to: str, bounds: Mapping[str, float], **facts: Any
) -> dict[str, Any]:
    """A table for people and a line of JSON for programs; hands back what the JSON holds."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for column in ("", "median ms", "fastest ms", f"ratio to {to}", "bound", ""):
        table.add_column(column, justify="right" if "m" in column or "r" in column else "left")
    rows = {}
    for name, values in seconds.items():
        r, bound = ratio(seconds, name, to), bounds.get(name)
        kept = bound is None or r <= bound
        rows[name] = {
            "median_ms": statistics.median(values) * 1e3,
            "fastest_ms": min(values) * 1e3,
            "ratio": r,
            "bound": bound,
        }
        figures = f"{rows[name]['median_ms']:.3f}", f"{rows[name]['fastest_ms']:.3f}", f"{r:.3f}"
        table.add_row(
            name,
            *figures,
            "" if bound is None else f"{bound:.2f}",
            "" if bound is None else "kept" if kept else "BROKEN",
        )
    Console().print(table)
    machine = {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__,
               "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"}  # fmt: skip
    result = {"benchmark": title, "rows": rows, "repeats": len(next(iter(seconds.values()))), **machine, **facts}
    print(json.dumps(result))
    return result


def digits_model() -> Any:
    """The shipped model of the digits; where it is not there, the same network without training."""
    import ornstein
    from ornstein.model import create, known
    from ornstein.recipes.train_digits import BACKBONES

    if "digits" in known():
        return ornstein.load("digits")
    torch.manual_seed(0)
    config = {"backbone": BACKBONES["dit"], "process": {"name": "flow"}, "predicts": "velocity", "shape": [1, 8, 8]}
    model = create({**config, "encoder": {"name": "classes", "classes": 10}}, "digits, untrained")
    for p in model.backbone.parameters():
        torch.nn.init.normal_(p, std=0.02)
    model.backbone.eval().requires_grad_(False)
    return model


def written(path: Path | None, results: list[dict[str, Any]]) -> None:
    """Also into a file, where one was asked for."""
    if path is not None:
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
