"""The exact denoisers against autograd, against each other, and against a Monte Carlo posterior mean."""

import pytest
import torch

from ornstein.core.errors import OrnsteinError
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.testbeds import ClosedForm, Mixture

PROCESSES = [Flow(), VP(), VP("linear"), EDM()]


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: f"{type(p).__name__}-{getattr(p, 'schedule', '')}")
def test_score_is_the_gradient_of_the_log_density(process):
    mixture = Mixture.random(process, dims=5)
    x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    t = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    cond = {"label": torch.tensor([0, 1, 2, 3, 10, 10])}
    (gradient,) = torch.autograd.grad(mixture.log_density(x, t, cond).sum(), x)
    assert torch.allclose(gradient, mixture.score(x.detach(), t, cond), atol=1e-10)
    assert torch.allclose(gradient, mixture(x.detach(), t, cond).score, atol=1e-10)


def test_posterior_mean_against_importance_sampling():
    mixture = Mixture.ring(Flow(), std=0.3)
    data = mixture.sample(200_000, seed=1)
    x = torch.tensor([[0.2, 0.4]], dtype=torch.float64)
    weight = (-((x - 0.4 * data) ** 2).sum(1) / (2 * 0.6**2)).softmax(0)
    assert torch.allclose(mixture(x, 0.6).x0, (weight[:, None] * data).sum(0), atol=0.01)


def test_exact_converges_and_composes():
    for process in PROCESSES:
        mixture = Mixture.random(process)
        x = process.prior(torch.randn(4, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
        whole = mixture.exact(x)
        assert (whole - mixture.exact(x, steps=1500)).abs().max() < 2e-7
        assert (whole - mixture.exact(mixture.exact(x, None, 0.3), 0.3)).abs().max() < 1e-6
    t = torch.tensor([0.9, 0.5], dtype=torch.float64)
    flow = Mixture.random(Flow())
    assert torch.allclose(flow.exact(x[:2] / 80, t)[1:], flow.exact(x[1:2] / 80, 0.5), atol=1e-7)


def test_exact_has_the_closed_form_of_one_gaussian():
    one = Mixture(torch.full((1, 3), 2.0), torch.tensor(0.5), VP())
    x = torch.randn(4, 3, dtype=torch.float64)
    L = one.process.at(0.7, x)
    want = 2 + (x - L.a * 2) * 0.5 / (L.a**2 * 0.25 + L.s**2).sqrt()  # quantiles are kept
    assert torch.allclose(one.exact(x, 0.7), want, atol=1e-9)


def test_closed_form_is_the_mixture_of_its_data():
    data = torch.randn(150, 1, 2, 3, dtype=torch.float64)
    labels = torch.arange(150) % 3
    exact = ClosedForm(data, VP(), labels, bandwidth=0.2, chunk=4)
    same = Mixture(data.flatten(1), torch.tensor(0.2, dtype=torch.float64), VP(), labels=labels)
    x, t = torch.randn(10, 1, 2, 3, dtype=torch.float64), torch.rand(10, dtype=torch.float64)
    for cond in (None, {"label": torch.arange(10) % 4}):
        assert torch.allclose(exact(x, t, cond).x0, same(x, t, cond).x0, atol=1e-10)
    near = ClosedForm(data, VP())(VP().corrupt(data[:5], torch.randn_like(data[:5]), 1e-3), 1e-3)
    assert torch.allclose(near.x0, data[:5], atol=1e-9)  # at little noise it knows the datum by heart


def test_rows_do_not_depend_on_their_neighbours():
    mixture = Mixture.random(Flow())
    x, t = torch.randn(8, 16, dtype=torch.float64), torch.rand(8, dtype=torch.float64)
    alone = torch.cat([mixture(x[i : i + 1], t[i : i + 1]).x0 for i in range(8)])
    assert torch.allclose(mixture(x, t).x0, alone, atol=1e-12)


def test_conditional_samples_come_from_their_component():
    ring = Mixture.ring(Flow(), std=0.05)
    label = torch.arange(8).repeat(10)
    assert (ring.sample(80, cond={"label": label}) - ring.means[label]).abs().max() < 0.25
    assert torch.equal(ring.sample(50, seed=3), ring.sample(50, seed=3))
    assert not torch.equal(ring.sample(50, seed=3), ring.sample(50, seed=4))


def test_mistakes_are_named():
    mixture = Mixture.ring(Flow())
    with pytest.raises(OrnsteinError, match="label is not one of 0 to 7"):
        mixture(torch.zeros(1, 2), 0.5, {"label": torch.tensor([11])})
    with pytest.raises(OrnsteinError, match="weights for 8 components"):
        Mixture(mixture.means, mixture.stds, Flow(), weights=torch.ones(3))
    with pytest.raises(OrnsteinError, match="data set is empty"):
        ClosedForm(torch.zeros(0, 2), Flow())
    with pytest.raises(OrnsteinError, match="label has no data"):
        ClosedForm(torch.zeros(4, 2), Flow())(torch.zeros(1, 2), 0.5, {"label": torch.tensor([1])})
    with pytest.raises(OrnsteinError, match="sample of shape"):
        ClosedForm(torch.zeros(4, 2), Flow())(torch.zeros(1, 3), 0.5)
