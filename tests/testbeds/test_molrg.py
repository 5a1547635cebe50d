"""The mixture of low-rank Gaussians against autograd, the diagonal mixture, samples, and the data a subspace takes."""

import pytest
import torch

from ornstein.core.errors import OrnsteinError
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.testbeds import Mixture, MoLRG

PROCESSES = pytest.mark.parametrize("process", [Flow(), VP(), VP("linear"), EDM()], ids=lambda p: type(p).__name__)


@PROCESSES
def test_score_is_the_gradient_of_the_log_density(process):
    exact = MoLRG.random(process, 7, 2, 3, ridge=0.1)
    x = torch.randn(6, 7, dtype=torch.float64, requires_grad=True)
    for t in (0.3, torch.linspace(0.1, 0.9, 6, dtype=torch.float64)):
        for cond in (None, {"label": torch.tensor([0, 1, 2, 3, 3, 0])}):
            (gradient,) = torch.autograd.grad(exact.log_density(x, t, cond).sum(), x)
            assert torch.allclose(gradient, exact(x.detach(), t, cond).score, atol=1e-9)


@PROCESSES
def test_along_the_axes_it_is_the_diagonal_mixture(process):
    eye, scales = torch.eye(5), torch.tensor([[1.0, 2.0], [0.5, 1.5]])
    exact = MoLRG(torch.stack([eye[:, :2], eye[:, 3:]]), process, scales, 0.2, torch.tensor([1.0, 3.0]))
    stds = torch.full((2, 5), 0.2)
    stds[0, :2], stds[1, 3:] = (scales**2 + 0.04).sqrt()
    same = Mixture(torch.zeros(2, 5), stds, process, torch.tensor([1.0, 3.0]))
    x, t = torch.randn(8, 5, dtype=torch.float64), torch.linspace(0.05, 0.95, 8, dtype=torch.float64)
    assert torch.allclose(exact(x, t).x0, same(x, t).x0, atol=1e-6)
    assert torch.allclose(exact.log_density(x, t), same.log_density(x, t), atol=1e-6)
    assert torch.allclose(exact.sample(40_000, 1).T.cov(), same.sample(40_000, 2).T.cov(), atol=0.06)
    picture = exact(x.float().view(8, 1, 5), t)
    assert picture.x0.dtype == torch.float32 and torch.allclose(picture.x0.view(8, 5).double(), exact(x, t).x0, atol=1e-4)


def test_the_jacobian_has_the_rank_of_the_subspace():
    exact = MoLRG.random(Flow(), 12, 3, 2, ridge=0.01)
    x = exact.sample(1)
    jacobian = torch.func.jacrev(lambda y: exact(y, 0.2).x0)(x)[0, :, 0]
    values = torch.linalg.svdvals(jacobian)
    assert values[2] > 0.8 and values[3] < 0.05 and torch.allclose(jacobian, jacobian.T, atol=1e-8)


def test_a_basis_is_found_from_as_many_samples_as_dimensions():
    exact = MoLRG.random(Flow(), 48, 6, 1, ridge=1e-6)
    truth, error = exact.bases[0] @ exact.bases[0].T, {}
    for n in (2, 4, 6, 12):
        basis = torch.linalg.svd(exact.sample(n), full_matrices=False).Vh[:6].T
        error[n] = (truth - basis @ basis.T).norm().item() / 12**0.5
    assert error[2] == pytest.approx((4 / 12) ** 0.5, abs=1e-4) and error[4] == pytest.approx((2 / 12) ** 0.5, abs=1e-4)
    assert error[6] < 1e-3 and error[12] < 1e-3


def test_errors_and_labels():
    with pytest.raises(OrnsteinError, match="orthonormal"):
        MoLRG(torch.ones(1, 3, 2), Flow())
    with pytest.raises(OrnsteinError, match="singular"):
        MoLRG(torch.eye(3)[None, :, :1], Flow(), ridge=0.0)
    exact = MoLRG.random(Flow(), 6, 1, 3)
    assert exact.unconditional(None, 2)["label"].tolist() == [3, 3]
    with pytest.raises(OrnsteinError, match="0 to 2"):
        exact(torch.zeros(1, 6), 0.5, {"label": torch.tensor([4])})
    drawn = exact.sample(50, 0, {"label": torch.full((50,), 2)})
    assert (drawn - drawn @ exact.bases[2] @ exact.bases[2].T).norm(dim=1).max() < 0.1
