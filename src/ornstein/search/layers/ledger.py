"""The account of a search: every schedule is scored once, what fails never wins, and a saved account can be replayed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ornstein.core.artefact import Artefact
from ornstein.core.errors import OrnsteinError

__all__ = ["Candidate", "Ledger", "mark"]

Candidate = dict[str, Tensor]  # times, float64 [steps + 1]; decisions, int64 [steps, K]; blocks, bool [steps, L]: skipped


def mark(candidate: Candidate) -> str:
    """16 hex digits that stand for a schedule."""
    digest = hashlib.sha256()
    for name, value in sorted(candidate.items()):
        digest.update(f"{name}{tuple(value.shape)}".encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(eq=False)
class Ledger:
    """`evaluate(candidate)`: lower is better. `known`: scores of an earlier run, taken instead of asking, in order."""

    evaluate: Callable[[Candidate], float]
    budget: int  # different schedules that may be scored, the start included
    known: Sequence[float] = ()
    progress: Callable[[int, int, float], None] | None = None
    scored: list[tuple[float, Candidate]] = field(default_factory=list)  # as asked; inf for what failed
    seen: dict[str, float] = field(default_factory=dict)

    @classmethod
    def open(cls, part: Any, evaluate: Callable, start: Candidate, progress: Any, resume: Artefact | None) -> Ledger:
        """The account of a part's run. resume: an artefact of the same part, settings and start, of any budget."""
        if part.budget < 1:
            raise OrnsteinError(f"budget={part.budget} scores nothing", "Allow at least 1 evaluation.")
        known: Sequence[float] = ()
        if resume is not None:
            mine, theirs = about(part, start), resume.settings
            other = next((k for k in mine if theirs.get(k) != mine[k]), None)
            if other is not None:
                raise OrnsteinError(f"the search to go on from had {other}={theirs.get(other)}, this one {mine[other]}",
                                    "Only the budget may differ.")  # fmt: skip
            known = resume.arrays["scores"].tolist()
        return cls(evaluate, part.budget, known, progress)

    @property
    def spent(self) -> bool:
        return len(self.scored) >= self.budget

    def ask(self, candidate: Candidate) -> bool:
        """Score a schedule; False where it is known already or the budget is spent."""
        key = mark(candidate)
        if self.spent or key in self.seen:
            return False
        done = len(self.scored)
        score = self.known[done] if done < len(self.known) else float(self.evaluate(candidate))
        self.seen[key] = score = score if math.isfinite(score) else math.inf
        self.scored.append((score, candidate))
        if self.progress is not None:
            self.progress(done + 1, self.budget, self.best(1)[0][0])
        return True

    def fresh(self, draw: Callable[[], Candidate], tries: int = 50) -> Candidate | None:
        """A schedule that was not scored yet, or None where `draw` gives no new one."""
        return next((c for c in (draw() for _ in range(tries)) if mark(c) not in self.seen), None)

    def best(self, count: int) -> list[tuple[float, Candidate]]:
        """The best so far, best first; of equals the one asked first."""
        return sorted(self.scored, key=lambda item: item[0])[:count]

    def found(self, part: Any, made_for: Mapping[str, str] | None) -> Artefact:
        """The best schedule as an Artefact, with all scores in order."""
        score, best = self.best(1)[0]
        if not math.isfinite(score):
            what = f"none of {len(self.scored)} schedules has a score that is a finite number"
            raise OrnsteinError(what, "Look at evaluate(start).")
        first = self.scored[0]
        settings = about(part, first[1]) | {"budget": part.budget, "evaluations": len(self.scored), "score": score,
                                            "score_of_start": first[0] if math.isfinite(first[0]) else None}  # fmt: skip
        scores = torch.tensor([s for s, _ in self.scored], dtype=torch.float64)
        return Artefact("schedule", {**best, "scores": scores}, settings, dict(made_for or {}))


def about(part: Any, start: Candidate) -> dict[str, Any]:
    """What must be the same for a search to be gone on with."""
    settings = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(part).items() if k != "budget"}
    return {"search": type(part).__name__, "start": mark(start)} | settings
