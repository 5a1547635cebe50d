"""What the contract leaves unsaid of Re-ttention: exactness at a refresh, what a sparse evaluation answers, refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ornstein.acceleration.rettention import Rettention, banded
from ornstein.core.clock import Clock
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Run, attach, attention_lse, calling, running
from ornstein.core.sites import Seat

TOKENS, WIDTH = 50, 0.25
RADIUS = round(WIDTH * TOKENS / 2)


class Attend(nn.Module):
    seat = Seat("branch", "attention")

    def __init__(self, **settings):
        super().__init__()
        self.settings = settings

    def forward(self, qkv):
        return F.scaled_dot_product_attention(*qkv.unbind(1), **self.settings)


class Holder(nn.Module):
    seat = Seat("block", streams=("x",))

    def __init__(self, **settings):
        super().__init__()
        self.attn = Attend(**settings)

    def forward(self, x):
        return self.attn(x)


class Net(nn.Module):
    def __init__(self, **settings):
        super().__init__()
        self.blocks = nn.ModuleList([Holder(**settings)])

    def forward(self, x):
        return self.blocks[0](x)


def answers(plugin, inputs, **settings):
    """What comes out for qkv [steps][B, 3, H, N, d]."""
    net, run, out = Net(**settings), Run(), []
    detach = attach(net, plugin)
    try:
        with running(run):
            for k, x in enumerate(inputs):
                with calling(Clock(k, t=1 - 0.1 * k, ids=tuple(range(len(x))))):
                    out.append(net(x))
    finally:
        detach()
    return out, run


def moving(steps, by=0.2, dtype=torch.float64):
    source = torch.Generator().manual_seed(0)
    x = torch.randn(2, 2, 3, 2, TOKENS, 8, generator=source, dtype=dtype)
    return [x[0] * 1.5 + by * k * x[1] for k in range(steps)]


def full(x):
    return F.scaled_dot_product_attention(*x.unbind(1))


def band(x, radius=RADIUS):
    """The window's output and log-sum-exp, by way of a mask over all scores."""
    i = torch.arange(TOKENS)
    return attention_lse(*x.unbind(1), mask=(i[:, None] - i).abs() <= radius)


@pytest.mark.parametrize("radius", [0, 1, 3, 8, 9, 25, 60])
@pytest.mark.parametrize("tokens", [50, 48, 7, 1])
def test_the_band_is_the_masked_attention(radius, tokens):
    q, k, v = torch.randn(3, 2, 3, tokens, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    i = torch.arange(tokens)
    expected, _ = attention_lse(q, k, v, (i[:, None] - i).abs() <= radius)
    assert torch.allclose(banded(q, k, v, radius), expected, atol=1e-12)


def test_where_nothing_moves_a_sparse_evaluation_is_exact():
    still = moving(1) * 6
    out, run = answers(Rettention(WIDTH, 4, 2), still)
    assert all(torch.allclose(o, full(still[0]), atol=1e-12) for o in out)
    assert run.record.computed_at["blocks.0.attn/attention"] == 3  # 0, 1, 5


def test_the_equation_when_it_moves():
    inputs = moving(4)
    out, _ = answers(Rettention(WIDTH, 5, 2), inputs)
    (old, lse), total = band(inputs[1]), attention_lse(*inputs[1].unbind(1))[1]
    rho = (lse - total).exp()[..., None]
    for k in (2, 3):
        expected = full(inputs[1]) + rho * (band(inputs[k])[0] - old)
        assert torch.allclose(out[k], expected, atol=1e-12)
    plain, _ = answers(Rettention(WIDTH, 5, 2, reshape=False), inputs)
    assert torch.allclose(plain[2], full(inputs[1]) + band(inputs[2])[0] - old, atol=1e-12)
    alone, _ = answers(Rettention(WIDTH, 5, 2, residual=False), inputs)
    assert torch.allclose(alone[2], rho * band(inputs[2])[0], atol=1e-12)
    kept, _ = answers(Rettention(0.0, 5, 2), inputs)
    assert torch.allclose(kept[3], full(inputs[1]), atol=1e-12)


def test_the_released_drift():
    inputs = moving(1) * 40
    out, _ = answers(Rettention(WIDTH, 60, 1, faithful=True), inputs)
    inside, lse = band(inputs[0])
    rho = (lse - attention_lse(*inputs[0].unbind(1))[1]).exp()[..., None]
    for k in (1, 2, 39):
        drifted = (rho + 0.04 * k).clamp_max(1)
        assert torch.allclose(out[k], full(inputs[0]) + (drifted - rho) * inside, atol=1e-10)


def test_large_and_small_scores_keep_their_digits():
    """The log-sum-exp comes by way of one key more: also where all scores are shifted far up or down."""
    for shift in (-60.0, 60.0):
        x = moving(1, dtype=torch.float32)[0]
        x[:, 0, ..., 0], x[:, 1, ..., 0] = 8**0.5, shift
        out, _ = answers(Rettention(WIDTH, 5, 1), [x, x])
        assert torch.allclose(out[0], full(x), atol=1e-4) and torch.allclose(out[1], full(x), atol=1e-4)


@pytest.mark.parametrize("settings", [{"is_causal": True}, {"scale": 0.5}, {"attn_mask": torch.zeros(TOKENS, TOKENS)}])
def test_other_attention_is_refused(settings):
    with pytest.raises(OrnsteinError, match="does not fit.*choose other sites"):
        answers(Rettention(), moving(1), **settings)


@pytest.mark.parametrize("settings", [{"width": 1.5}, {"interval": 0}, {"warmup": 0}])
def test_senseless_settings_are_refused(settings):
    with pytest.raises(OrnsteinError, match="at least 1"):
        Rettention(**settings)
