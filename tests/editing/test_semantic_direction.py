"""Semantic directions are the Jacobian's singular vectors, and a move along them is what was asked for."""

from dataclasses import replace

import pytest
import torch

from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.editing.semantic_direction import SemanticDirection
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.testbeds import Mixture, MoLRG

WAY = SemanticDirection(1.0, rank=2, iterations=40, steps=20)


@pytest.mark.parametrize("process", [Flow(), VP(), EDM()], ids=lambda p: type(p).__name__)
def test_they_are_the_singular_vectors(process):
    mixture = Mixture.random(process, 6, 3, 0.6)
    t = process.time(torch.tensor(0.5, dtype=torch.float64))
    x = process.corrupt(mixture.sample(4, 1), torch.randn(4, 6, dtype=torch.float64), t)
    found, values = WAY.directions(mixture, x, t)
    for k in range(4):
        jacobian = torch.func.jacrev(lambda y: mixture(y[None], t).x0[0])(x[k])
        _, want, right = torch.linalg.svd(jacobian)
        assert torch.allclose(values[k], want[:2], rtol=1e-3)
        assert torch.allclose((found[k] @ right[:2].T).abs(), torch.eye(2, dtype=torch.float64), atol=0.03)
    assert (found.sum(2) >= 0).all() and torch.allclose(found @ found.mT, torch.eye(2, dtype=torch.float64), atol=1e-8)


def test_right_ones_and_not_left_ones():
    matrix = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, want, right = torch.linalg.svd(matrix)
    denoiser = Denoiser(lambda x, told, cond: x @ matrix.T, EDM(), "x0")
    found, values = replace(WAY, iterations=80).directions(denoiser, torch.zeros(1, 5, dtype=torch.float64), 1.0)
    assert torch.allclose(values[0], want[:2], rtol=1e-4)
    assert torch.allclose((found[0] * right[:2]).sum(1).abs(), torch.ones(2, dtype=torch.float64), atol=1e-3)


def test_neighbours_do_not_matter():
    mixture = Mixture.random(Flow(), 6, 3, 0.6)
    x, cond = mixture.sample(4, 1), {"label": torch.tensor([0, 1, 2, 0])}
    whole = WAY.edit(mixture, x, cond, cond)
    alone = WAY.edit(mixture, x[2:3], {"label": torch.tensor([2])}, {"label": torch.tensor([2])}, ids=[2])
    assert torch.allclose(whole[2:3], alone, atol=1e-9)


def test_without_a_shift_it_is_inversion():
    mixture = Mixture.random(Flow(), 6, 3, 0.6)
    x = mixture.sample(4, 1)
    still = replace(WAY, shift=0.0)
    assert torch.equal(still.edit(mixture, x), still.way().edit(mixture, x, None, None))


def test_a_move_along_the_subspace_arrives_in_full():
    exact = MoLRG.random(Flow(), 10, 2, 1, ridge=0.01)
    x = exact.sample(5, 1).view(5, 1, 10)
    top = WAY.way().invert(exact, x)
    for shift in (0.5, -0.5):
        change = (replace(WAY, shift=shift).resume(exact, top) - WAY.way().generate(exact, top)).view(5, 10)
        inside = change @ exact.bases[0]
        assert torch.allclose(inside.norm(dim=1), change.norm(dim=1), rtol=1e-3)
        # the flow stretches x_t by sqrt(var_0 / var_t), the same for every sample of one Gaussian
        stretch = 0.5 * 0.5 / (0.25 + 0.25) ** 0.5
        assert torch.allclose(change.norm(dim=1), torch.full((5,), stretch, dtype=torch.float64), rtol=0.06)


def test_errors():
    for settings in ({"index": 3}, {"iterations": 0}, {"at": 0.0}):
        with pytest.raises(OrnsteinError, match="Give an index below the rank"):
            SemanticDirection(**settings)
    with pytest.raises(OrnsteinError, match="Ask for fewer"):
        WAY.directions(Mixture.random(Flow(), 1, 2), torch.zeros(1, 1), 0.5)
