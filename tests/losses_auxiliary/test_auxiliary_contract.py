"""What every auxiliary loss keeps to: alignment, and its place beside the denoising loss."""

import inspect
import math

import pytest
import torch
from torch import nn

from ornstein.core import catalog
from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Output
from ornstein.losses.auxiliary.alignment import Alignment

NAMES = [e.path for e in catalog.entries("losses") if "/auxiliary/" in e.path]


def build(path, **changes):
    """As it would stand beside a DiT of width 32."""
    torch.manual_seed(0)
    part = catalog.load("losses", path)
    return part(lambda x: x.flatten(1)[:, :6], 32, 6, **({"tap": "blocks.0", "hidden": 16} | changes))


def network():
    torch.manual_seed(0)
    net = catalog.load("backbones", "dit")(channels=1, patch=2, width=32, depth=2, heads=4, classes=10)
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    return Denoiser(net, catalog.build("processes", "flow"), null=net.null_condition)


def batch(n=6):
    g = torch.Generator().manual_seed(1)
    return {"x0": torch.randn(n, 1, 8, 8, generator=g), "cond": {"label": torch.arange(n)}, "t": torch.full((n,), 0.5),
            "u": torch.full((n,), 0.5), "noise": torch.randn(n, 1, 8, 8, generator=g)}


def test_the_room_is_not_empty():
    assert "losses/auxiliary/alignment" in NAMES


@pytest.mark.parametrize("path", NAMES)
def test_the_shape_of_the_room(path):
    part = catalog.load("losses", path)
    call = part.forward if issubclass(part, nn.Module) else part.__call__
    assert list(inspect.signature(call).parameters) == ["self", "output", "batch", "step"]
    assert hasattr(part, "parameters")


def test_it_is_added_by_the_denoising_loss_and_trains_tap_and_projector():
    denoiser, aux = network(), build("alignment")
    loss = catalog.load("losses", "denoising")(auxiliaries=(aux,))
    losses = loss(denoiser, batch(), None, 0)
    plain = catalog.load("losses", "denoising")()(denoiser, batch(), None, 0)
    assert torch.equal(losses["denoising"], plain["denoising"])
    assert torch.allclose(losses["loss"], losses["denoising"] + losses["alignment"]) and losses["alignment"] != 0
    losses["alignment"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in aux.parameters())
    net = denoiser.backbone
    assert net.embed.weight.grad.abs().sum() > 0 and net.blocks[0].attn.qkv.weight.grad.abs().sum() > 0
    assert net.head.weight.grad is None and net.blocks[1].attn.qkv.weight.grad is None, "nothing above the tap"


def test_outside_of_its_steps_it_is_exactly_zero_and_computes_nothing():
    calls = []

    def features(x):
        calls.append(1)
        return x.flatten(1)[:, :6]

    aux = Alignment(features, 32, 6, tap="blocks.0", start=10, stop=20, hidden=8)
    aux.projector.register_forward_hook(lambda *a: calls.append(2))
    out = Output(torch.zeros(6, 1, 8, 8), {"blocks.0": torch.randn(6, 16, 32, requires_grad=True)})
    for step in (0, 9, 20, 10**6):
        value = aux(out, batch(), step)["alignment"]
        assert value == 0 and not value.requires_grad and not calls
    for step in (10, 19):
        assert aux(out, batch(), step)["alignment"] != 0
    assert calls == [1, 2, 1, 2] or calls == [2, 1, 2, 1]


def test_the_equation():
    aux = build("alignment", weight=0.7)
    h = torch.randn(6, 16, 32)
    y = batch()["x0"].flatten(1)[:, :6][:, None]
    p = aux.projector(h)
    cos = (p * y).sum(-1) / (p.norm(dim=-1) * y.norm(dim=-1))
    got = aux(Output(torch.zeros(1), {"blocks.0": h}), batch(), 0)["alignment"]
    assert torch.allclose(got, -0.7 * cos.mean(), atol=1e-5)
    perfect = Alignment(lambda x: h, 32, 32, tap="b", weight=0.5)
    perfect.projector = nn.Sequential(nn.Linear(32, 32))
    nn.init.eye_(perfect.projector[0].weight), nn.init.zeros_(perfect.projector[0].bias)
    assert perfect(Output(h, {"b": h}), batch(), 0)["alignment"].item() == pytest.approx(-0.5, abs=1e-5)


def test_targets_are_frozen_and_not_ours():
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 6))
    aux = Alignment(teacher, 32, 6, tap="b", hidden=8)
    assert not {id(p) for p in teacher.parameters()} & {id(p) for p in aux.parameters()}
    assert not any("features" in k for k in aux.state_dict())
    aux(Output(torch.zeros(1), {"b": torch.randn(6, 16, 32)}), batch(), 0)["alignment"].backward()
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("shape", [(6, 5), (6, 16, 5), (6, 5, 4, 4), (6, 5, 2, 8), (6, 64, 5), (6, 4, 5), (6, 5, 8, 8)])
def test_features_are_laid_over_the_tokens(shape):
    aux = Alignment(lambda x: torch.randn(shape), 32, 5, tap="b", hidden=8)
    assert math.isfinite(aux(Output(torch.zeros(1), {"b": torch.randn(6, 16, 32)}), batch(), 0)["alignment"].item())


def test_maps_keep_their_raster_order():
    maps = torch.randn(6, 5, 4, 4)
    h = torch.randn(6, 16, 32)
    values = []
    fine = maps.repeat_interleave(2, 2).repeat_interleave(2, 3)
    for target in (maps, maps.flatten(2).transpose(1, 2), fine, fine.flatten(2).transpose(1, 2)):
        torch.manual_seed(0)
        aux = Alignment(lambda x, y=target: y, 32, 5, tap="b", hidden=8)
        values.append(aux(Output(torch.zeros(1), {"b": h}), batch(), 0)["alignment"].item())
    assert values[1:] == pytest.approx(values[:1] * 3, abs=1e-6)


def test_it_is_finite_in_bfloat16():
    denoiser, aux = network(), build("alignment")
    with torch.autocast("cpu", torch.bfloat16):
        losses = catalog.load("losses", "denoising")(auxiliaries=(aux,))(denoiser, batch(), None, 0)
    losses["loss"].backward()
    assert losses["alignment"].dtype == torch.float32 and losses["loss"].isfinite()
    assert all(p.grad.isfinite().all() for p in aux.parameters())


def test_what_cannot_work_is_refused():
    out = Output(torch.zeros(1), {"blocks.0": torch.randn(6, 16, 32)})
    for bad in ({"weight": 0.0}, {"start": 5, "stop": 5}):
        with pytest.raises(OrnsteinError, match="does nothing"):
            build("alignment", **bad)
    with pytest.raises(OrnsteinError, match="unknown tap 'blocks.1'. Did you mean 'blocks.0'"):
        build("alignment", tap="blocks.1")(out, batch(), 0)
    for shape in ((6, 7, 6), (6, 6, 3, 5)):
        with pytest.raises(OrnsteinError, match="cannot be laid over 16 tokens"):
            Alignment(lambda x, s=shape: torch.zeros(s), 32, 6, tap="blocks.0")(out, batch(), 0)
    for shape in ((6, 16, 7), (3, 16, 6)):
        with pytest.raises(OrnsteinError, match="do not fit projected states"):
            Alignment(lambda x, s=shape: torch.zeros(s), 32, 6, tap="blocks.0")(out, batch(), 0)
