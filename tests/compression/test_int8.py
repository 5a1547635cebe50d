"""Int8: the numbers themselves, the types, the gradients, the errors."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ornstein.compression.int8 import Int8, Int8Conv2d, Int8Linear
from ornstein.core.errors import OrnsteinError


def linear(i=64, o=48, bias=True):
    torch.manual_seed(0)
    layer = nn.Linear(i, o, bias=bias)
    layer.weight.data *= torch.logspace(-3, 1, o)[:, None]  # output channels of very unlike size
    return layer


def test_weights_stay_within_half_a_step_of_each_channel():
    layer = linear()
    q = Int8Linear(layer)
    step = layer.weight.abs().amax(1) / 127
    assert torch.equal(q.scale, step) and q.weight_int8.dtype == torch.int8
    assert ((q.dequantised() - layer.weight).abs().amax(1) <= step * 0.5001).all()
    assert q.weight_int8.abs().amax(1).eq(127).all(), "the full range of every channel is used"


def test_weights_on_the_grid_pass_bit_for_bit():
    q = Int8Linear(linear())
    with torch.no_grad():
        q.scale.copy_(2.0 ** torch.randint(-8, 2, q.scale.shape))
    layer = nn.Linear(64, 48)
    layer.weight.data, layer.bias.data = q.dequantised(), q.bias.data
    x = torch.randn(7, 64)
    assert torch.equal(Int8Linear(layer)(x), layer(x))


@pytest.mark.parametrize("rows", [0, 1, 3, 256, 600])
@pytest.mark.parametrize("bias", [True, False])
def test_dynamic_is_the_equation(rows, bias):
    layer = linear(bias=bias)
    q = Int8Linear(layer, dynamic=True)
    x = torch.randn(rows, 64) * torch.logspace(-4, 2, rows)[:, None]
    s = x.double().abs().amax(1, keepdim=True) / 127
    want = (x.double() / s).round() @ q.weight_int8.double().t() * s * q.scale.double()
    want = want + (layer.bias.double() if bias else 0)
    got = q(x)
    assert got.shape == (rows, 48)
    near = (got - want).abs() <= 1e-5 * want.abs().clamp_min(1e-9) + 1e-5 * s * q.scale.double() * 127 * 64
    assert near.all() if rows < 100 else near.float().mean() > 0.999, "a tie may round the other way, rarely"


def test_dynamic_scales_each_token_by_itself():
    q = Int8Linear(linear(), dynamic=True)
    x = torch.randn(2, 5, 64)
    kept = x.clone()
    q(x)
    assert torch.equal(x, kept), "the input must be left as it was"
    loud = x.clone()
    loud[:, 0] *= 1e4
    with torch.inference_mode():
        assert torch.equal(q(loud)[:, 1:], q(x)[:, 1:])
        assert torch.equal(q(x)[1, 2], q(x[1:2, 2:3])[0, 0])
        assert torch.equal(q(x * 0), q.bias.expand(2, 5, 48)), "a silent token answers with the bias"
    y = q(torch.full((1, 64), float("nan")))
    assert y.isnan().all(), "a NaN is not hidden"


@pytest.mark.parametrize("mode", ["weights", "dynamic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_answer_has_the_type_of_the_input(mode, dtype):
    layer = linear()
    q = Int8Linear(layer, dynamic=mode == "dynamic")
    x = torch.randn(9, 64)
    got, want = q(x.to(dtype)), layer(x)
    assert got.dtype == dtype and ((got - want).norm() / want.norm()) < 0.03


def test_a_cast_of_the_model_leaves_the_scales_alone():
    q = Int8Linear(linear())
    scale = q.scale.clone()
    q.to(torch.bfloat16)
    assert torch.equal(q.scale, scale) and q.scale.dtype == torch.float32 and q.bias.dtype == torch.bfloat16
    assert q.weight_int8.dtype == torch.int8 and q(torch.randn(2, 64).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("mode", ["weights", "dynamic"])
def test_gradients_reach_the_input_and_not_the_weights(mode):
    q = Int8Linear(linear(), dynamic=mode == "dynamic")
    x = torch.randn(3, 64, requires_grad=True)
    y = q(x)
    g = torch.randn_like(y)
    y.backward(g)
    assert torch.allclose(x.grad, g @ q.dequantised(), rtol=1e-4, atol=1e-5)
    assert not any(p.requires_grad for p in q.parameters())
    with torch.no_grad():
        assert torch.allclose(q(x), y, rtol=1e-5, atol=1e-5), "training and inference must see the same numbers"


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_convolutions(padding):
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=2, padding_mode=padding)
    x, q = torch.randn(2, 8, 10, 10), Int8Conv2d(conv)
    stand_in = copy.deepcopy(conv)
    stand_in.weight.data = q.dequantised()
    assert torch.equal(q(x), stand_in(x)) and ((q(x) - conv(x)).norm() / conv(x).norm()) < 0.02
    net = nn.Sequential(conv)
    assert isinstance(Int8(roles=("conv",), min_size=1)(net)[0], Int8Conv2d)


def test_shared_layers_are_replaced_wherever_they_appear_and_subclasses_are_left():
    class Odd(nn.Linear):
        def forward(self, x):
            return F.linear(x, self.weight * 2, self.bias)

    shared = nn.Linear(16, 16)
    net = nn.ModuleDict({"ffn": nn.Sequential(shared, shared), "mlp": Odd(16, 16)})
    for inplace in (False, True):
        made = Int8(min_size=1, inplace=inplace)(net)
        assert made["ffn"][0] is made["ffn"][1] and isinstance(made["ffn"][0], Int8Linear) and type(made["mlp"]) is Odd
    assert made is net


def test_errors_name_the_object_and_the_remedy():
    q = Int8Linear(linear(), "blocks.3.ffn")
    with pytest.raises(AttributeError, match="'blocks.3.ffn' has no float .weight.*skip="):
        q.weight  # noqa: B018
    assert not hasattr(q, "weight") and getattr(q, "weight", None) is None
    with pytest.raises(OrnsteinError, match="unknown int8 mode 'dynamik'. Did you mean 'dynamic'"):
        Int8(mode="dynamik")
    bad = nn.Sequential(nn.Linear(4, 4))
    bad[0].weight.data[1, 2] = float("inf")
    with pytest.raises(OrnsteinError, match="weights of '0' are not finite"):
        Int8(roles=("other",), min_size=1)(bad)
    with pytest.raises(OrnsteinError, match="matched no layer of Linear"):
        Int8(roles=("ffn",))(nn.Linear(4, 4))


def test_a_channel_of_zeros_stays_zero():
    layer = linear()
    layer.weight.data[5] = 0
    q = Int8Linear(layer)
    assert q.dequantised()[5].eq(0).all() and q.scale.isfinite().all() and (q.scale > 0).all()
