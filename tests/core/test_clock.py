"""Noise by (seed, id, draw): Gaussian, independent, the same in any batch."""

import pytest
import torch

from ornstein.core.clock import Clock, NoiseSource
from ornstein.core.errors import OrnsteinError

BIG = torch.empty(500, 400, dtype=torch.float64)


def test_moments():
    x = NoiseSource.of(7, range(500)).draw(0, BIG)
    assert abs(x.mean()) < 0.01 and abs(x.std() - 1) < 0.01
    assert abs((x**3).mean()) < 0.03 and abs((x**4).mean() - 3) < 0.06
    z = x.flatten().sort()[0]
    normal = torch.distributions.Normal(0.0, 1.0)
    steps = torch.arange(1, len(z) + 1, dtype=torch.float64) / len(z)
    assert (normal.cdf(z) - steps).abs().max() < 1.63 / len(z) ** 0.5  # Kolmogorov and Smirnov at 1%


@pytest.mark.parametrize("what", ["ids", "draws", "seeds", "axes", "halves"])
def test_independence(what):
    """Neighbouring ids, draws, seeds and entries: correlations of values and of squares within 5 deviations of 0."""
    x = NoiseSource.of(7, range(500)).draw(0, BIG)
    y = {"ids": lambda: x.roll(1, 0), "draws": lambda: NoiseSource.of(7, range(500)).draw(1, BIG),
         "seeds": lambda: NoiseSource.of(8, range(500)).draw(0, BIG), "axes": lambda: x.roll(1, 1),
         "halves": lambda: x.roll(200, 1)}[what]()  # fmt: skip
    bound = 5 / x.numel() ** 0.5
    assert abs((x * y).mean()) < bound
    assert abs(((x**2 - 1) * (y**2 - 1)).mean() / 2) < bound


def test_keyed_by_id_not_by_row():
    like = torch.empty(4, 3, 5)
    x = NoiseSource.of(3, [10, 11, 12, 13]).draw(2, like)
    assert torch.equal(NoiseSource.of(3, [12]).draw(2, like[:1])[0], x[2])
    assert torch.equal(NoiseSource.of(3, [13, 12, 11, 10]).draw(2, like).flip(0), x)
    assert torch.equal(NoiseSource.of([1, 3, 3, 1], [0, 11, 12, 0]).draw(2, like)[1:3], x[1:3])
    assert not torch.equal(x[0], x[1])


def test_a_draw_leaves_no_trace():
    source, like = NoiseSource.of(3, range(4)), torch.empty(4, 6)
    state = torch.random.get_rng_state()
    first = source.draw(5, like)
    source.draw(6, like)
    assert torch.equal(source.draw(5, like), first)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_pinned_values():
    """The stream is part of the product: a seed means the same picture in the next release."""
    x = NoiseSource.of(0, [0, 1]).draw(-1, torch.empty(2, 3, dtype=torch.float64))
    want = [[-1.561489037700263, 1.557072759510464, 0.476877297252949],
            [0.109950870121777, -0.771156360368499, 2.586965765589107]]  # fmt: skip
    assert torch.allclose(x, torch.tensor(want, dtype=torch.float64), atol=1e-12)


def test_shapes_and_types():
    source = NoiseSource.of(-5, [2**40, -7])
    for shape in ((2,), (2, 1), (2, 7), (2, 1, 3, 3)):
        x = source.draw(0, torch.empty(shape))
        assert x.shape == shape and x.dtype == torch.float32 and torch.isfinite(x).all()
    exact = source.draw(0, torch.empty(2, 9, dtype=torch.float64))
    assert torch.allclose(source.draw(0, torch.empty(2, 9)).double(), exact, atol=1e-6)
    assert source.draw(0, torch.empty(2, 9, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_gather_keeps_streams_and_fork_parts_them():
    source, like, index = NoiseSource.of(0, range(3)), torch.empty(3, 8), torch.tensor([1, 1, 2])
    x, kept = source.draw(0, like), source.gather(index).draw(0, like)
    assert torch.equal(kept, x[index])
    found = [x, source.fork(index, 0).draw(0, like), source.fork(index, 1).draw(0, like), source.anew().draw(0, like),
             source.anew().anew().draw(0, like)]  # fmt: skip
    rows = torch.cat(found)
    assert len(torch.unique(rows, dim=0)) == len(rows)
    assert torch.equal(source.gather(index).anew().draw(0, like), source.anew().draw(0, like)[index])  # no slots in it


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second kind of device")
def test_the_same_on_another_device():
    source, like = NoiseSource.of(0, range(3)), torch.empty(3, 1000)
    assert torch.allclose(source.draw(0, like.cuda()).cpu(), source.draw(0, like), atol=1e-6)


def test_mistakes_and_clocks():
    with pytest.raises(OrnsteinError, match="2 seeds for 3 samples. Give one seed, or one per sample."):
        NoiseSource.of([1, 2], range(3))
    clock = Clock(3, 1, 20, 0.5, "cond", (0, 1))
    assert clock.at("uncond").branch == "uncond" and clock.branch == "cond" and clock.at("uncond").step == 3
