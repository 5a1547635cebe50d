"""Evidence for S3: found schedules against the grids at hand, random search and evolution without a predictor."""

from __future__ import annotations

import torch

from ornstein.core import catalog
from ornstein.evidence import Evidence, Row, verdict

from ..solvers._ground import below
from . import _ground as g

CLAIM = ("A schedule that S3 found ends nearer the solution, on starts that were not searched on, than DDIM and DPM-Solver++(2M) "
         "on the uniform, Karras and log-SNR grids with as many calls, on the mixture (6 calls, five searches) and on the digits "
         "(5 calls, three seeds); and on the mixture than what random search, and what evolution without the predictor, find in "
         "as many evaluations, by two standard errors.")  # fmt: skip
TRIAL = "s3:pool=12,proposals=40"  # what the contract builds, with a budget and a seed
WAYS = {"s3": {}, "s3 without its predictor": {"proposals": 10}, "random search": {"pool": 10**6}}
KINDS = dict(zip(WAYS, ("method", "equal-cost", "equal-cost")))
ROWS = ((0, 1, 0, 0, 0), (0, 1, 0, 1, 1))  # DPM-Solver++(2M), and with exact integrals and a corrector


def starts(where: str) -> list[dict]:
    """DPM-Solver++(2M) on the uniform grid first."""
    return [{"times": g.times(rule, where), "decisions": torch.tensor([row] * (len(g.times(rule, where)) - 1))}
            for rule in g.GRIDS for row in ROWS]  # fmt: skip


def search(where: str, way: str, seed: int, budget: int) -> dict:
    part = catalog.build("search", {"name": "s3", "budget": budget, "seed": seed} | WAYS[way])
    first, *others = starts(where)
    return dict(part.run(g.mixture if where == "mixture" else g.drawn, first, others=others).arrays)


def run(quick: bool = True) -> Evidence:
    """Searches on the mixture with five seeds, on the digits with one; every figure is of starts not searched on."""
    budget, few = (80, 25) if quick else (400, 200)
    base, cost = g.fixed(), "{} NFE, {} evaluations to search"
    rows = [Row(f"{way}, mixture", KINDS[way], g.MIXTURE,
                [g.mixture(search("mixture", way, seed, budget), held=True) for seed in range(5)], cost.format(g.STEPS, budget))
            for way in WAYS]  # fmt: skip
    rows.append(Row("s3, digits", "method", g.DIGITS, g.judged(search("digits", "s3", 0, few)), cost.format(g.FEW, few)))
    pairs = (("mixture", rows[0]), ("digits", rows[-1]))
    grids = [v < (r.values * 5)[k] for where, mine in pairs for r in base[where] for k, v in enumerate(mine.values)]
    searches = [a < b for other in rows[1:3] for a, b in zip(rows[0].values, other.values)]
    clear = all(below([rows[0]] * 2, rows[1:3]))
    note = (f"Better than the grids in {sum(grids)} of {len(grids)}, than evolution without the predictor in {sum(searches[:5])} "
            f"of 5 searches and than random search in {sum(searches[5:])} of 5.")  # fmt: skip
    return Evidence(CLAIM, rows + base["mixture"] + base["digits"], verdict(all(grids) and clear, all(grids)), note)
