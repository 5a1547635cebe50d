"""W2SD: the reflection against its equations, what it costs, and where it moves the law."""

import pytest
import torch

from ornstein.core.clock import Clock
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, sample
from ornstein.core.seam import Run
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.solvers.ddim import DDIM
from ornstein.solvers.dpmpp2m import DPMpp2M
from ornstein.steering.w2sd import W2SD, invert
from ornstein.testbeds import Mixture

DOUBLE = torch.float64


def two(minor, process=None):
    """One dimension, modes at -1 and 1, the second of share `minor`."""
    return Mixture(torch.tensor([[-1.0], [1.0]]), torch.tensor(0.25), process or Flow(), torch.tensor([1 - minor, minor]))


def by_hand(strong, weak, x, times, faithful=False, low=0.0, high=1.0, every=1):
    step = lambda d, x, t, s: strong.process.at(s, x).a * d.x0 + strong.process.at(s, x).s * d.noise  # noqa: E731
    for k, (t, s) in enumerate(zip(times[:-1], times[1:])):
        if s > 0 and low < strong.process.at(t, x).flow_time <= high and k % every == 0:
            below = step(strong(x, t), x, t, s)
            said = weak(below, t if faithful else s)
            now, to = strong.process.at(s, x), strong.process.at(t, x)
            x = to.a * (below - now.s * said.noise) / now.a + to.s * said.noise
        x = step(strong(x, t), x, t, s)
    return x


@pytest.mark.parametrize("faithful", [False, True])
@pytest.mark.parametrize("process", [Flow(), VP(), EDM()], ids=lambda p: type(p).__name__)
def test_it_is_the_published_zigzag(process, faithful):
    strong, weak = two(0.3, process), two(0.1, process)
    times = [0.9, 0.6, 0.4, 0.1, 0.0]
    x = torch.randn(5, 1, dtype=DOUBLE)
    for part in ({}, {"interval": (0.2, 0.5)}, {"every": 2}):
        low, high = part.get("interval", (0.0, 1.0))
        want = by_hand(strong, weak, x, times, faithful, low, high, part.get("every", 1))
        got = sample(strong, x, DDIM(), rule=times, controllers=[W2SD(weak, faithful=faithful, **part)])
        assert torch.allclose(got, want, atol=1e-9)


def test_three_calls_a_step_on_branches_of_their_own():
    asked, strong, weak = [], two(0.3), two(0.1)

    class Spy:
        process = strong.process

        def __init__(self, denoiser):
            self.denoiser = denoiser

        def __call__(self, x, t, cond=None, clock=None):
            asked.append((clock.branch, float(t), clock.ids))
            return self.denoiser(x, t, cond, clock)

    run = Run()
    sample(Spy(strong), (2, 1), DDIM(), 4, controllers=[W2SD(Spy(weak))], run=run)
    assert [b for b, *_ in asked] == ["cond", "weak", "cond"] * 3 + ["cond"]
    assert [t for b, t, _ in asked if b == "weak"] == [0.75, 0.5, 0.25] and {i for *_, i in asked} == {(0, 1)}
    assert run.record.facts["w2sd"]["reflected"] == 3


@pytest.mark.parametrize("solver", [DDIM(), DPMpp2M()], ids=["ddim", "dpmpp2m"])
def test_a_sample_does_not_depend_on_its_neighbours(solver):
    kw = dict(controllers=[W2SD(two(0.1))], dtype=DOUBLE)
    together, alone = sample(two(0.3), (4, 1), solver, 6, **kw), sample(two(0.3), (1, 1), solver, 6, ids=[2], **kw)
    assert torch.allclose(together[2:3], alone, atol=1e-12)


def test_it_moves_the_law_from_weak_through_strong_towards_the_even_one():
    """Share of the second mode: weak 0.1, strong 0.3; a reflection brings it near 2 strong - weak = 0.5."""
    shares = [(sample(two(0.3), (2000, 1), DDIM(), 40, controllers=c) > 0).double().mean().item()
              for c in ([], [W2SD(two(0.3))], [W2SD(two(0.1))], [W2SD(two(0.45))])]  # fmt: skip
    assert abs(shares[0] - 0.3) < 0.04 and abs(shares[1] - shares[0]) < 0.03
    assert abs(shares[2] - 0.5) < 0.05 and shares[3] < shares[0] - 0.05


def test_an_inversion_undoes_a_step_as_steps_shrink():
    bed, x = two(0.4), torch.randn(6, 1, dtype=DOUBLE)
    gaps = []
    for h in (0.1, 0.05):
        said, to = bed(x, 0.6), bed.process.at(0.6 - h, x)
        down = to.a * said.x0 + to.s * said.noise
        gaps.append((invert(bed, down, 0.6, 0.6 - h, None, Clock()) - x).abs().max().item())
    assert gaps[1] < 0.35 * gaps[0] < 0.1


class Turn(Controller):
    """Turns the rows round after the third step, once that is accepted."""

    def after(self, before, now):
        return now.take(torch.arange(3, -1, -1)) if now.step == 3 > before.step else now


def test_resampling_beside_it():
    kw = dict(dtype=DOUBLE)
    plain = sample(two(0.3), (4, 1), DDIM(), 6, controllers=[W2SD(two(0.1))], **kw)
    turned = sample(two(0.3), (4, 1), DDIM(), 6, controllers=[W2SD(two(0.1)), Turn()], **kw)
    assert torch.allclose(turned.flip(0), plain, atol=1e-12)
    with pytest.raises(OrnsteinError, match="before it"):
        sample(two(0.3), (4, 1), DDIM(), 6, controllers=[Turn(), W2SD(two(0.1))], **kw)


@pytest.mark.parametrize("act,words", [
    (lambda: W2SD(two(0.1), (0.5, 0.2)), "rise within"), (lambda: W2SD(two(0.1), every=0), "each step or fewer"),
    (lambda: sample(two(0.3), (2, 1), DDIM(), 3, controllers=[W2SD(two(0.1, EDM()))]), "same process")])  # fmt: skip
def test_errors_name_the_remedy(act, words):
    with pytest.raises(OrnsteinError, match=words):
        act()
