"""The contract of backbones/: every file."""

from __future__ import annotations

import copy
import hashlib
from functools import cache

import pytest
import torch
from torch import nn

from ornstein.core import catalog
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoiser
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Output
from ornstein.core.seam import Run, attach, calling, running
from ornstein.core.sites import find_sites

# name -> (a small network with classes, the same with text, hashes of both lists of parameter names, a tap)
TABLE = {
    "dit": ("dit:channels=1,patch=2,width=32,depth=3,heads=4,classes=10",
            "dit:channels=3,patch=2,width=32,depth=2,heads=4,text_dim=12,shared=True", "41b974d363e5", "blocks.1"),
    "unet": ("unet:channels=1,width=16,multipliers=(1,2),classes=10",
             "unet:channels=3,width=16,multipliers=(1,2,2),text_dim=12,blocks=2", "def7cb704bf2", "mid"),
    "token_dit": ("token_dit:tokens=5,channels=1,patch=2,width=32,depth=3,heads=4,classes=10",
                  "token_dit:tokens=3,channels=3,patch=2,width=32,depth=2,heads=4,text_dim=12,shared=True", "be2119a9f4a5",
                  "network.blocks.1"),
}  # fmt: skip
NAMES = [e.name for e in catalog.entries("backbones")]
TOKENS = {n for n in NAMES if getattr(catalog.load("backbones", n), "discrete", False)}  # take whole numbers, say logits
every = pytest.mark.parametrize("name", NAMES)
both = pytest.mark.parametrize("kind", [0, 1], ids=["classes", "text"])


def test_every_file_is_in_the_table():
    assert set(NAMES) == set(TABLE), "add the small networks of the new backbone to TABLE"


@cache
def network(name: str, kind: int = 0) -> nn.Module:
    """With every parameter redrawn: zero gates would hide what the parts do."""
    torch.manual_seed(0)
    net = catalog.build("backbones", TABLE[name][kind])
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.15)
    return net.eval().requires_grad_(False)


def inputs(name: str, kind: int, rows: int = 3, size: int = 8):
    source = torch.Generator().manual_seed(5)
    x, t = torch.randn(rows, 3 if kind else 1, size, size, generator=source), torch.linspace(0.1, 0.9, rows)
    x = like(name, x)
    if not kind:
        return x, t, {"label": torch.arange(rows)}
    mask = torch.arange(5) < torch.arange(2, 2 + rows)[:, None].clamp(max=5)
    return x, t, {"tokens": torch.randn(rows, 5, 12, generator=source), "mask": mask,
                  "pooled": torch.randn(rows, 12, generator=source)}  # fmt: skip


def like(name: str, x: torch.Tensor) -> torch.Tensor:
    """A sample as the network takes it: numbers, or 0, 1, 2 and 3."""
    return (2 * x.abs()).long().clamp_max(3) if name in TOKENS else x


def answer(name: str, kind: int, x: torch.Tensor) -> torch.Size:
    """The shape of what it says of x."""
    return (*x.shape, 3 if kind else 5) if name in TOKENS else x.shape


@every
@both
def test_shape_and_zero_start(name, kind):
    torch.manual_seed(0)
    x, t, cond = inputs(name, kind)
    fresh = catalog.build("backbones", TABLE[name][kind])
    assert torch.equal(fresh(x, t, cond), torch.zeros(answer(name, kind, x))), "a fresh network says zero"
    for size in ((8, 8), (16, 8)):
        y = like(name, torch.randn(3, x.shape[1], *size))
        assert network(name, kind)(y, t, cond).shape == answer(name, kind, y)


@every
@both
def test_a_sample_does_not_depend_on_its_neighbours(name, kind):
    net, (x, t, cond) = network(name, kind), inputs(name, kind)
    together = net(x, t, cond)
    for i in range(3):
        alone = net(x[i : i + 1], t[i : i + 1], {k: v[i : i + 1] for k, v in cond.items()})
        assert torch.allclose(alone[0], together[i], atol=1e-5)


@every
@both
def test_time_and_condition_are_of_each_sample(name, kind):
    net, (x, t, cond) = network(name, kind), inputs(name, kind)
    plain = net(x, t, cond)
    later = net(x, t + torch.tensor([0.0, 0.05, 0.0]), cond)
    moved = (later - plain).abs().flatten(1).amax(1)
    assert moved[1] > 1e-4 and max(moved[0], moved[2]) < 1e-5
    for key in set(cond) - {"mask"}:
        other = {k: v.clone() for k, v in cond.items()}
        other[key][2] = other[key][2] + 1
        moved = (net(x, t, other) - plain).abs().flatten(1).amax(1)
        assert moved[2] > 1e-5 and max(moved[0], moved[1]) < 1e-5, key


@every
def test_masked_text_is_not_seen(name):
    net, (x, t, cond) = network(name, 1), inputs(name, 1)
    other = cond | {"tokens": torch.where(cond["mask"][..., None], cond["tokens"], 7.0)}
    assert torch.allclose(net(x, t, cond), net(x, t, other), atol=1e-5)


@every
def test_names_of_parameters_are_stable(name):
    """Weights in the field are read by these names: a change needs a migration, not a new hash."""
    text = "".join(f"{k}{tuple(v.shape)};" for kind in (0, 1) for k, v in network(name, kind).state_dict().items())
    assert hashlib.sha256(text.encode()).hexdigest()[:12] == TABLE[name][2]


@every
def test_the_same_weights_give_the_same_answer(name):
    x, t, cond = inputs(name, 0)
    other = catalog.build("backbones", TABLE[name][0])
    other.load_state_dict(network(name).state_dict())
    assert torch.equal(other(x, t, cond), network(name)(x, t, cond))


