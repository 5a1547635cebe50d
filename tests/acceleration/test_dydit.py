"""What the contract leaves unsaid of DyDiT: slices are masks, widths follow the time, tokens are chosen one by one."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn

from ornstein.acceleration.dydit import DyDiT, learn_dydit
from ornstein.acceleration.layers.router import FEATURES, Fit, Lesson
from ornstein.acceleration.layers.width import Masked
from ornstein.core import catalog
from ornstein.core.artefact import Artefact
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Run, attach, calling, running
from ornstein.core.sites import Seat

D, L, M, B = 32, 3, 128, 4


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(3)
    found = catalog.build("backbones", f"dit:channels=1,patch=2,width={D},depth={L},heads=4,classes=10")
    for parameter in found.parameters():
        nn.init.normal_(parameter, std=0.15)
    return found.eval().requires_grad_(False)


def routers(tokens: bool = True) -> Artefact:
    torch.manual_seed(1)
    return Artefact("dydit", {
        "attention.time": torch.randn(L, FEATURES, 3), "attention.bias": torch.randn(L, 3) * 0.3,
        "mlp.time": torch.randn(L, FEATURES, 7), "mlp.bias": torch.randn(L, 7) * 0.3,
        "tokens.in": torch.randn(L, D, 4 if tokens else 0), "tokens.out": torch.randn(L, 4 if tokens else 0) * 0.3,
        "tokens.bias": torch.zeros(L, 1)[:, 0], "order": torch.stack([torch.randperm(M) for _ in range(L)]).short()})  # fmt: skip


def answers(net, plugin, t, x=None, calls=2):
    """The last of some calls at the times t [B]; the record."""
    x = torch.randn(len(t), 1, 8, 8, generator=torch.Generator().manual_seed(0)) if x is None else x
    cond, run = {"label": torch.arange(len(t))}, Run()
    detach = attach(net, plugin)
    try:
        with running(run):
            for k in range(calls):
                with calling(Clock(k, 0, calls, t=t, ids=tuple(range(len(t))))):
                    out = net(x, t, cond)
    finally:
        detach()
    return out, run


@pytest.mark.parametrize("tokens", [False, True])
def test_what_is_taught_is_what_runs(net, tokens):
    """Masked and sliced answers agree, rows at times of their own included, and so do the costs."""
    t, lesson = torch.tensor([0.1, 0.4, 0.6, 0.9]), Lesson()
    fast, run = answers(net, DyDiT(routers(tokens)), t)
    slow, _ = answers(net, DyDiT(routers(tokens), lesson=lesson), t, calls=1)
    assert torch.allclose(fast, slow, atol=1e-5)
    at, done = run.record.computed_at, 0.0
    for k in range(L):
        attention, mlp = at[f"blocks.{k}.attn/branch"] - 1, at[f"blocks.{k}.mlp/branch"] - 1  # the first call is whole
        done += (attention * (4 * D + 32) + mlp * 8 * D) / (12 * D + 32) / L
    assert 0.2 < done < 0.9 and abs(done - torch.stack(lesson.costs).sum(0).mean()) < 1e-5


def test_a_row_does_not_depend_on_its_neighbours(net):
    t, x = torch.tensor([0.1, 0.4, 0.6, 0.9]), torch.randn(B, 1, 8, 8)
    together, _ = answers(net, DyDiT(routers()), t, x)
    for i in range(B):
        detach, out = attach(net, DyDiT(routers())), None
        with running(Run()):
            for k in range(2):
                with calling(Clock(k, t=t[i : i + 1], ids=(i,))):
                    out = net(x[i : i + 1], t[i : i + 1], {"label": torch.tensor([i])})
        detach()
        assert torch.allclose(out[0], together[i], atol=1e-5)


def test_the_first_head_and_group_stay_on(net):
    off = routers(tokens=False)
    for role in ("attention", "mlp"):
        off.arrays[f"{role}.time"].zero_()
        off.arrays[f"{role}.bias"].fill_(-9.0)
    out, run = answers(net, DyDiT(off), torch.full((B,), 0.4))
    assert out.isfinite().all()
    assert run.record.computed_at["blocks.1.attn/branch"] == 1 + 1 / 4
    assert run.record.computed_at["blocks.1.mlp/branch"] == 1 + 1 / 8


def test_weights_are_cut_when_the_width_changes(net):
    t, plugin = torch.full((B,), 0.3), DyDiT(width=0.5)
    out, run = answers(net, plugin, t, calls=6)
    facts = run.record.facts["dydit"]["cond"]
    assert facts["cuts"] == 2 * L
    layers = [layer for b in net.blocks for layer in (b.attn.qkv, b.attn.out, b.mlp[0], b.mlp[2])]
    half = sum(layer.weight.numel() for layer in layers)
    assert 0.5 * half * 4 < facts["cache_bytes"] < 0.6 * half * 4
    whole, _ = answers(net, plugin, torch.full((B,), 0.8), calls=2)
    with calling(None):
        assert torch.equal(whole, net(torch.randn(B, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
                                      torch.full((B,), 0.8), {"label": torch.arange(B)}))  # fmt: skip
    assert not torch.equal(out, whole)


def test_separate_projections_of_diffusers():
    pytest.importorskip("diffusers")
    from diffusers.models.attention import FeedForward
    from diffusers.models.attention_processor import Attention

    torch.manual_seed(0)

    class TransformerBlock(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn1 = Attention(16, heads=4, dim_head=4, bias=True)
            self.ff = FeedForward(16, activation_fn="gelu")

        def forward(self, hidden_states):
            hidden_states = hidden_states + self.attn1(hidden_states)
            hidden_states = hidden_states + self.ff(hidden_states)
            return hidden_states

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([TransformerBlock(), TransformerBlock()])

        def forward(self, hidden_states):
            for block in self.blocks:
                hidden_states = block(hidden_states)
            return hidden_states

    foreign, x = Net().eval().requires_grad_(False), torch.randn(2, 5, 16)
    detach = attach(foreign, DyDiT(width=0.5))
    with running(Run()):
        for k in range(2):
            with calling(Clock(k, t=0.2, ids=(0, 1))):
                slim = foreign(x)
    detach()
    mask, h = torch.tensor([[1.0, 1, 0, 0]]).expand(2, 4), x
    for block in foreign.blocks:
        with Masked("attention", "a", mask):
            h = h + block.attn1(h)
        with Masked("mlp", "m", mask):
            h = h + block.ff(h)
    assert torch.allclose(slim, h, atol=1e-5) and not torch.allclose(slim, foreign(x), atol=1e-2)


class Gated(nn.Module):
    seat: ClassVar[Seat] = Seat("branch", "mlp")

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 32), nn.Linear(16, 8)

    def forward(self, x):
        one, two = self.up(x).chunk(2, -1)
        return self.down(one * two)


class Holder(nn.Module):
    seat: ClassVar[Seat] = Seat("block", "block", ("x",))

    def __init__(self):
        super().__init__()
        self.mlp = Gated()

    def forward(self, x):
        return x + self.mlp(x)


def test_a_gated_mlp_is_refused_by_name():
    gated = nn.Sequential(Holder())
    detach = attach(gated, DyDiT())
    try:
        with running(Run()), calling(Clock(ids=(0,))), pytest.raises(OrnsteinError, match=r"'0.mlp' is not two plain"):
            gated(torch.randn(1, 3, 8))
    finally:
        detach()


def test_learning_reaches_the_target(net):
    def data(source, batch):
        return torch.randn(batch, 1, 8, 8, generator=source), {"label": torch.randint(10, (batch,), generator=source)}

    denoiser = Denoiser(net, catalog.build("processes", "flow"))
    found = learn_dydit(denoiser, data, Fit(target=0.7, steps=40, batch=8, lr=0.2))
    assert abs(found.settings["cost"] - 0.7) < 0.12
    assert any((found.arrays[f"{role}.bias"] != 2).any() for role in ("attention", "mlp"))
