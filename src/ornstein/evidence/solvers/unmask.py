"""Evidence for unmasking: exact denoisers of small sets of sequences, by chance against by confidence."""

from __future__ import annotations

from ornstein.evidence import Evidence, Row, verdict

from ._tokens import METRIC, distances, floor

CLAIM = (
    "With exact denoisers ancestral unmasking comes nearer to the data's law at 8, 16 and 64 calls than unmasking by confidence, "
    "without noise and with a spread of 2, and at 128 calls within twice the distance of fresh data."
)
RIVALS = {"by confidence": "unmask:choose=confidence", "by confidence, spread 2": "unmask:choose=confidence,spread=2"}


def run(quick: bool = True) -> Evidence:
    """Three sets of twelve sequences of ten tokens; 1000 samples of each; at length five, 4000."""
    (seeds, n), calls = (3, 1000) if quick else (5, 4000), (8, 16, 64)
    mine = [Row("by chance", "method", METRIC, distances("unmask", c, seeds, n), f"{c} NFE") for c in (*calls, 128)]
    others = {name: [Row(name, "equal-cost", METRIC, distances(spec, c, seeds, n), f"{c} NFE") for c in calls]
              for name, spec in RIVALS.items()}  # fmt: skip
    one = Row("independent tokens, all at once", "natural", METRIC, distances("unmask", 1, seeds, n), "1 NFE")
    fresh = Row("fresh data", "floor", METRIC, floor(seeds, n))
    won = [all(all(a < b for a, b in zip(m.values, o.values)) for m, o in zip(mine, rows)) for rows in others.values()]
    near = mine[-1].mean < 2 * fresh.mean
    rows = [*mine, *(r for some in others.values() for r in some), one, fresh]
    return Evidence(CLAIM, rows, verdict(all(won) and near, won[0] and near), "Each row has one value for each set.")