@every
@both
def test_sites_cover_the_network(name, kind):
    """Blocks or stages hold most weights and do not overlap; attention is seen as branch and as attention."""
    net = network(name, kind)
    sites = find_sites(net)
    parts = [s.name for s in sites if s.grain in ("block", "stage")]
    held = sum(p.numel() for n in parts for p in net.get_submodule(n).parameters())
    others = ("time", "condition", "modulation", "final_modulation", "embed", "head", "norm")
    assert held + sum(p.numel() for k, p in net.named_parameters() if k.removeprefix("network.").split(".")[0] in others) == sum(
        p.numel() for p in net.parameters()
    ), "a parameter that is neither in a block nor an embedding or head"
    roles = {(s.grain, s.role) for s in sites}
    assert {("branch", "attention"), ("attention", "attention")} <= roles
    assert (("branch", "cross_attention") in roles) == bool(kind)


class Neutral:
    effects = Effects.of()

    def __init__(self) -> None:
        self.asked: list[str] = []

    def select(self, sites):
        return sites

    def start(self):
        return None

    def around(self, site, clock, streams, run, memory):
        self.asked.append(f"{site.name}/{site.grain}")
        return run(streams)


@every
@both
def test_the_neutral_seam_is_bit_exact(name, kind):
    net, (x, t, cond), plugin = network(name, kind), inputs(name, kind), Neutral()
    plain = net(x, t, cond)
    detach = attach(net, plugin)
    with running(Run()), calling(Clock(ids=(0, 1, 2))):
        seen = net(x, t, cond)
    detach()
    assert torch.equal(seen, plain) and torch.equal(net(x, t, cond), plain)
    assert set(plugin.asked) == {f"{s.name}/{s.grain}" for s in find_sites(net)}, "a site that is never called"


@every
def test_bad_sizes_and_conditions_are_refused_in_words(name):
    net, (x, t, cond) = network(name), inputs(name, 0)
    for bad in (torch.randn(3, 1, 7, 8), torch.randn(3, 2, 8, 8), torch.randn(3, 1, 8)):
        with pytest.raises(OrnsteinError, match="cannot take a sample of shape"):
            net(like(name, bad), t, cond)
    with pytest.raises(OrnsteinError, match="needs the condition 'label'"):
        net(x, t, None)
    with pytest.raises(OrnsteinError, match="'label' has shape"):
        net(x, t, {"label": torch.arange(2)})
    x, t, cond = inputs(name, 1)
    with pytest.raises(OrnsteinError, match="'tokens' has shape"):
        network(name, 1)(x, t, cond | {"tokens": torch.randn(3, 5, 11)})


@every
@both
def test_the_null_condition_fits(name, kind):
    net, (x, t, cond) = network(name, kind), inputs(name, kind)
    null = net.null_condition(cond, 3)
    assert set(null) == set(cond) and not torch.equal(net(x, t, null), net(x, t, cond))


@every
def test_taps(name):
    net, (x, t, cond) = network(name), inputs(name, 0)
    out = net(x, t, cond, taps=[TABLE[name][3]])
    assert isinstance(out, Output) and torch.equal(out.value, net(x, t, cond))
    assert list(out.taps) == [TABLE[name][3]] and len(out.taps[TABLE[name][3]]) == 3


@every
@both
def test_bfloat16(name, kind):
    x, t, cond = inputs(name, kind)
    half = copy.deepcopy(network(name, kind)).to(torch.bfloat16)
    out, full = half(x, t, cond).float(), network(name, kind)(x, t, cond)
    assert out.isfinite().all() and (out - full).norm() < 0.1 * full.norm()


@every
@both
def test_the_gradient_reaches_every_parameter(name, kind):
    x, t, cond = inputs(name, kind)
    net = copy.deepcopy(network(name, kind)).requires_grad_(True)
    net(x, t, cond).square().mean().backward()
    dead = [k for k, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not dead


def test_the_unet_refuses_what_it_cannot_be():
    for spec, words in (("unet:width=20", "Each width must be a multiple"), ("unet:attention_levels=(3,)", "levels are 0 to 2")):
        with pytest.raises(OrnsteinError, match=words):
            catalog.build("backbones", spec)
    x, t, cond = inputs("unet", 0)
    with pytest.raises(OrnsteinError, match="one per sample"):
        network("unet")(x, t[:1], cond)
    with pytest.raises(OrnsteinError, match="tap"):
        network("unet")(x, t, cond, taps=["middle"])


def test_encode_and_decode_are_the_unet():
    net, (x, t, cond) = network("unet"), inputs("unet", 0)
    context = net.context(t, cond, 3)
    skips, mid = net.encode(x, context)
    assert torch.equal(net.decode(mid, skips, context), net(x, t, cond))
    assert not torch.equal(net.decode(mid, [tuple(0 * s for s in k) for k in skips], context), net(x, t, cond))


def test_a_time_of_each_pixel_reaches_the_tokens_through_the_denoiser():
    """t [B, 1, H, W], the same within a patch, is t [B, N] of the tokens; even all over it is t [B]."""
    net = network("dit")
    denoiser = Denoiser(net, catalog.build("processes", "flow"))
    x, label = torch.randn(2, 1, 8, 8), {"label": torch.tensor([3, 4])}
    tokens = torch.rand(2, 16)
    pixels = tokens.reshape(2, 1, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(denoiser(x, pixels, label).velocity, net(x, tokens, label), atol=1e-5)
    even = torch.tensor([0.3, 0.7])
    said = denoiser(x, even.reshape(2, 1, 1, 1).expand(2, 1, 8, 8), label).velocity
    assert torch.allclose(said, denoiser(x, even, label).velocity, atol=1e-5)
    assert not torch.allclose(said, denoiser(x, pixels, label).velocity, atol=1e-2)
