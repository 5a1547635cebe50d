"""What the contract leaves unsaid of DeeDiff: who leaves where, what leaving hands on, what is learned, and refusals."""

from __future__ import annotations

import pytest
import torch
from small import denoiser, labels
from torch import nn

from ornstein.acceleration.deediff import DeeDiff, hats, leave, uncertainty
from ornstein.core.artefact import Artefact
from ornstein.core.clock import Clock
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Run, attach, calling, running
from ornstein.core.sites import Seat
from ornstein.recipes.train_deediff import Recipe, _exit, train_deediff


class Grow(nn.Module):
    """x + by * (its second channel's share): rows change at their own rate."""

    seat = Seat("block", streams=("x",))

    def __init__(self) -> None:
        super().__init__()
        self.rows = 0

    def forward(self, x, rate):
        self.rows += len(x)
        return x * (1 + rate[:, None, None])


class Net(nn.Module):
    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Grow() for _ in range(depth))

    def forward(self, x, rates):
        for block, rate in zip(self.blocks, rates):
            x = block(x, rate)
        return x


def answer(net, plugin, x, rates):
    run, detach = Run(), attach(net, plugin)
    try:
        with running(run), calling(Clock(ids=tuple(range(len(x))), t=0.5)):
            return net(x, rates), run.record
    finally:
        detach()


def test_each_sample_leaves_after_the_first_block_that_changes_it_little():
    rates = torch.tensor([[0.01, 0.5, 0.5], [0.5, 0.5, 0.5], [0.5, 0.5, 0.01], [0.5, 0.5, 0.5]])  # [block, sample]
    net, x = Net(), torch.ones(3, 2, 4)
    out, record = answer(net, DeeDiff(0.1), x, rates)
    grown = torch.tensor([1.01, 1.5**4, 1.5 * 1.5 * 1.01])
    assert torch.allclose(out[:, 0, 0], grown) and [b.rows for b in net.blocks] == [3, 2, 2, 1]
    assert record.facts["deediff"]["cond"]["exits"] == 2
    assert record.computed_at["blocks.3/block"] == pytest.approx(1 / 3)
    fixed, record = answer(net, DeeDiff(0.1, always=1), x, rates)
    assert torch.allclose(fixed[:, 0, 0], (1 + rates[:2]).prod(0)) and record.facts["deediff"]["cond"]["exits"] == 3


def test_heads_are_what_leaves_and_what_decides():
    """Interpolated in time, on the rows that leave alone; the last block has no head."""
    torch.manual_seed(0)
    arrays = {"knots": torch.tensor([0.0, 1.0]), "out": torch.randn(3, 2, 5, 4), "doubt": torch.zeros(3, 6)}
    arrays["doubt"][0, :4] = torch.tensor([3.0, -1, -1, -1])  # certain where the first channel is low
    arrays["doubt"][0, 4:] = -6.0
    x = torch.randn(4, 2, 4)
    rates, net = torch.zeros(4, 4), Net()
    u = uncertainty(arrays, 0, x, torch.full((4,), 0.5))
    threshold = float(u.sort().values[1:3].mean())
    out, record = answer(net, DeeDiff(threshold, Artefact("deediff", arrays)), x, rates)
    goes = u < threshold
    mean = arrays["out"][0].mean(0)  # half way between the knots
    assert torch.allclose(out[goes], (x + x @ mean[:4] + mean[4])[goes], atol=1e-5)
    assert threshold < 0.5, "the other heads say exactly 1/2"
    assert torch.equal(out[~goes], x[~goes]) and record.facts["deediff"]["cond"]["exits"] == 2
    assert torch.equal(leave(arrays, 0, x, torch.zeros(4)), x + x @ arrays["out"][0, 0, :4] + arrays["out"][0, 0, 4:])


def test_an_exit_is_exact_where_the_rest_is_linear_between_the_knots():
    torch.manual_seed(0)
    h, t, knots = torch.randn(40, 3, 4), torch.rand(40), torch.tensor([0.0, 1.0])
    last = h @ torch.randn(4, 4) + t[:, None, None] * torch.randn(4)
    out = _exit(h, last, hats(t, knots), torch.rand(40) + 1, 1e-9)
    assert torch.allclose(leave({"knots": knots, "out": out[None]}, 0, h, t), last, atol=1e-4)


def test_hats_interpolate_and_stay_constant_outside():
    knots = torch.tensor([0.0, 0.2, 1.0])
    t = torch.tensor([-1.0, 0.0, 0.1, 0.2, 0.6, 1.0, 5.0])
    assert torch.allclose(hats(t, knots) @ knots, t.clamp(0, 1)) and torch.allclose(hats(t, knots).sum(1), torch.ones(7))


def test_learned_exits_err_less_and_learned_doubts_follow_the_error(tmp_path):
    found = train_deediff(denoiser(), (1, 8, 8), labels, Recipe(samples=16, steps=8, knots=2))
    heads = Artefact.load(found.save(tmp_path / "heads.safetensors"), "deediff")
    torch.manual_seed(1)
    x, t = torch.randn(32, 1, 8, 8), torch.linspace(0.99, 0.9, 32)
    cond = labels(torch.Generator().manual_seed(4), 32)
    net, clock = denoiser().backbone, Clock(t=t, ids=tuple(range(32)))
    plain, tried = denoiser()(x, t, cond).value, {}
    for name, part in {"learned": DeeDiff(heads=heads, always=1), "as it is": DeeDiff(always=1)}.items():
        detach = attach(net, part)
        with running(Run()):
            tried[name] = (denoiser()(x, t, cond, clock).value - plain).flatten(1).norm(dim=1)
        detach()
    assert tried["learned"].mean() < 0.8 * tried["as it is"].mean()
    assert found.settings["error"] == sorted(found.settings["error"], reverse=True), "later exits err less"


def test_a_foreign_network_of_two_streams():
    """Rows leave for themselves, with both streams."""
    pytest.importorskip("diffusers")
    import zoo

    for kind in ("SD3Transformer2DModel", "FluxTransformer2DModel", "DiTTransformer2DModel"):
        net, inputs = zoo.specimen(kind)
        plain, said = zoo.call(net, inputs), []
        for part in (DeeDiff(always=0), DeeDiff(always=50), DeeDiff(0)):
            run, detach = Run(), attach(net, part)
            with running(run), calling(Clock(ids=(0, 1))):
                said.append(zoo.call(net, inputs))
            detach()
        assert torch.equal(said[1], plain) and torch.equal(said[2], plain)
        assert said[0].isfinite().all() and not torch.equal(said[0], plain)


def test_refusals():
    with pytest.raises(OrnsteinError, match="between 0 and 1"):
        DeeDiff(1.5)
    arrays = {"knots": torch.tensor([0.0, 1.0]), "out": torch.zeros(2, 2, 5, 4), "doubt": torch.zeros(2, 6)}
    with pytest.raises(OrnsteinError, match="heads are of 3 blocks, which does not fit 4"):
        attach(Net(), DeeDiff(heads=Artefact("deediff", arrays)))
    with pytest.raises(OrnsteinError, match="Denoiser with a network"):
        train_deediff(lambda x, t: x, (1, 8, 8))
