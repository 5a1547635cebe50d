"""Grey levels as tokens."""

import pytest
import torch

from ornstein.codecs.tokens import Tokens
from ornstein.core.errors import OrnsteinError


def test_levels_are_even_and_come_back():
    codec, z = Tokens(5), torch.arange(5)
    assert codec.decode(z).tolist() == [-1, -0.5, 0, 0.5, 1] and torch.equal(codec.encode(codec.decode(z)), z)
    x = torch.linspace(-1, 1, 100001)
    gap = codec.decode(codec.encode(x)) - x
    assert gap.abs().max() <= 0.25 + 1e-6 and gap.square().mean().sqrt() == pytest.approx(codec.error, rel=1e-3)
    assert codec.encode(torch.tensor([-9.0, 9.0])).tolist() == [0, 4]
    assert codec.encode(x).dtype == torch.long and codec.decode(z).dtype == torch.float32


def test_what_is_no_token_is_refused():
    with pytest.raises(OrnsteinError, match="where no mask is left"):
        Tokens(5).decode(torch.tensor([0, 5]))
    with pytest.raises(OrnsteinError, match="not all in 0..4"):
        Tokens(5).decode(torch.tensor([0.5]))
    with pytest.raises(OrnsteinError, match="2 or more"):
        Tokens(1)
