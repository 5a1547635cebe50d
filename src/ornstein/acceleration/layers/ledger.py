"""What a cache says of itself in the record of the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ornstein.acceleration.layers.store import Packed
from ornstein.core.clock import Clock
from ornstein.core.seam import Call

__all__ = ["held", "note"]


def held(tree: Any, away: bool = False) -> int:
    """Bytes of all tensors in a nest of dicts, lists and tuples, without those that were put away to another device; with
    `away`, of these alone."""
    if isinstance(tree, Packed):
        there = tree.value.device != tree.device
        return held([tree.value, tree.scale]) if there == away else 0
    if isinstance(tree, Tensor):
        return 0 if away else tree.numel() * tree.element_size()
    if isinstance(tree, Mapping):
        return sum(held(v, away) for v in tree.values())
    return sum(held(v, away) for v in tree) if isinstance(tree, (list, tuple)) else 0


def note(run: Call, clock: Clock, name: str, memory: Any, counts: Mapping[str, int]) -> None:
    """Add counts to the facts of the branch; `cache_bytes` is the most that its memory was seen to hold,
    `host_bytes` what of it lies away from the network's device, if anything does."""
    facts = run.run.record.facts.setdefault(name, {}).setdefault(str(clock.branch), {"cache_bytes": 0})
    facts["cache_bytes"] = max(facts["cache_bytes"], held(memory))
    if host := held(memory, away=True):
        facts["host_bytes"] = max(facts.get("host_bytes", 0), host)
    for key, value in counts.items():
        facts[key] = facts.get(key, 0) + value
