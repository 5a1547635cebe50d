"""Perturbed guidance: what the worse call is, that nothing else changes, and what it keeps to under other guidance."""

import copy
import threading
from types import MethodType

import pytest
import torch
from torch import nn

from ornstein.backbones.dit import DiT
from ornstein.backbones.unet import UNet
from ornstein.core import catalog
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoiser, guide
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.seam import Run, attach
from ornstein.core.sites import find_sites
from ornstein.guidance.cfg import CFG
from ornstein.guidance.layers.perturb import Perturb, _smooth
from ornstein.guidance.perturbed import Perturbed
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.solvers.ddim import DDIM
from ornstein.testbeds import Mixture

LABELS = {"label": torch.tensor([0, 3, 1, 2])}
NOW = Clock(ids=(0, 1, 2, 3))


def awake(net):
    """Zero gates make every block do nothing: wake them."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.15 * torch.randn(p.shape, generator=generator)
    return net.eval().requires_grad_(False)


def dit(process=None, depth=3):
    net = awake(DiT(channels=1, patch=2, width=16, depth=depth, heads=2, classes=4))
    return Denoiser(net, process or Flow(), null=net.null_condition)


def unet():
    net = awake(UNet(channels=1, width=16, multipliers=(1, 1), classes=4, heads=2))
    return Denoiser(net, Flow(), null=net.null_condition)


def x_of(n=4, dtype=torch.float32):
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(1)).to(dtype)


def by_hand(denoiser, block, how):
    """The same denoiser with one block broken for good."""
    net = copy.deepcopy(denoiser.backbone)
    if how == "skip":
        net.blocks[block] = _Through()
    else:
        attn = net.blocks[block].attn

        def values_alone(self, x, rotary=None):
            v = self.qkv(x).unflatten(-1, (3, self.heads, -1))[..., 2, :, :]
            return self.out(v.flatten(2))

        def mean_query(self, x, rotary=None):
            from ornstein.backbones.layers.attention import _rotate

            q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            q, k = _rotate(self.norm_q(q), rotary), _rotate(self.norm_k(k), rotary)
            weights = (q.mean(2, keepdim=True) @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
            return self.out((weights @ v).expand_as(q).transpose(1, 2).flatten(2))

        attn.forward = MethodType(values_alone if how == "identity" else mean_query, attn)
    return Denoiser(net, denoiser.process, null=denoiser.null)


class _Through(nn.Module):
    def forward(self, x, *rest):
        return x


def same(net, before):
    return not any("forward" in m.__dict__ for m in net.modules()) and all(
        torch.equal(a, b) for a, b in zip(net.state_dict().values(), before.values())
    )


@pytest.mark.parametrize("how", ["identity", "blur", "skip"])
@pytest.mark.parametrize("process", [Flow(), VP()], ids=lambda p: type(p).__name__)
def test_the_equation_against_a_network_broken_by_hand(how, process):
    d, x = dit(process), x_of()
    said = guide(d, Perturbed(1.5, how))(x, 0.6, LABELS, NOW)  # outside of a run too
    good, worse = d(x, 0.6, LABELS), by_hand(d, 1, how)(x, 0.6, LABELS)
    assert (good.value - worse.value).abs().max() > 1e-3
    for kind in ("x0", "noise", "velocity", "score"):
        expected = good.get(kind) + 1.5 * (good.get(kind) - worse.get(kind))
        assert torch.allclose(said.get(kind), expected, atol=1e-4)
    assert same(d.backbone, d.backbone.state_dict())


def test_the_chosen_blocks_are_those_that_are_broken():
    d, x = dit(), x_of()
    said = guide(d, Perturbed(1.0, "skip", (0, 2)))(x, 0.5, LABELS, NOW).value
    worse = by_hand(by_hand(d, 0, "skip"), 2, "skip")(x, 0.5, LABELS).value
    good = d(x, 0.5, LABELS).value
    assert torch.allclose(said, 2 * good - worse, atol=1e-5)


def test_by_default_the_middle_is_broken():
    sites = find_sites(dit(depth=5).backbone)
    assert [s.name for s in Perturb().select(sites)] == ["blocks.2.attn"]
    assert [s.name for s in Perturb("skip").select(sites)] == ["blocks.2"]
    assert [s.name for s in Perturb().select(find_sites(unet().backbone))] == ["mid.look.attn"]
    text = DiT(channels=1, patch=2, width=16, depth=1, heads=2, text_dim=8)  # what looks at the text is left alone
    assert [s.role for s in Perturb().select(find_sites(text))] == ["attention"]


def test_a_plugin_that_stays_attached_acts_in_the_worse_calls_alone():
    d, rule = dit(), Perturbed(1.0)
    expected = sample(guide(d, rule), (4, 1, 8, 8), DDIM(), 4, cond=LABELS)
    plain = sample(d, (4, 1, 8, 8), DDIM(), 4, cond=LABELS)
    detach = attach(d.backbone, rule.plugin)
    unseen = type("Unseen", (), {"process": d.process, "__call__": lambda self, *asked: d(*asked)})()
    assert torch.equal(sample(guide(unseen, rule), (4, 1, 8, 8), DDIM(), 4, cond=LABELS), expected)
    assert torch.equal(sample(d, (4, 1, 8, 8), DDIM(), 4, cond=LABELS), plain)
    detach()


def test_unet_and_neighbours():
    for d in (unet(), dit()):
        rule = Perturbed(2.0, interval=(0.2, 0.8))
        both = sample(guide(d, rule), (4, 1, 8, 8), DDIM(eta=0.5), 4, cond=LABELS)
        alone = sample(guide(d, rule), (1, 1, 8, 8), DDIM(eta=0.5), 4, cond={"label": LABELS["label"][2:3]}, ids=[2])
        assert torch.allclose(both[2:3], alone, atol=1e-5)
        assert (both - sample(d, (4, 1, 8, 8), DDIM(eta=0.5), 4, cond=LABELS)).abs().max() > 1e-3


def test_rows_at_different_times_answer_as_if_alone():
    d, x, t = guide(dit(), Perturbed(2.0, interval=(0.3, 0.7))), x_of(), torch.tensor([0.1, 0.5, 0.9, 0.6])
    both = d(x, t, LABELS, NOW).x0
    for i in range(4):
        one = d(x[i : i + 1], t[i], {"label": LABELS["label"][i : i + 1]}, Clock(ids=(i,))).x0
        assert torch.allclose(both[i : i + 1], one, atol=1e-5)


def test_the_interval_saves_calls():
    run = Run()
    sample(guide(dit(), Perturbed(2.0, interval=(0.25, 0.55))), (4, 1, 8, 8), DDIM(), 10, cond=LABELS, run=run)
    assert run.record.calls["cond"] == 10 and run.record.calls["perturbed"] == 3  # 0.5, 0.4, 0.3


def test_under_cfg_it_is_one_call_more_and_its_strength_is_multiplied():
    d, x, run = dit(), x_of(), Run()
    said = guide(d, Perturbed(0.5), CFG(3.0))(x, 0.5, LABELS, NOW).value
    good, none = d(x, 0.5, LABELS).value, d(x, 0.5, d.unconditional(LABELS, 4)).value
    worse = by_hand(d, 1, "identity")(x, 0.5, LABELS).value
    assert torch.allclose(said, none + 3 * (good - none) + 3 * 0.5 * (good - worse), atol=1e-5)
    sample(guide(d, Perturbed(0.5), CFG(3.0)), (4, 1, 8, 8), DDIM(), 2, cond=LABELS, run=run)
    assert {k: v for k, v in run.record.calls.items() if k != "evaluations"} == {"cond": 2, "uncond": 2, "perturbed": 2}
    outside = guide(d, CFG(3.0), Perturbed(0.5))(x, 0.5, LABELS, NOW).value
    bad = by_hand(d, 1, "identity")
    there = [none + 3 * (good - none), (low := bad(x, 0.5, d.unconditional(LABELS, 4)).value) + 3 * (worse - low)]
    assert torch.allclose(outside, there[0] + 0.5 * (there[0] - there[1]), atol=1e-5)


def test_a_blur_of_queries():
    q = torch.randn(2, 2, 16, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(_smooth(q, 1e-3), q) and torch.allclose(_smooth(q, 1e6), _smooth(q, float("inf")))
    assert torch.allclose(_smooth(torch.ones_like(q), 0.7), torch.ones_like(q))  # also at the edge
    point = torch.zeros(1, 1, 9, 1, dtype=torch.float64)
    point[0, 0, 4] = 1  # the middle of a 3 x 3 grid
    spread, near = _smooth(point, 1.0)[0, 0, :, 0], torch.exp(torch.tensor(-0.5, dtype=torch.float64))
    assert spread[4] == pytest.approx(float(1 / (1 + 2 * near) ** 2))
    assert spread[1] == pytest.approx(float(near / (1 + near + near**4) / (1 + 2 * near)))
    assert torch.allclose(spread.reshape(3, 3), spread.reshape(3, 3).T)


def test_a_finite_blur_acts_and_tends_to_nothing():
    d, x = dit(), x_of()
    good = d(x, 0.5, LABELS).value
    far, close = (guide(d, Perturbed(1.0, "blur", sigma=s))(x, 0.5, LABELS, NOW).value - good for s in (1.0, 1e-3))
    assert far.abs().max() > 1e-4 and close.abs().max() < 1e-5


def test_what_breaks_inside_leaves_no_trace():
    d = dit()

    class Breaks:
        process = d.process
        calls = 0

        def __init__(self):
            self.denoiser = d

        def __call__(self, x, t, cond=None, clock=None):
            if clock.branch == "perturbed":
                raise RuntimeError("lights")
            return d(x, t, cond, clock)

    with pytest.raises(RuntimeError, match="lights"):
        guide(Breaks(), Perturbed(1.0))(x_of(), 0.5, LABELS, NOW)
    assert same(d.backbone, d.backbone.state_dict())


def test_threads_with_different_perturbations_share_a_network():
    d = dit()
    rules = [Perturbed(1.0), Perturbed(1.0, "skip"), Perturbed(1.0, "identity", (0,)), Perturbed(0.0)]
    alone = [sample(guide(d, r), (4, 1, 8, 8), DDIM(), 12, cond=LABELS) for r in rules]
    found, gate = [None] * len(rules), threading.Barrier(len(rules))

    def work(i):
        gate.wait()
        found[i] = sample(guide(d, rules[i]), (4, 1, 8, 8), DDIM(), 12, cond=LABELS)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(rules))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(torch.equal(a, b) for a, b in zip(alone, found))
    assert not any(torch.allclose(alone[0], other, atol=1e-3) for other in alone[1:])


def test_a_cache_answers_for_its_own_branch():
    d = dit()
    run = Run(scope=object())
    detach = attach(d.backbone, catalog.build("acceleration", "stepreuse:at=(0,2,4)"), scope=run.scope)
    cached = sample(guide(d, Perturbed(1.0)), (4, 1, 8, 8), DDIM(), 6, cond=LABELS, run=run)
    detach()
    plain, exact = (sample(g, (4, 1, 8, 8), DDIM(), 6, cond=LABELS) for g in (d, guide(d, Perturbed(1.0))))
    assert (cached - exact).square().mean() < (plain - exact).square().mean()
    assert same(d.backbone, d.backbone.state_dict())


class Answers:
    """Another part that answers for the attention."""

    effects = Effects()

    def select(self, sites):
        return [s for s in sites if s.grain == "branch" and s.role == "attention"]

    def start(self):
        return None

    def around(self, site, clock, streams, run, memory):
        return {"out": streams["x"]}


def test_it_says_where_it_cannot_work():
    x, bed = torch.randn(4, 6), Mixture.random(Flow(), dims=6, components=4)
    with pytest.raises(OrnsteinError, match="nothing was perturbed by 'identity'"):
        guide(bed, Perturbed(1.0))(x, 0.5, LABELS, NOW)
    d = dit()
    detach = attach(d.backbone, Answers())
    with pytest.raises(OrnsteinError, match="nothing was perturbed"):
        sample(guide(d, Perturbed(1.0)), (4, 1, 8, 8), DDIM(), 2, cond=LABELS)
    detach()
    for act, words in (
        (lambda: guide(unet(), Perturbed(1.0, "skip"))(x_of(), 0.5, LABELS, NOW), "finds no place"),
        (lambda: guide(dit(), Perturbed(1.0, blocks=(3,)))(x_of(), 0.5, LABELS, NOW), "block 3 has no place"),
        (lambda: Perturbed(1.0, "idntity"), "Did you mean 'identity'"),
        (lambda: Perturbed(1.0, blocks=(-1,)), "are not places"),
        (lambda: Perturbed(1.0, "blur", sigma=0.0), "no width of a blur"),
        (lambda: Perturbed(1.0, interval=(0.7, 0.3)), "rising pair"),
        (lambda: _smooth(torch.zeros(1, 1, 12, 4), 1.0), "no square"),
    ):
        with pytest.raises(OrnsteinError, match=words):
            act()


def test_built_from_text():
    rule = catalog.build("guidance", "perturbed:strength=2,perturb=skip,blocks=(1,2),interval=(0.1,0.9)")
    assert rule == Perturbed(2, "skip", (1, 2), (0.1, 0.9)) and rule.plugin == Perturb("skip", (1, 2))
    assert catalog.build("guidance", "perturbed:blocks=2").plugin.blocks == (2,)
