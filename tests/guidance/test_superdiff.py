"""SuperDiff: the densities it follows against exact ones, the weights against their equations, memory of each sample."""

import math

import pytest
import torch

from ornstein.core.clock import Clock
from ornstein.core.denoiser import guide
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, sample
from ornstein.core.seam import Run, running
from ornstein.guidance.superdiff import SuperDiff, advance, equalised
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.solvers.ddim import DDIM
from ornstein.solvers.heun import Heun
from ornstein.testbeds import Mixture

DOUBLE, OTHER = torch.float64, {"label": torch.tensor([1])}
ZERO = {"label": torch.zeros(64, dtype=torch.long)}


def gaussians(process, std=0.5):
    """One Gaussian for each label: for these the followed densities are exact at any step, given their deviation."""
    means = torch.tensor([[0.5, -0.2, 0.1], [-0.3, 0.4, 0.3], [0.2, 0.6, -0.5]])
    return Mixture(means, torch.tensor(std), process)


class Ratios(Controller):
    """Exact and followed log p1 - log p0 at each call."""

    def __init__(self, bed, run):
        self.bed, self.run, self.gaps = bed, run, []

    def on_prediction(self, clock, x, prediction):
        exact = [self.bed.log_density(x.double(), clock.t, {"label": torch.full((len(x),), k)}) for k in (0, 1)]
        log = self.run.record.facts["superdiff"]["log"]
        if float(prediction.levels.a) > 0:
            self.gaps.append((log[1] - log[0] - (exact[1] - exact[0])).abs().max().item())
        return prediction


def error(process, steps, std, rule="uniform"):
    bed, run = gaussians(process), Run()
    watch = Ratios(bed, run)
    sample(guide(bed, SuperDiff((OTHER,), data_std=std)), (64, 3), DDIM(1.0), steps, cond=ZERO, run=run, controllers=[watch],
           dtype=DOUBLE, rule=rule)  # fmt: skip
    return max(watch.gaps)


def test_densities_are_exact_on_gaussians_of_known_deviation():
    """Started at the prior itself, where both densities are equal, on the flow (a = 0 there)."""
    assert error(Flow(), 8, 0.5) < 1e-6
    assert error(Flow(), 8, 0.45) > 1e-2


@pytest.mark.parametrize("process,rule", [(Flow(), "uniform"), (VP(), "uniform"), (EDM(), "karras")])
def test_the_published_form_comes_to_the_same_as_steps_shrink(process, rule):
    coarse, fine = (error(process, n, math.inf, rule) for n in (40, 320))
    assert fine < 0.45 * coarse and fine < 0.5


def test_the_published_form_is_the_equation():
    """<y' - y, S> - d/2 |S|^2, as a difference of two densities."""
    x, to_x, one, two = (torch.randn(4, 3, dtype=DOUBLE) for _ in range(4))
    for process in (Flow(), VP()):
        now, to = process.at(0.6, x), process.at(0.5, x)
        old, share, inverse = advance(x, now, to, math.inf)
        y, z = x / now.a, to_x / to.a
        score = [(x0 - y) / now.sigma**2 for x0 in (one, two)]
        d = now.sigma**2 - to.sigma**2
        want = [((z - y) * s).sum(1) - d / 2 * s.square().sum(1) for s in score]
        got = [-(z - old - share * x0).square().sum(1) * inverse / 2 for x0 in (one, two)]
        assert torch.allclose(got[1] - got[0], want[1] - want[0], atol=1e-9)


def test_or_is_the_score_of_the_mixture():
    """With exact densities (Gaussians of one deviation) the answer is that of the unlabelled mixture with these weights."""
    bed, run, bias = gaussians(Flow()), Run(), (math.log(0.3), math.log(0.7))
    truth = Mixture(bed.means[:2], bed.stds[:2], Flow(), torch.tensor([0.3, 0.7]))
    asked = []

    class Check(Controller):
        def on_prediction(self, clock, x, prediction):
            asked.append((prediction.x0 - truth(x, clock.t).x0).abs().max().item())
            return prediction

    sample(guide(bed, SuperDiff((OTHER,), bias=bias, data_std=0.5)), (64, 3), DDIM(1.0), 10, cond=ZERO, run=run,
           controllers=[Check()], dtype=DOUBLE)  # fmt: skip
    assert max(asked) < 1e-6


def test_each_condition_has_its_own_bias():
    """At the first call densities count as equal: 'or' is the bias's softmax, 'and' leans to where log q lags behind."""
    bed, x, others = gaussians(Flow()), torch.randn(2, 3, dtype=DOUBLE), (OTHER, {"label": torch.tensor([2])})
    cond, clock, bias = {"label": torch.tensor([0, 0])}, Clock(0, 0, 4, ids=(0, 1)), (0.1, -0.4, 0.7)
    x0 = torch.stack([bed(x, 1.0, {"label": torch.full((2,), k)}).x0 for k in range(3)])
    said = guide(bed, SuperDiff(others, bias=bias))(x, 1.0, cond, clock).x0
    assert torch.allclose(said, (torch.tensor(bias).double().softmax(0)[:, None, None] * x0).sum(0), atol=1e-12)
    process = bed.process
    _, share, inverse = advance(x, process.at(1.0, x), process.at(0.75, x), 0.5)
    gaps = torch.tensor(bias, dtype=DOUBLE)[:, None].expand(3, 2)
    said = guide(bed, SuperDiff(others, mode="and", bias=bias, data_std=0.5, limit=50.0))(x, 1.0, cond, clock).x0
    want = (equalised(gaps, share * x0, inverse, 50.0)[..., None] * x0).sum(0)
    assert torch.allclose(said, want, atol=1e-9) and not torch.allclose(said, x0.mean(0), atol=1e-3)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_and_makes_the_expected_step_equal(count):
    means, gaps, inverse = torch.randn(count, 5, 6, dtype=DOUBLE), torch.randn(count, 5, dtype=DOUBLE), torch.tensor(3.0).double()
    k = equalised(gaps, means, inverse, 1e9)
    assert torch.allclose(k.sum(0), torch.ones(5, dtype=DOUBLE))
    expected = (k[..., None] * means).sum(0)
    after = gaps - inverse / 2 * (expected - means).square().sum(2)
    assert torch.allclose(after, after[:1].expand_as(after), atol=1e-6)
    near = equalised(gaps, means, inverse, 0.1)
    assert torch.allclose(near.sum(0), torch.ones(5, dtype=DOUBLE)) and (near - 1 / count).abs().max() < 0.1 + 1e-9


