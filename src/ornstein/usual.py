"""What `generate` takes where nobody chose: the solver and the grid that were nearest the truth at that many network calls.

From `ornstein bench solvers` (docs/benchmarks/solvers.md): among the solvers of one call a step, the least error over the
mixture and the closed form of the digits. Under guidance, where many past answers mislead, from trials on the emoji model
(docs/benchmarks/guided.md).
"""

from __future__ import annotations

from typing import Any

__all__ = ["GUIDED", "PLAIN", "usual"]

# process -> (up to so many steps, solver), in order; the last holds for all above
PLAIN = {
    "flow": ((4, "deis:points=2"), (8, "deis:points=3"), (0, "deis")),
    "vp": ((5, "pndm:terms=2"), (0, "pndm")),
    "edm": ((5, "pndm:terms=2"), (0, "pndm")),
}
GUIDED = "deis:points=2"
GRID = "beta"
DISCRETE = "unmask", "uniform"


def usual(process: Any, steps: int, guided: bool) -> tuple[str, str]:
    """(solver, grid) for this many steps. process: the model's; guided: whether a guidance bends the answers."""
    if getattr(process, "discrete", False):
        return DISCRETE
    if guided:
        return GUIDED, GRID
    bands = PLAIN.get(type(process).__name__.lower(), PLAIN["flow"])
    return next(solver for most, solver in bands if not most or steps <= most), GRID
