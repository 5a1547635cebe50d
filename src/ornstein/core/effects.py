"""What a part declares so that plans can be checked and put in order: conflicts are named, nothing is silently ignored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .errors import OrnsteinError

__all__ = ["Effects", "order"]


@dataclass(frozen=True)
class Effects:
    """Resources by name: 'evaluation' (whether a site is computed), 'attention', 'tokens', 'weights', 'schedule',
    'prediction', 'trajectory', ... reads: must be final before this part; replaces: this part alone decides it;
    invalidates: what was measured of it before is void afterwards."""

    reads: frozenset = field(default_factory=frozenset)
    replaces: frozenset = field(default_factory=frozenset)
    invalidates: frozenset = field(default_factory=frozenset)

    @classmethod
    def of(cls, reads: str = "", replaces: str = "", invalidates: str = "") -> Effects:
        """Effects.of(replaces='evaluation attention'): names separated by blanks."""
        return cls(*(frozenset(w.split()) for w in (reads, replaces, invalidates)))


def order(parts: Sequence[Any]) -> list[Any]:
    """The parts in the order in which they must be applied: who replaces or invalidates comes before who reads.

    Two parts that replace one resource, or a circle of needs, raise OrnsteinError with both names.
    """
    for i, one in enumerate(parts):
        for other in parts[i + 1 :]:
            both = one.effects.replaces & other.effects.replaces
            if both:
                raise conflict(one, other, ", ".join(sorted(both)))
    left, done = list(parts), []
    while left:
        free = [i for i, p in enumerate(left) if not any(
            q is not p and (q.effects.replaces | q.effects.invalidates) & p.effects.reads for q in left)]  # fmt: skip
        if not free:
            names = ", ".join(type(p).__name__ for p in left)
            raise OrnsteinError(f"{names} each need the others to come first", "Use one of them.")
        done.append(left.pop(free[0]))
    return done


def conflict(one: Any, other: Any, what: str) -> OrnsteinError:
    """The error for two owners of one thing."""
    return OrnsteinError(f"{type(one).__name__} and {type(other).__name__} would both decide {what}", "Use one of them.")
