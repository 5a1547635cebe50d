"""What every metric of a denoiser keeps to: metric(denoiser, data, cond, ids) -> Measure, and per_sample(...) -> [N]."""

import dataclasses
import math

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.metrics.layers.jacobian import divergence, full, probes, pull, push
from ornstein.metrics.layers.measure import Measure
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.testbeds import Mixture

NAMES = [e.name for e in catalog.entries("metrics") if getattr(catalog.load("metrics", e.name), "of", "") == "denoiser"]
each = pytest.mark.parametrize("name", NAMES)
ROUGH = {"likelihood": {"tolerance": 0.2}}  # where exactness is not what is asked: fewer steps, the same for all
PROCESSES = pytest.mark.parametrize("process", [Flow(), VP(), EDM()], ids=lambda p: type(p).__name__)


def bed(process=None, dims=3):
    mixture = Mixture.random(process or Flow(), dims, 3, 0.5)
    cond = {"label": torch.arange(6) % 3}
    return mixture, mixture.sample(6, 1, cond), cond


def test_the_room_has_them():
    assert set(NAMES) == {"fokker_planck", "conservativity", "intrinsic_dimension", "likelihood"}


@each
def test_protocol_and_determinism(name):
    mixture, x, cond = bed()
    part = catalog.load("metrics", name)
    assert dataclasses.is_dataclass(part) and part.__dataclass_params__.frozen
    kept, state, rough = x.clone(), torch.get_rng_state(), ROUGH.get(name, {})
    found = part(**rough)(mixture, x, cond)
    assert isinstance(found, Measure) and found.n == 6 and found.low <= found.value <= found.high
    torch.manual_seed(5)
    assert found == part(**rough)(mixture, x, cond), "the same inputs give the same figure and interval"
    torch.set_rng_state(state)
    part(**rough).per_sample(mixture, x, cond)
    assert torch.equal(state, torch.get_rng_state()) and torch.equal(x, kept) and not x.requires_grad


def wrong(mixture):
    """No diffusion and no gradient, so that nothing is 0 or whole."""
    turn = torch.tensor([[1.1, 0.3, 0.0], [-0.2, 0.9, 0.1], [0.0, 0.4, 1.0]], dtype=torch.float64)

    def noise(x, told, cond):
        return mixture(x, mixture.process.time(told), cond).noise @ turn

    return Denoiser(noise, VP(), "noise", time="logsnr")


@each
@pytest.mark.parametrize("probes", [False, True])
def test_a_sample_depends_on_its_id_and_not_on_its_neighbours(name, probes):
    mixture, x, cond = bed(VP())
    part, bent = catalog.load("metrics", name), wrong(mixture)
    metric = part(exact=0, **ROUGH.get(name, {})) if probes and hasattr(part(), "exact") else part(**ROUGH.get(name, {}))
    measure = metric.spectrum if name == "intrinsic_dimension" else metric.per_sample
    whole = measure(bent, x, cond)
    each = whole if measure == metric.per_sample else metric.per_sample(bent, x, cond)
    assert each.shape == (6,) and whole.dtype == torch.float64 and not whole.requires_grad
    order = torch.tensor([4, 1, 3])
    part = measure(bent, x[order], {"label": cond["label"][order]}, order.tolist())
    assert torch.allclose(part, whole[order], rtol=1e-7, atol=1e-9)


@each
@PROCESSES
def test_the_process_does_not_matter(name, process):
    """All is measured in x/a at given noise-to-signal ratios. The likelihood has its prior and smallest level besides."""
    metric = catalog.load("metrics", name)()
    mixture, x, cond = bed(process)
    same = torch.allclose(metric.per_sample(mixture, x, cond), metric.per_sample(bed()[0], x, cond),
                          atol=0.1 if name == "likelihood" else 1e-6)  # fmt: skip
    assert same


@each
def test_pictures_by_probes_and_in_single_precision(name):
    mixture, _, _ = bed(dims=36)
    x = mixture.sample(3, 2).view(3, 1, 6, 6)
    metric = catalog.load("metrics", name)()
    if name != "intrinsic_dimension":
        assert metric.exact < 36
    big, small = metric.per_sample(mixture, x), metric.per_sample(mixture, x.float())
    assert big.isfinite().all() and small.dtype == torch.float64 and torch.allclose(big, small, rtol=0.01, atol=0.02)


@each
def test_bad_input_is_named_with_a_remedy(name):
    mixture, x, cond = bed()
    metric = catalog.load("metrics", name)()
    broken = x.clone()
    broken[2, 1] = math.nan
    for given in (broken, x[:1], x.long()):
        with pytest.raises(OrnsteinError) as found:
            metric(mixture, given)
        assert found.value.remedy
    with pytest.raises(OrnsteinError, match="2 sample ids for 6 samples"):
        metric(mixture, x, cond, [0, 1])


def test_products_with_a_jacobian():
    def f(y, rows=None):
        return torch.stack([y[:, 0] ** 2, y[:, 1] * y[:, 0], y[:, 2].sin() + y[:, 1]], 1)

    y = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    want = torch.stack([torch.func.jacrev(lambda v: f(v[None])[0])(row) for row in y])
    value, jacobian = full(f, y)
    assert torch.allclose(value, f(y)) and torch.allclose(jacobian, want)
    v = torch.ones_like(y)
    assert torch.allclose(push(f, y, v)[1], want.sum(2)) and torch.allclose(pull(f, y, v), want.sum(1))
    signs = probes(y, 4000, 0, range(2), 0)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    trace = want.diagonal(dim1=1, dim2=2).sum(1)
    assert torch.allclose(divergence(f, y)[1], trace) and torch.allclose(divergence(f, y, signs)[1], trace, atol=0.15)
