"""ByteEmbedding: it trains, it knows the order of letters, and padding does not reach a text."""

import pytest
import torch

from ornstein.conditioning.bytes import ByteEmbedding
from ornstein.core.errors import OrnsteinError


def test_every_weight_gets_a_gradient():
    part = ByteEmbedding(8, 12)
    part(["abc", "hello"])["tokens"].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
    assert set(dict(part.named_parameters())) == {"embedding.weight", "positions", "mixing.weight", "mixing.bias"}


def test_the_pooled_vector_knows_the_order_of_letters():
    torch.manual_seed(0)
    part = ByteEmbedding(16, 12)
    out = part(["tab", "bat"])["pooled"]
    assert (out[0] - out[1]).abs().max() > 1e-2


def test_a_longer_padding_changes_nothing():
    torch.manual_seed(0)
    short, long = ByteEmbedding(8, 8), ByteEmbedding(8, 30)
    state = short.state_dict()
    long.load_state_dict({**state, "positions": torch.cat([state["positions"], torch.randn(22, 8)])})
    a, b = short(["ümlaut"]), long(["ümlaut"])
    torch.testing.assert_close(a["tokens"], b["tokens"][:, :8])
    assert (b["tokens"][:, 8:] == 0).all() and a["mask"].sum() == 8  # 7 bytes and the end


def test_settings_without_room_are_refused():
    with pytest.raises(OrnsteinError, match="Give dim >= 1 and length >= 2"):
        ByteEmbedding(8, 1)
