"""What every restoration keeps to, over all files of the room; and the operators against the four Penrose equations."""

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.clock import Clock
from ornstein.core.denoiser import guide
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.guidance.cfg import CFG
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.restoration.ddnm import DDNM
from ornstein.restoration.layers.operators import AveragePool, Grey, Mask
from ornstein.solvers.ddim import DDIM
from ornstein.solvers.dpmpp2m import DPMpp2M
from ornstein.testbeds import Mixture

NAMES = [e.name for e in catalog.entries("restoration")]
KEEP = torch.arange(48).reshape(3, 4, 4) % 3 == 0
OPERATORS = [Mask(KEEP), AveragePool(2), Grey(), Grey((0.3, 0.6, 0.1)), AveragePool(4)]


def bed(process=None):
    return Mixture.random(process or Flow(), dims=48, components=3, std=0.4)


def images(n=3):
    return bed().sample(n, seed=5).reshape(n, 3, 4, 4)


def matrix(act, shape):
    count = torch.Size(shape).numel()
    return act(torch.eye(count, dtype=torch.float64).reshape(count, *shape)).flatten(1).T


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: type(o).__name__)
def test_the_pseudo_inverse_and_the_adjoint(operator):
    measured = operator.forward(images()).shape[1:]
    A, T, P = matrix(operator.forward, (3, 4, 4)), matrix(operator.adjoint, measured), matrix(operator.pinv, measured)
    assert torch.allclose(T, A.T, atol=1e-7)
    assert torch.allclose(P, torch.linalg.pinv(A), atol=1e-6)
    assert torch.allclose(A @ P @ A, A, atol=1e-6) and torch.allclose(P @ A, (P @ A).T, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("process", [Flow(), VP(), EDM()], ids=lambda p: type(p).__name__)
def test_the_result_agrees_with_the_measurement(name, operator, process):
    y = operator.forward(images())
    rule = catalog.build("restoration", {"name": name}, operator=operator)
    for solver in (DDIM(eta=0.85), DPMpp2M()):
        x = sample(
            guide(bed(process), rule),
            (3, 3, 4, 4),
            solver,
            8,
            cond={"measurement": y},
            rule="karras",
            dtype=torch.float64,
        )
        assert torch.allclose(operator.forward(x), y, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_an_operator_that_loses_nothing_gives_the_sample_back(name):
    x = images()
    rule = catalog.build("restoration", {"name": name}, operator=Mask(torch.tensor(True)))
    got = sample(guide(bed(), rule), (3, 3, 4, 4), DDIM(), 4, cond={"measurement": x}, dtype=torch.float64)
    assert torch.allclose(got, x, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_does_not_depend_on_its_neighbours(name):
    operator = AveragePool(2)
    y, label = operator.forward(images()), torch.tensor([0, 1, 2])
    wide = guide(bed(), CFG(2.0), catalog.build("restoration", {"name": name}, operator=operator))
    kw = dict(dtype=torch.float64)
    together = sample(wide, (3, 3, 4, 4), DDIM(0.85), 6, cond={"measurement": y, "label": label}, **kw)
    alone = sample(wide, (1, 3, 4, 4), DDIM(0.85), 6, cond={"measurement": y[1:2], "label": label[1:2]}, ids=[1], **kw)
    assert torch.allclose(together[1:2], alone, atol=1e-12)


def test_ddnm_moves_the_range_and_leaves_the_null_space():
    operator, x = AveragePool(2), torch.randn(3, 3, 4, 4, dtype=torch.float64)
    y = torch.randn(3, 3, 2, 2, dtype=torch.float64)
    plain = bed()(x, 0.5)
    said = guide(bed(), DDNM(operator))(x, 0.5, {"measurement": y}, Clock(ids=(0, 1, 2)))

    def null(v):
        return v - operator.pinv(operator.forward(v))

    assert torch.allclose(operator.forward(said.x0), y) and torch.allclose(null(said.x0), null(plain.x0))
    assert torch.allclose(0.5 * said.x0 + 0.5 * said.noise, x)  # x_t is still a x0 + s noise
    half = guide(bed(), DDNM(operator, 0.5))(x, 0.5, {"measurement": y}, Clock(ids=(0, 1, 2)))
    assert torch.allclose(half.x0, (said.x0 + plain.x0) / 2)
    off = guide(bed(), DDNM(operator, 0.0))(x, 0.5, {"measurement": y}, Clock(ids=(0, 1, 2)))
    assert torch.equal(off.x0, plain.x0)


@pytest.mark.parametrize(
    "act,words",
    [
        (lambda: guide(bed(), DDNM(Grey()))(images(), 0.5, {}, Clock()), "outermost of all guidance"),
        (lambda: guide(bed(), DDNM(Grey()))(images(), 0.5, None, Clock()), "no 'measurement'"),
        (lambda: DDNM(Grey(), 2.0), "within 0 and 1"),
        (lambda: AveragePool(3).forward(images()), "does not divide"),
        (lambda: Grey((0.5, 0.5)).forward(images()), "One weight|one weight"),
        (lambda: guide(bed(), DDNM(Grey()), CFG(2.0))(images(), 0.5, {"measurement": images(), "label": torch.zeros(3).long()},
                                                      Clock(ids=(0, 1, 2))), "branch 'uncond'"),
    ],
)  # fmt: skip
def test_errors_name_the_remedy(act, words):
    with pytest.raises(OrnsteinError, match=words):
        act()
