"""Evidence for AutoDiffusion: found times against the grids at hand and random search; and whether skipping blocks pays."""

from __future__ import annotations

import torch

from ornstein.core import catalog
from ornstein.evidence import Evidence, Row, verdict

from ..solvers._ground import below
from . import _ground as g

CLAIM = ("On times found by evolution DPM-Solver++(2M) ends nearer the solution, for starts that were not searched on, than on the "
         "uniform, Karras and log-SNR grids with as many calls, on a mixture (6 calls, five searches) and the digits (5 calls, "
         "three seeds), and on the mixture than on what random search finds in as many evaluations, by two standard errors; and on "
         "the digits a joint search of times and blocks at the same cost skips some and is better still.")  # fmt: skip
TRIAL = "autodiffusion:population=10,top=3"  # what the contract builds, with a budget and a seed


def search(where: str, seed: int, budget: int, chance: bool = False, joint: bool = False) -> dict:
    """chance: one generation only, half near the start and half anywhere; joint: blocks too."""
    settings = {"name": "autodiffusion", "budget": budget, "seed": seed, "population": budget if chance else 20, "patience": 2}
    start = {"times": g.times("uniform", where)} | ({"blocks": torch.zeros(g.FEW, 6)} if joint else {})
    return dict(catalog.build("search", settings).run(g.mixture if where == "mixture" else g.drawn, start).arrays)


def run(quick: bool = True) -> Evidence:
    """Searches on the mixture with five seeds, on the digits with one; every figure is of starts not searched on."""
    budget, few = (80, 40) if quick else (400, 200)
    base, cost = g.fixed(("dpmpp2m",)), "{} NFE, {} evaluations to search"
    mine, chance = ([g.mixture(search("mixture", seed, budget, c), held=True) for seed in range(5)] for c in (False, True))
    times, joint = (search("digits", 0, few, joint=j) for j in (False, True))
    rows = [Row("times, mixture", "method", g.MIXTURE, mine, cost.format(g.STEPS, budget)),
            Row("times, digits", "method", g.DIGITS, g.judged(times), cost.format(g.FEW, few)),
            Row("times and blocks, digits", "method", g.DIGITS, g.judged(joint), f"{g.FEW * 6} blocks, {few} evaluations"),
            Row("random search, mixture", "equal-cost", g.MIXTURE, chance, cost.format(g.STEPS, budget))]  # fmt: skip
    grids = [v < (r.values * 5)[k] for where, m in zip(base, rows) for r in base[where] for k, v in enumerate(m.values)]
    beaten = [a < b for a, b in zip(mine, chance)]
    skipped = int(joint["blocks"].sum())
    pays = skipped > 0 and all(a < b for a, b in zip(rows[2].values, rows[1].values))
    note = (f"Better than the grids in {sum(grids)} of {len(grids)}, than random search in {sum(beaten)} of {len(beaten)}. The "
            f"joint search skips {skipped} blocks of {joint['blocks'].numel()} over {len(joint['blocks'])} steps.")  # fmt: skip
    return Evidence(CLAIM, rows + base["mixture"] + base["digits"],
                    verdict(all(grids) and below([rows[0]], [rows[3]])[0] and pays, all(grids)), note)  # fmt: skip
