"""Recording of trajectories, also of chosen particles and steps taken back, and the error along them."""

from dataclasses import replace

import pytest
import torch

from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, sample
from ornstein.core.seam import Run
from ornstein.metrics.layers.recorder import Recorder
from ornstein.metrics.trajectory import TrajectoryError, by_step
from ornstein.processes.flow import Flow
from ornstein.solvers.euler import Euler
from ornstein.solvers.heun import Heun
from ornstein.testbeds import Mixture

BED = Mixture.random(Flow(), 3, 3, 0.5)


def drawn(*controllers, solver=None, n=4, **more):
    run = Run()
    x = sample(BED, (n, 3), solver or Euler(), 6, run=run, controllers=controllers, dtype=torch.float64, **more)
    return x, run


@pytest.mark.parametrize("solver", [Euler(), Heun()])
def test_what_is_recorded(solver):
    seen, states = [], []

    class Watch(Controller):
        def after(self, before, now):
            seen.append(now.said.x0)
            states.append(now.x)
            return now

    x, run = drawn(Watch(), Recorder("x0"), Recorder("x"), solver=solver)
    assert torch.equal(Recorder("x0").read(run), torch.stack(seen, 1))
    assert torch.equal(Recorder("x").read(run), torch.stack(states, 1)) and torch.equal(states[-1], x)
    assert torch.equal(drawn(solver=solver)[0], x), "watching changes nothing"


def test_chosen_rows_take_their_past_along_and_rewinds_forget():
    class Pick(Controller):
        def after(self, before, now):
            return now.take(torch.tensor([2, 2, 0, 1])) if now.step == 3 else now

    plain = Recorder("x").read(drawn(Recorder("x"))[1])
    for order in ((Pick(), Recorder("x")), (Recorder("x"), Pick())):
        picked = Recorder("x").read(drawn(*order)[1])
        assert torch.equal(picked, plain[[2, 2, 0, 1]])

    class Back(Controller):
        done = False

        def after(self, before, now):
            if now.step == 3 and not self.done:
                self.done = True
                return before
            return now

    for order in ((Back(), Recorder("x")), (Recorder("x"), Back())):
        assert torch.equal(Recorder("x").read(drawn(*order)[1]), plain)


def test_a_run_that_is_gone_on_with():
    kept = []

    class Keep(Controller):
        def after(self, before, now):
            kept.append(now)
            return now

    _, run = drawn(Recorder("x"), Keep())
    rest = Run()
    sample(BED, (4, 3), Euler(), 6, run=rest, start=replace(kept[2]), controllers=(Recorder("x"),))
    assert torch.equal(Recorder("x").read(rest), Recorder("x").read(run))


def test_the_error_by_hand():
    r = torch.tensor([[[3.0, 4.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, 0.0]]])
    g = torch.tensor([[[3.0, 4.0], [0.0, 1.0]], [[1.0, 2.0], [0.0, 0.0]]])
    assert by_step(g, r).tolist() == [[0.0, 0.5], [2.0, 0.0]]
    found = TrajectoryError()(g, r)
    assert found.value == pytest.approx(0.625) and found.n == 2 and found.better == "lower"
    with pytest.raises(OrnsteinError, match="needs a length"):
        TrajectoryError()(g + 1, r)
    r[1, 1], g[1, 1] = torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])
    steps = TrajectoryError().per_step(g, r, g + 1)
    assert [m.value for m in steps] == [1.0, 0.25] and [m.name for m in steps] == ["trajectory-error@0", "trajectory-error@1"]
    assert steps[0].floor is not None


def test_errors():
    with pytest.raises(OrnsteinError, match=r"Give \[N, T"):
        TrajectoryError()(torch.ones(3, 2), torch.ones(3, 2))
    with pytest.raises(OrnsteinError, match="needs a length"):
        TrajectoryError()(torch.ones(2, 2, 2), torch.zeros(2, 2, 2))
    with pytest.raises(OrnsteinError, match="unknown kind of record 'X'"):
        Recorder("X")
    with pytest.raises(OrnsteinError, match="has no record of 'x0'"):
        Recorder().read(Run())
