"""The contract of acceleration/: every file, on the networks that it fits, native and foreign."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import nn

from ornstein.core import catalog
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoiser, guide
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, sample
from ornstein.core.seam import Run, attach, calling, running

NAMES = [e.name for e in catalog.entries("acceleration")]
PATHS = {n: f"ornstein.evidence.acceleration.{n}" for n in NAMES}
EVIDENCE = {n: importlib.import_module(path) for n, path in PATHS.items() if importlib.util.find_spec(path)}
# the evidence says TRIAL = (settings that never skip, settings that do, the backbones that it fits)
SETTINGS = {name: module.TRIAL for name, module in EVIDENCE.items() if hasattr(module, "TRIAL")}
# EXACT = True: it computes the same, otherwise, so that nothing is skipped and nothing stored
EXACT = {n for n, module in EVIDENCE.items() if getattr(module, "EXACT", False)}
STORES_NOTHING = EXACT | {n for n, module in EVIDENCE.items() if getattr(module, "STORES_NOTHING", False)}
ROWS = 8
BACKBONES = {
    "dit": "dit:channels=1,patch=2,width=32,depth=4,heads=4,classes=10",
    "unet": "unet:channels=1,width=16,multipliers=(1,2),attention_levels=(1,),classes=10",
}
PAIRS = [(n, b) for n in NAMES for b in SETTINGS.get(n, ("", "", ()))[2]]
pairs = pytest.mark.parametrize("name, backbone", PAIRS, ids=lambda v: v)


@cache
def network(backbone: str) -> nn.Module:
    torch.manual_seed(3)
    net = catalog.build("backbones", BACKBONES[backbone])
    for key, parameter in net.named_parameters():  # small for the time: a trained network changes slowly with it
        nn.init.normal_(parameter, std=0.02 if key.startswith("time") else 0.12)
    return net.eval().requires_grad_(False)


def denoiser(net: nn.Module) -> Denoiser:
    return Denoiser(net, catalog.build("processes", "flow"), null=net.null_condition)


def part(name: str, skips: bool = True):
    return catalog.build("acceleration", f"{name}:{SETTINGS[name][skips]}")


def took_part(name, run):
    """It skipped something, or has computed it in its own way."""
    return run.record.skipped() == pytest.approx(0, abs=1e-9) if name in EXACT else run.record.skipped() > 0


def draw(net, plugins=(), ids=tuple(range(ROWS)), steps=10, solver="ddim", run=None, seed=0, wrap=None, **settings):
    """Samples of a few digits with the plugins attached for this long."""
    detach = attach(net, plugins) if plugins else (lambda: None)
    try:
        d = denoiser(net) if wrap is None else guide(denoiser(net), wrap)
        cond = {"label": torch.tensor(ids) % 10}
        return sample(d, (len(ids), 1, 8, 8), catalog.build("solvers", solver), steps, cond=cond, ids=ids, run=run,
                      seed=seed, **settings)  # fmt: skip
    finally:
        detach()


@pytest.mark.parametrize("name", NAMES)
def test_every_evidence_says_how_to_try_it(name):
    assert name in SETTINGS, f"evidence/acceleration/{name}.py needs TRIAL = (never skips, skips, backbones)"


@pairs
def test_never_skip_and_detach_are_bit_exact(name, backbone):
    net = network(backbone)
    plain, run = draw(net), Run()
    assert torch.equal(draw(net, part(name, False), run=run), plain)
    assert run.record.skipped() == 0
    assert name in EXACT or not torch.equal(draw(net, part(name)), plain), "this setting should skip something"
    assert torch.equal(draw(net), plain) and not any("forward" in m.__dict__ for m in net.modules())


@pairs
def test_it_skips_says_so_and_stays_near(name, backbone):
    run = Run()
    out = draw(network(backbone), part(name), run=run)
    assert took_part(name, run) and run.record.skipped() < 0.95
    facts = run.record.facts[name]["cond"]
    assert (facts["cache_bytes"] == 0) == (name in STORES_NOTHING)
    plain = draw(network(backbone))
    assert (out - plain).norm() < (1e-5 if name in EXACT else 0.5) * plain.norm()


@dataclass(frozen=True)
class Watch:
    """Guidance that asks a second branch and, at scale 1, ignores it."""

    scale: float = 1.0

    def predict(self, inner, x, t, cond, clock):
        other = inner(x, t, inner.unconditional(cond, len(x)), clock.at("uncond"))
        said = inner(x, t, cond, clock)
        if self.scale == 1:
            return said
        return said.like("x0", other.x0 + self.scale * (said.x0 - other.x0))


@pairs
def test_branches_share_no_memory(name, backbone):
    net, run = network(backbone), Run()
    alone, watched = draw(net, part(name)), draw(net, part(name), wrap=Watch(), run=run)
    assert torch.equal(alone, watched)
    assert sorted(run.record.facts[name]) == ["cond", "uncond"]
    assert draw(net, part(name), wrap=Watch(3.0)).isfinite().all()


@pairs
@pytest.mark.parametrize("solver", ["ddim", "heun"])
def test_a_sample_does_not_depend_on_its_neighbours(name, backbone, solver):
    net, run = network(backbone), Run()
    together = draw(net, part(name), run=run, solver=solver)
    facts = run.record.facts[name]["cond"]
    if "samples_skipped" in facts:
        assert facts["samples_skipped"] % ROWS, "the gates of the samples should differ for this test to mean something"
    for i in range(ROWS):
        alone = draw(net, part(name), ids=(i,), solver=solver)
        assert torch.allclose(alone[0], together[i], atol=2e-4), f"sample {i}"
    assert took_part(name, run)


@pairs
def test_two_runs_in_one_thread_do_not_mix(name, backbone):
    net = network(backbone)
    one, two = draw(net, part(name)), draw(net, part(name), seed=5)
    inner = []
    detach = attach(net, part(name))
    try:
        mixed = draw(net, progress=lambda state, steps: inner.append(draw(net, seed=5)))
    finally:
        detach()
    assert torch.equal(mixed, one) and all(torch.equal(i, two) for i in inner)


class Shuffle(Controller):
    """Resamples once: here into another order, so that every sample must come out as it would have."""

    order = torch.tensor([3, 1, 0, 2, 7, 6, 4, 5])

    def after(self, before, now):
        return now.take(self.order) if now.step == 5 else now


@pairs
def test_memory_follows_resampling(name, backbone):
    net = network(backbone)
    plain = draw(net, part(name))
    assert torch.allclose(draw(net, part(name), controllers=[Shuffle()]), plain[Shuffle.order], atol=2e-4)


@pairs
def test_bfloat16(name, backbone):
    import copy

    net, run = copy.deepcopy(network(backbone)).to(torch.bfloat16), Run()
    out = draw(net, part(name), run=run)
    assert out.isfinite().all() and took_part(name, run)


@pairs
def test_another_shape_starts_afresh(name, backbone):
    """A change of resolution or of the batch within one run is computed in full."""
    net, run = network(backbone), Run()
    detach = attach(net, part(name))
    try:
        with running(run):
            for k, (rows, size) in enumerate([(4, 8)] * 4 + [(4, 12)] * 5 + [(2, 12)]):
                x, t = torch.randn(rows, 1, size, size), torch.full((rows,), 1 - 0.01 * k)
                cond = {"label": torch.arange(rows)}
                with calling(Clock(k, 0, 10, t=t, ids=(0,))):
                    out = net(x, t, cond)
                if k in (4, 9):
                    with calling(None):
                        plain = net(x, t, cond)
                        near = name in EXACT and torch.allclose(out, plain, atol=1e-4)
                        assert near or torch.equal(out, plain), f"call {k}"
    finally:
        detach()


@pytest.mark.parametrize("name", NAMES)
def test_a_network_that_it_does_not_fit_is_refused(name):
    for backbone in set(BACKBONES) - set(SETTINGS[name][2]):
        with pytest.raises(OrnsteinError, match="(does not fit|needs a U-Net|would do nothing)"):
            attach(network(backbone), part(name))
        assert not any("forward" in m.__dict__ for m in network(backbone).modules())


# and FOREIGN = classes of diffusers on which it is tried too
FOREIGN = {name: getattr(module, "FOREIGN", ()) for name, module in EVIDENCE.items()}


def _answers(net, inputs, plugins, moves):
    """Answers to a run of inputs; moves [steps, B] says how far each sample has come."""
    import zoo

    key = "sample" if "sample" in inputs else "hidden_states"
    detach, out, run = attach(net, plugins) if plugins else (lambda: None), [], Run()
    try:
        with running(run):
            for k, move in enumerate(moves):
                x = inputs[key] + move.view(-1, *[1] * (inputs[key].ndim - 1)) * inputs[key].roll(1, -1)
                with calling(Clock(k, t=1 - k / len(moves), ids=tuple(range(len(x))))):
                    out.append(zoo.call(net, {**inputs, key: x}))
    finally:
        detach()
    return torch.stack(out), run


@pytest.mark.parametrize("name, kind", [(n, k) for n, kinds in FOREIGN.items() for k in kinds], ids=lambda v: v)
def test_on_networks_of_diffusers(name, kind):
    """Never-skip is bit-exact, skipping stays near, and a still sample skips beside one that moves."""
    pytest.importorskip("diffusers")
    import zoo

    net, inputs = zoo.specimen(kind)
    still_and_moving = torch.stack([torch.zeros(5), torch.tensor([0.0, 0.4, -0.3, 0.5, 0.1])], 1)
    plain, _ = _answers(net, inputs, (), still_and_moving)
    same, _ = _answers(net, inputs, part(name, False), still_and_moving)
    assert torch.equal(plain, same)
    slow = torch.arange(5)[:, None].expand(5, 2) * 0.01
    near, run = _answers(net, inputs, part(name), slow)
    assert took_part(name, run) if name in EXACT else run.record.skipped() > 0.1
    assert (near - _answers(net, inputs, (), slow)[0]).norm() < 0.1 * near.norm()
    if name == "firstblock":
        mixed, run = _answers(net, inputs, catalog.build("acceleration", "firstblock:threshold=1e-3"), still_and_moving)
        assert run.record.facts[name]["cond"]["samples_skipped"] == 4
        assert torch.allclose(mixed[:, 0], plain[:, 0], atol=1e-5), "the still sample may skip and must not change"
        assert torch.allclose(mixed[:, 1], plain[:, 1], atol=1e-5), "the moving sample must be computed"


def test_two_owners_of_one_place_are_refused():
    net = network("dit")
    with pytest.raises(OrnsteinError, match="would both decide evaluation"):
        attach(net, [part("firstblock"), part("taylorseer")])
