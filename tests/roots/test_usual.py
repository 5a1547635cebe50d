"""The default solver: a winner of the committed table, and the user's word before it."""

import csv
import math
from pathlib import Path

import pytest

from ornstein import load
from ornstein.core import catalog
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.usual import GUIDED, PLAIN, usual

TABLE = Path(__file__).parents[2] / "docs" / "benchmarks" / "solvers.csv"


@pytest.mark.parametrize("process", PLAIN)
@pytest.mark.parametrize("nfe", [4, 6, 8, 30, 50])
def test_the_default_is_near_the_best_of_one_call_a_step(process, nfe):
    """Within half again of the best single choice, by the geometric mean over both exact denoisers."""
    with TABLE.open(encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if r["process"] == process and int(r["nfe"]) == nfe]
    rows = [r for r in rows if not r["solver"].startswith("diffusers")
            and not r["solver"].startswith(("rk4", "rhork", "heun", "edm_heun", "dpmpp2s", "dpmsolver", "adaptive"))]  # fmt: skip
    scores: dict = {}
    for kind in ("mixture", "digits"):
        least = min(float(r["error"]) for r in rows if r["kind"] == kind)
        for r in rows:
            if r["kind"] == kind:
                scores.setdefault((r["solver"], r["grid"]), []).append(math.log(float(r["error"]) / least))
    mean = {k: sum(v) / 2 for k, v in scores.items() if len(v) == 2}
    made = {"flow": Flow(), "vp": VP(), "edm": EDM()}[process]
    assert mean[usual(made, nfe, False)] <= min(mean.values()) + math.log(1.5)


def test_every_default_can_be_built():
    for solver in (GUIDED, *(s for bands in PLAIN.values() for _, s in bands)):
        assert catalog.build("solvers", solver).order


def test_what_the_user_says_comes_first():
    model = load("digits")
    assert (model.plan().solver, model.plan().grid) == ("deis", "beta")
    assert model.plan(steps=4).solver == "deis:points=2" and model.plan(guidance=("cfg:scale=2",)).solver == GUIDED
    assert (model.plan(solver="ddim").solver, model.plan(solver="ddim").grid) == ("ddim", "uniform")
    assert (model.plan(grid="karras").solver, model.plan(grid="karras").grid) == ("deis", "karras")
    assert model.generate(["3"], solver="ddim", steps=2).plan.grid == "uniform"
    drawn = model.generate(["3"], steps=6)
    assert drawn.plan.solver == drawn.record.facts["solver"] == "deis:points=3" and drawn.record.facts["grid"] == "beta"
