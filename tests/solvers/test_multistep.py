"""The linear multistep family: order given the past, the integrals themselves, and the ends of the scale."""

import math

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.clock import NoiseSource
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.solvers.layers.exponential import Rule, _by_row, _numbers
from ornstein.testbeds import Mixture

DOUBLE = torch.float64
FLOW, VP = catalog.build("processes", "flow"), catalog.build("processes", "vp")


def error_from_exact_past(spec: str, process: str, steps: int) -> float:
    """Distance to the exact end on steps that alternate 1 : 2, the first of which tell the solver the exact past.

    Data N(m, v): x_t = a m + c(t) (x_T - a_T m) with c^2 proportional to a^2 v + s^2."""
    made, m, v = catalog.build("processes", process), 0.7, 0.25
    one = Mixture(torch.full((1, 1), m, dtype=DOUBLE), torch.tensor([v**0.5]), made)
    early, late = {"flow": (0.9, 0.3), "vp": (0.85, 0.25)}[process]
    h = torch.tensor([1.0, 2.0], dtype=DOUBLE).repeat(steps // 2)
    times = early - torch.cat([torch.zeros(1), h.cumsum(0)]) / h.sum() * (early - late)
    a, s = made.coefficients(times)[:2]
    exact = (a * m + (a**2 * v + s**2).sqrt())[:, None, None]
    solver = catalog.build("solvers", spec)
    x, memory = exact[0], solver.start(exact[0], NoiseSource.of(0, [0]))
    for k in range(steps):
        x, memory = solver.step(one, made, exact[k] if k < 4 else x, times[k], times[k + 1], memory)
        if k < 4 and "x" in memory:
            memory = memory | {"x": exact[k]}
    return (x - exact[-1]).abs().item()


@pytest.mark.parametrize("process", ["flow", "vp"])
@pytest.mark.parametrize("spec, order", [
    ("dpmpp2m", 2), ("dpmpp3m:faithful=False", 3), ("deis:points=2", 2), ("deis:points=3", 3), ("deis", 4),
    ("deis:points=3,variable=logrho", 3), ("deis:points=3,variable=rho", 3), ("lms:points=3", 3), ("lms", 4),
    ("unipc:points=1", 2), ("unipc", 3), ("unipc:points=3", 4), ("unipc:points=3,predicts=noise", 4)])  # fmt: skip
def test_order_given_the_past(spec, order, process):
    """With exact answers to begin with, `points` answers give that order, and UniPC's corrector one more."""
    coarse, fine = (error_from_exact_past(spec, process, n) for n in (96, 192))
    assert abs(math.log2(coarse / fine) - order) < 0.3, f"measured {math.log2(coarse / fine):.2f}"


def test_the_released_curvature_leaves_order_two():
    """Half the weight of D2: an error of order 2, small enough to show on fine grids alone."""
    coarse, fine = (error_from_exact_past("dpmpp3m", "flow", n) for n in (192, 384))
    assert math.log2(coarse / fine) < 2.4, f"measured {math.log2(coarse / fine):.2f}"


@pytest.mark.parametrize("s", [0.3, 0.0])
def test_deis_integrates_what_it_says(s):
    """tAB on the linear flow: a_s int l_j(t) d(t/(1-t)) by brute force, also on the way to the data."""
    nodes = (0.5, 0.7, 0.75)
    r = torch.linspace(0.5, s, 400001, dtype=DOUBLE)
    scale, base, *weights = _numbers(FLOW, Rule("noise", "t"), s, nodes)
    assert scale == pytest.approx((1 - s) / 0.5) and base == 0
    for j, weight in enumerate(weights):
        others = [n for i, n in enumerate(nodes) if i != j]
        basis = torch.stack([(r - n) / (nodes[j] - n) for n in others]).prod(0)
        assert weight == pytest.approx((1 - s) * torch.trapezoid(basis / (1 - r) ** 2, r).item(), rel=1e-8)


@pytest.mark.parametrize("variable", ["lambda", "t", "sigma"])
def test_x0_is_integrated_in_each_variable(variable):
    nodes, s = (0.5, 0.7, 0.75), 0.3
    lam = torch.linspace(math.log(1.0), math.log(0.7 / 0.3), 400001, dtype=DOUBLE)
    u = {"lambda": lambda t: math.log((1 - t) / t), "t": lambda t: t, "sigma": lambda t: t / (1 - t)}[variable]
    at = {"lambda": lam, "t": torch.sigmoid(-lam), "sigma": (-lam).exp()}[variable]
    _, _, *weights = _numbers(FLOW, Rule("x0", variable), s, nodes)
    for j, weight in enumerate(weights):
        others = [u(n) for i, n in enumerate(nodes) if i != j]
        basis = torch.stack([(at - n) / (u(nodes[j]) - n) for n in others]).prod(0)
        assert weight == pytest.approx(s * torch.trapezoid(lam.exp() * basis, lam).item(), rel=1e-8)


@pytest.mark.parametrize("answer", ["x0", "noise"])
@pytest.mark.parametrize("variable", ["lambda", "t", "sigma"])
def test_rows_have_the_weights_of_a_batch_at_one_time(answer, variable):
    """Also where a row has no signal yet, is at its end, is done, or stood still in the step before."""
    rule = Rule(answer, variable)
    cases = [(0.3, 0.5, 0.7, 0.75), (0.0, 0.2, 0.4, 0.5), (0.9, 1.0, 1.0, 1.0), (0.8, 0.9, 1.0, 1.0), (0.0, 0.0, 0.1, 0.2),
             (0.4, 0.5, 0.5, 0.7), (0.2, 0.2, 0.5, 0.7), (0.001, 0.99, 0.995, 0.999)]  # fmt: skip
    columns = torch.tensor(cases, dtype=DOUBLE).T
    together = _by_row(rule, FLOW, torch.zeros(len(cases), 2, 2, dtype=DOUBLE), columns[0], tuple(columns[1:]))
    for i, (s, *nodes) in enumerate(cases):
        alone = _numbers(FLOW, rule, s, tuple(nodes))
        assert all(math.isfinite(w) for w in alone), (cases[i], alone)
        assert [w[i].item() for w in together] == pytest.approx(alone, rel=1e-9, abs=1e-12)
        # x0 = noise = c, that is x = (a + s) c, is carried along exactly, whatever the nodes
        want = (1 - s) + s
        assert alone[0] * ((1 - nodes[0]) + nodes[0]) + sum(alone[1:]) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("spec", ["dpmpp2m", "dpmpp3m", "deis", "lms", "unipc", "unipc:predicts=noise"])
def test_rows_that_start_without_signal(spec):
    """Of two rows one starts at t = 1 of a flow, where a = 0: each goes its way as if alone."""
    solver, mixture, x = catalog.build("solvers", spec), Mixture.random(FLOW, dims=4, std=0.8), torch.randn(2, 4).double()
    times = torch.tensor([[1.0, 0.8, 0.5, 0.0], [0.9, 0.7, 0.4, 0.1]], dtype=DOUBLE)

    def go(y: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        memory = solver.start(y, None)
        for t, s in zip(times[..., :-1].unbind(-1), times[..., 1:].unbind(-1)):
            y, memory = solver.step(mixture, FLOW, y, t, s, memory)
        return y

    together = go(x, times)
    assert torch.isfinite(together).all()
    for i in (0, 1):
        assert torch.allclose(together[i], go(x[i : i + 1], times[i])[0], atol=1e-10), i


def test_a_step_of_no_length_changes_nothing():
    x = torch.randn(3, 4, dtype=DOUBLE)
    mixture = Mixture.random(VP, dims=4)
    for spec in ("dpmpp2m", "dpmpp3m", "deis", "lms", "unipc", "unipc:points=3"):
        solver = catalog.build("solvers", spec)
        y, memory = solver.step(mixture, VP, x, torch.tensor(0.6), torch.tensor(0.5), solver.start(x, None))
        z, memory = solver.step(mixture, VP, y, torch.tensor(0.5), torch.tensor(0.5), memory)
        assert torch.allclose(z, y if "unipc" not in spec else memory["x"], atol=1e-12), spec
        z, _ = solver.step(mixture, VP, z, torch.tensor(0.5), torch.tensor(0.4), memory)
        assert torch.isfinite(z).all(), spec


@pytest.mark.parametrize("spec", ["dpmpp3m", "deis", "lms", "unipc"])
def test_half_precision_stays_half(spec):
    mixture = Mixture.ring(FLOW)
    x = sample(mixture, (4, 2), catalog.build("solvers", spec), 5, dtype=torch.bfloat16)
    assert x.dtype == torch.bfloat16 and torch.isfinite(x).all()


def test_times_can_be_learned():
    """A time that asks for a gradient gets one, through the weights."""
    x, t = torch.randn(2, 4, dtype=DOUBLE), torch.tensor(0.5, dtype=DOUBLE, requires_grad=True)
    mixture, solver = Mixture.random(VP, dims=4), catalog.build("solvers", "deis")
    y, memory = solver.step(mixture, VP, x, torch.tensor(0.7), t, solver.start(x, None))
    z, _ = solver.step(mixture, VP, y, t, torch.tensor(0.3), memory)
    (slope,) = torch.autograd.grad(z.sum(), t)
    assert torch.isfinite(slope) and slope != 0


@pytest.mark.parametrize("spec, words", [
    ("deis:variable=r", "unknown variable of DEIS 'r'"), ("deis:points=5", "points=5 of DEIS"),
    ("lms:points=0", "points=0 of LMS"), ("unipc:points=4", "points=4 of UniPC"),
    ("unipc:variant=bh3", "unknown variant of UniPC 'bh3'"), ("unipc:predicts=v", "unknown answer of UniPC 'v'")])  # fmt: skip
def test_errors(spec, words):
    with pytest.raises(OrnsteinError, match=words):
        catalog.build("solvers", spec)
