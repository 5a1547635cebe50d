"""Where each variance of ancestral sampling is exact however large the step, and that eta = 1 of DDIM is 'small'."""

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.clock import NoiseSource
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.testbeds import Mixture

DOUBLE = torch.float64


@pytest.mark.parametrize("process", ["flow", "vp", "edm"])
@pytest.mark.parametrize("variance, mean, std", [("small", 0.8, 1e-6), ("large", 0.0, 1.0)])
def test_one_large_step_is_exact(process, variance, mean, std):
    """'small' for data that are a point, 'large' for data that are N(0, 1): the marginal at s is right."""
    made = catalog.build("processes", process)
    one = Mixture(torch.full((1, 1), mean, dtype=DOUBLE), torch.tensor(std), made)
    x = torch.empty(20000, 1, dtype=DOUBLE)
    t, s = torch.tensor(0.8, dtype=DOUBLE), torch.tensor(0.3, dtype=DOUBLE)
    source = NoiseSource.of(1, range(len(x)))
    x = made.corrupt(mean + std * source.draw(100, x), source.draw(101, x), t)
    solver = catalog.build("solvers", f"ddpm:variance={variance}")
    y, _ = solver.step(one, made, x, t, s, solver.start(x, source))
    L = made.at(s, x)
    want = (L.a**2 * std**2 + L.s**2).sqrt().item()
    assert abs(y.mean() - L.a.item() * mean) < 0.03 * want
    assert abs(y.std() / want - 1) < 0.02


def test_small_is_ddim_with_eta_one():
    mixture = Mixture.random(catalog.build("processes", "vp"))
    one, other = (sample(mixture, (4, 16), catalog.build("solvers", s), 12, dtype=DOUBLE) for s in ("ddpm", "ddim:eta=1"))
    assert torch.allclose(one, other, atol=1e-10)


def test_unknown_variance():
    with pytest.raises(OrnsteinError, match="unknown variance 'smal'. Did you mean 'small'?"):
        catalog.build("solvers", "ddpm:variance=smal")