def test_two_in_closed_form():
    """k_2 = 1/2 - (log q_2 - log q_1) d p / |m_2 - m_1|^2; where the models agree, one half."""
    means, gaps = torch.randn(2, 5, 6, dtype=DOUBLE), torch.randn(2, 5, dtype=DOUBLE)
    k = equalised(gaps, means, torch.tensor(4.0).double(), 1e9)
    assert torch.allclose(k[1], 0.5 - (gaps[1] - gaps[0]) / 4 / (means[1] - means[0]).square().sum(1), atol=1e-7)
    same = equalised(0 * gaps, means[:1].expand(2, -1, -1), torch.tensor(4.0).double(), 3.0)
    assert torch.allclose(same, torch.full_like(same, 0.5))


@pytest.mark.parametrize("mode", ["or", "and"])
@pytest.mark.parametrize("process", [Flow(), VP(), EDM()], ids=lambda p: type(p).__name__)
def test_finite_and_alone_as_in_company(mode, process):
    bed, rule = gaussians(process), "karras" if isinstance(process, EDM) else "uniform"
    denoiser = guide(bed, SuperDiff(({"label": torch.tensor([2])}, OTHER), mode=mode, rule=rule))
    kw = dict(dtype=DOUBLE, rule=rule)
    all_ = sample(denoiser, (4, 3), DDIM(1.0), 12, cond={"label": torch.tensor([0, 0, 1, 0])}, **kw)
    one = sample(denoiser, (1, 3), DDIM(1.0), 12, cond={"label": torch.tensor([1])}, ids=[2], **kw)
    assert bool(all_.isfinite().all()) and torch.allclose(all_[2:3], one, atol=1e-9)


def test_models_count_like_conditions():
    class Fixed:
        process = Flow()

        def __call__(self, x, t, cond=None, clock=None):
            seen.append(clock.branch)
            return bed(x, t, {"label": torch.full((len(x),), 1)}, clock)

    bed, seen = gaussians(Flow()), []
    by_model = sample(guide(bed, SuperDiff(models=(Fixed(),))), (64, 3), DDIM(1.0), 6, cond=ZERO)
    by_cond = sample(guide(bed, SuperDiff((OTHER,))), (64, 3), DDIM(1.0), 6, cond=ZERO)
    assert torch.equal(by_model, by_cond) and set(seen) == {"model1"}


def test_memory_follows_resampling():
    """After copies of rows, the followed densities of each row are still those of its own trajectory."""
    bed, run = gaussians(Flow()), Run()
    watch = Ratios(bed, run)

    class Choose(Controller):
        def after(self, before, now):
            return now.take(torch.arange(63, -1, -1)) if now.step == 4 else now

    sample(guide(bed, SuperDiff((OTHER,), data_std=0.5)), (64, 3), DDIM(1.0), 8, cond=ZERO, run=run,
           controllers=[watch, Choose()], dtype=DOUBLE)  # fmt: skip
    assert max(watch.gaps) < 1e-6


def test_temperature_and_what_is_refused():
    bed, x = gaussians(Flow()), torch.randn(2, 3, dtype=DOUBLE)
    with running(Run()):
        for t, step in ((0.8, 0), (0.5, 1)):
            mean = guide(bed, SuperDiff((OTHER,), temperature=0.0))(x, t, {"label": torch.tensor([0, 0])}, Clock(step, ids=(0, 1)))
        want = sum(bed(x, 0.5, {"label": torch.full((2,), k)}).x0 for k in (0, 1)) / 2
        assert torch.allclose(mean.x0, want)
    with pytest.raises(OrnsteinError, match="one call per step"):
        sample(guide(bed, SuperDiff((OTHER,))), (64, 3), Heun(), 4, cond=ZERO)
    with pytest.raises(OrnsteinError, match="the run's own grid"):
        sample(guide(bed, SuperDiff((OTHER,), mode="and")), (64, 3), DDIM(1.0), 4, cond=ZERO, rule="quadratic")
    for act, words in ((lambda: SuperDiff(mode="xor"), "mode of superposition"),
                       (lambda: SuperDiff(bias=(1.0, 2.0)), "2 biases for 1"),
                       (lambda: SuperDiff(({"label": torch.tensor([1, 2])},)), "one row")):  # fmt: skip
        with pytest.raises(OrnsteinError, match=words):
            act()
    with pytest.raises(OrnsteinError, match="same process"):
        guide(bed, SuperDiff(models=(gaussians(EDM()),)))(x, 0.5, {"label": torch.tensor([0, 0])}, Clock(ids=(0, 1)))
