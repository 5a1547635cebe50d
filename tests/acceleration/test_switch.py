"""What the contract leaves unsaid of switching: the table, the search, and what it finds on a trajectory."""

from __future__ import annotations

import pytest
import torch
from small import denoiser

from ornstein.acceleration.skip import Skip
from ornstein.acceleration.switch import Switch, Watch, _astray, _greedy, assemble
from ornstein.core import catalog
from ornstein.core.artefact import Artefact
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.seam import Run, attach

STEPS, COND = 6, {"label": torch.arange(3)}
START = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(2))


def draw(part=None, solver="ddim", steps=STEPS, run=None):
    detach = attach(denoiser().backbone, part) if part else (lambda: None)
    try:
        return sample(denoiser(), START, catalog.build("solvers", solver), steps, cond=COND, run=run or Run())
    finally:
        detach()


def found(share=0.75, subnets=((1,), (1, 2)), solver="ddim", **more):
    return assemble(denoiser(), START, catalog.build("solvers", solver), STEPS, subnets, share, COND, **more)


def test_it_is_skipping_by_a_table():
    table, subnets = (0, 2, 1, 0, 1, 2), ((), (1,), (0, 3))
    mine, run = draw(Switch(subnets, table), run=(run := Run())), run
    assert torch.equal(mine, draw(Skip(tuple(subnets[s] for s in table)))) and not torch.equal(mine, draw())
    facts = run.record.facts["switch"]["cond"]
    assert (facts["blocks"], facts["blocks_skipped"]) == (3 * STEPS, 6)  # of the blocks that some step lacks


@pytest.mark.parametrize("solver", ["ddim", "heun"])
def test_what_is_found_costs_what_was_asked(solver):
    whole, kept = draw(solver=solver), found(solver=solver)
    mine = Switch(found=kept)
    gone = sum(len(mine.subnets[s]) for s in mine.table)
    assert gone in (6, 7) and mine.subnets == ((), (1,), (1, 2))  # a quarter of 24 blocks; the last change may save two
    away = draw(mine, solver)
    assert float((away - whole).norm() / whole.norm()) == pytest.approx(kept.settings["error"], rel=1e-4)
    assert kept.made_for["model"] and kept.settings["steps"] == STEPS


def test_a_step_alone_goes_astray_as_measured():
    """Of the last step the way astray is the error at the end; of the others nearly, on a field that changes slowly."""
    whole, watch, subnets = draw(), Watch(denoiser()), [(), (1,), (1, 2)]
    sample(watch, START, catalog.build("solvers", "ddim"), STEPS, cond=COND)
    told = _astray(denoiser(), watch.seen, subnets, STEPS)
    assert told.shape == (STEPS, 3) and (told[:, 0] == 0).all() and (told[:, 2] > told[:, 1]).all()
    for k in range(STEPS):
        for s in (1, 2):
            end = float((draw(Switch(tuple(subnets), tuple(s * (j == k) for j in range(STEPS)))) - whole).norm())
            assert told[k, s].item() == pytest.approx(end, rel=1e-4 if k == STEPS - 1 else 0.1)


def test_exchanges_never_make_it_worse_and_keep_the_cost():
    plain, more = found(), found(exchanges=20)
    assert more.settings["error"] <= plain.settings["error"]
    assert sorted(more.arrays["table"].tolist()) == sorted(plain.arrays["table"].tolist())
    assert torch.equal(found(exchanges=20).arrays["table"], more.arrays["table"]), "deterministic"


def test_greedy_takes_the_cheapest_change_first():
    error = torch.tensor([[0.0, 1.0, 5.0], [0.0, 2.0, 2.5], [0.0, 9.0, 9.5]])
    saves = [0, 1, 2]
    assert _greedy(error, saves, 0) == [0, 0, 0]
    assert _greedy(error, saves, 1) == [1, 0, 0]
    assert _greedy(error, saves, 3) == [1, 2, 0]  # 2.5 / 2 beats 2 / 1
    assert _greedy(error, saves, 4) == [2, 2, 0]  # 4 / 1 more for the first beats 9.5 / 2
    assert _greedy(error, saves, 6) == [2, 2, 2]
    assert _greedy(torch.tensor([[0.0, 1.0, 3.0], [0.0, 1.5, 9.0]]), saves, 2) == [1, 1]  # 1.5 for a block, not 3 - 1


def test_it_is_saved_with_its_model(tmp_path):
    kept = found()
    again = Artefact.load(kept.save(tmp_path / "switch.safetensors"), "switch")
    part = Switch(found=tmp_path / "switch.safetensors")
    assert part.table == Switch(found=kept).table and again.check(denoiser()) and again.settings["share"] == 0.75
    assert torch.equal(draw(part), draw(Switch(found=kept)))


def test_what_does_not_fit_is_refused():
    with pytest.raises(OrnsteinError, match="of 2 sub-networks"):
        Switch(((), (1,)), (0, 2))
    with pytest.raises(OrnsteinError, match="leaves out block 7 of a network of 4 blocks"):
        draw(Switch(((), (7,)), (0, 1) * 3))
    with pytest.raises(OrnsteinError, match="a table of 6 steps, and this run has 4"):
        draw(Switch(((), (1,)), (0, 1) * 3), steps=4)
    with pytest.raises(OrnsteinError, match="cannot be had with these 1 sub-networks"):
        found(share=0.5, subnets=((1,),))
