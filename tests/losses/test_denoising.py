"""The denoising loss against theory: its minimiser, its targets, its weights, its laws of time, its dropped conditions."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Prediction
from ornstein.losses.layers.times import TIMES, LogitNormal, LogNormal
from ornstein.losses.pretraining.denoising import TARGETS, WEIGHTS, Denoising
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.testbeds import ClosedForm, Mixture

PROCESSES = {"flow": Flow(), "vp": VP(), "vp-linear": VP("linear"), "edm": EDM()}
EVERY = list(itertools.product(TARGETS, WEIGHTS, PROCESSES))


class Said:
    """A denoiser that says what it is told to about x0."""

    def __init__(self, process, x0):
        self.process, self.answer = process, x0

    def __call__(self, x, t, cond=None, clock=None):
        return Prediction(x, self.process.at(t, x), "x0", self.answer(x, t, cond))


def batch(n=64, dims=2, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return {"x0": torch.randn(n, dims, generator=g, dtype=dtype), "noise": torch.randn(n, dims, generator=g, dtype=dtype),
            "u": (torch.arange(n) + 0.5) / n}  # fmt: skip


@pytest.mark.parametrize("target,weight,process", EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finite_at_every_time_with_its_gradient(target, weight, process, dtype):
    """From the cleanest time to pure noise, t_max included, where flow has no signal left."""
    process, loss = PROCESSES[process], Denoising(target, weight)
    layer = torch.nn.Linear(2, 2).to(dtype)
    given = {k: v.to(dtype) if k != "u" else v for k, v in batch(dtype=torch.float32).items()}
    given["t"] = process.t_min + torch.cat([torch.linspace(0, 1, 60), torch.tensor([0.0, 1e-6, 1 - 1e-6, 1.0])]) * (
        process.t_max - process.t_min
    )
    for predicts in ("x0", "velocity", "edm"):
        denoiser = Denoiser(lambda x, t, c: layer(x.to(dtype)), process, predicts)
        found = loss(denoiser, given)["loss"]
        found.backward()
        assert torch.isfinite(found) and all(torch.isfinite(p.grad).all() for p in layer.parameters()), predicts
        layer.zero_grad()


@pytest.mark.parametrize("target,weight,process", EVERY)
def test_the_posterior_mean_is_the_minimum(target, weight, process):
    """An offset and a slope added to the exact answer: at (0, 0) their gradients are within 4.5 standard errors of 0, and
    at a wrong answer they are not."""
    process = PROCESSES[process]
    exact, loss, n = Mixture.ring(process, 5, std=0.3), Denoising(target, weight), 4096
    given = batch(n, seed=1) | {"x0": exact.sample(n, seed=3)}
    # away from the ends, where one sample in a thousand would hold nearly all the weight
    given["t"] = process.time(torch.linspace(4, -4, n, dtype=torch.float64))

    def z(wrong):
        theta = torch.zeros(n, 4, dtype=torch.float64, requires_grad=True)
        learnt = Said(process, lambda x, t, c: exact(x, t).x0 * (1 + wrong + theta[:, 2:]) + theta[:, :2])
        x = process.corrupt(given["x0"], given["noise"], given["t"])
        loss.per_sample(learnt(x, given["t"]), given["x0"], given["noise"]).sum().backward()
        g = theta.grad
        return (g.mean(0) / g.std(0) * math.sqrt(n)).abs().max().item()

    assert z(0.0) < 4.5 < 9 < z(-0.3)


def test_the_closed_form_denoiser_is_the_minimum_over_its_data():
    """On one picture per row the loss is that of the noise alone: no other function of (x, t) is below it."""
    data = torch.randn(12, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = ClosedForm(data, Flow())
    given = {"x0": data.repeat(40, 1, 1, 1), "u": torch.rand(480, generator=torch.Generator().manual_seed(1))}
    given["noise"] = torch.randn(given["x0"].shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    best = Denoising("x0")(exact, given)["loss"]
    for change in (0.97, 1.03):
        other = Said(exact.process, lambda x, t, c, change=change: change * exact(x, t).x0)
        assert Denoising("x0")(other, given)["loss"] > best


@pytest.mark.parametrize("process", PROCESSES)
def test_targets_are_one_loss_up_to_the_known_factor(process):
    """In float64, per sample: the error of a target is k times that of x0."""
    process = PROCESSES[process]
    given = batch()
    t = process.t_min + given["u"].double() * 0.98 * (process.t_max - process.t_min)
    said = Said(process, lambda x, t, c: torch.tanh(x))(process.corrupt(given["x0"], given["noise"], t), t)
    of = {name: Denoising(name).per_sample(said, given["x0"], given["noise"]) for name in TARGETS}
    L = process.at(t, given["x0"])
    snr = (L.logsnr.exp()).flatten()
    assert torch.allclose(of["noise"], snr * of["x0"], rtol=1e-9)
    if isinstance(process, VP):
        assert torch.allclose(of["v"], (snr + 1) * of["x0"], rtol=1e-9)
    if isinstance(process, Flow):
        assert torch.allclose(of["velocity"], of["x0"] / t**2, rtol=1e-9)
    if isinstance(process, EDM):
        assert torch.allclose(of["velocity"], of["noise"], rtol=1e-9)
    for name, k in TARGETS.items():
        assert torch.allclose(of[name], k(L).flatten() * of["x0"], rtol=1e-9)
        for weight in ("min-snr", "edm", "velocity"):
            same = [Denoising(n, weight).per_sample(said, given["x0"], given["noise"]) for n in ("x0", name)]
            assert torch.allclose(*same, rtol=1e-9), "the target changes the arithmetic, not the loss"


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_min_snr_is_the_publications(schedule):
    """Hang et al.: min(SNR, g) on x0, min(SNR, g)/SNR on noise, min(SNR, g)/(SNR + 1) on v."""
    process, given = VP(schedule), batch()
    t = 0.01 + 0.98 * given["u"].double()
    said = Said(process, lambda x, t, c: x * 0.3)(process.corrupt(given["x0"], given["noise"], t), t)
    snr = process.at(t, given["x0"]).logsnr.exp().flatten()
    for gamma in (None, 1.0, 20.0):
        least = snr.clamp(max=5.0 if gamma is None else gamma)
        for target, k in (("x0", 1.0), ("noise", snr), ("v", snr + 1)):
            plain = Denoising(target).per_sample(said, given["x0"], given["noise"])
            found = Denoising(target, "min-snr", gamma).per_sample(said, given["x0"], given["noise"])
            assert torch.allclose(found, plain * least / k, rtol=1e-8), target


@pytest.mark.parametrize("spread", [0.5, 0.9])
def test_edm_weight_is_one_over_c_out_squared(spread):
    """lambda c_out^2 = 1: the loss is the mean squared error of what the raw network must say."""
    process, given = EDM(), batch()
    t = torch.exp(torch.linspace(-5, 4, 64, dtype=torch.float64))
    raw = torch.randn(64, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    denoiser = Denoiser(lambda x, t, c: raw, process, "edm", "edm", spread)
    x, sigma = process.corrupt(given["x0"], given["noise"], t), t[:, None]
    c_skip, c_out = spread**2 / (sigma**2 + spread**2), sigma * spread / (sigma**2 + spread**2).sqrt()
    wanted = (given["x0"] - c_skip * x) / c_out
    found = Denoising("x0", "edm", spread).per_sample(denoiser(x, t), given["x0"], given["noise"])
    assert torch.allclose(found, (raw - wanted).square().mean(1), rtol=1e-6)
    usual = Denoising("x0", "edm").per_sample(denoiser(x, t), given["x0"], given["noise"])
    assert torch.allclose(usual, found) is (spread == 0.5), "sigma_data is 0.5 where nothing is said"


def test_velocity_weight_counts_x0_as_the_flow_does_down_to_the_least():
    process, given = Flow(), batch()
    t = torch.cat([torch.full((32,), 0.01), torch.linspace(0.06, 0.99, 32)]).double()
    said = Said(process, lambda x, t, c: x)(process.corrupt(given["x0"], given["noise"], t), t)
    one = Denoising("x0", "velocity").per_sample(said, given["x0"], given["noise"])
    two = Denoising("velocity").per_sample(said, given["x0"], given["noise"])
    assert torch.allclose(one[32:], two[32:], rtol=1e-9) and torch.allclose(one[:32], two[:32] * (t[:32] / 0.05) ** 2, rtol=1e-9)


@pytest.mark.parametrize("process", PROCESSES)
def test_laws_of_time_have_their_quantiles(process):
    process = PROCESSES[process]
    u = torch.tensor([0.02, 0.15865525, 0.5, 0.84134475, 0.98], dtype=torch.float64)
    z = torch.special.ndtri(u)
    for law, logsnr in ((LogitNormal(0.3, 0.9), -2 * (0.3 + 0.9 * z)), (LogNormal(), -2 * (-1.2 + 1.2 * z))):
        t = law(u, process)
        inside = (t > process.t_min) & (t < process.t_max)
        L = process.at(t, torch.zeros(5, dtype=torch.float64))
        assert inside[1:4].all() and torch.allclose(L.logsnr[inside], logsnr[inside], atol=1e-6)
        assert (t[1:] >= t[:-1]).all(), "more noise with u"
    t = TIMES["uniform"](u, process)
    assert torch.allclose((t - process.t_min) / (process.t_max - process.t_min), u)
    ends = torch.tensor([0.0, 1 - 2**-24])
    for law in TIMES.values():
        t = law(ends, process)
        assert torch.isfinite(t).all() and t.min() >= process.t_min * (1 - 1e-6) and t.max() <= process.t_max


def asked(loss, given, null=-1.0):
    """What condition the network was given, and when."""
    seen = {}

    def network(x, t, cond):
        seen.update(cond, t=t)
        return torch.zeros_like(x)

    denoiser = Denoiser(network, Flow(), null=lambda c, b: {k: torch.full_like(v, null) for k, v in c.items()})
    loss(denoiser, given, torch.Generator().manual_seed(0))
    return seen


def test_a_share_of_rows_loses_its_condition():
    n = 20000
    given = {"x0": torch.zeros(n, 2), "cond": {"label": torch.ones(n).long(), "tokens": torch.ones(n, 3, 2)}}
    seen = asked(Denoising(drop_condition=0.1), given)
    gone = seen["label"] == -1
    assert gone.double().mean().item() == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / n))
    assert ((seen["tokens"] == -1).all((1, 2)) == gone).all() and seen["tokens"].dtype == torch.float32
    assert not (asked(Denoising(), given)["label"] == -1).any()
    assert (asked(Denoising(drop_condition=1.0), given)["label"] == -1).all()
    chosen = torch.linspace(0, 1, n)
    assert ((asked(Denoising(drop_condition=0.3), given | {"drop": chosen})["label"] == -1) == (chosen < 0.3)).all()


def test_what_the_batch_brings_is_used_and_the_rest_is_drawn_from_the_generator():
    given = batch(8, dtype=torch.float32)
    denoiser = Denoiser(lambda x, t, c: x, Flow())
    loss = Denoising()
    one, two = (loss(denoiser, given, torch.Generator().manual_seed(s))["loss"] for s in (0, 1))
    assert one == two
    bare = {"x0": given["x0"]}
    one, again, two = (loss(denoiser, bare, torch.Generator().manual_seed(s))["loss"] for s in (0, 0, 1))
    assert one == again != two
    fixed = loss(denoiser, given | {"t": torch.full((8,), 0.5)})["loss"]
    said = denoiser(given["x0"] * 0.5 + given["noise"] * 0.5, 0.5)
    assert fixed.item() == pytest.approx((said.velocity - (given["noise"] - given["x0"])).square().mean().item(), rel=1e-5)
    assert "cond" not in bare and set(bare) == {"x0"}, "the batch is left as it was"


def test_auxiliary_losses_are_added_under_their_names():
    class Extra:
        taps = ("h",)

        def __init__(self, name):
            self.name = name

        def __call__(self, output, batch, step):
            return {self.name: output.taps["h"].mean() * 0 + step}

    def network(x, t, c, taps=()):
        from ornstein.core.prediction import Output

        return Output(x, {name: x for name in taps})

    denoiser = Denoiser(network, Flow())
    found = Denoising(auxiliaries=(Extra("one"), Extra("two")))(denoiser, batch(8, dtype=torch.float32), step=3)
    assert found["one"] == found["two"] == 3 and found["loss"] == found["denoising"] + 6
    with pytest.raises(OrnsteinError, match="two losses are called one"):
        Denoising(auxiliaries=(Extra("one"), Extra("one")))(denoiser, batch(8, dtype=torch.float32))


@pytest.mark.parametrize("wrong,words", [
    ({"target": "nois"}, "unknown target 'nois'. Did you mean 'noise'"),
    ({"weight": "minsnr"}, "unknown loss weight 'minsnr'. Did you mean 'min-snr'"),
    ({"time": "lognormal"}, "unknown law of time 'lognormal'. Did you mean 'logit-normal'"),
    ({"drop_condition": 1.5}, "drop_condition=1.5 is no share"), ({"weight": "edm", "constant": 0.0}, "Give more than 0"),
    ({"constant": 5.0}, "constant=5.0 makes no sense for the weight 'uniform'. Leave it out"),
])  # fmt: skip
def test_wrong_settings_are_named(wrong, words):
    with pytest.raises(OrnsteinError, match=words):
        Denoising(**wrong)


