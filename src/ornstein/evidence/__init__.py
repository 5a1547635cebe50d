"""Evidence: for each method its claim, tried against its natural and its equal-cost baseline.

`evidence/<room>/<name>.py` has one function `run(quick: bool) -> Evidence`, under 5 s when quick on two cores. Rows hold
measured values, one per seed. The verdict is computed from the rows, never written down by hand; the card of the method
records the verdict that was reached, and `ornstein check` fails when the two differ.
"""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError

__all__ = ["Evidence", "Row", "card", "check", "verdict"]

VERDICTS = ("holds", "partly", "fails")


@dataclass(frozen=True)
class Row:
    """One measured line. `kind`: 'method', 'natural' (what it replaces), 'equal-cost', 'reference' or 'floor'."""

    name: str
    kind: str
    metric: str  # with its unit, and whether lower or higher is better: "latent MSE to 200 steps (lower)"
    values: Sequence[float]  # one per seed
    cost: str = ""  # "10 NFE", "0.41 s"

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; 0 for one value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0


@dataclass(frozen=True)
class Evidence:
    """The claim in one sentence, the measured rows, the verdict computed from them, and what explains it."""

    claim: str
    rows: Sequence[Row]
    verdict: str
    note: str = ""
    pictures: Sequence[str] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise OrnsteinError(f"verdict '{self.verdict}' is none of {', '.join(VERDICTS)}")
        kinds = {r.kind for r in self.rows}
        if "method" not in kinds or not kinds & {"natural", "equal-cost", "reference"}:
            raise OrnsteinError("evidence without a baseline", "Give a row of kind 'natural' and one of 'equal-cost'.")


def verdict(holds: bool, partly: bool = False) -> str:
    """'holds', else 'partly' where only a weaker form of the claim is true, else 'fails'."""
    return "holds" if holds else "partly" if partly else "fails"


def card(path: str) -> dict[str, str]:
    """The header of docs/methods/<path>.md (`key: value` lines between two lines of ---) as a dict, `body` included."""
    file = _docs() / f"{path}.md"
    if not file.is_file():
        raise OrnsteinError(f"{path} has no card", f"Write docs/methods/{path}.md.")
    _, head, body = file.read_text(encoding="utf-8").split("---\n", 2)
    pairs = (line.split(":", 1) for line in head.splitlines() if ":" in line)
    return {k.strip(): v.strip() for k, v in pairs} | {"body": body.strip()}


def _docs() -> Path:
    for base in (catalog.ROOT.parent.parent / "docs" / "methods", catalog.ROOT / "docs" / "methods"):
        if base.is_dir():
            return base
    raise OrnsteinError("the method cards are not installed", "Run from a source checkout.")


def check(path: str, quick: bool = True) -> tuple[Evidence, str]:
    """Run the evidence of `path` ('solvers/ddim'); hand it back with the verdict that its card records."""
    module = importlib.import_module("ornstein.evidence." + path.replace("/", "."))
    return module.run(quick=quick), card(path).get("verdict", "")
