"""What every metric of a denoiser keeps to: metric(denoiser, data, cond, ids) -> Measure, and per_sample(...) -> [N]."""

import dataclasses
import math

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.metrics.layers.measure import Measure
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.testbeds import Mixture

NAMES = [e.name for e in catalog.entries("metrics") if getattr(catalog.load("metrics", e.name), "of", "") == "denoiser"]
each = pytest.mark.parametrize("name", NAMES)
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
    kept, state = x.clone(), torch.get_rng_state()
    found = part()(mixture, x, cond)
    assert isinstance(found, Measure) and found.n == 6 and found.low <= found.value <= found.high
    torch.manual_seed(5)
    assert found == part()(mixture, x, cond), "the same inputs give the same figure and interval"
    torch.set_rng_state(state)
    part().per_sample(mixture, x, cond)
    assert torch.equal(state, torch.get_rng_state()) and torch.equal(x, kept) and not x.requires_grad


@each
def test_a_sample_depends_on_its_id_and_not_on_its_neighbours(name):
    mixture, x, cond = bed()
    metric = catalog.load("metrics", name)()
    whole = metric.per_sample(mixture, x, cond)
    assert whole.shape == (6,) and whole.dtype == torch.float64 and not whole.requires_grad
    order = torch.tensor([4, 1, 3])
    part = metric.per_sample(mixture, x[order], {"label": cond["label"][order]}, order.tolist())
    assert torch.allclose(part, whole[order], atol=1e-9)


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
