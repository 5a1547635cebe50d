"""What a cache says of itself in the record of the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ornstein.core.clock import Clock
from ornstein.core.seam import Call

__all__ = ["held", "note"]


def held(tree: Any) -> int:
    """Bytes of all tensors in a nest of dicts, lists and tuples."""
    if isinstance(tree, Tensor):
        return tree.numel() * tree.element_size()
    if isinstance(tree, Mapping):
        return sum(held(v) for v in tree.values())
    return sum(held(v) for v in tree) if isinstance(tree, (list, tuple)) else 0


def note(run: Call, clock: Clock, name: str, memory: Any, counts: Mapping[str, int]) -> None:
    """Add counts to the facts of the branch; `cache_bytes` is the most that its memory was seen to hold."""
    facts = run.run.record.facts.setdefault(name, {}).setdefault(str(clock.branch), {"cache_bytes": 0})
    facts["cache_bytes"] = max(facts["cache_bytes"], held(memory))
    for key, value in counts.items():
        facts[key] = facts.get(key, 0) + value
